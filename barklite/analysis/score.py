"""How probable given tokens are: the three stages with teacher forcing.

Each function drives the stage's own algorithm (`decode.generate`) and answers with the given tokens where
generation would draw, so prompts, histories and windows are those of generation. Log-probabilities are
natural, of the model's own distribution over the ids that are eligible: temperature 1, no filter. Axes: N
semantic tokens, K codebooks, T frames.
"""

import contextlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..config import GenerationConfig, SamplingConfig, TokenConfig
from ..decode.generate import coarse_row, fine_row, fine_windows, semantic_row
from ..decode.slots import not_finite
from ..models.fine import FineGPT
from ..models.gpt import GPT
from ..voice import Voice


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """Log-probabilities, float32, of a sound's tokens; None for a stage whose tokens were not given.

    semantic: (N,). eos: of the end behind the last of them; None where the model has no position left for it.
    coarse: (2, T). fine: (6, T), of codebooks 2 to 7.
    """

    semantic: np.ndarray | None
    eos: float | None
    coarse: np.ndarray | None
    fine: np.ndarray | None

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {mean:.3f}" for name, mean in self.means.items())
        return f"Scores({means})" if means else "Scores()"

    @property
    def totals(self) -> dict[str, float]:
        """The sum of each stage that was scored, without the end."""
        return {name: float(scores.sum(dtype=np.float64)) for name, scores in self._stages()}

    @property
    def means(self) -> dict[str, float]:
        """The same a token; exp(-mean) is the perplexity."""
        return {name: float(scores.mean(dtype=np.float64)) for name, scores in self._stages() if scores.size}

    def _stages(self) -> list[tuple[str, np.ndarray]]:
        named = [(name, getattr(self, name)) for name in ("semantic", "coarse", "fine")]
        return [(name, scores) for name, scores in named if scores is not None]


def score_semantic(
    model: GPT,
    semantic: Tensor,
    ids: list[int],
    voice: Voice | None,
    config: GenerationConfig,
    tokens: TokenConfig,
) -> tuple[Tensor, Tensor | None]:
    """Semantic tokens (N,), N up to 768, for a text's tokenizer ids: float32 (N,); and of the end, ()."""
    prompt = next(semantic_row(model, ids, voice, config, tokens)).prompt  # (n_prompt, D)
    inputs = torch.cat((prompt, model.wte(semantic)))[: model.config.block_size]
    logits, _ = model(embeds=inputs[None], vocab=slice(0, tokens.semantic_eos + 1))
    if not bool(logits.isfinite().all()):
        raise not_finite("semantic", logits.dtype)
    log_p = logits[0, tokens.n_prompt - 1 :].float().log_softmax(-1)  # (N + 1, V), or (N, V) at the limit
    scores = log_p[: len(semantic)].gather(-1, semantic[:, None]).squeeze(-1)
    return scores, log_p[-1, -1] if len(log_p) > len(semantic) else None


def score_coarse(
    model: GPT,
    coarse: Tensor,
    semantic: Tensor,
    voice: Voice | None,
    config: GenerationConfig,
    tokens: TokenConfig,
) -> Tensor:
    """Codes of the first codebooks (2, T) for semantic tokens (N,): float32 (2, T). T belongs to N."""
    offsets = tokens.semantic_vocab_size + tokens.codebook_size * torch.arange(tokens.n_coarse)
    ids = rearrange(coarse + offsets.to(coarse.device)[:, None], "K T -> (T K)")
    row, scores, done = coarse_row(model, semantic, voice, config, tokens, carry=False), [], 0
    draw = next(row, None)
    while draw is not None:
        given = ids[done : done + len(draw.choices)]
        inputs = torch.cat((draw.prompt.to(ids.device), given[:-1]))
        first, stop = draw.choices[0].start, max(choice.stop for choice in draw.choices)
        logits = model(inputs[None], vocab=slice(first, stop))[0][0, -len(given) :].float()  # (n, V)
        if not bool(logits.isfinite().all()):
            raise not_finite("coarse", model.wpe.weight.dtype)
        for k, choice in enumerate(draw.choices[: tokens.n_coarse]):
            log_p = logits[k :: tokens.n_coarse, choice.start - first : choice.stop - first].log_softmax(-1)
            of_book = given[k :: tokens.n_coarse] - choice.start
            scores.append((done + k, log_p.gather(-1, of_book[:, None]).squeeze(-1)))
        done += len(given)
        try:
            draw = row.send((given.tolist(), False, []))
        except StopIteration:
            break
    flat = torch.zeros(len(ids), device=ids.device)
    for start, part in scores:
        flat[start : start + tokens.n_coarse * len(part) : tokens.n_coarse] = part
    return rearrange(flat, "(T K) -> K T", K=tokens.n_coarse)


def score_fine(
    model: FineGPT, codes: Tensor, voice: Voice | None, config: GenerationConfig, tokens: TokenConfig
) -> Tensor:
    """All codes (8, T), given those of the first two codebooks: float32 (6, T).

    Where windows overlap, that of the window whose choice stays. What generation draws and drops, an earlier
    window's choices and the frames behind the end that fill a short window, is not in the codes: there the
    likeliest are taken.
    """
    T, K = codes.shape[1], tokens.n_codebooks - tokens.n_coarse
    scores = torch.zeros(K, T, device=codes.device)
    if T == 0:
        return scores
    seen = 0 if voice is None else min(voice.fine.shape[1], tokens.max_fine_history)
    greedy = replace(config, fine=SamplingConfig(0))
    row = fine_row(model, codes[: tokens.n_coarse], voice, torch.Generator(), greedy, tokens)
    fills = [fill - seen for _, fill in fine_windows(T, seen, tokens)]  # a window's first frame of the clip
    asked = next(row)
    # From the next window's first frame on its choice replaces this one's. That must not be the given code:
    # the next window sees it, and would be told what it is asked.
    for start, stop in zip(fills, [*fills[1:], T], strict=True):
        for _ in range(K):
            k, vocab = asked.codebook, slice(0, tokens.codebook_size)
            logits = model(k, asked.window[None], rows=asked.rows, vocab=vocab)[0][0].float()  # (rows, V)
            stays, given = logits[: stop - start], codes[k, start:stop, None]
            scores[k - tokens.n_coarse, start:stop] = stays.log_softmax(-1).gather(-1, given).squeeze(-1)
            answer = logits.detach().clone()
            answer[: stop - start].scatter_(-1, given, float(answer.max()) + 1)
            with contextlib.suppress(StopIteration):
                asked = row.send(answer)
    return scores

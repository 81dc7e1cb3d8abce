"""Log-probabilities of given tokens: the three stages with teacher forcing.

Prompts, histories and windows are those of generation (`decode.stages`). Log-probabilities are natural, from
the softmax over the eligible ids at temperature 1, without filters. Axes: N semantic tokens, K codebooks,
T frames, V vocabulary.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from ..config import GenerationConfig, TokenConfig
from ..decode.stages import CoarseStage, FineStage, SemanticStage, not_finite

if TYPE_CHECKING:
    from ..voice import Voice


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """Log-probabilities, float32, of a clip's tokens; None for a stage whose tokens were not given.

    semantic: (N,). eos: of the end token after the last semantic token; None if the model has no position
    left for it. coarse: (2, T). fine: (6, T), of codebooks 2 to 7.
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
        """The sum of each scored stage, without `eos`."""
        return {name: float(scores.sum(dtype=np.float64)) for name, scores in self._stages()}

    @property
    def means(self) -> dict[str, float]:
        """The mean of each scored stage; exp(-mean) is the perplexity."""
        return {name: float(scores.mean(dtype=np.float64)) for name, scores in self._stages() if scores.size}

    def _stages(self) -> list[tuple[str, np.ndarray]]:
        named = [(name, getattr(self, name)) for name in ("semantic", "coarse", "fine")]
        return [(name, scores) for name, scores in named if scores is not None]


def score(
    resident: Callable[[str], AbstractContextManager[nn.Module]],
    ids: list[int] | None,
    semantic: Tensor | None,
    codes: Tensor | None,
    voice: "Voice | None",
    config: GenerationConfig,
    tokens: TokenConfig,
) -> Scores:
    """Score semantic tokens (N,) given a text's tokenizer ids, and codes (2 or 8, T); either may be None.

    resident: a context manager that yields a stage's model on its device.
    """
    found: dict[str, Tensor | None] = dict.fromkeys(("semantic", "eos", "coarse", "fine"))
    if semantic is not None:
        with resident("semantic") as model:
            stage = SemanticStage(model, config, tokens)
            found["semantic"], found["eos"] = score_semantic(stage, semantic, ids, voice)
        if codes is not None:
            with resident("coarse") as model:
                stage = CoarseStage(model, config, tokens, reuse_cache=False)
                found["coarse"] = score_coarse(stage, codes[: tokens.n_coarse], semantic, voice)
    if codes is not None and len(codes) == tokens.n_codebooks:
        with resident("fine") as model:
            found["fine"] = score_fine(FineStage(model, config, tokens), codes, voice)
    arrays = {name: None if one is None else one.cpu().numpy() for name, one in found.items()}
    return Scores(**(arrays | {"eos": None if arrays["eos"] is None else float(arrays["eos"])}))


def score_semantic(
    stage: SemanticStage, semantic: Tensor, ids: list[int], voice: "Voice | None"
) -> tuple[Tensor, Tensor | None]:
    """Score semantic tokens (N,), N up to 768, given a text's tokenizer ids: float32 (N,), and eos ()."""
    model, t = stage.model, stage.tokens
    start = stage.start(ids, voice, torch.Generator())
    infer = torch.tensor([start.last], device=semantic.device)
    inputs = torch.cat((start.prompt, model.wte(infer), model.wte(semantic)))[: model.config.block_size]
    logits, _ = model(embeds=inputs[None], vocab=stage.samplers[0].vocab)
    if not bool(logits.isfinite().all()):
        raise not_finite(stage.name, logits.dtype)
    log_p = logits[0, t.n_prompt - 1 :].float().log_softmax(-1)  # (N + 1, V), or (N, V) at the limit
    scores = log_p[: len(semantic)].gather(-1, semantic[:, None]).squeeze(-1)
    return scores, log_p[-1, -1] if len(log_p) > len(semantic) else None


def score_coarse(stage: CoarseStage, coarse: Tensor, semantic: Tensor, voice: "Voice | None") -> Tensor:
    """Score codes of the first codebooks (2, T) given semantic tokens (N,): float32 (2, T).

    stage: made with reuse_cache=False, so that each window begins with its prompt.
    """
    model, t, samplers = stage.model, stage.tokens, stage.samplers
    offsets = t.semantic_vocab_size + t.codebook_size * torch.arange(t.n_coarse, device=coarse.device)
    ids = rearrange(coarse + offsets[:, None], "K T -> (T K)")
    first, stop = samplers[0].start, max(sampler.stop for sampler in samplers)
    sequence, scores = stage.start(semantic, voice, torch.Generator()), torch.zeros(0, t.n_coarse).to(coarse)
    scores = scores.float()  # (T, K)
    while sequence.remaining:
        given = ids[len(sequence.tokens) :][: sequence.remaining]
        prompt = torch.tensor([*sequence.prompt.tolist(), sequence.last], device=ids.device)
        inputs = torch.cat((prompt, given[:-1]))
        logits = model(inputs[None], vocab=slice(first, stop))[0][0, -len(given) :].float()  # (n, V)
        if not bool(logits.isfinite().all()):
            raise not_finite(stage.name, model.wpe.weight.dtype)
        window = []
        for k, sampler in enumerate(samplers):
            log_p = logits[k :: t.n_coarse, sampler.start - first : sampler.stop - first].log_softmax(-1)
            of_book = given[k :: t.n_coarse] - sampler.start
            window.append(log_p.gather(-1, of_book[:, None]).squeeze(-1))
        scores = torch.cat((scores, torch.stack(window, -1)))
        sequence.tokens += given.tolist()
        stage.advance(sequence)
    return scores.T


def score_fine(stage: FineStage, codes: Tensor, voice: "Voice | None") -> Tensor:
    """Score the codes (8, T) of codebooks 2 to 7 given those of the first two: float32 (6, T).

    Where windows overlap, a frame is scored in the last window that fills it. In earlier windows, and in
    padding behind the end, generation samples tokens that are not in the codes; the argmax replaces them. The
    given codes must not, because later windows read them as input and would see the answer.
    """
    model, t, T = stage.model, stage.tokens, codes.shape[1]
    one, vocab = stage.start(codes[: t.n_coarse], voice, torch.Generator()), slice(0, t.codebook_size)
    scores = torch.zeros(t.n_codebooks - t.n_coarse, T, device=codes.device)
    fills = [fill - one.n_past for _, fill in one.windows]  # a window's first frame of the clip
    for (start, fill), begin, end in zip(one.windows, fills, [*fills[1:], T], strict=False):
        window, rows = one.codes[:, start : start + t.fine_window], slice(fill - start, t.fine_window)
        for k in range(t.n_coarse, t.n_codebooks):
            logits = model(k, window[None], rows=rows, vocab=vocab)[0][0].float()  # (rows, V)
            if not bool(logits.isfinite().all()):
                raise not_finite(stage.name, model.wpe.weight.dtype)
            given = codes[k, begin:end]
            log_p = logits[: end - begin].log_softmax(-1)
            scores[k - t.n_coarse, begin:end] = log_p.gather(-1, given[:, None]).squeeze(-1)
            window[k, rows] = logits.argmax(-1)
            window[k, rows][: end - begin] = given
    return scores

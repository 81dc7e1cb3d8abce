"""The three stages, each the algorithm for one row: spec section 4 as code.

A row is a coroutine: it yields what it wants computed, gets tokens or logits back, and returns its result.
`slots` runs one of them, or many together. Its `generator` is the row's own, and the thread that ties the
stages together: given to them in order, it makes the noise that the named system draws.
"""

import math
from collections.abc import Generator

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..config import GenerationConfig, TokenConfig
from ..models.fine import FineGPT
from ..models.gpt import GPT
from ..voice import Voice
from .engine import PLAIN, Choice, Draw, Engine, Pass
from .sampling import draw, exponential, probabilities
from .slots import Slots, Tick, not_finite, passes, silent, through

# --- text to semantic tokens --------------------------------------------------------------------------------


def semantic_row(
    model: GPT, ids: list[int], voice: Voice | None, config: GenerationConfig, tokens: TokenConfig
) -> Generator[Draw, tuple[list[int], bool, list[float]], tuple[Tensor, str, list[float]]]:
    """Tokenizer ids -> semantic tokens, int64 (N,); why they end, "eos" or "length" (spec 4.1); and how
    probable the end was at each step, that of the end included.
    """
    device, eos = model.wpe.weight.device, tokens.semantic_eos
    width = eos + 1 if config.rules == "suno" else model.config.output_vocab_size
    choice = Choice(0, eos + 1, config.semantic, config.rules, width, True, config.min_eos_p)
    prompt = semantic_prompt(ids, voice, tokens).to(device)
    # The text and the history share their positions: two prompts, one sum of embeddings.
    text, history, infer = prompt.split((tokens.n_text, tokens.n_semantic_history, 1))
    embeds = torch.cat((model.wte(text) + model.wte(history), model.wte(infer)))  # (n_text + 1, D)

    drawn, ended, eos_p = yield Draw(embeds, (choice,) * config.semantic_limit(tokens))
    spoken = drawn[:-1] if ended else drawn  # without the end itself
    return torch.tensor(spoken, dtype=torch.long, device=device), "eos" if ended else "length", eos_p


def semantic_prompt(ids: list[int], voice: Voice | None, tokens: TokenConfig) -> Tensor:
    """The 513 ids of the semantic prompt: text, history, the id that asks for an answer (spec 4.1)."""
    assert len(ids) <= tokens.n_text
    text = [i + tokens.text_offset for i in ids] + [tokens.text_pad] * (tokens.n_text - len(ids))
    history = [] if voice is None else voice.semantic[-tokens.n_semantic_history :].tolist()
    history += [tokens.semantic_eos] * (tokens.n_semantic_history - len(history))
    return torch.tensor([*text, *history, tokens.semantic_infer])


def semantic_length(config: GenerationConfig, tokens: TokenConfig) -> int:
    """Positions that the longest row needs: the last token drawn takes none."""
    return tokens.n_prompt + config.semantic_limit(tokens) - 1


# --- semantic tokens to coarse codes ------------------------------------------------------------------------


def coarse_row(
    model: GPT,
    semantic: Tensor,
    voice: Voice | None,
    config: GenerationConfig,
    tokens: TokenConfig,
    carry: bool = True,
) -> Generator[Draw, tuple[list[int], bool, list[float]], Tensor]:
    """Semantic tokens (N,) -> the coarse model's own ids, frame by frame, int64 (steps,) (spec 4.2).

    Those of codebook k begin at 10000 + 1024 k.
    carry: keep the cache from window to window as long as neither history slides (without a voice, for the
    first 4.4 seconds); False computes every window's prompt anew, as both systems do.
    """
    R = tokens.coarse_per_semantic
    choices = [_coarse_choice(k, model, config, tokens) for k in range(tokens.n_coarse)]
    semantic_history, coarse_history = trim_history(voice, config, tokens)
    source = semantic_history.tolist() + semantic.tolist()
    ids = coarse_history.tolist()
    base, steps = len(semantic_history), tokens.coarse_steps(len(semantic))

    seen = None
    for done in range(0, steps, tokens.coarse_window):
        n = min(tokens.coarse_window, steps - done)
        spoken = base + round(done / R)  # the semantic token being spoken; Python's round, ties to even
        view = coarse_view(spoken, len(ids), config.max_coarse_history, tokens)
        prompt = None  # this window's is the last one's, continued
        if view != seen or not carry:
            prompt = torch.tensor(coarse_prompt(source, ids, view, tokens))
        drawn, *_ = yield Draw(prompt, (choices * n)[:n])
        ids, seen = ids + drawn, view
    return torch.tensor(ids[len(coarse_history) :], dtype=torch.long, device=model.wpe.weight.device)


def coarse_view(spoken: int, n_ids: int, max_history: int, tokens: TokenConfig) -> tuple[int, int]:
    """Where the two histories begin, if semantic token `spoken` is next and `n_ids` coarse ids are there."""
    behind = math.floor(max_history / tokens.coarse_per_semantic)
    return max(0, spoken - behind), max(0, n_ids - max_history)


def coarse_prompt(source: list[int], ids: list[int], view: tuple[int, int], tokens: TokenConfig) -> list[int]:
    """Semantic tokens and coarse ids from `view` on: [semantic, padded][infer][history] (spec 4.2)."""
    window = source[view[0] :][: tokens.n_coarse_semantic]
    padding = [tokens.coarse_pad] * (tokens.n_coarse_semantic - len(window))
    return [*window, *padding, tokens.coarse_infer, *ids[view[1] :]]


def coarse_length(config: GenerationConfig, tokens: TokenConfig) -> int:
    """Positions that the longest row needs."""
    return tokens.n_coarse_semantic + config.max_coarse_history + tokens.coarse_window


def coarse_codes(ids: Tensor, tokens: TokenConfig) -> Tensor:
    """The coarse model's ids (steps,) -> codes of its codebooks, int64 (2, T)."""
    return rearrange(
        (ids - tokens.semantic_vocab_size) % tokens.codebook_size, "(T K) -> K T", K=tokens.n_coarse
    )


def trim_history(voice: Voice | None, config: GenerationConfig, tokens: TokenConfig) -> tuple[Tensor, Tensor]:
    """What the coarse model keeps of a voice: semantic (n,) and interleaved coarse ids (m - 2,), spec 4.2.

    Both cover the same time, up to the maximal history, and the last frame is dropped. m can be odd, and then
    the history begins with a token of the second codebook.
    """
    if voice is None:
        return torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
    R, K = tokens.coarse_per_semantic, tokens.n_coarse
    n_semantic, n_frames = len(voice.semantic), voice.coarse.shape[1]
    n = min(
        math.floor(config.max_coarse_history / R), n_semantic - n_semantic % 2, math.floor(K * n_frames / R)
    )
    m = round(n * R)
    offsets = tokens.semantic_vocab_size + tokens.codebook_size * np.arange(K)
    flat = rearrange(voice.coarse + offsets[:, None], "K T -> (T K)")
    semantic, coarse = voice.semantic[n_semantic - n :], flat[max(0, len(flat) - m) :][:-K]
    return torch.from_numpy(semantic.copy()), torch.from_numpy(coarse.copy())


def _coarse_choice(codebook: int, model: GPT, config: GenerationConfig, tokens: TokenConfig) -> Choice:
    """The ids eligible at a step: the codes of its codebook. After the last codebook, transformers' rules
    also let the ids through that lie behind the codes (D17).
    """
    start = tokens.semantic_vocab_size + codebook * tokens.codebook_size
    stop, width = start + tokens.codebook_size, tokens.codebook_size
    if config.rules == "transformers":
        width = model.config.output_vocab_size
        stop = width if codebook == tokens.n_coarse - 1 else stop
    return Choice(start, stop, config.coarse, config.rules, width)


# --- coarse codes to all codes ------------------------------------------------------------------------------


def fine_row(
    model: FineGPT,
    coarse: Tensor,
    voice: Voice | None,
    generator: torch.Generator,
    config: GenerationConfig,
    tokens: TokenConfig,
) -> Generator[Pass, Tensor, Tensor]:
    """Codes of the first codebooks (k, T), usually two -> codes of all, int64 (8, T) (spec 4.3)."""
    n_given, T = coarse.shape
    W, device = tokens.fine_window, model.wpe.weight.device
    if T == 0:
        return torch.empty(tokens.n_codebooks, 0, dtype=torch.long, device=device)
    history = torch.empty(tokens.n_codebooks, 0, dtype=torch.long)
    if voice is not None:
        history = torch.from_numpy(voice.fine[:, -tokens.max_fine_history :].copy())
    seen = history.shape[1]

    codes = torch.full((tokens.n_codebooks, max(seen + T, W)), tokens.fine_pad, device=device)
    codes[:, :seen] = history
    codes[:n_given, seen : seen + T] = coarse
    for start, fill in fine_windows(T, seen, tokens):
        window = codes[:, start : start + W]  # a view: what is chosen for a codebook is input to the next
        rows = slice(fill - start, W)
        for k in range(n_given, tokens.n_codebooks):
            if k == tokens.n_codebooks - 1:  # no codebook comes that would read what is drawn behind the end
                rows = slice(rows.start, min(W, seen + T - start))
            logits = yield Pass(k, window, rows)
            if k == n_given and not bool(logits.isfinite().all()):
                raise not_finite("fine", logits.dtype)
            p = probabilities(logits, config.fine)  # by either system's rules a plain softmax
            noise = None
            if config.fine.temperature != 0:  # for every row down to the window's end, read or not
                noise = exponential((start + W - fill, tokens.codebook_size), generator)[: len(p)]
            window[k, rows] = draw(p, noise)
    return codes[:, seen : seen + T].contiguous()


def fine_windows(n_frames: int, n_history: int, tokens: TokenConfig) -> list[tuple[int, int]]:
    """(first frame seen, first frame filled) of each window, history included (table in spec 4.3)."""
    W, hop = tokens.fine_window, tokens.fine_hop
    total = max(n_history + n_frames, W)
    n = max(0, math.ceil((n_frames - (W - n_history)) / hop)) + 1
    return [(min(i * hop, total - W), min(n_history + i * hop, total - hop)) for i in range(n)]


def fine_passes(coarse: Tensor, voice: Voice | None, tokens: TokenConfig) -> int:
    """How many passes `fine_row` asks for."""
    seen = 0 if voice is None else min(voice.fine.shape[1], tokens.max_fine_history)
    n_given, T = coarse.shape
    return len(fine_windows(T, seen, tokens)) * (tokens.n_codebooks - n_given) if T else 0


# --- one row alone ------------------------------------------------------------------------------------------


def text_to_semantic(
    model: GPT,
    ids: list[int],
    voice: Voice | None,
    generator: torch.Generator,
    config: GenerationConfig,
    tokens: TokenConfig,
    tick: Tick = silent,
    engine: Engine = PLAIN,
) -> tuple[Tensor, str, list[float]]:
    """`semantic_row`, run by itself. ValueError if the model's values are not finite."""
    row = semantic_row(model, ids, voice, config, tokens)
    slots = Slots("semantic", model, 1, semantic_length(config, tokens), engine, tick)
    return _alone(slots, row, generator)


def semantic_to_coarse(
    model: GPT,
    semantic: Tensor,
    voice: Voice | None,
    generator: torch.Generator,
    config: GenerationConfig,
    tokens: TokenConfig,
    tick: Tick = silent,
    engine: Engine = PLAIN,
) -> Tensor:
    """`coarse_row`, run by itself, as codes, int64 (2, T), T = N * 75 / 49.9."""
    return coarse_codes(coarse_ids(model, semantic, voice, generator, config, tokens, tick, engine), tokens)


def coarse_ids(
    model: GPT,
    semantic: Tensor,
    voice: Voice | None,
    generator: torch.Generator,
    config: GenerationConfig,
    tokens: TokenConfig,
    tick: Tick = silent,
    engine: Engine = PLAIN,
    carry: bool = True,
) -> Tensor:
    """`coarse_row`, run by itself."""
    row = coarse_row(model, semantic, voice, config, tokens, carry)
    slots = Slots("coarse", model, 1, coarse_length(config, tokens), engine, tick)
    return _alone(slots, row, generator)


def coarse_to_fine(
    model: FineGPT,
    coarse: Tensor,
    voice: Voice | None,
    generator: torch.Generator,
    config: GenerationConfig,
    tokens: TokenConfig,
    tick: Tick = silent,
    engine: Engine = PLAIN,
) -> Tensor:
    """`fine_row`, run by itself."""
    row = fine_row(model, coarse, voice, generator, config, tokens)
    return passes(model, [row], tokens, engine, tick)[0].get()


def _alone(slots: Slots, row: Generator, generator: torch.Generator):
    try:
        (done,) = through(slots, [(0, row, generator)])
    finally:
        slots.close()
    return done.get()

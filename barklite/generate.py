"""The three stages, one row each, as functions over a model, tensors and settings: spec section 4 as code.

Every function takes one row's own `generator`, which is also the thread that ties the stages together: called
in order with the same generator they consume its noise as the named system does. `tick(n)` is told of
progress.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from .config import GenerationConfig, TokenConfig
from .fine import FineGPT
from .gpt import GPT, KVCache
from .sampling import draw, exponential, probabilities
from .voice import Voice

Tick = Callable[[int], object]


def _silent(n: int) -> None:
    pass


@torch.no_grad()
def text_to_semantic(
    model: GPT,
    ids: list[int],
    voice: Voice | None,
    generator: torch.Generator,
    config: GenerationConfig,
    tokens: TokenConfig,
    tick: Tick = _silent,
) -> tuple[Tensor, str]:
    """Tokenizer ids -> semantic tokens, int64 (N,), and why they end: "eos" or "length" (spec 4.1)."""
    sampling, eos, limit = config.semantic, tokens.semantic_eos, config.semantic_limit(tokens)
    device = model.wte.weight.device
    prompt = semantic_prompt(ids, voice, tokens).to(device)
    cache = KVCache(model.config, 1, tokens.n_prompt + limit - 1, device, model.wte.weight.dtype)
    eligible = slice(0, eos + 1)  # ids beyond the end are never drawn
    # The text and the history share their positions: two prompts, one sum of embeddings.
    text, history, infer = prompt.split((tokens.n_text, tokens.n_semantic_history, 1))
    embeds = torch.cat((model.wte(text) + model.wte(history), model.wte(infer)))[None]  # (1, n_text + 1, D)
    logits, _ = model(embeds=embeds, cache=cache, last=True, vocab=eligible)
    _check_finite(logits, "semantic")

    drawn: list[int] = []
    while True:
        scores = logits[0, -1].float()  # (eos + 1,)
        p = probabilities(scores, sampling, config.rules)
        token = int(draw(p, _noise(eligible, eos + 1, model, sampling, config, generator)))
        if token == eos or _ends_early(p, scores, config):
            return torch.tensor(drawn, dtype=torch.long, device=device), "eos"
        drawn.append(token)
        tick(1)
        if len(drawn) == limit:
            return torch.tensor(drawn, dtype=torch.long, device=device), "length"
        logits, _ = model(torch.tensor([[token]], device=device), cache=cache, last=True, vocab=eligible)


def semantic_prompt(ids: list[int], voice: Voice | None, tokens: TokenConfig) -> Tensor:
    """The 513 ids of the semantic prompt: text, history, the id that asks for an answer (spec 4.1)."""
    assert len(ids) <= tokens.n_text
    text = [i + tokens.text_offset for i in ids] + [tokens.text_pad] * (tokens.n_text - len(ids))
    history = [] if voice is None else voice.semantic[-tokens.n_semantic_history :].tolist()
    history += [tokens.semantic_eos] * (tokens.n_semantic_history - len(history))
    return torch.tensor([*text, *history, tokens.semantic_infer])


def _ends_early(p: Tensor, scores: Tensor, config: GenerationConfig) -> bool:
    """Whether the end is likely enough: to Suno, of what is drawn; to transformers, of the raw model."""
    if config.min_eos_p is None:
        return False
    if config.rules == "suno":
        return bool(p[-1] >= config.min_eos_p)
    return bool(scores.softmax(-1)[-1] > config.min_eos_p)


@torch.no_grad()
def semantic_to_coarse(
    model: GPT,
    semantic: Tensor,
    voice: Voice | None,
    generator: torch.Generator,
    config: GenerationConfig,
    tokens: TokenConfig,
    tick: Tick = _silent,
) -> Tensor:
    """Semantic tokens (N,) -> codes of two codebooks, int64 (2, T), T = N * 75 / 49.9 (spec 4.2)."""
    ids = coarse_ids(model, semantic, voice, generator, config, tokens, tick)
    codes = (ids - tokens.semantic_vocab_size) % tokens.codebook_size
    return rearrange(codes, "(T K) -> K T", K=tokens.n_coarse)


@torch.no_grad()
def coarse_ids(
    model: GPT,
    semantic: Tensor,
    voice: Voice | None,
    generator: torch.Generator,
    config: GenerationConfig,
    tokens: TokenConfig,
    tick: Tick = _silent,
    carry: bool = True,
) -> Tensor:
    """The coarse model's own ids, frame by frame, int64 (steps,): codebook k's start at 10000 + 1024 k.

    carry: keep the cache from window to window as long as neither history slides (without a voice, for the
    first 4.4 seconds); False computes every window's prompt anew, as both systems do.
    """
    device, R = model.wte.weight.device, tokens.coarse_per_semantic
    semantic_history, coarse_history = (h.to(device) for h in trim_history(voice, config, tokens))
    source = torch.cat((semantic_history, semantic.to(device)))
    base, behind = len(semantic_history), math.floor(config.max_coarse_history / R)
    steps = tokens.coarse_steps(len(semantic))
    ids = torch.cat((coarse_history, coarse_history.new_empty(steps)))
    end = len(coarse_history)  # ids[:end] are known
    infer = torch.tensor([tokens.coarse_infer], device=device)
    capacity = tokens.n_coarse_semantic + 1 + min(len(ids), config.max_coarse_history + tokens.coarse_window)

    seen = None
    for done in range(0, steps, tokens.coarse_window):
        now = base + round(done / R)  # the semantic token being spoken; Python's round, ties to even
        view = max(0, now - behind), max(0, end - config.max_coarse_history)  # where the two histories begin
        if view != seen or not carry:
            window = source[view[0] :][: tokens.n_coarse_semantic]
            padding = window.new_full((tokens.n_coarse_semantic - len(window),), tokens.coarse_pad)
            prompt = torch.cat((window, padding, infer, ids[view[1] : end]))
            cache = KVCache(model.config, 1, capacity, device, model.wte.weight.dtype)
            seen = view
        # Otherwise this window's prompt is the last one's, continued: what the cache lacks is the newest
        # token.
        n = min(tokens.coarse_window, steps - done)
        for step in range(n):
            eligible = _coarse_slice(step, model, config, tokens)
            logits, _ = model(prompt[None], cache=cache, last=True, vocab=eligible)
            if step == 0:
                _check_finite(logits, "coarse")
            p = probabilities(logits[0, -1], config.coarse, config.rules)
            noise = _noise(eligible, tokens.codebook_size, model, config.coarse, config, generator)
            prompt = ids[end : end + 1] = eligible.start + draw(p, noise)[None]
            end += 1
            tick(1)
    return ids[len(coarse_history) :]


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


def _coarse_slice(step: int, model: GPT, config: GenerationConfig, tokens: TokenConfig) -> slice:
    """The ids eligible at a step: the codes of its codebook. After the last codebook, transformers' rules
    also let the ids through that lie behind the codes (D17).
    """
    codebook = step % tokens.n_coarse
    start = tokens.semantic_vocab_size + codebook * tokens.codebook_size
    if config.rules == "transformers" and codebook == tokens.n_coarse - 1:
        return slice(start, model.config.output_vocab_size)
    return slice(start, start + tokens.codebook_size)


def _noise(
    eligible: slice, width: int, model: GPT, sampling, config: GenerationConfig, generator
) -> Tensor | None:
    """Noise for the eligible ids. Suno draws `width` variates, transformers a whole vocabulary (D33)."""
    if sampling.temperature == 0:
        return None
    if config.rules == "suno":
        return exponential((width,), generator)
    return exponential((model.config.output_vocab_size,), generator)[eligible]


@torch.no_grad()
def coarse_to_fine(
    model: FineGPT,
    coarse: Tensor,
    voice: Voice | None,
    generator: torch.Generator,
    config: GenerationConfig,
    tokens: TokenConfig,
    tick: Tick = _silent,
) -> Tensor:
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
            logits, _ = model(k, window[None], rows=rows, vocab=slice(0, tokens.codebook_size))
            if k == n_given:
                _check_finite(logits, "fine")
            p = probabilities(logits[0], config.fine)  # by either system's rules a plain softmax
            noise = None if config.fine.temperature == 0 else exponential(tuple(p.shape), generator)
            window[k, rows] = draw(p, noise)
            tick(1)
    return codes[:, seen : seen + T].contiguous()


def fine_windows(n_frames: int, n_history: int, tokens: TokenConfig) -> list[tuple[int, int]]:
    """(first frame seen, first frame filled) of each window, history included (table in spec 4.3)."""
    W, hop = tokens.fine_window, tokens.fine_hop
    total = max(n_history + n_frames, W)
    n = max(0, math.ceil((n_frames - (W - n_history)) / hop)) + 1
    return [(min(i * hop, total - W), min(n_history + i * hop, total - hop)) for i in range(n)]


def _check_finite(logits: Tensor, stage: str) -> None:
    """Looked at once a prompt: damaged weights, or float16 on a model that needs more range, show here."""
    if not bool(logits.isfinite().all()):
        raise ValueError(
            f"the {stage} model computed values that are not finite: its weights are damaged, "
            f"or {logits.dtype} has too little range for them (try float32 or bfloat16)"
        )

"""Bark in one file: text -> semantic tokens -> coarse codes -> fine codes -> audio. Start reading here.

This is the whole algorithm for one text, in plain loops. `barklite.decode` runs the same steps faster, for
many texts at once; tests check that its tokens equal these. The models are in `barklite.models`. Filters and
noise are in `barklite.decode.sampling`, which also implements the differences between Suno's package and
transformers. `t` is a TokenConfig: ids, windows and rates (comments give Suno's numbers).

Axes: B batch (always 1 here), T positions or frames, K codebooks, D width, V vocabulary.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from .config import GenerationConfig
from .decode.sampling import coarse_samplers, draw, exponential, probabilities, semantic_sampler

if TYPE_CHECKING:
    from .bark import Bark, VoiceLike


@torch.no_grad()
def generate(
    bark: "Bark", text: str, voice: "VoiceLike" = None, seed: int = 0, config: GenerationConfig | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Speak one text: semantic tokens (N,), codes (K, T), both int64, and audio, float32 (samples,).

    Takes the arguments of `Bark.generate` and gives the same tokens. Specification: SPEC.md.
    """
    config, t, voice = bark.settings(config), bark.config.tokens, bark.find_voice(voice)
    generator = torch.Generator(bark.device).manual_seed(seed)
    ids = bark.token_ids(text, config)
    semantic = text_to_semantic(bark.semantic, ids, voice, config, t, generator)
    coarse = semantic_to_coarse(bark.coarse, semantic, voice, config, t, generator)
    codes = coarse_to_fine(bark.fine, coarse, voice, config, t, generator)
    return semantic, codes, bark.codec(codes[None])[0]


# --- 1. text -> semantic tokens: a GPT continues [text + history][infer] (spec 4.1) -------------------------


def text_to_semantic(model, ids, voice, config, t, generator):
    text, history = semantic_prompt(ids, voice, t)
    device, sampler = model.wpe.weight.device, semantic_sampler(model.config.output_vocab_size, config, t)
    text, history, infer = (torch.tensor(x, device=device) for x in (text, history, [t.semantic_infer]))
    # Text and history share the first 256 positions: their embeddings are added.
    embeds = torch.cat((model.wte(text) + model.wte(history), model.wte(infer)))[None]  # (1, 257, D)

    limit, tokens = config.semantic_limit(t), []
    cache = model.new_cache(1, t.n_prompt + limit)
    logits, _ = model(embeds=embeds, cache=cache, last=True, vocab=sampler.vocab)  # (1, 1, V)
    while True:
        token, ended, _ = sampler(logits[:, -1], sampler.noise(1, generator), [tokens])
        if ended:
            break
        tokens.append(int(token))
        if len(tokens) == limit:
            break
        logits, _ = model(token[:, None], cache=cache, last=True, vocab=sampler.vocab)
    return torch.tensor(tokens, dtype=torch.long, device=device)  # (N,)


def semantic_prompt(ids, voice, t):
    """The two halves of the prompt, n_text ids each: the padded text, and the end of the voice's history."""
    text = [i + t.text_offset for i in ids] + [t.text_pad] * (t.n_text - len(ids))
    history = [] if voice is None else voice.semantic[-t.n_semantic_history :].tolist()
    return text, history + [t.semantic_eos] * (t.n_semantic_history - len(history))


# --- 2. semantic -> coarse: codes of the first K = 2 codebooks, interleaved, in a sliding window (spec 4.2) -


def semantic_to_coarse(model, semantic, voice, config, t, generator):
    device, samplers = model.wpe.weight.device, coarse_samplers(model.config.output_vocab_size, config, t)
    past_semantic, ids = trim_history(voice, config, t)
    source, first, steps = past_semantic + semantic.tolist(), len(ids), t.coarse_steps(len(semantic))
    for done in range(0, steps, t.coarse_window):  # the window slides every 60 tokens and is recomputed
        view = coarse_view(len(past_semantic), done, len(ids), config, t)
        inputs = torch.tensor([coarse_prompt(source, ids, view, t)], device=device)
        cache = model.new_cache(1, inputs.shape[1] + t.coarse_window)
        for i in range(min(t.coarse_window, steps - done)):
            sampler = samplers[i % t.n_coarse]  # the codebooks take turns
            logits, _ = model(inputs, cache=cache, last=True, vocab=sampler.vocab)
            token, *_ = sampler(logits[:, -1], sampler.noise(1, generator), [ids[first:]])
            ids.append(int(token))
            inputs = token[:, None]
    return coarse_codes(torch.tensor(ids[first:], dtype=torch.long, device=device), t)


def coarse_view(n_past, done, n_ids, config, t):
    """First semantic token and first coarse id that the next window reads, within the history limits.

    n_past: semantic tokens of the voice; done: coarse tokens generated; n_ids: `done` plus the voice's.
    """
    now = n_past + round(done / t.coarse_per_semantic)  # the semantic token being spoken; ties to even
    behind = math.floor(config.max_coarse_history / t.coarse_per_semantic)
    return max(0, now - behind), max(0, n_ids - config.max_coarse_history)


def coarse_prompt(source, ids, view, t):
    """[256 semantic tokens, padded][infer][up to 630 coarse ids], starting at `view`."""
    window = source[view[0] : view[0] + t.n_coarse_semantic]
    padding = [t.coarse_pad] * (t.n_coarse_semantic - len(window))
    return [*window, *padding, t.coarse_infer, *ids[view[1] :]]


def trim_history(voice, config, t):
    """The end of a voice: semantic tokens, and interleaved coarse ids of the same span minus one frame."""
    if voice is None:
        return [], []
    R, n_semantic, n_frames = t.coarse_per_semantic, len(voice.semantic), voice.coarse.shape[1]
    longest = math.floor(config.max_coarse_history / R), math.floor(t.n_coarse * n_frames / R)
    n = min(*longest, n_semantic - n_semantic % 2)
    offsets = t.semantic_vocab_size + t.codebook_size * np.arange(t.n_coarse)
    flat = rearrange(voice.coarse + offsets[:, None], "K T -> (T K)").tolist()
    flat = flat[max(0, len(flat) - round(n * R)) : -t.n_coarse]  # may begin with the second codebook
    return voice.semantic[n_semantic - n :].tolist(), flat


def coarse_codes(ids, t):
    """The coarse model's ids (steps,) -> codes (K, T): the ids of codebook k start at 10000 + 1024 k."""
    return rearrange((ids - t.semantic_vocab_size) % t.codebook_size, "(T K) -> K T", K=t.n_coarse)


# --- 3. coarse -> all 8 codebooks, one after another, in overlapping windows of 1024 frames (spec 4.3) ------


def coarse_to_fine(model, coarse, voice, config, t, generator):
    n_given, T = coarse.shape
    codes, n_past = fine_canvas(coarse, voice, t)
    for start, fill in fine_windows(T, n_past, t):
        window = codes[:, start : start + t.fine_window]  # a view: each codebook is input to the next ones
        rows = slice(fill - start, t.fine_window)
        for k in range(n_given, t.n_codebooks):
            logits, _ = model(k, window[None], rows=rows, vocab=slice(0, t.codebook_size))  # (1, rows, V)
            p, noise = probabilities(logits[0], config.fine), None
            if config.fine.temperature != 0:
                noise = exponential(p.shape, generator)
            window[k, rows] = draw(p, noise)
    return codes[:, n_past : n_past + T]


def fine_canvas(coarse, voice, t):
    """Codes (8, history + T, at least one window), 1024 where unknown; and the history's length in frames."""
    past = np.empty((t.n_codebooks, 0), np.int64) if voice is None else voice.fine[:, -t.max_fine_history :]
    n_past, T = past.shape[1], coarse.shape[1]
    shape = t.n_codebooks, max(n_past + T, t.fine_window)
    codes = torch.full(shape, t.fine_pad, device=coarse.device)
    codes[:, :n_past] = torch.from_numpy(past.copy())
    codes[: len(coarse), n_past : n_past + T] = coarse
    return codes, n_past


def fine_windows(n_frames, n_past, t):
    """(first frame seen, first frame filled) of each window, both counted from the history's first frame."""
    W, hop, total = t.fine_window, t.fine_hop, max(n_past + n_frames, t.fine_window)
    n = max(0, math.ceil((n_frames - (W - n_past)) / hop)) + 1 if n_frames else 0
    return [(min(i * hop, total - W), min(n_past + i * hop, total - hop)) for i in range(n)]

"""Measures a step of one token: its seconds, and the bytes that it must read."""

import time

import torch

from barklite import Bark, SamplingConfig
from barklite.decode.sampling import NoiseSource, TokenSampler
from barklite.models.gpt import GPT

from .ceiling import synchronize

STEPS = 100


def prompt(bark: Bark, name: str) -> int:
    """Return the positions of a stage's prompt: 257 for both causal stages of Suno's models."""
    t = bark.config.tokens
    return t.n_prompt if name == "semantic" else t.n_coarse_semantic + 1


def eligible(bark: Bark, name: str) -> slice:
    """Return the ids whose logits a step needs: 10,001 semantic ones, or one codebook of 1024."""
    t = bark.config.tokens
    start, n = (0, t.semantic_eos + 1) if name == "semantic" else (t.semantic_vocab_size, t.codebook_size)
    return slice(start, start + n)


def step_bytes(model: GPT, vocab: slice, filled: float, cache_itemsize: int) -> float:
    """Return the bytes that a step must read.

    These are the stored weights of all blocks, the head's rows in `vocab`, and keys and values of `filled`
    positions with `cache_itemsize` bytes per number. Embeddings and the last normalisation are negligible.
    """
    blocks = sum(tensor.nbytes for tensor in (*model.h.parameters(), *model.h.buffers()))
    head = sum(tensor[vocab].nbytes for tensor in (*model.lm_head.parameters(), *model.lm_head.buffers()))
    return blocks + head + 2 * model.config.n_layer * model.config.n_embd * filled * cache_itemsize


@torch.no_grad()
def bare_step(bark: Bark, name: str, steps: int = STEPS) -> dict[str, float]:
    """Return seconds and bytes per step, the mean of `steps` after a prompt of the stage's length.

    name: "semantic" or "coarse". Includes sampling. Steps run in the engine's chunks.
    """
    model, engine, vocab, before = getattr(bark, name), bark.engine, eligible(bark, name), prompt(bark, name)
    ids = torch.randint(vocab.start, vocab.stop, (1, before), generator=torch.Generator().manual_seed(0))
    token = ids[:, :1].to(bark.device)
    chunks = [min(engine.chunk, steps - start) for start in range(0, steps, engine.chunk)]
    width = vocab.stop - vocab.start
    sampler = TokenSampler(vocab.start, vocab.stop, SamplingConfig(0.7), "suno", width)
    noise = NoiseSource(torch.Generator(bark.device).manual_seed(0))
    for _ in range(
        1 if bark.device.type == "cpu" else 2
    ):  # the first one captures graphs, the last one counts
        cache = engine.new_cache(model, 1, before + steps)
        engine.prefill(model, ids.to(bark.device), cache, [0])
        synchronize(bark.device)
        start = time.perf_counter()
        for n in chunks:
            engine.decode(model, token[0], cache, [sampler] * n, noise.take(n, width)[:, None])
        synchronize(bark.device)
        seconds = (time.perf_counter() - start) / steps
        engine.release(model, cache)
    filled = before + (steps + 1) / 2  # the mean over the steps
    return {"seconds": seconds, "bytes": step_bytes(model, vocab, filled, cache.keys.element_size())}

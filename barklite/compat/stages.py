"""The stages as rows in, rows out: all that is used of `barklite.decode` is here.

A row's noise comes from its own generator, and its result does not depend on its neighbours.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from barklite.config import GenerationConfig, TokenConfig
from barklite.decode import generate
from barklite.decode.engine import PLAIN
from barklite.decode.pipeline import decode_audio
from barklite.decode.sampling import generator, probabilities
from barklite.decode.slots import Slots, passes, through
from barklite.models.codec import Codec
from barklite.models.fine import FineGPT
from barklite.models.gpt import GPT
from barklite.voice import Voice

__all__ = [
    "audio_rows", "coarse_rows", "fine_rows", "noise_of", "padded", "probabilities", "semantic_rows",
]  # fmt: skip

Noise = Sequence[torch.Generator]


def noise_of(n: int, device: torch.device) -> Noise:
    """PyTorch's default source of noise for one row; for several, sources that it seeds."""
    if n == 1 and device.type == "cpu":
        return [torch.default_generator]
    if n == 1 and device.type == "cuda":
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        return [torch.cuda.default_generators[index]]
    return [generator(int(seed), device) for seed in torch.randint(2**32, (n,))]


def semantic_rows(
    model: GPT,
    rows: Sequence[list[int]],
    voice: Voice | None,
    noise: Noise,
    c: GenerationConfig,
    t: TokenConfig,
) -> list[Tensor]:
    """Tokenizer ids -> semantic tokens (N,), with the end if there was one."""
    made = _decoded("semantic", model, rows, generate.semantic_row, voice, noise, c, t)
    end = torch.tensor([t.semantic_eos], device=model.wpe.weight.device)
    return [torch.cat((row, end)) if reason == "eos" else row for row, reason, _ in made]


def coarse_rows(
    model: GPT, rows: Sequence[Tensor], voice: Voice | None, noise: Noise, c: GenerationConfig, t: TokenConfig
) -> list[Tensor]:
    """Semantic tokens -> the coarse model's ids (2 T,)."""
    return _decoded("coarse", model, rows, generate.coarse_row, voice, noise, c, t)


def fine_rows(
    model: FineGPT,
    rows: Sequence[Tensor],
    voice: Voice | None,
    noise: Noise,
    c: GenerationConfig,
    t: TokenConfig,
) -> list[Tensor]:
    """The coarse model's ids -> codes of all codebooks (8, T)."""
    rows = [
        generate.fine_row(model, generate.coarse_codes(row, t), voice, own, c, t)
        for row, own in zip(rows, noise, strict=True)
    ]
    groups = [rows[i : i + 8] for i in range(0, len(rows), 8)]
    return [done.get() for group in groups for done in passes(model, group, t)]


def audio_rows(codec: Codec, rows: Sequence[Tensor]) -> list[Tensor]:
    """Codes (8, T) -> audio (320 T,)."""
    return decode_audio(codec, rows, PLAIN)


def _decoded(stage: str, model: GPT, rows: Sequence, row: Callable, voice, noise: Noise, c, t) -> list:
    """What the rows of a stage give, in their order; several go together."""
    length = getattr(generate, f"{stage}_length")(c, t)
    size = min(len(rows), 8 if model.wpe.weight.device.type == "cpu" else 32)
    coroutines = [row(model, one, voice, c, t) for one in rows]
    slots, results = Slots(stage, model, size, length), {}
    try:
        for done in through(slots, zip(range(len(rows)), coroutines, noise, strict=True)):
            results[done.key] = done.get()
    finally:
        slots.close()
    return [results[i] for i in range(len(rows))]


def padded(rows: Sequence[Tensor], value: float) -> Tensor:
    """Rows (..., n_i) on top of each other, filled up to the longest."""
    longest = max(row.shape[-1] for row in rows)
    return torch.stack([nn.functional.pad(row, (0, longest - row.shape[-1]), value=value) for row in rows])

"""Rows of a stage: what callers of `generate` give, checked; where noise comes from; results put together."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from barklite.config import TokenConfig
from barklite.decode.sampling import generator
from barklite.decode.slots import Slots, through
from barklite.models.gpt import GPT
from barklite.voice import Voice


def required(config, stage: str):
    if config is None:
        raise ValueError(f"{stage}_generation_config is missing: it has the ids, windows and settings")
    return config


def rows_of(given: Tensor, what: str) -> Tensor:
    """Ids (B, n), int64."""
    if not isinstance(given, Tensor) or given.ndim != 2 or given.is_floating_point() or len(given) == 0:
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"{what} must be whole numbers of shape (B, n), not {shape}")
    return given.long()


def voice_of(history: Mapping | None, tokens: TokenConfig) -> Voice | None:
    """A history prompt, of tensors or arrays. TypeError for no mapping, ValueError for no voice."""
    if history is None:
        return None
    if not isinstance(history, Mapping):
        kind = type(history).__name__
        raise TypeError(f"history_prompt is a {kind}; the processor makes one of voice_preset")
    arrays = {
        name: value.cpu().numpy() if isinstance(value, Tensor) else value for name, value in history.items()
    }
    return Voice.from_arrays(arrays, tokens=tokens)


def generators(n: int, device: torch.device) -> list[torch.Generator]:
    """PyTorch's default source of noise for one row; for several, sources that it seeds."""
    if n == 1 and device.type == "cpu":
        return [torch.default_generator]
    if n == 1 and device.type == "cuda":
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        return [torch.cuda.default_generators[index]]
    return [generator(int(seed), device) for seed in torch.randint(2**32, (n,))]


def decoded(
    stage: str, model: GPT, rows: Sequence, noise: Sequence[torch.Generator] | None, length: int
) -> list:
    """What rows of a stage return, in their order; several go together."""
    device = model.wpe.weight.device
    noise = noise or generators(len(rows), device)
    slots, results = Slots(stage, model, min(len(rows), 8 if device.type == "cpu" else 32), length), {}
    try:
        for done in through(slots, zip(range(len(rows)), rows, noise, strict=True)):
            results[done.key] = done.get()
    finally:
        slots.close()
    return [results[i] for i in range(len(rows))]


def padded(rows: Sequence[Tensor], value: float) -> Tensor:
    """Rows (..., n_i) on top of each other, filled up to the longest."""
    longest = max(row.shape[-1] for row in rows)
    return torch.stack([nn.functional.pad(row, (0, longest - row.shape[-1]), value=value) for row in rows])

"""Rows of a stage: what callers of `generate` give, checked; where noise comes from; results put together."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from barklite.config import TokenConfig
from barklite.decode.batch import run_stage
from barklite.decode.sampling import generator
from barklite.decode.stages import CoarseStage, FineStage, SemanticStage
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
    stage: SemanticStage | CoarseStage | FineStage,
    rows: Sequence,
    voice: Voice | None,
    noise: Sequence[torch.Generator] | None,
) -> list:
    """A stage's finished sequences for rows, in their order; several go together."""
    device = stage.model.wpe.weight.device
    noise = noise or generators(len(rows), device)
    given = [(row, voice, source) for row, source in zip(rows, noise, strict=True)]
    return run_stage(stage, given, 8 if device.type == "cpu" else 32)


def padded(rows: Sequence[Tensor], value: float) -> Tensor:
    """Rows (..., n_i) on top of each other, filled up to the longest."""
    longest = max(row.shape[-1] for row in rows)
    return torch.stack([nn.functional.pad(row, (0, longest - row.shape[-1]), value=value) for row in rows])

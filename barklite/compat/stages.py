"""Runs Bark's stages on lists of rows; the only module here that uses `barklite.decode`.

Each row has its own generator, and its result does not depend on other rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from barklite.config import GenerationConfig, TokenConfig
from barklite.decode.batch import run_stage, synthesize
from barklite.decode.sampling import generator, probabilities
from barklite.decode.stages import CoarseStage, FineStage, SemanticStage
from barklite.models.fine import FineGPT
from barklite.models.gpt import GPT
from barklite.reference import coarse_codes
from barklite.voice import Voice

__all__ = [
    "coarse_rows", "fine_rows", "noise_of", "padded", "probabilities", "semantic_rows", "synthesize",
]  # fmt: skip

Noise = Sequence[torch.Generator]


def noise_of(n: int, device: torch.device) -> Noise:
    """Return n generators: PyTorch's default one for one row, else new ones with seeds drawn from it."""
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
    """Tokenizer ids -> semantic tokens (N,), with the end token if it was sampled."""
    stage = SemanticStage(model, c, t)
    made = [stage.result(one) for one in _run(stage, rows, voice, noise)]
    end = torch.tensor([t.semantic_eos], device=model.wpe.weight.device)
    return [torch.cat((row, end)) if reason == "eos" else row for row, reason in made]


def coarse_rows(
    model: GPT, rows: Sequence[Tensor], voice: Voice | None, noise: Noise, c: GenerationConfig, t: TokenConfig
) -> list[Tensor]:
    """Semantic tokens -> coarse ids (2 T,)."""
    made = _run(CoarseStage(model, c, t), rows, voice, noise)
    return [torch.tensor(one.tokens, dtype=torch.long, device=model.wpe.weight.device) for one in made]


def fine_rows(
    model: FineGPT,
    rows: Sequence[Tensor],
    voice: Voice | None,
    noise: Noise,
    c: GenerationConfig,
    t: TokenConfig,
) -> list[Tensor]:
    """Coarse ids -> codes of all codebooks (8, T)."""
    stage = FineStage(model, c, t)
    return [stage.result(one) for one in _run(stage, [coarse_codes(row, t) for row in rows], voice, noise)]


def _run(stage, rows: Sequence, voice: Voice | None, noise: Noise) -> list:
    """Run a stage in batches. Return the finished sequences in the rows' order."""
    given = [(row, voice, own) for row, own in zip(rows, noise, strict=True)]
    return run_stage(stage, given, 8 if stage.model.wpe.weight.device.type == "cpu" else 32)


def padded(rows: Sequence[Tensor], value: float) -> Tensor:
    """Stack rows (..., n_i), padded to the longest with `value`."""
    longest = max(row.shape[-1] for row in rows)
    return torch.stack([nn.functional.pad(row, (0, longest - row.shape[-1]), value=value) for row in rows])

"""What the training of the three token models has in common (`semantic`, `coarse`, `fine`): examples with the
layout of generation, and the loss.

Most examples have another utterance of the same speaker as history, so that the models learn voice prompts.
Axes: B batch, T positions or frames, K codebooks, N semantic tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ..config import BarkConfig, TokenConfig
from ..voice import Voice
from .data import Corpus
from .loop import Loss, Run

IGNORE = -100  # a target without loss
PROMPTED = 0.7  # share of examples with another utterance as history
VALIDATED = 64  # minimal number of validation examples


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Initialise matrices with small random values, embeddings with smaller ones, and c_proj with zeros."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            parameter.zero_()
        elif parameter.ndim == 2:
            std = 0.02 if name.startswith("w") else 0.5 * parameter.shape[1] ** -0.5
            parameter.normal_(std=std, generator=generator)


@dataclass
class Examples:
    """A corpus and its utterances by speaker. Subclasses define `rows`, the training and validation rows, and
    `measure`.
    """

    corpus: Corpus
    config: BarkConfig

    @cached_property
    def codes(self) -> list[np.ndarray]:
        return self.corpus.codes()

    @cached_property
    def speakers(self) -> dict[str, list[int]]:
        """Training rows by speaker."""
        found: dict[str, list[int]] = {}
        for i in self.rows["train"]:
            found.setdefault(self.corpus.rows[i].speaker, []).append(i)
        return found

    def before(self, i: int, rng: np.random.Generator) -> int | None:
        """Choose another utterance of the speaker as history of row i, or None."""
        others = self.speakers.get(self.corpus.rows[i].speaker, [])
        if not others or rng.random() >= PROMPTED:
            return None
        j = others[rng.integers(len(others))]
        return None if j == i else j  # its own codes would give the answer away

    def measure(self, model: nn.Module, which: str, n: int, rng: np.random.Generator) -> Loss:
        """Return the loss of n random examples of "train" or "validation", and numbers to log."""
        raise NotImplementedError

    def train(self, run: Run) -> None:
        """Start or continue `run`. ValueError, before its first step, if there is nothing to train on."""
        assert self.rows["train"]

        def validate(model: nn.Module) -> dict[str, float]:
            def part(n: int, rng: np.random.Generator) -> dict[str, float]:
                value, numbers = self.measure(model, "validation", n, rng)
                return {name: float(number) for name, number in {"loss": value, **numbers}.items()}

            return validated(part, run.settings.batch_size) if self.rows["validation"] else {}

        run.train(lambda model, rng: self.measure(model, "train", run.settings.batch_size, rng), validate)


def prompt(
    semantic: np.ndarray,
    codes: np.ndarray,
    ids: TokenConfig,
    name: str | None = None,
    seconds: float = math.inf,
) -> Voice | None:
    """Make a voice from semantic tokens (N,) and codes (K, T), cut to the time that both cover and to
    `seconds`. None if that is too short for whole numbers of both in the ratio of their rates.
    """
    R = ids.frame_rate / ids.semantic_rate
    n = min(len(semantic), int(codes.shape[1] / R + 1e-6))
    if seconds < math.inf:
        n = min(n, int(seconds * ids.semantic_rate + 1e-6))
    T = min(codes.shape[1], round(n * R))
    if not n or round(T / n, 1) != round(R, 1):
        return None
    codes = codes[: ids.n_codebooks, :T]
    return Voice(semantic[:n], codes[: ids.n_coarse], codes, name, ids)


def validated(
    numbers: Callable[[int, np.random.Generator], dict[str, float]], batch_size: int
) -> dict[str, float]:
    """Average numbers(n, rng) over at least `VALIDATED` examples, always the same, in training batches."""
    rng = np.random.default_rng(0)
    some = [numbers(batch_size, rng) for _ in range(-(-VALIDATED // batch_size))]
    return {name: sum(part[name] for part in some) / len(some) for name in some[0]}


@torch.no_grad()
def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the share of targets that are the argmax, as a tensor () on the device."""
    there = targets != IGNORE
    right = (logits.argmax(-1) == targets) & there
    return right.sum() / there.sum().clamp(min=1)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next(model.parameters()).device

"""Trains the fine model: the remaining codebooks (spec 4.3)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..models.fine import FineGPT
from ..reference import fine_windows
from .examples import IGNORE, Examples, accuracy
from .loop import Loss, Run

AGAIN = 0.5  # share of correct codes where a window overlaps the previous one
DISTANCE = 10.0  # weight of the distance between codes' vectors


@dataclass
class Fine(Examples):
    """Examples of a window of all codebooks; of the one to predict, only the history is given (spec 4.3).

    The loss is the model's own, and the expected squared distance between the vectors of predicted and true
    code. Fine codes are what the coarse ones left over, and can hardly be predicted: without the second part
    the likeliest one is as far from the truth as any, and the audio is worse with it than without.
    """

    codebooks: Tensor | None = None  # (K, V, D); needed to train

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """Rows of "train" and "validation" with codes. ValueError if none train."""
        rows = {which: self.corpus.split(which, "samples") for which in ("train", "validation")}
        rows = {which: [i for i in some if self.codes[i].shape[1]] for which, some in rows.items()}
        self.corpus.training_rows("rows with sound", rows["train"])
        return rows

    def batch(self, which: str, n: int, codebook: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return codes (B, K, T) and targets (B, T) of random windows among those of generation; T is the
        window.

        Where windows overlap, generation sees in `codebook` its earlier output; here it is at random the
        correct code or any other.
        """
        tokens, W, size = self.config.tokens, self.config.tokens.fine_window, self.config.tokens.codebook_size
        codes = np.full((n, tokens.n_codebooks, W), tokens.fine_pad)
        targets = np.full((n, W), IGNORE)
        for b, i in enumerate(rng.choice(self.rows[which], n)):
            row, voice = self.codes[i], self.before(int(i), rng)
            if voice is not None:
                row = np.concatenate((self.codes[voice][:, -tokens.max_fine_history :], row), 1)
            known = row.shape[1] - self.codes[i].shape[1]
            windows = fine_windows(row.shape[1] - known, known, tokens)
            place = rng.integers(len(windows))
            start, fill = windows[place]
            row, fill = row[:, start : start + W], fill - start
            T = row.shape[1]
            codes[b, :codebook, :T] = row[:codebook]
            drawn = codes[b, tokens.n_coarse : codebook, T:]  # generation also fills the frames after the end
            drawn[:] = rng.integers(size, size=drawn.shape)
            codes[b, codebook:, :fill] = row[codebook:, :fill]
            if place:
                again = slice(fill, windows[place - 1][0] + W - start)
                answer = row[codebook, again]
                other = rng.integers(size, size=len(answer))
                codes[b, codebook, again] = np.where(rng.random(len(answer)) < AGAIN, answer, other)
            targets[b, fill:T] = row[codebook, fill:]
        return torch.from_numpy(codes), torch.from_numpy(targets)

    def measure(self, model: FineGPT, which: str, n: int, rng: np.random.Generator) -> Loss:
        """In training, of a random codebook; in validation, the average of all that the model predicts."""
        first, end = self.config.tokens.n_coarse, self.config.tokens.n_codebooks
        if which == "train":
            return self.of_codebook(int(rng.integers(first, end)), model, which, n, rng)
        found = [self.of_codebook(codebook, model, which, n, rng) for codebook in range(first, end)]
        mean = torch.stack([value for value, _ in found]).mean()
        distance = torch.stack([numbers["distance"] for _, numbers in found]).mean()
        return mean, {name: x for _, numbers in found for name, x in numbers.items()} | {"distance": distance}

    def of_codebook(
        self, codebook: int, model: FineGPT, which: str, n: int, rng: np.random.Generator
    ) -> Loss:
        """Return the loss of one codebook, and its numbers to log."""
        codes, targets = (t.to(self.between.device) for t in self.batch(which, n, codebook, rng))
        logits, value = model(codebook, codes, targets=targets)
        distance = expected_distance(logits, targets, self.between[codebook])
        numbers = {"distance": distance, f"accuracy_{codebook}": accuracy(logits, targets)}
        return value + DISTANCE * distance, numbers

    def train(self, run: Run) -> None:
        self.between = distances(self.codebooks.to(run.machine.device))
        super().train(run)


@torch.no_grad()
def distances(codebooks: Tensor) -> Tensor:
    """Codebooks (K, V, D) -> squared distances between their vectors (K, V, V), 1 on average."""
    between = torch.cdist(codebooks.float(), codebooks.float()).square()
    return between / between.mean((1, 2), keepdim=True).clamp(min=1e-12)


def expected_distance(logits: Tensor, targets: Tensor, between: Tensor) -> Tensor:
    """Return the mean of `between` (V, V) from each target (B, T) to the codes that `logits` (B, T, V or
    more) make likely, as a tensor ().
    """
    there = targets != IGNORE
    likely = logits[there][:, : between.shape[1]].float().softmax(-1)
    return (likely * between[targets[there]]).sum(-1).mean()

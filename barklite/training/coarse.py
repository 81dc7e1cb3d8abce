"""Trains the coarse model: semantic tokens to the first codebooks (spec 4.2)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ..config import GenerationConfig
from ..reference import coarse_prompt, coarse_view, trim_history
from .examples import IGNORE, Examples, accuracy, device_of, prompt
from .loop import Loss

NOISE = 0.2  # share of the history replaced by random codes, to simulate errors of generation


@dataclass
class Coarse(Examples):
    """Examples [semantic window][infer][history and the window's codes, interleaved] (spec 4.2)."""

    def ids(self, i: int) -> np.ndarray:
        """Return a row's coarse ids, frame by frame, int64 (n_coarse * T,)."""
        tokens = self.config.tokens
        offsets = tokens.semantic_vocab_size + tokens.codebook_size * np.arange(tokens.n_coarse)
        return (self.codes[i][: tokens.n_coarse] + offsets[:, None]).T.flatten()

    def example(self, i: int, voice: int | None, rng: np.random.Generator) -> list[int]:
        """Return the ids of a random window of row i, with its prompt. voice: a row to use as history."""
        tokens = self.config.tokens
        window = tokens.coarse_window
        semantic, coarse = self.corpus.semantic(i), self.ids(i)
        steps = min(tokens.coarse_steps(len(semantic)), len(coarse))
        done = window * int(rng.integers(max(1, -(-steps // window))))
        generation = GenerationConfig(max_coarse_history=tokens.max_coarse_history)
        history = None
        if voice is not None:
            history = prompt(self.corpus.semantic(voice), self.codes[voice], tokens)
        heard, said = trim_history(history, generation, tokens)
        source, ids = [*heard, *semantic.tolist()], [*said, *coarse[:done].tolist()]
        view = coarse_view(len(heard), done, len(ids), generation, tokens)
        return coarse_prompt(source, ids, view, tokens) + coarse[done : min(steps, done + window)].tolist()

    def batch(
        self, which: str, n: int, rng: np.random.Generator, noise: float = NOISE
    ) -> tuple[Tensor, Tensor]:
        """Return ids and targets (B, T)."""
        tokens = self.config.tokens
        rows = self.rows[which]
        sequences = []
        for i in rng.choice(rows, n, p=self.weights[which]):
            sequences.append(self.example(int(i), self.before(int(i), rng), rng))
        T, start = max(map(len, sequences)) - 1, tokens.n_coarse_semantic
        inputs, targets = np.full((n, T), tokens.coarse_pad), np.full((n, T), IGNORE)
        for b, sequence in enumerate(sequences):
            ids = np.array(sequence)
            targets[b, start : len(ids) - 1] = ids[start + 1 :]
            wrong = rng.random(len(ids)) < noise * (
                rng.random() < 0.8
            )  # a fifth of the examples have no noise
            wrong[: start + 1] = False
            book = (ids - tokens.semantic_vocab_size) // tokens.codebook_size
            other = tokens.semantic_vocab_size + book * tokens.codebook_size
            ids = np.where(wrong, other + rng.integers(tokens.codebook_size, size=len(ids)), ids)
            inputs[b, : len(ids) - 1] = ids[:-1]
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """Rows of "train" and "validation" with both kinds of tokens. ValueError if none train."""
        rows = {which: self.corpus.split(which, "semantic", "samples") for which in ("train", "validation")}
        rows = {which: [i for i in some if self.codes[i].shape[1]] for which, some in rows.items()}
        self.corpus.training_rows("rows with both semantic tokens and sound", rows["train"])
        return rows

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Probability of each row, in proportion to its length."""
        result = {}
        for which, rows in self.rows.items():
            lengths = np.array([self.codes[i].shape[1] for i in rows], dtype=np.float64)
            result[which] = lengths / max(1.0, lengths.sum())
        return result

    def measure(self, model: nn.Module, which: str, n: int, rng: np.random.Generator) -> Loss:
        tokens, device = self.config.tokens, device_of(model)
        inputs, targets = self.batch(which, n, rng, NOISE if which == "train" else 0.0)
        targets = targets.to(device)
        logits, value = model(inputs.to(device), targets=targets)
        book = (targets - tokens.semantic_vocab_size).div(tokens.codebook_size, rounding_mode="floor")
        return value, {
            f"accuracy_{k}": accuracy(logits, targets.where(book == k, IGNORE))
            for k in range(tokens.n_coarse)
        }

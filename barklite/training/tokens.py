"""Trains the three token models on examples with the layout of generation, with the models' own losses
(`targets=`).

Most examples have another utterance of the same speaker as history, so that the models learn voice prompts.
Axes: B batch, T positions or frames, K codebooks, N semantic tokens.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ..config import BarkConfig, GenerationConfig, TokenConfig
from ..models.fine import FineGPT
from ..models.gpt import GPT
from ..reference import coarse_prompt, coarse_view, fine_windows, trim_history
from ..text.tokenizer import Tokenizer
from ..voice import Voice
from .data import Corpus
from .loop import Loss, Run

IGNORE = -100  # a target without loss
PROMPTED = 0.7  # share of examples with another utterance as history
NOISE = 0.2  # share of coarse history replaced by random codes, to simulate errors of generation
AGAIN = 0.5  # share of correct codes where a fine window overlaps the previous one
GUIDE = 0.2  # weight of the attention guide
JOINED = 3  # most utterances in a semantic example
DISTANCE = 10.0  # weight of the distance between fine codes' vectors
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
    """Base of the three models' examples: a corpus, and its utterances by speaker. Subclasses define `rows`,
    the training and validation rows.
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
        j = int(rng.choice(others))
        return None if j == i else j  # its own codes would give the answer away


# --- semantic -----------------------------------------------------------------------------------------------


@dataclass
class Semantic(Examples):
    """Examples [text + history][infer][semantic tokens, end] (spec 4.1).

    The examples of a training batch have one, two or three utterances of a speaker, as far as they fit: long
    texts are rare, but their positions must be learned, too. There are as many fewer of them, because the
    text's positions take the same time whether they are used or not. Between the utterances stand the tokens
    `pause` instead of the silence at their ends, which has the same tokens.

    Skips rows that do not fit the model: without text ids, or with too many text ids or semantic tokens.
    ValueError if none is left to train on.
    """

    tokenizer: Tokenizer
    pause: Sequence[int] = ()

    def __post_init__(self) -> None:
        tokens, most = self.config.tokens, self.config.max_semantic_tokens
        self.texts = {}
        for which in ("train", "validation"):
            for i in self.corpus.split(which, "semantic"):
                ids = self.tokenizer.encode(self.corpus.rows[i].text)
                if 0 < len(ids) <= tokens.n_text and self.corpus.rows[i].semantic < most:
                    self.texts[i] = np.array(ids) + tokens.text_offset
        self.rows = {  # sorted by length, so that the rows of a batch have similar lengths
            which: sorted(
                (i for i in self.corpus.split(which, "semantic") if i in self.texts),
                key=lambda i: self.corpus.rows[i].semantic,
            )
            for which in ("train", "validation")
        }
        what = "rows with semantic tokens"
        if self.corpus.split("train", "semantic"):
            what += f", at most {most - 1}, and at most {tokens.n_text} text ids"
        self.corpus.training_rows(what, self.rows["train"])

    def batch(self, which: str, n: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Return text, history (B, n_text), rest and targets (B, 1 + N), spans (B, 1 + N, 2), -1 for none."""
        tokens, rows = self.config.tokens, self.rows[which]
        near = min(len(rows), 8 * n)
        start = np.clip(rng.integers(len(rows)) - near // 2, 0, len(rows) - near)
        near_rows, parts = rows[start : start + near], int(rng.integers(JOINED)) + 1
        n, parts = (n, 1) if which == "validation" else (-(-n // parts), parts)
        picked = [self.joined(int(i), parts, near_rows, rng) for i in rng.choice(near_rows, n)]
        said = [self.said(group, starts) for group, _, starts in picked]
        lengths = [len(semantic) for semantic, _ in said]
        text = np.full((n, tokens.n_text), tokens.text_pad)
        history = np.full((n, tokens.n_semantic_history), tokens.semantic_eos)
        rest = np.full((n, 1 + max(lengths)), tokens.semantic_infer)
        targets = np.full(rest.shape, IGNORE)
        spans = np.full((*rest.shape, 2), -1)
        for b, ((group, ids, _), (semantic, where)) in enumerate(zip(picked, said, strict=True)):
            N = len(semantic)
            text[b, : len(ids)] = ids
            rest[b, 1 : N + 1] = semantic
            targets[b, :N], targets[b, N] = semantic, tokens.semantic_eos
            spans[b, :N] = where
            if (voice := self.before(group[0], rng)) is not None and voice not in group:
                known = self.corpus.semantic(voice)[-tokens.n_semantic_history :]
                history[b, : len(known)] = known
        return tuple(torch.from_numpy(array) for array in (text, history, rest, targets, spans))

    def joined(
        self, i: int, parts: int, others: list[int], rng: np.random.Generator
    ) -> tuple[list[int], np.ndarray, list[int]]:
        """Join row i and up to `parts` - 1 of `others`, of the same speaker. Return the rows, the ids of the
        whole text, and the index of each row's first id in it.
        """
        tokens, rows = self.config.tokens, self.corpus.rows
        group, text, ids, starts = [i], rows[i].text, self.texts[i], [0]
        if parts > 1:
            same = [j for j in others if rows[j].speaker == rows[i].speaker]
        for j in rng.choice(same, parts - 1).tolist() if parts > 1 else ():
            longer = f"{text}{' ' if text[-1] in '.?!' else '. '}{rows[j].text}"
            whole = np.array(self.tokenizer.encode(longer)) + tokens.text_offset
            first = len(whole) - len(self.texts[j])
            length = sum(rows[k].semantic + len(self.pause) for k in (*group, j))
            if (
                j not in group
                and len(whole) <= tokens.n_text
                and length < self.config.max_semantic_tokens
                and np.array_equal(whole[: len(ids)], ids)
                and np.array_equal(whole[first:], self.texts[j])
            ):
                group, text, ids, starts = [*group, j], longer, whole, [*starts, first]
        return group, ids, starts

    def said(self, group: list[int], starts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the semantic tokens (N,) of joined rows, and their spans of ids (N, 2), -1 for none."""
        semantic, spans = np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
        for i, first in zip(group, starts, strict=True):
            new, given = self.corpus.semantic(i).astype(np.int64), self.corpus.spans(i)
            where = np.full((len(new), 2), -1) if given is None else given.astype(np.int64) + first
            if len(semantic) and len(self.pause):
                left, right = (np.flatnonzero(~np.isin(s, self.pause)) for s in (semantic, new))
                left, right = (left[-1] + 1 if len(left) else 0), (right[0] if len(right) else len(new))
                semantic = np.concatenate((semantic[:left], self.pause))
                spans = np.concatenate((spans[:left], np.repeat(spans[-1:], len(self.pause), 0)))
                new, where = new[right:], where[right:]
            semantic, spans = np.concatenate((semantic, new)), np.concatenate((spans, where))
        return semantic, spans

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the model's loss, the logits of the semantic tokens (B, 1 + N, V) and their targets."""
        module = getattr(model, "module", model)  # unwrap DistributedDataParallel
        text, history, rest, targets, _ = (t.to(module.wpe.weight.device) for t in batch)
        embeds = torch.cat((module.wte(text) + module.wte(history), module.wte(rest)), 1)
        nothing = targets.new_full(text.shape, IGNORE)
        logits, loss = model(embeds=embeds, targets=torch.cat((nothing, targets), 1))
        return loss, logits[:, text.shape[1] :], targets

    def train(self, run: Run) -> None:
        """Start or continue `run`, whose model is a GPT."""
        of = len(self.corpus.split("train", "semantic")) + len(self.corpus.split("validation", "semantic"))
        if len(self.texts) < of and run.machine.rank == 0:
            print(f"{of - len(self.texts)} of {of} rows do not fit the model: left out", file=sys.stderr)
        guide = Guide(run.model, self.config.tokens.n_text)

        def loss(model: nn.Module, rng: np.random.Generator) -> Loss:
            batch = self.batch("train", run.settings.batch_size, rng)
            value, logits, targets = self.loss(model, batch)
            numbers = {"accuracy": accuracy(logits, targets)}
            if (batch[-1] >= 0).any():
                guided = guide.loss(batch[-1].to(logits.device))
                numbers["guide"] = guided
                value = value + GUIDE * guided
            return value, numbers

        def validate(model: nn.Module) -> dict[str, float]:
            if not self.rows["validation"]:
                return {}

            def part(n: int, rng: np.random.Generator) -> dict[str, float]:
                value, logits, targets = self.loss(model, self.batch("validation", n, rng))
                return {"loss": float(value), "accuracy": float(accuracy(logits, targets))}

            return validated(part, run.settings.batch_size)

        try:
            run.train(loss, validate)
        finally:
            guide.close()


class Guide:
    """Guides one attention head to the letters being spoken (after Tachibana et al., 2017, but with known
    letters). The loss is minus the logarithm of the attention within each token's span.

    It recomputes the head's attention from the layer's input, which a wrapper of the layer's `forward` saves;
    a compiled model would ignore a hook.
    """

    def __init__(self, model: GPT, n_text: int, head: int = 0):
        self.attention, self.n_text, self.head = model.h[len(model.h) // 2].attn, n_text, head
        self._forward = self.attention.forward
        self.attention.forward = self._keep

    def _keep(self, x: Tensor, *rest) -> Tensor:
        self._x = x
        return self._forward(x, *rest)

    def close(self) -> None:
        """Remove the wrapper."""
        del self.attention.forward

    def loss(self, spans: Tensor) -> Tensor:
        """Return the loss. spans: (B, T, 2), of the positions from `n_text` on, -1 for none."""
        x, D = self._x, self._x.shape[-1]
        d = D // self.attention.n_head
        weight = self.attention.c_attn.weight
        rows = slice(self.head * d, (self.head + 1) * d)
        q = nn.functional.linear(x[:, self.n_text :], weight[:D][rows])  # (B, T, d)
        k = nn.functional.linear(x, weight[D : 2 * D][rows])  # (B, n_text + T, d)
        scores = (q @ k.transpose(1, 2)).float() * d**-0.5
        T, S = scores.shape[1:]
        later = torch.ones(T, S, dtype=torch.bool, device=x.device).triu(S - T + 1)
        whole = scores.masked_fill(later, -torch.inf).logsumexp(-1)
        at = torch.arange(S, device=x.device)
        inside = (at >= spans[..., :1]) & (at <= spans[..., 1:])
        there = spans[..., 0] >= 0
        part = scores.masked_fill(~inside, -1e9).logsumexp(-1)
        return (whole - part)[there].mean()


# --- coarse -------------------------------------------------------------------------------------------------


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

    def train(self, run: Run) -> None:
        """Start or continue `run`, whose model is a GPT."""
        assert self.rows["train"]  # raises ValueError before the first step if rows are missing

        def measure(model: nn.Module, inputs: Tensor, targets: Tensor) -> Loss:
            targets = targets.to(run.machine.device)
            logits, value = model(inputs.to(run.machine.device), targets=targets)
            tokens = self.config.tokens
            book = (targets - tokens.semantic_vocab_size).div(tokens.codebook_size, rounding_mode="floor")
            numbers = {
                f"accuracy_{k}": accuracy(logits, targets.where(book == k, IGNORE))
                for k in range(tokens.n_coarse)
            }
            return value, numbers

        def loss(model: nn.Module, rng: np.random.Generator) -> Loss:
            return measure(model, *self.batch("train", run.settings.batch_size, rng))

        def validate(model: nn.Module) -> dict[str, float]:
            if not self.rows["validation"]:
                return {}

            def part(n: int, rng: np.random.Generator) -> dict[str, float]:
                value, numbers = measure(model, *self.batch("validation", n, rng, noise=0.0))
                return {name: float(number) for name, number in {"loss": value, **numbers}.items()}

            return validated(part, run.settings.batch_size)

        run.train(loss, validate)


# --- fine ---------------------------------------------------------------------------------------------------


@dataclass
class Fine(Examples):
    """Examples of a window of all codebooks; of the one to predict, only the history is given (spec 4.3).

    The loss is the model's own, and the expected squared distance between the vectors of predicted and true
    code. Fine codes are what the coarse ones left over, and can hardly be predicted: without the second part
    the likeliest one is as far from the truth as any, and the audio is worse with it than without.
    """

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

    def train(self, run: Run, codebooks: Tensor) -> None:
        """Start or continue `run`, whose model is a FineGPT. codebooks: (K, V, D)."""
        assert self.rows["train"]
        first, device = self.config.tokens.n_coarse, run.machine.device
        between = distances(codebooks.to(device))

        def loss(model: FineGPT, rng: np.random.Generator) -> Loss:
            codebook = int(rng.integers(first, self.config.tokens.n_codebooks))
            codes, targets = self.batch("train", run.settings.batch_size, codebook, rng)
            targets = targets.to(device)
            logits, value = model(codebook, codes.to(device), targets=targets)
            distance = expected(logits, targets, between[codebook])
            numbers = {"distance": distance, f"accuracy_{codebook}": accuracy(logits, targets)}
            return value + DISTANCE * distance, numbers

        def validate(model: FineGPT) -> dict[str, float]:
            if not self.rows["validation"]:
                return {}

            def part(n: int, rng: np.random.Generator) -> dict[str, float]:
                found, share = {"loss": 0.0, "distance": 0.0}, 1 / (self.config.tokens.n_codebooks - first)
                for codebook in range(first, self.config.tokens.n_codebooks):
                    codes, targets = self.batch("validation", n, codebook, rng)
                    targets = targets.to(device)
                    logits, value = model(codebook, codes.to(device), targets=targets)
                    distance = expected(logits, targets, between[codebook])
                    found["loss"] += share * float(value + DISTANCE * distance)
                    found["distance"] += share * float(distance)
                    found[f"accuracy_{codebook}"] = float(accuracy(logits, targets))
                return found

            return validated(part, run.settings.batch_size)

        run.train(loss, validate)


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
def distances(codebooks: Tensor) -> Tensor:
    """Codebooks (K, V, D) -> squared distances between their vectors (K, V, V), 1 on average."""
    between = torch.cdist(codebooks.float(), codebooks.float()).square()
    return between / between.mean((1, 2), keepdim=True).clamp(min=1e-12)


def expected(logits: Tensor, targets: Tensor, between: Tensor) -> Tensor:
    """Return the mean of `between` (V, V) from each target (B, T) to the codes that `logits` (B, T, V or
    more) make likely, as a tensor ().
    """
    there = targets != IGNORE
    likely = logits[there][:, : between.shape[1]].float().softmax(-1)
    return (likely * between[targets[there]]).sum(-1).mean()


@torch.no_grad()
def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the share of targets that are the argmax, as a tensor () on the device."""
    there = targets != IGNORE
    right = (logits.argmax(-1) == targets) & there
    return right.sum() / there.sum().clamp(min=1)

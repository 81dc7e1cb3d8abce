"""Trains the semantic model: text to semantic tokens (spec 4.1)."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..models.gpt import GPT, cross_entropy
from ..text.tokenizer import Tokenizer
from .examples import IGNORE, Examples, accuracy
from .loop import Loss, Run

GUIDE = 0.2  # weight of the attention guide
BEGINNING = math.log(2.0)  # by which the logits of `beginnings` are learned too high
JOINED = 3  # most utterances in an example


@dataclass
class Semantic(Examples):
    """Examples [text + history][infer][semantic tokens, end] (spec 4.1).

    The examples of a training batch have one, two or three utterances of a speaker, as far as they fit: long
    texts are rare, but their positions must be learned, too. There are as many fewer of them, because the
    text's positions take the same time whether they are used or not. Between the utterances stand the tokens
    `pause` instead of the silence at their ends, which has the same tokens.

    The model learns the logits of the tokens `beginnings`, which begin a phone, log 2 too high (logit
    adjustment, Menon et al., 2021). Without it, greedy generation would end a phone only when its end is
    likelier than another frame, given the frames before, and that is later than the median duration.

    Skips rows that do not fit the model: without text ids, or with too many text ids or semantic tokens.
    ValueError if none is left to train on.
    """

    tokenizer: Tokenizer
    pause: Sequence[int] = ()
    beginnings: Sequence[int] = ()

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
        """Return the loss, the logits of the semantic tokens (B, 1 + N, V), adjusted, and their targets."""
        module = getattr(model, "module", model)  # unwrap DistributedDataParallel
        text, history, rest, targets, _ = (t.to(module.wpe.weight.device) for t in batch)
        embeds = torch.cat((module.wte(text) + module.wte(history), module.wte(rest)), 1)
        logits = model(embeds=embeds)[0][:, text.shape[1] :]
        adjustment = logits.new_zeros(logits.shape[-1])
        adjustment[list(self.beginnings)] = BEGINNING
        logits = logits - adjustment
        return cross_entropy(logits, targets), logits, targets

    def measure(self, model: nn.Module, which: str, n: int, rng: np.random.Generator) -> Loss:
        batch = self.batch(which, n, rng)
        value, logits, targets = self.loss(model, batch)
        numbers = {"accuracy": accuracy(logits, targets)}
        if which == "train" and (batch[-1] >= 0).any():
            numbers["guide"] = self.guide.loss(batch[-1].to(logits.device))
            value = value + GUIDE * numbers["guide"]
        return value, numbers

    def train(self, run: Run) -> None:
        of = len(self.corpus.split("train", "semantic")) + len(self.corpus.split("validation", "semantic"))
        if len(self.texts) < of and run.machine.rank == 0:
            print(f"{of - len(self.texts)} of {of} rows do not fit the model: left out", file=sys.stderr)
        self.guide = Guide(run.model, self.config.tokens.n_text)
        try:
            super().train(run)
        finally:
            self.guide.close()


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

"""Rows that go through a stage together, each in its own slot, with its own position, noise and end.

A stage's algorithm for one row (`generate`) is a coroutine: it yields what it wants computed, a `Draw` or a
`Pass`, and gets tokens or logits back. `Slots` runs any number of them: what a row gets does not depend on
its neighbours, and a row that ends makes room for the next.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..config import TokenConfig
from ..models.fine import FineGPT
from ..models.gpt import GPT
from .engine import PLAIN, Choice, Draw, Engine, Pass, engine_of
from .sampling import exponential

Tick = Callable[[int], object]  # is told of tokens or passes as they are made


def silent(n: int) -> None:
    pass


@dataclass
class Done:
    """A row that has ended: what its coroutine returned, or the ValueError that ended it."""

    key: Any
    result: Any = None
    error: ValueError | None = None
    seconds: float = 0.0  # its share of the time in which it ran with others

    def get(self) -> Any:
        """The result; the error is raised."""
        if self.error is not None:
            raise self.error
        return self.result


@dataclass(eq=False)
class _Row:
    key: Any
    coroutine: Generator
    noise: "Noise"
    draw: Draw | None = None
    tokens: list[int] = field(default_factory=list)  # of this Draw
    eos_p: list[float] = field(default_factory=list)
    last: int = -1
    seconds: float = 0.0

    @property
    def choice(self) -> Choice:
        return self.draw.choices[len(self.tokens)]


class Noise:
    """One row's noise, handed out draw by draw; what was taken and not used goes back to the generator.

    On the CPU several draws are what single ones are. On a GPU they are not, and a launch costs: there blocks
    are drawn, and what is left of the last one at a stage's end is dropped. So neither depends on how many
    draws are taken at a time, which a row's neighbours decide.
    """

    block = 32

    def __init__(self, generator: torch.Generator):
        self.generator = generator
        self.states: list[Tensor] = []  # of the generator, before what was taken last or before each block
        self.taken: Tensor | None = None
        self.left: Tensor | None = None

    def take(self, n: int, choice: Choice) -> Tensor | None:
        """Noise of n draws, (n, width); None where the likeliest is taken."""
        if choice.sampling.temperature == 0:
            return None
        if self.generator.device.type == "cpu":
            self.states = [self.generator.get_state()] if n > 1 else []
            return exponential((n, choice.width), self.generator)
        held = self.left
        while held is None or len(held) < n:
            self.states.append(self.generator.get_state())
            block = exponential((self.block, choice.width), self.generator)
            held = block if held is None else torch.cat((held, block))
        self.taken, self.left = held[:n], held[n:]
        return self.taken

    def give_back(self, used: int, width: int) -> None:
        """Of what was taken last only `used` draws were needed."""
        if self.taken is not None:
            self.left = torch.cat((self.taken[used:], self.left))
            while len(self.left) >= self.block:  # a whole block that nobody used
                self.left = self.left[: -self.block]
                self.generator.set_state(self.states.pop())
        elif self.states:
            self.generator.set_state(self.states.pop())
            exponential((used, width), self.generator)


class Slots:
    """A fixed number of slots in which rows of one stage decode; a row that ends makes room for another."""

    def __init__(
        self,
        name: str,
        model: GPT,
        size: int,
        length: int,
        engine: Engine = PLAIN,
        tick: Tick = silent,
    ):
        """name: the stage's, for errors. length: positions that the longest row needs."""
        self.name, self.model, self.size, self.tick = name, model, size, tick
        self.device, self.engine = model.wpe.weight.device, engine_of(model, engine)
        self.cache = self.engine.cache(model, length, size)
        self._rows: list[_Row | None] = []  # a row's place is its slot
        self._done: list[Done] = []

    def __len__(self) -> int:
        return sum(row is not None for row in self._rows) + len(self._done)

    @property
    def free(self) -> int:
        """How many rows can be admitted now."""
        return self.size - len(self)

    def close(self) -> None:
        self._rows = []
        self.engine.release(self.model, self.cache)

    @torch.no_grad()
    def admit(self, key: Any, coroutine: Generator, generator: torch.Generator) -> None:
        """Begin a row, whose noise comes from `generator`, in a free slot."""
        assert self.free
        row = _Row(key, coroutine, Noise(generator))
        if not self._resume(row, None):
            return
        if None in self._rows:
            self._rows[self._rows.index(None)] = row
        else:
            self._rows.append(row)

    @torch.no_grad()
    def run(self) -> list[Done]:
        """Decode until some row ends: all that have."""
        while len(self) and not self._done:
            self._close_gaps()
            if not self._prompts():
                self._steps()
        done, self._done = self._done, []
        return done

    def _prompts(self) -> bool:
        """Compute the prompts that rows ask for, those of one length together, and draw their first tokens.

        False if there are none.
        """
        groups: dict[tuple, list[int]] = {}
        for slot, row in enumerate(self._rows):
            if row.draw.prompt is not None and not row.tokens:
                groups.setdefault((row.draw.prompt.shape, row.choice), []).append(slot)
        for (_, choice), slots in groups.items():
            start, rows = time.perf_counter(), [self._rows[slot] for slot in slots]
            prompts = torch.stack([row.draw.prompt for row in rows]).to(self.device)
            logits = self.engine.prefill(self.model, prompts, self.cache, slots, choice.vocab)
            finite = logits.isfinite().all(-1).tolist()  # damaged weights, or too small a range, show here
            noise = [row.noise.take(1, choice) for row in rows]
            made = choice(logits, None if noise[0] is None else torch.cat(noise))
            made = [each[:, None].tolist() for each in made]
            self._spent(rows, start)
            for i, slot in enumerate(slots):
                if finite[i]:
                    self._take(slot, *(each[i] for each in made))
                else:
                    self._fail(slot)
        return bool(groups)

    def _steps(self) -> None:
        """A chunk of steps of all rows that are at the same choice; the others repeat their last one."""
        start, rows = time.perf_counter(), self._rows
        choice = max(
            (row.choice for row in rows), key=lambda choice: choice.start
        )  # the last of a frame first
        moving = [row.choice == choice for row in rows]
        n = 1
        if all(moving):
            n = min(self.engine.chunk, *(len(row.draw.choices) - len(row.tokens) for row in rows))
        first = rows[moving.index(True)]
        choices = first.draw.choices[len(first.tokens) : len(first.tokens) + n]
        taken = [row.noise.take(n, choice) for row, moves in zip(rows, moving, strict=True) if moves]
        noise = None
        if taken[0] is not None:
            rest = iter(taken)
            each = [next(rest) if moves else taken[0] for moves in moving]
            noise = each[0][:, None] if len(rows) == 1 else torch.stack(each, 1)  # (n, B, width)
        before = list(self.cache.lengths)
        tokens = torch.tensor([row.last for row in rows], device=self.device)
        made = self.engine.decode(self.model, tokens, self.cache, noise, choices)
        made = [each.T.tolist() for each in made]
        self._spent([row for row, moves in zip(rows, moving, strict=True) if moves], start)
        for slot, moves in enumerate(moving):
            if moves:
                self._take(slot, *(each[slot] for each in made))
            else:
                self.cache.lengths[slot] = before[slot]

    def _take(self, slot: int, drawn: list[int], ended: list[bool], eos_p: list[float]) -> None:
        """Give a row what was drawn for it, up to its end; if that is all it asked for, it goes on."""
        row = self._rows[slot]
        n = ended.index(True) + 1 if True in ended else len(drawn)
        if n < len(drawn):
            row.noise.give_back(n, row.choice.width)
        row.tokens += drawn[:n]
        row.eos_p += eos_p[:n]
        row.last = drawn[n - 1]
        self.tick(n)
        end = ended[n - 1]
        if not end and len(row.tokens) < len(row.draw.choices):
            return
        if not self.cache.is_finite(slot):
            self._fail(slot)
        elif not self._resume(row, (row.tokens, end, row.eos_p)):
            self._rows[slot] = None

    def _fail(self, slot: int) -> None:
        """A row whose values are not finite ends with an error."""
        row, self._rows[slot] = self._rows[slot], None
        row.coroutine.close()
        error = not_finite(self.name, self.cache.keys.dtype)
        self._done.append(Done(row.key, None, error, row.seconds))

    def _resume(self, row: _Row, answer: tuple[list[int], bool, list[float]] | None) -> bool:
        """Run a row's coroutine up to its next Draw; False if it has ended."""
        try:
            row.draw, row.tokens, row.eos_p = row.coroutine.send(answer), [], []
            return True
        except StopIteration as stop:
            self._done.append(Done(row.key, stop.value, None, row.seconds))
        return False

    def _close_gaps(self) -> None:
        """Rows take the first slots: no step computes an empty one."""
        while None in self._rows:
            last = self._rows.pop()
            if last is not None:
                gap = self._rows.index(None)
                self._rows[gap] = last
                self.cache.move(len(self._rows), gap)

    def _spent(self, rows: list[_Row], start: float) -> None:
        for row in rows:
            row.seconds += (time.perf_counter() - start) / len(rows)


def through(slots: Slots, rows: Iterable[tuple[Any, Generator, torch.Generator]]) -> Iterator[Done]:
    """All of `rows` (key, coroutine, generator), as they end; as many at a time as there are slots."""
    rows = iter(rows)
    more = True
    while more or len(slots):
        while more and slots.free:
            row = next(rows, None)
            more = row is not None
            if more:
                slots.admit(*row)
        yield from slots.run()


@torch.no_grad()
def passes(
    model: FineGPT,
    rows: Sequence[Generator],
    tokens: TokenConfig,
    engine: Engine = PLAIN,
    tick: Tick = silent,
) -> list[Done]:
    """Coroutines that ask for passes of the fine model: those for the same codebook are stacked."""
    engine, done = engine_of(model, engine), [Done(key) for key in range(len(rows))]
    asked: dict[int, Pass] = {}

    def resume(i: int, logits: Tensor | None) -> None:
        try:
            asked[i] = rows[i].send(logits)
        except StopIteration as stop:
            done[i].result = stop.value
        except ValueError as error:
            done[i].error = error

    for i in range(len(rows)):
        resume(i, None)
    while asked:
        start, codebook = time.perf_counter(), min(one.codebook for one in asked.values())
        group = {i: asked.pop(i) for i in list(asked) if asked[i].codebook == codebook}
        span = slice(
            min(one.rows.start for one in group.values()), max(one.rows.stop for one in group.values())
        )
        windows = torch.stack([one.window for one in group.values()])
        logits = engine.fine(model, codebook, windows, span, slice(0, tokens.codebook_size))
        for row, (i, one) in zip(logits, group.items(), strict=True):
            resume(i, row[one.rows.start - span.start : one.rows.stop - span.start])
        tick(len(group))
        for i in group:
            done[i].seconds += (time.perf_counter() - start) / len(group)
    return done


def not_finite(stage: str, dtype: torch.dtype) -> ValueError:
    return ValueError(
        f"the {stage} model computed values that are not finite: its weights are damaged, "
        f"or {dtype} has too little range for them (try float32 or bfloat16)"
    )

"""Runs many texts through the four stages at the same time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..config import GenerationConfig, TokenConfig
from . import sampling
from .batch import BatchDecoder, synthesize
from .engine import Engine
from .stages import CoarseStage, FineStage, SemanticStage, Sequence

if TYPE_CHECKING:
    from ..voice import Voice


@dataclass(eq=False)
class RequestState:
    """State of one request; `error` is set if it failed."""

    index: int
    text: str
    ids: list[int] = field(default_factory=list)
    voice: "Voice | None" = None
    seed: int = 0
    generator: torch.Generator | None = None
    attempt: int = 0
    finish_reason: str = ""
    eos_p: list[float] | None = None
    semantic: Tensor | None = None
    coarse: Tensor | None = None
    codes: Tensor | None = None
    audio: Tensor | None = None
    timings: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None


class ProgressBars:
    """One progress bar per stage, on stderr. shown: None shows them only on a terminal."""

    def __init__(self, shown: bool | None = False):
        self.hidden = None if shown is None else not shown
        self.bars = {}

    def __enter__(self) -> "ProgressBars":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        for bar in self.bars.values():
            bar.close()

    def expect(self, stage: str, n: int) -> None:
        """Add n steps to the expected total; n may be negative."""
        from tqdm import tqdm

        if stage not in self.bars:
            self.bars[stage] = tqdm(total=0, desc=stage, leave=False, disable=self.hidden)
        self.bars[stage].total += n

    def update(self, stage: str, n: int) -> None:
        self.bars[stage].update(n)


class Pipeline:
    """Runs requests through the stages: `submit` any time, `step` while `busy`.

    Each causal stage holds at most `size` requests; when one leaves, the next enters. A step decodes one
    chunk of one stage: the semantic stage until the coarse stage is full, so that both run with large
    batches. Use it in a `with` statement, which returns the caches to the engine.
    """

    def __init__(
        self,
        resident: Callable[[str], AbstractContextManager[nn.Module]],
        engine: Engine,
        config: GenerationConfig,
        tokens: TokenConfig,
        size: int,
        *,
        fine_batch_size: int = 1,
        stage_major: bool = False,
        retries: int = 0,
        bars: ProgressBars | None = None,
        audio: bool = True,
    ):
        """resident: gives a stage's model, on its device within a `with` statement. size: rows at a time.
        fine_batch_size: clips per batch of the fine model and the codec. stage_major: finish a stage's rows
        before the next stage begins, so that models move to the device less often. retries: how often to
        retry, with another seed, a text that reaches the length limit or gives no tokens. audio: False stops
        at codes.
        """
        self.resident, self.engine, self.config, self.tokens = resident, engine, config, tokens
        self.size, self.fine_batch_size, self.stage_major = size, fine_batch_size, stage_major
        self.retries, self.bars, self.audio = retries, bars or ProgressBars(), audio
        self.decoders: dict[str, BatchDecoder] = {}
        self.waiting: dict[str, deque[RequestState]] = {
            "semantic": deque(),
            "coarse": deque(),
            "fine": deque(),
        }

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *error) -> None:
        for decoder in self.decoders.values():
            decoder.close()
        self.decoders.clear()
        self.bars.close()

    def submit(self, state: RequestState) -> None:
        """Queue a request. A request that already has an error is returned by a later step unchanged."""
        self.waiting["semantic"].append(state)

    def cancel(self, state: RequestState) -> None:
        """Remove a request from its queue or batch; its row is free at once."""
        for waiting in self.waiting.values():
            if state in waiting:
                waiting.remove(state)
        for decoder in self.decoders.values():
            for sequence in [one for one in decoder.sequences if one.key is state]:
                decoder.remove(sequence)

    @property
    def busy(self) -> bool:
        """Whether any stage has requests."""
        return any(map(self._count, self.waiting))

    @property
    def room(self) -> bool:
        """Whether the semantic stage could begin another request now."""
        return self._count("semantic") < self.size

    def _count(self, stage: str) -> int:
        running = len(self.decoders[stage].sequences) if stage in self.decoders else 0
        return running + len(self.waiting[stage])

    def step(self) -> list[RequestState]:
        """Do one piece of work; return the requests that are finished."""
        finished, name = [], self._next_stage()
        if name is not None:
            with self.resident(name) as model, torch.no_grad():
                decoder, done = self._decoder(name, model), []
                finished += self._admit(name, decoder)
                while decoder.sequences and not done:
                    done = decoder.step()
                    if not self.stage_major:
                        break
                for sequence in done:  # results are made where the model is
                    finished += self._pass_on(name, sequence, decoder)
        fine, last = self.waiting["fine"], self._next_stage() is None
        while len(fine) >= self.fine_batch_size or (fine and last):
            finished += self._finish([fine.popleft() for _ in range(min(self.fine_batch_size, len(fine)))])
        return finished

    def run(self, states: Iterable[RequestState]) -> Iterator[RequestState]:
        """Submit each state when there is room for it; yield them as they finish."""
        states, more = iter(states), True
        with self:
            while more or self.busy:
                while more and self.room:
                    state = next(states, None)
                    more = state is not None
                    if more:
                        self.submit(state)
                yield from self.step()

    def _next_stage(self) -> str | None:
        """The causal stage that has work to do: the semantic one while the coarse one has free rows."""
        coarse = self._count("coarse")
        running = "coarse" in self.decoders and self.decoders["coarse"].sequences
        full = coarse >= self.size or (self.stage_major and running)
        if self._count("semantic") and not full:
            return "semantic"
        return "coarse" if coarse else None

    def _decoder(self, name: str, model: nn.Module) -> BatchDecoder:
        if name not in self.decoders:
            stage = {"semantic": SemanticStage, "coarse": CoarseStage}[name]
            stage = stage(model, self.config, self.tokens)
            report = partial(self.bars.update, name)
            self.decoders[name] = BatchDecoder(stage, self.size, self.engine, report)
        return self.decoders[name]

    def _admit(self, name: str, decoder: BatchDecoder) -> list[RequestState]:
        """Give free rows to waiting requests; return those that already have an error."""
        failed, waiting = [], self.waiting[name]
        while waiting and decoder.free:
            state = waiting.popleft()
            if state.error is not None:
                failed.append(state)
                continue
            given = state.ids if name == "semantic" else state.semantic
            self.bars.expect(name, decoder.stage.work(given, state.voice))
            decoder.add(decoder.stage.start(given, state.voice, state.generator, state))
        return failed

    def _pass_on(self, name: str, sequence: Sequence, decoder: BatchDecoder) -> list[RequestState]:
        """Store a stage's result and queue the request for the next stage; return it if it failed."""
        state = sequence.key
        state.timings[name] = state.timings.get(name, 0.0) + sequence.seconds
        state.error = sequence.error
        if state.error is not None:
            return [state]
        result = decoder.stage.result(sequence)
        if name == "coarse":
            state.coarse = result
            self.waiting["fine"].append(state)
            return []
        (state.semantic, state.finish_reason), state.eos_p = result, sequence.eos_p
        self.bars.expect(name, len(sequence.tokens) - decoder.stage.limit)  # steps not needed
        if state.attempt < self.retries and (state.finish_reason != "eos" or len(state.semantic) == 0):
            state.attempt += 1
            state.seed = sampling.derived_seed(state.seed, "again")
            state.generator = sampling.generator(state.seed, state.generator.device)
            self.waiting["semantic"].appendleft(state)
        else:
            self.waiting["coarse"].append(state)
        return []

    def _finish(self, states: list[RequestState]) -> list[RequestState]:
        """The fine model and the codec."""
        with self.resident("fine") as model:
            stage = FineStage(model, self.config, self.tokens)
            sequences = [stage.start(one.coarse, one.voice, one.generator, one) for one in states]
            self.bars.expect("fine", sum(stage.work(one.coarse, one.voice) for one in states))
            for one in stage.run(sequences, self.engine, lambda n: self.bars.update("fine", n)):
                state = one.key
                state.error, state.timings["fine"] = one.error, one.seconds
                state.codes = stage.result(one) if one.error is None else None
        good = [state for state in states if state.error is None and self.audio]
        start = perf_counter()
        with self.resident("codec") as codec:
            audio = synthesize(codec, [state.codes for state in good], self.engine)
        for state, sound in zip(good, audio, strict=True):
            state.audio = sound.cpu()
        for state in good:
            state.timings["codec"] = (perf_counter() - start) / len(good)
        return states

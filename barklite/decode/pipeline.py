"""Texts on their way through the four stages, many at a time."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import GenerationConfig, TokenConfig
from ..models.codec import Codec
from ..voice import Voice
from . import generate, sampling
from .engine import Engine, engine_of
from .slots import Slots, passes

PREFIX_FRAMES = 7  # from so many frames on, audio does not depend on the frames that follow (spec 6.2)


@dataclass(eq=False)
class Job:
    """One text and what has become of it; `error` if that is nothing."""

    index: int
    text: str
    ids: list[int] = field(default_factory=list)
    voice: Voice | None = None
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


class Bars:
    """A progress bar a stage on stderr, each from when its work is known. shown: None only on a terminal."""

    def __init__(self, shown: bool | None = False):
        self.hidden = None if shown is None else not shown
        self.bars = {}

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *error) -> None:
        for bar in self.bars.values():
            bar.close()

    def expect(self, stage: str, n: int) -> None:
        from tqdm import tqdm

        if stage not in self.bars:
            self.bars[stage] = tqdm(total=0, desc=stage, leave=False, disable=self.hidden)
        self.bars[stage].total += n

    def tick(self, stage: str, n: int) -> None:
        self.bars[stage].update(n)


class Pipeline:
    """Semantic and coarse slots that are kept busy, and the fine model and the codec for what leaves them.

    Only as many texts are on their way as there are slots: memory does not grow with their number.
    """

    def __init__(
        self,
        resident: Callable[[str], AbstractContextManager[nn.Module]],
        engine: Engine,
        config: GenerationConfig,
        tokens: TokenConfig,
        size: int,
        *,
        stack: int = 1,
        in_turn: bool = False,
        retries: int = 0,
        bars: Bars | None = None,
        sound: bool = True,
    ):
        """resident: a stage's model, on its device for a while. size: slots. stack: clips that the fine model
        and the codec wait for. in_turn: change the model seldom. retries: how often a text that reaches the
        length limit, or says nothing, is spoken again with another seed. sound: False leaves it at codes.
        """
        self.resident, self.engine, self.config, self.tokens = resident, engine, config, tokens
        self.size, self.stack, self.in_turn, self.retries = size, stack, in_turn, retries
        self.bars, self.sound = bars or Bars(), sound
        self._slots: dict[str, Slots] = {}

    def run(self, jobs: Iterator[Job]) -> Iterator[Job]:
        """The jobs, as they are done; of those that come with an error nothing is asked."""
        texts: deque[Job] = deque()  # to be spoken next
        ready: deque[Job] = deque()  # for the coarse model
        waiting: deque[Job] = deque()  # for the fine model
        more = True
        try:
            while True:
                while more and len(texts) + self._busy("semantic") < self.size:
                    job = next(jobs, None)
                    more = job is not None
                    if more and job.error is None:
                        texts.append(job)
                    elif more:
                        yield job
                room = self.size > len(ready) + self._busy("coarse")
                if self.in_turn and self._busy("coarse"):
                    room = False
                if room and (texts or self._busy("semantic")):
                    for job in self._semantic(texts):
                        if job.error is not None:
                            yield job
                        elif self._again(job):
                            texts.appendleft(job)
                        else:
                            ready.append(job)
                elif ready or self._busy("coarse"):
                    for job in self._coarse(ready):
                        if job.error is not None:
                            yield job
                        else:
                            waiting.append(job)
                elif not waiting:
                    return
                drained = not (texts or ready or self._busy("semantic") or self._busy("coarse"))
                while len(waiting) >= self.stack or (waiting and drained):
                    some = [waiting.popleft() for _ in range(min(self.stack, len(waiting)))]
                    yield from self._finish(some)
        finally:
            for slots in self._slots.values():
                slots.close()
            self._slots.clear()

    def _busy(self, stage: str) -> int:
        return len(self._slots[stage]) if stage in self._slots else 0

    def _open(self, stage: str, model: nn.Module) -> Slots:
        if stage not in self._slots:
            length = {"semantic": generate.semantic_length, "coarse": generate.coarse_length}[stage]
            self._slots[stage] = Slots(
                stage,
                model,
                self.size,
                length(self.config, self.tokens),
                self.engine,
                lambda n: self.bars.tick(stage, n),
            )
        return self._slots[stage]

    def _again(self, job: Job) -> bool:
        """Whether the text is to be spoken anew; then its job is as at the beginning, but for the seed."""
        if job.attempt >= self.retries or (job.finish_reason == "eos" and len(job.semantic)):
            return False
        job.attempt += 1
        job.seed = sampling.derived_seed(job.seed, "again")
        job.generator = sampling.generator(job.seed, job.generator.device)
        return True

    def _semantic(self, texts: deque[Job]) -> Iterator[Job]:
        with self.resident("semantic") as model:
            slots = self._open("semantic", model)
            while texts and slots.free:
                job = texts.popleft()
                self.bars.expect("semantic", self.config.semantic_limit(self.tokens))
                row = generate.semantic_row(model, job.ids, job.voice, self.config, self.tokens)
                slots.admit(job, row, job.generator)
            done = slots.run()
        for one in done:
            job, job.error = one.key, one.error
            job.timings["semantic"] = job.timings.get("semantic", 0.0) + one.seconds
            if job.error is None:
                job.semantic, job.finish_reason, job.eos_p = one.result
                unused = self.config.semantic_limit(self.tokens) - len(job.semantic)
                self.bars.expect("semantic", -unused + (job.finish_reason == "eos"))
            yield job

    def _coarse(self, ready: deque[Job]) -> Iterator[Job]:
        with self.resident("coarse") as model:
            slots = self._open("coarse", model)
            while ready and slots.free:
                job = ready.popleft()
                self.bars.expect("coarse", self.tokens.coarse_steps(len(job.semantic)))
                row = generate.coarse_row(model, job.semantic, job.voice, self.config, self.tokens)
                slots.admit(job, row, job.generator)
            done = slots.run()
        for one in done:
            job, job.error, job.timings["coarse"] = one.key, one.error, one.seconds
            if job.error is None:
                job.coarse = generate.coarse_codes(one.result, self.tokens)
            yield job

    def _finish(self, jobs: Sequence[Job]) -> Iterator[Job]:
        with self.resident("fine") as model:
            rows = []
            for job in jobs:
                n = generate.fine_passes(job.coarse, job.voice, self.tokens)
                self.bars.expect("fine", n)
                rows.append(
                    generate.fine_row(model, job.coarse, job.voice, job.generator, self.config, self.tokens)
                )
            done = passes(model, rows, self.tokens, self.engine, lambda n: self.bars.tick("fine", n))
        for job, one in zip(jobs, done, strict=True):
            job.codes, job.error, job.timings["fine"] = one.result, one.error, one.seconds
        start, good = time.perf_counter(), [job for job in jobs if job.error is None and self.sound]
        with self.resident("codec") as codec:
            audio = decode_audio(codec, [job.codes for job in good], self.engine)
        for job, sound in zip(good, audio, strict=True):
            job.audio = sound.cpu()
        for job in good:
            job.timings["codec"] = (time.perf_counter() - start) / len(good)
        yield from jobs


@torch.no_grad()
def decode_audio(codec: Codec, rows: Sequence[Tensor], engine: Engine) -> list[Tensor]:
    """Codes (k, T_i) -> audio, float32 (320 T_i,). Rows are padded on the right and decoded together."""
    engine, audio = engine_of(codec, engine), [None] * len(rows)
    groups: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        k, T = row.shape
        groups.setdefault((k, T if T < PREFIX_FRAMES else None), []).append(i)
    for group in groups.values():
        longest = max(rows[i].shape[1] for i in group)
        codes = torch.stack([F.pad(rows[i], (0, longest - rows[i].shape[1])) for i in group])
        for i, sound in zip(group, engine.decode_audio(codec, codes), strict=True):
            audio[i] = sound[: rows[i].shape[1] * codec.config.hop].float()
    return audio

"""Requests that join and leave a running batch, over the slots of `Bark.generate_many`."""

from collections import deque
from collections.abc import Hashable

import torch

from ..bark import Bark, Request
from ..clip import Clip
from ..config import GenerationConfig
from ..decode.pipeline import Job, Pipeline
from ..decode.slots import Done, Slots
from ..text import sentences
from ..validation import check_text
from ..voice import Voice


class Decoder:
    """Sentences that are spoken together, a step at a time.

    Only `split`, `length` and `voice` may be called from several threads.

    A clip does not depend on what else is decoded: it is the one that `Bark.generate` makes of the request.
    """

    def __init__(self, bark: Bark, config: GenerationConfig | None = None, batch_size: int | None = None):
        """config: of all requests; None takes the checkpoint's. batch_size: as in `Bark.generate_many`.

        ValueError for bad settings, and for a Bark with `offload`: a step of each model follows a step of
        another here.
        """
        if bark.offload:
            raise ValueError("offload moves a model at a time to the device, and a server needs all of them")
        self.bark, self.config = bark, bark._settings(config)
        self.size = bark._batch_size(batch_size, self.config)
        self._jobs: dict[Hashable, Job] = {}
        self._texts: deque[Job] = deque()  # for the semantic model
        self._ready: deque[Job] = deque()  # for the coarse model
        self._failed: list[Job] = []
        self._pipeline = _Pipeline(
            bark._resident, bark.engine, self.config, bark.config.tokens, self.size, stack=1
        )

    def split(self, text: str) -> list[str]:
        """The sentences that `Bark.stream` makes of a text; ValueError if there are none."""
        check_text(text)
        limit = self.bark.config.tokens.n_text
        pieces = sentences.split(text, lambda piece: self.length(piece) <= limit)
        pieces = [piece for piece in pieces if self.length(piece)]  # no lone marks
        if not pieces:
            raise ValueError("the text is empty to this model: it reads no word in it")
        if any(self.length(piece) > limit for piece in pieces):
            raise ValueError(f"a single character of the text has more than {limit} tokens")
        return pieces

    def length(self, text: str) -> int:
        """Its tokens."""
        return len(self.bark._encode(text, self.config))

    def voice(self, name: str) -> Voice:
        """A voice of the model by its name; OSError if it cannot be fetched from the Hub."""
        return self.bark._voice(name)

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def room(self) -> bool:
        """Whether a request that is submitted now begins at the next step."""
        return len(self._texts) + self._pipeline.busy("semantic") < self.size

    def submit(self, key: Hashable, request: Request) -> None:
        """Begin a request; what is wrong with it comes out of `step`."""
        job = self._jobs[key] = self.bark._job(key, request, self.config, {})
        self._texts.append(job) if job.error is None else self._failed.append(job)

    def cancel(self, key: Hashable) -> None:
        """Forget a request and free its slot. Nothing happens if it is done or unknown."""
        job = self._jobs.pop(key, None)
        for queue in (self._texts, self._ready, self._failed):
            if job in queue:
                queue.remove(job)
        self._pipeline.cancel(job)

    @torch.no_grad()
    def step(self) -> list[tuple[Hashable, Clip | Exception]]:
        """A step of the semantic and one of the coarse model, the rest for those that leave them: what is
        done.
        """
        pipeline, done, self._failed = self._pipeline, self._failed, []
        if (self._texts or pipeline.busy("semantic")) and len(self._ready) < self.size:
            for job in pipeline._semantic(self._texts):
                (self._ready if job.error is None else done).append(job)
        if self._ready or pipeline.busy("coarse"):
            for job in pipeline._coarse(self._ready):
                done += [job] if job.error is not None else pipeline._finish([job])
        for job in done:
            del self._jobs[job.index]
        return [(job.index, self.bark._clip(job) if job.error is None else job.error) for job in done]

    def close(self) -> None:
        """Give the slots' memory back."""
        self._pipeline.close()


class _Pipeline(Pipeline):
    """The stages of `Bark.generate_many`, a step at a time."""

    def busy(self, stage: str) -> int:
        return self._busy(stage)

    def cancel(self, job: Job | None) -> None:
        for slots in self._slots.values():
            slots.cancel(job)

    def close(self) -> None:
        for slots in self._slots.values():
            slots.close()
        self._slots.clear()

    def _open(self, stage: str, model) -> Slots:
        slots = super()._open(stage, model)
        slots.__class__ = _Slots
        return slots


class _Slots(Slots):
    def run(self) -> list[Done]:
        if len(self) and not self._done:
            self._close_gaps()
            if not self._prompts():
                self._steps()
        done, self._done = self._done, []
        return done

    def cancel(self, key) -> None:
        for slot, row in enumerate(self._rows):
            if row is not None and row.key is key:
                row.coroutine.close()
                self._rows[slot] = None

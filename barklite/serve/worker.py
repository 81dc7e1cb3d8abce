"""The thread that owns the model and decodes the sentences of all requests in one batch."""

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from ..bark import Request
from ..clip import Clip
from ..decode.sampling import MAX_SEED
from ..voice import Voice
from .decoder import Decoder


@dataclass(eq=False)
class Speech:
    """One request: sentences to speak as in `Bark.stream`.

    deliver: called in the worker's thread with each Clip, in order, or with the error that ends the request.
    """

    sentences: list[str]
    voice: Voice | None
    seed: int
    deliver: Callable[[Clip | Exception], None]
    begun: int = 0  # sentences submitted to the decoder
    running: set[int] = field(default_factory=set)
    held: dict[int, Clip] = field(default_factory=dict)  # done, but waiting for earlier sentences
    delivered: int = 0
    taken: int = 0  # delivered clips that the client has taken

    def can_begin(self, ahead: int) -> bool:
        """Whether its next sentence may start.

        The first runs alone, for a short delay. Without a voice, the others wait for a clip that provides
        one. At most `ahead` sentences are begun but not taken.
        """
        if self.begun == len(self.sentences) or self.begun - self.taken >= ahead:
            return False
        return not self.running or (self.voice is not None and self.delivered > 0)


class Busy(Exception):
    """The server has its maximum of requests. seconds: when to try again."""

    def __init__(self, seconds: int):
        super().__init__(f"the server is busy; try again in {seconds} s")
        self.seconds = seconds


class Closed(Exception):
    """The server is shutting down."""


class Worker:
    """Decodes submitted requests in a thread of its own. All methods may be called from any thread."""

    def __init__(self, new_decoder: Callable[[], Decoder], max_requests: int):
        """new_decoder: called now, and again after an error that concerns the whole batch."""
        self._new_decoder, self.max_requests = new_decoder, max_requests
        self.decoder = new_decoder()
        self.finished = lambda clip: None  # called with each clip
        self._changed = threading.Condition()
        self._speeches: list[Speech] = []  # round-robin queue
        self._cancelled: list[Speech] = []  # may still be in the decoder
        self._closing = False
        self._pace, self._clock = 1.0, time.monotonic()  # mean seconds between clips; time of the last one
        self._thread = threading.Thread(target=self._run, name="barklite decoder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it accepts requests."""
        return self._thread.is_alive() and not self._closing

    def counts(self) -> tuple[int, int, int]:
        """Return the numbers of requests, of sentences in the decoder, and of sentences not begun."""
        with self._changed:
            waiting = sum(len(speech.sentences) - speech.begun for speech in self._speeches)
            return len(self._speeches), len(self.decoder), waiting

    def submit(self, speech: Speech) -> None:
        """Accept a request, or raise Busy or Closed."""
        with self._changed:
            if not self.alive:
                raise Closed("the server is shutting down")
            if len(self._speeches) >= self.max_requests:
                left = sum(len(one.sentences) - one.delivered for one in self._speeches)
                wait = math.ceil(self._pace * left / len(self._speeches))  # until a request is done
                raise Busy(min(max(wait, 1), 60))
            self._speeches.append(speech)
            self._changed.notify()

    def cancel(self, speech: Speech) -> None:
        """Drop a request. Its slots are free from the next step on."""
        with self._changed:
            self._forget(speech)
            self._changed.notify()

    def took(self, speech: Speech) -> None:
        """Note that the client has taken the next clip."""
        with self._changed:
            speech.taken += 1
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread. Unfinished requests receive Closed."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _forget(self, speech: Speech) -> None:
        if speech in self._speeches:
            self._speeches.remove(speech)
            self._cancelled.append(speech)

    def _run(self) -> None:
        try:
            while self._wait():
                try:
                    done = self.decoder.step()
                except Exception as error:  # concerns the whole batch, such as a device out of memory
                    logging.getLogger(__name__).exception("a step of the decoder failed")
                    self._restart(error)
                    continue
                with self._changed:
                    for (speech, i), result in done:
                        self._done(speech, i, result)
                if done:
                    now = time.monotonic()
                    self._pace += 0.2 * ((now - self._clock) / len(done) - self._pace)
                    self._clock = now
        finally:
            self._closing = True
            with self._changed:
                self._end_all(Closed("the server is shutting down"))
            self.decoder.close()

    def _wait(self) -> bool:
        """Wait for work and submit sentences to free slots. False if the worker is closed."""
        with self._changed:
            self._drop_cancelled()
            while not self._closing and not len(self.decoder) and self._next() is None:
                self._changed.wait()
                self._drop_cancelled()
                self._clock = time.monotonic()
            while self.decoder.room and (speech := self._next()) is not None:
                self._begin(speech)
            return not self._closing

    def _drop_cancelled(self) -> None:
        for speech in self._cancelled:
            for i in speech.running:
                self.decoder.cancel((speech, i))
        self._cancelled.clear()

    def _next(self) -> Speech | None:
        """Return the next request: of those with the fewest running sentences, the first in the queue."""
        ready = (speech for speech in self._speeches if speech.can_begin(self.decoder.size))
        return min(ready, key=lambda speech: len(speech.running), default=None)

    def _begin(self, speech: Speech) -> None:
        i, speech.begun = speech.begun, speech.begun + 1
        speech.running.add(i)
        self._speeches.remove(speech)
        self._speeches.append(speech)
        seed = (speech.seed + i) % (MAX_SEED + 1)
        self.decoder.submit((speech, i), Request(speech.sentences[i], speech.voice, seed))

    def _done(self, speech: Speech, i: int, result: Clip | Exception) -> None:
        speech.running.discard(i)
        if speech not in self._speeches:  # cancelled during the step
            return
        if isinstance(result, Exception):
            self._forget(speech)
            speech.deliver(result)
            return
        self.finished(result)
        if speech.voice is None:
            with suppress(ValueError):  # too short to be a voice
                speech.voice = result.voice()
        speech.held[i] = result
        while speech.delivered in speech.held:
            speech.deliver(speech.held.pop(speech.delivered))
            speech.delivered += 1
        if speech.delivered == len(speech.sentences):
            self._speeches.remove(speech)

    def _restart(self, error: Exception) -> None:
        """End all requests with an error of the batch, and replace the decoder."""
        with self._changed:
            self._end_all(error)
        self.decoder.close()
        self.decoder = self._new_decoder()

    def _end_all(self, error: Exception) -> None:
        for speech in self._speeches:
            speech.deliver(error)
        self._speeches.clear()
        self._cancelled.clear()

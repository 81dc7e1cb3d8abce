"""One thread that owns the model and speaks the sentences of all requests in one batch."""

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
    """One request: sentences, spoken as `Bark.stream` speaks them.

    deliver: called on the worker's thread with each Clip, in order, or with the error that ends the request.
    """

    sentences: list[str]
    voice: Voice | None
    seed: int
    deliver: Callable[[Clip | Exception], None]
    begun: int = 0  # sentences given to the decoder
    running: set[int] = field(default_factory=set)
    held: dict[int, Clip] = field(default_factory=dict)  # done before the sentences in front of them
    delivered: int = 0
    taken: int = 0  # clips that the reader has had

    def can_begin(self, ahead: int) -> bool:
        """Whether its next sentence may be spoken.

        The first goes alone, to be heard soon; without a voice the others wait for a clip that gives one. Of
        clips that nobody has taken yet there are at most `ahead`.
        """
        if self.begun == len(self.sentences) or self.begun - self.taken >= ahead:
            return False
        return not self.running or (self.voice is not None and self.delivered > 0)


class Busy(Exception):
    """There are as many requests as the server takes; `seconds`: when it is worth trying again."""

    def __init__(self, seconds: int):
        super().__init__(f"the server is busy; try again in {seconds} s")
        self.seconds = seconds


class Closed(Exception):
    """The server shuts down."""


class Worker:
    """Speaks what is submitted, from any thread, until it is closed."""

    def __init__(self, new_decoder: Callable[[], Decoder], max_requests: int):
        """new_decoder: called now, and again after an error that was not of one request."""
        self._new_decoder, self.max_requests = new_decoder, max_requests
        self.decoder = new_decoder()
        self.finished = lambda clip: None  # told of each clip
        self._changed = threading.Condition()
        self._speeches: list[Speech] = []  # a line: who had a turn goes to its end
        self._gone: list[Speech] = []  # cancelled, and perhaps still in the decoder
        self._closing = False
        self._pace, self._clock = 1.0, time.monotonic()  # seconds from clip to clip; when the last was done
        self._thread = threading.Thread(target=self._run, name="barklite decoder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._closing

    def counts(self) -> tuple[int, int, int]:
        """Requests; sentences in the decoder; sentences that have not begun."""
        with self._changed:
            waiting = sum(len(speech.sentences) - speech.begun for speech in self._speeches)
            return len(self._speeches), len(self.decoder), waiting

    def submit(self, speech: Speech) -> None:
        """Take a request. Busy or Closed if it is not taken."""
        with self._changed:
            if not self.alive:
                raise Closed("the server shuts down")
            if len(self._speeches) >= self.max_requests:
                left = sum(len(one.sentences) - one.delivered for one in self._speeches)
                wait = math.ceil(self._pace * left / len(self._speeches))  # until one of them is done
                raise Busy(min(max(wait, 1), 60))
            self._speeches.append(speech)
            self._changed.notify()

    def cancel(self, speech: Speech) -> None:
        """Nobody listens any more; the slots of its sentences are free from the next step on."""
        with self._changed:
            self._forget(speech)
            self._changed.notify()

    def took(self, speech: Speech) -> None:
        """The reader of a request has had its next clip."""
        with self._changed:
            speech.taken += 1
            self._changed.notify()

    def close(self) -> None:
        """End: requests that are not done get Closed."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _forget(self, speech: Speech) -> None:
        if speech in self._speeches:
            self._speeches.remove(speech)
            self._gone.append(speech)

    def _run(self) -> None:
        try:
            while self._wait():
                try:
                    done = self.decoder.step()
                except Exception as error:  # of the whole batch, such as a device out of memory
                    logging.getLogger(__name__).exception("a step of the decoder failed")
                    self._begin_anew(error)
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
                self._end_all(Closed("the server shuts down"))
            self.decoder.close()

    def _wait(self) -> bool:
        """Until there is something to decode: the decoder has it then. False if the worker is closed."""
        with self._changed:
            self._drop_gone()
            while not self._closing and not len(self.decoder) and self._next() is None:
                self._changed.wait()
                self._drop_gone()
                self._clock = time.monotonic()
            while self.decoder.room and (speech := self._next()) is not None:
                self._begin(speech)
            return not self._closing

    def _drop_gone(self) -> None:
        for speech in self._gone:
            for i in speech.running:
                self.decoder.cancel((speech, i))
        self._gone.clear()

    def _next(self) -> Speech | None:
        """Whose turn it is: the first in the line of those with the fewest sentences in the decoder."""
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

    def _begin_anew(self, error: Exception) -> None:
        """After an error in the batch nothing in the decoder can be trusted: take a new one."""
        with self._changed:
            self._end_all(error)
        self.decoder.close()
        self.decoder = self._new_decoder()

    def _end_all(self, error: Exception) -> None:
        for speech in self._speeches:
            speech.deliver(error)
        self._speeches.clear()
        self._gone.clear()

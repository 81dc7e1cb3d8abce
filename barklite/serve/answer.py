"""POST /v1/audio/speech: checks a request, submits it to the worker and streams the response."""

import asyncio
import base64
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Annotated, Literal

import numpy as np
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from ..bark import Bark
from ..clip import Clip
from ..decode.sampling import MAX_SEED, new_seed
from .audio import MEDIA_TYPES, Encoder
from .decoder import Decoder
from .gate import Refused, Settings
from .metrics import Metrics
from .voices import Voices
from .worker import Busy, Closed, Speech, Worker

OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15")


class VoiceId(BaseModel):
    """A voice as an object, another form that OpenAI's API allows."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: str


class SpeechRequest(BaseModel):
    """The body of POST /v1/audio/speech as in OpenAI's API, with barklite's own `seed` and `report`.

    report: keep the clips for GET /reports/ID, a path that the header x-report gives.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    input: str
    model: str | None = None
    voice: str | VoiceId | None = None
    response_format: Literal["mp3", "opus", "flac", "wav", "pcm"] = "mp3"
    stream_format: Literal["audio", "sse"] = "audio"
    speed: float = 1.0
    instructions: str | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    report: bool = False


class ClientLeft(Exception):
    """The client closed the connection."""


class Server:
    """The state of an application: worker, voices, metrics and clips kept for reports."""

    def __init__(self, bark: Bark, settings: Settings):
        self.settings, self.rate = settings, bark.sample_rate
        self.worker = Worker(
            partial(Decoder, bark, settings.config, settings.batch_size), settings.max_requests
        )
        self.bark, self.config = bark, bark.settings(settings.config)
        self.voices = Voices(bark, settings.max_voices)
        self.metrics = Metrics(self.worker)
        self.reports: OrderedDict[str, list[Clip]] = OrderedDict()
        self.silence = np.zeros(round(settings.pause * self.rate), np.float32)

    async def speak(self, body: SpeechRequest, request: Request) -> Response:
        """Start a request and return a streaming response once its first sentence is done. Raises Refused."""
        start = time.monotonic()
        speech, clips, ids = await self._speech(body)
        try:
            self.worker.submit(speech)
        except Busy as busy:
            code = "rate_limit_exceeded"
            raise Refused(429, str(busy), code, retry_after=str(busy.seconds)) from None
        except Closed as closed:
            raise _failed(closed) from None
        answer = _Answer(self, speech, clips, request, start)
        try:
            first = await answer.next()
        except Exception as error:
            answer.end()
            raise _failed(error) from None
        except BaseException:
            answer.end()
            raise
        self.metrics.first.observe(time.monotonic() - start)
        headers = {"x-seed": str(speech.seed), "x-sentences": str(len(speech.sentences))}
        if body.report and self.settings.reports and hasattr(first, "report"):
            name = secrets.token_urlsafe(16)
            headers["x-report"], self.reports[name] = f"/reports/{name}", []
            answer.kept = self.reports[name]
            while len(self.reports) > self.settings.reports:
                self.reports.popitem(last=False)
        encoder = Encoder(body.response_format, self.rate)
        if body.stream_format == "sse":
            return _Stream(answer, answer.events(first, encoder, ids), headers, "text/event-stream")
        return _Stream(answer, answer.audio(first, encoder), headers, MEDIA_TYPES[body.response_format])

    async def _speech(self, body: SpeechRequest) -> tuple[Speech, asyncio.Queue, int]:
        """Check a request: (Speech to submit, queue that receives its clips, number of text tokens)."""
        most = self.settings.max_characters
        if body.model not in (None, self.settings.name, *OPENAI_MODELS):
            message = f"there is no model {body.model!r:.80} here, only {self.settings.name!r}"
            raise Refused(404, message, "model_not_found", "model")
        if len(body.input) > most:
            message = f"the input has {len(body.input)} characters, but at most {most} are allowed"
            raise Refused(400, message, "string_above_max_length", "input")
        if body.speed != 1:
            message = "Bark cannot change the speed: leave `speed` out or set it to 1.0"
            raise Refused(400, message, "unsupported_value", "speed")
        if body.instructions:
            message = "Bark takes no instructions: leave them out and write cues such as [laughs] in the text"
            raise Refused(400, message, "unsupported_value", "instructions")
        name = body.voice.id if isinstance(body.voice, VoiceId) else body.voice
        try:
            voice = None if name is None else await self.voices.get(name)
        except (ValueError, OSError) as error:
            status = 400 if isinstance(error, ValueError) else 502
            raise Refused(status, str(error), "voice_not_found", "voice") from None
        try:
            pieces = await asyncio.to_thread(self.bark.sentences, body.input, self.config)
        except ValueError as error:
            raise Refused(400, str(error), "invalid_value", "input") from None
        loop, clips = asyncio.get_running_loop(), asyncio.Queue()

        def deliver(result: Clip | Exception) -> None:
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(clips.put_nowait, result)

        seed = new_seed() if body.seed is None else body.seed
        speech = Speech([text for text, _ in pieces], voice, seed, deliver)
        return speech, clips, sum(len(ids) for _, ids in pieces)


class _Answer:
    """The clips of one running request, and their encoding for the client."""

    def __init__(self, server: Server, speech: Speech, clips: asyncio.Queue, request: Request, start: float):
        self.server, self.speech, self.clips, self.start = server, speech, clips, start
        self.kept: list[Clip] | None = None  # clips for a report
        self.tokens, self.whole = 0, False
        self._watch = asyncio.create_task(self._watch_client(request))

    async def next(self) -> Clip:
        """Wait for the next clip. Raises the error that ended the request."""
        result = await self.clips.get()
        if isinstance(result, Exception):
            raise result
        self.server.worker.took(self.speech)
        return result

    def end(self) -> None:
        """Cancel the rest of the request."""
        self._watch.cancel()
        self.server.worker.cancel(self.speech)

    async def audio(self, clip: Clip, encoder: Encoder) -> AsyncIterator[bytes]:
        """Yield encoded audio, beginning with `clip`, with a pause between sentences."""
        for left in reversed(range(len(self.speech.sentences))):
            self.tokens += len(clip.semantic)
            if self.kept is not None:
                self.kept.append(clip)
            sound = np.concatenate((clip.audio, self.server.silence)) if left else clip.audio
            if data := await asyncio.to_thread(encoder.add, sound, not left):
                yield data
            if left:
                clip = await self.next()
        self.whole = True
        self.server.metrics.whole.observe(time.monotonic() - self.start)

    async def events(self, clip: Clip, encoder: Encoder, ids: int) -> AsyncIterator[bytes]:
        """Yield `audio` as server-sent events. The usage counts text tokens and semantic tokens."""
        async for data in self.audio(clip, encoder):
            yield _event("delta", audio=base64.b64encode(data).decode())
        usage = dict(input_tokens=ids, output_tokens=self.tokens, total_tokens=ids + self.tokens)
        yield _event("done", usage=usage)

    async def _watch_client(self, request: Request) -> None:
        """Wait until the client disconnects, and end the request if it is not complete."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        if not self.whole:
            self.server.metrics.gone.inc()
            self.clips.put_nowait(ClientLeft())


class _Stream(StreamingResponse):
    """A streaming response. Closes the connection if it fails or the client stops reading."""

    def __init__(
        self, answer: _Answer, content: AsyncIterator[bytes], headers: dict[str, str], media_type: str
    ):
        super().__init__(content, headers={**headers, "cache-control": "no-store"}, media_type=media_type)
        self.answer = answer

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answer.end()

    async def stream_response(self, send) -> None:
        patience = self.answer.server.settings.patience

        async def patient(message: dict) -> None:
            await asyncio.wait_for(send(message), patience)

        with suppress(Exception):  # the headers are sent, so a truncated body is the only sign of an error
            await super().stream_response(patient)


def _event(kind: str, **entries) -> bytes:
    return f"data: {json.dumps({'type': f'speech.audio.{kind}', **entries})}\n\n".encode()


def _failed(error: Exception) -> Refused:
    """Convert an error before the first clip to an HTTP error."""
    if isinstance(error, Closed):
        return Refused(503, str(error), "shutting_down", retry_after="5")
    if isinstance(error, ClientLeft):
        return Refused(499, "the client left")  # only logged: nobody receives it
    return Refused(500, f"the text could not be spoken: {error}", "generation_failed")

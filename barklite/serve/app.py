"""The HTTP application: OpenAI's speech endpoint, voices, health, metrics and a page."""

import asyncio
import base64
import hashlib
import json
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ..bark import Bark
from ..clip import Clip
from ..decode.sampling import MAX_SEED, new_seed
from .audio import MEDIA_TYPES, Encoder
from .decoder import Decoder
from .gate import Gate, Refused, Settings
from .metrics import Metrics
from .voices import Voices
from .worker import Busy, Closed, Speech, Worker

OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15")
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; media-src data: blob:"
)


class VoiceId(BaseModel):
    """A voice as an object, which OpenAI's API allows too."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: str


class SpeechRequest(BaseModel):
    """The body of POST /v1/audio/speech, OpenAI's; `seed` and `report` are barklite's own.

    report: keep the clips for GET /reports/ID, which the header x-report names.
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


class Gone(Exception):
    """The client left."""


class Server:
    """What an application keeps: its worker, voices, metrics and clips to be looked at."""

    def __init__(self, bark: Bark, settings: Settings):
        self.settings, self.rate = settings, bark.config.codec.sample_rate
        self.worker = Worker(
            partial(Decoder, bark, settings.config, settings.batch_size), settings.max_requests
        )
        self.decoder = self.worker.decoder  # to split texts and find voices
        self.voices = Voices(self.decoder, settings.max_voices)
        self.metrics = Metrics(self.worker)
        self.reports: OrderedDict[str, list[Clip]] = OrderedDict()
        self.silence = np.zeros(round(settings.pause * self.rate), np.float32)

    async def speak(self, body: SpeechRequest, request: Request) -> Response:
        """Answer a request: with the first sentence done, and the rest to come; or Refused."""
        start = time.monotonic()
        speech, clips = await self._speech(body)
        try:
            self.worker.submit(speech)
        except Busy as busy:
            code = "rate_limit_exceeded"
            raise Refused(429, str(busy), code, retry_after=str(busy.seconds)) from None
        except Closed as closed:
            raise _failed(closed) from None
        talk = _Talk(self, speech, clips, request, start)
        try:
            first = await talk.next()
        except Exception as error:
            talk.end()
            raise _failed(error) from None
        except BaseException:
            talk.end()
            raise
        self.metrics.first.observe(time.monotonic() - start)
        headers = {"x-seed": str(speech.seed), "x-sentences": str(len(speech.sentences))}
        if body.report and self.settings.reports and hasattr(first, "report"):
            name = secrets.token_urlsafe(16)
            headers["x-report"], self.reports[name] = f"/reports/{name}", talk.spoken
            while len(self.reports) > self.settings.reports:
                self.reports.popitem(last=False)
        encoder = Encoder(body.response_format, self.rate)
        if body.stream_format == "sse":
            ids = sum(map(self.decoder.length, speech.sentences))
            return _Sound(talk, talk.events(first, encoder, ids), headers, "text/event-stream")
        return _Sound(talk, talk.audio(first, encoder), headers, MEDIA_TYPES[body.response_format])

    async def _speech(self, body: SpeechRequest) -> tuple[Speech, asyncio.Queue]:
        """A request, checked, and where its clips will come."""
        most = self.settings.max_characters
        if body.model not in (None, self.settings.name, *OPENAI_MODELS):
            message = f"there is no model {body.model!r:.80} here, only {self.settings.name!r}"
            raise Refused(404, message, "model_not_found", "model")
        if len(body.input) > most:
            message = f"the input has {len(body.input)} characters, and {most} are allowed: send it in parts"
            raise Refused(400, message, "string_above_max_length", "input")
        if body.speed != 1:
            message = "Bark cannot change its speed: leave `speed` out, or give 1.0"
            raise Refused(400, message, "unsupported_value", "speed")
        if body.instructions:
            message = (
                "Bark takes no instructions: leave them out, and write cues such as [laughs] in the text"
            )
            raise Refused(400, message, "unsupported_value", "instructions")
        name = body.voice.id if isinstance(body.voice, VoiceId) else body.voice
        try:
            voice = None if name is None else await self.voices.get(name)
        except (ValueError, OSError) as error:
            status = 400 if isinstance(error, ValueError) else 502
            raise Refused(status, str(error), "voice_not_found", "voice") from None
        try:
            sentences = await asyncio.to_thread(self.decoder.split, body.input)
        except ValueError as error:
            raise Refused(400, str(error), "invalid_value", "input") from None
        loop, clips = asyncio.get_running_loop(), asyncio.Queue()

        def deliver(result: Clip | Exception) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(clips.put_nowait, result)

        seed = new_seed() if body.seed is None else body.seed
        return Speech(sentences, voice, seed, deliver), clips


class _Talk:
    """One request that is being spoken, for one client."""

    def __init__(self, server: Server, speech: Speech, clips: asyncio.Queue, request: Request, start: float):
        self.server, self.speech, self.clips, self.start = server, speech, clips, start
        self.spoken: list[Clip] = []
        self.whole = False
        self._watch = asyncio.create_task(self._until_gone(request))

    async def next(self) -> Clip:
        """The next clip; the error that ended the request is raised."""
        result = await self.clips.get()
        if isinstance(result, Exception):
            raise result
        self.server.worker.took(self.speech)
        return result

    def end(self) -> None:
        """Nothing more is asked: what has not been spoken need not be."""
        self._watch.cancel()
        self.server.worker.cancel(self.speech)

    async def audio(self, clip: Clip, encoder: Encoder) -> AsyncIterator[bytes]:
        for left in reversed(range(len(self.speech.sentences))):
            self.spoken.append(clip)
            sound = np.concatenate((clip.audio, self.server.silence)) if left else clip.audio
            if data := await asyncio.to_thread(encoder.add, sound, not left):
                yield data
            if left:
                clip = await self.next()
        self.whole = True
        self.server.metrics.whole.observe(time.monotonic() - self.start)

    async def events(self, clip: Clip, encoder: Encoder, ids: int) -> AsyncIterator[bytes]:
        """The same as server-sent events. Tokens are the text's and the semantic model's."""
        async for data in self.audio(clip, encoder):
            yield _event("delta", audio=base64.b64encode(data).decode())
        made = sum(len(clip.semantic) for clip in self.spoken)
        usage = dict(input_tokens=ids, output_tokens=made, total_tokens=ids + made)
        yield _event("done", usage=usage)

    async def _until_gone(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        if not self.whole:
            self.server.metrics.gone.inc()
            self.clips.put_nowait(Gone())


class _Sound(StreamingResponse):
    """A talk on its way to a client. If it fails, or the client does not read, the connection is cut."""

    def __init__(self, talk: _Talk, content: AsyncIterator[bytes], headers: dict[str, str], media_type: str):
        super().__init__(content, headers={**headers, "cache-control": "no-store"}, media_type=media_type)
        self.talk = talk

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.talk.end()

    async def stream_response(self, send) -> None:
        patience = self.talk.server.settings.patience

        async def patient(message: dict) -> None:
            await asyncio.wait_for(send(message), patience)

        with suppress(Exception):  # the headers are sent: an end that is missing is all that can be told
            await super().stream_response(patient)


def _event(kind: str, **entries) -> bytes:
    return f"data: {json.dumps({'type': f'speech.audio.{kind}', **entries})}\n\n".encode()


def _failed(error: Exception) -> Refused:
    """The answer to an error before the first sound."""
    if isinstance(error, Closed):
        return Refused(503, str(error), "shutting_down", retry_after="5")
    if isinstance(error, Gone):
        return Refused(499, "the client left")  # is not sent
    return Refused(500, f"the text could not be spoken: {error}", "generation_failed")


def create_app(bark: Bark, settings: Settings | None = None) -> FastAPI:
    """The ASGI application that serves a Bark. It speaks from its start to its shutdown.

    ValueError for settings that the model cannot have, and for a Bark with `offload`.
    """
    settings = settings or Settings()
    server = Server(bark, settings)
    page, policy = _page()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.worker.start()
        yield
        await asyncio.to_thread(server.worker.close)

    app = FastAPI(title="barklite", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.server = server
    app.add_middleware(Gate, settings=settings)
    if settings.cors:
        exposed = ["x-seed", "x-sentences", "x-report", "retry-after"]
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=exposed,
        )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(settings.hosts), www_redirect=False)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"][1:] if isinstance(part, str)]
        param = place[0] if place and first["type"] != "json_invalid" else None
        message = f"{param}: {first['msg']}" if param else f"the body: {first['msg']}"
        return Refused(400, message, first["type"], param).response()

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if not isinstance(error, Refused):
            error = Refused(error.status_code, str(error.detail), **(error.headers or {}))
        return error.response()

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return Refused(500, "an error in the server: its log has more", "internal_error").response()

    @app.post("/v1/audio/speech")
    async def speech(body: SpeechRequest, request: Request) -> Response:
        code = 500
        try:
            answer = await server.speak(body, request)
            code = answer.status_code
            return answer
        except Refused as error:
            code = error.status_code
            raise
        finally:
            server.metrics.responses.labels(code).inc()

    @app.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": [_model(settings.name)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict:
        if name not in (settings.name, *OPENAI_MODELS):
            raise Refused(404, f"there is no model {name!r:.80} here", "model_not_found", "model")
        return _model(settings.name)

    @app.get("/v1/voices")
    async def voices() -> dict:
        return {"object": "list", "data": server.voices.listed()}

    @app.put("/v1/voices/{name}", status_code=201)
    async def add_voice(name: str, request: Request) -> dict:
        try:
            await server.voices.add(name, await request.body())
        except ValueError as error:
            raise Refused(400, str(error), "invalid_voice", "voice") from None
        return {"id": name, "from": "uploaded"}

    @app.delete("/v1/voices/{name}", status_code=204)
    async def delete_voice(name: str) -> None:
        if server.voices.uploaded.pop(name, None) is None:
            raise Refused(404, f"no voice {name!r:.80} was uploaded", "voice_not_found", "voice")

    @app.get("/reports/{name}/{number}")
    async def report(name: str, number: int) -> Response:
        clips = server.reports.get(name, [])
        if not 0 <= number < len(clips):
            raise Refused(404, "this report is not kept any more", "report_not_found")
        html = await asyncio.to_thread(_report, clips[number])
        return HTMLResponse(html, headers={"content-security-policy": REPORT_POLICY})

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict:
        if not server.worker.alive:
            raise Refused(503, "the server takes no requests", "not_ready")
        return {"status": "ready"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/")
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"content-security-policy": policy, "x-frame-options": "DENY"})

    return app


def _model(name: str) -> dict:
    return {"id": name, "object": "model", "created": 0, "owned_by": "barklite"}


def _page() -> tuple[str, str]:
    """The page, and the policy that lets its own script and style run, and nothing else."""
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    allowed = []
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed.append(f"{tag}-src 'sha256-{digest}'")
    rest = "default-src 'none'; connect-src 'self'; media-src blob:; img-src data:; base-uri 'none'"
    return page, "; ".join([rest, "form-action 'none'; frame-ancestors 'none'", *allowed])


def _report(clip: Clip) -> str:
    return clip.report()

"""The HTTP application: OpenAI's speech endpoint, voices, health, metrics and a page."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ..bark import Bark
from .answer import OPENAI_MODELS, Server, SpeechRequest
from .gate import Gate, Refused, Settings

REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; media-src data: blob:"
)


def create_app(bark: Bark, settings: Settings | None = None) -> FastAPI:
    """Make the ASGI application that serves a Bark. Its worker thread runs from startup to shutdown.

    ValueError for settings that the model does not support, and for a Bark with `offload`.
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
        return Refused(500, "internal error: see the server's log", "internal_error").response()

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
            raise Refused(404, "this report is no longer kept", "report_not_found")
        page = await asyncio.to_thread(clips[number].report)
        return HTMLResponse(page.html, headers={"content-security-policy": REPORT_POLICY})

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict:
        if not server.worker.alive:
            raise Refused(503, "the server accepts no requests", "not_ready")
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
    """Return the page, and a content security policy that allows only its own script and style."""
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    allowed = []
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed.append(f"{tag}-src 'sha256-{digest}'")
    rest = "default-src 'none'; connect-src 'self'; media-src blob:; img-src data:; base-uri 'none'"
    return page, "; ".join([rest, "form-action 'none'; frame-ancestors 'none'", *allowed])

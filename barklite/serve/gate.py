"""Settings of a server, and the checks before a request is parsed: API key, size and time limits."""

import asyncio
import secrets
from dataclasses import dataclass

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from ..config import GenerationConfig

OPEN_PATHS = ("/", "/health", "/ready")  # need no key; neither do reports, whose URLs cannot be guessed


@dataclass(frozen=True)
class Settings:
    """Settings and limits of a server.

    name: of the model, in /v1/models. config: of all requests (None: the checkpoint's). batch_size: sentences
    in a batch, as in `Bark.generate_many`. pause: seconds of silence between sentences.

    max_requests: running and waiting; more get status 429. max_characters: of an input. max_body: bytes of a
    request body. max_voices: uploaded voices. patience: seconds to wait for a client that stalls while it
    sends or reads. reports: number of last requests whose clips are kept for reports.

    api_key: required from clients, unless None. cors: allowed origins of browser pages. hosts: allowed
    values of the Host header.
    """

    name: str = "barklite"
    config: GenerationConfig | None = None
    batch_size: int | None = None
    pause: float = 0.25
    max_requests: int = 64
    max_characters: int = 4096
    max_body: int = 2**20
    max_voices: int = 32
    patience: float = 60.0
    reports: int = 8
    api_key: str | None = None
    cors: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ("*",)


class Refused(HTTPException):
    """An HTTP error in the format of OpenAI's API."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None, **headers
    ):
        """headers: names with _ instead of -."""
        super().__init__(status, message, {name.replace("_", "-"): text for name, text in headers.items()})
        self.code, self.param = code, param

    def response(self) -> JSONResponse:
        kind = "server_error" if self.status_code >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status_code, kind)
        error = dict(message=self.detail, type=kind, param=self.param, code=self.code)
        return JSONResponse({"error": error}, self.status_code, self.headers)


class Gate:
    """ASGI middleware that checks the API key and limits the size and duration of request bodies."""

    def __init__(self, app, settings: Settings):
        self.app, self.settings = app, settings

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, most, size, more = Headers(scope=scope), self.settings.max_body, 0, True
        too_large = Refused(413, f"the body has more than {most} bytes", "body_too_large", connection="close")
        if not self._has_key(scope["path"], headers):
            message = "this server has a key: send it as Authorization: Bearer KEY"
            refused = Refused(401, message, "invalid_api_key", www_authenticate="Bearer")
            return await refused.response()(scope, receive, send)
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > most:
            return await too_large.response()(scope, receive, send)

        async def limited() -> dict:
            nonlocal size, more
            if not more:  # after the body only a disconnect can follow
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.settings.patience)
            except asyncio.TimeoutError:
                raise Refused(408, "the body did not come in time", connection="close") from None
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
            if size > most:
                raise too_large
            return message

        await self.app(scope, limited, send)

    def _has_key(self, path: str, headers: Headers) -> bool:
        if self.settings.api_key is None or path in OPEN_PATHS or path.startswith("/reports/"):
            return True
        kind, _, key = headers.get("authorization", "").partition(" ")
        same = secrets.compare_digest(key.strip().encode("latin-1"), self.settings.api_key.encode())
        return same and kind.lower() == "bearer"

"""`barklite serve`: command-line options, and running the server."""

import argparse
import ipaddress
import os
import signal
import sys
from collections.abc import Callable

DESCRIPTION = """Serve an HTTP API like OpenAI's speech endpoint, with a page to try it at /.

Concurrent requests share one batch. Nothing is written to disk. Uploaded voices are kept in memory, for all
clients."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the server's options, beside those of the model."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    group.add_argument("--port", type=int, default=8000, help="0 picks a free one (default: 8000)")
    group.add_argument(
        "--api-key", metavar="KEY", help="require this key (default: $BARKLITE_API_KEY, else none)"
    )
    group.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN", help="allow requests from pages of ORIGIN"
    )
    group.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="accepted Host header (default: localhost's names if it listens only there, else any)",
    )
    group = parser.add_argument_group("limits")
    group.add_argument("--batch-size", type=int, metavar="N", help="sentences in a batch")
    group.add_argument(
        "--max-requests", type=int, default=64, metavar="N", help="running and waiting; more get status 429"
    )
    group.add_argument("--max-characters", type=int, default=4096, metavar="N", help="characters of a text")
    group.add_argument("--max-body", type=int, default=2**20, metavar="N", help="bytes of a request body")
    group.add_argument("--max-voices", type=int, default=32, metavar="N", help="uploaded voices")
    group.add_argument(
        "--patience", type=float, default=60, metavar="S", help="seconds to wait for a stalled client"
    )
    group.add_argument(
        "--grace", type=int, default=60, metavar="S", help="seconds to finish requests at shutdown"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")


def run(options: argparse.Namespace, load: Callable[[], "Bark"]) -> int:  # noqa: F821
    """Serve until SIGINT or SIGTERM. load: returns the model. ImportError without the extra `serve`."""
    try:
        import uvicorn

        from . import Settings, create_app
    except ImportError as error:
        raise ImportError('the server needs more packages: pip install "barklite[serve]"') from error
    local = _is_local(options.host)
    key = options.api_key or os.environ.get("BARKLITE_API_KEY") or None
    hosts = (*options.allow_host, *(("localhost", "127.0.0.1", "[::1]", options.host) if local else ()))
    settings = Settings(
        name=options.model or "barklite",
        hosts=hosts or ("*",),
        api_key=key,
        cors=tuple(options.cors),
        **{
            name: getattr(options, name)
            for name in ("batch_size", "max_requests", "max_characters", "max_body", "max_voices", "patience")
        },
    )
    app = create_app(load(), settings)
    if not local and key is None:
        print("barklite: anyone who reaches this address can use it: set --api-key", file=sys.stderr)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        log_level="warning" if options.quiet else "info",
        limit_concurrency=2 * options.max_requests + 64,
        timeout_graceful_shutdown=options.grace,
    )
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn handles it, and raises it again at the end
    uvicorn.Server(config).run()
    return 0


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

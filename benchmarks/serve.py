"""Load test of `barklite serve`: latency, throughput, memory, and whether every answer is right.

    python -m benchmarks.serve                          1 client, then 64, a minute each, the built-in voice
    python -m benchmarks.serve --clients 64 --hostile   beside clients that leave, stall or send bad bodies

Each client sends its next request as soon as it has an answer. Answers are compared byte by byte with those
of the same requests alone. The server runs in its own process, whose resident memory is measured. Prints a
line of JSON at the end.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter

import numpy as np

from barklite import Bark
from barklite.clip import pcm16

from .jobs import note, rounded
from .report import table

SENTENCES = ("Yes.", "How are you?", "The rain has stopped.", "We will meet at the station.", "Thank you.")


def requests(voices: list[str], n: int) -> list[dict]:
    """Return n request bodies of one to three sentences, in all voices, with different seeds."""
    draw = random.Random(0)
    return [
        {
            "input": " ".join(draw.sample(SENTENCES, draw.choice((1, 1, 1, 2, 3)))),
            "voice": voices[i % len(voices)] if voices else None,
            "seed": i,
            "response_format": "pcm",
        }
        for i in range(n)
    ]


def malformed(number: int) -> bytes:
    """Return an invalid body, a different one for each number."""
    draw = random.Random(number)
    good = json.dumps({"input": "Hello.", "seed": number, "voice": "mine"}).encode()
    kinds = (
        lambda: draw.randbytes(draw.randrange(200)),
        lambda: good[: draw.randrange(len(good))],
        lambda: b"[" * draw.randrange(1, 50_000),
        lambda: b'{"input": "\\ud8' + draw.randbytes(1).hex().encode() + b'"}',
        lambda: json.dumps(draw.choice([None, 1, [], "x", {}, {"input": None}, {"input": []}])).encode(),
        lambda: b'{"input": ' + b"9" * draw.randrange(1, 20_000) + b"}",
        lambda: b'{"seed": ' + draw.choice([b"NaN", b"1e999", b"-0.5", b"true"]) + b', "input": "a"}',
        lambda: good.replace(b"input", bytes([draw.randrange(128, 256)])),
    )
    return draw.choice(kinds)()


@contextlib.contextmanager
def server(options: list[str]):
    """Start `barklite serve` on a free port. Yield its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    command = [sys.executable, "-m", "barklite", "serve", "-q", "--port", str(port), *options]
    process = subprocess.Popen(command)
    try:
        while process.poll() is None and socket.socket().connect_ex((host, port)):
            time.sleep(0.1)
        yield f"http://{host}:{port}", process
    finally:
        process.terminate()
        process.wait()


def resident(pid: int) -> float:
    """Return a process's resident memory in MB (Linux)."""
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024


class Load:
    """Concurrent clients of a server, and their measurements."""

    def __init__(self, address: str, pid: int, cases: list[tuple[dict, bytes]]):
        self.address, self.pid, self.cases = address, pid, cases
        self.first, self.whole, self.seconds = [], [], 0.0
        self.counts: Counter[str] = Counter()
        self.memory: list[float] = []

    async def run(self, clients: int, seconds: float, bad: int) -> None:
        import httpx

        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.address, timeout=600, limits=limits) as http:
            self.end = time.monotonic() + seconds
            tasks = [self._client(http, i, clients) for i in range(clients)]
            if bad:
                tasks += [self._cut(), self._stall(), self._malformed(http, bad)]
            watch = asyncio.create_task(self._watch())
            start = time.monotonic()
            await asyncio.gather(*tasks)
            self.took = time.monotonic() - start
            watch.cancel()

    async def _client(self, http, number: int, step: int) -> None:
        while time.monotonic() < self.end:
            body, wanted = self.cases[number % len(self.cases)]
            number, start, data = number + step + 1, time.monotonic(), bytearray()
            try:
                async with http.stream("POST", "/v1/audio/speech", json=body) as answer:
                    async for piece in answer.aiter_raw():
                        if not data:
                            first = time.monotonic() - start
                        data += piece
            except Exception as error:
                self.counts[type(error).__name__] += 1
                continue
            if answer.status_code == 200:
                self.first.append(first)
                self.whole.append(time.monotonic() - start)
                self.seconds += len(data) / 48_000
                self.counts["right" if data == wanted else "WRONG"] += 1
            else:
                self.counts[str(answer.status_code)] += 1
                await asyncio.sleep(float(answer.headers.get("retry-after", 1)))

    async def _watch(self) -> None:
        while True:
            self.memory.append(resident(self.pid))
            await asyncio.sleep(1)

    async def _open(self, body: dict) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        data = json.dumps(body)
        head = f"host: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        writer.write(f"POST /v1/audio/speech HTTP/1.1\r\n{head}{data}".encode())
        return reader, writer

    async def _cut(self) -> None:
        """Clients that are gone within half a second, now and then after their first sound."""
        draw = random.Random(1)
        while time.monotonic() < self.end:
            reader, writer = await self._open(draw.choice(self.cases)[0])
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(1), draw.random() / 2)
            writer.transport.abort()
            self.counts["cut"] += 1

    async def _stall(self) -> None:
        """Clients that ask and then read 100 bytes a second."""
        while time.monotonic() < self.end:
            reader, writer = await self._open(self.cases[0][0])
            for _ in range(5):
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(reader.read(100), 1)
                await asyncio.sleep(1)
            writer.transport.abort()
            self.counts["stalled"] += 1

    async def _malformed(self, http, n: int) -> None:
        headers = {"content-type": "application/json"}
        for number in range(n):
            answer = await http.post("/v1/audio/speech", content=malformed(number), headers=headers)
            name = "malformed, refused" if answer.status_code == 400 else f"malformed, {answer.status_code}"
            self.counts[name] += 1

    def result(self) -> dict:
        def of(values: list[float]) -> dict:
            return {f"p{q}": rounded(np.percentile(values, q)) for q in (50, 95)} if values else {}

        third = max(1, len(self.memory) // 3)
        return {
            "seconds": rounded(self.took),
            "answers": len(self.whole),
            "first_audio_s": of(self.first),
            "whole_s": of(self.whole),
            "audio_s_per_s": rounded(self.seconds / self.took),
            "memory_mb": {
                "first third": rounded(max(self.memory[:third])),
                "last third": rounded(max(self.memory[-third:])),
            },
            "counts": dict(self.counts),
        }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", help="as of `barklite serve` (default: the built-in voice)")
    parser.add_argument("--clients", default="1,64", help="numbers of clients, one run each")
    parser.add_argument("--seconds", type=float, default=60, help="of each run")
    parser.add_argument("--requests", type=int, default=32, help="different ones")
    parser.add_argument("--hostile", action="store_true", help="with clients that misbehave")
    parser.add_argument("--malformed", type=int, default=10_000, help="bad bodies, if hostile")
    options = parser.parse_args(arguments)
    bark = Bark.from_pretrained(options.model, device="cpu")
    note("what each request gives alone")
    cases = []
    for body in requests(bark.voices[:2] if options.model is None else [], options.requests):
        clips = bark.stream(body["input"], body["voice"], body["seed"])
        cases.append((body, b"".join(pcm16(clip.audio).tobytes() for clip in clips)))
    given = ["--device", "cpu", *(["-m", options.model] if options.model else [])]
    runs = {}
    with server(given) as (address, process):
        for clients in map(int, options.clients.split(",")):
            note(f"{clients} clients for {options.seconds:g} s")
            load = Load(address, process.pid, cases)
            asyncio.run(load.run(clients, options.seconds, options.malformed if options.hostile else 0))
            runs[str(clients)] = load.result()
    rows = [
        [
            clients,
            str(run["answers"]),
            *(f"{run[name].get(q, 0):.1f}" for name in ("first_audio_s", "whole_s") for q in ("p50", "p95")),
            f"{run['audio_s_per_s']:.2f}",
            " / ".join(f"{mb:.0f}" for mb in run["memory_mb"].values()),
            ", ".join(f"{n} {name}" for name, n in run["counts"].items()),
        ]
        for clients, run in runs.items()
    ]
    header = ["clients", "answers", "first p50 s", "p95", "whole p50 s", "p95", "audio s/s", "MB", "outcomes"]
    print(table(header, rows))
    print(json.dumps({"benchmark": "serve", "cores": os.cpu_count(), "clients": runs}))


if __name__ == "__main__":
    main()

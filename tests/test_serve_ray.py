"""The application as a Ray Serve deployment, as the README has it."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

httpx = pytest.importorskip("httpx", reason="the client of these tests is not installed")
for package in ("fastapi", "uvicorn", "prometheus_client", "soundfile"):
    pytest.importorskip(package, reason="needs barklite[serve]")
ray = pytest.importorskip("ray", reason="needs ray[serve]")
serve = pytest.importorskip("ray.serve", reason="needs ray[serve]")

from barklite import Bark  # noqa: E402
from barklite.clip import pcm16  # noqa: E402
from barklite.serve import create_app  # noqa: E402
from tests.serving import until  # noqa: E402


@pytest.fixture
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
    yield
    serve.shutdown()
    ray.shutdown()


def test_two_replicas_one_of_which_is_killed(cluster, native):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    @serve.deployment(num_replicas=2, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.5})
    @serve.ingress(lambda: create_app(Bark.from_pretrained(native, device="cpu")))
    class Speech:
        pass

    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Speech.bind())
    address = f"http://127.0.0.1:{port}"
    bark = Bark.from_pretrained(native, device="cpu")
    wanted = {seed: pcm16(bark.generate("Hello.", seed=seed).audio) for seed in range(4)}

    def replicas() -> list:
        names = [one["name"] for one in ray.util.list_named_actors(all_namespaces=True)]
        return sorted(name for name in names if "SERVE_REPLICA" in name)

    def ask(seed: int) -> int:
        body = json.dumps({"input": "Hello.", "seed": seed, "response_format": "pcm"})
        headers = {"content-type": "application/json"}
        try:
            answer = httpx.post(f"{address}/v1/audio/speech", content=body, headers=headers, timeout=120)
        except httpx.TransportError:  # it was on the replica that died
            return 0
        if answer.status_code == 200:
            assert np.array_equal(np.frombuffer(answer.content, "<i2"), wanted[seed])
        return answer.status_code

    until(lambda: len(replicas()) == 2, 120)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, i % 4) for i in range(24)]
        until(lambda: any(one.done() for one in asked), 120)
        victim = replicas()[0]
        ray.kill(ray.get_actor(victim, namespace="serve"))
        codes = [one.result() for one in asked]
    assert codes.count(200) >= 12
    until(lambda: len(replicas()) == 2 and victim not in replicas(), 120)
    time.sleep(0.5)
    assert [ask(seed) for seed in range(4)] == [200] * 4

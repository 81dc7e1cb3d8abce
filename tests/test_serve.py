"""`barklite serve`: every answer is what the library gives, and the server outlives its clients."""

import base64
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import scipy.io.wavfile

from barklite import Bark, GenerationConfig, Request, Voice
from barklite.clip import pcm16
from tests import builders

httpx = pytest.importorskip("httpx", reason="the client of these tests is not installed")
for package in ("fastapi", "uvicorn", "prometheus_client", "soundfile"):
    pytest.importorskip(package, reason="needs barklite[serve]")

import soundfile  # noqa: E402

from barklite.serve import Settings, create_app  # noqa: E402
from barklite.serve.decoder import Decoder  # noqa: E402
from barklite.serve.worker import Busy, Closed, Speech, Worker  # noqa: E402
from benchmarks.serve import malformed  # noqa: E402
from tests.serving import running, until  # noqa: E402

SHORT = GenerationConfig(max_seconds=0.2)
LONG = " ".join(f"Sentence {i} is here." for i in range(6))
MINE = builders.voice("mine")


@pytest.fixture(scope="module")
def address(tiny):
    settings = Settings(config=SHORT, batch_size=4, max_requests=16, max_voices=3, max_body=200_000)
    with running(create_app(tiny, settings)) as address:
        yield address


@pytest.fixture
def client(address):
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


def npz(voice: Voice, tmp_path) -> bytes:
    voice.save(tmp_path / "voice.npz")
    return (tmp_path / "voice.npz").read_bytes()


def expected(bark: Bark, text: str, voice=None, seed: int = 0, config=SHORT) -> np.ndarray:
    """What the answer to a request must sound like."""
    return np.concatenate([clip.audio for clip in bark.stream(text, voice, seed, config)])


def speak(client, text: str, **body) -> httpx.Response:
    return client.post("/v1/audio/speech", json={"input": text, "response_format": "pcm", "seed": 0, **body})


def metric(client, name: str) -> float:
    return float(re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)[1])


# --- every answer is what the library gives -------------------------------------------------------------


@pytest.mark.parametrize("text", ["Hello there.", LONG], ids=["one", "many"])
@pytest.mark.parametrize("voice", [None, "mine"])
def test_an_answer_is_what_stream_gives(client, tiny, tmp_path, text, voice):
    client.put("/v1/voices/mine", content=npz(MINE, tmp_path)).raise_for_status()
    answer = speak(client, text, voice=voice, seed=7)
    assert answer.status_code == 200, answer.text
    wanted = pcm16(expected(tiny, text, voice and MINE, 7))
    assert np.array_equal(np.frombuffer(answer.content, "<i2"), wanted)
    assert answer.headers["x-seed"] == "7"
    assert answer.headers["x-sentences"] == ("1" if text != LONG else "6")


def test_one_sentence_is_what_generate_gives(client, tiny):
    clip = tiny.generate("Hello   there.", seed=3, config=SHORT)
    assert speak(client, "Hello   there.", seed=3, response_format="wav").content == clip.wav()


def test_a_seed_at_the_end_of_the_range_goes_round(client, tiny):
    answer = speak(client, "One is here. Two is here.", seed=2**32 - 1)
    wanted = pcm16(expected(tiny, "One is here. Two is here.", seed=2**32 - 1))
    assert np.array_equal(np.frombuffer(answer.content, "<i2"), wanted)


def test_without_a_seed_the_answer_names_one(client, tiny):
    first, second = (speak(client, "Hello.", seed=None) for _ in range(2))
    assert first.headers["x-seed"] != second.headers["x-seed"]
    again = speak(client, "Hello.", seed=int(first.headers["x-seed"]))
    assert again.content == first.content != second.content


def test_clients_at_the_same_time_get_what_they_get_alone(client, tiny):
    texts = [f"Client {i} speaks. It has more to say." for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: speak(client, texts[i], seed=i), range(8)))
    for i, answer in enumerate(answers):
        wanted = pcm16(expected(tiny, texts[i], seed=i))
        assert np.array_equal(np.frombuffer(answer.content, "<i2"), wanted), i


def test_a_request_joins_a_batch_that_runs(client, tiny):
    order = []

    def ask(text: str) -> None:
        assert speak(client, text).status_code == 200
        order.append(text)

    long = threading.Thread(target=ask, args=(LONG * 2,))
    long.start()
    until(lambda: metric(client, "barklite_requests") == 1)
    ask("Hello there.")
    long.join()
    assert order == ["Hello there.", LONG * 2]


def test_a_sentence_is_sent_as_soon_as_it_is_ready(client):
    with client.stream("POST", "/v1/audio/speech", json={"input": LONG, "response_format": "pcm"}) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        assert metric(client, "barklite_requests") == 1
        assert sum(1 for _ in pieces) > 1


def test_the_built_in_voices(tmp_path):
    bark = Bark.from_pretrained(device="cpu")
    if not bark.voices:
        pytest.skip("the built-in model is not here")
    first, second = bark.voices[:2]
    with running(create_app(bark)) as address, httpx.Client(base_url=address, timeout=120) as client:
        listed = client.get("/v1/voices").json()["data"]
        assert {"id": first, "from": "model"} in listed
        assert {"id": "alloy", "from": "alias", "of": first} in listed
        wanted = bark.generate("Yes.", first, 1).wav()
        for voice in (first, "alloy", {"id": first}):
            answer = speak(client, "Yes.", voice=voice, seed=1, response_format="wav", model="tts-1")
            assert answer.content == wanted
        assert speak(client, "Yes.", voice=second, seed=1, response_format="wav").content != wanted


# --- formats --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Hello there.", "One is here. Two is here. Three is here."])
@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "opus"])
def test_formats(client, tiny, text, format):
    answer = speak(client, text, response_format=format)
    kind = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg"}[format]
    assert answer.headers["content-type"] == kind
    wanted = pcm16(expected(tiny, text))
    with soundfile.SoundFile(io.BytesIO(answer.content)) as file:
        assert (file.samplerate, file.channels) == (24_000, 1)
        sound = file.read(dtype="int16")
    if format in ("wav", "flac"):
        assert np.array_equal(sound, wanted)
    else:  # a coder's delay in front, and whole frames
        assert 0 <= len(sound) - len(wanted) < 4000
        width = len(sound) + len(wanted)
        alike = np.fft.irfft(np.fft.rfft(sound, width) * np.conj(np.fft.rfft(wanted, width)))
        assert alike.max() / np.linalg.norm(sound) / np.linalg.norm(wanted) > 0.7


def test_mp3_is_what_is_sent_if_nothing_is_said(client):
    answer = client.post("/v1/audio/speech", json={"input": "Hello."})
    assert answer.headers["content-type"] == "audio/mpeg"


def test_scipy_reads_a_wav_of_one_sentence(client):
    rate, sound = scipy.io.wavfile.read(io.BytesIO(speak(client, "Hello.", response_format="wav").content))
    assert rate == 24_000
    assert len(sound) > 4000


def test_events(client, tiny):
    text = "One is here. Two is here."
    answer = speak(client, text, stream_format="sse")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert [event["type"] for event in events] == ["speech.audio.delta"] * 2 + ["speech.audio.done"]
    sound = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert np.array_equal(np.frombuffer(sound, "<i2"), pcm16(expected(tiny, text)))
    clips = list(tiny.stream(text, seed=0, config=SHORT))
    made = sum(len(clip.semantic) for clip in clips)
    read = sum(len(tiny.tokenizer.encode(clip.text)) for clip in clips)
    assert events[-1]["usage"] == dict(input_tokens=read, output_tokens=made, total_tokens=read + made)


# --- what is refused ------------------------------------------------------------------------------------

WRONG = [
    (dict(input=""), 400, "input", "empty"),
    (dict(input=" \n"), 400, "input", "empty"),
    (dict(input="a\0b"), 400, "input", "NUL"),
    (dict(input=7), 400, "input", "string"),
    (dict(input="x" * 4097), 400, "input", "4097 characters, but at most 4096"),
    (dict(model="whisper-1"), 404, "model", "no model 'whisper-1'"),
    (dict(voice="nobody"), 400, "voice", "GET /v1/voices"),
    (dict(voice="/etc/x.npz"), 400, "voice", "GET /v1/voices"),
    (dict(voice={"id": "nobody"}), 400, "voice", "no voice 'nobody'"),
    (dict(voice={"name": "nobody"}), 400, "voice", ""),
    (dict(speed=1.5), 400, "speed", "leave"),
    (dict(speed="fast"), 400, "speed", "number"),
    (dict(instructions="Whisper."), 400, "instructions", "laughs"),
    (dict(response_format="aac"), 400, "response_format", "'flac'"),
    (dict(stream_format="ndjson"), 400, "stream_format", "'sse'"),
    (dict(seed=-1), 400, "seed", "greater"),
    (dict(seed=2**32), 400, "seed", "less"),
    (dict(seed="1"), 400, "seed", "integer"),
    (dict(loudness=3), 400, "loudness", "not permitted"),
]


@pytest.mark.parametrize("body, status, param, words", WRONG)
def test_a_request_that_is_wrong(client, body, status, param, words):
    answer = client.post("/v1/audio/speech", json={"input": "Hello.", **body})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]
    assert "\n" not in error["message"]


def test_a_voice_file_beside_the_server_is_not_read(client, tmp_path):
    MINE.save(tmp_path / "voice.npz")
    for name in (tmp_path / "voice.npz", tmp_path / "voice.npz.npz", "../voice.npz"):
        assert speak(client, "Hello.", voice=str(name)).status_code == 400


@pytest.mark.parametrize("method, path", [("GET", "/nothing"), ("GET", "/v1/audio/speech"), ("GET", "/docs")])
def test_paths_that_are_not_there(client, method, path):
    answer = client.request(method, path)
    assert answer.status_code in (404, 405)
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_malformed_bodies(client):
    for number in range(300):
        body = malformed(number)
        answer = client.post("/v1/audio/speech", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, (number, body[:80], answer.text)
        assert answer.json()["error"]["message"]
    assert client.post("/v1/audio/speech", content=b'{"input": "Hi."}').status_code == 400  # of no type
    assert speak(client, "Hello.").status_code == 200


def test_a_large_body_is_refused_before_it_is_sent(address):
    with connect(address) as early:
        early.sendall(request_bytes("Hello.").replace(b"content-length: ", b"content-length: 99999")[:-5])
        assert b" 413 " in early.recv(1000)


def test_large_bodies(client):
    big = json.dumps({"input": "x" * 300_000}).encode()
    headers = {"content-type": "application/json"}
    for content in (big, iter([big[:150_000], big[150_000:]])):  # with a declared length, and without
        answer = client.post("/v1/audio/speech", content=content, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"
    assert client.put("/v1/voices/big", content=big).status_code == 413


# --- voices ---------------------------------------------------------------------------------------------


def test_uploaded_voices(client, tiny, tmp_path):
    data = npz(replace(MINE, semantic=MINE.semantic[::-1]), tmp_path)
    assert client.put("/v1/voices/mine_2", content=data).status_code == 201
    assert {"id": "mine_2", "from": "uploaded"} in client.get("/v1/voices").json()["data"]
    assert client.put("/v1/voices/a", content=data).status_code == 201
    while client.put(f"/v1/voices/v{time.monotonic_ns()}", content=data).status_code == 201:
        pass
    full = client.put("/v1/voices/one_more", content=data)
    assert "no room" in full.json()["error"]["message"]
    assert client.put("/v1/voices/a", content=data).status_code == 201  # in the place of the other
    names = [one["id"] for one in client.get("/v1/voices").json()["data"] if one["from"] == "uploaded"]
    assert len(names) == 3
    for name in names:
        assert client.delete(f"/v1/voices/{name}").status_code == 204
    assert client.delete("/v1/voices/mine_2").status_code == 404
    assert speak(client, "Hello.", voice="mine_2").status_code == 400


def test_uploads_that_are_no_voices(client, tmp_path):
    good = npz(MINE, tmp_path)
    pickled = io.BytesIO()
    np.savez(pickled, **{f"{k}_prompt": np.array([{}], object) for k in ("semantic", "coarse", "fine")})
    for data in (b"", b"PK", good[:-100], b"\0" * 1000, pickled.getvalue()):
        answer = client.put("/v1/voices/bad", content=data)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_voice"
        assert str(tmp_path) not in answer.text
    for name in ("alloy", "announcer", "a b", "x" * 65, "a.npz"):
        assert client.put(f"/v1/voices/{name}", content=good).status_code == 400


# --- load and clients that misbehave --------------------------------------------------------------------


def test_a_full_server_says_when_to_try_again(tiny):
    settings = Settings(config=SHORT, batch_size=1, max_requests=2)
    with running(create_app(tiny, settings)) as address, httpx.Client(base_url=address, timeout=60) as client:
        with ThreadPoolExecutor(2) as pool:
            two = [pool.submit(speak, client, LONG) for _ in range(2)]
            until(lambda: metric(client, "barklite_requests") == 2)
            answer = speak(client, "Hello.")
            assert answer.status_code == 429
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert answer.json()["error"]["type"] == "rate_limit_error"
            assert [one.result().status_code for one in two] == [200, 200]
        assert speak(client, "Hello.").status_code == 200
        assert metric(client, 'barklite_responses_total{code="429"}') == 1


def request_bytes(text: str, more: str = "") -> bytes:
    body = json.dumps({"input": text, "response_format": "pcm"})
    head = f"POST /v1/audio/speech HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{more}"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


@pytest.mark.parametrize("when", ["before the first sound", "in the middle"])
def test_a_client_that_leaves_frees_its_place(tiny, when):
    settings = Settings(config=replace(SHORT, max_seconds=6.0), batch_size=1, max_requests=1)
    with running(create_app(tiny, settings)) as address, httpx.Client(base_url=address, timeout=60) as client:
        with connect(address) as leaving:
            leaving.sendall(request_bytes(LONG * 10))
            if when == "in the middle":
                assert b"200 OK" in leaving.recv(1000)
            until(lambda: metric(client, "barklite_sentences_running") == 1)
        until(lambda: metric(client, "barklite_requests") == 0, 5)
        until(lambda: metric(client, "barklite_sentences_running") == 0, 5)
        assert metric(client, "barklite_clients_gone_total") == 1
        assert speak(client, "Hello.").status_code == 200
        assert metric(client, "barklite_clients_gone_total") == 1


def test_a_reader_that_stalls_is_cut(tiny):
    settings = Settings(config=SHORT, batch_size=2, patience=0.5, pause=300)  # 14 MB of silence
    with running(create_app(tiny, settings)) as address, httpx.Client(base_url=address, timeout=60) as client:
        with connect(address) as stalling:
            stalling.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalling.sendall(request_bytes(LONG))
            until(lambda: metric(client, "barklite_requests") == 1)
            until(lambda: metric(client, "barklite_requests") == 0, 60)
        assert speak(client, "Hello.").status_code == 200


def test_a_body_that_does_not_come(tiny):
    settings = Settings(config=SHORT, patience=0.3)
    with running(create_app(tiny, settings)) as address, connect(address) as slow:
        slow.sendall(request_bytes("Hello.")[:-5])
        assert b" 408 " in slow.recv(1000)


def test_cut_sockets(address, client):
    for number in range(60):
        with connect(address) as cut:
            cut.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
            data = request_bytes("Hello there.")
            cut.sendall(data[: random.Random(number).randrange(len(data) + 1)])
    until(lambda: metric(client, "barklite_requests") == 0)
    assert speak(client, "Hello.").status_code == 200


def test_an_error_of_the_whole_batch(tiny, monkeypatch):
    with running(create_app(tiny, Settings(config=SHORT))) as address:
        step = Decoder.step
        monkeypatch.setattr(Decoder, "step", lambda self: 1 / 0)
        with httpx.Client(base_url=address, timeout=60) as client:
            answer = speak(client, "Hello.")
            assert answer.status_code == 500
            assert answer.json()["error"]["type"] == "server_error"
            monkeypatch.setattr(Decoder, "step", step)
            assert speak(client, "Hello.").status_code == 200
            assert client.get("/ready").status_code == 200


def test_an_error_of_one_request(tiny):
    decoder = Decoder(tiny, SHORT, 2)
    worker = Worker(lambda: decoder, 4)
    results = {"bad": [], "good": []}
    for name, text in (("bad", "x " * 300), ("good", "Hello.")):  # one has too many tokens
        worker._speeches.append(Speech([text], MINE, 0, results[name].append))
    worker.start()
    until(lambda: results["bad"] and results["good"])
    worker.close()
    assert isinstance(results["bad"][0], ValueError)
    assert np.array_equal(results["good"][0].audio, tiny.generate("Hello.", MINE, 0, SHORT).audio)


# --- the decoder and the worker by themselves -----------------------------------------------------------


def test_who_leaves_does_not_change_who_stays(tiny):
    decoder, results = Decoder(tiny, SHORT, 4), {}
    for i in range(7):
        decoder.submit(i, Request(f"Text {i}.", MINE if i % 2 else None, i))
    for turn in range(10_000):
        decoder.cancel({3: 6, 6: 0, 25: 2}.get(turn))  # waiting, in the semantic, in the coarse model
        results.update(decoder.step())
        if not len(decoder):
            break
    assert set(results) == {1, 3, 4, 5}
    for i, clip in results.items():
        alone = tiny.generate(f"Text {i}.", MINE if i % 2 else None, i, SHORT)
        assert np.array_equal(clip.codes, alone.codes)
        assert np.array_equal(clip.audio, alone.audio)


def test_a_step_is_short(tiny):
    """So a request does not wait for the end of another to join it."""
    decoder, steps = Decoder(tiny, SHORT, 4), 1
    decoder.submit("a", Request("Hello.", None, 0))
    while not decoder.step():
        steps += 1
    assert steps > 20


def speech(n: int, voice=None, **state) -> Speech:
    return Speech(["Hello."] * n, voice, 0, lambda result: None, **state)


def test_the_first_sentence_goes_alone_and_no_one_runs_ahead():
    assert speech(3).can_begin(8)
    assert not speech(3, MINE, begun=1, running={0}).can_begin(8)  # to be heard soon
    assert speech(3, MINE, begun=1, delivered=1, taken=1).can_begin(8)
    assert speech(4, MINE, begun=2, running={1}, delivered=1, taken=1).can_begin(8)
    assert not speech(4, begun=2, running={1}, delivered=1, taken=1).can_begin(8)  # no voice so far
    assert not speech(3, begun=3, delivered=3, taken=3).can_begin(8)
    assert not speech(30, MINE, begun=8, delivered=8).can_begin(8)  # nobody listens
    assert speech(30, MINE, begun=8, delivered=8, taken=1).can_begin(8)


def test_a_long_request_leaves_slots_to_others(tiny):
    worker = Worker(lambda: Decoder(tiny, SHORT, 4), 4)
    long = speech(20, MINE, begun=3, running={1, 2}, delivered=1, taken=1)
    late = speech(1)
    worker._speeches += [long, late]
    assert worker._next() is late


def test_requests_take_turns(tiny):
    worker = Worker(lambda: Decoder(tiny, SHORT, 1), 4)
    worker._speeches += [speech(3), speech(3)]
    order = []
    for _ in range(4):
        turn = worker._next()
        order.append([id(turn), turn.begun])
        worker._begin(turn)
        turn.running.clear()
        turn.taken += 1
    first, second = order[0][0], order[1][0]
    assert first != second
    assert order == [[first, 0], [second, 0], [first, 1], [second, 1]]


def test_clips_that_are_done_early_wait_for_their_turn(tiny):
    worker, results = Worker(lambda: Decoder(tiny, SHORT, 4), 4), []
    clips = [tiny.generate("Hello.", seed=seed, config=SHORT) for seed in range(3)]
    one = Speech(["Hello."] * 3, MINE, 0, results.append, begun=3, running={0, 1, 2})
    worker._speeches.append(one)
    for i, heard in ((2, 0), (0, 1), (1, 3)):
        worker._done(one, i, clips[i])
        assert len(results) == heard
    assert [clip.seed for clip in results] == [0, 1, 2]
    assert worker.counts() == (0, 0, 0)


def test_what_is_cancelled_is_not_spoken_to_its_end(tiny):
    worker, spoken = Worker(lambda: Decoder(tiny, replace(SHORT, max_seconds=12.0), 4), 4), []
    worker.finished = spoken.append
    worker.start()
    speeches = [speech(1), speech(1)]
    for one in speeches:
        worker.submit(one)
    until(lambda: len(worker.decoder) == 2)
    worker.cancel(speeches[0])
    until(lambda: len(worker.decoder) == 1)
    assert not spoken
    worker.cancel(speeches[1])
    until(lambda: len(worker.decoder) == 0)
    worker.close()
    assert not spoken


def test_a_worker_that_dies_leaves_nobody_waiting(tiny, monkeypatch):
    worker, results = Worker(lambda: Decoder(tiny, SHORT, 1), 4), []
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(worker, "_begin", lambda speech: 1 / 0)
    worker.start()
    worker.submit(Speech(["Hello."], None, 0, results.append))
    until(lambda: not worker._thread.is_alive())
    assert isinstance(results[0], Closed)
    assert not worker.alive
    with pytest.raises(Closed):
        worker.submit(speech(1))


def test_a_worker_that_is_full(tiny):
    worker = Worker(lambda: Decoder(tiny, SHORT, 1), 1)
    worker._thread = threading.current_thread()  # alive, and does nothing
    worker.submit(speech(5))
    worker._pace = 2.5
    with pytest.raises(Busy, match="13 s"):
        worker.submit(speech(1))


def test_no_offload(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "offload", True)
    with pytest.raises(ValueError, match="offload"):
        create_app(tiny)


# --- around it ------------------------------------------------------------------------------------------


def test_models_health_and_metrics(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"]) == ("barklite", "model")
    assert client.get("/v1/models/barklite").json() == model
    assert client.get("/v1/models/tts-1").json() == model
    assert client.get("/v1/models/other").status_code == 404
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    before = metric(client, "barklite_audio_seconds_total")
    seconds = len(speak(client, "Hello.").content) / 48_000
    assert metric(client, "barklite_audio_seconds_total") - before == pytest.approx(seconds)
    assert metric(client, "barklite_first_audio_seconds_count") >= 1


def test_a_key(tiny):
    with running(create_app(tiny, Settings(config=SHORT, api_key="sésame"))) as address:
        with httpx.Client(base_url=address, timeout=60) as client:
            for headers in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": "Basic sésame".encode()},
            ):
                for path in ("/v1/models", "/v1/voices", "/metrics", "/openapi.json", "/nothing"):
                    answer = client.get(path, headers=headers)
                    assert answer.status_code == 401
                    assert answer.json()["error"]["code"] == "invalid_api_key"
                assert client.post("/v1/audio/speech", json={"input": "Hi."}).status_code == 401
            for path in ("/", "/health", "/ready"):
                assert client.get(path).status_code == 200
        key = {"authorization": "Bearer sésame".encode()}
        with httpx.Client(base_url=address, timeout=60, headers=key) as client:
            assert client.get("/v1/models").status_code == 200


def test_other_sites(tiny, client):
    asked = {"origin": "https://example.org", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in client.options("/v1/audio/speech", headers=asked).headers
    assert "access-control-allow-origin" not in client.get("/v1/models", headers=asked).headers
    settings = Settings(config=SHORT, cors=("https://example.org",), api_key="k", hosts=("127.0.0.1",))
    with running(create_app(tiny, settings)) as address, httpx.Client(base_url=address) as client:
        allowed = client.options("/v1/audio/speech", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        other = client.options("/v1/audio/speech", headers={**asked, "origin": "https://example.com"})
        assert "access-control-allow-origin" not in other.headers
        rebound = client.get("/health", headers={"host": "example.com"})
        assert rebound.status_code == 400


def test_the_page(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    assert not re.findall(r"(?:src|href)=\"(?!data:)|https?://|url\(", answer.text)  # nothing from elsewhere


def test_help_waits_for_nothing():
    code = "import sys, barklite.__main__ as m\ntry: m.main(['serve', '-h'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'fastapi', 'uvicorn'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--api-key" in done.stdout


def test_without_the_extra(native):
    code = "import sys; sys.modules['uvicorn'] = None\nimport barklite.__main__ as m\n"
    code += f"sys.exit(m.main(['serve', '-m', {str(native)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == 'barklite: the server needs more packages: pip install "barklite[serve]"\n'


@pytest.fixture
def command(native, tmp_path):
    """`barklite serve` as a process of its own: it and its address."""
    command = [
        sys.executable,
        "-m",
        "barklite",
        "serve",
        "-m",
        str(native),
        "--port",
        "0",
        "--host",
        "localhost",
    ]
    environment = dict(os.environ, BARKLITE_API_KEY="key", PYTHONPATH=os.pathsep.join(sys.path))
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    try:
        for line in process.stderr:
            if found := re.search(r"http://\S+", line):
                break
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield process, found[0]
    finally:
        process.kill()
        process.wait()


def test_told_to_end_it_finishes_what_it_began(command, native, tmp_path):
    process, address = command
    headers = {"authorization": "Bearer key"}
    body = {"input": "One is here. Two is here. Three is here.", "response_format": "pcm", "seed": 5}
    with httpx.stream("POST", f"{address}/v1/audio/speech", json=body, headers=headers, timeout=60) as answer:
        pieces = answer.iter_raw()
        sound = next(pieces)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{address}/health")
        sound += b"".join(pieces)
    assert process.wait(30) == 0
    bark = Bark.from_pretrained(native, device="cpu")
    assert sound == pcm16(expected(bark, body["input"], seed=5, config=None)).tobytes()
    assert list(tmp_path.iterdir()) == []  # nothing is written


def test_the_openai_client(address, tiny, tmp_path):
    openai = pytest.importorskip("openai", reason="the client program, openai, is not installed")
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)
    httpx.put(f"{address}/v1/voices/guest", content=npz(MINE, tmp_path)).raise_for_status()
    text, options = "One is here. Two is here.", dict(model="gpt-4o-mini-tts", extra_body={"seed": 2})
    wanted = pcm16(expected(tiny, text, MINE, 2)).tobytes()
    speech = client.audio.speech
    assert speech.create(input=text, voice="guest", response_format="pcm", **options).content == wanted
    with speech.with_streaming_response.create(
        input=text, voice={"id": "guest"}, response_format="pcm", speed=1.0, **options
    ) as answer:
        answer.stream_to_file(tmp_path / "sound.pcm")
    assert (tmp_path / "sound.pcm").read_bytes() == wanted
    assert [model.id for model in client.models.list()] == ["barklite"]
    assert client.models.retrieve("barklite").owned_by == "barklite"
    with pytest.raises(openai.BadRequestError, match="speed") as caught:
        speech.create(input=text, voice="guest", speed=2, **options)
    assert caught.value.param == "speed"
    with pytest.raises(openai.NotFoundError, match="no model"):
        speech.create(input=text, voice="guest", model="other")


def test_the_load_test(native, capsys):
    from benchmarks import serve

    options = ["--clients", "3", "--seconds", "0.5", "--requests", "2", "--hostile", "--malformed", "20"]
    serve.main(["-m", str(native), *options])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    (run,) = result["clients"].values()
    assert set(run["counts"]) == {"right", "cut", "stalled", "malformed, refused"}
    assert run["counts"]["malformed, refused"] == 20
    assert run["answers"] == run["counts"]["right"] >= 3

"""Corpora: rows in, a sound and a line a row out, whatever happens on the way."""

import fcntl
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile

from barklite import Clip, GenerationConfig, Request, corpus
from barklite.__main__ import main
from barklite.corpus import Shard, Synthesizer, jsonl, speak
from barklite.decode.sampling import derived_seed
from barklite.storage import atomic
from tests import builders

SHORT = GenerationConfig(max_seconds=0.3)


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def command(native, capfd):
    """Run `barklite -i rows.jsonl -o out` with more arguments: (exit status, stderr)."""

    def run(*arguments):
        options = ["-i", "rows.jsonl", "-o", "out", "-m", str(native), "--device", "cpu"]
        status = main([*options, "--max-seconds", "0.3", *map(str, arguments)])
        return status, capfd.readouterr().err

    return run


def mock(requests, ahead=3):
    """Stands for `Bark.generate_many`: reads some requests ahead, answers out of order, in no time."""
    waiting = []
    for i, request in itertools.chain(enumerate(requests), [(None, None)] * ahead):
        waiting.append((i, request))
        if len(waiting) >= ahead:
            i, request = waiting.pop(len(waiting) // 2 if request else 0)
            if i is not None:
                yield i, mock_clip(request)


def mock_clip(request):
    if "unspeakable" in request.text:
        return ValueError("this cannot be spoken")
    noise = np.random.default_rng([request.seed, *request.text.encode()]).uniform(-1, 1, 100)
    tokens = np.zeros(5, np.int64), np.zeros((8, 1), np.int64)
    return Clip(
        noise.astype(np.float32), 24_000, *tokens, request.text, request.seed, "eos", {"semantic": 1.0}
    )


def refuse(requests):
    raise AssertionError("nothing was to be spoken")


def write(*rows, name="rows.jsonl"):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    Path(name).write_bytes(b"".join(line + b"\n" for line in lines))


def lines(pattern="results*.jsonl", outdir="out"):
    """Every line of results, each of which must be whole."""
    files = sorted(Path(outdir).glob(pattern))
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines(keepends=True)]


def state(outdir="out"):
    """All that there is, but for what differs between two runs: the times, the order, the split."""
    records = [{**record, "timings": None} for record in lines(outdir=outdir)]
    sounds = {path.name: path.read_bytes() for path in Path(outdir).iterdir() if path.suffix != ".jsonl"}
    assert all(scipy.io.wavfile.read(Path(outdir) / name)[0] == 24_000 for name in sounds)  # no leftovers
    return sorted(records, key=lambda record: record["line"]), sounds


ROWS = [{"id": f"row-{i}", "text": f"Text number {i}."} for i in range(12)]


# --- rows to files --------------------------------------------------------------------------------------


def test_a_corpus(command, tiny):
    builders.voice("mine").save("mine.npz")
    builders.voice("ours").save("ours.npz")
    write(
        {"id": "a", "text": "Hello.", "voice": "mine.npz", "seed": 7},
        {"id": 5, "text": "Höllo."},
        {"text": "Hi"},
    )
    status, err = command("--voice", "ours.npz", "--seed", 3)
    assert status == 0
    assert err == (
        "out: 3 rows spoken, 0.9 s of audio; 3 reached the length limit; "
        "3 had samples clipped to [-1, 1] (--float keeps them)\n"
    )
    assert sorted(os.listdir("out")) == ["3.wav", "5.wav", "a.wav", "results.jsonl"]
    first, second, third = sorted(lines(), key=lambda record: record["line"])
    assert list(first) == list(jsonl.FIELDS)
    assert set(first.pop("timings")) == {"semantic", "coarse", "fine", "codec"}
    assert first == {
        "id": "a", "text": "Hello.", "voice": "mine.npz", "seed": 7, "line": 1, "file": "a.wav",
        "duration": 22 * 320 / 24_000, "finish_reason": "length", "error": None,
    }  # fmt: skip
    assert (second["id"], second["seed"], second["voice"]) == (5, derived_seed(3, 5), "ours.npz")
    assert (third["id"], third["seed"], third["file"]) == (3, derived_seed(3, 3), "3.wav")
    assert "Höllo." in Path("out/results.jsonl").read_text(encoding="utf-8")
    for record in (first, second, third):
        clip = tiny.generate(record["text"], record["voice"], record["seed"], SHORT)
        assert Path("out", record["file"]).read_bytes() == clip.wav()


def test_options_reach_the_generation(command, monkeypatch):
    from barklite import Bark

    seen = []

    def generate_many(self, requests, **options):
        seen.append(options)
        return mock(requests)

    monkeypatch.setattr(Bark, "generate_many", generate_many)
    write(*ROWS[:2])
    assert command("--batch-size", 16, "--retries", 2, "--top-k", 9, "--float", "-q") == (0, "")
    assert (seen[0]["batch_size"], seen[0]["retries"], seen[0]["config"].coarse.top_k) == (16, 2, 9)
    assert scipy.io.wavfile.read("out/row-0.wav")[1].dtype == np.float32


def test_a_second_start_speaks_only_what_is_not_done(command, monkeypatch):
    write(*ROWS[:3])
    assert speak(mock, "rows.jsonl", "out").spoken == 3
    before = state()
    done = speak(refuse, "rows.jsonl", "out")
    assert (done.spoken, done.skipped, done.failed) == (0, 3, 0)
    assert state() == before
    write(ROWS[5], *ROWS[:4])
    done = speak(mock, "rows.jsonl", "out")
    assert (done.spoken, done.skipped) == (2, 3)
    assert sorted(record["id"] for record in lines()) == ["row-0", "row-1", "row-2", "row-3", "row-5"]
    monkeypatch.setattr("barklite.Bark.from_pretrained", lambda *a, **k: refuse(None))
    assert command() == (0, "out: 0 rows spoken, 0.0 s of audio; 5 were already done\n")


def test_a_sound_that_is_gone_is_made_again():
    write(*ROWS[:3])
    speak(mock, "rows.jsonl", "out")
    before = state()
    os.unlink("out/row-1.wav")
    assert speak(mock, "rows.jsonl", "out").spoken == 1
    assert state() == before


def test_force_begins_anew():
    write(*ROWS[:3])
    speak(mock, "rows.jsonl", "out")
    Path("out/mine.wav").write_bytes(b"mine")
    write(*ROWS[1:4])
    assert speak(mock, "rows.jsonl", "out", seed=1, force=True).spoken == 3
    os.unlink("out/mine.wav")
    after = state()
    speak(mock, "rows.jsonl", "fresh", seed=1)
    assert after == state("fresh")


WRONG = [
    (b"{", "not JSON: Expecting property name enclosed in double quotes at column 2"),
    (b'"text"', 'not an object such as {"id": "a", "text": "Hello."}'),
    (b"[" * 100_000, "not a row: it is nested too deeply"),
    (b'{"id": "x1", "text": "\xff"}', "not UTF-8 text: invalid start byte at byte 22"),
    ({"id": "x2"}, "there is no text"),
    ({"id": "x3", "text": None}, "there is no text"),
    ({"id": "x4", "text": 5}, "text must be a string, not 5"),
    ({"id": "x5", "text": "a", "voise": "b"}, "unknown key 'voise'; there are id, text, voice, seed"),
    ({"id": "x6", "text": "a", "voice": 1}, "voice must be a string, not 1"),
    ({"id": "x7", "text": "a", "seed": 1.5}, "seed must be a whole number, not 1.5"),
    ({"id": "x8", "text": "a", "seed": True}, "seed must be a whole number, not True"),
    ({"id": "x9", "text": "a", "seed": -1}, "seed is -1; it must be a whole number from 0 to 4294967295"),
    ({"id": "", "text": "a"}, "id must be a string or a whole number, not ''"),
    ({"id": 1.5, "text": "a"}, "id must be a string or a whole number, not 1.5"),
    ({"id": [1], "text": "a"}, "id must be a string or a whole number, not [1]"),
    ({"id": "row-0", "text": "a"}, "the id 'row-0' is also on an earlier line"),
    ({"id": "x10", "text": "unspeakable"}, "this cannot be spoken"),
    (b'{"id": "x11", "text": "' + b"a" * 2**20 + b'"}', "longer than 1,048,576 bytes"),
    (b'{"id": "x12", "text": "unspeakable \\ud800"}', "this cannot be spoken"),
]


def test_rows_that_are_wrong():
    """Each has its error, and one line also after a second start; the others are spoken."""
    write(ROWS[0], *(line for line, _ in WRONG), b"  \r", ROWS[1])
    for skipped in (0, 2):
        done = speak(mock, "rows.jsonl", "out")
        assert (done.spoken, done.skipped, done.failed) == (2 - skipped, skipped, len(WRONG))
        records, sounds = state()
        assert [record["line"] for record in records] == [*range(1, 21), 22]
        assert set(sounds) == {"row-0.wav", "row-1.wav"}
        for number, (_, message) in enumerate(WRONG, start=2):
            assert records[number - 1]["error"] == f"line {number}: {message}"
            assert records[number - 1]["file"] is None
        named = [record["id"] for record in records if str(record["id"]).startswith("x")]
        assert named == [f"x{i}" for i in (*range(2, 11), 12)]


def test_rows_that_were_wrong():
    write(ROWS[0], {"id": "b", "text": "unspeakable"}, b"nonsense")
    assert speak(mock, "rows.jsonl", "out").failed == 2
    write(ROWS[0], {"id": "b", "text": "fine"}, ROWS[1])
    done = speak(mock, "rows.jsonl", "out")
    assert (done.spoken, done.skipped, done.failed) == (2, 1, 0)
    assert sorted((record["id"], record["error"]) for record in lines()) == [
        ("b", None), ("row-0", None), ("row-1", None),
    ]  # fmt: skip


def test_failures_on_the_command_line(command):
    write({"text": "Hello."}, {"text": "Hello " * 300}, {"text": " "}, {"text": "a", "voice": "none.npz"})
    for options in ((), ("-q",)):
        status, err = command(*options, "-f", "--float")
        assert status == 1
        made = "out: 1 row spoken, 0.3 s of audio"
        assert err == f"{made}; 3 failed: see out/results.jsonl; 1 reached the length limit\n"
    errors = [record["error"] for record in state()[0]]
    assert errors[0] is None
    assert "has 300 tokens" in errors[1]
    assert errors[2] == "line 3: the text is empty: there is nothing to speak"
    assert errors[3] == "line 4: there is no voice file none.npz"


def test_a_mark_of_byte_order():
    write(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode() + b"\r")
    assert speak(mock, "rows.jsonl", "out").spoken == 1


def test_names_of_files():
    ids = [
        "a",
        "A",
        "LJ001-0001",
        "b.c_d",
        "7",
        "..",
        ".",
        "../up",
        "/etc/x",
        "a/b",
        "a\\b",
        ".hid",
        "-rf",
        "con",
    ]
    ids += [
        "NUL.txt",
        "x" * 100,
        "x" * 101,
        "x" * 5000,
        "日本語",
        "日本",
        "é",
        "e\u0301",
        "É",
        "a b",
        "a-b",
        "*",
    ]
    ids += [
        "new\nline",
        "a\x00",
        "b-0123456789ab",
        "ß",
        "ss",
        "İ",
        "i",
        "I",
        "results",
        "a.wav",
        "\ud800",
        " ",
    ]
    write(*({"id": id, "text": "Hello."} for id in ids))
    assert speak(mock, "rows.jsonl", "out").failed == 0
    records, sounds = state()
    assert [record["id"] for record in records] == ids
    assert sorted(record["file"] for record in records) == sorted(sounds)
    assert len({name.casefold() for name in sounds}) == len(ids)
    assert all(len(name) < 128 and name.isascii() and name[0].isalnum() for name in sounds)
    plain = {"a", "LJ001-0001", "b.c_d", "7", "x" * 100, "a-b", "ss", "i", "results", "a.wav"}
    assert {id for id, record in zip(ids, records, strict=True) if record["file"] == f"{id}.wav"} == plain
    assert sorted(os.listdir()) == ["out", "rows.jsonl"]
    assert speak(refuse, "rows.jsonl", "out").skipped == len(ids)


def test_numbers_and_strings_are_one_id():
    write({"id": 7, "text": "a"}, {"id": "7", "text": "b"}, {"text": "c"}, {"id": 3, "text": "d"})
    done = speak(mock, "rows.jsonl", "out")
    assert (done.spoken, done.failed) == (2, 2)


def test_many_names():
    """More than are kept as they come."""
    names = jsonl._Names()
    assert all(names.add(str(i)) for i in range(150_000))
    assert len(names.sorted) > 2**17
    assert not any(names.add(str(i)) for i in range(0, 150_000, 997))
    assert all(str(i) in names for i in range(0, 150_000, 997))
    assert not any(f"{i}." in names for i in range(1000))


def test_rows_are_read_as_they_are_needed():
    """Neither a long file nor a long line is ever in memory."""
    with open("rows.jsonl", "wb") as file:
        file.write(b"x" * 2**25 + b"\n")
        for i in range(200_000):
            file.write(b'{"id": "row-%d", "text": "%s"}\n' % (i, b"a" * 100))

    def some(requests):
        requests = iter(requests)
        for i in range(5):
            yield i, mock_clip(next(requests))
        read.append(next(requests).text)
        raise KeyboardInterrupt

    read = []
    tracemalloc.start()
    with pytest.raises(KeyboardInterrupt):
        speak(some, "rows.jsonl", "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(read) == 1
    assert peak < 2**23
    assert sorted(record["line"] for record in lines()) == [1, 2, 3, 4, 5, 6]


def test_a_pipe():
    """It can be read once, so nobody counts its lines; rows are spoken while others are still to come."""
    os.mkfifo("rows.jsonl")
    spoken = threading.Event()

    def feed():
        with open("rows.jsonl", "w") as file:
            file.write(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1]) + "\n")
            file.flush()
            assert spoken.wait(20)
            file.write(json.dumps(ROWS[2]))  # no end of line

    def one_by_one(requests):
        for i, request in enumerate(requests):
            spoken.set()
            yield i, mock_clip(request)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    assert speak(one_by_one, "rows.jsonl", "out").spoken == 3
    thread.join(20)
    assert [record["id"] for record in state()[0]] == ["row-0", "row-1", "row-2"]


def test_progress_counts_rows(capfd, monkeypatch):
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    write(*ROWS[:3], b"wrong")
    speak(mock, "rows.jsonl", "out")
    write(*ROWS[:5], b"wrong")
    speak(mock, "rows.jsonl", "out", progress=True)
    err = capfd.readouterr().err
    assert "rows: 100%" in err
    assert "6/6" in err
    speak(mock, "rows.jsonl", "out", progress=None)  # only on a terminal
    assert capfd.readouterr().err == ""


# --- mistakes -------------------------------------------------------------------------------------------

BAD = [
    (["-i", "none.jsonl", "-o", "out"], "none.jsonl: no such file"),
    (["-i", "folder.jsonl", "-o", "out"], "folder.jsonl: is a directory"),
    (["-i", "rows.jsonl"], "give a directory with -o"),
    (["-i", "rows.jsonl", "-o", "rows.jsonl"], "rows.jsonl is a file: give a directory"),
    (["-i", "rows.jsonl", "-o", "a.wav"], "a directory of WAV files, not a.wav"),
    (["-i", "rows.jsonl", "-o", "music"], "music has WAV files but no results"),
    (["-i", "rows.jsonl", "-o", "out", "--save-voice", "v.npz"], "--save-voice saves the voice of one text"),
    (["-i", "rows.jsonl", "-o", "out", "--shard", "3/2"], "shard is '3/2'; it must be i/n"),
    (["-i", "rows.jsonl", "-o", "out", "--shard", "0/4"], "shard is '0/4'"),
    (["-i", "rows.jsonl", "-o", "out", "--shard", "a"], "shard is 'a'"),
    (["-i", "rows.jsonl", "-o", "out", "--shard", "1/2/3"], "shard is '1/2/3'"),
    (["-i", "rows.jsonl", "-o", "out", "--seed", "-1"], "seed is -1"),
    (["-i", "rows.jsonl", "-o", "out", "--top-p", "2"], "top_p is 2"),
    (
        ["-i", "rows.jsonl", "-o", "out", "--batch-size", "0"],
        "batch_size is 0; it must be a whole number",
    ),
    (
        ["-i", "rows.jsonl", "-o", "out", "--retries", "-1"],
        "retries is -1; it must be a whole number of at least 0",
    ),
    (["Hello", "--shard", "1/2"], "--shard is for a corpus"),
    (["-i", "book.txt", "--shard", "1/2"], "--shard is for a corpus"),
]


@pytest.mark.parametrize(
    "arguments, message", BAD, ids=lambda value: "" if isinstance(value, str) else value[-1]
)
def test_mistakes_get_one_line(arguments, message, capfd, monkeypatch):
    monkeypatch.setattr("barklite.Bark.from_pretrained", lambda *a, **k: refuse(None))
    write(*ROWS[:2])
    os.mkdir("folder.jsonl")
    os.mkdir("music")
    Path("music/song.WAV").write_bytes(b"song")
    before = sorted(os.listdir())
    assert main(arguments) == 1
    err = capfd.readouterr().err
    assert err.startswith("barklite: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert sorted(os.listdir()) == before


def test_results_are_no_source(capfd):
    write(*ROWS[:2])
    speak(mock, "rows.jsonl", "out")
    before = state()
    assert main(["-i", "out/results.jsonl", "-o", "out"]) == 1
    assert "is a results file" in capfd.readouterr().err
    assert state() == before


def test_a_bad_seed_is_no_error_of_the_rows():
    write(*ROWS[:2])
    with pytest.raises(ValueError, match="seed is -1"):
        speak(refuse, "rows.jsonl", "out", seed=-1)
    assert not os.path.exists("out")


# --- parts of a corpus ----------------------------------------------------------------------------------


def test_shards_are_the_whole():
    write(*ROWS, {"text": "a"}, b"wrong", {"id": "row-3", "text": "again"}, {"id": "ROW-4", "text": "twin"})
    speak(mock, "rows.jsonl", "whole")
    parts = [speak(mock, "rows.jsonl", "out", shard=Shard(i, 4)) for i in (1, 2, 3, 4)]
    assert sum(part.spoken for part in parts) == 14
    assert sum(part.failed for part in parts) == 2
    assert sum(part.spoken > 0 for part in parts) > 1
    assert sorted(path.name for path in Path("out").glob("*.jsonl")) == [
        f"results-{i}-of-4.jsonl" for i in (1, 2, 3, 4)
    ]
    assert state() == state("whole")


def test_other_shards_go_on_where_these_ended():
    """Rows that another split has done are skipped, and those that it failed have one line in the end."""
    rows = [*ROWS, b"wrong", {"id": "bad", "text": "unspeakable"}]
    write(*rows)
    for i in (1, 2, 3):
        speak(mock, "rows.jsonl", "out", shard=Shard(i, 3))
    extra = {"id": "new", "text": "New."}
    write(*rows[:-1], {"id": "bad", "text": "mended"}, extra)
    parts = [speak(mock, "rows.jsonl", "out", shard=Shard(i, 2)) for i in (1, 2)]
    assert [sum(getattr(part, key) for part in parts) for key in ("spoken", "skipped", "failed")] == [
        2,
        12,
        1,
    ]
    assert len(lines()) == 15
    done = speak(mock, "rows.jsonl", "out")
    assert (done.spoken, done.skipped, done.failed) == (0, 14, 1)
    speak(mock, "rows.jsonl", "whole")
    assert state() == state("whole")


def test_force_is_for_the_rows_of_its_shard():
    write(*ROWS)
    speak(mock, "rows.jsonl", "out")
    before = state()
    done = speak(mock, "rows.jsonl", "out", shard=Shard(2, 3), seed=1, force=True)
    assert 0 < done.spoken < 12
    after = state()
    assert len(after[0]) == len(after[1]) == 12
    assert sum(record not in before[0] for record in after[0]) == done.spoken


def test_shards_run_at_the_same_time():
    """Four processes in one directory, over the leftovers of a run of another split."""
    rows = [{"id": i, "text": f"Text {i}."} for i in range(60)]
    write(*rows[:20], *({"id": i, "text": "unspeakable"} for i in range(20, 60)))
    speak(mock, "rows.jsonl", "out")
    write(*rows)
    children = [fork(lambda i=i: speak(slow, "rows.jsonl", "out", shard=Shard(i, 4))) for i in (1, 2, 3, 4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    speak(mock, "rows.jsonl", "whole")
    assert state() == state("whole")


def slow(requests):
    for answer in mock(requests):
        time.sleep(0.002)
        yield answer


def test_one_process_a_shard(monkeypatch):
    """A second one on the same results, or on another split, would speak the same rows: it is refused."""
    monkeypatch.setattr(jsonl, "PATIENCE", 0.2)
    write(*ROWS[:3])

    def meanwhile(requests):
        for shard in (Shard(), Shard(1, 2)):
            with pytest.raises(ValueError, match=r"results.jsonl is being written by another barklite"):
                speak(refuse, "rows.jsonl", "out", shard=shard)
        yield from mock(requests)

    assert speak(meanwhile, "rows.jsonl", "out").spoken == 3
    assert len(state()[0]) == 3


def test_results_replaced_while_we_wait_for_them(monkeypatch):
    """A lock on a file that is no longer there keeps nobody out."""
    flock, calls = fcntl.flock, itertools.count()

    def replacing(file, flags):
        flock(file, flags)
        if (call := next(calls)) < 2:
            Path("new").write_bytes(b"new")
            os.replace("new", "results.jsonl") if call else os.unlink("results.jsonl")

    monkeypatch.setattr(fcntl, "flock", replacing)
    with jsonl._locked(Path("results.jsonl")) as file:
        assert os.path.samestat(os.fstat(file.fileno()), os.stat("results.jsonl"))
    assert next(calls) == 3


def test_a_file_system_without_locks(monkeypatch):
    def flock(file, flags):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    write(*ROWS[:3], b"wrong")
    for spoken in (3, 0):
        assert speak(mock, "rows.jsonl", "out").spoken == spoken
        assert len(state()[0]) == 4


# --- killed ---------------------------------------------------------------------------------------------


def fork(work):
    """A process of its own that does `work`: exit status 0, or 1 if it raises."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def killed_at(moment, monkeypatch):
    """From now on the process dies at that call of what changes files, having done half of a write."""
    calls = itertools.count()

    def dying(function, half=None):
        def call(*arguments, **options):
            if next(calls) == moment:
                if half:
                    half(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    def half(file):  # what was to reach the disk does so in part
        os.ftruncate(file.fileno(), max(0, os.fstat(file.fileno()).st_size - 30))

    sync = jsonl._sync

    def flushed(file):
        file.flush()
        sync(file)

    def torn(file):
        file.flush()
        half(file)

    monkeypatch.setattr(jsonl, "_sync", dying(flushed, torn))
    monkeypatch.setattr(atomic, "sync", dying(atomic.sync))
    monkeypatch.setattr(os, "replace", dying(os.replace))
    monkeypatch.setattr(Path, "unlink", dying(Path.unlink))
    monkeypatch.setattr(jsonl, "_locked", dying(jsonl._locked))


def test_killed_at_every_call(monkeypatch):
    """Wherever it dies, the next start finishes, and there is what an undisturbed run would have left.

    The start that dies is itself a second one, with errors to try again, a torn line and another split.
    """
    rows = [*ROWS[:5], b"wrong"]
    write(*ROWS[:2], {"id": "row-2", "text": "unspeakable"}, name="first.jsonl")
    write(*rows)
    speak(mock, "rows.jsonl", "whole")
    deaths = 0
    for moment in range(1000):
        outdir = f"out-{moment}"
        for i in (1, 2):
            speak(mock, "first.jsonl", outdir, shard=Shard(i, 2))
        write(
            {"id": "row-0", "file": "row-0.wav", "line": 1, "error": None},
            b'{"id": "row-1", "te',
            name="torn",
        )
        Path(outdir, "results.jsonl").write_bytes(Path("torn").read_bytes()[:-1])

        def work(moment=moment, outdir=outdir):
            with monkeypatch.context() as patch:
                killed_at(moment, patch)
                speak(mock, "rows.jsonl", outdir)

        status = os.waitpid(fork(work), 0)[1]
        assert status in (0, signal.SIGKILL)
        finished = len([True for line in whole_lines(outdir) if line["error"] is None])
        deaths += status == signal.SIGKILL
        atomic.sweep.cache_clear()  # as in a new process
        done = speak(mock, "rows.jsonl", outdir)
        assert done.skipped == finished  # nothing that was finished is lost
        records, sounds = state(outdir)
        assert [record["id"] for record in records] == ["row-0", "row-1", "row-2", "row-3", "row-4", None]
        assert sounds == state("whole")[1]
        if status == 0:
            break
    assert deaths > 20


def whole_lines(outdir):
    found = {}
    for path in Path(outdir).glob("results*.jsonl"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            record = json.loads(line)
            found[record["id"]] = record
    return found.values()


def test_killed_at_any_moment(native, command):
    """The real command, killed again and again, while it starts and while it speaks."""
    write(*({"id": i, "text": f"Text number {i}."} for i in range(48)))
    run = [
        sys.executable,
        "-m",
        "barklite",
        "-i",
        "rows.jsonl",
        "-o",
        "killed",
        "-m",
        native,
        "--device",
        "cpu",
    ]
    deaths, counts = 0, []
    for wait in (None, 0.0, 0.021, 0.013, 0.034):
        process = subprocess.Popen([*run, "--max-seconds", "0.3", "-q"], stderr=subprocess.PIPE)
        before = Path("killed/results.jsonl").stat().st_size if counts else 0
        patience = time.monotonic() + 60
        while wait is not None and process.poll() is None and time.monotonic() < patience:
            if os.path.exists("killed/results.jsonl") and os.path.getsize("killed/results.jsonl") > before:
                break  # it has spoken a row
            time.sleep(0.002)
        time.sleep(0.5 if wait is None else wait)
        process.kill()
        deaths += process.wait(timeout=60) == -signal.SIGKILL
        process.stderr.close()
        if os.path.exists("killed/results.jsonl"):
            counts.append(len(Path("killed/results.jsonl").read_bytes().split(b"\n")) - 1)
    assert deaths > 2
    assert counts == sorted(counts)
    assert subprocess.run([*run, "--max-seconds", "0.3", "-q"], timeout=120).returncode == 0
    command()
    assert state("killed") == state("out")


def test_an_interrupt_breaks_nothing(command, monkeypatch):
    write(*ROWS[:6])
    with monkeypatch.context() as patch:

        def interrupted(self, requests, **options):
            yield from itertools.islice(mock(requests), 3)
            raise KeyboardInterrupt

        patch.setattr("barklite.Bark.generate_many", interrupted)
        assert command() == (130, "barklite: interrupted\n")
    assert len(state()[0]) == 3
    monkeypatch.setattr("barklite.Bark.generate_many", lambda self, requests, **options: mock(requests))
    assert command("-q") == (0, "")
    speak(mock, "rows.jsonl", "whole")
    assert state() == state("whole")


@pytest.mark.parametrize(
    "place, name", [(os, "replace"), (os, "fsync"), (jsonl, "_sync"), (atomic, "sync")], ids=str
)
def test_a_full_disk(place, name, monkeypatch):
    """It ends the run with the name of the file; what was finished stays, and no part of a sound is left."""
    write(*ROWS[:4])
    calls = itertools.count()
    original = getattr(place, name)

    def full(*arguments):
        if next(calls) >= 3:
            raise OSError(28, "No space left on device")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, full)
        with pytest.raises(OSError, match="No space left") as error:
            speak(mock, "rows.jsonl", "out")
    assert "out/r" in str(error.value.filename)
    assert not list(Path("out").glob(".*"))
    speak(mock, "rows.jsonl", "out")
    speak(mock, "rows.jsonl", "whole")
    assert state() == state("whole")


def test_what_is_left_of_the_killed_goes():
    """Also if there is nothing more to speak, and if it was another split of the corpus that was killed."""
    write(*ROWS)
    speak(mock, "rows.jsonl", "out", shard=Shard(1, 2))
    speak(mock, "rows.jsonl", "out")
    for i in range(3):
        Path(f"out/.{i * 12:012x}.partial").write_bytes(b"half " * 100)
    atomic.sweep.cache_clear()  # as in a new process
    assert speak(refuse, "rows.jsonl", "out").skipped == 12
    assert not list(Path("out").glob(".*"))
    assert len(state()[0]) == 12


def test_a_line_without_its_end():
    """Whole, but for the last byte: the next line must not be joined to it."""
    write(*ROWS[:2])
    speak(mock, "rows.jsonl", "out")
    write(*ROWS[:3])
    Path("out/results.jsonl").write_bytes(Path("out/results.jsonl").read_bytes()[:-1])
    assert speak(mock, "rows.jsonl", "out").spoken == 2
    assert len(state()[0]) == 3


def test_lines_that_are_no_results():
    """A power cut can leave anything. Nor does a name in the results reach outside the directory."""
    write(*ROWS[:2])
    speak(mock, "rows.jsonl", "out")
    Path("precious.wav").write_bytes(b"precious")
    kept = Path("out/results.jsonl").read_bytes()
    evil = json.dumps({"id": "row-1", "file": "../precious.wav", "line": 2, "error": None}).encode()
    junk = [b"\x00" * 50, b"[1]", b"{}", b'{"id": "row-0", "file": 5, "error": null}', evil, b"[" * 50_000]
    for force in (False, True):
        Path("out/results.jsonl").write_bytes(b"\n".join(junk) + b"\n" + kept + kept + kept[:-9])
        assert speak(mock, "rows.jsonl", "out", force=force).spoken == 2 * force
        assert [record["id"] for record in state()[0]] == ["row-0", "row-1"]
    assert Path("precious.wav").read_bytes() == b"precious"


# --- columns --------------------------------------------------------------------------------------------


@pytest.fixture
def synthesizer(native):
    return Synthesizer(str(native), config=SHORT, device="cpu")


def test_columns(synthesizer, tiny):
    """Arrays in, arrays out, in order; what is missing in one of the ways of arrays is not given."""
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'barklite[ray]'")
    builders.voice("mine").save("mine.npz")
    batch = {
        "id": np.array(["a", "b", "c", "d"]),
        "text": np.array(["One.", "", "Two.", "Three."], dtype=object),
        "voice": np.array(["mine.npz", None, float("nan"), "none.npz"], dtype=object),
        "seed": np.ma.masked_array([5.0, 6.0, 7.0, np.nan], mask=[0, 0, 1, 0]),
        "extra": np.arange(8).reshape(4, 2),
    }
    made = synthesizer(batch)
    assert list(made) == ["id", "text", "voice", "seed", "extra", "audio", "sample_rate", "duration",
                          "finish_reason", "error"]  # fmt: skip
    assert all(made[key] is batch[key] for key in ("id", "text", "voice", "extra"))
    assert made["seed"].tolist() == [5, 6, derived_seed(0, "c"), derived_seed(0, "d")]
    assert list(made["error"]) == [
        "", "the text is empty: there is nothing to speak", "", "there is no voice file none.npz",
    ]  # fmt: skip
    assert list(made["finish_reason"]) == ["length", "", "length", ""]
    assert made["sample_rate"].tolist() == [24_000] * 4
    for i, (text, voice) in enumerate([("One.", "mine.npz"), None, ("Two.", None), None][::2]):
        clip = tiny.generate(text, voice, made["seed"][2 * i], SHORT)
        assert np.array_equal(np.asarray(made["audio"][2 * i]), clip.audio)
        assert made["duration"][2 * i] == clip.seconds
    assert [len(sound) for sound in made["audio"][1::2]] == [0, 0]
    assert [np.asarray(sound).dtype for sound in made["audio"]] == [np.float32] * 4


def test_a_table(synthesizer):
    """The same rows in a table give the same; its other columns stay as they are."""
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'barklite[ray]'")
    ids = pa.array([1, None, 3], pa.uint16())
    nested = pa.array([[1], None, []], pa.list_(pa.int8()))
    texts = pa.array(["One.", "Two.", None])
    made = synthesizer(pa.table({"id": ids, "nested": nested, "text": texts, "seed": pa.array([None] * 3)}))
    assert made.schema == pa.schema(
        {"id": ids.type, "nested": nested.type, "text": texts.type, "audio": pa.list_(pa.float32()),
         "sample_rate": pa.int32(), "duration": pa.float64(), "finish_reason": pa.string(),
         "seed": pa.int64(), "error": pa.string()}
    )  # fmt: skip
    assert made["id"].combine_chunks() == ids
    assert made["nested"].combine_chunks() == nested
    error = "the row has neither an id nor a seed: its audio would not be reproducible"
    assert made["error"].to_pylist()[:2] == ["", error]
    assert made["error"].to_pylist()[2]
    assert made["seed"].to_pylist() == [derived_seed(0, 1), -1, derived_seed(0, 3)]
    columns = synthesizer({"id": np.array([np.nan, 1.0]), "text": np.array(["Two.", "One."])})
    assert np.array_equal(columns["audio"][1], made["audio"][0].values)
    assert columns["seed"].tolist() == [-1, derived_seed(0, 1)]
    only = synthesizer(made.slice(1, 1).select(["text"]))  # a batch where all fail
    assert only["audio"].type == pa.list_(pa.float32())
    assert only["audio"].to_pylist() == [[]]
    assert synthesizer(made.slice(0, 0)).schema == made.schema


def test_other_batches_give_the_same_sound(native):
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'barklite[ray]'")
    batch = {"id": np.arange(5), "text": np.array([f"Text {i}." for i in range(5)])}
    whole = Synthesizer(str(native), config=SHORT, device="cpu", seed=3, batch_size=2)(batch)
    other = Synthesizer(str(native), config=SHORT, device="cpu", seed=3)
    for i in (4, 0, 2):
        one = other({key: column[i : i + 1] for key, column in batch.items()})
        assert np.array_equal(one["audio"][0], whole["audio"][i])
        assert one["seed"][0] == derived_seed(3, i)


def test_settings_of_a_synthesizer(native, monkeypatch):
    seen = []

    def generate_many(self, requests, **options):
        requests = list(requests)
        seen.append((requests, options))
        return mock(requests)

    monkeypatch.setattr("barklite.Bark.generate_many", generate_many)
    made = Synthesizer(
        str(native), voice="x", config=SHORT, batch_size=7, retries=2, dtype="bfloat16", device="cpu"
    )
    made({"text": ["One.", "Two."], "seed": [1, 2], "voice": [None, "y"]})
    assert seen == [
        ([Request("One.", "x", 1), Request("Two.", "y", 2)], {"config": SHORT, "batch_size": 7, "retries": 2})
    ]
    assert str(next(made._bark.semantic.parameters()).dtype) == "torch.bfloat16"


def test_a_synthesizer_travels_without_its_model(synthesizer):
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'barklite[ray]'")
    before = len(pickle.dumps(synthesizer))
    batch = {"id": ["a"], "text": ["Hello."]}
    made = synthesizer(batch)
    data = pickle.dumps(synthesizer)
    assert len(data) == before < 2000
    again = pickle.loads(data)(batch)
    assert np.array_equal(again["audio"][0], made["audio"][0])


def test_columns_that_cannot_be_spoken(synthesizer):
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'barklite[ray]'")
    with pytest.raises(ValueError, match="there is no column 'text'; there are id, txt"):
        synthesizer({"id": ["a"], "txt": ["Hello."]})
    with pytest.raises(ValueError, match="batch_format"):
        synthesizer([{"text": "Hello."}])
    with pytest.raises(ValueError, match="seed is -1"):
        Synthesizer(seed=-1)({"id": ["a"], "text": ["Hello."]})


def test_nothing_heavy_is_imported():
    """A driver that only names the class waits for no PyTorch; and barklite needs no Ray."""
    code = "import sys; sys.modules.update(ray=None, pyarrow=None, pandas=None)\n"
    code += "from barklite.corpus import Synthesizer; Synthesizer('x', dtype='float16')\n"
    code += (
        "assert not {'torch', 'scipy', 'tqdm'} & set(sys.modules)\nimport barklite.bark, barklite.__main__"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# --- on Ray ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray():
    """A local Ray: two processors for actors, one to read and write beside them."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'barklite[ray]'")
    pytest.importorskip("ray.data", reason="needs Ray Data: pip install 'barklite[ray]'")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def spoken(rows, synthesizer, **options):
    """Rows through two actors."""
    import ray

    options = {"batch_format": "pyarrow", "batch_size": 2, **options}
    return rows.map_batches(
        synthesizer[0],
        fn_constructor_kwargs=synthesizer[1],
        compute=ray.data.ActorPoolStrategy(size=2),
        **options,
    )


def test_ray_with_an_actor_killed(ray, native, tiny, tmp_path):
    """Two actors, of which one dies in the middle: every row comes once, with the sound that it has alone."""
    marker = tmp_path / "died"

    class Dying(Synthesizer):
        def __init__(self, marker, **options):
            super().__init__(**options)
            self.marker = marker

        def __call__(self, batch):
            made = super().__call__(batch)
            made = made.append_column("process", [[os.getpid()] * len(made)])
            if "row-7" in batch["id"].to_pylist() and not os.path.exists(self.marker):
                Path(self.marker).touch()
                os._exit(1)
            return made

    options = dict(marker=str(marker), model=str(native), config=SHORT, device="cpu")
    rows = ray.data.from_items(ROWS, override_num_blocks=6)
    made = spoken(rows, (Dying, options)).take_all()
    assert marker.exists()
    assert sorted(row["id"] for row in made) == sorted(row["id"] for row in ROWS)
    assert len({row["process"] for row in made}) >= 2
    for row in made:
        clip = tiny.generate(row["text"], None, derived_seed(0, row["id"]), SHORT)
        assert np.array_equal(np.array(row["audio"], np.float32), clip.audio)
        assert (row["error"], row["seed"]) == ("", clip.seed)


def test_ray_reads_and_writes_files(ray, native, tmp_path):
    """JSONL to Parquet that any reader reads, sounds of many lengths and errors; and on from there by id."""
    parquet = pytest.importorskip("pyarrow.parquet")
    settings = dict(
        model=str(native), config=GenerationConfig(max_seconds=0.5, min_eos_p=0.00012), device="cpu"
    )
    rows = [{**row, "take": i} for i, row in enumerate(ROWS)]
    rows[2]["text"] = rows[3]["text"] = ""  # a batch of nothing but errors
    write(*rows)

    def run(out, batch_format):
        done = corpus.spoken_ids(out)
        rows = ray.data.read_json(os.path.abspath("rows.jsonl")).filter(lambda row: row["id"] not in done)
        rows = rows.repartition(target_num_rows_per_block=2)
        spoken(rows, (Synthesizer, settings), batch_format=batch_format).write_parquet(out)
        return done

    out = str(tmp_path / "spoken")
    assert run(out, "pyarrow") == set()
    table = parquet.read_table(out).sort_by("take")
    assert table["id"].to_pylist() == [row["id"] for row in rows]
    assert table["take"].to_pylist() == list(range(12))
    assert [bool(error) for error in table["error"].to_pylist()] == [i in (2, 3) for i in range(12)]
    lengths = [len(sound) for sound in table["audio"].to_pylist()]
    assert lengths[2] == lengths[3] == 0
    assert len(set(lengths)) > 2
    assert [n / 24_000 for n in lengths] == table["duration"].to_pylist()
    assert str(table["audio"].type) == "list<element: float>"

    rows[2]["text"] = "Mended."
    write(*rows, {**rows[0], "id": "new"})
    Path(out, "cut.parquet").write_bytes(next(Path(out).glob("*.parquet")).read_bytes()[:-20])
    assert run(out, "numpy") == {row["id"] for i, row in enumerate(rows) if i not in (2, 3)}
    os.unlink(Path(out, "cut.parquet"))
    assert corpus.spoken_ids(out) == {"new", *(row["id"] for row in rows)} - {"row-3"}
    errors = parquet.read_table(out)["error"].to_pylist()
    assert (len(errors), errors.count("")) == (15, 12)  # row-3 was tried twice
    assert corpus.spoken_ids(tmp_path / "none") == set()

"""Killed at every sync, rename and removal: the old is there or the new one, and the next run goes on."""

import os
import shutil
import sys

import numpy as np
import pytest
import torch

from barklite import Bark, Clip, Voice, corpus
from barklite.storage import atomic, hub, native
from barklite.storage.checkpoint import convert
from barklite.storage.formats import open_checkpoint
from barklite.training.loop import Machine, Run, Settings, read_log, read_state
from tests import builders
from tests.hostile.kills import in_child, kills
from tests.test_native import step

VOICE = builders.voice("v2/en_speaker_6")


def left(folder) -> list[str]:
    """What is unfinished in a directory."""
    return [name for name in os.listdir(folder) if name.endswith((".partial", "-old"))]


def dtype_of(path) -> torch.dtype:
    """That of a whole checkpoint, all of whose files are there and agree."""
    opened = open_checkpoint(path)
    kinds = {opened.state(name)["wpe.weight"].dtype for name in ("semantic", "coarse", "fine")}
    assert len(opened.state("codec")) > 5
    assert len(kinds) == 1
    return kinds.pop()


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])
def test_convert_over_a_checkpoint(exchanges, native_voice, tmp_path, monkeypatch):
    """Old or new at every moment, the voices with it; a file system without the exchange recovers."""
    if not exchanges:
        monkeypatch.setattr(atomic, "_exchanged", lambda *names: False)
    target = tmp_path / "out"
    convert(native_voice, target, torch.float16)
    seen = []

    def check(n):
        if exchanges:
            assert target.is_dir()
        seen.append(dtype_of(target))
        assert open_checkpoint(target).voices == ["mine"]

    n = kills(lambda: convert(native_voice, target, torch.bfloat16, force=True), check)
    assert n >= 15
    assert seen[0] == torch.float16
    assert dtype_of(target) == torch.bfloat16
    assert not left(tmp_path)


def test_convert_into_nothing(native_voice, tmp_path):
    target = tmp_path / "out"

    def check(n):
        if target.exists():
            assert dtype_of(target) == torch.float32
            shutil.rmtree(target)

    assert kills(lambda: convert(native_voice, target), check) >= 10
    assert dtype_of(target) == torch.float32
    assert not left(tmp_path)


def test_save_over_a_checkpoint(tiny, native_voice, tmp_path):
    target = tmp_path / "out"
    convert(native_voice, target, torch.float16)
    n = kills(lambda: tiny.save_pretrained(target, force=True), lambda n: dtype_of(target))
    assert n >= 15
    assert dtype_of(target) == torch.float32
    assert not left(tmp_path)


def test_a_voice_over_a_voice(tmp_path):
    old, new = builders.voice("old"), builders.voice("new", seed=1)
    path = tmp_path / "mine.npz"
    old.save(path)

    def check(n):
        kept = Voice.load(path)
        assert any(np.array_equal(kept.fine, voice.fine) for voice in (old, new))

    assert kills(lambda: new.save(path), check) >= 3
    assert np.array_equal(Voice.load(path).fine, new.fine)
    assert not left(tmp_path)


def test_the_hub_cache(tiny, tmp_path, monkeypatch):
    """First use, killed anywhere: the next one makes it, whatever is there. The download is at hand."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    repository, commit = tmp_path / "hf" / "models--suno--bark-small", "12" * 20
    builders.write_huggingface(repository / "snapshots" / commit, tiny, "safetensors", voices=[VOICE])
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)

    def fetch():
        assert dtype_of(hub.fetch("suno/bark-small", local_files_only=True)) == torch.float32

    assert kills(fetch) >= 12
    made = hub.cache_directory() / "suno--bark-small" / commit
    for file in [path for path in made.rglob("*") if path.is_file()]:  # and anything of it lost
        file.unlink()
        in_child(fetch)
        assert file.is_file()
    assert not left(made.parent)


def test_compiled_code(monkeypatch):
    monkeypatch.setattr(native, "compile_to", lambda *_: b"code")
    monkeypatch.setattr(native, "_load", lambda package, folder: package.decode)
    run = lambda: step()[0]() == "code" or 1 / 0  # noqa: E731
    assert kills(run) >= 4
    run()
    folder = hub.cache_directory() / "native"
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".aoti"]


def test_a_training_run(tmp_path, monkeypatch):
    """Each process goes on from the last whole state, and the weights are those of a run without a kill."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # a plot a step takes a second
    settings = Settings(steps=4, save_every=1, log_every=1, warmup=1)

    def loss(model, rng):
        return model(torch.from_numpy(rng.random((8, 3), np.float32))).square().mean(), {}

    def train(folder=tmp_path / "killed"):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        run = Run(folder, model, settings, Machine(torch.device("cpu")))
        run.train(
            lambda model, rng: (model(torch.from_numpy(rng.random((8, 3), np.float32))).square().mean(), {})
        )
        return run

    steps = []

    def check(n):
        if (tmp_path / "killed" / "last.pt").is_file():
            steps.append(read_state(tmp_path / "killed" / "last.pt")["step"])
        if n % 3 == 0:  # now and then it begins with nothing
            shutil.rmtree(tmp_path / "killed", ignore_errors=True)

    whole = train(tmp_path / "whole")
    assert kills(train, check) >= 10
    assert set(steps) >= {1, 2, 3}
    killed = train()
    assert killed.step == whole.step == 4
    assert torch.equal(killed.model.weight, whole.model.weight)
    assert [line["step"] for line in read_log(tmp_path / "killed")] == [1, 2, 3, 4]
    assert not left(tmp_path / "killed")


def clip(text: str) -> Clip:
    codes = np.zeros((8, 15), np.int64)
    return Clip(np.zeros(4800, np.float32), 24_000, np.zeros(10, np.int64), codes, text, 1, "eos")


def test_a_corpus(tmp_path):
    """Each row has its line and its sound at the end, and never a line without a sound."""
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    rows.write_text("".join(f'{{"id": "r{i}", "text": "Hello."}}\n' for i in range(3)))

    def check(n):
        if (out / "results.jsonl").is_file():
            lines = [line for line in (out / "results.jsonl").read_text().splitlines() if line.endswith("}")]
            assert all((out / f"r{i}.wav").is_file() for i in range(len(lines)))
        if n % 2:  # every other one begins with nothing
            shutil.rmtree(out, ignore_errors=True)

    speak = lambda: corpus.speak(  # noqa: E731
        lambda requests: ((i, clip(request.text)) for i, request in enumerate(requests)), rows, out
    )
    assert kills(speak, check) >= 8
    assert sorted(os.listdir(out)) == ["r0.wav", "r1.wav", "r2.wav", "results.jsonl"]


def test_what_a_live_process_writes_is_left_alone(tmp_path):
    """Sweeping takes what nobody holds, of files and directories, and nothing else."""
    with atomic.writing(tmp_path / "a") as file, atomic.directory(tmp_path / "b") as folder:
        (folder / "c").write_text("")
        dead = [tmp_path / f".{i * 12}.partial" for i in "12"]
        dead[0].write_text("")
        dead[1].mkdir()
        (tmp_path / ".mine.partial").write_text("")
        (tmp_path / f".{'3' * 12}.partial").symlink_to(tmp_path / ".mine.partial")
        assert in_child(lambda: builders.voice("x").save(tmp_path / "x.npz"))
        assert not any(path.exists() for path in dead)
        file.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert (tmp_path / "b" / "c").is_file()
    assert (tmp_path / ".mine.partial").is_file()


@pytest.mark.parametrize("step", ["mkdir", "open"])
def test_swept_before_it_is_locked(step, tmp_path, monkeypatch):
    """Regression: between its making and its locking, it looks like a dead process's."""
    original, swept = getattr(os, step), []

    def then_swept(path, *arguments, **options):
        made = original(path, *arguments, **options)
        if not swept and str(path).endswith(".partial"):
            swept.append(path)
            os.rmdir(path)
        return made

    monkeypatch.setattr(os, step, then_swept)
    builders.voice("x").save(tmp_path / "x.npz")
    assert len(swept) == 1
    assert os.listdir(tmp_path) == ["x.npz"]


@pytest.fixture(scope="module")
def native_voice(tiny, tmp_path_factory):
    """barklite's own directory, with a voice."""
    path = tmp_path_factory.mktemp("kills") / "tiny"
    tiny.save_pretrained(path)
    (path / "voices").mkdir()
    VOICE.save(path / "voices" / "mine.npz")
    assert Bark.from_pretrained(path, device="cpu").voices
    return path

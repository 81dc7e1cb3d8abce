"""Compiled code on disk: kept once, shared, and only run if this user's barklite made it."""

import hashlib
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

from barklite.messages import tell
from barklite.storage import native
from barklite.storage.home import cache_directory, private

ROOT = Path(__file__).resolve().parents[1]


class Step(torch.nn.Module):
    """What the engines give: a module with settings."""

    def settings(self):
        return ("a",)

    def forward(self, x):
        return x * 2 + 1


def step(name: str = "a"):
    """The compiled step of a given name. What fakes compile is its name."""
    module = Step()
    module.settings = lambda: name
    run, seconds = native.compiled(module, (torch.ones(4),), lambda: (None,), [sys.modules[__name__]])
    return run, seconds


@pytest.fixture
def fake(monkeypatch):
    """No compiler: a package is the module's name, and what is loaded says it. Gives the list of calls."""
    made = []

    def compile_to(module, example, shapes, folder):
        made.append(module.settings())
        return f"code of {module.settings()}".encode()

    def load(package, folder):
        if not package.startswith(b"code of "):
            raise RuntimeError("not a package")
        return package.decode

    monkeypatch.setattr(native, "compile_to", compile_to)
    monkeypatch.setattr(native, "_load", load)
    return made


def packages() -> list[Path]:
    return sorted((cache_directory() / "native").glob("*.aoti"))


def test_compiled_once_and_private(fake, capsys):
    assert step()[0]() == "code of a"
    assert step()[1] == 0.0
    assert step("b")[0]() == "code of b"
    assert fake == ["a", "b"]
    folder = cache_directory() / "native"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in packages():
        assert path.stem.endswith(hashlib.sha256(path.read_bytes()).hexdigest())
    assert capsys.readouterr().err.count("compiling a step") == 2


@pytest.mark.parametrize("damage", ["cut", "emptied", "replaced", "another's", "link", "directory"])
def test_what_is_not_as_we_wrote_it_is_compiled_anew(damage, fake, tmp_path, capsys):
    step("b")
    (other,) = packages()
    step()
    (path,) = {*packages()} - {other}
    data = path.read_bytes()
    capsys.readouterr()
    if damage == "cut":
        path.write_bytes(data[:-3])
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "replaced":  # by a package that would load
        path.write_bytes(zlib.compress(b"code of an enemy"))
    elif damage == "another's":
        shutil.copy(other, path)
    elif damage == "link":
        shutil.move(path, tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
    else:
        path.unlink()
        path.mkdir()
    run, seconds = step()
    assert run() == "code of a"
    if damage != "directory":
        assert seconds > 0
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if "is damaged and compiled again" in line]) == 1
    assert step()[0]() == "code of a"
    assert fake == ["b", "a", "a"]


def test_others_could_change_it(fake, tmp_path, monkeypatch):
    """Whoever can write a directory on the way could put code there."""
    step()
    folder = cache_directory() / "native"
    for path, mode, back in ((folder, 0o777, 0o700), (folder.parents[1], 0o777, 0o755)):
        path.chmod(mode)
        with pytest.raises(
            ValueError, match=f"other users could change {path}: barklite runs no code from there"
        ):
            step()
        path.chmod(back)
    step()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError, match="other users could change"):
        private(folder)
    monkeypatch.undo()
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)  # as /tmp: a name there is its owner's
    assert private(sticky / "mine") == sticky / "mine"


def test_no_place_for_it(fake, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot be used: .*XDG_CACHE_HOME"):
        step()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # a container's user without an entry
    with pytest.raises(ValueError, match="there is no home directory for a cache: set XDG_CACHE_HOME"):
        step()


def test_what_is_kept_is_bounded(fake, monkeypatch):
    monkeypatch.setattr(native, "LIMIT", 100)
    for name in "abcdefgh":
        step(name)
        os.utime(packages()[0], (1, 1)) if name == "a" else None
    assert sum(path.stat().st_size for path in packages()) <= 100
    count = len(fake)
    step("h")  # the last is there
    assert len(fake) == count
    step("a")
    assert len(fake) == count + 1


def test_leftovers_and_old_versions_go(fake):
    step()
    folder = cache_directory() / "native"
    (folder / "tmpabc").mkdir()
    (folder / "tmpabc" / "half.cpp").write_text("")
    (folder / "tmpdef.pt2").write_text("")
    old = cache_directory() / "compiled"
    old.mkdir()
    (old / "x.pt2").write_text("")
    step("b")
    assert sorted(path.name for path in folder.iterdir()) == sorted(["lock", *(p.name for p in packages())])
    assert not old.exists()


def test_a_full_disk_costs_only_the_next_time(fake, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(native.atomic, "write_bytes", full)
    assert step()[0]() == "code of a"
    assert "cannot be cached: [Errno 28]" in capsys.readouterr().err
    assert packages() == []


def _many(i: int) -> int:
    def compile_to(module, example, shapes, folder):
        with open(folder.parent / "calls", "a") as calls:
            calls.write("x")
        return b"code of a"

    native.compile_to, native._load = compile_to, lambda package, folder: package.decode
    assert step()[0]() == "code of a"
    return i


def test_one_compiles_and_the_others_wait(fake):
    with multiprocessing.get_context("fork").Pool(8) as pool:
        assert pool.map(_many, range(8), chunksize=1) == [*range(8)]
    assert (cache_directory() / "calls").read_text() == "x"


def test_another_machine_or_thread_count_has_another_key(monkeypatch):
    def key():
        return native._key(Step(), (torch.ones(4),), [sys.modules[__name__]])

    keys = {key()}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    keys.add(key())
    monkeypatch.setattr(native.os, "cpu_count", lambda: 9)
    keys.add(key())
    monkeypatch.setattr(native, "_processor", lambda: "another")
    keys.add(key())
    assert len(keys) == 4


COMPILE = """
import torch
from tests.test_native import step
run, seconds = step()
assert run(torch.ones(4)).tolist() == [3.0] * 4
print(seconds > 0)
"""


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
def test_the_compiler_leaves_nothing_elsewhere(tmp_path):
    """The real one: its own caches, of generated code and of headers, would lie where others write."""
    (tmp_path / "tmp").mkdir()
    places = {
        "TMPDIR": str(tmp_path / "tmp"),
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    environment = {**os.environ, **places}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    for compiles in ("True", "False"):
        done = subprocess.run(
            [sys.executable, "-c", COMPILE],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == compiles
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent for path in left} == {tmp_path / "cache" / "barklite" / "native"}, left
    assert sum(path.stat().st_size for path in left) < 2_000_000
    assert not [path for path in (tmp_path / "tmp").iterdir() if path.name.startswith("torchinductor")]


def test_pytorchs_own_cache_is_private(monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.delenv("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", raising=False)
    old = cache_directory() / "inductor" / "1.0"
    old.mkdir(parents=True)
    old.parent.chmod(0o700)
    native.inductor_cache()
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert folder == cache_directory() / "inductor" / torch.__version__
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert not old.exists()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    native.inductor_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"


def test_a_closed_stderr_sends_nothing_to_stdout(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    tell("compiling")
    assert capsys.readouterr().out == ""

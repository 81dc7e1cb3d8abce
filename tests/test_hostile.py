"""Damaged and hostile inputs at every door, a few of them; and that the harness sees what it looks for."""

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.hostile import harness
from tests.hostile.doors import DOORS
from tests.hostile.harness import Case, Door, Wrong

ROOT = Path(__file__).resolve().parents[1]


def test_some_cases_of_every_door(tmp_path):
    """The short run. The long one is `python -m tests.hostile --cases 100000`."""
    command = [sys.executable, "-m", "tests.hostile", "--cases", "2000", "--keep", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def judged(doors: list[Door], cases: int = 1) -> harness.Tally:
    return harness.run(doors, [Case(door.name, i) for door in doors for i in range(cases)], seed=0, jobs=2)


def door(call, name="door") -> Door:
    return Door(name, lambda folder: (folder / "a").write_text("a"), lambda rng, folder: None, call)


def test_files_that_are_not_damaged_are_accepted():
    """Else damage would show nothing."""
    tally = judged([replace(door, damage=lambda rng, folder: None) for door in DOORS.values()])
    assert tally.counts == {name: {"accepted": 1} for name in DOORS}, tally.defects


def test_a_case_can_be_made_again(tmp_path):
    for name in ("voice", "bin", "rows", "config", "wav", "command"):
        (tmp_path / "base" / name).mkdir(parents=True)
        DOORS[name].make(tmp_path / "base" / name)
        made = []
        for place in ("one", "two"):
            arena = harness.Arena(tmp_path / place)
            here = os.getcwd()
            try:
                arena.prepare(DOORS[name], Case(name, 5), seed=1)
            finally:
                os.chdir(here)
            files = (p for p in sorted(arena.case.rglob("*")) if p.is_file() and "-of-" not in p.name)
            made.append({str(p.relative_to(arena.case)): p.read_bytes() for p in files})
        assert made[0] == made[1]


def refuse(folder):
    raise ValueError("this is damaged: make it again")


def swallow(folder):
    try:
        bytearray(2**31)
    except MemoryError:
        raise ValueError("this is damaged") from None


def torch_takes(folder):
    torch.ones(2**30)


def exhaust(folder):
    return exhaust(folder)


def lookup(folder):
    return {}["x"]


def several_lines(folder):
    raise ValueError("one\ntwo")


def nameless(folder):
    raise OSError(22, "Invalid argument")


def empty(folder):
    raise ValueError


def endless(folder):
    raise ValueError("x" * 10_000)


def undecoded(folder):
    b"\xff".decode()


def raising(error):
    def call(folder):
        raise error

    return call


def native_write(folder):
    """No audit hook sees what C code opens."""
    torch.save({}, "../beside.pt")


OUTCOMES = {
    "accepted": [lambda folder: None, lambda folder: (folder / "b").write_text("b")],
    "refused": [refuse, raising(FileNotFoundError(2, "No such file", "a.txt")), raising(OSError("offline"))],
    "signal": [
        lambda folder: os.kill(os.getpid(), signal.SIGSEGV),
        lambda folder: ctypes.string_at(1),
        lambda folder: os.abort(),
        lambda folder: os._exit(3),
    ],
    "memory": [lambda folder: bytearray(2**31), swallow, torch_takes],
    "wrong": [
        lookup, exhaust, several_lines, nameless, empty, endless, undecoded, lambda folder: sys.exit(1),
        raising(Wrong("half a file")), raising(KeyboardInterrupt()), raising(AssertionError("no")),
    ],
    "outside": [
        lambda folder: Path("../sentinel/secret.txt").read_text(),
        lambda folder: Path("../sentinel/secret.txt").write_text("seen"),
        lambda folder: os.unlink("../sentinel/voice.npz"),
        lambda folder: os.mkdir(folder.parent / "x"),
        lambda folder: os.system("true"),
        lambda folder: subprocess.run(["true"]),
        native_write,
    ],
}  # fmt: skip


def test_every_defect_is_seen():
    calls = [(kind, f"{kind}-{i}", call) for kind, some in OUTCOMES.items() for i, call in enumerate(some)]
    tally = judged([door(call, name) for _, name, call in calls], cases=2)
    assert {name: [*counts] for name, counts in tally.counts.items()} == {n: [kind] for kind, n, _ in calls}
    assert tally.failed == 2 * sum(len(some) for kind, some in OUTCOMES.items() if kind in harness.DEFECTS)
    assert [line.split()[0] for line in str(tally).splitlines()] == ["door", *sorted(tally.counts), "all"]


def test_a_hang_is_seen_and_ended(monkeypatch):
    monkeypatch.setattr(harness, "SECONDS", 2.0)
    tally = judged([door(lambda folder: time.sleep(60), "sleep"), door(lambda folder: None, "good")])
    assert tally.counts == {"sleep": {"hang": 1}, "good": {"accepted": 1}}


def test_a_slow_moment_is_no_hang(monkeypatch, tmp_path):
    """What only hangs once was held up by the machine."""
    monkeypatch.setattr(harness, "SECONDS", 2.0)

    def once(folder):
        if not (tmp_path / "again").exists():
            os.close(os.open(tmp_path / "again", os.O_CREAT))
            time.sleep(60)

    assert judged([door(once)]).counts == {"door": {"accepted": 1}}


def test_failing_files_are_kept(tmp_path):
    def damage(rng: random.Random, folder: Path) -> None:
        (folder / "a").write_text(str(rng.randrange(10**9)))

    spoiled = replace(door(lookup), damage=damage)
    tally = harness.run([spoiled], [Case("door", i) for i in range(9)], 7, 2, keep=tmp_path)
    assert tally.failed == 9
    assert len(list((tmp_path / "wrong").iterdir())) == 3  # the first ones of one cause
    kept = sorted((tmp_path / "wrong").iterdir())[0]
    assert "KeyError" in (kept / "VERDICT.txt").read_text()
    number = int(kept.name.removeprefix("door-"))
    assert (kept / "a").read_text() == str(random.Random(f"7:door:{number}").randrange(10**9))


@pytest.mark.parametrize("arguments", [["--replay", "vocab:3"], ["--door", "vocab", "--cases", "5"]])
def test_the_command(arguments, tmp_path):
    command = [sys.executable, "-m", "tests.hostile", *arguments, "--jobs", "1", "--keep", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split()[:2] == ["door", "cases"]
    assert done.stdout.splitlines()[1].split()[0] == "vocab"

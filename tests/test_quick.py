"""The quick choice reaches every room, and names tests that exist."""

import re
from pathlib import Path

import pytest

from tests import newest, quick

TESTS = Path(__file__).parent
ROOMS = ("models", "text", "decode", "storage", "speed", "analysis", "compat", "training")


def names(file: str) -> list[str]:
    return re.findall(r"^def (test_\w+)", (TESTS / f"{file}.py").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("file", quick.QUICK)
def test_every_pattern_chooses_something(file):
    for pattern in quick.QUICK[file].split("|"):
        assert any(re.search(pattern, name) for name in names(file)), pattern


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_reached(room):
    text = "".join(
        path.read_text(encoding="utf-8") for path in TESTS.glob("test_*.py") if path.stem in quick.QUICK
    )
    assert re.search(rf"barklite(\.| import ){room}\b", text)


def test_what_is_newer_is_told_by_name():
    pins = newest.pins()
    assert newest.changed(pins) == []
    assert newest.changed({**pins, "torch": pins["torch"] + "+cpu"}) == []
    assert newest.changed({**pins, "numpy": "99"}) == [f"numpy: {pins['numpy']} -> 99"]

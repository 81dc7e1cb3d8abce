"""The README's examples run as they stand, against a tiny checkpoint in the Hub cache's layout."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import scipy.io.wavfile

from tests import builders

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONSTRAINTS = (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = [
    line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line
]


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory):
    """A working directory and an environment in which suno/bark-small is a cached, tiny checkpoint."""
    root, commit = tmp_path_factory.mktemp("readme"), "ab" * 20
    repository = root / "hf" / "hub" / "models--suno--bark-small"
    voices = [builders.voice("v2/en_speaker_6")]
    builders.write_huggingface(repository / "snapshots" / commit, tiny, voices=voices)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (root / "empty").mkdir()
    (root / "empty" / "book.txt").write_text("It was cold. Dr. No laughed.")
    (root / "empty" / "rows.jsonl").write_text(
        '{"id": "a", "text": "Hello."}\n{"text": "World", "seed": 3}\n'
    )
    environment = dict(
        os.environ, HF_HOME=str(root / "hf"), HF_HUB_OFFLINE="1", XDG_CACHE_HOME=str(root / "cache")
    )
    return root / "empty", environment


def run(command, place):
    directory, environment = place
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_examples(number, place):
    run([sys.executable, "-c", PYTHON[number]], place)


def test_the_examples_made_their_files(place):
    assert {"hello.wav", "on.wav", "mine.npz"} <= {path.name for path in place[0].iterdir()}


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("barklite ")])
def test_shell_examples(line, place):
    run([sys.executable, "-m", *shlex.split(line)], place)


def test_the_shell_examples_made_their_files(place):
    names = {path.relative_to(place[0]).as_posix() for path in place[0].rglob("*.wav")}
    assert {"dog.wav", "book.wav", "spoken/a.wav", "spoken/2.wav"} <= names


def test_examples_that_are_not_run_are_python():
    """They need a cluster or a server; tests of corpora and of the server run the same on local ones."""
    blocks = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    assert any("ray.data" in block for block in blocks)
    for block in blocks:
        compile(block, "README.md", "exec")
        assert len(block.splitlines()) <= 12


def test_the_two_commands():
    """One line speaks, one tests; both take PyTorch's CPU build first."""
    speak, test = [line for line in SHELL if line.startswith("pip install")]
    cpu = "pip install torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu && "
    assert speak == cpu + 'pip install . && barklite "Hello there." -o hello.wav'
    assert test == cpu + 'pip install -c tests/constraints.txt ".[test]" && python -m pytest'


def test_the_test_command_compares_with_exact_versions():
    """Every package that the tests install is pinned, and PyTorch to the version that the command names."""
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["test"], *extras["serve"]]
    wanted.remove("barklite[serve]")
    pins = re.findall(r"^([\w-]+)==([\d.]+)(?:;.*)?$", CONSTRAINTS, re.MULTILINE)
    assert {re.match(r"[\w-]+", name).group() for name in wanted} <= {name for name, _ in pins}
    assert f"torch=={dict(pins)['torch']} " in next(line for line in SHELL if line.startswith("pip install"))


def test_links_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
        assert links
        assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_first_command_speaks(place):
    line = next(line for line in SHELL if line.startswith("pip install")).split(" && ")[-1]
    (place[0] / "hello.wav").unlink(missing_ok=True)
    done = run([sys.executable, "-m", *shlex.split(line)], place)
    assert "built-in voice" in done.stderr
    rate, samples = scipy.io.wavfile.read(place[0] / "hello.wav")
    assert rate == 16_000
    assert len(samples)


def test_the_file_guide_names_files_that_exist():
    named = re.findall(r"^\| `(barklite/[\w/]+\.py)`", README, re.MULTILINE)
    assert len(named) == 8
    assert all((ROOT / name).is_file() for name in named)

"""The rules of the house that a program can check."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The rooms of the house, from the ground up, and the rooms that each may import beside itself.
MODELS = {"config", "messages", "models"}
DECODE = {*MODELS, "text", "decode", "validation", "reference"}
FILES_ = {*MODELS, "text", "validation", "weights_convert", "storage"}
DOOR = {*DECODE, *FILES_, "speed", "voice", "clip", "bark", "reference"}
ABOVE = {*DOOR, "analysis", "inspect", "barklite"}
ROOMS = {
    "config": set(),
    "messages": set(),
    "validation": {"config", "messages"},
    "weights_convert": {"config"},
    "models": {"config"},
    "text": {"config"},
    "decode": {*MODELS, "text", "validation", "reference"},
    "storage": FILES_,
    "speed": {*DECODE, "storage"},
    "reference": {*MODELS, "decode"},
    "voice": FILES_,
    "clip": {*FILES_, "voice", "analysis"},
    "analysis": {*DECODE, "storage", "voice", "clip"},
    "bark": {*DOOR, "analysis"},
    "inspect": {"analysis"},
    "command": {"config"},
    "barklite": {"bark", "clip", "config", "voice"},  # the package itself
    "corpus": ABOVE,
    "compat": ABOVE,
    "training": {*ABOVE, "command"},
    "serve": ABOVE,
    "__main__": {*ABOVE, "command", "corpus", "serve"},
}
STILL_TO_MOVE = set()


def room(name: str) -> str:
    """The room of a module: "barklite.models.gpt" is in "models"."""
    package, *rest = name.split(".")
    return package if package == "weights_convert" or not rest else rest[0]


def module(path: Path) -> str:
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


FILES = {
    module(path): path
    for package in ("barklite", "weights_convert")
    for path in (ROOT / package).rglob("*.py")
}


def imports(name: str) -> set[str]:
    """The modules of ours that a file imports, wherever in it, but for annotations alone."""
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    found, tree = set(), ast.parse(FILES[name].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join(filter(None, (*parents, node.module)))
            found |= {
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base for alias in node.names
            }
    return found


def test_every_file_is_in_a_room():
    assert {room(name) for name in FILES} <= {*ROOMS}


@pytest.mark.parametrize("name", FILES)
def test_imports_stay_within_the_floors(name):
    allowed = {room(name), *ROOMS[room(name)]}
    wrong = {(name, other) for other in imports(name) if other in FILES and room(other) not in allowed}
    assert wrong == {pair for pair in STILL_TO_MOVE if pair[0] == name}


def test_no_import_goes_in_a_circle():
    left = {name: {other for other in imports(name) if other in FILES and other != name} for name in FILES}
    while ready := {name for name, needed in left.items() if not needed & left.keys()}:
        for name in ready:
            del left[name]
    assert not left


@pytest.mark.parametrize("name", FILES)
def test_no_forbidden_imports(name):
    roots = {other.partition(".")[0] for other in imports(name)}
    assert not roots & {"transformers", "encodec", "torchaudio", "bark"}


def test_model_code_is_short():
    lines = {
        name: len(FILES[f"barklite.models.{name}"].read_text().splitlines())
        for name in ("gpt", "fine", "codec")
    }
    assert sum(lines.values()) < 400, lines


IMPORT = """
import os, sys, socket, warnings
import torch
warnings.simplefilter("ignore")  # of PyTorch, at the switches that are read here
socket.socket = None
environment, state, loaded = dict(os.environ), torch.get_rng_state(), set(sys.modules)
os.environ = type("Unread", (dict,), {"get": lambda *a: 1 / 0, "__getitem__": lambda *a: 1 / 0})(os.environ)
cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
tf32 = cuda.allow_tf32, cudnn.allow_tf32, torch.get_float32_matmul_precision()
from barklite import *
import barklite.storage.hub, weights_convert.huggingface, weights_convert.suno
assert tf32 == (cuda.allow_tf32, cudnn.allow_tf32, torch.get_float32_matmul_precision())
assert torch.equal(state, torch.get_rng_state())
assert not torch.cuda.is_initialized()
assert dict(os.environ) == environment
for heavy in ("transformers", "scipy", "huggingface_hub", "sentencepiece", "torch._dynamo", "tqdm"):
    assert heavy in loaded or heavy not in sys.modules, heavy
"""


def test_import_changes_nothing(tmp_path):
    """No environment is read, no switch set, no directory made, no network, no CUDA start, nothing heavy
    loaded.
    """
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport einops, safetensors.torch\n" + IMPORT
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_the_project_speaks_of_itself_alone():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a git checkout")
    words = ("/" + "work/", "/" + "root/", "/" + "tmp/")
    for file in files.stdout.split():
        text = (ROOT / file).read_text(encoding="utf-8", errors="ignore")
        assert not [word for word in words if word in text], file


def test_help_does_not_wait_for_pytorch():
    code = "import sys, barklite.__main__ as m\ntry: m.main(['-h'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr


def test_public_names():
    import barklite

    assert {name: getattr(barklite, name).__name__ for name in barklite.__all__} == {
        n: n for n in barklite.__all__
    }
    assert set(barklite.__all__) <= set(dir(barklite))
    with pytest.raises(AttributeError, match="no attribute 'Barks'"):
        _ = barklite.Barks

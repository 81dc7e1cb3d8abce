import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from barklite import Bark, BarkConfig
from barklite.text.tokenizer import WordPiece
from tests import builders, quick

# One thread: the models here are tiny, and threads that wait for each other cost more than they compute.
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
torch.set_num_threads(1)

# Every run tries the same examples; `--hypothesis-profile=new` tries new ones.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.register_profile("new", derandomize=False)
settings.load_profile("repeatable")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items):
    for item in items:
        if quick.chosen(item.path.stem, item.originalname):
            item.add_marker(pytest.mark.quick)


@pytest.fixture(scope="session")
def released() -> Path:
    """The released vocabulary and voices, where they lie beside the project."""
    if not SHARED.is_dir():
        pytest.skip("needs Suno's released vocabulary and voices in ../shared/data, which are not here")
    return SHARED


@pytest.fixture(scope="session")
def tiny() -> Bark:
    """Random weights with a WordPiece tokenizer: what the builders write out. Not to be changed by a test."""
    return Bark.from_config(
        BarkConfig.tiny(), seed=3, tokenizer=WordPiece(builders.vocabulary()), device="cpu"
    )


@pytest.fixture(scope="session")
def native(tiny, tmp_path_factory) -> Path:
    """barklite's own directory of `tiny`. Not to be changed by a test."""
    path = tmp_path_factory.mktemp("native") / "tiny"
    tiny.save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test sees or fills the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))


@pytest.fixture(autouse=True)
def _skip_cuda(request):
    if request.node.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")

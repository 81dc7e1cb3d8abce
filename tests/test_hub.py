"""Checkpoints and voices by Hub id: fetched, converted once, offline afterwards; by a Hub on this machine."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from barklite import Bark, Voice
from tests import builders
from tests.fakehub import FakeHub

VOICES = [builders.voice("v2/en_speaker_6"), builders.voice("announcer", seed=1)]
SCRIPT = """
import json, sys, warnings
from barklite import Bark, GenerationConfig
options = json.loads(sys.argv[1])
voice = options.pop("voice", None)
try:
    bark = Bark.from_pretrained("suno/bark-small", device="cpu", **options)
    clip = bark.generate("Hello", voice, 1, GenerationConfig(max_semantic_tokens=20))
    print(json.dumps({"codes": clip.codes.tolist()}))
except (OSError, ValueError) as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""


@pytest.fixture
def hub(tiny, tmp_path):
    folder = builders.write_huggingface(tmp_path / "hub", tiny, voices=VOICES)
    (folder / "README.md").write_text("not needed")
    (folder / "text_2.pt").write_bytes(b"not needed: the same weights in another form")
    hub = FakeHub("suno/bark-small", folder)
    yield hub
    hub.close()


def client(tmp_path, endpoint, **options):
    """What a fresh process makes of it."""
    environment = dict(os.environ, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "hf"), HF_HUB_DISABLE_XET="1")
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(options)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def expected(tiny, voice=None):
    from barklite import GenerationConfig

    return tiny.generate("Hello", voice, 1, GenerationConfig(max_semantic_tokens=20)).codes.tolist()


def test_fetch_convert_and_go_offline(hub, tiny, tmp_path):
    assert client(tmp_path, hub.endpoint)["codes"] == expected(tiny)
    fetched = {path.rpartition("/")[2] for path in hub.log if path.startswith("GET /suno")}
    assert {"pytorch_model.bin", "config.json", "generation_config.json", "vocab.txt"} <= fetched
    assert not fetched & {"README.md", "text_2.pt", "announcer_fine_prompt.npy"}
    converted = tmp_path / "cache" / "barklite" / "suno--bark-small" / hub.commit
    assert (converted / "semantic.safetensors").is_file()

    shutil.rmtree(tmp_path / "hf")  # what was converted needs the download no more
    hub.log.clear()
    assert client(tmp_path, hub.endpoint)["codes"] == expected(tiny)
    assert not [path for path in hub.log if path.endswith("pytorch_model.bin")]

    voiced = client(tmp_path, hub.endpoint, voice="v2/en_speaker_6")
    assert voiced["codes"] == expected(tiny, VOICES[0])
    assert [p for p in hub.log if "speaker_embeddings/v2" in p and p.startswith("GET")]

    hub.close()
    assert client(tmp_path, hub.endpoint, voice="v2/en_speaker_6")["codes"] == voiced["codes"]
    hub.log.clear()
    assert client(tmp_path, hub.endpoint, local_files_only=True)["codes"] == expected(tiny)
    missing = client(tmp_path, hub.endpoint, voice="announcer")
    assert missing["error"].startswith("OSError: cannot get voice 'announcer' of suno/bark-small")
    assert hub.log == []


def test_a_new_commit_is_fetched(hub, tiny, tmp_path):
    client(tmp_path, hub.endpoint)
    hub.commit = "ab" * 20
    client(tmp_path, hub.endpoint)
    assert (tmp_path / "cache" / "barklite" / "suno--bark-small" / ("ab" * 20) / "config.json").is_file()


def test_revision(hub, tiny, tmp_path):
    assert client(tmp_path, hub.endpoint, revision=hub.commit)["codes"] == expected(tiny)
    wrong = client(tmp_path, hub.endpoint, revision="no-such-branch")
    assert "suno/bark-small at no-such-branch" in wrong["error"]


def test_nothing_there(tmp_path, tiny):
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "README.md").write_text("hello")
    hub = FakeHub("suno/bark-small", folder)
    assert "holds no weights" in client(tmp_path, hub.endpoint)["error"]
    hub.close()
    assert client(tmp_path / "other", hub.endpoint)["error"].startswith("OSError: cannot get suno/bark-small")
    assert client(tmp_path / "other", hub.endpoint, local_files_only=True)["error"].startswith(
        "OSError: cannot get"
    )


def test_a_damaged_download_leaves_no_half_conversion(hub, tiny, tmp_path):
    file = tmp_path / "hub" / "pytorch_model.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "pytorch_model.bin is not a whole PyTorch file" in client(tmp_path, hub.endpoint)["error"]
    assert not list((tmp_path / "cache").rglob("config.json"))
    file.write_bytes(whole)
    hub.commit = "ab" * 20
    assert client(tmp_path, hub.endpoint)["codes"] == expected(tiny)


def test_a_repository_in_barklites_own_layout(native, tiny, tmp_path):
    folder = shutil.copytree(native, tmp_path / "hub")
    VOICES[0].save(folder / "voices" / "grandmother.npz") if (folder / "voices").is_dir() else None
    hub = FakeHub("suno/bark-small", folder)
    assert client(tmp_path, hub.endpoint)["codes"] == expected(tiny)
    hub.close()
    assert client(tmp_path, hub.endpoint)["codes"] == expected(tiny)


def test_the_hub_cache_serves_without_network(tiny, tmp_path, monkeypatch):
    """The layout that huggingface_hub leaves, filled by somebody else."""
    commit = "12" * 20
    repository = tmp_path / "hf" / "hub" / "models--suno--bark-small"
    builders.write_huggingface(repository / "snapshots" / commit, tiny, voices=VOICES)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert client(tmp_path, "http://127.0.0.1:9", voice="announcer")["codes"] == expected(tiny, VOICES[1])


def test_safetensors_are_preferred(tiny, tmp_path):
    folder = builders.write_huggingface(tmp_path / "hub", tiny, "safetensors")
    builders.write_huggingface(folder, tiny, "bin")
    hub = FakeHub("suno/bark-small", folder)
    assert client(tmp_path, hub.endpoint)["codes"] == expected(tiny)
    assert [p for p in hub.log if p.endswith("model.safetensors")]
    assert not [p for p in hub.log if p.endswith("pytorch_model.bin")]
    hub.close()
    shutil.rmtree(tmp_path / "hf")
    assert client(tmp_path, hub.endpoint)["codes"] == expected(tiny)


def test_convert_command_with_a_hub_id(hub, tiny, tmp_path):
    environment = dict(
        os.environ, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"), HF_HUB_DISABLE_XET="1"
    )
    command = [sys.executable, "-m", "barklite", "convert", "suno/bark-small", str(tmp_path / "out"), "-q"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(
        Bark.from_pretrained(tmp_path / "out", device="cpu").coarse.wpe.weight.detach(),
        tiny.coarse.wpe.weight.detach(),
    )


def test_voice_is_not_checked_against_the_network_when_it_is_a_file(tiny, tmp_path):
    VOICES[0].save(tmp_path / "v.npz")
    assert Voice.load(tmp_path / "v.npz").semantic.shape == (120,)

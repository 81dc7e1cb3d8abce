"""Checkpoints and voices by Hub id: fetched, converted once, offline afterwards; by a Hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from barklite import Bark, Voice
from barklite.storage import home
from barklite.storage import hub as hub_storage
from barklite.storage.formats import open_checkpoint
from barklite.storage.home import cache_directory
from barklite.storage.hub import download, fetch, fetch_file, fetch_voice
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


# --- in this process ----------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A Hub with given files, which this process asks: `here(folder)`."""
    from huggingface_hub import constants

    hubs = []

    def start(folder) -> FakeHub:
        hub = FakeHub("suno/bark-small", folder)
        hubs.append(hub)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        return hub

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield start
    for hub in hubs:
        hub.close()


def same(path, tiny) -> bool:
    opened = open_checkpoint(path)
    return all(
        opened.state(name)[key].equal(tensor)
        for name in ("semantic", "coarse", "fine")
        for key, tensor in getattr(tiny, name).state_dict().items()
    )


@pytest.mark.parametrize("layout", ["bin", "safetensors", "shards", "native"])
def test_offline_after_a_real_online_run(layout, here, tiny, native, tmp_path):
    """Regression: huggingface_hub 2.4 refused a commit of which it knew files that were not wanted."""
    if layout == "native":
        folder = shutil.copytree(native, tmp_path / "hub")
    else:
        folder = builders.write_huggingface(tmp_path / "hub", tiny, layout, voices=VOICES)
    (folder / "README.md").write_text("not wanted")
    server = here(folder)
    assert same(fetch("suno/bark-small"), tiny)
    if layout != "native":
        assert np.array_equal(
            fetch_voice("suno/bark-small", None, "announcer", tiny.config.tokens)["fine_prompt"],
            VOICES[1].fine,
        )
    server.log.clear()
    for options in (dict(local_files_only=True), {}):
        if not options:
            server.close()
        assert same(fetch("suno/bark-small", **options), tiny)
        shutil.rmtree(cache_directory() / "suno--bark-small", ignore_errors=True)  # its source is at hand
        assert same(fetch("suno/bark-small", **options), tiny)
        assert same(download("suno/bark-small", **options), tiny)
        assert fetch_file("suno/bark-small", "config.json", **options).is_file()
        assert fetch_file("suno/bark-small", "nothing.json", **options) is None
        with pytest.raises(OSError, match="suno/bark-small at other"):
            fetch("suno/bark-small", "other", **options)
        assert server.log == []


def damaged(path, damage):
    data, times = path.read_bytes(), path.stat()
    if damage == "deleted":
        path.unlink()
        return
    new = {"cut": data[:-1], "emptied": b"", "replaced": bytes([data[0] ^ 1]) + data[1:]}[damage]
    path.write_bytes(new)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + (damage == "replaced")))


def test_a_damaged_conversion_is_made_again(here, tiny, tmp_path):
    server = here(builders.write_huggingface(tmp_path / "hub", tiny, "safetensors", voices=VOICES))
    made = fetch("suno/bark-small")
    files = [path for path in made.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"manifest.json", "config.json", "vocab.txt", "codec.safetensors"}
    damages = ["cut", "emptied", "replaced", "deleted"]
    for i, path in enumerate(sorted(files)):
        damaged(path, damages[i % 4])
        assert home.damage(made)
        assert fetch("suno/bark-small", local_files_only=i % 2 == 1) == made
        assert home.damage(made) is None
        assert same(made, tiny)
    for path in made.rglob("*"):
        os.utime(path)  # copied, say: the contents are looked at, once
    assert home.damage(made) is None
    kept = json.loads((made / "manifest.json").read_text())
    assert all((made / name).stat().st_mtime_ns == time for name, (_, time, _) in kept.items())

    voice = fetch_voice("suno/bark-small", None, "announcer", tiny.config.tokens)
    kept = next((cache_directory() / "suno--bark-small" / "voices").rglob("*.npz"))
    kept.write_bytes(kept.read_bytes()[:100])
    again = fetch_voice("suno/bark-small", None, "announcer", tiny.config.tokens)
    assert np.array_equal(again["fine_prompt"], voice["fine_prompt"])

    shutil.rmtree(tmp_path / "hf")
    server.close()
    (made / "fine.safetensors").write_bytes(b"")
    with pytest.raises(
        OSError, match=rf"{made} is damaged \(fine.safetensors is truncated or changed; delete it\)"
    ):
        fetch("suno/bark-small")
    kept.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"if {kept} is damaged: delete it"):
        fetch_voice("suno/bark-small", None, "announcer", tiny.config.tokens)


def test_a_damaged_download_names_what_to_delete(here, tiny, tmp_path):
    server = here(builders.write_huggingface(tmp_path / "hub", tiny, "safetensors"))
    made = fetch("suno/bark-small")
    shutil.rmtree(made)
    blob = next(
        path for path in (tmp_path / "hf").rglob("*") if path.is_file() and path.stat().st_size > 2**22
    )
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-5])
    wanted = rf"model\.safetensors is not a whole.*delete {tmp_path}/hf/models--suno--bark-small"
    with pytest.raises(ValueError, match=wanted):
        fetch("suno/bark-small", local_files_only=True)
    shutil.rmtree(tmp_path / "hf" / "models--suno--bark-small")
    assert same(fetch("suno/bark-small"), tiny)
    assert server.log


ROUNDS = 2  # of eight processes


def test_first_use_by_eight_processes(here, tiny, tmp_path):
    """One downloads and converts, and the others take its result; also when the one is killed."""
    import multiprocessing

    server = here(builders.write_huggingface(tmp_path / "hub", tiny, "safetensors"))

    def first_use(wait: float):
        time.sleep(wait)
        os._exit(0 if same(fetch("suno/bark-small"), tiny) else 1)

    for i in range(ROUNDS):
        shutil.rmtree(cache_directory() / "suno--bark-small", ignore_errors=True)
        shutil.rmtree(tmp_path / "hf", ignore_errors=True)
        server.log.clear()
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=first_use, args=(0.02 * n,)) for n in range(8)]
        for process in processes:
            process.start()
        if i % 2:  # the first is in the middle of it
            time.sleep(0.3 + 0.1 * i)
            processes.pop(0).kill()
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
        if not i % 2:
            assert len([line for line in server.log if line.startswith("GET") and "safetensors" in line]) == 1
        made = cache_directory() / "suno--bark-small" / server.commit
        assert home.damage(made) is None
        assert sorted(p.name for p in made.parent.iterdir()) == sorted([server.commit, "lock", "refs"])


@pytest.mark.parametrize(
    "status, message",
    [
        (401, "log in, or set HF_TOKEN"),
        (403, "access denied"),
        (404, "not found"),
        (429, "too many requests"),
        (500, "server error"),
        (503, "server error"),
        (None, "no network"),
    ],
)
def test_answers_of_the_hub_are_told_apart(status, message, here, tiny, tmp_path, monkeypatch):
    import huggingface_hub.utils._http as http

    for name in ("_DEFAULT_RETRY_ON_STATUS_CODES", "_WAIT"):
        monkeypatch.setattr(http, name, (), raising=False)
    (tmp_path / "hub").mkdir()
    server = here(tmp_path / "hub")
    server.status = status
    if status is None:
        server.close()
    for ask in (fetch, download, lambda repo: fetch_file(repo, "config.json", token="hf_secret")):
        with pytest.raises(OSError, match=message) as error:
            ask("suno/bark-small")
        assert "suno/bark-small" in str(error.value)
        assert (str(status) in str(error.value)) == (status is not None)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("token", ["hf_wrong", "wrong\n", "hf_\u1234", "a b\x00c"])
def test_no_token_in_a_message(token, here, tiny, tmp_path, monkeypatch):
    (tmp_path / "hub").mkdir()
    server = here(tmp_path / "hub")
    server.status = 401
    for ask in (download, lambda repo, **options: fetch_file(repo, "config.json", **options)):
        with pytest.raises(OSError, match="suno/bark-small") as error:
            ask("suno/bark-small", token=token)
        assert token.strip() not in str(error.value)
    assert str(hub_storage._reason(RuntimeError("https://me:pass@hub/x Bearer abc'"), None)) == (
        "https://***@hub/x Bearer ***'"
    )


def test_voice_is_not_checked_against_the_network_when_it_is_a_file(tiny, tmp_path):
    VOICES[0].save(tmp_path / "v.npz")
    assert Voice.load(tmp_path / "v.npz").semantic.shape == (120,)

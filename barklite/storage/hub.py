"""Checkpoints and voices from the Hugging Face Hub: fetched once, converted once into the cache, offline
afterwards.

The cache is `$XDG_CACHE_HOME/barklite` (or `~/.cache/barklite`): a directory a repository, in it one a
commit.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

from ..config import TokenConfig
from ..voice import Voice
from . import atomic
from .checkpoint import convert
from .formats import ARRAYS, huggingface_voices, is_native, open_checkpoint, read_huggingface_voice

VOICES_REPO = "suno/bark-small"  # whose voices serve every checkpoint with Bark's id spaces
WEIGHTS = (  # the first form that is there is fetched
    r"(semantic|coarse|fine|codec)\.safetensors",
    r"model\.safetensors",
    r"model-.*\.safetensors|model\.safetensors\.index\.json",
    r"pytorch_model\.bin",
    r"pytorch_model-.*\.bin|pytorch_model\.bin\.index\.json",
)
REST = (
    r"config\.json|generation_config\.json|vocab\.txt|tokenizer\.(json|model)|speaker_embeddings_path\.json"
    r"|voices/.*\.npz"
)


def is_repo_id(name: str) -> bool:
    """Whether `name` has the form of a Hub id, "owner/name"."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "barklite"


def fetch(
    repo: str, revision: str | None = None, local_files_only: bool = False, encoder: bool = False
) -> Path:
    """A barklite checkpoint directory for a Hub repository, downloaded and converted if it is not in the
    cache.

    revision: a branch, tag or commit; None is "main". Without a network the last one fetched serves.
    encoder: one with the codec's encoder, kept beside the one without.
    OSError if it can neither be reached nor found in the cache; ValueError if it is no Bark.
    """
    home = cache_directory() / repo.replace("/", "--")
    reference = home / "refs" / _folder(revision)
    commit = None if local_files_only else _commit(repo, revision)
    if commit is None and reference.is_file():
        commit = reference.read_text(encoding="utf-8").strip()
    suffix = "-encoder" if encoder else ""
    if commit is None or not is_native(home / f"{commit}{suffix}"):
        snapshot = download(repo, revision, local_files_only or commit is None)
        if is_native(snapshot):
            return snapshot
        commit = snapshot.name
        if not is_native(home / f"{commit}{suffix}"):
            convert(snapshot, home / f"{commit}{suffix}", encoder=encoder, progress=None)
    reference.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(reference, commit.encode("utf-8"))
    return home / f"{commit}{suffix}"


def download(
    repo: str, revision: str | None = None, local_files_only: bool = False, subfolder: str = "", **options
) -> Path:
    """The Hub cache's directory for a repository's commit, with the files that are needed.

    subfolder: where in the repository the checkpoint is. options: further ones of `snapshot_download`,
    `cache_dir`, `token`, `force_download`.
    """
    import huggingface_hub as hub

    def snapshot(**which) -> Path:
        return Path(hub.snapshot_download(repo, revision=revision, **options, **which))

    token = options.get("token")
    if not local_files_only and _commit(repo, revision, token):
        files = _asked(repo, lambda: hub.HfApi(token=token).list_repo_files(repo, revision=revision))
        inner = re.escape(f"{subfolder}/" if subfolder else "")
        weights = next((w for w in WEIGHTS if any(re.fullmatch(inner + w, file) for file in files)), None)
        if weights is None:
            raise ValueError(f"{repo} holds no weights that barklite reads")
        wanted = [file for file in files if re.fullmatch(f"{inner}({weights}|{REST})", file)]
        return _asked(repo, lambda: snapshot(allow_patterns=wanted))
    return _asked(repo, lambda: snapshot(local_files_only=True), offline=True)


def fetch_voice(
    repo: str, revision: str | None, name: str, tokens: TokenConfig, local_files_only: bool = False
) -> Voice:
    """One of a repository's voices, kept in the cache. OSError if it cannot be had."""
    import huggingface_hub as hub

    kept = cache_directory() / repo.replace("/", "--") / "voices" / _folder(revision) / f"{name}.npz"
    if kept.is_file():
        return Voice.load(kept, tokens, name)

    offline = local_files_only or _commit(repo, revision) is None

    def file(path: str) -> Path:
        options = {"revision": revision, "local_files_only": offline}
        what = f"voice {name!r} of {repo}"
        return Path(_asked(what, lambda: hub.hf_hub_download(repo, path, **options), offline))

    try:
        paths = huggingface_voices(file("speaker_embeddings_path.json"))
    except OSError:
        if repo == VOICES_REPO:
            raise
        return fetch_voice(VOICES_REPO, None, name, tokens, local_files_only)  # it has no voices of its own
    if name not in paths:
        raise ValueError(f"{repo} has no voice {name!r}")
    voice = read_huggingface_voice({array: file(paths[name][array]) for array in ARRAYS}, name, tokens)
    kept.parent.mkdir(parents=True, exist_ok=True)
    voice.save(kept)
    return voice


def fetch_file(repo: str, file: str, revision: str | None = None, **options) -> Path | None:
    """One file of a repository, in the Hub's own cache; None where the repository has no such file.

    options: further ones of `hf_hub_download`: `subfolder`, `local_files_only`, `cache_dir`, `token`,
    `force_download`. Without a network the cache serves, and what a cached commit lacks counts as not there.
    OSError if neither can be asked.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    known = {name: value for name, value in options.items() if name != "local_files_only"}
    offline = options.get("local_files_only") or _commit(repo, revision, known.get("token")) is None
    if offline:  # asked first, because the client tries to reach the Hub for half a minute a file
        cache = {"revision": revision, "cache_dir": known.get("cache_dir"), "local_files_only": True}
        snapshot = Path(
            _asked(f"{file} of {repo}", lambda: hub.snapshot_download(repo, **cache), offline=True)
        )
        path = snapshot / (known.get("subfolder") or "") / file
        return path if path.is_file() else None
    try:
        return Path(hub.hf_hub_download(repo, file, revision=revision, **known))
    except Exception as error:  # see _commit
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise OSError(f"cannot get {file} of {repo} from the Hugging Face Hub: {_line(error)}") from None


def upload(
    directory: Path, repo: str, token: str | bool | None = None, private: bool | None = None, **commit
) -> str:
    """Put a directory's files into a repository, made if it is not there yet; gives the commit's address.

    commit: options of `upload_folder`: `revision`, `commit_message`, `create_pr`. OSError if it cannot be.
    """
    import huggingface_hub as hub

    try:
        api = hub.HfApi(token=token)
        made = api.create_repo(repo, private=private, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=made, folder_path=directory, **commit))
    except Exception as error:  # see _commit
        raise OSError(f"cannot put {directory} into {repo} on the Hugging Face Hub: {_line(error)}") from None


def _folder(revision: str | None) -> str:
    return (revision or "main").replace("/", "--")


def _commit(repo: str, revision: str | None, token: str | bool | None = None) -> str | None:
    """The commit that a revision names today; None without a network. OSError if there is no such thing."""
    import huggingface_hub as hub
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return hub.HfApi().repo_info(repo, revision=revision, timeout=10, token=token).sha
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise OSError(
            f"the Hub has no {repo}{f' at {revision}' if revision else ''}: {_line(error)}"
        ) from None
    except Exception:  # what the client raises without a network has no common class
        return None


def _asked(what: str, call: Callable, offline: bool = False):
    """The Hub's answer, or its cache's, or an OSError in a sentence."""
    try:
        return call()
    except Exception as error:  # see _commit
        reason = "no network (or told not to use it), and the cache lacks it" if offline else _line(error)
        raise OSError(f"cannot get {what} from the Hugging Face Hub: {reason}") from None


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def find(name: str, revision: str | None, local_files_only: bool, encoder: bool = False):
    """Open `name`, a directory or a Hub id: (Checkpoint, the repository it came from or None)."""
    if not name:
        raise ValueError("the model's name is empty")
    if Path(name).is_dir():
        return open_checkpoint(name, encoder), None
    if is_repo_id(name):
        return open_checkpoint(fetch(name, revision, local_files_only, encoder), encoder), name
    raise FileNotFoundError(f"{name} is neither a directory nor a Hub id such as suno/bark-small")

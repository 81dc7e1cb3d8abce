"""Downloads checkpoints and voices from the Hugging Face Hub and converts them once, into a cache.

The cache is `$XDG_CACHE_HOME/barklite` (or `~/.cache/barklite`), with a directory per repository and commit.
It serves without a network; damaged entries are made again.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..config import TokenConfig
from . import atomic, home, voices
from .checkpoint import convert
from .formats import huggingface_voices, is_native, open_checkpoint, read_huggingface_voice
from .home import cache_directory

VOICES_REPO = "suno/bark-small"  # its voices fit every checkpoint with Bark's id spaces
WEIGHTS = (  # download the first form that the repository has
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


REFUSALS = {  # HTTP statuses for which a retry is useless
    401: "no such repository for this user or token: log in, or set HF_TOKEN",
    403: "access denied: ask for it on the repository's page",
    404: "not found",
}


def is_repo_id(name: str) -> bool:
    """Whether `name` has the form of a Hub id, "owner/name"."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def fetch(
    repo: str, revision: str | None = None, local_files_only: bool = False, encoder: bool = False
) -> Path:
    """Return the barklite checkpoint directory of a Hub repository. Download and convert it unless the cache
    has it undamaged. If several processes need it, one works and the others wait.

    revision: a branch, tag or commit; None is "main". Without a network, the last fetched commit is used.
    encoder: include the codec's encoder; the cache keeps both variants.
    OSError if it is neither reachable nor in the cache; ValueError if it is not a Bark checkpoint.
    """
    folder = cache_directory() / _folder_name(repo)
    reference = folder / "refs" / _folder_name(revision or "main")
    commit, why = _commit(repo, revision, local_files_only)
    if commit is None:
        with contextlib.suppress(OSError, ValueError):
            commit = _commit_hash(reference.read_text(encoding="utf-8"))
    suffix = "-encoder" if encoder else ""
    made = folder / f"{commit}{suffix}"
    if commit is None or home.damage(made):
        reference.parent.mkdir(parents=True, exist_ok=True)
        with atomic.lock(folder / "lock", f"fetch {repo}"):
            if commit is None or (wrong := home.damage(made)):
                try:
                    snapshot = (
                        _cached(repo, commit or revision, None, why)
                        if why
                        else _download(repo, revision, commit)
                    )
                except OSError as error:
                    if not made.is_dir():
                        raise
                    raise OSError(f"{made} is damaged ({wrong}; delete it): {error}") from None
                if is_native(snapshot):
                    return snapshot
                commit, made = snapshot.name, folder / f"{snapshot.name}{suffix}"
                if home.damage(made):
                    _convert(snapshot, made, encoder)
    if not reference.is_file() or reference.read_bytes() != commit.encode():
        reference.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(reference, commit.encode())
    return made


def _convert(snapshot: Path, made: Path, encoder: bool) -> None:
    """Convert a download into the cache, replacing a damaged entry."""
    shutil.rmtree(made, ignore_errors=True)
    try:
        convert(snapshot, made, encoder=encoder, progress=None, sealed=True)
    except ValueError as error:
        raise ValueError(
            f"{error} (if the download is damaged: delete {snapshot.parents[1]} to download it again)"
        ) from None


def download(
    repo: str, revision: str | None = None, local_files_only: bool = False, subfolder: str = "", **options
) -> Path:
    """Download the needed files of a repository's commit. Return their directory in the Hub's own cache.

    subfolder: the checkpoint's folder in the repository. options: more arguments of `snapshot_download`
    (`cache_dir`, `token`, `force_download`).
    """
    commit, why = _commit(repo, revision, local_files_only, options.get("token"))
    if commit is None:
        return _cached(repo, revision, options.get("cache_dir"), why)
    return _download(repo, revision, commit, subfolder, **options)


def _download(repo: str, revision: str | None, commit: str, subfolder: str = "", **options) -> Path:
    import huggingface_hub as hub

    token = options.get("token")
    files = _call_hub(repo, lambda: hub.HfApi(token=token).list_repo_files(repo, revision=commit), token)
    inner = re.escape(f"{subfolder}/" if subfolder else "")
    forms = (f"{inner}({form})" for form in WEIGHTS)
    weights = next((form for form in forms if any(re.fullmatch(form, file) for file in files)), None)
    if weights is None:
        raise ValueError(f"{repo} holds no weights that barklite reads")
    wanted = [file for file in files if re.fullmatch(f"{weights}|{inner}({REST})", file)]
    options |= {"revision": revision, "allow_patterns": wanted}
    snapshot = Path(_call_hub(repo, lambda: hub.snapshot_download(repo, **options), token))
    for file in wanted:
        atomic.sync(snapshot / file)
    return snapshot


def fetch_voice(
    repo: str, revision: str | None, name: str, tokens: TokenConfig, local_files_only: bool = False
) -> dict[str, np.ndarray]:
    """Return the arrays of one of a repository's voices, from the cache if it is there. OSError if it is
    neither reachable nor cached, ValueError if the repository has no such voice.
    """
    import huggingface_hub as hub

    kept = (
        cache_directory() / _folder_name(repo) / "voices" / _folder_name(revision or "main") / f"{name}.npz"
    )
    damaged = None
    if kept.is_file():
        try:
            return voices.checked(voices.read_npz(kept), tokens, f"voice {name!r}")
        except ValueError as error:  # try to download it again
            damaged = ValueError(f"{error} (if {kept} is damaged: delete it to download it again)")
    commit, why = _commit(repo, revision, local_files_only)

    def file(path: str) -> Path:
        if commit is None:
            return _cached(repo, revision, None, why, path)
        what = f"voice {name!r} of {repo}"
        return Path(_call_hub(what, lambda: hub.hf_hub_download(repo, path, revision=revision)))

    try:
        paths = huggingface_voices(file("speaker_embeddings_path.json"))
        if name in paths:
            files = {array: file(paths[name][array]) for array in voices.ARRAYS}
    except OSError as error:
        if damaged:
            raise damaged from None
        if repo == VOICES_REPO:
            raise type(error)(f"cannot get voice {name!r} of {repo}: {error}") from None
        return fetch_voice(VOICES_REPO, None, name, tokens, local_files_only)  # `repo` has no voices
    if name not in paths:
        raise ValueError(f"{repo} has no voice {name!r}")
    voice = read_huggingface_voice(files, name, tokens)
    kept.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(kept, voices.npz(voice))
    return voice


def fetch_file(
    repo: str, file: str, revision: str | None = None, local_files_only: bool = False, **options
) -> Path | None:
    """Download one file of a repository into the Hub's own cache. None if the repository has no such file.

    options: more arguments of `hf_hub_download` (`subfolder`, `cache_dir`, `token`, `force_download`).
    Without a network the cached commit is used, and None means that it lacks the file. OSError if there is no
    cached commit either.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    token = options.get("token")
    commit, why = _commit(repo, revision, local_files_only, token)
    if commit is None:
        path = _cached(repo, revision, options.get("cache_dir"), why)
        path = path / (options.get("subfolder") or "") / file
        return path if path.is_file() else None
    try:
        return Path(hub.hf_hub_download(repo, file, revision=revision, **options))
    except Exception as error:  # see _commit
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise _hub_error(f"cannot get {file} of {repo} from", error, token) from None


def upload(
    directory: Path, repo: str, token: str | bool | None = None, private: bool | None = None, **commit
) -> str:
    """Upload a directory to a repository, created if it does not exist. Return the URL of the commit.

    commit: arguments of `upload_folder` (`revision`, `commit_message`, `create_pr`). OSError if it fails.
    """
    import huggingface_hub as hub

    try:
        api = hub.HfApi(token=token)
        made = api.create_repo(repo, private=private, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=made, folder_path=directory, **commit))
    except Exception as error:  # see _commit
        raise _hub_error(f"cannot put {directory} into {repo} on", error, token) from None


def _folder_name(name: str) -> str:
    return name.replace("/", "--")


def _commit_hash(text: str) -> str | None:
    """Return the 40 hex digits of a commit, or None if `text` is something else."""
    return text.strip() if re.fullmatch(r"[0-9a-f]{40}\s*", text) else None


def _commit(
    repo: str, revision: str | None, offline: bool = False, token: str | bool | None = None
) -> tuple[str | None, str]:
    """Ask the Hub for the commit of a revision: (commit, ""), or (None, reason) if the Hub cannot be reached.
    OSError if it refuses.
    """
    import huggingface_hub as hub
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        return None, "offline mode is on"
    try:
        return hub.HfApi().repo_info(repo, revision=revision, timeout=10, token=token).sha, ""
    except Exception as error:  # the client's network errors have no common class
        if _status(error) in REFUSALS or isinstance(error, ValueError):
            asked = f"{repo}{f' at {revision}' if revision else ''}"
            if _status(error) == 404:
                raise OSError(f"the Hub has no {asked}: {_reason(error, token)}") from None
            raise _hub_error(f"cannot get {asked} from", error, token) from None
        status = _status(error)
        return None, _reason(error, token) if status else f"no network ({_reason(error, token)})"


def _cached(
    repo: str, revision: str | None, cache: str | os.PathLike | None, why: str, file: str = ""
) -> Path:
    """Return a commit's directory, or a file in it, in the Hub's own cache. OSError if it is not there.

    This reads the Hub client's layout directly: some versions of the client refuse a partly downloaded
    commit, and others try to reach the Hub.
    """
    from huggingface_hub import constants

    folder = Path(cache or constants.HF_HUB_CACHE) / f"models--{_folder_name(repo)}"
    commit = revision or "main"
    with contextlib.suppress(OSError, ValueError):
        commit = _commit_hash((folder / "refs" / commit).read_text(encoding="utf-8")) or commit
    path = folder / "snapshots" / commit / file
    if not path.exists():
        what = f"{repo}{f' at {revision}' if revision and not _commit_hash(revision) else ''}"
        raise OSError(f"cannot get {what} from the Hugging Face Hub: {why}, and it is not in the cache")
    return path


def _call_hub(what: str, call: Callable, token: str | bool | None = None):
    """Return the result of `call`. Turn its errors into an OSError of one line."""
    try:
        return call()
    except Exception as error:  # see _commit
        raise _hub_error(f"cannot get {what} from", error, token) from None


def _hub_error(what: str, error: Exception, token: str | bool | None = None) -> OSError:
    """Make the OSError for a failed call. A local one, such as a full disk, is kept."""
    if isinstance(error, OSError) and error.errno is not None and error.filename:
        return type(error)(error.errno, error.strerror, error.filename)
    return OSError(f"{what} the Hugging Face Hub: {_reason(error, token)}")


def _status(error: Exception) -> int | None:
    """Return the HTTP status of an error, or None."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: Exception, token: str | bool | None) -> str:
    """Say in one line, without secrets, why a call failed."""
    status = _status(error)
    if status == 429:
        return "too many requests (429): try again in some minutes"
    if status in REFUSALS:
        return f"{REFUSALS[status]} ({status})"
    if status is not None:
        return f"server error ({status}): try again later"
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    for secret in (token, os.environ.get("HF_TOKEN")):
        line = line.replace(secret, "***") if secret and isinstance(secret, str) else line
    return re.sub(r"hf_\w+|(?<=Bearer )[^'\"]+|(?<=://)[^/\s@]+(?=@)", "***", line)


def find(name: str, revision: str | None, local_files_only: bool, encoder: bool = False):
    """Open a directory or Hub id: (Checkpoint, Hub id or None)."""
    if not name:
        raise ValueError("the model's name is empty")
    atomic.recover(Path(name))
    if Path(name).is_dir():
        return open_checkpoint(name, encoder), None
    if is_repo_id(name):
        return open_checkpoint(fetch(name, revision, local_files_only, encoder), encoder), name
    raise FileNotFoundError(f"{name} is neither a directory nor a Hub id such as suno/bark-small")

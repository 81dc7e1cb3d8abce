"""Where barklite keeps files of its own, whom it trusts there, and whether they are as they were written."""

import hashlib
import json
import os
from pathlib import Path

from . import atomic

BUILT_IN = Path(__file__).parents[1] / "assets" / "voice"  # the checkpoint that comes with barklite
MANIFEST = "manifest.json"  # {file: [bytes, time of its last change, SHA-256]}


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/barklite`, or `~/.cache/barklite`. OSError for a user without a home directory."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "barklite"
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise OSError("there is no home directory for a cache: set XDG_CACHE_HOME to a directory")
    return Path(home) / ".cache" / "barklite"


def private(path: Path) -> Path:
    """A directory that nobody but this user can read or change, made if need be; its path without links.

    OSError, which says what to do, if another user could: owner and mode are checked, and of each parent that
    no other user can put another directory in this one's place.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = path.resolve()
    if not hasattr(os, "getuid"):  # Windows, where a home directory is its user's
        return path
    us = os.getuid()
    for folder in (path, *path.parents):
        status = folder.stat()
        mode = status.st_mode
        if folder == path:
            safe = status.st_uid == us and not mode & 0o077
        else:  # a group of the user's own number has no other members; in a sticky directory names stay
            others = 0o002 if status.st_gid == us else 0o022
            safe = status.st_uid in (0, us) and (not mode & others or mode & 0o1000)
        if not safe:
            wanted = "700" if folder == path else "go-w"
            raise PermissionError(
                f"other users could change {folder}: nothing is run from there "
                f"(chmod {wanted}, chown, or set XDG_CACHE_HOME to a directory of your own)"
            )
    return path


def seal(directory: Path) -> None:
    """Write down what files a directory has, for `damage`."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != MANIFEST]
    listed = {path.relative_to(directory).as_posix(): [*_measured(path), _sha256(path)] for path in files}
    atomic.write_bytes(directory / MANIFEST, json.dumps(listed, indent=1).encode())


def damage(directory: Path) -> str | None:
    """What is wrong with a sealed directory, or None.

    Every file's size and time are looked at, and its content where only the time is another: then, if all is
    well, the new times are written down.
    """
    try:
        touched = False
        for name, (*measured, sha256) in json.loads((directory / MANIFEST).read_bytes()).items():
            size, time = _measured(directory / name)
            if size != measured[0] or (time != measured[1] and _sha256(directory / name) != sha256):
                return f"{name} is cut or changed"
            touched |= time != measured[1]
    except FileNotFoundError as error:
        return f"{os.path.basename(error.filename)} is missing"
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} cannot be used: {error}"
    if touched and os.access(directory, os.W_OK):
        seal(directory)
    return None


def _measured(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while part := file.read(2**22):
            digest.update(part)
        return digest.hexdigest()

"""barklite's cache directory: its path, its permissions, and checksums that detect damaged files."""

import hashlib
import json
import os
from pathlib import Path

from . import atomic

BUILT_IN = Path(__file__).parents[1] / "assets" / "voice"  # checkpoint of the built-in model
MANIFEST = "manifest.json"  # {file: [bytes, time of its last change, SHA-256]}


def cache_directory() -> Path:
    """Return `$XDG_CACHE_HOME/barklite` or `~/.cache/barklite`. OSError if the user has no home directory."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "barklite"
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise OSError("there is no home directory for a cache: set XDG_CACHE_HOME to a directory")
    return Path(home) / ".cache" / "barklite"


def private(path: Path) -> Path:
    """Create a directory that only this user can read or change, if it does not exist. Return its real path.

    Checks owner and mode, and that no other user could replace the directory or a parent of it. OSError, with
    advice, if one could.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = path.resolve()
    if not hasattr(os, "getuid"):  # Windows: home directories are private
        return path
    us = os.getuid()
    for folder in (path, *path.parents):
        status = folder.stat()
        mode = status.st_mode
        if folder == path:
            safe = status.st_uid == us and not mode & 0o077
        else:  # a group with the user's own id has no other members; a sticky directory protects its entries
            others = 0o002 if status.st_gid == us else 0o022
            safe = status.st_uid in (0, us) and (not mode & others or mode & 0o1000)
        if not safe:
            wanted = "700" if folder == path else "go-w"
            raise PermissionError(
                f"other users could change {folder}: barklite runs no code from there "
                f"(chmod {wanted}, chown, or set XDG_CACHE_HOME to a directory of your own)"
            )
    return path


def seal(directory: Path) -> None:
    """Write a manifest of a directory's files, for `damage`."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != MANIFEST]
    listed = {path.relative_to(directory).as_posix(): [*_measured(path), _sha256(path)] for path in files}
    atomic.write_bytes(directory / MANIFEST, json.dumps(listed, indent=1).encode())


def damage(directory: Path) -> str | None:
    """Return what is wrong with a sealed directory, or None.

    Compares each file's size and modification time with the manifest. If only times differ it compares the
    checksums, and updates the manifest if they match.
    """
    try:
        touched = False
        for name, (*measured, sha256) in json.loads((directory / MANIFEST).read_bytes()).items():
            size, time = _measured(directory / name)
            if size != measured[0] or (time != measured[1] and _sha256(directory / name) != sha256):
                return f"{name} is truncated or changed"
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

"""Where barklite keeps files of its own, and whom it trusts there."""

import os
from pathlib import Path


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
    path, us = path.resolve(), os.getuid()
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

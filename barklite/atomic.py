"""Files appear whole: every output is written beside its place and renamed (or, failing, removed)."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Put `data` at `path`: a reader sees the old file or the whole new one, never a part.

    A device or pipe (`/dev/stdout`) is written to, not replaced; a symbolic link stays and its target
    changes. Raises OSError naming `path` (no such directory, no permission, disk full) and then leaves no
    trace.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as file:  # a directory raises IsADirectoryError here
                file.write(data)
        else:
            _write_beside(Path(os.path.realpath(path)), data)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from None


def _write_beside(target: Path, data: bytes) -> None:
    descriptor, unfinished = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        os.replace(unfinished, target)
    except BaseException:
        os.unlink(unfinished)
        raise


@contextlib.contextmanager
def directory(path: str | os.PathLike, replaces: bool = False) -> Iterator[Path]:
    """A fresh directory to fill, that becomes `path` when the block ends well and vanishes when it does not.

    An empty `path` is replaced, a full one only if `replaces`: else FileExistsError.
    """
    path = Path(os.path.realpath(path))
    full = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if full and not (replaces and path.is_dir()):
        raise FileExistsError(f"{path} exists and is not empty: name another directory, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield unfinished
        unfinished.chmod(0o777 & ~_umask())
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            os.replace(path, old)  # onto an empty directory: allowed, and atomic
            os.replace(unfinished, path)
            shutil.rmtree(old)
        else:
            os.replace(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_writable(path: str | os.PathLike) -> None:
    """Raise OSError now if a file could not be made at `path`, before minutes are spent on its content."""
    device = os.path.exists(path) and not os.path.isfile(path)  # or a pipe, or a directory
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, not a file name")
    if not device:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the directory {path.parent} does not exist")
        try:
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(path.parent)) from None


def _umask() -> int:
    """The process's mask; POSIX can only tell it by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

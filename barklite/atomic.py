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
    changes. Raises OSError (no such directory, no permission, disk full) and then leaves no trace.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:  # a directory raises IsADirectoryError here
            file.write(data)
        return
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
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
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            os.replace(path, old)  # onto an empty directory: allowed, and atomic
            os.replace(partial, path)
            shutil.rmtree(old)
        else:
            os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_writable(path: str | os.PathLike) -> None:
    """Raise OSError now if a file could not be made at `path`, before minutes are spent on its content."""
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, not a file name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the directory {path.parent} does not exist")
    if not path.exists() or path.is_file():
        try:
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise type(error)(error.errno, f"cannot write into {path.parent}: {error.strerror}") from None


def _umask() -> int:
    """The process's mask; POSIX can only tell it by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

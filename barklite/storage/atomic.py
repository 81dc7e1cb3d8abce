"""Files appear whole: every output is written beside its place and renamed (or, failing, removed)."""

import contextlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Put `data` at `path`, as `writing` does."""
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write and seek in, which becomes `path` when the block ends well, and else vanishes.

    A reader sees the old file or the whole new one, never a part. A device or pipe (`/dev/stdout`) is written
    to at the end, not replaced; a symbolic link stays and its target changes. Raises OSError naming `path`
    (no such directory, no permission, disk full) and then leaves no trace.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with (
                open(path, "wb") as device,
                io.BytesIO() as file,
            ):  # a directory raises IsADirectoryError here
                yield file
                device.write(file.getbuffer())
        else:
            with _beside_it(Path(os.path.realpath(path))) as file:
                yield file
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from None


@contextlib.contextmanager
def _beside_it(target: Path) -> Iterator[BinaryIO]:
    unfinished = _beside(target)
    mode = target.stat().st_mode & 0o777 if target.exists() else None
    descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave a renamed file without its content
        if mode is not None:
            os.chmod(unfinished, mode)
        os.replace(unfinished, target)
    except BaseException:
        os.unlink(unfinished)
        raise


@contextlib.contextmanager
def directory(path: str | os.PathLike, replaces: bool = False) -> Iterator[Path]:
    """A fresh directory to fill, that becomes `path` when the block ends well and vanishes when it does not.

    An empty `path` is replaced, a full one only if `replaces`: else FileExistsError, also for one that was
    filled in the meantime. An interrupt leaves either the old directory or the new one.
    """
    path = Path(os.path.realpath(path))
    full = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if full and not (replaces and path.is_dir()):
        raise _exists(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _beside(path)
    unfinished.mkdir()
    try:
        yield unfinished
        if full:
            _swap(unfinished, path)
        else:
            try:
                os.replace(unfinished, path)  # onto nothing, or onto an empty directory
            except OSError:
                raise _exists(path) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    old = _beside(path)
    os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException:
        os.replace(old, path)
        raise
    shutil.rmtree(old)


def check_writable(path: str | os.PathLike) -> None:
    """Raise OSError now if a file could not be made at `path`, before minutes are spent on its content."""
    device = os.path.exists(path) and not os.path.isfile(path)  # or a pipe, or a directory
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, not a file name")
    if device:
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the directory {path.parent} does not exist")
    trial = _beside(path)
    try:
        os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.unlink(trial)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path.parent)) from None


def _beside(path: Path) -> Path:
    """A new, short, hidden name in the same directory: renaming within it is atomic."""
    return path.parent / f".{secrets.token_hex(6)}.partial"


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(f"{path} exists and is not empty: name another directory, or remove it")

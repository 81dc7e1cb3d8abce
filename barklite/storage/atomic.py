"""Files appear whole: each is written beside its place, flushed to the disk and renamed, or else removed.

What is unfinished has a random hidden name and is locked by the process that fills it. What nobody locks was
left by a process that died: the next one that writes into the same directory removes it.
"""

import contextlib
import ctypes
import io
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # no locks here: nothing is swept, and nobody waits
    fcntl = None

NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)  # of a file that must not be there
OLD = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Put `data` at `path`, as `writing` does."""
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write and seek in, which becomes `path` when the block ends well, and else vanishes.

    A reader sees the old file or the whole new one, never a part, whenever the process or the power goes. A
    device or pipe (`/dev/stdout`) is written to at the end, not replaced; a symbolic link stays and its
    target changes. Raises OSError naming `path` (no such directory, no permission, disk full) and then leaves
    no trace.
    """
    with _naming(path):
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as device, io.BytesIO() as file:  # of a directory IsADirectoryError
                yield file
                device.write(file.getbuffer())
            return
        with placing(path) as unfinished, open(unfinished, "x+b") as file:
            yield file


@contextlib.contextmanager
def placing(path: str | os.PathLike) -> Iterator[Path]:
    """Where to put a file that becomes `path`, as in `writing`, for what opens files by name.

    It is alone in a directory, which is locked: a writer may have temporary files of its own beside it.
    """
    with _naming(path):
        target = Path(os.path.realpath(path))
        scratch, descriptor = _unfinished(target.parent, _make_directory)
        unfinished = scratch / "file"
        try:
            yield unfinished
            if target.exists():
                os.chmod(unfinished, target.stat().st_mode & 0o777)
            sync(unfinished)  # or a power cut could leave the name without the content
            os.replace(unfinished, target)
            sync(target.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            os.close(descriptor)


@contextlib.contextmanager
def directory(path: str | os.PathLike, replaces: bool = False) -> Iterator[Path]:
    """A fresh directory to fill, that becomes `path` when the block ends well and vanishes when it does not.

    An empty `path` is replaced, a full one only if `replaces`: else FileExistsError, also for one that was
    filled in the meantime. At every moment either the old directory or the new one is there; on a file system
    that cannot exchange two names in one step, `recover` brings back the old one.
    """
    with _naming(path):
        path = Path(os.path.realpath(path))
        recover(path)
        full = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if full and not (replaces and path.is_dir()):
            raise _exists(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished, descriptor = _unfinished(path.parent, _make_directory)
        try:
            yield unfinished
            for folder, _, names in os.walk(unfinished, topdown=False):
                for name in (*names, ""):
                    sync(os.path.join(folder, name))
            if full:
                _swap(unfinished, path)
            else:
                try:
                    os.replace(unfinished, path)  # onto nothing, or onto an empty directory
                except OSError:
                    raise _exists(path) from None
            sync(path.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)  # after a swap it holds what was there before
            os.close(descriptor)


def recover(path: Path) -> None:
    """Bring back a directory whose replacement was cut short between two steps."""
    old = _old(path)
    with contextlib.suppress(OSError):
        if not os.path.lexists(path):
            os.rename(old, path)
        elif old.is_dir():
            shutil.rmtree(old)


def _swap(new: Path, path: Path) -> None:
    """Make `new` the directory `path`; what was there is at `new` then, or gone."""
    if not _exchanged(new, path):
        os.rename(path, _old(path))
        try:
            os.rename(new, path)
        finally:  # puts the old one back, or removes it
            recover(path)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two names were exchanged, in one step: not every system and file system can."""
    libc, names = ctypes.CDLL(None), (os.fsencode(one), os.fsencode(other))
    if hasattr(libc, "renameat2"):  # Linux: AT_FDCWD and RENAME_EXCHANGE
        return libc.renameat2(-100, names[0], -100, names[1], 2) == 0
    return hasattr(libc, "renamex_np") and libc.renamex_np(*names, 2) == 0  # macOS: RENAME_SWAP


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.barklite-old")


def check_writable(path: str | os.PathLike) -> None:
    """Raise OSError now if a file could not be made at `path`, before minutes are spent on its content."""
    with _naming(path):
        device = os.path.exists(path) and not os.path.isfile(path)  # or a pipe, or a directory
        path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, not a file name")
    if device:
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the directory {path.parent} does not exist")
    with _naming(path.parent):
        trial, descriptor = unfinished_file(path.parent)
        os.unlink(trial)
        os.close(descriptor)


def unfinished_file(folder: Path) -> tuple[Path, int]:
    """A new file in a directory, to be renamed or removed, and its descriptor, which locks it."""
    return _unfinished(folder, lambda path: os.open(path, NEW, 0o666))


def _make_directory(path: Path) -> int:
    path.mkdir()
    return os.open(path, OLD)


def _unfinished(folder: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    sweep(os.path.abspath(folder))
    while True:  # another process may take it for a dead one's before it is locked
        path = folder / f".{secrets.token_hex(6)}.partial"
        try:
            descriptor = make(path)
        except FileNotFoundError:
            if folder.is_dir():
                continue
            raise
        _locked(descriptor)
        if os.path.lexists(path):
            return path, descriptor
        os.close(descriptor)


@lru_cache(maxsize=1000)
def sweep(folder: str) -> None:
    """Remove what processes that died left unfinished in a directory. It is looked through once a process."""
    names = []
    with contextlib.suppress(OSError):
        names = os.listdir(folder)
    for name in names:
        if re.fullmatch(r"\.[0-9a-f]{12}\.partial", name):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                descriptor = os.open(path, OLD | getattr(os, "O_NONBLOCK", 0))
                try:
                    if _locked(descriptor, wait=False):
                        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
                finally:
                    os.close(descriptor)


@contextlib.contextmanager
def lock(path: Path, work: str, shared: bool = False) -> Iterator[None]:
    """Hold a lock, which others wait for; a dead process holds none. path: a file for it, made and kept.

    work: what they wait for, in the line on stderr that says so.
    """
    descriptor = -1
    with contextlib.suppress(OSError):  # where nothing can be written, nothing has to be locked
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        if descriptor >= 0 and _locked(descriptor, shared, wait=False) is False:
            print(f"barklite: waiting for another process to {work} ...", file=sys.stderr, flush=True)
            _locked(descriptor, shared)
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _locked(descriptor: int, shared: bool = False, wait: bool = True) -> bool | None:
    """Whether an open file is ours now, until it is closed; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        return True
    except BlockingIOError:
        return False
    except (OSError, AttributeError):
        return None


def sync(path: str | os.PathLike) -> None:
    """Flush a file, or a directory's names, to the disk; where a directory cannot be, that is all right."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # nobody may read it
        return
    try:
        os.fsync(descriptor)
    except OSError:
        if not os.path.isdir(path):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _naming(path: str | os.PathLike) -> Iterator[None]:
    """An OSError about what is unfinished, or about no file, names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename and ".partial" not in os.fsdecode(error.filename)):
            raise
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from None


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(f"{path} exists and is not empty: name another directory, or remove it")

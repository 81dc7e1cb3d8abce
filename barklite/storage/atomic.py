"""Atomic writing: each file is written under a temporary name, flushed to disk and renamed, or removed.

Unfinished files have random hidden names and are locked by the process that writes them. One without a lock
was left by a process that died; the next process that writes into the same directory removes it.
"""

import contextlib
import ctypes
import io
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from ..messages import tell

try:
    import fcntl
except ImportError:  # Windows has no such locks: `sweep` removes nothing and `lock` does not wait
    fcntl = None

NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)  # the file must not exist
OLD = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path` atomically. Errors as in `writing`."""
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Yield a file to write and seek in. It becomes `path` when the block ends; an exception deletes it.

    Readers see the old file or the complete new one, even after a crash or power cut. A device or pipe
    (`/dev/stdout`) is not replaced but written to at the end; for a symbolic link the target is replaced.
    OSError naming `path` (no such directory, no permission, disk full) leaves no file behind.
    """
    with _errors_name(path):
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as device, io.BytesIO() as file:  # IsADirectoryError for a directory
                yield file
                device.write(file.getbuffer())
            return
        with placing(path) as unfinished, open(unfinished, "x+b") as file:
            yield file


@contextlib.contextmanager
def placing(path: str | os.PathLike) -> Iterator[Path]:
    """Like `writing`, but yield the path of the file to create, for libraries that open files by name.

    The file gets a locked directory of its own, where the library may put temporary files.
    """
    with _errors_name(path):
        target = Path(os.path.realpath(path))
        scratch, descriptor = _unfinished(target.parent, _make_directory)
        unfinished = scratch / "file"
        try:
            yield unfinished
            if target.exists():
                os.chmod(unfinished, target.stat().st_mode & 0o777)
            sync(unfinished)  # otherwise a power cut could leave an empty file under the final name
            os.replace(unfinished, target)
            sync(target.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            os.close(descriptor)


@contextlib.contextmanager
def directory(path: str | os.PathLike, replaces: bool = False) -> Iterator[Path]:
    """Yield a new directory to fill. It becomes `path` when the block ends; an exception deletes it.

    An empty `path` is replaced. One with files is replaced only if `replaces` is set, else FileExistsError,
    also if it got files during the block. The old or the new directory exists at any time; on a file system
    without atomic exchange, `recover` restores the old one after a crash.
    """
    with _errors_name(path):
        path = Path(os.path.realpath(path))
        recover(path)
        full = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if full and not (replaces and path.is_dir()):
            raise _not_empty(path)
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
                    os.replace(unfinished, path)  # fails if `path` has files
                except OSError:
                    raise _not_empty(path) from None
            sync(path.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)  # after a swap this is the old directory
            os.close(descriptor)


def recover(path: Path) -> None:
    """Restore a directory whose replacement was interrupted between two renames."""
    old = _backup_of(path)
    with contextlib.suppress(OSError):
        if not old.is_dir():
            return
        if os.path.lexists(path):
            shutil.rmtree(old)
        else:
            os.rename(old, path)


def _swap(new: Path, path: Path) -> None:
    """Move directory `new` to `path`. The old directory is afterwards at `new`, or deleted."""
    if not _exchanged(new, path):
        os.rename(path, _backup_of(path))
        try:
            os.rename(new, path)
        finally:
            recover(path)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names atomically. False if the system or file system cannot."""
    libc, names = ctypes.CDLL(None), (os.fsencode(one), os.fsencode(other))
    if hasattr(libc, "renameat2"):  # Linux: AT_FDCWD and RENAME_EXCHANGE
        return libc.renameat2(-100, names[0], -100, names[1], 2) == 0
    return hasattr(libc, "renamex_np") and libc.renamex_np(*names, 2) == 0  # macOS: RENAME_SWAP


def _backup_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.barklite-old")


def check_writable(path: str | os.PathLike) -> None:
    """OSError if no file can be created at `path`. Call it before a long computation of the content."""
    with _errors_name(path):
        device = os.path.exists(path) and not os.path.isfile(path)  # or a pipe, or a directory
        path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, not a file name")
    if device:
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the directory {path.parent} does not exist")
    with _errors_name(path.parent):
        trial, descriptor = unfinished_file(path.parent)
        os.unlink(trial)
        os.close(descriptor)


def unfinished_file(folder: Path) -> tuple[Path, int]:
    """Create a temporary file in a directory. Return its path and the descriptor that locks it."""
    return _unfinished(folder, lambda path: os.open(path, NEW, 0o666))


def _make_directory(path: Path) -> int:
    path.mkdir()
    return os.open(path, OLD)


def _unfinished(folder: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    sweep(os.path.abspath(folder))
    while True:  # another process may remove it before it is locked
        path = folder / f".{secrets.token_hex(6)}.partial"
        try:
            descriptor = make(path)
            _locked(descriptor)
            there = os.path.lexists(path)
        except FileNotFoundError:
            if folder.is_dir():
                continue
            raise
        except SystemExit:  # by a signal
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
            raise
        if there:
            return path, descriptor
        os.close(descriptor)


@lru_cache(maxsize=1000)
def sweep(folder: str) -> None:
    """Remove unfinished files of dead processes from a directory, once in the life of this process."""
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
    """Hold the lock file `path`, created if missing. The system releases it when the process ends.

    work: what the lock is for; waiting processes print it on stderr.
    """
    descriptor = -1
    with contextlib.suppress(OSError):  # a read-only directory needs no lock
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        if descriptor >= 0 and _locked(descriptor, shared, wait=False) is False:
            tell(f"waiting for another process to {work} ...")
            _locked(descriptor, shared)
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _locked(descriptor: int, shared: bool = False, wait: bool = True) -> bool | None:
    """Lock an open file until it is closed. False if another process has it, None without lock support."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        return True
    except BlockingIOError:
        return False
    except (OSError, AttributeError):
        return None


def sync(path: str | os.PathLike) -> None:
    """Flush a file or directory to disk. Ignores systems that cannot flush directories."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # not readable
        return
    try:
        os.fsync(descriptor)
    except OSError:
        if not os.path.isdir(path):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _errors_name(path: str | os.PathLike) -> Iterator[None]:
    """Make an OSError name `path` if it names a temporary file or none."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename and ".partial" not in os.fsdecode(error.filename)):
            raise
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from None


def _not_empty(path: Path) -> FileExistsError:
    return FileExistsError(f"{path} exists and is not empty: name another directory, or remove it")

"""Shared by the commands: argument parsing, and errors as one line on stderr instead of a traceback."""

import argparse
import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO

from .config import Options

MAX_NAME = 5000  # characters of a file name in messages; longer than any valid path


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations, whose usage errors are one line."""

    def __init__(self, name: str, description: str):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(name, description=description, formatter_class=formatter, allow_abbrev=False)

    def add_options(self, title: str, kind: type[Options], *names: str) -> "argparse._ArgumentGroup":
        """Add a group of flags for fields of a dataclass, with their types, defaults and help."""
        group = self.add_argument_group(title)
        fields = {field.name: field for field in dataclasses.fields(kind)}
        for name in names:
            field, flag = fields[name], f"--{name.replace('_', '-')}"
            help = field.metadata["help"].replace("%", "%%")
            if type(field.default) is bool:
                group.add_argument(flag, action="store_true", help=help)
            else:
                number = {int: int, int | None: int, float: float}.get(field.type, str)
                metavar = None if number is str else "N" if number is int else "S"
                group.add_argument(flag, type=number, default=field.default, metavar=metavar, help=help)
        return group

    def error(self, message: str) -> NoReturn:
        super().error(sentence(ValueError(f"{message:.300}")))


def options_of(options: argparse.Namespace, kind: type[Options]) -> Options:
    """Make the dataclass `kind` from parsed flags. ValueError for bad values."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in vars(options).items() if name in names})


def open_streams() -> None:
    """Connect standard streams that were closed at start (`2>&-`) to /dev/null.

    Otherwise the next file opened would get the stream's descriptor, and receive its output.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", closefd=False))  # noqa: SIM115


def run(name: str, act: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Run `act` and return its exit status. If it raises, print a line on stderr and return 1, or 130 if
    interrupted.

    `python -X dev` raises unexpected errors instead.
    """
    status = 1
    try:
        status = act()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        message, status = interrupted, 130
        # Python ends by the signal if it interrupted an `exec` (of a dataclass, say); another resets that.
        exec("")
    except BrokenPipeError:  # the reader of the output has gone
        message = ""
    except MemoryError as error:
        message = f"not enough memory {sentence(error)}"
    except (ValueError, OSError, ImportError) as error:  # ImportError: an extra that is not installed
        message = sentence(error)
    except Exception as error:
        if "out of memory" in str(error):  # PyTorch's RuntimeError for a device
            message = "the device is out of memory: try --offload or a smaller model"
        elif sys.flags.dev_mode:
            raise
        else:
            kind = type(error).__name__
            message = f"this is a bug in barklite, please report it: {kind}: {sentence(error)}"
    _flush(sys.stdout)
    if message:
        say(f"{name}: {message}".rstrip())
    return status or 1


def say(line: str) -> None:
    """Print a line on stderr; ignore a stderr that is closed or full."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr)
    _flush(sys.stderr)


def _flush(stream: TextIO) -> None:
    """Flush a stream. If that fails, point it to /dev/null, so that Python does not fail again at exit."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def sentence(error: Exception) -> str:
    """Format an error as one line, an OSError with the file name first."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror[:1].lower()}{error.strerror[1:]}"
        if error.filename:
            text = f"{_escaped(str(error.filename)):.{MAX_NAME}}: {text}"
        elif isinstance(error, FileNotFoundError) and not _cwd_exists():
            text = "the working directory no longer exists: change to another one"
    return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
    """Escape control characters, which could move the terminal's cursor."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda match: ascii(match[0])[1:-1], text)


def _cwd_exists() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False

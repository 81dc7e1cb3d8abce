"""What the commands share: streams that are open, and mistakes told in one line, never by a traceback."""

import argparse
import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO

from .config import Options

NAME = 5000  # characters of a file's name that are shown; no system has longer ones


class Parser(argparse.ArgumentParser):
    """Options are given in full, and wrong usage gets one line, whatever was typed."""

    def __init__(self, name: str, description: str):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(name, description=description, formatter_class=formatter, allow_abbrev=False)

    def add_options(self, title: str, kind: type[Options], *names: str) -> "argparse._ArgumentGroup":
        """A group of flags made of a dataclass's fields: their types, defaults and help."""
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


def given(options: argparse.Namespace, kind: type[Options]) -> Options:
    """The dataclass that a command's flags fill; ValueError for bad values."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in vars(options).items() if name in names})


def open_streams() -> None:
    """Give a process that was started with a closed standard stream (`2>&-`) one that leads nowhere.

    Else the next file opened would take the stream's number, and be written to by whoever means the stream.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", closefd=False))  # noqa: SIM115


def run(name: str, act: Callable[[], int], interrupted: str = "interrupted") -> int:
    """What `act` returns, the exit status; where it raises, a line on stderr and 1, or 130 if interrupted.

    `python -X dev` lets an error come through that no command should meet.
    """
    status = 1
    try:
        status = act()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        message, status = interrupted, 130
    except BrokenPipeError:  # the reader of our output left: nobody is there to be told
        message = ""
    except MemoryError as error:
        message = f"not enough memory {sentence(error)}"
    except (ValueError, OSError, ImportError) as error:  # the last for an extra that is not installed
        message = sentence(error)
    except Exception as error:
        if "out of memory" in str(error):  # PyTorch's RuntimeError for a device
            message = "the device is out of memory: try --offload or a smaller model"
        elif sys.flags.dev_mode:
            raise
        else:
            kind = type(error).__name__
            message = f"this is a mistake in barklite, please report it: {kind}: {sentence(error)}"
    _settle(sys.stdout)
    if message:
        say(f"{name}: {message}".rstrip())
    return status or 1


def say(line: str) -> None:
    """Print a line on stderr, if that takes it."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr)
    _settle(sys.stderr)


def _settle(stream: TextIO) -> None:
    """Write out what a stream holds, or forget it: else Python tries again at its end, and complains."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def sentence(error: Exception) -> str:
    """An error as one line; the operating system's with the file's name in front."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror[:1].lower()}{error.strerror[1:]}"
        if error.filename:
            text = f"{_visible(str(error.filename)):.{NAME}}: {text}"
        elif isinstance(error, FileNotFoundError) and not _here():
            text = "the working directory is gone: change to another one"
    return _visible(" ".join(text.split()))


def _visible(text: str) -> str:
    """Control characters as Python writes them: in a file's name they could move a terminal's cursor."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda match: ascii(match[0])[1:-1], text)


def _here() -> bool:
    """Whether the working directory is still there."""
    try:
        return bool(os.getcwd())
    except OSError:
        return False

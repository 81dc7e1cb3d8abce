"""Shortens texts and errors that error messages quote, and prints progress on stderr."""

import sys

MAX_LENGTH = 500  # characters of a quoted error


def shortened(text: str) -> str:
    """Quote a text for an error message: escaped, at most 40 characters."""
    return ascii(text) if len(text) <= 40 else f"{ascii(text[:37])[:-1]}...'"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most `MAX_LENGTH` characters, or its class name."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line if len(line) <= MAX_LENGTH else f"{line[:MAX_LENGTH]} ..."


def tell(line: str) -> None:
    """Print a line on stderr, unless it is closed: `print` would write it to stdout then."""
    if sys.stderr is not None:
        print(f"barklite: {line}", file=sys.stderr, flush=True)

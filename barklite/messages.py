"""Shortens texts and errors that error messages quote."""

MAX_LENGTH = 500  # characters of a quoted error


def shortened(text: str) -> str:
    """Quote a text for an error message: escaped, at most 40 characters."""
    return ascii(text) if len(text) <= 40 else f"{ascii(text[:37])[:-1]}...'"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most `MAX_LENGTH` characters, or its class name."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line if len(line) <= MAX_LENGTH else f"{line[:MAX_LENGTH]} ..."

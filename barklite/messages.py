"""How errors quote what was given: at most a line of it."""

LONGEST = 500  # characters of an error: a file may quote more of itself than anybody reads


def shortened(text: str) -> str:
    """A text as an error message quotes it."""
    return ascii(text) if len(text) <= 40 else f"{ascii(text[:37])[:-1]}...'"


def first_line(error: Exception) -> str:
    """What a longer message begins with, at most `LONGEST` characters; its class where it has none."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."

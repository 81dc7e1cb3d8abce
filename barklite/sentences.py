"""A long text in pieces that Bark can speak, split at the softest places."""

import re
from collections.abc import Callable, Iterator

# Where a sentence may end: its mark, closing quotes or brackets, then a space (none is needed after CJK
# marks).
_SENTENCE = re.compile(r"""(?<=[.!?…।])["'”’»)\]]*\s+|(?<=[。！？])["'”’」』）]*\s*|\n\s*\n""")
_CLAUSE = re.compile(r"(?<=[,;:–—])\s+|(?<=[、，；：])\s*")
_WORD = re.compile(r"\s+")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|vs|etc|e\.g|i\.e|No|Vol|Fig|approx|Hr|Fr|Nr|bzw|z\.B|M|Mme|Sra?)|\b[A-Z])\.$"
)


def split(text: str, fits: Callable[[str], bool]) -> list[str]:
    """The sentences of `text`, each such that `fits` (it has few enough tokens), in order and with nothing
    lost.

    A sentence that does not fit is split at clauses, then words, then characters.
    """
    return [piece for sentence in _sentences(text) for piece in _fitted(sentence, fits, (_CLAUSE, _WORD))]


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for mark in _SENTENCE.finditer(text):
        sentence = text[start : mark.end()].strip()
        if _ABBREVIATION.search(sentence) and "\n\n" not in mark.group():
            continue
        if sentence:
            yield sentence
        start = mark.end()
    if rest := text[start:].strip():
        yield rest


def _fitted(piece: str, fits: Callable[[str], bool], seams: tuple[re.Pattern, ...]) -> Iterator[str]:
    """`piece`, or as few parts of it as fit."""
    if fits(piece):
        yield piece
        return
    if not seams:
        middle = max(1, len(piece) // 2)
        if len(piece) == 1:
            yield piece
        else:
            yield from _fitted(piece[:middle], fits, ())
            yield from _fitted(piece[middle:], fits, ())
        return
    ends = [mark.end() for mark in seams[0].finditer(piece)] + [len(piece)]
    start = 0
    while ends:
        n = _longest(lambda n: fits(piece[start : ends[n - 1]].strip()), len(ends))  # noqa: B023
        part = piece[start : ends[max(n, 1) - 1]].strip()
        yield from [part] if n else _fitted(part, fits, seams[1:])  # or not even the first part fits
        start, ends = ends[max(n, 1) - 1], ends[max(n, 1) :]


def _longest(fits: Callable[[int], bool], most: int) -> int:
    """The largest n up to `most` that fits, 0 if none does; what is longer than one that does not fit does
    not.
    """
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low

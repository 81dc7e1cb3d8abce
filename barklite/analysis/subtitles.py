"""Word times as files: SubRip and WebVTT subtitles, JSON. One clip, or the clips of a long text one after the
other.
"""

import contextlib
import json
import os
import textwrap
from dataclasses import dataclass, replace
from itertools import pairwise

from ..storage import atomic
from .align import Word, align, typed

LINE = 42  # characters a line of subtitles, two lines a cue
LONGEST = 7.0  # seconds a cue
GAP = 0.8  # seconds of silence that end a cue
_SENTENCE = tuple(".!?…。！？؟।")


@dataclass(frozen=True)
class Segment:
    """What one clip says, in seconds of the whole sound. `end` is before the pause that may follow."""

    text: str
    start: float
    end: float
    words: list[Word]
    seed: int
    finish_reason: str


class Transcript:
    """The segments of clips that are added in the order in which they sound.

    voice: the one that was given to `Bark.generate` or `Bark.stream`. Without one, as in a stream, all others
    continue the first clip that is long enough.
    """

    def __init__(self, bark, voice=None):
        self.bark, self.voice, self.segments, self._samples = bark, voice, [], 0

    def add(self, clip) -> Segment:
        """Align a clip and append it."""
        at = self._samples / clip.sample_rate
        words = align(self.bark, clip, self.voice).words if len(clip.semantic) else []
        words = [replace(w, start=round(w.start + at, 3), end=round(w.end + at, 3)) for w in words]
        end = round(at + min(clip.seconds, len(clip.semantic) / clip.tokens.semantic_rate), 3)
        made = Segment(clip.text, round(at, 3), end, words, clip.seed, clip.finish_reason)
        self.segments.append(made)
        self._samples += len(clip.audio)
        if self.voice is None:
            with contextlib.suppress(ValueError):  # too short to be a voice
                self.voice = clip.voice()
        return made

    def save(self, path: str | os.PathLike) -> None:
        """Write a .srt, .vtt or .json, whole or not at all. ValueError for another name, OSError if it
        cannot.
        """
        atomic.write_bytes(path, FORMATS[format_of(path)](self.segments).encode("utf-8"))


def format_of(path: str | os.PathLike) -> str:
    """The one of FORMATS that a file name ends in. ValueError for another or none."""
    suffix = os.path.splitext(os.fspath(path))[1]
    if suffix[1:].lower() not in FORMATS:
        known = "word times are written as .srt, .vtt or .json"
        raise ValueError(f"{known}, not {suffix or os.fspath(path)!r}: name the file so")
    return suffix[1:].lower()


def cues(segment: Segment) -> list[list[tuple[Word, str]]]:
    """A segment's words in groups to be shown together, each word with the marks and the space around it."""
    runs = {first: (begin, end) for begin, first, _, end in typed(segment.text)}
    found: list[list[tuple[Word, str]]] = []
    edges = [(runs[word.first], word) for word in segment.words]
    for ((begin, end), word), following in pairwise([*edges, None]):
        shown = segment.text[begin : following[0][0] if following else end]
        if found and not _breaks(found[-1], word, shown):
            found[-1].append((word, shown))
        else:
            found.append([(word, shown)])
    return found


def _breaks(cue: list[tuple[Word, str]], word: Word, shown: str) -> bool:
    """Whether a word begins a new cue."""
    if word.end <= word.start:  # hurried over: it has no time of its own
        return False
    length = sum(len(text) for _, text in cue) + len(shown.rstrip())
    sentence = cue[-1][1].rstrip().rstrip("\"'”’»)]」』").endswith(_SENTENCE) and length > LINE
    before = cue[-1][0]
    return (
        sentence or length > 2 * LINE or word.end - cue[0][0].start > LONGEST or word.start - before.end > GAP
    )


def _stamp(seconds: float, point: str) -> str:
    ms = round(1000 * seconds)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _text(cue: list[tuple[Word, str]]) -> str:
    return " ".join("".join(shown for _, shown in cue).split())


def srt(segments: list[Segment]) -> str:
    """SubRip."""
    blocks = []
    for segment in segments:
        for cue in cues(segment):
            times = f"{_stamp(cue[0][0].start, ',')} --> {_stamp(cue[-1][0].end, ',')}"
            lines = textwrap.wrap(_text(cue), LINE, break_long_words=False) or [""]
            blocks.append("\n".join([str(len(blocks) + 1), times, *lines]) + "\n")
    return "\n".join(blocks)


def vtt(segments: list[Segment]) -> str:
    """WebVTT, with the time of each word in its cue."""
    blocks = ["WEBVTT\n"]
    for segment in segments:
        for cue in cues(segment):
            parts = []
            for i, (word, shown) in enumerate(cue):
                plain = " ".join(shown.split()) + " " * (shown[-1:].isspace() and i + 1 < len(cue))
                plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
                inside = i and cue[i - 1][0].start < word.start < cue[-1][0].end  # they must grow
                parts.append(f"<{_stamp(word.start, '.')}>{plain}" if inside else plain)
            times = f"{_stamp(cue[0][0].start, '.')} --> {_stamp(cue[-1][0].end, '.')}"
            blocks.append(f"{times}\n{''.join(parts)}\n")
    return "\n".join(blocks)


def as_json(segments: list[Segment]) -> str:
    """An object with `segments`, each with its `words`: times in seconds, `first` and `last` in its text."""

    def plain(segment: Segment) -> dict:
        words = [
            {"word": w.text, "start": w.start, "end": w.end, "first": w.first, "last": w.last}
            for w in segment.words
        ]
        return {**vars(segment), "words": words}

    return json.dumps({"segments": [plain(one) for one in segments]}, ensure_ascii=False, indent=1) + "\n"


FORMATS = {"srt": srt, "vtt": vtt, "json": as_json}

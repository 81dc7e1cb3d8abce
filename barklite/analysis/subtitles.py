"""Writes word times as SubRip or WebVTT subtitles or JSON, for one clip or the clips of a long text."""

import contextlib
import json
import os
import textwrap
from dataclasses import dataclass, replace
from itertools import pairwise

from ..storage import atomic
from .align import Word, align, words_of

LINE = 42  # characters per line of subtitles; a cue has two lines
LONGEST = 7.0  # seconds per cue
GAP = 0.8  # seconds of silence that end a cue
_SENTENCE = tuple(".!?…。！？؟।")


@dataclass(frozen=True)
class Segment:
    """The words of one clip, with times in seconds of the whole audio. `end` excludes a following pause."""

    text: str
    start: float
    end: float
    words: list[Word]
    seed: int
    finish_reason: str


class Transcript:
    """Segments of consecutive clips.

    voice: the one given to `Bark.generate` or `Bark.stream`. If None, later clips use the voice of the first
    clip that is long enough, as in `Bark.stream`.
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
        """Write a .srt, .vtt or .json atomically. ValueError for another suffix, OSError if it fails."""
        atomic.write_bytes(path, FORMATS[format_of(path)](self.segments).encode("utf-8"))


def format_of(path: str | os.PathLike) -> str:
    """Return the one of FORMATS that a file name's suffix gives. ValueError for another or none."""
    suffix = os.path.splitext(os.fspath(path))[1]
    if suffix[1:].lower() not in FORMATS:
        known = "word times are written as .srt, .vtt or .json"
        raise ValueError(f"{known}, not {suffix or os.fspath(path)!r}: change the suffix")
    return suffix[1:].lower()


def cues(segment: Segment) -> list[list[tuple[Word, str]]]:
    """Group a segment's words into cues: lists of (word, its text with the marks and space around it)."""
    runs = {first: (begin, end) for begin, first, _, end in words_of(segment.text)}
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
    if word.end <= word.start:  # a word without a duration
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
    """Format segments as SubRip."""
    blocks = []
    for segment in segments:
        for cue in cues(segment):
            times = f"{_stamp(cue[0][0].start, ',')} --> {_stamp(cue[-1][0].end, ',')}"
            lines = textwrap.wrap(_text(cue), LINE, break_long_words=False) or [""]
            blocks.append("\n".join([str(len(blocks) + 1), times, *lines]) + "\n")
    return "\n".join(blocks)


def vtt(segments: list[Segment]) -> str:
    """Format segments as WebVTT, with a timestamp for each word."""
    blocks = ["WEBVTT\n"]
    for segment in segments:
        for cue in cues(segment):
            parts = []
            for i, (word, shown) in enumerate(cue):
                plain = " ".join(shown.split()) + " " * (shown[-1:].isspace() and i + 1 < len(cue))
                plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
                inside = i and cue[i - 1][0].start < word.start < cue[-1][0].end  # timestamps must increase
                parts.append(f"<{_stamp(word.start, '.')}>{plain}" if inside else plain)
            times = f"{_stamp(cue[0][0].start, '.')} --> {_stamp(cue[-1][0].end, '.')}"
            blocks.append(f"{times}\n{''.join(parts)}\n")
    return "\n".join(blocks)


def as_json(segments: list[Segment]) -> str:
    """Format segments as JSON: {"segments": [...]}, each with "words", whose times are in seconds."""

    def plain(segment: Segment) -> dict:
        words = [
            {"word": w.text, "start": w.start, "end": w.end, "first": w.first, "last": w.last}
            for w in segment.words
        ]
        return {**vars(segment), "words": words}

    return json.dumps({"segments": [plain(one) for one in segments]}, ensure_ascii=False, indent=1) + "\n"


FORMATS = {"srt": srt, "vtt": vtt, "json": as_json}

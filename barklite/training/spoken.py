"""Makes the built-in voice's corpus: texts spoken by flite, with semantic tokens from its phones and pitch.

A semantic token encodes a frame's phone, its pitch class (relative to the speaker's mean), and the frame's
index within the phone (limited for long phones). So the tokens encode content, timing and intonation, but not
the speaker. Most texts get no audio and train only the semantic model; for the others the speakers alternate.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..messages import first_line
from .data import Writer
from .speech import PAUSE, RATE, TRACK, Speaker, Speech, speak

UNITS = "units.json"
CHUNK = 250  # texts per job
CLASS = 0.7  # width of a pitch class, in standard deviations of the speaker's pitch
BREAK = 14  # frames of the pause between two sentences; flite's own are as short as at a comma
LOWEST, HIGHEST = -4, 5  # pitch classes
VOICELESS = frozenset(f"{PAUSE} p t k ch f th s sh hh".split())


def write_corpus(
    directory: Path,
    texts: Sequence[str],
    speakers: Sequence[Speaker],
    n_audio: int,
    frames_a_unit: int,
    frame: int,
    processes: int,
) -> int:
    """Speak `texts`, with audio for the first `n_audio`. Return the number of semantic ids.

    A unit is a phone with its pitch class. `units.json` lists the units, most frequent first. A semantic id
    is index of the unit * frames_a_unit + frame within the unit.
    """
    jobs = [
        (
            texts[i : i + CHUNK],
            [speakers[j % len(speakers)] for j in range(i, i + CHUNK)],
            i,
            n_audio,
            frame,
        )
        for i in range(0, len(texts), CHUNK)
    ]
    with get_context("spawn").Pool(processes) as pool:
        chunks = tqdm(pool.imap(_spoken, jobs), total=len(jobs), desc="speaking", unit=" chunks")
        rows = [row for chunk in chunks for row in chunk]

    counts = Counter(unit for _, _, _, frames, _ in rows for unit, _ in frames)
    order = {unit: i for i, (unit, _) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item)))}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / UNITS).write_text(json.dumps(list(order)), encoding="utf-8")
    last = frames_a_unit - 1
    with Writer(directory) as corpus:
        for text, speaker, audio, frames, spans in rows:
            semantic = np.array([order[unit] * frames_a_unit + min(k, last) for unit, k in frames])
            sound = None if audio is None else audio.astype(np.float32) / 32767
            corpus.add(text, speaker, sound, semantic, spans)
    return len(order) * frames_a_unit


def pause(directory: Path, frames_a_unit: int) -> list[int]:
    """Return the semantic tokens of the pause between two sentences; none for a corpus of other tokens."""
    units = units_of(directory)
    if PAUSE not in units:
        return []
    first = units.index(PAUSE) * frames_a_unit
    return [first + min(k, frames_a_unit - 1) for k in range(BREAK)]


def beginnings(directory: Path, frames_a_unit: int) -> range:
    """Return the semantic tokens of the units' first frames; none for a corpus of other tokens."""
    return range(0, len(units_of(directory)) * frames_a_unit, frames_a_unit)


def units_of(directory: Path) -> list[str]:
    """Read `units.json`; an empty list without one. ValueError if it is damaged."""
    file = directory / UNITS
    try:
        units = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {first_line(error)}") from None
    if not (isinstance(units, list) and all(isinstance(unit, str) for unit in units)):
        raise ValueError(f"{file} is damaged: it is not a list of names")
    return units


def _spoken(job) -> list[tuple]:
    """Run one job. Return (text, speaker, int16 audio or None, [(unit, frame within it)], spans) per text."""
    texts, speakers, first, n_audio, frame = job
    rows = []
    for i, (text, speaker) in enumerate(zip(texts, speakers, strict=False), start=first):
        keep_audio = i < n_audio
        speech = speak(text, speaker, keep_audio)
        if speech is None:
            continue
        n = len(speech.audio) // frame
        audio = np.clip(np.round(speech.audio[: n * frame] * 32767), -32768, 32767).astype(np.int16)
        frames, which = framed(units(speech, speaker), n, frame / RATE)
        rows.append(
            (text, speaker.name, audio if keep_audio else None, frames, spans_of(text, speech, which))
        )
    return rows


def units(speech: Speech, speaker: Speaker) -> list[tuple[float, str]]:
    """Return (start in seconds, unit) of each phone: its name, for a voiced one with its pitch class."""
    ends = [start for start, _ in speech.phones[1:]] + [np.inf]
    at, found = np.arange(len(speech.f0)) * TRACK, []
    for (start, name), end in zip(speech.phones, ends, strict=True):
        f0 = speech.f0[(at >= start) & (at < end) & (speech.f0 > 0)]
        if len(f0) and name not in VOICELESS:
            height = np.log(f0 / speaker.f0).mean() / speaker.spread
            name += f"{int(np.clip(np.round(height / CLASS), LOWEST, HIGHEST)):+d}"
        found.append((start, name))
    return found


def framed(
    units: Sequence[tuple[float, str]], n: int, seconds: float
) -> tuple[list[tuple[str, int]], np.ndarray]:
    """Return for each of n frames the unit at its middle and the frame's index within it, and the indices
    into `units`.
    """
    middles = (np.arange(n) + 0.5) * seconds
    starts = np.array([start for start, _ in units])
    which = np.clip(np.searchsorted(starts, middles, side="right") - 1, 0, len(units) - 1)
    first = np.searchsorted(middles, starts[which])
    within = np.maximum(np.arange(n) - first, 0)
    return [(units[p][1], int(k)) for p, k in zip(which, within, strict=True)], which


def spans_of(text: str, speech: Speech, which: Iterable[int]) -> np.ndarray:
    """Return (N, 2): the first and last character of `text` that each frame may belong to. A word's phones
    are spread evenly over its letters, with some tolerance.
    """
    phones, words = speech.phones, [position for _, position in speech.words]
    begins = np.array([start for start, _ in speech.words])
    starts = np.array([start for start, _ in phones])
    word = np.clip(np.searchsorted(begins, starts + 1e-4, side="right") - 1, 0, len(words) - 1)
    spans = np.zeros((len(phones), 2), np.int64)
    for w in np.unique(word):
        inside = np.flatnonzero(word == w)
        first = words[w]
        last = max(first + 1, words[w + 1] if w + 1 < len(words) else len(text))  # one beyond
        spoken = [p for p in inside if phones[p][1] != PAUSE]
        for p in inside:
            if p in spoken:
                at = first + (spoken.index(p) + 0.5) / len(spoken) * (last - first)
                spans[p] = max(first, int(at - 1.5)), min(last - 1, int(np.ceil(at + 0.5)))
            elif starts[p] > begins[0]:  # a pause belongs to the end of its word
                spans[p] = last - 1
    return np.clip(spans, 0, len(text) - 1)[np.asarray(which)]

"""The built-in voice's corpus: texts spoken by espeak-ng, with semantic tokens from its own phonemes.

A semantic token says which phoneme sounds in a frame, and in which of its frames we are (the last one stays
for the rest of a long phoneme): what is said and when, but not who says it. Most texts need no sound at all,
they teach the semantic model; the others are spoken in turn by each speaker.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .data import Writer
from .speech import Speaker, Speech, speak

PHONEMES = "phonemes.json"
CHUNK = 500  # texts a process: each starts anew, so that the synthesiser's noise depends on no others


def write_corpus(
    directory: Path,
    texts: Sequence[str],
    speakers: Sequence[Speaker],
    n_aloud: int,
    frames_a_phoneme: int,
    sample_rate: int,
    frame: int,
    processes: int,
) -> int:
    """Speak `texts`, keep the sound of the first `n_aloud`; gives the number of semantic ids.

    The order of phonemes, most frequent first, is kept in `phonemes.json`: id = place * frames_a_phoneme +
    frame.
    """
    jobs = [
        (texts[i : i + CHUNK], [speakers[j % len(speakers)] for j in range(i, i + CHUNK)], i, n_aloud)
        for i in range(0, len(texts), CHUNK)
    ]
    jobs = [(*job, sample_rate, frame) for job in jobs]
    with get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        chunks = tqdm(pool.imap(_spoken, jobs), total=len(jobs), desc="speaking", unit=" chunks")
        rows = [row for chunk in chunks for row in chunk]

    counts = Counter(name for _, _, _, frames, _ in rows for name, _ in frames)
    order = {name: i for i, (name, _) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item)))}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / PHONEMES).write_text(json.dumps(list(order)), encoding="utf-8")
    last = frames_a_phoneme - 1
    with Writer(directory) as corpus:
        for text, speaker, audio, frames, spans in rows:
            semantic = np.array([order[name] * frames_a_phoneme + min(k, last) for name, k in frames])
            sound = None if audio is None else audio.astype(np.float32) / 32767
            corpus.add(text, speaker, sound, semantic, spans)
    return len(order) * frames_a_phoneme


def _spoken(job) -> list[tuple]:
    """One process's texts: (text, speaker, int16 audio or None, [(phoneme, its frame)], spans)."""
    texts, speakers, first, n_aloud, sample_rate, frame = job
    rows = []
    for i, (text, speaker) in enumerate(zip(texts, speakers, strict=False), start=first):
        speech = speak(text, speaker, sample_rate, frame, aligned=i < n_aloud)
        n = round(len(speech.audio) / frame)
        if n == 0 or not speech.phonemes:
            continue
        frames, which = framed(speech.phonemes, n, frame)
        spans = spans_of(text, speech, which)
        audio = None
        if i < n_aloud:
            audio = np.zeros(n * frame, np.int16)
            sound = np.clip(np.round(speech.audio[: n * frame] * 32767), -32768, 32767)
            audio[: len(sound)] = sound
        rows.append((text, speaker.name, audio, frames, spans))
    return rows


def framed(
    phonemes: Sequence[tuple[float, str]], n: int, frame: int
) -> tuple[list[tuple[str, int]], np.ndarray]:
    """Which phoneme sounds at the middle of each of n frames, with the frames since it began; and its place
    in `phonemes`.
    """
    middles = (np.arange(n) + 0.5) * frame
    starts = np.array([start for start, _ in phonemes])
    which = np.clip(np.searchsorted(starts, middles, side="right") - 1, 0, len(phonemes) - 1)
    first = np.searchsorted(middles, starts[which])
    within = np.maximum(np.arange(n) - first, 0)
    return [(phonemes[p][1], int(k)) for p, k in zip(which, within, strict=True)], which


def spans_of(text: str, speech: Speech, which: Iterable[int]) -> np.ndarray:
    """(N, 2): the first and last character of `text` that each frame may be speaking, generously: a word's
    phonemes and letters run side by side.
    """
    phonemes, words = speech.phonemes, [position for _, position in speech.words] or [0]
    begins = np.array([start for start, _ in speech.words] or [0.0])
    starts = np.array([start for start, _ in phonemes])
    word = np.clip(np.searchsorted(begins, starts + 1, side="right") - 1, 0, len(words) - 1)
    spans = np.zeros((len(phonemes), 2), np.int64)
    for w in np.unique(word):
        inside = np.flatnonzero(word == w)
        first = words[w]
        last = max(first + 1, words[w + 1] if w + 1 < len(words) else len(text))  # one beyond
        spoken = [p for p in inside if not phonemes[p][1].startswith("_")]
        for p in inside:
            if p in spoken:
                at = first + (spoken.index(p) + 0.5) / len(spoken) * (last - first)
                spans[p] = max(first, int(at - 1.5)), min(last - 1, int(np.ceil(at + 0.5)))
            else:  # a pause is at the end of its word
                spans[p] = last - 1
    return np.clip(spans, 0, len(text) - 1)[np.asarray(which)]

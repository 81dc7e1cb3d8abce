"""Measures the accuracy of the word times that `barklite.inspect.align` reads off the attention.

    python -m benchmarks.alignment              the built-in voice: 120 sentences, 2 speakers
    python -m benchmarks.alignment --limit 5    a quick look

The voice's teacher, a synthesiser, reports when each of its words starts and ends. Dynamic time warping of
the spectra transfers these times to the clip of the same sentence, with an error of about one frame of 10 ms.
None of the sentences is in a training text. Prints a table, and a line of JSON at the end.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.signal import stft

from barklite import Bark
from barklite.analysis.align import align, warp, words_of
from barklite.text.english import spell_out
from barklite.training.recipe import SPEAKERS
from barklite.training.speech import PAUSE, RATE, Speaker, flite, speak
from barklite.training.texts import HELD_OUT
from barklite.validation import pick_device

from . import natural
from .intelligibility import BATCH, sentences
from .jobs import note, rounded
from .report import table

HOP = 0.01  # seconds between two spectra
BANDS = 32


def teacher(text: str, speaker: Speaker) -> tuple[np.ndarray, np.ndarray]:
    """Return the synthesiser's audio (samples,), and start and end of each typed word in seconds, (n, 2).

    ValueError if it reads other words than those typed.
    """
    speech = speak(spell_out(text), speaker)
    firsts = [first for _, first, *_ in words_of(text)]
    if speech is None or [first for _, first in speech.words] != firsts:
        raise ValueError(f"the synthesiser reads other words than those of {text!r}")
    phones = [(start, name != PAUSE) for start, name in speech.phones]
    phones.append((len(speech.audio) / RATE, False))
    begins = [*(start for start, _ in speech.words), phones[-1][0]]
    times = []
    for begin, end in pairwise(begins):
        inside = [i for i, (start, sound) in enumerate(phones) if begin <= start < end and sound]
        times.append((phones[inside[0]][0], phones[inside[-1] + 1][0]))  # without pauses around it
    return speech.audio, np.array(times)


def spectra(audio: np.ndarray) -> np.ndarray:
    """Return log spectra (T, BANDS) of loudness-normalised audio (samples,) at `RATE`, one every `HOP` s."""
    hop = round(HOP * RATE)
    _, _, spectrum = stft(audio / max(np.abs(audio).max(), 1e-6), nperseg=4 * hop, noverlap=3 * hop)
    edges = np.geomspace(1, len(spectrum), BANDS + 1).astype(int)
    bands = [np.abs(spectrum[a : max(b, a + 1)]).mean(0) for a, b in pairwise(edges)]
    return np.log(np.array(bands).T + 1e-4)


def carried(times: np.ndarray, source: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """Map times in `source` to times in `clip`, in seconds. Both are audio at `RATE`."""
    a, b = spectra(source), spectra(clip)
    cost = np.sqrt(((b[:, None] - a[None]) ** 2).mean(-1))  # (N, W)
    _, starts = warp(cost[None])
    at = np.arange(len(a)) * HOP
    return np.interp(times, at, starts[0] * HOP)


def measure(options: argparse.Namespace) -> dict:
    """Measure all sentences in all voices. Return plain JSON types."""
    bark = Bark.from_pretrained(options.checkpoint, device=options.device)
    speakers, voices = {speaker.name: speaker for speaker in SPEAKERS}, {}
    seeds = [options.seed + i for i in range(len(options.texts))]
    for voice in options.voices:
        if voice not in speakers:
            raise SystemExit(f"--voices: {voice!r} is not one of {', '.join(speakers)}")
        clips = bark.generate_batch(options.texts, voice, seeds, batch_size=BATCH)
        errors, heads, left_out = [], Counter(), 0
        for clip in clips:
            found = align(bark, clip, voice)
            heads.update(f"{layer}.{head}" for layer, head in found.heads)
            audio, times = teacher(clip.text, speakers[voice])
            if len(times) != len(found.words):  # a clip that was cut
                left_out += len(times)
                continue
            true = carried(times, audio, natural.at_rate(clip.audio, clip.sample_rate))
            errors.append(np.array([(word.start, word.end) for word in found.words]) - true)
        errors = np.concatenate(errors) if errors else np.zeros((0, 2))
        note(f"{voice}: {len(errors)} words aligned")
        voices[voice] = {
            "words": len(errors),
            "left_out": left_out,
            "heads": dict(heads.most_common()),
            "start": spread(errors[:, 0]),
            "end": spread(errors[:, 1]),
            "both": spread(errors.ravel()),
        }
    return {
        "benchmark": "alignment",
        "checkpoint": "given" if options.checkpoint else "built-in",
        "sentences": len(options.texts),
        "seed": options.seed,
        "voices": voices,
    }


def spread(errors: np.ndarray) -> dict[str, float]:
    """Return median and 90 % quantile of the absolute errors, and the signed median, in milliseconds."""
    if not len(errors):
        return {}
    size = 1000 * np.abs(errors)
    named = {"median": np.median(size), "p90": np.percentile(size, 90), "bias": 1000 * np.median(errors)}
    return {name: rounded(float(value)) for name, value in named.items()}


def in_words(result: dict) -> str:
    """Format the result."""
    rows = [
        [
            f"{voice}, {which}",
            str(found["words"]),
            *(f"{found[which][name]:.0f}" for name in ("median", "p90", "bias")),
        ]
        for voice, found in result["voices"].items()
        for which in ("start", "end", "both")
        if found["words"]
    ]
    parts = [f"{result['sentences']} sentences: errors of the words' times in milliseconds."]
    parts.append(table(["voice", "words", "median", "90 % within", "bias"], rows))
    for voice, found in result["voices"].items():
        heads = ", ".join(f"{name} ({n})" for name, n in found["heads"].items())
        parts.append(f"{voice}: {found['left_out']} words left out; layer.head (sentences): {heads}.")
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.alignment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="another one than the built-in")
    parser.add_argument("--sentences", metavar="FILE", type=Path, default=HELD_OUT, help="one a line")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first sentences")
    parser.add_argument("--voices", metavar="A,B", default=",".join(one.name for one in SPEAKERS))
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the first sentence (0)")
    parser.add_argument("--device", help="cpu or cuda (the best there is)")
    options = parser.parse_args(arguments)
    options.voices = options.voices.split(",")
    try:
        flite()
        options.device = pick_device(options.device)
        options.texts = sentences(options.sentences)[: options.limit]
    except (ValueError, OSError) as error:
        raise SystemExit(f"benchmarks.alignment: {error}") from None
    result = measure(options)
    print(in_words(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()

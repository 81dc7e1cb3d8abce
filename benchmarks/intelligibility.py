"""Measures how intelligible and natural a voice is: word error rate of a speech recogniser, distance to the
source, and an estimated mean opinion score.

    python -m benchmarks.intelligibility              the built-in voice: 120 sentences, 2 speakers
    python -m benchmarks.intelligibility --limit 5    a quick look
    python -m benchmarks.intelligibility --plots DIR  and spectrograms and sounds of the first sentence
    python -m benchmarks.intelligibility --sentences barklite/training/harder.txt
                                                      40 with names, numbers and subordinate clauses

Each speaker is measured as "source" (flite, the synthesiser that was the teacher), as "codec" (the source
encoded and decoded), and as barklite in each weight format. None of the sentences is in a training text. The
recogniser, pocketsphinx with the English model of its package, makes errors of its own, so compare with the
source on the same sentences. Intervals are from a bootstrap over sentences. `natural` explains the other
numbers. Prints tables, and a line of JSON at the end.
"""

import argparse
import gc
import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from barklite import Bark
from barklite.clip import plotting, wav
from barklite.storage.atomic import write_bytes
from barklite.text.english import spell_out
from barklite.training.recipe import SPEAKERS
from barklite.training.speech import RATE, Speaker, flite, speak
from barklite.training.texts import HELD_OUT
from barklite.validation import pick_device

from . import ceiling, natural, systems
from .jobs import note, rounded
from .report import short, table
from .systems import FORMATS

BATCH = 8  # sentences spoken at a time
RESAMPLES = 2000  # of the bootstrap
RESOLUTION = 25  # Hz, of the spectrograms: a line at the frame rate stands apart
NATURE = {  # the columns of the second table: all but the last are distances to the source
    "distortion_db": "mel cepstral distortion, dB",
    "pitch_correlation": "pitch: correlation",
    "pitch_rmse_semitones": "semitones off",
    "voicing_differs": "voicing differs",
    "hum_db": "hum at the frame rate, dB",
}


def sentences(file: Path) -> list[str]:
    """Return the lines of `file` that have words."""
    return [line for line in file.read_text(encoding="utf-8").splitlines() if words(line)]


# --- counting errors ----------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """Return lower-case words, of letters and inner apostrophes."""
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower().replace("’", "'"))


def edits(said: Sequence[str], heard: Sequence[str]) -> tuple[int, int, int]:
    """Return the substitutions, deletions and insertions of the shortest edit from `said` to `heard`
    (Levenshtein, 1966).
    """
    above = [(j, 0, 0, j) for j in range(len(heard) + 1)]  # their sum, then each
    for i, word in enumerate(said, 1):
        row = [(i, 0, i, 0)]
        for j, other in enumerate(heard, 1):
            (n, r, o, p), wrong = above[j - 1], word != other
            replaced = (n + wrong, r + wrong, o, p)
            n, r, o, p = above[j]
            left_out = (n + 1, r, o + 1, p)
            n, r, o, p = row[-1]
            row.append(min(replaced, left_out, (n + 1, r, o, p + 1), key=lambda found: found[0]))
        above = row
    return above[-1][1:]


def with_interval(errors: np.ndarray, lengths: np.ndarray) -> dict[str, float]:
    """Return errors per word and their 95 % bootstrap interval, "low" and "high".

    errors: per sentence (n,), or paired differences. lengths: words per sentence (n,).
    """
    drawn = np.random.default_rng(0).integers(len(errors), size=(RESAMPLES, len(errors)))
    low, high = np.percentile(errors[drawn].sum(1) / lengths[drawn].sum(1), (2.5, 97.5))
    value = errors.sum() / lengths.sum()
    return {"value": float(value), "low": float(low), "high": float(high)}


class Recogniser:
    """pocketsphinx, without adaptation between recordings."""

    sample_rate = 16_000

    def __init__(self):
        try:
            from pocketsphinx import Decoder
        except ImportError:
            raise SystemExit("the recogniser is missing: pip install pocketsphinx") from None
        self.name = f"pocketsphinx {version('pocketsphinx')}"
        self.decoder = Decoder(samprate=self.sample_rate, loglevel="FATAL")

    def hear(self, audio: np.ndarray, sample_rate: int) -> str:
        """Recognise audio (samples,). Return the text, "" for none."""
        self.decoder.reinit_feat()  # reset the noise estimate of the last recording
        self.decoder.start_utt()
        self.decoder.process_raw(self.prepared(audio, sample_rate), full_utt=True)
        self.decoder.end_utt()
        found = self.decoder.hyp()
        return found.hypstr if found else ""

    def prepared(self, audio: np.ndarray, sample_rate: int) -> bytes:
        """Return loudness-normalised 16-bit PCM, padded with pauses, with inaudible noise added."""
        common = math.gcd(self.sample_rate, sample_rate)
        audio = resample_poly(audio.astype(np.float64), self.sample_rate // common, sample_rate // common)
        audio *= 0.7 / max(np.abs(audio).max(initial=0), 1e-6)
        audio = np.pad(audio, self.sample_rate // 4)
        audio += np.random.default_rng(0).normal(
            0, 1e-3, len(audio)
        )  # on digital silence the decoder guesses
        return (audio * 32767).astype(np.int16).tobytes()


# --- speaking -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """All sentences by one system in one voice.

    work_s: seconds to synthesise them. cut: how many ended at the length limit. None if not applicable.
    """

    voice: str
    system: str
    audio: list[np.ndarray]
    sample_rate: int
    frame_rate: float
    work_s: float | None = None
    cut: int | None = None

    @property
    def audio_s(self) -> float:
        """Seconds of audio."""
        return sum(map(len, self.audio)) / self.sample_rate


def readings(options: argparse.Namespace, left_out: list[str]) -> Iterator[Reading]:
    """Yield each voice by each system, sources first. Adds those that cannot run to `left_out`, with why."""
    for format in options.formats:
        chosen = {"dtype": "float32", **systems.options_of(format)}
        bark = Bark.from_pretrained(options.checkpoint, device=options.device, **chosen)
        if format == options.formats[0]:
            for voice in options.voices:
                if voice not in bark.voices:
                    raise SystemExit(f"--voices: {voice!r} is not one of {', '.join(bark.voices)}")
            yield from originals(bark, options, left_out)
        seeds = [options.seed + i for i in range(len(options.texts))]
        for voice in options.voices:
            start = time.perf_counter()
            clips = bark.generate_batch(options.texts, voice, seeds, batch_size=BATCH)
            yield Reading(
                voice,
                f"barklite {format}",
                [clip.audio for clip in clips],
                bark.config.codec.sample_rate,
                bark.config.tokens.frame_rate,
                time.perf_counter() - start,
                sum(clip.finish_reason == "length" for clip in clips),
            )
        del bark
        gc.collect()


def originals(bark: Bark, options: argparse.Namespace, left_out: list[str]) -> Iterator[Reading]:
    """Return the synthesiser's readings, and the codec's reconstruction of them."""
    try:
        flite()
    except OSError as error:
        left_out.append(f"source and codec: {error}")
        return
    if bark.codec.encoder is None:
        left_out.append("codec: the checkpoint does not have its encoder")
    speakers = {speaker.name: speaker for speaker in SPEAKERS}
    for voice in options.voices:
        if voice not in speakers:
            left_out.append(f"source and codec of {voice}: no speaker of the recipe has this name")
            continue
        spoken = [said(text, speakers[voice]) for text in options.texts]
        frame_rate = bark.config.tokens.frame_rate
        yield Reading(voice, "source", spoken, RATE, frame_rate)
        if bark.codec.encoder is not None:
            rate = bark.config.codec.sample_rate
            common = math.gcd(rate, RATE)
            codes = [bark.encode(resample_poly(one, rate // common, RATE // common)) for one in spoken]
            decoded = [bark.decode([one])[0].cpu().numpy() for one in codes]
            yield Reading(voice, "codec", decoded, rate, frame_rate)


def said(text: str, speaker: Speaker) -> np.ndarray:
    """Synthesise the text as typed. ValueError if the synthesiser reads other words."""
    speech = speak(spell_out(text), speaker)
    if speech is None:
        raise ValueError(f"flite reads other words than are in {text!r}")
    return speech.audio


# --- measuring ----------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> dict:
    """Measure all readings. Return plain JSON types."""
    recogniser, said = Recogniser(), [words(spell_out(text)) for text in options.texts]
    lengths = np.array([len(sentence) for sentence in said])
    try:
        opinion = natural.Opinion()
    except ImportError:
        opinion = None
    voices: dict[str, dict] = {voice: {} for voice in options.voices}
    panels: dict[str, list] = {voice: [] for voice in options.voices}
    of_source: dict[str, np.ndarray] = {}
    features: dict[str, list[natural.Features]] = {}
    left_out = [] if opinion else ["opinion score: distillmos is not installed"]
    for reading in readings(options, left_out):
        heard = [recogniser.hear(audio, reading.sample_rate) for audio in reading.audio]
        kinds = np.array([edits(a, words(b)) for a, b in zip(said, heard, strict=True)])
        errors = kinds.sum(1)
        found = {"word_errors": with_interval(errors, lengths), "audio_s": rounded(reading.audio_s)}
        found |= dict(zip(("replaced", "left_out", "put_in"), map(int, kinds.sum(0)), strict=True))
        if opinion:
            scores = [opinion.score(audio, reading.sample_rate) for audio in reading.audio]
            found["opinion"] = with_interval(np.array(scores), np.ones(len(scores)))
        seen = [natural.features(audio, reading.sample_rate) for audio in reading.audio]
        if not math.isnan(hum := natural.hum(seen, reading.frame_rate)):
            found["hum_db"] = rounded(hum)
        if reading.system == "source":
            of_source[reading.voice], features[reading.voice] = errors, seen
        elif reading.voice in of_source:
            found["more_than_source"] = with_interval(errors - of_source[reading.voice], lengths)
            compared = natural.compare(seen, features[reading.voice])
            found |= {name: rounded(value) for name, value in compared.items()}
        if reading.work_s is not None and reading.audio_s:
            found["real_time_factor"] = rounded(reading.work_s / reading.audio_s)
        if reading.cut is not None:
            found["cut"] = reading.cut / len(said)
        note(f"{reading.voice}, {reading.system}: {percent(found['word_errors']['value'])} words wrong")
        voices[reading.voice][reading.system] = found
        if reading.system in ("source", "codec", f"barklite {options.formats[0]}"):
            panels[reading.voice].append((reading.system, reading.audio[0], heard[0], reading.sample_rate))
    if options.plots:
        for voice, shown in panels.items():
            path = options.plots / f"intelligibility_{Path(voice).name}"
            picture = draw(f"{options.texts[0]} ({voice})", shown).render("png")
            sounds = {f"_{system.split()[0]}.wav": wav(audio, rate) for system, audio, _, rate in shown}
            for end, content in {".png": picture, **sounds}.items():
                write_bytes(path.with_name(path.name + end), content)
                note(f"wrote {path}{end}")
    return {
        "benchmark": "intelligibility",
        "checkpoint": "given" if options.checkpoint else "built-in",
        "sentences": len(said),
        "words": int(lengths.sum()),
        "seed": options.seed,
        "recogniser": recogniser.name,
        "machine": ceiling.machine(options.device),
        "voices": voices,
        "left_out": left_out,
    }


def draw(title: str, panels: list[tuple[str, np.ndarray, str, int]]) -> "Picture":  # noqa: F821
    """Draw spectrograms side by side. panels: (system, audio, recognised text, sample rate)."""
    plot = plotting()
    picture, fonts = plot.Picture(figsize=(1 + 4.5 * len(panels), 4), layout="constrained"), plot.families()
    plain = dict(family=fonts, parse_math=False)
    picture.suptitle(plot.legible(title, fonts), **plain)
    spectra = [
        plot.spectrogram(audio, sample_rate, round(sample_rate / RESOLUTION), sample_rate // 200)
        for _, audio, _, sample_rate in panels
    ]
    top = max([plot.QUIET_DB, *(level.max() for level, _ in spectra if level.size)])
    axes = picture.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for one, (system, _, heard, _), (level, extent) in zip(axes, panels, spectra, strict=True):
        image = dict(aspect="auto", interpolation="nearest", origin="lower", extent=extent, cmap="magma")
        shown = one.imshow(level, vmin=top - plot.RANGE_DB, vmax=top, **image)
        heard = plot.legible(f"heard: {heard or '(nothing)'}", fonts, room=64)
        one.set_title(f"{system}\n{heard}", fontsize=9, **plain)
        one.set_xlabel("time (s)")
        one.set_facecolor("black")  # nothing follows the end
    axes[0].set_xlim(0, max(len(audio) / sample_rate for _, audio, _, sample_rate in panels) or 1)
    axes[0].set_ylim(0, min(sample_rate for *_, sample_rate in panels) / 2000)
    axes[0].set_ylabel("frequency (kHz)")
    picture.colorbar(shown, ax=axes, pad=0.01, label="level (dB of full scale)")
    return picture


# --- in words -----------------------------------------------------------------------------------------------


def percent(x: float) -> str:
    """ "12.3 %"."""
    return f"{100 * x:.1f} %"


def bounds(found: dict[str, float]) -> str:
    """Format an interval in percent or points."""
    return f"{100 * found['low']:.1f} to {100 * found['high']:.1f}"


def in_words(result: dict) -> str:
    """Format the result: a table with one row per voice and system."""
    words_wrong, nature = [], []
    for voice, heard in result["voices"].items():
        for system, one in heard.items():
            more, opinion, name = one.get("more_than_source"), one.get("opinion"), f"{voice}, {system}"
            words_wrong.append(
                [
                    name,
                    percent(one["word_errors"]["value"]),
                    bounds(one["word_errors"]),
                    f"{one['replaced']}, {one['left_out']}, {one['put_in']}",
                    f"{100 * more['value']:+.1f}" if more else "-",
                    bounds(more) if more else "-",
                    short(one["audio_s"]),
                    short(one["real_time_factor"]) if "real_time_factor" in one else "-",
                    percent(one["cut"]) if "cut" in one else "-",
                ]
            )
            nature.append(
                [
                    name,
                    f"{opinion['value']:.2f} ({opinion['low']:.2f} to {opinion['high']:.2f})"
                    if opinion
                    else "-",
                    *(f"{one[key]:.2f}" if key in one else "-" for key in NATURE),
                ]
            )
    header = [
        "voice, system",
        "words wrong",
        "95 %",
        "replaced, left out, put in",
        "points above source",
        "95 %",
    ]
    parts = [
        f"{ceiling.counted(result['sentences'], 'sentence')} of {result['words']} words, heard by "
        f"{result['recogniser']} on {ceiling.in_words(result['machine'])}. "
        f"Real-time factor: seconds of work a second of sound, in batches of {BATCH}. "
        "Cut: sentences that did not end by themselves.",
        table([*header, "audio s", "real-time factor", "cut"], words_wrong),
        table(["voice, system", "opinion score, 95 %", *NATURE.values()], nature),
        *(f"Left out: {reason}." for reason in result["left_out"]),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.intelligibility",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="another one than the built-in (or a Hub id)")
    parser.add_argument("--sentences", metavar="FILE", type=Path, default=HELD_OUT, help="one a line")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first sentences")
    formats = f"of {','.join(FORMATS)}"
    parser.add_argument("--formats", metavar="A,B", default="float32,int8,int4", help=formats)
    parser.add_argument("--voices", metavar="A,B", default=",".join(one.name for one in SPEAKERS))
    parser.add_argument("--plots", metavar="DIR", type=Path, help="where to put a picture and sounds a voice")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the first sentence (0)")
    parser.add_argument("--device", help="cpu or cuda (the best there is)")
    options = parser.parse_args(arguments)
    try:
        options.device = pick_device(options.device)
        options.texts = sentences(options.sentences)[: options.limit]
        if options.plots:
            plotting()
            options.plots.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    if not options.texts or (options.limit is not None and options.limit < 1):
        parser.error("there is nothing to say")
    options.voices = options.voices.split(",")
    options.formats = options.formats.split(",")
    for name in options.formats:
        if name not in FORMATS:
            parser.error(f"--formats: {name!r} is not one of {', '.join(FORMATS)}")
    if options.device.type != "cpu" and "int4" in options.formats:
        options.formats.remove("int4")  # for the CPU alone
    if not options.formats:
        parser.error("--formats: int4 is for the CPU")
    result = measure(options)
    print(in_words(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()

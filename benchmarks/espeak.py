"""Speech with its phonemes, from espeak-ng: the teacher of the built-in voice that is shipped.

A synthesiser at constant pitch speaks every text; its pulses are then moved onto the codec's frame grid, so
that a sustained sound is the same samples in every frame, and its code the same code. espeak-ng is called
through its C library (Debian packages espeak-ng and libespeak-ng1).
"""

import ctypes
from ctypes import c_char, c_char_p, c_int, c_short, c_uint, c_void_p
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.signal import oaconvolve, resample

LEVEL = 0.8  # of the synthesiser's own: it reaches full scale, and a decoder overshoots a little
_WORD, _PHONEME = 1, 7  # kinds of espeak-ng's events
_RATE, _PITCH, _RANGE = 1, 3, 4  # its parameters


@dataclass(frozen=True)
class Speaker:
    """An espeak-ng voice, spoken on one note that has a whole number of periods in a codec frame."""

    name: str
    voice: str = "en-us+klatt4"
    rate: int = 150  # words a minute
    pitch: int = 50  # espeak-ng's own scale, 0 to 99
    f0: float = 100.0  # Hz, what the sound is resampled to


SPEAKERS = (Speaker("low", "en-us+klatt4", 150, 60, 100.0), Speaker("high", "en-us+klatt2", 150, 94, 150.0))


@dataclass
class Speech:
    """audio: float32 (samples,) at 24 kHz. phonemes: (start sample, name). words: (start sample, first
    character). All starts in `audio`'s own time.
    """

    audio: np.ndarray
    phonemes: list[tuple[float, str]]
    words: list[tuple[float, int]]


class _Id(ctypes.Union):
    _fields_ = [("number", c_int), ("name", c_char_p), ("string", c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", c_int),
        ("unique_identifier", c_uint),
        ("text_position", c_int),
        ("length", c_int),
        ("audio_position", c_int),
        ("sample", c_int),
        ("user_data", c_void_p),
        ("id", _Id),
    ]


class Espeak:
    """The library, started once a process. OSError in words if it is not installed."""

    def __init__(self):
        try:
            self._lib = ctypes.CDLL("libespeak-ng.so.1")
        except OSError:
            raise OSError("espeak-ng is not installed (Debian: apt-get install espeak-ng)") from None
        self.sample_rate = self._lib.espeak_Initialize(2, 0, None, 1)  # synchronous, with phoneme events
        if self.sample_rate <= 0:
            raise OSError("espeak-ng does not start: its data is missing")
        self._chunks: list[np.ndarray] = []
        self._events: list[tuple[int, int, int, str]] = []
        kind = ctypes.CFUNCTYPE(c_int, ctypes.POINTER(c_short), c_int, ctypes.POINTER(_Event))
        self._callback = kind(self._collect)  # kept, or it would be freed under the library
        self._lib.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples, n: int, events) -> int:
        if samples and n > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (n,)).copy())
        i = 0
        while events[i].type:
            event = events[i]
            name = bytes(event.id.string).split(b"\0")[0].decode("utf-8", "replace")
            self._events.append((event.type, event.sample, event.text_position, name))
            i += 1
        return 0

    def say(self, text: str, speaker: Speaker) -> Speech:
        """Speak at espeak-ng's own rate and pitch; times are samples at `self.sample_rate`."""
        if self._lib.espeak_SetVoiceByName(speaker.voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {speaker.voice!r}")
        for parameter, value in ((_RATE, speaker.rate), (_PITCH, speaker.pitch), (_RANGE, 0)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._chunks.clear()
        self._events.clear()
        data = text.encode("utf-8")
        self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, 1, None, None)  # by characters, in UTF-8
        self._lib.espeak_Synchronize()
        audio = np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.int16)
        return Speech(
            audio.astype(np.float32) / 32768,
            [(sample, name) for kind, sample, _, name in self._events if kind == _PHONEME],
            [(sample, position - 1) for kind, sample, position, _ in self._events if kind == _WORD],
        )


@cache
def espeak() -> Espeak:
    return Espeak()


@cache
def natural_f0(speaker: Speaker) -> float:
    """The pitch, in Hz, that espeak-ng gives a speaker: the median over frames of a voiced sentence."""
    rate = espeak().sample_rate
    audio = espeak().say("are you all alone there, oh my, we will run", speaker).audio
    found = []
    for start in range(0, len(audio) - 2048, 1000):
        frame = audio[start : start + 2048].astype(np.float64)
        r = np.correlate(frame, frame, "full")[2047:]
        k = int(np.argmax(r[60:400])) + 60
        if np.abs(frame).mean() > 0.02 and r[k] > 0.7 * r[0]:
            left, middle, right = r[k - 1 : k + 2]  # the peak of the parabola through three points
            found.append(rate / (k + (left - right) / (2 * (left - 2 * middle + right))))
    return float(np.median(found))


def speak(
    text: str, speaker: Speaker, sample_rate: int = 24_000, frame: int = 480, aligned: bool = True
) -> Speech:
    """Speak `text` at exactly `speaker.f0`, resampled to `sample_rate`, silence at both ends cut to 40 ms, in
    front by whole frames.

    aligned: move the pulses onto multiples of the period; False for the synthesiser's own sound.
    """
    speech = espeak().say(text, speaker)
    if not len(speech.audio):
        return speech
    scale = natural_f0(speaker) / speaker.f0 * sample_rate / espeak().sample_rate
    audio = LEVEL * resample(speech.audio, max(1, round(len(speech.audio) * scale))).astype(np.float32)
    phonemes = [(t * scale, name) for t, name in speech.phonemes]
    words = [(t * scale, position) for t, position in speech.words]
    if aligned:
        audio, moved = align(audio, sample_rate / speaker.f0)
        phonemes = [(moved(t), name) for t, name in phonemes]
        words = [(moved(t), position) for t, position in words]
    loud = np.flatnonzero(np.abs(audio) > 0.003)
    margin = round(0.04 * sample_rate)
    start = max(0, loud[0] - margin) // frame * frame if len(loud) else 0
    stop = min(len(audio), loud[-1] + margin) if len(loud) else 0
    return Speech(
        audio[start:stop],
        [(t - start, name) for t, name in phonemes],
        [(t - start, position) for t, position in words],
    )


def align(audio: np.ndarray, period: float):
    """Shift each voiced stretch, by at most half a period more than the one before it, so that its pulses lie
    on the grid of `period` samples; what is between them is stretched. Gives the sound and the map of times.

    The phase of the fundamental says where pulses are: the synthesiser starts anew at each voiced stretch.
    """
    step = round(period / 2)
    window = np.hanning(2 * round(period) + 1)
    turned = audio * np.exp(-2j * np.pi * np.arange(len(audio)) / period)
    fundamental = oaconvolve(turned, window / window.sum(), "same")[::step]
    strength = np.abs(fundamental)
    turn = np.abs(np.angle(fundamental[1:] * fundamental[:-1].conj()))
    loud = strength > 0.03 * strength.max()
    steady = loud[1:] & loud[:-1] & (turn < 0.45)

    shift, previous = np.full(len(fundamental), np.nan), 0.0
    edges = np.flatnonzero(np.diff(np.concatenate(([0], steady, [0]))))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if last - first < 3:
            continue
        where, weight = np.arange(first, last + 1), strength[first : last + 1]
        phase = np.unwrap(np.angle(fundamental[where])) * period / (2 * np.pi)
        line = np.polyfit(where, phase, 1 if len(where) >= 8 else 0, w=weight)
        phase = np.polyval(line, where)
        phase -= period * np.round((np.average(phase, weights=weight) - previous) / period)
        shift[where], previous = phase, phase[-1]

    known = np.flatnonzero(~np.isnan(shift))
    n = np.arange(len(audio))
    offset = np.interp(n, known * step, shift[known]) if len(known) else np.zeros(len(audio))
    new = np.maximum.accumulate(n + offset) + 1e-6 * n  # the new time of each old sample
    old = np.interp(np.arange(int(new[-1]) + 1), new, n)
    return map_coordinates(audio, [old], order=3, mode="nearest"), lambda t: float(np.interp(t, n, new))

"""Synthesises speech with flite, the teacher of the built-in voice, with its phones and pitch.

flite's voices rms and slt are statistical models of recorded speakers (CMU ARCTIC, Kominek and Black, 2004).
It is called through its C library (Debian packages flite and libflite1), which also returns the end of each
phone and the pitch every 5 ms. flite does not raise the pitch at the end of questions, so its synthesis is
stopped before the audio, and `raised` changes the pitch from which the audio is then synthesised.
"""

import ctypes
import re
from ctypes import POINTER, c_char_p, c_float, c_int, c_short, c_void_p
from dataclasses import dataclass
from functools import cache

import numpy as np

RATE = 16_000  # sample rate of flite's audio
PAUSE = "pau"
TRACK = 0.005  # seconds between two values of the pitch
BEFORE, AFTER = 0.04, 0.08  # seconds of silence to keep at the ends
RISE = 0.5  # octaves by which a question rises, from its last stressed syllable on
WH = frozenset(("what", "who", "whom", "whose", "where", "when", "why", "which", "how"))


@dataclass(frozen=True)
class Speaker:
    """A voice of flite. f0: its mean pitch in Hz. spread: standard deviation of the logarithm of the pitch.
    gain: factor that makes all speakers equally loud.
    """

    name: str
    voice: str
    f0: float
    spread: float
    gain: float


@dataclass
class Speech:
    """Synthesised speech. audio: float32 (samples,) at `RATE`. phones: (start in seconds, name). words:
    (start in seconds, index of the first character). f0: Hz every `TRACK` seconds, 0 where unvoiced.
    """

    audio: np.ndarray
    phones: list[tuple[float, str]]
    words: list[tuple[float, int]]
    f0: np.ndarray


class _Wave(ctypes.Structure):
    _fields_ = [
        ("type", c_char_p),
        ("sample_rate", c_int),
        ("num_samples", c_int),
        ("num_channels", c_int),
        ("samples", POINTER(c_short)),
    ]


class _Track(ctypes.Structure):
    _fields_ = [
        ("type", c_char_p),
        ("num_frames", c_int),
        ("num_channels", c_int),
        ("times", POINTER(c_float)),
        ("frames", POINTER(POINTER(c_float))),
    ]


_Callback = ctypes.CFUNCTYPE(c_int, POINTER(_Wave), c_int, c_int, c_int, c_void_p)


class _Streaming(ctypes.Structure):
    _fields_ = [
        ("min_buffsize", c_int),
        ("callback", _Callback),
        ("utterance", c_void_p),
        ("item", c_void_p),
        ("userdata", c_void_p),
    ]


_STOP = _Callback(lambda *_: -1)  # ends the synthesis of audio at its first samples
_FUNCTIONS = {  # of libflite: (result type, *argument types)
    "flite_init": (c_int,),
    "flite_synth_text": (c_void_p, c_char_p, c_void_p),
    "delete_utterance": (None, c_void_p),
    "utt_relation": (c_void_p, c_void_p, c_char_p),
    "relation_head": (c_void_p, c_void_p),
    "item_next": (c_void_p, c_void_p),
    "path_to_item": (c_void_p, c_void_p, c_char_p),
    "flite_ffeature_string": (c_char_p, c_void_p, c_char_p),
    "flite_ffeature_float": (c_float, c_void_p, c_char_p),
    "new_audio_streaming_info": (POINTER(_Streaming),),
    "audio_streaming_info_val": (c_void_p, POINTER(_Streaming)),
    "feat_set": (None, c_void_p, c_char_p, c_void_p),
    "feat_val": (c_void_p, c_void_p, c_char_p),
    "val_track": (POINTER(_Track), c_void_p),
    "val_cg_db": (c_void_p, c_void_p),
    "mlpg": (POINTER(_Track), POINTER(_Track), c_void_p),
    "mlsa_resynthesis": (POINTER(_Wave), POINTER(_Track), POINTER(_Track), c_void_p, c_void_p, c_int),
    "delete_wave": (None, POINTER(_Wave)),
    "delete_track": (None, POINTER(_Track)),
}
_WORD = b"R:SylStructure.parent.parent."


class Flite:
    """The flite library, initialised once per process. OSError if it is not installed."""

    def __init__(self):
        try:
            self._lib = ctypes.CDLL("libflite.so.1", ctypes.RTLD_GLOBAL)
        except OSError:
            raise OSError("flite is not installed (Debian: apt-get install flite)") from None
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = getattr(self._lib, name)
            function.restype, function.argtypes = result, arguments
        self._lib.flite_init()

    @cache  # noqa: B019 (there is one Flite per process)
    def _voice(self, name: str) -> int:
        try:
            register = getattr(ctypes.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
        except (OSError, AttributeError):
            raise ValueError(f"flite has no voice {name!r}") from None
        register.restype, register.argtypes = c_void_p, [c_void_p]
        place, streaming = register(None), self._lib.new_audio_streaming_info()
        streaming.contents.min_buffsize, streaming.contents.callback = 0, _STOP
        features = ctypes.cast(place, POINTER(c_void_p))[1]
        self._lib.feat_set(features, b"streaming_info", self._lib.audio_streaming_info_val(streaming))
        return place

    def say(
        self, text: str, voice: str, keep_audio: bool = True
    ) -> tuple[np.ndarray, np.ndarray, list[tuple]]:
        """Return int16 audio, f0, and segments: (phone, end in seconds, token index or -1, stressed).

        keep_audio: if False, the audio is silence and takes a third of the time.
        """
        lib = self._lib
        utterance = lib.flite_synth_text(text.encode("ascii", "replace"), self._voice(voice))
        try:
            segments, tokens = [], []
            item = lib.relation_head(lib.utt_relation(utterance, b"Segment"))
            while item:
                token = lib.path_to_item(item, _WORD + b"R:Token.parent")
                if token and (not tokens or tokens[-1] != token):
                    tokens.append(token)
                stressed = lib.flite_ffeature_string(item, b"R:SylStructure.parent.stress") == b"1"
                end = lib.flite_ffeature_float(item, b"end")
                name = lib.flite_ffeature_string(item, b"name").decode()
                segments.append((name, end, len(tokens) - 1 if token else -1, stressed))
                item = lib.item_next(item)
            features = ctypes.cast(utterance, POINTER(c_void_p))[0]
            track = lib.val_track(lib.feat_val(features, b"param_track"))
            frames = track.contents.frames
            f0 = np.array([frames[i][0] for i in range(track.contents.num_frames)])
            higher = raised(text, segments, f0)
            samples = np.zeros(round((len(f0) - 1) * TRACK * RATE), np.int16)
            if keep_audio:
                for i, value in enumerate(higher):
                    frames[i][0] = value
                samples = self._synthesise(features, track)
        finally:
            lib.delete_utterance(utterance)
        return samples, higher, segments

    def _synthesise(self, features: int, track) -> np.ndarray:
        """Synthesise the audio of an utterance from its track."""
        lib = self._lib
        model = lib.val_cg_db(lib.feat_val(features, b"cg_db"))
        strengths = lib.feat_val(features, b"str_track")
        smooth = lib.mlpg(track, model)
        wave = lib.mlsa_resynthesis(smooth, lib.val_track(strengths) if strengths else None, model, None, 0)
        samples = np.ctypeslib.as_array(wave.contents.samples, (wave.contents.num_samples,)).copy()
        lib.delete_wave(wave)
        lib.delete_track(smooth)
        return samples


@cache
def flite() -> Flite:
    return Flite()


def tokens_of(text: str) -> list[re.Match]:
    """Split a text into flite's tokens: runs between spaces that have a letter."""
    return list(re.finditer(r"\S*[a-z]\S*", text))


def questions(text: str) -> list[int]:
    """Return the indices of tokens that end a yes/no question, whose pitch rises. Questions that begin with a
    question word or offer a choice fall.
    """
    found, first, tokens = [], 0, [match[0] for match in tokens_of(text)]
    for i, token in enumerate(tokens):
        if token[-1] not in ".?!":
            continue
        words = [word.strip(",.?!") for word in tokens[first : i + 1]]
        if token[-1] == "?" and "or" not in words and not WH & {word.partition("'")[0] for word in words[:2]}:
            found.append(i)
        first = i + 1
    return found


def raised(text: str, segments: list[tuple], f0: np.ndarray) -> np.ndarray:
    """Return `f0` with a rise at the end of each of the `questions`."""
    result = f0.copy()
    starts = [0.0, *(end for _, end, _, _ in segments[:-1])]
    for last in questions(text):
        inside = [k for k, (_, _, token, _) in enumerate(segments) if token == last]
        if not inside:
            continue
        k = max((k for k in inside if segments[k][3]), default=inside[0])
        while k > inside[0] and segments[k - 1][3]:  # go to the beginning of the stressed syllable
            k -= 1
        frames = np.arange(round(starts[k] / TRACK), min(len(f0), round(segments[inside[-1]][1] / TRACK)))
        voiced = frames[f0[frames] > 0]
        if len(voiced):
            along = (voiced - voiced[0] + 1) / len(frames)
            result[voiced] = f0[voiced[0]] * 0.97 * 2 ** (RISE * np.minimum(along, 1.0) ** 1.5)
    return result


def speak(text: str, speaker: Speaker, keep_audio: bool = True) -> Speech | None:
    """Synthesise a text in the alphabet of the training texts. None if flite splits it into other words than
    spaces do, because then its phones cannot be assigned to words.
    """
    samples, f0, segments = flite().say(text, speaker.voice, keep_audio)
    places = [match.start() for match in tokens_of(text)]
    spoken = [token for _, _, token, _ in segments]
    if not places or max(spoken, default=-1) + 1 != len(places):
        return None
    starts = np.array([0.0, *(end for _, end, _, _ in segments[:-1])])
    heard = [k for k, token in enumerate(spoken) if token >= 0]
    begin = round(max(0.0, starts[heard[0]] - BEFORE) / TRACK) * TRACK
    end = segments[heard[-1]][1] + AFTER
    audio = samples[round(begin * RATE) : round(end * RATE)].astype(np.float32) / 32768 * speaker.gain
    phones = [(start - begin, name) for start, (name, *_) in zip(starts, segments, strict=True)]
    words = [(starts[spoken.index(i)] - begin, place) for i, place in enumerate(places)]
    return Speech(audio, phones, words, f0[round(begin / TRACK) : round(end / TRACK)])

"""What a generation gives back: sound, and the tokens that it was made of."""

import base64
import html
import io
import numbers
import os
import warnings
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from .config import TokenConfig
from .storage import atomic
from .voice import Voice

MIN_VOICE = 10  # semantic tokens; from here on the number of frames is in proportion (spec 4.2)


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """One generated sound.

    audio: float32 (samples,), nominally in [-1, 1]. semantic: int64 (N,). codes: int64 (8, T), 320 samples a
    frame.
    seed: what reproduces it. finish_reason: "eos" if the model ended it, "length" if a limit did. timings:
    seconds spent in each stage; of a clip made with others, its share. first_audio: of a clip of a stream,
    whose audio may end with a pause, seconds from the call until it was ready. eos_p: float32 (N,), or
    (N + 1,) if the model ended it: how probable the end was at each semantic step, as `min_eos_p` sees it.
    """

    audio: np.ndarray
    sample_rate: int
    semantic: np.ndarray
    codes: np.ndarray
    text: str
    seed: int
    finish_reason: str
    timings: dict[str, float] = field(default_factory=dict)
    first_audio: float | None = None
    eos_p: np.ndarray | None = None
    tokens: TokenConfig = field(default_factory=TokenConfig, repr=False)

    def __repr__(self) -> str:
        return f"Clip({self.text!r:.60}, {self.seconds:.2f} s, seed {self.seed}, {self.finish_reason!r})"

    @property
    def seconds(self) -> float:
        """How long it sounds."""
        return len(self.audio) / self.sample_rate

    def voice(self, name: str | None = None) -> Voice:
        """This clip as a history prompt, for the next text to be spoken in the same voice.

        ValueError if it is too short: below about ten semantic tokens the three stages' lengths need not
        match.
        """
        if self.codes.shape[1] == 0:
            raise ValueError("an empty clip has no voice: let it speak a longer text")
        if len(self.semantic) < MIN_VOICE:
            raise ValueError(
                f"a clip of {self.seconds:.2f} s is too short to be a voice: it needs {MIN_VOICE} semantic "
                "tokens, about 0.2 s; let it speak a longer text"
            )
        return Voice(self.semantic, self.codes[: self.tokens.n_coarse], self.codes, name, self.tokens)

    def save(self, path: str | os.PathLike, *, float32: bool = False) -> None:
        """Write a WAV: 16-bit PCM, or 32-bit float if asked. Warns if samples had to be clipped; OSError if
        it cannot.

        The file appears whole or not at all.
        """
        check_suffix(path)
        if not float32 and (n := clipped(self.audio)):
            warnings.warn(f"{n} of {len(self.audio)} samples were clipped to [-1, 1]", stacklevel=2)
        atomic.write_bytes(path, self.wav(float32=float32))

    def wav(self, *, float32: bool = False) -> bytes:
        """The bytes of the WAV file that `save` writes."""
        return wav(self.audio, self.sample_rate, float32)

    def plot(self, path: str | os.PathLike | None = None) -> "matplotlib.figure.Figure":  # noqa: F821
        """Waveform, spectrogram, semantic tokens with the probability of the end, and codes, over seconds.

        With a path the figure is also written, whole or not at all, as .png, .pdf, .svg or .jpg: ValueError
        for another name, OSError if it cannot. ImportError without matplotlib.
        """
        drawing = plotting()
        format = None if path is None else drawing.format_of(path)
        figure = drawing.draw(self)
        if path is not None:
            atomic.write_bytes(path, figure.render(format))
        return figure

    def report(
        self,
        path: str | os.PathLike | None = None,
        *,
        other: "Clip | View | None" = None,  # noqa: F821
        words: "Alignment | None" = None,  # noqa: F821
        scores: "Scores | None" = None,  # noqa: F821
        trace: "Trace | None" = None,  # noqa: F821
    ) -> "Report":  # noqa: F821
        """A page to look into this clip: a player whose cursor runs through sound, spectrogram, tokens and
        codes. A notebook shows it; with a path it is also written, as one .html that needs no network.

        words: from `barklite.inspect.align`. scores: from `Bark.score`. trace: of `bark.semantic` around
        that. other: a clip to show beside this one, what differs marked. ValueError for another name than
        .html, and for scores or a trace of another clip; OSError if it cannot be written.
        """
        from .analysis.report import View

        return View(self, words, scores, trace).report(path, other)

    def _repr_html_(self) -> str:
        """A player and what it plays, in a notebook."""
        sound = base64.b64encode(self.wav()).decode("ascii")
        text = html.escape(" ".join(self.text.split())[:200])
        facts = f"{self.seconds:.2f} s, seed {self.seed}, ended by {self.finish_reason}"
        player = f'<audio controls src="data:audio/wav;base64,{sound}"></audio>'
        return f"{player}<div>{text}<br><small>{html.escape(facts)}</small></div>"


def plotting():
    """The module `barklite.analysis.plot`. Without matplotlib an ImportError says what to install."""
    try:
        import matplotlib  # noqa: F401

        from .analysis import plot
    except ImportError as error:
        raise ImportError('a plot needs matplotlib: pip install "barklite[plot]"') from error
    return plot


def check_suffix(path: str | os.PathLike) -> None:
    """ValueError if a file name promises another format than WAV."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix in (".mp3", ".ogg", ".opus", ".flac", ".m4a", ".aac"):
        raise ValueError(f"barklite writes WAV, not {suffix}: name the file .wav, and convert it afterwards")


def clipped(audio: np.ndarray) -> int:
    """Samples that 16-bit PCM cannot hold."""
    return int((np.abs(audio) > 1).sum())


class WavWriter:
    """A WAV file as `wav` makes it, written part by part. What is not finished says that it holds nothing."""

    def __init__(self, file: BinaryIO, sample_rate: int, float32: bool = False):
        self.file, self.float32, self.samples, self.clipped = file, float32, 0, 0
        self.header = wav(np.zeros(0, np.float32), sample_rate, float32)
        file.write(self.header)

    def write(self, audio: np.ndarray) -> None:
        """Audio (samples,). ValueError once there are more than a WAV's sizes, of 32 bits, can count."""
        check_sound(audio)
        self.samples += len(audio)
        if len(self.header) + self._bytes() >= 2**32:
            raise ValueError("a WAV file holds 4 GB: speak the text in parts")
        self.clipped += clipped(audio)
        self.file.write(audio.astype("<f4") if self.float32 else pcm16(audio).astype("<i2"))

    def finish(self) -> None:
        """Write the sizes into the header."""
        sizes = {4: len(self.header) - 8 + self._bytes(), len(self.header) - 4: self._bytes()}
        if (fact := self.header.find(b"fact")) >= 0:
            sizes[fact + 8] = self.samples
        for at, size in sizes.items():
            self.file.seek(at)
            self.file.write(size.to_bytes(4, "little"))

    def _bytes(self) -> int:
        return self.samples * (4 if self.float32 else 2)


def pcm16(audio: np.ndarray) -> np.ndarray:
    """Samples as 16-bit PCM, int16, clipped to [-1, 1]."""
    return np.round(np.clip(audio, -1, 1) * 32767).astype(np.int16)


def check_sound(audio: np.ndarray, sample_rate: int = 1) -> None:
    """ValueError unless it can be played: finite samples of one channel, at a rate that a WAV can have."""
    if not isinstance(sample_rate, numbers.Integral) or not 1 <= sample_rate <= 1_000_000:
        raise ValueError(f"sample_rate is {sample_rate!r:.99}; it must be a whole number up to 1000000")
    if not isinstance(audio, np.ndarray) or audio.ndim != 1 or audio.dtype.kind != "f":
        kind = f"{audio.dtype} {audio.shape}" if isinstance(audio, np.ndarray) else type(audio).__name__
        raise ValueError(f"audio is {kind}; it must be floats of shape (samples,)")
    if not np.isfinite(audio).all():
        raise ValueError(
            "the audio has samples that are not finite: models of 16 bits can overflow, "
            "load them with dtype='float32'"
        )


def wav(audio: np.ndarray, sample_rate: int, float32: bool = False) -> bytes:
    """Audio (samples,) as a WAV file: 16-bit PCM, clipped to [-1, 1], or 32-bit float."""
    import scipy.io.wavfile

    check_sound(audio, sample_rate)
    if not float32:
        audio = pcm16(audio)
    buffer = io.BytesIO()
    scipy.io.wavfile.write(buffer, sample_rate, audio)
    return buffer.getvalue()

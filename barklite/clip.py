"""`Clip`, the result of a generation: audio and the tokens it was made from. Also writes WAV files."""

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

MIN_VOICE = 10  # semantic tokens; fewer may not match the number of frames (spec 4.2)


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """The result of one generation.

    audio: float32 (samples,), nominally in [-1, 1]. From `stream` it may end with a pause.
    semantic: int64 (N,). codes: int64 (8, T), 320 samples a frame.
    seed: reproduces the clip. finish_reason: "eos" if the model ended it, "length" if a limit did.
    timings: seconds spent in each stage, divided among the rows that ran together.
    first_audio: only from `stream`: seconds from the first `next()` until this clip was ready.
    eos_p: float32 (N,), or (N + 1,) if the model ended it: probability of the end token at each semantic
        step, the value that `min_eos_p` is compared with.
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
        """Duration of the audio."""
        return len(self.audio) / self.sample_rate

    def voice(self, name: str | None = None) -> Voice:
        """Return this clip as a history prompt, to speak another text in the same voice.

        ValueError if it has fewer than ten semantic tokens: its arrays' lengths may not match.
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
        """Write a WAV file, atomically: 16-bit PCM, or 32-bit float.

        Warns if 16-bit samples had to be clipped. OSError if the file cannot be written.
        """
        check_suffix(path)
        if not float32 and (n := clipped(self.audio)):
            warnings.warn(f"{n} of {len(self.audio)} samples were clipped to [-1, 1]", stacklevel=2)
        atomic.write_bytes(path, self.wav(float32=float32))

    def wav(self, *, float32: bool = False) -> bytes:
        """Return the WAV file that `save` writes, as bytes."""
        return wav(self.audio, self.sample_rate, float32)

    def plot(self, path: str | os.PathLike | None = None) -> "matplotlib.figure.Figure":  # noqa: F821
        """Draw waveform, spectrogram, semantic tokens with `eos_p`, and codes against time.

        With a path the figure is also written, atomically, as .png, .pdf, .svg or .jpg. ValueError for
        another suffix, OSError if the file cannot be written, ImportError without matplotlib.
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
        """Make an HTML page that plays this clip and shows waveform, spectrogram, tokens and codes in time.

        A notebook displays it. With a path it is also written, as one .html file that needs no network.

        words: from `barklite.inspect.align`. scores: from `Bark.score`. trace: of `bark.semantic` during that
        call. other: a clip to compare side by side, with differences marked. ValueError for a suffix other
        than .html and for scores or a trace of another clip; OSError if the file cannot be written.
        """
        from .analysis.report import View

        return View(self, words, scores, trace).report(path, other)

    def _repr_html_(self) -> str:
        """An audio player with text, seed and duration, for notebooks."""
        sound = base64.b64encode(self.wav()).decode("ascii")
        text = html.escape(" ".join(self.text.split())[:200])
        facts = f"{self.seconds:.2f} s, seed {self.seed}, ended by {self.finish_reason}"
        player = f'<audio controls src="data:audio/wav;base64,{sound}"></audio>'
        return f"{player}<div>{text}<br><small>{html.escape(facts)}</small></div>"


def plotting():
    """Import `barklite.analysis.plot`. Without matplotlib the ImportError says what to install."""
    try:
        import matplotlib  # noqa: F401

        from .analysis import plot
    except ImportError as error:
        raise ImportError('a plot needs matplotlib: pip install "barklite[plot]"') from error
    return plot


def check_suffix(path: str | os.PathLike) -> None:
    """ValueError if a file name has the suffix of another audio format than WAV."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix in (".mp3", ".ogg", ".opus", ".flac", ".m4a", ".aac"):
        raise ValueError(f"barklite writes WAV, not {suffix}: name the file .wav, and convert it afterwards")


def clipped(audio: np.ndarray) -> int:
    """Count the samples that 16-bit PCM clips."""
    return int((np.abs(audio) > 1).sum())


class WavWriter:
    """Writes the same file as `wav`, part by part. Until `finish`, the header says that it has no samples."""

    def __init__(self, file: BinaryIO, sample_rate: int, float32: bool = False):
        self.file, self.float32, self.samples, self.clipped = file, float32, 0, 0
        self.header = wav(np.zeros(0, np.float32), sample_rate, float32)
        file.write(self.header)

    def write(self, audio: np.ndarray) -> None:
        """Append audio (samples,). ValueError if the file exceeds 4 GB, the limit of its 32-bit sizes."""
        check_sound(audio)
        self.samples += len(audio)
        if len(self.header) + self._bytes() >= 2**32:
            raise ValueError("a WAV file holds at most 4 GB: speak the text in parts")
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
    """Convert float samples to int16 PCM, clipped to [-1, 1]."""
    return np.round(np.clip(audio, -1, 1) * 32767).astype(np.int16)


def check_sound(audio: np.ndarray, sample_rate: int = 1) -> None:
    """ValueError unless `audio` is finite floats of one channel and the rate is one that WAV can store."""
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
    """Encode audio (samples,) as a WAV file: 16-bit PCM, clipped to [-1, 1], or 32-bit float."""
    import scipy.io.wavfile

    check_sound(audio, sample_rate)
    if not float32:
        audio = pcm16(audio)
    buffer = io.BytesIO()
    scipy.io.wavfile.write(buffer, sample_rate, audio)
    return buffer.getvalue()

"""Draws a clip: waveform, spectrogram, semantic tokens and codes over one time axis.

Needs matplotlib (`pip install "barklite[plot]"`) and does not touch its global state: no pyplot, no backend.
`Clip.plot` imports this file on first use.
"""

import io
import os
import unicodedata

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg", "jpg")
BLUE, ORANGE = "#0072b2", "#d55e00"  # from Okabe and Ito's palette for colour-blind readers
BAR = (1.012, 0, 0.014, 1)  # position of a colour bar beside its panel: x, y, width, height
RANGE_DB = 80.0  # dynamic range of the spectrogram's colours
QUIET_DB = -40.0  # the brightest colour is at least this level, so that silence stays dark
FONTS = (  # fallbacks, if installed, for scripts that matplotlib's own font lacks
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "WenQuanYi Micro Hei", "Noto Sans Devanagari"),
    *("PingFang SC", "Hiragino Sans GB", "Apple SD Gothic Neo", "Kohinoor Devanagari"),  # macOS
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Nirmala UI"),  # Windows
)


class Picture(Figure):
    """A matplotlib figure that notebooks display without pyplot."""

    def render(self, format: str, dpi: float = 150) -> bytes:
        """Return the figure as a file in one of FORMATS."""
        buffer = io.BytesIO()
        self.savefig(buffer, format=format, dpi=dpi)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.render("png", dpi=100)


def format_of(path: str | os.PathLike) -> str:
    """Return the one of FORMATS that a file name's suffix gives. ValueError for another or none."""
    suffix = os.path.splitext(os.fspath(path))[1]
    if suffix[1:].lower() not in FORMATS:
        known = f"{', '.join(f'.{name}' for name in FORMATS[:-1])} or .{FORMATS[-1]}"
        raise ValueError(
            f"a plot is written as {known}, not {suffix or os.fspath(path)!r}: change the suffix"
        )
    return suffix[1:].lower()


def draw(clip) -> Picture:
    """Draw a `Clip` in four panels over seconds: waveform; spectrogram; semantic tokens and, if the clip has
    it, `eos_p`; codes.
    """
    n, frames, rates = len(clip.semantic), clip.codes.shape[1], clip.tokens
    end = max(clip.seconds, n / rates.semantic_rate, frames / rates.frame_rate)
    picture = Picture(figsize=(10, 8.5), layout="constrained")
    panels = picture.subplots(4, 1, sharex=True, height_ratios=(2, 3, 3, 2.4))
    waveform, sound, tokens, codes = panels
    waveform.set_xlim(0, end or 1)  # fixed, so that later panels do not change it

    names = families()
    title = dict(x=0.01, ha="left", fontsize=12, family=names, parse_math=False, usetex=False)
    picture.suptitle(legible(clip.text, names), **title)
    facts = f"seed {clip.seed}     {clip.seconds:.2f} s     finish reason: {clip.finish_reason}"
    waveform.set_title(facts, loc="left", fontsize=9, color="0.4", parse_math=False)

    waveform.plot(*envelope(clip.audio, clip.sample_rate), color=BLUE, linewidth=0.7)
    peak = float(np.abs(clip.audio).max(initial=1e-3))
    waveform.set_ylim(-1.08 * peak, 1.08 * peak)
    if peak > 1:
        for full in (-1, 1):
            waveform.axhline(full, color=ORANGE, linewidth=0.9, linestyle="--")
    waveform.set_ylabel("amplitude")

    level, extent = spectrogram(clip.audio, clip.sample_rate)
    top = max(QUIET_DB, float(level.max(initial=QUIET_DB)))
    image = dict(aspect="auto", interpolation="nearest", extent=extent, origin="lower")
    shown = sound.imshow(level, cmap="magma", vmin=top - RANGE_DB, vmax=top, **image)
    picture.colorbar(shown, sound.inset_axes(BAR), label="level (dB of full scale)")
    sound.set_ylim(0, clip.sample_rate / 2000)
    sound.set_ylabel("frequency (kHz)")

    tokens.plot(np.arange(n) / rates.semantic_rate, clip.semantic, ".", color=BLUE, markersize=3.5)
    tokens.set_ylim(0, rates.semantic_vocab_size)
    tokens.set_ylabel("semantic token", color=BLUE)
    if clip.eos_p is not None:
        chance = tokens.twinx()
        chance.set_yscale("log")  # the probability grows by orders of magnitude within a few steps
        chance.set_ylim(1e-6, 2)
        steps = np.arange(len(clip.eos_p)) / rates.semantic_rate
        chance.plot(steps, clip.eos_p, ".-", color=ORANGE, linewidth=1, markersize=2)
        chance.set_ylabel("probability of the end", color=ORANGE)

    image |= dict(extent=(0, frames / rates.frame_rate, len(clip.codes) - 0.5, -0.5), origin="upper")
    shown = codes.imshow(clip.codes, cmap="viridis", vmin=0, vmax=rates.codebook_size - 1, **image)
    picture.colorbar(shown, codes.inset_axes(BAR), label="code")
    codes.set_yticks(range(len(clip.codes)))
    codes.set_ylabel("codebook")
    codes.set_xlabel("time (s)")
    picture.align_ylabels(panels)
    return picture


def envelope(audio: np.ndarray, sample_rate: int, columns: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Reduce audio (samples,) to the minimum and maximum of each of up to `columns` parts. Returns the
    points of a line, (seconds, amplitudes), that looks like all samples.
    """
    starts = np.arange(0, len(audio), max(1, -(-len(audio) // columns)))
    points = [extreme.reduceat(audio, starts) for extreme in (np.minimum, np.maximum)]
    return np.repeat(starts / sample_rate, 2), np.stack(points, 1).ravel()


def spectrogram(
    audio: np.ndarray, sample_rate: int, window: int = 1024, hop: int = 256, columns: int = 4000
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Compute the spectrogram of audio (samples,). Returns levels in dB (window / 2 + 1, T), where 0 is a
    full-scale sine and -120 the floor, and the image's extent in seconds and kHz.

    Columns are centred on their times. The hop grows for long audio, to keep T at about `columns`.
    """
    hop = max(hop, -(-len(audio) // columns))
    parts = np.lib.stride_tricks.sliding_window_view(np.pad(audio, window // 2), window)[::hop]
    parts = parts[: len(audio)]  # (T, window); T is 0 for empty audio
    hann = np.hanning(window + 1)[:-1]
    level = np.abs(np.fft.rfft(parts * (2 * hann / hann.sum()))).T
    column, row = hop / sample_rate, sample_rate / window / 1000
    extent = (-column / 2, (len(parts) - 0.5) * column, -row / 2, (len(level) - 0.5) * row)
    return 20 * np.log10(np.maximum(level, 1e-6)), extent


def families() -> list[str]:
    """Return the fonts for titles: matplotlib's own, then those of FONTS that are installed."""
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in FONTS if name in installed)]


def legible(text: str, families: list[str], room: int = 84) -> str:
    """Return a text as one line of at most `room` columns, with a box for characters that no font has, which
    matplotlib would warn about. A combining mark must be in the same font as its letter.
    """
    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in families]
    line, letter = "", fonts
    for char in " ".join(text.split()):
        room -= 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if room < 0:
            return line + "…"
        mark = unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf")
        able = [font for font in (letter if mark else fonts) if font.get_char_index(ord(char))]
        line += char if able else "" if mark else "□"
        letter = able if able or not mark else letter
    return line

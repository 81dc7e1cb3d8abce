"""A clip's picture: what its panels show, clips and texts of every kind, files, `--plot`."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from barklite import Bark, Clip
from barklite.__main__ import main

matplotlib = pytest.importorskip("matplotlib")
plot = pytest.importorskip("barklite.analysis.plot")

RATE = 24_000
MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF-", "svg": b"<?xml", "jpg": b"\xff\xd8\xff"}


def a_clip(n: int = 60, text: str = "Hello [laughs]", **changes) -> Clip:
    """A clip of n semantic tokens that the model ended, of noise."""
    random, frames = np.random.default_rng(0), n * 750 // 499
    clip = Clip(
        random.uniform(-0.5, 0.5, frames * 320).astype(np.float32),
        RATE,
        random.integers(0, 10_000, n),
        random.integers(0, 1024, (8, frames)),
        text,
        seed=5,
        finish_reason="eos",
        eos_p=random.uniform(1e-5, 1, n + 1).astype(np.float32),
    )
    return replace(clip, **changes)


def panels(figure) -> dict:
    return {axes.get_ylabel(): axes for axes in figure.axes}


def shown(figure) -> bytes:
    """Every artist drawn, small."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=30)
    return buffer.getvalue()


def test_four_panels():
    clip = a_clip()
    figure = clip.plot()
    assert isinstance(figure, matplotlib.figure.Figure)
    found = panels(figure)
    waveform, sound, tokens, codes, end = found.values()
    assert list(found) == [
        *("amplitude", "frequency (kHz)", "semantic token", "codebook", "probability of the end"),
    ]
    assert {axes.get_xlim() for axes in figure.axes} == {
        (0, 60 / 49.9)
    }  # the last step is later than 90 / 75
    assert codes.get_xlabel() == "time (s)"

    (line,) = waveform.lines
    assert line.get_xdata()[-1] == pytest.approx(clip.seconds, abs=1e-3)
    assert (line.get_ydata().min(), line.get_ydata().max()) == (clip.audio.min(), clip.audio.max())
    low, high = waveform.get_ylim()
    assert low < clip.audio.min() < clip.audio.max() < high < 0.6

    (image,) = sound.images
    assert (image.get_array().shape, image.origin) == ((513, 90 * 320 // 256 + 1), "lower")
    assert sound.get_ylim() == (0, 12)

    (points,) = tokens.lines
    assert np.array_equal(points.get_ydata(), clip.semantic)
    assert np.allclose(points.get_xdata(), np.arange(60) / 49.9)
    assert points.get_linestyle() == "None"
    assert tokens.get_ylim() == (0, 10_000)

    (image,) = codes.images
    assert np.array_equal(image.get_array(), clip.codes)
    assert (image.get_extent(), image.origin) == ([0, 90 / 75, 7.5, -0.5], "upper")
    assert image.get_clim() == (0, 1023)
    assert [label.get_text() for label in codes.get_yticklabels()] == list("01234567")

    (line,) = end.lines
    assert np.array_equal(line.get_ydata(), clip.eos_p)
    assert line.get_xdata()[-1] == pytest.approx(60 / 49.9)
    assert (end.get_yscale(), end.get_ylim()) == ("log", (1e-6, 2))

    assert figure.get_suptitle() == "Hello [laughs]"
    title = waveform.get_title(loc="left")
    assert title.split() == ["seed", "5", "1.20", "s", "finish", "reason:", "eos"]


def test_the_end_is_known_or_not():
    clip = a_clip(finish_reason="length")
    cut = panels(replace(clip, eos_p=clip.eos_p[:-1]).plot())
    assert np.array_equal(cut["probability of the end"].lines[0].get_ydata(), clip.eos_p[:-1])
    assert "probability of the end" not in panels(replace(clip, eos_p=None).plot())
    assert "length" in cut["amplitude"].get_title(loc="left")


def test_a_generated_clip(tiny):
    from barklite import GenerationConfig

    clip = tiny.generate("Hello", seed=1, config=GenerationConfig(max_semantic_tokens=20))
    found = panels(clip.plot())
    assert np.array_equal(found["probability of the end"].lines[0].get_ydata(), clip.eos_p)
    assert np.array_equal(found["codebook"].images[0].get_array(), clip.codes)


EMPTY = dict(audio=np.zeros(0, np.float32), semantic=np.zeros(0, np.int64), codes=np.zeros((8, 0), np.int64))
ODD = {
    "empty": a_clip(2, **EMPTY, eos_p=np.array([0.9], np.float32)),
    "empty, nothing known": a_clip(2, **EMPTY, eos_p=None),
    "one token": a_clip(1),
    "few samples": a_clip(2, audio=np.ones(3, np.float32)),
    "silent, never ends": a_clip(audio=np.zeros(90 * 320, np.float32), eos_p=np.zeros(61, np.float32)),
    "next to silent": a_clip(audio=np.full(90 * 320, 1e-42, np.float32)),
    "clipped, surely ends": a_clip(
        audio=np.linspace(-30, 30, 90 * 320, dtype=np.float32), eos_p=np.ones(61, np.float32)
    ),
    "a stream's": a_clip(audio=np.zeros(90 * 320 + 6000, np.float32), first_audio=0.5),
    "the longest": a_clip(768),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("clip", ODD.values(), ids=ODD)
def test_odd_clips(clip):
    figure = clip.plot()
    assert shown(figure).startswith(MAGIC["png"])
    low, high = figure.axes[0].get_xlim()
    assert (low, high) == (0, max(clip.seconds, len(clip.semantic) / 49.9, clip.codes.shape[1] / 75) or 1)
    codes = panels(figure)["codebook"].images[0]
    assert codes.get_extent()[1] == clip.codes.shape[1] / 75  # nothing is drawn over a pause


def test_a_level_beyond_full_scale_is_marked():
    clips = ODD["clipped, surely ends"], ODD["silent, never ends"]
    lines = [len(panels(clip.plot())["amplitude"].lines) for clip in clips]
    assert lines == [3, 1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "text, title",
    [
        ("$5 or $x_{", "$5 or $x_{"),
        (r"$\frac{1}$ \alpha & % #", r"$\frac{1}$ \alpha & % #"),
        ("  two\n lines\t", "two lines"),
        ("Grüße, ça va, Привет, مرحبا", "Grüße, ça va, Привет, مرحبا"),
        ("\x00 \U0010fffd", "□ □"),
        ("a b " * 100, "a b " * 21 + "…"),
        ("é̷ 👩‍👩‍👧 🇩🇪 नमस्ते 停 한국어", None),
        ("停" * 60, None),
        ("", ""),
    ],
)
def test_texts(text, title):
    """Shown as they are, without a warning. Whether some scripts are shown is up to the machine's fonts."""
    figure = a_clip(3, text).plot()
    if title is not None:
        assert figure.get_suptitle() == title
    elif text == "停" * 60:  # wide letters are cut sooner
        assert len(figure.get_suptitle()) == 43
    for axes in figure.axes:
        axes.remove()  # the title alone is soon drawn
    assert shown(figure)


def test_fonts_for_more_scripts(monkeypatch):
    """What matplotlib's own font lacks is shown where another is installed."""
    sign = "\u2a4e"  # in STIX, which comes with matplotlib, and not in DejaVu
    monkeypatch.setattr(plot, "FONTS", ("No Such Font",))
    assert plot.families() == ["DejaVu Sans"]
    assert plot.legible(f"a{sign}", plot.families()) == "a□"
    monkeypatch.setattr(plot, "FONTS", ("No Such Font", "STIXGeneral"))
    assert plot.families() == ["DejaVu Sans", "STIXGeneral"]
    assert plot.legible(f"a{sign}", plot.families()) == f"a{sign}"
    assert plot.legible(f"{sign}\u05b0b", plot.families()) == f"{sign}b"  # DejaVu's mark on a letter of STIX


def test_waveform_keeps_every_peak():
    audio = np.zeros(100_000, np.float32)
    audio[54_321], audio[54_322] = 0.8, -0.7
    x, y = plot.envelope(audio, RATE)
    assert len(x) == len(y) <= 4000
    assert (y.min(), y.max()) == (audio.min(), audio.max())
    assert x[y.argmax()] == pytest.approx(54_321 / RATE, abs=51 / RATE)
    short = plot.envelope(audio[54_320:54_324], RATE)
    assert np.array_equal(short[1], np.repeat(audio[54_320:54_324], 2))
    assert np.array_equal(short[0], np.repeat(np.arange(4) / RATE, 2))


def test_spectrogram_levels_and_places():
    """A sine of full scale in the second half: 0 dB at its frequency and time, the least elsewhere."""
    time = np.arange(2 * RATE) / RATE
    audio = (np.sin(2 * np.pi * 3000 * time) * (time >= 1)).astype(np.float32)
    level, (left, right, bottom, top) = plot.spectrogram(audio, RATE)
    rows, columns = level.shape
    frequency = bottom + (np.arange(rows) + 0.5) * (top - bottom) / rows
    centre = left + (np.arange(columns) + 0.5) * (right - left) / columns
    assert frequency[0] == pytest.approx(0, abs=1e-9)
    assert frequency[-1] == pytest.approx(12)
    assert centre[0] == pytest.approx(0, abs=1e-9)
    middle = np.abs(centre - 1.5).argmin()
    assert frequency[level[:, middle].argmax()] == pytest.approx(3)
    assert level[:, middle].max() == pytest.approx(0, abs=0.01)
    assert level[:, centre < 0.97].max() == level.min() == -120
    assert centre[level.max(0) > -20][0] == pytest.approx(1, abs=0.02)
    assert plot.spectrogram(audio[:0], RATE)[0].shape == (513, 0)
    assert plot.spectrogram(np.zeros(3_000_000, np.float32), RATE)[0].shape[1] <= 4001


def test_silence_is_dark():
    image = panels(ODD["silent, never ends"].plot())["frequency (kHz)"].images[0]
    assert image.get_array().max() <= image.get_clim()[0]
    loud = panels(a_clip().plot())["frequency (kHz)"].images[0]
    assert loud.get_clim() == (loud.get_array().max() - 80, loud.get_array().max())


@pytest.mark.parametrize("name", ["a.png", "a.pdf", "a.svg", "A.JPG"])
def test_files(name, tmp_path):
    figure = a_clip(3).plot(tmp_path / name)
    assert isinstance(figure, matplotlib.figure.Figure)
    data = (tmp_path / name).read_bytes()
    assert data.startswith(MAGIC[name[-3:].lower()])
    assert len(data) > 10_000
    assert os.listdir(tmp_path) == [name]


def test_a_notebook_shows_it():
    """Also where pyplot, which would see to it, has not been imported."""
    assert a_clip(3).plot()._repr_png_().startswith(MAGIC["png"])


def test_a_file_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")

    def fail(self, file, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    for place, name in ((plot.Picture, "savefig"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail if name == "savefig" else lambda *paths: 1 / 0)
            with pytest.raises((OSError, ZeroDivisionError)):
                a_clip(3).plot(path)
        assert path.read_bytes() == b"precious"
        assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("name, suffix", [("a.gif", ".gif"), ("a", "a"), ("png", "png"), ("", "''")])
def test_other_formats_are_refused(name, suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plot, "draw", None)
    with pytest.raises(ValueError, match=f"a plot is written as .png, .pdf, .svg or .jpg, not .*{suffix}"):
        a_clip(3).plot(name)
    assert os.listdir() == []


def test_a_directory_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(plot.Picture, "render", lambda self, format: b"drawn")
    with pytest.raises(FileNotFoundError, match=r"no/a\.png"):
        a_clip(3).plot(tmp_path / "no/a.png")
    assert os.listdir(tmp_path) == []


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'^a plot needs matplotlib: pip install "barklite\[plot\]"$'):
        a_clip(3).plot()


def test_matplotlib_is_left_alone():
    """It is imported with the first plot, not before, and neither pyplot nor a setting comes with it."""
    code = """
import sys
import numpy as np
from barklite import *
import barklite.__main__, barklite.corpus
assert "matplotlib" not in sys.modules and "barklite.analysis.plot" not in sys.modules
clip = Clip(np.zeros(640, np.float32), 24000, np.zeros(2, int), np.zeros((8, 2), int), "a", 0, "eos")
import matplotlib
before = list(dict.items(matplotlib.rcParams))  # not looked up: that would choose a backend
clip.plot().render("png", dpi=30)
assert before == list(dict.items(matplotlib.rcParams))
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- the command line ---------------------------------------------------------------------------------------


@pytest.fixture
def command(native, capfd, tmp_path, monkeypatch):
    """Run the command with the tiny checkpoint in an empty directory: (exit status, lines on stderr)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments):
        options = ["-m", str(native), "--device", "cpu", "--max-seconds", "0.3", "--seed", "1", "--float"]
        status = main([*arguments, *options])
        return status, capfd.readouterr().err.splitlines()

    return run


def test_the_command_plots(command, monkeypatch):
    status, err = command("Hello", "-o", "a.wav", "--plot", "a.png")
    assert (status, len(err)) == (0, 1)
    assert err[0].startswith("a.wav: 0.3 s, seed 1")
    assert sorted(os.listdir()) == ["a.png", "a.wav"]
    first = Path("a.png").read_bytes()
    assert first.startswith(MAGIC["png"])

    class Input:
        buffer = io.BytesIO(b"Goodbye")

    monkeypatch.setattr(sys, "stdin", Input)
    arguments = ("-", "-o", "a.wav", "--plot", "a.png", "--save-voice", "a.npz", "-q", "-f")
    assert command(*arguments) == (0, [])
    assert Path("a.png").read_bytes() != first
    assert sorted(os.listdir()) == ["a.npz", "a.png", "a.wav"]


def test_a_plot_that_cannot_be_written_costs_no_sound(command):
    os.symlink("/dev/full", "full.png")
    status, err = command("Hello", "-o", "a.wav", "--plot", "full.png")
    assert (status, err[-1]) == (1, "barklite: full.png: no space left on device")
    assert Path("a.wav").stat().st_size > 10_000


BAD = [
    (["Hello", "--plot", "a.gif"], "a plot is written as .png, .pdf, .svg or .jpg, not '.gif'"),
    (["Hello", "--plot", "a"], "not 'a'"),
    (["Hello", "--plot", ""], "not ''"),
    (["Hello", "--plot", "no/a.png"], "does not exist"),
    (["Hello", "--plot", "there.png"], "there.png exists: give -f"),
    (["Hello", "--plot", "folder.png"], "is a directory"),
    (["Hello", "--plot", "a.png", "-o", "a.png"], "name the same file"),
    (["Hello", "--plot", "a.png", "-o", "./a.png", "-f"], "name the same file"),
    (["-i", "book.txt", "--plot", "a.png"], "--plot draws one clip"),
    (["-i", "-", "--plot", "a.png"], "--plot draws one clip"),
    (["-i", "rows.jsonl", "-o", "out", "--plot", "a.png"], "--plot draws one clip"),
]


@pytest.mark.parametrize("arguments, message", BAD, ids=[" ".join(arguments)[:30] for arguments, _ in BAD])
def test_mistakes_get_one_line(arguments, message, command, monkeypatch):
    """Before a model is loaded."""
    monkeypatch.setattr(Bark, "from_pretrained", None)
    Path("there.png").write_bytes(b"precious")
    Path("folder.png").mkdir()
    Path("book.txt").write_text("Hello. Goodbye.")
    Path("rows.jsonl").write_text('{"text": "Hello"}')
    before = sorted(os.listdir())
    status, err = command(*arguments)
    assert (status, len(err)) == (1, 1)
    assert err[0].startswith("barklite: ")
    assert message in err[0]
    assert sorted(os.listdir()) == before
    assert Path("there.png").read_bytes() == b"precious"


def test_the_command_without_matplotlib(command, monkeypatch):
    monkeypatch.setattr(Bark, "from_pretrained", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, err = command("Hello", "--plot", "a.png")
    assert (status, err) == (1, ['barklite: a plot needs matplotlib: pip install "barklite[plot]"'])
    assert os.listdir() == []

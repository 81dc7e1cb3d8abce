"""Word errors of a voice: counted right, with honest intervals, by a recogniser without a memory."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from barklite import Bark, Voice
from barklite.training.recipe import SPEAKERS, voice_config
from barklite.training.speech import Speech
from benchmarks import intelligibility, natural
from benchmarks.intelligibility import Recogniser, edits, with_interval, words


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Random weights in the built-in voice's layout, with the voices of its speakers."""
    config = voice_config(256, 100, (1, 2, 16))
    config = replace(config, generation=replace(config.generation, max_seconds=0.6, max_semantic_tokens=60))
    path, t = tmp_path_factory.mktemp("voice") / "checkpoint", config.tokens
    Bark.from_config(config, device="cpu").save_pretrained(path)
    (path / "voices").mkdir(exist_ok=True)
    for i, name in enumerate(("low", "high")):
        codes = np.random.default_rng(i).integers(t.codebook_size, size=(t.n_codebooks, 20))
        Voice(np.arange(20) + i, codes[: t.n_coarse], codes, name, t).save(path / "voices" / f"{name}.npz")
    return path


class Deaf:
    """In place of a recogniser: hears the same words whatever is said."""

    name = "deaf 1.0"

    def hear(self, audio: np.ndarray, sample_rate: int) -> str:
        return "hello there"


@pytest.fixture
def no_flite(monkeypatch):
    def missing():
        raise OSError("flite is not installed (here)")

    monkeypatch.setattr(intelligibility, "flite", missing)


class Indifferent:
    """In place of the model that gives opinions."""

    def score(self, audio: np.ndarray, sample_rate: int) -> float:
        return 3.0


def test_words():
    assert words("It's 3 o’clock, isn't it? 'Yes' — the dogs' well-known bark.") == [
        *("it's", "o'clock", "isn't", "it", "yes", "the", "dogs", "well", "known", "bark")
    ]
    assert words("... 12 %") == []


@pytest.mark.parametrize(
    "said, heard, expected",
    [
        ("a b c", "a b c", 0),
        ("a b c", "", 3),
        ("", "a b", 2),
        ("a b c", "a x c", 1),
        ("a b c", "a c", 1),
        ("a c", "a b c", 1),
        ("a b c d", "b c d e", 2),  # one left out, one put in: place by place, all four differ
        ("a a b", "a b b b", 2),
        ("s i t t i n g", "k i t t e n", 3),
    ],
)
def test_edits(said, heard, expected):
    assert sum(edits(said.split(), heard.split())) == sum(edits(heard.split(), said.split())) == expected


def test_kinds_of_edits():
    assert edits("abc", "axc") == (1, 0, 0)
    assert edits("abc", "ac") == (0, 1, 0)
    assert edits("ac", "abcd") == (0, 0, 2)
    assert edits("abcd", "bxde") == (1, 1, 1)
    assert edits("", "") == (0, 0, 0)


def test_the_sentences_are_there():
    found = intelligibility.sentences(intelligibility.HELD_OUT)
    assert len(found) == len(set(found)) == 120
    assert not any(character.isdigit() for line in found for character in line)  # words() would lose them


def test_an_interval():
    """Of n sentences of equal length: the binomial's standard deviation, times 1.96."""
    n, p = 400, 0.2
    errors, lengths = np.zeros(n, int), np.full(n, 5)
    errors[: round(n * p)] = 5
    found = with_interval(errors, lengths)
    assert found["value"] == p
    half = 1.96 * (p * (1 - p) / n) ** 0.5
    assert found["low"] == pytest.approx(p - half, abs=0.006)
    assert found["high"] == pytest.approx(p + half, abs=0.006)
    assert with_interval(errors, lengths) == found

    same = with_interval(np.full(7, 2), np.full(7, 8))
    assert same == {"value": 0.25, "low": 0.25, "high": 0.25}
    assert with_interval(np.array([1, 0]), np.array([1, 9]))["value"] == 0.1  # words count, not sentences
    better = with_interval(np.array([-1, -1, 0, -1]), np.array([4, 4, 4, 4]))
    assert better["low"] < better["value"] < better["high"] <= 0


def test_an_interval_is_not_rounded_before_it_is_printed():
    found = intelligibility.with_interval(np.array([152.0]), np.array([866]))
    assert intelligibility.percent(found["value"]) == "17.6 %"  # of 17.552; 17.55 would give 17.5


def test_the_whole_without_a_source(checkpoint, no_flite, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(intelligibility, "Recogniser", Deaf)
    monkeypatch.setattr(natural, "Opinion", Indifferent)
    file = tmp_path / "sentences.txt"
    file.write_text("Hello there.\n\n...\nHello you, over there!\n", encoding="utf-8")
    common = ["--checkpoint", str(checkpoint), "--device", "cpu", "--formats", "float32,int4"]
    intelligibility.main([*common, "--sentences", str(file)])
    text = capsys.readouterr().out
    result = json.loads(text.splitlines()[-1])
    assert (result["sentences"], result["words"], result["recogniser"]) == (2, 6, "deaf 1.0")
    assert result["left_out"] == ["source and codec: flite is not installed (here)"]
    assert f"Left out: {result['left_out'][0]}." in text
    for voice in ("low", "high"):
        assert list(result["voices"][voice]) == ["barklite float32", "barklite int4"]
        for one in result["voices"][voice].values():
            assert one["word_errors"] == {"value": 2 / 6, "low": 0.0, "high": 0.5}  # "you" and "over"
            assert 0 < one["audio_s"] <= 2 * 0.62
            assert one["real_time_factor"] > 0
            assert 0 <= one["cut"] <= 1
            assert "more_than_source" not in one
            assert sum(one[kind] for kind in ("replaced", "left_out", "put_in")) == 2
            assert one["opinion"] == {"value": 3.0, "low": 3.0, "high": 3.0}
    assert "| high, barklite int4 | 33.3 % | 0.0 to 50.0 | 0, 2, 0 | - | - | " in " ".join(text.split())

    intelligibility.main([*common, "--sentences", str(file), "--limit", "1", "--voices", "low"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["sentences"], list(result["voices"])) == (1, ["low"])
    assert result["voices"]["low"]["barklite int4"]["word_errors"]["value"] == 0


def test_beside_a_source(checkpoint, monkeypatch, capsys, tmp_path):
    """With a synthesiser of ours: what is heard of it is the measure, sentence by sentence."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    asked = []

    def speak(text, speaker):
        asked.append((speaker.name, text))
        return Speech(np.zeros(4800, np.float32), [], [], np.zeros(60))

    class Sharp(Deaf):
        def hear(self, audio, sample_rate):
            return "hello" if audio.any() else "hello there"  # the source is silent

    monkeypatch.setattr(intelligibility, "flite", lambda: None)
    monkeypatch.setattr(natural, "Opinion", Indifferent)
    monkeypatch.setattr(intelligibility, "speak", speak)
    monkeypatch.setattr(intelligibility, "Recogniser", Sharp)
    file = tmp_path / "sentences.txt"
    file.write_text("Hello there\nHello here\n", encoding="utf-8")
    command = ["--checkpoint", str(checkpoint), "--device", "cpu", "--formats", "float32", "--voices", "high"]
    intelligibility.main([*command, "--sentences", str(file), "--plots", str(tmp_path / "plots")])
    text = capsys.readouterr().out
    result = json.loads(text.splitlines()[-1])
    assert asked == [("high", "hello there"), ("high", "hello here")]
    heard = result["voices"]["high"]
    assert list(heard) == ["source", "codec", "barklite float32"]
    assert [one["word_errors"]["value"] for one in heard.values()] == [0.25, 0.5, 0.5]
    assert "more_than_source" not in heard["source"]
    assert heard["codec"]["more_than_source"] == {"value": 0.25, "low": 0.0, "high": 0.5}
    assert "| +25.0 |" in " ".join(text.split())
    assert (tmp_path / "plots" / "intelligibility_high.png").read_bytes().startswith(b"\x89PNG")
    for system in ("source", "codec", "barklite"):
        rate, sound = wavfile.read(tmp_path / "plots" / f"intelligibility_high_{system}.wav")
        assert (rate, sound.any()) == (16_000, system != "source")
        assert len(sound) == 4800 or system == "barklite"


def test_a_recogniser_without_a_memory():
    """Regression: pocketsphinx tracks the background noise from one recording to the next."""
    pytest.importorskip("pocketsphinx", reason="the recogniser, pocketsphinx, is not installed")
    rate, n, random = 16_000, 8000, np.random.default_rng(0)
    hiss = random.normal(size=4000)
    tones = 120 * np.arange(1, 33)  # Hz, of which a vowel's formants make some loud
    loudness = (1 / (1 + ((tones[:, None] - (700, 1200, 2500)) / 80) ** 2)).sum(1)
    vowel = loudness @ np.sin(2 * np.pi * tones[:, None] * np.arange(n) / rate) * np.hanning(n)
    vowel += 0.3 * random.normal(size=n)

    recogniser = Recogniser()
    alone = recogniser.hear(vowel, rate)
    assert alone  # whatever it was taken for
    assert recogniser.hear(np.zeros(0), rate) == recogniser.hear(np.zeros(n), rate) == ""
    recogniser.hear(hiss, rate)
    assert recogniser.hear(vowel, rate) == alone
    assert Recogniser().hear(vowel, rate) == alone


def test_it_understands_the_source():
    """Most of a sentence, at any rate and loudness."""
    pytest.importorskip("pocketsphinx", reason="the recogniser, pocketsphinx, is not installed")
    try:
        intelligibility.flite()
    except OSError as error:
        pytest.skip(str(error))
    text, recogniser = "We missed the last train by two minutes.", Recogniser()
    for speaker, times, loudness in zip(SPEAKERS, (1, 2), (1.0, 0.05), strict=True):
        audio = intelligibility.said(text, speaker).repeat(times)
        heard = recogniser.hear(loudness * audio, 16_000 * times)
        assert sum(edits(words(text), words(heard))) <= 2


# --- how natural it sounds ----------------------------------------------------------------------------------


def voice(f0: np.ndarray, rate: int, loudness: float = 0.2) -> np.ndarray:
    """Harmonics of f0 (samples,), the first ones loudest."""
    phase = 2 * np.pi * np.cumsum(f0) / rate
    return loudness * sum(np.cos(k * phase) / k for k in range(1, 15))


def test_pairs_of_places():
    a = np.array([[0.0], [1], [2], [3]])
    assert natural.paired(a, a).tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    slow = a[[0, 0, 1, 1, 1, 2, 3]]
    path = natural.paired(a, slow)
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [3, 6]
    assert (a[path[:, 0]] == slow[path[:, 1]]).all()
    assert (np.diff(path, axis=0) >= 0).all()
    assert np.diff(path, axis=0).max() == 1


def test_a_reading_and_its_source():
    rate, glide = 16_000, np.linspace(100, 180, 16_000)
    wave = 150 + 40 * np.sin(np.linspace(0, 6, 16_000))
    source = [natural.features(voice(f0, rate), rate) for f0 in (glide, wave)]
    same = natural.compare(source, source)
    assert same["distortion_db"] == same["pitch_rmse_semitones"] == same["voicing_differs"] == 0
    assert same["pitch_correlation"] == pytest.approx(1)
    louder = [natural.features(voice(f0, 24_000, 0.02), 24_000) for f0 in (
        np.linspace(100, 180, 24_000), 150 + 40 * np.sin(np.linspace(0, 6, 24_000))
    )]  # fmt: skip
    near = natural.compare(louder, source)
    assert near["distortion_db"] < 2.5
    assert near["pitch_correlation"] > 0.99
    assert near["pitch_rmse_semitones"] < 0.5
    register = natural.compare([replace(one, f0=1.5 * one.f0) for one in source], source)
    assert register["pitch_correlation"] == pytest.approx(1)
    assert register["pitch_rmse_semitones"] == pytest.approx(0, abs=1e-3)
    monotone = natural.compare([replace(one, f0=130.0 * (one.f0 > 0)) for one in source], source)
    assert monotone["pitch_correlation"] == pytest.approx(0, abs=1e-3)
    assert monotone["pitch_rmse_semitones"] > 2
    assert monotone["voicing_differs"] == monotone["distortion_db"] == 0
    noise = [natural.features(0.1 * np.random.default_rng(0).normal(size=16_000), rate)] * 2
    other = natural.compare(noise, source)
    assert other == {} or (other["voicing_differs"] > 0.8 and other["distortion_db"] > 5)
    assert natural.compare([natural.features(np.zeros(0), rate)], source[:1]) == {}


def test_hum():
    """Lines at multiples of 50 Hz in noise are found, at their level, and not in speech without noise."""
    rate, white = 16_000, np.random.default_rng(0).normal(size=10 * 16_000)

    def hum(audio):
        return natural.hum([natural.features(audio, rate)], 50)

    assert abs(hum(white)) < 0.5
    lines = sum(np.cos(2 * np.pi * 50 * k * np.arange(len(white)) / rate + k * k) for k in range(1, 160))
    density = 1280 * np.mean(np.hanning(1280)) ** 2 / 4 / np.mean(np.hanning(1280) ** 2)
    for level in (0.05, 0.2):
        expected = 10 * np.log10(1 + level**2 * density)
        assert hum(white + level * lines) == pytest.approx(expected, abs=0.6)
    off = sum(np.cos(2 * np.pi * (50 * k + 25) * np.arange(len(white)) / rate + k * k) for k in range(1, 160))
    assert hum(white + 0.2 * off) < -2
    assert math.isnan(hum(voice(np.full(rate, 100.0), rate)))
    assert math.isnan(natural.hum([natural.features(np.zeros(rate), rate)], 50))


def test_opinions():
    """Speech is worth more than the same in noise."""
    try:
        opinion = natural.Opinion()
        intelligibility.flite()
    except (ImportError, OSError) as error:
        pytest.skip(str(error))
    audio = intelligibility.said("Good morning, did you sleep well?", SPEAKERS[0])
    noise = 0.05 * np.random.default_rng(0).normal(size=len(audio))
    assert opinion.score(audio, 16_000) > opinion.score(audio + noise, 16_000) + 0.5
    assert opinion.score(np.zeros(0), 16_000) == 1


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["--formats", "int5"], "'int5' is not one of"),
        (["--limit", "0"], "nothing to say"),
        (["--limit", "-1"], "nothing to say"),
        (["--sentences", "no such file"], "No such file"),
        (["--device", "abacus"], "cannot be used here"),
    ],
)
def test_wrong_options_in_a_line(wrong, message, capsys):
    with pytest.raises(SystemExit):
        intelligibility.main(wrong)
    assert message in capsys.readouterr().err


def test_what_is_missing_is_named(checkpoint, no_flite, monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(SystemExit, match="pip install pocketsphinx"):
        intelligibility.main(["--checkpoint", str(checkpoint), "--device", "cpu"])
    monkeypatch.setattr(intelligibility, "Recogniser", Deaf)
    with pytest.raises(SystemExit, match="'middle' is not one of high, low"):
        intelligibility.main(["--checkpoint", str(checkpoint), "--device", "cpu", "--voices", "low,middle"])

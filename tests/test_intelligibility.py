"""Word errors of a voice: counted right, with honest intervals, by a recogniser without a memory."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from barklite import Bark, Voice
from barklite.training.recipe import SPEAKERS, voice_config
from barklite.training.speech import Speech
from benchmarks import intelligibility
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
def no_espeak(monkeypatch):
    def missing():
        raise OSError("espeak-ng is not installed (here)")

    monkeypatch.setattr(intelligibility, "espeak", missing)


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
    assert edits(said.split(), heard.split()) == edits(heard.split(), said.split()) == expected


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


def test_the_whole_without_a_source(checkpoint, no_espeak, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(intelligibility, "Recogniser", Deaf)
    file = tmp_path / "sentences.txt"
    file.write_text("Hello there.\n\n...\nHello you, over there!\n", encoding="utf-8")
    common = ["--checkpoint", str(checkpoint), "--device", "cpu", "--formats", "float32,int4"]
    intelligibility.main([*common, "--sentences", str(file)])
    text = capsys.readouterr().out
    result = json.loads(text.splitlines()[-1])
    assert (result["sentences"], result["words"], result["recogniser"]) == (2, 6, "deaf 1.0")
    assert result["left_out"] == ["source and codec: espeak-ng is not installed (here)"]
    assert f"Left out: {result['left_out'][0]}." in text
    for voice in ("low", "high"):
        assert list(result["voices"][voice]) == ["barklite float32", "barklite int4"]
        for one in result["voices"][voice].values():
            assert one["word_errors"] == {"value": 0.3333, "low": 0.0, "high": 0.5}  # "you" and "over"
            assert 0 < one["audio_s"] <= 2 * 0.62
            assert one["real_time_factor"] > 0
            assert 0 <= one["cut"] <= 1
            assert "more_than_source" not in one
    assert "| high, barklite int4 | 33.3 % | 0.0 to 50.0 | - | - | " in " ".join(text.split())

    intelligibility.main([*common, "--sentences", str(file), "--limit", "1", "--voices", "low"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["sentences"], list(result["voices"])) == (1, ["low"])
    assert result["voices"]["low"]["barklite int4"]["word_errors"]["value"] == 0


def test_beside_a_source(checkpoint, monkeypatch, capsys, tmp_path):
    """With a synthesiser of ours: what is heard of it is the measure, sentence by sentence."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    asked = []

    def speak(text, speaker, sample_rate, frame, aligned):
        asked.append((speaker.name, aligned, sample_rate, frame))
        return Speech(np.zeros(4800, np.float32), [], [])

    class Sharp(Deaf):
        def hear(self, audio, sample_rate):
            return "hello" if audio.any() else "hello there"  # the source is silent

    monkeypatch.setattr(intelligibility, "espeak", lambda: None)
    monkeypatch.setattr(intelligibility, "speak", speak)
    monkeypatch.setattr(intelligibility, "Recogniser", Sharp)
    file = tmp_path / "sentences.txt"
    file.write_text("Hello there\nHello here\n", encoding="utf-8")
    command = ["--checkpoint", str(checkpoint), "--device", "cpu", "--formats", "float32", "--voices", "high"]
    intelligibility.main([*command, "--sentences", str(file), "--plots", str(tmp_path / "plots")])
    text = capsys.readouterr().out
    result = json.loads(text.splitlines()[-1])
    assert asked == [("high", aligned, 24_000, 480) for aligned in (False, False, True, True)]
    heard = result["voices"]["high"]
    assert list(heard) == ["source", "codec", "barklite float32"]
    assert [one["word_errors"]["value"] for one in heard.values()] == [0.25, 0.5, 0.5]
    assert "more_than_source" not in heard["source"]
    assert heard["codec"]["more_than_source"] == {"value": 0.25, "low": 0.0, "high": 0.5}
    assert "| +25.0 |" in " ".join(text.split())
    assert (tmp_path / "plots" / "intelligibility_high.png").read_bytes().startswith(b"\x89PNG")


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
        intelligibility.espeak()
    except OSError as error:
        pytest.skip(str(error))
    text, recogniser = "We missed the last train by two minutes.", Recogniser()
    for speaker, rate, loudness in zip(SPEAKERS, (24_000, 16_000), (1.0, 0.05), strict=True):
        audio = intelligibility.speak(text, speaker, rate, aligned=False).audio
        assert edits(words(text), words(recogniser.hear(loudness * audio, rate))) <= 2


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


def test_what_is_missing_is_named(checkpoint, no_espeak, monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(SystemExit, match="pip install pocketsphinx"):
        intelligibility.main(["--checkpoint", str(checkpoint), "--device", "cpu"])
    monkeypatch.setattr(intelligibility, "Recogniser", Deaf)
    with pytest.raises(SystemExit, match="'middle' is not one of high, low"):
        intelligibility.main(["--checkpoint", str(checkpoint), "--device", "cpu", "--voices", "low,middle"])

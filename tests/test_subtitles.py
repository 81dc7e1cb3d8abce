"""Word times as files, from Python and from the command line."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from barklite import Bark
from barklite.__main__ import main
from barklite.analysis.align import Word, words_of
from barklite.analysis.subtitles import Segment, Transcript, as_json, cues, format_of, srt, vtt


@pytest.fixture(scope="module")
def voice() -> Bark:
    return Bark.from_pretrained(device="cpu")


def segment(text: str, start: float = 0.0, step: float = 0.5, gap: float = 0.0) -> Segment:
    """A text whose words take `step` seconds each, `gap` seconds apart."""
    words = []
    for i, (_, first, last, _) in enumerate(words_of(text)):
        begin = start + i * (step + gap)
        words.append(Word(text[first:last], begin, begin + step, first, last))
    return Segment(text, start, words[-1].end, words, 7, "eos")


def test_subrip():
    made = srt([segment('"Hello," she said.'), segment("Then\nno more.", 3661.5)])
    assert made == (
        '1\n00:00:00,000 --> 00:00:01,500\n"Hello," she said.\n'
        "\n2\n01:01:01,500 --> 01:01:03,000\nThen no more.\n"
    )


def test_webvtt():
    """The time of each word within its cue; what looks like a tag is text."""
    made = vtt([segment("Fish & chips <b> now.", 1.0)])
    assert made == (
        "WEBVTT\n\n00:00:01.000 --> 00:00:03.000\n"
        "Fish &amp; <00:00:01.500>chips <00:00:02.000>&lt;b&gt; <00:00:02.500>now.\n"
    )


def test_json():
    made = json.loads(as_json([segment("Grüße, du.", 2.0)]))
    assert made == {
        "segments": [
            {
                "text": "Grüße, du.", "start": 2.0, "end": 3.0, "seed": 7, "finish_reason": "eos",
                "words": [
                    {"word": "Grüße", "start": 2.0, "end": 2.5, "first": 0, "last": 5},
                    {"word": "du", "start": 2.5, "end": 3.0, "first": 7, "last": 9},
                ],
            }
        ]
    }  # fmt: skip


def shown(segment: Segment) -> list[str]:
    return ["".join(text for _, text in cue).strip() for cue in cues(segment)]


def test_cues_are_short_enough_to_read():
    text = "One two three four five six seven eight nine ten " * 6
    made = cues(segment(text.strip(), step=0.2))
    assert all(sum(len(shown) for _, shown in cue) <= 85 for cue in made)
    assert " ".join(shown(segment(text.strip(), step=0.2))) == text.strip()
    assert all(len(line) <= 42 for line in srt([segment(text.strip(), step=0.2)]).splitlines())
    slow = cues(segment(text.strip(), step=1.5))
    assert all(cue[-1][0].end - cue[0][0].start <= 7 for cue in slow)


def test_cues_end_with_sentences_and_in_pauses():
    assert shown(segment("This sentence has more than one line of words. And on.")) == [
        "This sentence has more than one line of words.",
        "And on.",
    ]
    assert shown(segment("Wait here.", gap=1.0)) == ["Wait", "here."]


def test_a_word_without_time_makes_no_cue():
    made = segment("Wait for it")
    last = replace(made.words[-1], start=9.0, end=9.0)
    assert shown(replace(made, words=[*made.words[:-1], last])) == ["Wait for it"]


@pytest.mark.parametrize("name", ["a.txt", "a", "srt"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"\.srt, \.vtt or \.json"):
        format_of(name)


def test_clips_of_a_stream_follow_each_other(voice):
    """Each word is where it sounds in the joined audio: the pauses between clips are silent."""
    clips = list(voice.stream("Good morning. It is late. Sleep well!", seed=0, pause=0.5))
    transcript = Transcript(voice)
    made = [transcript.add(clip) for clip in clips]
    assert [one.text for one in made] == [clip.text for clip in clips]
    assert (transcript.voice.fine == clips[0].codes).all()  # the others continue it
    audio, rate = np.concatenate([clip.audio for clip in clips]), clips[0].sample_rate
    for one, following in pairwise(made):
        assert one.words[-1].end <= one.end
        assert following.start - one.end == pytest.approx(0.5, abs=0.03)
        silence = audio[round((one.end + 0.01) * rate) : round((following.start - 0.01) * rate)]
        assert not silence.any()
    assert made[-1].words[-1].end <= len(audio) / rate
    alone = Transcript(voice, clips[0].voice()).add(clips[1])  # the voice that the stream went on in
    shift = len(clips[0].audio) / rate
    assert [w.start for w in made[1].words] == pytest.approx([w.start + shift for w in alone.words], abs=2e-3)


def test_an_empty_clip_is_a_segment_without_words(voice):
    clip = voice.generate("Hello.", "low", 0)
    nothing = replace(clip, semantic=clip.semantic[:0], codes=clip.codes[:, :0], audio=clip.audio[:0])
    transcript = Transcript(voice)
    transcript.add(nothing)
    transcript.add(clip)
    assert [len(one.words) for one in transcript.segments] == [0, 1]


# --- the command --------------------------------------------------------------------------------------------


def test_the_command_writes_words_and_a_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = ["-o", "a.wav", "--words", "a.srt", "--report", "a.html"]
    assert main(["Good morning, it is 7:30.", "--voice", "low", "--seed", "0", "-q", *outputs]) == 0
    assert "Good morning, it is 7:30." in (tmp_path / "a.srt").read_text()
    page = (tmp_path / "a.html").read_text()
    assert '"words"' in page
    assert '"attention"' in page
    assert '"fineP"' in page


def test_the_command_writes_the_words_of_a_long_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("Good morning. It is late.")
    assert main(["-i", "a.txt", "-o", "a.wav", "--seed", "0", "-q", "--words", "a.json"]) == 0
    segments = json.loads((tmp_path / "a.json").read_text())["segments"]
    assert [one["text"] for one in segments] == ["Good morning.", "It is late."]
    assert segments[1]["words"][0]["start"] > segments[0]["words"][-1]["end"] + 0.2


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["Hi.", "--words", "a.txt"], "word times are written as .srt, .vtt or .json"),
        (["Hi.", "--report", "a.pdf"], "a report is written as .html"),
        (["-i", "a.txt", "--report", "a.html"], "--report shows one clip"),
        (["-i", "a.jsonl", "-o", "d", "--words", "a.srt"], "--words is for a text"),
        (["Hi.", "-o", "a.html", "--report", "a.html"], "name the same file"),
        (["Hi.", "--report", "there.html"], "there.html exists"),
    ],
)
def test_what_the_command_refuses(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.html").write_text("")
    assert main(arguments) == 1
    assert says in capsys.readouterr().err

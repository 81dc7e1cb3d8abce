"""Word times: the path through the attention, text tokens to typed words, and the built-in voice's own."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from barklite import Bark, BarkConfig, GenerationConfig
from barklite.analysis.align import warp, word_spans, word_times, words_of
from barklite.inspect import align, trace
from barklite.text.tokenizer import Bytes, WordPiece
from tests import builders


@pytest.fixture(scope="module")
def voice() -> Bark:
    return Bark.from_pretrained(device="cpu")


# --- the path -----------------------------------------------------------------------------------------------


def every_path(N: int, W: int):
    """All monotone paths from (0, 0), as lists of cells."""
    if (N, W) == (1, 1):
        yield [(0, 0)]
        return
    for n, w in ((N - 1, W), (N, W - 1), (N - 1, W - 1)):
        if n and w:
            for path in every_path(n, w):
                yield [*path, (N - 1, W - 1)]


@pytest.mark.parametrize("N, W", [(1, 1), (1, 4), (4, 1), (4, 3), (3, 5), (5, 4)])
@pytest.mark.parametrize("whole", [True, False])
def test_the_path_is_the_cheapest_of_all(N, W, whole):
    cost = np.random.default_rng(N * W).exponential(size=(3, N, W))
    totals, starts = warp(cost, whole)
    for h in range(3):
        lasts = [W] if whole else range(1, W + 1)
        paths = [path for last in lasts for path in every_path(N, last)]
        sums = [sum(cost[h][cell] for cell in path) for path in paths]
        best = paths[int(np.argmin(sums))]
        assert totals[h] == pytest.approx(min(sums))
        first = [min((i for i, w in best if w == token), default=-1) for token in range(W)]
        assert starts[h].tolist() == first


def test_a_staircase_is_found_again():
    begins = [0, 3, 4, 9]
    attention = np.full((1, 12, 4), 0.01)
    for i in range(12):
        attention[0, i, np.searchsorted(begins, i, side="right") - 1] = 0.9
    assert warp(-np.log(attention))[1].tolist() == [begins]


# --- text tokens to typed words -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, words",
    [
        ('"Really?" she asked -- no.', ["Really", "she", "asked", "no"]),
        ("It's 50% of $3.50, i.e. #1!", ["It's", "50%", "of", "$3.50", "i.e", "#1"]),
        ("[laughs] ha [clears throat]. ♪ la ♪", ["laughs", "ha", "clears throat", "la"]),
        ("你好，世界。ありがとう", list("你好世界ありがとう")),
        ("안녕 세상아", ["안녕", "세상아"]),
        ("… ♪ --", []),
    ],
)
def test_typed_words(text, words):
    assert [text[first:last] for _, first, last, _ in words_of(text)] == words


def read(tokenizer, text: str) -> list[tuple[str, str]]:
    """Each word and the tokens that it has."""
    encode = lambda text: tokenizer.encode(" ".join(text.split()))  # noqa: E731
    ids = encode(text)
    return [(text[a:b], "".join(tokenizer.pieces(ids[i:j]))) for a, b, i, j in word_spans(text, ids, encode)]


def test_words_in_bytes():
    assert read(Bytes(), "Hi, you  two!") == [("Hi", "Hi"), ("you", "you"), ("two", "two")]


def test_words_in_wordpieces():
    found = read(WordPiece(builders.vocabulary()), '"Hello world," hellish [MASK] (hell)')
    tokens = ['"Hello', "world", "hell##i##s##h", "[MASK]", "(hell"]
    assert found == list(zip(["Hello", "world", "hellish", "MASK", "hell"], tokens, strict=True))


def test_words_in_spelled_out_english(voice):
    """The words are those that were typed, also where the front end writes others, in another order."""
    found = {
        word: tokens.replace("▁", " ").strip()
        for word, tokens in read(
            voice.tokenizer, "Dr. Lee paid $5 million on May 5th, 2020 at 7:30, at St. Mary's."
        )
    }
    assert found == {
        **{
            "Dr": "doctor",
            "Lee": "lee",
            "paid": "paid",
            "$5": "five",
            "million": "million dollars",
            "on": "on",
        },
        **{"May": "may", "5th": "fifth", "2020": "twenty twenty", "at": "at", "7:30": "seven thirty"},
        **{"St": "saint", "Mary's": "mary's"},
    }


def test_words_that_cannot_be_told_apart_share_their_time(voice):
    text = "On 5 May 2020 we met."
    encode = voice.tokenizer.encode
    ids = encode(text)
    found = word_spans(text, ids, encode)
    assert found[1][2] == found[2][2]  # "the fifth of may"
    times = np.stack((np.arange(len(ids)), np.arange(1, len(ids) + 1)), 1).astype(float)
    five, may, year = word_times(text, times, found)[1:4]
    assert five.start < five.end == may.start < may.end <= year.start
    assert may.end - may.start == pytest.approx(
        3 * (five.end - five.start), rel=0.01
    )  # three letters and one


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="aB ,.!?$5%&[]'\"-\n你ñ", max_size=40))
def test_any_text_gives_words_in_order(text):
    for tokenizer in (Bytes(), WordPiece(builders.vocabulary())):
        encode = lambda text, t=tokenizer: t.encode(" ".join(text.split()))  # noqa: E731
        ids = encode(text)
        found = word_spans(text, ids, encode)
        assert all(0 <= i < j <= len(ids) and text[a:b].strip() for a, b, i, j in found)
        assert all(one[1] <= two[0] and one[2] <= two[2] for one, two in itertools.pairwise(found))


# --- whole clips --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoken(voice):
    clip = voice.generate("Good morning! It is 7:30, and I am still asleep.", "low", 0)
    return clip, align(voice, clip, "low")


def test_the_words_of_a_clip(spoken):
    clip, found = spoken
    typed = ["Good", "morning", "It", "is", "7:30", "and", "I", "am", "still", "asleep"]
    assert [word.text for word in found.words] == typed
    assert [clip.text[word.first : word.last] for word in found.words] == typed
    edges = [t for word in found.words for t in (word.start, word.end)]
    assert edges == sorted(edges)
    assert edges[0] == 0
    assert edges[-1] <= clip.seconds
    assert all(0.04 <= word.end - word.start < 1.2 for word in found.words)
    assert found.score > 0.4
    assert found.times.shape == (len(found.tokens), 2)
    assert (np.diff(found.times[:, 0]) >= 0).all()


def test_a_pause_is_between_words(voice):
    """What is between `rained,` and `I` is silent, what is said is not."""
    clip = voice.generate("When it rained, I went home.", "low", 0)
    found = align(voice, clip, "low")

    def loud(start: float, end: float) -> float:
        part = clip.audio[round(start * clip.sample_rate) : round(end * clip.sample_rate)]
        return float(np.sqrt((part**2).mean()))

    rained, i = found.words[2:4]
    assert i.start - rained.end > 0.12
    assert loud(rained.end + 0.04, i.start - 0.04) < 0.1 * loud(rained.start, rained.end)


def test_heads_are_those_with_the_most_probable_path(voice, spoken):
    """A head that looks elsewhere does not count, wherever the good ones are."""
    clip, found = spoken
    (layer, head), *_ = found.heads
    one, other = head, (head + 1) % voice.config.semantic.n_head
    copied = Bark.from_pretrained(device="cpu")
    attention = copied.semantic.h[layer].attn
    d = voice.config.semantic.n_embd // voice.config.semantic.n_head

    def swapped(weight: torch.Tensor, rows: bool) -> None:
        a, b = slice(one * d, one * d + d), slice(other * d, other * d + d)
        parts = weight.data.unflatten(0, (3, -1)) if rows else weight.data.T[None]
        for part in parts:
            part[a], part[b] = part[b].clone(), part[a].clone()

    swapped(attention.c_attn.weight, True)  # the same model, with two heads in each other's place
    swapped(attention.c_proj.weight, False)
    again = align(copied, clip, "low")
    assert (layer, other) in again.heads
    assert [word.start for word in again.words] == pytest.approx([w.start for w in found.words], abs=0.021)


def test_a_voice_before_the_text_changes_little(voice, spoken):
    clip, found = spoken
    without = align(voice, clip)
    assert [word.start for word in without.words] == pytest.approx([w.start for w in found.words], abs=0.15)


def test_a_clip_that_was_cut_lacks_the_words_it_did_not_reach(voice, spoken):
    whole, found = spoken
    config = replace(voice.config.generation, max_semantic_tokens=60)
    clip = voice.generate(whole.text, "low", 0, config)
    assert clip.finish_reason == "length"
    words = align(voice, clip, "low").words
    assert [word.text for word in words] == [w.text for w in found.words if w.start < 1.2]
    assert words[-1].end <= 1.2


def test_random_weights_align_any_text(tiny):
    clip = tiny.generate(
        "Hello, world [laughs] 世界", seed=1, config=GenerationConfig(max_semantic_tokens=30)
    )
    found = align(tiny, clip)
    assert found.score < 0.1  # and it says that this means nothing
    assert all(0 <= word.start <= word.end <= clip.seconds for word in found.words)


def test_bytes_and_more_tokens_than_frames():
    bark = Bark.from_config(BarkConfig.tiny(), device="cpu")
    clip = bark.generate(
        "A text with many more bytes than frames.", seed=1, config=GenerationConfig(max_semantic_tokens=12)
    )
    found = align(bark, replace(clip, finish_reason="eos"))
    typed_words = ["A", "text", "with", "many", "more", "bytes", "than", "frames"]
    assert [word.text for word in found.words] == typed_words


def test_what_cannot_be_aligned(voice, spoken):
    clip, _ = spoken
    with pytest.raises(ValueError, match="an empty clip"):
        align(voice, replace(clip, semantic=np.zeros(0, np.int64)))
    with pytest.raises(ValueError, match="semantic"):
        align(voice, replace(clip, semantic=np.full(5, 9_999)))


def test_the_model_stays_as_it_was(voice, spoken):
    clip, found = spoken
    before = [dict(block.attn.__dict__) for block in voice.semantic.h]
    with trace(voice.semantic, keep=1) as seen:
        again = align(voice, clip, "low")  # within a trace, too
    assert len(seen.attentions) == len(before)
    assert [block.attn.__dict__ for block in voice.semantic.h] == before
    assert again.words == found.words


# --- the benchmark ------------------------------------------------------------------------------------------


def test_times_are_carried_over_to_a_slower_sound():
    """Four noises of different colour, and the same with a pause of 0.2 s before the third."""
    from benchmarks.alignment import carried, spread

    rate, random = 16_000, np.random.default_rng(0)
    noise = np.fft.rfft(random.normal(size=(4, rate // 4)), axis=1)
    for i, part in enumerate(noise):
        part[: 200 + 500 * i] = part[400 + 500 * i :] = 0
    parts = list(np.fft.irfft(noise, axis=1))
    source = np.concatenate(parts)
    clip = np.concatenate((*parts[:2], np.zeros(rate // 5), *parts[2:]))
    times = np.array([0.0, 0.25, 0.5, 0.75, 0.9])
    errors = carried(times, source, clip) - (times + np.array([0, 0, 0.2, 0.2, 0.2]))
    assert spread(errors[[0, 1, 3, 4]])["p90"] <= 20
    assert -0.22 <= errors[2] <= 0.02  # the edge of the pause


def test_the_words_of_the_built_in_voice_are_where_its_teacher_says_them(capsys):
    from barklite.training.speech import flite
    from benchmarks.alignment import main

    try:
        flite()
    except OSError as error:
        pytest.skip(str(error))
    main(["--limit", "4", "--voices", "low"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = result["voices"]["low"]
    assert found["words"] >= 20
    assert found["both"]["median"] < 60
    assert found["both"]["p90"] < 150

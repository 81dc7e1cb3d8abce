"""Long texts: order, voice, pauses, sound in pieces, and files that are written while they are made."""

import io
import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.io.wavfile
import torch

from barklite import Bark, BarkConfig, GenerationConfig
from barklite.clip import WavWriter, wav
from barklite.config import CodecConfig
from barklite.decode import streaming as stream
from barklite.decode.batch import PREFIX_FRAMES
from barklite.decode.pipeline import Pipeline
from barklite.storage import atomic
from tests import builders

VOICE = builders.voice("announcer")
CONFIG = GenerationConfig(min_eos_p=0.0008, max_seconds=2.0)
TEXT = "Hello. Hello world, hello. Hell! Ah. Hello hello hello. World. Hello, hello. Hell hell."


@pytest.fixture(autouse=True)
def _short_texts_may_end_at_once():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.mark.parametrize("size", [1, 3, None])
@pytest.mark.parametrize("voice", [None, VOICE], ids=["no voice", "voice"])
def test_sentences_in_their_order(size, voice, tiny):
    """Whatever ends first: the clips are those of each sentence alone, in the voice of the first."""
    clips = list(tiny.stream(TEXT, voice, 5, CONFIG, batch_size=size, pause=0))
    assert " ".join(clip.text for clip in clips) == TEXT
    assert len(clips) == 8
    kept = voice or next(clip for clip in clips if len(clip.semantic) >= 10).voice()
    begun = voice is not None
    for i, clip in enumerate(clips):
        alone = tiny.generate(clip.text, kept if begun else None, 5 + i, CONFIG)
        assert alone.codes.tolist() == clip.codes.tolist()
        assert np.allclose(alone.audio, clip.audio, atol=1e-5)
        begun = begun or len(clip.semantic) >= 10
    waited = [clip.first_audio for clip in clips]
    assert 0 < waited[0] < waited[-1]
    assert alone.first_audio is None


def test_pauses(tiny):
    silent, spaced = (list(tiny.stream(TEXT, VOICE, 5, CONFIG, pause=pause)) for pause in (0, 0.1))
    for one, two in itertools.islice(zip(silent, spaced, strict=True), 7):
        assert np.array_equal(two.audio, np.concatenate((one.audio, np.zeros(2400, np.float32))))
    assert np.array_equal(silent[-1].audio, spaced[-1].audio)
    assert len(next(tiny.stream("Hello. Hell.", VOICE, 5, CONFIG)).audio) % 320 == 6000 % 320
    for pause in (-1, "1", None, True, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="pause is"):
            tiny.stream("Hello", pause=pause)


def test_the_first_sentence_does_not_wait_for_the_others(tiny, monkeypatch):
    sizes, run = [], Pipeline.run

    def watched(self, jobs):
        sizes.append(self.size)
        return run(self, jobs)

    monkeypatch.setattr(Pipeline, "run", watched)
    clips = tiny.stream(TEXT, VOICE, 5, CONFIG)
    assert sizes == []
    next(clips)
    assert sizes == [1]
    next(clips)
    assert sizes == [1, 8]


def test_retries_within_a_stream(tiny):
    clips = list(tiny.stream(TEXT, VOICE, 5, CONFIG, retries=30))
    assert {clip.finish_reason for clip in clips} == {"eos"}
    assert {clip.finish_reason for clip in tiny.stream(TEXT, VOICE, 5, CONFIG)} == {"eos", "length"}


def test_an_error_in_the_middle_is_raised(tiny):
    """Not left out: the text would go on as if nothing were missing."""
    row = int(tiny.tokenizer.encode("Z")[0]) + tiny.config.tokens.text_offset
    weight = tiny.semantic.wte.weight
    kept = weight.data[row].clone()
    try:
        weight.data[row] = torch.nan
        clips = tiny.stream("Hello. Hello. Z. Hello.", VOICE, 5, CONFIG)
        assert next(clips).text == "Hello."
        with pytest.raises(ValueError, match="not finite"):
            list(clips)
    finally:
        weight.data[row] = kept


# --- sound in pieces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [7, 8, 20, 75, 300])
def test_pieces_are_the_whole(frames, tiny):
    codes = torch.randint(0, 1024, (8, 200), generator=torch.Generator().manual_seed(0))
    for k, T in ((8, 200), (3, 100), (8, 8), (8, 7), (8, 3), (8, 1), (8, 0)):
        pieces = list(stream.decode_in_pieces(tiny.codec, codes[:k, :T], frames))
        assert [piece.shape[0] for piece in pieces] == [
            320 * min(frames, T - start) for start in range(0, T, frames)
        ]
        if T:
            assert torch.allclose(torch.cat(pieces), tiny.decode([codes[:k, :T]])[0], atol=1e-6)


def test_pieces_at_the_released_codec():
    """As exact as the whole is itself: at a peak of 1 to the last digits of float32 (spec 6.2)."""
    config = replace(BarkConfig.tiny(), codec=CodecConfig())
    codec = Bark.from_config(config, seed=1, device="cpu").codec
    codes = torch.randint(0, 1024, (8, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = codec.decode(codes[None])[0]
    joined = torch.cat(list(stream.decode_in_pieces(codec, codes, 16)))
    assert float((joined - whole).abs().max() / whole.abs().max()) < 2e-6


def test_every_layer_gets_the_past_that_it_needs(tiny, monkeypatch):
    """Broken on purpose: with one frame less of the past, pieces differ."""
    codes = torch.randint(0, 1024, (8, 60), generator=torch.Generator().manual_seed(0))
    whole = tiny.decode([codes])[0]

    def error():
        return float((torch.cat(list(stream.decode_in_pieces(tiny.codec, codes, 20))) - whole).abs().max())

    assert error() < 1e-6
    with monkeypatch.context() as patch:
        patch.setattr(stream.math, "ceil", lambda x: int(x))
        assert error() > 1e-5
    with monkeypatch.context() as patch:
        patch.setattr(stream, "PREFIX_FRAMES", PREFIX_FRAMES - 1)
        assert error() > 1e-5


def test_stream_audio_is_what_stream_gives(tiny):
    expected = np.concatenate([clip.audio for clip in tiny.stream(TEXT, VOICE, 5, CONFIG)])
    pieces = list(tiny.stream_audio(TEXT, VOICE, 5, CONFIG, piece=0.2))
    assert all(piece.dtype == np.float32 and 0 < len(piece) <= 6000 for piece in pieces)
    assert np.allclose(np.concatenate(pieces), expected, atol=1e-6)
    for piece in (0, -1, "1", None, True):
        with pytest.raises(ValueError, match="piece is"):
            tiny.stream_audio("Hello", piece=piece)
    with pytest.raises(ValueError, match="empty"):
        tiny.stream_audio(" ")


def test_sound_is_decoded_piece_by_piece(tiny, monkeypatch):
    """The first piece is there before later frames are decoded."""
    decoded, embed = [], type(tiny.codec.decoder[1]).go_on

    def watched(self, x, state):
        decoded.append(x.shape[-1])
        return embed(self, x, state)

    monkeypatch.setattr(type(tiny.codec.decoder[1]), "go_on", watched)
    pieces = tiny.stream_audio("Hello", VOICE, 5, replace(CONFIG, min_eos_p=None), piece=0.4)
    next(pieces)
    assert decoded == [30]
    next(pieces)
    assert decoded == [30, 30]


# --- files that grow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("float32", [False, True])
@pytest.mark.parametrize("parts", [[], [0], [5], [1, 0, 2000, 3]])
def test_a_file_in_parts_is_the_file(float32, parts):
    random = np.random.default_rng(0)
    parts = [random.uniform(-1.1, 1.1, n).astype(np.float32) for n in parts]
    file, joined = io.BytesIO(), np.concatenate([np.zeros(0, np.float32), *parts])
    writer = WavWriter(file, 24_000, float32)
    for part in parts:
        writer.write(part)
    writer.finish()
    assert file.getvalue() == wav(joined, 24_000, float32)
    assert writer.clipped == int((np.abs(joined) > 1).sum())
    assert scipy.io.wavfile.read(io.BytesIO(file.getvalue()))[1].shape == joined.shape


def test_a_file_that_would_be_too_large():
    writer, second = WavWriter(io.BytesIO(), 24_000), np.zeros(24_000, np.float32)
    writer.samples = 2**31 - 24_000 - 23  # the last that fit behind a header of 44 bytes
    writer.write(second)
    with pytest.raises(ValueError, match="holds at most 4 GB"):
        writer.write(second[:1])


def test_writing_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a"

    def broken():
        with atomic.writing(path) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert list(tmp_path.iterdir()) == []
    with atomic.writing(path) as file:
        file.write(b"hello world")
        file.seek(0)
        file.write(b"J")
        assert not path.exists()
    assert path.read_bytes() == b"Jello world"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(NotADirectoryError), atomic.writing(path / "b"):
        pass


def test_memory_of_a_long_text_is_flat(tiny):
    """Of 24 sentences only those on their way are held."""
    import gc
    import weakref

    held = []
    clips = tiny.stream("Hello hello. " * 24, VOICE, 5, replace(CONFIG, max_seconds=0.3), batch_size=4)
    most = 0
    for clip in clips:
        held.append(weakref.ref(clip.audio))
        del clip
        gc.collect()
        most = max(most, sum(one() is not None for one in held))
    assert len(held) == 24
    assert most <= 1

"""What training reads: corpora, folders of recordings, spectra, codebooks, synthetic speech."""

import contextlib
import ctypes
import json

import numpy as np
import pytest
import scipy.io.wavfile
import torch

from barklite.config import CodecConfig
from barklite.models.codec import Codec
from barklite.training import spectrum
from barklite.training.data import VALIDATION, Corpus, Writer, from_folder
from barklite.training.pitch import pitch
from barklite.training.quantizer import DECAY, ResidualQuantizer
from barklite.training.recipe import SPEAKERS
from barklite.training.speech import TRACK, Flite, Speaker, Speech, questions, raised, speak
from barklite.training.spoken import framed, spans_of, units, write_corpus
from tests import sounds

CODEC = sounds.config().codec


# --- a corpus -----------------------------------------------------------------------------------------------


def test_a_corpus_is_read_as_it_was_written(tmp_path):
    sound, semantic = sounds.sine(1000, 200), np.array([3, 65535, 0])
    spans = np.array([[0, 0], [0, 1], [1, 2]])
    with Writer(tmp_path) as writer:
        writer.add("ä\n1", "anna", sound, semantic, spans)
        writer.add("silent", semantic=semantic[:2])
        writer.add("no tokens", "b/c", 3 * sound[:10])
    corpus = Corpus(tmp_path)
    assert [row.text for row in corpus.rows] == ["ä\n1", "silent", "no tokens"]
    assert [row.speaker for row in corpus.rows] == ["anna", "", "b/c"]
    assert [(row.samples, row.semantic, row.spans) for row in corpus.rows] == [
        (1000, 3, 3),
        (0, 2, 0),
        (10, 0, 0),
    ]
    assert np.abs(corpus.audio(0) - sound).max() <= 0.5 / 32767
    assert np.array_equal(corpus.audio(0, 20, 25), corpus.audio(0)[20:25])
    assert corpus.audio(0).dtype == np.float32
    assert len(corpus.audio(1)) == 0
    assert np.allclose(corpus.audio(2), (3 * sound[:10]).clip(-1, 1), atol=1e-4)  # clipped, not wrapped
    assert np.array_equal(corpus.semantic(0), semantic)
    assert np.array_equal(corpus.semantic(1), semantic[:2])
    assert corpus.semantic(0).dtype == np.int64
    assert np.array_equal(corpus.spans(0), spans)
    assert corpus.spans(1) is None
    assert corpus.split("validation") == [0]
    assert corpus.split("train") == [1, 2]
    assert corpus.split("train", "samples") == [2]
    assert corpus.split("train", "samples", "semantic") == []


def test_every_51st_row_is_kept_from_training(tmp_path):
    with Writer(tmp_path) as writer:
        for i in range(103):
            writer.add(str(i), ("low", "high")[i % 2])
    corpus = Corpus(tmp_path)
    assert VALIDATION == 51
    assert corpus.split("validation") == [0, 51, 102]
    assert {corpus.rows[i].speaker for i in corpus.split("validation")} == {"low", "high"}
    assert len(corpus.split("train")) == 100
    assert not set(corpus.split("train")) & {0, 51, 102}


def test_a_corpus_of_one_row_trains_with_it(tmp_path):
    with Writer(tmp_path) as writer:
        writer.add("alone")
    corpus = Corpus(tmp_path)
    assert (corpus.split("train"), corpus.split("validation")) == ([0], [])


def test_an_interrupted_corpus_is_none(tmp_path):
    with Writer(tmp_path) as writer:
        writer.add("old")
    with contextlib.suppress(KeyboardInterrupt), Writer(tmp_path) as writer:
        writer.add("new")
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError, match="run `prepare` first"):
        Corpus(tmp_path)


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"semantic": np.array([65536])}, "'x': semantic has values outside 0 .. 65535"),
        ({"semantic": np.array([-1])}, "outside 0"),
        ({"semantic": np.zeros((2, 2), int)}, r"semantic must have shape \(N,\), not \(2, 2\)"),
        ({"semantic": np.zeros(2, int), "spans": np.zeros((3, 2), int)}, r"spans must have shape .*\(3, 2\)"),
        ({"spans": np.zeros((3, 2), int)}, "spans must have shape"),
        ({"semantic": np.zeros(1, int), "spans": np.array([[0, 70_000]])}, "spans has values"),
        ({"audio": np.array([0.0, np.nan])}, "audio must be finite"),
        ({"audio": np.zeros((2, 10))}, "audio must be finite numbers of shape"),
    ],
)
def test_what_a_corpus_cannot_hold(parts, message, tmp_path):
    with Writer(tmp_path) as writer, pytest.raises(ValueError, match=message):
        writer.add("x", **parts)


def test_files_that_do_not_fit_together(tmp_path):
    with Writer(tmp_path) as writer:
        writer.add("x", audio=np.zeros(10), semantic=np.arange(3))
    index = (tmp_path / "rows.jsonl").read_text()
    for damaged in (index[:-5], index.replace("samples", "sample"), "[1]\n"):
        (tmp_path / "rows.jsonl").write_text(damaged)
        with pytest.raises(ValueError, match=r"rows.jsonl is damaged"):
            Corpus(tmp_path)
    (tmp_path / "rows.jsonl").write_text(index)
    (tmp_path / "semantic.u16").write_bytes(b"\0\0")
    with pytest.raises(ValueError, match=r"semantic.u16 does not fit rows.jsonl"):
        Corpus(tmp_path)
    (tmp_path / "semantic.u16").unlink()
    with pytest.raises(ValueError, match=r"semantic.u16 does not fit"):
        Corpus(tmp_path)


def test_codes(tmp_path):
    with Writer(tmp_path) as writer:
        for text in "abc":
            writer.add(text)
    corpus = Corpus(tmp_path)
    with pytest.raises(FileNotFoundError, match="run `tokens` first"):
        corpus.codes()
    codes = [np.arange(6).reshape(2, 3), np.zeros((2, 0), int), np.array([[7], [300]])]
    corpus.write_codes(iter(codes), 2)
    read = corpus.codes()
    assert all(np.array_equal(one, other) for one, other in zip(read, codes, strict=True))
    assert {part.dtype for part in read} == {np.dtype(np.int64)}
    (tmp_path / "codes.u16").write_bytes((tmp_path / "codes.u16").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"does not fit the corpus: run `tokens` again"):
        corpus.codes()
    corpus.write_codes(iter(codes[:2]), 2)
    with pytest.raises(ValueError, match=r"does not fit the corpus: run `tokens` again"):
        corpus.codes()


# --- a folder of recordings ---------------------------------------------------------------------------------


def test_a_folder_of_recordings(tmp_path):
    sounds.folder(tmp_path, 3, rate=8000)
    scipy.io.wavfile.write(tmp_path / "TOP.WAV", 4000, np.zeros((80, 2), np.int16))
    (tmp_path / "TOP.txt").write_text(" no tokens \n")
    rows = {row["text"]: row for _, row in from_folder(tmp_path, 4000)}
    assert sorted(rows) == ["adg", "beh", "cfi", "no tokens"]
    assert {text: row["speaker"] for text, row in rows.items()} == {
        "adg": "low", "beh": "high", "cfi": "low", "no tokens": "",
    }  # fmt: skip
    assert len(rows["no tokens"]["audio"]) == 80
    assert "semantic" not in rows["no tokens"]
    expected = sounds.row(1)
    assert np.array_equal(rows["beh"]["semantic"], expected["semantic"])
    assert np.array_equal(rows["beh"]["spans"], expected["spans"])
    assert len(rows["beh"]["audio"]) == len(expected["audio"])  # twice the rate, halved
    assert np.abs(rows["beh"]["audio"] - expected["audio"])[100:-100].mean() < 0.1


@pytest.mark.parametrize(
    "name, data, error, message",
    [
        ("0.txt", None, FileNotFoundError, "0.txt is missing: each recording needs its text"),
        ("0.txt", b" \n", ValueError, "0.txt is empty"),
        ("0.txt", b"\xff", ValueError, "0.txt is not UTF-8"),
        ("0.wav", b"RIFF", ValueError, "0.wav is not a whole WAV file"),
        ("0.npz", b"PK", ValueError, "0.npz is not a whole .npz file"),
        (
            "0.npz",
            b"some text",
            ValueError,
            "not a whole .npz file: File is not a zip file$",
        ),  # not advice on pickles
        ("0.npz", {}, ValueError, r"0.npz needs semantic: whole numbers of at least 0, of shape \(N,\)"),
        ("0.npz", {"semantic": np.zeros((1, 2), int)}, ValueError, "needs semantic"),
        ("0.npz", {"semantic": np.zeros(2)}, ValueError, "needs semantic"),
        ("0.npz", {"semantic": np.array([-1])}, ValueError, "needs semantic"),
        ("0.npz", {"semantic": np.array([{}])}, ValueError, "pickled Python objects, which are never loaded"),
        (
            "0.npz",
            {"semantic": np.zeros(2, int), "spans": np.zeros(2, int)},
            ValueError,
            r"spans: .*\(N, 2\)",
        ),
        (
            "0.npz",
            {"semantic": np.zeros(2, int), "spans": np.zeros((3, 2), int)},
            ValueError,
            r"spans .*\(2, 2\)",
        ),
        (
            "0.npz",
            {"semantic": np.zeros(2, int), "spans": np.zeros((2, 3), int)},
            ValueError,
            r"spans .*\(2, 2\)",
        ),
    ],
)
def test_bad_recordings(name, data, error, message, tmp_path):
    path = sounds.folder(tmp_path, 1) / "low" / name
    path.unlink()
    if isinstance(data, bytes):
        path.write_bytes(data)
    elif data is not None:
        np.savez(path, **data)
    with pytest.raises(error, match=message):
        list(from_folder(tmp_path, 4000))


def test_recordings_without_sound(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        list(from_folder(tmp_path / "nowhere", 4000))
    with pytest.raises(FileNotFoundError, match=r"holds no .wav files"):
        next(from_folder(tmp_path, 4000))
    (tmp_path / "a.txt").write_text("a")
    for sound, message in (
        (np.zeros(0, np.int16), "it has no samples"),
        (np.array([np.nan], np.float32), "not finite"),
    ):
        scipy.io.wavfile.write(tmp_path / "a.wav", 4000, sound)
        with pytest.raises(ValueError, match=f"a.wav.*{message}"):
            list(from_folder(tmp_path, 4000))


# --- spectra ------------------------------------------------------------------------------------------------


def pulses(period: int, samples: int, at: int = 0) -> torch.Tensor:
    train = torch.zeros(1, samples)
    train[0, at::period] = 0.5
    return train


def test_latents_begin_with_log_mel_spectra_of_the_halves_of_a_frame():
    sound = torch.from_numpy(sounds.sine(800, 700))[None]
    z = spectrum.latents(torch.cat((sound, 0 * sound)), CODEC)
    assert z.shape == (2, 11, 10)
    assert torch.allclose(z[1, :8], torch.log(torch.tensor(spectrum.FLOOR)))  # silence
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 2000 / 700), 6) / 2595) - 1)
    nearest = int(np.abs(edges[1:-1] - 700).argmin())
    assert set(z[0, :4, 2:-2].argmax(0).tolist()) == set(z[0, 4:8, 2:-2].argmax(0).tolist()) == {nearest}
    burst = torch.zeros(1, 800)
    burst[0, 5 * 80 + 15 : 5 * 80 + 25] = 0.5  # in the first half of frame 5
    energy = spectrum.latents(burst, CODEC)[:, :8].unflatten(1, (2, 4)).sum(2)[0]  # (part, T)
    assert energy.flatten().argmax() == 5
    assert energy[0, 5] > energy[1, 5] > energy[1, 2]


@pytest.mark.parametrize("hertz", [65.0, 130.0, 205.3, 390.0])
def test_latents_end_with_a_point_on_a_cylinder(hertz):
    t = np.arange(320 * 20) / 16_000
    sound = sum(0.2 / k * np.cos(2 * np.pi * k * hertz * t + k) for k in (1, 2, 3))
    config = CodecConfig(sample_rate=16_000, dimension=9, ratios=(8, 5, 4, 2))
    height, x, y = spectrum.latents(torch.from_numpy(sound)[None], config)[0, -3:, 2:-2]
    assert torch.allclose(2 ** (height / 3) * 130, torch.tensor(hertz), rtol=0.01)
    turns = hertz * (torch.arange(2, 18) + 0.5) * 0.02 + 1 / (2 * np.pi)
    assert torch.allclose(x, torch.cos(2 * np.pi * turns), atol=0.03)
    assert torch.allclose(y, torch.sin(2 * np.pi * turns), atol=0.03)


def test_latents_move_with_the_sound():
    sound = torch.randn(1, 80 * 12, generator=torch.Generator().manual_seed(0))
    z, later = spectrum.latents(sound, CODEC), spectrum.latents(sound.roll(160, 1), CODEC)
    assert torch.allclose(z[..., 1:-4], later[..., 3:-2], atol=1e-4)


def harmonics(f0: np.ndarray, rate: int, seed: int = 0) -> np.ndarray:
    """A voice at f0 (samples,), its overtones at random strengths and phases, the second one the loudest."""
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * np.cumsum(f0) / rate
    strengths = rng.uniform(0.2, 1, 10) / np.arange(1, 11)
    strengths[1] = 1.2
    turns = rng.uniform(0, 2 * np.pi, 10)
    return 0.1 * sum(
        a * np.cos(k * phase + b) for k, a, b in zip(range(1, 11), strengths, turns, strict=True)
    )


@pytest.mark.parametrize("rate", [8000, 16_000, 24_000])
@pytest.mark.parametrize(("low", "high"), [(70, 110), (110, 180), (190, 320)])
def test_a_gliding_pitch(low, high, rate):
    f0 = np.linspace(low, high, rate)
    hop = rate // 50
    found, phase = pitch(torch.from_numpy(harmonics(f0, rate))[None], rate, hop)
    assert found.shape == phase.shape == (1, 50)
    inside = slice(2, -2)
    wanted = f0[hop // 2 :: hop]
    assert np.abs(found[0].numpy() / wanted - 1)[inside].max() < 0.02
    turns = np.cumsum(f0)[hop // 2 :: hop] / rate
    off = (phase[0].numpy() - 2 * np.pi * turns)[inside]
    assert np.abs(np.exp(1j * (off - off[0])) - 1).max() < 0.25  # one constant, the fundamental's own


def test_no_pitch_in_silence_and_noise():
    noise = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    for sound in (torch.zeros(1, 16_000), noise):
        found, phase = pitch(sound, 16_000, 320)
        assert (found > 0).float().mean() < 0.1
        assert (phase[found == 0] == 0).all()
    voice = torch.from_numpy(harmonics(np.full(16_000, 120.0), 16_000))[None].float()
    found, _ = pitch(torch.cat((voice, noise, voice), 1), 16_000, 320)
    assert (found[0, 2:48] > 0).all()
    assert (found[0, 102:-2] > 0).all()


def test_spectra_are_not_blurred_by_16_bits():
    sound = torch.from_numpy(sounds.sine(3200, 700))[None]
    with torch.autocast("cpu", torch.bfloat16):
        z = spectrum.latents(sound, CODEC)
        loss = spectrum.spectral_loss(sound, 0.5 * sound, 4000)
    assert torch.equal(z, spectrum.latents(sound, CODEC))
    assert torch.equal(loss, spectrum.spectral_loss(sound, 0.5 * sound, 4000))


def test_mel_filters():
    filters = spectrum.mel_filters(4000, 1024, 10)
    assert filters.shape == (10, 513)
    assert filters.min() == 0
    assert 0.9 < filters.max() <= 1
    tops = filters.argmax(1) * 2000 / 512
    mels = 2595 * torch.log10(1 + tops / 700)
    assert torch.allclose(mels.diff(), mels.diff().mean(), rtol=0.1)  # evenly spaced on that scale
    assert spectrum.mel_filters(4000, 1024, 10) is filters


def test_spectral_loss():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2, 3200, generator=generator) * 0.3
    other = (target + 0.1 * torch.randn(2, 3200, generator=generator)).requires_grad_()
    worse = target + 0.3 * torch.randn(2, 3200, generator=generator)
    assert spectrum.spectral_loss(target, target, 4000) == 0
    loss = spectrum.spectral_loss(other, target, 4000)
    assert loss.shape == ()
    assert 0 < loss < spectrum.spectral_loss(worse, target, 4000)
    loss.backward()
    assert other.grad.isfinite().all()
    assert (other.grad.abs().sum(1) > 0).all()
    silence = torch.zeros(1, 3200, requires_grad=True)
    spectrum.spectral_loss(silence, 0 * target[:1], 4000).backward()
    assert silence.grad.isfinite().all()


def test_spectral_loss_hears_each_resolution(monkeypatch):
    """It is the mean of what single resolutions say."""
    one, other = (0.3 * torch.randn(1, 3200, generator=torch.Generator().manual_seed(i)) for i in range(2))
    whole = spectrum.spectral_loss(one, other, 4000)
    parts = []
    for resolution in spectrum.RESOLUTIONS:
        monkeypatch.setattr(spectrum, "RESOLUTIONS", (resolution,))
        parts.append(spectrum.spectral_loss(one, other, 4000))
    assert torch.isclose(whole, torch.stack(parts).mean())


# --- the quantiser ------------------------------------------------------------------------------------------


def test_codebooks_learn_clusters_and_what_they_leave():
    """Two codebooks of four: the first finds the clusters, the second the places within them."""
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    within = torch.tensor([[2.0, 2], [2, -2], [-2, 2], [-2, -2]])
    quantizer = ResidualQuantizer(2, 4, 2)
    for _ in range(400):
        picked = torch.randint(16, (200,), generator=generator)
        errors, _ = quantizer.learn(centres[picked // 4] + within[picked % 4], generator)
    everything = centres.repeat_interleave(4, 0) + within.repeat(4, 1)
    codes = quantizer.encode(everything)
    assert codes.shape == (2, 16)
    assert codes.dtype == torch.int64
    assert errors[0] == pytest.approx(4, abs=0.3)
    assert errors[1] < 0.1
    assert len({tuple(pair) for pair in codes.T.tolist()}) == 16
    assert all(len(set(codes[0, i : i + 4].tolist())) == 1 for i in range(0, 16, 4))


def test_each_codebook_lowers_the_error():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(500, 8, generator=generator)
    quantizer = ResidualQuantizer(4, 8, 8)
    for _ in range(30):
        errors, _ = quantizer.learn(vectors, generator)
    assert errors.shape == (4,)
    assert (errors.diff() < 0).all()
    codes, residual = quantizer.encode(vectors), vectors
    for book, code in zip(quantizer.codebooks, codes, strict=True):
        assert torch.equal(code, torch.cdist(residual, book).argmin(1))
        residual = residual - book[code]
    assert residual.square().mean() == pytest.approx(float(errors[-1]), rel=0.05)


def test_the_first_codebook_is_of_the_last_numbers_alone():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 5, generator=generator)
    quantizer = ResidualQuantizer(3, 8, 5, 2)
    for _ in range(5):
        quantizer.learn(vectors, generator)
    assert (quantizer.codebooks[0, :, :3] == 0).all()
    assert (quantizer.codebooks[1:, :, 3:] == 0).all()
    assert quantizer.codebooks[0, :, 3:].abs().min() > 0
    other = torch.cat((torch.randn(300, 3, generator=generator), vectors[:, 3:]), 1)
    assert torch.equal(quantizer.encode(other)[0], quantizer.encode(vectors)[0])
    other = torch.cat((vectors[:, :3], torch.randn(300, 2, generator=generator)), 1)
    assert torch.equal(quantizer.encode(other)[1:], quantizer.encode(vectors)[1:])


def test_dead_entries_are_revived():
    """An entry that nothing is near to is put where something is, and then serves."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 2, generator=generator)
    quantizer = ResidualQuantizer(1, 8, 2)
    for _ in range(20):
        assert quantizer.learn(vectors, generator)[1] == 0
    quantizer.codebooks[0, 3], quantizer.sums[0, 3], quantizer.counts[0, 3] = 90.0, 90.0, 1.0
    assert 3 not in quantizer.encode(vectors)
    before, revived = quantizer.learn(vectors, generator)
    assert (revived, float(quantizer.counts[0, 3])) == (0, pytest.approx(0.99))
    quantizer.counts[0, 3] = 0.75  # 2 % of what each of 8 entries has of 300 vectors
    assert quantizer.learn(vectors, generator)[1] == 1
    distances = (quantizer.codebooks[0, 3] - vectors).norm(dim=1)
    assert distances.min() < 1e-6  # it is one of them
    assert quantizer.counts[0, 3] == pytest.approx(float(quantizer.counts.mean()), rel=0.2)
    assert 3 in quantizer.encode(vectors)
    after, revived = quantizer.learn(vectors, generator)
    assert revived == 0
    assert after < before


def test_codebooks_follow_a_moving_average():
    generator = torch.Generator().manual_seed(0)
    quantizer = ResidualQuantizer(1, 1, 1)
    quantizer.learn(torch.full((10, 1), 2.0), generator)
    assert quantizer.codebooks.item() == pytest.approx(2)
    quantizer.learn(torch.full((10, 1), 3.0), generator)
    counts = [DECAY + (1 - DECAY) * 10]
    counts.append(DECAY * counts[0] + (1 - DECAY) * 10)
    sums = DECAY * 2 * counts[0] + (1 - DECAY) * 30
    assert quantizer.counts.item() == pytest.approx(counts[1])
    assert quantizer.codebooks.item() == pytest.approx(sums / counts[1])


def test_fewer_vectors_than_entries():
    quantizer = ResidualQuantizer(2, 64, 3)
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    errors, _ = quantizer.learn(vectors, torch.Generator().manual_seed(0))
    assert errors.max() < 1e-6  # every vector is an entry


def test_codes_are_those_of_the_codec(monkeypatch):
    """Training and `Codec.encode` must agree on what a latent's codes are."""
    quantizer = ResidualQuantizer(4, 8, 8)
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(200, 8, generator=generator)
    quantizer.learn(vectors, generator)
    codec = Codec(CodecConfig(n_filters=2, dimension=8, n_codebooks=4, codebook_size=8, encoder=True))
    codec.codebooks.data = quantizer.codebooks
    monkeypatch.setattr(codec.encoder, "forward", lambda audio: vectors.T[None])
    assert torch.equal(codec.encode(torch.zeros(1, 1), 4)[0], quantizer.encode(vectors))


@pytest.mark.cuda
def test_codebooks_on_a_gpu_are_those_of_the_cpu():
    books = []
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        quantizer = ResidualQuantizer(2, 8, 4).to(device)
        for _ in range(3):
            quantizer.learn(torch.randn(100, 4, generator=generator).to(device), generator)
        books.append(quantizer.codebooks.cpu())
    assert torch.allclose(*books, atol=1e-4)


# --- speech -------------------------------------------------------------------------------------------------


def test_questions_that_rise():
    """Those that are answered by yes or no; the number counts the words."""
    assert questions("are you coming?") == [2]
    assert questions("where are you going?") == []
    assert questions("and who is it?") == []
    assert questions("who's there?") == []
    assert questions("tea or coffee?") == []
    assert questions("it is late. are you there? yes, i am.") == [5]
    assert questions("really? what is it, my friend? no!") == [0]


def test_a_question_rises_from_its_last_stressed_syllable_on():
    segments = [("pau", 0.05, -1, False), ("a", 0.1, 0, True), ("l", 0.15, 1, False), ("m", 0.2, 1, True)]
    segments += [("o", 0.3, 1, True), ("pau", 0.4, -1, False)]
    f0 = np.full(80, 100.0)
    f0[60:] = 0
    assert np.array_equal(raised("a lmo.", segments, f0), f0)
    higher = raised("a lmo?", segments, f0)
    assert np.array_equal(higher[:30], f0[:30])  # up to 0.15 s
    assert (np.diff(higher[30:60]) > 0).all()
    assert 135 < higher[59] < 140
    assert (higher[60:] == 0).all()  # no voice comes out of silence


def test_units_are_phones_with_their_pitch():
    speaker = Speaker("x", "rms", 100.0, 0.1, 1.0)
    f0 = np.concatenate([np.zeros(4), np.full(8, 100.0), np.full(8, 122.0), np.full(8, 10.0)])
    phones = [(0.0, "pau"), (4 * TRACK, "m"), (12 * TRACK, "iy"), (16 * TRACK, "s"), (20 * TRACK, "n")]
    speech = Speech(np.zeros(1), phones, [(0.0, 0)], f0)
    assert [name for _, name in units(speech, speaker)] == ["pau", "m+0", "iy+3", "s", "n-4"]
    assert [start for start, _ in units(speech, speaker)] == [start for start, _ in phones]


def test_units_in_frames():
    """One sounds in a frame if it does in the frame's middle."""
    frames, which = framed([(0, "pau"), (1.0, "h"), (1.49, "e"), (1.51, "l")], 6, 1.0)
    assert frames == [("pau", 0), ("e", 0), ("l", 0), ("l", 1), ("l", 2), ("l", 3)]
    assert which.tolist() == [0, 2, 3, 3, 3, 3]
    frames, which = framed([(1.2, "h"), (2.6, "e")], 4, 1.0)  # the first one reaches back to the start
    assert [name for name, _ in frames] == ["h", "h", "h", "e"]
    assert [k for _, k in frames] == [0, 0, 1, 0]


def test_letters_of_phones():
    """Phones share out their word's letters, and a pause looks at its word's end."""
    text = "hello you"
    phones = [(0, "hh"), (10, "ax"), (20, "l"), (30, "ow"), (40, "pau"), (50, "y"), (60, "uw")]
    speech = Speech(np.zeros(70), phones, [(0, 0), (50, 6)], np.zeros(0))
    spans = spans_of(text, speech, range(7))
    assert spans.shape == (7, 2)
    assert (spans[:, 0] <= spans[:, 1]).all()
    assert (spans[:4] >= 0).all()
    assert (spans[:4, 1] <= 5).all()
    assert spans[0, 0] == 0
    assert spans[3, 1] == 5  # the space too
    assert (np.diff(spans[:4], axis=0) >= 0).all()
    assert spans[4].tolist() == [5, 5]
    assert (spans[5:] >= 6).all()
    assert spans[6, 1] == 8
    assert spans_of(text, speech, [5, 5, 0]).tolist() == spans[[5, 5, 0]].tolist()
    speech = Speech(np.zeros(9), [(-0.1, "pau"), (0.04, "ax")], [(0.04, 0)], np.zeros(0))
    assert spans_of("a", speech, [0, 1]).tolist() == [[0, 0], [0, 0]]


@pytest.fixture(scope="module")
def flite():
    try:
        Flite()
    except OSError as error:
        pytest.skip(str(error))


def test_without_flite(monkeypatch):
    def missing(name, mode=None):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(OSError, match="flite is not installed"):
        Flite()


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_flite_speaks(speaker, flite):
    speech = speak("are you there, my lion?", speaker)
    assert speech.audio.dtype == np.float32
    assert 0.5 < len(speech.audio) / 16_000 < 3
    assert 0.3 < np.abs(speech.audio).max() < 1
    assert {name for _, name in speech.phones} > {"m", "pau"}
    assert [position for _, position in speech.words] == [0, 4, 8, 15, 18]
    assert speech.words[0][0] == pytest.approx(0.04, abs=TRACK)
    assert speech.words[-1][0] < len(speech.audio) / 16_000
    assert len(speech.f0) == pytest.approx(len(speech.audio) / 16_000 / TRACK, abs=2)
    said = speak("are you there, my lion.", speaker)
    asked, told = (one.f0[one.f0 > 0][-5:].mean() for one in (speech, said))
    assert asked > 1.2 * told
    T = len(speech.audio) // 320
    heard, _ = pitch(torch.from_numpy(speech.audio[: T * 320])[None], 16_000, 320)
    decided = speech.f0[(np.arange(T) * 4 + 2).clip(max=len(speech.f0) - 1)]
    both = (heard[0].numpy() > 0) & (decided > 0)
    assert both.mean() > 0.5
    assert np.median(np.abs(np.log(heard[0].numpy()[both] / decided[both]))) < 0.04
    last = np.flatnonzero(both)[-6:]  # the rise is in the sound
    assert np.median(heard[0].numpy()[last] / decided[last]) == pytest.approx(1.0, abs=0.1)
    rough = speak("are you there, my lion?", speaker, keep_audio=False)
    assert (rough.phones, rough.words) == (speech.phones, speech.words)
    assert np.array_equal(rough.f0, speech.f0)
    assert len(rough.audio) == len(speech.audio)
    assert not rough.audio.any()
    assert speech.audio.any()
    with pytest.raises(ValueError, match="flite has no voice 'xx'"):
        speak("hello", Speaker("x", "xx", 100.0, 0.1, 1.0))


def test_a_text_that_flite_divides_in_another_way(flite):
    assert speak("", SPEAKERS[0]) is None
    assert speak("3 4", SPEAKERS[0]) is None


def test_a_spoken_corpus(flite, tmp_path):
    texts = ["hello there", "good day", "so long"]
    n = write_corpus(tmp_path, texts, SPEAKERS, 2, 4, 320, processes=1)
    corpus, names = Corpus(tmp_path), json.loads((tmp_path / "units.json").read_text())
    assert [(row.text, row.speaker) for row in corpus.rows] == [
        ("hello there", "low"), ("good day", "high"), ("so long", "low"),
    ]  # fmt: skip
    assert n == 4 * len(names) > max(corpus.semantic(i).max() for i in range(3))
    assert corpus.rows[2].samples == 0  # it is not among the first two
    for i in range(2):
        assert corpus.rows[i].samples == 320 * corpus.rows[i].semantic == 320 * corpus.rows[i].spans
    spoken = [names[token // 4].rstrip("+-0123456789") for token in corpus.semantic(0)]
    assert spoken.index("hh") < spoken.index("dh")
    assert corpus.spans(0).max() < len("hello there")

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
from barklite.training.quantizer import DECAY, ResidualQuantizer
from barklite.training.speech import Espeak, Speaker, Speech, align, natural_f0, speak
from barklite.training.spoken import framed, spans_of, write_corpus
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
        (np.zeros(0, np.int16), "has no sound"),
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


def test_latents_are_log_mel_spectra_of_the_halves_of_a_frame():
    sound = torch.from_numpy(sounds.sine(800, 700))[None]
    z = spectrum.latents(torch.cat((sound, 0 * sound)), CODEC)
    assert z.shape == (2, 8, 10)
    assert torch.allclose(z[1], torch.log(torch.tensor(spectrum.FLOOR)))  # silence
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 2000 / 700), 6) / 2595) - 1)
    nearest = int(np.abs(edges[1:-1] - 700).argmin())
    assert set(z[0, :4, 2:-2].argmax(0).tolist()) == set(z[0, 4:, 2:-2].argmax(0).tolist()) == {nearest}
    burst = torch.zeros(1, 800)
    burst[0, 5 * 80 + 15 : 5 * 80 + 25] = 0.5  # in the first half of frame 5
    energy = spectrum.latents(burst, CODEC).unflatten(1, (2, 4)).sum(2)[0]  # (part, T)
    assert energy.flatten().argmax() == 5
    assert energy[0, 5] > energy[1, 5] > energy[1, 2]


@pytest.mark.parametrize("period", [80, 40, 20])
@pytest.mark.parametrize("at", [0, 7])
def test_pulses_on_the_grid_give_steady_latents(period, at):
    """What makes the codes of a pitch with whole periods in a frame regular."""
    z = spectrum.latents(pulses(period, 80 * 12, at), CODEC)[..., 2:-2]
    assert (z - z[..., :1]).abs().max() < 1e-4
    assert z.max() > np.log(spectrum.FLOOR) + 1
    off = spectrum.latents(pulses(period + 3, 80 * 12, at), CODEC)[..., 2:-2]
    assert (off - off[..., :1]).abs().max() > 1e-2


def test_latents_move_with_the_sound():
    sound = torch.randn(1, 80 * 12, generator=torch.Generator().manual_seed(0))
    z, later = spectrum.latents(sound, CODEC), spectrum.latents(sound.roll(160, 1), CODEC)
    assert torch.allclose(z[..., 1:-4], later[..., 3:-2], atol=1e-5)


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


def glottal(period: float, starts: list[float], lengths: list[int], samples: int) -> np.ndarray:
    """Voiced stretches: smooth pulses of `period`, from each start on for some of them."""
    audio, t = np.zeros(samples), np.arange(samples)
    for start, n in zip(starts, lengths, strict=True):
        for k in range(n):
            audio += np.exp(-(((t - start - k * period) / 8) ** 2))
    return audio


def test_pulses_are_moved_onto_the_grid():
    """Each voiced stretch begins at a phase of its own."""
    period, starts, lengths = 240.0, [1000.0, 7130.0, 14090.0], [20, 22, 18]
    audio = glottal(period, starts, lengths, 20_000)
    moved, time = align(audio, period)
    for start, n in zip(starts, lengths, strict=True):
        for k in range(2, n - 2):
            at = time(start + k * period)
            assert abs(at - period * round(at / period)) < 8
            near = round(at)
            assert abs(int(np.argmax(moved[near - 60 : near + 60])) - 60) <= 2  # the pulse went along
    times = [time(t) for t in np.linspace(0, 19_999, 500)]
    assert (np.diff(times) > 0).all()
    assert abs(len(moved) - len(audio)) <= period
    assert abs(np.abs(moved).max() - np.abs(audio).max()) < 0.1


def test_aligned_pulses_stay():
    audio = glottal(240.0, [960.0], [40], 12_000)
    moved, time = align(audio, 240.0)
    assert abs(time(5000) - 5000) < 2
    assert np.abs(moved[:11_900] - audio[:11_900]).max() < 0.05


def test_silence_and_noise_are_not_moved():
    assert np.array_equal(align(np.zeros(5000), 240.0)[0], np.zeros(5000))


def test_phonemes_in_frames():
    """One sounds in a frame if it does in the frame's middle."""
    frames, which = framed([(0, "_"), (100, "h"), (149, "e"), (151, "l")], 6, 100)
    assert frames == [("_", 0), ("e", 0), ("l", 0), ("l", 1), ("l", 2), ("l", 3)]
    assert which.tolist() == [0, 2, 3, 3, 3, 3]
    frames, which = framed([(120.0, "h"), (260.0, "e")], 4, 100)  # the first one reaches back to the start
    assert [name for name, _ in frames] == ["h", "h", "h", "e"]
    assert [k for _, k in frames] == [0, 0, 1, 0]


def test_letters_of_phonemes():
    """Phonemes share out their word's letters, and a pause looks at its word's end."""
    text = "hello you"
    phonemes = [(0, "h"), (10, "e"), (20, "l"), (30, "o"), (40, "_:"), (50, "j"), (60, "u")]
    speech = Speech(np.zeros(70), phonemes, [(0, 0), (50, 6)])
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
    assert spans_of("a", Speech(np.zeros(9), [(0, "a")], []), [0]).tolist() == [[0, 0]]


@pytest.fixture
def voice():
    try:
        Espeak()
    except OSError as error:
        pytest.skip(str(error))
    return Speaker("low", "en-us+klatt4", pitch=60, f0=100.0)


def test_without_espeak(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(OSError, match="espeak-ng is not installed"):
        Espeak()


def test_espeak_speaks_on_one_note(voice):
    speech = speak("are you there, my lion?", voice)
    assert speech.audio.dtype == np.float32
    assert 0.5 < len(speech.audio) / 24_000 < 3
    assert 0.1 < np.abs(speech.audio).max() < 0.9  # a decoder may overshoot a little
    loud = speak("why are you wearing two different socks?", voice)  # espeak-ng's own peak is at full scale
    assert 0.7 < np.abs(loud.audio).max() < 0.9
    assert {name for _, name in speech.phonemes} > {"m"}
    assert [position for _, position in speech.words] == [0, 4, 8, 15, 18]
    assert all(-240 < t < len(speech.audio) for t, _ in speech.words)
    spectrum = np.abs(np.fft.rfft(speech.audio))
    hertz = np.fft.rfftfreq(len(speech.audio), 1 / 24_000)
    voiced = (hertz > 60) & (hertz < 140)
    assert abs(hertz[voiced][spectrum[voiced].argmax()] - 100) < 1
    assert 50 < natural_f0(voice) < 300
    with pytest.raises(ValueError, match="espeak-ng has no voice 'xx'"):
        speak("hello", Speaker("x", "xx"))


def test_a_spoken_corpus(voice, tmp_path):
    texts, speakers = (
        ["hello there", "good day", "so long"],
        [voice, Speaker("high", "en-us+klatt2", f0=150.0)],
    )
    n = write_corpus(tmp_path, texts, speakers, 2, 4, 24_000, 480, processes=1)
    corpus, names = Corpus(tmp_path), json.loads((tmp_path / "phonemes.json").read_text())
    assert [(row.text, row.speaker) for row in corpus.rows] == [
        ("hello there", "low"), ("good day", "high"), ("so long", "low"),
    ]  # fmt: skip
    assert n == 4 * len(names) > max(corpus.semantic(i).max() for i in range(3))
    assert corpus.rows[2].samples == 0  # it is not among the first two
    for i in range(2):
        assert corpus.rows[i].samples == 480 * corpus.rows[i].semantic == 480 * corpus.rows[i].spans
    spoken = [names[token // 4] for token in corpus.semantic(0)]
    assert spoken.index("h") < spoken.index("D")
    assert corpus.spans(0).max() < len("hello there")

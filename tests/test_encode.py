"""`Bark.encode`: recordings of any form to codes; and the checkpoints that hold the encoder for it."""

import io
import math
import shutil
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
import torch

from barklite import Bark, BarkConfig, GenerationConfig
from barklite.models.codec import Codec
from barklite.storage import hub
from barklite.storage.checkpoint import convert
from barklite.validation import mono
from tests import builders, golden
from tests.comparing import same
from weights_convert import encodec

SHORT = GenerationConfig(max_semantic_tokens=20)


def sine(rate: int = 24_000, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.fixture(scope="module")
def huggingface(tiny, tmp_path_factory) -> Path:
    return builders.write_huggingface(tmp_path_factory.mktemp("huggingface"), tiny, weight_norm="new")


@pytest.fixture(scope="module")
def full(huggingface) -> Bark:
    """`tiny` with an encoder."""
    return Bark.from_pretrained(huggingface, device="cpu", encoder=True)


# --- numbers ------------------------------------------------------------------------------------------------


def test_golden_codes():
    """Specification 9.1."""
    config, state = encodec.convert(golden.encodec_state(), encoder=True)
    codec = Codec(config)
    codec.load_state_dict(state)
    tiny = Bark.from_config(BarkConfig.tiny(), device="cpu")
    models = {name: getattr(tiny, name) for name in ("semantic", "coarse", "fine")} | {"codec": codec}
    bark = Bark(replace(tiny.config, codec=config), tiny.tokenizer, models)
    sound = np.float32(0.5) * np.sin(2 * np.pi * 440 * np.arange(2000) / 24_000).astype(np.float32)
    codes = bark.encode(sound)
    assert (codes.shape, codes.dtype) == ((8, 7), torch.int64)
    assert codes[:, :3].tolist() == [
        [361, 361, 361], [350, 827, 182], [230, 44, 397], [254, 615, 615],
        [892, 490, 857], [786, 786, 284], [931, 45, 479], [567, 500, 500],
    ]  # fmt: skip


@torch.no_grad()
def test_codes_are_those_of_transformers(full, huggingface):
    """Through a whole checkpoint directory."""
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    size = dict(num_filters=4, hidden_size=16, codebook_dim=16)
    theirs = transformers.EncodecModel(transformers.EncodecConfig(**size)).eval()
    state = torch.load(huggingface / "pytorch_model.bin", weights_only=True)
    own = {key.removeprefix("codec_model."): x for key, x in state.items() if key.startswith("codec_model.")}
    theirs.load_state_dict(own)
    for samples in (1, 320, 5000):
        sound = torch.randn(samples, generator=torch.Generator().manual_seed(samples))
        expected = theirs.encode(sound[None, None], bandwidth=6.0).audio_codes[0, 0]
        assert torch.equal(full.encode(sound), expected)


@pytest.mark.parametrize("samples", [0, 1, 319, 320, 321, 5000])
def test_there_and_back(samples, full):
    codes = full.encode(sine()[:samples])
    frames = math.ceil(samples / 320)
    assert (codes.shape, codes.dtype) == ((8, frames), torch.int64)
    assert (full.decode([codes])[0].shape) == (320 * frames,)
    if samples == 5000:
        assert full.score((None, codes)).fine.shape == (6, frames)
        assert full.coarse_to_fine([codes[:2]])[0].shape == codes.shape


# --- forms of sound -----------------------------------------------------------------------------------------

SOUND = sine(seconds=0.1)
PCM = np.round(SOUND * 32_768).astype(np.int16)
BF16 = torch.from_numpy(SOUND).bfloat16()


FORMS = {
    "float32": (SOUND.astype(np.float32), SOUND), "float64": (SOUND, SOUND),
    "float16": (SOUND.astype(np.float16), SOUND.astype(np.float16)),
    "int16": (PCM, PCM / 32_768), "int32": (PCM.astype(np.int32) * 65_536, PCM / 32_768),
    "uint8": ((PCM // 256 + 128).astype(np.uint8), (PCM // 256) / 128),
    "big endian": (PCM.astype(">i2"), PCM / 32_768), "reversed": (SOUND[::-1], SOUND[::-1]),
    "every second": (SOUND[::2], SOUND[::2]), "fixed": (np.frombuffer(SOUND.tobytes()), SOUND),
    "tensor": (torch.from_numpy(SOUND), SOUND), "int16 tensor": (torch.from_numpy(PCM), PCM / 32_768),
    "bfloat16 tensor": (BF16, BF16.double().numpy()),
    "tensor with gradients": (torch.from_numpy(SOUND).requires_grad_(), SOUND),
}  # fmt: skip


@pytest.mark.parametrize("form, expected", FORMS.values(), ids=FORMS)
def test_forms(form, expected, full):
    expected = torch.from_numpy(np.array(expected, dtype=np.float32))
    sound = mono(form, None, 24_000)
    assert sound.dtype == torch.float32
    assert torch.equal(sound, expected)
    assert not sound.requires_grad
    assert torch.equal(full.encode(form), full.codec.encode(expected[None])[0])


def test_the_callers_array_stays():
    given = SOUND.astype(np.float32)
    mono(given, None, 24_000).zero_()
    assert np.array_equal(given, SOUND.astype(np.float32))


def write_24_bit(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(3), file.setframerate(24_000)
        file.writeframes(b"".join(int(x).to_bytes(3, "little", signed=True) for x in samples))


def test_wav_files(full, tmp_path):
    eight = (PCM // 256 + 128).astype(np.uint8)
    quiet = np.zeros_like(PCM)
    silent = np.full_like(eight, 128)
    files = {
        "16.wav": (PCM, PCM / 32_768), "float.wav": (SOUND.astype(np.float32), SOUND),
        "double.wav": (SOUND, SOUND), "32.wav": (PCM.astype(np.int32) * 65_536, PCM / 32_768),
        "8.wav": (eight, (PCM // 256) / 128), "stereo.wav": (np.stack((PCM, quiet), 1), PCM / 65_536),
        "both.wav": (np.stack((PCM, PCM), 1), PCM / 32_768),
        "stereo8.wav": (np.stack((eight, silent), 1), (PCM // 256) / 256),
        "stereo float.wav": (np.stack((SOUND, -SOUND, SOUND), 1), SOUND / 3),
    }  # fmt: skip
    for name, (samples, expected) in files.items():
        scipy.io.wavfile.write(tmp_path / name, 24_000, samples)
        found = mono(tmp_path / name, None, 24_000).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-7, err_msg=name)
    write_24_bit(tmp_path / "24.wav", PCM.astype(np.int64) * 256 + 77)
    found = mono(str(tmp_path / "24.wav"), None, 24_000).numpy()
    np.testing.assert_allclose(found, (PCM.astype(np.float64) * 256 + 77) / 2**23, atol=1e-7)
    assert torch.equal(full.encode(tmp_path / "16.wav"), full.encode(PCM))
    scipy.io.wavfile.write(tmp_path / "none.wav", 24_000, PCM[:0])
    assert full.encode(tmp_path / "none.wav").shape == (8, 0)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("form", ["file", "array"])
def test_a_sine_of_another_rate_stays_a_sine(rate, form, tmp_path):
    sound = sine(rate)
    if form == "file":
        scipy.io.wavfile.write(tmp_path / "sine.wav", rate, np.round(sound * 32_767).astype(np.int16))
        found = mono(tmp_path / "sine.wav", None, 24_000)
    else:
        found = mono(sound, np.int64(rate), 24_000)
    assert (found.shape, found.dtype) == ((12_000,), torch.float32)
    inside = slice(200, -200)  # beyond the ends there is silence
    np.testing.assert_allclose(found.numpy()[inside], sine()[inside], atol=2e-3)
    high = mono(sine(48_000, hertz=15_000), 48_000, 24_000).numpy()  # more than 24 kHz can hold
    assert np.abs(high[inside]).max() < 2e-3


# --- what is no sound ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("audio, rate, message", [
    (SOUND[None], None, r"audio must be an array of shape \(samples,\), one channel, not \(1, 2400\)"),
    (torch.zeros(2, 5), None, r"not \(2, 5\)"), (np.float32(0.5), None, "not float32"),
    (np.zeros(()), None, r"not \(\)"), ([0.1, 0.2], None, "not list"), (None, None, "not NoneType"),
    (b"RIFF", None, "not bytes"), (np.array(["a"]), None, "audio is <U1"),
    (SOUND > 0, None, "audio is bool"), (torch.zeros(5, dtype=torch.bool), None, "audio is bool"),
    (SOUND + 0j, None, "audio is complex"), (32_767 * SOUND, None, r"floats must lie in \[-1, 1\]: divide"),
    (PCM.astype(np.int64), None, "audio is int64; samples must be float, int16, int32 or uint8"),
    (torch.arange(5), None, "audio is int64"), (PCM.astype(np.uint16), None, "audio is uint16"),
    (np.array([0.0, np.nan]), None, "not finite"), (np.array([0.0, np.inf]), 48_000, "not finite"),
    (np.array([1e300]), None, "not finite"), (torch.tensor([-torch.inf]), None, "not finite"),
    (SOUND, 0, "sample_rate is 0"), (SOUND, 44_100.0, r"sample_rate is 44100\.0; it must be a whole number"),
    (SOUND, "24000", "sample_rate is '24000'"), (SOUND, True, "sample_rate is True"),
    (SOUND, 10**7, "sample_rate is 10000000"), ("x.wav", 24_000, "a sample_rate belongs to an array"),
])  # fmt: skip
def test_no_sound(audio, rate, message, full):
    with pytest.raises(ValueError, match=message):
        full.encode(audio, rate)


def test_bad_files(full, tmp_path):
    buffer = io.BytesIO()
    scipy.io.wavfile.write(buffer, 24_000, PCM)
    whole = buffer.getvalue()
    broken = {"empty": b"", "text": b"this is not a sound", "head": whole[:30], "cut": whole[:44]}
    broken |= {"half": whole[: len(whole) // 2], "last": whole[:-2], "odd": whole[:-3]}
    broken |= {"none": whole[:22] + b"\0\0" + whole[24:], "mp3": b"ID3" + bytes(200)}
    for name, content in broken.items():
        (tmp_path / f"{name}.wav").write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.wav is not a whole WAV file: ."):
            full.encode(tmp_path / f"{name}.wav")
    extra = b"what" + (4).to_bytes(4, "little") + b"abcd"  # a chunk that is no sound
    size = (len(whole) + len(extra) - 8).to_bytes(4, "little")
    (tmp_path / "extra.wav").write_bytes(whole[:4] + size + whole[8:] + extra)
    assert torch.equal(full.encode(tmp_path / "extra.wav"), full.encode(PCM))
    for missing in (tmp_path / "missing.wav", "no such file", tmp_path):
        with pytest.raises(OSError, match=str(missing)):
            full.encode(missing)
    scipy.io.wavfile.write(tmp_path / "slow.wav", 500, PCM)
    with pytest.raises(ValueError, match="sample_rate is 500; it must be a whole number from 1000 to"):
        full.encode(tmp_path / "slow.wav")


# --- checkpoints with the encoder ---------------------------------------------------------------------------


def test_without_the_encoder(tiny, native, huggingface):
    """The error says how to get it."""
    with pytest.raises(ValueError, match=r"from_pretrained\(.*encoder=True\)"):
        tiny.encode(SOUND)
    with pytest.raises(ValueError, match="no encoder of the codec: convert the original again"):
        Bark.from_pretrained(native, device="cpu", encoder=True)
    assert Bark.from_pretrained(huggingface, device="cpu").codec.encoder is None


def test_directories_keep_the_encoder(full, huggingface, tmp_path):
    codes, clip = full.encode(SOUND), full.generate("Hello", seed=1, config=SHORT)
    full.save_pretrained(tmp_path / "saved")
    convert(huggingface, tmp_path / "converted", encoder=True)
    for path in ("saved", "converted"):
        for encoder in (True, False):  # one that is there is not taken away
            bark = Bark.from_pretrained(tmp_path / path, device="cpu", encoder=encoder)
            assert torch.equal(bark.encode(SOUND), codes)
            assert same(bark.generate("Hello", seed=1, config=SHORT), clip)


def test_the_encoder_changes_nothing_else(full, huggingface, tiny):
    lean = Bark.from_pretrained(huggingface, device="cpu")
    clips = [bark.generate("Hello", seed=1, config=SHORT) for bark in (lean, full, tiny)]
    assert same(clips[0], clips[1])
    assert np.array_equal(clips[0].codes, clips[2].codes)
    config = BarkConfig.tiny()
    without, also = (
        Bark.from_config(replace(config, codec=replace(config.codec, encoder=encoder)), device="cpu")
        for encoder in (False, True)
    )
    assert same(*(bark.generate("Hello", seed=1, config=SHORT) for bark in (without, also)))
    assert also.encode(SOUND).shape == (8, 8)


def test_suno_files(tiny, full, tmp_path):
    folder = builders.write_suno(tmp_path / "suno", tiny)
    bark = Bark.from_pretrained(folder, device="cpu", encoder=True)
    assert torch.equal(bark.encode(SOUND), full.encode(SOUND))


def test_the_cache_keeps_both(full, huggingface, tmp_path, monkeypatch):
    """What was fetched from the Hub is converted once in each form; afterwards neither needs the download."""
    import huggingface_hub.constants as constants

    commit = "12" * 20
    repository = tmp_path / "hub" / "models--suno--bark-small"
    shutil.copytree(huggingface, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def load(encoder: bool) -> Bark:
        return Bark.from_pretrained("suno/bark-small", device="cpu", encoder=encoder, local_files_only=True)

    home, converted = hub.cache_directory() / "suno--bark-small", []
    monkeypatch.setattr(hub, "convert", lambda *a, **k: (converted.append(a[1]), convert(*a, **k)))
    assert load(False).codec.encoder is None
    assert torch.equal(load(True).encode(SOUND), full.encode(SOUND))
    assert converted == [home / commit, home / f"{commit}-encoder"]
    shutil.rmtree(tmp_path / "hub")
    assert load(False).codec.encoder is None
    assert torch.equal(load(True).encode(SOUND), full.encode(SOUND))
    assert same(*(load(encoder).generate("Hello", seed=1, config=SHORT) for encoder in (False, True)))
    assert len(converted) == 2
    shutil.rmtree(home / f"{commit}-encoder")
    with pytest.raises(OSError, match="cannot get suno/bark-small from the Hugging Face Hub"):
        load(True)
    assert load(False).codec.encoder is None

"""The voice that comes with barklite: the installation alone has it, and everything works at its sizes.

What it says is not judged here; `python -m benchmarks` measures that.
"""

import json
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from barklite import Bark, Voice
from barklite import voice as voices
from barklite.__main__ import main
from barklite.config import BarkConfig, GenerationConfig, TokenConfig
from barklite.storage import checkpoint
from barklite.storage import formats as layouts

TEXT = "Hello there, my dog is cute."


def refuse(*_, **__):
    raise AssertionError("the network was asked")


@pytest.fixture(scope="module")
def bark() -> Bark:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", refuse)
        return Bark.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def short(bark):
    """The checkpoint's own settings, and less sound."""
    return replace(bark.config.generation, max_seconds=0.5)


@pytest.fixture(scope="module")
def clip(bark, short):
    return bark.generate(TEXT, bark.voices[0], 1, short)


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Run the command in an empty directory: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", refuse)

    def run(*arguments):
        return main(list(arguments)), *capfd.readouterr()

    return run


SPEAK = ("--device", "cpu", "--max-seconds", "0.5", "--seed", "1")


def test_it_speaks(bark, clip):
    t, codec = bark.config.tokens, bark.config.codec
    assert clip.sample_rate == codec.sample_rate
    assert clip.codes.shape == (t.n_codebooks, t.coarse_steps(len(clip.semantic)) // t.n_coarse)
    assert len(clip.audio) == codec.hop * clip.codes.shape[1] > 0
    assert clip.seconds <= 0.5 + 1 / t.semantic_rate + 1 / t.frame_rate
    assert np.isfinite(clip.audio).all()
    assert set(clip.timings) == {"semantic", "coarse", "fine", "codec"}


def test_default_lengths_are_fitted_to_the_model():
    """Regression: GenerationConfig's 768 and 630 were refused by a model that makes less."""
    small = BarkConfig.tiny()
    tokens = replace(small.tokens, max_coarse_history=120)
    small = replace(small, tokens=tokens, semantic=replace(small.semantic, block_size=600))
    fitted = small.fitted(GenerationConfig())
    assert (fitted.max_semantic_tokens, fitted.max_coarse_history) == (small.max_semantic_tokens, 120)
    assert small.fitted(replace(fitted, max_semantic_tokens=9)).max_semantic_tokens == 9
    for asked in ({"max_semantic_tokens": 767}, {"max_coarse_history": 240}):
        with pytest.raises(ValueError, match=next(iter(asked))):
            small.fitted(GenerationConfig(**asked))
    assert BarkConfig.tiny().fitted(GenerationConfig()) == GenerationConfig()
    bark = Bark.from_config(small, seed=0)
    assert len(bark.generate("a", seed=0, config=GenerationConfig(max_seconds=0.2)).semantic) > 0


def test_matrices_in_eight_bits(tmp_path):
    """A row's largest value is exact, the others are off by half a step at most; a scale must be there."""
    model = Bark.from_config(BarkConfig.tiny(), seed=0)
    state = model.semantic.state_dict()
    for name in checkpoint.MODELS:
        checkpoint.write_model(tmp_path, name, getattr(model, name).state_dict(), torch.int8)
    checkpoint.write_rest(tmp_path, model.config, model.tokenizer, {})
    read = Bark.from_pretrained(tmp_path, device="cpu").semantic.state_dict()
    for key, tensor in state.items():
        if tensor.ndim == 2:
            step = tensor.abs().amax(-1, keepdim=True) / 127
            assert read[key].dtype == torch.float32
            assert ((read[key] - tensor).abs() <= step * 0.5001).all()
        else:
            torch.testing.assert_close(read[key], tensor.half().float())
    path = tmp_path / "semantic.safetensors"
    tensors = load_file(path)
    del tensors["wte.weight.scale"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"semantic.safetensors.*'wte.weight'.*wte.weight.scale"):
        Bark.from_pretrained(tmp_path, device="cpu")


def test_large_convolutions_in_eight_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "LARGE", 100)
    model = Bark.from_config(BarkConfig.tiny(), seed=0)
    for name in checkpoint.MODELS:
        checkpoint.write_model(tmp_path, name, getattr(model, name).state_dict(), torch.int8)
    checkpoint.write_rest(tmp_path, model.config, model.tokenizer, {})
    state, read = model.codec.state_dict(), Bark.from_pretrained(tmp_path, device="cpu").codec.state_dict()
    stored = load_file(tmp_path / "codec.safetensors")
    assert stored["codebooks"].dtype == torch.float16
    large = [key for key, tensor in stored.items() if tensor.dtype == torch.int8 and tensor.ndim == 3]
    assert large
    for key in large:
        step = state[key].abs().amax((1, 2), keepdim=True) / 127
        assert ((read[key] - state[key]).abs() <= step * 0.5001).all()


def test_nothing_is_said_about_it_in_python(capfd, recwarn):
    Bark.from_pretrained(device="cpu", local_files_only=True)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_small_numbers_are_for_storage_only(bark, short, clip, tmp_path):
    """Regression: a codec stored in float16 computed in it."""
    stored = set()
    for file in voices.BUILT_IN.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            stored |= {tensors.get_tensor(key).dtype for key in tensors.keys()}  # noqa: SIM118
    assert stored <= {torch.int8, torch.float16, torch.float32}
    assert sum(file.stat().st_size for file in voices.BUILT_IN.rglob("*")) < 15e6
    models = bark.semantic, bark.coarse, bark.fine, bark.codec
    assert {p.dtype for model in models for p in model.parameters()} == {torch.float32}
    for options in ({"dtype": "bfloat16"}, {"quantize": "int8"}):
        other = Bark.from_pretrained(device="cpu", **options)
        assert {p.dtype for p in other.codec.parameters()} == {torch.float32}
        assert np.isfinite(other.generate(TEXT, other.voices[0], 1, short).audio).all()

    bark.save_pretrained(tmp_path / "saved")
    again = Bark.from_pretrained(tmp_path / "saved", device="cpu")
    assert (again.config, again.voices) == (bark.config, bark.voices)
    assert np.array_equal(again.generate(TEXT, bark.voices[0], 1, short).audio, clip.audio)


def test_its_voices(bark, short, clip):
    assert bark.config.tokens != TokenConfig()  # so Suno's voices mean nothing to it
    assert bark.voices == voices.built_in()
    assert len(bark.voices) >= 2
    other = bark.generate(TEXT, bark.voices[1], 1, short)
    assert not np.array_equal(other.codes[:, :25], clip.codes[:, :25])
    for name in bark.voices:
        voice = Voice.load(voices.BUILT_IN / "voices" / f"{name}.npz", bark.config.tokens)
        assert 1 <= len(voice.semantic) / bark.config.tokens.semantic_rate <= 3
        assert len(voice.semantic) <= bark.config.tokens.n_semantic_history  # the model hears all of it
    given = Voice.load(voices.BUILT_IN / "voices" / f"{bark.voices[0]}.npz", bark.config.tokens)
    assert np.array_equal(bark.generate(TEXT, given, 1, short).codes, clip.codes)


def test_suno_has_its_own_voices(tiny, bark):
    """The same door for all names, and what is behind it is what `voices` says."""
    assert tiny.voices == voices.voices()
    assert not {*tiny.voices} & {*bark.voices}
    for name in tiny.voices:
        with pytest.raises(ValueError, match="is one of Suno's and needs one of its models, suno/bark-small"):
            bark.generate(TEXT, name)


def test_wrong_names_get_the_right_ones(bark):
    name = bark.voices[0]
    with pytest.raises(ValueError, match=f"unknown voice '{name}x'; did you mean '{name}'.*this model has"):
        bark.generate(TEXT, f"{name}x")
    with pytest.raises(ValueError, match=f"this model has {', '.join(bark.voices[:10])}"):
        bark.generate(TEXT, "")


def test_a_clip_goes_on_as_a_voice(bark, clip, short, tmp_path):
    clip.voice().save(tmp_path / "me.npz")
    by_file, by_voice = (bark.generate(TEXT, v, 2, short) for v in (tmp_path / "me.npz", clip.voice()))
    assert np.array_equal(by_file.codes, by_voice.codes)


def test_the_stages_and_their_scores(bark, clip, short):
    t, row = bark.config.tokens, [torch.Generator().manual_seed(1)]
    semantic = bark.text_to_semantic([TEXT], bark.voices[0], row, short)
    coarse = bark.semantic_to_coarse(semantic, bark.voices[0], row, short)
    codes = bark.coarse_to_fine(coarse, bark.voices[0], row, short)
    assert np.array_equal(codes[0].numpy(), clip.codes)
    T = clip.codes.shape[1]
    assert (coarse[0].shape, codes[0].shape) == ((t.n_coarse, T), (t.n_codebooks, T))
    assert np.allclose(bark.decode(codes)[0].numpy(), clip.audio, atol=1e-5)
    scores = bark.score(clip, voice=bark.voices[0])
    assert scores.semantic.shape == clip.semantic.shape
    assert scores.coarse.shape == (t.n_coarse, T)
    assert scores.fine.shape == (t.n_codebooks - t.n_coarse, T)
    assert all(np.isfinite(mean) for mean in scores.means.values())


def test_batches_and_long_texts(bark, clip, short):
    pair = bark.generate_batch([TEXT, "Good morning."], [bark.voices[0], None], [1, 2], short)
    assert np.array_equal(pair[0].codes, clip.codes)
    long = "Hello there. My dog is cute."
    clips = list(bark.stream(long, bark.voices[1], 1, short, pause=0.1))
    assert [one.text for one in clips] == ["Hello there.", "My dog is cute."]
    pieces = list(bark.stream_audio(long, bark.voices[1], 1, short, pause=0.1, piece=0.3))
    assert max(map(len, pieces)) <= 0.3 * clip.sample_rate
    joined = [np.concatenate(sound) for sound in ([one.audio for one in clips], pieces)]
    assert np.allclose(*joined, atol=1e-5)


@pytest.mark.parametrize("name", ["low", "high"])
def test_a_pause_between_two_sentences(bark, name):
    clip = bark.generate("I like green tea. She drinks coffee.", name, 0)
    frames = clip.audio[: len(clip.audio) // 320 * 320].reshape(-1, 320)  # of 20 ms
    level = np.sqrt((frames**2).mean(1))
    loud = np.flatnonzero(level > 0.05 * level.max())
    gaps = np.diff(loud)
    assert 0.2 < 0.02 * gaps.max() < 0.6
    assert 0.3 < loud[gaps.argmax()] / len(level) < 0.7


def test_recorded_sound(bark, clip):
    if not bark.config.codec.encoder:
        with pytest.raises(ValueError, match="no encoder of the codec"):
            Bark.from_pretrained(device="cpu", encoder=True)
        return
    full = Bark.from_pretrained(device="cpu", encoder=True)
    assert full.encode(clip.audio).shape == clip.codes.shape
    assert full.encode(np.zeros(16_000, np.float32), 16_000).shape[1] == bark.config.tokens.frame_rate


def test_a_picture(clip, tmp_path):
    pytest.importorskip("matplotlib", reason="draws with matplotlib, which is not installed")
    figure = clip.plot(tmp_path / "clip.png")
    assert np.isclose(figure.axes[0].get_xlim()[1], clip.seconds, atol=0.02)


@pytest.mark.parametrize("lost", ["all", "fine.safetensors", "config.json", "tokenizer.model"])
def test_an_installation_without_it(lost, tmp_path, monkeypatch):
    for file in voices.BUILT_IN.iterdir() if lost != "all" else ():
        if file.name != lost:
            (tmp_path / file.name).symlink_to(file)
    monkeypatch.setattr(layouts, "BUILT_IN", tmp_path if lost != "all" else tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"not installed.*: install barklite again, or name a model"):
        Bark.from_pretrained(device="cpu")


def test_a_revision_needs_a_name():
    with pytest.raises(ValueError, match="a revision belongs to a Hub id"):
        Bark.from_pretrained(revision="main")


# --- the command line -----------------------------------------------------------------------------------


def test_the_command_says_who_speaks(command, clip, bark):
    status, out, err = command(TEXT, "-o", "a.wav", "--float", "--voice", bark.voices[0], *SPEAK)
    assert (status, out) == (0, "")
    first, report = err.splitlines()
    assert "a small English model trained on synthetic speech" in first
    assert "-m suno/bark-small" in first
    assert report.startswith(f"a.wav: {clip.seconds:.1f} s, seed 1")
    rate, samples = scipy.io.wavfile.read("a.wav")
    assert rate == clip.sample_rate
    assert np.array_equal(samples, clip.audio)
    assert command(TEXT, "-o", "b.wav", "--float", "-q", *SPEAK) == (0, "", "")


def test_the_command_with_a_model_says_nothing(command, native):
    status, _, err = command("Hello.", "-m", str(native), "-o", "a.wav", "--float", *SPEAK)
    assert status == 0
    assert len(err.splitlines()) == 1


def test_the_command_speaks_a_corpus(command, bark):
    rows = [{"id": "a", "text": TEXT}, {"id": "b", "text": TEXT, "voice": "v2/en_speaker_6"}]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status, _, err = command("-i", "rows.jsonl", "-o", "out", "--voice", bark.voices[0], "--float", *SPEAK)
    assert status == 1
    assert "small English model" in err.splitlines()[0]
    lines = [json.loads(line) for line in Path("out", "results.jsonl").read_text().splitlines()]
    assert {line["id"]: line["file"] for line in lines} == {"a": "a.wav", "b": None}
    assert [line for line in lines if "one of Suno's" in (line["error"] or "")]


def test_the_command_that_lists_voices(command, native):
    own, released = voices.built_in(), voices.voices()
    status, out, err = command("voices")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line for line in lines if not line.startswith("#")] == [*own, *released]
    assert lines[0].startswith("# the built-in model, English")
    assert lines[len(own) + 1] == "# Suno's models (-m suno/bark-small, -m suno/bark)"

    def listed(*arguments) -> list[str]:
        return [line for line in command("voices", *arguments)[1].splitlines() if not line.startswith("#")]

    assert listed("en") == listed("EN") == [*own, *voices.voices("en")]
    assert listed("de") == voices.voices("de")
    assert listed("-m", str(voices.BUILT_IN)) == own
    assert listed("-m", str(native)) == listed("-m", "suno/bark") == released
    assert listed("-m", str(native), "de") == voices.voices("de")
    assert command("voices", "-m", "nowhere")[::2] == (1, "barklite: nowhere is not a directory\n")

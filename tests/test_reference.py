"""`barklite.reference` is the oracle: what every faster path must give, row by row."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from barklite import Bark, BarkConfig, GenerationConfig, SamplingConfig, reference
from tests import builders

VOICES = (None, builders.voice("a", 120), builders.voice("b", 700, 1), builders.voice("c", 33, 2))


def random_settings(seed: int) -> tuple[str, object, GenerationConfig]:
    """A text, a voice and settings, all of them random."""
    random = np.random.default_rng(seed)

    def sampling() -> SamplingConfig:
        return SamplingConfig(
            float(random.choice([0, 0.3, 0.7, 1.0, 1.3])),
            random.choice([None, 1, 7, 50, 2000]),
            random.choice([None, 0.3, 0.9, 1.0]),
        )

    config = GenerationConfig(
        sampling(),
        sampling(),
        SamplingConfig(float(random.choice([0, 0.5, 1.1]))),
        min_eos_p=random.choice([None, 0.0008, 0.2]),
        max_seconds=float(random.choice([0.3, 1.0, 2.5])),
        max_coarse_history=int(random.choice([60, 61, 300, 630])),
        rules=str(random.choice(["suno", "transformers"])),
    )
    text = "".join(random.choice(list("abc de")) for _ in range(random.integers(1, 60))) + "."
    return text, VOICES[random.integers(len(VOICES))], config


@pytest.mark.parametrize("seed", range(24))
def test_generate_gives_the_reference_tokens(seed, tiny):
    text, voice, config = random_settings(seed)
    semantic, codes, audio = reference.generate(tiny, text, voice, seed, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a text that ends at once is fine here
        clip = tiny.generate(text, voice, seed, config)
    assert np.array_equal(semantic, clip.semantic)
    assert np.array_equal(codes, clip.codes)
    assert np.allclose(audio, clip.audio, atol=1e-5)


def test_many_rows_give_the_reference_tokens(tiny):
    config = GenerationConfig(min_eos_p=0.0008, max_seconds=3.0)
    rows = [(*random_settings(seed)[:2], seed) for seed in range(9)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        requests = [dict(text=text, voice=voice, seed=seed) for text, voice, seed in rows]
        clips = dict(tiny.generate_many(requests, batch_size=4, config=config))
    for i, (text, voice, seed) in enumerate(rows):
        semantic, codes, _ = reference.generate(tiny, text, voice, seed, config)
        assert np.array_equal(semantic, clips[i].semantic)
        assert np.array_equal(codes, clips[i].codes)


def test_names_of_voices_and_the_builtin_model():
    bark = Bark.from_pretrained()
    name = bark.voices[0]
    semantic, codes, audio = reference.generate(bark, "Good morning.", name, 3)
    clip = bark.generate("Good morning.", name, 3)
    assert np.array_equal(semantic, clip.semantic)
    assert np.array_equal(codes, clip.codes)
    assert np.allclose(audio, clip.audio, atol=1e-5)


def test_other_codebooks():
    """One codebook more, in the coarse model and in all: a change of configuration alone."""
    base = BarkConfig.tiny()
    tokens = replace(base.tokens, n_coarse=3, n_codebooks=9, coarse_window=30, max_coarse_history=300)
    tokens = replace(tokens, coarse_pad=13_500, coarse_infer=13_501)
    config = replace(
        base,
        tokens=tokens,
        coarse=replace(base.coarse, input_vocab_size=14_000, output_vocab_size=14_000),
        fine=replace(base.fine, n_codes_total=9),
        codec=replace(base.codec, n_codebooks=9),
    )
    bark, settings = Bark.from_config(config, seed=1, device="cpu"), GenerationConfig(max_seconds=1.0)
    semantic, codes, _ = reference.generate(bark, "abc", seed=2, config=settings)
    clip = bark.generate("abc", seed=2, config=settings)
    assert codes.shape[0] == 9
    assert np.array_equal(semantic, clip.semantic)
    assert np.array_equal(codes, clip.codes)


def test_it_is_short():
    lines = Path(reference.__file__).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200


def test_few_frames_lie_between_generate_and_a_product(tiny, monkeypatch):
    """A stack trace of a step can be read: `Bark.generate` and seven more."""
    import traceback

    found, linear = [], torch.nn.Linear.forward

    def watched(self, x):
        names = [frame.name for frame in traceback.extract_stack() if "barklite" in frame.filename]
        if "decode" in names:
            found.append(names)
        return linear(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    tiny.generate("a", seed=0, config=GenerationConfig(max_seconds=0.1))
    expected = ["generate", "step", "step", "decode", "forward", "forward", "forward"]
    assert found[0][-7:] == expected  # and the product itself

"""Parity with Hugging Face's implementation, the oracle: same random checkpoint, same numbers and tokens."""

import json

import numpy as np
import pytest
import torch

from barklite import Bark, GenerationConfig, SamplingConfig, Voice
from barklite.decode.sampling import generator
from barklite.models.gpt import KVCache
from tests import builders

transformers = pytest.importorskip("transformers", reason="the oracle, transformers, is not installed")

TEXT = "Hello world, hell [laughs]!"
VOICE = builders.voice("someone", n=310, seed=5)
GREEDY = SamplingConfig(0)


@pytest.fixture(scope="module")
def oracle():
    return builders.oracle()


@pytest.fixture(scope="module")
def bark(oracle, tmp_path_factory):
    """The same weights, through the files that transformers' own state dict and configuration make."""
    path = tmp_path_factory.mktemp("huggingface")
    torch.save(oracle.state_dict(), path / "pytorch_model.bin")
    (path / "config.json").write_text(oracle.config.to_json_string(use_diff=False))
    generation = transformers.models.bark.generation_configuration_bark.BarkGenerationConfig()
    (path / "generation_config.json").write_text(json.dumps(generation.to_dict(), default=str))
    (path / "vocab.txt").write_text("\n".join(builders.vocabulary()) + "\n", encoding="utf-8")
    return Bark.from_pretrained(path, device="cpu")


def close(ours, theirs, tolerance=2e-5):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name, theirs", [("semantic", "semantic"), ("coarse", "coarse_acoustics")])
def test_causal_logits(bark, oracle, name, theirs):
    ours, theirs = getattr(bark, name), getattr(oracle, theirs)
    ids = torch.randint(0, ours.config.input_vocab_size, (2, 50), generator=generator(0))
    expected = theirs(input_ids=ids).logits
    close(ours(ids)[0], expected)
    close(ours(ids, last=True)[0], expected[:, -1:])
    close(ours(ids, vocab=slice(10, 90))[0], expected[..., 10:90])
    close(ours(embeds=ours.wte(ids))[0], expected)

    cache = KVCache(ours.config, 2, 50)
    parts = [ours(part, cache=cache)[0] for part in ids.split([30, 1, 1, 18], dim=1)]
    close(torch.cat(parts, 1), expected)


@torch.no_grad()
def test_masks_and_positions(bark, oracle):
    ids = torch.randint(0, 12_096, (2, 12), generator=generator(0))
    keep = torch.ones(2, 12, dtype=torch.bool)
    keep[1, :4] = False
    positions = (keep.long().cumsum(-1) - 1).clamp(min=0)
    expected = oracle.coarse_acoustics(
        input_ids=ids, attention_mask=keep.long(), position_ids=positions
    ).logits
    logits, _ = bark.coarse(ids, positions=positions, mask=keep[:, None, None, :])
    close(logits[0], expected[0])
    close(logits[1, 4:], expected[1, 4:])  # rows that may attend to nothing are nobody's


@torch.no_grad()
@pytest.mark.parametrize("codebook", range(1, 8))
def test_fine_logits(bark, oracle, codebook):
    codes = torch.randint(0, 1025, (2, 8, 60), generator=generator(0))
    expected = oracle.fine_acoustics(codebook, input_ids=codes.transpose(1, 2)).logits
    close(bark.fine(codebook, codes)[0], expected)
    close(bark.fine(codebook, codes, rows=slice(20, None), vocab=slice(0, 1024))[0], expected[:, 20:, :1024])


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 5, 6, 7, 40])
def test_codec(bark, oracle, frames, tmp_path):
    codes = torch.randint(0, 1024, (2, 8, frames), generator=generator(0))
    expected = oracle.codec_model.decode(codes[None], [None]).audio_values[:, 0]
    ours = bark.codec.decode(codes)
    assert ours.shape == (2, 320 * frames)
    assert float((ours - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@torch.no_grad()
def test_codec_encoder(oracle):
    from barklite.config import CodecConfig
    from barklite.models.codec import Codec
    from weights_convert import encodec

    theirs = oracle.codec_model
    config, state = encodec.convert(theirs.state_dict(), huggingface=True, encoder=True, config=CodecConfig())
    ours = Codec(config)
    ours.load_state_dict(state)
    for samples in (1, 5, 320, 4000):
        audio = torch.randn(2, samples, generator=generator(samples))
        expected = theirs.encode(audio[:, None], bandwidth=6.0).audio_codes[0]
        assert torch.equal(ours.encode(audio), expected)


# --- generation ---------------------------------------------------------------------------------------------

HISTORIES = {"no voice": None, "voice": VOICE}
SETTINGS = {
    "greedy": (dict(semantic=GREEDY, coarse=GREEDY, fine=GREEDY), dict(do_sample=False), None),
    "top-k 50": ({}, dict(do_sample=True, temperature=0.7, top_k=50), 0.5),
    "all ids": (
        dict(semantic=SamplingConfig(0.7), coarse=SamplingConfig(0.7)),
        dict(do_sample=True, temperature=0.7, top_k=None),
        0.5,
    ),
    "top-p": (
        dict(semantic=SamplingConfig(0.9, top_p=0.5), coarse=SamplingConfig(0.9, top_p=0.5)),
        dict(do_sample=True, temperature=0.9, top_k=None, top_p=0.5),
        0.5,
    ),
    "temperature 1": (
        dict(semantic=SamplingConfig(1.0, 20), coarse=SamplingConfig(1.0, 20), fine=SamplingConfig(0.8)),
        dict(do_sample=True, temperature=1.0, top_k=20),
        0.8,
    ),
}


def oracle_generates(oracle, bark, voice, settings, fine_temperature, seed, n, **semantic):
    """transformers' three `generate` methods in a row, from one seed: the tokens of each."""
    from transformers.models.bark.generation_configuration_bark import (
        BarkCoarseGenerationConfig,
        BarkFineGenerationConfig,
        BarkSemanticGenerationConfig,
    )

    semantic_config, coarse_config = BarkSemanticGenerationConfig(), BarkCoarseGenerationConfig()
    fine_config = BarkFineGenerationConfig(temperature=fine_temperature)
    ids = bark.tokenizer.encode(TEXT)
    padded = torch.tensor([ids + [0] * (256 - len(ids))])
    mask = (torch.arange(256) < len(ids)).long()[None]
    history = None
    if voice is not None:
        history = {
            "semantic_prompt": torch.from_numpy(voice.semantic.copy()),
            "coarse_prompt": torch.from_numpy(voice.coarse.copy()),
            "fine_prompt": torch.from_numpy(voice.fine.copy()),
        }
    torch.manual_seed(seed)
    tokens = oracle.semantic.generate(
        padded, semantic_generation_config=semantic_config, history_prompt=history, attention_mask=mask,
        max_new_tokens=n, **settings, **semantic,
    )  # fmt: skip
    spoken = tokens[0][tokens[0] != 10_000]
    coarse = oracle.coarse_acoustics.generate(
        tokens.clone(), semantic_generation_config=semantic_config, coarse_generation_config=coarse_config,
        codebook_size=1024, history_prompt=history, **settings,
    )  # fmt: skip
    fine = oracle.fine_acoustics.generate(
        coarse, semantic_generation_config=semantic_config, coarse_generation_config=coarse_config,
        fine_generation_config=fine_config, codebook_size=1024, history_prompt=history,
        temperature=fine_temperature,
    )  # fmt: skip
    return spoken, ((coarse[0] - 10_000) % 1024).view(-1, 2).T, fine[0]


@torch.no_grad()
@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_tokens(bark, oracle, setting, history):
    changes, settings, fine_temperature = SETTINGS[setting]
    voice, n = HISTORIES[history], 90
    spoken, coarse, fine = oracle_generates(oracle, bark, voice, settings, fine_temperature, 11, n)
    config = GenerationConfig.transformers(max_semantic_tokens=n, **changes)
    clip = bark.generate(TEXT, voice, seed=11, config=config)
    assert clip.semantic.tolist() == spoken.tolist()
    assert clip.codes[:2].tolist() == coarse.tolist()
    assert clip.codes.tolist() == fine.tolist()
    expected = oracle.codec_decode(fine[None])[0].numpy()
    assert np.abs(clip.audio - expected).max() <= 1e-5 * np.abs(expected).max()


@torch.no_grad()
def test_stages_continue_one_stream(bark):
    """The three stages called one by one with one generator give what `generate` gives."""
    config = GenerationConfig(max_semantic_tokens=40)
    g = [generator(4)]
    semantic = bark.text_to_semantic([TEXT], [VOICE], g, config)
    coarse = bark.semantic_to_coarse(semantic, [VOICE], g, config)
    codes = bark.coarse_to_fine(coarse, [VOICE], g, config)
    clip = bark.generate(TEXT, VOICE, 4, config)
    assert torch.equal(codes[0], torch.from_numpy(clip.codes))
    assert torch.equal(bark.decode(codes)[0], torch.from_numpy(clip.audio))


@torch.no_grad()
@pytest.mark.parametrize("min_eos_p", [5e-5, 7e-5, 1e-4])
def test_min_eos_p(bark, oracle, min_eos_p):
    """The end comes at the same step, and the noise that it used up is used up here too."""
    settings = dict(do_sample=True, temperature=0.7, top_k=50)
    spoken, _, fine = oracle_generates(oracle, bark, None, settings, 0.5, 3, 200, min_eos_p=min_eos_p)
    config = GenerationConfig.transformers(max_semantic_tokens=200, min_eos_p=min_eos_p)
    clip = bark.generate(TEXT, None, 3, config)
    assert 0 < len(spoken) < 200, "the setting must make the model end: choose another probability"
    assert clip.finish_reason == "eos"
    assert clip.semantic.tolist() == spoken.tolist()
    assert clip.codes.tolist() == fine.tolist()


def test_real_voice(bark, oracle, released):
    voice = Voice.load(released / "voices" / "v2" / "en_speaker_6.npz")
    settings = dict(do_sample=True, temperature=0.7, top_k=50)
    with torch.no_grad():
        spoken, _, fine = oracle_generates(oracle, bark, voice, settings, 0.5, 0, 60)
    clip = bark.generate(TEXT, voice, 0, GenerationConfig.transformers(max_semantic_tokens=60))
    assert clip.semantic.tolist() == spoken.tolist()
    assert clip.codes.tolist() == fine.tolist()

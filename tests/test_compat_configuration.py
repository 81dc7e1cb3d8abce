"""Configurations against transformers' own: defaults, aliases, and files that either side reads."""

import copy
import json
import pickle

import pytest
import torch

from barklite import BarkConfig as OwnConfig
from barklite import compat as ours
from barklite.compat.configuration import from_barklite
from tests import builders
from weights_convert import huggingface

transformers = pytest.importorskip("transformers", reason="the oracle, transformers, is not installed")
theirs_generation = pytest.importorskip("transformers.models.bark.generation_configuration_bark")

SUB = ["BarkSemanticConfig", "BarkCoarseConfig", "BarkFineConfig", "EncodecConfig"]
STAGES = ["BarkSemanticGenerationConfig", "BarkCoarseGenerationConfig", "BarkFineGenerationConfig"]
SECTIONS = ["semantic_config", "coarse_acoustics_config", "fine_acoustics_config", "codec_config"]
LABELS = {"id2label", "label2id"}  # a classifier's: not offered
ALIASES = ["num_attention_heads", "num_hidden_layers", "vocab_size", "window_size"]


def theirs(name: str, **kwargs):
    return getattr(theirs_generation if "Generation" in name else transformers, name)(**kwargs)


def plain(config: dict) -> dict:
    """Without who wrote it and where it was read, deep."""
    kept = {k: v for k, v in config.items() if k not in LABELS | {"transformers_version", "_name_or_path"}}
    return {k: plain(v) if isinstance(v, dict) else v for k, v in kept.items()}


@pytest.mark.parametrize("name", [*SUB, "BarkConfig"])
def test_model_defaults(name):
    expected, config = theirs(name), getattr(ours, name)()
    assert config.model_type == expected.model_type
    for attribute in expected:
        if not attribute.startswith("_") and attribute not in (*LABELS, *SECTIONS):
            assert getattr(config, attribute) == getattr(expected, attribute), attribute
    assert config.output_attentions is config.output_hidden_states is False
    assert config.use_return_dict is True
    for use_diff in (True, False):
        mine, other = (json.loads(c.to_json_string(use_diff)) for c in (config, expected))
        assert plain(mine) == plain(other)
    assert plain(config.to_dict()) == plain(expected.to_dict())
    assert plain(config.to_diff_dict()) == plain(expected.to_diff_dict())


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("given", [{}, {"temperature": 0.3, "eos_token_id": 5, "semantic_pad_token": 7}])
def test_stage_defaults(name, given):
    if "Fine" in name:  # which knows its own settings only; ours keeps any
        given = {key: value for key, value in given.items() if key == "temperature"}
    expected, config = theirs(name, **given), getattr(ours, name)(**given)
    assert vars(config) == {k: v for k, v in vars(expected).items() if not k.startswith("_")}
    assert config.model_type == expected.model_type
    assert plain(config.to_dict()) == {k: v for k, v in plain(expected.to_dict()).items() if k[0] != "_"}


def test_whole_generation_defaults():
    expected, config = theirs("BarkGenerationConfig"), ours.BarkGenerationConfig()
    assert (config.sample_rate, config.codebook_size) == (expected.sample_rate, expected.codebook_size)
    for name, section in zip(STAGES, SECTIONS, strict=False):
        stage = getattr(config, section)
        assert isinstance(stage, dict)
        rebuilt = getattr(ours, name)(**stage)
        assert rebuilt == getattr(ours, name)()
        assert rebuilt.temperature == getattr(expected, section).temperature == stage.temperature
    assert config.num_beams is None
    assert config.to_dict()["model_type"] == "bark"
    assert type(config.to_dict()["semantic_config"]) is dict
    with pytest.raises(AttributeError, match="nothing"):
        _ = config.semantic_config.nothing


@pytest.mark.parametrize("name", SUB[:3])
@pytest.mark.parametrize("alias", ALIASES)
def test_aliases(name, alias):
    config, other = getattr(ours, name)(**{alias: 24}), theirs(name, **{alias: 24})
    assert getattr(config, alias) == getattr(other, alias) == 24
    setattr(config, alias, 36), setattr(other, alias, 36)
    assert getattr(config, alias) == 36
    assert plain(config.to_dict()) == plain(other.to_dict())
    assert alias not in config.to_dict()


def test_further_attributes_and_old_generation_settings():
    given = {"foo": [1], "output_attentions": True, "torch_dtype": "float16", "top_k": 3, "do_sample": True}
    config, other = ours.BarkCoarseConfig(**given), transformers.BarkCoarseConfig(**given)
    assert config.foo == [1]
    assert config.dtype is config.torch_dtype is torch.float16
    assert not hasattr(config, "top_k")
    assert plain(config.to_dict()) == plain(other.to_dict())
    assert plain(config.to_diff_dict()) == plain(other.to_diff_dict())
    assert "_name_or_path" not in ours.BarkCoarseConfig(name_or_path="x").to_diff_dict()
    config.update({"num_hidden_layers": 5, "bar": 1})
    assert (config.num_layers, config.bar) == (5, 1)
    with pytest.raises(AttributeError, match="nothing"):
        _ = config.nothing


def test_whole_config_from_objects_dicts_none_and_position():
    semantic, coarse = ours.BarkSemanticConfig(num_layers=3), {"hidden_size": 24, "num_heads": 2}
    config = ours.BarkConfig(semantic, coarse, None, ours.EncodecConfig(hidden_size=16), foo=1)
    other = transformers.BarkConfig(
        semantic_config=transformers.BarkSemanticConfig(num_layers=3),
        coarse_acoustics_config=coarse,
        codec_config={"hidden_size": 16},
        foo=1,
    )
    assert config.semantic_config is semantic
    assert [type(getattr(config, s)).__name__ for s in SECTIONS] == SUB
    assert plain(config.to_dict()) == plain(other.to_dict())
    assert json.loads(repr(config).removeprefix("BarkConfig")) == config.to_diff_dict()
    keywords = ours.BarkConfig(**{s: getattr(config, s) for s in SECTIONS}, foo=1)
    joined = ours.BarkConfig.from_sub_model_configs(*(getattr(config, s) for s in SECTIONS), foo=1)
    assert config == keywords == joined == ours.BarkConfig.from_dict(config.to_dict())
    assert joined.semantic_config is not semantic
    assert config == copy.deepcopy(config) == pickle.loads(pickle.dumps(config))
    assert config != ours.BarkConfig()
    assert ours.BarkSemanticConfig() != ours.BarkCoarseConfig()
    assert ours.BarkSemanticConfig(512).block_size == 512


def test_encodec_properties():
    config, other = ours.EncodecConfig(hidden_size=16), transformers.EncodecConfig(hidden_size=16)
    for name in ("codebook_dim", "hop_length", "frame_rate", "codebook_nbits", "num_quantizers"):
        assert getattr(config, name) == getattr(other, name)


@pytest.mark.parametrize(
    "make, error, match",
    [
        (lambda: ours.BarkSemanticConfig(num_layers="2"), ValueError, "num_layers is '2'.*whole number"),
        (lambda: ours.BarkSemanticConfig(num_heads=True), ValueError, "num_heads is True"),
        (lambda: ours.BarkSemanticConfig(bias=1), ValueError, "True or False"),
        (lambda: ours.EncodecConfig(upsampling_ratios=8), ValueError, "must be a list"),
        (lambda: ours.BarkConfig(5), TypeError, "semantic_config must be a BarkSemanticConfig.*not int"),
        (lambda: ours.BarkConfig(codec_config={"model_type": "dac"}), ValueError, "'dac'.*encodec"),
        (lambda: ours.BarkConfig(*range(9)), TypeError, "takes 5"),
        (lambda: ours.AutoConfig.for_model("gpt2"), ValueError, "'gpt2'.*bark"),
        (lambda: ours.BarkConfig.from_pretrained("no such thing"), OSError, "neither a directory nor a Hub"),
    ],
)
def test_errors(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.fixture
def config():
    sizes = dict(num_layers=3, num_heads=2, hidden_size=16, bias=False)
    return dict(
        semantic_config=dict(vocab_size=129_600, **sizes),
        coarse_acoustics_config=dict(input_vocab_size=12_096, output_vocab_size=12_096, **sizes),
        fine_acoustics_config=dict(input_vocab_size=1056, output_vocab_size=1056, **sizes, extra="x"),
        codec_config=dict(num_filters=4, hidden_size=16, upsampling_ratios=[8, 5, 4, 2]),
    )


def test_files_both_ways(config, tmp_path):
    mine, other = ours.BarkConfig(**config), transformers.BarkConfig(**config)
    mine.save_pretrained(tmp_path / "ours")
    other.save_pretrained(tmp_path / "theirs")
    for loader in (transformers.BarkConfig, transformers.AutoConfig):
        assert plain(loader.from_pretrained(tmp_path / "ours").to_dict()) == plain(other.to_dict())
    for loader in (ours.BarkConfig, ours.AutoConfig):
        loaded = loader.from_pretrained(tmp_path / "theirs")
        assert isinstance(loaded, ours.BarkConfig)
        assert plain(loaded.to_dict()) == plain(mine.to_dict())
        assert loaded.fine_acoustics_config.extra == "x"
    for name, section in zip(SUB, SECTIONS, strict=True):
        part = getattr(ours, name).from_pretrained(tmp_path / "theirs")
        assert part == getattr(mine, section)
        part.save_pretrained(tmp_path / name)
        assert ours.AutoConfig.from_pretrained(tmp_path / name) == part
        assert plain(getattr(transformers, name).from_pretrained(tmp_path / name).to_dict()) == plain(
            part.to_dict()
        )
    assert ours.BarkConfig.from_pretrained(tmp_path / "ours" / "config.json") == mine


def test_keywords_replace_what_a_file_says(config, tmp_path):
    given = dict(semantic_config={"num_heads": 4}, foo=3, initializer_range=0.5, return_unused_kwargs=True)
    ours.BarkConfig(**config).save_pretrained(tmp_path)
    options = dict(revision="main", cache_dir=None, local_files_only=True, force_download=False, token=None)
    mine, unused = ours.AutoConfig.from_pretrained(tmp_path, **copy.deepcopy(given), **options)
    assert unused == {"foo": 3}
    assert (mine.semantic_config.num_heads, mine.semantic_config.num_layers) == (4, 3)
    assert mine.initializer_range == 0.5


def test_wrong_files(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "encodec"}')
    with pytest.raises(ValueError, match="type 'encodec'; BarkSemanticConfig is for 'semantic'"):
        ours.BarkSemanticConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="'gpt2'"):
        ours.AutoConfig.from_pretrained(tmp_path)
    for broken in ("{", "[1]"):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(ValueError, match=r"config\.json is not"):
            ours.BarkConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "barklite", "format_version": 99}')
    with pytest.raises(ValueError, match=r"config\.json: format_version is 99"):
        ours.BarkConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        ours.BarkConfig.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        ours.BarkGenerationConfig.from_pretrained(tmp_path)


def test_layouts(tiny, native, tmp_path):
    """Each layout describes the same model; what has no generation settings has the published ones."""
    folders = [native, builders.write_suno(tmp_path / "suno", tiny)]
    for folder in folders:
        config = ours.BarkConfig.from_pretrained(folder)
        assert config == from_barklite(tiny.config) == ours.AutoConfig.from_pretrained(folder)
        assert ours.BarkFineConfig.from_pretrained(folder) == config.fine_acoustics_config
        assert ours.BarkGenerationConfig.from_pretrained(folder) == ours.BarkGenerationConfig.published()
        temperature = ours.BarkFineGenerationConfig.from_pretrained(folder).temperature
        assert temperature == 0.5
    (tmp_path / "config.json").write_text(json.dumps(builders.huggingface_config(tiny.config)))
    published = ours.BarkConfig.from_pretrained(tmp_path)
    assert [getattr(published, s) for s in SECTIONS] == [getattr(config, s) for s in SECTIONS]
    with pytest.raises(FileNotFoundError, match=r"no generation_config\.json; .*published"):
        ours.BarkGenerationConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("size", ["tiny", "small", "large"])
def test_there_and_back(size):
    """barklite's configuration survives the way through transformers' two files."""
    from dataclasses import replace

    own = getattr(OwnConfig, size)()
    tokens = replace(own.tokens, semantic_rate=50.0, text_pad=129_596, max_coarse_history=600, fine_hop=500)
    tokens = replace(tokens, max_fine_history=500, coarse_pad=12_049, coarse_infer=12_051)
    own = replace(own, tokens=tokens)
    config, generation = from_barklite(own), ours.BarkGenerationConfig.published(own)
    back = huggingface.convert_config(config.to_dict(), generation.to_dict())
    assert replace(back, tokenizer=own.tokenizer, generation=own.generation) == own
    assert plain(transformers.BarkConfig(**config.to_dict()).to_dict()) == plain(config.to_dict())


def test_published_generation(tmp_path):
    """The published file: its three parts are dicts, to be changed in place, and unpacked into a stage's."""
    (tmp_path / "generation_config.json").write_text(json.dumps(builders.generation_config()))
    config = ours.BarkGenerationConfig.from_pretrained(tmp_path)
    oracle = transformers.GenerationConfig.from_pretrained(tmp_path)  # as a model that was loaded has it
    assert (config.sample_rate, config.codebook_size) == (24_000, 1024)
    for name, section in zip(STAGES, SECTIONS, strict=False):
        loaded, stage = getattr(oracle, section), getattr(config, section)
        assert type(loaded) is dict
        assert stage.items() >= loaded.items()
        mine, expected = getattr(ours, name)(**stage), theirs(name, **loaded)
        for attribute in set(vars(expected)) - {"_from_model_config"}:
            if name != "BarkFineGenerationConfig" or attribute in mine.defaults:
                assert getattr(mine, attribute) == getattr(expected, attribute), attribute
        assert getattr(ours, name).from_pretrained(tmp_path) == getattr(ours, name)(**loaded)
    config.semantic_config["temperature"] = 0.5
    assert config.semantic_config.temperature == 0.5
    config.semantic_config.temperature = 0.4
    assert ours.BarkSemanticGenerationConfig(**config.semantic_config).temperature == 0.4
    assert ours.BarkGenerationConfig().semantic_config["temperature"] == 1.0
    assert config.update(sample_rate=1, nothing=2) == {"nothing": 2}
    assert config.sample_rate == 1


def test_published_values():
    config = ours.BarkGenerationConfig.published()
    for section in SECTIONS[:2]:
        stage = getattr(config, section)
        assert (stage["do_sample"], stage["temperature"], stage["top_k"]) == (True, 0.7, 50)
    assert config.fine_acoustics_config["temperature"] == 0.5
    given = builders.generation_config()
    for section in SECTIONS[:3]:
        stage, written = getattr(config, section), given[section]
        assert {k: stage.get(k) for k in written.keys() & stage.keys()} == {
            k: written[k] for k in written.keys() & stage.keys()
        }


def test_generation_files_both_ways(tmp_path):
    stages = [getattr(ours, name)(temperature=0.3, mine=1) for name in STAGES]
    config = ours.BarkGenerationConfig.from_sub_model_configs(*stages, sample_rate=16_000, further="y")
    config.semantic_config["max_new_tokens"] = None
    config.save_pretrained(tmp_path)
    loaded = ours.BarkGenerationConfig.from_pretrained(tmp_path, top_k=7)
    assert (loaded.sample_rate, loaded.further, loaded.top_k) == (16_000, "y", 7)
    assert loaded.semantic_config["max_new_tokens"] is None
    for name, section in zip(STAGES, SECTIONS, strict=False):
        assert getattr(ours, name)(**getattr(loaded, section)) == getattr(ours, name)(
            **getattr(config, section)
        )
    other = transformers.GenerationConfig.from_pretrained(tmp_path)
    for name, section in zip(STAGES, SECTIONS, strict=False):
        mine, expected = (
            getattr(ours, name)(**getattr(config, section)),
            theirs(name, **getattr(other, section)),
        )
        assert {k: getattr(expected, k) for k in mine.defaults} == {
            k: getattr(mine, k) for k in mine.defaults
        }
    transformers.GenerationConfig(**theirs("BarkGenerationConfig").to_dict()).save_pretrained(tmp_path)
    assert ours.BarkGenerationConfig.from_pretrained(tmp_path).semantic_config["eos_token_id"] == 10_000
    assert repr(config).startswith("BarkGenerationConfig {")
    assert config == copy.deepcopy(config) != ours.BarkGenerationConfig()

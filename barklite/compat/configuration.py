"""transformers' model configurations (`config.json`): one for each of the four models and one for the whole
Bark, with its names, aliases and defaults (spec 3.9).

A configuration has attributes with a table of defaults; unknown keywords become attributes too. It is read
from a directory in any layout of `barklite.storage.formats`, or from the Hub.
"""

import copy
import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from barklite import config as own
from barklite.storage.formats import read_json

from .files import Saved, hub_options, read_config
from .generation import MISPLACED

# Attributes that every model's configuration has.
_GENERIC = dict(
    transformers_version=None, architectures=None, output_hidden_states=False, output_attentions=False,
    return_dict=True, dtype=None, chunk_size_feed_forward=0, is_encoder_decoder=False, problem_type=None,
    _name_or_path="", _attn_implementation=None,
)  # fmt: skip
_SUB_MODEL = dict(
    block_size=1024, input_vocab_size=10_048, output_vocab_size=10_048, num_layers=12, num_heads=12,
    hidden_size=768, dropout=0.0, bias=True, initializer_range=0.02, use_cache=True,
)  # fmt: skip
_FINE = dict(tie_word_embeddings=True, n_codes_total=8, n_codes_given=1)
_ENCODEC = dict(
    target_bandwidths=(1.5, 3.0, 6.0, 12.0, 24.0), sampling_rate=24_000, audio_channels=1, normalize=False,
    chunk_length_s=None, overlap=None, hidden_size=128, num_filters=32, num_residual_layers=1,
    upsampling_ratios=(8, 5, 4, 2), norm_type="weight_norm", kernel_size=7, last_kernel_size=7,
    residual_kernel_size=3, dilation_growth_rate=2, use_causal_conv=True, pad_mode="reflect", compress=2,
    num_lstm_layers=2, trim_right_ratio=1.0, codebook_size=1024, codebook_dim=None, use_conv_shortcut=True,
)  # fmt: skip
_ALIASES = {
    "torch_dtype": "dtype",
    "use_return_dict": "return_dict",
    "name_or_path": "_name_or_path",
    "attn_implementation": "_attn_implementation",
}
_SIZES = {
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "vocab_size": "input_vocab_size",
    "window_size": "block_size",
}
_TYPES = {
    bool: (bool, "True or False"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a string"),
    tuple: ((list, tuple), "a list"),
}


class PreTrainedConfig(Saved):
    """Base of the configurations. Arguments are keywords, or positional in the order of `defaults`.

    ValueError for a value whose type differs from its default's.
    """

    defaults = _GENERIC
    attribute_map = _ALIASES

    def __init__(self, *args, **kwargs):
        if len(args) > len(self.defaults):
            raise TypeError(f"{type(self).__name__} takes {len(self.defaults)} values, not {len(args)}")
        ignored = {"model_type", *MISPLACED}
        given = {name: value for name, value in kwargs.items() if name not in ignored}
        given = {**dict(zip(self.defaults, args, strict=False)), **given}
        for name, value in {**_GENERIC, **self.defaults, **given}.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value) -> None:
        name = self.attribute_map.get(name, name)
        kind, wanted = _TYPES.get(type(self.defaults.get(name)), (object, ""))
        if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
            raise ValueError(f"{type(self).__name__}: {name} is {value!r}; it must be {wanted}")
        if name == "dtype" and isinstance(value, str) and value != "auto":
            value = getattr(torch, value)
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str):
        if name not in type(self).attribute_map:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self, self.attribute_map[name])

    def to_dict(self) -> dict:
        """Return all attributes as JSON types."""
        plain = {name: _plain(value) for name, value in vars(self).items() if name != "_attn_implementation"}
        return {**plain, "model_type": self.model_type}

    def to_diff_dict(self) -> dict:
        """Return the content of `config.json`: `to_dict` without the defaults that all models share."""
        kept = {}
        for name, value in self.to_dict().items():
            part = getattr(self, name)
            if isinstance(part, PreTrainedConfig):
                kept[name] = part.to_diff_dict()
            elif name != "_name_or_path" and (name in self.defaults or value != _GENERIC.get(name, kept)):
                kept[name] = value
        return kept

    def update(self, config_dict: Mapping) -> None:
        """Set several attributes."""
        for name, value in config_dict.items():
            setattr(self, name, value)

    @classmethod
    def from_dict(cls, config_dict: Mapping, return_unused_kwargs: bool = False, **kwargs):
        """Make a configuration from a dict. Keywords that name an attribute replace its value.

        return_unused_kwargs: return (configuration, the other keywords).
        """
        config = cls(**config_dict)
        for name in [name for name in kwargs if hasattr(config, name)]:
            value, old = kwargs.pop(name), getattr(config, name)
            if isinstance(old, PreTrainedConfig) and isinstance(value, Mapping):
                value = type(old)(**{**old.to_dict(), **value})
            setattr(config, name, value)
        return (config, kwargs) if return_unused_kwargs else config

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """Read a directory, a `config.json`, or a Hub id. A sub-model's class reads its part of a whole
        Bark's file.

        Keywords: `HUB_OPTIONS`, and those of `from_dict`. OSError if there is no such file; ValueError if it
        describes another kind of model.
        """
        data = _config_dict(pretrained_model_name_or_path, **hub_options(kwargs))
        data = data.get(cls.section, data)
        if data.get("model_type", cls.model_type) != cls.model_type:
            found = f"{pretrained_model_name_or_path} describes a model of type {data['model_type']!r}"
            raise ValueError(f"{found}; {cls.__name__} is for {cls.model_type!r}")
        return cls.from_dict(data, **kwargs)


def _plain(value):
    if isinstance(value, PreTrainedConfig):
        return {name: part for name, part in value.to_dict().items() if name != "transformers_version"}
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return list(value) if isinstance(value, tuple) else copy.deepcopy(value)


def _config_dict(name: str | os.PathLike, **options) -> dict:
    """Return the content of `config.json` in transformers' form, for any layout."""
    if os.path.isfile(name):
        return read_json(Path(name))
    data, config = read_config(name, **options)
    return from_barklite(config).to_dict() if config else data


class BarkSubModelConfig(PreTrainedConfig):
    """A token model's configuration. `vocab_size` is an alias of `input_vocab_size`; see `_SIZES`."""

    defaults = _SUB_MODEL
    attribute_map = _ALIASES | _SIZES


class BarkSemanticConfig(BarkSubModelConfig):
    """Text to semantic tokens."""

    model_type, section = "semantic", "semantic_config"


class BarkCoarseConfig(BarkSubModelConfig):
    """Semantic tokens to the first two codebooks."""

    model_type, section = "coarse_acoustics", "coarse_acoustics_config"


class BarkFineConfig(BarkSubModelConfig):
    """Codes of two codebooks to codes of eight."""

    model_type, section = "fine_acoustics", "fine_acoustics_config"
    defaults = _SUB_MODEL | _FINE


class EncodecConfig(PreTrainedConfig):
    """EnCodec, the codec (spec 6). `codebook_dim` is `hidden_size` unless given."""

    model_type, section = "encodec", "codec_config"
    defaults = _ENCODEC

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.codebook_dim is None:
            self.codebook_dim = self.hidden_size

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.upsampling_ratios)

    @property
    def frame_rate(self) -> int:
        """Frames per second."""
        return math.ceil(self.sampling_rate / self.hop_length)

    @property
    def codebook_nbits(self) -> int:
        """Bits per code."""
        return math.ceil(math.log2(self.codebook_size))

    @property
    def num_quantizers(self) -> int:
        """Number of codebooks at the highest bandwidth."""
        return int(1000 * self.target_bandwidths[-1] // (self.frame_rate * self.codebook_nbits))


_PARTS = {
    kind.section: kind for kind in (BarkSemanticConfig, BarkCoarseConfig, BarkFineConfig, EncodecConfig)
}


class BarkConfig(PreTrainedConfig):
    """A whole Bark: four sub-configurations, each an object, a dict, or None for the defaults."""

    model_type = "bark"
    defaults = dict.fromkeys(_PARTS) | {"initializer_range": 0.02}

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name, kind in _PARTS.items():
            value = getattr(self, name)
            if isinstance(value, PreTrainedConfig):
                continue
            if not (value is None or isinstance(value, Mapping)):
                raise TypeError(
                    f"{name} must be a {kind.__name__}, a dict or None, not {type(value).__name__}"
                )
            value = dict(value or {})
            if kind is EncodecConfig and value.get("model_type", "encodec") != "encodec":
                raise ValueError(f"{name} is of type {value['model_type']!r}; Bark's codec is an 'encodec'")
            setattr(self, name, kind(**value))

    @classmethod
    def from_sub_model_configs(
        cls,
        semantic_config: BarkSemanticConfig,
        coarse_acoustics_config: BarkCoarseConfig,
        fine_acoustics_config: BarkFineConfig,
        codec_config: EncodecConfig,
        **kwargs,
    ) -> "BarkConfig":
        """Make a configuration from copies of the four sub-configurations."""
        parts = (semantic_config, coarse_acoustics_config, fine_acoustics_config, codec_config)
        return cls(*(part.to_dict() for part in parts), **kwargs)


class AutoConfig:
    """Selects the class of a configuration by its `model_type`."""

    types = {kind.model_type: kind for kind in (BarkConfig, *_PARTS.values())}  # noqa: RUF012

    @classmethod
    def for_model(cls, model_type: str, **kwargs) -> PreTrainedConfig:
        """Make a new configuration. ValueError for a type that is not part of Bark."""
        if model_type not in cls.types:
            raise ValueError(f"model_type is {model_type!r}; choose one of {', '.join(cls.types)}")
        return cls.types[model_type](**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> PreTrainedConfig:
        """Like the class's own `from_pretrained`. ValueError for a model that is not part of Bark."""
        data = _config_dict(pretrained_model_name_or_path, **hub_options(kwargs))
        return type(cls.for_model(data.get("model_type"))).from_dict(data, **kwargs)


def from_barklite(config: own.BarkConfig) -> BarkConfig:
    """Convert barklite's configuration to transformers'. For the ids and windows of `config.tokens` see
    `BarkGenerationConfig.published(config)`.
    """

    def size(model: own.GPTConfig | own.FineConfig, inputs: int, outputs: int) -> dict:
        return dict(
            num_layers=model.n_layer, num_heads=model.n_head, hidden_size=model.n_embd,
            block_size=model.block_size, input_vocab_size=inputs, output_vocab_size=outputs, bias=False,
        )  # fmt: skip

    semantic, coarse, fine, codec = config.semantic, config.coarse, config.fine, config.codec
    return BarkConfig(
        size(semantic, semantic.input_vocab_size, semantic.output_vocab_size),
        size(coarse, coarse.input_vocab_size, coarse.output_vocab_size),
        dict(**size(fine, fine.vocab_size, fine.vocab_size), n_codes_total=fine.n_codes_total),
        dict(
            sampling_rate=codec.sample_rate, num_filters=codec.n_filters, hidden_size=codec.dimension,
            upsampling_ratios=codec.ratios, codebook_size=codec.codebook_size,
        ),
    )  # fmt: skip

"""transformers' generation configurations (`generation_config.json`): one for each stage and one for the
whole Bark (spec 1.4, 3.9, 7.2).
"""

import copy
import os
from collections.abc import Mapping

from barklite import config as own
from barklite.storage.formats import read_json

from .files import Saved, hub_options, locate, read_config

# Attributes of every generation configuration, None by default. Old `config.json` files contain the first
# group too, without effect.
_MISPLACED = """
    max_length min_length do_sample early_stopping num_beams temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    epsilon_cutoff eta_cutoff encoder_repetition_penalty num_assistant_tokens num_assistant_tokens_schedule
    num_beam_groups assistant_confidence_threshold assistant_lookbehind target_lookbehind diversity_penalty
"""
_FURTHER = """
    max_new_tokens min_new_tokens max_time stop_strings use_mtp use_cache cache_implementation cache_config
    max_cache_len min_p top_h renormalize_logits sequence_bias token_healing guidance_scale
    watermarking_config output_attentions output_hidden_states output_logits pad_token_id bos_token_id
    eos_token_id decoder_start_token_id is_assistant prompt_lookup_num_tokens max_matching_ngram_size
    assistant_early_exit assistant_ensemble_weight speculation_type compile_config disable_compile
    continuous_batching_config low_memory penalty_alpha dola_layers constraints force_words_ids
    prefill_chunk_size transformers_version
"""
MISPLACED = tuple(_MISPLACED.split())
NAMES = (*MISPLACED, *_FURTHER.split())

_STAGE = dict(
    temperature=1.0, do_sample=False, renormalize_logits=True, output_scores=False, output_attentions=False,
    output_hidden_states=False, return_dict_in_generate=False,
)  # fmt: skip


def _stages(tokens: own.TokenConfig = own.TokenConfig()) -> dict[str, dict]:
    """Return the defaults of the three stages' generation configurations for these ids and windows."""
    t = tokens
    return {
        "semantic_config": dict(
            eos_token_id=t.semantic_eos, max_new_tokens=768, **_STAGE, text_encoding_offset=t.text_offset,
            text_pad_token=t.text_pad, semantic_pad_token=t.semantic_eos,
            semantic_infer_token=t.semantic_infer, semantic_vocab_size=t.semantic_vocab_size,
            max_input_semantic_length=t.n_text, semantic_rate_hz=t.semantic_rate, min_eos_p=None,
        ),
        "coarse_acoustics_config": dict(
            **_STAGE, coarse_semantic_pad_token=t.coarse_pad, coarse_rate_hz=t.frame_rate,
            n_coarse_codebooks=t.n_coarse, coarse_infer_token=t.coarse_infer,
            sliding_window_len=t.coarse_window, max_coarse_input_length=t.n_coarse_semantic,
            max_coarse_history=t.max_coarse_history,
        ),
        "fine_acoustics_config": dict(
            temperature=1.0, max_fine_history_length=t.max_fine_history, max_fine_input_length=t.fine_window,
            n_fine_codebooks=t.n_codebooks,
        ),
    }  # fmt: skip


_STAGES = _stages()


class GenerationConfig(Saved):
    """A generation configuration. Any keyword becomes an attribute."""

    file_name = "generation_config.json"
    defaults = {}  # noqa: RUF012

    def __init__(self, **kwargs):
        vars(self).update({**dict.fromkeys(NAMES), **self.defaults, **kwargs})

    def to_dict(self) -> dict:
        """Return all attributes."""
        return copy.deepcopy(vars(self))

    def to_diff_dict(self) -> dict:
        """Return the content of the file: `to_dict` without unset attributes."""
        return _set(self.to_dict(), self.defaults)

    def update(self, **kwargs) -> dict:
        """Change existing attributes; return the other keywords."""
        known = {name: kwargs.pop(name) for name in list(kwargs) if hasattr(self, name)}
        for name, value in known.items():
            setattr(self, name, value)
        return kwargs

    @classmethod
    def from_dict(cls, config_dict: Mapping, **kwargs):
        """Make a configuration from a dict; keywords override it."""
        return cls(**{**config_dict, **kwargs})

    @classmethod
    def from_model_config(cls, model_config) -> "GenerationConfig":
        """Copy the bos, eos and pad ids of a model's configuration."""
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return cls(**{name: getattr(model_config, name, None) for name in names})

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name: str | os.PathLike, config_file_name: str | None = None, **kwargs
    ):
        """Read a directory or Hub id. A stage's class reads its part of a whole Bark's file.

        Keywords: `HUB_OPTIONS`; others override settings. For barklite's and Suno's layouts, which have no
        such file, it returns `BarkGenerationConfig.published`. Otherwise OSError if the file is missing.
        """
        options, file_name = hub_options(kwargs), config_file_name or cls.file_name
        if file := locate(pretrained_model_name, file_name, **options):
            data = read_json(file)
        elif config := read_config(pretrained_model_name, **options)[1]:
            data = BarkGenerationConfig.published(config).to_dict()
        else:
            published = "BarkGenerationConfig.published() is what suno/bark has"
            raise FileNotFoundError(f"{pretrained_model_name} has no {file_name}; {published}")
        return cls.from_dict(data.get(cls.section, data), **kwargs)


def _set(settings: Mapping, kept: Mapping) -> dict:
    """Drop entries that are None, except those in `kept`."""
    return {name: value for name, value in settings.items() if value is not None or name in kept}


class BarkSemanticGenerationConfig(GenerationConfig):
    """The semantic stage's configuration. `semantic_pad_token` is always `eos_token_id`."""

    model_type, section = "semantic", "semantic_config"
    defaults = _STAGES["semantic_config"]

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.semantic_pad_token = self.eos_token_id


class BarkCoarseGenerationConfig(GenerationConfig):
    """The coarse stage's configuration."""

    model_type, section = "coarse_acoustics", "coarse_acoustics_config"
    defaults = _STAGES["coarse_acoustics_config"]


class BarkFineGenerationConfig(GenerationConfig):
    """The fine stage's configuration. Only the temperature matters: 1 or None is argmax (spec 4.3)."""

    model_type, section = "fine_acoustics", "fine_acoustics_config"
    defaults = _STAGES["fine_acoustics_config"]


class Stage(dict):
    """One stage's settings inside a `BarkGenerationConfig`: a dict whose entries are also attributes."""

    def __getattr__(self, name: str):
        if name not in self:
            raise AttributeError(f"the stage has no setting {name!r}")
        return self[name]

    __setattr__ = dict.__setitem__


class BarkGenerationConfig(GenerationConfig):
    """A whole Bark's configuration. Its stages are dicts with defaults filled in. Change them in place, or
    convert them: `BarkSemanticGenerationConfig(**config.semantic_config)` (spec 7.2).
    """

    model_type = "bark"

    def __init__(
        self,
        semantic_config: Mapping | GenerationConfig | None = None,
        coarse_acoustics_config: Mapping | GenerationConfig | None = None,
        fine_acoustics_config: Mapping | GenerationConfig | None = None,
        sample_rate: int = 24_000,
        codebook_size: int = 1024,
        **kwargs,
    ):
        super().__init__(sample_rate=sample_rate, codebook_size=codebook_size, **kwargs)
        stages = (semantic_config, coarse_acoustics_config, fine_acoustics_config)
        for (name, defaults), given in zip(_STAGES.items(), stages, strict=True):
            given = given.to_dict() if isinstance(given, GenerationConfig) else given or {}
            setattr(self, name, Stage(copy.deepcopy({**defaults, **given})))

    @classmethod
    def from_sub_model_configs(
        cls,
        semantic_config: BarkSemanticGenerationConfig,
        coarse_acoustics_config: BarkCoarseGenerationConfig,
        fine_acoustics_config: BarkFineGenerationConfig,
        **kwargs,
    ) -> "BarkGenerationConfig":
        """Make a configuration from copies of the three stages' ones."""
        return cls(semantic_config, coarse_acoustics_config, fine_acoustics_config, **kwargs)

    @classmethod
    def published(cls, config: own.BarkConfig | None = None) -> "BarkGenerationConfig":
        """Return the settings that Hugging Face publishes (spec 1.4), for checkpoints without such a file.

        config: barklite's configuration, for ids and windows; None uses those of the released checkpoints.
        """
        tokens, codec = (config.tokens, config.codec) if config else (own.TokenConfig(), own.CodecConfig())
        sampling = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 1.0}
        stages = _stages(tokens)
        stages["semantic_config"] |= sampling
        stages["coarse_acoustics_config"] |= sampling
        stages["fine_acoustics_config"] |= {"temperature": 0.5}
        if config:
            stages["semantic_config"]["max_new_tokens"] = min(768, config.max_semantic_tokens)
        return cls(**stages, sample_rate=codec.sample_rate, codebook_size=tokens.codebook_size)

    def to_dict(self) -> dict:
        """Return all attributes, with the stages as plain dicts."""
        stages = {name: copy.deepcopy(dict(getattr(self, name))) for name in _STAGES}
        return {**super().to_dict(), **stages, "model_type": self.model_type}

    def to_diff_dict(self) -> dict:
        """Return the content of the file: `to_dict` without unset attributes."""
        content = super().to_diff_dict()
        return content | {name: _set(content[name], kept) for name, kept in _STAGES.items()}

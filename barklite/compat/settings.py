"""Converts transformers' generation configurations and keywords to barklite's (spec 1.4, 4.5, 7.2)."""

from collections.abc import Mapping

from barklite.config import GenerationConfig, SamplingConfig, TokenConfig
from weights_convert.huggingface import convert_tokens

from . import generation as theirs

# Keywords without effect here: caching, padding, and reports that transformers' Bark does not return.
PASSIVE = {
    "use_cache", "renormalize_logits", "max_length", "pad_token_id", "bos_token_id", "cache_implementation",
    "cache_config", "disable_compile", "compile_config", "synced_gpus", "transformers_version",
    "use_model_defaults", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
    "return_dict_in_generate",
}  # fmt: skip
# Settings that barklite does not support, and the values at which they have no effect.
NEUTRAL = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), 1),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "length_penalty", "typical_p"), 1.0),
    **dict.fromkeys(
        ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens"), 0
    ),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "diversity_penalty"), 0.0),
    **dict.fromkeys(("early_stopping", "remove_invalid_values"), False),
    **dict.fromkeys(("logits_processor", "stopping_criteria", "streamer", "prefix_allowed_tokens_fn")),
    **dict.fromkeys(("assistant_model", "negative_prompt_ids", "custom_generate", "stop_strings")),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias")),
    **dict.fromkeys(("min_p", "top_h", "guidance_scale", "penalty_alpha", "max_time")),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty")),
}
READ = {"do_sample", "temperature", "top_k", "top_p"}


def plain(config):
    """Convert a configuration to a dict; return anything else unchanged."""
    return config.to_dict() if hasattr(config, "to_dict") else config


def tokens_of(**stages: object) -> TokenConfig:
    """Collect ids, windows and rates from generation configurations (`semantic_config=` and so on)."""
    return convert_tokens({name: plain(stage) for name, stage in stages.items()})


def check_keywords(given: Mapping, config: object, read: set[str] = READ) -> None:
    """ValueError for an unknown keyword, or an unsupported setting that would change the tokens."""
    for name, value in given.items():
        if name in read | PASSIVE or name in NEUTRAL:
            continue
        if name not in theirs.NAMES:
            raise ValueError(
                f"{name!r} is not used by the model: is it spelled right, and meant for this stage?"
            )
        if value is not None:
            raise ValueError(f"barklite does not offer {name}={value!r}: it only samples or takes the argmax")
    for name, neutral in NEUTRAL.items():
        value = given[name] if name in given else getattr(config, name, None)
        if name not in read and value is not None and value != neutral and value != []:
            raise ValueError(f"barklite does not offer {name}={value!r}; leave it at {neutral!r}")


def sampling(given: Mapping, config: object) -> SamplingConfig:
    """Make a stage's SamplingConfig; keywords override the configuration. An unset top_k is 50; a keyword of
    None or 0 turns it off.

    ValueError for a temperature that is not a float above 0, and for bad filters.
    """
    settings = {name: given[name] if name in given else getattr(config, name, None) for name in READ}
    if not settings["do_sample"]:
        return SamplingConfig(0)
    temperature = 1.0 if settings["temperature"] is None else settings["temperature"]
    if temperature != 1 and not (isinstance(temperature, float) and temperature > 0):
        raise ValueError(
            f"temperature is {temperature!r}; it must be a float above 0 (do_sample=False is greedy)"
        )
    top_k, top_p = settings["top_k"], settings["top_p"]
    if top_k is None and "top_k" not in given:
        top_k = 50
    if top_p is not None and 0 <= top_p <= 1:
        top_p = max(float(top_p), 1e-9) if top_p < 1 else None  # 0 keeps the most probable id
    return SamplingConfig(float(temperature), top_k or None, top_p)


def semantic_settings(given: Mapping, config: object, tokens: TokenConfig, most: int) -> GenerationConfig:
    """Make the semantic stage's settings. most: number of tokens that the model has positions for."""
    check_keywords(given, config, READ | {"max_new_tokens", "min_eos_p", "eos_token_id"})
    eos = tokens.semantic_eos
    if given.get("eos_token_id") not in (None, eos, [eos]):
        raise ValueError(f"eos_token_id is {given['eos_token_id']!r}; this model ends with {eos}")
    n = given["max_new_tokens"] if given.get("max_new_tokens") is not None else config.max_new_tokens
    if not isinstance(n, int):
        raise TypeError(f"max_new_tokens is {n!r}; it must be a whole number")
    min_eos_p = given["min_eos_p"] if "min_eos_p" in given else getattr(config, "min_eos_p", None)
    if min_eos_p is not None and min_eos_p > 1:
        min_eos_p = None  # no probability reaches it
    return GenerationConfig(
        semantic=sampling(given, config),
        min_eos_p=min_eos_p,
        max_semantic_tokens=min(n, most),
        rules="transformers",
    )


def coarse_settings(given: Mapping, config: object, tokens: TokenConfig) -> GenerationConfig:
    """Make the coarse stage's settings. TypeError for max_new_tokens: the semantic tokens fix the length."""
    if "max_new_tokens" in given:
        raise TypeError(
            "max_new_tokens reaches the coarse stage, whose length follows from the semantic tokens: "
            "give semantic_max_new_tokens"
        )
    check_keywords(given, config)
    return GenerationConfig(
        coarse=sampling(given, config), max_coarse_history=tokens.max_coarse_history, rules="transformers"
    )


def fine_settings(given: Mapping, config: object) -> GenerationConfig:
    """Make the fine stage's settings, from `temperature` alone. None, or a configuration's 1.0, is argmax; a
    keyword of 1.0 samples. RuntimeError for 0 or less.
    """
    temperature = given["temperature"] if "temperature" in given else getattr(config, "temperature", None)
    if temperature is None or ("temperature" not in given and temperature == 1):
        return GenerationConfig(fine=SamplingConfig(0), rules="transformers")
    if temperature <= 0:
        raise RuntimeError(f"fine temperature is {temperature!r}; it must be above 0, or None for the argmax")
    return GenerationConfig(fine=SamplingConfig(float(temperature)), rules="transformers")


def by_stage(given: Mapping) -> tuple[dict, dict, dict]:
    """Split the keywords of `BarkModel.generate` by stage. Those with a stage's prefix override others."""
    shared, own = dict(given), {}
    semantic = {name: shared.pop(name, None) for name in ("attention_mask", "min_eos_p")}
    for prefix in ("semantic_", "coarse_", "fine_"):
        names = [name for name in shared if name.startswith(prefix)]
        own[prefix] = {name.removeprefix(prefix): shared.pop(name) for name in names}
    stages = [{**shared, **of_stage} for of_stage in own.values()]
    stages[0] = {**semantic, **stages[0]}
    for stage in stages:
        stage.pop("generation_config", None)
    return tuple(stages)

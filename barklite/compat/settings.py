"""transformers' generation configurations and keywords as barklite's settings (spec 1.4, 4.5, 7.2)."""

from collections.abc import Mapping

from barklite.config import GenerationConfig, SamplingConfig, TokenConfig
from weights_convert.huggingface import convert_tokens

from . import generation as theirs

# Keywords that change nothing here: how transformers caches, pads, and reports what Bark then drops.
PASSIVE = {
    "use_cache", "renormalize_logits", "max_length", "pad_token_id", "bos_token_id", "cache_implementation",
    "cache_config", "disable_compile", "compile_config", "synced_gpus", "transformers_version",
    "use_model_defaults", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
    "return_dict_in_generate",
}  # fmt: skip
# Settings that barklite has not, and the values at which they do nothing.
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
    """A configuration as a dict; anything else as it is."""
    return config.to_dict() if hasattr(config, "to_dict") else config


def tokens_of(**stages: object) -> TokenConfig:
    """The ids, slots, windows and rates in generation configurations (`semantic_config=` and so on)."""
    return convert_tokens({name: plain(stage) for name, stage in stages.items()})


def check_keywords(given: Mapping, config: object, read: set[str] = READ) -> None:
    """ValueError for a keyword that nothing reads, or a setting that would change what is generated."""
    for name, value in given.items():
        if name in read | PASSIVE or name in NEUTRAL:
            continue
        if name not in theirs.NAMES:
            raise ValueError(
                f"{name!r} is not used by the model: is it spelled right, and meant for this stage?"
            )
        if value is not None:
            raise ValueError(f"barklite does not offer {name}={value!r}: it samples or takes the likeliest")
    for name, neutral in NEUTRAL.items():
        value = given[name] if name in given else getattr(config, name, None)
        if name not in read and value is not None and value != neutral and value != []:
            raise ValueError(f"barklite does not offer {name}={value!r}; leave it at {neutral!r}")


def sampling(given: Mapping, config: object) -> SamplingConfig:
    """How a stage draws: its keywords before its configuration. An unset top_k is 50; None or 0 is off.

    ValueError for a temperature that is no float above 0, and for bad filters.
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
        top_p = max(float(top_p), 1e-9) if top_p < 1 else None  # at 0 the likeliest stays
    return SamplingConfig(float(temperature), top_k or None, top_p)


def semantic_settings(given: Mapping, config: object, tokens: TokenConfig, most: int) -> GenerationConfig:
    """Of the semantic stage. most: tokens that the model has positions for; no more are made."""
    check_keywords(given, config, READ | {"max_new_tokens", "min_eos_p", "eos_token_id"})
    eos = tokens.semantic_eos
    if given.get("eos_token_id") not in (None, eos, [eos]):
        raise ValueError(f"eos_token_id is {given['eos_token_id']!r}; this model ends with {eos}")
    n = given["max_new_tokens"] if given.get("max_new_tokens") is not None else config.max_new_tokens
    if not isinstance(n, int):
        raise TypeError(f"max_new_tokens is {n!r}; it must be a whole number")
    min_eos_p = given["min_eos_p"] if "min_eos_p" in given else getattr(config, "min_eos_p", None)
    if min_eos_p is not None and min_eos_p > 1:
        min_eos_p = None  # the end is never so likely
    return GenerationConfig(
        semantic=sampling(given, config),
        min_eos_p=min_eos_p,
        max_semantic_tokens=min(n, most),
        rules="transformers",
    )


def coarse_settings(given: Mapping, config: object, tokens: TokenConfig) -> GenerationConfig:
    """Of the coarse stage. TypeError for max_new_tokens, which the semantic tokens decide."""
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
    """Of the fine stage, which reads `temperature` alone: None, or the class's own 1.0, takes the likeliest.

    A keyword of 1.0 draws. RuntimeError for 0 or less.
    """
    temperature = given["temperature"] if "temperature" in given else getattr(config, "temperature", None)
    if temperature is None or ("temperature" not in given and temperature == 1):
        return GenerationConfig(fine=SamplingConfig(0), rules="transformers")
    if temperature <= 0:
        raise RuntimeError(
            f"fine temperature is {temperature!r}; it must be above 0, or None for the likeliest"
        )
    return GenerationConfig(fine=SamplingConfig(float(temperature)), rules="transformers")


def by_stage(given: Mapping) -> tuple[dict, dict, dict]:
    """The keywords of `BarkModel.generate` for each stage: with its prefix only for it, and before others."""
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

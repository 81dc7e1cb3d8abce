"""Hugging Face's `suno/bark` and `suno/bark-small`: one state dict for all four models, and JSON files.

Spec 3.8 (names), 3.9 (files) and 5 (voices). From `generation_config.json` only ids, windows and rates are
converted, not sampling settings: barklite has the same defaults for every checkpoint, and
`GenerationConfig.transformers()` has Hugging Face's.
"""

import posixpath
from collections.abc import Mapping

from torch import Tensor

from barklite.config import (
    MAX_RATIOS,
    BarkConfig,
    CodecConfig,
    FineConfig,
    GenerationConfig,
    GPTConfig,
    TokenConfig,
)

from . import check_tied, encodec, fine_keys, gpt_keys, select, shown, whole

PREFIXES = {
    "semantic": "semantic.",
    "coarse": "coarse_acoustics.",
    "fine": "fine_acoustics.",
    "codec": "codec_model.",
}

# ours -> theirs, for each part of a key between dots
_PARTS = {
    "wte": "input_embeds_layer",
    "wtes": "input_embeds_layers",
    "wpe": "position_embeds_layer",
    "h": "layers",
    "ln_1": "layernorm_1",
    "ln_2": "layernorm_2",
    "ln_f": "layernorm_final",
    "c_attn": "att_proj",
    "c_fc": "in_proj",
    "c_proj": "out_proj",
}

# generation_config.json -> TokenConfig
_TOKENS = {
    "semantic_config": {
        "text_encoding_offset": ["text_offset"],
        "text_pad_token": ["text_pad"],
        "semantic_infer_token": ["semantic_infer"],
        "semantic_vocab_size": ["semantic_vocab_size"],
        "eos_token_id": ["semantic_eos"],
        "max_input_semantic_length": ["n_text", "n_semantic_history"],
        "semantic_rate_hz": ["semantic_rate"],
    },
    "coarse_acoustics_config": {
        "coarse_semantic_pad_token": ["coarse_pad"],
        "coarse_infer_token": ["coarse_infer"],
        "coarse_rate_hz": ["frame_rate"],
        "n_coarse_codebooks": ["n_coarse"],
        "max_coarse_input_length": ["n_coarse_semantic"],
        "max_coarse_history": ["max_coarse_history"],
        "sliding_window_len": ["coarse_window"],
    },
    "fine_acoustics_config": {
        "n_fine_codebooks": ["n_codebooks"],
        "max_fine_input_length": ["fine_window"],
        "max_fine_history_length": ["max_fine_history", "fine_hop"],
    },
}

# Required entries of an EncodecConfig: barklite supports only the 24 kHz model's architecture (spec 6).
_ENCODEC = {
    "audio_channels": 1,
    "normalize": False,
    "num_residual_layers": 1,
    "num_lstm_layers": 2,
    "norm_type": "weight_norm",
    "kernel_size": 7,
    "last_kernel_size": 7,
    "residual_kernel_size": 3,
    "use_causal_conv": True,
    "pad_mode": "reflect",
    "compress": 2,
    "trim_right_ratio": 1.0,
    "use_conv_shortcut": True,
}


def convert_config(config: Mapping, generation: Mapping) -> BarkConfig:
    """Convert `config.json` and `generation_config.json` (or {}) to a BarkConfig. Missing entries have the
    defaults of transformers' classes. ValueError names an entry that barklite does not support.
    """
    for name in ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config"):
        if not isinstance(config.get(name), Mapping):
            raise ValueError(f"entry {name!r} is missing: this is not a configuration of Bark")
    fine = config["fine_acoustics_config"]
    if whole(fine, "n_codes_given", default=1) != 1:
        raise ValueError("n_codes_given is not 1, unlike every released Bark")
    tokens = convert_tokens(generation)
    semantic = _gpt(config["semantic_config"])
    defaults = GenerationConfig()
    return BarkConfig(
        semantic=semantic,
        coarse=_gpt(config["coarse_acoustics_config"]),
        fine=FineConfig(
            **_size(fine),
            vocab_size=whole(fine, "output_vocab_size", default=10_048),
            n_codes_total=whole(fine, "n_codes_total", default=8),
        ),
        codec=convert_codec_config(config.get("codec_config") or {}, tokens.n_codebooks),
        tokens=tokens,
        generation=GenerationConfig(
            max_semantic_tokens=max(
                1, min(defaults.max_semantic_tokens, semantic.block_size - tokens.n_text)
            ),
            max_coarse_history=max(1, min(defaults.max_coarse_history, tokens.max_coarse_history)),
        ),
    )


def convert_codec_config(codec: Mapping, n_codebooks: int) -> CodecConfig:
    """Convert `codec_config`, an EncodecConfig. ValueError names an entry that barklite does not support."""
    if not isinstance(codec, Mapping):
        raise ValueError("entry 'codec_config' is not an object")
    ratios = codec.get("upsampling_ratios", [8, 5, 4, 2])
    whole_list = isinstance(ratios, (list, tuple)) and len(ratios) <= MAX_RATIOS
    if not (whole_list and all(isinstance(r, int) and 0 < r < 2**16 for r in ratios)):
        raise ValueError(
            f"codec_config.upsampling_ratios is {shown(ratios)}, "
            f"not a list of up to {MAX_RATIOS} whole numbers"
        )
    for name, ours in _ENCODEC.items():
        if codec.get(name, ours) != ours:
            raise ValueError(f"codec_config.{name} is {shown(codec[name])}; Bark's EnCodec has {ours!r}")
    return CodecConfig(
        sample_rate=whole(codec, "sampling_rate", default=24_000),
        n_filters=whole(codec, "num_filters", default=32),
        dimension=whole(codec, "hidden_size", default=128),
        ratios=tuple(ratios),
        codebook_size=whole(codec, "codebook_size", default=1024),
        n_codebooks=n_codebooks,
    )


def convert_tokens(generation: Mapping) -> TokenConfig:
    """Collect ids, windows and rates from `generation_config.json`. ValueError unless they are numbers."""
    codebook_size = whole(generation, "codebook_size", default=1024)
    values = {"codebook_size": codebook_size, "fine_pad": codebook_size}
    for section, names in _TOKENS.items():
        if not isinstance(generation.get(section) or {}, Mapping):
            raise ValueError(f"generation_config.json: {section} is not an object")
        for theirs, ours in names.items():
            value = (generation.get(section) or {}).get(theirs)
            if value is None:
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1e9:
                raise ValueError(
                    f"generation_config.json: {section}.{theirs} is {shown(value)}, not a number"
                )
            rate = theirs.endswith("_hz")
            values |= dict.fromkeys(ours, float(value) if rate else whole({theirs: value}, theirs))
    return TokenConfig(**values)


def convert_gpt(state: Mapping[str, Tensor], config: GPTConfig, name: str) -> dict[str, Tensor]:
    """Extract the model `name`, "semantic" or "coarse", from the joint state dict."""
    names = {PREFIXES[name] + theirs(key): key for key in gpt_keys(config.n_layer)}
    return select(*_part(state, name, names))


def convert_fine(state: Mapping[str, Tensor], config: FineConfig) -> dict[str, Tensor]:
    """Extract the fine model. Tied heads may be stored (`pytorch_model.bin`) or not (`model.safetensors`)."""
    prefix = PREFIXES["fine"]
    names = {prefix + theirs(key): key for key in fine_keys(config.n_layer, config.n_codes_total)}
    tied = {
        f"{prefix}lm_heads.{j}.weight": f"{prefix}input_embeds_layers.{j + 1}.weight"
        for j in range(config.n_codes_total - 1)
    }
    # A tied pair may be stored under either name.
    state = {
        **state,
        **{table: state[head] for head, table in tied.items() if head in state and table not in state},
    }
    part, names, ignored = _part(state, "fine", names)
    converted = select(part, names, [*ignored, *tied])
    heads = {head: table for head, table in tied.items() if head in part}
    check_tied({head: part[head] for head in heads}, {table: part[table] for table in heads.values()})
    return converted


def convert_codec(
    state: Mapping[str, Tensor], config: CodecConfig, n_codebooks: int, encoder: bool = False
) -> tuple[CodecConfig, dict[str, Tensor]]:
    """Extract the codec from the joint state dict; see `encodec.convert`."""
    prefix = PREFIXES["codec"]
    part = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    try:
        return encodec.convert(part, True, n_codebooks, encoder, config)
    except ValueError as error:
        raise ValueError(f"{prefix}*: {error}") from None


def check_prefixes(state: Mapping[str, Tensor]) -> None:
    """ValueError, naming a key, unless every key belongs to one of the four models."""
    if unknown := sorted(key for key in state if not key.startswith(tuple(PREFIXES.values()))):
        raise ValueError(f"tensor {unknown[0]!r} is not part of a Bark")


def vocabulary(tokenizer_json: Mapping) -> list[str]:
    """Return the WordPiece vocabulary of a `tokenizer.json`, in the order of ids."""
    model = tokenizer_json.get("model")
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    ids = [*vocab.values()] if isinstance(vocab, Mapping) else [None]
    if not all(type(i) is int for i in ids) or sorted(ids) != [*range(len(ids))]:
        raise ValueError("it holds no WordPiece vocabulary with ids 0, 1, 2, ...")
    if broken := [token for token in vocab if "\n" in token or "\r" in token]:
        raise ValueError(f"its token {broken[0]!r:.99} contains a line break")
    return sorted(vocab, key=vocab.get)


def voice_paths(speaker_embeddings: Mapping) -> dict[str, dict[str, str]]:
    """Return {voice: {array: relative path}}. ValueError for a path that leads out of the checkpoint."""
    voices = {name: paths for name, paths in speaker_embeddings.items() if name != "repo_or_path"}
    for name, paths in voices.items():
        for array in ("semantic_prompt", "coarse_prompt", "fine_prompt"):
            path = paths.get(array) if isinstance(paths, Mapping) else None
            if not isinstance(path, str):
                raise ValueError(f"voice {name!r:.99} has no path for {array}")
            for inside in (path, name):
                outside = (
                    posixpath.normpath(inside.replace("\\", "/")).startswith(("/", "..")) or ":" in inside
                )
                if outside or not inside.isprintable():
                    raise ValueError(
                        f"voice {name!r:.99}: the path {inside!r:.99} leads out of the checkpoint"
                    )
    return voices


def _gpt(section: Mapping) -> GPTConfig:
    return GPTConfig(
        **_size(section),
        input_vocab_size=whole(section, "input_vocab_size", "vocab_size", default=10_048),
        output_vocab_size=whole(section, "output_vocab_size", default=10_048),
    )


def _size(section: Mapping) -> dict[str, int]:
    if section.get("bias", True):
        raise ValueError("bias is true (or missing): every released Bark has linear layers without bias")
    return {
        "n_layer": whole(section, "num_layers", "num_hidden_layers", default=12),
        "n_head": whole(section, "num_heads", "num_attention_heads", default=12),
        "n_embd": whole(section, "hidden_size", default=768),
        "block_size": whole(section, "block_size", "window_size", default=1024),
    }


def theirs(key: str) -> str:
    """Return Hugging Face's name for a tensor of a token model."""
    return ".".join(_PARTS.get(part, part) for part in key.split("."))


def _part(state: Mapping[str, Tensor], name: str, names: dict[str, str]):
    """Return `select`'s arguments: one model's tensors, the names, and the causal-mask buffers to ignore."""
    part = {key: tensor for key, tensor in state.items() if key.startswith(PREFIXES[name])}
    return part, names, [key for key in part if key.endswith(".attn.bias")]

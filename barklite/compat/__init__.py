"""The names and behaviour of transformers' Bark: code written for it runs with barklite by its import alone.

from barklite.compat import AutoProcessor, BarkModel

The same weights and seed give the same tokens for a single text (spec 7 and 8.2). On purpose it differs here:

* Rows of a batch do not see each other: each gets what its seed gives it alone, and has its own length. A row
  that ended is padded (10000, 12048 and 1024 by stage, then silence), where transformers decodes noise.
* The caller's tensors are never changed.
* A `temperature` of 1.0 as a keyword, with the prefix `fine_` or without, draws in the fine stage; there it
  takes the likeliest. The configuration's 1.0, which is the class's default, still does.
* `labels` give a loss; there they raise. A causal model shifts them by one position itself. Activations can
  be computed anew in training (`gradient_checkpointing_enable`); there they cannot.
* A text shorter than 256 columns is padded, not refused. An empty result is silence of no length. At the last
  position the semantic stage ends, there it fails.
* `pad_token_id` changes nothing in a stage; there it disturbs the coarse one. The stages refuse beam search,
  penalties and other ways of generating in words (`BarkCausalModel.generate` has beams). A history prompt is
  checked as a `barklite.Voice`. Bad settings of later stages show before the first one runs.
* A mask (B, S) works beside a cache, and one of bool and four dimensions says what may be attended to; a
  wrong shape is refused. A cache of fixed size is masked behind its filled part. A position that may attend
  to nothing gets zeros from attention, not an average.
* The codec stays float32 in a model of 16 bits, and so does the sound. Inside, `codec_model` is barklite's
  `Codec`; `decoder`, `quantizer.decode`, and the names in its state dict are transformers'.
* Dropout is no module of its own. What accelerate offloads is loaded for a whole stage at a time.
* Loading is strict: a missing tensor or `config.json` is an error. Without `generation_config.json` the
  published settings are taken, with a warning. Keywords that nothing reads are warned of.
"""

import importlib

_HOME = {
    "configuration": (
        "AutoConfig",
        "BarkCoarseConfig",
        "BarkConfig",
        "BarkFineConfig",
        "BarkSemanticConfig",
        "EncodecConfig",
    ),
    "generation": (
        "BarkCoarseGenerationConfig",
        "BarkFineGenerationConfig",
        "BarkGenerationConfig",
        "BarkSemanticGenerationConfig",
        "GenerationConfig",
    ),
    "processing": ("AutoProcessor", "AutoTokenizer", "BarkProcessor"),
    "tokenizing": ("BarkTokenizer",),
    "batch": ("BatchEncoding", "BatchFeature"),
    "outputs": ("CausalLMOutputWithPast", "DynamicCache", "MaskedLMOutput"),
    "pretrained": ("BarkPreTrainedModel",),
    "modeling": ("BarkCausalModel", "BarkCoarseModel", "BarkFineModel", "BarkSemanticModel"),
    "whole": ("AutoModel", "AutoModelForTextToWaveform", "BarkModel", "infer_device"),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    """Import a name's module when it is first used."""
    if name not in _WHERE:
        raise AttributeError(f"module 'barklite.compat' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

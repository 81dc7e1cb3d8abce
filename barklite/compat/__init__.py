"""transformers' API for Bark: to run code written for it, change only the import.

from barklite.compat import AutoProcessor, BarkModel

The same weights and seed give the same tokens for a single text (spec 7 and 8.2). Intended differences:

* Rows of a batch are independent: each gets the result of its own seed, with its own length. A row that ended
  is padded (10000, 12048 and 1024 by stage, then silence); transformers decodes noise there.
* The caller's tensors are never modified.
* A keyword `temperature=1.0`, with the prefix `fine_` or without, samples in the fine stage; transformers
  takes the argmax. A 1.0 in the configuration, the class's default, takes the argmax here too.
* `labels` give a loss; transformers raises. Causal models shift them by one position. Gradient checkpointing
  works (`gradient_checkpointing_enable`); transformers does not support it here.
* A text shorter than 256 columns is padded, not refused. An empty result is audio of length 0. The semantic
  stage ends at the last position; transformers fails there.
* `pad_token_id` has no effect on the stages; in transformers it disturbs the coarse one. The stages raise for
  beam search, penalties and other ways of generating (`BarkCausalModel.generate` has beams). A history prompt
  is checked as a `barklite.Voice`. Settings of later stages are checked before the first one runs.
* A mask (B, S) works together with a cache. A 4D bool mask is True where attention is allowed; a wrong shape
  raises. The unfilled part of a static cache is masked. A position that may attend to nothing gets zeros from
  attention, not an average.
* The codec and the audio stay float32 in a 16-bit model. `codec_model` is barklite's `Codec`, with
  transformers' `decoder`, `quantizer.decode` and state dict.
* Dropout is not a module. Modules that accelerate offloads are loaded for a whole stage.
* Loading is strict: a missing tensor or `config.json` is an error. Without `generation_config.json` the
  published settings are used, with a warning. Unused keywords cause a warning.
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
    """Import public names lazily."""
    if name not in _WHERE:
        raise AttributeError(f"module 'barklite.compat' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

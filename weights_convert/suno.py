"""Suno's `text.pt`, `coarse.pt`, `fine.pt` and the large `text_2.pt` etc. (spec 3.7 and 3.8).

Only `model_args` and `model` of a file are used, not the optimizer state and best loss.
"""

from collections.abc import Mapping

from torch import Tensor

from barklite.config import FineConfig, GPTConfig

from . import check_tied, fine_keys, gpt_keys, select, whole


def convert_gpt(state: Mapping[str, Tensor], model_args: Mapping) -> tuple[GPTConfig, dict[str, Tensor]]:
    """Convert the semantic (`text`) or coarse model. ValueError names a bad entry or key."""
    config = GPTConfig(
        **_size(model_args),
        input_vocab_size=whole(model_args, "input_vocab_size", "vocab_size"),
        output_vocab_size=whole(model_args, "output_vocab_size", "vocab_size"),
    )
    names = {_suno(key): key for key in gpt_keys(config.n_layer)}
    return config, select(_plain(state), names)


def convert_fine(state: Mapping[str, Tensor], model_args: Mapping) -> tuple[FineConfig, dict[str, Tensor]]:
    """Convert the fine model. Its heads must be tied to its embeddings, and are dropped."""
    n_codes = whole(model_args, "n_codes_total", default=8)
    if whole(model_args, "n_codes_given", default=1) != 1 or n_codes > 64:
        raise ValueError("n_codes_given is not 1, or n_codes_total is huge, unlike every released Bark")
    config = FineConfig(
        **_size(model_args),
        vocab_size=whole(model_args, "output_vocab_size", "vocab_size"),
        n_codes_total=n_codes,
    )
    state = _plain(state)
    names = {_suno(key): key for key in fine_keys(config.n_layer, n_codes)}
    heads = [f"lm_heads.{j}.weight" for j in range(n_codes - 1)]
    tables = [f"transformer.wtes.{j + 1}.weight" for j in range(n_codes - 1)]
    converted = select(state, names | {head: head for head in heads})
    check_tied({head: converted.pop(head) for head in heads}, {table: state[table] for table in tables})
    return config, converted


def _suno(key: str) -> str:
    return key if key.startswith("lm_head") else f"transformer.{key}"


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove torch.compile's prefix and the causal-mask buffers."""
    plain = {key.removeprefix("_orig_mod."): tensor for key, tensor in state.items()}
    return {key: tensor for key, tensor in plain.items() if not key.endswith(".attn.bias")}


def _size(model_args: Mapping) -> dict[str, int]:
    if model_args.get("bias"):
        raise ValueError("bias is true: every released Bark has linear layers without bias")
    return {name: whole(model_args, name) for name in ("n_layer", "n_head", "n_embd", "block_size")}

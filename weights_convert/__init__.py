"""Converts other checkpoints' state dicts and configurations, in memory, to barklite's.

`suno`, `huggingface` and `encodec` each handle one publisher's layout. They are pure functions: no files, no
modules, and no arithmetic except folding weight norm. A missing or unknown key is a ValueError with the
publisher's name of the key. Shapes are checked when the model is built (barklite.storage.checkpoint).
"""

import reprlib
from collections.abc import Iterable, Mapping

from torch import Tensor

from barklite.config import MAX_LAYERS


def gpt_keys(n_layer: int) -> list[str]:
    """Return the keys of a semantic or coarse model's state dict. ValueError for too many layers."""
    if n_layer > MAX_LAYERS:
        raise ValueError(f"n_layer is {n_layer}: no model has more than {MAX_LAYERS}")
    block = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    layers = [f"h.{i}.{name}.weight" for i in range(n_layer) for name in block]
    return ["wte.weight", "wpe.weight", *layers, "ln_f.weight", "lm_head.weight"]


def fine_keys(n_layer: int, n_codes: int) -> list[str]:
    """Return the keys of a fine model's state dict. Its heads are tied to embeddings and have no keys."""
    keys = [key for key in gpt_keys(n_layer) if key not in ("wte.weight", "lm_head.weight")]
    biases = [key.replace(".weight", ".bias") for key in keys if ".ln_" in f".{key}"]
    return [f"wtes.{k}.weight" for k in range(n_codes)] + keys + biases


def select(
    state: Mapping[str, Tensor], names: Mapping[str, str], ignored: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Rename `state` by `names` (theirs -> ours). ValueError unless they name exactly its keys, apart from
    `ignored` ones.
    """
    if missing := [key for key in names if key not in state]:
        raise ValueError(f"tensor {missing[0]!r} is missing{_more(missing)}")
    if unknown := sorted(state.keys() - names.keys() - set(ignored)):
        raise ValueError(f"tensor {unknown[0]!r:.99} is not part of this model{_more(unknown)}")
    for key in names:
        if not isinstance(state[key], Tensor):
            raise ValueError(f"{key!r} is not a tensor")
    return {ours: state[theirs] for theirs, ours in names.items()}


def check_tied(heads: Mapping[str, Tensor], tables: Mapping[str, Tensor]) -> None:
    """ValueError unless each head of the fine model equals the embedding that it is tied to (spec 3.5)."""
    for (name, head), (table_name, table) in zip(heads.items(), tables.items(), strict=True):
        if head.data_ptr() != table.data_ptr() and not head.equal(table):
            raise ValueError(f"{name!r} and {table_name!r} differ, but in Bark they are one tensor")


def whole(config: Mapping, *names: str, default: int | None = None) -> int:
    """Return the whole number under the first of `names` that is present. ValueError for anything else."""
    value = next((config[name] for name in names if config.get(name) is not None), default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError(f"configuration entry {names[0]!r} is {shown(value)}, not a whole number in range")
    return value


def shown(value: object) -> str:
    """Quote a value for an error message, shortened."""
    return "a huge number" if isinstance(value, int) and abs(value) >= 2**63 else reprlib.repr(value)


def _more(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""

"""Outputs of forwards, as attributes, keys or a tuple, and the KV cache."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor


class ModelOutput(dict):
    """Named results that are not None: `out.logits`, `out["logits"]`, `out[0]`.

    It is a dict, so that libraries that move or gather dicts of tensors handle it too.
    """

    names: tuple[str, ...] = ()
    renamed: Mapping[str, str] = {}

    def __init__(self, given: Mapping | Iterable[tuple] = (), **values):
        values = dict(given, **values)
        assert values.keys() <= {*self.names}
        super().__init__({name: values[name] for name in self.names if values.get(name) is not None})

    def __getattr__(self, name: str):
        name = self.renamed.get(name, name)
        if name not in self.names:
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        return self.get(name)

    def __setattr__(self, name: str, value) -> None:
        self[name] = value

    def __getitem__(self, key: str | int | slice):
        return (
            super().__getitem__(self.renamed.get(key, key)) if isinstance(key, str) else self.to_tuple()[key]
        )

    def __contains__(self, name: str) -> bool:
        return super().__contains__(self.renamed.get(name, name))

    def get(self, name: str, default=None):
        return super().get(self.renamed.get(name, name), default)

    def to_tuple(self) -> tuple:
        """Return the results in order."""
        return tuple(self.values())

    def __reduce__(self):
        return type(self), (dict(self),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"


class CausalLMOutputWithPast(ModelOutput):
    """loss (); logits (B, T, V); cache; hidden_states, L + 1 of (B, T, D); attentions, L of (B, H, T, S).

    `past_key_values` is the cache's older name, as an attribute, as a key and with `in`.
    """

    names = ("loss", "logits", "cache", "hidden_states", "attentions")
    renamed = {"past_key_values": "cache"}  # noqa: RUF012


class MaskedLMOutput(ModelOutput):
    """loss (); logits (B, T, V); hidden_states, L + 1 of (B, T, D); attentions, L of (B, H, T, T)."""

    names = ("loss", "logits", "hidden_states", "attentions")


class Generated(ModelOutput):
    """sequences (B, T), including the prompt; for each step scores and logits (B, V), hidden_states and
    attentions as in a forward; cache; for beam search sequences_scores (B,).
    """

    names = ("sequences", "sequences_scores", "scores", "logits", "attentions", "hidden_states", "cache")
    renamed = CausalLMOutputWithPast.renamed


class CacheLayer:
    """One layer's keys and values, (B, H, S, d), or None before the first step."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None):
        self.keys, self.values = keys, values


class DynamicCache:
    """Keys and values of all layers, extended by concatenation: gradients flow, and older tensors stay valid.

    Iteration yields the (keys, values) of each layer, like `cache[layer]`.
    """

    def __init__(self, past: Sequence[tuple[Tensor, Tensor]] = (), config: object = None):
        """past: (keys, values) of each layer, as from `to_legacy_cache`. config: ignored."""
        self.layers = [CacheLayer(*pair[:2]) for pair in past]

    @classmethod
    def from_legacy_cache(cls, past_key_values: Sequence[tuple[Tensor, Tensor]] = ()) -> "DynamicCache":
        return cls(past_key_values)

    def to_legacy_cache(self) -> tuple[tuple[Tensor, Tensor], ...]:
        return tuple(self)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, T, d) to a layer's, and return all, (B, H, S, d)."""
        while len(self.layers) <= layer_idx:
            self.layers.append(CacheLayer())
        layer = self.layers[layer_idx]
        if layer.keys is not None:
            key_states = torch.cat((layer.keys, key_states), dim=2)
            value_states = torch.cat((layer.values, value_states), dim=2)
        layer.keys, layer.values = key_states, value_states
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of cached positions."""
        if layer_idx >= len(self.layers) or self.layers[layer_idx].keys is None:
            return 0
        return self.layers[layer_idx].keys.shape[2]

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return the position of the next query, which is the number of cached positions."""
        return self.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Return (number of keys for `query_length` new queries, position of the first key)."""
        return self.get_seq_length(layer_idx) + query_length, 0

    def _change(self, change) -> None:
        for layer in self.layers:
            layer.keys, layer.values = change(layer.keys), change(layer.values)

    def crop(self, max_length: int) -> None:
        """Keep the first `max_length` positions; a negative number drops that many from the end."""
        self._change(lambda tensor: tensor[:, :, :max_length])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Select these rows."""
        self._change(lambda tensor: tensor[beam_idx])

    batch_select_indices = reorder_cache

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times."""
        self._change(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        return self.layers[layer_idx].keys, self.layers[layer_idx].values

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[i] for i in range(len(self)))


class Appending:
    """Adapts a cache, of this module or transformers, dynamic or static, to barklite's blocks."""

    def __init__(self, cache):
        self.cache = cache

    def sizes(self, T: int) -> tuple[int | Tensor, int]:
        """Return (number of cached positions, number of keys for T new queries)."""
        past = self.cache.get_seq_length()
        sizes = getattr(self.cache, "get_mask_sizes", None)
        return past, past + T if sizes is None else sizes(T, 0)[0]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.cache.update(k, v, layer)[:2]

"""What a forward gives back: attributes, keys or a tuple; and the cache that it takes and grows."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class ModelOutput:
    """Named results, of which those that are None do not count: `out.logits`, `out["logits"]`, `out[0]`."""

    names: tuple[str, ...] = ()
    renamed: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, **values):
        assert values.keys() <= set(self.names)
        for name in self.names:
            setattr(self, name, values.get(name))

    def keys(self) -> list[str]:
        return [name for name in self.names if getattr(self, name) is not None]

    def values(self) -> tuple:
        return self.to_tuple()

    def items(self) -> list[tuple]:
        return list(zip(self.keys(), self.to_tuple(), strict=True))

    def get(self, name: str, default=None):
        return default if getattr(self, name, None) is None else self[name]

    def to_tuple(self) -> tuple:
        """The results in their order."""
        return tuple(getattr(self, name) for name in self.keys())

    def __getitem__(self, key: str | int | slice):
        if isinstance(key, str):
            if key not in self:
                raise KeyError(key)
            return getattr(self, self.renamed.get(key, key))
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, name: str) -> bool:
        return self.renamed.get(name, name) in self.keys()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.keys())})"


class CausalLMOutputWithPast(ModelOutput):
    """loss (); logits (B, T, V); cache; hidden_states, L + 1 of (B, T, D); attentions, L of (B, H, T, S).

    `past_key_values` is the cache's older name: as an attribute, a key, and for code that asks with `in`.
    """

    names = ("loss", "logits", "cache", "hidden_states", "attentions")
    renamed = {"past_key_values": "cache"}  # noqa: RUF012

    @property
    def past_key_values(self) -> "DynamicCache | None":
        return self.cache


class MaskedLMOutput(ModelOutput):
    """loss (); logits (B, T, V); hidden_states, L + 1 of (B, T, D); attentions, L of (B, H, T, T)."""

    names = ("loss", "logits", "hidden_states", "attentions")


class CacheLayer:
    """One layer's keys and values, (B, H, S, d), or None before the first step."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None):
        self.keys, self.values = keys, values


class DynamicCache:
    """Keys and values of all layers, grown by concatenation: gradients flow, and an older one stays whole.

    Iterating gives (keys, values) a layer, as `cache[layer]` does.
    """

    def __init__(self, past: Sequence[tuple[Tensor, Tensor]] = (), config: object = None):
        """past: (keys, values) a layer, as `to_legacy_cache` gives. config: not needed."""
        self.layers = [CacheLayer(*pair[:2]) for pair in past]

    @classmethod
    def from_legacy_cache(cls, past_key_values: Sequence[tuple[Tensor, Tensor]] = ()) -> "DynamicCache":
        return cls(past_key_values)

    def to_legacy_cache(self) -> tuple[tuple[Tensor, Tensor], ...]:
        return tuple(self)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Put new keys and values (B, H, T, d) behind a layer's; gives all, (B, H, S, d)."""
        while len(self.layers) <= layer_idx:
            self.layers.append(CacheLayer())
        layer = self.layers[layer_idx]
        if layer.keys is not None:
            key_states = torch.cat((layer.keys, key_states), dim=2)
            value_states = torch.cat((layer.values, value_states), dim=2)
        layer.keys, layer.values = key_states, value_states
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions held."""
        if layer_idx >= len(self.layers) or self.layers[layer_idx].keys is None:
            return 0
        return self.layers[layer_idx].keys.shape[2]

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Position of the next query, which is the number of positions held."""
        return self.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """(keys that `query_length` new queries see, position of the first)."""
        return self.get_seq_length(layer_idx) + query_length, 0

    def crop(self, max_length: int) -> None:
        """Keep the first `max_length` positions; of a negative number, all but so many."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[:, :, :max_length], layer.values[:, :, :max_length]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take these rows."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[beam_idx], layer.values[beam_idx]

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        return self.layers[layer_idx].keys, self.layers[layer_idx].values

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[i] for i in range(len(self)))


class Appending:
    """A cache with `update` and `get_seq_length`, ours or transformers', as barklite's models take one."""

    def __init__(self, cache):
        self.cache, self.length = cache, cache.get_seq_length()

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.cache.update(k, v, layer)[:2]

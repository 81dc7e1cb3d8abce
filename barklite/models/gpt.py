"""The transformer of Bark's semantic and coarse models (spec 3), and the block that the fine model shares.

Axes: B batch, T positions, S positions seen so far (cache and new), H heads, D width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import GPTConfig


class KVCache:
    """Keys and values of every layer, written in place; row b has `lengths[b]` positions filled.

    The first `len(lengths)` rows of the storage are in use. Rows of different lengths grow together, one
    position at a time.
    """

    def __init__(self, config: GPTConfig, rows: int, max_length: int, device=None, dtype=None):
        shape = (2, config.n_layer, rows, config.n_head, max_length, config.n_embd // config.n_head)
        # Zeros: masked positions are still read, and 0 times NaN is NaN. Pages never written take no memory.
        self.keys, self.values = torch.zeros(shape, device=device, dtype=dtype)  # (L, B, H, max_length, d)
        self.lengths = [0] * rows
        self.stale = [0] * rows  # per storage row: end of leftovers from an earlier sequence
        self.positions = torch.empty(0, dtype=torch.long)  # of the newest keys, (T,) or (B, 1)

    @property
    def length(self) -> int:
        """Number of filled positions in the longest row."""
        return max(self.lengths, default=0)

    def grow(self, T: int) -> tuple[Tensor, int]:
        """Add T positions to every row. Return their indices, (T,) for rows of one length, else (B, 1), and
        S, the number of positions to read.
        """
        S = self.length + T
        assert self.keys.shape[3] >= S, f"a cache of {self.keys.shape[3]} positions cannot hold {S}"
        if min(self.lengths) == self.length:
            self.positions = torch.arange(S - T, S, device=self.keys.device)
        else:
            assert T == 1, "rows of different lengths grow by one position at a time"
            self.positions = torch.tensor(self.lengths, device=self.keys.device)[:, None]
        self.lengths = [length + T for length in self.lengths]
        return self.positions, S

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values (B, H, T, d) at `positions`; return all, (B, H, S, d), in their dtype.

        Gradients flow to the new ones; earlier ones are constants.
        """
        B, T, S = len(self.lengths), k.shape[2], self.length
        for stored, new in ((self.keys[layer, :B], k.detach()), (self.values[layer, :B], v.detach())):
            if self.positions.ndim == 1:
                stored[:, :, S - T : S] = new
            else:
                rows = torch.arange(B, device=new.device)
                stored[rows, :, self.positions[:, 0]] = new[:, :, 0].to(stored.dtype)
        if torch.is_grad_enabled():  # not the storage itself, which later calls write to
            past = (stored[layer, :B, :, : S - T] for stored in (self.keys, self.values))
            return tuple(torch.cat(pair, 2) for pair in zip(past, (k, v), strict=True))
        return self.keys[layer, :B, :, :S].to(k.dtype), self.values[layer, :B, :, :S].to(v.dtype)


class Embedding(nn.Embedding):
    """Not initialised by `normal_`: on the meta device it imports the compiler, a second per load."""

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=0.02)

    def attend(self, x: Tensor, vocab: slice = slice(None)) -> Tensor:
        """The table as a head: logits of the ids in `vocab`."""
        return F.linear(x, self.weight[vocab])


class Head(nn.Linear):
    def forward(self, x: Tensor, vocab: slice = slice(None)) -> Tensor:
        """Logits of the ids in `vocab` only."""
        return F.linear(x, self.weight[vocab])


class Attention(nn.Module):
    def __init__(self, n_embd: int, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=False)  # query, key, value, in this order
        self.c_proj = nn.Linear(n_embd, n_embd, bias=False)

    def forward(
        self, x: Tensor, mask: Tensor | None, causal: bool, cache: KVCache | None, layer=0, rows=slice(None)
    ) -> Tensor:
        q, k, v = rearrange(self.c_attn(x), "B T (three H d) -> three B H T d", three=3, H=self.n_head)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        y = self.attend(q[:, :, rows], k, v, mask, causal)  # (B, H, rows, d)
        return self.c_proj(rearrange(y, "B H T d -> B T (H d)"))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """With a mask, each query is at its last allowed key; without one, the T queries are the last T
        keys."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


class MLP(nn.Module):
    def __init__(self, n_embd: int):
        super().__init__()
        self.c_fc = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.c_proj = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))  # the exact GELU, not the tanh form


class Block(nn.Module):
    """Pre-norm: attention, then MLP, each added to the residual stream."""

    def __init__(self, n_embd: int, n_head: int, norm_bias: bool = False):
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd, bias=norm_bias)
        self.attn = Attention(n_embd, n_head)
        self.ln_2 = nn.LayerNorm(n_embd, bias=norm_bias)
        self.mlp = MLP(n_embd)

    def forward(
        self, x: Tensor, mask=None, causal=False, cache: KVCache | None = None, layer=0, rows=slice(None)
    ) -> Tensor:
        """rows: positions to compute; `mask` covers only these as queries. All positions are keys."""
        x = x[:, rows] + self.attn(self.ln_1(x), mask, causal, cache, layer, rows)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """A causal language model: ids in, logits of the next id out."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.wte = Embedding(config.input_vocab_size, config.n_embd)
        self.wpe = Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config.n_embd, config.n_head) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=False)
        self.lm_head = Head(config.n_embd, config.output_vocab_size, bias=False)

    def new_cache(self, rows: int, max_length: int) -> KVCache:
        """An empty cache on the model's device, in the dtype of its activations."""
        like = self.wpe(torch.zeros(1, dtype=torch.long, device=self.wpe.weight.device))
        return KVCache(self.config, rows, max_length, like.device, like.dtype)

    def forward(
        self,
        ids: Tensor | None = None,
        *,
        embeds: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        targets: Tensor | None = None,
        last: bool = False,
        vocab: slice = slice(None),
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V), or (B, 1, V) with `last`, in the parameters' dtype; and the loss if `targets` are
        given.

        ids: int64 (B, T), or embeds: (B, T, D) without positions. positions: int64 (T,) or (B, T); default:
        continue after the cache. mask: bool, broadcastable to (B, H, T, S), True where attention is
        allowed, within the causal order. cache: extended by T positions in place; None computes all
        positions. targets: int64 (B, T), -100 where there is none, for a mean cross entropy. vocab: ids to
        compute logits for. Spec 3.2 to 3.4. Raises ValueError for neither or both inputs, and for more than
        `block_size` positions.
        """
        if (ids is None) == (embeds is None):
            raise ValueError("give either ids or embeds")
        x = self.wte(ids) if embeds is None else embeds  # (B, T, D)
        T = x.shape[1]
        if positions is None and T + (0 if cache is None else cache.length) > self.config.block_size:
            raise ValueError(f"the positions exceed the model's block_size {self.config.block_size}")
        index, S = (torch.arange(T, device=x.device), T) if cache is None else cache.grow(T)
        x = x + self.wpe(index if positions is None else positions)

        causal = mask is None and S == T > 1 and index.ndim == 1
        if not causal and (T > 1 or index.ndim == 2):  # else a single new query attends to every key
            order = torch.arange(S, device=x.device) <= index[..., None]  # (T, S) or (B, 1, S)
            order = order if index.ndim == 1 else order[:, None]  # (B, 1, 1, S)
            mask = order if mask is None else order & mask
        for layer, block in enumerate(self.h[:-1]):
            x = block(x, mask, causal, cache, layer)
        if last and T > 1:  # generation needs only the last position: the last block skips the others
            causal, mask = False, None if mask is None else mask[..., -1:, :]
        rows = slice(-1 if last else None, None)
        x = self.h[-1](x, mask, causal, cache, len(self.h) - 1, rows)
        logits = self.lm_head(self.ln_f(x), vocab)
        return logits, None if targets is None else cross_entropy(logits, targets)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the targets that are not -100, in float32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100)

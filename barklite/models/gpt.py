"""The transformer of Bark's semantic and coarse models (spec 3), and the block that the fine model shares.

Axes: B batch, T positions, S positions seen so far (cache and new), H heads, D width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import GPTConfig


class KVCache:
    """Keys and values of every layer, written in place; the first `length` positions are filled."""

    def __init__(self, config: GPTConfig, batch_size: int, max_length: int, device=None, dtype=None):
        head = config.n_embd // config.n_head
        shape = (2, config.n_layer, batch_size, config.n_head, max_length, head)
        both = torch.empty(shape, device=device, dtype=dtype)
        self.keys, self.values = both[0], both[1]  # (L, B, H, max_length, D / H)
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values (B, H, T, D/H) behind the filled part; return it, grown.

        Gradients reach what is new; what earlier calls left is a constant.
        """
        end = self.length + k.shape[2]
        assert end <= self.keys.shape[3], f"a cache of {self.keys.shape[3]} positions cannot hold {end}"
        self.keys[layer, :, :, self.length : end] = k.detach()
        self.values[layer, :, :, self.length : end] = v.detach()
        if torch.is_grad_enabled():  # not the cache itself, which later calls write to
            past = (both[layer, :, :, : self.length] for both in (self.keys, self.values))
            return tuple(torch.cat(pair, 2) for pair in zip(past, (k, v), strict=True))
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]  # (B, H, S, D / H)


class Embedding(nn.Embedding):
    """PyTorch's, but for its initial values: a plain `normal_`, on the meta device, would make PyTorch import
    its compiler, a second that every loading of a checkpoint would pay.
    """

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=0.02)

    def attend(self, x: Tensor, vocab: slice = slice(None)) -> Tensor:
        """The table as a head: logits of the ids in `vocab`."""
        return F.linear(x, self.weight[vocab])


class Head(nn.Linear):
    def forward(self, x: Tensor, vocab: slice = slice(None)) -> Tensor:
        """Logits of the ids in `vocab` only: nobody reads the others."""
        return F.linear(x, self.weight[vocab])


class Attention(nn.Module):
    def __init__(self, n_embd: int, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=False)  # query, key, value, in this order
        self.c_proj = nn.Linear(n_embd, n_embd, bias=False)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        causal: bool,
        cache: KVCache | None,
        layer: int,
        rows: slice = slice(None),
    ) -> Tensor:
        q, k, v = rearrange(self.c_attn(x), "B T (three H d) -> three B H T d", three=3, H=self.n_head)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        y = self.attend(q[:, :, rows], k, v, mask, causal)  # (B, H, rows, d)
        return self.c_proj(rearrange(y, "B H T d -> B T (H d)"))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
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
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
        layer: int = 0,
        rows: slice = slice(None),
    ) -> Tensor:
        """rows: the positions whose result is wanted, which `mask` is for; all are attended to."""
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

        ids: int64 (B, T), or embeds: (B, T, D) without positions. positions: int64 (T,) or (B, T); they
        follow the cache otherwise. mask: bool, broadcastable to (B, H, T, S), True where attention is
        allowed, within the causal order. cache: is written to and grows by T; None computes every position
        anew. targets: int64 (B, T), -100 where there is none, for a mean cross entropy. vocab: the ids whose
        logits are wanted. Spec 3.2 to 3.4. Raises ValueError for neither or both inputs, and for more than
        `block_size` positions.
        """
        if (ids is None) == (embeds is None):
            raise ValueError("give either ids or embeds")
        x = self.wte(ids) if embeds is None else embeds  # (B, T, D)
        T, start = x.shape[1], 0 if cache is None else cache.length
        if positions is None:
            if start + T > self.config.block_size:
                raise ValueError(
                    f"{start + T} positions exceed the model's block_size {self.config.block_size}"
                )
            positions = torch.arange(start, start + T, device=x.device)
        x = x + self.wpe(positions)

        causal = mask is None and start == 0 and T > 1  # a lone query, the newest, may see every key: no mask
        if T > 1 and not causal:
            order = torch.ones(T, start + T, dtype=torch.bool, device=x.device).tril(start)
            mask = order if mask is None else order & mask
        for layer, block in enumerate(self.h[:-1]):
            x = block(x, mask, causal, cache, layer)
        if last and T > 1:  # in generation nobody reads the other positions: the last block skips them
            rows, causal, mask = slice(-1, None), False, None if mask is None else mask[..., -1:, :]
        else:
            rows = slice(None)
        x = self.h[-1](x, mask, causal, cache, len(self.h) - 1, rows)
        if cache is not None:
            cache.length += T
        logits = self.lm_head(self.ln_f(x), vocab)
        return logits, None if targets is None else cross_entropy(logits, targets)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the targets that are not -100, in float32."""
    return F.cross_entropy(
        rearrange(logits, "B T V -> (B T) V").float(), targets.reshape(-1), ignore_index=-100
    )

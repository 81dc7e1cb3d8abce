"""Compiled blocks for many rows (prompts, the fine model) of models with integer weights on the CPU.

Between two integer products there are normalisation, GELU and rounding. Two compiled functions, for the parts
before and after the attention, fuse them into one pass over the rows.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..models.fine import FineGPT
from ..models.gpt import GPT, Block, KVCache
from .quantize import Linear4, Linear8, has_int8_products, linears

PIECE = 1024  # maximal rows per call of a compiled function


def has_rows(model: GPT | FineGPT) -> bool:
    """Whether all of a model's products of many rows use integers."""
    products = [linear for block in model.h for linear in linears(block)]
    even = model.config.n_embd % Linear8.block == 0
    return even and has_int8_products() and all(isinstance(linear, (Linear8, Linear4)) for linear in products)


def parts(model: GPT | FineGPT) -> list[tuple[nn.Module, tuple[Tensor, ...], Callable[[], tuple]]]:
    """Return the modules to compile for a model, each with example arguments and a function that returns
    their dynamic axes.
    """
    block, x = model.h[0], torch.zeros(96, model.config.n_embd)
    before, after = before_tensors(block), after_tensors(block)

    def axes(n_inputs: int, weights: tuple[Tensor, ...]) -> tuple:
        rows = torch.export.Dim("rows", min=2)
        return *({0: rows},) * n_inputs, None, None, (None,) * (len(weights) - 2)  # norm, then products

    return [
        (BeforeAttention(block), (x, *before), partial(axes, 1, before)),
        (AfterAttention(block), (x, x.bfloat16(), *after), partial(axes, 2, after)),
    ]


class BeforeAttention(nn.Module):
    """The first part of `gpt.Block` for many rows: x (rows, D) -> q, k and v (rows, 3 D) in bfloat16."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.eps, self.product = block.ln_1.eps, type(block.attn.c_attn).rows

    def settings(self) -> tuple:
        """Constants baked into the compiled code; part of the cache key."""
        return self.eps, self.product.__qualname__

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor, *weights: Tensor) -> Tensor:
        x = F.layer_norm(x, x.shape[-1:], weight, bias, self.eps)
        return self.product(*weights, x).to(torch.bfloat16)


class AfterAttention(nn.Module):
    """The rest of `gpt.Block`: x (rows, D) and the attended values (rows, D), bfloat16 -> (rows, D)."""

    def __init__(self, block: nn.Module):
        super().__init__()
        _, *others = linears(block)
        self.eps, self.products = block.ln_2.eps, [type(linear).rows for linear in others]
        self.counts = [len(linear.tensors()) for linear in others]

    def settings(self) -> tuple:
        """Constants baked into the compiled code; part of the cache key."""
        return self.eps, *(product.__qualname__ for product in self.products)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, *weights: Tensor) -> Tensor:
        weights = iter(weights)
        proj, fc, down = (
            partial(product, *islice(weights, n))
            for product, n in zip(self.products, self.counts, strict=True)
        )
        x = x + proj(y.float())
        return x + down(F.gelu(fc(F.layer_norm(x, x.shape[-1:], weight, bias, self.eps))))


class RowsBlock(nn.Module):
    """A `gpt.Block` for many rows: compiled functions around the attention of its own module."""

    def __init__(self, block: Block, before: Callable, after: Callable):
        super().__init__()
        self.block, self.before, self.after = block, before, after

    def forward(
        self, x: Tensor, mask=None, causal=False, cache: KVCache | None = None, layer=0, rows=slice(None)
    ) -> Tensor:
        block, attn, B = self.block, self.block.attn, len(x)
        qkv = by_pieces(self.before, before_tensors(block), x.flatten(0, 1))  # (B T, 3 D)
        q, k, v = rearrange(qkv, "(B T) (three H d) -> three B H T d", B=B, three=3, H=attn.n_head)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        y = rearrange(attn.attend(q[:, :, rows], k, v, mask, causal), "B H T d -> (B T) (H d)")
        x = x[:, rows].flatten(0, 1)
        if len(x) > Linear8.few:
            x = by_pieces(self.after, after_tensors(block), x, y)
        else:  # only the last position of a prompt
            x = x + attn.c_proj(y.float())
            x = x + block.mlp(block.ln_2(x))
        return x.unflatten(0, (B, -1))


def by_pieces(function: Callable, weights: list[Tensor], *rows: Tensor) -> Tensor:
    """Call `function` on at most PIECE rows at a time, to limit its memory."""
    if len(rows[0]) <= PIECE:
        return function(*rows, *weights)
    pieces = zip(*(tensor.tensor_split(-(-len(tensor) // PIECE)) for tensor in rows), strict=True)
    return torch.cat([function(*piece, *weights) for piece in pieces])


def before_tensors(block: nn.Module) -> list[Tensor]:
    """Return a block's weights in the order of `BeforeAttention`'s arguments."""
    return [*norm_tensors(block.ln_1), *block.attn.c_attn.tensors()]


def after_tensors(block: nn.Module) -> list[Tensor]:
    """Return a block's weights in the order of `AfterAttention`'s arguments."""
    _, *others = linears(block)
    return [*norm_tensors(block.ln_2), *(tensor for linear in others for tensor in linear.tensors())]


def norm_tensors(norm: nn.Module) -> list[Tensor]:
    """Return weight and bias in float32; zeros for a missing bias, so that all models share a function."""
    weight = norm.weight.detach().float()
    return [weight, torch.zeros_like(weight) if norm.bias is None else norm.bias.detach().float()]

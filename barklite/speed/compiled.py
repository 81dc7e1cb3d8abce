"""`compile=True`: a faster engine for `generate`, applied from outside.

On CUDA that is `graphs`. On the CPU one block's step for one token becomes a C++ function (PyTorch's
AOTInductor), with weights and cache as arguments: every layer of both models calls it, and it is kept on disk
for the next process.
"""

import sys
from collections.abc import Callable
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..decode.engine import Engine, SlotCache
from ..models.gpt import GPT
from ..storage import native
from . import quantize
from .graphs import Graphs


def check_compile(compile: bool, device: torch.device) -> None:
    """ValueError unless steps can be compiled for `device`, or need not be."""
    if not isinstance(compile, bool):
        raise ValueError(f"compile is {compile!r}; it must be True or False")
    if compile and device.type not in ("cpu", "cuda"):
        raise ValueError(f"compile=True works on the CPU and on CUDA, not on {device}")


def engine_for(semantic: GPT, coarse: GPT, device: torch.device) -> Engine:
    """The fastest engine there is for two models on `device`; what it has to compile it compiles now."""
    if device.type == "cpu":
        return CompiledSteps([semantic, coarse])
    native.inductor_cache()
    return Graphs([semantic, coarse], device)


# --- one token on the CPU -----------------------------------------------------------------------------------


class RowsCache(SlotCache):
    """A cache whose layers, and beside them each block's weights, are what a compiled step of one row takes.

    All have the same strides, longer than any row, because those are compiled in. dtype: 16 bits halve what
    every step has to read.
    """

    def __init__(self, model: GPT, slots: int, dtype: torch.dtype):
        super().__init__(model.config, slots, model.config.block_size + 16, dtype=dtype)
        self.layers = [
            [
                (k, v, *(t.detach() for t in block_tensors(block)))
                for k, v, block in zip(self.keys[:, b], self.values[:, b], model.h, strict=True)
            ]
            for b in range(slots)
        ]


def linears(block: nn.Module) -> list[nn.Module]:
    return [block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj]


def block_tensors(block: nn.Module) -> list[Tensor]:
    """A block's weights in the order in which its step takes them."""
    products = [tensor for linear in linears(block) for tensor in tensors(linear)]
    return [block.ln_1.weight, block.ln_2.weight, *products]


def tensors(linear: nn.Module, rows: slice | None = None) -> tuple[Tensor, ...]:
    if isinstance(linear, nn.Linear):
        return (linear.weight if rows is None else linear.weight[rows],)
    return linear.tensors() if rows is None else linear.tensors(rows)


def row_product(linear: nn.Module) -> Callable:
    """The product of a lone row with the weights of this kind of module."""
    return quantize.Linear16.row if isinstance(linear, nn.Linear) else type(linear).row


class BlockStep(nn.Module):
    """`gpt.Block` for one token, in float32 between the products.

    Written so that a compiler makes one pass over each weight: products as sums, and what enters one is
    stored first, not computed again for every output.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        self.n_head, self.eps = block.attn.n_head, block.ln_1.eps
        self.products = [row_product(linear) for linear in linears(block)]
        self.counts = [len(tensors(linear)) for linear in linears(block)]

    def settings(self) -> tuple:
        """What of the compiled code is not in its arguments' shapes."""
        return self.n_head, self.eps, [product.__qualname__ for product in self.products]

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, ln_1: Tensor, ln_2: Tensor, *weights: Tensor):
        """x (D,) and keys and values (H, S, d), whose last position is still to be written -> (D,)."""
        weights = iter(weights)
        attn, proj, fc, down = (
            partial(product, *islice(weights, n))
            for product, n in zip(self.products, self.counts, strict=True)
        )
        q, k, v = attn(stored(F.layer_norm(x, x.shape, ln_1.float(), eps=self.eps))).view(3, self.n_head, -1)
        keys[:, -1], values[:, -1] = k.to(keys.dtype), v.to(values.dtype)
        scores = (q[:, None] * q.shape[-1] ** -0.5 * keys.float()).sum(-1)  # (H, S)
        y = (stored(scores).softmax(-1)[..., None] * values.float()).sum(1)  # (H, d)
        x = stored(x + proj(stored(y.flatten())))
        return x + down(stored(F.gelu(fc(stored(F.layer_norm(x, x.shape, ln_2.float(), eps=self.eps))))))


class HeadStep(nn.Module):
    """Final normalisation and head for one token: (D,) -> logits (V,) of the rows of weights it is given."""

    def __init__(self, model: GPT):
        super().__init__()
        self.eps, self.product = model.ln_f.eps, row_product(model.lm_head)

    def settings(self) -> tuple:
        """What of the compiled code is not in its arguments' shapes."""
        return self.eps, self.product.__qualname__

    def forward(self, x: Tensor, ln_f: Tensor, *weights: Tensor) -> Tensor:
        return self.product(*weights, stored(F.layer_norm(x, x.shape, ln_f.float(), eps=self.eps)))


def stored(x: Tensor) -> Tensor:
    """x, which the compiler then has to store here: it would compute it again for each of its readers."""
    return torch.as_strided(x, x.shape, x.stride())


class CompiledSteps(Engine):
    """Steps of few rows on the CPU by compiled C++, row by row; all else as it is."""

    def __init__(self, models: list[GPT]):
        """Compile for `models`, or load what an earlier process compiled. ValueError where that fails."""
        self.seconds = 0.0  # spent compiling
        self._steps: dict[GPT, tuple[Callable, Callable, torch.dtype]] = {}
        self._kinds: dict[GPT, tuple] = {}
        for model in models:
            self._prepare(model)

    def _prepare(self, model: GPT) -> None:
        """Steps for a model that is new, or whose weights have another dtype or layout now: their code reads
        memory as it was told once.
        """
        layers = [tuple((t.shape, t.stride(), t.dtype) for t in block_tensors(b)) for b in model.h]
        kinds = [tuple(type(linear) for linear in linears(b)) for b in model.h]
        if len({*zip(layers, kinds, strict=True)}) != 1:
            raise ValueError(
                "compile=True needs layers that are alike in sizes and dtypes, and these are not"
            )
        head = tuple((t.stride(), t.dtype) for t in tensors(model.lm_head))
        kind = layers[0], kinds[0], head, type(model.lm_head)
        if self._kinds.get(model) != kind:
            kv = cache_dtype(model)
            self._steps[model] = self._block(model, kv), self._head(model), kv
            self._kinds[model] = kind

    def cache(self, model: GPT, length: int, slots: int = 1) -> SlotCache:
        if slots > few_rows(model):
            return super().cache(model, length, slots)
        self._prepare(model)
        return RowsCache(model, slots, self._steps[model][2])

    def step(self, model: GPT, ids: Tensor, cache: SlotCache, vocab: slice) -> Tensor:
        if not isinstance(cache, RowsCache):
            return super().step(model, ids, cache, vocab)
        block, head, _ = self._steps[model]
        last = model.ln_f.weight.detach(), *(t.detach() for t in tensors(model.lm_head, vocab))
        logits = []
        for b, token in enumerate(ids):
            position = cache.lengths[b]
            cache.lengths[b] = end = position + 1
            x = (model.wte(token).float() + model.wpe.weight[position].float()).view(-1)
            for keys, values, *weights in cache.layers[b]:
                x = block(x, keys[:, :end], values[:, :end], *weights)
            logits.append(head(x, *last))
        return torch.stack(logits)

    def _block(self, model: GPT, kv: torch.dtype) -> Callable:
        x = torch.zeros(model.config.n_embd)
        keys, values, *weights = RowsCache(model, 1, kv).layers[0][0]
        filled = torch.export.Dim("filled", min=2, max=model.config.block_size)
        shapes = (None, {1: filled}, {1: filled}, None, None, (None,) * (len(weights) - 2))
        example = (x, keys.zero_()[:, :9], values.zero_()[:, :9], *weights)
        return self._compiled(BlockStep(model.h[0]), example, shapes)

    def _head(self, model: GPT) -> Callable:
        weights = [t.detach()[:64] for t in tensors(model.lm_head)]
        ids = torch.export.Dim("ids", min=2, max=2**24)
        shapes = (None, None, tuple({0: ids} for _ in weights))
        example = (torch.zeros(model.config.n_embd), model.ln_f.weight.detach(), *weights)
        return self._compiled(HeadStep(model), example, shapes)

    def _compiled(self, module: nn.Module, example: tuple[Tensor, ...], shapes: tuple) -> Callable:
        step, seconds = native.compiled(module, example, shapes, (sys.modules[__name__], quantize))
        self.seconds += seconds
        return step


def few_rows(model: GPT) -> int:
    """Slots up to which compiled steps, row by row, are quicker than products with all rows (measured)."""
    linear = linears(model.h[0])[0]
    if isinstance(linear, quantize.Linear16):
        return 8 if linear.weight.dtype == torch.float16 else 3
    return 6 if isinstance(linear, nn.Linear) else 2


def cache_dtype(model: GPT) -> torch.dtype:
    """float32 stays exact; beside smaller weights a float32 cache would be what a step mostly reads."""
    plain = all(isinstance(linear, nn.Linear) for linear in linears(model.h[0]))
    return torch.float32 if plain else torch.bfloat16

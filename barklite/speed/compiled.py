"""Chooses the engine for `compile=`, and implements the one for `compile=True` on the CPU.

On CUDA, and with a `CompileConfig`, the engine is that of `graphs`. `compile=True` on the CPU compiles one
block to C++ functions (PyTorch's AOTInductor) with weights and cache as arguments: a step of one token and,
with integer weights, many rows (`many_rows`). All layers of all models call the same functions, which are
cached on disk.
"""

import sys
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import CompileConfig
from ..decode.engine import Engine
from ..models.fine import FineGPT
from ..models.gpt import GPT, KVCache
from ..storage import native
from . import many_rows, quantize
from .graphs import StepEngine
from .quantize import linears, materialized


def check_compile(compile: bool | CompileConfig, device: torch.device) -> None:
    """ValueError for a value of `compile=` that is wrong or does not work on `device`."""
    if not isinstance(compile, (bool, CompileConfig)):
        raise ValueError(f"compile is {compile!r:.99}; it must be True, False or a CompileConfig")
    if compile and device.type not in ("cpu", "cuda"):
        raise ValueError(f"compile= works on the CPU and on CUDA, not on {device}")
    attention = compile.attention if isinstance(compile, CompileConfig) else None
    if attention == "flash" and device.type == "cuda":
        raise ValueError("attention 'flash' is for the CPU: on CUDA its kernel takes no mask")
    if attention in ("efficient", "cudnn") and device.type == "cpu":
        raise ValueError(f"attention {attention!r} is for CUDA: the CPU has no such kernel")


def engine_for(
    semantic: GPT, coarse: GPT, fine: FineGPT, device: torch.device, compile: bool | CompileConfig = True
) -> Engine:
    """Create the engine of these models for a true `compile`. True is the fastest engine of `device`.

    It compiles now, not at the first step.
    """
    models, config = [semantic, coarse], compile if isinstance(compile, CompileConfig) else None
    if device.type == "cpu" and config is None:
        return CompiledCPUEngine([*models, fine])
    small = any(type(module) in quantize.SMALL_MODULES for module in semantic.modules())
    if small and device.type == "cpu" and config.backend is not None:
        raise ValueError("a CompileConfig on the CPU compiles float32 weights: for smaller ones compile=True")
    if config is None or config.backend == "inductor":
        native.inductor_cache()
    return StepEngine(models, device, config)


# --- on the CPU ---------------------------------------------------------------------------------------------


def block_tensors(block: nn.Module) -> list[Tensor]:
    """Return a block's weights in the order of `BlockStep`'s arguments."""
    products = [tensor for linear in linears(block) for tensor in tensors(linear)]
    return [block.ln_1.weight, block.ln_2.weight, *products]


def tensors(linear: nn.Module, rows: slice | None = None) -> tuple[Tensor, ...]:
    if isinstance(linear, nn.Linear):
        return (linear.weight if rows is None else linear.weight[rows],)
    return linear.tensors() if rows is None else linear.tensors(rows)


def row_product(linear: nn.Module) -> Callable:
    """Return the function that multiplies one row with the weights of such a module."""
    return quantize.Linear16.row if isinstance(linear, nn.Linear) else type(linear).row


class BlockStep(nn.Module):
    """`gpt.Block` for one token, with float32 activations.

    Written so that a compiler makes one pass over each weight: products are sums, and their inputs are stored
    first, not recomputed for every output.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        self.n_head, self.eps = block.attn.n_head, (block.ln_1.eps, block.ln_2.eps)
        self.products = tuple(row_product(linear) for linear in linears(block))
        self.counts = [len(tensors(linear)) for linear in linears(block)]

    def settings(self) -> tuple:
        """Constants baked into the compiled code; part of the cache key."""
        return self.n_head, self.eps, tuple(product.__qualname__ for product in self.products)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, ln_1: Tensor, ln_2: Tensor, *weights: Tensor):
        """x (D,) and keys and values (H, S, d), whose last position is still to be written -> (D,)."""
        weights = iter(weights)
        attn, proj, fc, down = (
            partial(product, *islice(weights, n))
            for product, n in zip(self.products, self.counts, strict=True)
        )
        q, k, v = attn(normalized(x, ln_1, self.eps[0])).view(3, self.n_head, -1)
        keys[:, -1], values[:, -1] = k.to(keys.dtype), v.to(values.dtype)
        scores = (q[:, None] * q.shape[-1] ** -0.5 * keys.float()).sum(-1)  # (H, S)
        y = (materialized(scores).softmax(-1)[..., None] * values.float()).sum(1)  # (H, d)
        x = materialized(x + proj(materialized(y.flatten())))
        return x + down(materialized(F.gelu(fc(normalized(x, ln_2, self.eps[1])))))


class HeadStep(nn.Module):
    """Final normalisation and head for one token: (D,) -> logits (V,), one per given row of the weights."""

    def __init__(self, model: GPT):
        super().__init__()
        self.eps, self.product = model.ln_f.eps, row_product(model.lm_head)

    def settings(self) -> tuple:
        """Constants baked into the compiled code; part of the cache key."""
        return self.eps, self.product.__qualname__

    def forward(self, x: Tensor, ln_f: Tensor, *weights: Tensor) -> Tensor:
        return self.product(*weights, normalized(x, ln_f, self.eps))


def normalized(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return materialized(F.layer_norm(x, x.shape, weight.float(), eps=eps))


class CompiledCPUEngine(Engine):
    """The CPU's engine. Compiled code computes steps of few rows, row by row, and many rows of models with
    integer weights; the plain modules compute everything else.
    """

    def __init__(self, models: list[GPT | FineGPT]):
        """Compile for `models`, or load cached code. ValueError if it fails."""
        self.seconds = 0.0  # spent compiling
        self._steps: dict[GPT, tuple[Callable, Callable, torch.dtype]] = {}
        self._rows: dict[GPT | FineGPT, tuple[Callable, Callable]] = {}
        self._kinds: dict[GPT, tuple] = {}
        self._forward: dict[KVCache, Callable] = {}  # of the caches in use
        for model in filter(self.supports, models):
            self._prepare(model)

    def supports(self, model: nn.Module) -> bool:
        """Whether all modules are barklite's own and unchanged, because compiled code reads only their
        weights.
        """
        if not isinstance(model, (GPT, FineGPT)):
            return True
        return all(
            quantize.is_unchanged(module)
            and (isinstance(model, FineGPT) or getattr(module, "bias", None) is None)
            for module in model.modules()
        )

    def _prepare(self, model: GPT | FineGPT) -> None:
        """Compile for a model that is new or whose weights have changed their dtypes or layouts, which are
        constants in the compiled code.
        """
        layers = [tuple((t.shape, t.stride(), t.dtype) for t in block_tensors(b)) for b in model.h]
        kinds = [BlockStep(block).settings() for block in model.h]
        if len({*zip(layers, kinds, strict=True)}) != 1:
            if isinstance(model, FineGPT):
                self._rows.pop(model, None)
                return
            raise ValueError("compile=True needs layers of the same sizes and dtypes, and these differ")
        kind = layers[0], kinds[0]
        if isinstance(model, GPT):
            kind += tuple((t.stride(), t.dtype) for t in tensors(model.lm_head)), HeadStep(model).settings()
        if self._kinds.get(model) == kind:
            return
        if isinstance(model, GPT):
            dtype = cache_dtype(model)
            self._steps[model] = self._block(model, dtype), self._head(model), dtype
        self._rows.pop(model, None)
        if many_rows.has_rows(model):
            self._rows[model] = tuple(self._compiled(*part) for part in many_rows.parts(model))
        self._kinds[model] = kind

    def _with_rows(self, model: GPT | FineGPT) -> GPT | FineGPT:
        """Return `model` with compiled blocks for many rows, if it has them."""
        if model not in self._rows:
            return model
        other = copy(model)
        blocks = nn.ModuleList(many_rows.RowsBlock(block, *self._rows[model]) for block in model.h)
        other._modules = model._modules | {"h": blocks}
        return other

    def prefill(self, model: GPT, prompts: Tensor, cache: KVCache, rows: Sequence[int]) -> None:
        many = prompts.shape[0] * prompts.shape[1] > quantize.Linear8.few
        super().prefill(self._with_rows(model) if many else model, prompts, cache, rows)

    def fine_logits(self, model: FineGPT, codebook: int, codes: Tensor, rows: slice, vocab: slice) -> Tensor:
        self._prepare(model)
        return super().fine_logits(self._with_rows(model), codebook, codes, rows, vocab)

    def new_cache(self, model: GPT, rows: int, max_length: int) -> KVCache:
        """Create a cache. That of compiled steps has a dtype and strides of its own."""
        if rows > few_rows(model):
            return super().new_cache(model, rows, max_length)
        self._prepare(model)
        cache = step_cache(model, rows, self._steps[model][2])
        cache.lengths = []
        self._forward[cache] = self._forward_of(model, cache)
        return cache

    def release(self, model: GPT, cache: KVCache) -> None:
        self._forward.pop(cache, None)

    def decode(self, model: GPT, ids: Tensor, cache: KVCache, samplers, noise, past=(), forward=None):
        return super().decode(model, ids, cache, samplers, noise, past, self._forward.get(cache, forward))

    def _forward_of(self, model: GPT, cache: KVCache) -> Callable:
        """Return the compiled `GPT.forward` of one token per row. The cache must not move."""
        block_step, head_step, _ = self._steps[model]
        weights = [[t.detach() for t in block_tensors(block)] for block in model.h]
        norm = model.ln_f.weight.detach()
        keys, values = cache.keys.unbind(1), cache.values.unbind(1)  # a row each, (L, H, S, d)
        rows = zip(keys, values, strict=True)
        layers = [list(zip(*row, weights, strict=False)) for row in rows]  # a model may have lost layers

        def forward(ids: Tensor, cache: KVCache, last: bool, vocab: slice) -> tuple[Tensor, None]:
            head, logits = [t.detach() for t in tensors(model.lm_head, vocab)], []
            for b, token in enumerate(ids):
                position = cache.lengths[b]
                cache.lengths[b] = end = position + 1
                x = (model.wte(token).float() + model.wpe.weight[position].float()).view(-1)
                for keys, values, block in layers[b]:
                    x = block_step(x, keys[:, :end], values[:, :end], *block)
                logits.append(head_step(x, norm, *head))
            return torch.stack(logits)[:, None], None  # (B, 1, V)

        return forward

    def _block(self, model: GPT, kv: torch.dtype) -> Callable:
        x = torch.zeros(model.config.n_embd)
        cache, weights = step_cache(model, 1, kv), [t.detach() for t in block_tensors(model.h[0])]
        keys, values = cache.keys[0, 0], cache.values[0, 0]  # (H, S, d)

        def shapes() -> tuple:
            filled = torch.export.Dim("filled", min=2, max=model.config.block_size)
            return None, {1: filled}, {1: filled}, None, None, (None,) * (len(weights) - 2)

        example = (x, keys.zero_()[:, :9], values.zero_()[:, :9], *weights)
        return self._compiled(BlockStep(model.h[0]), example, shapes)

    def _head(self, model: GPT) -> Callable:
        weights = [t.detach()[:64] for t in tensors(model.lm_head)]

        def shapes() -> tuple:
            ids = torch.export.Dim("ids", min=2, max=2**24)
            return None, None, tuple({0: ids} for _ in weights)

        example = (torch.zeros(model.config.n_embd), model.ln_f.weight.detach(), *weights)
        return self._compiled(HeadStep(model), example, shapes)

    def _compiled(
        self, module: nn.Module, example: tuple[Tensor, ...], shapes: Callable[[], tuple]
    ) -> Callable:
        step, seconds = native.compiled(module, example, shapes, (sys.modules[__name__], many_rows, quantize))
        self.seconds += seconds
        return step


def step_cache(model: GPT, rows: int, dtype: torch.dtype) -> KVCache:
    """Create a cache for compiled steps, of a fixed length, because its strides are compiled in."""
    return KVCache(model.config, rows, model.config.block_size + 16, dtype=dtype)


def few_rows(model: GPT) -> int:
    """Return the number of rows up to which compiled steps, row by row, are faster (measured)."""
    linear = linears(model.h[0])[0]
    if isinstance(linear, quantize.Linear16):
        return 8 if linear.weight.dtype == torch.float16 else 3
    return 6 if isinstance(linear, nn.Linear) else 2


def cache_dtype(model: GPT) -> torch.dtype:
    """float32 for float32 weights, so that they stay exact; else bfloat16, because a step reads all of it."""
    plain = all(isinstance(linear, nn.Linear) for linear in linears(model.h[0]))
    return torch.float32 if plain else torch.bfloat16

"""Smaller weight formats, with the fastest kernels of each. `shrink` swaps a model's modules.

On a CPU, a step of one token is limited by memory bandwidth, because it reads every weight once; many rows
(a prompt, the fine model) are limited by arithmetic. So each module here has two kernels:

| weights | one token | many rows |
|---|---|---|
| float16, bfloat16 | the product in that format | bfloat16 |
| int8, a scale an output | `_weight_int8pack_mm` | int8 by int8 |
| int4, a scale for 32 inputs | `_weight_int4pack_mm_for_cpu` | expanded to int8; the fine model is int8 |

For integer products, each row of activations is rounded to int8, scaled by its largest value. On the CPU
everything else stays float32: activations, normalisation, the KV cache. Other devices compute in the
caller's dtype and dequantize int8 weights at every use.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.fine import FineGPT
from ..models.gpt import GPT, MLP, Attention, Block, Embedding, Head
from ..storage.formats import round_rows

FORMATS = ("int8", "int4")
GROUP = 32  # inputs that share an int4 scale
SIXTEEN = (torch.float16, torch.bfloat16)


def shrink(
    model: GPT | FineGPT, quantize: str | None, device: torch.device | str, table: Tensor | None = None
) -> None:
    """Replace the modules of a token model on the CPU, in place, by those for running on `device`.

    quantize: "int8", "int4", or None, which replaces only 16-bit weights on a CPU. The names of the remaining
    parameters do not change. table: `wte.weight` in a memory-mapped file; its rows are read from there,
    unrounded, instead of from a quantized copy in memory. ValueError for a format without kernels on this
    device.
    """
    check_format(quantize, device)
    on_cpu = torch.device(device).type == "cpu"
    sixteen = model.wpe.weight.dtype in SIXTEEN
    if quantize is None and not (on_cpu and sixteen):
        return
    if quantize is not None and table is not None and on_cpu:
        del model.wte
    _swap(model, quantize, on_cpu, isinstance(model, FineGPT))
    if quantize is not None:
        for parameter in model.parameters():  # copied, so that no view keeps the mapped file open
            parameter.data = parameter.data.clone()
    if quantize is not None and table is not None and on_cpu:
        model.wte = Embedding16(table)


def check_format(quantize: str | None, device: torch.device | str) -> None:
    """ValueError unless `quantize` is None or a format that `device` can compute with."""
    if quantize is not None and quantize not in FORMATS:
        raise ValueError(f"quantize is {quantize!r}; choose None or one of {', '.join(FORMATS)}")
    if quantize == "int4" and torch.device(device).type != "cpu":
        raise ValueError(f"int4 weights are for the CPU, not for {device}: choose int8 there")


def is_quantized(model: nn.Module) -> bool:
    """Whether the weights were rounded to integers."""
    return any(isinstance(module, (Linear8, Linear4, Embedding8)) for module in model.modules())


def _swap(module: nn.Module, quantize: str | None, on_cpu: bool, fine: bool) -> None:
    for name, child in module.named_children():
        new = None
        if type(child) not in PLAIN_MODULES or not is_unchanged(child):
            kind = f"{name!r} is a {type(child).__name__}"
            kind += " that was changed" if type(child) in PLAIN_MODULES else ""
            raise ValueError(f"{kind}, which would be lost: quantize first, and then add adapters or layers")
        if isinstance(child, Head):
            new = Head8(child.weight) if quantize else Head16(child.weight)
        elif isinstance(child, nn.Linear):
            new = _linear(child, quantize, fine)
        elif isinstance(child, Embedding):
            if quantize and not fine and name == "wte":
                new = Embedding8(child.weight, torch.float32 if on_cpu else child.weight.dtype)
            elif on_cpu:
                new = Embedding16(child.weight, None if child.weight.dtype in SIXTEEN else torch.bfloat16)
        elif isinstance(child, nn.LayerNorm) and on_cpu and child.weight.dtype in SIXTEEN:
            new = Norm16(child)
        elif isinstance(child, Attention):
            _swap(child, quantize, on_cpu, fine)
            new = Attention16(child) if on_cpu else None
        else:
            _swap(child, quantize, on_cpu, fine)
        if new is not None:
            setattr(module, name, new.train(child.training))


def is_unchanged(module: nn.Module) -> bool:
    """Whether a module computes what its class did when barklite was imported. If not (a subclass, a replaced
    method, a bias), code that only reads its weights would ignore the change.
    """
    kind = type(module)
    return (
        kind in METHODS
        and METHODS[kind] == _methods(kind)
        and not {"forward", "attend"} & vars(module).keys()
        and (kind is nn.LayerNorm or getattr(module, "bias", None) is None)
    )


def _methods(kind: type) -> tuple:
    return kind.forward, getattr(kind, "attend", None)


def linears(block: nn.Module) -> list[nn.Module]:
    """A block's four products, in the order of computation."""
    return [block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj]


def _linear(child: nn.Linear, quantize: str | None, fine: bool) -> nn.Module:
    if quantize is None:
        return Linear16(child.weight)
    if quantize == "int8" or fine or child.in_features % GROUP or child.out_features % 16:
        return Linear8(child.weight)
    return Linear4(child.weight)


# --- what this CPU computes fast ----------------------------------------------------------------------------


@functools.cache
def wide_dtype() -> torch.dtype:
    """The dtype in which this CPU multiplies many rows fastest."""
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


@functools.cache
def has_int8_products() -> bool:
    return torch.cpu._is_vnni_supported()


def materialized(x: Tensor) -> Tensor:
    """Make Inductor store x, which it would otherwise recompute for each use."""
    return torch.as_strided(x, x.shape, x.stride())


def _many(flat: Tensor, weight: Tensor) -> Tensor:
    """flat @ weight.T for many rows on the CPU, in the fastest dtype; float32 (rows, out)."""
    wide = wide_dtype()
    if weight.dtype == torch.float16 and wide == torch.bfloat16:
        weight = weight.float()  # four times faster in this order
    return F.linear(flat.to(wide), weight.to(wide)).float()


# --- 16 bits ------------------------------------------------------------------------------------------------


class Linear16(nn.Module):
    """Weights (out, in) in float16 or bfloat16; float32 in and out, on the CPU."""

    few = 2  # rows up to which the kernel for one token is faster

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight)

    @classmethod
    def product(cls, x: Tensor, weight: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.linear(x.to(weight.dtype), weight).to(x.dtype)
        rows = x.numel() // max(1, x.shape[-1])
        if rows <= cls.few or weight.dtype == torch.bfloat16 == wide_dtype():
            return F.linear(x.to(weight.dtype), weight).to(x.dtype)
        return _many(x, weight).to(x.dtype)

    def tensors(self, rows: slice = slice(None)) -> tuple[Tensor, ...]:
        """Return the arguments of `row` for the outputs in `rows`."""
        return (self.weight[rows],)

    @staticmethod
    def row(weight: Tensor, x: Tensor) -> Tensor:
        """Multiply one float32 row (in,). Written so that a compiler makes one pass over the weights."""
        return (weight.float() * x).sum(-1)


class Head16(Linear16):
    def forward(self, x: Tensor, vocab: slice = slice(None)) -> Tensor:
        return self.product(x, self.weight[vocab])


class Embedding16(nn.Module):
    """An embedding table (V, D) in 16 bits, or in a mapped file. Returns float32 rows."""

    def __init__(self, weight: Tensor, dtype: torch.dtype | None = None):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=weight.requires_grad)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).float()

    def attend(self, x: Tensor, vocab: slice = slice(None)) -> Tensor:
        """Use the table as output head: float32 logits of the ids in `vocab`."""
        return Linear16.product(x, self.weight[vocab])


class Norm16(nn.Module):
    """LayerNorm in float32 with weights in 16 bits."""

    def __init__(self, plain: nn.LayerNorm):
        super().__init__()
        self.normalized_shape, self.eps = plain.normalized_shape, plain.eps
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), bias, self.eps)


class Attention16(Attention):
    """Attention of many rows in bfloat16, two heads at a time, which fit in the processor's cache."""

    heads, least = 2, 128

    def __init__(self, plain: Attention):
        nn.Module.__init__(self)
        self.n_head, self.c_attn, self.c_proj = plain.n_head, plain.c_attn, plain.c_proj

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        B, H, T, d = q.shape
        plain = mask is not None or self.least > T or q.device.type != "cpu"
        if plain or wide_dtype() != torch.bfloat16 or torch.is_grad_enabled():
            return super().attend(q, k, v, mask, causal)
        dtype = q.dtype
        q, k, v = (
            t.to(torch.bfloat16, memory_format=torch.contiguous_format).flatten(0, 1) for t in (q, k, v)
        )
        y = torch.empty_like(q)  # (B H, T, d)
        # Causal rows are computed in pieces, each only with the keys up to its last row.
        pieces = 4 if causal else 1
        for start in range(0, T, step := -(-T // pieces)):
            rows = slice(start, min(start + step, T))
            S = rows.stop if causal else k.shape[1]
            allowed = _causal(rows.start, rows.stop) if causal else q.new_empty(1, 1, 1)
            for first in range(0, B * H, self.heads * pieces):
                h = slice(first, first + self.heads * pieces)
                scores = torch.baddbmm(allowed, q[h, rows], k[h, :S].mT, beta=int(causal), alpha=d**-0.5)
                torch.bmm(torch.softmax(scores, -1, out=scores), v[h, :S], out=y[h, rows])
        return y.to(dtype).view(B, H, T, d)


@functools.lru_cache(maxsize=16)
def _causal(start: int, stop: int) -> Tensor:
    """Return the additive causal mask of queries start .. stop - 1 and keys 0 .. stop - 1, (1, T, S)."""
    later = torch.ones(stop - start, stop, dtype=torch.bool).triu(start + 1)
    return torch.zeros(1, *later.shape, dtype=torch.bfloat16).masked_fill_(later, -torch.inf)


# --- 8 bits -------------------------------------------------------------------------------------------------


class Linear8(nn.Module):
    """Linear layer with int8 weights (out, in) and one scale per output."""

    few = 16
    block = 16  # inputs must be a multiple: otherwise PyTorch's kernels read past the end of the weights
    piece = 256  # rows per product, to limit the memory of intermediate results

    def __init__(self, weight: Tensor):
        super().__init__()
        rounded, scale = round_rows(weight)
        self.register_buffer("weight", rounded)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight, self.scale)

    def product(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        if x.device.type != "cpu":
            if len(flat) == 1 and torch.compiler.is_compiling():  # fused: no dequantized weights
                return self.row(weight, scale, flat[0].float()).to(x.dtype).view(*x.shape[:-1], -1)
            return F.linear(x, weight.to(x.dtype) * scale.to(x.dtype)[:, None])
        if weight.shape[1] % self.block:
            y = flat.float() @ weight.t().float()
        elif len(flat) <= self.few:
            ones = scale.new_ones(scale.shape, dtype=torch.bfloat16)  # the scales themselves stay exact
            y = torch._weight_int8pack_mm(flat.bfloat16(), weight, ones).float()
        elif has_int8_products() and not torch.is_grad_enabled():
            y = torch.cat([self.rows(weight, scale, part.float()) for part in flat.split(self.piece)])
            return y.to(x.dtype).view(*x.shape[:-1], len(scale))
        else:
            y = _many(flat, weight)  # every int8 is exact in bfloat16
        return y.mul_(scale).to(x.dtype).view(*x.shape[:-1], len(scale))

    def tensors(self, rows: slice = slice(None)) -> tuple[Tensor, ...]:
        """Return the arguments of `row` for the outputs in `rows`."""
        return self.weight[rows], self.scale[rows]

    @staticmethod
    def row(weight: Tensor, scale: Tensor, x: Tensor) -> Tensor:
        """Multiply one float32 row (in,). Written so that a compiler makes one pass over the weights."""
        return (weight.float() * x).sum(-1) * scale

    @staticmethod
    def rows(weight: Tensor, scale: Tensor, x: Tensor) -> Tensor:
        """Multiply many float32 rows (rows, in) with integer arithmetic."""
        rounded, unit = integers(x)
        return torch._int_mm(rounded, weight.t()).float().mul_(unit).mul_(scale)


def integers(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of (rows, in) to int8 by its largest value. Return that and the units (rows, 1)."""
    unit = x.abs().amax(-1, keepdim=True).clamp_(min=1e-30).div_(127)
    return (x / unit).round_().to(torch.int8), unit


class Head8(Linear8):
    def forward(self, x: Tensor, vocab: slice = slice(None)) -> Tensor:
        return self.product(x, self.weight[vocab], self.scale[vocab])


class Embedding8(nn.Module):
    """An embedding table (V, D) in int8 with one scale per row. Returns rows in `dtype`."""

    def __init__(self, weight: Tensor, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.dtype = dtype
        rounded, scale = round_rows(weight)
        self.register_buffer("weight", rounded)
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        return (F.embedding(ids, self.weight) * self.scale[ids][..., None]).to(self.dtype)


# --- 4 bits -------------------------------------------------------------------------------------------------


def round_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize (out, in) to uint8 (out, in / 32, 16) and scales (out, in / 32, 1). Scales are rounded to
    bfloat16 but stored in float32, which a compiled step reads faster.

    A weight is (n - 8) * scale with n from 0 to 15; the largest of a group has n = 0. A byte has inputs i
    (low half) and i + 16 of a group.
    """
    groups = weight.detach().float().unflatten(-1, (-1, GROUP))  # (out, in / 32, 32)
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scale = (largest / -8).bfloat16().float()
    n = (groups / scale.where(scale != 0, 1.0) + 8).round().clamp(0, 15).to(torch.uint8)
    return n[..., : GROUP // 2] | n[..., GROUP // 2 :] << 4, scale


class Linear4(nn.Module):
    """Linear layer with 4-bit weights (out, in) and one scale per 32 inputs of an output. CPU only."""

    few = 32

    def __init__(self, weight: Tensor):
        super().__init__()
        packed, scale = round_groups(weight)
        self.register_buffer("weight", packed)
        self.register_buffer("scale", scale)
        self._for_kernel: tuple[Tensor, Tensor] | None = None

    def _load_from_state_dict(self, *given) -> None:
        self._for_kernel = None
        super()._load_from_state_dict(*given)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        if len(flat) > self.few:
            integers = has_int8_products() and not torch.is_grad_enabled()
            y = self.rows(*self.tensors(), flat.float()) if integers else _many(flat, self.expanded())
        else:
            packed, scales = self._for_kernel or self._pack()
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(flat.bfloat16(), packed, GROUP, scales)
        return y.to(x.dtype).view(*x.shape[:-1], len(self.weight))

    def expanded(self) -> Tensor:
        """The weights (out, in) in bfloat16."""
        return self.wide(*self.tensors()).bfloat16()

    @staticmethod
    def wide(weight: Tensor, scale: Tensor) -> Tensor:
        return torch.cat((weight & 15, weight >> 4), -1).float().sub_(8).mul_(scale).flatten(1)

    def _pack(self) -> tuple[Tensor, Tensor]:
        """Return weights and scales in the layout of PyTorch's kernel, computed at first use."""
        n = torch.cat((self.weight & 15, self.weight >> 4), -1).flatten(1)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(n.int(), 1)
        scales = self.scale.bfloat16().squeeze(-1).t()  # (in / 32, out), and zero points, all 0
        self._for_kernel = packed, torch.stack((scales, torch.zeros_like(scales)), -1).contiguous()
        return self._for_kernel

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the arguments of `row`."""
        return self.weight, self.scale

    @staticmethod
    def row(weight: Tensor, scale: Tensor, x: Tensor) -> Tensor:
        """Multiply one float32 row (in,). Written so that a compiler makes one pass over the weights."""
        n, x = weight.int(), x.view(-1, 2, GROUP // 2)
        less = materialized((x[:, 0] + x[:, 1]) * -8)  # once, instead of from every weight
        products = (n & 15).float() * x[:, 0] + ((n >> 4).float() * x[:, 1] + less)
        return (products * scale).sum((-1, -2))

    @staticmethod
    def rows(weight: Tensor, scale: Tensor, x: Tensor) -> Tensor:
        """Multiply many float32 rows (rows, in) with integer arithmetic: rows and weights as int8."""
        rounded, unit = integers(Linear4.wide(weight, scale))
        return Linear8.rows(rounded, unit.flatten(), x)


# The modules of a newly built token model, and those that `shrink` uses instead.
PLAIN_MODULES = {nn.ModuleList, nn.Linear, nn.LayerNorm, GPT, FineGPT, Block, Attention, MLP, Embedding, Head}
SMALL_MODULES = {Norm16, Attention16, Embedding16, Embedding8, Linear16, Linear8, Linear4, Head16, Head8}
METHODS = {kind: _methods(kind) for kind in PLAIN_MODULES | SMALL_MODULES}

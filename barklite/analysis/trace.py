"""Records and changes what the token models compute, with PyTorch hooks.

`trace` records activations, `ablate` switches attention heads off, both inside a `with` block. A model with
hooks takes the plain path of every stage, so they affect `generate` too, also with `compile=True`. Axes:
B batch, T positions, S positions attended to, H heads, d width of a head, D width, V vocabulary.
"""

import contextlib
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..models.fine import FineGPT
from ..models.gpt import GPT


@dataclass
class Call:
    """The activations of one forward. With `last=True` or `rows` the last layer has only those positions.

    The tensors are part of the computation's graph, so gradients flow through them.
    """

    hidden_states: list[Tensor] = field(default_factory=list)  # L + 1 of (B, T, D): block inputs; ln_f output
    attentions: list[Tensor] = field(default_factory=list)  # L of (B, H, T, S), rows sum to 1
    heads: list[Tensor] = field(default_factory=list)  # L of (B, H, T, d), the input of c_proj by head
    logits: Tensor | None = None  # (B, T, V), of the requested ids


class Trace:
    """The calls of a traced model, in order. `hidden_states` and the other properties are the last call's."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    @property
    def last(self) -> Call:
        if not self.calls:
            raise ValueError("the traced model has not been called yet")
        return self.calls[-1]

    @property
    def hidden_states(self) -> list[Tensor]:
        return self.last.hidden_states

    @property
    def attentions(self) -> list[Tensor]:
        return self.last.attentions

    @property
    def heads(self) -> list[Tensor]:
        return self.last.heads

    @property
    def logits(self) -> Tensor:
        return self.last.logits


@contextlib.contextmanager
def trace(model: GPT | FineGPT, keep: int | None = None) -> Iterator[Trace]:
    """Record hidden states, attention maps, heads' outputs and logits of every forward inside the block.

    with trace(bark.semantic) as t:
        bark.semantic(ids)
    t.attentions[3]  # (B, H, T, S)

    keep: number of last calls to keep; None keeps all. Without gradients the outputs are bit for bit those of
    the untraced model, and the maps are computed separately. With gradients the outputs are computed from the
    maps and may differ by rounding. ValueError for anything but a token model.
    """
    _check_model(model)
    if keep is not None and not (_whole(keep) and keep >= 1):
        raise ValueError(f"keep is {keep!r}; it must be a whole number of at least 1, or None for all calls")
    traced, open_calls = Trace(), []

    def begin(*_) -> None:
        open_calls[:] = [Call()]

    def end(module, given, result) -> None:
        call = open_calls.pop()
        call.logits = result[0]
        traced.calls.append(call)
        if keep is not None:
            del traced.calls[:-keep]

    def enters(module, given) -> None:
        if open_calls:  # a block may be called outside a forward of its model
            open_calls[0].hidden_states.append(given[0])

    def leaves(module, given, result) -> None:
        if open_calls:
            open_calls[0].hidden_states.append(result)

    def projects(attention):
        def hook(module, given) -> tuple[Tensor] | None:
            if not open_calls:
                return None
            heads = given[0].unflatten(-1, (attention.n_head, -1)).transpose(1, 2)  # (B, H, T, d)
            open_calls[0].heads.append(heads)
            return (heads.transpose(1, 2).flatten(-2),)  # computed from `heads`, so that it gets gradients

        return hook

    def explicit(attention):
        outer = getattr(attention.attend, "record", None)  # of an enclosing trace
        untraced = getattr(attention.attend, "untraced", attention.attend)

        def record(p: Tensor) -> None:
            if open_calls:
                open_calls[0].attentions.append(p)
            if outer is not None:
                outer(p)

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
            p = attention_map(q, k, mask, causal)
            record(p)
            return p.to(v.dtype) @ v if torch.is_grad_enabled() else untraced(q, k, v, mask, causal)

        attend.record, attend.untraced = record, untraced
        return attend

    with contextlib.ExitStack() as undo:
        for block in model.h:
            undo.callback(block.register_forward_pre_hook(enters).remove)
            undo.callback(block.attn.c_proj.register_forward_pre_hook(projects(block.attn)).remove)
            undo.enter_context(replaced(block.attn, "attend", explicit(block.attn)))
        undo.callback(model.ln_f.register_forward_hook(leaves).remove)
        undo.callback(model.register_forward_pre_hook(begin).remove)
        undo.callback(model.register_forward_hook(end).remove)
        yield traced


@contextlib.contextmanager
def ablate(model: GPT | FineGPT, heads: Mapping[int, Sequence[int]]) -> Iterator[None]:
    """Switch attention heads off inside the block: set their part of `c_proj`'s input to zero.

    heads: {layer: [heads]}, counted from 0. Nested blocks add up. ValueError for a layer or head that the
    model does not have.
    """
    _check_model(model)
    if not isinstance(heads, Mapping):
        raise ValueError(f"heads must map layers to lists of heads, such as {{3: [0, 5]}}, not {heads!r:.60}")
    n_layer, n_head = model.config.n_layer, model.config.n_head
    for layer, off in heads.items():
        _check_number("layer", layer, n_layer)
        if isinstance(off, str) or not isinstance(off, Sequence):
            raise ValueError(f"heads[{layer}] must be a list of heads, not {off!r:.60}")
        for head in off:
            _check_number("head", head, n_head)

    def hook_of(off: Sequence[int]):
        def hook(module, given) -> tuple[Tensor]:
            y = given[0].unflatten(-1, (n_head, -1))  # (B, T, H, d)
            gone = torch.zeros(n_head, 1, dtype=torch.bool, device=y.device)
            gone[list(off)] = True
            return (y.masked_fill(gone, 0).flatten(-2),)

        return hook

    with contextlib.ExitStack() as undo:
        for layer, off in heads.items():
            # prepend: this hook runs before those of an enclosing trace, which then records the zeros
            handle = model.h[layer].attn.c_proj.register_forward_pre_hook(hook_of(off), prepend=True)
            undo.callback(handle.remove)
        yield


def attention_map(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Return the softmax of the scaled scores, (B, H, T, S); zeros for a query that may attend to nothing.

    mask: bool, True where attention is allowed, or float, added to the scores. causal: queries are the last T
    of S positions, and each attends to positions up to its own.
    """
    scores = q.float() @ k.float().mT * q.shape[-1] ** -0.5  # 16-bit sums would round or overflow
    if causal:
        T, S = scores.shape[-2:]
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    if mask is None:
        return scores.softmax(-1)
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-1)
    p = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return p.masked_fill(~mask.any(-1, keepdim=True), 0)


@contextlib.contextmanager
def replaced(module: nn.Module, name: str, value: object) -> Iterator[None]:
    """Replace an attribute of one module inside the block."""
    before = dict(module.__dict__)
    setattr(module, name, value)
    try:
        yield
    finally:
        if name in before:
            module.__dict__[name] = before[name]
        else:
            del module.__dict__[name]


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, (GPT, FineGPT)):
        raise ValueError(
            f"{type(model).__name__} is not one of Bark's token models: give bark.semantic, .coarse or .fine"
        )


def _whole(x) -> bool:
    return isinstance(x, numbers.Integral) and not isinstance(x, bool)


def _check_number(what: str, given: int, n: int) -> None:
    if not (_whole(given) and 0 <= given < n):
        raise ValueError(f"{what} {given!r} does not exist: this model has {what}s 0 to {n - 1}")

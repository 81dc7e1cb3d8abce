"""Looking inside the token models while they run, from outside: the model files know nothing of it.

`trace` collects what a model computes, `ablate` switches attention heads off. Both work by PyTorch's hooks
and only within their `with` block. A model with hooks takes the plain path of every stage, so that `generate`
is seen and changed too, also with `compile=True`. Axes: B batch, T positions, S positions attended to, H
heads, d width of a head, D width, V vocabulary.
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
    """What one forward computed. With `last=True` or `rows` the last layer has those positions only.

    Tensors are those of the computation itself, with gradients if it has any.
    """

    hidden_states: list[Tensor] = field(default_factory=list)  # L + 1 of (B, T, D): into blocks; after ln_f
    attentions: list[Tensor] = field(default_factory=list)  # L of (B, H, T, S), rows sum to 1
    heads: list[Tensor] = field(default_factory=list)  # L of (B, H, T, d), what each hands to c_proj
    logits: Tensor | None = None  # (B, T, V), of the ids that were asked for


class Trace:
    """The forwards of a traced model, in order; `hidden_states` and the others are the last one's."""

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
    """Collect hidden states, attention maps, heads' outputs and logits of every forward within the block.

    with trace(bark.semantic) as t:
        bark.semantic(ids)
    t.attentions[3]  # (B, H, T, S)

    keep: only so many of the last calls; None keeps all. Without gradients the model computes what it does
    untraced, to the last bit, and the maps beside it; with them it computes from the maps, and last digits
    can differ. ValueError for anything but a token model.
    """
    _check_model(model)
    if keep is not None and not (_whole(keep) and keep >= 1):
        raise ValueError(f"keep is {keep!r}; it must be a whole number from 1 on, or None for all calls")
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
        if open_calls:  # a block may be called by itself
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
            return (heads.transpose(1, 2).flatten(-2),)  # computed from what is kept: it gets gradients

        return hook

    def explicit(attention):
        outer = getattr(attention.attend, "record", None)  # of a trace around this one
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
    """Switch attention heads off within the block: what they hand to `c_proj` is zero.

    heads: {layer: [heads]}, counted from 0. Blocks within blocks add up. ValueError for a layer or a head
    that the model does not have.
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
            # Before all others: a trace around it sees zeros, too.
            handle = model.h[layer].attn.c_proj.register_forward_pre_hook(hook_of(off), prepend=True)
            undo.callback(handle.remove)
        yield


def attention_map(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Softmax of the scaled scores, (B, H, T, S); zeros where a query may attend to nothing.

    mask: bool, True where attention is allowed, or as a float what is added to the scores. causal: T last of
    S positions, each seeing those up to itself.
    """
    scores = q.float() @ k.float().mT * q.shape[-1] ** -0.5  # in 16 bits sums would be rounded, or infinite
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
    """Another attribute for this one module within the block."""
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

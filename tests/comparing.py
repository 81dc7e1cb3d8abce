"""When two results are the same: helpers that several test files share."""

import numpy as np
import torch

from barklite import Clip


def same(one, other) -> bool:
    """Equal to the last bit: clips (tokens and sound), tensors, arrays, and containers of them."""
    if isinstance(one, Clip):
        return all(same(getattr(one, name), getattr(other, name)) for name in ("semantic", "codes", "audio"))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def is_layer(graph: torch.fx.GraphModule) -> bool:
    """Whether what Dynamo traced is one layer of a step: a GELU, and a cache of four axes."""
    shapes = [
        node.meta["example_value"].ndim
        for node in graph.graph.nodes
        if "example_value" in node.meta and node.op == "placeholder"
    ]
    return 4 in shapes and any("gelu" in str(node.target) for node in graph.graph.nodes)


def same_tokens(one: Clip, other: Clip) -> bool:
    """The semantic tokens and codes of two clips are equal; their sound may differ in the last digits."""
    return same(one.semantic, other.semantic) and same(one.codes, other.codes)


def assert_same_clip(one: Clip, other: Clip) -> None:
    """Equal tokens, seed, end and text; sound and end probabilities to the digits that a batch can move."""
    assert same_tokens(one, other)
    assert (one.seed, one.finish_reason, one.text) == (other.seed, other.finish_reason, other.text)
    assert np.allclose(one.audio, other.audio, atol=1e-5)
    assert one.eos_p.shape == other.eos_p.shape
    assert np.allclose(one.eos_p, other.eos_p, rtol=1e-4, atol=1e-9)

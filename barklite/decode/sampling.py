"""Logits and noise to tokens. Nothing else in barklite draws random numbers.

A token is argmax(p / e), where e are exponential variates from its row's own generator. This is the race by
which `torch.multinomial(p, 1)` draws (spec 8.2), so that the tokens for a seed are those of a system built on
it.
"""

import hashlib
import numbers
import secrets

import numpy as np
import torch
from torch import Tensor

from ..config import SamplingConfig

MAX_SEED = 2**32 - 1


def check_seed(seed: int) -> int:
    """ValueError unless 0 <= seed < 2**32: PyTorch's generator on the CPU ignores higher bits."""
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed!r}; it must be a whole number from 0 to {MAX_SEED}")
    return int(seed)


def new_seed() -> int:
    """A seed from the operating system's entropy; no generator of PyTorch's is touched."""
    return secrets.randbelow(MAX_SEED + 1)


def derived_seed(seed: int, *names: str | int) -> int:
    """A seed that depends on `seed` and `names` alone: the same on every machine and in every version."""
    given = "\0".join(map(str, (check_seed(seed), *names)))
    return int.from_bytes(hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest()[:4], "big")


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """One row's source of noise. ValueError for a bad seed."""
    return torch.Generator(device).manual_seed(check_seed(seed))


def exponential(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise for `shape` draws, float32, row-major: on the CPU one call gives what several smaller ones do."""
    return torch.empty(shape, device=generator.device).exponential_(generator=generator)


def probabilities(logits: Tensor, sampling: SamplingConfig, rules: str = "suno") -> Tensor:
    """The distribution (..., V), float32, that a token is drawn from; at temperature 0 all of it on the
    likeliest.

    The two systems filter in different orders and cut the nucleus differently (spec 4.1, D9, D10, D32).
    """
    logits = logits.float()
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    if rules == "suno":
        logits = _top_p_suno(logits, sampling.top_p)
        logits = _top_k(logits, sampling.top_k)
        return (logits / sampling.temperature).softmax(-1)
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    logits = _top_k(logits, sampling.top_k)
    logits = _top_p_transformers(logits, sampling.top_p)
    return logits.log_softmax(-1).softmax(-1)


def draw(p: Tensor, noise: Tensor | None) -> Tensor:
    """Token ids (...) from probabilities (..., V) and noise of that shape; None takes the likeliest."""
    return p.argmax(-1) if noise is None else (p / noise).argmax(-1)


def _top_k(logits: Tensor, k: int | None) -> Tensor:
    """Everything below the k-th largest goes; what equals it stays."""
    if k is None:
        return logits
    threshold = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < threshold, -torch.inf)


def _top_p_suno(logits: Tensor, p: float | None) -> Tensor:
    """The likeliest ids until their sum, before temperature, exceeds p; the one that crosses it stays."""
    if p is None:
        return logits
    ordered, order = logits.sort(descending=True)
    beyond = _cumulative(ordered) > p
    beyond = beyond.roll(1, -1)
    beyond[..., 0] = False
    return logits.masked_fill(torch.empty_like(beyond).scatter_(-1, order, beyond), -torch.inf)


def _cumulative(ordered: Tensor) -> Tensor:
    """Running sums of the softmax; on the CPU as numpy adds them, in float32, which decides who is in the
    nucleus.
    """
    if ordered.device.type != "cpu":
        return ordered.softmax(-1).cumsum(-1)
    e = np.exp(ordered.numpy() - ordered.numpy().max(-1, keepdims=True))
    return torch.from_numpy(np.cumsum(e / e.sum(-1, keepdims=True), -1))


def _top_p_transformers(logits: Tensor, p: float | None) -> Tensor:
    """The least likely ids while their sum is at most 1 - p go; the likeliest always stays."""
    if p is None or p >= 1.0:
        return logits
    ordered, order = logits.sort(descending=False)
    beyond = ordered.softmax(-1).cumsum(-1) <= 1 - p
    beyond[..., -1] = False
    return logits.masked_fill(torch.empty_like(beyond).scatter_(-1, order, beyond), -torch.inf)

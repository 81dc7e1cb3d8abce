"""Filters and draws, against straightforward code that follows the two systems' descriptions (spec 4.1)."""

import numpy as np
import pytest
import torch

from barklite.config import SamplingConfig
from barklite.decode.sampling import check_seed, draw, exponential, generator, new_seed, probabilities

LOGITS = torch.randn(5, 200, generator=generator(1)) * 3


def suno(logits, temperature, top_k, top_p):
    """As Suno describes it, in numpy, one row."""
    r = logits.numpy().astype(np.float32).copy()
    if top_p is not None:
        order = np.argsort(r)[::-1]
        p = np.exp(r[order] - r.max())
        gone = np.cumsum(p / p.sum()) > top_p
        gone = np.concatenate(([False], gone[:-1]))
        r[order[gone]] = -np.inf
    if top_k is not None:
        r[r < np.sort(r)[-min(top_k, len(r))]] = -np.inf
    return torch.from_numpy(r).div(temperature).softmax(-1)


@pytest.mark.parametrize("top_p", [None, 0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 7, 1000])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_suno_filters(temperature, top_k, top_p):
    p = probabilities(LOGITS, SamplingConfig(temperature, top_k, top_p), "suno")
    for row, logits in zip(p, LOGITS, strict=True):
        expected = suno(logits, temperature, top_k, top_p)
        assert torch.equal(row > 0, expected > 0)
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("top_p", [None, 0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 7, 1000])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_transformers_filters(temperature, top_k, top_p):
    warpers = pytest.importorskip("transformers", reason="the oracle, transformers, is not installed")
    scores = LOGITS
    if temperature != 1.0:
        scores = warpers.TemperatureLogitsWarper(temperature)(None, scores)
    if top_k is not None:
        scores = warpers.TopKLogitsWarper(top_k)(None, scores)
    if top_p is not None and top_p < 1:
        scores = warpers.TopPLogitsWarper(top_p)(None, scores)
    expected = scores.log_softmax(-1).softmax(-1)
    assert torch.equal(
        probabilities(LOGITS, SamplingConfig(temperature, top_k, top_p), "transformers"), expected
    )


def test_order_of_filters_differs():
    """Temperature before or after the nucleus is cut: another nucleus."""
    sampling = SamplingConfig(3.0, None, 0.6)
    kept = [(probabilities(LOGITS, sampling, rules) > 0).sum() for rules in ("suno", "transformers")]
    assert kept[0] < kept[1]


def test_nucleus_at_equality():
    """Four equal ids and p = 0.75: transformers drops what sums to at most a quarter, Suno what lies beyond
    0.75.
    """
    p = probabilities(torch.zeros(4), SamplingConfig(1.0, top_p=0.75), "transformers")
    assert int((p > 0).sum()) == 3
    p = probabilities(torch.zeros(4), SamplingConfig(1.0, top_p=0.75), "suno")
    assert int((p > 0).sum()) == 4


@pytest.mark.parametrize("rules", ["suno", "transformers"])
def test_the_likeliest_always_stays(rules):
    p = probabilities(LOGITS, SamplingConfig(1.0, top_p=1e-9), rules)
    assert torch.equal(p, torch.nn.functional.one_hot(LOGITS.argmax(-1), 200).float())


def test_sunos_nucleus_is_exact_over_the_whole_vocabulary():
    """10001 ids: the float32 sums of numpy decide, to the last bit, who is in."""
    logits = torch.randn(60, 10_001, generator=generator(3)) * 2
    p = probabilities(logits, SamplingConfig(1.0, top_p=0.9), "suno")
    for row, r in zip(p, logits, strict=True):
        assert torch.equal(row > 0, suno(r, 1.0, None, 0.9) > 0)


@pytest.mark.parametrize("rules", ["suno", "transformers"])
def test_ties_survive_top_k(rules):
    p = probabilities(torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0]), SamplingConfig(1.0, top_k=2), rules)
    assert (p > 0).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize("rules", ["suno", "transformers"])
def test_greedy_is_all_on_the_likeliest(rules):
    p = probabilities(LOGITS, SamplingConfig(0), rules)
    assert torch.equal(p.argmax(-1), LOGITS.argmax(-1))
    assert torch.equal(p.sum(-1), torch.ones(5))
    assert torch.equal(draw(p, None), LOGITS.argmax(-1))


def test_draw_is_multinomial():
    """Bit for bit the same choices as torch.multinomial from the same generator, one row or many."""
    p = LOGITS.softmax(-1)
    torch.manual_seed(5)
    expected = [torch.multinomial(p, 1)[:, 0] for _ in range(20)]
    g = generator(5)
    for choice in expected:
        assert torch.equal(draw(p, exponential(tuple(p.shape), g)), choice)


def test_noise_can_be_drawn_ahead():
    whole = exponential((6, 100), generator(2))
    g = generator(2)
    assert torch.equal(whole, torch.cat([exponential((n, 100), g) for n in (1, 2, 3)]))


def test_half_precision_logits_become_float32():
    p = probabilities(LOGITS.bfloat16(), SamplingConfig(0.7))
    assert p.dtype == torch.float32


@pytest.mark.parametrize("seed", [-1, 2**32, 10**30, 1.5, "7", True, None])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match="seed is"):
        check_seed(seed)
    assert check_seed(2**32 - 1) == 2**32 - 1


def test_nothing_touches_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    new_seed(), exponential((3,), generator(1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(temperature=-0.1), "temperature is -0.1"),
        (dict(temperature=float("nan")), "temperature"),
        (dict(temperature=1e-40), "at least 1e-6"),
        (dict(temperature=10**400), "temperature"),
        (dict(temperature=float("inf")), "temperature"),
        (dict(temperature="hot"), "temperature"),
        (dict(top_k=0), "top_k is 0"),
        (dict(top_k=2.5), "top_k"),
        (dict(top_p=0), "top_p is 0"),
        (dict(top_p=1.01), "top_p is 1.01"),
        (dict(top_p=-1), "top_p"),
    ],
)
def test_bad_sampling(arguments, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**arguments)

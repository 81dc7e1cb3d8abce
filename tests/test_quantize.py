"""Smaller weights: each module against its own weights in float32, and the whole against the plain model."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from barklite import Bark, BarkConfig, GenerationConfig
from barklite.config import FineConfig, GPTConfig
from barklite.decode.sampling import generator
from barklite.models.fine import FineGPT
from barklite.models.gpt import GPT, Attention, KVCache
from barklite.speed import quantize

SHORT = GenerationConfig(max_seconds=0.6)
WIDE = dict(n_layer=2, n_head=2, n_embd=64)


def random(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


def initialised(model, seed=0):
    """Weights that keep signals at their size, in eval mode."""
    g = generator(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(std=p.shape[-1] ** -0.5, generator=g)
    return model.eval()


def gpt():
    return initialised(GPT(GPTConfig(input_vocab_size=300, output_vocab_size=256, block_size=128, **WIDE)))


def relative(found, expected):
    return float((found.float() - expected).norm() / expected.norm())


# --- the formats --------------------------------------------------------------------------------------------


def test_int8_rounds_to_the_nearest():
    weight = random(700, 24)  # more rows than are rounded at a time
    weight[7] = 0
    rounded, scale = quantize.round_rows(weight)
    error = (rounded * scale[:, None] - weight).abs()
    assert (error <= scale[:, None] * 0.5001).all()
    assert rounded[8].abs().max() == 127
    assert not rounded[7].any()
    assert quantize.round_rows(weight * 3)[0].equal(rounded)


def test_int4_rounds_groups():
    weight = random(48, 96)
    weight[3, :32] = 0
    module = quantize.Linear4(weight)
    assert module.weight.shape == (48, 3, 16)
    assert module.weight.dtype == torch.uint8
    error = (module.expanded().float() - weight).abs().unflatten(1, (3, 32))
    step = module.scale.float().abs()  # the value opposite to the largest is cut by one step at most
    assert (error <= step * 1.05 + 1e-6).all()
    assert (error > step * 0.55).float().mean() < 0.01
    assert not module.expanded()[3, :32].any()


@pytest.mark.parametrize("rows", [1, 2, 5, 40], ids="rows {}".format)
@pytest.mark.parametrize("make, expanded, tolerance", [
    (lambda w: quantize.Linear16(w.half()), lambda m: m.weight.float(), 4e-3),
    (lambda w: quantize.Linear16(w.bfloat16()), lambda m: m.weight.float(), 6e-3),
    (quantize.Linear8, lambda m: m.weight * m.scale[:, None], 2e-2),
    (quantize.Linear4, lambda m: m.expanded().float(), 2e-2),
], ids=["float16", "bfloat16", "int8", "int4"])  # fmt: skip
def test_products(make, expanded, tolerance, rows):
    """All kernels of a format compute with the same weights; only activations are rounded on the way."""
    module, x = make(random(96, 64)), random(2, rows, 64, seed=1) if rows > 1 else random(1, 1, 64)
    found = module(x)
    assert found.dtype == torch.float32
    assert relative(found, F.linear(x, expanded(module))) < tolerance


@pytest.mark.parametrize("make", [
    lambda w: quantize.Linear16(w.half()), quantize.Linear8, quantize.Linear4,
])  # fmt: skip
def test_the_compilers_formula(make):
    """`row` is what a compiled step computes: exact in the weights as stored."""
    module, x = make(random(96, 64)), random(64, seed=1)
    expanded = {
        quantize.Linear16: lambda: module.weight.float(),
        quantize.Linear8: lambda: module.weight * module.scale[:, None],
        quantize.Linear4: lambda: module.expanded().float(),
    }[type(module)]()
    exact = type(module) is not quantize.Linear4  # its expansion is rounded to bfloat16 once more
    assert relative(module.row(*module.tensors(), x), expanded @ x) < (1e-6 if exact else 4e-3)


def test_heads_and_tables():
    weight, x = random(40, 64), random(1, 3, 64, seed=1)
    part = slice(8, 24)
    for head in (quantize.Head16(weight.half()), quantize.Head8(weight)):
        assert head(x, part).shape == (1, 3, 16)
        assert torch.equal(head(x, part), head(x)[..., part])
        assert relative(head(x), x @ weight.T) < 1e-2
    ids = torch.tensor([[3, 39, 3]])
    for table in (quantize.Embedding16(weight.bfloat16()), quantize.Embedding8(weight)):
        assert table(ids).dtype == torch.float32
        assert relative(table(ids), weight[ids]) < 1e-2
    table = quantize.Embedding16(weight, torch.bfloat16)
    assert relative(table.attend(x, part), x @ weight[part].T) < 1e-2


@pytest.mark.parametrize("T", [300, 40])
def test_long_attention(T):
    plain = initialised(Attention(64, 4))
    short = quantize.Attention16(plain)
    x = random(2, T, 64)
    with torch.no_grad():
        expected = plain(x, None, False, None, 0)
        found = short(x, None, False, None, 0)
        assert relative(found, expected) < 1e-2
        assert (short.least > T) == torch.equal(found, expected)  # it is only for long ones
        some = short(x, None, False, None, 0, slice(10, T))
        assert relative(some, expected[:, 10:]) < 1e-2
        causal = short(x, None, True, None, 0)
        assert relative(causal, plain(x, None, True, None, 0)) < 1e-2
        x[:, T // 2 :] = 0  # what comes later changes nothing that came before
        assert torch.equal(short(x, None, True, None, 0)[:, : T // 2], causal[:, : T // 2])
    short(x.requires_grad_(), None, False, None, 0).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("supported", [torch.bfloat16, torch.float32])
def test_other_processors(supported, monkeypatch):
    """Without fast bfloat16 or int8 products many rows are multiplied in float32."""
    monkeypatch.setattr(quantize, "wide_dtype", lambda: supported)
    monkeypatch.setattr(quantize, "has_int8_products", lambda: False)
    weight, x = random(96, 64), random(1, 50, 64, seed=1)
    for module in (quantize.Linear16(weight.half()), quantize.Linear16(weight.bfloat16()),
                   quantize.Linear8(weight), quantize.Linear4(weight)):  # fmt: skip
        assert relative(module(x), x @ weight.T) < (0.15 if isinstance(module, quantize.Linear4) else 1e-2)


def test_other_devices():
    """Away from the CPU int8 weights are expanded, and everything keeps the caller's dtype."""
    module, x = quantize.Linear8(random(96, 64)).to("meta"), torch.empty(2, 3, 64, device="meta").half()
    assert module(x).shape == (2, 3, 96)
    assert module(x).dtype == torch.float16
    model = gpt().to(torch.float16)
    quantize.shrink(model, "int8", "cuda")
    assert not any(isinstance(m, (quantize.Linear16, quantize.Attention16)) for m in model.modules())
    assert isinstance(model.h[0].mlp.c_fc, quantize.Linear8)
    assert model.wpe.weight.dtype == torch.float16
    half, ids = gpt().to(torch.bfloat16), torch.arange(20)[None]
    quantize.shrink(half, "int8", "cuda")
    with torch.no_grad():
        found = half(ids)[0]
        assert found.dtype == torch.bfloat16
        assert relative(found, gpt()(ids)[0]) < 0.05
    with pytest.raises(ValueError, match="int4 weights are for the CPU"):
        quantize.shrink(model, "int4", "cuda")


# --- whole models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, form, least_kl, most_kl", [
    (torch.float16, None, 0, 1e-4), (torch.bfloat16, None, 0, 2e-4), (None, "int8", 1e-6, 5e-4),
    (None, "int4", 1e-4, 0.1),
], ids=["float16", "bfloat16", "int8", "int4"])  # fmt: skip
def test_quality(dtype, form, least_kl, most_kl):
    """Prompt and steps stay near the float32 model; the format costs something, or it was not used."""
    plain = gpt()
    small = copy.deepcopy(plain).to(dtype)
    quantize.shrink(small, form, "cpu")
    ids = torch.randint(0, 256, (1, 60), generator=generator(1))
    with torch.no_grad():
        expected = plain(ids)[0].log_softmax(-1)
        cache = KVCache(small.config, 1, 60, dtype=torch.float32)
        found = [small(ids[:, :40], cache=cache)[0]]
        found += [small(ids[:, i : i + 1], cache=cache)[0] for i in range(40, 60)]
        found = torch.cat(found, 1)
    assert found.dtype == torch.float32
    kl = (expected.exp() * (expected - found.log_softmax(-1))).sum(-1)
    for part in (kl[:, :40], kl[:, 40:]):
        assert least_kl < float(part.mean()) < most_kl


def test_the_fine_model_is_never_coarser_than_int8():
    model = initialised(FineGPT(FineConfig(vocab_size=72, block_size=64, n_codes_total=4, **WIDE)))
    codes = torch.randint(0, 64, (1, 4, 64), generator=generator(1))
    with torch.no_grad():
        expected = model(2, codes)[0]
        quantize.shrink(model, "int4", "cpu")
        assert not any(isinstance(m, quantize.Linear4) for m in model.modules())
        assert relative(model(2, codes)[0], expected) < 0.03


def test_new_weights_are_used():
    """Regression: what a kernel was packed for is packed again when other weights are loaded."""
    one, two, x = (
        quantize.Linear4(random(96, 64)),
        quantize.Linear4(random(96, 64, seed=5)),
        random(1, 64, seed=1),
    )
    one(x)
    one.load_state_dict(two.state_dict())
    assert torch.equal(one(x), two(x))


def test_nothing_to_shrink():
    model = gpt()
    kinds = [type(m) for m in model.modules()]
    quantize.shrink(model, None, "cpu")
    assert [type(m) for m in model.modules()] == kinds
    half = gpt().half()
    quantize.shrink(half, None, "cuda")
    assert [type(m) for m in half.modules()] == kinds


def test_odd_sizes_become_int8():
    """int4 groups 32 inputs; what has another width is not refused."""
    model = initialised(
        GPT(GPTConfig(input_vocab_size=30, output_vocab_size=30, n_layer=1, n_head=1, n_embd=16))
    )
    quantize.shrink(model, "int4", "cpu")
    kinds = {name: type(m) for name, m in model.named_modules()}
    assert kinds["h.0.attn.c_attn"] is quantize.Linear8
    assert kinds["h.0.mlp.c_proj"] is quantize.Linear4


def test_state_keeps_its_names():
    """16-bit models are saved as they were loaded: bit for bit."""
    model = gpt().to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantize.shrink(model, None, "cpu")
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(after[name].dtype == torch.bfloat16 and after[name].equal(before[name]) for name in before)


def test_gradients_flow_through_sixteen_bits():
    model = gpt().to(torch.bfloat16)
    quantize.shrink(model, None, "cpu")
    ids = torch.arange(10)[None]
    _, loss = model(ids, targets=ids + 1)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# --- Bark ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    dict(dtype="float16"), dict(dtype="bfloat16"), dict(quantize="int8"), dict(quantize="int4"),
    dict(quantize="int8", dtype="bfloat16"),
], ids=str)  # fmt: skip
def test_generate(options, native):
    bark = Bark.from_pretrained(native, device="cpu", **options)
    clips = [bark.generate("Hello", seed=1, config=SHORT) for _ in range(2)]
    assert clips[0].codes.tolist() == clips[1].codes.tolist()
    assert clips[0].codes.shape == (8, 45)
    assert not isinstance(bark.codec.decoder[0], nn.Linear)
    assert {p.dtype for p in bark.codec.parameters()} == {torch.float32}
    if "quantize" in options:
        with pytest.raises(ValueError, match="quantized weights cannot be saved"):
            bark.save_pretrained(native.parent / "quantized")


def test_int8_is_a_quarter():
    config = BarkConfig.tiny()
    plain, small = (Bark.from_config(config, quantize=q, device="cpu") for q in (None, "int8"))

    def size(model):
        return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))

    for name in ("semantic", "coarse", "fine"):
        assert size(getattr(small, name)) < (0.36 if name != "fine" else 0.5) * size(getattr(plain, name))


@pytest.mark.parametrize("given", ["int2", "INT8", 8, True, ""])
def test_bad_formats(given, native):
    with pytest.raises(ValueError, match="choose None or one of int8, int4"):
        Bark.from_pretrained(native, device="cpu", quantize=given)
    with pytest.raises(ValueError, match="choose None or one of int8, int4"):
        Bark.from_config(BarkConfig.tiny(), device="cpu", quantize=given)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_int8_on_cuda(dtype, native):
    plain, small = (
        Bark.from_pretrained(native, device="cuda", dtype=dtype, quantize=q) for q in (None, "int8")
    )
    ids = torch.arange(60, device="cuda")[None]
    with torch.no_grad():
        assert relative(small.semantic(ids)[0], plain.semantic(ids)[0].float()) < 0.05
    assert small.generate("Hello", seed=1, config=replace(SHORT)).codes.shape == (8, 45)


@pytest.mark.parametrize("make", [quantize.Linear8, quantize.Linear4])
def test_many_rows_as_integers(make):
    """Both factors are rounded: no row is further off than its own step allows, however large the others."""
    module, x = make(random(96, 64)), random(300, 64, seed=1)
    x[7] *= 1e4
    expanded = (
        module.weight * module.scale[:, None] if make is quantize.Linear8 else module.expanded().float()
    )
    with torch.no_grad():
        found, exact = module(x), x @ expanded.T
        assert torch.equal(found[:100], module(x[:100]))  # a row does not depend on others
    assert not torch.equal(found, exact)
    for row, wanted in zip(found, exact, strict=True):
        assert relative(row, wanted) < 0.02


def test_int8_activations_with_gradients():
    """Regression: many rows of the int8 fine model raised outside no_grad, where a part was written to."""
    linear, x = quantize.Linear8(random(64, 64)), random(600, 64, seed=1)
    found = linear(x.requires_grad_())
    found.sum().backward()
    assert x.grad.isfinite().all()
    with torch.no_grad():
        assert relative(found, linear(x)) < 0.02


@pytest.mark.parametrize("inputs", [1, 4, 8, 15, 17, 24, 40])
@pytest.mark.parametrize("rows", [1, 16, 17])
def test_widths_that_the_int8_kernels_cannot_take(inputs, rows):
    """Regression: they read 16 inputs at a time, past the end of the weights, and the process died."""
    weight, x = random(7, inputs), random(rows, inputs, seed=1)
    for module in (quantize.Linear8(weight), quantize.Head8(weight)):
        expected = x @ (module.weight.float() * module.scale[:, None]).t()
        torch.testing.assert_close(module(x), expected, atol=1e-4, rtol=1e-4)

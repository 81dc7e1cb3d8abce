"""Every model by itself; and what `trace` sees of it and `ablate` changes."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from barklite import Bark, BarkConfig, CompileConfig, GenerationConfig, SamplingConfig
from barklite.config import FineConfig, GPTConfig
from barklite.decode import engine
from barklite.inspect import ablate, attention_map, trace
from barklite.models.fine import FineGPT
from barklite.models.gpt import GPT, KVCache
from barklite.speed import compiled as compile
from barklite.speed import graphs
from tests import builders

D, H, L, V = 32, 4, 3, 97
SHORT = GenerationConfig(max_semantic_tokens=20)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.1 if ".ln_" in f".{name}" else 0.3, generator=random(len(name)))
            if ".ln_" in f".{name}" and name.endswith("weight"):
                parameter.add_(1)
    return model.eval()


def gpt() -> GPT:
    size = dict(n_layer=L, n_head=H, n_embd=D, block_size=64)
    return filled(GPT(GPTConfig(input_vocab_size=V, output_vocab_size=V, **size)))


def fine() -> FineGPT:
    return filled(FineGPT(FineConfig(n_layer=L, n_head=H, n_embd=D, vocab_size=V, block_size=64)))


def ids(B: int = 2, T: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, V, (B, T), generator=random(seed))


def codes(B: int = 2, T: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, V, (B, 8, T), generator=random(seed))


def forms(model) -> dict:
    """One call of each kind, as functions without arguments."""
    if isinstance(model, FineGPT):
        return {"fine": lambda: model(3, codes())[0], "rows": lambda: model(7, codes(), rows=slice(2, 6))[0]}

    @torch.no_grad()
    def cached():
        cache = KVCache(model.config, 2, 12)
        model(ids(), cache=cache)
        return model(ids(T=3, seed=1), cache=cache)[0]

    return {
        "all": lambda: model(ids())[0],
        "last": lambda: model(ids(), last=True)[0],
        "lone": lambda: model(ids(T=1))[0],
        "mask": lambda: model(ids(), mask=keeping())[0],
        "masked last": lambda: model(ids(), mask=keeping(), last=True)[0],
        "cached": cached,
    }


def keeping() -> torch.Tensor:
    """A mask that hides position 4 of the second row."""
    mask = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    mask[1, ..., 4] = False
    return mask


def close(ours, theirs, tolerance=2e-5):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


# --- every model by itself ----------------------------------------------------------------------------------


def by_hand(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Cross entropy, one position after the other."""
    losses = []
    for row, wanted in zip(logits.flatten(0, -2).tolist(), targets.flatten().tolist(), strict=True):
        if wanted != -100:
            losses.append(np.log(np.exp(row).sum()) - row[wanted])
    return float(np.mean(losses))


def test_loss():
    """Of all positions with a target; in any form of input."""
    model, given, targets = gpt(), ids(), ids(seed=1)
    targets[0, 3], targets[1, :5] = -100, -100
    logits, loss = model(given, targets=targets)
    assert logits.shape == (2, 9, V)
    assert loss.item() == pytest.approx(by_hand(logits, targets), abs=1e-5)
    assert model(given)[1] is None
    for options in (
        dict(embeds=model.wte(given)),
        dict(ids=given, positions=torch.arange(9)),
        dict(ids=given, mask=torch.ones(9, 9, dtype=torch.bool)),
    ):
        assert model(**options, targets=targets)[1].item() == pytest.approx(loss.item(), abs=1e-5)
    last, of_last = model(given, targets=targets[:, -1:], last=True)
    assert of_last.item() == pytest.approx(by_hand(last, targets[:, -1:]), abs=1e-5)
    shifted = model(given, positions=torch.arange(9) + 5, targets=targets)[1]
    assert abs(shifted.item() - loss.item()) > 1e-3


@pytest.mark.parametrize("codebook", [1, 4, 7])
def test_loss_of_a_codebook(codebook):
    model, given, targets = fine(), codes(), ids(seed=1)
    targets[0, 3] = -100
    logits, loss = model(codebook, given, targets=targets)
    assert loss.item() == pytest.approx(by_hand(logits, targets), abs=1e-5)
    again = model(codebook, embeds=model.embed(codebook, given), positions=torch.arange(9), targets=targets)
    assert torch.equal(again[1], loss)
    some, of_some = model(codebook, given, targets=targets, rows=slice(2, 5))
    assert of_some.item() == pytest.approx(by_hand(some, targets[:, 2:5]), abs=1e-5)
    close(some, logits[:, 2:5], 1e-5)
    assert not torch.equal(model(codebook % 7 + 1, given, targets=targets)[1], loss)


def test_gradients_reach_what_was_used():
    model = gpt()
    model(ids(), targets=ids(seed=1))[1].backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in model.parameters())
    model = gpt()
    embeds = torch.randn(2, 9, D, generator=random(), requires_grad=True)
    logits, _ = model(embeds=embeds)
    logits[:, 5].sum().backward()
    assert embeds.grad[:, :6].abs().sum(-1).all()
    assert not embeds.grad[:, 6:].any()  # causal
    assert model.wte.weight.grad is None

    model = fine()
    model(3, codes(), targets=ids(seed=1))[1].backward()
    unused = {f"wtes.{k}.weight" for k in range(4, 8)}
    assert {name for name, p in model.named_parameters() if p.grad is None} == unused
    assert all(float(p.grad.abs().sum()) > 0 for p in model.parameters() if p.grad is not None)
    embeds = torch.randn(2, 9, D, generator=random(), requires_grad=True)
    mask = torch.ones(9, 9, dtype=torch.bool)
    mask[:, 8] = False
    model(2, embeds=embeds, mask=mask)[0][:, :8].sum().backward()
    assert embeds.grad[:, :8].abs().sum(-1).all()
    assert not embeds.grad[:, 8].any()


def test_gradients_with_a_cache():
    """They reach all that this call computed; what an earlier one left in the cache is given."""
    model, targets = gpt(), ids(seed=1)
    cache = KVCache(model.config, 2, 12)
    losses = [model(ids()[:, :6], cache=cache, targets=targets[:, :6])[1]]
    losses.append(model(ids()[:, 6:], cache=cache, targets=targets[:, 6:])[1])
    whole = model(ids(), targets=targets)[1]
    assert (2 * losses[0] + losses[1]).item() == pytest.approx(3 * whole.item(), abs=1e-4)
    assert not cache.keys.requires_grad
    for loss in losses:
        model.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("make, given", [(gpt, (ids(),)), (fine, (5, codes()))], ids=["gpt", "fine"])
def test_a_few_steps_lower_the_loss(make, given):
    model, targets, losses = make(), ids(seed=1), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(5):
        loss = model(*given, targets=targets)[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.05


def test_generation_makes_no_graph():
    config = BarkConfig.tiny()
    config = replace(config, codec=replace(config.codec, encoder=True))
    bark = Bark.from_config(config, device="cpu")
    assert all(p.requires_grad for p in (*bark.semantic.parameters(), *bark.codec.parameters()))
    semantic = bark.text_to_semantic(["Hello"], seeds=[1], config=SHORT)
    coarse = bark.semantic_to_coarse(semantic, seeds=[1])
    full = bark.coarse_to_fine(coarse, seeds=[1])
    audio = bark.decode(full)
    for made in (*semantic, *coarse, *full, *audio, bark.encode(audio[0])):
        assert not made.requires_grad
        assert made.grad_fn is None
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in bark.semantic.parameters())
    assert bark.codec.decode(full[0][None]).requires_grad  # the module itself does


# --- trace: the oracle --------------------------------------------------------------------------------------


def oracle(model):
    """transformers' model with the same weights."""
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    size = dict(num_layers=L, num_heads=H, hidden_size=D, bias=False, block_size=64, dropout=0.0)
    size |= dict(input_vocab_size=V, output_vocab_size=V)
    names, state = dict(builders.HUGGINGFACE), {}
    for key, tensor in model.state_dict().items():
        state[".".join(names.get(part, part) for part in key.split("."))] = tensor.clone()
    if isinstance(model, FineGPT):
        config = transformers.BarkFineConfig(n_codes_total=8, n_codes_given=1, **size)
        theirs = transformers.BarkFineModel(config)
        tables = {f"lm_heads.{k}.weight": state[f"input_embeds_layers.{k + 1}.weight"] for k in range(7)}
        state |= tables
    else:
        theirs = transformers.BarkSemanticModel(transformers.BarkSemanticConfig(**size))
    unknown = theirs.load_state_dict(state, strict=False)
    assert not unknown.unexpected_keys
    assert all(key.endswith("attn.bias") for key in unknown.missing_keys)
    return theirs.eval()


def same_as_theirs(call, theirs, rows=slice(None), tolerance=2e-5):
    assert (len(call.hidden_states), len(call.attentions), len(call.heads)) == (L + 1, L, L)
    for ours, expected in zip(call.hidden_states, theirs.hidden_states, strict=True):
        close(ours[:, rows], expected[:, rows], tolerance)
    for ours, expected in zip(call.attentions, theirs.attentions, strict=True):
        close(ours[:, :, rows], expected[:, :, rows], tolerance)
    close(call.logits[:, rows], theirs.logits[:, rows], tolerance)


BOTH = dict(output_hidden_states=True, output_attentions=True)


@torch.no_grad()
def test_trace_equals_transformers():
    model = gpt()
    theirs = oracle(model)
    with trace(model) as t:
        model(ids())
        model(ids(), mask=keeping())
        model(embeds=model.wte(ids()), positions=torch.arange(9) + 7)
        cache = KVCache(model.config, 2, 9)
        model(ids()[:, :6], cache=cache)
        model(ids()[:, 6:], cache=cache)
    same_as_theirs(t.calls[0], theirs(input_ids=ids(), **BOTH))
    masked = theirs(input_ids=ids(), attention_mask=keeping()[:, 0, 0].long(), **BOTH)
    same_as_theirs(t.calls[1], masked)
    positions = (torch.arange(9) + 7)[None].expand(2, -1)
    same_as_theirs(t.calls[2], theirs(input_ids=ids(), position_ids=positions, **BOTH))
    first = theirs(input_ids=ids()[:, :6], use_cache=True, **BOTH)
    same_as_theirs(t.calls[3], first)
    same_as_theirs(t.last, theirs(input_ids=ids()[:, 6:], past_key_values=first.past_key_values, **BOTH))
    assert t.attentions[0].shape == (2, H, 3, 9)


@torch.no_grad()
def test_trace_of_fine_equals_transformers():
    model = fine()
    theirs = oracle(model)
    with trace(model) as t:
        model(4, codes())
    same_as_theirs(t.last, theirs(4, input_ids=codes().transpose(1, 2), **BOTH))


# --- trace: by itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [gpt, fine])
def test_what_is_traced_fits_together(make):
    """Heads are attention times values, and through `c_proj` the attention's output; logits come back."""
    model = make()
    untraced = {name: form() for name, form in forms(model).items()}
    with torch.no_grad():
        for name, form in forms(model).items():
            expected = form()
            with trace(model), trace(model) as t:
                assert torch.equal(form(), expected), name
    given: list[list] = [[], []]  # what attention takes and gives

    def watch(module, x, y) -> None:
        given[0].append(x[0]), given[1].append(y)

    for block in model.h:
        block.attn.register_forward_hook(watch)
    for name, form in forms(model).items():
        with trace(model) as t:
            given[0].clear(), given[1].clear()
            logits = form()
        call, S = t.last, t.attentions[0].shape[-1]
        assert call.logits is logits
        close(logits, untraced[name], 1e-5)
        assert (t.hidden_states, t.heads, t.logits) == (call.hidden_states, call.heads, logits)
        for i, block in enumerate(model.h):
            weights, heads = call.attentions[i], call.heads[i]
            assert weights.shape[-1] == S
            close(weights.sum(-1), torch.ones(weights.shape[:-1]), 1e-6)
            joined = rearrange(heads, "B H T d -> B T (H d)")
            close(block.attn.c_proj(joined), given[1][i - L], 1e-6)
            T = call.hidden_states[i].shape[1]
            close(block.ln_1(call.hidden_states[i]), given[0][i - L], 1e-6)
            v = rearrange(block.attn.c_attn(given[0][i - L])[..., 2 * D :], "B T (H d) -> B H T d", H=H)
            if T == S:  # the others' values are in the cache
                close(weights @ v, heads, 1e-5)
        if make is gpt and name == "all":
            assert not t.attentions[0].triu(1).any()
        if name == "mask":
            assert not t.attentions[1][1, :, 5:, 4].any()
            assert t.attentions[1][0, :, 5:, 4].all()


def test_the_last_layer_of_last_positions():
    model = gpt()
    with trace(model) as t:
        model(ids(), last=True)
        model(ids())
    last, whole = t.calls
    assert [x.shape[1] for x in last.hidden_states] == [9] * L + [1]
    assert [x.shape[2] for x in last.attentions] == [x.shape[2] for x in last.heads] == [9] * (L - 1) + [1]
    close(last.attentions[-1], whole.attentions[-1][:, :, -1:], 1e-6)
    close(last.heads[-1], whole.heads[-1][:, :, -1:], 1e-5)
    close(last.hidden_states[-1], whole.hidden_states[-1][:, -1:], 1e-5)


def test_gradients_reach_what_was_traced():
    """Also in both of two traces, and what was traced is what was computed with."""
    model = gpt()
    with trace(model) as t, trace(model) as other, ablate(model, {0: []}):
        loss = model(ids(), targets=ids(seed=1))[1]
    for call in (t.last, other.last):
        seen = [*call.hidden_states, *call.attentions, *call.heads, call.logits]
        assert all(g.any() for g in torch.autograd.grad(loss, seen, retain_graph=True))
    with_trace = torch.autograd.grad(loss, model.h[0].attn.c_attn.weight)[0]
    loss = model(ids(), targets=ids(seed=1))[1]
    close(torch.autograd.grad(loss, model.h[0].attn.c_attn.weight)[0], with_trace, 1e-6)


def test_calls_and_keep():
    model = gpt()
    with trace(model) as every, trace(model, keep=2) as some, trace(model, keep=np.int64(1)) as one:
        with pytest.raises(ValueError, match="has not been called yet"):
            _ = every.attentions
        for T in (3, 4, 5):
            model(ids(T=T))
    assert [call.logits.shape[1] for call in every.calls] == [3, 4, 5]
    assert [call.logits.shape[1] for call in some.calls] == [4, 5]
    assert [call.attentions[2].shape[-1] for call in one.calls] == [5]
    model(ids())
    assert len(every.calls) == 3


@pytest.mark.parametrize("gradients", [True, False])
def test_traces_within_traces(gradients):
    model = gpt()
    with torch.set_grad_enabled(gradients), trace(model) as outer:
        model(ids(T=3))
        with trace(model) as inner:
            model(ids(T=4))
        model(ids(T=5))
    assert [call.logits.shape[1] for call in outer.calls] == [3, 4, 5]
    assert [len(call.attentions) for call in outer.calls] == [L] * 3
    assert [len(call.heads) for call in outer.calls] == [L] * 3
    (within,) = inner.calls
    for name in ("hidden_states", "attentions", "heads"):
        pairs = zip(getattr(within, name), getattr(outer.calls[1], name), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert clean(model)


def test_blocks_by_themselves_are_no_calls():
    model = gpt()
    x = torch.randn(1, 5, D, generator=random())
    with trace(model) as t:
        close(model.h[1](x, causal=True), untouched(model).h[1](x, causal=True), 1e-5)
        model.ln_f(x)
        assert t.calls == []
        model(ids())
        model.h[1](x, causal=True)
    (call,) = t.calls
    assert (len(call.hidden_states), len(call.attentions), len(call.heads)) == (L + 1, L, L)


def untouched(model):
    other = type(model)(model.config)
    other.load_state_dict(model.state_dict())
    return other


def clean(model) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return not any("attend" in m.__dict__ or any(getattr(m, kind) for kind in kinds) for m in model.modules())


@pytest.mark.parametrize("make", [gpt, fine])
def test_afterwards_all_is_as_before(make):
    model = make()
    before = {name: form() for name, form in forms(model).items()}
    attributes = [list(m.__dict__) for m in model.modules()]
    with trace(model), ablate(model, {0: [1], 2: range(H)}):
        assert not clean(model)
        for form in forms(model).values():
            form()
    with pytest.raises(KeyError), trace(model), ablate(model, {1: [0]}):
        raise KeyError
    assert clean(model)
    assert [list(m.__dict__) for m in model.modules()] == attributes
    assert all(torch.equal(form(), before[name]) for name, form in forms(model).items())


def test_an_error_within_a_call():
    """A call that failed is none, and leaves nothing in the next."""
    model = gpt()
    with trace(model) as t:
        broken = model.h[1].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(ids())
        broken.remove()
        model(ids())
    (call,) = t.calls
    assert (len(call.hidden_states), len(call.attentions), len(call.heads)) == (L + 1, L, L)
    assert clean(model)


def test_an_attribute_of_the_users_comes_back():
    model = gpt()

    def mine(q, k, v, mask, causal):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    model.h[1].attn.attend = mine
    with trace(model) as t:
        model(ids())
    assert model.h[1].attn.attend is mine
    assert len(t.attentions) == L


@torch.no_grad()
def test_nothing_is_compiled_anew():
    """A compiled model is compiled as often as without a trace, also when one has come and gone."""
    torch._dynamo.reset()
    model, graphs_made = gpt(), []

    def backend(graph, example):
        graphs_made.append(graph)
        return graph.forward

    fast = torch.compile(model, backend=backend, dynamic=False)
    before = fast(ids())[0]
    made = len(graphs_made)
    assert made > 0
    with trace(model):
        model(ids())
    with ablate(model, {0: [1]}):
        model(ids())
    assert torch.equal(fast(ids())[0], before)
    assert len(graphs_made) == made
    with trace(model) as t:  # and within, what is compiled is traced, too
        fast(ids())
    assert len(t.attentions) == L
    made = len(graphs_made)
    assert torch.equal(fast(ids())[0], before)
    assert len(graphs_made) == made
    with pytest.raises(ValueError, match="OptimizedModule is not one of Bark's token models"), trace(fast):
        pass
    torch._dynamo.reset()


SMALL = [dict(dtype="float16"), dict(dtype="bfloat16"), dict(quantize="int8")]


@pytest.mark.parametrize("options", SMALL, ids=str)
def test_small_weights(options):
    """Regression: from 128 positions on they attend in bfloat16, and a trace changed the tokens."""
    bark = Bark.from_config(BarkConfig.tiny(), seed=3, device="cpu", **options)
    given = torch.randint(0, 10_000, (1, 150), generator=random())
    several = torch.randint(0, 1024, (1, 8, 150), generator=random())
    calls = {bark.semantic: lambda: bark.semantic(given)[0], bark.fine: lambda: bark.fine(5, several)[0]}
    for model, call in calls.items():
        for gradients in (True, False) if "dtype" in options else (False,):
            with torch.set_grad_enabled(gradients):
                plain = call()
                with trace(model), trace(model) as t:
                    traced = call()
                close(traced, plain, 0.05 if gradients else 0)  # there last digits change what is rounded
                assert [tuple(x.shape) for x in t.attentions] == [(1, 2, 150, 150)] * 2
                assert {x.dtype for x in (*t.hidden_states, *t.attentions, *t.heads)} == {torch.float32}
                with ablate(model, {1: [0]}):
                    assert (call() - plain).abs().max() > 1e-3
                assert torch.equal(call(), plain)
    clip = bark.generate("Hello", seed=1, config=SHORT)
    with trace(bark.semantic, 1), trace(bark.coarse, 1), trace(bark.fine, 1):
        assert bark.generate("Hello", seed=1, config=SHORT).codes.tolist() == clip.codes.tolist()
    with ablate(bark.semantic, {0: [0, 1], 1: [0, 1]}):
        assert bark.generate("Hello", seed=1, config=SHORT).semantic.tolist() != clip.semantic.tolist()


@pytest.mark.parametrize("case", ["plain", "causal", "bool", "float", "row of nothing"])
def test_attention_map(case):
    q, k, v = (torch.randn(2, H, 5, 8, generator=random(i)) for i in range(3))
    mask = {
        "bool": torch.rand(2, 1, 5, 5, generator=random(3)) < 0.7,
        "float": torch.randn(2, 1, 5, 5, generator=random(3)),
        "row of nothing": torch.ones(5, 5, dtype=torch.bool).tril(-1),
    }.get(case)
    if case == "bool":
        mask |= torch.eye(5, dtype=torch.bool)
    causal = case == "causal"
    p = attention_map(q, k, mask, causal)
    close(p @ v, F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal), 1e-5)
    assert bool(p[..., 0, :].any()) == (case != "row of nothing")
    if causal:
        close(attention_map(q[:, :, -2:], k, None, True), p[:, :, -2:], 1e-6)
    exact = attention_map(q.bfloat16(), k.bfloat16(), mask, causal)
    close(exact, attention_map(q.bfloat16().float(), k.bfloat16().float(), mask, causal), 1e-6)
    assert attention_map(q.half() * 200, k.half() * 200, mask, causal).isfinite().all()


@pytest.mark.parametrize("keep", [0, -1, 1.5, "2", True])
def test_bad_keep(keep):
    with (
        pytest.raises(ValueError, match=r"keep is .*; it must be a whole number of at least 1"),
        trace(gpt(), keep),
    ):
        pass


# --- ablate -------------------------------------------------------------------------------------------------

ABLATED = [
    {1: [2]},
    {0: [0, 3], 2: [1]},
    {layer: range(H) for layer in range(L)},
    {np.int64(1): [np.int64(2)], 2: []},
    {1: (2, 2)},
]


def without_columns(model, heads: dict):
    """A copy whose `c_proj` reads nothing of these heads."""
    other, d = copy.deepcopy(model), D // H
    with torch.no_grad():
        for layer, off in heads.items():
            for head in off:
                other.h[layer].attn.c_proj.weight[:, head * d : (head + 1) * d] = 0
    return other


@pytest.mark.parametrize("heads", ABLATED, ids=str)
@pytest.mark.parametrize("make", [gpt, fine])
def test_ablate_is_zero_columns(make, heads):
    model = make()
    plain, cut = forms(model), forms(without_columns(model, heads))
    for name, form in plain.items():
        whole, expected = form(), cut[name]()
        with ablate(model, heads):
            found = form()
        close(found, expected, 1e-5)
        assert (found - whole).abs().max() > 0.01
        assert torch.equal(form(), whole)


def test_ablate_within_ablate():
    model = gpt()
    whole = model(ids())[0]
    with ablate(model, {0: [1]}):
        one = model(ids())[0]
        with ablate(model, {0: [2], 1: [0]}):
            close(model(ids())[0], without_columns(model, {0: [1, 2], 1: [0]})(ids())[0], 1e-5)
        assert torch.equal(model(ids())[0], one)
    assert torch.equal(model(ids())[0], whole)


@pytest.mark.parametrize("outer", ["trace", "ablate"])
def test_a_trace_sees_heads_that_are_off(outer):
    model = gpt()
    if outer == "trace":
        with trace(model) as t, ablate(model, {1: [2]}):
            model(ids())
    else:
        with ablate(model, {1: [2]}), trace(model) as t:
            model(ids())
    assert [not head.any() for head in t.heads[1].unbind(1)] == [False, False, True, False]
    assert t.heads[0].any(-1).all()


def test_gradients_flow_around_heads_that_are_off():
    model = gpt()
    with ablate(model, {1: [2]}):
        model(ids(), targets=ids(seed=1))[1].backward()
    grad, d = model.h[1].attn.c_proj.weight.grad, D // H
    assert not grad[:, 2 * d : 3 * d].any()
    assert grad[:, : 2 * d].any(-1).all()


@pytest.mark.parametrize("heads, message", [
    ({3: [0]}, "layer 3 does not exist: this model has layers 0 to 2"),
    ({-1: [0]}, "layer -1 does not exist"), ({"0": [0]}, "layer '0' does not exist"),
    ({0: [4]}, "head 4 does not exist: this model has heads 0 to 3"),
    ({0: [0, -1]}, "head -1 does not exist"), ({0: [1.0]}, "head 1.0 does not exist"),
    ({0: [True]}, "head True does not exist"), ({0: 1}, r"heads\[0\] must be a list of heads, not 1"),
    ({0: "01"}, r"heads\[0\] must be a list"), ([0, 1], "heads must map layers to lists"),
    (None, "heads must map layers"),
])  # fmt: skip
def test_bad_heads(heads, message):
    model = gpt()
    with pytest.raises(ValueError, match=message), ablate(model, heads):
        pass
    assert clean(model)


@pytest.mark.parametrize("model", [None, torch.nn.Linear(2, 2), "semantic"], ids=str)
def test_only_token_models(model):
    for block in (lambda: trace(model), lambda: ablate(model, {0: [0]})):
        with pytest.raises(ValueError, match=r"not one of Bark's token models: give bark\.semantic"), block():
            pass


# --- in generation, also with other engines -----------------------------------------------------------------

VOICE = builders.voice("someone")
HALF = GenerationConfig(max_semantic_tokens=25, fine=SamplingConfig(0))


def counted(method, called: list):
    def counting(model, *given):
        called.append(model)
        return method(model, *given)

    return counting


def other_engine(kind: str, tiny, monkeypatch):
    """A Bark of `tiny`'s models with an engine that is not the plain one, uncompiled; and its calls."""
    models = {name: getattr(tiny, name) for name in ("semantic", "coarse", "fine", "codec")}
    bark, called = Bark(tiny.config, tiny.tokenizer, models), []
    if kind == "graphs":
        models, plain = [tiny.semantic, tiny.coarse], CompileConfig(backend=None)
        made = graphs.StepEngine(models, torch.device("cpu"), plain)
        names = ("decode", "fine_logits", "synthesize")
    else:
        monkeypatch.setattr(compile.CompiledCPUEngine, "_compiled", lambda self, module, *_: module)
        made = compile.CompiledCPUEngine([tiny.semantic, tiny.coarse])
        names = ("decode",)
    for name in names:
        monkeypatch.setattr(made, name, counted(getattr(made, name), called))
    bark.engine = made
    return bark, called


@pytest.mark.parametrize("kind", ["graphs", "compiled steps"])
def test_every_engine_honours_hooks(kind, tiny, monkeypatch):
    bark, called = other_engine(kind, tiny, monkeypatch)

    def spoken(which):
        called.clear()
        clip = which.generate("Hello", VOICE, 1, HALF)
        return clip.semantic.tolist(), clip.codes.tolist()

    whole = spoken(tiny)
    assert not called
    assert spoken(bark) == whole
    before = set(called)
    assert {tiny.semantic, tiny.coarse} <= before

    every = {0: [0, 1], 1: [0, 1]}
    for name in ("semantic", "coarse", "fine"):
        model = getattr(tiny, name)
        with ablate(model, every):
            expected = spoken(tiny)
            assert expected != whole
            assert (expected[0] == whole[0]) == (name != "semantic")
            assert spoken(bark) == expected
            assert set(called) == before - {model}
        with model.h[1].register_forward_hook(lambda module, given, result: result.flip(-1)):
            expected = spoken(tiny)
            assert expected != whole
            assert spoken(bark) == expected
        with trace(model) as t:
            assert spoken(bark) == whole
        assert t.calls
    with tiny.codec.decoder[0].register_forward_hook(lambda *_: None):
        spoken(bark)
        assert tiny.codec not in called
    assert spoken(bark) == whole
    assert set(called) == before
    assert engine.engine_of(tiny.semantic, bark.engine) is bark.engine


def test_a_generation_is_traced_step_by_step(tiny):
    clip = tiny.generate("Hello", VOICE, 1, SHORT)
    with trace(tiny.semantic) as semantic, trace(tiny.coarse, keep=1) as coarse, trace(tiny.fine) as fine:
        assert tiny.generate("Hello", VOICE, 1, SHORT).codes.tolist() == clip.codes.tolist()
    lengths = [call.attentions[0].shape[-1] for call in semantic.calls]
    assert lengths == [256, *range(257, 257 + 20)]  # the prompt, then step by step
    assert len(coarse.calls) == 1
    assert len(fine.calls) == 6
    last = semantic.last.logits[0, -1].softmax(-1)[-1]
    assert last.item() < 1
    assert clip.eos_p.shape == (20,)

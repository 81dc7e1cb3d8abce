"""`barklite.compat`'s models against transformers itself, on one random checkpoint."""

import copy
import inspect
import json
import shutil
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import barklite
from barklite import GenerationConfig, Voice, compat
from barklite.compat import (
    BarkCausalModel,
    BarkCoarseModel,
    BarkFineModel,
    BarkModel,
    BarkProcessor,
    BarkSemanticModel,
    DynamicCache,
)
from barklite.decode.sampling import generator
from barklite.storage import checkpoint
from barklite.text.tokenizer import WordPiece
from tests import builders
from weights_convert import huggingface

transformers = pytest.importorskip("transformers", reason="the oracle, transformers, is not installed")
theirs_generation = pytest.importorskip("transformers.models.bark.generation_configuration_bark")

TEXT = "Hello world, hell [laughs]!"
VOICE = builders.voice("someone", n=120, seed=5)
PARTS = ("semantic", "coarse_acoustics", "fine_acoustics")
CAUSAL = PARTS[:2]
SECTIONS = tuple(f"{part}_config" for part in PARTS)
N = 24  # semantic tokens, where the number does not matter: two coarse windows
SHORT = dict(semantic_max_new_tokens=N)
B, T = 2, 12
# The name of a cache among the arguments of transformers' forward.
CACHE = (
    "cache"
    if "cache" in inspect.signature(transformers.BarkSemanticModel.forward).parameters
    else "past_key_values"
)


@pytest.fixture(scope="module")
def oracle():
    model = builders.oracle()
    model.generation_config = theirs_generation.BarkGenerationConfig()
    settings(model, {})
    return model


def settings(model, changes: dict) -> None:
    """The published generation settings, and changes to them, as plain dicts."""
    for section in SECTIONS:
        stage = builders.generation_config()[section]
        setattr(model.generation_config, section, {**stage, **changes.get(section, {})})


@pytest.fixture(scope="module")
def directory(oracle, tmp_path_factory):
    """The oracle's weights in the files of suno/bark-small."""
    path = tmp_path_factory.mktemp("huggingface")
    torch.save(oracle.state_dict(), path / "pytorch_model.bin")
    (path / "config.json").write_text(oracle.config.to_json_string(use_diff=False))
    (path / "generation_config.json").write_text(json.dumps(builders.generation_config()))
    (path / "vocab.txt").write_text("\n".join(builders.vocabulary()) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(directory):
    """Not to be changed by a test."""
    return BarkModel.from_pretrained(directory)


@pytest.fixture(scope="module")
def inputs():
    return dict(BarkProcessor(WordPiece(builders.vocabulary()))(TEXT))


def history(voice: Voice) -> dict:
    return {
        "semantic_prompt": torch.from_numpy(voice.semantic.copy()),
        "coarse_prompt": torch.from_numpy(voice.coarse.copy()),
        "fine_prompt": torch.from_numpy(voice.fine.copy()),
    }


def close(ours, theirs, tolerance=2e-5, where=None):
    """where: bool, of the leading axes: the entries to be compared."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    if where is not None:
        ours, theirs = ours[where], theirs[where]
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def compare(ours, theirs, valid=None):
    """All that two forwards gave; valid: positions (B, T) that may attend to something."""
    close(ours.logits, theirs.logits, where=valid)
    for name in ("hidden_states", "attentions"):
        assert (getattr(ours, name) is None) == (getattr(theirs, name) is None)
        pairs = zip(getattr(ours, name) or (), getattr(theirs, name) or (), strict=True)
        for one, other in pairs:
            if name == "attentions":
                one, other = one.transpose(1, 2), other.transpose(1, 2)  # (B, T, H, S)
            close(one, other, where=valid)


def same_cache(ours, theirs):
    assert ours.get_seq_length() == theirs.get_seq_length()
    for (keys, values), layer in zip(ours, theirs.layers, strict=True):
        close(keys, layer.keys)
        close(values, layer.values)


def today(output) -> list[str]:
    """The names of an output's results; before transformers 5.24 the cache's was another."""
    return ["cache" if name == "past_key_values" else name for name in output.keys()]  # noqa: SIM118


def random_ids(part, *shape, seed=0):
    return torch.randint(0, 1025 if part == "fine_acoustics" else 12_000, shape, generator=generator(seed))


def additive(allowed):
    """A mask of four dimensions, as transformers adds it to the scores."""
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


# --- forward ------------------------------------------------------------------------------------------------


def masks():
    """Each (B, S) of bool: what may be attended to."""
    yield "ones", torch.ones(B, T, dtype=torch.bool)
    for name, gone in (("right", slice(-4, None)), ("left", slice(0, 4)), ("holes", [0, 1, 5, 8])):
        keep = torch.ones(B, T, dtype=torch.bool)
        keep[1, gone] = False
        yield name, keep


def forwards():
    """Arguments for ours, for theirs, and the positions to be compared."""
    yield "plain", {}, {}, None
    for name, keep in masks():
        valid = keep.cumsum(1) > 0
        for dtype in (torch.long, torch.bool):
            yield f"{name} {dtype}", dict(attention_mask=keep.to(dtype)), dict(attention_mask=keep), valid
        four = keep[:, None, None].expand(B, 1, T, T)
        yield f"{name} additive", *2 * (dict(attention_mask=additive(four)),), valid
        yield f"{name} 4-D", dict(attention_mask=four), dict(attention_mask=additive(four)), valid
    each = torch.rand(B, 2, T, T, generator=generator(1)) < 0.5  # another for each head
    each |= torch.eye(T, dtype=torch.bool)
    yield "by head", dict(attention_mask=each), dict(attention_mask=additive(each)), None
    for name, shape in (("one row", (1, T)), ("rows", (B, T))):
        ids = torch.randint(0, 1024, shape, generator=generator(2))
        yield f"positions, {name}", *2 * (dict(position_ids=ids),), None


FORWARDS = {name: rest for name, *rest in forwards()}


@torch.no_grad()
@pytest.mark.parametrize("part", CAUSAL)
@pytest.mark.parametrize("case", FORWARDS)
def test_causal_forward(model, oracle, part, case):
    ours, theirs = getattr(model, part), getattr(oracle, part)
    own, other, valid = FORWARDS[case]
    ids, reports = random_ids(part, B, T), dict(output_attentions=True, output_hidden_states=True)
    expected = theirs(ids, **other, **reports)
    made = ours(input_ids=ids, **own, **reports)
    compare(made, expected, valid)
    if valid is None:
        same_cache(made.past_key_values, expected.past_key_values)
    plain = ours(ids, **own)  # by PyTorch's fused attention
    close(plain.logits, expected.logits, where=valid)
    assert plain.hidden_states is plain.attentions is None
    embeds = ours.get_input_embeddings()(ids)
    for name in ("inputs_embeds", "input_embeds"):
        close(ours(**{name: embeds}, **own, use_cache=False).logits, plain.logits, 0)


@torch.no_grad()
@pytest.mark.parametrize("codebook", range(1, 8))
def test_fine_forward(model, oracle, codebook):
    ours, theirs = model.fine_acoustics, oracle.fine_acoustics
    ids, reports = random_ids("fine_acoustics", B, T, 8), dict(output_attentions=True)
    reports["output_hidden_states"] = True
    cases = list(FORWARDS.values()) if codebook == 5 else [({}, {}, None)]
    for own, other, _ in cases:
        expected = theirs(codebook, ids, **other, **reports)
        compare(ours(codebook, input_ids=ids, **own, **reports), expected)
        close(ours(codebook, ids, **own).logits, expected.logits)
    embeds = sum(ours.input_embeds_layers[k](ids[..., k]) for k in range(codebook + 1))
    for name in ("inputs_embeds", "input_embeds"):
        expected = theirs(codebook, inputs_embeds=embeds).logits
        close(ours(codebook, **{name: embeds}).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("part", PARTS)
def test_reports_by_config_and_as_a_tuple(model, oracle, part):
    """What is given, and in which order, by argument and by configuration."""
    shape = (B, T, 8) if part == "fine_acoustics" else (B, T)
    args = (*([3] if len(shape) == 3 else []), random_ids(part, *shape))
    ours, theirs = copy.deepcopy(getattr(model, part)), copy.deepcopy(getattr(oracle, part))
    for attentions in (False, True):
        for states in (False, True):
            given = dict(output_attentions=attentions, output_hidden_states=states)
            for use_cache in (False, True):
                if part != "fine_acoustics":
                    given["use_cache"] = use_cache
                expected = theirs(*args, **given)
                made = ours(*args, **given)
                assert list(made.keys()) == today(expected) == list(made)
                for name in made:
                    assert made[name] is getattr(made, name)
                compare(made, expected)
                for m in (ours, theirs):
                    for name, value in given.items():
                        setattr(m.config, name, value)
                    m.config.return_dict = False
                compare(ours(*args, return_dict=True), expected)
                assert list(ours(*args, return_dict=True)) == today(expected)
                one, other = ours(*args), theirs(*args)
                assert type(one) is type(other) is tuple
                assert [type(x) is tuple for x in one] == [type(x) is tuple for x in other]
                assert len(one) == len(other) == len(made)
                close(one[0], other[0])
                for m in (ours, theirs):
                    for name in given:
                        setattr(m.config, name, getattr(getattr(model, part).config, name))
                    m.config.return_dict = True


def test_outputs_are_mappings(model):
    out = model.coarse_acoustics(torch.zeros(1, 3, dtype=torch.long), labels=torch.zeros(1, 3).long())
    assert list(out) == ["loss", "logits", "cache"] == list(out.keys())
    assert out.past_key_values is out["past_key_values"] is out.cache is out["cache"]
    assert "past_key_values" in out
    assert out[0] is out.loss is out["loss"] is out.to_tuple()[0]
    assert out[:2] == (out.loss, out.logits)
    assert dict(out.items()).keys() == dict(**out).keys() == set(out.keys())
    assert "loss" in out
    assert "attentions" not in out
    assert out.get("attentions", 5) == 5
    assert out.get("past_key_values") is out.cache
    assert out.get("logits") is out.logits
    assert len(out) == 3
    assert out.attentions is None
    assert "logits" in repr(out)
    with pytest.raises(KeyError, match="attentions"):
        _ = out["attentions"]
    with pytest.raises(AttributeError):
        _ = out.nothing


@torch.no_grad()
@pytest.mark.parametrize("part", CAUSAL)
@pytest.mark.parametrize("kind", ["ours", "legacy", "theirs", "ours there"])
def test_caches(model, oracle, part, kind):
    """In chunks; as our own cache, as transformers had it in tuples, as transformers' own, and ours there."""
    ours, theirs = getattr(model, part), getattr(oracle, part)
    ids = random_ids(part, B, 50)
    whole = theirs(ids).logits
    past, expected = None, None
    for start, chunk in zip((0, 30, 31, 32), ids.split([30, 1, 1, 18], dim=1), strict=True):
        there = theirs(chunk, **{CACHE: expected})
        expected = there.past_key_values
        if kind == "theirs" and past is None:
            past = transformers.DynamicCache()
        name = CACHE if kind == "ours there" or start else "past_key_values"  # ours takes both
        made = (theirs if kind == "ours there" else ours)(
            chunk, **{name: DynamicCache() if kind == "ours there" and past is None else past}
        )
        close(made.logits, there.logits)
        close(made.logits, whole[:, start : start + chunk.shape[1]])
        if past is not None and kind != "legacy":
            assert made.past_key_values is past  # grown in place, as transformers does
        past = made.past_key_values
        if kind == "theirs":
            assert past.get_seq_length() == expected.get_seq_length()
            for one, other in zip(past.layers, expected.layers, strict=True):
                close(one.keys, other.keys)
                close(one.values, other.values)
        else:
            same_cache(past, expected)
        if kind == "legacy":
            past = past.to_legacy_cache()
            assert type(past) is type(past[0]) is tuple
    if kind == "legacy":
        assert past[0][0].shape[2] == 50
        assert DynamicCache.from_legacy_cache(past).get_seq_length() == 50
        ours(ids[:, :1], past_key_values=past)
        assert past[0][0].shape[2] == 50  # not the caller's


@torch.no_grad()
@pytest.mark.parametrize("part", CAUSAL)
def test_caches_cropped_and_reordered(model, oracle, part):
    ours, theirs = getattr(model, part), getattr(oracle, part)
    ids, more = random_ids(part, B, 20), random_ids(part, B, 5, seed=1)
    made, there = ours(ids).past_key_values, theirs(ids).past_key_values
    made.crop(15)
    there.crop(-5)
    for cache in (made, there):
        cache.crop(-3)
        cache.reorder_cache(torch.tensor([1, 0]))
    same_cache(made, there)
    close(ours(more, past_key_values=made).logits, theirs(more, **{CACHE: there}).logits)
    same_cache(made, there)
    assert made.get_seq_length() == 17
    assert len(made) == 2
    assert made[1][0] is made.layers[1].keys
    assert DynamicCache().get_seq_length() == 0


@torch.no_grad()
def test_a_mask_beside_a_cache(model, oracle):
    """Of all positions, or of the new ones; transformers takes it in four dimensions only."""
    ids = random_ids("coarse_acoustics", B, T)
    keep = torch.ones(B, T, dtype=torch.bool)
    keep[1, 8:10] = False
    past = oracle.coarse_acoustics(ids[:, :7]).past_key_values
    four = additive(keep[:, None, None].expand(B, 1, T - 7, T))
    expected = oracle.coarse_acoustics(ids[:, 7:], **{CACHE: past}, attention_mask=four).logits
    for mask in (keep.long(), keep[:, 7:].long(), four):
        past = model.coarse_acoustics(ids[:, :7]).past_key_values
        close(model.coarse_acoustics(ids[:, 7:], past_key_values=past, attention_mask=mask).logits, expected)
    keep[1, :3] = False  # some that the cache holds
    four = additive(keep[:, None, None, :8].expand(B, 1, 1, 8))
    expected, made = (
        m.coarse_acoustics(
            ids[:, 7:8], attention_mask=mask, **{CACHE: m.coarse_acoustics(ids[:, :7]).past_key_values}
        ).logits
        for m, mask in ((oracle, four), (model, keep[:, :8]))
    )
    close(made, expected)


@torch.no_grad()
@pytest.mark.parametrize("part", PARTS)
def test_head_mask(model, oracle, part):
    """A head's factor is that of its columns of the output projection."""
    fine = part == "fine_acoustics"
    args = (4, random_ids(part, B, T, 8)) if fine else (random_ids(part, B, T),)
    ours, reports = getattr(model, part), dict(output_attentions=True, output_hidden_states=True)
    plain = getattr(oracle, part)(*args, **reports)
    for mask in (torch.tensor([0, 1]), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.ones(2, 1, 2, 1, 1)):
        factors = mask.reshape(-1, 2).float().expand(2, 2)
        theirs = copy.deepcopy(getattr(oracle, part))
        for layer, scale in zip(theirs.layers, factors, strict=True):
            layer.attn.out_proj.weight *= scale.repeat_interleave(8)
        expected = theirs(*args, **reports)
        made = ours(*args, head_mask=mask, **reports)
        close(made.logits, expected.logits)
        close(ours(*args, head_mask=mask).logits, expected.logits)
        for one, other in zip(made.hidden_states, expected.hidden_states, strict=True):
            close(one, other)
        for i, (one, other) in enumerate(zip(made.attentions, expected.attentions, strict=True)):
            close(one, other * factors[i, :, None, None])
    close(ours(*args).logits, plain.logits)  # nothing stays behind


@pytest.mark.parametrize("part", PARTS)
def test_gradients(model, oracle, part):
    fine = part == "fine_acoustics"
    args = (4, random_ids(part, B, T, 8)) if fine else (random_ids(part, B, T),)
    ours, theirs = copy.deepcopy(getattr(model, part)), copy.deepcopy(getattr(oracle, part))
    for m in (ours, theirs):
        out = m(*args, output_hidden_states=True)
        (out.logits.square().mean() + out.hidden_states[1].square().mean()).backward()
    mine = ours.state_dict(keep_vars=True)
    for name, parameter in theirs.named_parameters():
        if mine[name].grad is None:  # of a table that this codebook does not read
            assert not parameter.grad.any()
        else:
            close(mine[name].grad, parameter.grad)


def test_gradients_flow_through_a_cache(model, oracle):
    ids, grads = random_ids("coarse_acoustics", B, T), []
    for m in (copy.deepcopy(model.coarse_acoustics), copy.deepcopy(oracle.coarse_acoustics)):
        past = m(ids[:, :7]).past_key_values
        m(ids[:, 7:], **{CACHE: past}).logits.square().mean().backward()
        grads.append(m.get_input_embeddings().weight.grad)
    close(*grads)
    assert grads[0][ids[:, :7].flatten()].any(-1).all()


@torch.no_grad()
def test_a_position_that_sees_nothing_is_finite(model):
    mask = torch.ones(1, T).long()
    mask[:, :4] = 0
    out = model.coarse_acoustics(
        random_ids("c", 1, T), attention_mask=mask, output_attentions=True, output_hidden_states=True
    )
    assert out.logits.isfinite().all()
    assert float(out.attentions[0][0, :, :4].abs().max()) == 0
    close(model.coarse_acoustics(random_ids("c", 1, T), attention_mask=mask).logits, out.logits)


# --- models with biases, and new ones -----------------------------------------------------------------------

SMALL = dict(num_layers=2, num_heads=2, hidden_size=16, block_size=40, input_vocab_size=50)
KINDS = {
    "semantic": (BarkSemanticModel, "BarkSemantic", dict(output_vocab_size=30)),
    "coarse_acoustics": (BarkCoarseModel, "BarkCoarse", dict(output_vocab_size=30)),
    "fine_acoustics": (BarkFineModel, "BarkFine", dict(output_vocab_size=50, n_codes_total=5)),
}


def small(part, **changes):
    """(our class, our configuration, transformers' class, its configuration)."""
    kind, name, sizes = KINDS[part]
    given = {**SMALL, **sizes, **changes}
    config = getattr(compat, f"{name}Config")(**given)
    return (
        kind,
        config,
        getattr(transformers, f"{name}Model"),
        getattr(transformers, f"{name}Config")(**given),
    )


def small_args(part):
    ids = torch.randint(0, 30, (B, 9, *([5] if part == "fine_acoustics" else [])), generator=generator(0))
    return (2, ids) if part == "fine_acoustics" else (ids,)


@torch.no_grad()
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("bias", [True, False])
def test_small_models_both_ways(part, bias, tmp_path):
    """Sub models alone, with biases (the class's default) and without: state dicts and directories."""
    kind, config, other_kind, other_config = small(part, **({} if bias else {"bias": False}))
    torch.manual_seed(1)
    theirs = other_kind(other_config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.3)
    args, reports = small_args(part), dict(output_attentions=True, output_hidden_states=True)
    expected = theirs(*args, **reports)

    ours = kind(config)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(tensor.shape == theirs.state_dict()[key].shape for key, tensor in ours.state_dict().items())
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.num_parameters(exclude_embeddings=True) == theirs.num_parameters(exclude_embeddings=True)
    assert ours.num_parameters(only_trainable=True) == theirs.num_parameters()
    ours.requires_grad_(False)
    assert ours.num_parameters(only_trainable=True) == 0
    assert tuple(ours.load_state_dict(theirs.state_dict())) == ([], [])
    compare(ours(*args, **reports), expected)

    theirs.save_pretrained(tmp_path / "theirs")
    loaded = kind.from_pretrained(tmp_path / "theirs")
    compare(loaded(*args, **reports), expected)
    assert not loaded.training
    loaded.save_pretrained(tmp_path / "ours")
    back, report = other_kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    assert back.dtype == torch.float32
    compare(back(*args, **reports), expected)
    with pytest.raises(ValueError, match="model of type"):
        (BarkCoarseModel if part != "coarse_acoustics" else BarkFineModel).from_pretrained(tmp_path / "ours")


@pytest.mark.parametrize("part", PARTS)
def test_new_models(part):
    """By default as transformers initialises: normal weights, biases 0; and repeatable by the seed."""
    kind, config, *_ = small(part, initializer_range=0.5)
    torch.manual_seed(4)
    one, two = kind(config), kind(config)
    torch.manual_seed(4)
    again = kind(config)
    state = one.state_dict()
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in state.items())
    assert not torch.equal(one.position_embeds_layer.weight, two.position_embeds_layer.weight)
    for key, tensor in state.items():
        if "attn.bias" not in key and "layernorm" not in key:
            assert (
                float(tensor.std()) == pytest.approx(0.5, rel=0.15) if tensor.ndim > 1 else not tensor.any()
            )
    assert one(*small_args(part)).logits.isfinite().all()
    if part != "fine_acoustics":
        assert type(BarkCausalModel(config)(*small_args(part)).logits) is torch.Tensor


def test_a_new_whole_model():
    kinds = {f"{part}_config": small(part)[1] for part in PARTS}
    config = compat.BarkConfig(**kinds, codec_config=dict(num_filters=2, hidden_size=8))
    made = BarkModel(config)
    assert made.semantic.config is config.semantic_config
    assert made.coarse_acoustics(torch.zeros(1, 3).long()).logits.shape == (1, 3, 30)
    assert made.codec_decode(torch.zeros(1, 8, 3).long()).isfinite().all()
    assert made.generation_config == compat.BarkGenerationConfig()
    with pytest.raises(NotImplementedError, match="generate"):
        made(torch.zeros(1, 3).long())


# --- training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_labels(part):
    """A causal model's loss is of the next id, the fine model's of the same place; -100 does not count."""
    kind, config, other_kind, other_config = small(part)
    ours, args = kind(config), small_args(part)
    labels = torch.randint(0, 30, (B, 9), generator=generator(3))
    labels[0, 2:5] = labels[1, :3] = -100
    out = ours(*args, labels=labels)
    with pytest.raises(NotImplementedError):
        other_kind(other_config)(*args, labels=labels)
    shift = 0 if part == "fine_acoustics" else 1
    losses = [
        -out.logits[b, t - shift].log_softmax(-1)[labels[b, t]]
        for b in range(B)
        for t in range(shift, 9)
        if labels[b, t] >= 0
    ]
    close(out.loss, torch.stack(losses).mean(), 1e-5)
    assert ours(*args, labels=labels, return_dict=False)[0] == out.loss
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        ours(*args, labels=labels).loss.backward()
        optimizer.step()
    assert ours(*args, labels=labels).loss < 0.9 * out.loss
    sixteen = ours.bfloat16()(*args, labels=labels)
    assert (sixteen.logits.dtype, sixteen.loss.dtype) == (torch.bfloat16, torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("part", PARTS)
def test_dropout(part):
    """In training values are dropped, in the blocks and before them; else none is."""
    kind, config, other_kind, other_config = small(part, dropout=0.3)
    ours, args = kind(config), small_args(part)
    still = [ours.eval()(*args).logits for _ in range(2)]
    assert torch.equal(*still)
    torch.manual_seed(0)
    moving = [ours.train()(*args).logits for _ in range(2)]
    assert not torch.equal(*moving)
    theirs = other_kind(other_config).train()
    theirs.load_state_dict(ours.state_dict())
    made = []
    for m in (ours, theirs):  # where attention is spelled out, the same draws
        torch.manual_seed(7)
        made.append(m(*args, output_attentions=True))
    compare(*made)
    mean = torch.stack([ours(*args).logits for _ in range(300)]).mean(0)
    assert float((mean - still[0]).abs().mean()) < 0.5 * float((moving[0] - still[0]).abs().mean())


@torch.no_grad()
def test_two_codebooks_given():
    """Heads begin with the first codebook that is predicted."""
    kind, config, other_kind, other_config = small("fine_acoustics", n_codes_given=2)
    ours, theirs = kind(config), other_kind(other_config)
    ours.load_state_dict(theirs.state_dict())
    ids = small_args("fine_acoustics")[1]
    for k in (2, 4):
        close(ours(k, ids).logits, theirs(k, ids).logits)
    with pytest.raises(IndexError, match="give 2 to 4"):
        ours(1, ids)


# --- generation ---------------------------------------------------------------------------------------------


@contextmanager
def recorded(bark):
    """The tokens of the three stages of one `generate`."""
    made = {}

    def wrap(part, call):
        def generate(*args, **kwargs):
            result = call(*args, **kwargs)
            made[part] = (result[0] if isinstance(result, tuple) else result).clone()
            return result

        return generate

    for part in PARTS:
        getattr(bark, part).generate = wrap(part, getattr(bark, part).generate)
    try:
        yield made
    finally:
        for part in PARTS:
            del getattr(bark, part).generate


def run(bark, seed, *args, **kwargs):
    """Tokens of the stages, audio, and where the default generator is then."""
    torch.manual_seed(seed)
    with recorded(bark) as made:
        audio = bark.generate(*args, **kwargs)
    return [made[part] for part in PARTS], audio, torch.get_rng_state()


def same_run(ours, theirs):
    for one, other in zip(ours[0], theirs[0], strict=True):
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()
    close(ours[1], theirs[1], 1e-5 * float(theirs[1].abs().max()))
    assert torch.equal(ours[2], theirs[2])


GREEDY = dict(do_sample=False, fine_temperature=None)
GENERATIONS = {
    "greedy": (GREEDY, {}),
    "as published": ({}, {}),
    "voice": ({"history_prompt": history(VOICE)}, {}),
    "greedy voice": ({**GREEDY, "history_prompt": history(VOICE)}, {}),
    "no top_k": ({"top_k": None}, {}),
    "top_k 0": ({"top_k": 0}, {}),
    "top_k 1 is greedy": ({"top_k": 1, "fine_temperature": None}, {}),
    "top_p": ({"top_p": 0.5}, {}),
    "top_p 0 is greedy": ({"top_p": 0.0, "fine_temperature": None}, {}),
    "top_p 1": ({"top_p": 1.0, "top_k": 0}, {}),
    "temperature 1": ({"semantic_temperature": 1.0, "coarse_temperature": 1}, {}),
    "one temperature": ({"temperature": 0.9}, {}),
    "before the one": ({"fine_temperature": 0.3, "temperature": 0.9, "semantic_temperature": 1.1}, {}),
    "stages differ": ({"semantic_do_sample": False, "coarse_top_p": 0.7, "coarse_top_k": 7}, {}),
    "end": ({"min_eos_p": 7e-5, "semantic_max_new_tokens": 200}, {}),
    "never ends": ({"min_eos_p": 2.0}, {}),
    "first end wins": ({"min_eos_p": 0.9, "semantic_min_eos_p": 7e-5, "semantic_max_new_tokens": 200}, {}),
    "reports are dropped": ({"output_scores": True, "return_dict_in_generate": True, "use_cache": True}, {}),
    "end in the configuration is ignored": ({}, {"semantic_config": {"min_eos_p": 1e-5}}),
    "greedy configuration": (
        {},
        {
            "semantic_config": {"do_sample": False},
            "coarse_acoustics_config": {"do_sample": False},
            "fine_acoustics_config": {"temperature": 1.0},
        },
    ),
    "other settings": (
        {"history_prompt": history(VOICE)},
        {
            "semantic_config": {"max_new_tokens": 30, "temperature": 1.0, "top_k": 5},
            "coarse_acoustics_config": {"sliding_window_len": 20, "max_coarse_history": 60, "top_p": 0.9},
            "fine_acoustics_config": {"temperature": 0.9, "max_fine_history_length": 256},
        },
    ),
}


@pytest.mark.parametrize("case", GENERATIONS)
def test_generate(model, oracle, inputs, case):
    """The three stages' tokens, the sound, and where the source of noise is afterwards."""
    kwargs, changes = GENERATIONS[case]
    try:
        for bark in (model, oracle):
            settings(bark, changes)
        n = {} if "semantic_config" in changes and "max_new_tokens" in changes["semantic_config"] else SHORT
        ours, theirs = (run(bark, 11, **{**inputs, **n, **kwargs}) for bark in (model, oracle))
    finally:
        for bark in (model, oracle):
            settings(bark, {})
    same_run(ours, theirs)
    n = ours[0][0].shape[1]
    if "min_eos_p" in kwargs or "semantic_min_eos_p" in kwargs:
        assert (1 < n < 200 and ours[0][0][0, -1] == 10_000) == (case != "never ends")
    else:
        assert n == (30 if case == "other settings" else N)
    if "greedy" in case and "voice" not in case:
        assert ours[0][0].tolist() == run(model, 1, **inputs, **SHORT, **GREEDY)[0][0].tolist()


def stage_configs(kind=compat, **changes):
    """The three stages' generation configurations, ours or transformers'."""
    source = kind if kind is compat else theirs_generation
    names = ("BarkSemanticGenerationConfig", "BarkCoarseGenerationConfig", "BarkFineGenerationConfig")
    return [
        getattr(source, name)(**{**builders.generation_config()[section], **changes.get(section, {})})
        for name, section in zip(names, SECTIONS, strict=True)
    ]


def stage(bark, part, seed, given, config_changes, **kwargs):
    """One stage by itself, from a seed."""
    kind = compat if isinstance(bark, BarkModel) else transformers
    semantic, coarse, fine = stage_configs(kind, **config_changes)
    configs = {"semantic_generation_config": semantic}
    if part != "semantic":
        configs["coarse_generation_config"] = coarse
    if part == "fine_acoustics":
        configs["fine_generation_config"] = fine
    torch.manual_seed(seed)
    made = getattr(bark, part).generate(given.clone(), **configs, **kwargs)
    return made, torch.get_rng_state()


GIVEN = {
    "semantic": torch.randint(0, 1000, (1, 256), generator=generator(1)),
    "coarse_acoustics": torch.randint(0, 10_000, (1, 30), generator=generator(2)),
    "fine_acoustics": 10_000 + torch.randint(0, 2048, (1, 2 * 700), generator=generator(3)),
}
STAGES = {
    "semantic, greedy": ("semantic", dict(max_new_tokens=40, do_sample=False), {}),
    "semantic, configured end": (
        "semantic",
        dict(max_new_tokens=200),
        {"semantic_config": {"min_eos_p": 1.2e-4}},
    ),
    "semantic, another end": (
        "semantic",
        dict(max_new_tokens=200, min_eos_p=None, history_prompt=history(VOICE)),
        {"semantic_config": {"min_eos_p": 1.2e-4, "do_sample": False}},
    ),
    "semantic, 768": ("semantic", {}, {}),
    "coarse": ("coarse_acoustics", dict(history_prompt=history(VOICE), temperature=0.9), {}),
    "coarse, greedy, long": ("coarse_acoustics", dict(do_sample=False), {}),
    "fine": ("fine_acoustics", dict(history_prompt=history(VOICE)), {}),
    "fine, greedy, small windows": (
        "fine_acoustics",
        dict(temperature=None),
        {"fine_acoustics_config": {"max_fine_history_length": 128, "max_fine_input_length": 256}},
    ),
    "fine, temperature": ("fine_acoustics", dict(temperature=2, do_sample=False, nonsense=1), {}),
}


@pytest.mark.parametrize("case", STAGES)
def test_stages_alone(model, oracle, case):
    part, kwargs, changes = STAGES[case]
    given = GIVEN[part]
    if "long" in case:
        given = torch.cat([given + i for i in range(4)], 1)
    if case == "semantic, 768":  # all positions that there are; the first sound of the end would be luck
        kwargs = dict(max_new_tokens=768, do_sample=False)
    (ours, state), (theirs, other) = (stage(b, part, 5, given, changes, **kwargs) for b in (model, oracle))
    assert ours.dtype == theirs.dtype == torch.int64
    assert ours.tolist() == theirs.tolist()
    assert torch.equal(state, other)
    if "configured" in case:
        assert 1 < ours.shape[1] < 200
    if part == "coarse_acoustics":
        again, lengths = stage(model, part, 5, given, changes, **kwargs, return_output_lengths=True)[0]
        expected = stage(oracle, part, 5, given, changes, **kwargs, return_output_lengths=True)[0][1]
        assert again.tolist() == ours.tolist()
        assert (lengths.tolist(), lengths.dtype) == (expected.tolist(), expected.dtype)


def test_names():
    """All of them are there, and `dir` knows them."""
    for name in compat.__all__:
        assert isinstance(getattr(compat, name), type) or callable(getattr(compat, name))
    assert set(compat.__all__) <= set(dir(compat))
    assert compat.AutoModel is compat.AutoModelForTextToWaveform is BarkModel
    with pytest.raises(AttributeError, match="no attribute 'BarkModels'"):
        _ = compat.BarkModels


def test_a_pad_token_changes_nothing(model, inputs):
    plain = run(model, 3, **inputs, **SHORT)
    same_run(run(model, 3, **inputs, **SHORT, pad_token_id=12_048, bos_token_id=5), plain)


def test_two_calls_go_on(model, oracle, inputs):
    """The second call's noise follows the first's, as there."""
    second = []
    for bark in (model, oracle):
        torch.manual_seed(2)
        bark.generate(**inputs, semantic_max_new_tokens=4)
        with recorded(bark) as made:
            bark.generate(**inputs, semantic_max_new_tokens=4)
        second.append(made)
    assert all(torch.equal(second[0][part], second[1][part]) for part in PARTS)


def test_released_voice(model, oracle, inputs, released):
    voice = Voice.load(released / "voices" / "v2" / "en_speaker_6.npz")
    given = {**inputs, "history_prompt": history(voice), **SHORT}
    same_run(*(run(bark, 0, **given) for bark in (model, oracle)))


def test_released_voice_in_other_numbers(model, inputs, released):
    """Arrays of any integers: transformers' embeddings refuse some of them."""
    voice = Voice.load(released / "voices" / "announcer.npz")
    arrays = {name: value.numpy().astype(np.uint16) for name, value in history(voice).items()}
    runs = [run(model, 0, **inputs, **SHORT, history_prompt=given) for given in (history(voice), arrays)]
    same_run(*runs)


def test_a_fine_temperature_of_one(model, oracle, inputs):
    """As a keyword it draws, with the prefix or without; transformers' nearest is a temperature beside it."""
    near = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)).item()
    theirs = run(oracle, 4, **inputs, **SHORT, fine_temperature=near)
    same_run(run(model, 4, **inputs, **SHORT, fine_temperature=1.0), theirs)
    one = run(model, 4, **inputs, **SHORT, temperature=1.0)
    stages = dict(semantic_temperature=1.0, coarse_temperature=1.0, fine_temperature=1.0)
    same_run(one, run(model, 4, **inputs, **SHORT, **stages))


def test_text_without_a_mask(model, oracle, inputs):
    """Without a mask pads are what their ids say, as there."""
    ids = inputs["input_ids"]
    runs = [run(bark, 3, ids, **SHORT) for bark in (model, oracle)]
    same_run(*runs)
    assert runs[0][0][0].tolist() != run(model, 3, **inputs, **SHORT)[0][0].tolist()


def test_texts_of_other_widths(model, oracle, inputs):
    """The first 256 of 300 ids; 100 ids are padded, which transformers refuses."""
    ids = torch.randint(0, 1000, (1, 300), generator=generator(0))
    mask = torch.ones_like(ids)
    mask[:, 200:] = 0
    runs = [run(bark, 3, ids, attention_mask=mask, **SHORT) for bark in (model, oracle)]
    same_run(*runs)
    same_run(runs[0], run(model, 3, ids[:, :256], attention_mask=mask[:, :256].bool(), **SHORT))
    short = inputs["input_ids"][:, :100]
    for given in ({}, {"attention_mask": inputs["attention_mask"][:, :100]}):
        expected = run(model, 3, **inputs, **SHORT)
        if not given:
            keep = int(inputs["attention_mask"].sum())
            given, cut = {}, short[:, :keep]
        else:
            cut = short
        same_run(run(model, 3, cut, **given, **SHORT), expected)
    with pytest.raises(RuntimeError):
        oracle.generate(short, **SHORT)


def test_nothing_changes_what_the_caller_has(model, inputs):
    given = {**inputs, "history_prompt": history(VOICE)}
    before = copy.deepcopy(given)
    model.generate(**given, semantic_max_new_tokens=4)
    for name in inputs:
        assert torch.equal(given[name], before[name])
    for name, array in before["history_prompt"].items():
        assert torch.equal(given["history_prompt"][name], array)
    tokens = torch.tensor([[5, 6, 7, 10_000, 10_000]])
    coarse = model.coarse_acoustics.generate(tokens, *stage_configs()[:2])
    assert tokens.tolist() == [[5, 6, 7, 10_000, 10_000]]
    before = coarse.clone()
    model.fine_acoustics.generate(coarse, *stage_configs())
    assert torch.equal(coarse, before)


# --- batches ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts():
    processor = BarkProcessor(WordPiece(builders.vocabulary()))
    return dict(processor(["Hello", TEXT, "world world", "hell"]))


END = dict(min_eos_p=7e-5, semantic_max_new_tokens=40)


def row_of(texts, i):
    return {name: tensor[i : i + 1] for name, tensor in texts.items()}


def check_rows(batch, rows):
    """Each row of a batch is what it is alone, then padding."""
    (semantic, coarse, fine), audio, _ = batch
    frames = [alone[2].shape[2] for alone, *_ in rows]
    assert len(set(frames)) > 1, "the rows must end at different times: choose another probability"
    assert audio.shape == (len(rows), 320 * max(frames))
    for i, (alone, sound, _) in enumerate(rows):
        for many, one, pad in zip((semantic, coarse, fine), alone, (10_000, 12_048, 1024), strict=True):
            n = one.shape[-1]
            assert many[i, ..., :n].tolist() == one[0].tolist()
            assert (many[i, ..., n:] == pad).all()
        close(audio[i, : 320 * frames[i]], sound[0], 1e-6)
        assert not audio[i, 320 * frames[i] :].any()
    assert max(part.shape[-1] for part in (fine,)) == max(frames)


@pytest.mark.parametrize("given", [{}, {"history_prompt": history(VOICE)}])
def test_greedy_rows_are_what_they_are_alone(model, oracle, texts, given):
    given = {**GREEDY, **END, **given}
    rows = [run(model, 1, **row_of(texts, i), **given) for i in range(4)]
    check_rows(run(model, 0, **texts, **given), rows)
    same_run(rows[1], run(oracle, 1, **row_of(texts, 1), **given))


def test_sampled_rows_are_what_their_seeds_give_alone(model, texts):
    given = {**END, "history_prompt": history(VOICE)}
    torch.manual_seed(1)
    seeds = torch.randint(2**32, (4,)).tolist()
    rows = [run(model, seed, **row_of(texts, i), **given) for i, seed in enumerate(seeds)]
    check_rows(run(model, 1, **texts, **given), rows)


@pytest.mark.parametrize("part", PARTS)
def test_sampled_rows_of_a_stage(model, part):
    """More rows than go together at a time, by the seeds that the default generator gives."""
    given = torch.cat([GIVEN[part][:, :50] + i for i in range(9)])
    kwargs = dict(max_new_tokens=20, min_eos_p=7e-5) if part == "semantic" else {}
    made, _ = stage(model, part, 3, given, {}, **kwargs)
    torch.manual_seed(3)
    seeds = torch.randint(2**32, (9,)).tolist()
    for i in (0, 3, 8):
        alone, _ = stage(model, part, seeds[i], given[i : i + 1], {}, **kwargs)
        assert made[i, ..., : alone.shape[-1]].tolist() == alone[0].tolist()


def test_lengths(model, oracle, inputs, texts):
    """return_output_lengths: the samples of each row; single texts as there."""
    runs = [run(bark, 1, **inputs, **SHORT, return_output_lengths=True) for bark in (model, oracle)]
    assert runs[0][1][1] == runs[1][1][1]
    same_run(*((tokens, audio[0], state) for tokens, audio, state in runs))
    same_run(run(model, 1, **inputs, **SHORT, return_output_lengths=False), run(model, 1, **inputs, **SHORT))
    (_, _, fine), (audio, lengths), _ = run(model, 1, **texts, **END, return_output_lengths=True)
    assert lengths == [320 * int((row[0] < 1024).sum()) for row in fine]
    assert audio.shape[1] == max(lengths) > min(lengths)
    assert all(type(n) is int for n in lengths)


def test_nothing_said(model, oracle, inputs):
    """An end at once is a sound of no length, where transformers' codec fails."""
    end = dict(min_eos_p=1e-9)
    with pytest.raises(RuntimeError):
        oracle.generate(**inputs, **end)
    (semantic, coarse, fine), (audio, lengths), _ = run(model, 1, **inputs, **end, return_output_lengths=True)
    assert semantic.tolist() == [[10_000]]
    assert (coarse.shape, fine.shape, audio.shape, lengths) == ((1, 0), (1, 8, 0), (1, 0), [0])
    assert audio.dtype == torch.float32
    some = torch.tensor([[10_000, 10_000, 10_000], [5, 6, 7], [8, 10_000, 12_048]])
    coarse, lengths = model.coarse_acoustics.generate(some, *stage_configs()[:2], return_output_lengths=True)
    assert lengths.tolist() == [0, 8, 2]
    assert (coarse[0] == 12_048).all()
    fine = model.fine_acoustics.generate(coarse, *stage_configs())
    assert (fine[0] == 1024).all()
    assert [(row[0] < 1024).sum() for row in fine] == [0, 4, 1]
    audio = model.codec_decode(fine)
    assert audio.shape == (3, 4 * 320)
    assert not audio[0].any()
    assert audio[1].all()
    assert not audio[2, 320:].any()


def test_codec_decode(model, oracle):
    codes = torch.randint(0, 1024, (2, 8, 30), generator=generator(0))
    with torch.no_grad():
        expected = oracle.codec_decode(codes)
        listed = oracle.codec_decode(codes, torch.tensor([30, 10]))
    peak = float(expected.abs().max())
    close(model.codec_decode(codes), expected, 1e-5 * peak)
    for lengths in ([30, 10], torch.tensor([30, 10])):
        for one, other in zip(model.codec_decode(codes, lengths), listed, strict=True):
            close(one, other, 1e-5 * peak)
    assert not model.codec_decode(codes).requires_grad


# --- files --------------------------------------------------------------------------------------------------


def weights(bark):
    """barklite's own tensors, by model."""
    models = dict(semantic=bark.semantic, coarse=bark.coarse_acoustics, fine=bark.fine_acoustics)
    states = {part: dict(model.named_parameters()) for part, model in models.items()}
    return states | {"codec": dict(bark.codec_model.named_parameters())}


def check_tiny(bark, tiny):
    """The weights of the session's `tiny`, which the builders wrote."""
    for part, state in weights(bark).items():
        for key, tensor in getattr(tiny, part).state_dict().items():
            key = key if part == "codec" else huggingface.theirs(key)
            own = state[key].detach()[:8] if key == "codebooks" else state[key].detach()
            close(own, tensor, 1e-6 if part == "codec" else 0)


@pytest.mark.parametrize("form", ["bin old", "bin new", "safetensors old", "shards new"])
def test_huggingface_layouts(tiny, tmp_path, form):
    weight_files, weight_norm = form.split()
    path = builders.write_huggingface(tmp_path / "hf", tiny, weight_files, weight_norm)
    bark = BarkModel.from_pretrained(path)
    check_tiny(bark, tiny)
    assert not bark.training
    assert bark.generation_config.semantic_config["max_new_tokens"] == 768
    coarse = BarkCoarseModel.from_pretrained(str(path), use_cache=False)  # its part of a whole checkpoint
    assert torch.equal(
        coarse.position_embeds_layer.weight, bark.coarse_acoustics.position_embeds_layer.weight
    )
    assert coarse(torch.zeros(1, 2).long()).past_key_values is None
    if weight_files == "bin":
        for kind in (BarkSemanticModel, BarkFineModel):
            theirs = getattr(transformers, kind.__name__).from_pretrained(path)
            ours = kind.from_pretrained(path)
            args = (
                (3, random_ids("fine_acoustics", 1, 5, 8)) if kind is BarkFineModel else (GIVEN["semantic"],)
            )
            close(ours(*args).logits, theirs(*args).logits)


def test_own_layouts(tiny, native, tmp_path):
    """barklite's, with the encoder and without, and Suno's files; what can be saved for transformers."""
    suno = builders.write_suno(tmp_path / "suno", tiny)
    checkpoint.convert(suno, tmp_path / "encoder", encoder=True)
    for path in (native, tmp_path / "encoder", suno):
        bark = BarkModel.from_pretrained(path)
        check_tiny(bark, tiny)
        assert bark.generation_config.coarse_acoustics_config["top_k"] == 50
        fine = BarkFineModel.from_pretrained(path)
        assert torch.equal(
            fine.position_embeds_layer.weight, bark.fine_acoustics.position_embeds_layer.weight
        )
        if path == native:
            with pytest.raises(ValueError, match="encoder"):
                bark.save_pretrained(tmp_path / "back")
            assert not (tmp_path / "back" / "model.safetensors").exists()
            continue
        bark.save_pretrained(tmp_path / f"{path.name}-back")
        theirs, report = transformers.BarkModel.from_pretrained(
            tmp_path / f"{path.name}-back", output_loading_info=True
        )
        assert not any(report.values()), report
        codes = torch.randint(0, 1024, (1, 8, 9), generator=generator(0))
        with torch.no_grad():
            close(bark.codec_decode(codes), theirs.codec_decode(codes), 1e-6)
            audio = torch.randn(1, 3200, generator=generator(0))
            expected = theirs.codec_model.encode(audio[:, None], bandwidth=6.0).audio_codes[0]
            assert torch.equal(bark.codec_model.encode(audio), expected)


def test_the_way_back(model, directory, inputs, tmp_path):
    """Saved here, loaded by transformers and by barklite itself: the same tokens."""
    model.save_pretrained(tmp_path / "back")
    BarkProcessor(WordPiece(builders.vocabulary())).save_pretrained(tmp_path / "back")
    files = {"config.json", "generation_config.json", "model.safetensors", "vocab.txt"}
    assert files <= {path.name for path in (tmp_path / "back").iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs, report = transformers.BarkModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.config.architectures == ["BarkModel"]
    for key, tensor in theirs.state_dict().items():
        if not key.endswith((".inited", ".cluster_size", ".embed_avg")):
            close(tensor, model.state_dict()[key], 0)
    ours = run(model, 7, **inputs, **SHORT)
    same_run(ours, run(theirs, 7, **inputs, **SHORT))
    bark = barklite.Bark.from_pretrained(tmp_path / "back", device="cpu")
    clip = bark.generate(TEXT, seed=7, config=GenerationConfig.transformers(max_semantic_tokens=N))
    assert clip.codes.tolist() == ours[0][2][0].tolist()
    close(torch.from_numpy(clip.audio), ours[1][0], 1e-6)
    again = BarkModel.from_pretrained(tmp_path / "back")
    same_run(run(again, 7, **inputs, **SHORT), ours)
    assert again.config.to_dict() == {**model.config.to_dict(), "architectures": ["BarkModel"]}
    published = compat.BarkGenerationConfig.from_pretrained(directory)
    assert again.generation_config.to_diff_dict() == published.to_diff_dict()


def test_state_dicts(model, oracle):
    """transformers' names, all of them; there and back."""
    own, theirs = model.state_dict(), oracle.state_dict()
    assert own.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert own[key].shape == tensor.shape, key
        if "parametrizations" not in key and not key.endswith((".inited", ".cluster_size", ".embed_avg")):
            assert torch.equal(own[key], tensor), key
    other = copy.deepcopy(oracle)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(own)
    codes = torch.randint(0, 1024, (1, 8, 9), generator=generator(0))
    with torch.no_grad():
        close(other.codec_decode(codes), oracle.codec_decode(codes), 1e-6)
        close(other.semantic(GIVEN["semantic"]).logits, oracle.semantic(GIVEN["semantic"]).logits, 0)
    assert not own["semantic.input_embeds_layer.weight"].requires_grad
    assert (
        model.state_dict(keep_vars=True)["semantic.input_embeds_layer.weight"]
        is model.semantic.input_embeds_layer.weight
    )
    parent = torch.nn.ModuleDict({"bark": model})
    assert parent.state_dict().keys() == {f"bark.{key}" for key in theirs}


def test_load_state_dict(oracle, directory):
    bark = BarkModel.from_pretrained(directory)
    state = {key: tensor.clone() for key, tensor in oracle.state_dict().items()}
    changed = state | {key: 2 * tensor for key, tensor in state.items() if "wpe" in key or "position" in key}
    assert tuple(bark.load_state_dict(changed)) == ([], [])
    assert torch.equal(
        bark.semantic.position_embeds_layer.weight, 2 * state["semantic.position_embeds_layer.weight"]
    )

    key = "coarse_acoustics.lm_head.weight"
    lacks = {k: t for k, t in state.items() if k != key}
    for m in (bark, oracle):
        with pytest.raises(RuntimeError, match="lm_head"):
            m.load_state_dict(lacks)
        with pytest.raises(RuntimeError, match="nonsense"):
            m.load_state_dict({**state, "nonsense": torch.zeros(1)})
        with pytest.raises(RuntimeError, match="size mismatch"):
            m.load_state_dict({**state, key: torch.zeros(2, 2)})
        with pytest.raises(RuntimeError, match="size mismatch"):
            m.load_state_dict({**state, key: torch.zeros(2, 2)}, strict=False)
    with pytest.raises(RuntimeError, match="one tensor"):
        bark.load_state_dict({**state, "fine_acoustics.lm_heads.2.weight": torch.zeros(1056, 16)})

    bark.load_state_dict(changed)  # PyTorch has copied what fits before it complained
    for part in ({}, {key: state[key] + 1}, {"nonsense": torch.zeros(1)}):
        made, expected = (m.load_state_dict(part, strict=False) for m in (bark, copy.deepcopy(oracle)))
        assert set(made.missing_keys) == set(expected.missing_keys)
        assert made.unexpected_keys == expected.unexpected_keys
    assert torch.equal(bark.coarse_acoustics.lm_head.weight, state[key] + 1)
    assert torch.equal(
        bark.semantic.position_embeds_layer.weight, 2 * state["semantic.position_embeds_layer.weight"]
    )
    table, head = "input_embeds_layers.3.weight", "lm_heads.2.weight"
    fine = bark.fine_acoustics
    for name in (table, head):  # either name of what is one tensor
        new = torch.randn(1056, 16, generator=generator(len(name)))
        assert {table, head} - {name} <= set(fine.load_state_dict({name: new}, strict=False).missing_keys)
        assert torch.equal(fine.input_embeds_layers[3].weight, new)
    direction = "codec_model.decoder.layers.0.conv.parametrizations.weight.original1"
    before = bark.codec_model.decoder[0].weight.clone()
    bark.load_state_dict({direction: 3 * state[direction]}, strict=False)  # its length stays
    close(bark.codec_model.decoder[0].weight, before, 1e-6)
    bark.load_state_dict(state, assign=True)
    assert (
        bark.semantic.input_embeds_layer.weight.data_ptr()
        == state["semantic.input_embeds_layer.weight"].data_ptr()
    )


def test_dtypes(directory, oracle, inputs, model):
    for given in ("float16", torch.float16):
        for name in ("dtype", "torch_dtype"):
            half = BarkModel.from_pretrained(directory, **{name: given})
            assert half.dtype == half.semantic.dtype == half.config.dtype == torch.float16
            assert {p.dtype for p in half.fine_acoustics.parameters()} == {torch.float16}
            assert {p.dtype for p in half.codec_model.parameters()} == {torch.float32}
    assert torch.equal(
        half.semantic.position_embeds_layer.weight, model.semantic.position_embeds_layer.weight.half()
    )
    moved = copy.deepcopy(model).half()
    assert all(torch.equal(a, b) for a, b in zip(moved.parameters(), half.parameters(), strict=True))
    sixteen = copy.deepcopy(model).to(torch.bfloat16)
    assert sixteen.dtype == torch.bfloat16
    assert next(sixteen.codec_model.parameters()).dtype == torch.float32
    for bark in (half, sixteen):
        audio = bark.generate(**inputs, semantic_max_new_tokens=4)
        assert audio.dtype == torch.float32
        assert audio.isfinite().all()
        out = bark.coarse_acoustics(torch.ones(1, 3).long(), output_attentions=True)
        assert out.logits.dtype == out.attentions[0].dtype == bark.dtype
    assert sixteen.float().dtype == torch.float32
    assert BarkModel.from_pretrained(directory, dtype="auto").dtype == torch.float32
    assert oracle.dtype == model.dtype == model.config.dtype
    away = copy.deepcopy(model).to("meta")
    assert {p.device.type for p in away.parameters()} == {"meta"}
    assert away.device == torch.device("meta")
    assert model.device == torch.device("cpu")
    for given in ("int8", "sixteen", 16, torch.int32):
        with pytest.raises(ValueError, match=r"torch\.bfloat16"):
            BarkModel.from_pretrained(directory, dtype=given)


def test_half_a_checkpoint_keeps_its_dtype(directory, tmp_path):
    BarkSemanticModel.from_pretrained(directory, dtype=torch.float16).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    assert BarkSemanticModel.from_pretrained(tmp_path).dtype == torch.float16
    assert transformers.BarkSemanticModel.from_pretrained(tmp_path).dtype == torch.float16
    assert BarkSemanticModel.from_pretrained(tmp_path, dtype="float32").dtype == torch.float32


@torch.no_grad()
def test_attention_implementations(directory, model, monkeypatch):
    """The numbers are the same, and PyTorch is told which backends to take."""
    from barklite.compat import pretrained

    seen = []
    real = pretrained.sdpa_kernel

    def kernel(backends, **options):
        seen.append(backends)
        return real(backends, **options)

    monkeypatch.setattr(pretrained, "sdpa_kernel", kernel)
    ids = random_ids("coarse_acoustics", B, T)
    expected = model.coarse_acoustics(ids).logits
    assert seen == []
    for name in ("eager", "sdpa", "flash_attention_2"):
        bark = BarkModel.from_pretrained(directory, attn_implementation=name)
        assert bark.config._attn_implementation == bark.fine_acoustics.config._attn_implementation == name
        seen.clear()
        close(bark.coarse_acoustics(ids).logits, expected)
        bark.generate(GIVEN["semantic"], semantic_max_new_tokens=2)
        wanted = pretrained.BACKENDS[name]
        assert seen == ([wanted] * 5 if wanted else [])
    assert pretrained.BACKENDS["eager"] == [pretrained.SDPBackend.MATH]
    assert pretrained.BACKENDS["flash_attention_2"][0] == pretrained.SDPBackend.FLASH_ATTENTION
    assert bark.to_bettertransformer() is bark
    assert bark.semantic.config._attn_implementation == "sdpa"
    assert BarkSemanticModel.from_pretrained(
        directory, attn_implementation="eager"
    ).config._attn_implementation == ("eager")
    for make in (
        lambda: BarkModel.from_pretrained(directory, attn_implementation="quick"),
        lambda: bark.set_attn_implementation("quick"),
    ):
        with pytest.raises(ValueError, match="choose one of sdpa, eager, flash_attention_2"):
            make()
    with pytest.raises(ValueError, match="quick"):
        transformers.BarkModel.from_pretrained(directory, attn_implementation="quick")


def test_from_pretrained_options(directory, model, tmp_path):
    for place in ("cpu", "auto", {"": "cpu"}, torch.device("cpu")):
        bark = BarkSemanticModel.from_pretrained(
            directory, device_map=place, low_cpu_mem_usage=True, local_files_only=True
        )
        assert bark.device == torch.device("cpu")
    assert BarkSemanticModel.from_pretrained(directory, device_map="meta").device.type == "meta"
    with pytest.raises(ValueError, match="several devices"):
        BarkSemanticModel.from_pretrained(directory, device_map={"a": "cpu", "b": "meta"})
    config = compat.BarkCoarseConfig.from_pretrained(directory, use_cache=False)
    for given in (config, directory):
        coarse = BarkCoarseModel.from_pretrained(directory, config=given, attn_implementation="eager")
        assert (coarse(torch.zeros(1, 2).long()).past_key_values is None) == (given is config)
        assert config._attn_implementation is None
        with pytest.raises(TypeError, match="nonsense"):
            BarkCoarseModel.from_pretrained(directory, config=given, nonsense=1)
    with pytest.raises(TypeError, match="nonsense"):
        BarkModel.from_pretrained(directory, nonsense=1)
    with pytest.raises(TypeError, match="nonsense"):
        transformers.BarkModel.from_pretrained(directory, nonsense=1)
    shutil.copytree(directory, tmp_path / "outer" / "inner")
    inner = BarkCoarseModel.from_pretrained(tmp_path / "outer", subfolder="inner", output_hidden_states=True)
    assert len(inner(torch.zeros(1, 2).long()).hidden_states) == 3


def test_hub(directory, monkeypatch):
    """A Hub id is fetched as the keywords say; a name of another form is not."""
    from barklite.storage import hub

    asked = []
    monkeypatch.setattr(hub, "download", lambda *args, **options: asked.append((args, options)) or directory)
    options = dict(revision="main", token="secret", cache_dir="there", local_files_only=True)
    bark = BarkCoarseModel.from_pretrained("suno/bark-small", **options, use_cache=False)
    assert asked == [(("suno/bark-small",), options)]
    assert bark.config.use_cache is False


def test_without_generation_settings(directory, model, inputs, tmp_path):
    """transformers loads such a directory, too, and fails later; here the published settings stand in."""
    shutil.copytree(directory, tmp_path / "d")
    (tmp_path / "d" / "generation_config.json").unlink()
    with pytest.warns(UserWarning, match=r"generation_config.json.*used instead"):
        bark = BarkModel.from_pretrained(tmp_path / "d")
    assert bark.generation_config == compat.BarkGenerationConfig.published()
    theirs = transformers.BarkModel.from_pretrained(tmp_path / "d")
    for m in (bark, theirs):
        m.generation_config = transformers.GenerationConfig()
        with pytest.raises(AttributeError, match="semantic_config"):
            m.generate(**inputs)


def test_missing_and_damaged_files(directory, tmp_path):
    def copied(name):
        return shutil.copytree(directory, tmp_path / name)

    cases = {"not there": (tmp_path / "nowhere", OSError, "neither a directory nor a Hub id")}
    (tmp_path / "empty").mkdir()
    cases["empty"] = (tmp_path / "empty", OSError, "no checkpoint")
    for file, error, match in (
        ("config.json", OSError, "no checkpoint"),
        ("pytorch_model.bin", OSError, "model.safetensors is missing"),
    ):
        cases[file] = (copied(f"no {file}"), error, match)
        (cases[file][0] / file).unlink()
    for name, (path, error, match) in cases.items():
        for kind in (BarkModel, BarkCoarseModel):
            with pytest.raises(error, match=match):
                kind.from_pretrained(path)
        if name != "config.json":  # it takes the defaults for that
            with pytest.raises(error):
                transformers.BarkModel.from_pretrained(path)
    short = copied("short")
    whole = (short / "pytorch_model.bin").read_bytes()
    (short / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"pytorch_model.bin is not a whole PyTorch file"):
        BarkModel.from_pretrained(short)
    (short / "pytorch_model.bin").write_bytes(whole)
    for file in ("config.json", "generation_config.json"):
        text = (short / file).read_text()
        (short / file).write_text(text[:-20])
        with pytest.raises(ValueError, match=f"{file} is not JSON"):
            BarkModel.from_pretrained(short)
        (short / file).write_text(text)
    state = torch.load(short / "pytorch_model.bin", weights_only=True)
    for changes, match in (
        ({"nonsense": torch.zeros(1)}, r"pytorch_model.bin: tensor 'nonsense' is not part of a Bark"),
        ({"semantic.nonsense": torch.zeros(1)}, r"pytorch_model.bin: tensor 'semantic.nonsense' is not part"),
        (
            {"semantic.lm_head.weight": None},
            r"pytorch_model.bin: tensor 'semantic.lm_head.weight' is missing",
        ),
        ({"semantic.lm_head.weight": torch.zeros(2, 2)}, r"pytorch_model.bin: .*shape \(2, 2\)"),
    ):
        new = {key: tensor for key, tensor in {**state, **changes}.items() if tensor is not None}
        torch.save(new, short / "pytorch_model.bin")
        with pytest.raises(ValueError, match=match):
            BarkModel.from_pretrained(short)


class FakeHub:
    """Stands in for `huggingface_hub.HfApi`: notes what it is asked, and what lay in the folder."""

    log = []  # noqa: RUF012

    def __init__(self, token=None):
        self.log[:] = [("token", token)]

    def create_repo(self, repo, private=None, exist_ok=False):
        if repo == "broken":
            raise RuntimeError("no such user")
        self.log.append(("create", repo, private, exist_ok))
        return type("RepoUrl", (), {"repo_id": f"me/{repo}"})

    def upload_folder(self, repo_id, folder_path, **options):
        files = sorted(path.name for path in folder_path.iterdir())
        self.log.append(("upload", repo_id, files, options))
        return "commit"


def test_push_to_hub(model, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    files = ["config.json", "generation_config.json", "model.safetensors"]
    model.save_pretrained(tmp_path / "name", push_to_hub=True, token="secret", max_shard_size="5GB")
    assert FakeHub.log == [
        ("token", "secret"), ("create", "name", None, True), ("upload", "me/name", files, {}),
    ]  # fmt: skip
    model.push_to_hub("mine", private=True, commit_message="hello")
    assert FakeHub.log[1:] == [
        ("create", "mine", True, True),
        ("upload", "me/mine", files, {"commit_message": "hello"}),
    ]
    with pytest.raises(OSError, match="no such user"):
        model.semantic.push_to_hub("broken")
    FakeHub.log.clear()
    model.semantic.save_pretrained(tmp_path / "semantic", safe_serialization=True)
    model.semantic.save_pretrained(tmp_path / "worker", is_main_process=False)
    assert FakeHub.log == []
    assert not (tmp_path / "worker").exists()
    with pytest.raises(TypeError, match="nonsense"):
        model.save_pretrained(tmp_path / "name", nonsense={})


# --- modules ------------------------------------------------------------------------------------------------


def test_num_parameters(model, oracle):
    for ours, theirs in ((model, oracle), *((getattr(model, p), getattr(oracle, p)) for p in PARTS)):
        for options in ({}, {"only_trainable": True}, {"exclude_embeddings": True}):
            assert ours.num_parameters(**options) == theirs.num_parameters(**options)


@torch.no_grad()
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("n", [60, 33])
def test_embeddings(part, n):
    """Get, set and resize: the old rows stay, new ones are the mean; heads of the fine model follow."""
    kind, config, other_kind, other_config = small(part)
    ours, theirs = kind(config), other_kind(other_config)
    ours.load_state_dict(theirs.state_dict())

    def tables(m):
        embeddings = m.get_input_embeddings()
        return [table.weight for table in (embeddings if part == PARTS[2] else [embeddings])]

    before = [table.clone() for table in tables(ours)]
    assert ours.resize_token_embeddings() is ours.get_input_embeddings()
    assert ours.resize_token_embeddings(n) is ours.get_input_embeddings()
    theirs.resize_token_embeddings(n)
    for old, own, other in zip(before, tables(ours), tables(theirs), strict=True):
        assert own.shape == other.shape == (n, 16)
        close(own[:50], old[:n], 0)
        close(own[50:], old.mean(0).expand_as(own[50:]), 1e-6)
    for name in ("vocab_size", "input_vocab_size", "output_vocab_size"):
        assert getattr(ours.config, name) == getattr(theirs.config, name)
    logits = [m(*small_args(part)).logits for m in (ours, theirs)]
    assert logits[0].shape == logits[1].shape
    if part == PARTS[2]:
        heads = ours.get_output_embeddings()
        assert [h.weight.shape for h in heads] == [h.weight.shape for h in theirs.get_output_embeddings()]
        new = torch.nn.ModuleList(torch.nn.Embedding(n, 16) for _ in range(5))
        ours.set_input_embeddings(new)
        assert all(a.weight is b.weight for a, b in zip(ours.get_input_embeddings(), new, strict=True))
        ids = small_args(part)[1]
        embedded = sum(table(ids[..., k]) for k, table in enumerate(new[:3]))
        hidden = ours(*small_args(part), output_hidden_states=True)
        close(hidden.hidden_states[0], embedded + ours.position_embeds_layer.weight[:9], 1e-6)
        close(hidden.logits, hidden.hidden_states[-1] @ new[2].weight.T, 1e-5)
        assert ours.lm_heads[1].weight is new[2].weight
    else:
        assert ours.get_output_embeddings() is theirs.get_output_embeddings() is None
        new = torch.nn.Embedding(n, 16)
        ours.set_input_embeddings(new)
        theirs.set_input_embeddings(new)
        assert ours.get_input_embeddings() is new
        close(ours(*small_args(part)).logits, theirs(*small_args(part)).logits)


def test_offload(model, directory, inputs, monkeypatch):
    """Each model is on the accelerator for its stage; the numbers are the same. Without one: a warning."""
    bark, expected = BarkModel.from_pretrained(directory), run(model, 1, **inputs, **SHORT)
    with pytest.warns(UserWarning, match="no accelerator"):
        bark.enable_cpu_offload()
    same_run(run(bark, 1, **inputs, **SHORT), expected)
    assert compat.infer_device() == "cpu"

    moves, real = [], torch.nn.Module.to

    def to(module, *args, **kwargs):
        moves.append((type(module).__name__, str(args[0])))
        return real(module, "cpu")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.nn.Module, "to", to)
    bark.enable_cpu_offload(2)
    assert moves == [("BarkModel", "cpu")]
    assert bark.device == bark.coarse_acoustics.device == torch.device("cpu", 2)
    monkeypatch.setattr(
        torch.Tensor,
        "to",
        lambda t, *a, to=torch.Tensor.to, **k: t if a[0] == bark.device else to(t, *a, **k),
    )
    for m in (bark, *(getattr(bark, part) for part in PARTS)):
        m._runs_on = torch.device("cpu")
    moves.clear()
    same_run(run(bark, 1, **inputs, **SHORT), expected)
    names = ("BarkSemanticModel", "BarkCoarseModel", "BarkFineModel", "EncodecModel")
    assert moves == [(name, "cpu") for name in names for _ in range(2)]
    with pytest.raises(IndexError):
        bark.semantic(torch.full((1, 3), 10**6))
    assert moves[-2:] == [("BarkSemanticModel", "cpu")] * 2  # an error brings it home, too


# --- bad input ----------------------------------------------------------------------------------------------

IDS = random_ids("coarse_acoustics", 1, 5)
CODES = random_ids("fine_acoustics", 1, 5, 8)
TOKENS = torch.tensor([[1, 2, 3]])


def generating(**kwargs):
    return lambda bark: bark.generate(GIVEN["semantic"], **{"semantic_max_new_tokens": 2, **kwargs})


def reading(**kwargs):
    return lambda bark: bark.coarse_acoustics(**kwargs)


def filling(*args, **kwargs):
    return lambda bark: bark.fine_acoustics(*args, **kwargs)


def configs(bark, n):
    return stage_configs(compat if isinstance(bark, BarkModel) else transformers)[:n]


# The same exception as transformers, in our words.
BAD = {
    "both inputs": (reading(input_ids=IDS, inputs_embeds=torch.zeros(1, 5, 16)), "not both"),
    "neither": (reading(), "give input_ids or inputs_embeds"),
    "too many positions": (reading(input_ids=torch.zeros(1, 1025).long()), "1024 is out of range.* 1024"),
    "a position too far": (
        reading(input_ids=IDS, position_ids=torch.full((1, 5), 1024)),
        "1024 is out of range",
    ),
    "ids out of range": (reading(input_ids=IDS + 12_096), "index out of range"),
    "fine: both inputs": (filling(2, CODES, inputs_embeds=torch.zeros(1, 5, 16)), "not both"),
    "fine: neither": (filling(2), "give input_ids or inputs_embeds"),
    "fine: too many positions": (filling(2, torch.zeros(1, 1025, 8).long()), "1024 is out of range"),
    "fine: ids out of range": (filling(2, CODES + 1056), "index out of range"),
    "codebook 0": (filling(0, CODES), "codebook 0 is predicted by the coarse model"),
    "codebook 8": (filling(8, CODES), "codebook 8 does not exist: give 1 to 7"),
    "five codebooks": (filling(7, CODES[..., :5]), "shape .B, T, 8."),
    "no configuration": (
        lambda bark: bark.semantic.generate(GIVEN["semantic"]),
        "semantic_generation_config is",
    ),
    "coarse: no configurations": (
        lambda bark: bark.coarse_acoustics.generate(TOKENS),
        "generation_config is missing",
    ),
    "coarse: one configuration": (
        lambda bark: bark.coarse_acoustics.generate(TOKENS, *configs(bark, 1)),
        "coarse_generation_config is missing",
    ),
    "fine: two configurations": (
        lambda bark: bark.fine_acoustics.generate(torch.full((1, 4), 10_000), *configs(bark, 2)),
        "fine_generation_config is missing",
    ),
    "coarse: tokens out of range": (
        lambda bark: bark.coarse_acoustics.generate(TOKENS + 20_000, *configs(bark, 2)),
        "index out of range",
    ),
    "half a frame": (
        lambda bark: bark.fine_acoustics.generate(torch.full((1, 5), 10_000), *configs(bark, 3)),
        "not a whole number of frames",
    ),
    "text out of range": (
        lambda bark: bark.generate(GIVEN["semantic"] + 200_000),
        "ids that the model has no embedding for",
    ),
    "negative text": (
        lambda bark: bark.generate(GIVEN["semantic"] - 20_000),
        "ids that the model has no embedding for",
    ),
    "temperature 0": (generating(temperature=0), "do_sample=False is greedy"),
    "temperature -1": (generating(temperature=-1.0), "float above 0"),
    "temperature 2, an integer": (generating(semantic_temperature=2), "float above 0"),
    "a word": (generating(temperature="warm"), "float above 0"),
    "coarse temperature": (generating(coarse_temperature=0.0), "float above 0"),
    "fine temperature": (generating(fine_temperature=0), "fine temperature is 0"),
    "top_k": (generating(top_k=-1), "top_k is -1"),
    "top_k, a fraction": (generating(semantic_top_k=2.5), "top_k is 2.5"),
    "top_p": (generating(top_p=-0.5), "top_p is -0.5"),
    "min_eos_p 0": (generating(min_eos_p=0), "min_eos_p is 0"),
    "min_eos_p -1": (generating(min_eos_p=-1.0), "min_eos_p is -1"),
    "unknown": (generating(nonsense=3), "'nonsense' is not used"),
    "a configuration's entry": (generating(coarse_infer_token=1), "'infer_token' is not used"),
    "for all stages": (generating(max_new_tokens=5), "give semantic_max_new_tokens"),
    "no tokens": (generating(semantic_max_new_tokens=0), "max_semantic_tokens is 0"),
    "tokens, a word": (generating(semantic_max_new_tokens="few"), "must be a whole number"),
    "a voice's name": (generating(history_prompt="v2/en_speaker_6"), "history_prompt is a str"),
    "codebook_size": (generating(codebook_size=5), "'codebook_size' is not used|multiple values"),
    "heads": (
        lambda bark: (compat if isinstance(bark, BarkModel) else transformers).BarkSemanticModel(
            small("semantic", num_heads=3)[1 if isinstance(bark, BarkModel) else 3]
        ),
        "16 is not a multiple of num_heads 3",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(model, oracle, case):
    call, match = BAD[case]
    with pytest.raises(Exception) as expected:  # measured, not written down
        call(oracle)
    with pytest.raises(expected.type, match=match):
        call(model)


# Another exception than transformers', or one where it has none.
BETTER = {
    "no text": (lambda bark: bark.generate(), ValueError, "must be whole numbers"),
    "a list": (lambda bark: bark.generate([[1, 2]]), ValueError, "must be whole numbers"),
    "one axis": (
        lambda bark: bark.generate(GIVEN["semantic"][0]),
        ValueError,
        r"shape \(B, n\), not \(256,\)",
    ),
    "fractions": (lambda bark: bark.generate(GIVEN["semantic"] / 2), ValueError, "must be whole numbers"),
    "no rows": (lambda bark: bark.generate(GIVEN["semantic"][:0]), ValueError, r"not \(0, 256\)"),
    "a mask of another width": (
        generating(attention_mask=torch.ones(1, 255).long()),
        ValueError,
        r"\(1, 255\), input_ids \(1, 256\)",
    ),
    "mask": (
        reading(input_ids=IDS, attention_mask=torch.ones(1, 7).long()),
        ValueError,
        r"\(1, 7\); it must be \(1, 5\) or \(1, 1, 5, 5\)",
    ),
    "mask, too many rows": (
        reading(input_ids=IDS, attention_mask=torch.ones(2, 5).long()),
        ValueError,
        r"must be \(1, 5\)",
    ),
    "mask, four dimensions": (
        reading(input_ids=IDS, attention_mask=torch.ones(1, 1, 5, 7).bool()),
        ValueError,
        "it must be",
    ),
    "mask, a bias": (
        reading(input_ids=IDS, attention_mask=torch.ones(1, 1, 5, 5)),
        ValueError,
        "very negative",
    ),
    "head_mask": (reading(input_ids=IDS, head_mask=torch.ones(3)), ValueError, r"must be \(2,\) or \(2, 2\)"),
    "codebook -1": (filling(-1, CODES), IndexError, "codebook -1 does not exist"),
    "beams": (generating(num_beams=4), ValueError, "does not offer num_beams=4; leave it at 1"),
    "a penalty": (generating(coarse_repetition_penalty=1.3), ValueError, "does not offer repetition_penalty"),
    "min_p": (generating(min_p=0.1), ValueError, "does not offer min_p=0.1"),
    "a processor": (generating(logits_processor=[print]), ValueError, "does not offer logits_processor"),
    "further settings": (generating(assistant_ensemble_weight=1.0), ValueError, "does not offer"),
    "another end": (generating(semantic_eos_token_id=5), ValueError, "this model ends with 10000"),
    "top_p above 1": (generating(top_p=1.5), ValueError, "top_p is 1.5"),
    "fine temperature below 0": (generating(fine_temperature=-1.0), RuntimeError, "must be above 0"),
    "a stage's own voice": (generating(coarse_history_prompt={}), ValueError, "'history_prompt' is not used"),
    "a voice that is none": (generating(history_prompt={}), ValueError, "no semantic_prompt"),
    "a whole configuration": (
        lambda bark: BarkSemanticModel(bark.config),
        ValueError,
        "needs a BarkSemanticConfig, not BarkConfig",
    ),
    "two vocabularies": (
        lambda bark: BarkFineModel(small("fine_acoustics", output_vocab_size=9)[1]),
        ValueError,
        "vocabulary sizes differ",
    ),
}


@pytest.mark.parametrize("case", BETTER)
def test_bad_input_in_other_words(model, oracle, case):
    call, error, match = BETTER[case]
    with pytest.raises(error, match=match):
        call(model)


def test_configurations_that_are_refused(model, inputs):
    """What is not offered is not offered in a configuration either; nor is the sampling of old files."""
    try:
        for changes, match in (({"num_beams": 2}, "num_beams=2"), ({"min_p": 0.2}, "min_p=0.2")):
            settings(model, {"coarse_acoustics_config": changes})
            with pytest.raises(ValueError, match=match):
                model.generate(**inputs, **SHORT)
        settings(model, {"semantic_config": {"suppress_tokens": [], "num_beams": 1, "typical_p": 1.0}})
        model.generate(**inputs, semantic_max_new_tokens=2)
    finally:
        settings(model, {})


@pytest.mark.parametrize("name", ["coarse_temperature", "coarse_nonsense", "fine_temperature"])
def test_bad_settings_of_late_stages_show_at_once(model, inputs, monkeypatch, name):
    monkeypatch.setattr(model.semantic, "generate", None)
    with pytest.raises((ValueError, RuntimeError)):
        model.generate(**inputs, **{name: -1.0})


def test_more_new_tokens_than_positions(model):
    """768 are made, where transformers' positions run out."""
    made, _ = stage(model, "semantic", 1, GIVEN["semantic"], {}, max_new_tokens=800, do_sample=False)
    assert made.shape == (1, 768)


def test_sizes_that_no_bark_has():
    """Regressions: a model without layers; ids blamed for a vocabulary that is too small; shapes of ids."""
    small = dict(num_layers=1, num_heads=1, hidden_size=8, block_size=300)
    with pytest.raises(ValueError, match="sizes must be 1 or more"):
        compat.BarkSemanticModel(compat.BarkSemanticConfig(**{**small, "num_layers": -1}))
    model = compat.BarkSemanticModel(compat.BarkSemanticConfig(**small))
    config = compat.BarkSemanticGenerationConfig()
    with pytest.raises(IndexError, match="input_vocab_size is 10048, but the prompt has ids up to 129599"):
        model.generate(torch.ones(1, 256, dtype=torch.long), config)
    for given in ([1, 2], torch.tensor([1, 2]), torch.ones(1, 1, 1)):
        with pytest.raises(ValueError, match="input_ids must be a tensor of 2 dimensions, not"):
            model(given)
    with pytest.raises(ValueError, match="inputs_embeds must be a tensor of 3 dimensions"):
        model(inputs_embeds=torch.ones(1, 8))

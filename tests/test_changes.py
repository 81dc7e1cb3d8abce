"""What a researcher changes, each in one place: a sampler, an attention, an adapter, a codec, an engine."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from barklite import Bark, BarkConfig, CompileConfig, GenerationConfig, SamplingConfig, reference
from barklite.decode.engine import PLAIN, Engine
from barklite.models.gpt import GPT, MLP, Attention, Head
from barklite.speed import quantize
from barklite.speed.compiled import CompiledCPUEngine
from barklite.speed.graphs import StepEngine
from tests.builders import wide

SHORT = GenerationConfig(max_seconds=0.4)


def copy_of(model: Bark) -> Bark:
    """The same models in a Bark with an engine of its own."""
    names = "semantic", "coarse", "fine", "codec"
    return Bark(model.config, model.tokenizer, {name: getattr(model, name) for name in names})


def tokens(model: Bark, config: GenerationConfig = SHORT) -> tuple[list, list]:
    clip = model.generate("Hello", seed=1, config=config)
    return clip.semantic.tolist(), clip.codes.tolist()


@cache
def unchanged() -> tuple[list, list]:
    """The tokens of `wide()`."""
    return tokens(wide())


def by_the_reference(model: Bark, config: GenerationConfig = SHORT) -> tuple[list, list]:
    semantic, codes, _ = reference.generate(model, "Hello", None, 1, config)
    return semantic.tolist(), codes.tolist()


# --- another sampler ----------------------------------------------------------------------------------------


def min_p(logits, past):
    """Keep ids with at least a tenth of the largest probability."""
    p = logits.softmax(-1)
    return logits.masked_fill(p < 0.1 * p.amax(-1, keepdim=True), -torch.inf)


def no_repeats(logits, past):
    """Never an id that the row has drawn before."""
    return torch.stack([row.index_fill(0, ids, -torch.inf) for row, ids in zip(logits, past, strict=True)])


def test_a_sampler_of_ones_own(tiny):
    config = replace(SHORT, semantic=SamplingConfig(1.0, filter=min_p))
    assert tokens(tiny, config)[0] != tokens(tiny, replace(SHORT, semantic=SamplingConfig(1.0)))[0]
    assert tokens(tiny, config) == by_the_reference(tiny, config)


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "graphs"])
def test_a_sampler_that_sees_past_tokens(fast, tiny):
    greedy = replace(SHORT, semantic=SamplingConfig(0), coarse=SamplingConfig(0))
    unlike = replace(
        greedy, semantic=SamplingConfig(0, filter=no_repeats), coarse=SamplingConfig(0, filter=no_repeats)
    )
    model = copy_of(tiny)
    if fast:
        models = [tiny.semantic, tiny.coarse]
        model.engine = StepEngine(models, torch.device("cpu"), CompileConfig(backend=None))
    semantic, codes = tokens(model, unlike)
    assert (semantic, codes) == by_the_reference(tiny, unlike)
    assert len({*semantic}) == len(semantic)
    assert all(len({*book}) == len(book) for book in codes[:2])
    assert tokens(tiny, greedy)[1] != codes
    rows = model.generate_batch(["Hello", "a"], seeds=[1, 2], config=unlike)
    assert rows[0].semantic.tolist() == semantic


@pytest.mark.parametrize(
    "filter, message",
    [
        (lambda logits, past: torch.full_like(logits, -torch.inf), "left a row no id"),
        (lambda logits, past: None, r"shape \(1, \d+\), not NoneType"),
        (lambda logits, past: logits[:, :-1], r"shape \(1, \d+\), not \(1, \d+\)"),
    ],
)
def test_filters_that_are_wrong(tiny, filter, message):
    config = replace(SHORT, semantic=SamplingConfig(0.7, filter=filter))
    with pytest.raises(ValueError, match=f"the filter .*{message}"):
        tiny.generate("Hello", seed=1, config=config)


def test_a_filter_is_not_saved():
    config = replace(BarkConfig.tiny(), generation=GenerationConfig(semantic=SamplingConfig(filter=min_p)))
    assert "filter" not in config.to_dict()["generation"]["semantic"]
    assert BarkConfig.from_dict(config.to_dict()).generation.semantic.filter is None
    with pytest.raises(ValueError, match="filter"):
        SamplingConfig(filter="min_p")
    with pytest.raises(ValueError, match="filter"):
        GenerationConfig(fine=SamplingConfig(0.5, filter=min_p))


# --- another attention, an adapter --------------------------------------------------------------------------


class Windowed(Attention):
    """Attends to the last 32 positions only."""

    def attend(self, q, k, v, mask, causal):
        T, S = q.shape[2], k.shape[2]
        keys = torch.arange(S, device=q.device)
        mask = keys <= keys[S - T :, None] if mask is None else mask  # (..., T, S)
        newest = (mask * keys).amax(-1, keepdim=True)  # each query's own position
        return super().attend(q, k, v, mask & (keys > newest - 32), False)


class Doubled(nn.Linear):
    """An adapter of the simplest kind."""

    def forward(self, x):
        return super().forward(x) + 2 * x.roll(1, -1)


def windowed(model: Bark) -> None:
    for block in (*model.semantic.h, *model.coarse.h):
        block.attn.__class__ = Windowed


def adapted(model: Bark) -> None:
    for block in (*model.semantic.h, *model.coarse.h):
        block.attn.c_proj.__class__ = Doubled


def patched(model: Bark) -> None:
    for block in (*model.semantic.h, *model.coarse.h):
        block.attn.attend = lambda q, k, v, mask, causal: q.roll(1, -1)


def biased(model: Bark) -> None:
    for block in (*model.semantic.h, *model.coarse.h):
        new = nn.Linear(*block.attn.c_proj.weight.shape[::-1])  # with a bias
        new.weight = block.attn.c_proj.weight
        nn.init.normal_(new.bias, std=2.0)
        block.attn.c_proj = new


def biased_norms(model: Bark) -> None:
    for block in (*model.semantic.h, *model.coarse.h):
        block.ln_1.bias = nn.Parameter(torch.randn_like(block.ln_1.weight))


def other_eps(model: Bark) -> None:
    for block in (*model.semantic.h, *model.coarse.h):
        block.ln_2.eps = 3.0


def fewer_layers(model: Bark) -> None:
    model.semantic.h, model.coarse.h = model.semantic.h[:1], model.coarse.h[:1]


def another_head(model: Bark) -> None:
    model.semantic.lm_head = Head(*model.semantic.lm_head.weight.shape[::-1], bias=False)
    nn.init.normal_(model.semantic.lm_head.weight)


CHANGES = {
    "attention": windowed,
    "adapter": adapted,
    "method": patched,
    "bias": biased,
    "norms": biased_norms,
}
CHANGES |= {"bias": biased, "norms": biased_norms, "eps": other_eps, "layers": fewer_layers}


def use_engine(kind: str, model: Bark, monkeypatch) -> None:
    """Give a model one of the engines, uncompiled."""
    models = [model.semantic, model.coarse]
    if kind == "graphs":
        model.engine = StepEngine(models, torch.device("cpu"), CompileConfig(backend=None))
    if kind == "compiled":
        monkeypatch.setattr(CompiledCPUEngine, "_compiled", lambda self, module, *_: module)
        model.engine = CompiledCPUEngine(models)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("kind", ["plain", "graphs", "compiled"])
def test_a_changed_model_is_never_computed_as_it_was(kind, change, monkeypatch):
    model, before = wide(), unchanged()
    use_engine(kind, model, monkeypatch)
    assert tokens(model) == before
    change(model)
    assert tokens(model) == by_the_reference(model) != before


@pytest.mark.parametrize("owner, name", [(Attention, "attend"), (MLP, "forward"), (GPT, "forward")])
@pytest.mark.parametrize("kind", ["plain", "graphs", "compiled"])
def test_a_class_that_was_changed(kind, owner, name, monkeypatch):
    """Not a module, but what all modules of its kind do."""
    model, before = wide(), unchanged()
    use_engine(kind, model, monkeypatch)
    original = getattr(owner, name)

    def changed(self, *given, **named):
        if name == "attend":
            return original(self, given[0].roll(1, -1), *given[1:], **named)
        result = original(self, *given, **named)
        return result.roll(1, -1) if owner is MLP else (result[0].roll(1, -1), result[1])

    monkeypatch.setattr(owner, name, changed)
    assert tokens(model) == by_the_reference(model) != before
    if owner is not GPT:
        with pytest.raises(ValueError, match="would be lost"):
            quantize.shrink(model.semantic, "int8", "cpu")


@pytest.mark.parametrize("change", [windowed, adapted, patched, biased], ids=lambda change: change.__name__)
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_quantizing_refuses_what_it_would_lose(format, change):
    model = wide()
    change(model)
    with pytest.raises(ValueError, match="would be lost: quantize first"):
        quantize.shrink(model.semantic, format, "cpu")


def test_an_adapter_on_quantized_weights_counts():
    """Put on afterwards, around a quantized layer."""

    class Adapter(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base

        def forward(self, x):
            return self.base(x) + 2 * x.roll(1, -1)

    model = wide(quantize="int8")
    before = tokens(model)
    for block in model.semantic.h:
        block.attn.c_proj = Adapter(block.attn.c_proj)
    assert tokens(model)[0] != before[0]


# --- another codec, another engine --------------------------------------------------------------------------


def test_another_codec(tiny):
    class Ramp(nn.Module):
        """Any module that makes (B, hop T) of codes (B, K, T)."""

        def __init__(self, config):
            super().__init__()
            self.config = config

        def forward(self, codes):
            return codes[:, 0].float().repeat_interleave(self.config.hop, -1) / 1024

    models = {n: getattr(tiny, n) for n in ("semantic", "coarse", "fine")}
    model = Bark(tiny.config, tiny.tokenizer, models | {"codec": Ramp(tiny.config.codec)})
    clip = model.generate("Hello", seed=1, config=SHORT)
    assert np.array_equal(clip.audio[:: tiny.config.codec.hop], clip.codes[0].astype(np.float32) / 1024)


def test_another_rate_and_no_known_layers(tiny):
    """A codec of 48 kHz: files and pauses have its rate, and it is streamed whole."""

    class Hum(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = replace(tiny.config.codec, sample_rate=48_000, ratios=(8, 5, 4, 6))

        def forward(self, codes):
            return codes[:, 0].float().repeat_interleave(self.config.hop, -1) / 1024

    models = {n: getattr(tiny, n) for n in ("semantic", "coarse", "fine")}
    model = Bark(tiny.config, tiny.tokenizer, models | {"codec": Hum()})
    clips = list(model.stream("One. Two.", seed=1, config=SHORT, pause=0.1))
    assert {clip.sample_rate for clip in clips} == {48_000}
    assert len(clips[0].audio) == clips[0].codes.shape[1] * 960 + 4800
    pieces = list(model.stream_audio("One. Two.", seed=1, config=SHORT, pause=0.1, piece=0.1))
    assert np.array_equal(np.concatenate(pieces), np.concatenate([clip.audio for clip in clips]))
    assert len(pieces) > 5


def test_what_cannot_be_loaded_is_not_saved(tiny, tmp_path):
    model = wide()
    model.semantic.h[0].attn.c_proj = nn.Sequential(model.semantic.h[0].attn.c_proj)
    with pytest.raises(ValueError, match=r"semantic model cannot be saved .*attn\.c_proj\.weight.* missing"):
        model.save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_another_number_of_coarse_codebooks_needs_other_ids():
    tiny = BarkConfig.tiny()
    coarse = replace(tiny.coarse, input_vocab_size=14_100, output_vocab_size=14_100)
    with pytest.raises(ValueError, match="coarse_pad or coarse_infer is the id of a code"):
        replace(tiny, coarse=coarse, tokens=replace(tiny.tokens, n_coarse=3))


def test_an_engine_of_ones_own(tiny):
    """An engine that counts steps, and computes each without a cache."""

    class Naive(Engine):
        steps = 0

        def prefill(self, model, prompts, cache, rows):
            self.prompt = prompts if prompts.ndim == 3 else model.wte(prompts)
            super().prefill(model, prompts, cache, rows)

        def decode(self, model, ids, cache, samplers, noise, past=(), forward=None):
            def naive(ids, cache, last, vocab):
                self.steps += 1
                self.prompt = torch.cat((self.prompt, model.wte(ids)), 1)
                cache.grow(1)
                return model(embeds=self.prompt, last=last, vocab=vocab)

            return super().decode(model, ids, cache, samplers, noise, past, naive)

    model = copy_of(tiny)
    model.engine = Naive()
    assert tokens(model) == tokens(tiny)
    assert model.engine.steps == 20 + 60
    assert tiny.engine is PLAIN

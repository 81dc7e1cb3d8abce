"""Engines: compiled steps on the CPU, and the graphs' logic, which without a GPU runs uncaptured."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from barklite import Bark, BarkConfig, CompileConfig, GenerationConfig, SamplingConfig
from barklite.decode import engine
from barklite.decode.sampling import TokenSampler
from barklite.speed import compiled as compile
from barklite.speed import graphs, many_rows, quantize
from barklite.storage import native
from tests import builders, test_changes
from tests.builders import wide
from tests.comparing import is_layer
from tests.comparing import same_tokens as same

ROOT = Path(__file__).resolve().parents[1]
VOICE = builders.voice("announcer")
GREEDY = SamplingConfig(0)
SUNO = GenerationConfig(max_seconds=2.0)
SETTINGS = {
    "suno": SUNO,
    "transformers": GenerationConfig.transformers(max_seconds=2.0),
    "filters": replace(SUNO, semantic=SamplingConfig(0.9, 50, 0.8), coarse=SamplingConfig(0.6, 20, 0.9)),
    "greedy": replace(SUNO, semantic=GREEDY, coarse=GREEDY, fine=GREEDY),
}


def with_engine(bark, other_engine):
    """The same models with another engine."""
    models = {name: getattr(bark, name) for name in ("semantic", "coarse", "fine", "codec")}
    other = Bark(bark.config, bark.tokenizer, models)
    other.engine = other_engine
    return other


def step_logits(computed, model, cache, ids, vocab):
    """Logits (n, V) of n steps, each given the next of `ids`."""
    seen = []

    class Recorder(TokenSampler):
        def __call__(self, logits, noise, past=()):
            seen.append(logits[0])
            return super().__call__(logits, noise, past)

    recorder = Recorder(vocab.start, vocab.stop, GREEDY, "suno", vocab.stop - vocab.start)
    for i in range(len(ids)):
        computed.decode(model, ids[i : i + 1], cache, [recorder], None)
    return torch.stack(seen)


# --- the CPU's compiled steps -------------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Barks with compiled steps by format, and the cache that they share; each is compiled once."""
    cache, made = tmp_path_factory.mktemp("compiled"), {}

    def get(monkeypatch, **options):
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        key = str(options)
        if key not in made:
            made[key] = wide(compile=True, **options)
        return made[key]

    return get


@needs_compiler
@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("voice", [None, VOICE], ids=["no voice", "voice"])
def test_compiled_steps_give_the_same_tokens(config, voice, compiled, monkeypatch):
    bark = compiled(monkeypatch)
    assert isinstance(bark.engine, compile.CompiledCPUEngine)
    plain = with_engine(bark, engine.PLAIN)
    assert same(bark.generate("Hello", voice, 1, config), plain.generate("Hello", voice, 1, config))


@needs_compiler
@pytest.mark.parametrize(
    "options", [dict(dtype="float16"), dict(quantize="int8"), dict(quantize="int4")], ids=str
)
def test_compiled_steps_of_small_weights(options, compiled, monkeypatch):
    """Logits near those of the modules: activations are rounded there, and here the cache is."""
    bark = compiled(monkeypatch, **options)
    ids, vocab = (
        torch.randint(0, 10_000, (1, 40), generator=torch.Generator().manual_seed(1)),
        slice(0, 10_001),
    )
    with torch.no_grad():
        logits = []
        for computed in (engine.PLAIN, bark.engine):
            cache = computed.new_cache(bark.semantic, 1, 40)
            computed.prefill(bark.semantic, ids[:, :30], cache, [0])
            logits.append(step_logits(computed, bark.semantic, cache, ids[0, 30:], vocab))
    p, q = (x.log_softmax(-1) for x in logits)
    assert float((p.exp() * (p - q)).sum(-1).mean()) < 2e-4
    assert cache.keys.dtype == torch.bfloat16
    assert not p.equal(q)
    assert bark.generate("Hello", VOICE, 1, SUNO).codes.shape[0] == 8


@needs_compiler
@pytest.mark.skipif(not quantize.has_int8_products(), reason="needs integer products")
@pytest.mark.parametrize("options", [dict(quantize="int8"), dict(quantize="int4")], ids=str)
def test_compiled_rows(options, compiled, monkeypatch):
    """Prompts and the fine model by compiled functions: what the modules compute, but for bfloat16."""
    bark = compiled(monkeypatch, **options)
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 1024, (2, 8, 200), generator=generator)
    monkeypatch.setattr(many_rows, "PIECE", 300)
    used = []
    forward = many_rows.RowsBlock.forward
    monkeypatch.setattr(
        many_rows.RowsBlock,
        "forward",
        lambda self, *given, **named: used.append(1) or forward(self, *given, **named),
    )
    for rows in (slice(0, 200), slice(150, 153)):
        with torch.no_grad():
            found, plain = (
                computed.fine_logits(bark.fine, 3, codes, rows, slice(0, 1024))
                for computed in (bark.engine, engine.PLAIN)
            )
        assert found.shape == plain.shape == (2, rows.stop - rows.start, 1024)
        assert 0 < float((found - plain).abs().max()) < 0.03 * float(plain.abs().max())
    assert len(used) == 2 * len(bark.fine.h)
    for rows, T in ((1, 300), (3, 40), (1, 2)):
        prompts = torch.randint(0, 10_000, (rows, T), generator=generator)
        caches = []
        for computed in (bark.engine, engine.PLAIN):
            cache = computed.new_cache(bark.coarse, 4, 400)
            with torch.no_grad():
                computed.prefill(bark.coarse, prompts, cache, range(rows))
            assert cache.lengths == [T] * rows
            caches.append(torch.stack((cache.keys, cache.values))[:, :, :rows, :, :T].float())
        found, plain = caches
        assert float((found - plain).abs().max()) < 0.03 * float(plain.abs().max())
        assert torch.equal(found, plain) == (T == 2)  # few rows have better kernels
    with torch.no_grad():  # a layer of another kind, or a changed one: the plain modules
        odd = wide(**options).fine
        odd.h[1].mlp.c_fc = torch.nn.Linear(64, 256, bias=False)
        before = len(used)
        computed = engine.engine_of(odd, bark.engine)
        assert torch.equal(computed.fine_logits(odd, 3, codes, slice(None), slice(None)), odd(3, codes)[0])
        assert len(used) == before


@needs_compiler
def test_an_adapter_under_the_real_compiler(compiled, monkeypatch):
    compiled(monkeypatch)
    bark = wide(compile=True)
    test_changes.adapted(bark)
    assert test_changes.tokens(bark) == test_changes.by_the_reference(bark)


@needs_compiler
def test_compiled_once(compiled, monkeypatch, capsys):
    """The second Bark loads from disk what the first one compiled, and does not wait for sympy's import."""
    first = compiled(monkeypatch)
    capsys.readouterr()

    def refuse(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(native, "compile_to", refuse)
    monkeypatch.setattr(torch.export, "Dim", refuse)
    second = wide(compile=True)
    assert second.engine.seconds == 0.0
    assert capsys.readouterr().err == ""
    assert same(first.generate("a", seed=1, config=SUNO), second.generate("a", seed=1, config=SUNO))
    with pytest.raises(AssertionError, match="compiled again"):
        Bark.from_config(BarkConfig.tiny(), device="cpu", compile=True)  # another size


def test_the_axes_of_many_rows_are_made_only_to_compile(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("not compiled, but sympy imported")

    monkeypatch.setattr(torch.export, "Dim", refuse)
    for _, _, axes in many_rows.parts(wide(quantize="int8").semantic):
        with pytest.raises(AssertionError, match="not compiled"):
            axes()


KEYS = """
from barklite.speed import compiled as compile
from barklite.storage import native
from tests.builders import wide
model = wide(quantize="int4").semantic
cache = compile.step_cache(model, 1, compile.cache_dtype(model))
keys, values, *weights = cache.keys[0, 0], cache.values[0, 0], *compile.block_tensors(model.h[0])
block = compile.BlockStep(model.h[0]), (keys, values, *weights[:2])
head = compile.HeadStep(model), compile.tensors(model.lm_head)
print(*(native._key(*part, [compile, compile.quantize]) for part in (block, head)))
"""


def test_keys_hold_for_the_next_process():
    """Regression: an address in the key made every process compile anew."""
    keys = [
        subprocess.run(
            [sys.executable, "-c", KEYS], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    assert keys[0] == keys[1]
    assert len({*keys[0].split()}) == 2


@needs_compiler
def test_a_changed_model_is_not_read_as_it_was(compiled, monkeypatch):
    """Regression: compiled steps read memory as they were told once; other weights get other steps."""
    bark = compiled(monkeypatch)
    plain, steps = with_engine(bark, engine.PLAIN), bark.engine
    other = wide(dtype="float16").semantic  # of another kind: compiled, here loaded, on demand
    compiled(monkeypatch, dtype="float16")
    seconds = steps.seconds
    changed = with_engine(bark, steps)
    changed.semantic = other
    assert len(changed.text_to_semantic(["a"], seeds=[1], config=SUNO)[0]) == 100
    assert steps.seconds == seconds
    odd = wide().semantic
    odd.h[1].half()
    with pytest.raises(ValueError, match="layers of the same sizes"):
        steps.new_cache(odd, 1, 10)
    assert same(bark.generate("a", seed=1, config=SUNO), plain.generate("a", seed=1, config=SUNO))


def test_no_compiler(monkeypatch):
    import torch._inductor

    def broken(*_, **__):
        raise RuntimeError("No working C++ compiler found\nin many lines")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", broken)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler .*: No working C\+\+ compiler found$"):
        wide(compile=True)
    assert not list(native.cache_directory().rglob("*.aoti"))


def test_bad_arguments():
    for given in (1, "yes", None):
        with pytest.raises(ValueError, match="compile is"):
            Bark.from_config(BarkConfig.tiny(), device="cpu", compile=given)
    with pytest.raises(ValueError, match="works on the CPU and on CUDA, not on mps"):
        compile.check_compile(True, torch.device("mps"))


# --- graphs -------------------------------------------------------------------------------------------------


def uncaptured(bark, **settings):
    config = CompileConfig(**{"backend": None, **settings})
    return with_engine(bark, graphs.StepEngine([bark.semantic, bark.coarse], torch.device("cpu"), config))


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("voice", [None, VOICE], ids=["no voice", "voice"])
def test_graphs_give_the_same_tokens(config, voice, tiny):
    bark = uncaptured(tiny)
    for seed in (1, 2):  # the second finds the first one's caches
        one, two = (b.generate("Hello", voice, seed, config) for b in (tiny, bark))
        assert same(one, two)
        assert np.allclose(one.audio, two.audio, atol=1e-5)


@pytest.mark.parametrize("settings", [
    dict(backend="eager", attention="sdpa"),
    dict(backend="eager", attention="flash", dynamic=True, chunk=5),
    dict(backend="aot_eager", attention="math", bucket=300),
    dict(backend="aot_eager", attention="decomposed", scope="step"),
], ids=str)  # fmt: skip
def test_every_setting_gives_the_same_tokens(settings, tiny):
    torch._dynamo.reset()
    clips = [b.generate("Hello", VOICE, 1, SUNO) for b in (tiny, uncaptured(tiny, **settings))]
    assert same(*clips)
    assert np.allclose(*(clip.audio for clip in clips), atol=1e-5)
    torch._dynamo.reset()


def test_products_of_one_row_are_sums(monkeypatch):
    found = []

    def kept(graph, inputs):
        found.append(sum(node.target is graphs.row_product for node in graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(torch._inductor, "compile", kept)
    weight, bias = torch.randn(8, 5), torch.randn(8)
    for shape, sums in (((5,), 3), ((1, 1, 5), 3), ((2, 1, 5), 0), ((1, 2, 5), 0)):
        x = torch.randn(shape)

        def products(x):
            named = F.linear(input=x, weight=weight)
            return (
                F.linear(x, weight),
                F.linear(x, weight, bias),
                F.linear(x, bias=bias, weight=weight),
                named,
            )

        ours = torch.compile(products, backend=graphs.inductor, fullgraph=True, dynamic=False)(x)
        assert found.pop() == sums
        for one, other in zip(ours, products(x), strict=True):
            assert one.shape == other.shape
            assert torch.allclose(one, other, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize(
    "settings", [dict(scope="step", backend=graphs.inductor), dict(attention="flex")], ids=["rows", "flex"]
)
def test_whole_steps_by_inductor(settings):
    """Sampling, the fine model's layers and the codec compiled too; the first as on CUDA."""
    config, plain = replace(SUNO, max_seconds=0.3), wide()
    bark = wide(compile=CompileConfig(**settings))
    clips = [b.generate("Hello", seed=1, config=config) for b in (plain, bark)]
    assert same(*clips)
    assert np.allclose(*(clip.audio for clip in clips), atol=1e-5)


def test_an_attention_of_ones_own(tiny):
    seen = []

    def attention(q, k, v, mask, positions, window=2000):
        seen.append((tuple(q.shape[:3]), k.shape[2], mask.sum(-1).flatten().tolist(), positions.tolist()))
        near = torch.arange(k.shape[2]) > positions[:, None, None, None] - window
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask & near)

    def short(*given):
        return attention(*given, window=4)

    plain = tiny.generate("Hello", seed=1, config=SUNO)
    assert same(uncaptured(tiny, attention=attention).generate("Hello", seed=1, config=SUNO), plain)
    shape, S, counts, positions = seen[-1]
    assert (shape, S % 256, counts) == ((1, 2, 1), 0, [positions[0] + 1])
    assert not same(uncaptured(tiny, attention=short).generate("Hello", seed=1, config=SUNO), plain)


@pytest.mark.parametrize("settings, message", [
    (dict(backend="turbo"), "backend is 'turbo'; choose 'inductor', 'aot_eager', 'eager' or None"),
    (dict(mode="fast"), "mode is 'fast'; choose None,"),
    (dict(attention="quick"), "attention is 'quick'; choose 'sdpa',"),
    (dict(dynamic=1), "dynamic is 1; choose False or True"),
    (dict(scope="model"), "scope is 'model'; choose 'layer' or 'step'"),
    (dict(chunk=0), "chunk is 0; it must be a whole number"),
    (dict(bucket=2.5), "bucket is 2.5; it must be a whole number"),
    (dict(backend="eager", mode="default"), "mode 'default' is inductor's, and backend is 'eager'"),
    (dict(backend=None, attention="flex"), "attention 'flex' needs backend 'inductor'"),
    (dict(mode="reduce-overhead"), "makes CUDA graphs of its own: set cuda_graphs=False"),
    (dict(mode="max-autotune"), "makes CUDA graphs of its own: set cuda_graphs=False"),
], ids=str)  # fmt: skip
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        CompileConfig(**settings)


def test_small_weights_take_no_config_on_the_cpu():
    for options in (dict(quantize="int8"), dict(dtype="float16")):
        with pytest.raises(ValueError, match="compiles float32 weights: for smaller ones compile=True"):
            wide(compile=CompileConfig(backend="eager"), **options)


@pytest.mark.parametrize("attention, device, message", [
    ("flash", "cuda", "'flash' is for the CPU: on CUDA its kernel takes no mask"),
    ("efficient", "cpu", "'efficient' is for CUDA"),
    ("cudnn", "cpu", "'cudnn' is for CUDA"),
])  # fmt: skip
def test_kernels_that_a_device_has_not(attention, device, message):
    with pytest.raises(ValueError, match=message):
        compile.check_compile(CompileConfig(attention=attention), torch.device(device))


@pytest.mark.parametrize("min_eos_p", [0.00012, 0.00016, 0.0002, 0.00025, 0.0003])
def test_an_end_within_a_chunk(min_eos_p, tiny):
    """What a chunk drew beyond the end is dropped, and its noise goes back to the row's generator."""
    config, bark = replace(SUNO, min_eos_p=min_eos_p, max_seconds=4.0), uncaptured(tiny)
    for seed in range(4):
        rows, generators = [], []
        for b in (tiny, bark):
            generators.append(torch.Generator().manual_seed(seed))
            rows.append(b.text_to_semantic(["Hello"], seeds=generators[-1:], config=config)[0])
        assert torch.equal(*rows)
        assert torch.equal(*(g.get_state() for g in generators))


def test_ends_fall_within_chunks(tiny):
    """Of the test above: some of its rows do end, and not only at a chunk's end."""
    lengths = [
        len(
            tiny.text_to_semantic(["Hello"], seeds=[s], config=replace(SUNO, min_eos_p=p, max_seconds=4.0))[0]
        )
        for p in (0.00016, 0.0002, 0.00025)
        for s in range(4)
    ]
    assert len({n % CompileConfig.chunk for n in lengths if n < 199}) >= 3, lengths


class NoSynchronisation(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU."""

    forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")
    methods = ("tolist", "numpy", "cpu", "__array__")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in self.forbidden, f"{name} waits for the device"
        if name in ("index", "index_put", "index_put_"):
            masks = [i for i in args[1] if i is not None and i.dtype == torch.bool]
            assert not masks, f"{name} with a mask waits for the device"
        return function(*args, **(kwargs or {}))

    def __enter__(self):
        def refuse(name):
            def method(*_, **__):
                raise AssertionError(f"{name} waits for the device")

            return method

        self.kept = {name: getattr(torch.Tensor, name) for name in self.methods}
        for name in self.methods:
            setattr(torch.Tensor, name, refuse(name))
        return super().__enter__()

    def __exit__(self, *error):
        for name, method in self.kept.items():
            setattr(torch.Tensor, name, method)
        return super().__exit__(*error)


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_no_synchronisation_within_a_chunk(config, tiny, monkeypatch):
    chunks, decode = [], graphs.StepEngine.decode

    def watched(self, *arguments):
        chunks.append(len(arguments[3]))
        with NoSynchronisation():
            return decode(self, *arguments)

    if config.coarse.top_p is not None and config.rules == "suno":
        monkeypatch.setattr(
            "barklite.decode.sampling._cumulative", lambda x: x.softmax(-1).cumsum(-1)
        )  # as on CUDA
    monkeypatch.setattr(graphs.StepEngine, "decode", watched)
    uncaptured(tiny).generate("Hello", seed=1, config=config)
    assert chunks[:2] == [CompileConfig.chunk] * 2
    assert max(chunks) == CompileConfig.chunk
    x = torch.ones(2)
    waits = (
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x[x > 0],
        torch.nonzero,
    )
    for wait in waits:
        with pytest.raises(AssertionError, match="waits for the device"), NoSynchronisation():
            wait(x)


def test_shapes_are_static(tiny):
    """A block is traced whole, once a bucket and size, however many layers, models, texts and lengths."""
    traced = []

    def backend(graph, example):
        if is_layer(graph):
            traced.append([tuple(x.shape) for x in example])
        return graph.forward

    torch._dynamo.reset()
    bark = uncaptured(tiny, backend=backend)
    buckets = tiny.semantic.config.block_size // CompileConfig.bucket
    assert len(traced) == buckets
    for seed, text in enumerate(("Hello", "Hello world, hello again")):
        config = replace(SUNO, max_seconds=1.0 + seed)
        assert same(
            bark.generate(text, seed=seed, config=config), tiny.generate(text, seed=seed, config=config)
        )
    assert len(traced) == buckets
    kept = len(bark.engine._graphs)
    bark.generate("a third text", VOICE, seed=5, config=replace(SUNO, max_seconds=1.7))
    bark.generate("a third text", seed=5, config=replace(SUNO, max_seconds=1.9))
    assert len(bark.engine._graphs) <= kept + 7 + 6  # a voice's fine window starts elsewhere; longer caches
    torch._dynamo.reset()


def test_fine_and_codec_of_any_length(tiny):
    """Rows are cut from bucketed shapes: the same logits and samples."""
    engine = uncaptured(tiny).engine
    codes = torch.randint(0, 1024, (1, 8, 1024), generator=torch.Generator().manual_seed(0))
    vocab = slice(0, 1024)
    with torch.no_grad():
        for rows in (slice(0, 1024), slice(0, 300), slice(130, 1024), slice(512, 700)):
            expected = tiny.fine(7, codes, rows=rows, vocab=vocab)[0]
            assert torch.allclose(engine.fine_logits(tiny.fine, 7, codes, rows, vocab), expected, atol=1e-5)
        for T in (1, 6, 15, 16, 127, 128, 129, 300):
            expected = tiny.codec.decode(codes[..., :T])
            found = engine.synthesize(tiny.codec, codes[..., :T])
            assert found.shape == expected.shape == (1, 320 * T)
            assert torch.allclose(found, expected, atol=1e-5)


def test_graphs_of_moved_weights_are_dropped(tiny):
    bark = uncaptured(tiny)
    bark.generate("Hello", seed=1, config=SUNO)
    engine, model = bark.engine, tiny.semantic
    before = {key for key in engine._graphs if key[0] is model}
    others = len(engine._graphs) - len(before)
    kept = model.wpe.weight.data
    try:
        model.wpe.weight.data = kept.clone()
        engine._forget_moved(model)
    finally:
        model.wpe.weight.data = kept
    assert before
    assert len(engine._graphs) == others


# --- exact savings of the plain path ------------------------------------------------------------------------


def test_the_last_block_computes_what_is_read(tiny):
    ids = torch.randint(0, 10_000, (2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.rand(2, 1, 30, 30, generator=torch.Generator().manual_seed(1)) < 0.8
    mask |= torch.eye(30, dtype=torch.bool)
    with torch.no_grad():
        for options in ({}, dict(mask=mask), dict(mask=mask[..., :1, :])):
            whole, last = (tiny.semantic(ids, last=only, **options)[0] for only in (False, True))
            assert torch.allclose(last, whole[:, -1:], atol=1e-5)
        codes = torch.randint(0, 1024, (2, 8, 50), generator=torch.Generator().manual_seed(0))
        mask = torch.rand(2, 1, 50, 50, generator=torch.Generator().manual_seed(1)) < 0.8
        mask |= torch.eye(50, dtype=torch.bool)
        for options in ({}, dict(mask=mask), dict(mask=mask[:, :, :1] | torch.ones(1, dtype=torch.bool))):
            whole = tiny.fine(3, codes, **options)[0]
            assert torch.allclose(
                tiny.fine(3, codes, rows=slice(20, 31), **options)[0], whole[:, 20:31], atol=1e-5
            )


# --- on a GPU -----------------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("options", [
    dict(dtype="float32"), dict(dtype="bfloat16"), dict(dtype="float16"),
    dict(dtype="bfloat16", quantize="int8"),
    dict(dtype="float32", offload=True),
], ids=str)  # fmt: skip
def test_captured_steps(options, native):
    """Captured and compiled, in float32 with greedy draws the plain path's tokens; a seed repeats itself."""
    bark = Bark.from_pretrained(native, device="cuda", compile=True, **options)
    clips = [bark.generate("Hello", VOICE, 1, SUNO) for _ in range(2)]
    assert same(*clips)
    if options["dtype"] == "float32":
        plain = Bark.from_pretrained(native, device="cuda", dtype="float32")
        greedy = SETTINGS["greedy"]
        assert same(bark.generate("Hello", VOICE, 1, greedy), plain.generate("Hello", VOICE, 1, greedy))


@pytest.mark.cuda
def test_a_new_text_captures_nothing(native):
    bark = Bark.from_pretrained(native, device="cuda", compile=True)
    bark.generate("Hello", seed=1, config=SUNO)
    kept = set(bark.engine._graphs)
    bark.generate("Hello again", seed=2, config=SUNO)
    assert set(bark.engine._graphs) == kept

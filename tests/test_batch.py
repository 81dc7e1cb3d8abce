"""Rows together give what each gives alone: mixed voices, seeds, lengths and ends, by both rules."""

import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from barklite import Bark, BarkConfig, CompileConfig, GenerationConfig, Request, SamplingConfig, reference
from barklite.decode import engine, sampling
from barklite.decode.batch import PREFIX_FRAMES, BatchDecoder, synthesize
from barklite.decode.stages import CoarseStage
from barklite.speed import graphs
from tests import builders
from tests.comparing import assert_same_clip as same
from tests.comparing import is_layer

VOICES = (None, builders.voice("a", 120), builders.voice("b", 700, 1), builders.voice("c", 33, 2))
GREEDY = SamplingConfig(0)
STAGES = ("semantic", "coarse", "fine", "codec")
# With random weights 10,001 ids are nearly even: at this likelihood of the end rows have 2 to 300 tokens.
SUNO = GenerationConfig(min_eos_p=0.0008, max_seconds=6.0)
SETTINGS = {
    "suno": SUNO,
    "transformers": GenerationConfig.transformers(min_eos_p=0.0008, max_seconds=3.0),
    "filters": replace(
        SUNO, semantic=SamplingConfig(0.9, 50, 0.8), coarse=SamplingConfig(0.6, 20, 0.9), max_seconds=2.0
    ),
    "greedy": replace(SUNO, max_seconds=1.5, semantic=GREEDY, coarse=GREEDY, fine=GREEDY),
    "short history": replace(SUNO, max_coarse_history=60, max_seconds=3.0),
}


def requests(n, seed=16):
    """Texts of all lengths, with any voice or none."""
    random = np.random.default_rng(seed)
    texts = [
        "".join(random.choice(list("abc de")) for _ in range(random.integers(1, 60))) + "." for _ in range(n)
    ]
    return [Request(text, VOICES[random.integers(len(VOICES))], int(s)) for s, text in enumerate(texts, seed)]


def with_graphs(bark, backend=None):
    """The same models with the graphs' engine, which without a GPU runs uncaptured."""
    fast = Bark(bark.config, bark.tokenizer, {name: getattr(bark, name) for name in STAGES})
    models = [bark.semantic, bark.coarse]
    fast.engine = graphs.StepEngine(models, torch.device("cpu"), CompileConfig(backend=backend))
    return fast


MADE = {}  # clips made alone, which several tests compare with


def alone(bark, given, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a text that ends at once is fine here
        for one in given:
            key = bark, one.text, one.voice, one.seed, config
            if key not in MADE:
                MADE[key] = bark.generate(one.text, one.voice, one.seed, config)
    return [MADE[bark, one.text, one.voice, one.seed, config] for one in given]


@pytest.mark.parametrize("n", [2, 16])
@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_a_batch_is_its_rows(n, config, tiny):
    given = requests(16)[-n:]
    columns = [one.text for one in given], [one.voice for one in given], [one.seed for one in given]
    expected = alone(tiny, given, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = tiny.generate_batch(*columns, config, batch_size=n)
    for one, two in zip(expected, together, strict=True):
        same(one, two)


def test_the_rows_of_these_tests_differ(tiny):
    """Of the test above: rows do end apart, some by the end and some by the limit, and histories slide."""
    clips = alone(tiny, requests(16), SUNO)
    assert len({len(clip.semantic) for clip in clips}) > 6
    assert {clip.finish_reason for clip in clips} == {"eos", "length"}
    assert max(clip.codes.shape[1] for clip in clips) > 400  # beyond 4.4 s, where histories slide


@pytest.mark.parametrize("fine_batch_size", [1, 3, 8])
@pytest.mark.parametrize("stage_major", [False, True])
def test_stages_in_any_order_of_turns(fine_batch_size, stage_major, tiny, monkeypatch):
    """The pipeline as it runs on a GPU, and with offload."""
    from barklite import bark as module

    made = []

    def pipeline(*arguments, **options):
        changed = {"fine_batch_size": fine_batch_size, "stage_major": stage_major}
        made.append(Pipeline(*arguments, **{**options, **changed}))
        return made[-1]

    Pipeline = module.Pipeline
    given = requests(16)[:10]
    expected = alone(tiny, given, SUNO)
    monkeypatch.setattr(module, "Pipeline", pipeline)
    found = dict(tiny.generate_many(given, batch_size=4, config=SUNO))
    assert sorted(found) == list(range(10))
    for i, clip in enumerate(expected):
        same(clip, found[i])
    assert made


@pytest.mark.parametrize("size", [2, 5])
def test_refilled_rows(size, tiny):
    """The row of a sequence that ended is the next one's, and nothing of the first is left in it."""
    given = requests(16)[4:]
    expected = alone(tiny, given, SUNO)
    order = []
    for i, clip in tiny.generate_many(iter(given), batch_size=size, config=SUNO):
        same(clip, expected[i])
        order.append(i)
    assert sorted(order) == list(range(12))
    assert order != sorted(order)


def test_rows_are_kept_busy(tiny, monkeypatch):
    """As one text ends the next begins: steps are made with all rows but at the very end."""
    busy = {"semantic": [], "coarse": []}
    decode = engine.Engine.decode

    def watched(self, model, ids, *rest):
        busy["semantic" if model is tiny.semantic else "coarse"].append(len(ids))
        return decode(self, model, ids, *rest)

    monkeypatch.setattr(engine.Engine, "decode", watched)
    list(tiny.generate_many(requests(16), batch_size=4, config=SUNO))
    for name, rows in busy.items():
        until = len(rows) - rows[::-1].index(4)  # the last step with all four
        assert until > 0.4 * len(rows)
        begun = rows.index(4)
        full = sum(n == 4 for n in rows[begun:until]) / (until - begun)
        assert full > 0.9, (name, full)


def test_only_so_many_are_on_their_way(tiny):
    """The iterable is read as slots become free, and nothing of what has been yielded is kept."""
    read, unfinished = 0, []

    def endless():
        nonlocal read
        for i in itertools.count():
            read += 1
            yield Request("a b c", seed=i)

    many = tiny.generate_many(endless(), batch_size=3, config=replace(SUNO, max_seconds=0.5))
    assert read == 0
    for done, _ in enumerate(many, 1):
        unfinished.append(read - done)
        if done == 25:
            break
    many.close()
    assert 3 <= max(unfinished) <= 6  # a slot's text each in the semantic and in the coarse model


def test_what_cannot_be_spoken_does_not_stop_the_rest(tiny, tmp_path):
    given = [
        "good", "", Request("good", "nobody"), Request("x " * 300), Request("good", tmp_path / "no.npz"), 7,
        Request("good", seed=-1), Request("\ud800"), Request("good", voice=3), Request("last"),
        {"text": "good", "seed": 1}, {"seed": 1}, {"text": "good", "speed": 2}, Request(3),
    ]  # fmt: skip
    config = replace(SUNO, max_seconds=0.3)
    found = dict(tiny.generate_many(given, config=config))
    assert len(found) == len(given)
    errors = {i: str(found[i]) for i in found if isinstance(found[i], Exception)}
    assert sorted(errors) == [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13]
    for i, words in {
        1: "empty", 2: "nobody", 3: "300 tokens", 4: "no voice file", 5: "or a mapping", 6: "seed is -1",
        7: "surrogate", 8: "a voice is", 11: "mapping with a text", 12: "no 'speed'", 13: "string, not int",
    }.items():  # fmt: skip
        assert words in errors[i]


def test_values_that_are_not_finite_end_one_row(tiny):
    """A row whose prompt goes wrong is its own error; the slot that it leaves is clean."""
    config = replace(SUNO, max_seconds=0.5)
    expected = {i: tiny.generate("good", seed=i, config=config) for i in (0, 2, 3, 4)}
    row = int(tiny.tokenizer.encode("Z")[0]) + tiny.config.tokens.text_offset
    weight = tiny.semantic.wte.weight
    kept = weight.data[row].clone()
    try:
        weight.data[row] = torch.nan
        texts = ["good", "Z", "good", "good", "good"]
        given = [Request(text, seed=i) for i, text in enumerate(texts)]
        found = dict(tiny.generate_many(given, batch_size=2, config=config))
    finally:
        weight.data[row] = kept
    assert "semantic model computed values that are not finite" in str(found.pop(1))
    for i, clip in found.items():
        same(clip, expected[i])


def test_bad_settings_raise_at_once(tiny):
    for options, words in (
        (dict(batch_size=0), "batch_size is 0"),
        (dict(batch_size=2.5), "batch_size is 2.5"),
        (dict(batch_size=True), "batch_size is True"),
        (dict(retries=-1), "retries is -1"),
        (dict(retries=0.5), "retries is 0.5"),
        (dict(config={}), "config must be"),
    ):
        with pytest.raises(ValueError, match=words):
            tiny.generate_many(["a"], **options)
    for given in ("a text", Request("a"), 7):
        with pytest.raises(ValueError, match="requests must be an iterable"):
            tiny.generate_many(given)
    generator = torch.Generator()
    with pytest.raises(ValueError, match="two rows have the same generator"):
        tiny.text_to_semantic(["a", "b"], seeds=[generator, generator])


def test_an_error_of_the_iterable_comes_through(tiny):
    def broken():
        yield "a"
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(tiny.generate_many(broken(), config=replace(SUNO, max_seconds=0.3)))


def test_two_iterations_at_a_time(tiny):
    """Regression: with graphs both would have written into one cache."""
    config = replace(SUNO, max_seconds=1.0)
    fast = with_graphs(tiny)
    given = requests(6, seed=5)
    expected = alone(tiny, given, config)
    pairs = zip(
        fast.generate_many(given, batch_size=2, config=config),
        fast.generate_many(given, batch_size=2, config=config),
        strict=True,
    )
    for (i, one), (j, two) in pairs:
        same(one, expected[i])
        same(two, expected[j])


# --- retries ------------------------------------------------------------------------------------------------


def test_retries(tiny):
    """A text that reaches the limit is spoken again with a seed that follows from the first."""
    config = replace(SUNO, max_seconds=2.0)
    first = tiny.generate("Hello", seed=1, config=config)
    assert first.finish_reason == "length"
    again = tiny.generate("Hello", seed=1, config=config, retries=50)
    assert again.finish_reason == "eos"
    assert len(again.semantic)
    assert again.seed != 1
    same(again, tiny.generate("Hello", seed=again.seed, config=config))
    same(again, tiny.generate_batch(["x", "Hello"], seeds=[0, 1], config=config, retries=50)[1])
    short = replace(config, max_seconds=0.1)
    last = tiny.generate("Hello", seed=1, config=short, retries=2)
    assert (last.finish_reason, last.seed == 1) == ("length", False)
    good = tiny.generate("Hello", seed=again.seed, config=config, retries=5)
    assert good.seed == again.seed  # nothing to try again


@pytest.mark.parametrize(
    "config, retries, attempts",
    [
        (replace(SUNO, max_seconds=0.1), 0, 1),  # it reaches the limit
        (replace(SUNO, max_seconds=0.1), 2, 3),
        (replace(SUNO, min_eos_p=1e-6), 3, 4),  # it ends at once, every time
    ],
)
def test_what_is_tried_again(config, retries, attempts, tiny):
    """A text that reaches the limit or gives nothing, and never more often than asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clip = tiny.generate("Hello", seed=1, config=config, retries=retries)
    seeds = [1]
    while len(seeds) < attempts:
        seeds.append(sampling.derived_seed(seeds[-1], "again"))
    assert clip.seed == seeds[-1]


# --- the parts ----------------------------------------------------------------------------------------------


def test_stages_take_rows_together(tiny):
    given = requests(16)[:9]
    voices = [one.voice for one in given]

    def generators():
        return [torch.Generator().manual_seed(one.seed) for one in given]

    def each(stage, *columns):
        made = generators()
        return [
            stage([row], [voice], [g], SUNO)[0] for row, voice, g in zip(*columns, voices, made, strict=True)
        ]

    texts = [one.text for one in given]
    semantic = tiny.text_to_semantic(texts, voices, generators(), SUNO)
    assert all(map(torch.equal, semantic, each(tiny.text_to_semantic, texts)))
    coarse = tiny.semantic_to_coarse(semantic, voices, generators(), SUNO)
    assert all(map(torch.equal, coarse, each(tiny.semantic_to_coarse, semantic)))
    codes = tiny.coarse_to_fine(coarse, voices, generators(), SUNO)
    assert all(map(torch.equal, codes, each(tiny.coarse_to_fine, coarse)))
    mixed = [row[: 1 + i % 7] for i, row in enumerate(codes)]  # of 1 to 7 given codebooks
    filled = tiny.coarse_to_fine(mixed, voices, generators(), SUNO)
    assert all(map(torch.equal, filled, each(tiny.coarse_to_fine, mixed)))


def test_the_codec_decodes_rows_of_any_length_together(tiny):
    codes = torch.randint(0, 1024, (8, 200), generator=torch.Generator().manual_seed(0))
    rows = [codes[:k, :T] for T in (0, 1, 5, 6, 7, 8, 60, 200) for k in (8, 3)]
    together = tiny.decode(rows)
    for row, audio in zip(rows, together, strict=True):
        assert audio.shape == (320 * row.shape[1],)
        assert torch.allclose(audio, tiny.decode([row])[0], atol=1e-6)
    # One frame less than that, and padding would be heard.
    short = codes[None, :, : PREFIX_FRAMES - 1]
    padded = tiny.codec.decode(codes[None])[:, : 320 * (PREFIX_FRAMES - 1)]
    with torch.no_grad():
        assert not torch.allclose(tiny.codec.decode(short), padded, atol=1e-4)
    assert synthesize(tiny.codec, [], engine.PLAIN) == []


def test_rows_of_different_length_in_one_cache(tiny):
    """One position and one mask a row: the logits of a batched step are those of each row alone."""
    model, vocab = tiny.coarse, slice(0, 500)
    lengths = (3, 30, 17, 30)
    ids = torch.randint(0, 10_000, (4, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = engine.PLAIN.new_cache(model, 4, 40)
        for row, n in enumerate(lengths):
            engine.PLAIN.prefill(model, ids[row : row + 1, :n], together, [row])
        for i in range(5):
            newest = torch.stack([ids[row, n + i] for row, n in enumerate(lengths)])
            logits = model(newest[:, None], cache=together, vocab=vocab)[0][:, -1]
            for row, n in enumerate(lengths):
                expected = model(ids[row : row + 1, : n + i + 1], vocab=vocab)[0][0, -1]
                assert torch.allclose(logits[row], expected, atol=1e-5)
    assert together.lengths == [n + 5 for n in lengths]


@pytest.mark.parametrize("steps", [1, 6, 7])
def test_a_row_that_joins_late(steps, tiny):
    """Rows are at the same codebook of their frames, whenever they came."""
    t, given = tiny.config.tokens, {}
    for n in (60, 45, 50):
        given[n] = torch.randint(0, 10_000, (n,), generator=sampling.generator(n))
    stage = CoarseStage(tiny.coarse, SUNO, t)
    decoder, done = BatchDecoder(stage, 3), []
    with torch.no_grad():
        for n, row in given.items():
            decoder.add(stage.start(row, None, sampling.generator(n), n))
            for _ in range(steps):
                done += decoder.step()
        while decoder.sequences:
            done += decoder.step()
    assert sorted(one.key for one in done) == sorted(given)
    for one in done:
        row = given[one.key], None, SUNO, t, sampling.generator(one.key)
        assert torch.equal(stage.result(one), reference.semantic_to_coarse(tiny.coarse, *row))


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_graphs_give_the_same_batches(config, tiny):
    fast = with_graphs(tiny)
    given = requests(16)[-7:]
    expected = alone(tiny, given, config)
    found = dict(fast.generate_many(given, batch_size=5, config=config))
    for i, clip in enumerate(expected):
        same(clip, found[i])


class OnDevice(sampling.NoiseSource):
    """A source that takes its generator for a GPU's."""

    def __init__(self, generator):
        super().__init__(generator)
        self.on_cpu = False


def test_noise_of_a_gpu_comes_in_blocks():
    """A row's noise does not depend on how many draws are taken at a time."""
    found = []
    for chunks in ([1] * 70, [1, *[32] * 3], [1, *[7, 30, 2] * 3], [70]):
        noise = OnDevice(sampling.generator(0))
        found.append(torch.cat([noise.take(n, 8) for n in chunks])[:70])
    for draws in found[1:]:
        assert torch.equal(draws, found[0])


@pytest.mark.parametrize("used", [1, 5, 32])
def test_unused_noise_goes_back(used):
    source, due = sampling.generator(0), sampling.generator(0)
    noise = sampling.NoiseSource(source)
    taken = noise.take(32, 8)
    noise.rewind(used, 8)
    assert torch.equal(taken[:used], sampling.exponential((used, 8), due))
    assert torch.equal(source.get_state(), due.get_state())


def test_graphs_compile_for_any_number_of_rows(tiny):
    """Regression: Dynamo's limit of 8 compilations ended a batch in the middle."""
    traced = []

    def backend(graph, example):
        if is_layer(graph):
            traced.append([tuple(x.shape) for x in example])
        return graph.forward

    torch._dynamo.reset()
    fast = with_graphs(tiny, backend)
    given, config = requests(16), replace(SUNO, max_seconds=4.0)  # enough for all four lengths
    expected = alone(tiny, given, config)
    for size in (1, 3, 8, 2):
        for i, clip in fast.generate_many(given[: size + 1], batch_size=size, config=config):
            same(clip, expected[i])
    assert len(traced) <= 4 * 4  # rows 1, 2, 4, 8; lengths 256, 512, 768, 1024
    torch._dynamo.reset()


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "graphs"])
def test_a_row_that_goes_wrong_while_it_decodes(fast, tiny):
    """It is that row's error, and what it leaves in its slot reaches no other row, now or later."""
    bark = with_graphs(tiny) if fast else tiny
    config, given = replace(SUNO, max_seconds=1.0), requests(16)[:8]
    expected = alone(tiny, given, config)
    token = int(expected[2].semantic[3])
    hit = {i for i, clip in enumerate(expected) if token in clip.semantic[:-1].tolist()}
    weight = tiny.semantic.wte.weight
    kept = weight.data[token].clone()
    try:
        weight.data[token] = torch.inf
        found = dict(bark.generate_many(given, batch_size=3, config=config))
    finally:
        weight.data[token] = kept
    for i, clip in enumerate(expected):
        if i in hit:
            assert "semantic model computed values that are not finite" in str(found[i])
        else:
            same(clip, found[i])
    assert len(hit) < len(given)
    for i, clip in bark.generate_many(given, batch_size=3, config=config):
        same(clip, expected[i])


def test_a_row_that_moves_leaves_nothing_behind_it(tiny):
    """Of the longer row that was there: NaN would come through the mask."""
    cache = engine.PLAIN.new_cache(tiny.semantic, 2, 10)
    cache.keys[:, 0, :, :8] = cache.values[:, 0, :, :8] = torch.nan
    cache.keys[:, 1, :, :5] = cache.values[:, 1, :, :5] = 1
    cache.lengths = [8, 5]
    engine.drop_row(cache, 0)
    assert cache.lengths == [5]
    for both in (cache.keys, cache.values):
        assert bool((both[:, 0, :, :5] == 1).all())
        assert not both[:, 0, :, 5:].any()


def test_a_new_row_finds_nothing_of_the_last_one(tiny):
    cache, short = engine.PLAIN.new_cache(tiny.semantic, 2, 10), tiny.semantic.new_cache(1, 4)
    cache.keys[:, 0, :, :8] = cache.values[:, 0, :, :8] = torch.nan
    cache.lengths = [8]
    engine.drop_row(cache, 0)
    short.lengths = [3]
    engine.put_row(cache, 0, short, 0)
    assert cache.lengths == [3]
    assert not cache.keys[:, 0].any()
    assert not cache.values[:, 0].any()


def test_a_pipeline_gives_each_cache_back_once(tiny):
    fast = with_graphs(tiny)
    for _ in range(2):
        list(fast.generate_many(["Hello"], batch_size=1, config=replace(SUNO, max_seconds=0.1)))
        assert [len(pooled) for pooled in fast.engine._pooled.values()] == [1, 1]


def test_caches_of_graphs_are_few(tiny):
    fast = graphs.StepEngine([tiny.semantic], torch.device("cpu"), CompileConfig(backend=None))
    for rows in (1, 8, 3, 5, 16, 2):
        cache = fast.new_cache(tiny.semantic, rows, 0)
        assert cache.keys.shape[1] >= rows
        fast.release(tiny.semantic, cache)
        assert len(fast._pooled[tiny.semantic]) == len(fast._buffers) == 1
    with pytest.raises(AssertionError):
        fast.release(tiny.semantic, cache)


def test_small_config_of_other_sizes():
    """Batches do not know Bark's numbers: three coarse codebooks, another window."""
    base = BarkConfig.tiny()
    tokens = replace(base.tokens, n_coarse=3, coarse_window=30, max_coarse_history=300)
    coarse = replace(base.coarse, input_vocab_size=14_000, output_vocab_size=14_000)
    tokens = replace(tokens, coarse_pad=13_500, coarse_infer=13_501)
    config = replace(base, tokens=tokens, coarse=coarse)
    bark = Bark.from_config(config, seed=1, device="cpu")
    settings = replace(SUNO, max_coarse_history=300, max_seconds=2.0)
    given = [Request("a" * (1 + i), None, i) for i in range(7)]
    expected = alone(bark, given, settings)
    found = dict(bark.generate_many(given, batch_size=3, config=settings))
    for i, clip in enumerate(expected):
        same(clip, found[i])


@pytest.mark.parametrize(
    ("rows", "limit", "used"), [(1, 10**9, 1), (4, 10**9, 1), (4, 0, 3)], ids=["one", "four", "large"]
)
def test_small_work_stays_on_one_thread(rows, limit, used, monkeypatch):
    """On a busy machine, small work that is divided waits longer for processors than it computes."""
    seen, bark = set(), Bark.from_config(BarkConfig.tiny(), device="cpu")

    class Watched(engine.Engine):
        def decode(self, *args):
            seen.add(("decode", torch.get_num_threads()))
            return super().decode(*args)

        def fine_logits(self, *args):
            seen.add(("fine", torch.get_num_threads()))
            return super().fine_logits(*args)

        def synthesize(self, *args):
            seen.add(("codec", torch.get_num_threads()))
            return super().synthesize(*args)

    monkeypatch.setattr(engine.Engine, "small", limit)
    monkeypatch.setattr(bark, "engine", Watched())
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        list(bark.generate_batch(["a"] * rows, seeds=range(rows), config=replace(SUNO, max_seconds=0.5)))
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(bark.coarse, "forward", None)
        with pytest.raises(TypeError):
            bark.generate("a", seed=0, config=replace(SUNO, max_seconds=0.5))
        assert torch.get_num_threads() == 3  # after an error too
    finally:
        torch.set_num_threads(before)
    assert seen == {("decode", used), ("fine", used), ("codec", used)}


def test_built_in_voice_is_small_work_alone():
    bark = Bark.from_pretrained()
    for name in STAGES:
        assert bark.engine.small / 2 < engine.count_weights(getattr(bark, name)) <= bark.engine.small


def test_compiled_steps_keep_their_threads():
    """torch.compile would compile them again for another number of threads."""
    compiled = graphs.StepEngine([], torch.device("cpu"), CompileConfig(backend=None))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with compiled.threads(1, 1):
            assert torch.get_num_threads() == 3
        with engine.PLAIN.threads(1, 1):
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)

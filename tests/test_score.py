"""`Bark.score` against generation itself, forced to draw given tokens; and as a probability."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from barklite import Bark, BarkConfig, GenerationConfig, SamplingConfig, Voice
from barklite.analysis import score
from barklite.config import CodecConfig, FineConfig, GPTConfig, TokenConfig
from barklite.decode import engine, sampling
from barklite.decode import stages as decode_stages
from barklite.decode.stages import SemanticStage
from barklite.models.gpt import KVCache
from tests import builders

PLAIN = GenerationConfig(semantic=SamplingConfig(1.0), coarse=SamplingConfig(1.0), min_eos_p=None)
VOICES = {"no voice": None, "voice": builders.voice("someone", n=310, seed=5)}


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ids(*shape: int, most: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, most, shape, generator=random(seed))


def close(ours, theirs, tolerance=2e-5):
    np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=0)


@pytest.fixture
def forced(monkeypatch):
    """forced(ids): from now on generation draws these, and their log-probabilities are what it returns."""

    def force(given):
        given, seen = list(given), []

        def choose(sampler, logits, noise, past=()):
            token = given[len(seen)]
            seen.append(float(logits[0].double().log_softmax(-1)[token - sampler.start]))
            return torch.tensor([token]), torch.tensor([False]), torch.zeros(1)

        monkeypatch.setattr(sampling.TokenSampler, "__call__", choose)
        return seen

    return force


# --- the stages against generation --------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ["suno", "transformers"])
@pytest.mark.parametrize("voice", VOICES.values(), ids=VOICES)
@pytest.mark.parametrize("N", [1, 40, 767, 768])
def test_semantic_is_what_generation_sees(N, voice, rules, tiny, forced):
    config = replace(PLAIN, rules=rules, max_semantic_tokens=N)
    given = ids(N, most=10_000)
    scores = tiny.score((given, None), "Hello world", voice, config)
    seen = forced(given.tolist())
    made = tiny.text_to_semantic(["Hello world"], [voice], [1], config)
    assert torch.equal(made[0], given)
    close(scores.semantic, seen)
    assert (scores.eos is None) == (N == 768)  # there the model has no position left


@torch.no_grad()
@pytest.mark.parametrize("voice", VOICES.values(), ids=VOICES)
def test_semantic_token_by_token(voice, tiny):
    """Written out from the specification: one forward a token, with a cache."""
    model, given = tiny.semantic, ids(30, most=10_000)
    text = [i + 10_048 for i in tiny.tokenizer.encode("Hello")]
    text += [129_595] * (256 - len(text))
    history = [] if voice is None else voice.semantic[-256:].tolist()
    history += [10_000] * (256 - len(history))
    prompt = model.wte(torch.tensor(text)) + model.wte(torch.tensor(history))
    prompt = torch.cat((prompt, model.wte(torch.tensor([129_599]))))
    cache = KVCache(model.config, 1, 300)
    logits = model(embeds=prompt[None], cache=cache)[0][0, -1]
    expected = []
    for token in [*given.tolist(), 10_000]:
        expected.append(float(logits[:10_001].log_softmax(-1)[token]))
        logits = model(torch.tensor([[token]]), cache=cache)[0][0, -1]
    scores = tiny.score((given, None), "Hello", voice)
    close(scores.semantic, expected[:-1])
    assert scores.eos == pytest.approx(expected[-1], abs=2e-5)
    other = tiny.score((given, None), "Hello you", None if voice else VOICES["voice"])
    assert np.abs(other.semantic - scores.semantic).max() > 1e-3


@pytest.mark.parametrize("rules", ["suno", "transformers"])
@pytest.mark.parametrize("voice", VOICES.values(), ids=VOICES)
def test_the_end_is_as_probable_as_the_clip_says(voice, rules, tiny):
    config = replace(PLAIN, rules=rules, max_semantic_tokens=30)
    clip = tiny.generate("Hello", voice, 3, config)
    for n in (0, 1, 17, 29):
        scores = tiny.score((clip.semantic[:n], None), "Hello", voice, config)
        assert np.exp(scores.eos) == pytest.approx(clip.eos_p[n], rel=1e-4)


@pytest.mark.parametrize("history", [60, 300, 630])
@pytest.mark.parametrize("rules", ["suno", "transformers"])
@pytest.mark.parametrize("voice", VOICES.values(), ids=VOICES)
def test_coarse_is_what_generation_sees(voice, rules, history, tiny, forced):
    """In every window of a clip whose histories slide: 260 semantic tokens are 780 coarse ones."""
    N = 260 if history == 630 else 50
    config = replace(PLAIN, rules=rules, max_coarse_history=history)
    semantic, codes = ids(N, most=10_000), ids(2, N * 750 // 499, most=1024, seed=1)
    scores = tiny.score((semantic, codes), "Hello", voice, config).coarse
    assert scores.shape == codes.shape
    flat = (codes + torch.tensor([[10_000], [11_024]])).T.flatten().tolist()
    seen = forced(flat)
    (made,) = tiny.semantic_to_coarse([semantic], [voice], [1], config)
    assert torch.equal(made, codes)
    assert len(seen) == codes.numel()
    close(scores, np.array(seen).reshape(-1, 2).T)


FRAMES = {  # frames and voice: where in the clip each window begins to fill (table of spec 4.3)
    (20, None): [0], (1024, None): [0], (1025, None): [0, 512], (1537, None): [0, 512, 1024],
    (560, 309): [0], (561, 309): [0, 49], (513, 400): [0, 1], (750, 400): [0, 238],
}  # fmt: skip


@pytest.mark.parametrize("case", FRAMES, ids=str)
def test_fine_is_what_greedy_generation_sees(case, tiny, monkeypatch):
    """Of the window whose choice stays."""
    (T, n), starts, passes = case, FRAMES[case], []
    voice = None if n is None else builders.voice("someone", n, seed=2)
    computed = engine.Engine.fine_logits

    def recorded(self, model, codebook, codes, rows, vocab):
        passes.append((codebook, logits := computed(self, model, codebook, codes, rows, vocab)))
        return logits

    monkeypatch.setattr(engine.Engine, "fine_logits", recorded)
    config = replace(PLAIN, fine=SamplingConfig(0))
    (codes,) = tiny.coarse_to_fine([ids(2, T, most=1024)], [voice], [1], config)
    assert [k for k, _ in passes] == list(range(2, 8)) * len(starts)
    expected = np.zeros((6, T))
    for i, (k, logits) in enumerate(passes):
        start = starts[i // 6]
        p = logits[0, : T - start].log_softmax(-1)
        given = codes[k, start : start + len(p), None]
        expected[k - 2, start : start + len(p)] = p.gather(-1, given)[:, 0]
    monkeypatch.undo()
    scores = tiny.score((None, codes), voice=voice)
    assert (scores.semantic, scores.eos, scores.coarse) == (None, None, None)
    close(scores.fine, expected, 5e-5)
    assert np.abs(expected).min() > 1e-3


def test_fine_is_what_drawing_sees(tiny, monkeypatch):
    """Where one window holds just the clip, nothing is drawn that the codes do not tell."""
    seen, filters = [], sampling.probabilities

    def recorded(logits, *settings):
        seen.append(logits)
        return filters(logits, *settings)

    monkeypatch.setattr(decode_stages, "probabilities", recorded)
    config = replace(PLAIN, fine=SamplingConfig(0.9))
    (codes,) = tiny.coarse_to_fine([ids(2, 1024, most=1024)], seeds=[1], config=config)
    expected = [x.log_softmax(-1).gather(-1, codes[k, :, None])[:, 0] for k, x in enumerate(seen, 2)]
    close(tiny.score((None, codes)).fine, torch.stack(expected).numpy(), 5e-5)


# --- as a probability ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini() -> Bark:
    """Every window and vocabulary small: all that can be said can be counted."""
    tokens = TokenConfig(
        text_offset=12, text_pad=270, semantic_infer=271, semantic_vocab_size=11, semantic_eos=11, n_text=8,
        n_semantic_history=8, coarse_pad=25, coarse_infer=26, n_coarse_semantic=8, coarse_window=6,
        max_coarse_history=12, n_codebooks=4, codebook_size=5, fine_pad=5, fine_window=16, fine_hop=8,
        max_fine_history=8,
    )  # fmt: skip
    size = dict(n_layer=2, n_head=2, n_embd=16, block_size=32)
    config = BarkConfig(
        GPTConfig(input_vocab_size=280, output_vocab_size=14, **size),
        GPTConfig(input_vocab_size=30, output_vocab_size=30, **size),
        FineConfig(vocab_size=7, n_codes_total=4, **size),
        CodecConfig(n_filters=4, dimension=16, n_codebooks=4, codebook_size=5),
        tokens,
        "bytes",
        GenerationConfig(max_semantic_tokens=20, max_coarse_history=12),
    )
    bark = Bark.from_config(config, seed=1, device="cpu")
    with torch.no_grad():
        for model in (bark.semantic, bark.coarse, bark.fine):
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=random()), alpha=0.3)
    return bark


def mini_voice(bark: Bark, seed: int = 7) -> Voice:
    codes = ids(4, 30, most=5, seed=seed).numpy()
    return Voice(ids(20, most=11, seed=seed).numpy(), codes[:2], codes, tokens=bark.config.tokens)


VOICED = pytest.mark.parametrize("voiced", [False, True], ids=["no voice", "voice"])


def alternatives(codes: torch.Tensor, k: int, t: int) -> list[torch.Tensor]:
    """The same codes with each of the five at one place."""
    made = [codes.clone() for _ in range(5)]
    for code, other in enumerate(made):
        other[k, t] = code
    return made


@VOICED
def test_semantic_is_a_probability(voiced, mini):
    voice, given = mini_voice(mini) if voiced else None, ids(6, most=11).tolist()
    for n in range(6):
        total = np.exp(mini.score((np.array(given[:n], int), None), "Hello", voice).eos)
        for token in range(11):
            row = np.array([*given[:n], token])
            total += np.exp(mini.score((row, None), "Hello", voice).semantic[n])
        assert total == pytest.approx(1, abs=1e-5)


@VOICED
@pytest.mark.parametrize("N", [1, 12])
def test_coarse_is_a_probability(N, voiced, mini):
    voice, T = mini_voice(mini) if voiced else None, N * 750 // 499
    semantic, codes = ids(N, most=11), ids(2, T, most=5)
    for t in range(T):
        for k in range(2):
            every = [
                mini.score((semantic, other), "Hi", voice).coarse[k, t] for other in alternatives(codes, k, t)
            ]
            assert np.exp(every).sum() == pytest.approx(1, abs=1e-5)
            assert np.ptp(every) > 1e-3


@VOICED
@pytest.mark.parametrize("T", [1, 10, 16, 21, 25])
def test_fine_is_a_probability(T, voiced, mini):
    """Regression: where windows overlap the second one saw in its input what it was asked for."""
    voice, codes = mini_voice(mini) if voiced else None, ids(4, T, most=5)
    for t in range(T):
        for k in (2, 3):
            every = [
                mini.score((None, other), voice=voice).fine[k - 2, t] for other in alternatives(codes, k, t)
            ]
            assert np.exp(every).sum() == pytest.approx(1, abs=1e-5)
            assert np.ptp(every) > 1e-3


def test_what_was_learned_scores_higher(mini):
    """Of two texts, and of two voices, the one that a model learned to answer with these tokens."""
    bark = Bark.from_config(mini.config, seed=1, device="cpu")
    one, two = ids(10, most=11, seed=1), ids(10, most=11, seed=2)
    voice, other = mini_voice(mini), mini_voice(mini, seed=9)
    stage = SemanticStage(bark.semantic, bark.config.generation, bark.config.tokens)
    pairs = [("Hello", None, one), ("World", None, two), ("Same", voice, one), ("Same", other, two)]
    optimizer = torch.optim.Adam(bark.semantic.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        for text, spoken, row in pairs:  # the function, unlike the method, leaves a graph
            words = bark.tokenizer.encode(text)
            (-score.score_semantic(stage, row, words, spoken)[0].mean()).backward()
        optimizer.step()

    def total(text, spoken, row) -> float:
        return bark.score((row, None), text, spoken).totals["semantic"]

    for text, spoken, row in pairs:
        wrong = {"Hello": ("World", None), "World": ("Hello", None)}.get(text)
        wrong = wrong or ("Same", other if spoken is voice else voice)
        assert total(text, spoken, row) > total(*wrong, row) + 1


# --- what comes in and out ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tiny):
    return tiny.generate("Hello", VOICES["voice"], 1, replace(PLAIN, max_semantic_tokens=20))


def test_shapes_and_what_is_left_out(clip, tiny):
    voice = VOICES["voice"]
    whole = tiny.score(clip, voice=voice)
    assert (whole.semantic.shape, whole.coarse.shape, whole.fine.shape) == ((20,), (2, 30), (6, 30))
    assert {x.dtype for x in (whole.semantic, whole.coarse, whole.fine)} == {np.dtype("float32")}
    assert isinstance(whole.eos, float)
    assert whole.totals == pytest.approx(
        {name: float(getattr(whole, name).sum()) for name in ("semantic", "coarse", "fine")}
    )
    assert whole.means == pytest.approx(
        {"semantic": whole.totals["semantic"] / 20, "coarse": whole.totals["coarse"] / 60,
         "fine": whole.totals["fine"] / 180}
    )  # fmt: skip
    semantic, codes = clip.semantic, clip.codes
    for given, stages in {
        (0, 0): "semantic eos coarse fine", (0, 1): "semantic eos coarse", (0, None): "semantic eos",
        (None, 0): "fine",
    }.items():  # fmt: skip
        row = None if given[0] is None else torch.from_numpy(semantic)
        books = None if given[1] is None else codes.tolist() if given[1] == 0 else codes[:2].astype(np.uint16)
        part = tiny.score((row, books), "Hello" if row is not None else None, voice)
        for name in ("semantic", "eos", "coarse", "fine"):
            found, expected = getattr(part, name), getattr(whole, name) if name in stages.split() else None
            assert np.array_equal(found, expected) if expected is not None else found is None
        assert list(part.totals) == list(part.means) == [s for s in stages.split() if s != "eos"]
    other = tiny.score(clip, "Another text", voice)
    assert not np.array_equal(other.semantic, whole.semantic)
    assert np.array_equal(other.coarse, whole.coarse)


def test_nothing_said(tiny):
    """An empty clip: the end at once is as probable as any other end."""
    scores = tiny.score((np.zeros(0, int), np.zeros((8, 0), int)), "Hello")
    assert (scores.semantic.shape, scores.coarse.shape, scores.fine.shape) == ((0,), (2, 0), (6, 0))
    assert scores.totals == dict(semantic=0.0, coarse=0.0, fine=0.0)
    assert scores.means == {}
    assert scores.eos == tiny.score((np.zeros(0, int), None), "Hello").eos < 0


def test_sampling_settings_do_not_count(clip, tiny):
    one = tiny.score(clip)
    settings = dict(semantic=SamplingConfig(0.1, 5), coarse=SamplingConfig(0), fine=SamplingConfig(3.0))
    two = tiny.score(clip, config=GenerationConfig(min_eos_p=1e-9, max_seconds=0.1, **settings))
    for name in ("semantic", "coarse", "fine", "eos"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    wider = tiny.score(clip, config=GenerationConfig(rules="transformers"))
    assert np.array_equal(wider.coarse[0], one.coarse[0])
    assert (wider.coarse[1] < one.coarse[1]).all()  # more ids are eligible there (D17)


def test_no_gradients_and_no_traces_are_left(clip, tiny):
    before = [p.clone() for p in tiny.fine.parameters()]
    with torch.enable_grad():
        tiny.score(clip)
        assert torch.is_grad_enabled()
    assert all(
        p.grad is None for model in (tiny.semantic, tiny.coarse, tiny.fine) for p in model.parameters()
    )
    assert all(map(torch.equal, before, tiny.fine.parameters()))


ROW, CODES = np.zeros(20, int), np.zeros((8, 30), int)


@pytest.mark.parametrize("given, message", [
    (None, r"give a Clip, or \(semantic, codes\), not NoneType"),
    (ROW, "give a Clip"), ("ab", "give a Clip"), ((ROW,), "give a Clip"), ({}, "not dict"),
    ((None, None), "nothing to score"), ((None, CODES[:2]), "nothing to score"),
    ((ROW + 0.5, None), "must hold integers"), ((ROW + 10_000, None), r"outside 0 \.\. 9999"),
    ((ROW - 1, None), r"outside 0 \.\. 9999"), ((ROW[None], None), r"shape \(1, 20\); it must be \(N,\)"),
    (("Hello", None), "not a tensor or array of integers"),
    ((np.zeros(769, int), None), "769 semantic tokens are too many: this model makes at most 768"),
    ((ROW, CODES[:, :29]), "codes have 29 frames; 20 semantic tokens make 30"),
    ((ROW, CODES[:, :0]), "codes have 0 frames; 20 semantic tokens make 30"),
    ((ROW, CODES[:5]), "codes have 5 codebooks; give 2 or 8"),
    ((ROW, CODES[:1]), "k from 2 to 8"), ((ROW, CODES[0]), r"it must be \(k, T\)"),
    ((ROW, CODES + 1024), r"outside 0 \.\. 1023"), ((None, CODES - 1), r"outside 0 \.\. 1023"),
    ((None, CODES * 0.5), "must hold integers"),
])  # fmt: skip
def test_bad_tokens(given, message, tiny):
    with pytest.raises(ValueError, match=message):
        tiny.score(given, "Hello")


@pytest.mark.parametrize("arguments, message", [
    (dict(), "the text is missing"), (dict(text=""), "the text is empty"),
    (dict(text=3), "must be a string, not int"), (dict(text="word " * 300), "and the model reads 256"),
    (dict(text="a", voice="nobody"), "nobody"), (dict(text="a", voice=3), "a voice is a name"),
    (dict(text="a", config={}), "must be a GenerationConfig"),
    (dict(text="a", config=GenerationConfig(max_coarse_history=59)), "between 60 and 630"),
])  # fmt: skip
def test_bad_arguments(arguments, message, tiny):
    with pytest.raises(ValueError, match=message):
        tiny.score((ROW, CODES), **arguments)


@pytest.mark.parametrize("name", ["semantic", "coarse", "fine"])
def test_weights_gone_bad_are_noticed(name, clip):
    bark = Bark.from_config(BarkConfig.tiny(), device="cpu")
    with torch.no_grad():
        getattr(bark, name).wpe.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=f"the {name} model computed values that are not finite"):
        bark.score(clip)


@pytest.mark.parametrize("options", [dict(dtype="bfloat16"), dict(quantize="int8")], ids=str)
def test_small_weights_score_nearly_the_same(options, clip, tiny):
    exact = tiny.score(clip)
    bark = Bark.from_config(tiny.config, seed=3, tokenizer=tiny.tokenizer, device="cpu", **options)
    scores = bark.score(clip)
    for name in ("semantic", "coarse", "fine"):
        gap = np.abs(getattr(scores, name) - getattr(exact, name))
        assert 0 < gap.mean() < 0.1

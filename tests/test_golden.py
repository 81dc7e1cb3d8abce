"""Every golden number of specification 9 and 9.1, with no other package than barklite's own."""

import numpy as np
import pytest
import torch

from barklite import reference
from barklite.config import BarkConfig, GenerationConfig, SamplingConfig, TokenConfig
from barklite.decode.batch import BatchDecoder, run_stage
from barklite.decode.sampling import TokenSampler, draw, exponential, generator, probabilities
from barklite.decode.stages import CoarseStage, FineStage, SemanticStage
from barklite.models.codec import Codec
from barklite.models.gpt import GPT, KVCache
from barklite.voice import Voice
from tests import golden
from weights_convert import encodec

T = TokenConfig()
GREEDY = SamplingConfig(0)
IDS = [105, 103, 105]
SEMANTIC = torch.tensor([(17 * i * i + 3) % 10_000 for i in range(50)])
LONG = np.array([(17 * i * i + 3) % 10_000 for i in range(309)])
COARSE = np.array([[(31 * t + 7) % 1024 for t in range(464)], [(57 * t + 100) % 1024 for t in range(464)]])
FINE = np.array([[(31 * t * (q + 1) + 7 * q) % 1024 for t in range(464)] for q in range(8)])
VOICE = Voice(LONG, COARSE, FINE)
SHORT_VOICE = Voice(LONG[:40], COARSE[:, :60], FINE[:, :60])


def suno(**changes) -> GenerationConfig:
    return GenerationConfig(**{"max_semantic_tokens": 10, **changes})


def transformers(**changes) -> GenerationConfig:
    return GenerationConfig.transformers(**{"max_semantic_tokens": 10, **changes})


@pytest.fixture(scope="module")
def text():
    return golden.token_model("text")


@pytest.fixture(scope="module")
def coarse():
    return golden.token_model("coarse")


@pytest.fixture(scope="module")
def fine():
    return golden.token_model("fine")


# --- the formula, the constants, the noise ------------------------------------------------------------------


def test_fill_formula():
    expected = [-0.480189046356827, 0.6457440527155995, 0.4440878196619451, -0.7369339913129807]
    assert golden.uniform("text.transformer.wte.weight", 4).tolist() == expected


def test_rates_and_steps():
    assert T.coarse_per_semantic == 3.006012024048096
    steps = {1: 2, 2: 6, 3: 8, 10: 30, 50: 150, 137: 410, 250: 750, 309: 928, 499: 1500, 500: 1502, 768: 2308}
    assert {n: T.coarse_steps(n) for n in steps} == steps
    assert all(T.coarse_steps(n) // 2 == n * 750 // 499 // 1 for n in range(1, 2000))
    samples = {1: 320, 137: 65_600, 499: 240_000, 500: 240_320, 768: 369_280}
    assert {n: T.coarse_steps(n) // 2 * BarkConfig.small().codec.hop for n in samples} == samples
    assert BarkConfig.small().max_semantic_tokens == 768


@pytest.mark.parametrize(
    "seconds, n",
    [
        *((0.0, 1), (1 / 49.9, 2), (0.1, 5), (1, 50), (2, 100), (5, 250)),
        *((10, 499), (15, 749), (15.39, 768), (99, 768)),
    ],
)
def test_duration_cap(seconds, n):
    assert GenerationConfig(max_seconds=seconds).semantic_limit(T) == n


@pytest.mark.parametrize(
    "n, frames, semantic, tokens",
    [
        (309, 464, 209, 626),
        (499, 750, 209, 626),
        (158, 237, 157, 470),
        (192, 288, 191, 572),
        (100, 150, 99, 296),
        (101, 151, 100, 299),
        (99, 150, 98, 293),
    ],
)
def test_history_trim(n, frames, semantic, tokens):
    codes = np.arange(8 * frames).reshape(8, frames) % 1024
    voice = Voice(np.arange(n), codes[:2], codes)
    kept_semantic, kept = reference.trim_history(voice, GenerationConfig(), T)
    assert (len(kept_semantic), len(kept)) == (semantic, tokens)
    assert kept_semantic[-1] == n - 1
    assert kept[-2:] == [10_000 + codes[0, -2], 11_024 + codes[1, -2]]  # the last frame is dropped
    assert (kept[0] >= 11_024) == (tokens % 2 == 1)


@pytest.mark.parametrize(
    "frames, history, windows",
    [
        (1, 0, [(0, 0)]),
        (1024, 0, [(0, 0)]),
        (1025, 0, [(0, 0), (1, 512)]),
        (1154, 0, [(0, 0), (130, 512)]),
        (1536, 0, [(0, 0), (512, 512)]),
        (1537, 0, [(0, 0), (512, 512), (513, 1024)]),
        (2048, 0, [(0, 0), (512, 512), (1024, 1024)]),
        (512, 512, [(0, 512)]),
        (513, 512, [(0, 512), (1, 513)]),
        (750, 512, [(0, 512), (238, 750)]),
        (1154, 512, [(0, 512), (512, 1024), (642, 1154)]),
        (560, 464, [(0, 464)]),
        (561, 464, [(0, 464), (1, 513)]),
        (1154, 464, [(0, 464), (512, 976), (594, 1106)]),
    ],
)
def test_fine_windows(frames, history, windows):
    assert reference.fine_windows(frames, history, T) == windows


def test_noise_is_multinomials():
    assert exponential((4,), generator(9)).numpy() == pytest.approx(
        [0.282729119, 1.82741761, 0.421159714, 0.0865207762], rel=1e-7
    )
    for width, expected in ((1024, [436, 839, 732, 73, 349, 549]), (10_001, [1863, 9702, 1659, 600])):
        g, p = generator(0), torch.full((width,), 1 / width)
        assert [int(draw(p, exponential((width,), g))) for _ in expected] == expected
        torch.manual_seed(0)
        assert [int(torch.multinomial(p, 1)) for _ in expected] == expected


def ends_early(scores, sampling, min_eos_p, rules):
    """Whether the likelihood of the end, which the noise keeps from being drawn, is an end."""
    sampler = TokenSampler(0, len(scores), sampling, rules, len(scores), True, min_eos_p)
    noise = torch.ones(1, len(scores))
    noise[0, -1] = torch.inf
    token, ended, _ = sampler(scores[None], noise)
    assert int(token) != len(scores) - 1
    return bool(ended)


def test_end_rules_differ():
    """P(end) is 0.269, tempered 0.193: with min_eos_p 0.2 transformers ends, Suno does not."""
    scores = torch.full((10_001,), -20.0)
    scores[7], scores[10_000] = 1.0, 0.0
    assert float(scores.softmax(-1)[-1]) == pytest.approx(0.26894, abs=1e-5)
    for rules, ends in (("suno", False), ("transformers", True)):
        p = probabilities(scores, SamplingConfig(0.7), rules)
        assert float(p[-1]) == pytest.approx(0.19332, abs=1e-5)
        assert ends_early(scores, SamplingConfig(0.7), 0.2, rules) is ends


def test_end_rules_at_equality():
    """Suno ends at >=, transformers beyond >."""
    scores = torch.zeros(4)
    assert ends_early(scores, SamplingConfig(1.0), 0.25, "suno")
    assert not ends_early(scores, SamplingConfig(1.0), 0.25, "transformers")
    assert not ends_early(scores, SamplingConfig(1.0), None, "suno")


def fast(stage, *rows):
    """What a stage makes of rows together."""
    return [stage.result(one) for one in run_stage(stage, rows, max(1, len(rows)))]


# --- semantic -----------------------------------------------------------------------------------------------


def semantic_logits(text):
    words, history = map(torch.tensor, reference.semantic_prompt(IDS, None, T))
    embeds = torch.cat((text.wte(words) + text.wte(history), text.wte(torch.tensor([129_599]))))
    return text(embeds=embeds[None], last=True)[0][0, 0]


def test_semantic_logits(text):
    with torch.no_grad():
        logits = semantic_logits(text)
    expected = {0: -1.528151, 1: 1.199886, 2: -1.782889, 9999: 1.378182, 10_000: 0.606231, 10_047: 0.302211}
    assert logits[list(expected)].tolist() == pytest.approx(list(expected.values()), abs=2e-5)
    top = logits[:10_001].topk(2).values
    assert int(logits[:10_001].argmax()) == 7686
    assert float(top[0]) == pytest.approx(3.232130, abs=2e-5)
    assert float(top[0] - top[1]) == pytest.approx(0.0572, abs=1e-4)


@pytest.mark.parametrize(
    "config, voice, expected",
    [
        (suno(), None, [4445, 706, 962, 3996, 7946, 5188, 1335, 560, 9928, 1209]),
        (suno(), VOICE, [4445, 2682, 962, 3996, 7946, 5188, 1335, 560, 9928, 8077]),
        (transformers(semantic=GREEDY), None, [7686, 7651, 521, 4371, 7651, 6781, 1615, 7686, 7651, 1615]),
        (transformers(), None, [2178, 5542, 9400, 8482, 1599, 177, 2940, 227, 985, 1094]),
        (
            transformers(semantic=SamplingConfig(0.7)),
            None,
            [4445, 2106, 868, 459, 1252, 7548, 1185, 231, 9552, 3531],
        ),
    ],
    ids=["suno", "suno-voice", "transformers-greedy", "transformers", "transformers-no-top-k"],
)
def test_semantic_tokens(text, config, voice, expected):
    tokens = reference.text_to_semantic(text, IDS, voice, config, T, generator(0))
    assert tokens.tolist() == expected
    ((tokens, reason),) = fast(SemanticStage(text, config, T), (IDS, voice, generator(0)))
    assert tokens.tolist() == expected
    assert reason == "length"


# --- coarse -------------------------------------------------------------------------------------------------


def coarse_of(model, config, voice=None):
    """Codes by the reference, which must be those of the batch decoder."""
    (found,) = fast(CoarseStage(model, config, T), (SEMANTIC, voice, generator(0)))
    codes = reference.semantic_to_coarse(model, SEMANTIC, voice, config, T, generator(0))
    assert torch.equal(found, codes)
    return codes


def coarse_ids(model, semantic, voice, source, config, **options):
    """The coarse model's own ids, before they become codes."""
    stage = CoarseStage(model, config, T, **options)
    (done,) = BatchDecoder(stage, 1).run([stage.start(semantic, voice, source)])
    return torch.tensor(done.tokens)


def test_coarse_logits(coarse):
    prompt = torch.cat((SEMANTIC, torch.full((206,), 12_048), torch.tensor([12_050])))[None]
    with torch.no_grad():
        logits = coarse(prompt, last=True)[0][0, 0]
    expected = {0: -0.786764, 10_000: -1.298531, 10_001: 0.219832, 11_023: 0.081001, 11_024: 1.866307}
    expected |= {12_047: -0.768907, 12_048: 0.508196, 12_095: 0.525004}
    assert logits[list(expected)].tolist() == pytest.approx(list(expected.values()), abs=2e-5)
    assert 10_000 + int(logits[10_000:11_024].argmax()) == 10_747


def test_coarse_tokens_suno(coarse):
    codes = coarse_of(coarse, suno())
    assert codes.shape == (2, 75)
    assert codes[0, :10].tolist() == [436, 732, 349, 428, 367, 165, 981, 640, 190, 1021]
    assert codes[1, :10].tolist() == [839, 73, 703, 754, 627, 890, 122, 832, 319, 247]
    assert codes[:, -3:].tolist() == [[432, 715, 908], [427, 297, 668]]
    assert int(codes.sum()) == 78_532


def test_coarse_tokens_with_history(coarse):
    codes = coarse_of(coarse, suno(), VOICE)
    assert codes[0, :8].tolist() == [436, 399, 349, 479, 590, 697, 395, 851]
    assert codes[1, :8].tolist() == [839, 73, 420, 29, 751, 863, 122, 230]
    assert int(codes.sum()) == 75_308


def test_coarse_greedy(coarse):
    ids = coarse_ids(coarse, SEMANTIC, None, generator(0), transformers(coarse=GREEDY))
    start = [10747, 11856, 10590, 12006, 10136, 11778, 10136, 11856, 10136, 11778, 10290, 11856]
    assert ids[:12].tolist() == start
    assert ids[-4:].tolist() == [10290, 11081, 10290, 11235]
    assert int(ids.sum()) == 1_651_830


def test_coarse_tokens_transformers(coarse):
    ids = coarse_ids(coarse, SEMANTIC, None, generator(0), transformers())
    start = [10707, 11361, 10296, 11410, 10450, 11409, 10254, 11819, 10192, 11500, 10986, 12056]
    assert ids[:12].tolist() == start  # 12056 lies behind the codes: D17
    assert int(ids.sum()) == 1_658_428
    codes = coarse_of(coarse, transformers())
    assert codes[1, 5] == 12_056 - 10_000 - 2 * 1024


# --- fine ---------------------------------------------------------------------------------------------------


def fine_of(model, frames, config, voice=None):
    t = torch.arange(frames)
    coarse = torch.stack(((31 * t + 7) % 1024, (57 * t + 100) % 1024))
    (codes,) = fast(FineStage(model, config, T), (coarse, voice, generator(0)))
    assert torch.equal(codes[:2], coarse)
    assert torch.equal(codes, reference.coarse_to_fine(model, coarse, voice, config, T, generator(0)))
    return codes


def test_fine_logits(fine):
    codes = torch.full((1, 8, 1024), 1024)
    t = torch.arange(20)
    codes[0, 0, :20], codes[0, 1, :20] = (31 * t + 7) % 1024, (57 * t + 100) % 1024
    with torch.no_grad():
        logits = fine(2, codes)[0][0]
    assert logits[0, :4].tolist() == pytest.approx([1.319717, -0.955594, -0.707311, 0.720669], abs=2e-5)
    assert logits[19, 1020:1024].tolist() == pytest.approx(
        [0.983062, 2.735901, -0.512708, 1.706325], abs=2e-5
    )


@pytest.mark.parametrize(
    "config, rows, total",
    [
        (
            suno(fine=GREEDY),
            [[542, 345, 345, 258, 443, 219], [1004, 387, 387, 387, 789, 813], [336, 336, 279, 732, 341, 491],
             [706, 706, 706, 940, 918, 11], [846, 997, 833, 894, 480, 894], [271, 609, 767, 48, 991, 287]],
            83_667,
        ),
        (
            suno(),
            [[436, 491, 732, 73, 336, 549], [890, 124, 262, 355, 64, 939], [77, 727, 690, 708, 660, 583],
             [203, 521, 807, 116, 586, 491], [469, 708, 730, 581, 295, 381], [991, 962, 336, 48, 991, 477]],
            75_905,
        ),
    ],
    ids=["greedy", "sampled"],
)  # fmt: skip
def test_fine_tokens(fine, config, rows, total):
    codes = fine_of(fine, 20, config)
    assert codes[2:, :6].tolist() == rows
    assert int(codes.sum()) == total


def test_fine_two_windows(fine):
    codes = fine_of(fine, 1200, suno(fine=GREEDY))
    assert int(codes.sum()) == 4_928_274
    expected = [
        [362, 359, 150],
        [429, 914, 307],
        [479, 690, 851],
        [918, 130, 384],
        [863, 190, 961],
        [600, 92, 659],
    ]
    assert codes[2:, 511:514].tolist() == expected


def test_fine_history(fine):
    codes = fine_of(fine, 700, suno(fine=GREEDY), VOICE)
    assert int(codes.sum()) == 2_826_557
    expected = [[458, 131, 732, 283], [791, 387, 914, 608], [341, 336, 690, 106]]
    expected += [[733, 706, 598, 454], [60, 846, 605, 437], [991, 271, 521, 352]]
    assert codes[2:, :4].tolist() == expected


# --- codec --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec():
    config, state = encodec.convert(golden.encodec_state(), encoder=True)
    codec = Codec(config)
    codec.load_state_dict(state)
    return codec.eval()


def test_codec_decodes(codec):
    codes = torch.tensor([[(37 * q + 11 * t + 5) % 1024 for t in range(10)] for q in range(8)])[None]
    with torch.no_grad():
        z, audio = codec.embed(codes), codec.decode(codes)[0]
    assert z[0, :3, 0].tolist() == pytest.approx([0.184483, -0.032662, -1.666078], abs=1e-6)
    expected = {0: -5.701097, 1: -3.514595, 2: 2.993255, 319: 3.102845, 320: -0.270005}
    expected |= {1600: -18.644436, 3198: 11.124491, 3199: 7.450008}
    peak = 53.695023
    assert audio[list(expected)].tolist() == pytest.approx(list(expected.values()), abs=1e-5 * peak)
    assert float(audio.abs().max()) == pytest.approx(peak, rel=1e-5)
    assert float(audio.pow(2).mean().sqrt()) == pytest.approx(13.288432, rel=1e-5)
    assert float(audio.double().sum()) == pytest.approx(22_993.128, abs=0.05)


def test_codec_encodes(codec):
    n = np.arange(2000)
    audio = torch.from_numpy(
        (0.5 * np.sin(2 * np.pi * 440 * n / 24_000).astype(np.float32)).astype(np.float32)
    )[None]
    with torch.no_grad():
        z, codes = codec.encoder(audio[None]), codec.encode(audio)
    assert z[0, :4, 0].tolist() == pytest.approx([-5.817475, -11.689511, 13.168432, 1.836922], abs=2e-4)
    assert codes.shape == (1, 8, 7)
    expected = [[361, 361, 361], [350, 827, 182], [230, 44, 397], [254, 615, 615]]
    expected += [[892, 490, 857], [786, 786, 284], [931, 45, 479], [567, 500, 500]]
    assert codes[0, :, :3].tolist() == expected


@pytest.mark.parametrize("samples, frames", [(1, 1), (319, 1), (320, 1), (321, 2), (24_000, 75)])
def test_codec_frames(codec, samples, frames):
    with torch.no_grad():
        assert codec.encode(torch.zeros(1, samples)).shape == (1, 8, frames)


def test_codec_prefix_is_exact_from_seven_frames(codec):
    codes = torch.randint(0, 1024, (1, 8, 12), generator=generator(0))
    with torch.no_grad():
        whole = codec.decode(codes)[0]
        peak = float(whole.abs().max())
        for n in range(1, 13):
            error = float((codec.decode(codes[..., :n])[0] - whole[: 320 * n]).abs().max()) / peak
            assert (error < 1e-5) == (n >= 7), (n, error)
        assert codec.decode(codes[..., :0]).shape == (1, 0)


# --- the cache ----------------------------------------------------------------------------------------------


def test_cached_equals_uncached(coarse):
    """Prefill, then single tokens, then a chunk: the same logits as the whole sequence at once."""
    ids = torch.randint(0, 12_096, (3, 40), generator=generator(1))
    cache = KVCache(coarse.config, 3, 40)
    with torch.no_grad():
        plain, _ = coarse(ids)
        parts = [coarse(ids[:, a:b], cache=cache)[0] for a, b in ((0, 20), (20, 21), (21, 22), (22, 40))]
    assert torch.allclose(torch.cat(parts, 1), plain, atol=2e-5, rtol=0)
    assert cache.length == 40


@pytest.mark.parametrize("voice, n", [(None, 50), (None, 500), (VOICE, 60), (SHORT_VOICE, 400)])
@pytest.mark.parametrize("config", [suno(), suno(max_coarse_history=120), transformers(coarse=GREEDY)])
def test_a_reused_cache_equals_new_prompts(coarse, voice, n, config):
    """While no history slides, going on with the cache gives the tokens of reading every window's prompt."""
    semantic = torch.randint(0, 10_000, (n,), generator=generator(n))
    reused, anew = (
        coarse_ids(coarse, semantic, voice, generator(1), config, reuse_cache=reuse)
        for reuse in (True, False)
    )
    assert torch.equal(reused, anew)
    codes = reference.semantic_to_coarse(coarse, semantic, voice, config, T, generator(1))
    assert torch.equal(reference.coarse_codes(anew, T), codes)


def test_reusing_the_cache_saves_prompts(coarse, monkeypatch):
    lengths, forward = [], GPT.forward

    def counted(self, ids=None, **options):
        lengths.append(ids.shape[1])
        return forward(self, ids, **options)

    monkeypatch.setattr(GPT, "forward", counted)
    semantic = torch.randint(0, 10_000, (300,), generator=generator(0))  # 900 steps: 15 windows
    coarse_ids(coarse, semantic, None, generator(1), suno())
    # The first 11 windows share one prompt, whose last id is the first step's.
    assert [n for n in lengths if n > 1] == [256, *[256 + 630] * 4]
    assert lengths.count(1) == 900


def test_fine_draws_for_every_row_of_a_window(fine):
    """For rows that nobody reads too: the next to draw from the generator finds it as it is due."""
    drawn, due = generator(3), generator(3)
    codes = torch.randint(0, 1024, (2, 30), generator=generator(0))
    fast(FineStage(fine, suno(), T), (codes, None, drawn))
    for _ in range(6):
        exponential((1024, 1024), due)
    assert torch.equal(drawn.get_state(), due.get_state())


def test_fine_keeps_the_last_512_frames(fine):
    """A voice of 600 frames does what its last 512 do."""
    codes = np.stack([(31 * np.arange(600) * (q + 1) + 7 * q) % 1024 for q in range(8)])
    long = Voice(LONG[:1].repeat(400), codes[:2], codes)
    last = Voice(LONG[:1].repeat(341), codes[:2, -512:], codes[:, -512:])
    assert torch.equal(fine_of(fine, 30, suno(fine=GREEDY), long), fine_of(fine, 30, suno(fine=GREEDY), last))


def test_limits_of_the_models(coarse, fine):
    cache = KVCache(coarse.config, 1, 3)
    with torch.no_grad():
        coarse(torch.zeros(1, 3, dtype=torch.long), cache=cache)
        with pytest.raises(AssertionError, match="cannot hold 4"):
            coarse(torch.zeros(1, 1, dtype=torch.long), cache=cache)
        with pytest.raises(ValueError, match="positions exceed"):
            coarse(torch.zeros(1, 1025, dtype=torch.long))
        with pytest.raises(ValueError, match="1025 frames exceed"):
            fine(2, torch.zeros(1, 8, 1025, dtype=torch.long))
        for codebook in (0, 8):
            with pytest.raises(ValueError, match="predicts 1 to 7"):
                fine(codebook, torch.zeros(1, 8, 5, dtype=torch.long))
        with pytest.raises(ValueError, match="either ids or embeds"):
            coarse()
        with pytest.raises(ValueError, match="either codes or embeds"):
            fine(2)

"""`Bark` itself: rows and batches, settings, dtype, device, offload, long texts, bad input."""

import io
from dataclasses import replace

import numpy as np
import pytest
import scipy.io.wavfile
import torch

import barklite
from barklite import Bark, BarkConfig, GenerationConfig, SamplingConfig
from barklite.decode.sampling import generator
from tests import builders
from tests.comparing import same

SHORT = GenerationConfig(max_semantic_tokens=30)
VOICE = builders.voice("mine")


def test_a_clip(tiny):
    clip = tiny.generate("Hello [laughs]", seed=5, config=SHORT)
    assert clip.audio.dtype == np.float32
    assert clip.semantic.dtype == clip.codes.dtype == np.int64
    assert (clip.semantic.shape, clip.codes.shape, clip.audio.shape) == ((30,), (8, 45), (45 * 320,))
    assert (clip.sample_rate, clip.seed, clip.finish_reason) == (24_000, 5, "length")
    assert clip.seconds == 0.6
    assert set(clip.timings) == {"semantic", "coarse", "fine", "codec"}
    assert all(seconds > 0 for seconds in clip.timings.values())


def test_same_seed_same_clip(tiny):
    one, two, three = (tiny.generate("Hello", VOICE, seed, SHORT) for seed in (1, 1, 2))
    assert same(one, two)
    assert not same(one, three)


def test_everything_reaches_the_tokens(tiny):
    """Text, voice, settings and rules each change the result."""
    base = dict(text="Hello", voice=VOICE, seed=1, config=SHORT)
    clips = [tiny.generate(**base)]
    for change in (
        dict(text="world " * 200),
        dict(voice=None),
        dict(voice=builders.voice("other", seed=4)),
        dict(config=replace(SHORT, rules="transformers")),
        dict(config=replace(SHORT, semantic=SamplingConfig(1.2))),
        dict(config=replace(SHORT, coarse=SamplingConfig(0.7, top_k=3))),
        dict(config=replace(SHORT, fine=SamplingConfig(0))),
        dict(config=replace(SHORT, max_coarse_history=60), voice=builders.voice("mine", 300)),
        dict(voice=builders.voice("mine", 300)),
    ):
        clip = tiny.generate(**base | change)
        assert not any(same(clip, other) for other in clips), change
        clips.append(clip)


def test_an_unseeded_clip_reports_its_seed(tiny):
    clip = tiny.generate("Hello", config=SHORT)
    assert same(clip, tiny.generate("Hello", seed=clip.seed, config=SHORT))
    assert clip.seed != tiny.generate("Hello", config=SHORT).seed


def test_batch_rows_equal_single_rows(tiny):
    texts, voices, seeds = (
        ["Hello", "world world", "Hell!"],
        [VOICE, None, builders.voice("other", 300, 4)],
        [1, 2, 3],
    )
    clips = tiny.generate_batch(texts, voices, seeds, SHORT)
    for clip, *row in zip(clips, texts, voices, seeds, strict=True):
        assert same(clip, tiny.generate(*row, SHORT))
    assert tiny.generate_batch([]) == []
    one_voice = tiny.generate_batch(["Hello", "Hello"], VOICE, [1, 1], SHORT)
    assert same(one_voice[0], clips[0])
    assert same(one_voice[1], clips[0])


def test_a_clip_in_words(tiny):
    """Not its arrays."""
    assert repr(tiny.generate("Hello", seed=5, config=SHORT)) == "Clip('Hello', 0.60 s, seed 5, 'length')"


def test_hooks_on_the_codec_are_called(tiny):
    seen = []
    hook = tiny.codec.register_forward_hook(lambda module, given, made: seen.append(made.shape))
    try:
        tiny.generate("Hello", seed=5, config=SHORT)
    finally:
        hook.remove()
    assert seen == [(1, 45 * 320)]


@pytest.mark.parametrize("rules", ["suno", "transformers"])
def test_the_end_is_drawn(rules, tiny):
    """With a likely end the row stops, reports it, and does not contain it."""
    bark = Bark.from_config(tiny.config, seed=3, device="cpu")
    with torch.no_grad():
        bark.semantic.lm_head.weight[10_000] *= 8
    config = GenerationConfig(max_semantic_tokens=200, min_eos_p=None, rules=rules)
    clips = [bark.generate("Hello", seed=seed, config=config) for seed in range(4)]
    ended = [clip for clip in clips if clip.finish_reason == "eos"]
    assert ended
    assert all(len(clip.semantic) < 200 and (clip.semantic < 10_000).all() for clip in ended)


@pytest.mark.parametrize("temperature", [0, 0.7])
@pytest.mark.parametrize("rules", ["suno", "transformers"])
def test_the_probability_of_the_end(rules, temperature, tiny):
    """`eos_p` is what `min_eos_p` sees, at every step and at the one that ends."""
    sampling = SamplingConfig(temperature)
    config = GenerationConfig(max_semantic_tokens=40, min_eos_p=None, rules=rules, semantic=sampling)
    clip = tiny.generate("Hello", seed=1, config=config)
    assert clip.eos_p.dtype == np.float32
    assert clip.eos_p.shape == (40,)
    assert 0 < clip.eos_p.min() <= clip.eos_p.max() < 0.1
    likeliest = int(clip.eos_p.argmax())
    below, above = (float(np.nextafter(clip.eos_p[likeliest], bound)) for bound in (0, 1))
    if (rules, temperature) != ("suno", 0):  # there the end must be the likeliest of all
        ended = tiny.generate("Hello", seed=1, config=replace(config, min_eos_p=below))
        assert ended.finish_reason == "eos"
        assert ended.eos_p.tolist() == clip.eos_p[: likeliest + 1].tolist()
        assert ended.semantic.tolist() == clip.semantic[:likeliest].tolist()
    on = tiny.generate("Hello", seed=1, config=replace(config, min_eos_p=above))
    assert on.semantic.tolist() == clip.semantic.tolist()


@pytest.mark.parametrize("rules", ["suno", "transformers"])
def test_an_end_at_once_is_an_empty_clip(rules, tiny):
    bark = Bark.from_config(tiny.config, seed=3, device="cpu")
    config = GenerationConfig(min_eos_p=1e-9, rules=rules)
    with pytest.warns(UserWarning, match="ended 'Hello' at once"):
        clip = bark.generate("Hello", seed=1, config=config)
    assert (clip.audio.shape, clip.codes.shape, clip.semantic.shape) == ((0,), (8, 0), (0,))
    assert clip.finish_reason == "eos"
    clip.wav()
    with pytest.raises(ValueError, match="empty clip"):
        clip.voice()


def test_max_seconds(tiny):
    assert len(tiny.generate("Hello", seed=0, config=GenerationConfig(max_seconds=1.0)).semantic) == 50
    assert len(tiny.generate("Hello", seed=0, config=GenerationConfig()).semantic) == 768
    assert len(tiny.generate("Hello", seed=0).semantic) == 150  # the checkpoint's own default: 3 seconds


def test_progress_goes_to_stderr(tiny, capfd):
    tiny.generate("Hello", seed=0, config=SHORT, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert all(stage in err for stage in ("semantic", "coarse", "fine"))
    tiny.generate("Hello", seed=0, config=SHORT, progress=None)  # no terminal here
    assert capfd.readouterr().err == ""


# --- stages -------------------------------------------------------------------------------------------------


def test_stages_take_and_give_lists(tiny):
    semantic = tiny.text_to_semantic(["Hello", "world"], [VOICE, None], [1, 2], SHORT)
    coarse = tiny.semantic_to_coarse([semantic[0], semantic[1][:7].numpy()], [VOICE, None], [3, 4])
    codes = tiny.coarse_to_fine(coarse, None, [5, 6])
    audio = tiny.decode(codes)
    assert [tuple(row.shape) for row in semantic] == [(30,), (30,)]
    assert [tuple(row.shape) for row in coarse] == [(2, 45), (2, 10)]
    assert [tuple(row.shape) for row in codes] == [(8, 45), (8, 10)]
    assert [tuple(row.shape) for row in audio] == [(14_400,), (3200,)]
    assert {row.dtype for row in [*semantic, *coarse, *codes]} == {torch.int64}
    assert torch.equal(codes[1][:2], coarse[1])


def test_fine_takes_one_to_seven_codebooks(tiny):
    codes = torch.randint(0, 1024, (8, 12), generator=generator(0))
    for k in range(1, 8):
        full = tiny.coarse_to_fine([codes[:k]], seeds=[1])[0]
        assert full.shape == (8, 12)
        assert torch.equal(full[:k], codes[:k])


def test_empty_rows_pass_through(tiny):
    empty = torch.zeros(0, dtype=torch.long)
    coarse = tiny.semantic_to_coarse([empty])
    assert coarse[0].shape == (2, 0)
    codes = tiny.coarse_to_fine(coarse)
    assert codes[0].shape == (8, 0)
    assert tiny.decode(codes)[0].shape == (0,)


def test_gradients_are_there_and_generation_makes_none(tiny):
    bark = Bark.from_config(BarkConfig.tiny(), device="cpu")
    tokens = bark.text_to_semantic(["Hello"], seeds=[0], config=SHORT)[0]
    assert not tokens.is_inference()
    logits, loss = bark.semantic(tokens[None, :-1], targets=tokens[None, 1:])
    assert logits.shape == (1, 29, 10_048)
    loss.backward()
    assert bark.semantic.wte.weight.grad.abs().sum() > 0
    codes = torch.randint(0, 1024, (1, 8, 5), generator=generator(0))
    bark.fine(3, codes, targets=codes[:, 3])[1].backward()
    assert bark.fine.wtes[3].weight.grad.abs().sum() > 0


def test_a_mapped_model_can_be_trained(native):
    """Weights are mapped from the file; changing them in memory leaves the file alone."""
    before = (native / "coarse.safetensors").read_bytes()
    bark = Bark.from_pretrained(native, device="cpu")
    with torch.no_grad():
        bark.coarse.wpe.weight += 1
    assert (native / "coarse.safetensors").read_bytes() == before


# --- device, dtype, offload ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.float16])
def test_dtypes(dtype, native):
    bark = Bark.from_pretrained(native, dtype=dtype, device="cpu")
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {p.dtype for model in (bark.semantic, bark.coarse, bark.fine) for p in model.parameters()} == {
        wanted
    }
    assert {p.dtype for p in bark.codec.parameters()} == {torch.float32}
    clip = bark.generate("Hello", VOICE, 1, SHORT)
    assert clip.audio.dtype == np.float32
    assert np.isfinite(clip.audio).all()
    bark.codec.to(wanted)  # when asked
    assert bark.decode([clip.codes])[0].dtype == torch.float32


def test_from_config_is_reproducible():
    one, two, three = (Bark.from_config(BarkConfig.tiny(), seed=s, device="cpu") for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.fine.parameters(), two.fine.parameters(), strict=True))
    assert not torch.equal(one.fine.wpe.weight, three.fine.wpe.weight)


@pytest.mark.parametrize("size, counts", [
    ("small", (192_989_952, 104_319_744, 92_247_552)),
    ("large", (446_088_192, 327_861_248, 311_789_568)),
])  # fmt: skip
def test_released_sizes(size, counts):
    config = getattr(BarkConfig, size)()
    with torch.device("meta"):
        models = [
            barklite.storage.checkpoint.MODELS[name](getattr(config, name))
            for name in ("semantic", "coarse", "fine")
        ]
        codec = barklite.storage.checkpoint.MODELS["codec"](config.codec)
    assert tuple(sum(p.numel() for p in model.parameters()) for model in models) == counts
    assert sum(p.numel() for p in codec.decoder.parameters()) == 7_426_018 - folded(codec)


def folded(codec) -> int:
    """Weight norm's lengths, which are gone: one for each filter (spec 6.3: dimension 0)."""
    return sum(
        m.weight.shape[0]
        for m in codec.decoder.modules()
        if isinstance(m, (torch.nn.Conv1d, torch.nn.ConvTranspose1d))
    )


class FakeAccelerator:
    """Stands in for an accelerator on machines without one: notes which model's weights are moved when."""

    def __init__(self, bark, monkeypatch):
        self.log = []
        bark.offload = True
        original = torch.Tensor.to

        def to(tensor, *arguments, **options):
            if options.get("non_blocking"):
                moved = tensor.clone()
                self.log.append((tensor.data_ptr(), moved.data_ptr()))
                return moved
            return original(tensor, *arguments, **options)

        monkeypatch.setattr(torch.Tensor, "to", to)


def test_offload_moves_one_model_at_a_time(monkeypatch):
    bark = Bark.from_config(BarkConfig.tiny(), device="cpu")
    plain = bark.generate("Hello", VOICE, 1, SHORT)
    homes = {
        n: [p.data_ptr() for p in getattr(bark, n).parameters()]
        for n in ("semantic", "coarse", "fine", "codec")
    }
    accelerator = FakeAccelerator(bark, monkeypatch)
    with pytest.raises(RuntimeError, match="stop"), bark._resident("fine") as fine:  # noqa: PT012
        assert [p.data_ptr() for p in fine.parameters()] == [there for _, there in accelerator.log]
        assert not set(homes["fine"]) & {p.data_ptr() for p in fine.parameters()}
        for other in ("semantic", "coarse", "codec"):
            assert [p.data_ptr() for p in getattr(bark, other).parameters()] == homes[other]
        raise RuntimeError("stop")  # an error, too, brings the weights home
    assert [p.data_ptr() for p in bark.fine.parameters()] == homes["fine"]
    accelerator.log.clear()
    assert same(bark.generate("Hello", VOICE, 1, SHORT), plain)
    order = [home for home, _ in accelerator.log]
    assert order == [home for name in ("semantic", "coarse", "fine", "codec") for home in homes[name]]


def test_offload_on_the_cpu_changes_nothing(native):
    assert not Bark.from_pretrained(native, device="cpu", offload=True).offload


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_cuda(dtype, native):
    bark = Bark.from_pretrained(native, device="cuda", dtype=dtype)
    clips = [bark.generate("Hello", VOICE, 1, SHORT) for _ in range(2)]
    assert same(*clips)
    assert bark.text_to_semantic(["Hello"], seeds=[1], config=SHORT)[0].device.type == "cuda"


@pytest.mark.cuda
def test_cuda_greedy_equals_cpu(native):
    greedy = replace(SHORT, semantic=SamplingConfig(0), coarse=SamplingConfig(0), fine=SamplingConfig(0))
    one, two = (
        Bark.from_pretrained(native, device=d).generate("Hello", VOICE, 1, greedy) for d in ("cpu", "cuda")
    )
    assert np.array_equal(one.codes, two.codes)


@pytest.mark.cuda
def test_cuda_offload(native):
    plain, offloaded = (Bark.from_pretrained(native, device="cuda", offload=o) for o in (False, True))
    assert same(plain.generate("Hello", VOICE, 1, SHORT), offloaded.generate("Hello", VOICE, 1, SHORT))
    assert {p.device.type for p in offloaded.codec.parameters()} == {"cpu"}


# --- long texts ---------------------------------------------------------------------------------------------


def test_stream_speaks_every_sentence(tiny):
    text = "Hello Dr. Hell. Hello world! " + "hell, " * 300 + "the end."
    config = GenerationConfig(max_semantic_tokens=30)
    clips = list(tiny.stream(text, VOICE, 7, config, pause=0))
    assert [clip.text for clip in clips[:2]] == ["Hello Dr. Hell.", "Hello world!"]
    assert " ".join(clip.text for clip in clips) == " ".join(text.split())
    assert all(len(tiny.tokenizer.encode(clip.text)) <= 256 for clip in clips)
    assert [clip.seed for clip in clips] == list(range(7, 7 + len(clips)))
    assert same(clips[1], tiny.generate("Hello world!", VOICE, 8, config))


def test_stream_seeds_wrap_around(tiny):
    clips = list(tiny.stream("Hello. Hell.", VOICE, 2**32 - 1, SHORT))
    assert [clip.seed for clip in clips] == [2**32 - 1, 0]


def test_stream_keeps_the_first_voice(tiny):
    clips = list(tiny.stream("Hello world. Hell. Hello.", seed=0, config=SHORT, pause=0))
    assert same(clips[2], tiny.generate("Hello.", clips[0].voice(), 2, SHORT))


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, message", [
    ("", "empty"), ("  \n\t ", "empty"), ("\u200b\u200b", "empty"),
    ("a\0b", "NUL character at position 1"), ("a\ud800", r"lone surrogate U\+D800 at position 1"),
    (None, "one text, not NoneType"), (["a"], "not list; see generate_batch"), (b"a", "not bytes"),
])  # fmt: skip
def test_bad_texts(text, message, tiny):
    with pytest.raises(ValueError, match=message):
        tiny.generate(text)


def test_too_long_a_text(tiny):
    text = "Hello " * 256 + "world"
    with pytest.raises(ValueError, match=r"has 257 tokens, and the model reads 256: use stream\(\)"):
        tiny.generate(text, seed=0, config=SHORT)
    with pytest.warns(UserWarning, match=r"too long: its last 0\.4 % are cut"):
        cut = tiny.generate(text, seed=0, config=replace(SHORT, truncate=True))
    assert same(cut, tiny.generate("Hello " * 256, seed=0, config=SHORT))


def test_white_space_by_the_rules(tiny):
    """Suno makes every white space a space; transformers deletes controls (D1)."""
    one, two = (
        tiny._encode("Hello\x0bworld", GenerationConfig(rules=rules)) for rules in ("suno", "transformers")
    )
    assert one == tiny.tokenizer.encode("Hello world")
    assert two == tiny.tokenizer.encode("Helloworld")


@pytest.mark.parametrize("arguments, message", [
    (dict(texts="Hello"), "list of strings"),
    (dict(texts=["Hello", 3]), "string, not int"),
    (dict(texts=["Hello"], seeds=[1, 2]), "seeds has 2 entries for 1 rows"),
    (dict(texts=["Hello"], seeds=5), "seeds must be a list"),
    (dict(texts=["Hello"], seeds=[-1]), "seed is -1"),
    (dict(texts=["Hello"], seeds=[2**40]), "seed is 1099511627776"),
    (dict(texts=["Hello"], voices=[None, None]), "voices has 2 entries"),
    (dict(texts=["Hello"], voices=[7]), "not int"),
    (dict(texts=["Hello"], seeds=[torch.Generator()]), "seed is <torch"),
    (dict(texts=["Hello"], config=3), "must be a GenerationConfig, not int"),
    (dict(texts=["Hello"], config={}), "must be a GenerationConfig, not dict"),
    (dict(texts=["Hello"], config=GenerationConfig(max_semantic_tokens=769)), "makes at most 768"),
    (dict(texts=["Hello"], config=GenerationConfig(max_coarse_history=59)), "between 60 and 630"),
    (dict(texts=["Hello"], config=GenerationConfig(max_coarse_history=631)), "between 60 and 630"),
])  # fmt: skip
def test_bad_batches(arguments, message, tiny):
    with pytest.raises(ValueError, match=message):
        tiny.generate_batch(**arguments)


@pytest.mark.parametrize("arguments, message", [
    (dict(min_eos_p=0), "min_eos_p is 0"), (dict(min_eos_p=2), "min_eos_p is 2"),
    (dict(max_seconds=-1), "max_seconds is -1"), (dict(max_semantic_tokens=0), "max_semantic_tokens is 0"),
    (dict(truncate="no"), "truncate is 'no'"),
    (dict(rules="bark"), "rules is 'bark'; choose one of suno"), (dict(semantic=0.7), "SamplingConfig"),
])  # fmt: skip
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        GenerationConfig(**arguments)


@pytest.mark.parametrize("stage, row, message", [
    ("semantic_to_coarse", torch.zeros(2, 3, dtype=torch.long), r"shape \(2, 3\); it must be \(N,\)"),
    ("semantic_to_coarse", torch.tensor([10_000]), r"outside 0 \.\. 9999"),
    ("semantic_to_coarse", torch.tensor([0.5]), "must hold integers"),
    ("semantic_to_coarse", None, "row 0 is not a tensor or array of integers"),
    ("coarse_to_fine", np.array([[None]]), "row 0 is not a tensor"),
    ("coarse_to_fine", torch.zeros(8, 3, dtype=torch.long), "k from 1 to 7"),
    ("coarse_to_fine", torch.full((2, 3), 1024), r"outside 0 \.\. 1023"),
    ("decode", torch.zeros(9, 3, dtype=torch.long), "k from 1 to 8"),
    ("decode", torch.full((8, 3), -1), r"outside 0 \.\. 1023"),
])  # fmt: skip
def test_bad_rows(stage, row, message, tiny):
    with pytest.raises(ValueError, match=message):
        getattr(tiny, stage)([row])
    if isinstance(row, torch.Tensor):
        with pytest.raises(ValueError, match="give a list"):
            getattr(tiny, stage)(row)


def test_bad_stream_input_raises_at_once(tiny):
    for arguments in (
        dict(text=""),
        dict(text="a", seed=-1),
        dict(text="a", voice="nobody"),
        dict(text="...\u200b" * 0),
    ):
        with pytest.raises(ValueError, match=r"empty|seed|voice"):
            tiny.stream(**arguments)


@pytest.mark.parametrize("options, message", [
    (dict(device="tpu"), "device 'tpu' cannot be used"),
    (dict(device="meta"), "device 'meta' cannot compute"),
    (dict(compile="yes"), "compile is 'yes'"), (dict(quantize="int1"), "quantize is 'int1'; choose None or"),
    (dict(dtype=[]), "choose one of"),
    (dict(revision="main"), "a revision belongs to a Hub id"),
    (dict(dtype="int8"), "dtype is 'int8'; choose one of"),
    (dict(dtype=torch.float64), "dtype is torch.float64"),
])  # fmt: skip
def test_bad_options(options, message, native):
    with pytest.raises(ValueError, match=message):
        Bark.from_pretrained(native, **{"device": "cpu", **options})


def test_bad_configurations():
    for config in (None, {}, "small"):
        with pytest.raises(ValueError, match="must be a BarkConfig"):
            Bark.from_config(config)
    with pytest.raises(ValueError, match="tokenizer must be one of"):
        Bark.from_config(BarkConfig.tiny(), tokenizer=3)


def test_numpy_numbers_are_numbers(tiny):
    one = tiny.generate(
        "Hello", VOICE, 3, GenerationConfig(max_seconds=0.5, semantic=SamplingConfig(0.5, 7, 0.5))
    )
    sampling = SamplingConfig(np.float32(0.5), np.int64(7), np.float64(0.5))
    config = GenerationConfig(max_seconds=np.float32(0.5), semantic=sampling)
    two = tiny.generate("Hello", VOICE, np.uint32(3), config)
    assert same(one, two)
    assert type(two.seed) is int
    assert same(one, tiny.generate_batch(("Hello",), [VOICE], np.array([3]), config)[0])


def test_rows_of_any_memory_layout(tiny):
    row = np.arange(40)[::-1]
    plain = tiny.semantic_to_coarse([torch.arange(39, -1, -1)], seeds=[1])[0]
    for form in (row, row.astype(">i4"), row.tolist(), row.astype(np.uint16)):
        assert torch.equal(tiny.semantic_to_coarse([form], seeds=[1])[0], plain)


def test_weights_gone_bad_are_noticed(tiny):
    """Whoever changes the weights after loading is told before sound is made of NaN."""
    for name in ("semantic", "coarse", "fine"):
        bark = Bark.from_config(BarkConfig.tiny(), device="cpu")
        with torch.no_grad():
            getattr(bark, name).wpe.weight.fill_(torch.nan)
        with pytest.raises(ValueError, match=f"the {name} model computed values that are not finite"):
            bark.generate("Hello", seed=0, config=SHORT)


def test_an_interrupt_at_any_stage_leaves_a_working_model(tiny, monkeypatch):
    for name in ("semantic", "coarse", "fine", "codec"):
        module = type(getattr(tiny, name)) if name != "codec" else type(tiny.codec)
        attribute = "decode" if name == "codec" else "forward"

        def interrupt(*arguments, **options):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(module, attribute, interrupt)
            with pytest.raises(KeyboardInterrupt):
                tiny.generate("Hello", seed=0, config=SHORT)
        assert len(tiny.generate("Hello", seed=0, config=SHORT).audio) == 14_400


# --- clips --------------------------------------------------------------------------------------------------


def test_wav(tiny, tmp_path):
    clip = replace(
        tiny.generate("Hello", seed=1, config=SHORT), audio=np.array([0, 0.5, -1, 1, 0.25], np.float32)
    )
    clip.save(tmp_path / "pcm.wav")
    rate, samples = scipy.io.wavfile.read(tmp_path / "pcm.wav")
    assert (rate, samples.dtype, samples.tolist()) == (24_000, np.int16, [0, 16384, -32767, 32767, 8192])
    clip.save(tmp_path / "float.wav", float32=True)
    rate, samples = scipy.io.wavfile.read(tmp_path / "float.wav")
    assert (rate, samples.dtype, samples.tolist()) == (24_000, np.float32, clip.audio.tolist())
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["float.wav", "pcm.wav"]


def test_clipping_is_reported(tiny, tmp_path):
    clip = replace(tiny.generate("Hello", seed=1, config=SHORT), audio=np.array([0, 1.05, -2, 1], np.float32))
    with pytest.warns(UserWarning, match=r"2 of 4 samples were clipped"):
        clip.save(tmp_path / "loud.wav")
    assert scipy.io.wavfile.read(tmp_path / "loud.wav")[1].tolist() == [0, 32767, -32767, 32767]


def test_a_notebook_shows_a_player(tiny):
    import base64
    import re

    clip = tiny.generate("Hello", seed=1, config=SHORT)
    html = clip._repr_html_()
    assert html.startswith("<audio controls")
    data = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    assert len(scipy.io.wavfile.read(io.BytesIO(data))[1]) == len(clip.audio)


def test_random_weights_read_any_text():
    bark = Bark.from_config(BarkConfig.tiny(), device="cpu")
    assert bark.generate("Grüße, 世界!", seed=0).seconds == 3.0

"""Every published layout becomes the same barklite checkpoint; every damaged one is refused in a sentence."""

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save_file

from barklite import Bark, Voice
from barklite.storage import atomic
from barklite.storage.checkpoint import MODELS, convert
from barklite.storage.formats import open_checkpoint
from barklite.storage.pickles import read_pickle
from tests import builders

VOICES = (builders.voice("v2/en_speaker_6"), builders.voice("announcer", seed=1))


def states(bark: Bark) -> dict[str, dict[str, torch.Tensor]]:
    return {name: getattr(bark, name).state_dict() for name in MODELS}


def assert_same_weights(one: Bark, other: Bark, codec_exact: bool = False):
    for name, state in states(one).items():
        others = getattr(other, name).state_dict()
        assert state.keys() == others.keys(), name
        for key, tensor in state.items():
            if name == "codec" and not codec_exact:  # weight norm was unfolded and folded again
                torch.testing.assert_close(others[key], tensor, rtol=1e-6, atol=1e-7)
            else:
                assert torch.equal(others[key], tensor), (name, key)


LAYOUTS = {
    "suno-large": lambda path, bark: builders.write_suno(path, bark, "large"),
    "suno-small": lambda path, bark: builders.write_suno(path, bark, "small"),
    "bin": lambda path, bark: builders.write_huggingface(path, bark, voices=VOICES),
    "bin-new-norm": lambda path, bark: builders.write_huggingface(path, bark, weight_norm="new"),
    "safetensors": lambda path, bark: builders.write_huggingface(
        path, bark, "safetensors", "new", vocab="json"
    ),
    "shards": lambda path, bark: builders.write_huggingface(path, bark, "shards", voices=VOICES),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_and_converts(layout, tiny, tmp_path):
    source = LAYOUTS[layout](tmp_path / "source", tiny)
    direct = Bark.from_pretrained(source, device="cpu")
    assert_same_weights(tiny, direct)
    assert replace(direct.config, generation=tiny.config.generation) == tiny.config
    assert direct.tokenizer.encode("Hello, worlds!") == tiny.tokenizer.encode("Hello, worlds!")

    convert(source, tmp_path / "native")
    converted = Bark.from_pretrained(tmp_path / "native", device="cpu")
    assert_same_weights(direct, converted, codec_exact=True)
    assert converted.config == direct.config
    for voice in open_checkpoint(source).voices:
        kept = Voice.load(tmp_path / "native" / "voices" / f"{voice}.npz")
        original = next(v for v in VOICES if v.name == voice)
        assert all(
            np.array_equal(getattr(kept, a), getattr(original, a)) for a in ("semantic", "coarse", "fine")
        )


def test_large_is_preferred_to_small(tiny, tmp_path):
    other = Bark.from_config(tiny.config, seed=9)
    builders.write_suno(tmp_path, other, "small")
    builders.write_suno(tmp_path, tiny, "large")
    (tmp_path / "encodec_24khz-d7cc33bc.th").unlink()
    torch.save(builders.codec_state(tiny, huggingface=False), tmp_path / "encodec_24khz-d7cc33bc.th")
    assert_same_weights(tiny, Bark.from_pretrained(tmp_path, device="cpu"))


def test_round_trip_is_bit_for_bit(tiny, native):
    again = Bark.from_pretrained(native, device="cpu")
    assert_same_weights(tiny, again, codec_exact=True)
    assert again.config == tiny.config
    one, two = (bark.generate("Hello", seed=1) for bark in (tiny, again))
    assert np.array_equal(one.codes, two.codes)
    assert np.array_equal(one.audio, two.audio)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_on_request(dtype, tiny, tmp_path):
    source = builders.write_huggingface(tmp_path / "source", tiny)
    convert(source, tmp_path / "native", dtype)
    for name in MODELS:
        stored = load_file(tmp_path / "native" / f"{name}.safetensors")
        wanted = torch.float32 if name == "codec" else dtype
        assert {tensor.dtype for tensor in stored.values()} == {wanted}
    assert torch.equal(
        load_file(tmp_path / "native" / "coarse.safetensors")["wpe.weight"], tiny.coarse.wpe.weight.to(dtype)
    )


def test_encoder_on_request(tiny, tmp_path):
    source = builders.write_suno(tmp_path / "source", tiny)
    convert(source, tmp_path / "lean")
    convert(source, tmp_path / "full", encoder=True)
    lean, full = (Bark.from_pretrained(tmp_path / name, device="cpu") for name in ("lean", "full"))
    assert lean.config.codec.n_codebooks == 8
    assert full.config.codec.n_codebooks == 32
    codes = full.codec.encode(torch.zeros(1, 700))
    assert codes.shape == (1, 8, 3)
    assert torch.equal(full.codec.decode(codes), lean.codec.decode(codes))
    with pytest.raises(ValueError, match="no encoder"):
        lean.codec.encode(torch.zeros(1, 700))


def test_ids_come_from_the_generation_config(tiny, tmp_path):
    """A Bark with other windows says so in generation_config.json."""
    source = builders.write_huggingface(tmp_path, tiny)
    generation = builders.generation_config()
    generation["coarse_acoustics_config"] |= {"sliding_window_len": 30, "max_coarse_history": 300}
    generation["semantic_config"]["semantic_rate_hz"] = 25.0
    (source / "generation_config.json").write_text(json.dumps(generation))
    tokens = open_checkpoint(source).config.tokens
    assert (tokens.coarse_window, tokens.max_coarse_history, tokens.semantic_rate) == (30, 300, 25.0)


# --- damaged checkpoints ------------------------------------------------------------------------------------


def edit_suno(path, file, change):
    content = torch.load(path / file, weights_only=False)
    change(content)
    torch.save(content, path / file)


class Bomb:
    """A pickle that would run code."""

    def __reduce__(self):
        return (print, ("executed!",))


SUNO_DAMAGE = {
    "extra": (lambda c: c["model"].update({"_orig_mod.x.weight": torch.ones(1)}), r"'x.weight' is not part"),
    "missing": (
        lambda c: c["model"].pop("_orig_mod.transformer.ln_f.weight"),
        r"'transformer.ln_f.weight' is missing",
    ),
    "shape": (
        lambda c: c["model"].update({"_orig_mod.transformer.wpe.weight": torch.ones(1024, 8)}),
        r"'wpe.weight' has shape \(1024, 8\), not \(1024, 16\)",
    ),
    "nan": (
        lambda c: c["model"]["_orig_mod.transformer.wpe.weight"].__setitem__((5, 5), torch.nan),
        r"'wpe.weight' has values that are not finite",
    ),
    "infinity": (
        lambda c: c["model"]["_orig_mod.transformer.wpe.weight"].__setitem__((5, 5), -torch.inf),
        r"'wpe.weight' has values that are not finite",
    ),
    "no-model": (lambda c: c.pop("model"), "not one of Suno's"),
    "no-size": (lambda c: c["model_args"].pop("n_head"), "'n_head' is None"),
    "bias": (lambda c: c["model_args"].update(bias=True), "without bias"),
    "integers": (
        lambda c: c["model"].update(
            {"_orig_mod.transformer.wpe.weight": torch.ones(1024, 16, dtype=torch.int8)}
        ),
        "torch.int8",
    ),
    "pickle": (lambda c: c.update(config=Bomb()), "could run code"),
}


@pytest.mark.parametrize("damage", SUNO_DAMAGE)
def test_damaged_suno_file(damage, tiny, tmp_path, capsys):
    builders.write_suno(tmp_path / "source", tiny)
    change, message = SUNO_DAMAGE[damage]
    edit_suno(tmp_path / "source", "coarse_2.pt", change)
    with pytest.raises(ValueError, match=message) as error:
        Bark.from_pretrained(tmp_path / "source", device="cpu")
    assert "coarse_2.pt" in str(error.value)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "source", tmp_path / "target")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]  # no half directory, no leftover
    assert "executed" not in capsys.readouterr().out


def test_untied_fine_heads_are_refused(tiny, tmp_path):
    builders.write_suno(tmp_path, tiny)
    edit_suno(
        tmp_path,
        "fine_2.pt",
        lambda c: c["model"].update({"_orig_mod.lm_heads.3.weight": torch.ones(1056, 16)}),
    )
    with pytest.raises(ValueError, match="one tensor"):
        Bark.from_pretrained(tmp_path, device="cpu")


def test_malicious_pickles_never_run(tiny, tmp_path):
    """Bare pickles, in the old and the new container, under each of the three names."""
    marker = tmp_path / "executed"

    class Touch:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    for layout, file in (
        ("suno-large", "text_2.pt"),
        ("suno-large", "encodec_24khz-d7cc33bc.th"),
        ("bin", "pytorch_model.bin"),
    ):
        for dump in (
            lambda p: p.write_bytes(pickle.dumps({"model": Touch()})),
            lambda p: torch.save({"a": Touch()}, p),
        ):
            source = LAYOUTS[layout](tmp_path / "source", tiny)
            dump(source / file)
            with pytest.raises(ValueError, match=file):
                Bark.from_pretrained(source, device="cpu")
            assert not marker.exists()
            shutil.rmtree(source)


@pytest.mark.parametrize(
    "file", ["text_2.pt", "coarse_2.pt", "fine_2.pt", "encodec_24khz-d7cc33bc.th", "vocab.txt"]
)
def test_missing_or_truncated_suno_file(file, tiny, tmp_path):
    builders.write_suno(tmp_path, tiny)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: len(content) // 2] if file != "vocab.txt" else b"\xff\xfe")
    with pytest.raises(ValueError, match=file):
        Bark.from_pretrained(tmp_path, device="cpu")
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is missing"):
        Bark.from_pretrained(tmp_path, device="cpu")


def edit_state(file, change):
    state = load_file(file)
    change(state)
    save_file(state, file)


@pytest.mark.parametrize("file", ["config.json", *(f"{name}.safetensors" for name in MODELS), "vocab.txt"])
def test_missing_or_truncated_native_file(file, native, tmp_path):
    path = shutil.copytree(native, tmp_path / "copy")
    content = (path / file).read_bytes()
    (path / file).write_bytes(content[: len(content) // 2] if file != "vocab.txt" else b"hello\n")
    with pytest.raises(ValueError, match=file):
        Bark.from_pretrained(path, device="cpu")
    (path / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        Bark.from_pretrained(path, device="cpu")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("ln_f.weight"), "'ln_f.weight' is missing"),
        (lambda s: s.update(more=torch.ones(1)), "'more' is not part"),
        (lambda s: s.update({"ln_f.weight": torch.ones(8)}), r"shape \(8,\), not \(16,\)"),
        (lambda s: s["wpe.weight"].fill_(torch.nan), "not finite"),
    ],
)
@pytest.mark.parametrize("name", ["semantic", "fine"])
def test_damaged_native_weights(name, change, message, native, tmp_path):
    path = shutil.copytree(native, tmp_path / "copy")
    edit_state(path / f"{name}.safetensors", change)
    with pytest.raises(ValueError, match=message) as error:
        Bark.from_pretrained(path, device="cpu")
    assert f"{name}.safetensors" in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(format_version=2), "format_version is 2"),
        (lambda c: c["codec"].update(ratios=[2] * 400), r"codec\.ratios must be a list of up to 16"),
        (lambda c: c["codec"].update(ratios=[2**40]), r"codec\.ratios"),
        (lambda c: c["semantic"].update(n_embd=10**4000), r"semantic\.n_embd must be a whole number"),
        (lambda c: c["semantic"].update(n_embd=2**31 - 2), "out of range|has shape"),
        (lambda c: c["semantic"].update(n_embd=["x" * 10**5] * 5), r"semantic\.n_embd"),
        (lambda c: c.update(model_type="gpt2"), "model_type is 'gpt2'"),
        (lambda c: c.update(flavour="sweet"), "unknown entry 'flavour'"),
        (lambda c: c["semantic"].pop("n_layer"), r"semantic\.n_layer is missing"),
        (lambda c: c["semantic"].update(n_layer="two"), r"semantic\.n_layer must be a whole number"),
        (lambda c: c["semantic"].update(n_layer=10**7), "n_layer is 0 or huge"),
        (lambda c: c.update(semantic=None), "semantic must be an object"),
        (lambda c: c["tokens"].update(semantic_rate="fast"), r"tokens\.semantic_rate must be 0 or a number"),
        (lambda c: c["tokens"].update(semantic_rate=10**400), r"tokens\.semantic_rate must be"),
        (lambda c: c["tokens"].update(semantic_rate=1e-320), r"tokens\.semantic_rate must be"),
        (lambda c: c["codec"].update(sample_rate=8000), "sample_rate is not frame_rate"),
        (lambda c: c["coarse"].update(block_size=512), "the coarse prompt exceeds coarse.block_size"),
        (lambda c: c["codec"].update(ratios=[]), r"codec\.ratios"),
        (lambda c: c["codec"].update(encoder=1), r"codec\.encoder must be true or false"),
        (lambda c: c["tokens"].update(fine_window=4096), "do not fit|does not fit"),
        (lambda c: c.update(tokenizer="morse"), "tokenizer is 'morse'"),
        (lambda c: c["generation"].update(rules="house"), "rules is 'house'"),
        (lambda c: c.update(semantic=[]), "semantic"),
    ],
)
def test_damaged_native_config(change, message, native, tmp_path):
    path = shutil.copytree(native, tmp_path / "copy")
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message) as error:
        Bark.from_pretrained(path, device="cpu")
    assert "config.json" in str(error.value) or "out of range" in message
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "content, message",
    [
        ("[" * 10**6, "nested too deeply|not JSON"),
        ('{"a": ' * 10**5, "nested too deeply|not JSON"),
        ('{"model_type": "barklite", "format_version": ' + "1" * 5000 + "}", "config.json"),
        ("\ud800", "not JSON"),
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        (" " * (2**26 + 1), "not a JSON object"),
    ],
    ids=range(7),
)
@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer.json"])
def test_hostile_json(file, content, message, tiny, tmp_path):
    source = builders.write_huggingface(tmp_path, tiny, "safetensors", vocab="json")
    (source / file).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=message.replace("config.json", file)) as error:
        open_checkpoint(source)
    assert file in str(error.value)


@pytest.mark.parametrize(
    "vocab",
    [{"a": [1]}, {"a": {}}, {"a": True, "b": 0}, {"a": 0.0}, {"a": 2**80}, {"a\nb": 0}, {"a": None}, [], 7],
)
def test_ids_of_a_tokenizer_json(vocab, tiny, tmp_path):
    """Regression: ids that cannot be hashed; a token that would be two lines of vocab.txt."""
    source = builders.write_huggingface(tmp_path, tiny, vocab="json")
    (source / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}}))
    with pytest.raises(ValueError, match=r"tokenizer\.json: its? (holds no WordPiece|token)"):
        open_checkpoint(source)


def test_a_full_disk_is_a_sentence_and_leaves_nothing(native, tiny, tmp_path, monkeypatch):
    """At any point; SafetensorError included."""
    import resource
    import signal

    from tests.hostile.kills import in_child

    sizes = sorted(path.stat().st_size for path in native.iterdir())

    def limited(most):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        for save in (
            lambda: convert(native, tmp_path / "out"),
            lambda: tiny.save_pretrained(tmp_path / "out"),
        ):
            with pytest.raises(OSError, match="File too large") as error:
                save()
            assert error.value.errno == 27
            assert str(error.value.filename).startswith(str(tmp_path / "out"))

    for most in (1, *(size - 1 for size in sizes[1:])):
        assert in_child(lambda most=most: limited(most))
        assert list(tmp_path.iterdir()) == []


def test_damaged_huggingface(tiny, tmp_path):
    source = builders.write_huggingface(tmp_path, tiny, "safetensors")
    good = load((source / "model.safetensors").read_bytes())  # not mapped: the file is written over

    def expect(message, **changes):
        state = {key: tensor for key, tensor in (good | changes).items() if tensor is not None}
        save_file(state, source / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            Bark.from_pretrained(source, device="cpu")

    expect("'semantic.lm_head.weight' is missing", **{"semantic.lm_head.weight": None})
    expect("'semantic.more' is not part of this model", **{"semantic.more": torch.ones(1)})
    expect("'vocoder.w' is not part of a Bark", **{"vocoder.w": torch.ones(1)})
    expect("original0|weight_g", **{"codec_model.decoder.layers.0.conv.weight_g": None})
    save_file(good, source / "model.safetensors")
    config = builders.huggingface_config(tiny.config)
    config["codec_config"]["use_causal_conv"] = False
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="use_causal_conv"):
        Bark.from_pretrained(source, device="cpu")
    (source / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="model_type"):
        Bark.from_pretrained(source, device="cpu")


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b.npy", "C:\\x.npy"])
def test_voice_paths_stay_inside(path, tiny, tmp_path):
    source = builders.write_huggingface(tmp_path, tiny, voices=VOICES)
    index = json.loads((source / "speaker_embeddings_path.json").read_text())
    index["announcer"]["fine_prompt"] = path
    (source / "speaker_embeddings_path.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="leads out"):
        open_checkpoint(source)


def test_not_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        Bark.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a directory nor a Hub id"):
        Bark.from_pretrained(str(tmp_path / "nothing"))


def test_vocabularies_that_do_not_belong(native, tiny, tmp_path):
    """Cut short at a line's end, too long, or an offset that moves ids past the embeddings: refused when
    opened.
    """
    path = shutil.copytree(native, tmp_path / "copy")
    vocabulary = builders.vocabulary()
    for lines in (vocabulary[:105], vocabulary[:-1], [*vocabulary, "more"]):
        (path / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match=f"has {len(lines)} entries, but the model has 119547 text ids"):
            Bark.from_pretrained(path, device="cpu")
    (path / "vocab.txt").write_text("\r\n".join(vocabulary) + "\r\n", encoding="utf-8", newline="")
    assert Bark.from_pretrained(path, device="cpu").tokenizer.encode("Hello!") == tiny.tokenizer.encode(
        "Hello!"
    )
    config = json.loads((path / "config.json").read_text())
    config["tokens"]["text_offset"] = 129_598
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cut short, or belongs to another model"):
        Bark.from_pretrained(path, device="cpu")


@pytest.mark.parametrize(
    "section, changes, message",
    [
        ("semantic_config", dict(bias=None), "bias is true"),
        ("semantic_config", dict(num_layers=-1), "'num_layers' is -1"),
        ("fine_acoustics_config", dict(n_codes_given=2), "n_codes_given is not 1"),
        ("codec_config", dict(upsampling_ratios=5), "upsampling_ratios is 5"),
        ("codec_config", dict(upsampling_ratios=["a"]), "upsampling_ratios is"),
    ],
)
def test_damaged_huggingface_config(section, changes, message, tiny, tmp_path):
    source = builders.write_huggingface(tmp_path, tiny)
    config = builders.huggingface_config(tiny.config)
    config[section] = {k: v for k, v in {**config[section], **changes}.items() if v is not None}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        Bark.from_pretrained(source, device="cpu")
    config[section] = [1]
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=section):
        Bark.from_pretrained(source, device="cpu")


@pytest.mark.parametrize("value", [[1], {"semantic_rate_hz": float("inf")}, {"semantic_rate_hz": "fast"}])
def test_damaged_generation_config(value, tiny, tmp_path):
    source = builders.write_huggingface(tmp_path, tiny)
    (source / "generation_config.json").write_text(json.dumps({"semantic_config": value}))
    with pytest.raises(ValueError, match="semantic_config"):
        Bark.from_pretrained(source, device="cpu")


def test_defaults_of_a_shorter_huggingface_model(tiny, tmp_path):
    """A checkpoint with less history than Bark's generates at its own defaults."""
    source = builders.write_huggingface(tmp_path, tiny)
    generation = builders.generation_config()
    generation["coarse_acoustics_config"]["max_coarse_history"] = 300
    (source / "generation_config.json").write_text(json.dumps(generation))
    assert Bark.from_pretrained(source, device="cpu").config.generation.max_coarse_history == 300


def test_huggingface_defaults_are_its_classes():
    """Entries that a re-saved config leaves out because they equal transformers' defaults (spec 3.9)."""
    from weights_convert.huggingface import convert_config

    vocab = dict(input_vocab_size=129_600, bias=False)
    coarse = dict(input_vocab_size=12_096, output_vocab_size=12_096, bias=False)
    fine = dict(input_vocab_size=1056, output_vocab_size=1056, bias=False)
    config = convert_config(
        {"semantic_config": vocab, "coarse_acoustics_config": coarse, "fine_acoustics_config": fine}, {}
    )
    assert config == type(config).small()


def test_heads_may_be_stored_in_place_of_their_tables(tiny, tmp_path):
    source = builders.write_huggingface(tmp_path, tiny, "safetensors")
    state = load_file(source / "model.safetensors")
    for j in range(7):
        table = state.pop(f"fine_acoustics.input_embeds_layers.{j + 1}.weight")
        state[f"fine_acoustics.lm_heads.{j}.weight"] = table
    save_file(state, source / "model.safetensors")
    assert_same_weights(tiny, Bark.from_pretrained(source, device="cpu"))


@pytest.mark.parametrize("shard", ["../x.safetensors", "/x.safetensors", "a/x.safetensors"])
def test_shards_stay_inside(shard, tiny, tmp_path):
    source = builders.write_huggingface(tmp_path, tiny, "shards")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ValueError, match="is not the name of a file"):
        Bark.from_pretrained(source, device="cpu")


def test_a_tensor_in_two_shards(tiny, tmp_path):
    source = builders.write_huggingface(tmp_path, tiny, "shards")
    one, two = (source / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    state = load_file(two)
    key = next(iter(load_file(one)))
    save_file(state | {key: torch.ones(1)}, two)
    with pytest.raises(ValueError, match="also in another shard"):
        Bark.from_pretrained(source, device="cpu")


G, V = "decoder.model.0.conv.conv.weight_g", "decoder.model.0.conv.conv.weight_v"
BOOK = "quantizer.vq.layers.3._codebook.embed"


@pytest.mark.parametrize(
    "key, value, message",
    [
        (G, torch.ones(1, 1, 1), "does not fit"),
        (G, torch.ones(1, 16, 1), "does not fit"),
        (V, torch.tensor(1.0), "does not fit"),
        (BOOK, torch.ones(1024, 15), "differ in shape"),
        (BOOK, torch.ones(1024), "differ in shape"),
        (BOOK, torch.ones(4, 4).to_sparse(), "is not a tensor"),
        (V, torch.empty(64, 16, 7, device="meta"), "is not a tensor|not a whole"),
        (7, torch.ones(1), "entry 7 is not a tensor"),
        (BOOK, "text", "not a tensor"),
    ],
)
def test_damaged_encodec(key, value, message, tiny, tmp_path):
    builders.write_suno(tmp_path, tiny)
    edit_suno(tmp_path, "encodec_24khz-d7cc33bc.th", lambda state: state.update({key: value}))
    with pytest.raises(ValueError, match=message):
        Bark.from_pretrained(tmp_path, device="cpu")


def test_tensors_are_mapped_not_read(tiny, tmp_path):
    builders.write_suno(tmp_path, tiny)
    content = read_pickle(tmp_path / "text_2.pt")
    with open("/proc/self/maps") as maps:
        lines = [line.split() for line in maps if str(tmp_path / "text_2.pt") in line]
    places = [[int(end, 16) for end in line[0].split("-")] for line in lines]
    moments = [moment["exp_avg"] for moment in content["optimizer"]["state"].values()]
    for tensor in (*content["model"].values(), *moments):
        assert any(start <= tensor.data_ptr() < end for start, end in places)


def test_encoder_of_a_native_checkpoint(native, tmp_path):
    with pytest.raises(ValueError, match="no encoder of the codec"):
        convert(native, tmp_path / "out", encoder=True)


# --- the target ---------------------------------------------------------------------------------------------


def test_target_is_not_overwritten(native, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("mine")
    for force in (False, True):
        with pytest.raises(FileExistsError, match="not empty"):
            convert(native, full, force=force)
    assert (full / "thesis.tex").read_text() == "mine"
    convert(native, tmp_path / "again")
    with pytest.raises(FileExistsError):
        convert(native, tmp_path / "again")
    convert(native, tmp_path / "again", torch.float16, force=True)
    assert load_file(tmp_path / "again" / "fine.safetensors")["wpe.weight"].dtype == torch.float16
    (tmp_path / "again" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        convert(native, tmp_path / "again", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "full"]


def test_force_keeps_voices(native, tmp_path):
    convert(native, tmp_path / "again")
    (tmp_path / "again" / "voices").mkdir(exist_ok=True)
    VOICES[0].save(tmp_path / "again" / "voices" / "mine.npz")
    bark = Bark.from_pretrained(native, device="cpu")
    bark.save_pretrained(tmp_path / "again", force=True)
    convert(native, tmp_path / "again", force=True)
    assert open_checkpoint(tmp_path / "again").voices == ["mine"]


def test_a_directory_filled_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "out"

    def race():
        with atomic.directory(path):
            path.mkdir()
            (path / "precious").write_text("mine")

    with pytest.raises(FileExistsError):
        race()
    assert (path / "precious").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_swap_keeps_the_old(native, tmp_path, monkeypatch):
    """On a file system that cannot exchange two names."""
    import os

    convert(native, tmp_path / "out", torch.float16)
    rename = os.rename

    def second_fails(source, target):
        if str(target) == str(tmp_path / "out") and str(source).endswith(".partial"):
            raise KeyboardInterrupt
        return rename(source, target)

    monkeypatch.setattr(atomic, "_exchanged", lambda *names: False)
    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(KeyboardInterrupt):
        convert(native, tmp_path / "out", force=True)
    assert load_file(tmp_path / "out" / "fine.safetensors")["wpe.weight"].dtype == torch.float16
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_modes_follow_the_mask(native, tmp_path):
    import os

    mask = os.umask(0o027)
    try:
        convert(native, tmp_path / "out")
    finally:
        os.umask(mask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "out" / "config.json").stat().st_mode & 0o777 == 0o640


def test_interrupted_conversion_leaves_nothing(native, tmp_path, monkeypatch):
    from barklite.storage import checkpoint

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_rest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(native, tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_convert_command(tiny, tmp_path):
    source = builders.write_suno(tmp_path / "source", tiny)
    done = subprocess.run(
        [sys.executable, "-m", "barklite", "convert", source, tmp_path / "out", "--dtype", "bfloat16"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Bark.from_pretrained(tmp_path / "out", device="cpu").coarse.wpe.weight.dtype == torch.bfloat16


def test_state_dicts_are_not_changed(tiny):
    """The converters are pure."""
    from weights_convert import huggingface

    state = builders.huggingface_state(tiny)
    before = {key: tensor.clone() for key, tensor in state.items()}
    config = huggingface.convert_config(
        builders.huggingface_config(tiny.config), builders.generation_config()
    )
    huggingface.convert_codec(state, config.codec, 8)
    huggingface.convert_fine(state, config.fine)
    huggingface.convert_gpt(state, config.semantic, "semantic")
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], before[key]) for key in state)

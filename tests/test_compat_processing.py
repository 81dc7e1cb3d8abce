"""The processor against transformers' own: ids, masks, voices, saved directories, errors."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from barklite.compat.batch import BatchEncoding, BatchFeature
from barklite.compat.processing import AutoProcessor, BarkProcessor
from barklite.storage.hub import fetch_file
from barklite.text.tokenizer import Bytes, WordPiece
from barklite.voice import ARRAYS
from tests import builders
from tests.fakehub import FakeHub

transformers = pytest.importorskip("transformers", reason="the oracle, transformers, is not installed")

VOICES = [builders.voice("v2/en_speaker_6"), builders.voice("announcer", n=90, seed=1)]
LONG = "Hello " * 300
TEXTS = [
    "", " ", "Hello world", "hell [laughs]!", "a[SEP]b [mask]", "x" * 101, "漢字 ♪ la ♪", "e\u0301",
    "a\0b\ufeff",    "♪ — Hello, world! 123", "Hello " * 256, "[CLS] Hello\n\tworld",
]  # fmt: skip


def arrays(voice=VOICES[0]) -> dict:
    """As the released files hold them."""
    kept = (voice.semantic.copy(), voice.coarse.copy(), voice.fine.astype(np.int32))
    return dict(zip(ARRAYS, kept, strict=True))


def write(path, voices=VOICES, broken=()):
    """A directory as Hugging Face publishes it, without weights. `broken` is added to the list of voices."""
    path.mkdir()
    (path / "vocab.txt").write_text("\n".join(builders.vocabulary()) + "\n", encoding="utf-8")
    names = {f"{n}_token": f"[{n.upper()}]" for n in ("cls", "mask", "pad", "sep", "unk")}
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": 512, **names}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "config.json").write_text('{"model_type": "bark"}')
    index = {"repo_or_path": "suno/bark"}
    for voice in voices:
        index[voice.name] = {}
        for key, array in arrays(voice).items():
            file = path / "speaker_embeddings" / f"{voice.name}_{key}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, array)
            index[voice.name][key] = file.relative_to(path).as_posix()
    (path / "speaker_embeddings_path.json").write_text(json.dumps(index | dict(broken)))
    return path


BROKEN = {
    "lacking": {"semantic_prompt": "speaker_embeddings/announcer_semantic_prompt.npy"},
    "absent": dict.fromkeys(ARRAYS, "speaker_embeddings/nothing.npy"),
    "outside": dict.fromkeys(ARRAYS, "../secret.npy"),
    "rooted": dict.fromkeys(ARRAYS, "/secret.npy"),
    "pickled": dict.fromkeys(ARRAYS, "pickled.npy"),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("published") / "bark", broken=BROKEN)
    np.save(path.parent / "secret.npy", np.arange(9))
    np.save(path / "pickled.npy", np.array([print], dtype=object))
    return path


@pytest.fixture(scope="module")
def ours(published):
    return BarkProcessor.from_pretrained(published)


@pytest.fixture(scope="module")
def theirs(published):
    return transformers.BarkProcessor.from_pretrained(published)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Voices in files, whole and not, by name."""
    path = tmp_path_factory.mktemp("voices")
    np.savez(path / "whole.npz", **arrays())
    np.savez_compressed(path / "packed.npz", **arrays())
    np.savez(path / "lacking.npz", semantic_prompt=arrays()["semantic_prompt"])
    np.savez(path / "pickled.npz", **arrays() | {"fine_prompt": np.array([[print]], dtype=object)})
    (path / "garbage.npz").write_bytes(b"garbage")
    (path / "empty.npz").write_bytes(b"")
    (path / "cut.npz").write_bytes((path / "whole.npz").read_bytes()[:3000])
    return path


def same(mine, expected):
    """Same keys in the same order, same types, dtypes, shapes and numbers."""
    assert list(mine) == list(expected)
    for key in mine:
        a, b = mine[key], expected[key]
        if key == "history_prompt":
            assert isinstance(a, BatchFeature)
            same(a, b)
        elif isinstance(b, list):
            assert a == b
        else:
            assert type(a) is type(b)
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert (a == b).all()


@pytest.mark.parametrize("text", TEXTS)
def test_texts(ours, theirs, text):
    for options in ({}, {"add_special_tokens": True, "return_token_type_ids": True}):
        same(ours(text, **options), theirs(text, **options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_tensors": "np"},
        {"return_tensors": None},
        {"return_token_type_ids": True},
        {"return_attention_mask": False},
        {"return_attention_mask": None, "padding_side": "left"},
        {"max_length": 300},
        {"max_length": None},
        {"max_length": 4, "truncation": True},
        {"max_length": 4, "truncation": "longest_first", "add_special_tokens": True},
        {"max_length": 4, "truncation": "only_first", "return_tensors": None},
        {"max_length": 0, "truncation": True},
        {"max_length": 1, "truncation": True, "add_special_tokens": True},
        {"truncation": True, "verbose": False},
        {"truncation": False, "return_tensors": None, "max_length": 3},
    ],
)
def test_options(ours, theirs, options):
    same(ours(TEXTS[2], **options), theirs(TEXTS[2], **options))
    texts = TEXTS[:5] if options.get("max_length", 256) not in (1, 3) else TEXTS[:1]
    same(ours(texts, **options), theirs(texts, **options))
    same(ours(tuple(texts[:1]), **options), theirs(tuple(texts[:1]), **options))


def test_long_texts(ours, theirs):
    for options in ({}, {"return_tensors": "np"}, {"truncation": True}):
        same(ours(LONG, **options), theirs(LONG, **options))
        same(ours([LONG, LONG], **options), theirs([LONG, LONG], **options))
    assert ours(LONG).input_ids.shape == (1, 300)
    same(ours([LONG, "a"], truncation=True), theirs([LONG, "a"], truncation=True))
    same(ours([LONG, "a"], return_tensors=None), theirs([LONG, "a"], return_tensors=None))
    assert ours(LONG, "announcer", truncation=True).input_ids.shape == (1, 256)  # TypeError in transformers
    for tensors in ("pt", "np"):  # where transformers makes an array of lists
        with pytest.raises(ValueError, match=r"up to 300 tokens, more than max_length=256.*truncation=True"):
            ours([LONG, "a"], return_tensors=tensors)


@pytest.mark.parametrize("tensors", ["pt", "np", None])
@pytest.mark.parametrize(
    "given", ["preset", "announcer", "npz", "suffixless", "path", "packed", "dict", "arrays"]
)
def test_voices(ours, theirs, files, given, tensors):
    preset = {  # transformers does not look into arrays
        "preset": "v2/en_speaker_6",
        "announcer": "announcer",
        "npz": str(files / "whole.npz"),
        "suffixless": str(files / "whole"),
        "path": files / "whole.npz",
        "packed": str(files / "packed"),
        "dict": arrays(),
        "arrays": {k: a[..., :0].astype(float) for k, a in arrays().items()},
    }[given]
    mine = ours(["Hello", "a"], voice_preset=preset, return_tensors=tensors)
    same(mine, theirs(["Hello", "a"], voice_preset=preset, return_tensors=tensors))
    if tensors == "pt" and given != "arrays":
        dtypes = [mine.history_prompt[key].dtype for key in ARRAYS]
        assert dtypes == [torch.int64, torch.int64, torch.int32]


def test_released_data(released, tmp_path):
    """Every golden text, and every released voice; the one of uint16 becomes int64, for PyTorch's sake."""
    path = write(tmp_path / "bark", voices=())
    shutil.copyfile(released / "tokenizer" / "vocab.txt", path / "vocab.txt")
    mine, other = (
        BarkProcessor.from_pretrained(path, None),
        transformers.BarkProcessor.from_pretrained(path, None),
    )
    rows = json.loads((released / "tokenizer" / "golden.json").read_text(encoding="utf-8"))
    texts = [row["text"] for row in rows]
    for options in ({}, {"add_special_tokens": True, "return_token_type_ids": True}):
        same(mine(texts, truncation=True, **options), other(texts, truncation=True, **options))
        same(mine(texts, return_tensors=None, **options), other(texts, return_tensors=None, **options))
    assert mine(texts[0]).input_ids[0, : len(rows[0]["ids"])].tolist() == rows[0]["ids"]
    voices = sorted((released / "voices").rglob("*.npz"))
    assert len(voices) == 8
    for voice in voices:
        a, b = mine("Hello", str(voice)), other("Hello", str(voice))
        if voice.stem == "announcer":
            assert {array.dtype for array in a.history_prompt.values()} == {torch.int64}
            b["history_prompt"] = {key: array.to(torch.int64) for key, array in b["history_prompt"].items()}
        same(a, b)


def test_a_voice_is_a_copy_in_numbers_that_pytorch_has(ours):
    given = {key: array.astype(">u2") for key, array in arrays().items()}
    voice = ours("a", given, return_tensors="np").history_prompt
    assert {array.dtype for array in voice.values()} == {np.dtype(np.int64)}
    assert all(np.array_equal(voice[key], arrays()[key]) for key in ARRAYS)
    given = {key: array.copy() for key, array in arrays().items()} | {"further": "ignored"}
    voice = ours("a", given).history_prompt
    voice.semantic_prompt.zero_()
    assert np.array_equal(given["semantic_prompt"], arrays()["semantic_prompt"])
    foreign = ours("a", {key: array.astype(">i4") for key, array in arrays().items()})
    assert foreign.history_prompt.fine_prompt.dtype == torch.int32


# {name: (what is called, the error of both or None where transformers has another or none, our words)}
def bad_inputs(files):
    voice = arrays()
    return {
        "no text": (lambda p: p(), ValueError, "text is None"),
        "a voice alone": (lambda p: p(voice_preset=voice), ValueError, "text is None"),
        "a number": (lambda p: p(5), ValueError, "text is 5; give a string"),
        "numbers": (lambda p: p([1, 2]), ValueError, "list with at least one string"),
        "bytes": (lambda p: p(b"abc"), ValueError, "b'abc'"),
        "None inside": (lambda p: p(["a", None]), TypeError, "None is not a valid"),
        "a surrogate": (lambda p: p("a\ud800"), TypeError, "valid Unicode"),
        "ragged": (lambda p: p([LONG, "a"]), ValueError, "truncation=True"),
        "tensors": (lambda p: p("a", return_tensors="tf"), ValueError, "'tf'; choose \"pt\""),
        "length": (lambda p: p("a", max_length="9"), TypeError, "max_length is '9'"),
        "fraction": (lambda p: p("a", max_length=3.5), TypeError, "max_length is 3.5"),
        "truncation": (lambda p: p("a", truncation="some"), ValueError, "truncation is 'some'"),
        "side": (lambda p: p("a", padding_side="top"), ValueError, "padding_side is 'top'"),
        "padding": (lambda p: p("a", padding=True), TypeError, "does not know padding"),
        "unknown voice": (lambda p: p("a", "v2/en_speaker_77"), FileNotFoundError, "one of the 7 presets"),
        "empty name": (lambda p: p("a", ""), FileNotFoundError, "voice ''"),
        "repo_or_path": (lambda p: p("a", "repo_or_path"), None, "neither a file"),
        "no file": (lambda p: p("a", str(files / "no.npz")), FileNotFoundError, "no.npz"),
        "no path": (lambda p: p("a", files / "whole"), FileNotFoundError, "whole"),
        "a number as voice": (lambda p: p("a", 5), TypeError, "voice_preset is int"),
        "names": (lambda p: p(["a", "b"], ["x", "y"]), TypeError, "voice_preset is list"),
        "garbage": (lambda p: p("a", str(files / "garbage")), ValueError, "garbage.npz is not a whole"),
        "pickled": (lambda p: p("a", str(files / "pickled")), ValueError, "never loaded"),
        "lacking file": (lambda p: p("a", str(files / "lacking")), ValueError, "no coarse_prompt"),
        "lacking": (lambda p: p("a", {"fine_prompt": 1}), ValueError, "no semantic_prompt"),
        "list": (lambda p: p("a", voice | {"coarse_prompt": [[1], [2]]}), TypeError, "is list"),
        "tensor": (lambda p: p("a", voice | {"coarse_prompt": torch.ones(2, 3)}), TypeError, "is Tensor"),
        "dimensions": (
            lambda p: p("a", voice | {"semantic_prompt": voice["coarse_prompt"]}), ValueError, "2 dimensions",
        ),
        "strings": (lambda p: p("a", voice | {"semantic_prompt": np.array(["a"])}), ValueError, "of <U1"),
        "preset lacks": (lambda p: p("a", "lacking"), ValueError, "no path for coarse_prompt"),
        "preset absent": (lambda p: p("a", "absent"), ValueError, "has no file"),
        "preset outside": (lambda p: p("a", "outside"), ValueError, "leads out"),
        "preset rooted": (lambda p: p("a", "rooted"), ValueError, "leads out"),
        "preset pickled": (lambda p: p("a", "pickled"), ValueError, "never loaded"),
        # where transformers lets another library's error through
        "empty list": (lambda p: p([]), None, "at least one string"),
        "negative": (lambda p: p("a", max_length=-1), None, "0 or more"),
        "empty file": (lambda p: p("a", str(files / "empty")), None, "not a whole .npz"),
        "cut": (lambda p: p("a", str(files / "cut")), None, "not a whole .npz"),
        # what it does and we do not
        "pairs": (lambda p: p([["a", "b"]]), None, "at least one string"),
        "unknown keyword": (lambda p: p("a", return_length=True), None, "does not know return_length"),
    }  # fmt: skip


NAMES = list(bad_inputs(pathlib.Path()))


@pytest.mark.parametrize("name", NAMES)
def test_errors(ours, theirs, files, name):
    call, error, match = bad_inputs(files)[name]
    with pytest.raises(error or (ValueError, TypeError, FileNotFoundError), match=match) as raised:
        call(ours)
    if error:
        with pytest.raises(error) as expected:
            call(theirs)
        assert raised.type is expected.type


def test_results_are_mappings(ours):
    encoding = ours("Hello", "announcer")
    assert isinstance(encoding, BatchEncoding)
    assert list(encoding) == list(encoding.keys()) == ["input_ids", "attention_mask", "history_prompt"]
    assert len(encoding) == 3
    assert "input_ids" in encoding
    assert {**encoding} == dict(encoding.items()) == encoding.data
    assert encoding["input_ids"] is encoding.input_ids is encoding.data["input_ids"]
    assert {**encoding.history_prompt}.keys() == set(ARRAYS)
    with pytest.raises(AttributeError, match="no entry 'nothing'"):
        _ = encoding.nothing
    with pytest.raises(KeyError):
        _ = encoding["nothing"]
    with pytest.raises(AttributeError):
        _ = BatchEncoding.__new__(BatchEncoding).anything
    made = BatchFeature({"x": [1, 2]}, tensor_type="np")
    assert made.x.tolist() == [1, 2]
    with pytest.raises(ValueError, match="x cannot become a tensor"):
        BatchFeature({"x": ["a"]}, tensor_type="pt")


def test_moving_moves_the_voice_too(ours):
    encoding = ours("Hello", "announcer")
    assert encoding.to("meta") is encoding
    assert {t.device.type for t in (encoding.input_ids, *encoding.history_prompt.values())} == {"meta"}
    encoding = ours("Hello", "announcer").to(torch.device("meta"), torch.float16)
    assert encoding.input_ids.dtype == encoding.history_prompt.coarse_prompt.dtype == torch.int64
    assert encoding.attention_mask.device.type == "meta"
    assert ours("a").to(torch.float16).input_ids.device.type == "cpu"
    assert ours("a").to(device="meta").input_ids.device.type == "meta"
    lists = ours("a", "announcer", return_tensors=None)
    assert lists.to("meta").input_ids == lists.input_ids


def test_presets(ours, theirs, published):
    assert ours.available_voice_presets == theirs.available_voice_presets
    assert ours.speaker_embeddings["v2/en_speaker_6"] == theirs.speaker_embeddings["v2/en_speaker_6"]
    assert ours.speaker_embeddings["repo_or_path"] == str(published)
    none = BarkProcessor.from_pretrained(published, speaker_embeddings_dict_path=None)
    assert none.speaker_embeddings is None
    assert none.available_voice_presets == []
    assert isinstance(
        AutoProcessor.from_pretrained(published, use_fast=True, trust_remote_code=False), BarkProcessor
    )
    with pytest.warns(UserWarning, match=r"no other\.json: there are no voice presets") as warned:
        assert BarkProcessor.from_pretrained(published, "other.json").available_voice_presets == []
    assert len(warned) == 1
    rooted = {key: str(published / path) for key, path in ours.speaker_embeddings["announcer"].items()}
    made = BarkProcessor(
        ours.tokenizer, speaker_embeddings={"mine": rooted}
    )  # no repo_or_path: from the root
    same(made("a", "mine"), ours("a", "announcer"))


def test_a_huge_voice_is_refused(published, ours):
    with open(published / "huge.npy", "wb") as file:
        file.truncate(2**24 + 1)
    paths = {"repo_or_path": str(published), "huge": dict.fromkeys(ARRAYS, "huge.npy")}
    with pytest.raises(ValueError, match="far too large"):
        BarkProcessor(ours.tokenizer, paths)("a", "huge")


@pytest.mark.parametrize("tokenizer", [None, "tokenizer", print])
def test_wrong_tokenizers(tokenizer):
    with pytest.raises(TypeError, match=r"give one of barklite\.text\.tokenizer"):
        BarkProcessor(tokenizer)
    with pytest.raises(TypeError):
        transformers.BarkProcessor(tokenizer)


def test_special_tokens_need_bert():
    assert BarkProcessor(Bytes())("ab").input_ids[0, :3].tolist() == [97, 98, 0]
    with pytest.raises(ValueError, match=r"Bytes has no \[CLS\]"):
        BarkProcessor(Bytes())("ab", add_special_tokens=True)


def test_save_here_load_there(tmp_path, monkeypatch):
    ours = BarkProcessor.from_pretrained(write(tmp_path / "bark"))
    ours.save_pretrained(tmp_path / "saved")
    for loader in (transformers.BarkProcessor, transformers.AutoProcessor, BarkProcessor):
        loaded = loader.from_pretrained(tmp_path / "saved")
        assert loaded.available_voice_presets == [voice.name for voice in VOICES]
        for name in ("announcer", "v2/en_speaker_6"):
            same(ours(TEXTS, name), loaded(TEXTS, name))
        options = {"truncation": True, "add_special_tokens": True, "return_token_type_ids": True}
        same(ours(TEXTS, **options), loaded(TEXTS, **options))
        assert loaded("a", max_length=None).input_ids.shape == (1, 512)
    ours.save_pretrained(tmp_path / "saved")  # again, over what is there
    ours.save_pretrained(tmp_path / "other", "voices.json", "arrays")
    assert (tmp_path / "other" / "arrays" / "v2" / "en_speaker_6_fine_prompt.npy").is_file()
    same(
        BarkProcessor.from_pretrained(tmp_path / "other", "voices.json")("a", "announcer"),
        ours("a", "announcer"),
    )
    BarkProcessor(ours.tokenizer).save_pretrained(tmp_path / "mute")
    assert not (tmp_path / "mute" / "speaker_embeddings_path.json").exists()
    pushed = []
    monkeypatch.setattr(
        "barklite.storage.hub.upload", lambda *a, **k: pushed.append((*a, k, sorted(os.listdir(a[0]))))
    )
    ours.save_pretrained(tmp_path / "other", push_to_hub=True, repo_id="me/mine", private=True)
    assert pushed[0][:3] == (tmp_path / "other", "me/mine", {"private": True})
    assert {"vocab.txt", "speaker_embeddings_path.json"} <= set(pushed[0][3])
    BarkProcessor(ours.tokenizer).save_pretrained(tmp_path / "mute", push_to_hub=True)
    assert pushed[1][1] == "mute"
    paths = ours.speaker_embeddings["announcer"]
    ours.speaker_embeddings = {"repo_or_path": str(tmp_path / "bark"), "../../escaped": paths}
    with pytest.raises(ValueError, match="leads out"):
        ours.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.rglob("*escaped*"))


def test_save_there_load_here(tmp_path):
    write(tmp_path / "bark")
    theirs = transformers.BarkProcessor.from_pretrained(str(tmp_path / "bark"))
    theirs.save_pretrained(str(tmp_path / "saved"))  # a Path is no JSON for it
    assert not (tmp_path / "saved" / "vocab.txt").exists()  # its tokenizer.json has it
    loaded = AutoProcessor.from_pretrained(tmp_path / "saved")
    same(loaded(TEXTS, "announcer"), theirs(TEXTS, "announcer"))


def test_layouts(tiny, native, tmp_path):
    """barklite's own and Suno's have their voices in `voices/`, and no word of a list that is missing."""
    own = shutil.copytree(native, tmp_path / "native")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert BarkProcessor.from_pretrained(own).available_voice_presets == []
    suno = builders.write_suno(tmp_path / "suno", tiny)
    for folder in (own, suno):
        (folder / "voices" / "v2").mkdir(parents=True)
        for voice in VOICES:
            voice.save(folder / "voices" / f"{voice.name}.npz")
        for weights in (*folder.glob("*.safetensors"), *folder.glob("*.pt")):
            weights.unlink()
        processor = BarkProcessor.from_pretrained(folder)
        assert sorted(processor.available_voice_presets) == ["announcer", "v2/en_speaker_6"]
        voice = processor("Hello", "v2/en_speaker_6").history_prompt
        assert {key: (array.dtype, array.tolist()) for key, array in voice.items()} == {
            key: (torch.from_numpy(array).dtype, array.tolist()) for key, array in arrays().items()
        }
        processor.save_pretrained(tmp_path / f"from_{folder.name}")
        loaded = transformers.BarkProcessor.from_pretrained(tmp_path / f"from_{folder.name}")
        same(processor("Hello", "announcer"), loaded("Hello", "announcer"))


def test_tokenizers_by_layout(tmp_path):
    path = write(tmp_path / "bark")
    (path / "config.json").write_text('{"model_type": "barklite", "tokenizer": "bytes"}')
    assert isinstance(BarkProcessor.from_pretrained(path).tokenizer.own, Bytes)
    (path / "config.json").write_text('{"model_type": "barklite", "tokenizer": "wordpiece"}')
    assert isinstance(BarkProcessor.from_pretrained(path).tokenizer.own, WordPiece)
    (path / "config.json").write_text('{"model_type": "barklite", "tokenizer": "sentencepiece"}')
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.model"):
        BarkProcessor.from_pretrained(path)
    (path / "config.json").unlink()
    same(
        BarkProcessor.from_pretrained(tmp_path, None, subfolder="bark")("Hello"),
        BarkProcessor.from_pretrained(path)("Hello"),
    )
    assert len(BarkProcessor.from_pretrained(tmp_path, subfolder="bark").available_voice_presets) == 2
    (path / "vocab.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither vocab\.txt nor tokenizer\.json: copy it from"):
        BarkProcessor.from_pretrained(path)
    with pytest.raises(OSError, match="neither a directory nor a Hub id"):
        BarkProcessor.from_pretrained(tmp_path / "nothing")
    (path / "speaker_embeddings_path.json").write_text("{")
    (path / "vocab.txt").write_text("\n".join(builders.vocabulary()))
    with pytest.raises(ValueError, match="is not JSON"):
        BarkProcessor.from_pretrained(path)


SCRIPT = """
import json, sys, warnings
loaded = set(sys.modules)
from barklite.compat.processing import AutoProcessor
from barklite.compat import AutoConfig, BarkConfig, BarkGenerationConfig
assert not {"transformers", "huggingface_hub", "scipy"} & (set(sys.modules) - loaded)
name = "suno/bark-small"
said = []
def tell(call):
    try:
        said.append(call())
    except OSError as error:
        said.append(f"{type(error).__name__}: {error}")
def speak():
    processor = AutoProcessor.from_pretrained(name)
    encoding = processor("Hello world", "announcer")
    return [len(processor.available_voice_presets), *(int(t.sum()) for t in encoding.history_prompt.values())]
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    tell(speak)
    tell(lambda: AutoConfig.from_pretrained(name).semantic_config.hidden_size)
    tell(lambda: BarkGenerationConfig.from_pretrained(name).semantic_config["temperature"])
    tell(lambda: BarkConfig.from_pretrained("suno/other"))
    absent = {"speaker_embeddings_dict_path": "nothing.json"}
    tell(lambda: len(AutoProcessor.from_pretrained(name, **absent).available_voice_presets))
print(json.dumps([*said, [str(w.message) for w in warned if w.category is UserWarning]]))
"""


def client(tmp_path, endpoint, **environment):
    """What a fresh process makes of it."""
    environment = dict(
        os.environ,
        HF_ENDPOINT=endpoint,
        HF_HOME=str(tmp_path / "hf"),
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        **environment,
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_hub(tmp_path, tiny, monkeypatch):
    """Small files alone are fetched; afterwards, and by HF_HUB_OFFLINE=1, nobody is asked."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    folder = write(tmp_path / "hub")
    (folder / "config.json").write_text(json.dumps(builders.huggingface_config(tiny.config)))
    (folder / "generation_config.json").write_text(json.dumps(builders.generation_config()))
    (folder / "model.safetensors").write_bytes(b"not to be fetched")
    hub = FakeHub("suno/bark-small", folder)
    sums = [int(array.sum()) for array in arrays(VOICES[1]).values()]
    expected = [[2, *sums], 16, 0.7]

    *said, elsewhere, none, warned = client(tmp_path, hub.endpoint)
    assert said == expected
    assert elsewhere.startswith("OSError: the Hub has no suno/other")
    assert none == 0
    assert len(warned) == 1
    assert "suno/bark-small has no nothing.json" in warned[0]
    fetched = {path.rpartition("/")[2] for path in hub.log if path.startswith("GET /suno")}
    voice = {f"announcer_{key}.npy" for key in ARRAYS}
    assert {
        "config.json",
        "generation_config.json",
        "vocab.txt",
        "speaker_embeddings_path.json",
        *voice,
    } == fetched

    hub.log.clear()
    *said, elsewhere, none, warned = client(tmp_path, hub.endpoint, HF_HUB_OFFLINE="1")
    assert said == expected
    assert "offline mode is on, and it is not in the cache" in elsewhere
    assert (none, len(warned)) == (0, 1)
    cached = {"local_files_only": True, "cache_dir": tmp_path / "hf" / "hub"}
    for options in (cached, cached | {"revision": hub.commit}):
        assert fetch_file("suno/bark-small", "vocab.txt", **options).name == "vocab.txt"
        assert fetch_file("suno/bark-small", "nothing", **options) is None
    assert not [request for request in hub.log if "bark" in request]
    hub.close()
    *said, elsewhere, none, warned = client(tmp_path, hub.endpoint)
    assert said == expected
    assert "cannot get suno/other" in elsewhere


def test_a_processor_of_bytes_has_no_files(tmp_path):
    """Regression: it wrote nothing, and said nothing."""
    with pytest.raises(ValueError, match="Bytes has no files"):
        BarkProcessor(Bytes()).save_pretrained(tmp_path)

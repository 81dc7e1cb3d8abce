"""The smallest input of each defect that was found and mended."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from barklite import Bark, BarkConfig, GenerationConfig, SamplingConfig, corpus
from barklite.__main__ import main
from barklite.command import sentence
from barklite.storage import voices
from barklite.storage.formats import _huggingface_weights, _read_safetensors, open_checkpoint
from barklite.text.tokenizer import SentencePiece
from barklite.training import codec, data, loop, prepare, steps
from barklite.training.__main__ import main as train
from tests import sounds
from tests.hostile import doors

ROOT = Path(__file__).resolve().parents[2]
DEEP = "[" * 100_000
GOOD = {"text": "a", "speaker": "", "samples": 0, "semantic": 0, "spans": 0}


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    doors._training(folder)
    return folder / "d"


@pytest.fixture
def directory(trained, tmp_path) -> Path:
    """A prepared directory with a state of every model, to be damaged."""
    import shutil

    return shutil.copytree(trained, tmp_path / "d")


# --- training -----------------------------------------------------------------------------------------------

ROWS = {
    "deep": DEEP,
    "binary": b"\xff\xfe",
    "blank": "",
    "no object": "[]",
    "infinity": json.dumps(GOOD).replace("0", "Infinity", 1),
    "huge": json.dumps(GOOD | {"samples": 10**30}),
    "negative": json.dumps(GOOD | {"samples": -1}),
    "true": json.dumps(GOOD | {"samples": True}),
    "text": json.dumps(GOOD | {"text": None}),
    "spans": json.dumps(GOOD | {"spans": 3}),
    "unknown": json.dumps(GOOD | {"a\nb": 3}),
    "outside": json.dumps(GOOD | {"speaker": "../../x"}),
    "absolute": json.dumps(GOOD | {"speaker": "/x"}),
    "nul": json.dumps(GOOD | {"speaker": "\0"}),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_a_corpus(name, directory):
    line = ROWS[name] if isinstance(ROWS[name], bytes) else ROWS[name].encode()
    (directory / "data" / "rows.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    with pytest.raises(
        ValueError, match=r"rows.jsonl is damaged \(line 2 .*\): prepare the data again"
    ) as error:
        prepare.corpus_of(directory)
    assert "\n" not in str(error.value)


CODES = {
    "deep": DEEP,
    "binary": b"\xff\xfe",
    "list": "[]",
    "empty": "{}",
    "no frames": '{"n_codebooks": 4}',
    "zero": '{"n_codebooks": 0, "frames": [0, 0, 0, 0, 0]}',
    "words": '{"n_codebooks": "4", "frames": "abcde"}',
    "huge": '{"n_codebooks": 4, "frames": [1, 1, 1, 1, 1' + "0" * 30 + "]}",
    "negative": '{"n_codebooks": 4, "frames": [-1, 1, 0, 0, 0]}',
}


@pytest.mark.parametrize("name", CODES)
def test_codes_of_a_corpus(name, directory):
    content = CODES[name] if isinstance(CODES[name], bytes) else CODES[name].encode()
    (directory / "data" / "codes.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"codes.json does not fit the corpus: run `tokens` again"):
        prepare.corpus_of(directory).codes()


def test_codes_without_their_file(directory):
    (directory / "data" / "codes.u16").unlink()
    with pytest.raises(ValueError, match=r"codes.json does not fit the corpus"):
        prepare.corpus_of(directory).codes()


@pytest.mark.parametrize("file, message", [("semantic", "ids above those"), ("codes", "no 4 codebooks of 8")])
def test_ids_that_no_model_has(file, message, directory):
    """They would be looked up in its tables."""
    path = directory / "data" / f"{file}.u16"
    path.write_bytes(b"\xff\xff" + path.read_bytes()[2:])
    with pytest.raises(ValueError, match=message):
        steps.train(directory, "coarse", doors.SETTINGS, doors.CPU)


@pytest.mark.parametrize(
    "line",
    [b"\xff", DEEP.encode(), b"7", b"[]", b"{}", b'{"loss": 1}', b'{"step": "1"}', b'{"step": true}',
     b'{"step": 1.5}', b'{"step": 1, "loss": "a"}', b'{"step": 1, "loss": null}',
     b'{"step": 1, "loss": 1' + b"0" * 400 + b"}"],
)  # fmt: skip
def test_a_line_of_a_log(line, directory):
    """It is left out, as one is that was cut off."""
    good = {"step": 2, "loss": 2.5}
    (directory / "semantic" / "log.jsonl").write_bytes(line + b"\n" + json.dumps(good).encode() + b"\n")
    assert loop.read_log(directory / "semantic") == [good]
    run = steps.run_of(directory, "semantic", doors.SETTINGS, doors.CPU)
    assert (directory / "semantic" / "log.jsonl").read_text() == json.dumps(good) + "\n"
    assert run.step == 2


def change(**changes):
    return lambda state: state | changes


def change_moments(moments):
    def changed(state):
        state["optimizers"][0]["state"] = moments
        return state

    return changed


STATES = {
    "model": (change(model=[]), "not the state of a training run"),
    "numbers": (change(model={"wte.weight": 1}), "not the state of a training run"),
    "keys": (change(model={1: torch.ones(1)}), "not the state of a training run"),
    "other": (change(model={"x": torch.ones(1)}), "another model's state: GPT: tensor '.*' is missing"),
    "sparse": (change(model={"x": torch.ones(1).to_sparse()}), "not the state of a training run|is damaged"),
    "optimizers": (change(optimizers=[None, None]), "not the state of a training run"),
    "step": (change(step="2"), "its step is not a number"),
    "back": (change(step=-1), "its step is not a number"),
    "no moments": (change_moments(None), "its optimizers are not this model's"),
    "far": (change_moments({99: {}}), "its optimizers are not this model's"),
    "shape": (change_moments({0: {"exp_avg": torch.ones(3)}}), "its optimizers are not this model's"),
    "words": (change_moments({0: {"exp_avg": "x"}}), "its optimizers are not this model's"),
}


@pytest.mark.parametrize("name", STATES)
def test_state_of_a_run(name, directory):
    changed, message = STATES[name]
    path = directory / "semantic" / "last.pt"
    torch.save(changed(torch.load(path)), path)
    with pytest.raises(ValueError, match=f"last.pt .*({message})"):
        steps.run_of(directory, "semantic", doors.SETTINGS, doors.CPU)


def test_a_state_keeps_no_settings(directory):
    """The rates and the like are those of this run, whatever the file says."""
    path = directory / "semantic" / "last.pt"
    state = torch.load(path)
    for kept in state["optimizers"]:
        kept["param_groups"] = [{"params": "x", "lr": "x", "betas": None}]
    torch.save(state, path)
    run = steps.run_of(directory, "semantic", doors.SETTINGS, doors.CPU)
    assert [group["lr"] for o in run.optimizers for group in o.param_groups] == [3e-3, 0.02]


def test_what_does_not_fit_is_not_exported(directory):
    """It would be found only when the checkpoint is loaded."""
    path = directory / "fine" / "last.pt"
    state = torch.load(path)
    state["model"]["wpe.weight"] = torch.ones(3)
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"tensor 'wpe.weight' has shape \(3,\)"):
        steps.export(directory)
    assert not (directory / "checkpoint").exists()


def test_codebooks_that_are_not_finite(directory):
    path = directory / "quantizer" / codec.FILE
    model = codec.ResidualQuantizer(4, 8, 11)
    model.codebooks[0, 0, 0] = torch.nan
    save_file(model.state_dict(), path)
    with pytest.raises(
        ValueError, match=r"does not fit config.json: tensor 'codebooks' has values that are not"
    ):
        steps.codebooks(directory, prepare.read_config(directory), doors.CPU)


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b'{"model_type": "barklite"}'])
def test_configuration_of_a_prepared_directory(content, directory):
    (directory / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json"):
        prepare.read_config(directory)


def test_an_unknown_tokenizer(directory):
    config = json.loads((directory / "config.json").read_bytes()) | {"tokenizer": "__dict__"}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json: tokenizer is '__dict__'"):
        prepare.read_config(directory)


def archive(content: bytes, name: str = "semantic.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return buffer.getvalue()


def array(values: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


SEMANTIC = {
    "array": array(np.arange(3)) + archive(b""),  # NumPy reads it as an array, zipfile as an archive
    "no array": archive(b"semantic"),
    "empty": archive(b""),
    "huge": archive(header("{'descr': '<i8', 'fortran_order': False, 'shape': (3000000000,)}\n")),
    "objects": archive(header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n") + bytes(8)),
    "bomb": archive(bytes(2**25)),
    "long": archive(header("1" * 40_000)),
}


@pytest.mark.parametrize("name", SEMANTIC)
def test_semantic_tokens_beside_a_recording(name, tmp_path):
    (tmp_path / "a.npz").write_bytes(SEMANTIC[name])
    with pytest.raises(ValueError, match=r"a.npz") as error:
        data.read_semantic(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_a_pipe_is_no_recording(tmp_path):
    """To open it would wait for somebody who writes."""
    sounds.folder(tmp_path / "recordings", 1)
    os.mkfifo(tmp_path / "recordings" / "pipe.wav")
    assert len(list(data.from_folder(tmp_path / "recordings", 4000))) == 1


# --- a corpus -----------------------------------------------------------------------------------------------


def speak(*lines: str) -> list[dict]:
    Path("rows.jsonl").write_text(
        "".join(line + "\n" for line in lines), encoding="utf-8", errors="surrogatepass"
    )
    corpus.speak(doors._speak, "rows.jsonl", "out")
    return [json.loads(line) for line in Path("out/results.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize(
    "line, message",
    [
        (DEEP, "nested too deeply"),
        ('{"text": "a", "seed": 1' + "0" * 5000 + "}", "thousands of digits"),
        ('{"text": "a", "seed": 1' + "0" * 400 + "}", "seed is 1000"),
        ('{"text": "a", "seed": 1e400}', "seed must be a whole number"),
        ('{"text": "a", "seed": NaN}', "seed must be a whole number"),
        ('{"text": "a", "' + "x" * 100_000 + '": 1}', "unknown key"),
    ],
)
def test_a_row_that_is_none(line, message):
    one, other = speak(line, '{"text": "b"}')
    assert message in one["error"]
    assert len(one["error"]) < 300
    assert other["error"] is None


LINE = {"id": 1, "line": 1, "file": "1.wav", "error": None}


@pytest.mark.parametrize(
    "line",
    [b"{}", b"7", b"\xff", DEEP.encode(), json.dumps({"id": 1, "line": 1, "file": "1.wav"}).encode(),
     *(json.dumps(LINE | {"file": file}).encode() for file in
       (None, 7, "../1.wav", "x" * 300 + ".wav", "\0.wav", "rows.jsonl"))],
)  # fmt: skip
def test_a_damaged_line_amid_results(line):
    """Its row is spoken again, and the lines behind it stay."""
    rows = [json.dumps({"id": i, "text": "a"}) for i in (1, 2, 3)]
    speak(*rows)
    path = Path("out/results.jsonl")
    first, _, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"\n" + third)
    assert [record["id"] for record in speak(*rows)] == [1, 3, 2]


def test_results_that_are_a_pipe():
    Path("out").mkdir()
    os.mkfifo("out/results.jsonl")
    with pytest.raises(ValueError, match="is not a file"):
        speak('{"text": "a"}')


@pytest.mark.parametrize("name", [".results.jsonl.partial", ".results.wav.partial"])
def test_links_in_the_place_of_unfinished_files(name):
    """They are not followed: their target stays."""
    speak('{"text": "a"}')
    Path("victim").write_text("precious")
    Path("out", name).symlink_to(Path("victim").resolve())
    Path("out/results.jsonl").write_bytes(b"{}\n" + Path("out/results.jsonl").read_bytes())  # one to drop
    assert len(speak('{"text": "a"}', '{"text": "b"}')) == 2
    assert Path("victim").read_text() == "precious"


@pytest.mark.parametrize("planted", ["link", "pipe"])
def test_what_lies_in_the_place_of_a_sound(planted):
    """It is replaced: nothing is written through it."""
    speak('{"text": "a"}')
    Path("out/1.wav").unlink()
    Path("victim").write_text("precious")
    if planted == "link":
        Path("out/1.wav").symlink_to(Path("victim").resolve())
        Path("out/results.jsonl").write_bytes(b"")  # or the target would pass for the sound
    else:
        os.mkfifo("out/1.wav")
    assert speak('{"text": "a"}')[0]["error"] is None
    assert Path("victim").read_text() == "precious"
    assert Path("out/1.wav").read_bytes()[:4] == b"RIFF"
    assert not Path("out/1.wav").is_symlink()


# --- commands -----------------------------------------------------------------------------------------------


def shell(line: str, **environment: str) -> subprocess.CompletedProcess:
    """A line of the shell, in which `barklite` is the command."""
    names = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    line = line.replace("barklite", f"{sys.executable} -m barklite", 1)
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, timeout=120, env=names | environment
    )


def test_closed_streams():
    """The WAV does not get the number of the closed stream, and nobody's words."""
    doors._native(Path())
    done = shell(
        "barklite hello -m m --device cpu -o out.wav --max-seconds 0.1 --seed 1 <&- >&- 2>&-; echo $?"
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert (
        main(
            [
                "hello",
                "-m",
                "m",
                "--device",
                "cpu",
                "-o",
                "b.wav",
                "-q",
                "--max-seconds",
                "0.1",
                "--seed",
                "1",
            ]
        )
        == 0
    )
    assert Path("out.wav").read_bytes()[:4] == b"RIFF"
    assert Path("out.wav").stat().st_size == Path("b.wav").stat().st_size


@pytest.mark.parametrize("line", ["barklite --nonsense 2>&-", "barklite '' 2>&-", "barklite '' 2>/dev/full"])
def test_nobody_is_told(line):
    done = shell(f"{line}; echo $?")
    assert done.stdout in ("1\n", "2\n")
    assert done.stderr == ""


def test_output_that_cannot_be_written():
    done = shell("barklite voices >/dev/full; echo $? >&2")
    assert done.stderr.splitlines() == ["barklite: no space left on device", "1"]


def test_a_working_directory_that_is_gone():
    done = shell("mkdir gone; cd gone; rmdir ../gone; barklite hello")
    assert done.returncode == 1
    assert done.stderr == "barklite: the working directory no longer exists: change to another one\n"


def test_nobody_without_a_home(tmp_path):
    """No HOME, and no entry in the list of users."""
    doors._native(Path())
    code = "import pwd, os, sys\ndef nobody(_): raise KeyError\npwd.getpwuid = pwd.getpwnam = nobody\n"
    Path("nobody.py").write_text(code + "from barklite.__main__ import main; sys.exit(main(sys.argv[1:]))")
    done = shell(f"{sys.executable} nobody.py hello -m m --device cpu -q --max-seconds 0.1 --float --seed 1")
    assert (done.returncode, done.stderr) == (0, "")
    done = shell(f"{sys.executable} nobody.py hello -m suno/bark-small")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("barklite: ")


@pytest.mark.parametrize(
    "arguments",
    [["-i", "a\nb\x1b[2J.txt"], ["hello", "-o", "no\nwhere/a.wav"], ["hello", "-m", "a\nb"], ["--a\nb"],
     ["voices", "\n"], ["convert", "a\nb", "c"], ["-i", "a\nb.jsonl", "-o", "out"], ["x" * 10_000] * 2],
)  # fmt: skip
def test_one_line_whatever_the_name(arguments, capsys):
    try:
        status = main(arguments)
    except SystemExit as exit:
        status = exit.code
    *usage, line = capsys.readouterr().err.splitlines()
    assert status in (1, 2)
    assert all(part.startswith(("usage:", " ")) for part in usage)
    assert line.startswith("barklite")
    assert len(line) < 500
    assert "\x1b" not in line


def test_a_name_is_shown_as_it_is():
    assert sentence(FileNotFoundError(2, "No such file", "a\nb \x1b.txt")) == r"a\nb \x1b.txt: no such file"
    assert sentence(ValueError("one\n  two \x9b")) == r"one two \x9b"


def test_mistakes_of_our_own_are_one_line(monkeypatch, capsys):
    def broken(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr(Bark, "from_pretrained", broken)
    assert main(["hello", "-o", "a.wav"]) == 1
    line = "barklite: this is a bug in barklite, please report it: KeyError: 'x'\n"
    assert capsys.readouterr().err == line
    monkeypatch.setattr("barklite.training.steps.export", broken)
    assert train(["export", "--out", "d"]) == 1
    assert capsys.readouterr().err == line.replace("barklite:", "barklite.training:", 1)


def test_memory_that_is_not_there(monkeypatch, capsys):
    def large(*_, **__):
        raise MemoryError("for\nthis")

    monkeypatch.setattr("barklite.training.steps.export", large)
    assert train(["export", "--out", "d"]) == 1
    assert capsys.readouterr().err == "barklite.training: not enough memory for this\n"


# --- messages that a file makes as long as it likes ---------------------------------------------------------

LONG = "x" * 100_000


@pytest.mark.parametrize("given", [{"temperature": LONG}, {"top_k": LONG}, {"top_p": LONG}, {"filter": LONG}])
def test_settings_are_not_quoted_whole(given):
    with pytest.raises(ValueError, match=r"must") as error:
        SamplingConfig(**given)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["min_eos_p", "max_seconds", "max_semantic_tokens", "rules", "truncate"])
def test_generation_settings_are_not_quoted_whole(name):
    with pytest.raises(ValueError, match=rf"{name} is 'xxx") as error:
        GenerationConfig(**{name: LONG})
    assert len(str(error.value)) < 300


def long_kind(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": LONG}))


def long_weights(folder):
    doors.DOORS["bin"].make(folder)
    (folder / "m" / "pytorch_model.bin").unlink()
    name = json.dumps({"weight_map": {"a": LONG}})
    (folder / "m" / "pytorch_model.bin.index.json").write_text(name)


@pytest.mark.parametrize("make", [long_kind, long_weights])
def test_a_checkpoint_is_not_quoted_whole(make, tmp_path):
    folder = tmp_path / "long"
    folder.mkdir()
    make(folder)
    with pytest.raises(ValueError, match=r"long") as error:
        Bark.from_pretrained(next(iter(p.parent for p in folder.rglob("config.json"))), device="cpu")
    assert len(str(error.value)) < 1000


def test_a_name_that_is_too_long():
    with pytest.raises(ValueError, match=r"a file's name is too long") as error:
        open_checkpoint(LONG)
    assert len(str(error.value)) < 300


def test_the_header_of_an_array_is_not_quoted_whole(tmp_path):
    header = ("{" + LONG[:60_000]).encode()
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ValueError, match=r"a.npy is not an array") as error:
        voices.read_npy(tmp_path / "a.npy")
    assert len(str(error.value)) < 1000


def test_safetensors_own_words_are_cut(tmp_path):
    header = json.dumps({"a": {"dtype": LONG, "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    with pytest.raises(ValueError, match=r"is not a whole safetensors file") as error:
        _read_safetensors(tmp_path / "a.safetensors")
    assert len(str(error.value)) < 1000


def test_names_with_a_newline_stay_one_line(tmp_path):
    """Of a shard in an index, and of an entry in a configuration."""
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "a\\nb"}}')
    with pytest.raises(ValueError, match=r"'a\\nb' is not the name of a file"):
        _huggingface_weights(tmp_path)
    with pytest.raises(ValueError, match=r"unknown entry 'fine\.a\\nb'"):
        BarkConfig.from_dict({**BarkConfig.tiny().to_dict(), "fine": {"a\nb": 1}})


def test_codebooks_of_any_size_cost_no_memory():
    """Regression: all ids of codes were listed to see whether a special id is one of them."""
    config = BarkConfig.tiny().to_dict()
    with pytest.raises(ValueError, match=r"codec\.codebook_size and tokens\.codebook_size differ"):
        BarkConfig.from_dict(config | {"tokens": config["tokens"] | {"codebook_size": 2**31 - 1}})


def test_no_room_for_semantic_tokens():
    """Regression: the coarse model's prompt was then empty, and its ids no integers."""
    config = BarkConfig.tiny().to_dict()
    with pytest.raises(ValueError, match="a rate or window is 0"):
        BarkConfig.from_dict(config | {"tokens": config["tokens"] | {"n_coarse_semantic": 0}})


def test_a_sentencepiece_model_with_an_error_that_is_no_text(tmp_path):
    """Regression: sentencepiece's message quotes a piece that is there twice, and this one is not UTF-8."""

    def field(content: bytes) -> bytes:
        return b"\n" + bytes([len(content)]) + content

    unknown, twice = field(field(b"<unk>") + b"\x18\x02"), field(field(b"\xf8"))
    (tmp_path / "tokenizer.model").write_bytes(unknown + twice + twice)
    with pytest.raises(ValueError, match=r"tokenizer\.model is not a SentencePiece model") as error:
        SentencePiece.load(tmp_path / "tokenizer.model")
    assert type(error.value) is ValueError

"""`python -m barklite.training`: all steps on a folder of recordings, checkpoints to begin with, errors."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from barklite import Bark, BarkConfig, GenerationConfig
from barklite.storage import checkpoint
from barklite.training import loop, prepare, recipe, spoken, steps, texts
from barklite.training.__main__ import main
from barklite.training.data import Corpus
from barklite.training.loop import Machine, Run, Settings, read_log, read_state
from benchmarks import losses
from tests import builders, sounds

CPU = Machine(torch.device("cpu"))
ROOT = Path(__file__).resolve().parents[1]
QUICK = ("--device", "cpu", "--steps", 3, "--batch-size", 2)
TOKEN_MODELS = ("semantic", "coarse", "fine")
MODELS = (*TOKEN_MODELS, "decoder", "encoder")


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def error(capsys, *arguments) -> str:
    """What a command that fails says, on its one line."""
    capsys.readouterr()
    assert run(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    *bars, line = err.splitlines()
    assert line.startswith("barklite.training: ")
    assert "Traceback" not in err
    assert not any("barklite" in bar for bar in bars)
    return line


def config_file(directory: Path, config: BarkConfig | None = None) -> Path:
    path = directory / "small.json"
    path.write_text(json.dumps((config or sounds.config()).to_dict()))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Every step, a little of each, on recordings at another rate than the codec's."""
    directory = tmp_path_factory.mktemp("finished")
    recordings = sounds.folder(directory / "recordings", 6, rate=8000)
    out = directory / "out"
    assert run("prepare", recordings, "--config", config_file(directory), "--out", out) == 0
    assert run("codec", "--out", out, *QUICK) == 0
    for name in TOKEN_MODELS:
        assert run(name, "--out", out, *QUICK) == 0
    assert run("export", "--out", out) == 0
    return out


# --- all steps ----------------------------------------------------------------------------------------------


def test_prepared(finished):
    corpus = Corpus(finished / "data")
    assert str(corpus) == f"{finished / 'data'}: 6 rows of 2 speakers, 6 with semantic tokens"
    assert sorted((row.text, row.speaker) for row in corpus.rows) == [
        ("adg", "low"), ("beh", "high"), ("cfi", "low"), ("dgj", "high"), ("ehk", "low"), ("fil", "high"),
    ]  # fmt: skip
    assert {(row.samples, row.semantic, row.spans) for row in corpus.rows} == {(4000, 50, 50)}
    assert prepare.read_config(finished) == sounds.config()
    assert {part.shape for part in corpus.codes()} == {(4, 50)}


def test_each_model_was_trained(finished):
    for name in MODELS:
        assert read_state(finished / name / "last.pt")["step"] == 3
        assert read_log(finished / name)[-1]["step"] == 3
        assert (finished / name / "loss.png").is_file()


def test_the_export_speaks(finished, capsys):
    assert run("export", "--out", finished) == 0  # again, in its place
    assert capsys.readouterr().out == f"{finished / 'checkpoint'}\n"
    bark = Bark.from_pretrained(finished / "checkpoint", device="cpu", dtype="float32")
    limit = GenerationConfig(max_semantic_tokens=30, max_coarse_history=24, min_eos_p=None)
    clip = bark.generate("abc", seed=1, config=limit)
    assert clip.sample_rate == 4000
    assert len(clip.audio) == 80 * clip.codes.shape[1] > 0
    for voice in ("low", "high"):
        spoken = bark.generate("abc", voice=voice, seed=1, config=limit)
        assert not np.array_equal(spoken.codes, clip.codes)
    assert sorted(path.name for path in (finished / "checkpoint" / "voices").iterdir()) == [
        "high.npz",
        "low.npz",
    ]


def test_the_formats_of_the_export(finished, capsys):
    """int8 is for matrices and large convolutions; the fixture's own export comes back at the end."""
    kinds = {"float32": {torch.float32}, "int8": {torch.int8, torch.float16, torch.float32}}
    for dtype, expected in kinds.items():
        assert run("export", "--out", finished, "--dtype", dtype) == 0
        stored = {
            name: load_file(finished / "checkpoint" / f"{name}.safetensors") for name in ("coarse", "codec")
        }
        assert {tensor.dtype for tensor in stored["coarse"].values()} == expected
        assert {tensor.dtype for tensor in stored["codec"].values()} == expected
        bark = Bark.from_pretrained(finished / "checkpoint", device="cpu")
        assert {tensor.dtype for tensor in bark.coarse.parameters()} == {torch.float32}
        assert len(bark.generate("ab", "low", seed=0).semantic)  # mixed types would fail
        if dtype == "int8":
            kept = [key for key, tensor in stored["codec"].items() if tensor.dtype == torch.int8]
            assert kept
            assert all("weight_ih" in key or "weight_hh" in key for key in kept)  # the LSTMs
    assert "export takes float32, float16, int8" in error(capsys, "export", "--out", finished, "--dtype", "x")
    assert run("export", "--out", finished) == 0


def test_losses_are_drawn(finished, tmp_path):
    assert set(losses.logs(finished)) == set(MODELS)
    losses.draw(losses.logs(finished), tmp_path / "losses.png")
    assert (tmp_path / "losses.png").read_bytes()[:4] == b"\x89PNG"
    shipped = losses.logs(ROOT / "benchmarks" / "training")  # the built-in voice's own
    assert {model: lines[-1]["step"] for model, lines in shipped.items()} == {
        model: recipe.SETTINGS[model].steps for model in MODELS
    }
    with pytest.raises(FileNotFoundError, match="holds no logs"):
        losses.logs(tmp_path)


def test_the_export_is_what_was_trained(finished):
    """In float16; codes of the codec are those of training, but for the encoder's error."""
    bark = Bark.from_pretrained(finished / "checkpoint", device="cpu", dtype="float32", encoder=True)
    for name in TOKEN_MODELS:
        trained = read_state(finished / name / "last.pt")["model"]
        exported = getattr(bark, name).state_dict()
        assert all(torch.equal(exported[key], trained[key].half().float()) for key in trained)
    for part in ("decoder", "encoder"):
        trained = read_state(finished / part / "last.pt")["model"]
        exported = getattr(bark.codec, part).state_dict()
        assert all(torch.equal(exported[key], trained[key].half().float()) for key in trained)
    books = steps.codebooks(finished, bark.config, CPU)[0].codebooks
    assert torch.equal(bark.codec.codebooks, books.half().float())
    sound = sounds.row(1)["audio"]
    assert bark.encode(sound).shape == (4, 50)


def test_an_export_of_all_but_the_decoder(finished, tmp_path, capsys):
    """A checkpoint cannot stand in for the decoder of codebooks that were trained here."""
    for part in ("data", "quantizer", *TOKEN_MODELS):
        shutil.copytree(finished / part, tmp_path / part)
    shutil.copy(finished / "config.json", tmp_path)
    for init in ((), ("--init", finished / "checkpoint")):
        assert "train decoder first" in error(capsys, "export", "--out", tmp_path, *init)


def test_a_voice_is_an_utterance_of_two_to_three_seconds(tmp_path):
    """Else the longest below that, else the first three seconds of a longer one. Less where the semantic
    model takes less.
    """
    ids = replace(sounds.SMALL, n_semantic_history=256)
    frames = {"a": [120, 60, 110, 140], "b": [90, 99, 20], "c": [160, 200], "d": [151, 50]}
    with prepare.Writer(tmp_path) as writer:
        writer.add("kept for validation", "e", np.zeros(8000), np.zeros(100, int))
        for i, (speaker, T) in enumerate((speaker, T) for speaker, some in frames.items() for T in some):
            writer.add("x", speaker, np.zeros(80 * T), np.full(T, i))
    corpus = Corpus(tmp_path)
    corpus.write_codes(iter([np.zeros((4, row.samples // 80), int) for row in corpus.rows]), 4)
    voices = steps.voices(corpus, ids)
    assert {name: (len(voice.semantic), voice.semantic[0]) for name, voice in voices.items()} == {
        "a": (120, 0), "b": (99, 5), "c": (150, 7), "d": (50, 10),
    }  # fmt: skip
    assert all(voice.fine.shape[1] == len(voice.semantic) for voice in voices.values())
    shorter = steps.voices(corpus, replace(ids, n_semantic_history=120))
    assert [len(voice.semantic) for voice in shorter.values()] == [120, 90, 120, 50]
    with prepare.Writer(tmp_path / "other") as writer:
        for _ in range(2):
            writer.add("x", "", np.zeros(8000), np.zeros(100, int))
    corpus = Corpus(tmp_path / "other")
    corpus.write_codes(iter([np.zeros((4, 100), int)] * 2), 4)
    assert list(steps.voices(corpus, sounds.SMALL)) == ["voice"]


def test_prepared_with_the_built_in_voices_sizes(tmp_path, monkeypatch):
    """Without --config the recordings decide how many semantic ids and letters there are."""
    row, more = sounds.row, {"text": "It's 2, I say.", "spans": np.array([[0, 1]] * 50)}
    monkeypatch.setattr(sounds, "row", lambda i, frames: row(i, frames) | more)
    recordings = sounds.folder(tmp_path / "recordings", 3, rate=4000)
    assert run("prepare", recordings, "--out", tmp_path / "out") == 0
    config = prepare.read_config(tmp_path / "out")
    assert config.tokenizer == "english"
    assert config.tokens.semantic_vocab_size == 9  # 0 to 8 occur
    assert len(prepare.tokenizer_of(tmp_path / "out", config).encode("it's two, i say.")) == 16
    assert Corpus(tmp_path / "out" / "data").rows[0].samples == 16_000


def test_a_new_process_goes_on(finished, tmp_path, monkeypatch):
    """As if there had been one process: to the last bit."""
    for part in ("once", "twice"):
        shutil.copytree(finished / "data", tmp_path / part / "data")
        shutil.copy(finished / "config.json", tmp_path / part)
    command = ["coarse", "--device", "cpu", "--steps", "6", "--batch-size", "2", "--save-every", "3", "--out"]
    assert run(*command, tmp_path / "once") == 0
    log = Run._log
    with monkeypatch.context() as patched:
        patched.setattr(Run, "_log", lambda run, line: interrupt(run, line, log))
        assert run(*command, tmp_path / "twice") == 130
    assert read_state(tmp_path / "twice" / "coarse" / "last.pt")["step"] == 3
    started = [sys.executable, "-m", "barklite.training", *command, str(tmp_path / "twice")]
    done = subprocess.run(started, capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    once, twice = (read_state(tmp_path / part / "coarse" / "last.pt") for part in ("once", "twice"))
    assert all(torch.equal(once["model"][key], twice["model"][key]) for key in once["model"])
    for one, other in zip(once["optimizers"], twice["optimizers"], strict=True):
        assert one["param_groups"] == other["param_groups"]
        for key, kept in one["state"].items():
            assert all(torch.equal(kept[name], other["state"][key][name]) for name in kept)
    logs = [read_log(tmp_path / part / "coarse") for part in ("once", "twice")]
    for line in (*logs[0], *logs[1]):
        del line["seconds_a_step"]
    assert logs[0] == logs[1]


def interrupt(run, line, log) -> None:
    if line["step"] == 6:
        raise KeyboardInterrupt
    log(run, line)


@pytest.mark.parametrize("name", ["semantic", "fine"])
def test_two_processes(name, finished, tmp_path):
    """torchrun: both end with the same weights, which are not those of one, and one of them writes."""
    for part in ("data", "quantizer"):
        shutil.copytree(finished / part, tmp_path / part)
    shutil.copy(finished / "config.json", tmp_path)
    program = tmp_path / "train.py"
    program.write_text(
        "import os, sys, torch\n"
        "from barklite.training import loop\n"
        "from barklite.training.__main__ import main\n"
        "train = loop.Run.train\n"
        "def watched(run, *rest):\n"
        "    train(run, *rest)\n"
        "    torch.save(run.model.state_dict(), f'{run.directory}.{run.machine.rank}.pt')\n"
        "loop.Run.train = watched\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, program, name, "--out", tmp_path, *QUICK]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=150, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tmp_path / f"{name}.{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(ranks[0][key], ranks[1][key]) for key in ranks[0])
    saved, alone = (read_state(path / name / "last.pt")["model"] for path in (tmp_path, finished))
    assert all(torch.equal(saved[key], ranks[0][key]) for key in saved)
    assert not all(torch.equal(saved[key], alone[key]) for key in saved)
    assert len((tmp_path / name / "log.jsonl").read_text().splitlines()) == 1
    assert sorted(os.listdir(tmp_path / name)) == ["last.pt", "log.jsonl", "loss.png"]


def test_one_process_is_enough_for_the_codec(finished, monkeypatch, capsys):
    here = Machine(torch.device("cpu"), world=2)
    monkeypatch.setattr(loop, "machine", lambda *_: contextlib.nullcontext(here))
    assert "torchrun is for semantic, coarse and fine" in error(capsys, "decoder", "--out", finished)


# --- from a checkpoint --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_beginning_with_barklites_own(name, finished, tmp_path):
    shutil.copytree(finished / "data", tmp_path / "data")
    shutil.copy(finished / "config.json", tmp_path)
    init = finished / "checkpoint"
    begun = steps.run_of(tmp_path, name, Settings(), CPU, init)
    trained = read_state(finished / name / "last.pt")["model"]
    assert all(
        torch.equal(tensor, trained[key].half().float()) for key, tensor in begun.model.state_dict().items()
    )
    assert begun.step == 0
    assert all(p.requires_grad and p.dtype == torch.float32 for p in begun.model.parameters())
    shutil.copytree(finished / name, tmp_path / name, dirs_exist_ok=True)
    gone_on = steps.run_of(tmp_path, name, Settings(), CPU, tmp_path / "nowhere")  # not asked for any more
    assert gone_on.step == 3
    assert all(torch.equal(tensor, trained[key]) for key, tensor in gone_on.model.state_dict().items())


@pytest.fixture(scope="module", params=["suno", "huggingface"])
def published(request, tiny, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    if request.param == "suno":
        return builders.write_suno(path, tiny)
    return builders.write_huggingface(path, tiny, voices=[builders.voice("v2/en_speaker_0")])


@pytest.fixture
def recordings(tmp_path, monkeypatch) -> Path:
    """Of one second each, at another rate than Bark's."""
    row = sounds.row
    monkeypatch.setattr(sounds, "row", lambda i, frames: row(i, frames) | {"spans": np.zeros((50, 2), int)})
    return sounds.folder(tmp_path / "recordings", 3)


def test_beginning_with_a_published_checkpoint(published, tiny, recordings, tmp_path, capsys):
    """Its ids, tokenizer, weights and codes."""
    out = tmp_path / "out"
    assert run("prepare", recordings, "--init", published, "--out", out) == 0
    config, corpus = prepare.read_config(out), Corpus(out / "data")
    assert config.tokens == tiny.config.tokens
    assert config.codec.n_codebooks == 8
    assert corpus.rows[1].samples == 24_000
    assert prepare.tokenizer_of(out, config).encode("Hello") == tiny.tokenizer.encode("Hello")

    codec = Bark.from_pretrained(published, device="cpu", encoder=True).codec
    for name in MODELS:
        model = steps.run_of(out, name, Settings(), CPU, published).model
        theirs = (getattr(tiny, name) if name in TOKEN_MODELS else getattr(codec, name)).state_dict()
        assert all(torch.allclose(tensor, theirs[key]) for key, tensor in model.state_dict().items())

    assert run("tokens", "--init", published, "--out", out, "--device", "cpu") == 0
    expected = codec.encode(torch.from_numpy(corpus.audio(1))[None], 8)[0]
    assert np.array_equal(corpus.codes()[1], expected.numpy())
    quantizer, ours = steps.codebooks(out, config, CPU)
    assert torch.equal(quantizer.codebooks, codec.codebooks[:8])
    assert not ours
    assert "has a checkpoint's codebooks" in error(capsys, "tokens", "--out", out)
    assert "its own encoder must be used" in error(capsys, "encoder", "--init", published, "--out", out)


def test_codes_by_a_checkpoint_in_16_bits(published, recordings, tmp_path):
    """Regression: its codec computed in float16, on sound in float32."""
    half, out = tmp_path / "half", tmp_path / "out"
    whole = Bark.from_pretrained(published, device="cpu", encoder=True)
    whole.save_pretrained(half)
    checkpoint.write_model(half, "codec", whole.codec.state_dict(), torch.float16)
    assert run("prepare", recordings, "--init", half, "--out", out) == 0
    assert run("tokens", "--init", half, "--out", out, "--device", "cpu") == 0
    codec = Bark.from_pretrained(half, device="cpu", dtype="float32", encoder=True).codec
    corpus = Corpus(out / "data")
    expected = codec.encode(torch.from_numpy(corpus.audio(1))[None], 8)[0]
    assert np.array_equal(corpus.codes()[1], expected.numpy())


def test_fine_tuning(tiny, recordings, tmp_path, capsys):
    """Some models trained, from recordings to a checkpoint; the others as they were."""
    out = tmp_path / "out"
    published = builders.write_huggingface(tmp_path / "hf", tiny, voices=[builders.voice("v2/en_speaker_0")])
    assert run("prepare", recordings, "--init", published, "--out", out) == 0
    assert run("tokens", "--init", published, "--out", out, "--device", "cpu") == 0
    once = ("--out", out, "--device", "cpu", "--steps", 1, "--batch-size", 1)
    for name in ("semantic", "decoder"):
        assert run(name, "--init", published, *once) == 0
    assert "train coarse first" in error(capsys, "export", "--out", out)
    assert run("export", "--init", published, "--out", out) == 0
    bark = Bark.from_pretrained(out / "checkpoint", device="cpu", dtype="float32")
    for model, theirs in ((bark.coarse, tiny.coarse), (bark.fine, tiny.fine)):
        kept = theirs.state_dict()
        assert all(torch.equal(t, kept[key].half().float()) for key, t in model.state_dict().items())
    assert torch.equal(bark.codec.codebooks, tiny.codec.codebooks[:8].half().float())
    trained = read_state(out / "decoder" / "last.pt")["model"]
    assert all(
        torch.equal(t, trained[key].half().float()) for key, t in bark.codec.decoder.state_dict().items()
    )
    voices = {path.stem for path in (out / "checkpoint" / "voices").rglob("*.npz")}
    assert voices == {"en_speaker_0", "low"}  # the first recording, of the other one, is for validation
    clip = bark.generate("Hello", voice="low", seed=0, config=GenerationConfig(max_semantic_tokens=4))
    assert len(clip.audio)


def test_codebooks_of_two_kinds(finished, capsys):
    message = error(capsys, "tokens", "--init", finished / "checkpoint", "--out", finished, "--device", "cpu")
    assert "was trained here, but --init has other codebooks" in message


def test_a_checkpoint_of_another_size(finished, native, capsys, tmp_path):
    shutil.copytree(finished / "data", tmp_path / "data")
    shutil.copy(finished / "config.json", tmp_path)
    for name in ("semantic", "decoder"):
        message = error(capsys, name, "--init", native, "--out", tmp_path, *QUICK)
        assert f"{name} has other sizes than config.json says" in message
    assert "has no encoder" in error(capsys, "encoder", "--init", native, "--out", tmp_path, *QUICK)
    assert "neither a directory nor a Hub id" in error(
        capsys, "fine", "--init", "x", "--out", tmp_path, *QUICK
    )
    assert "semantic has other sizes" in error(capsys, "export", "--init", native, "--out", tmp_path)


def test_an_export_takes_the_rest_from_a_checkpoint(finished, tmp_path):
    """Nothing but the semantic model trained, and no codes."""
    for part in ("data", "semantic"):
        shutil.copytree(finished / part, tmp_path / part)
    (tmp_path / "data" / "codes.json").unlink()
    shutil.copy(finished / "config.json", tmp_path)
    assert run("export", "--init", finished / "checkpoint", "--out", tmp_path) == 0
    for name in (*TOKEN_MODELS, "codec"):
        one, other = (
            (path / "checkpoint" / f"{name}.safetensors").read_bytes() for path in (finished, tmp_path)
        )
        assert one == other
    assert (tmp_path / "checkpoint" / "voices" / "low.npz").is_file()


# --- errors -------------------------------------------------------------------------------------------------


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        run("--help")
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(
        command in out for command in ("voice", "prepare", "quantizer", "tokens", "codec", "export", *MODELS)
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "required"),
        (("fine",), "--out"),
        (("dance", "--out", "x"), "invalid choice"),
        (("prepare", "--out", "x"), "takes a folder of recordings"),
        (("fine", "y", "--out", "x"), "takes a folder of recordings"),
        (("prepare", "y", "--out", "x", "--init", "z", "--config", "c"), "--config or --init, not both"),
        (("voice", "--out", "x", "--steps", "5"), "voice takes no --steps"),
        (("codec", "--out", "x", "--init", "y"), "codec takes no --init"),
        (("export", "--out", "x", "--device", "cpu"), "export takes no --device"),
        (("tokens", "--out", "x", "--compile"), "tokens takes no --compile"),
        (("fine", "--out", "x", "--config", "y"), "fine takes no --config"),
        (("fine", "--out", "x", "--steps", "many"), "invalid int value"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_steps_out_of_order(tmp_path, capsys):
    nowhere = tmp_path / "nowhere"
    for command in (*MODELS, "quantizer", "tokens", "export"):
        assert "run `prepare` first" in error(capsys, command, "--out", nowhere)
    sounds.prepared(tmp_path)
    assert "quantizer.safetensors is missing: run `quantizer` first" in error(
        capsys, "tokens", "--out", tmp_path
    )
    assert "run `quantizer` first" in error(capsys, "decoder", "--out", tmp_path)
    assert "semantic/last.pt is missing: train semantic first" in error(capsys, "export", "--out", tmp_path)
    (tmp_path / "data" / "codes.json").unlink()
    for name in ("coarse", "fine"):
        assert "run `tokens` first" in error(capsys, name, "--out", tmp_path, *QUICK)
    (tmp_path / "quantizer").mkdir(exist_ok=True)
    (tmp_path / "quantizer" / "quantizer.safetensors").write_bytes(b"no")
    for command in ("quantizer", "tokens"):
        assert "quantizer.safetensors does not fit config.json" in error(capsys, command, "--out", tmp_path)


def test_options_with_impossible_values(tmp_path, capsys):
    sounds.prepared(tmp_path)
    for arguments, message in (
        (("--steps", 0), "steps is 0; it must be at least 1"),
        (("--save-every", 0), "save_every is 0"),
        (("--seed", -1), "seed is -1"),
        (("--dtype", "float16"), "training computes in float32 or bfloat16"),
        (("--device", "gpu"), "device 'gpu' cannot be used here"),
    ):
        assert message in error(capsys, "fine", "--out", tmp_path, *arguments)


@pytest.mark.parametrize(
    "part, message",
    [
        ({"semantic": np.full(50, 12)}, "0.wav, 'adg': semantic token 12 is outside 0 .. 11"),
        ({"semantic": np.full(50, 1), "spans": np.full((50, 2), 1 << 16)}, "0.wav, 'adg': spans has values"),
        (
            {"semantic": np.zeros(75, int)},
            "75 semantic tokens at 50 a second are 1.50 s, but the audio has 1.00 s",
        ),
        (
            {"semantic": np.zeros(50, int), "spans": np.full((50, 2), 3)},
            "'adg': spans must be first <= last < 3",
        ),
        ({"semantic": np.zeros(50, int), "spans": np.array([[1, 0]] * 50)}, "spans must be first <= last"),
    ],
)
def test_recordings_that_do_not_fit_the_models(part, message, tmp_path, capsys):
    recordings, out = sounds.folder(tmp_path / "recordings", 2), tmp_path / "out"
    np.savez(recordings / "low" / "0.npz", **part)
    assert message in error(capsys, "prepare", recordings, "--config", config_file(tmp_path), "--out", out)
    assert not (out / "config.json").exists()
    np.savez(recordings / "low" / "0.npz", semantic=np.zeros(50, int))
    assert run("prepare", recordings, "--config", config_file(tmp_path), "--out", out) == 0  # mended
    message = error(capsys, "prepare", recordings, "--config", config_file(tmp_path), "--out", out)
    assert "is prepared already: give another directory" in message


def test_configurations(tmp_path, capsys):
    recordings, out = sounds.folder(tmp_path / "recordings", 2), tmp_path / "out"

    def refused(config: str) -> str:
        path = tmp_path / "config.json"
        path.write_text(config)
        return error(capsys, "prepare", recordings, "--config", path, "--out", out)

    assert "config.json" in refused("{")
    assert "model_type is not 'barklite'" in refused("{}")
    small = sounds.config()
    assert "tokenizer is 'latin'" in refused(json.dumps(replace(small, tokenizer="latin").to_dict()))
    english = json.dumps(replace(small, tokenizer="english").to_dict())
    assert "tokenizer.model is missing: config.json needs the tokenizer 'english'" in refused(english)
    prepare.train_tokenizer(tmp_path / "tokenizer.model", ["abcdefghijkl"])
    more = replace(small.tokens, text_offset=260)
    assert "the model has 9 text ids" in refused(
        json.dumps(replace(small, tokens=more, tokenizer="english").to_dict())
    )
    (tmp_path / "config.json").write_text(english)
    assert run("prepare", recordings, "--config", tmp_path / "config.json", "--out", out) == 0
    assert (out / "tokenizer.model").read_bytes() == (tmp_path / "tokenizer.model").read_bytes()
    assert Corpus(out / "data").rows[0].samples == 4000  # at the configuration's rate


def test_texts_without_letters(tmp_path):
    with pytest.raises(ValueError, match="the texts have no English words"):
        prepare.train_tokenizer(tmp_path / "tokenizer.model", ["", " "])


def test_one_error_of_the_whole_program():
    done = subprocess.run(
        [sys.executable, "-m", "barklite.training", "fine", "--out", "/nowhere/at/all"],
        capture_output=True, text=True, timeout=100, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [f"barklite.training: {done.stderr.strip().partition(': ')[2]}"]


def test_the_built_in_voices_steps(tmp_path, monkeypatch, capsys):
    """`voice`, on another corpus and for a step each: what is there is kept."""
    spoken_texts = []

    def corpus(directory, lines, speakers, n_audio, frames_a_unit, frame, processes):
        spoken_texts.append((list(lines), n_audio, frames_a_unit, frame))
        rows = [sounds.row(i, 50) for i in range(4)]
        with prepare.Writer(directory) as writer:
            for part in rows:
                writer.add(part["text"], part["speaker"], np.resize(part["audio"], 16_000), part["semantic"])
        return 12

    monkeypatch.setattr(prepare, "write_corpus", corpus)
    monkeypatch.setattr(prepare, "training_texts", lambda *rest: ["abcdefghijkl", rest[4][0]])
    monkeypatch.setattr(recipe.Recipe, "size", (1, 2, 16))
    quick = {name: replace(kept, steps=1, batch_size=2) for name, kept in recipe.SETTINGS.items()}
    monkeypatch.setattr(steps, "SETTINGS", quick)
    command = ("voice", "--out", tmp_path / "out", "--device", "cpu")
    assert run(*command) == 0
    assert spoken_texts == [(["abcdefghijkl", texts.held_out()[0]], recipe.Recipe.n_audio, 6, 320)]
    codes = (tmp_path / "out" / "data" / "codes.json").stat().st_mtime_ns
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'checkpoint'}\n"
    assert "prepared for other recordings" in error(capsys, *command)
    (tmp_path / "out" / "data" / spoken.UNITS).write_text("[]")
    assert run(*command) == 0
    assert len(spoken_texts) == 1
    assert (tmp_path / "out" / "data" / "codes.json").stat().st_mtime_ns == codes
    bark = Bark.from_pretrained(tmp_path / "out" / "checkpoint", device="cpu", encoder=True)
    assert bark.config.codec.hop == 320
    assert spoken.CHUNK == 250

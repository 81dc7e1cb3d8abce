"""The training loop, what the token models are shown, and each model on a few seconds of sound."""

import json
import math
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from barklite import SamplingConfig, Voice, reference
from barklite.decode.engine import Engine
from barklite.decode.stages import CoarseStage, FineStage, SemanticStage
from barklite.models.fine import FineGPT
from barklite.models.gpt import GPT
from barklite.text.tokenizer import Bytes
from barklite.training import codec as codec_training
from barklite.training import loop, prepare, spoken, steps
from barklite.training.adversary import Adversary
from barklite.training.coarse import Coarse
from barklite.training.data import Writer
from barklite.training.examples import IGNORE, accuracy, initialise, prompt, validated
from barklite.training.fine import Fine, distances, expected_distance
from barklite.training.loop import Machine, Run, Settings, read_log, read_state
from barklite.training.quantizer import ResidualQuantizer
from barklite.training.recipe import SETTINGS, voice_config
from barklite.training.semantic import Guide, Semantic
from tests import sounds
from tests.comparing import same

CPU = Machine(torch.device("cpu"))
NAMES = ("semantic", "coarse", "fine", "decoder", "encoder")


def log_of(directory) -> list[dict]:
    """A log without what no two runs share."""
    return [{k: v for k, v in line.items() if k != "seconds_a_step"} for line in read_log(directory)]


def fresh(directory, settings: Settings | None = None, machine: Machine = CPU) -> Run:
    """A run of a coarse model that begins anew, or goes on."""
    model = GPT(sounds.config().coarse)
    initialise(model, 1)
    return Run(directory, model, settings or Settings(), machine)


def writer_in(directory) -> Writer:
    """Of a corpus in a prepared directory."""
    prepare.write_config(directory, sounds.config())
    return Writer(directory / "data")


def guess(model, rng):
    """A loss to fall: the ids follow one another."""
    ids = torch.from_numpy((np.arange(12) + rng.integers(8, size=(4, 1))) % 30)
    logits, loss = model(ids[:, :-1], targets=ids[:, 1:])
    return loss, {"accuracy": accuracy(logits, ids[:, 1:])}


# --- the loop -----------------------------------------------------------------------------------------------


def test_learning_rate():
    """It rises, stays, and falls to nothing, or nearly."""
    settings = Settings(steps=100, warmup=10, decay=0.5)
    factors = [settings.factor(step) for step in range(100)]
    assert factors[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert factors[9:51] == [1.0] * 42
    assert factors[51:99] == pytest.approx(np.arange(49, 1, -1) / 50)
    assert factors[99] == 0.02
    shorter = replace(settings, steps=80)  # may be decided on as long as the fall has not begun
    assert [shorter.factor(step) for step in range(41)] == factors[:41]


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch_size": -1}, {"save_every": 0}, {"log_every": 0}, {"warmup": 0},
              {"lr": -1.0}, {"muon_lr": math.inf}, {"lr": math.nan}, {"seed": -1}]
)  # fmt: skip
def test_settings_that_nothing_can_be_trained_with(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} is .*; it must be at least"):
        Settings(**wrong)


def test_rates_are_set_for_both_optimizers(tmp_path):
    run = fresh(tmp_path, Settings(steps=10, warmup=4, lr=0.1, muon_lr=0.2))
    run._set_rate()
    assert [group["lr"] for o in run.optimizers for group in o.param_groups] == [0.025, 0.05]
    run.step = 5
    run._set_rate()
    assert [group["lr"] for o in run.optimizers for group in o.param_groups] == [0.1, 0.2]


def test_muon_takes_the_matrices_within_blocks():
    model = FineGPT(sounds.config().fine)
    adam, muon = loop.optimizers(model, Settings())
    names = {id(p): name for name, p in model.named_parameters()}
    hidden = {names[id(p)] for p in muon.param_groups[0]["params"]}
    rest = {names[id(p)] for p in adam.param_groups[0]["params"]}
    assert hidden == {
        f"h.{i}.{part}.weight"
        for i in range(2)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert hidden | rest == set(names.values())
    assert not hidden & rest
    (alone,) = loop.optimizers(model, Settings(muon_lr=0))
    assert len(alone.param_groups[0]["params"]) == len(names)


def test_a_run_learns_logs_and_draws(tmp_path):
    settings = Settings(steps=30, warmup=5, log_every=5, save_every=12)
    run = fresh(tmp_path / "coarse", settings)
    run.train(guess, lambda model: {"loss": 7.0, "training": float(model.training)})
    lines = read_log(run.directory)
    assert [line["step"] for line in lines] == [5, 10, 12, 15, 20, 24, 25, 30]
    assert [line["step"] for line in lines if "validation_loss" in line] == [12, 24, 30]
    assert {line.get("validation_training", 0.0) for line in lines} == {0.0}
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[-1]["accuracy"] > lines[0]["accuracy"]
    assert all(line["seconds_a_step"] > 0 for line in lines)
    assert sorted(os.listdir(run.directory)) == ["last.pt", "log.jsonl", "loss.png"]
    assert (run.directory / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert run.model.training
    assert read_state(run.directory / "last.pt")["step"] == 30
    assert fresh(run.directory, settings).step == 30


def test_a_log_line_is_the_mean_since_the_last_one(tmp_path):
    """A number that only some steps have, as fine's accuracies, is the mean of those."""
    model = nn.Linear(1, 1)

    def loss(model, rng):
        step = len(seen)
        seen.append(step)
        return model(torch.ones(1, 1)).sum() * 0 + step, {
            "odd": torch.tensor(10.0 * step)
        } if step % 2 else {}

    seen = []
    Run(tmp_path, model, Settings(steps=7, log_every=3), CPU).train(loss)
    lines = [{k: line[k] for k in ("step", "loss", "odd") if k in line} for line in read_log(tmp_path)]
    assert lines == [
        {"step": 3, "loss": 1.0, "odd": 10.0},
        {"step": 6, "loss": 4.0, "odd": 40.0},
        {"step": 7, "loss": 6.0},
    ]


def test_a_step_that_overflows_is_left_out(tmp_path):
    def loss(model, rng):
        value, numbers = guess(model, rng)
        return (value * math.inf if run.step == 2 else value), numbers

    run = fresh(tmp_path, Settings(steps=4, warmup=1, log_every=2))
    run.train(loss)
    assert all(p.isfinite().all() for p in run.model.parameters())
    state = read_state(tmp_path / "last.pt")
    assert {int(kept["step"]) for kept in state["optimizers"][0]["state"].values()} == {3}
    assert not math.isfinite(read_log(tmp_path)[1]["loss"])


def test_a_run_that_only_overflows_says_so(tmp_path):
    def loss(model, rng):
        return guess(model, rng)[0] * math.nan, {}

    with pytest.raises(ValueError, match="gradients of 3 steps in a row are not finite: lower --lr"):
        fresh(tmp_path, Settings(steps=10, log_every=3)).train(loss)


def test_gradients_are_clipped(tmp_path):
    """Ten thousand times the loss, the same step."""
    weights = []
    for i, scale in enumerate((1e3, 1e7)):
        run = fresh(tmp_path / str(i), Settings(steps=1, warmup=1))
        run.train(lambda model, rng, scale=scale: (guess(model, rng)[0] * scale, {}))
        weights.append(run.model.state_dict())
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-5) for key in weights[0])


def test_each_step_and_each_process_draws_its_own_numbers():
    draws = {
        tuple(replace(CPU, rank=rank).rng(seed, step).integers(100, size=8))
        for rank in range(2) for seed in range(2) for step in range(2)
    }  # fmt: skip
    assert len(draws) == 8
    assert CPU.rng(3, 5).random() == CPU.rng(3, 5).random()


# --- going on -----------------------------------------------------------------------------------------------


def interrupted(monkeypatch, at: int) -> None:
    """The next run stops, as by Ctrl-C, in the step with this number."""
    draw = Machine.rng

    def rng(machine, seed, step):
        if step == at:
            monkeypatch.setattr(Machine, "rng", draw)
            raise KeyboardInterrupt
        return draw(machine, seed, step)

    monkeypatch.setattr(Machine, "rng", rng)


@pytest.mark.parametrize("name", NAMES)
def test_resuming_is_exact(name, tmp_path, monkeypatch):
    """Interrupted at step 5, with a state of step 3: weights, optimizers and log are those of one run."""
    monkeypatch.setattr(
        codec_training, "ADVERSARY_START", 2
    )  # the decoder's adversary is saved and read, too
    settings = Settings(steps=6, batch_size=2, warmup=2, log_every=2, save_every=3)
    for directory in (tmp_path / "once", tmp_path / "twice"):
        sounds.prepared(directory)
        steps.quantizer(directory, Settings(steps=2, batch_size=2), CPU)
    steps.train(tmp_path / "once", name, settings, CPU)
    interrupted(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        steps.train(tmp_path / "twice", name, settings, CPU)
    assert read_state(tmp_path / "twice" / name / "last.pt")["step"] == 3
    assert [line["step"] for line in read_log(tmp_path / "twice" / name)] == [2, 3, 4]
    steps.train(tmp_path / "twice", name, settings, CPU)
    once, twice = (read_state(tmp_path / part / name / "last.pt") for part in ("once", "twice"))
    assert same(once, twice)
    assert set(once["kept"]) == ({"adversary"} if name == "decoder" else set())
    assert log_of(tmp_path / "once" / name) == log_of(tmp_path / "twice" / name)
    assert len((tmp_path / "twice" / name / "log.jsonl").read_text().splitlines()) == 4


def test_a_stop_while_saving_leaves_a_whole_state(tmp_path, monkeypatch):
    settings = Settings(steps=4, log_every=2, save_every=2)
    fresh(tmp_path / "once", settings).train(guess)
    save = torch.save

    def stopped(state, file):
        if state["step"] == 2:
            return save(state, file)
        file.write(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            fresh(tmp_path / "twice", settings).train(guess)
    assert sorted(os.listdir(tmp_path / "twice")) == ["last.pt", "log.jsonl", "loss.png"]
    assert [line["step"] for line in read_log(tmp_path / "twice")] == [2, 4]
    run = fresh(tmp_path / "twice", settings)
    assert run.step == 2
    assert [line["step"] for line in read_log(tmp_path / "twice")] == [2]  # what will be computed again
    run.train(guess)
    assert same(*(read_state(tmp_path / part / "last.pt") for part in ("once", "twice")))
    assert log_of(tmp_path / "once") == log_of(tmp_path / "twice")


def test_a_line_that_was_cut_off(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 2, "loss": 1.5}\n{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]
    loop.trim_log(tmp_path, 1)
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "loss": 2.0}\n'
    assert read_log(tmp_path / "nowhere") == []


def test_states_that_do_not_fit(tmp_path):
    fresh(tmp_path, Settings(steps=1)).train(guess)
    with pytest.raises(ValueError, match=r"last.pt was trained with other optimizers: .*--muon-lr"):
        fresh(tmp_path, Settings(muon_lr=0))
    with pytest.raises(ValueError, match=r"last.pt is another model's state: .*FineGPT"):
        Run(tmp_path, FineGPT(sounds.config().fine), Settings(), CPU)
    path = tmp_path / "last.pt"
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[: len(whole) // 2], b"", b"not at all"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"last.pt is damaged .*: remove it to start over"):
            fresh(tmp_path)
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match=r"last.pt is not the state of a training run"):
        fresh(tmp_path)


def test_a_finished_run_stays_as_it_is(tmp_path):
    fresh(tmp_path, Settings(steps=2)).train(guess)
    before = (tmp_path / "last.pt").read_bytes()
    fresh(tmp_path, Settings(steps=1)).train(guess)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_without_matplotlib_there_is_no_plot(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    fresh(tmp_path, Settings(steps=1)).train(guess)
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "log.jsonl"]


@pytest.mark.parametrize(
    "options, message",
    [
        (("gpu", None), "device 'gpu' cannot be used here"),
        (("cpu", "float16"), "dtype is 'float16'; training computes in float32 or bfloat16"),
    ],
)
def test_machines_that_are_not_there(options, message):
    with pytest.raises(ValueError, match=message), loop.machine(*options):
        pass


def test_each_process_has_the_gpu_of_its_own_number(monkeypatch):
    for name, value in {"LOCAL_RANK": "3", "RANK": "3", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    asked = []

    def pick(device):
        asked.append(device)
        raise ValueError("asked")

    monkeypatch.setattr(loop, "pick_device", pick)
    for device in ("cuda", "cuda:0", "cpu"):
        with pytest.raises(ValueError, match="asked"), loop.machine(device, None):
            pass
    assert asked == ["cuda:3", "cuda:3", "cpu"]


def test_codecs_train_in_float32_on_a_gpu(tmp_path, monkeypatch):
    """There autocast gives cuDNN's LSTM float16, whatever is asked for. Run without a GPU: who gets what."""
    sounds.prepared(tmp_path)
    asked = []

    def run_of(directory, name, settings, machine, init):
        asked.append((name, machine.device.type, machine.dtype))
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "run_of", run_of)
    for kind in ("cuda", "cpu"):
        for name in NAMES:
            with pytest.raises(KeyboardInterrupt):
                steps.train(tmp_path, name, Settings(), Machine(torch.device(kind), torch.bfloat16))
    in_float32 = {(name, kind) for name, kind, dtype in asked if dtype is None}
    assert in_float32 == {("decoder", "cuda"), ("encoder", "cuda")}
    assert len(asked) == 10


def test_arithmetic_in_bfloat16(tmp_path):
    dtypes = []

    def loss(model, rng):
        dtypes.append(model(torch.zeros(1, 2, dtype=torch.long))[0].dtype)
        return guess(model, rng)

    for dtype in ("float32", "bfloat16"):
        with loop.machine("cpu", dtype) as here:
            run = fresh(tmp_path / dtype, Settings(steps=1), here)
            run.train(loss)
        assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert dtypes == [torch.float32, torch.bfloat16]


# --- each model ---------------------------------------------------------------------------------------------

QUICK = {
    "semantic": Settings(steps=40, batch_size=8, warmup=4, log_every=10),
    "coarse": Settings(steps=40, batch_size=8, warmup=4, log_every=10),
    "fine": Settings(steps=40, batch_size=8, warmup=4, log_every=10),
    "decoder": Settings(steps=24, batch_size=4, lr=5e-3, muon_lr=0, warmup=4, log_every=8),
    "encoder": Settings(steps=24, batch_size=4, lr=5e-3, muon_lr=0, warmup=4, log_every=8),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A prepared directory whose codes are the quantiser's."""
    directory = tmp_path_factory.mktemp("corpus")
    sounds.prepared(directory)
    steps.quantizer(directory, Settings(steps=20, batch_size=200, log_every=10), CPU)
    steps.extract(directory, CPU)
    return directory


def test_quantizer(corpus):
    lines = (corpus / "quantizer" / "log.txt").read_text().splitlines()
    errors = [json.loads(line[line.index("[") : line.index("]") + 1]) for line in lines]
    assert [line.split()[0] for line in lines] == ["0", "10", "19"]
    assert all(len(error) == 4 for error in errors)
    assert errors[-1][1] < errors[0][1]  # the first is of the pitch alone
    assert errors[-1] == sorted(errors[-1], reverse=True)
    data, config = prepare.corpus_of(corpus), prepare.read_config(corpus)
    codes = data.codes()
    assert [part.shape for part in codes] == [(4, row.samples // 80) for row in data.rows]
    model, ours = steps.codebooks(corpus, config, CPU)
    assert ours
    latents = codec_training.latents_of(data, 3, config.codec, CPU)
    assert torch.equal(torch.from_numpy(codes[3]), model.encode(latents.T))
    left = latents - codec_training.embedded(torch.from_numpy(codes[3])[None], model.codebooks)[0]
    assert left.square().mean() < 0.3 * (latents - latents.mean(1, keepdim=True)).square().mean()


@pytest.mark.parametrize("name", NAMES)
def test_loss_falls(name, corpus):
    steps.train(corpus, name, QUICK[name], CPU)
    lines = read_log(corpus / name)
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    expected = {
        "semantic": {"loss", "accuracy", "guide", "validation_loss", "validation_accuracy"},
        "coarse": {"loss", "accuracy_0", "accuracy_1", "validation_loss", "validation_accuracy_0",
                   "validation_accuracy_1"},
        "fine": {"loss", "distance", "accuracy_2", "accuracy_3", "validation_loss", "validation_distance",
                 "validation_accuracy_2", "validation_accuracy_3"},
        "decoder": {"loss", "spectral", "waveform", "validation_spectral_2", "validation_spectral_4"},
        "encoder": {"loss", "validation_loss"},
    }  # fmt: skip
    assert lines[-1].keys() - {"step", "seconds_a_step"} == expected[name]
    assert name != "semantic" or lines[-1]["guide"] < lines[0]["guide"]
    assert (corpus / name / "loss.png").is_file()


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_falls_on_a_gpu(name, dtype, tmp_path):
    sounds.prepared(tmp_path)
    with loop.machine("cuda", dtype) as here:
        steps.quantizer(tmp_path, Settings(steps=5, batch_size=100), here)
        steps.extract(tmp_path, here)
        steps.train(tmp_path, name, replace(QUICK[name], save_every=20), here)
        again = steps.run_of(tmp_path, name, QUICK[name], here)
    lines = read_log(tmp_path / name)
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    assert again.step == QUICK[name].steps
    assert {p.device.type for p in again.model.parameters()} == {"cuda"}


@pytest.mark.parametrize("n", [1, 3])
def test_a_small_corpus(n, tmp_path):
    """Of one row, which has no validation; of fewer than a batch."""
    sounds.prepared(tmp_path, n)
    steps.quantizer(tmp_path, Settings(steps=2, batch_size=4), CPU)
    steps.extract(tmp_path, CPU)
    for name in NAMES:
        steps.train(tmp_path, name, Settings(steps=1, batch_size=4), CPU)
        (line,) = read_log(tmp_path / name)
        assert any(key.startswith("validation") for key in line) == (n > 1)


def test_validation_rows_too_short_to_cut_from(tmp_path):
    """The first row, which is kept for validation, may be shorter than a decoder's example."""
    with writer_in(tmp_path) as writer:
        writer.add(**sounds.row(0, 20))
        writer.add(**sounds.row(1, 41))
    steps.quantizer(tmp_path, Settings(steps=2, batch_size=2), CPU)
    steps.extract(tmp_path, CPU)
    for name in ("decoder", "encoder"):
        steps.train(tmp_path, name, Settings(steps=1, batch_size=2), CPU)
        assert set(read_log(tmp_path / name)[0]) & {"validation_loss", "validation_spectral_2"} == set()


def test_texts_that_are_too_long_are_said_to_be(tmp_path):
    with writer_in(tmp_path) as writer:
        for _ in range(2):
            writer.add("x" * 17, semantic=np.zeros(9, int))
    with pytest.raises(ValueError, match="rows with semantic tokens, at most 80, and at most 16 text ids"):
        Semantic(prepare.corpus_of(tmp_path), sounds.config(), Bytes())


@pytest.mark.parametrize(
    "name, parts, message",
    [
        ("quantizer", ("text", "semantic"), "no recordings to train on"),
        ("decoder", ("text", "semantic"), "no recordings of at least 40 frames to train on"),
        ("encoder", ("text", "semantic"), "no recordings of at least 40 frames"),
        ("semantic", ("text", "audio"), "no rows with semantic tokens to train on"),
        ("coarse", ("text", "audio"), "no rows with both semantic tokens and sound"),
        ("fine", ("text", "semantic"), "no rows with sound"),
    ],
)
def test_a_corpus_that_lacks_what_a_model_learns_from(name, parts, message, tmp_path):
    with writer_in(tmp_path) as writer:
        for i in range(3):
            writer.add(**{key: value for key, value in sounds.row(i).items() if key in parts})
    corpus = prepare.corpus_of(tmp_path)
    corpus.write_codes(iter([np.zeros((4, row.samples // 80), int) for row in corpus.rows]), 4)
    if name != "quantizer":
        codec_training.write_quantizer(tmp_path / "quantizer", trained())
    with pytest.raises(ValueError, match=message):
        step(tmp_path, name)


def step(directory, name: str) -> None:
    if name == "quantizer":
        steps.quantizer(directory, Settings(), CPU)
    else:
        steps.train(directory, name, Settings(steps=1), CPU)


def trained() -> ResidualQuantizer:
    quantizer = ResidualQuantizer(4, 8, 11, 3)
    quantizer.learn(torch.randn(50, 11), torch.Generator().manual_seed(0))
    return quantizer


def test_what_a_codec_that_is_trained_here_must_be(tmp_path):
    corpus = sounds.prepared(tmp_path)
    odd = replace(sounds.config().codec, dimension=8)
    with pytest.raises(ValueError, match="must be multiples of 2"):
        codec_training.train_quantizer(corpus, odd, tmp_path / "quantizer", Settings(), CPU)


def test_crops():
    """Each place that holds an example is equally likely."""
    corpus = SimpleNamespace(rows=[SimpleNamespace(samples=80 * n + 79) for n in (10, 13, 30)])
    places = codec_training.crops(corpus, [0, 1], 80, 4000, 10, np.random.default_rng(0))
    counts = np.bincount([t if i else 4 for i, t in places])  # row 0 has but one place
    assert {t for i, t in places if i == 0} == {0}
    assert {t for i, t in places if i == 1} == {0, 1, 2, 3}
    assert (abs(counts - 800) < 120).all()


def test_the_adversary_tells_tones_from_noise():
    adversary = Adversary(Settings(), torch.device("cpu"))
    adversary.optimizer.param_groups[0]["lr"] = 3e-4  # three times as fast as in training
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(3200) / 16_000
    told = []
    for _ in range(25):
        noise = 0.1 * torch.randn(4, 3200, generator=generator)
        hertz = 500 + 4000 * torch.rand(4, 1, generator=generator)
        tones = 0.14 * torch.sin(2 * torch.pi * hertz * t)
        told.append(float(adversary.learn(tones, noise)))
    assert told[0] > 1.8  # of 2, where nothing is known
    assert told[-1] < 0.7 * told[0]
    fooled, features = adversary.losses(tones, noise)
    assert fooled > adversary.losses(noise, noise)[0]  # tones have further to go
    assert adversary.losses(noise, noise)[1] == 0 < features
    audio = tones.clone().requires_grad_()
    sum(adversary.losses(audio, noise)).backward()
    assert audio.grad.abs().sum() > 0
    assert all(p.grad is None or not p.requires_grad for p in adversary.parts.parameters())


def test_the_decoder_meets_its_adversary_late(tmp_path, monkeypatch):
    """Before, it must have something to show; then the log has the adversary's numbers."""
    monkeypatch.setattr(codec_training, "ADVERSARY_START", 3)
    sounds.prepared(tmp_path)
    steps.quantizer(tmp_path, Settings(steps=2, batch_size=50), CPU)
    steps.train(tmp_path, "decoder", Settings(steps=4, batch_size=2, log_every=1), CPU)
    keys = [line.keys() & {"adversary", "fooled", "features"} for line in read_log(tmp_path / "decoder")]
    assert [len(some) for some in keys] == [0, 0, 0, 3]


def test_dropout_of_codebooks(corpus):
    """The decoder hears the coarse codebooks at least, and mostly no others."""
    seen = []

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1))

        def forward(self, z):
            seen.append(z.detach())
            return (self.gain * z).mean(1, keepdim=True).repeat_interleave(80, 2)

    data, config = prepare.corpus_of(corpus), prepare.read_config(corpus)
    run = Run(corpus / "recorder", Recorder(), Settings(steps=60, batch_size=1), CPU)
    model, _ = steps.codebooks(corpus, config, CPU)
    codec_training.train_decoder(data, config, run, model)
    assert {tuple(z.shape) for z in seen[:60]} == {(1, 11, 40)}
    counts = dict.fromkeys((2, 3, 4), 0)
    codes = [torch.from_numpy(part)[None] for part in data.codes()]
    for z in seen[:60]:
        for K in counts:
            whole = [codec_training.embedded(part[:, :K], model.codebooks) for part in codes]
            found = any(torch.equal(z, w[..., t : t + 40]) for w in whole for t in range(w.shape[2] - 39))
            counts[K] += found
    assert sum(counts.values()) == 60
    assert min(counts.values()) >= 3
    assert 34 <= counts[2] <= 54


# --- what the models are shown ------------------------------------------------------------------------------


class Chosen:
    """Random numbers that are none: `integers` gives `window`, `random` 1 (no prompt, no noise)."""

    def __init__(self, window: int):
        self.window = window

    def integers(self, *_, **__) -> int:
        return self.window


def test_semantic_examples_are_generations_prompts(tmp_path, monkeypatch):
    corpus, config = sounds.prepared(tmp_path), sounds.config()
    semantic, ids = Semantic(corpus, config, Bytes()), config.tokens
    texts = {tuple(corpus.semantic(i)): corpus.rows[i].text for i in range(len(corpus))}
    monkeypatch.setattr("barklite.training.semantic.JOINED", 1)
    for prompted in (0.0, 1.0):
        monkeypatch.setattr("barklite.training.examples.PROMPTED", prompted)
        text, history, rest, targets, spans = semantic.batch("train", 5, np.random.default_rng(0))
        assert text.shape == history.shape == (5, 16)
        assert rest.shape == targets.shape == spans.shape[:2]
        for b in range(5):
            N = int((targets[b] != IGNORE).sum()) - 1
            answer = rest[b, 1 : N + 1]
            voice = None
            if prompted:
                (voice,) = (
                    SimpleNamespace(semantic=corpus.semantic(i))
                    for i in corpus.split("train")
                    if np.array_equal(corpus.semantic(i)[-16:], history[b].numpy())
                )
            spoken = texts[tuple(answer.tolist())]
            halves = reference.semantic_prompt(list(spoken.encode()), voice, ids)
            expected = [*halves[0], *halves[1], ids.semantic_infer]
            assert torch.cat((text[b], history[b], rest[b, :1])).tolist() == expected
            assert targets[b, : N + 1].tolist() == [*answer.tolist(), ids.semantic_eos]
            assert (targets[b, N + 1 :] == IGNORE).all()
            given = next(i for i in corpus.split("train") if corpus.rows[i].text == spoken)
            assert np.array_equal(spans[b, :N], corpus.spans(given))
            assert (spans[b, N:] == -1).all()


@torch.no_grad()
def test_semantic_loss_is_of_what_generation_computes(tmp_path, monkeypatch):
    monkeypatch.setattr("barklite.training.semantic.JOINED", 1)
    corpus, config = sounds.prepared(tmp_path), sounds.config()
    model = GPT(config.semantic)
    initialise(model, 0)
    model.h[0].attn.c_proj.weight.normal_()
    semantic = Semantic(corpus, config, Bytes())
    batch = semantic.batch("train", 4, np.random.default_rng(1))
    loss, logits, targets = semantic.loss(model, batch)
    assert torch.equal(targets, batch[3])
    assert logits.shape == (*targets.shape, 13)
    by_hand = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    assert torch.isclose(loss, by_hand)
    for b in range(4):
        text = bytes((batch[0][b][batch[0][b] < 269] - 13).tolist())
        history = batch[1][b][batch[1][b] < 12]
        voice = SimpleNamespace(semantic=history.numpy()) if len(history) else None
        stage = SemanticStage(model, config.generation, config.tokens)
        start = stage.start(list(text), voice, torch.Generator())
        first, _ = model(embeds=torch.cat((start.prompt, model.wte(torch.tensor([start.last]))))[None])
        assert torch.allclose(first[0, -1], logits[b, 0], atol=1e-5)


def test_rows_that_do_not_fit_the_semantic_model(tmp_path, capsys):
    with writer_in(tmp_path) as writer:
        writer.add("first", semantic=np.zeros(9, int))  # for validation
        writer.add("x" * 16, semantic=np.zeros(80, int))
        writer.add("x" * 17, semantic=np.zeros(9, int))
        writer.add("x", semantic=np.zeros(81, int))
        writer.add("", semantic=np.zeros(9, int))
    semantic = Semantic(prepare.corpus_of(tmp_path), sounds.config(), Bytes())
    assert semantic.rows == {"train": [1], "validation": [0]}
    steps.train(tmp_path, "semantic", Settings(steps=1, batch_size=2), CPU)  # the longest one fits
    assert "3 of 5 rows do not fit the model: left out" in capsys.readouterr().err


def test_utterances_of_a_speaker_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr("barklite.training.examples.PROMPTED", 1.0)
    with writer_in(tmp_path) as writer:
        for i in range(12):
            semantic = np.full(3 + i % 5, i)
            spans = np.full((len(semantic), 2), (0, 1))
            writer.add(f"{chr(97 + i)}{'?' if i % 3 else 'x'}", "ab"[i % 2], semantic=semantic, spans=spans)
    corpus = prepare.corpus_of(tmp_path)
    semantic, rng = Semantic(corpus, sounds.config(), Bytes()), np.random.default_rng(0)
    rows = {corpus.rows[i].text: i for i in semantic.rows["train"]}
    counts = []
    for _ in range(60):
        batch = [part.numpy() for part in semantic.batch("train", 12, rng)]
        counts.append(len(batch[0]))
        for text, history, rest, targets, spans in zip(*batch, strict=True):
            said = bytes((text[text < 269] - 13).tolist()).decode()
            group = [rows[part] for part in re.findall(r"\w[x?]", said)]
            assert said == "".join(
                f"{corpus.rows[i].text}{'' if i == group[-1] else ' ' if i % 3 else '. '}" for i in group
            )
            assert 1 <= len(group) == len(set(group)) <= 12 // len(batch[0])
            assert len({corpus.rows[i].speaker for i in group}) == 1
            expected = np.concatenate([corpus.semantic(i) for i in group])
            N = len(expected)
            assert targets[: N + 1].tolist() == [*expected, 12]
            assert rest[1 : N + 1].tolist() == expected.tolist()
            first = [said.index(corpus.rows[i].text) for i in group for _ in range(corpus.rows[i].semantic)]
            assert spans[:N].tolist() == [[at, at + 1] for at in first]
            assert (spans[N:] == -1).all()
            heard = {int(history[0])} - {12}
            assert not heard & set(group)
    assert set(counts) == {12, 6, 4}
    assert {len(one[0]) for one in (semantic.batch("validation", 12, rng) for _ in range(9))} == {12}


def test_a_pause_stands_between_joined_utterances(tmp_path):
    """It replaces the silence at their ends, and belongs to the last id of the left one."""
    with writer_in(tmp_path) as writer:
        for semantic in ([3, 4, 1, 2, 9, 3], [4, 4, 2, 3, 4, 5, 8], [3, 4, 5], [1, 2], [3, 6, 7]):
            writer.add("ab", semantic=np.array(semantic), spans=np.full((len(semantic), 2), (0, 1)))
    corpus, pause = prepare.corpus_of(tmp_path), [3, 4, 5, 5]
    semantic = Semantic(corpus, sounds.config(), Bytes(), pause)
    for group, expected in {
        (0,): [3, 4, 1, 2, 9, 3],
        (0, 1): [3, 4, 1, 2, 9, *pause, 2, 3, 4, 5, 8],
        (3, 4, 0): [1, 2, *pause, 6, 7, *pause, 1, 2, 9, 3],
        (0, 2, 3): [3, 4, 1, 2, 9, *pause, 1, 2],
        (2, 3): [*pause, 1, 2],
    }.items():
        starts = [4 * k for k in range(len(group))]
        said, spans = semantic.said(list(group), starts)
        assert said.tolist() == expected
        assert spans.shape == (len(expected), 2)
        firsts = spans[:, 0].tolist()
        assert firsts == sorted(firsts)
        assert (spans[:, 1] - spans[:, 0] == 1).all()
        ends = [k for k in range(1, len(firsts)) if firsts[k] != firsts[k - 1]]
        if group == (3, 4, 0):
            assert ends == [6, 12]
    rest = Semantic(corpus, sounds.config(), Bytes())
    assert rest.said([0, 3], [0, 4])[0].tolist() == [3, 4, 1, 2, 9, 3, 1, 2]
    assert rest.said([0, 3], [0, 4])[1][:, 0].tolist() == [0] * 6 + [4] * 2


def test_beginnings_are_learned_twice_as_likely(tmp_path):
    """The loss sees the model's logits of these tokens log 2 lower, so they are learned as much higher."""
    corpus, config = sounds.prepared(tmp_path), sounds.config()
    model = GPT(config.semantic)
    plain, adjusted = (Semantic(corpus, config, Bytes(), (), ids) for ids in ((), range(0, 12, 3)))
    batch = plain.batch("train", 3, np.random.default_rng(0))
    loss, logits, targets = adjusted.loss(model, batch)
    raw = plain.loss(model, batch)[1]
    by_hand = raw.clone()
    by_hand[..., [0, 3, 6, 9]] -= np.log(2)
    torch.testing.assert_close(logits, by_hand)
    by_hand = nn.functional.cross_entropy(by_hand.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    torch.testing.assert_close(loss, by_hand)


def test_the_command_passes_what_the_units_say(tmp_path, monkeypatch):
    sounds.prepared(tmp_path)
    (tmp_path / "data" / spoken.UNITS).write_text('["pau", "t"]', encoding="utf-8")
    made = []

    class Kept(Semantic):
        def train(self, run):
            made.append(self)

    monkeypatch.setattr(steps, "Semantic", Kept)
    steps.train(tmp_path, "semantic", Settings(steps=1), CPU)
    assert list(made[0].pause) == [0, 1, 2, 3, 4] + [5] * 9
    assert list(made[0].beginnings) == [0, 6]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ("[", "units.json is damaged: Expecting value"),
        ('{"pau": 0}', "units.json is damaged: it is not a list of names"),
        ('["pau", "t", "s"]', "has 3 units: too many for config.json's semantic_vocab_size, 12"),
    ],
)
def test_units_that_cannot_be(units, message, tmp_path):
    sounds.prepared(tmp_path)
    (tmp_path / "data" / spoken.UNITS).write_text(units, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        steps.train(tmp_path, "semantic", Settings(steps=1), CPU)


def test_the_pause_is_the_built_in_voice_s(tmp_path):
    """Of another corpus's tokens nothing is known."""
    assert spoken.pause(tmp_path, 6) == []
    assert list(spoken.beginnings(tmp_path, 6)) == []
    (tmp_path / spoken.UNITS).write_text('["aa+1"]', encoding="utf-8")
    assert spoken.pause(tmp_path, 6) == []
    (tmp_path / spoken.UNITS).write_text('["aa+1", "pau"]', encoding="utf-8")
    assert list(spoken.beginnings(tmp_path, 6)) == [0, 6]
    assert spoken.pause(tmp_path, 6) == [6, 7, 8, 9, 10] + [11] * 9


def test_a_batch_holds_rows_of_about_one_length(tmp_path, monkeypatch):
    monkeypatch.setattr("barklite.training.semantic.JOINED", 1)
    with writer_in(tmp_path) as writer:
        for i in range(79):
            writer.add("x", semantic=np.full(i + 1, 1))
    semantic = Semantic(prepare.corpus_of(tmp_path), sounds.config(), Bytes())
    widths = []
    for seed in range(40):
        targets = semantic.batch("train", 2, np.random.default_rng(seed))[3]
        lengths = (targets != IGNORE).sum(1)
        assert lengths.max() - lengths.min() <= 17  # 16 rows, and one between them that is for validation
        widths.append(int(lengths.max()))
    assert min(widths) < 25
    assert max(widths) > 55


def uneven(directory, tokens_config):
    corpus = sounds.prepared(directory, 5, 40, tokens_config)
    return corpus, sounds.config(tokens_config)


def coarse_requests(model, corpus, config, i: int, voice):
    """What generation of row i reads and answers in each window, given the true codes."""
    stage = CoarseStage(model, config.generation, config.tokens, reuse_cache=False)
    answer = Coarse(corpus, config).ids(i).tolist()
    sequence = stage.start(torch.from_numpy(corpus.semantic(i)), voice, torch.Generator())
    while sequence.remaining:
        part = answer[len(sequence.tokens) :][: sequence.remaining]
        yield [*sequence.prompt.tolist(), sequence.last, *part]
        sequence.tokens += part
        stage.advance(sequence)


@pytest.mark.parametrize("ids", [sounds.SMALL, sounds.UNEVEN], ids=["even", "suno"])
def test_coarse_examples_are_generations_prompts(ids, tmp_path):
    """Every window of a row: what generation would ask for if it had drawn the true codes so far."""
    corpus, config = uneven(tmp_path, ids)
    coarse, model = Coarse(corpus, config), GPT(config.coarse)
    for i in (1, 4):
        answer = coarse.ids(i).tolist()
        assert torch.equal(
            reference.coarse_codes(torch.tensor(answer), ids), torch.from_numpy(corpus.codes()[i][:2])
        )
        windows = -(-len(answer) // 12)
        assert windows > 3
        asked = list(coarse_requests(model, corpus, config, i, None))
        assert len(asked) == windows
        for window, expected in enumerate(asked):
            assert coarse.example(i, None, Chosen(window)) == expected


@pytest.mark.parametrize("ids", [sounds.SMALL, sounds.UNEVEN], ids=["even", "suno"])
def test_coarse_examples_with_a_voice(ids, tmp_path):
    """As generation asks after another row as its voice."""
    corpus, config = uneven(tmp_path, ids)
    coarse, model = Coarse(corpus, config), GPT(config.coarse)
    i, j = 1, 3
    voice = prompt(corpus.semantic(j), corpus.codes()[j], ids)
    asked = list(coarse_requests(model, corpus, config, i, voice))
    assert len(asked) >= 4
    for window, expected in enumerate(asked):
        assert coarse.example(i, j, Chosen(window)) == expected


def test_a_row_too_short_for_a_voice(tmp_path):
    with writer_in(tmp_path) as writer:
        for n in (40, 40, 1):
            writer.add("x", audio=np.zeros(80 * n), semantic=np.zeros(n, int))
    corpus = prepare.corpus_of(tmp_path)
    corpus.write_codes(iter([np.full((4, 40), 5)] * 2 + [np.zeros((4, 0), int)]), 4)
    coarse = Coarse(corpus, sounds.config())
    assert coarse.example(1, 2, Chosen(1)) == coarse.example(1, None, Chosen(1))


def test_coarse_batches(tmp_path):
    corpus, config = uneven(tmp_path, sounds.SMALL)
    coarse, ids = Coarse(corpus, config), config.tokens
    inputs, targets = coarse.batch("train", 64, np.random.default_rng(0), noise=0.0)
    assert inputs.shape == targets.shape
    assert inputs.shape[1] <= 16 + 24 + 12
    assert (targets[:, :16] == IGNORE).all()
    assert (inputs[:, 16] == ids.coarse_infer).all()
    there = targets != IGNORE
    assert torch.equal(
        inputs[:, 17:][there[:, 17:]], targets[:, 16:-1][there[:, 17:]]
    )  # each the next one's input
    assert (inputs[:, 17:][~there[:, 17:]] == ids.coarse_pad).all()
    book = (torch.arange(targets.shape[1] - 16) % 2).expand(64, -1)
    assert torch.equal(((targets[:, 16:] - 12) // 8)[there[:, 16:]], book[there[:, 16:]])
    noisy, same_targets = coarse.batch("train", 64, np.random.default_rng(0), noise=1.0)
    _, clean = coarse.batch("train", 64, np.random.default_rng(0), noise=1e-9)
    assert torch.equal(same_targets, clean)  # noise is never a target
    history, wanted = noisy[:, 17:][there[:, 17:]], same_targets[:, 16:-1][there[:, 17:]]
    assert ((history - 12) // 8 == (wanted - 12) // 8).all()  # of the codebook whose turn it is
    assert 0.6 < (history != wanted).float().mean() < 0.8  # 80 % of the rows, 7 of 8 codes
    assert torch.equal(noisy[:, :17], inputs[:, :17]) or noisy.shape != inputs.shape


def test_coarse_rows_count_by_their_length(tmp_path):
    corpus, config = uneven(tmp_path, sounds.SMALL)
    coarse = Coarse(corpus, config)
    assert coarse.rows == {"train": [1, 2, 3, 4], "validation": [0]}
    frames = np.array([43, 46, 49, 52])
    assert coarse.weights["train"] == pytest.approx(frames / frames.sum())


def test_codes_shorter_than_the_semantic_tokens_say(tmp_path):
    """Recordings end within a frame: the codes that there are count."""
    with writer_in(tmp_path) as writer:
        for i in range(2):
            part = sounds.row(i, 40)
            writer.add(part["text"], audio=part["audio"][: 80 * 31], semantic=part["semantic"])
    corpus = prepare.corpus_of(tmp_path)
    corpus.write_codes(iter([np.full((4, 31), 5)] * 2), 4)
    coarse = Coarse(corpus, sounds.config())
    windows = {len(coarse.example(1, None, Chosen(window))) for window in range(6)}
    assert coarse.example(1, None, Chosen(5))[17:] == [17, 25] * 12 + [17, 25]  # 62 ids: 24, and the last 2
    assert max(windows) == 17 + 24 + 12


def test_expected_distance_of_fine_codes():
    books = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    between = distances(books)
    squares = [[float((books[1][i] - books[1][j]).square().sum()) for j in range(4)] for i in range(4)]
    mean = sum(map(sum, squares)) / 16
    assert torch.allclose(between[1], torch.tensor(squares) / mean, atol=1e-5)
    assert torch.allclose(between.mean((1, 2)), torch.ones(2))
    targets = torch.tensor([[2, IGNORE, 0]])
    sure = torch.full((1, 3, 5), -100.0)
    sure[0, 0, 3] = sure[0, 1, 1] = sure[0, 2, 2] = 0.0
    sure[..., 4] = 1000.0  # the padding id, which is no code
    wanted = (between[1][2, 3] + between[1][0, 2]) / 2
    assert torch.isclose(expected_distance(sure, targets, between[1]), wanted)
    unsure = expected_distance(torch.zeros(1, 3, 5), targets, between[1])
    assert torch.isclose(unsure, (between[1][2].mean() + between[1][0].mean()) / 2)
    assert expected_distance(sure.roll(1, 2), targets, torch.zeros(4, 4)) == 0


def fine_requests(corpus, config, i: int, j: int | None) -> list[tuple[int, int, torch.Tensor]]:
    """What generation of row i after row j asks for: (codebook, first row, window), given the true codes."""
    ids, codes = config.tokens, corpus.codes()
    voice = None if j is None else Voice(corpus.semantic(j), codes[j][:2], codes[j], tokens=ids)
    before = np.zeros((4, 0), int) if j is None else codes[j][:, -ids.max_fine_history :]
    whole = torch.from_numpy(np.concatenate((before, codes[i], np.zeros((4, 99), int)), 1))
    windows = iter(reference.fine_windows(codes[i].shape[1], before.shape[1], ids))
    found = []

    class Teacher(Engine):
        """Answers with the true codes."""

        def fine_logits(self, model, codebook, codes, rows, vocab):
            self.start = next(windows)[0] if codebook == 2 else self.start
            found.append((codebook, rows.start, codes[0].clone()))
            answer = whole[codebook, self.start + rows.start : self.start + rows.stop]
            return torch.nn.functional.one_hot(answer, 8).float()[None]

    stage = FineStage(FineGPT(config.fine), replace(config.generation, fine=SamplingConfig(0)), ids)
    stage.run([stage.start(torch.from_numpy(codes[i][:2]), voice, torch.Generator())], Teacher())
    return found


@pytest.mark.parametrize("frames", [12, 40], ids=["short", "long"])
@pytest.mark.parametrize("prompted", [0.0, 1.0], ids=["alone", "prompted"])
def test_fine_examples_are_generations_windows(prompted, frames, tmp_path, monkeypatch):
    """Any window of a row, given its true codes so far; where windows overlap, half of them are others."""
    monkeypatch.setattr("barklite.training.examples.PROMPTED", prompted)
    corpus, config = sounds.prepared(tmp_path, 5, frames), sounds.config()
    fine, ids = Fine(corpus, config), config.tokens
    pairs = [(i, None) for i in (1, 2, 3, 4)]  # without, too, where a row itself would be its prompt
    pairs += [(1, 3), (2, 4), (3, 1), (4, 2)] if prompted else []
    asked = [(i, *request) for i, j in pairs for request in fine_requests(corpus, config, i, j)]
    seen, again = set(), []
    for codebook in (2, 3):
        for window, target in zip(*fine.batch("train", 90, codebook, np.random.default_rng(0)), strict=True):
            known, end = int((target != IGNORE).nonzero()[0]), int((target != IGNORE).nonzero()[-1]) + 1
            (n,) = (
                n
                for n, (i, book, start, theirs) in enumerate(asked)
                if book == codebook
                and start == known
                and torch.equal(theirs[:codebook, :end], window[:codebook, :end])
                and target[known:end].tolist() in windows_of(corpus.codes()[i][codebook], end - known)
            )
            seen.add(n)
            theirs = asked[n][-1][codebook]
            assert torch.equal(theirs[:known], window[codebook, :known])
            overlap = (theirs != ids.fine_pad) & (torch.arange(32) >= known)
            assert torch.equal(theirs[overlap], target[overlap])
            assert torch.equal(window[codebook, known:] != ids.fine_pad, overlap[known:])
            again += (window[codebook][overlap] == target[overlap]).tolist()
            assert (window[:2, end:] == ids.fine_pad).all()
            assert (window[2:codebook, end:] < 8).all()  # drawn, as generation would
    assert len(seen) == len(asked)
    if frames == 40:
        assert 0.5 < np.mean(again) < 0.62  # half, and one in eight of the others


def windows_of(codes: np.ndarray, n: int) -> list[list[int]]:
    return np.lib.stride_tricks.sliding_window_view(codes, n).tolist()


def test_prompts_are_of_the_same_speaker(tmp_path, monkeypatch):
    monkeypatch.setattr("barklite.training.semantic.JOINED", 1)
    corpus, config = uneven(tmp_path, sounds.SMALL)
    coarse, rng = Coarse(corpus, config), np.random.default_rng(0)
    picked = [coarse.before(0, rng) for _ in range(400)]
    assert set(picked) == {None, 2, 4}  # rows 1 and 3 are another's, row 0 is kept for validation
    assert 0.6 < np.mean([i is not None for i in picked]) < 0.8
    assert {coarse.before(2, rng) for _ in range(40)} == {None, 4}  # never itself
    semantic = Semantic(corpus, config, Bytes())
    texts, histories, _, _, _ = semantic.batch("train", 200, rng)
    rows = {bytes((semantic.texts[i] - 13).tolist()): i for i in semantic.texts}
    before = {}
    for text, history in zip(texts, histories, strict=True):
        i = rows[bytes((text[text < 269] - 13).tolist())]
        before.setdefault(i, set()).add(tuple(history.tolist()))
    for i, j in ((1, 3), (2, 4), (3, 1), (4, 2)):
        assert before[i] == {(12,) * 16, tuple(corpus.semantic(j)[-16:].tolist())}


def test_the_shortest_and_longest_rows_are_drawn_like_others(tmp_path, monkeypatch):
    monkeypatch.setattr("barklite.training.semantic.JOINED", 1)
    with writer_in(tmp_path) as writer:
        for i in range(79):
            writer.add("x", semantic=np.full(i + 1, 1))
    semantic = Semantic(prepare.corpus_of(tmp_path), sounds.config(), Bytes())
    drawn = np.zeros(80)
    for seed in range(1000):
        targets = semantic.batch("train", 2, np.random.default_rng(seed))[3]
        np.add.at(drawn, (targets != IGNORE).sum(1).numpy() - 1, 1)
    assert drawn[[0, 1, 52]].tolist() == [0, 0, 0]  # none has no tokens; the others are for validation
    assert drawn[[2, 79]].all()
    even = 2000 / 77
    assert 0.3 * even < drawn[drawn > 0].min() < drawn.max() < 2.5 * even


@pytest.mark.parametrize("batch_size", [1, 16, 48, 100])
def test_validation_takes_a_batch_at_once(batch_size):
    sizes = []

    def numbers(n, rng):
        sizes.append((n, rng.integers(1 << 40)))
        return {"loss": float(len(sizes))}

    found = validated(numbers, batch_size)
    assert {n for n, _ in sizes} == {batch_size}
    assert 64 <= sum(n for n, _ in sizes) < 64 + batch_size
    assert len(set(sizes)) == len(sizes)
    assert found == {"loss": np.mean(range(1, len(sizes) + 1))}
    first = list(sizes)
    validated(numbers, batch_size)
    assert sizes[len(first) :] == first  # the same examples each time


def test_initial_weights():
    """Blocks add nothing yet; the same seed gives the same weights."""
    models = [GPT(sounds.config().semantic) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        initialise(model, seed)
    assert same(*(dict(model.state_dict()) for model in models[:2]))
    assert not torch.equal(models[0].wte.weight, models[2].wte.weight)
    assert not any(p.any() for name, p in models[0].named_parameters() if name.endswith("c_proj.weight"))
    assert float(models[0].wte.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(models[0].h[0].attn.c_attn.weight.detach().std()) == pytest.approx(0.5 / 16**0.5, rel=0.1)


def test_accuracy():
    logits = torch.tensor([[[0.0, 1], [1, 0], [1, 0]], [[0, 1], [0, 1], [0, 1]]])
    targets = torch.tensor([[1, 1, IGNORE], [1, IGNORE, IGNORE]])
    assert accuracy(logits, targets) == pytest.approx(2 / 3)
    assert accuracy(logits, torch.full((2, 3), IGNORE)) == 0


# --- the guide ----------------------------------------------------------------------------------------------


def guided(model, spans, how=lambda model: model):
    guide, n_text = Guide(model, 4), 4
    embeds = torch.randn(len(spans), n_text + spans.shape[1], 16, generator=torch.Generator().manual_seed(0))
    how(model)(embeds=embeds)
    return guide, guide.loss(spans)


def test_guide_of_even_attention():
    """Every position seen gets the same: a span's share is its length by what is seen."""
    model = GPT(sounds.config().semantic)
    for block in model.h:
        nn.init.zeros_(block.attn.c_attn.weight)
    spans = torch.tensor([[[0, 0], [1, 2], [-1, -1]], [[0, 3], [-1, -1], [3, 3]]])
    guide, loss = guided(model, spans)
    expected = [math.log(5 / 1), math.log(6 / 2), math.log(5 / 4), math.log(7 / 1)]
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
    guide.close()
    model(embeds=torch.zeros(1, 9, 16))
    assert guide._x.shape[0] == 2  # it no longer looks


def test_guide_is_of_the_attention_that_the_model_computes():
    model = GPT(sounds.config().semantic)
    initialise(model, 0)
    spans = torch.tensor([[[0, 1], [1, 1], [2, 3]]])
    attention, seen = model.h[1].attn, []
    attend = attention.attend
    attention.attend = lambda q, k, *rest: (seen.append((q, k)), attend(q, k, *rest))[1]
    guide, loss = guided(model, spans)
    q, k = (x[0, 0] for x in seen[0])  # of the first head, (T, d)
    weights = ((q @ k.T) * 8**-0.5).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf).softmax(-1)
    weights = weights.detach()
    parts = [weights[4, 0:2].sum(), weights[5, 1], weights[6, 2:4].sum()]
    assert loss.item() == pytest.approx(-np.mean([math.log(p) for p in parts]), rel=1e-4)
    loss.backward()
    gradient = attention.c_attn.weight.grad.unflatten(0, (3, 2, 8)).abs().sum((2, 3))
    assert (gradient[:2, 0] > 0).all()  # the first head's queries and keys
    assert gradient[:2, 1].sum() == gradient[2].sum() == 0
    guide.close()


def test_guide_of_a_compiled_model():
    """A hook was left out of the compiled graph: the guide then had nothing to look at."""
    model, spans = GPT(sounds.config().semantic), torch.tensor([[[0, 1], [1, 1], [2, 3]]])
    guide, loss = guided(model, spans)
    guide.close()
    compiled, again = guided(
        model, spans, how=lambda model: torch.compile(model, backend="eager", dynamic=True)
    )
    compiled.close()
    assert again.item() == pytest.approx(loss.item())


# --- the built-in voice -------------------------------------------------------------------------------------


def test_the_built_in_voices_configuration():
    config = voice_config(30, 400)
    assert config.codec.sample_rate / config.codec.hop == config.tokens.semantic_rate == 50
    assert config.max_semantic_tokens == 512 + 1
    assert config.coarse.block_size == 80 + 1 + 160 + 80
    config.check(config.generation)
    assert SETTINGS.keys() == {"quantizer", *NAMES}


@pytest.mark.parametrize("rates", [(50.0, 50.0), (49.9, 75.0), (12.5, 75.0), (100.0, 50.0)])
def test_a_voice_covers_the_time_of_both(rates):
    """Regression: numbers rounded each by itself had ratios that no voice may have."""
    ids = replace(sounds.SMALL, semantic_rate=rates[0], frame_rate=rates[1])
    for hundredths in range(1, 400, 3):
        N, T = (round(hundredths / 100 * rate) for rate in rates)
        for semantic, codes in (
            (np.arange(N), (4, T)),
            (np.arange(9 * N), (4, T)),
            (np.arange(N), (6, 9 * T)),
        ):
            voice = prompt(semantic % 12, np.zeros(codes, int), ids, "x", 3.0)
            if voice is None:
                assert hundredths < 30
                continue
            n, frames = len(voice.semantic), voice.fine.shape[1]
            seconds = min(3.0, hundredths / 100)
            assert abs(n - seconds * rates[0]) <= 1.5
            assert abs(frames - seconds * rates[1]) <= 1.5 + rates[1] / rates[0]
            assert np.array_equal(voice.semantic, semantic[:n] % 12)
            assert (voice.coarse.shape, voice.fine.shape) == ((2, frames), (4, frames))
    assert prompt(np.arange(0), np.zeros((4, 9), int), ids) is None
    assert len(prompt(np.zeros(4000, int), np.zeros((4, 4000), int), ids).semantic) > 600

"""The benchmark harness at tiny size: it runs, its last line is JSON, and what it counts is right."""

import json
from dataclasses import replace

import pytest
import torch

from barklite import Bark, BarkConfig, SamplingConfig
from barklite.storage import formats as layouts
from barklite.training.recipe import voice_config
from benchmarks import __main__ as harness
from benchmarks import ceiling, experiment, jobs, quality, step, systems, throughput

SMALL = ["--size", "tiny", "--tokens", "8", "--formats", "float32,int8", "--compile", "no", "--repeats", "1"]


def last_line(capsys) -> tuple[dict, str]:
    """The JSON that a command printed last, and all that it printed."""
    text = capsys.readouterr().out
    return json.loads(text.splitlines()[-1]), text


def numbers(value) -> list[float]:
    """Every number in nested JSON."""
    if isinstance(value, dict):
        return [x for entry in value.values() for x in numbers(entry)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def test_the_job_beside_transformers(capsys):
    pytest.importorskip("transformers", reason="the peer, transformers, is not installed")
    harness.main([*SMALL, "--device", "cpu", "--peers", "transformers"])
    result, text = last_line(capsys)
    assert {"benchmark", "size", "work", "machine", "ceiling", "systems"} <= result.keys()
    assert result["work"] == {"semantic_tokens": 8, "coarse_tokens": 24, "frames": 12, "audio_s": 0.16}
    assert result["machine"]["threads"] == torch.get_num_threads()
    assert min(numbers(result["ceiling"])) > 0
    assert list(result["systems"]) == ["transformers float32", "barklite float32", "barklite int8"]
    for name, one in result["systems"].items():
        assert set(one["seconds"]) == {*systems.STAGES, "whole"}
        assert min(numbers(one["seconds"]) + numbers(one["audio_s_per_s"])) > 0
        assert one["seconds"]["whole"]["n"] == (2 if one["peer"] else 1)  # the peer once more at the end
        assert name in text
    for name in ("barklite float32", "barklite int8"):
        one = result["systems"][name]
        assert min(numbers(one["bare_step"])) > 0
        assert set(one["times_faster_than"]["transformers float32"]) == {*systems.STAGES, "whole"}
    sizes = {name: one["weights_bytes"] for name, one in result["systems"].items()}
    assert sizes["barklite int8"] < sizes["barklite float32"] < sizes["transformers float32"]


def test_without_peers_and_with_too_much_work_left(capsys, monkeypatch):
    monkeypatch.setattr(jobs, "QUICK_S", 0.0)
    harness.main([*SMALL, "--device", "cpu", "--peers", "none", "--quick"])
    result, text = last_line(capsys)
    assert result["quick"]
    assert "THE QUICK ONE" in text
    assert result["skipped"] == ["barklite float32", "barklite int8"]
    assert result["systems"] == {}


def test_a_step_reads_what_it_must():
    """Against a count by hand, for weights in float32, bfloat16 and int8."""
    config = BarkConfig.tiny()
    layers, width, vocab, filled = config.semantic.n_layer, config.semantic.n_embd, slice(0, 10_001), 300
    products = 12 * width * width  # 3 D² + D² + 4 D² + 4 D²
    outputs = 3 * width + width + 4 * width + width
    cache = 2 * layers * filled * width
    for options, block, head in (
        ({"dtype": "float32"}, 4 * (products + 2 * width), 4 * width),
        ({"dtype": "bfloat16"}, 2 * (products + 2 * width), 2 * width),
        ({"quantize": "int8"}, products + 4 * outputs + 4 * 2 * width, width + 4),
    ):
        bark = Bark.from_config(config, device="cpu", **options)
        expected = layers * block + 10_001 * head + 2 * cache
        assert step.step_bytes(bark.semantic, vocab, filled, 2) == expected
        measured = step.bare_step(bark, "coarse", steps=3)
        assert measured["seconds"] > 0
        assert measured["bytes"] > layers * block + 1024 * head


def test_more_tokens_are_more_work():
    config = BarkConfig.tiny()
    assert systems.work(config, 200) == {
        "semantic_tokens": 200,
        "coarse_tokens": 600,
        "frames": 300,
        "audio_s": 4.0,
    }
    system = systems.Barklite(config, "float32", False, "cpu")
    assert system.job(60)["semantic"] > system.job(2)["semantic"] > 0
    assert system.weights_bytes() == sum(
        4 * p.numel() for name in systems.STAGES for p in getattr(system.bark, name).state_dict().values()
    )


def test_spread_and_ratios():
    assert jobs.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "n": 3}
    ours, theirs, work = jobs.Record(False), jobs.Record(True), {"audio_s": 4.0}
    ours.seconds = {"fine": [1.0], "whole": [2.0]}
    theirs.seconds = {"whole": [8.0], "audio": [8.0]}  # twice the audio in four times the time
    assert ours.times_faster(theirs, work) == {"whole": 2.0}


def test_a_job_that_ends_early_is_not_counted():
    """A row that drew the end has done less work: other seeds are taken until none does."""
    system = systems.Barklite(BarkConfig.tiny(), "float32", False, "cpu")
    lengths, generate = [], system.bark.generate_batch

    def watched(*arguments, **options):
        clips = generate(*arguments, **options)
        clip = clips[0]
        if len(lengths) < 2:  # as if these seeds had ended early
            object.__setattr__(clip, "semantic", clip.semantic[:-1])
        lengths.append(len(clip.semantic))
        return clips

    system.bark.generate_batch = watched
    assert system.job(4)["whole"] > 0
    assert lengths == [3, 3, 4]
    assert system.seed == 2


def test_quality_of_float32_is_its_own(capsys):
    quality.main(["--size", "tiny", "--formats", "float32,int4", "--device", "cpu"])
    result, text = last_line(capsys)
    assert result["weights"] == "random"
    assert "RANDOM weights" in text
    paths = result["formats"]["float32"]
    assert set(paths) == {
        *("semantic prompt", "coarse prompt", "fine 2 prompt", "fine 7 prompt"),
        *("semantic step", "coarse step"),
    }
    for one in paths.values():
        assert (one["kl_nats"], one["same_greedy"]) == (0, 1)
    for path, one in result["formats"]["int4"].items():
        assert 0 < one["kl_nats"] < 0.1, path
        assert 0 < one["same_greedy"] < 1, path


OTHER = voice_config(256, 100, (1, 2, 16))  # four coarse codebooks of six, shorter prompts and windows


@pytest.mark.parametrize(
    "config, longest", [(BarkConfig.tiny(), (600, 600)), (OTHER, (513, 240))], ids=["bark", "other"]
)
def test_the_two_paths_of_quality_see_the_same(config, longest):
    """The steps' logits are the rows of the one forward that answer for the same tokens."""
    bark = Bark.from_config(config, device="cpu")
    (given,) = quality.inputs(bark, random=True)
    many, one = quality.many_rows(bark, given), quality.one_row(bark, given, quality.PLAIN)
    for name in ("semantic", "coarse"):
        assert len(one[name]) == quality.STEPS
        torch.testing.assert_close(one[name], many[name][1 : quality.STEPS + 1], atol=1e-5, rtol=0)
    t = config.tokens
    assert many.keys() - one.keys() == {f"fine {t.n_coarse}", f"fine {t.n_codebooks - 1}"}
    assert (len(given["semantic"]), len(given["coarse"])) == longest


@pytest.mark.parametrize("config", [BarkConfig.tiny(), OTHER], ids=["bark", "other"])
def test_quality_scores_what_was_chosen(config):
    """Greedy tokens are the likeliest of the logits that quality looks at, at every place it looks at."""
    greedy = SamplingConfig(0)
    bark = Bark.from_config(config, device="cpu")
    settings = replace(
        config.generation, semantic=greedy, coarse=greedy, max_semantic_tokens=20, max_seconds=None
    )
    clip = bark.generate(quality.TEXT, config=settings)
    given = quality.fed(bark, quality.TEXT, torch.from_numpy(clip.semantic), torch.from_numpy(clip.codes))
    found = quality.many_rows(bark, given)
    assert found["semantic"].argmax(-1).tolist() == clip.semantic.tolist()
    assert found["coarse"].argmax(-1).tolist() == clip.codes[: config.tokens.n_coarse].T.ravel().tolist()


def test_quality_of_a_checkpoint(native, capsys):
    quality.main(["--checkpoint", str(native), "--formats", "float32", "--device", "cpu"])
    result, text = last_line(capsys)
    assert (result["weights"], result["size"]) == ("checkpoint", None)
    assert "RANDOM" not in text
    assert all(one["kl_nats"] == 0 for one in result["formats"]["float32"].values())


def test_quality_of_the_built_in_voice(monkeypatch, tmp_path, capsys):
    """As many texts as make enough tokens of models that see few at a time."""
    Bark.from_config(OTHER, device="cpu").save_pretrained(tmp_path / "voice")
    monkeypatch.setattr(layouts, "BUILT_IN", tmp_path / "voice")
    quality.main(["--size", "built-in", "--formats", "float32,int8", "--device", "cpu"])
    result, text = last_line(capsys)
    assert (result["weights"], result["size"]) == ("built-in", "built-in")
    assert "the built-in voice's weights" in text
    paths = result["formats"]["float32"]
    assert set(paths) >= {"fine 4 prompt", "fine 5 prompt", "coarse step"}
    assert 600 <= paths["coarse prompt"]["positions"] < 600 + 240
    assert all(one["kl_nats"] == 0 for one in paths.values())
    assert all(one["kl_nats"] > 0 for one in result["formats"]["int8"].values())


@pytest.mark.parametrize("name", ["dtype", "length"])
def test_a_sweep_draws(name, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    harness.main([*SMALL, "--device", "cpu", "--peers", "none", "--sweep", name, "--output", str(tmp_path)])
    result, _ = last_line(capsys)
    assert (tmp_path / f"sweep_{name}.png").read_bytes().startswith(b"\x89PNG")
    points = [point for one in result["systems"].values() for point in one["points"]]
    assert len(points) == {"dtype": 2, "length": 8}[name]
    assert min(numbers(points[0])) > 0


def test_throughput(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    sizes = ["--size", "tiny", "--device", "cpu", "--formats", "float32", "--batch-sizes", "1,3"]
    work = ["--texts", "7", "--tokens", "16", "--peer-rows", "2", "--peer-tokens", "8"]
    throughput.main([*sizes, *work, "--plot", str(tmp_path)])
    result, _ = last_line(capsys)
    assert sorted(result["lengths"]) != result["lengths"]
    assert min(result["lengths"]) == 4
    assert max(result["lengths"]) == 48
    (points,) = result["systems"].values()
    assert [point["slots"] for point in points] == [1, 3]
    audio = {point[kind]["audio"] for point in points for kind in throughput.KINDS}
    assert len(audio) == 1  # the same work, whatever the way
    assert min(numbers(points[0])) > 0
    assert result["peer"]["times_transformers"]["barklite float32"] > 0
    assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        throughput.main(["--batch-sizes", "0"])


def test_a_sweep_without_matplotlib_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r"barklite\[plot\]"):
        harness.main([*SMALL, "--sweep", "dtype", "--output", str(tmp_path)])


def test_a_trace_has_the_stages(tmp_path, capsys):
    file = tmp_path / "trace.json"
    harness.main([*SMALL, "--device", "cpu", "--profile", str(file)])
    result, _ = last_line(capsys)
    assert set(result["seconds_while_traced"]) == {*systems.STAGES, "whole"}
    names = {event.get("name") for event in json.loads(file.read_text())["traceEvents"]}
    assert set(systems.STAGES) <= names


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["--formats", "int5"], "'int5' is not one of"),
        (["--tokens", "769"], "2 to 768"),
        (["--bark-cpp", "main"], "belong together"),
        (["--device", "abacus"], "cannot be used here"),
    ],
)
def test_wrong_options_in_a_line(wrong, message, capsys):
    with pytest.raises(SystemExit):
        harness.main(wrong)
    assert message in capsys.readouterr().err


def test_the_ceiling_counts_what_it_reads():
    found = ceiling.memory_speed("cpu", megabytes=1, seconds=0.0)
    assert found["bytes_per_s"] > 1e7
    assert ceiling.product_rates("cpu", seconds=0.0)["float32"] > 1e7


def test_an_experiment_and_its_comparison(tmp_path, capsys):
    """Each combination once, refusals in words, lines that are appended; then two files side by side."""
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    file, plot = tmp_path / "lines.jsonl", tmp_path / "plot.png"
    varied = ["compile=none,eager", "attention=sdpa,cudnn", "chunk=8", "batch=1,2", "bucket=256"]
    vary = [part for given in varied for part in ("--vary", given)]
    small = ["--size", "tiny", "--tokens", "8", "--repeats", "2", "--device", "cpu"]
    torch._dynamo.reset()
    harness.main(["experiment", *small, *vary, "--output", str(file), "--plot", str(plot)])
    lines, text = last_line(capsys)
    assert [json.loads(line) for line in file.read_text().splitlines()] == lines
    assert [line["settings"] for line in lines[:2]] == [dict(compile="none", batch=n) for n in (1, 2)]
    assert [line["settings"]["attention"] for line in lines[2:]] == ["sdpa"] * 2 + ["cudnn"] * 2
    for line in lines[:4]:
        assert line["oracle"] == {"equal": True, "same": 1.0, "eos_p": pytest.approx(0, abs=1e-6)}
        assert line["seconds"]["whole"]["n"] == 2
        assert min(numbers({key: line[key] for key in ("seconds", "ceiling", "bare_step")})) > 0
    assert all("is for CUDA" in line["refused"] for line in lines[4:])
    assert "is for CUDA" in text
    assert plot.read_bytes().startswith(b"\x89PNG")
    harness.main(["compare", str(file), str(file)])
    both, text = last_line(capsys)
    assert len(both) == 4
    assert "1.00 x" in text
    torch._dynamo.reset()
    for wrong in ("speed=1", "batch"):
        with pytest.raises(SystemExit):
            harness.main(["experiment", "--vary", wrong])
    with pytest.raises(SystemExit):
        harness.main(["compare", str(plot), str(file)])


def test_how_far_apart_tokens_are(tiny):
    """Equal, or the part of a row until the first difference."""
    one = tiny.generate("Hello", seed=1)
    semantic = one.semantic.copy()
    semantic[3] += 1
    found = experiment.apart([one, replace(one, semantic=semantic)], [one, one])
    n = len(semantic) + one.codes.size
    assert found["equal"] is False
    assert found["same"] == pytest.approx((1 + 3 / n) / 2, rel=1e-3)
    assert experiment.apart([one], [one]) == {"equal": True, "same": 1.0, "eos_p": 0.0}

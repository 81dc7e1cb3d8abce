"""Runs a grid of settings, checks each against the plain path, and appends a line of JSON per run to a file.

    python -m benchmarks experiment --vary compile=none,default --vary attention=sdpa,math,flex
    python -m benchmarks compare here.jsonl there.jsonl

`--vary NAME=A,B` takes compile (none; yes, which is `compile=True`; a backend or a mode of `torch.compile`),
any other field of `CompileConfig`, dtype (a weight format) and batch (rows). All combinations run, those
without a `CompileConfig` only once; combinations that barklite refuses are listed with the reason. A run does
the job of `python -m benchmarks`; its tokens are compared with those of the plain path for the same dtype,
batch and seeds. Weights are random.
"""

import argparse
import dataclasses
import gc
import itertools
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from barklite import BarkConfig, Clip, CompileConfig
from barklite.config import COMPILE_CHOICES
from barklite.messages import first_line
from barklite.validation import pick_device

from . import ceiling, report, sweep, systems
from .jobs import note, rounded, spread
from .step import bare_step
from .systems import Barklite

FIELDS = {field.name: field.default for field in dataclasses.fields(CompileConfig)}
OWN_GRAPHS = ("reduce-overhead", "max-autotune")  # modes
NO_CONFIG = ("none", "yes")  # values of compile


def compile_of(settings: dict) -> bool | CompileConfig:
    """Return `compile=` for a combination. ValueError for an invalid one."""
    name, fields = settings.get("compile", "default"), {k: v for k, v in settings.items() if k in FIELDS}
    if name in NO_CONFIG:
        return name == "yes"
    if name in COMPILE_CHOICES["backend"]:
        fields["backend"] = name
    elif name in COMPILE_CHOICES["mode"]:
        fields["mode"] = None if name == "default" else name
        fields.setdefault("cuda_graphs", name not in OWN_GRAPHS)
    else:
        raise ValueError(f"compile={name} is unknown")
    return CompileConfig(**fields)


def value_of(name: str, text: str):
    """Convert a setting from the command line to its type."""
    if text in ("none", "None") and name in ("backend", "mode"):
        return None
    if name == "batch" or type(FIELDS.get(name)) is int:
        return int(text)
    return text == "True" if text in ("True", "False") else text


def grid(vary: Sequence[str]) -> list[dict]:
    """Return all combinations of `NAME=A,B` arguments, each once. ValueError for an unknown name."""
    axes = {}
    for given in vary:
        name, _, values = given.partition("=")
        if name not in {*FIELDS, "compile", "dtype", "batch"} or not values:
            known = ", ".join(("compile", "dtype", "batch", *FIELDS))
            raise ValueError(f"--vary takes NAME=A,B with a name of {known}, not {given!r}")
        axes[name] = [value_of(name, text) for text in values.split(",")]
    found = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    for one in found:
        for name in FIELDS if one.get("compile") in NO_CONFIG else ():
            one.pop(name, None)
    return [one for i, one in enumerate(found) if one not in found[:i]]


def apart(clips: Sequence[Clip], plain: Sequence[Clip]) -> dict:
    """Compare tokens with the plain path's. Return whether they are equal, the share of a row before the
    first difference (mean over rows), and the largest difference of the end's probability up to there.
    """
    same, end = [], 0.0
    for one, other in zip(clips, plain, strict=True):
        ours, theirs = (np.concatenate((c.semantic, c.codes.T.reshape(-1))) for c in (one, other))
        n = min(len(ours), len(theirs))
        differ = np.flatnonzero(ours[:n] != theirs[:n])
        first = int(differ[0]) if len(differ) else n
        same.append(first / max(len(ours), len(theirs)))
        p, q = (c.eos_p[: min(first + 1, len(one.eos_p), len(other.eos_p))] for c in (one, other))
        end = max(end, float(np.abs(p - q).max(initial=0)))
    equal = all(part == 1 for part in same)
    return {"equal": equal, "same": rounded(float(np.mean(same))), "eos_p": rounded(end)}


def measure(options: argparse.Namespace, settings: dict, plain: dict) -> dict:
    """Measure one combination: seconds, steps, and a comparison with the plain path.

    plain: cache of the plain path's clips. ValueError for a combination that barklite refuses.
    """
    config, dtype, batch = (
        getattr(BarkConfig, options.size)(),
        settings.get("dtype", "float32"),
        settings.get("batch", 1),
    )
    if (dtype, batch) not in plain:
        oracle = Barklite(config, dtype, False, options.device)
        oracle.job(options.tokens, batch)
        plain[dtype, batch] = oracle.clips
    system = Barklite(config, dtype, compile_of(settings), options.device)
    first = system.job(options.tokens, batch)["whole"]  # compiles and captures
    seconds: dict[str, list[float]] = {}
    found = apart(system.clips, plain[dtype, batch])
    for _ in range(options.repeats):
        for stage, value in system.job(options.tokens, batch).items():
            seconds.setdefault(stage, []).append(value)
    work = systems.work(config, options.tokens)
    done = {"semantic": work["semantic_tokens"], "coarse": work["coarse_tokens"]}
    step = bare_step(system.bark, "semantic")
    return {
        "ceiling": ceiling.measure(options.device, options.size == "tiny"),
        "oracle": found,
        "compile_s": rounded(system.compile_s),
        "first_s": rounded(first),
        "seconds": {stage: spread(values) for stage, values in seconds.items()},
        "ms_per_step": {name: spread([1e3 * s / n for s in seconds[name]]) for name, n in done.items()},
        "audio_s_per_s": spread([batch * work["audio_s"] / s for s in seconds["whole"]]),
        "bare_step": {"ms": rounded(1e3 * step["seconds"]), "bytes": round(step["bytes"])},
    }


def commit() -> str:
    """Return git's description of the commit, or ""."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return done.stdout.strip()


def label(settings: dict) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "default"


def run(arguments: Sequence[str]) -> list[dict]:
    """Run the grid, append its lines, print a table, and draw a plot if requested."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks experiment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vary", action="append", default=[], metavar="NAME=A,B", help="an axis of the grid")
    parser.add_argument("--size", choices=("small", "large", "tiny"), default="small")
    parser.add_argument("--tokens", type=int, default=50, metavar="N", help="semantic tokens of a text (50)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="counted runs of each (3)")
    parser.add_argument("--device", help="cpu or cuda (the best there is)")
    parser.add_argument(
        "--output", default="experiment.jsonl", metavar="FILE", help="lines are appended to it"
    )
    parser.add_argument("--plot", metavar="FILE", help="a PNG")
    options = parser.parse_args(arguments)
    try:
        options.device, combinations = pick_device(options.device), grid(options.vary)
        if not 2 <= options.tokens <= 768 or options.repeats < 1:
            raise ValueError("--tokens must be 2 to 768, and --repeats at least 1")
    except ValueError as error:
        parser.error(str(error))
    shared = {
        "benchmark": "experiment",
        "commit": commit(),
        "size": options.size,
        "work": systems.work(getattr(BarkConfig, options.size)(), options.tokens),
        "machine": ceiling.machine(options.device),
    }
    lines, plain = [], {}
    for settings in combinations:
        note(label(settings))
        line = {**shared, "settings": settings}
        try:
            line |= measure(options, settings, plain)
        except ValueError as error:
            line["refused"] = first_line(error)
            note(f"  refused: {line['refused']}")
        lines.append(line)
        with open(options.output, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        gc.collect()
    print(f"{ceiling.in_words(shared['machine'])}\n\n{table(lines)}")
    if options.plot:
        draw(lines, options.plot)
        print(f"\nwrote {options.plot}")
    return lines


def table(lines: Sequence[dict]) -> str:
    """A row a combination: its share of the memory's best speed in a lone step, and the oracle's word."""
    rows, ran = [], [line for line in lines if "refused" not in line]
    speed = max((line["ceiling"]["memory"]["bytes_per_s"] for line in ran), default=1.0)
    for line in lines:
        if "refused" in line:
            rows.append([label(line["settings"]), *["-"] * 6, line["refused"]])
            continue
        step, oracle = line["bare_step"], line["oracle"]
        word = "equal" if oracle["equal"] else f"{100 * oracle['same']:.0f} % the same"
        cells = [report.with_spread(line["seconds"]["whole"]), report.short(line["first_s"])]
        cells += [report.median(line["ms_per_step"][name]) for name in ("semantic", "coarse")]
        share = f"{1e5 * step['bytes'] / speed / step['ms']:.0f} %"
        rows.append([label(line["settings"]), *cells, share, report.median(line["audio_s_per_s"]), word])
    heading = [
        "settings",
        "job s",
        "first s",
        "semantic ms",
        "coarse ms",
        "of the ceiling",
        "audio s/s",
        "tokens",
    ]
    return report.table(heading, rows)


def draw(lines: Sequence[dict], path: str) -> None:
    """The job's stages, a bar a combination."""
    plt, ran = sweep.pyplot(), [line for line in lines if "refused" not in line]
    if not ran:
        return
    found = {label(line["settings"]): {"points": [{"seconds": line["seconds"]}]} for line in ran}
    figure = sweep.draw_dtype(plt, {"systems": found, "work": ran[0]["work"], "size": ran[0]["size"]})
    figure.text(0.01, 0.01, ceiling.in_words(ran[0]["machine"]), fontsize=7.5, color="#444444")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def compare(arguments: Sequence[str]) -> list[dict]:
    """Two files side by side, combination by combination: the last line of each counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=compare.__doc__)
    parser.add_argument("files", nargs=2, metavar="FILE")
    files, results = parser.parse_args(arguments).files, []
    for file in files:
        try:
            lines = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
            known = {
                (label(one["settings"]), one["size"], one["work"]["semantic_tokens"]): one for one in lines
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"{file} is no file of an experiment: {first_line(error)}")
        results.append({key: one for key, one in known.items() if "refused" not in one})
    one, other = results
    both = [key for key in one if key in other]
    for name, found in zip(files, results, strict=True):
        about = next(iter(found.values()), None)
        if about:
            print(f"{name}: {ceiling.in_words(about['machine'])}, commit {about['commit'] or 'unknown'}")
    rows = []
    for key in both:
        cells, medians = [], []
        for line in (one[key], other[key]):
            cells.append(report.with_spread(line["seconds"]["whole"]))
            medians.append(line["seconds"]["whole"]["median"])
        steps = [report.median(line["ms_per_step"]["semantic"]) for line in (one[key], other[key])]
        settings, size, tokens = key
        rows.append([f"{settings} ({size}, {tokens})", *cells, f"{medians[0] / medians[1]:.2f} x", *steps])
    heading = ["settings", f"{files[0]}: job s", f"{files[1]}: job s", "faster", "semantic ms", "semantic ms"]
    print(f"\n{report.table(heading, rows)}" if rows else "they have no combination in common")
    return [
        {"settings": key[0], "seconds": [r[key]["seconds"]["whole"]["median"] for r in results]}
        for key in both
    ]

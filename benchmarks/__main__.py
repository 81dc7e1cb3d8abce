"""Compares barklite's speed with its peers: the same work on the same machine, in turn.

    python -m benchmarks                              every format, eager and compiled, beside transformers
    python -m benchmarks --quick                      within three minutes on two cores
    python -m benchmarks --formats int8 --memory      and loading time and memory, in processes of their own
    python -m benchmarks --sweep length|dtype         how cost grows, as a plot
    python -m benchmarks experiment --vary attention=sdpa,flex    a grid of settings, checked and kept
    python -m benchmarks compare a.jsonl b.jsonl      two files of it, of two machines or commits
    python -m benchmarks.throughput                   batches of texts of uneven length
    python -m benchmarks --profile trace.json         one job's trace, for https://ui.perfetto.dev
    python -m benchmarks.quality                      what each format costs in quality
    python -m benchmarks.intelligibility              how well the built-in voice is understood
    python -m benchmarks.loading                      converting and loading, of every layout

Weights are random at the released sizes; the job is 200 semantic tokens -> 600 coarse tokens -> 300 frames ->
4.00 s of audio, batch 1, no voice, sampling on. The machine's limits are measured first. Prints tables, and a
line of JSON with all numbers at the end, to stdout; progress to stderr.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from barklite.validation import pick_device

from . import jobs, memory, report, sweep, trace
from .systems import FORMATS

TOKENS = 200


def parser() -> argparse.ArgumentParser:
    """Create the command line parser."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--size", choices=("small", "large", "tiny"), default="small")
    made.add_argument(
        "--tokens", type=int, metavar="N", help=f"semantic tokens ({TOKENS}; 40 if quick, 25 to profile)"
    )
    made.add_argument(
        "--formats", metavar="A,B", help=f"formats of the weights, of {','.join(FORMATS)} (all)"
    )
    made.add_argument("--compile", choices=("both", "yes", "no"), help="compiled steps (both)")
    made.add_argument("--device", help="cpu or cuda (the best there is)")
    made.add_argument("--threads", type=int, metavar="N", help="of PyTorch on the CPU (its own choice)")
    made.add_argument("--repeats", type=int, metavar="N", help="rounds (3; 1 if quick or in a sweep)")
    made.add_argument(
        "--peers", default="auto", help="transformers,bark (Suno's own package), none, or auto: all installed"
    )
    made.add_argument(
        "--peer-dtype", choices=("float32", "bfloat16"), default="float32", help="transformers'"
    )
    made.add_argument("--bark-cpp", metavar="PATH", help="a bark.cpp binary, timed as a whole command")
    made.add_argument("--bark-cpp-model", metavar="FILE", help="its model")
    made.add_argument("--memory", action="store_true", help="also loading, first audio and memory")
    made.add_argument(
        "--checkpoint", metavar="DIR", help="for --memory; otherwise one is written and removed"
    )
    made.add_argument("--quick", action="store_true", help="less work and fewer variants: three minutes")
    made.add_argument("--sweep", choices=tuple(sweep.SWEEPS), help="a plot of how cost grows, as PNG")
    made.add_argument("--output", metavar="DIR", default=".", help="where --sweep puts its plot (here)")
    made.add_argument(
        "--profile", nargs="?", const="trace.json", metavar="FILE", help="write a trace of one job"
    )
    return made


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, check and complete the options."""
    made = parser()
    options = made.parse_args(arguments)
    try:
        options.device = pick_device(options.device)
    except ValueError as error:
        made.error(str(error))
    kind = options.device.type
    little = options.quick or bool(options.profile)
    formats = FORMATS
    if little or options.sweep:
        formats = sweep.SWEEPS.get(options.sweep, ("int8", "int4", "float32"))
    named = options.formats.split(",") if options.formats else [*formats]
    for name in named:
        if name not in FORMATS:
            made.error(f"--formats: {name!r} is not one of {', '.join(FORMATS)}")
    options.formats = [name for name in named if name != "int4" or kind == "cpu"]
    if not options.formats:
        made.error("--formats: int4 is for the CPU")
    if options.compile is None:
        both = not little and options.sweep in (None, "dtype")
        options.compile = "no" if kind not in ("cpu", "cuda") else "both" if both else "yes"
    if options.tokens is None:
        options.tokens = 40 if options.quick else 25 if options.profile else TOKENS
    if options.repeats is None:
        options.repeats = 1 if options.quick or options.sweep else 3
    if not 2 <= options.tokens <= 768 or options.repeats < 1:
        made.error("--tokens must be 2 to 768, and --repeats at least 1")
    if bool(options.bark_cpp) != bool(options.bark_cpp_model):
        made.error("--bark-cpp and --bark-cpp-model belong together")
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] in (["experiment"], ["compare"]):
        from . import experiment

        made = {"experiment": experiment.run, "compare": experiment.compare}[arguments[0]](arguments[1:])
        print(json.dumps(made))
        return
    options = parse(arguments)
    if options.sweep:
        result = sweep.run(options)
    elif options.profile:
        result = trace.run(options)
    else:
        result = jobs.measure(options)
        print(report.heading(result))
        if options.memory:
            result["memory"] = memory.measure(options)
        print(f"\n{report.job_tables(result)}\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

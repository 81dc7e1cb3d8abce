"""Measures throughput on texts of uneven length, with and without refilled slots.

    python -m benchmarks.throughput                              bark-small, int8 and float32, 1 to 8 slots
    python -m benchmarks.throughput --formats int8 --plot DIR    and a plot

Texts have 1/4 to 3 times `--tokens` semantic tokens, log-uniformly, in random order. "refilled" is
`generate_many`: a new text starts when one ends. "static" is `generate_batch` with as many texts as slots;
the next batch starts when the longest text has ended, and rows that have ended cost nothing. In "padded"
batches all rows are computed to the longest length, which is common elsewhere. Weights are random. If
transformers is installed, both are compared on a batch of texts of equal length, because it pads. Prints a
line of JSON at the end.
"""

import argparse
import contextlib
import gc
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from barklite import Bark, BarkConfig, GenerationConfig, Request
from barklite.decode.stages import SemanticStage
from barklite.validation import pick_device

from . import ceiling, systems
from .jobs import note, rounded
from .report import table
from .sweep import COLORS, pyplot, tidy, titled

SPREAD = 0.25, 3.0  # lengths of the shortest and longest text, relative to --tokens
CHARACTER = 4  # semantic tokens per character of a text
SETTINGS = GenerationConfig(min_eos_p=None)


def texts_of(tokens: int, n: int) -> list[str]:
    """Return n texts, whose lengths determine their semantic tokens, in a reproducible random order."""
    lengths = np.geomspace(SPREAD[0] * tokens, SPREAD[1] * tokens, n)
    np.random.default_rng(0).shuffle(lengths)
    return ["x" * int(min(240, max(1, round(length / CHARACTER)))) for length in lengths]


@contextlib.contextmanager
def spoken_by_length() -> Iterator[None]:
    """End texts by their length, because random weights do not predict the end."""
    start = SemanticStage.start

    def limited(stage, ids, *rest):
        sequence = start(stage, ids, *rest)
        sequence.remaining = min(stage.limit, CHARACTER * len(ids))
        return sequence

    with mock.patch.object(SemanticStage, "start", limited):
        yield


def refilled(bark: Bark, texts: Sequence[str], size: int) -> dict[str, float]:
    """Run `generate_many` with `size` slots. Return seconds: whole, of audio, of each stage."""
    requests = [Request(text, seed=seed) for seed, text in enumerate(texts)]
    with spoken_by_length():
        start, clips = time.perf_counter(), {}
        for i, clip in bark.generate_many(requests, batch_size=size, config=SETTINGS):
            clips[i] = clip
        return summed(list(clips.values()), time.perf_counter() - start)


def padded(bark: Bark, texts: Sequence[str], size: int) -> dict[str, float]:
    """Run `static` with all rows as long as the longest of their batch, counting only the requested audio."""
    longest = [max(texts[i // size * size :][:size], key=len) for i in range(len(texts))]
    found = static(bark, longest, size)
    audio = sum(systems.work(bark.config, CHARACTER * len(text))["audio_s"] for text in texts)
    return found | {"audio": audio, "audio_s_per_s": audio / found["whole"]}


def static(bark: Bark, texts: Sequence[str], size: int) -> dict[str, float]:
    """Run `generate_batch` batch by batch. Return the same as `refilled`."""
    with spoken_by_length():
        start, clips = time.perf_counter(), []
        for i in range(0, len(texts), size):
            some = texts[i : i + size]
            seeds = list(range(i, i + len(some)))
            clips += bark.generate_batch(some, seeds=seeds, config=SETTINGS, batch_size=size)
        return summed(clips, time.perf_counter() - start)


def summed(clips: Sequence, seconds: float) -> dict[str, float]:
    """Return whole seconds, seconds of audio, their ratio, and the seconds of each stage."""
    audio = sum(clip.seconds for clip in clips)
    stages = {name: sum(clip.timings[name] for clip in clips) for name in systems.STAGES}
    decoding = stages["semantic"] + stages["coarse"]
    return {
        "whole": seconds,
        "audio": audio,
        "audio_s_per_s": audio / seconds,
        "decoding": decoding,
        **stages,
    }


KINDS = {"refilled": refilled, "static": static, "padded": padded}


def peer_in_turn(options: argparse.Namespace, config: BarkConfig) -> dict:
    """Compare transformers and barklite, in turn, on the same batch of texts of equal length."""
    rows, tokens = options.peer_rows, options.peer_tokens
    note("making and warming up transformers")
    peer = systems.Transformers(config, "float32", options.device)
    peer.job(4, rows)
    audio = rows * systems.work(config, tokens)["audio_s"]
    found: dict[str, list[float]] = {peer.name: []}
    for name in options.formats:
        note(f"  {peer.name}: {rows} x {tokens} tokens")
        found[peer.name].append(audio / peer.job(tokens, rows)["whole"])
        ours = systems.Barklite(config, name, options.compile, options.device)
        ours.job(4, rows)
        note(f"  {ours.name}")
        found[ours.name] = [audio / ours.job(tokens, rows)["whole"] for _ in range(2)]
        del ours
        gc.collect()
    note(f"  {peer.name}")
    found[peer.name].append(audio / peer.job(tokens, rows)["whole"])
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {
        "rows": rows,
        "tokens": tokens,
        "audio_s_per_s": {name: [rounded(value) for value in values] for name, values in found.items()},
        "times_transformers": {name: rounded(value / medians[peer.name]) for name, value in medians.items()},
    }


def measure(options: argparse.Namespace) -> dict:
    """Measure. Return plain JSON types."""
    config = getattr(BarkConfig, options.size)()
    texts = texts_of(options.tokens, options.texts)
    result = {
        "benchmark": "throughput",
        "size": options.size,
        "lengths": [CHARACTER * len(text) for text in texts],
        "machine": ceiling.machine(options.device),
        "systems": {},
    }
    if options.peers and systems.installed("transformers"):
        result["peer"] = peer_in_turn(options, config)
    for name in options.formats:
        system = systems.Barklite(config, name, options.compile, options.device)
        system.job(4, 2)
        points = []
        for size in options.batch_sizes:
            point = {"slots": size}
            for kind, run in KINDS.items():
                point[kind] = {key: rounded(x) for key, x in run(system.bark, texts, size).items()}
                note(f"  {system.name}, {size} slots, {kind}: {point[kind]['audio_s_per_s']}")
            for kind in ("static", "padded"):
                for key in ("whole", "decoding"):
                    ratio = point[kind][key] / point["refilled"][key]
                    point[f"refilled_times_{kind}_{key}"] = rounded(ratio)
            points.append(point)
        result["systems"][system.name] = points
        del system
        gc.collect()
    return result


def tables(result: dict) -> str:
    """Format the result as Markdown."""
    rows = [
        [
            name,
            str(point["slots"]),
            *(str(point[kind]["audio_s_per_s"]) for kind in KINDS),
            *(
                f"{point[f'refilled_times_{kind}_whole']} x, {point[f'refilled_times_{kind}_decoding']} x"
                for kind in ("static", "padded")
            ),
        ]
        for name, points in result["systems"].items()
        for point in points
    ]
    heading = ["system", "slots", "refilled, audio s/s", "static", "padded"]
    heading += ["refilled / static: whole, decoding", "refilled / padded"]
    parts = [table(heading, rows)]
    if peer := result.get("peer"):
        rows = [
            [name, " ".join(map(str, values)), f"{peer['times_transformers'][name]} x"]
            for name, values in peer["audio_s_per_s"].items()
        ]
        parts.append(table([f"{peer['rows']} x {peer['tokens']} tokens", "audio s/s", "times"], rows))
    return "\n\n".join(parts)


def draw(result: dict, folder: Path) -> Path:
    """Plot seconds of audio per second over the number of slots."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for color, (name, points) in zip(COLORS, result["systems"].items(), strict=False):
        slots = [point["slots"] for point in points]
        for kind, style in zip(KINDS, ("-", "--", ":"), strict=True):
            values = [point[kind]["audio_s_per_s"] for point in points]
            axes.plot(slots, values, style, color=color, marker="o", markersize=4, label=f"{name}, {kind}")
    axes.set_xticks(slots)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("slots")
    axes.set_ylabel("seconds of audio a second")
    axes.legend(frameon=False, fontsize=9)
    tidy(axes)
    low, high = min(result["lengths"]), max(result["lengths"])
    titled(
        figure, f"bark-{result['size']}: {len(result['lengths'])} texts of {low} to {high} semantic tokens"
    )
    figure.text(0.01, 0.01, ceiling.in_words(result["machine"]), fontsize=7.5, color="#444444")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(path := folder / "throughput.png", dpi=150)
    plt.close(figure)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=("small", "large", "tiny"), default="small")
    parser.add_argument("--formats", default="int8,float32", help=f"of {','.join(systems.FORMATS)}")
    parser.add_argument("--compile", action="store_true", help="compiled steps")
    parser.add_argument("--batch-sizes", default="1,2,4,8", metavar="N,...", help="slots")
    parser.add_argument("--texts", type=int, default=24, metavar="N")
    parser.add_argument(
        "--tokens", type=int, default=150, metavar="N", help="semantic tokens of a middling text"
    )
    parser.add_argument("--device", help="cpu or cuda (the best there is)")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="barklite alone")
    parser.add_argument("--peer-rows", type=int, default=8, metavar="N")
    parser.add_argument("--peer-tokens", type=int, default=50, metavar="N")
    parser.add_argument("--plot", metavar="DIR", help="draw throughput.png there")
    options = parser.parse_args(arguments)
    try:
        options.device = pick_device(options.device)
        options.batch_sizes = [int(n) for n in options.batch_sizes.split(",")]
    except ValueError as error:
        parser.error(str(error))
    options.formats = options.formats.split(",")
    for name in options.formats:
        if name not in systems.FORMATS:
            parser.error(f"--formats: {name!r} is not one of {', '.join(systems.FORMATS)}")
    if min(*options.batch_sizes, options.texts, options.tokens) < 1:
        parser.error("numbers must be 1 or more")
    torch.manual_seed(0)
    result = measure(options)
    print(f"\n{tables(result)}\n")
    if options.plot:
        result["plot"] = str(draw(result, Path(options.plot)))
    print(json.dumps(result))


if __name__ == "__main__":
    main()

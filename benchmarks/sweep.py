"""Plots how cost grows with length, and the cost of each format."""

import gc
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from barklite import BarkConfig

from . import ceiling, systems
from .jobs import Record, note, peers_of, spread, variants_of, warmed
from .systems import STAGES, Barklite

SWEEPS = {"length": ("float32", "int8"), "dtype": systems.FORMATS}  # formats
LENGTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)  # of --tokens
PATIENCE_S = 120.0  # seconds; a peer that took longer is not measured at larger points
COLORS = ("#1b6ca8", "#d1495b", "#2e8b57", "#e0a030", "#6f4e9c", "#7f7f7f", "#17a2b8", "#8c564b")
PEER = "#555555"


def pyplot():
    """Import matplotlib without a window. SystemExit if it is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise SystemExit('a sweep draws with matplotlib: pip install "barklite[plot]"') from None
    return plt


def run(options: Namespace) -> dict:
    """Measure the sweep `options.sweep` and write `sweep_<name>.png`. Return plain JSON types."""
    plt = pyplot()
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    plans = {"length": (length, draw_length), "dtype": (dtype, draw_dtype)}
    points, draw = plans[options.sweep]
    config = getattr(BarkConfig, options.size)()
    result = {
        "benchmark": f"sweep {options.sweep}",
        "size": options.size,
        "work": systems.work(config, options.tokens),
        "machine": ceiling.machine(options.device),
        "systems": measure(options, points(options)),
    }
    path = folder / f"sweep_{options.sweep}.png"
    figure = draw(plt, result)
    figure.text(0.01, 0.01, ceiling.in_words(result["machine"]), fontsize=7.5, color="#444444")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"wrote {path}")
    return result | {"plot": str(path)}


def length(options: Namespace) -> list[dict]:
    """Sweep lengths from an eighth of `--tokens` to twice as many."""
    lengths = sorted({min(768, max(2, round(options.tokens * part))) for part in LENGTHS})
    return [{"tokens": tokens, "rows": 1} for tokens in lengths]


def dtype(options: Namespace) -> list[dict]:
    """Compare formats at one length."""
    return [{"tokens": options.tokens, "rows": 1}]


def makers(options: Namespace) -> dict[str, tuple[Callable, bool]]:
    """Return a constructor of each system and whether it is a peer. Peers with a fixed job are left out."""
    config = getattr(BarkConfig, options.size)()
    peers = peers_of(options)
    peers.pop("bark.cpp", None)
    made: dict[str, tuple[Callable, bool]] = {name: (make, True) for name, make in peers.items()}
    for format, compile in variants_of(options):
        name = systems.label(format, compile)
        made[name] = (lambda f=format, c=compile: Barklite(config, f, c, options.device)), False
    return made


def measure(options: Namespace, points: list[dict]) -> dict:
    """Measure all systems at all points, one system in memory at a time: medians of `options.repeats`."""
    found = {}
    for name, (make, is_peer) in makers(options).items():
        note(f"making and warming up {name}")
        system = warmed(make(), options)
        found[system.name] = {"peer": is_peer, "points": []}
        for point in points:
            record, start = Record(is_peer), time.perf_counter()
            for _ in range(options.repeats):
                for stage, seconds in system.job(point["tokens"], point["rows"]).items():
                    record.seconds.setdefault(stage, []).append(seconds)
            seconds = {stage: spread(values) for stage, values in record.seconds.items()}
            note(f"  {point['rows']} x {point['tokens']} tokens: {seconds['whole']['median']} s")
            found[system.name]["points"].append({**point, "seconds": seconds})
            if is_peer and time.perf_counter() - start > PATIENCE_S * options.repeats:
                break
        del system
        gc.collect()
    return found


# --- drawing ------------------------------------------------------------------------------------------------


def lines(axes, result: dict, x: Callable, y: Callable) -> None:
    """Plot one line per system; peers are grey and dashed."""
    colors = iter(COLORS * 2)
    for name, one in result["systems"].items():
        style = dict(color=PEER, linestyle="--") if one["peer"] else dict(color=next(colors))
        xs, ys = [x(p) for p in one["points"]], [y(p) for p in one["points"]]
        axes.plot(xs, ys, marker="o", markersize=4, linewidth=1.8, label=name, **style)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    tidy(axes)


def tidy(axes) -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_length(plt, result: dict):
    """Plot the seconds of the job and of its stages over semantic tokens."""
    figure, grid = plt.subplots(1, 4, figsize=(15, 4.6), layout="constrained")
    for axes, stage in zip(grid, ("whole", "semantic", "coarse", "fine"), strict=True):
        lines(axes, result, lambda p: p["tokens"], lambda p, s=stage: p["seconds"][s]["median"])
        axes.set_title("whole job" if stage == "whole" else f"{stage} stage", fontsize=11)
        axes.set_xlabel("semantic tokens (49.9 a second of audio)")
    grid[0].set_ylabel("seconds")
    grid[0].legend(frameon=False, fontsize=9)
    return titled(figure, f"bark-{result['size']}: time by length, batch 1")


def draw_dtype(plt, result: dict):
    """Plot the job as one bar per system, divided into stages."""
    found = result["systems"]
    figure, axes = plt.subplots(figsize=(10, 1.6 + 0.42 * len(found)), layout="constrained")
    names = list(found)
    left = [0.0] * len(names)
    for stage, color in zip(STAGES, COLORS, strict=False):
        widths = [found[name]["points"][0]["seconds"][stage]["median"] for name in names]
        axes.barh(names, widths, left=left, color=color, label=stage, height=0.7)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    totals = [found[name]["points"][0]["seconds"]["whole"]["median"] for name in names]
    for i, (end, total) in enumerate(zip(left, totals, strict=True)):
        axes.text(end + max(left) * 0.01, i, f"{total:.3g} s", va="center", fontsize=9)
    axes.set_xlim(0, max(left) * 1.1)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), fontsize=9)
    tidy(axes)
    audio = result["work"]["audio_s"]
    return titled(figure, f"bark-{result['size']}: {audio:.2f} s of audio, by format of the weights")


def titled(figure, title: str):
    """Add a title, and the machine's description at the bottom."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.get_layout_engine().set(rect=(0.01, 0.05, 0.98, 0.94))
    return figure

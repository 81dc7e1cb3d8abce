"""Plots the losses of the built-in voice, one panel per model, from the training logs.

    python -m benchmarks.losses [--logs benchmarks/training] [--output benchmarks/plots/losses.png]

`--logs` is the `--out` of `python -m barklite.training`. The built-in voice's logs are in the repository.
"""

import argparse
from pathlib import Path

from barklite.training.loop import read_log

MODELS = ("semantic", "coarse", "fine", "decoder", "encoder")


def logs(directory: Path) -> dict[str, list[dict[str, float]]]:
    """Return the lines of each model's log. FileNotFoundError if there is none."""
    found = {model: lines for model in MODELS if (lines := read_log(directory / model))}
    if not found:
        raise FileNotFoundError(f"{directory} holds no logs of training")
    return found


def draw(found: dict[str, list[dict[str, float]]], output: Path) -> None:
    """Plot training and validation losses; the decoder's validation loss is the spectral part."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(found), 2.6), layout="constrained")
    for axes, (model, lines) in zip(
        figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
    ):
        for name in ("loss", "validation_loss", "spectral"):
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name.replace("_", " "))
        axes.set(title=model, xlabel="step", yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small")
    figure.savefig(output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.losses", description=__doc__.splitlines()[0])
    parser.add_argument("--logs", type=Path, default=Path("benchmarks/training"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/plots/losses.png"))
    options = parser.parse_args()
    draw(logs(options.logs), options.output)


if __name__ == "__main__":
    main()

"""Measures time and memory of converting and loading synthetic files of the released sizes and layouts.

    python -m benchmarks.loading [--size small|large] [--keep DIR]

Writes checkpoints with random weights (bark-small: 4.7 GB as Suno's files with their optimizer state, 1.7 GB
as Hugging Face's), converts each in its own process and loads the result. "own" is the process's anonymous
memory; mapped files come on top, but the system can drop them at any moment.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

LOAD = """
import sys, time
import torch
from barklite import Bark
start = time.perf_counter()
bark = Bark.from_pretrained(sys.argv[1], device="cpu")
print(time.perf_counter() - start)
"""
BASE = "import torch, barklite, safetensors.torch"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("small", "large", "tiny"), default="small")
    parser.add_argument("--keep", metavar="DIR", help="make the files here and keep them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(options.size, Path(options.keep or temporary))


def measure(size: str, folder: Path) -> None:
    from barklite import Bark, BarkConfig
    from tests import builders

    config = getattr(BarkConfig, size)()
    bark = Bark.from_config(config, device="cpu")
    counts = [sum(p.numel() for p in model.parameters()) for model in (bark.semantic, bark.coarse, bark.fine)]
    print(
        f"bark-{size}: {sum(counts) / 1e6:.0f} M parameters; the largest model: {max(counts) / 250e3:.0f} MB"
    )
    suno, huggingface = folder / "suno", folder / "huggingface"
    if not (suno / "vocab.txt").is_file():
        builders.write_suno(suno, bark, "small" if size == "small" else "large")
    if not (huggingface / "speaker_embeddings_path.json").is_file():
        builders.write_huggingface(huggingface, bark, voices=[builders.voice("announcer")])
    del bark

    base = run(["-c", BASE])["own"]
    results = {"size": size, "base_own_mb": base}
    print(f"{'':34}{'seconds':>9}{'own MB':>9}{'less base':>11}")
    for name, source in (("suno", suno), ("huggingface", huggingface)):
        for dtype in ("float32", "bfloat16"):
            target = folder / f"native-{name}-{dtype}"
            command = ["-m", "barklite", "convert", str(source), str(target), "--dtype", dtype, "-f", "-q"]
            report(results, f"convert {name} to {dtype}", run(command), base)
    for name in ("suno-float32", "suno-bfloat16"):
        path = str(folder / f"native-{name}")
        runs = [run(["-c", LOAD, path]) for _ in range(4)][1:]  # the first fills the page cache
        best = sorted(runs, key=lambda r: float(r["output"]))[len(runs) // 2]
        report(results, f"load {name}", best | {"seconds": float(best["output"])}, base)
    print(json.dumps(results))


def report(results: dict, label: str, run: dict, base: float) -> None:
    print(f"{label:34}{run['seconds']:9.2f}{run['own']:9.0f}{run['own'] - base:11.0f}")
    results[label] = {"seconds": round(run["seconds"], 3), "own_mb": round(run["own"] - base)}


def run(arguments: list[str]) -> dict:
    """Run Python code in a process. Return seconds, peak anonymous memory in MB (Linux) and output."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            anonymous = next(
                (line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")), 0
            )
            peak[0] = max(peak[0], int(anonymous) / 1e3)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{arguments} failed")
    return {"seconds": seconds, "own": peak[0], "output": output.strip()}


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()

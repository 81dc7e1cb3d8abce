"""Measures loading time, time to first audio, and memory, each system in its own process."""

import json
import resource
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import torch

from barklite import Bark, BarkConfig, GenerationConfig

from . import systems
from .jobs import note, peers_of, rounded, variants_of
from .loading import run
from .step import prompt


def child(asked: dict) -> dict:
    """Load and run one job, in a child process. Return seconds and peak resident memory in MB."""
    torch.set_num_threads(asked["threads"])
    start = time.perf_counter()
    if asked["system"] == "transformers":
        config = getattr(BarkConfig, asked["size"])()
        system = systems.Transformers(config, asked["format"], asked["device"])
        found = {"build_s": time.perf_counter() - start}
        weights = system.weights_bytes()
        system.job(asked["tokens"])
        audio = systems.work(config, asked["tokens"])["audio_s"]
    else:
        bark = Bark.from_pretrained(
            asked["checkpoint"],
            device=asked["device"],
            compile=asked["compile"],
            **systems.options_of(asked["format"]),
        )
        found = {"load_s": time.perf_counter() - start}
        weights = systems.weights_bytes(*(getattr(bark, name) for name in systems.STAGES))
        settings = GenerationConfig(max_semantic_tokens=asked["tokens"], min_eos_p=None)
        clip = bark.generate(systems.TEXT, seed=0, config=settings)
        audio = len(clip.audio) / clip.sample_rate
        found["cache_mb"] = cache_bytes(bark, asked) / 1e6
    found |= {"first_audio_s": time.time() - asked["begin"], "audio_s": audio, "weights_mb": weights / 1e6}
    found["peak_mb"] = peak_bytes() / 1e6
    if torch.device(asked["device"]).type == "cuda":
        found["gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return {key: rounded(value) for key, value in found.items()}


def peak_bytes() -> int:
    """Return this process's peak resident memory. (On Linux `ru_maxrss` includes the parent's.)"""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most * (1 if sys.platform == "darwin" else 1024)


def cache_bytes(bark: Bark, asked: dict) -> int:
    """Return the bytes of the larger of the two stages' caches; only one is in memory at a time."""
    t = bark.config.tokens
    coarse = min(t.coarse_steps(asked["tokens"]), t.max_coarse_history + t.coarse_window)
    largest = 0
    for name, answers in (("semantic", asked["tokens"] - 1), ("coarse", coarse)):
        positions = prompt(bark, name) + answers
        cache = bark.engine.new_cache(getattr(bark, name), 1, positions)
        filled = positions / cache.keys.shape[3]  # memory is only used once it is written
        largest = max(largest, round((cache.keys.nbytes + cache.values.nbytes) * min(1.0, filled)))
    return largest


def measure(options: Namespace) -> dict:
    """Measure each variant, and transformers if it is a peer. "own_mb" is for Linux only."""
    asked = {
        "tokens": options.tokens,
        "size": options.size,
        "device": str(options.device),
        "threads": torch.get_num_threads(),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        if not options.checkpoint:
            note("writing a checkpoint")
            config = getattr(BarkConfig, options.size)()
            Bark.from_config(config, device="cpu").save_pretrained(Path(folder) / "checkpoint")
        asked["checkpoint"] = options.checkpoint or str(Path(folder) / "checkpoint")
        if "transformers" in peers_of(options):
            peer = asked | {"system": "transformers", "format": options.peer_dtype}
            found[f"transformers {options.peer_dtype}"] = in_process(peer)
        for format, compile in variants_of(options):
            variant = asked | {"system": "barklite", "format": format, "compile": compile}
            found[systems.label(format, compile)] = in_process(variant)
    return {"checkpoint": "given" if options.checkpoint else "random weights", "systems": found}


def in_process(asked: dict) -> dict:
    """Run `child` in a new process and add its peak anonymous memory in MB."""
    note(f"  in a process of its own: {asked['system']} {asked['format']}")
    text = json.dumps(asked | {"begin": time.time()})
    done = run(["-m", "benchmarks.memory", text])
    return json.loads(done["output"].splitlines()[-1]) | {"own_mb": rounded(done["own"])}


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.argv[1]))))

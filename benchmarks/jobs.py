"""Times the whole job, all systems in turn in each round, so that compared runs are close in time."""

import gc
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable

from barklite import BarkConfig

from . import ceiling, systems
from .step import bare_step
from .systems import STAGES, Barklite, label

WARM = 8  # semantic tokens of the warm-up run
KEEP = ("tiny", "small")  # sizes at which several systems fit into memory
QUICK_S = 165.0  # seconds; a quick run leaves out what would take longer


def rounded(x: float) -> float:
    """Round to four significant digits."""
    return float(f"{x:.4g}")


def spread(values: list[float]) -> dict:
    """Return median, extremes and number of `values`."""
    return {
        "median": rounded(statistics.median(values)),
        "min": rounded(min(values)),
        "max": rounded(max(values)),
        "n": len(values),
    }


def peers_of(options: Namespace) -> dict[str, Callable]:
    """Return a constructor for each requested and installed peer, by name. SystemExit if one is missing."""
    config = getattr(BarkConfig, options.size)()
    known = {
        "transformers": lambda: systems.Transformers(config, options.peer_dtype, options.device),
        "bark": lambda: systems.Suno(config, options.device),
    }
    if options.peers == "none":
        found = {}
    elif options.peers == "auto":
        found = {name: make for name, make in known.items() if systems.installed(name)}
    else:
        for name in options.peers.split(","):
            if name not in known:
                raise SystemExit(f"--peers: {name!r} is not one of auto, none, {', '.join(known)}")
            if not systems.installed(name):
                raise SystemExit(f"--peers: the package {name!r} is not installed")
        found = {name: known[name] for name in options.peers.split(",")}
    if options.bark_cpp:
        found["bark.cpp"] = lambda: systems.BarkCpp(options.bark_cpp, options.bark_cpp_model)
    return found


def variants_of(options: Namespace) -> list[tuple[str, bool]]:
    """Return (format, compile) of each requested variant of barklite."""
    compiled = {"both": (False, True), "yes": (True,), "no": (False,)}[options.compile]
    return [(format, compile) for format in options.formats for compile in compiled]


class Record:
    """The measurements of one system."""

    def __init__(self, is_peer: bool):
        self.is_peer = is_peer
        self.seconds: dict[str, list[float]] = {}  # stages and "whole"; "audio" if the work differs
        self.steps: dict[str, list[dict]] = {}
        self.about: dict = {}  # from its first creation

    def made(self, system) -> None:
        """Record a system's own numbers, when it is first created."""
        if not self.about:
            self.about = {
                "build_s": rounded(system.build_s),
                "compile_s": rounded(system.compile_s),
                "weights_bytes": system.weights_bytes(),
            }

    def run(self, system, tokens: int) -> None:
        """Run and record one job."""
        for stage, seconds in system.job(tokens).items():
            self.seconds.setdefault(stage, []).append(seconds)
        if isinstance(system, Barklite):
            for name in ("semantic", "coarse"):
                self.steps.setdefault(name, []).append(bare_step(system.bark, name))

    def audio(self, work: dict) -> list[float]:
        """Return the seconds of audio of each run."""
        return self.seconds.get("audio", [work["audio_s"]] * len(self.seconds["whole"]))

    def summary(self, work: dict, bytes_per_s: float) -> dict:
        """Return medians with their spread, as plain JSON types."""
        done = {"semantic": work["semantic_tokens"], "coarse": work["coarse_tokens"]}
        timed = {name: seconds for name, seconds in self.seconds.items() if name != "audio"}
        out = {**self.about, "peer": self.is_peer}
        out["seconds"] = {name: spread(seconds) for name, seconds in timed.items()}
        stages = {name: timed[name] for name in done if name in timed}
        out["ms_per_step"] = {k: spread([1e3 * s / done[k] for s in v]) for k, v in stages.items()}
        out["tokens_per_s"] = {k: spread([done[k] / s for s in v]) for k, v in stages.items()}
        audio = self.audio(work)
        out["audio_s_per_s"] = spread([a / s for a, s in zip(audio, timed["whole"], strict=True)])
        out["bare_step"] = {
            name: {
                "ms": spread([1e3 * run["seconds"] for run in runs]),
                "tokens_per_s": spread([1 / run["seconds"] for run in runs]),
                "bytes": round(runs[0]["bytes"]),
                "percent_of_ceiling": spread([100 * r["bytes"] / bytes_per_s / r["seconds"] for r in runs]),
            }
            for name, runs in self.steps.items()
        }
        return out

    def times_faster(self, peer: "Record", work: dict) -> dict[str, float]:
        """Return the peer's median divided by ours, per stage and whole; per second if work differs."""
        ratios = {}
        for name in (*STAGES, "whole"):
            if name in self.seconds and name in peer.seconds:
                ours, theirs = self.seconds[name], peer.seconds[name]
                if name == "whole":
                    ours = [s / a for s, a in zip(ours, self.audio(work), strict=True)]
                    theirs = [s / a for s, a in zip(theirs, peer.audio(work), strict=True)]
                ratios[name] = rounded(statistics.median(theirs) / statistics.median(ours))
        return ratios


def warmed(system, options: Namespace):
    """Return the system after a warm-up run: a short one, but a full one on a GPU, where graphs are captured
    per length. Systems that run as a command start cold every time.
    """
    if not isinstance(system, systems.BarkCpp):
        system.job(min(WARM, options.tokens) if options.device.type == "cpu" else options.tokens)
    return system


def note(text: str) -> None:
    """Print progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def measure(options: Namespace) -> dict:
    """Measure the machine, then `options.repeats` rounds of all peers and variants. Plain JSON types."""
    begin = time.perf_counter()
    config = getattr(BarkConfig, options.size)()
    work = systems.work(config, options.tokens)
    note("measuring the ceiling")
    limits = ceiling.measure(options.device, options.size == "tiny")
    makers, peers = peers_of(options), {}
    for name, make in makers.items():
        note(f"making and warming up {name}")
        peers[name] = warmed(make(), options)
    records = {peer.name: Record(True) for peer in peers.values()}
    for peer in peers.values():
        records[peer.name].made(peer)

    def peers_in_turn() -> None:
        for peer in peers.values():
            note(f"  {peer.name}")
            records[peer.name].run(peer, options.tokens)

    live: dict[str, Barklite] = {}
    skipped, longest = [], 0.0
    for turn in range(options.repeats):
        note(f"round {turn + 1} of {options.repeats}")
        peers_in_turn()
        for format, compile in variants_of(options):
            start, name = time.perf_counter(), label(format, compile)
            if options.quick and start - begin + longest > QUICK_S:
                skipped.append(name)
                continue
            note(f"  {name}")
            system = live.pop(name, None)
            if system is None:
                system, warming = Barklite(config, format, compile, options.device), time.perf_counter()
                warmed(system, options)
                now = time.perf_counter()
                if options.quick and now - begin + 2 * (now - warming) > QUICK_S:  # slower than expected
                    skipped.append(name)
                    continue
                records.setdefault(name, Record(False)).made(system)
            records[name].run(system, options.tokens)
            if options.size in KEEP:
                live[name] = system
            del system
            gc.collect()
            longest = max(longest, time.perf_counter() - start)
    if not options.quick:
        peers_in_turn()
    result = {
        "benchmark": "job",
        "size": options.size,
        "quick": options.quick,
        "work": work,
        "machine": ceiling.machine(options.device),
        "ceiling": limits,
        "systems": {
            name: record.summary(work, limits["memory"]["bytes_per_s"]) for name, record in records.items()
        },
        "skipped": skipped,
    }
    for name, record in records.items():
        if not record.is_peer:
            result["systems"][name]["times_faster_than"] = {
                peer.name: record.times_faster(records[peer.name], work) for peer in peers.values()
            }
    return result

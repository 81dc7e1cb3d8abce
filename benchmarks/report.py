"""Formats results as Markdown tables."""

from . import ceiling
from .systems import STAGES


def table(header: list[str], rows: list[list[str]]) -> str:
    """Format a Markdown table: the first column left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row: list[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def short(x: float) -> str:
    """Format a number with about three digits."""
    return f"{x:.3g}" if x < 100 else f"{x:.0f}"


def median(values: dict | None) -> str:
    """Format the median of a spread, or a dash."""
    return short(values["median"]) if values else "-"


def with_spread(values: dict) -> str:
    """Format the median, and the extremes if there are several values."""
    if values["n"] == 1:
        return short(values["median"])
    return f"{short(values['median'])} ({short(values['min'])}..{short(values['max'])})"


def heading(result: dict) -> str:
    """Describe the work, the machine and its limits."""
    work, memory = result["work"], result["ceiling"]["memory"]
    products = ", ".join(f"{k} {short(v / 1e9)}" for k, v in result["ceiling"]["products"].items())
    quick = " THE QUICK ONE: little work, one run each; for figures run without --quick." * result["quick"]
    return "\n".join(
        [
            f"bark-{result['size']} with random weights: {work['semantic_tokens']} semantic tokens -> "
            f"{work['coarse_tokens']} coarse tokens -> {work['frames']} frames -> "
            f"{work['audio_s']:.2f} s of audio; batch 1, no voice, sampling on.{quick}",
            f"Machine: {ceiling.in_words(result['machine'])}.",
            f"Ceiling: memory {memory['bytes_per_s'] / 1e9:.1f} GB/s (best of several passes over "
            f"{memory['megabytes']} MB: {memory['by']}); products of {' x '.join(map(str, ceiling.PRODUCT))} "
            f"in GFLOP/s: {products}.",
        ]
    )


def job_tables(result: dict) -> str:
    """Format all tables of a job's result, each with a line of explanation."""
    systems, parts = result["systems"], []
    rows = []
    for name, one in systems.items():
        seconds, built = one["seconds"], f"{short(one['build_s'])} ({short(one['compile_s'])})"
        cells = [median(seconds.get(stage)) for stage in STAGES]
        whole = [with_spread(seconds["whole"]), median(one["audio_s_per_s"])]
        rows.append([name, *cells, *whole, built, f"{one['weights_bytes'] / 1e6:.0f}"])
    parts.append("Seconds a stage, medians. Building is apart, and not counted: random weights, compiling.")
    header = ["system", *(f"{stage} s" for stage in STAGES), "whole s", "audio s / s"]
    parts.append(table([*header, "build s (compiling)", "weights MB"], rows))

    rows = []
    for name, one in systems.items():
        cells = [
            median(one[key].get(stage))
            for stage in ("semantic", "coarse")
            for key in ("ms_per_step", "tokens_per_s")
        ]
        for stage in ("semantic", "coarse"):
            step = one["bare_step"].get(stage, {})
            read = f"{step['bytes'] / 1e6:.1f}" if step else "-"
            cells += [median(step.get("ms")), read, median(step.get("percent_of_ceiling"))]
        if one["ms_per_step"]:
            rows.append([name, *cells])
    parts.append(
        "A step: a stage's seconds by its tokens, prompts included. Alone (100 steps behind 257 positions), "
        "what it must read (weights as stored, the head's rows in use, the filled cache), and how near it "
        "comes to reading that at the memory's speed."
    )
    header = ["system"]
    for stage in ("semantic", "coarse"):
        header += [f"{stage} ms", f"{stage} tok/s"]
    for stage in ("semantic", "coarse"):
        header += [f"{stage} alone ms", "reads MB", "% of ceiling"]
    parts.append(table(header, rows))

    rows = []
    for name, one in systems.items():
        for peer, ratios in one.get("times_faster_than", {}).items():
            rows.append([name, peer, *(short(ratios[s]) if s in ratios else "-" for s in (*STAGES, "whole"))])
    if rows:
        parts.append("How many times faster than each peer: its median over ours.")
        parts.append(table(["system", "than", *STAGES, "whole"], rows))
    if result["skipped"]:
        parts.append(f"Left out, to end in time: {', '.join(result['skipped'])}.")
    if "memory" in result:
        parts += memory_table(result["memory"])
    return "\n\n".join(parts)


def memory_table(result: dict) -> list[str]:
    """Format the result of `memory`."""
    rows = [
        [name, *(short(one[key]) if key in one else "-" for key in KEYS.values())]
        for name, one in result["systems"].items()
    ]
    text = (
        "A process of its own each: loading, then one job. Own memory is anonymous; mapped files come on top "
        "in the peak, but can be dropped by the system at any moment. First audio counts from the process's "
        "start. Peers are built with random weights, not loaded: that time is not comparable."
    )
    return [text, table(["system", *KEYS], rows)]


KEYS = {
    "load s": "load_s",
    "first audio s": "first_audio_s",
    "peak MB": "peak_mb",
    "own MB": "own_mb",
    "weights MB": "weights_mb",
    "cache MB": "cache_mb",
    "audio s": "audio_s",
}

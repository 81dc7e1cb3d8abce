"""Profiles one job with PyTorch's profiler, with a range for each stage."""

from argparse import Namespace

from torch.profiler import ProfilerActivity, profile, record_function

from barklite import BarkConfig, GenerationConfig
from barklite.decode import sampling

from . import ceiling, systems
from .jobs import note, rounded, variants_of


def run(options: Namespace) -> dict:
    """Write the trace of one job of the first variant to `options.profile` and print a summary."""
    (format, compile), *others = variants_of(options)
    if others:
        note(f"tracing {systems.label(format, compile)}, the first of the variants")
    system = systems.Barklite(getattr(BarkConfig, options.size)(), format, compile, options.device)
    system.job(min(8, options.tokens))
    bark, config = system.bark, GenerationConfig(max_semantic_tokens=options.tokens, min_eos_p=None)
    activities = [ProfilerActivity.CPU]
    if options.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    generators, clock = [sampling.generator(0, bark.device)], systems.Clock(bark.device)
    with profile(activities=activities) as profiled:
        with record_function("semantic"):
            rows = bark.text_to_semantic([systems.TEXT], seeds=generators, config=config)
            clock.end("semantic")
        with record_function("coarse"):
            rows = bark.semantic_to_coarse(rows, seeds=generators, config=config)
            clock.end("coarse")
        with record_function("fine"):
            rows = bark.coarse_to_fine(rows, seeds=generators, config=config)
            clock.end("fine")
        with record_function("codec"):
            bark.decode(rows)
            clock.end("codec")
    profiled.export_chrome_trace(options.profile)
    order = "self_cpu_time_total" if options.device.type == "cpu" else "self_device_time_total"
    print(profiled.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=50))
    print(f"{systems.label(format, compile)}: {options.profile}, for https://ui.perfetto.dev")
    return {
        "benchmark": "profile",
        "size": options.size,
        "system": system.name,
        "file": options.profile,
        "machine": ceiling.machine(options.device),
        "seconds_while_traced": {name: rounded(s) for name, s in clock.total().items()},
    }

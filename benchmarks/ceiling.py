"""Measures the machine's limits: memory bandwidth and the rate of matrix products."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

PRODUCT = (1024, 1024, 4096)  # rows, inputs, outputs


def synchronize(device: torch.device | str) -> None:
    """Wait until `device` has finished, before reading a clock."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def best(work: Callable[[], object], device: torch.device | str, seconds: float = 0.5) -> float:
    """Return the shortest time of a call of `work`, of at least 3 calls in about `seconds`."""
    least, begin, n = float("inf"), time.perf_counter(), 0
    while n < 3 or (time.perf_counter() - begin < seconds and n < 1000):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        least, n = min(least, time.perf_counter() - start), n + 1
    return least


def memory_speed(device: torch.device | str, megabytes: int = 512, seconds: float = 0.5) -> dict:
    """Measure memory bandwidth in bytes per second, on `megabytes` of data.

    On a CPU: reading, the fastest of several reductions. On a GPU: a copy, counting reads and writes.
    """
    x = torch.ones(megabytes * 250_000, device=device)  # float32
    x.copy_(torch.rand(1000, device=device).repeat(megabytes * 250))
    if torch.device(device).type == "cuda":
        into = torch.empty_like(x)
        moved = {"copy": 2 * x.nbytes / best(lambda: into.copy_(x), device, seconds)}
    else:
        half, whole = len(x) // 2, x.view(torch.int64)
        passes = {
            "sum of float32": x.sum,
            "sum of int64": whole.sum,
            "dot product of the two halves": lambda: torch.dot(x[:half], x[half:]),
        }
        moved = {kind: x.nbytes / best(work, device, seconds) for kind, work in passes.items()}
    fastest = max(moved, key=moved.get)
    return {"bytes_per_s": moved[fastest], "by": fastest, "megabytes": megabytes}


def product_rates(device: torch.device | str, seconds: float = 0.3) -> dict[str, float]:
    """Measure operations per second of a large matrix product in each dtype that the device supports.

    A multiplication and an addition count as two.
    """
    rows, inputs, outputs = PRODUCT
    x, w = torch.randn(rows, inputs, device=device), torch.randn(outputs, inputs, device=device)
    x8, w8 = (x * 30).to(torch.int8), (w * 30).to(torch.int8)
    works: dict[str, Callable] = {"float32": lambda: x @ w.t()}
    x16, w16 = x.bfloat16(), w.bfloat16()
    works["bfloat16"] = lambda: x16 @ w16.t()
    works["int8"] = lambda: torch._int_mm(x8, w8.t())
    rates = {}
    for name, work in works.items():
        try:
            rates[name] = 2 * rows * inputs * outputs / best(work, device, seconds)
        except (RuntimeError, AttributeError):
            continue
    return rates


def measure(device: torch.device | str, tiny: bool = False) -> dict:
    """Measure both. tiny: in milliseconds and inaccurately, for tests."""
    if tiny:
        return {"memory": memory_speed(device, 8, 0.0), "products": product_rates(device, 0.0)}
    return {"memory": memory_speed(device), "products": product_rates(device)}


def machine(device: torch.device | str) -> dict:
    """Describe the machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    described = {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": str(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if torch.device(device).type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def counted(n: int, what: str) -> str:
    """ "1 core", "2 cores"."""
    return f"{n} {what}{'s' * (n != 1)}"


def in_words(described: dict) -> str:
    """Format `machine` in a line."""
    text = f"{described['cpu']}, {counted(described['cores'], 'core')}, "
    text += counted(described["threads"], "thread")
    text = f"{described['gpu']}; {text}" if "gpu" in described else text
    return f"{text}, PyTorch {described['torch']}"

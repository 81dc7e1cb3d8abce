"""Compiled code, kept on disk for the next process: packages of PyTorch's AOTInductor."""

import contextlib
import hashlib
import inspect
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from ..validation import first_line
from .hub import cache_directory


def compiled(
    module: nn.Module, example: tuple[Tensor, ...], shapes: tuple, code: Iterable[ModuleType]
) -> tuple[Callable, float]:
    """`module` as a compiled function, and the seconds that compiling took: 0 where an earlier process did.

    module: `settings()` gives the constants in its code. example, shapes: as `torch.export.export` takes
    them. code: the Python modules with its source. ValueError, in words, where this machine cannot.
    """
    path = _packages() / f"{_key(module, example, code)}.pt2"
    if path.is_file():
        with contextlib.suppress(RuntimeError, OSError):  # damaged: made again
            return _load(path), 0.0
    start = time.perf_counter()
    print("barklite: compiling a step, once on this machine ...", flush=True, file=sys.stderr)
    compile_to(module, example, shapes, path)
    seconds = time.perf_counter() - start
    print(f"barklite: compiled in {seconds:.0f} s", file=sys.stderr)
    try:
        return _load(path), seconds
    except (RuntimeError, OSError) as error:
        raise ValueError(f"compiled steps cannot be loaded here: {first_line(error)}") from error


def _packages() -> Path:
    """Where compiled packages are kept. ValueError if that place cannot be written."""
    try:
        path = cache_directory() / "compiled"
        path.mkdir(parents=True, exist_ok=True)
        return path
    except (OSError, RuntimeError) as error:  # the latter where there is no home directory
        raise ValueError(
            f"compile=True keeps what it makes in a cache, which cannot be written: {first_line(error)} "
            "(set XDG_CACHE_HOME to a directory that can)"
        ) from error


def compile_to(module: nn.Module, example: tuple[Tensor, ...], shapes: tuple, path: Path) -> None:
    """Compile `module` into the package `path`. ValueError, in words, if this machine cannot."""
    import torch._inductor

    unfinished = path.with_name(f".{path.stem}-{time.time_ns()}.pt2")
    options = {"cpp.enable_floating_point_contract_flag": "fast"}  # products and sums in one instruction
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(module, example, dynamic_shapes=shapes)
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(unfinished), inductor_configs=options
            )
        unfinished.replace(path)
    except Exception as error:  # every stage of the compiler has its own classes
        raise ValueError(
            "compile=True needs a C++ compiler (g++ or clang++) that works with this PyTorch: "
            + first_line(error)
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _load(path: Path) -> Callable:
    """A package as a function. RuntimeError if it is damaged."""
    try:  # the C++ class itself: no second is spent importing the compiler, and a call costs less
        run = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1).run
    except (AttributeError, TypeError):  # another PyTorch
        from torch._inductor import aoti_load_package

        return aoti_load_package(str(path))
    return lambda *given: run(list(given))[0]


def _key(module: nn.Module, example: tuple[Tensor, ...], code: Iterable[ModuleType]) -> str:
    """A file name for what is compiled: another for other code, PyTorch, processor, shapes and dtypes."""
    what = [*map(inspect.getsource, code), torch.__version__]
    what += [platform.machine(), _processor(), torch.backends.cpu.get_cpu_capability()]
    what += [f"{torch.get_num_threads()} threads of {os.cpu_count()}"]  # both are compiled in
    what += [type(module).__name__, str(module.settings())]
    what += [f"{tuple(t.shape)} {t.stride()} {t.dtype}" for t in example]
    return hashlib.sha256("\0".join(what).encode()).hexdigest()[:32]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))

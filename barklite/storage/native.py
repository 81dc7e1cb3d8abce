"""Caches compiled code on disk, in a directory that no other user can write.

A cached file is a compressed AOTInductor package; its name includes its SHA-256.
"""

import contextlib
import hashlib
import inspect
import os
import platform
import shutil
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from ..messages import first_line, tell
from . import atomic
from .home import cache_directory, private

LIMIT = 10_000_000  # bytes of all packages; the least recently used ones are deleted
INDUCTOR_LIMIT = 100_000_000  # bytes of PyTorch's own cache; it is cleared if it is larger


def compiled(
    module: nn.Module, example: tuple[Tensor, ...], shapes: Callable[[], tuple], code: Iterable[ModuleType]
) -> tuple[Callable, float]:
    """Compile `module`, or load it from the cache. Return the function and the seconds spent on compiling.

    module: its `settings()` are the constants in its code. example: arguments for `torch.export.export`.
    shapes: returns its `dynamic_shapes`; called only to compile, because `Dim` imports sympy. code: the
    Python modules with its source. Processes that need the same package wait for the first to compile it.
    ValueError if this machine cannot compile.
    """
    key, folder = _key(module, example, code), _packages()
    atomic.sweep(os.path.abspath(folder))
    for shared in (True, False):  # several processes may load, only one may compile
        with atomic.lock(folder / "lock", "compile", shared):
            if run := _kept(folder, key):
                return run, 0.0
            if shared:
                continue
            start = time.perf_counter()
            tell("compiling a step, once on this machine ...")
            package = compile_to(module, example, shapes, folder)
            _keep(folder, key, package)
            seconds = time.perf_counter() - start
            tell(f"compiled in {seconds:.0f} s")
            try:
                return _load(package, folder), seconds
            except (RuntimeError, OSError) as error:
                raise ValueError(f"compiled steps cannot be loaded here: {first_line(error)}") from error


def _packages() -> Path:
    """Return the cache directory of compiled packages. ValueError if it is not writable or not private."""
    try:
        return private(cache_directory() / "native")
    except OSError as error:
        raise ValueError(
            f"compile=True needs a cache directory, which cannot be used: {first_line(error)} "
            "(set XDG_CACHE_HOME to use another)"
        ) from error


def _kept(folder: Path, key: str) -> Callable | None:
    """Load a cached package, or return None. Delete damaged ones, with a line on stderr."""
    for path in folder.glob(f"{key}-*.aoti"):
        try:
            with open(os.open(path, atomic.OLD), "rb") as file:
                data = file.read()
            if path.stem != f"{key}-{hashlib.sha256(data).hexdigest()}":
                raise ValueError("its checksum is wrong")
            run = _load(zlib.decompress(data), folder)
            os.utime(path)  # for the order of last use
            return run
        except (OSError, RuntimeError, ValueError, zlib.error) as error:
            tell(f"{path} is damaged and compiled again: {first_line(error)}")
            with contextlib.suppress(OSError):
                _remove(path)
    return None


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _keep(folder: Path, key: str, package: bytes) -> None:
    """Write a package to the cache and delete the least recently used ones above LIMIT."""
    data, total = zlib.compress(package), 0
    try:
        atomic.write_bytes(folder / f"{key}-{hashlib.sha256(data).hexdigest()}.aoti", data)
        shutil.rmtree(cache_directory() / "compiled", ignore_errors=True)  # barklite 0.1's
        for path in sorted(folder.iterdir(), key=lambda path: -path.lstat().st_mtime_ns):
            ours = path.suffix == ".aoti"  # others were left by killed processes
            total += path.lstat().st_size if ours else 0
            if path.name != "lock" and (not ours or total > LIMIT):
                _remove(path)
    except OSError as error:  # not fatal: the next process compiles again
        tell(f"the compiled step cannot be cached: {first_line(error)}")


def compile_to(
    module: nn.Module, example: tuple[Tensor, ...], shapes: Callable[[], tuple], folder: Path
) -> bytes:
    """Compile `module` in a temporary directory and return the package. ValueError if it fails."""
    options = {"cpp.enable_floating_point_contract_flag": "fast"}  # fused multiply-add
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    try:
        with (
            tempfile.TemporaryDirectory(dir=folder) as scratch,
            torch.no_grad(),
            warnings.catch_warnings(),
        ):
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = scratch  # before the import, which reads it
            from torch._inductor import aoti_compile_and_package, config

            warnings.simplefilter("ignore")
            if hasattr(config.aot_inductor, "precompile_headers"):
                options["aot_inductor.precompile_headers"] = False  # they would be in the shared /tmp
            exported = torch.export.export(module, example, dynamic_shapes=shapes())
            path = Path(scratch, "step.pt2")
            aoti_compile_and_package(exported, package_path=str(path), inductor_configs=options)
            return path.read_bytes()
    except Exception as error:  # each stage of the compiler raises its own classes
        raise ValueError(
            "compile=True needs a C++ compiler (g++ or clang++) that works with this PyTorch: "
            + first_line(error)
        ) from error
    finally:
        os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
        if before is not None:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def _load(package: bytes, folder: Path) -> Callable:
    """Load a package as a function. RuntimeError if it is damaged."""
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".pt2") as file:
        file.write(package)
        file.flush()
        try:  # the C++ class: importing the compiler would take a second, and calls are cheaper
            run = torch._C._aoti.AOTIModelPackageLoader(file.name, "model", False, 1, -1).run
        except (AttributeError, TypeError):  # another version of PyTorch
            from torch._inductor import aoti_load_package

            return aoti_load_package(file.name)
    return lambda *given: run(list(given))[0]


def inductor_cache() -> None:
    """Move the cache of `torch.compile`, whose code PyTorch runs unchecked, to a private directory.

    It has a directory for this version of PyTorch and is cleared above INDUCTOR_LIMIT. Does nothing if the
    user has set TORCHINDUCTOR_CACHE_DIR. ValueError if the directory cannot be used.
    """
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        return
    home = _packages().parent / "inductor"
    try:
        folder = private(home) / torch.__version__
        for path in home.iterdir():
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            if path != folder or size > INDUCTOR_LIMIT:
                shutil.rmtree(path, ignore_errors=True)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ValueError(f"compile=True cannot use its cache: {first_line(error)}") from error
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ.setdefault("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0")  # kept outside the cache


def _key(module: nn.Module, example: tuple[Tensor, ...], code: Iterable[ModuleType]) -> str:
    """Return the cache key: a hash of code, PyTorch version, processor, threads, shapes and dtypes."""
    what = [*map(inspect.getsource, code), torch.__version__]
    what += [platform.machine(), _processor(), torch.backends.cpu.get_cpu_capability()]
    what += [f"{torch.get_num_threads()} threads of {os.cpu_count()}"]  # both are constants in the code
    what += [type(module).__name__, str(module.settings())]
    what += [f"{tuple(t.shape)} {t.stride()} {t.dtype}" for t in example]
    return hashlib.sha256("\0".join(what).encode()).hexdigest()[:32]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))

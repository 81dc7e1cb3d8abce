"""Reads and checks voice files, `.npz` or three `.npy`, without executing pickles."""

import io
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..config import TokenConfig
from ..messages import first_line

ARRAYS = ("semantic_prompt", "coarse_prompt", "fine_prompt")
MAX_BYTES = 2**24  # per array; the longest of a released voice has 70 kB
COMPRESSION = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # an LZMA header could demand any amount of memory


def read_npz(path: str | os.PathLike | bytes, names: Sequence[str] = ARRAYS) -> dict[str, np.ndarray]:
    """Read an `.npz`, from a path or bytes. Return those of `names` that it has.

    OSError, or ValueError if it is damaged or too large.
    """
    most = len(names) * MAX_BYTES
    data = path[: most + 1] if isinstance(path, bytes) else _read(Path(path), most)
    path = "the voice file" if isinstance(path, bytes) else path
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            held = [name for name in names if f"{name}.npy" in archive.namelist()]
            return {name: _member(archive, f"{name}.npy") for name in held}
    except MemoryError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {first_line(error)}") from None
    except Exception as error:  # zipfile and its decompressors raise many classes for damaged data
        raise ValueError(f"{path} is not a whole .npz file: {first_line(error)}") from None


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """Read the array of an `.npy`. Errors as in `read_npz`."""
    return _array(_read(Path(path), MAX_BYTES), str(path))


def _read(path: Path, most: int) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if (size := path.stat().st_size) > most:
        raise ValueError(f"{path} has {size:,} bytes: far too large for a voice or tokens")
    with open(path, "rb") as file:
        return file.read(size)


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Read an array of an archive. Checks its declared size before allocating memory for it."""
    info = archive.getinfo(name)
    if info.file_size > MAX_BYTES:
        raise ValueError(f"{name} unpacks to {info.file_size:,} bytes: far too large for a voice or tokens")
    if info.compress_type not in COMPRESSION:
        raise ValueError(f"{name} is compressed in a way that numpy.savez never does: save it again")
    with archive.open(info) as file:
        return _array(file.read(MAX_BYTES + 1), name)


def _array(data: bytes, label: str) -> np.ndarray:
    """Parse an `.npy` file. ValueError if it is damaged or does not hold numbers."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(file)
    except Exception as error:  # numpy parses the header as Python and passes on any of the parser's errors
        raise ValueError(f"{label} is not an array: {first_line(error)}") from None
    if dtype.hasobject:
        raise ValueError(f"{label} holds pickled Python objects, which are never loaded")
    if dtype.kind not in "biuf":
        raise ValueError(f"{label} holds {dtype!s:.99}, not numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"{label} is cut short or too long: its header declares shape {shape} of {dtype}")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Encode a voice as an `.npz` in Suno's layout: int64, int64, int32, uncompressed."""
    buffer, kinds = io.BytesIO(), (np.int64, np.int64, np.int32)
    np.savez(buffer, **{name: arrays[name].astype(kind) for name, kind in zip(ARRAYS, kinds, strict=True)})
    return buffer.getvalue()


def names_in(folder: Path) -> list[str]:
    """Return the names of the `.npz` files in a voices folder; [] if it does not exist."""
    names = (file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.npz"))
    return sorted(name for name in names if name.isprintable())


def checked(
    arrays: Mapping[str, np.ndarray], tokens: TokenConfig, label: str = "voice"
) -> dict[str, np.ndarray]:
    """Check the arrays of a voice. Return them as read-only int64: semantic (n,), coarse (2, T), fine (8, T).

    ValueError, with advice, for a wrong type, shape or range, or lengths that do not match. label: the
    voice's name in the error.
    """
    if not isinstance(arrays, Mapping):
        raise ValueError(f"{label} must be a mapping of arrays, not {type(arrays).__name__}")
    if missing := [key for key in ARRAYS if key not in arrays]:
        raise ValueError(f"{label} has no {missing[0]}; it needs {', '.join(ARRAYS)}")
    shapes = ("n",), (tokens.n_coarse, "T"), (tokens.n_codebooks, "T")
    sizes = tokens.semantic_vocab_size, tokens.codebook_size, tokens.codebook_size
    voice = {
        key: _tokens(arrays[key], shape, size, f"{label}: {key}")
        for key, shape, size in zip(ARRAYS, shapes, sizes, strict=True)
    }
    n, T, fine = len(voice["semantic_prompt"]), *(voice[key].shape[1] for key in ARRAYS[1:])
    if fine != T:
        raise ValueError(
            f"{label}: the fine prompt has {fine} frames, the coarse prompt {T}; "
            f"the coarse prompt must be the first {tokens.n_coarse} rows of the fine prompt"
        )
    if not min(tokens.frame_rate, tokens.semantic_rate) > 0:
        raise ValueError(f"{label}: a rate of its TokenConfig is not above 0")
    ratio = tokens.frame_rate / tokens.semantic_rate
    if round(T / n, 1) != round(ratio, 1):
        fits = (
            f"cut the codes to {int(n * ratio)} frames" if n * ratio < T else f"keep {int(T / ratio)} tokens"
        )
        raise ValueError(
            f"{label}: {T} frames do not fit {n} semantic tokens: the ratio is {T / n:.2f}, "
            f"not {round(ratio, 1)} ({fits})"
        )
    return voice


def _tokens(array: np.ndarray, shape: tuple, size: int, label: str) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{label} must be an array of integers, not {kind} (array.astype(numpy.int64))")
    fits = array.ndim == len(shape) and array.size
    if not (fits and all(want in ("n", "T", have) for have, want in zip(array.shape, shape, strict=True))):
        wanted = "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
        raise ValueError(f"{label} has shape {array.shape}; it must be {wanted} and not empty")
    if array.min() < 0 or array.max() >= size:
        raise ValueError(
            f"{label} has values outside 0 .. {size - 1}: remove padding, and do not use tokens of another "
            "model"
        )
    array = np.array(array, dtype=np.int64)
    array.flags.writeable = False
    return array

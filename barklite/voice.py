"""A voice: the history prompt that Bark continues, so that it speaks as someone spoke before (spec 5)."""

import difflib
import io
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .config import TokenConfig
from .storage import atomic

ARRAYS = ("semantic_prompt", "coarse_prompt", "fine_prompt")
LANGUAGES = ("en", "de", "es", "fr", "hi", "it", "ja", "ko", "pl", "pt", "ru", "tr", "zh")
MAX_BYTES = 2**24  # an array of a voice file; the longest released one has 70 kB
SUNO_MODELS = ("suno/bark-small", "suno/bark")  # which have the voices that `voices` names
BUILT_IN = Path(__file__).parent / "assets" / "voice"  # the checkpoint that comes with barklite


@dataclass(frozen=True, eq=False)
class Voice:
    """semantic (n,), coarse (2, T) and fine (8, T), int64; `name` if it has one.

    Checked when it is made: ValueError for a wrong type, shape or range, or lengths that do not belong
    together.
    """

    semantic: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    name: str | None = None
    tokens: TokenConfig = TokenConfig()  # the id spaces it was made in

    def __post_init__(self) -> None:
        t = self.tokens
        for field, shape, size in (
            ("semantic", ("n",), t.semantic_vocab_size),
            ("coarse", (t.n_coarse, "T"), t.codebook_size),
            ("fine", (t.n_codebooks, "T"), t.codebook_size),
        ):
            object.__setattr__(self, field, self._checked(field, getattr(self, field), shape, size))
        n, T = len(self.semantic), self.coarse.shape[1]
        if self.fine.shape[1] != T:
            raise ValueError(f"{self}: the fine prompt has {self.fine.shape[1]} frames, the coarse one {T}")
        wanted = round(t.frame_rate / t.semantic_rate, 1)
        if round(T / n, 1) != wanted:
            raise ValueError(
                f"{self}: {T} frames do not fit {n} semantic tokens: the ratio is {T / n:.2f}, not {wanted}"
            )

    def _checked(self, field: str, array: np.ndarray, shape: tuple, size: int) -> np.ndarray:
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"{self}: {field}_prompt must be an array of integers, not {kind}")
        fits = (
            array.ndim == len(shape)
            and array.size
            and all(
                have == want for have, want in zip(array.shape, shape, strict=True) if isinstance(want, int)
            )
        )
        if not fits:
            wanted = "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
            raise ValueError(
                f"{self}: {field}_prompt has shape {array.shape}; it must be {wanted} and not empty"
            )
        if array.min() < 0 or array.max() >= size:
            raise ValueError(f"{self}: {field}_prompt has values outside 0 .. {size - 1}")
        array = np.array(array, dtype=np.int64)
        array.flags.writeable = False
        return array

    def __str__(self) -> str:
        return f"voice {self.name!r}" if self.name else "voice"

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], name: str | None = None, tokens: TokenConfig = TokenConfig()
    ) -> "Voice":
        """From a mapping with `semantic_prompt`, `coarse_prompt`, `fine_prompt`; else ValueError."""
        label = f"voice {name!r}" if name else "voice"
        if not isinstance(arrays, Mapping):
            raise ValueError(f"{label} must be a mapping of arrays, not {type(arrays).__name__}")
        if missing := [key for key in ARRAYS if key not in arrays]:
            raise ValueError(f"{label} has no {missing[0]}; it needs {', '.join(ARRAYS)}")
        return cls(*(arrays[key] for key in ARRAYS), name=name, tokens=tokens)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike | BinaryIO,
        tokens: TokenConfig = TokenConfig(),
        name: str | None = None,
    ) -> "Voice":
        """Read an `.npz` as Suno ships them, a file's path or an open binary file.

        FileNotFoundError, or ValueError. Nothing is executed.
        """
        file, path = path, name or "the voice file"
        if not hasattr(file, "read"):
            file = path = Path(file)
            if not path.is_file():
                raise FileNotFoundError(f"there is no voice file {path}")
        try:
            with zipfile.ZipFile(file) as archive:
                arrays = {
                    key: _read_array(archive, f"{key}.npy")
                    for key in ARRAYS
                    if f"{key}.npy" in archive.namelist()
                }
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        except MemoryError:
            raise
        except Exception as error:  # zipfile and its decompressors raise some ten classes for broken data
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ValueError(f"{path} is not a whole .npz file: {error}") from None
        return cls.from_arrays(arrays, name or str(path), tokens)

    def save(self, path: str | os.PathLike) -> None:
        """Write the released voices' layout: int64, int64, int32, uncompressed. OSError if it cannot."""
        check_suffix(path)
        buffer = io.BytesIO()
        np.savez(
            buffer,
            semantic_prompt=self.semantic,
            coarse_prompt=self.coarse,
            fine_prompt=self.fine.astype(np.int32),
        )
        atomic.write_bytes(path, buffer.getvalue())


def check_suffix(path: str | os.PathLike) -> None:
    """ValueError unless a voice kept at `path` would be taken for one."""
    if not os.fspath(path).endswith(".npz"):
        raise ValueError(f"a voice's file must end in .npz, unlike {os.fspath(path)!r}")


def _read_array(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """One array of an archive, whose declared sizes are checked before anything of that size is allocated."""
    info = archive.getinfo(member)
    if info.file_size > MAX_BYTES:
        raise ValueError(f"{member} unpacks to {info.file_size:,} bytes: that is no voice")
    with archive.open(info) as file:
        return read_array(file.read(MAX_BYTES + 1), member)


def read_array(data: bytes, label: str) -> np.ndarray:
    """A `.npy` file's array; ValueError if it is not whole or would need pickle."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(file)
    except Exception as error:  # numpy parses the header as Python: any of the parser's errors comes through
        raise ValueError(f"{label} is not an array: {error}") from None
    if dtype.hasobject:
        raise ValueError(f"{label} holds pickled Python objects, which are never loaded")
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"{label} is cut short or too long: its header announces shape {shape} of {dtype}")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")


def voices(language: str | None = None) -> list[str]:
    """The 261 names of Suno's voices, or those of a language such as "en". ValueError for an unknown one."""
    language = language and language.lower()
    if language is not None and language not in LANGUAGES:
        raise ValueError(f"no voices for language {language!r}; there are {', '.join(LANGUAGES)}")
    names = [
        f"{version}{spoken}_speaker_{i}"
        for version in ("v2/", "")
        for spoken in LANGUAGES
        if language in (None, spoken)
        for i in range(10)
    ]
    return names if language else ["announcer", *names]


def built_in() -> list[str]:
    """The names of the built-in model's voices, which speak English."""
    return names_in(BUILT_IN / "voices")


def names_in(folder: Path) -> list[str]:
    """The names of the `.npz` files in a checkpoint's folder of voices; none if it is not there."""
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.npz"))


def known(own: list[str], tokens: TokenConfig) -> list[str]:
    """The names that a model takes: its checkpoint's `own`, and Suno's, which speak Bark's ids only."""
    return list(dict.fromkeys([*own, *(voices() if tokens == TokenConfig() else [])]))


def unknown(name: str, own: list[str], tokens: TokenConfig) -> ValueError:
    """The error for a name that is not one of `known(own, tokens)`: what there is, and what is near."""
    has = f"this model has {', '.join(own[:10])}{', ...' if len(own) > 10 else ''}"
    has = has if own else "this model has no voices with a name"
    if tokens != TokenConfig() and name in voices():
        models = " or ".join(SUNO_MODELS)
        return ValueError(f"voice {name!r} is one of Suno's and needs a model of theirs, {models}; {has}")
    near = difflib.get_close_matches(name, known(own, tokens), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = "`barklite voices` lists them" if tokens == TokenConfig() else has
    return ValueError(f"unknown voice {name!r}{hint} ({listed}; a file must end in .npz)")

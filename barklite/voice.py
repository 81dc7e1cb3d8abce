"""A voice: the history prompt that Bark continues, so that it speaks as someone spoke before (spec 5)."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .config import TokenConfig
from .storage import atomic
from .storage.home import BUILT_IN
from .storage.voices import ARRAYS, checked, names_in, npz, read_npz

LANGUAGES = ("en", "de", "es", "fr", "hi", "it", "ja", "ko", "pl", "pt", "ru", "tr", "zh")
SUNO_MODELS = ("suno/bark-small", "suno/bark")  # which have the voices that `voices` names


@dataclass(frozen=True, eq=False)
class Voice:
    """semantic (n,), coarse (2, T) and fine (8, T), int64; `name` if it has one.

    Checked when it is made: ValueError, which says how to mend it, for a wrong type, shape or range, or
    lengths that do not belong together.
    """

    semantic: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    name: str | None = None
    tokens: TokenConfig = TokenConfig()  # the id spaces it was made in

    def __post_init__(self) -> None:
        arrays = checked(self.arrays, self.tokens, str(self))
        for field, key in zip(("semantic", "coarse", "fine"), ARRAYS, strict=True):
            object.__setattr__(self, field, arrays[key])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """`semantic_prompt`, `coarse_prompt` and `fine_prompt`, as files and other programs name them."""
        return dict(zip(ARRAYS, (self.semantic, self.coarse, self.fine), strict=True))

    def __str__(self) -> str:
        return f"voice {self.name!r}" if self.name else "voice"

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], name: str | None = None, tokens: TokenConfig = TokenConfig()
    ) -> "Voice":
        """From a mapping with `semantic_prompt`, `coarse_prompt`, `fine_prompt`; else ValueError."""
        arrays = checked(arrays, tokens, f"voice {name!r}" if name else "voice")
        return cls(*arrays.values(), name=name, tokens=tokens)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike | bytes,
        tokens: TokenConfig = TokenConfig(),
        name: str | None = None,
    ) -> "Voice":
        """Read an `.npz` as Suno ships them, by its path or from its bytes.

        FileNotFoundError, or ValueError. Nothing is executed.
        """
        if isinstance(path, bytes):
            return cls.from_arrays(read_npz(path), name, tokens)
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no voice file {path}")
        return cls.from_arrays(read_npz(path), name or str(path), tokens)

    def save(self, path: str | os.PathLike) -> None:
        """Write the released voices' layout: int64, int64, int32, uncompressed. OSError if it cannot."""
        check_suffix(path)
        atomic.write_bytes(path, npz(self.arrays))


def check_suffix(path: str | os.PathLike) -> None:
    """ValueError unless a voice kept at `path` would be taken for one."""
    if not os.fspath(path).endswith(".npz"):
        raise ValueError(f"a voice's file must end in .npz, unlike {os.fspath(path)!r}")


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

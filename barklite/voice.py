"""`Voice`: a history prompt, tokens of earlier speech that Bark continues in the same voice (spec 5)."""

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
SUNO_MODELS = ("suno/bark-small", "suno/bark")  # Hub ids of the models that have the voices of `voices`


@dataclass(frozen=True, eq=False)
class Voice:
    """A history prompt: semantic (n,), coarse (2, T) and fine (8, T), int64, and an optional name.

    The constructor raises ValueError, with advice, for a wrong type, shape or range, or lengths that do not
    match.
    """

    semantic: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    name: str | None = None
    tokens: TokenConfig = TokenConfig()  # id spaces and rates of the arrays

    def __post_init__(self) -> None:
        arrays = checked(self.arrays, self.tokens, str(self))
        for field, key in zip(("semantic", "coarse", "fine"), ARRAYS, strict=True):
            object.__setattr__(self, field, arrays[key])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays under Suno's names: `semantic_prompt`, `coarse_prompt` and `fine_prompt`."""
        return dict(zip(ARRAYS, (self.semantic, self.coarse, self.fine), strict=True))

    def __str__(self) -> str:
        return f"voice {self.name!r}" if self.name else "voice"

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], name: str | None = None, tokens: TokenConfig = TokenConfig()
    ) -> "Voice":
        """Make a Voice from a mapping with `semantic_prompt`, `coarse_prompt` and `fine_prompt`. Errors as in
        the constructor.
        """
        arrays = checked(arrays, tokens, f"voice {name!r}" if name else "voice")
        return cls(*arrays.values(), name=name, tokens=tokens)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike | bytes,
        tokens: TokenConfig = TokenConfig(),
        name: str | None = None,
    ) -> "Voice":
        """Read an `.npz` in Suno's layout, from a path or bytes.

        FileNotFoundError if there is no such file, ValueError if it is not a voice. No pickle is executed.
        """
        if isinstance(path, bytes):
            return cls.from_arrays(read_npz(path), name, tokens)
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no voice file {path}")
        return cls.from_arrays(read_npz(path), name or str(path), tokens)

    def save(self, path: str | os.PathLike) -> None:
        """Write an uncompressed `.npz` in Suno's layout (int64, int64, int32). OSError if that fails."""
        check_suffix(path)
        atomic.write_bytes(path, npz(self.arrays))


def check_suffix(path: str | os.PathLike) -> None:
    """ValueError unless `path` ends in .npz: other names are not recognised as voice files."""
    if not os.fspath(path).endswith(".npz"):
        raise ValueError(f"a voice's file must end in .npz, unlike {os.fspath(path)!r}")


def voices(language: str | None = None) -> list[str]:
    """Names of Suno's 261 voices, or of those for a language such as "en". ValueError if it is unknown."""
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
    """Names of the built-in model's voices, which speak English."""
    return names_in(BUILT_IN / "voices")


def voice_names(own: list[str], tokens: TokenConfig) -> list[str]:
    """Voice names that a model accepts: `own`, those of its checkpoint, and Suno's if it uses Bark's ids."""
    return list(dict.fromkeys([*own, *(voices() if tokens == TokenConfig() else [])]))


def unknown_voice(name: str, own: list[str], tokens: TokenConfig) -> ValueError:
    """Make the error for a name that is not in `voice_names(own, tokens)`: it suggests a similar name."""
    has = f"this model has {', '.join(own[:10])}{', ...' if len(own) > 10 else ''}"
    has = has if own else "this model has no named voices"
    if tokens != TokenConfig() and name in voices():
        models = " or ".join(SUNO_MODELS)
        return ValueError(f"voice {name!r} is one of Suno's and needs one of its models, {models}; {has}")
    near = difflib.get_close_matches(name, voice_names(own, tokens), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = "`barklite voices` lists them" if tokens == TokenConfig() else has
    return ValueError(f"unknown voice {name!r}{hint} ({listed}; a file must end in .npz)")

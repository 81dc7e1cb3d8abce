"""transformers' processor for Bark: turns texts and a voice into input of `BarkModel.generate` (spec 7.1)."""

import io
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from barklite.storage import atomic
from barklite.storage.formats import read_json
from barklite.storage.voices import ARRAYS, read_npy, read_npz
from barklite.text.tokenizer import Tokenizer

from .batch import BatchEncoding, BatchFeature
from .files import hub_options, locate, saving, warn_of, write_text
from .tokenizing import BarkTokenizer

DIMENSIONS = dict(zip(ARRAYS, (1, 2, 2), strict=True))


class BarkProcessor:
    """Turns texts into ids and voice names into arrays.

    tokenizer: a `BarkTokenizer`, or one of `barklite.text.tokenizer`. speaker_embeddings: {voice: {array:
    path}}, where "repo_or_path" is the directory or Hub id that paths are relative to (default "/").
    """

    def __init__(
        self, tokenizer: BarkTokenizer | Tokenizer | None = None, speaker_embeddings: Mapping | None = None
    ):
        self.tokenizer = tokenizer if isinstance(tokenizer, BarkTokenizer) else BarkTokenizer(tokenizer)
        self.speaker_embeddings = speaker_embeddings
        self._hub = {}  # Hub options from `from_pretrained`

    @classmethod
    def from_pretrained(
        cls,
        pretrained_processor_name_or_path: str | os.PathLike,
        speaker_embeddings_dict_path: str | None = "speaker_embeddings_path.json",
        **kwargs,
    ) -> "BarkProcessor":
        """Load from a directory in any layout that barklite reads, or a Hub id. Weights are not needed.

        speaker_embeddings_dict_path: the file that lists the voices; if it is missing, those in
        `voices/*.npz`, or none with a warning. None reads no voices. Keywords: `revision`,
        `local_files_only`, `cache_dir`, `force_download`, `token`, `subfolder`; others cause a warning.
        OSError or ValueError names the missing or bad file.
        """
        name, options = pretrained_processor_name_or_path, hub_options(kwargs)
        warn_of(f"{cls.__name__}.from_pretrained", kwargs)
        tokenizer, voices = BarkTokenizer.from_pretrained(name, **options), None
        if speaker_embeddings_dict_path is not None:
            index = locate(name, speaker_embeddings_dict_path, **options)
            voices = read_json(index) if index else _voice_files(Path(name, options.get("subfolder") or ""))
            if not (index or voices or tokenizer.native):
                warnings.warn(
                    f"{name} has no {speaker_embeddings_dict_path}: there are no voice presets "
                    "(speaker_embeddings_dict_path=None asks for none)",
                    stacklevel=2,
                )
        processor = cls(tokenizer, {**voices, "repo_or_path": os.fspath(name)} if voices else None)
        processor._hub = options
        return processor

    @property
    def available_voice_presets(self) -> list[str]:
        """Names of the voices."""
        return [name for name in self.speaker_embeddings or () if name != "repo_or_path"]

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        speaker_embeddings_dict_path: str = "speaker_embeddings_path.json",
        speaker_embeddings_directory: str = "speaker_embeddings",
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """Write the tokenizer, each voice as three `.npy` files, and a list of them, in transformers' layout.

        push_to_hub: also upload the directory, to `repo_id` (default: its name). OSError if writing, or
        reading a voice, fails.
        """
        with saving(save_directory, push_to_hub, **kwargs) as directory:
            self._save(directory, speaker_embeddings_dict_path, speaker_embeddings_directory)

    def _save(self, directory: Path, speaker_embeddings_dict_path: str, folder: str) -> None:
        self.tokenizer.save_pretrained(directory)
        if self.speaker_embeddings is None:
            return
        index = {"repo_or_path": os.fspath(directory)}
        for name in self.available_voice_presets:
            index[name] = {}
            for key, array in self._load_voice_preset(name).items():
                path = f"{folder}/{name}_{key}.npy"
                _check_inside(directory / folder, directory / path, name)
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                atomic.write_bytes(directory / path, buffer.getvalue())
                index[name][key] = path
        write_text(directory / speaker_embeddings_dict_path, json.dumps(index))

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        voice_preset: str | os.PathLike | Mapping[str, np.ndarray] | None = None,
        return_tensors: str | None = "pt",
        max_length: int | None = 256,
        add_special_tokens: bool = False,
        return_attention_mask: bool | None = True,
        return_token_type_ids: bool | None = False,
        **tokenizer_kwargs,
    ) -> BatchEncoding:
        """Return `input_ids` (B, max_length), padded with 0 on the right; `attention_mask`, 1 for text; and
        with a voice `history_prompt`, its arrays.

        text: one, or a list. One longer than `max_length` is not cut, unless `truncation=True`.
        voice_preset: a preset's name, an `.npz` file (the suffix is optional), or the three arrays.
        return_tensors: "pt", "np", or None for lists (of ids for one text, of lists for several).
        tokenizer_kwargs: `truncation`, and `padding_side` ("right" or "left").

        ValueError or TypeError for bad input; FileNotFoundError for a voice that is neither a preset nor a
        file.
        """
        voice = None if voice_preset is None else self._voice(voice_preset)
        if unknown := tokenizer_kwargs.keys() - {"truncation", "padding_side", "verbose"}:
            names = ", ".join(unknown)
            raise TypeError(
                f"the processor does not know {names}; it takes truncation and padding_side besides"
            )
        options = dict(padding="max_length", return_attention_mask=return_attention_mask)
        options |= dict(return_tensors=return_tensors, return_token_type_ids=bool(return_token_type_ids))
        options |= dict(max_length=max_length, add_special_tokens=add_special_tokens)
        encoding = self.tokenizer(text, **{**tokenizer_kwargs, **options})
        if voice is not None:
            encoding["history_prompt"] = BatchFeature(voice, tensor_type=return_tensors)
        return encoding

    def decode(self, *args, **kwargs) -> str:
        """Convert ids to text with the tokenizer."""
        return self.tokenizer.decode(*args, **kwargs)

    def batch_decode(self, *args, **kwargs) -> list[str]:
        return self.tokenizer.batch_decode(*args, **kwargs)

    def _voice(self, preset) -> dict[str, np.ndarray]:
        if isinstance(preset, str) and preset in self.available_voice_presets:
            return self._load_voice_preset(preset)
        if isinstance(preset, str):
            path = Path(preset if preset.endswith(".npz") else f"{preset}.npz")
            if not path.exists():
                n = len(self.available_voice_presets)
                raise FileNotFoundError(
                    f"voice {preset!r} is neither a file ({path}) nor one of the {n} presets, which "
                    "available_voice_presets lists"
                )
            preset = read_npz(path)
        elif isinstance(preset, os.PathLike):
            preset = read_npz(preset)
        if not isinstance(preset, Mapping):
            kind = type(preset).__name__
            raise TypeError(
                f"voice_preset is {kind}; give a preset's name, an .npz file, or a dict of arrays"
            )
        return {key: _checked(preset, key) for key in ARRAYS}

    def _load_voice_preset(self, name: str) -> dict[str, np.ndarray]:
        base, paths = self.speaker_embeddings.get("repo_or_path", "/"), self.speaker_embeddings[name]
        arrays = {}
        for key in ARRAYS:
            path = paths.get(key) if isinstance(paths, Mapping) else None
            if not isinstance(path, str):
                raise ValueError(f"voice preset {name!r} has no path for {key}; it needs {', '.join(ARRAYS)}")
            _check_inside(base, os.path.join(base, path), path)
            file = locate(base, path, **self._hub)
            if file is None:
                raise ValueError(f"voice preset {name!r}: {base} has no file {path}")
            arrays |= read_npz(file) if file.suffix == ".npz" else {key: read_npy(file)}
        return {key: _checked(arrays, key) for key in ARRAYS}


class AutoProcessor:
    """transformers' class that selects a checkpoint's processor; here always `BarkProcessor`."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> BarkProcessor:
        """Like `BarkProcessor.from_pretrained`."""
        return BarkProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)


AutoTokenizer = BarkTokenizer  # the only one


def _voice_files(folder: Path) -> dict[str, dict[str, str]]:
    """List the voices of barklite's and Suno's layouts in the form of Hugging Face's file."""
    files = sorted((folder / "voices").rglob("*.npz"))
    paths = {
        file.relative_to(folder / "voices").with_suffix("").as_posix(): file.relative_to(folder)
        for file in files
    }
    return {name: dict.fromkeys(ARRAYS, path.as_posix()) for name, path in paths.items()}


def _check_inside(base: str | os.PathLike, path: str | os.PathLike, named: str) -> None:
    """ValueError if `path` leads out of `base`. Symbolic links may, as in a Hub cache."""
    base, path = os.path.abspath(base), os.path.abspath(path)
    if os.path.commonpath([base, path]) != base:
        raise ValueError(f"voice preset: the path {named!r} leads out of {base}")


def _checked(arrays: Mapping, key: str) -> np.ndarray:
    """Check and copy one array of a voice. ValueError, or TypeError unless it is an array.

    Unsigned integers become int64, because PyTorch barely supports them; foreign byte orders become native.
    """
    if arrays.get(key) is None:
        raise ValueError(f"the voice has no {key}; it needs {', '.join(ARRAYS)}")
    array = arrays[key]
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{key} is {type(array).__name__}; it must be a NumPy array")
    if array.ndim != DIMENSIONS[key]:
        raise ValueError(f"{key} has {array.ndim} dimensions; it must have {DIMENSIONS[key]}")
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{key} is an array of {array.dtype}; it must hold whole numbers")
    return array.astype(np.int64 if array.dtype.kind == "u" else array.dtype.newbyteorder("="))

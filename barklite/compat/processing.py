"""transformers' processor for Bark: texts and a voice in, what `BarkModel.generate` takes out (spec 7.1)."""

import io
import json
import numbers
import os
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from barklite.storage import atomic
from barklite.storage.checkpoint import write_tokenizer
from barklite.storage.formats import VOCABULARY_HELP, read_json
from barklite.storage.voices import ARRAYS, read_npy, read_npz
from barklite.text.tokenizer import KINDS, Tokenizer, WordPiece
from weights_convert.huggingface import vocabulary

from .batch import BatchEncoding, BatchFeature, check_tensors
from .files import hub_options, locate, saving, write_text

PAD = 0  # the id that fills a row; the model puts its own in its place, by the mask
NOMINAL_LENGTH = 512  # the tokenizer's `model_max_length`, which `max_length=None` pads to
DIMENSIONS = dict(zip(ARRAYS, (1, 2, 2), strict=True))
TRUNCATION = {True: True, "longest_first": True, "only_first": True, False: False, None: False}
TRUNCATION["do_not_truncate"] = False
SPECIAL_TOKENS = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "mask", "pad", "sep", "unk")}
TOKENIZER_CONFIG = {
    **SPECIAL_TOKENS,
    "do_lower_case": False,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "model_max_length": NOMINAL_LENGTH,
    "tokenizer_class": "BertTokenizer",
    "processor_class": "BarkProcessor",
}


class BarkProcessor:
    """Texts to ids, names of voices to arrays.

    tokenizer: one of `barklite.text.tokenizer`'s. speaker_embeddings: {voice: {array: path}}, with
    "repo_or_path" for the directory or Hub id that the paths start from ("/" without it).
    """

    def __init__(self, tokenizer: Tokenizer, speaker_embeddings: Mapping | None = None):
        if not isinstance(tokenizer, Tokenizer):
            kinds = ", ".join(kind.__name__ for kind in KINDS.values())
            raise TypeError(
                f"tokenizer is {type(tokenizer).__name__}; give one of barklite.text.tokenizer: {kinds}"
            )
        self.tokenizer = tokenizer
        self.speaker_embeddings = speaker_embeddings
        self._hub = {}  # how `from_pretrained` was told to use the Hub

    @classmethod
    def from_pretrained(
        cls,
        pretrained_processor_name_or_path: str | os.PathLike,
        speaker_embeddings_dict_path: str | None = "speaker_embeddings_path.json",
        **kwargs,
    ) -> "BarkProcessor":
        """From a directory in any layout that barklite reads, or a Hub id; weights are not needed.

        speaker_embeddings_dict_path: the file that lists the voices, without which there are those of
        `voices/*.npz`, or none and a warning; None reads no voices. Keywords: `revision`, `local_files_only`,
        `cache_dir`, `force_download`, `token`, `subfolder`; others do nothing. OSError or ValueError says
        what is missing or wrong.
        """
        name, options = pretrained_processor_name_or_path, hub_options(kwargs)
        config = locate(name, "config.json", **options)
        config = read_json(config) if config else {}
        native = config.get("model_type") == "barklite"
        tokenizer = _load_tokenizer(name, config.get("tokenizer") if native else None, options)
        voices = None
        if speaker_embeddings_dict_path is not None:
            index = locate(name, speaker_embeddings_dict_path, **options)
            voices = read_json(index) if index else _voice_files(Path(name, options.get("subfolder") or ""))
            if not (index or voices or native):
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
        """The voices' names; [] if there are none."""
        return [name for name in self.speaker_embeddings or () if name != "repo_or_path"]

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        speaker_embeddings_dict_path: str = "speaker_embeddings_path.json",
        speaker_embeddings_directory: str = "speaker_embeddings",
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """Write the tokenizer, and every voice as three `.npy` files with a list of them.

        transformers loads the directory too. push_to_hub: upload it, to `repo_id` or its own name. OSError if
        something cannot be written, or a voice not be read.
        """
        with saving(save_directory, push_to_hub, **kwargs) as directory:
            self._save(directory, speaker_embeddings_dict_path, speaker_embeddings_directory)

    def _save(self, directory: Path, speaker_embeddings_dict_path: str, folder: str) -> None:
        if self.tokenizer.file_name is None:
            raise ValueError(f"{type(self.tokenizer).__name__} has no files that could be loaded again")
        write_tokenizer(directory, self.tokenizer)
        if isinstance(self.tokenizer, WordPiece):
            write_text(directory / "tokenizer_config.json", _dumps(TOKENIZER_CONFIG))
            write_text(directory / "special_tokens_map.json", _dumps(SPECIAL_TOKENS))
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
        """`input_ids` (B, max_length), zeros on the right; `attention_mask` 1 where there is text; and
        `history_prompt`, the voice's arrays, if there is one.

        text: one, or a list. A longer one than `max_length` stays whole, unless `truncation=True`.
        voice_preset: a preset's name, an `.npz` file (the suffix may be left out), or the three arrays.
        return_tensors: "pt", "np", or None for lists (for one text, of ids; for a list, of lists).
        tokenizer_kwargs: `truncation`, and `padding_side` ("right" or "left").

        ValueError or TypeError for a wrong input; FileNotFoundError for a voice that is neither preset nor
        file.
        """
        check_tensors(return_tensors)
        voice = None if voice_preset is None else self._voice(voice_preset)
        truncation = tokenizer_kwargs.pop("truncation", False)
        side = tokenizer_kwargs.pop("padding_side", None) or "right"
        tokenizer_kwargs.pop("verbose", None)
        if tokenizer_kwargs:
            unknown = ", ".join(tokenizer_kwargs)
            raise TypeError(
                f"the processor does not know {unknown}; it takes truncation and padding_side besides"
            )
        if truncation not in TRUNCATION:
            raise ValueError(f"truncation is {truncation!r}; choose True, False or 'longest_first'")
        if side not in ("right", "left"):
            raise ValueError(f"padding_side is {side!r}; choose 'right' or 'left'")
        if not (max_length is None or isinstance(max_length, numbers.Integral)):
            raise TypeError(f"max_length is {max_length!r}; it must be a whole number")
        length = NOMINAL_LENGTH if max_length is None else int(max_length)
        if length < 0:
            raise ValueError(f"max_length is {length}; it must be 0 or more")

        rows = [self._ids(one, add_special_tokens) for one in _texts(text)]
        if TRUNCATION[truncation]:
            rows = [_cut(ids, length, add_special_tokens) for ids in rows]
        if return_tensors and len(lengths := {max(length, len(ids)) for ids in rows}) > 1:
            raise ValueError(
                f"the texts have up to {max(lengths)} tokens, more than max_length={length}, and not all as "
                "many: pass truncation=True to cut them, or give shorter ones"
            )
        columns = {"input_ids": rows}
        if return_token_type_ids:
            columns["token_type_ids"] = [[0] * len(ids) for ids in rows]
        if return_attention_mask or return_attention_mask is None:
            columns["attention_mask"] = [[1] * len(ids) for ids in rows]
        for name, column in columns.items():
            pads = [[PAD] * (length - len(row)) for row in column]
            column = [
                row + pad if side == "right" else pad + row for row, pad in zip(column, pads, strict=True)
            ]
            single = isinstance(text, str) and not return_tensors
            columns[name] = np.array(column, np.int64) if return_tensors else column[0] if single else column
        encoding = BatchEncoding(columns, tensor_type=return_tensors)
        if voice is not None:
            encoding["history_prompt"] = BatchFeature(voice, tensor_type=return_tensors)
        return encoding

    def _ids(self, text: str, special: bool) -> list[int]:
        ids = self.tokenizer.encode(text)
        if not special:
            return ids
        if not isinstance(self.tokenizer, WordPiece):
            raise ValueError(f"add_special_tokens: {type(self.tokenizer).__name__} has no [CLS] and [SEP]")
        return [self.tokenizer.ids["[CLS]"], *ids, self.tokenizer.ids["[SEP]"]]

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
    """transformers' name for "the processor of this checkpoint": here a `BarkProcessor`."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> BarkProcessor:
        """As `BarkProcessor.from_pretrained`."""
        return BarkProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)


def _dumps(content: dict) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _load_tokenizer(name: str | os.PathLike, kind: str | None, options: dict) -> Tokenizer:
    """`kind` is what barklite's own `config.json` says; elsewhere the files do."""
    if kind == "bytes":
        return KINDS[kind].load()
    if kind not in ("sentencepiece", "english") and (file := locate(name, "vocab.txt", **options)):
        return WordPiece.load(file)
    if kind is None and (file := locate(name, "tokenizer.json", **options)):
        return WordPiece(vocabulary(read_json(file)))
    if kind != "wordpiece" and (file := locate(name, "tokenizer.model", **options)):
        return KINDS[kind or "sentencepiece"].load(file)
    if kind in ("sentencepiece", "english"):
        raise FileNotFoundError(f"{name} has no tokenizer.model")
    raise FileNotFoundError(f"{name} has neither vocab.txt nor tokenizer.json: {VOCABULARY_HELP}")


def _voice_files(folder: Path) -> dict[str, dict[str, str]]:
    """The voices of barklite's and Suno's layouts, in the form of Hugging Face's list."""
    files = sorted((folder / "voices").rglob("*.npz"))
    paths = {
        file.relative_to(folder / "voices").with_suffix("").as_posix(): file.relative_to(folder)
        for file in files
    }
    return {name: dict.fromkeys(ARRAYS, path.as_posix()) for name, path in paths.items()}


def _check_inside(base: str | os.PathLike, path: str | os.PathLike, named: str) -> None:
    """ValueError if `path` leads out of `base`, by its letters: links inside a Hub cache do lead out."""
    base, path = os.path.abspath(base), os.path.abspath(path)
    if os.path.commonpath([base, path]) != base:
        raise ValueError(f"voice preset: the path {named!r} leads out of {base}")


def _texts(text) -> Sequence[str]:
    """The texts of a call. ValueError or TypeError, as transformers has it, for what is none."""
    if isinstance(text, str):
        text = [text]
    if not isinstance(text, (list, tuple)) or not text or not isinstance(text[0], str):
        raise ValueError(f"text is {reprlib.repr(text)}; give a string, or a list with at least one string")
    for one in text:
        if not isinstance(one, str) or any("\ud800" <= character <= "\udfff" for character in one):
            raise TypeError(f"text {reprlib.repr(one)} is no string of whole characters")
    return text


def _cut(ids: list[int], length: int, special: bool) -> list[int]:
    if len(ids) <= length or (special and length < 2):
        return ids
    return [*ids[: length - 1], ids[-1]] if special else ids[:length]


def _checked(arrays: Mapping, key: str) -> np.ndarray:
    """A copy of one array of a voice; ValueError, or TypeError for what is no array.

    Its dtype is kept, but for unsigned ones, which PyTorch hardly computes with, and foreign byte orders.
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

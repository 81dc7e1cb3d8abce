"""Reads Bark checkpoints in three layouts: barklite's, Hugging Face's and Suno's.

Opening one reads its configuration and memory-maps its files. No pickle is ever executed.
"""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors
import torch
from torch import Tensor

from weights_convert import encodec, huggingface, suno

from ..config import BarkConfig, TokenConfig
from ..messages import first_line, shortened
from ..text.tokenizer import KINDS, Tokenizer, WordPiece, check_vocabulary
from . import atomic, voices
from .home import BUILT_IN
from .pickles import read_pickle
from .voices import ARRAYS

MAX_JSON = 2**26  # bytes; a tokenizer.json has 3 million
MODELS = ("semantic", "coarse", "fine", "codec")
ENCODEC_FILE = "encodec_24khz-d7cc33bc.th"
SUNO_FILES = {
    "large": ("text_2.pt", "coarse_2.pt", "fine_2.pt"),
    "small": ("text.pt", "coarse.pt", "fine.pt"),
}
VOCABULARY_HELP = "copy it from bert-base-multilingual-cased or from suno/bark, where it is the same"


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint directory, whose weights are not in memory yet.

    state(name) returns one model's state dict under barklite's keys, mapped from the file `origin(name)`.
    voice(name) reads and checks the three arrays of one of `voices`.
    """

    path: Path
    config: BarkConfig
    tokenizer: Tokenizer
    state: Callable[[str], dict[str, Tensor]]
    origin: Callable[[str], Path]
    voices: list[str]
    voice: Callable[[str], dict[str, np.ndarray]]


def open_checkpoint(path: str | os.PathLike, encoder: bool = False) -> Checkpoint:
    """Recognise a directory's layout and read its configuration.

    encoder: when converting EnCodec from another layout, include the encoder and all codebooks.
    FileNotFoundError or ValueError names the missing or bad file.
    """
    path = Path(path)
    with _errors_name(path):
        atomic.recover(path)
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is not a directory")
        if (path / "config.json").is_file():
            kind = read_json(path / "config.json").get("model_type")
            if kind == "barklite":
                return _open_native(path, encoder)
            if kind == "bark":
                return _open_huggingface(path, encoder)
            raise ValueError(
                f"{path / 'config.json'}: model_type is {kind!r:.99}, neither 'barklite' nor 'bark'"
            )
        if any((path / name).is_file() for names in SUNO_FILES.values() for name in names):
            return _open_suno(path, encoder)
    raise FileNotFoundError(
        f"{path} holds no checkpoint: it has neither config.json nor Suno's text_2.pt or text.pt"
    )


def open_built_in(encoder: bool = False) -> Checkpoint:
    """Open the built-in model. FileNotFoundError if the installation lacks one of its files."""
    try:
        return open_checkpoint(BUILT_IN, encoder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the built-in voice is not installed ({error}): install barklite again, "
            "or name a model such as suno/bark-small"
        ) from None


@contextlib.contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Turn any error but OSError and MemoryError into a ValueError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"{shortened(str(path))}: a file's name is too long") from None
        raise
    except MemoryError:
        raise
    except ValueError as error:
        reason = first_line(error)
        raise ValueError(reason if str(path) in reason else f"{path}: {reason}") from None
    except Exception as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {first_line(error)}") from error


def is_native(path: str | os.PathLike) -> bool:
    """Whether a directory is a barklite checkpoint."""
    try:
        return read_json(Path(path) / "config.json").get("model_type") == "barklite"
    except (OSError, ValueError):
        return False


def is_huggingface(path: str | os.PathLike) -> bool:
    """Whether a directory has a config.json that is not barklite's, so one of transformers."""
    return (Path(path) / "config.json").is_file() and not is_native(path)


# --- the three layouts --------------------------------------------------------------------------------------


def _open_native(path: Path, encoder: bool) -> Checkpoint:
    with _errors_name(path / "config.json"):
        config = BarkConfig.from_dict(read_json(path / "config.json"))
        if config.tokenizer not in KINDS:
            raise ValueError(f"tokenizer is {config.tokenizer!r:.99}, not one of {', '.join(KINDS)}")
    if encoder and not config.codec.encoder:
        raise ValueError(f"{path} has no encoder of the codec: convert the original again, with --encoder")
    kind = KINDS[config.tokenizer]
    tokenizer = kind.load(_existing(path / kind.file_name)) if kind.file_name else kind.load()
    check_vocabulary(tokenizer, config.tokens)
    files = {name: _existing(path / f"{name}.safetensors") for name in MODELS}
    return Checkpoint(
        path,
        config,
        tokenizer,
        state=lambda name: _dequantized(_read_safetensors(files[name]), files[name]),
        origin=files.__getitem__,
        **_voice_files(path / "voices", config.tokens),
    )


def _open_huggingface(path: Path, encoder: bool) -> Checkpoint:
    generation_file = path / "generation_config.json"
    generation = read_json(generation_file) if generation_file.is_file() else {}
    with _errors_name(path / "config.json"):
        config = huggingface.convert_config(read_json(path / "config.json"), generation)
    tokenizer = _wordpiece(path)
    check_vocabulary(tokenizer, config.tokens)

    joint, origin = read_huggingface(path)
    with _errors_name(origin):
        huggingface.check_prefixes(joint)

    @_errors_name(origin)
    def state(name: str) -> dict[str, Tensor]:
        if name == "codec":
            return huggingface.convert_codec(joint, config.codec, config.tokens.n_codebooks, encoder)[1]
        if name == "fine":
            return huggingface.convert_fine(joint, config.fine)
        return huggingface.convert_gpt(joint, getattr(config, name), name)

    n_codebooks = len(state("codec")["codebooks"])
    index = path / "speaker_embeddings_path.json"
    paths = huggingface_voices(index) if index.is_file() else {}
    held = {
        name: {array: path / arrays[array] for array in ARRAYS}
        for name, arrays in paths.items()
        if all((path / file).is_file() for file in arrays.values())
    }
    return Checkpoint(
        path,
        replace(config, codec=replace(config.codec, encoder=encoder, n_codebooks=n_codebooks)),
        tokenizer,
        state=state,
        origin=lambda name: origin,
        voices=sorted(held),
        voice=lambda name: read_huggingface_voice(held[name], name, config.tokens),
    )


def read_huggingface(path: Path) -> tuple[dict[str, Tensor], Path]:
    """Return a Hugging Face directory's state dict, mapped, and its file (the directory if sharded)."""
    files, joint = _huggingface_weights(path), {}
    for file in files:
        part = _read_tensors(file)
        if twice := sorted(joint.keys() & part.keys()):
            raise ValueError(f"{file}: tensor {twice[0]!r} is also in another shard")
        joint |= part
    return joint, files[0] if len(files) == 1 else path


def _open_suno(path: Path, encoder: bool) -> Checkpoint:
    def present(name: str) -> bool:
        return (path / name).is_file()

    size = next((size for size, names in SUNO_FILES.items() if all(map(present, names))), None)
    if size is None:
        size = next(size for size, names in SUNO_FILES.items() if any(map(present, names)))
        lacking = next(name for name in SUNO_FILES[size] if not present(name))
        raise FileNotFoundError(
            f"{path / lacking} is missing: Suno's {size} Bark is {', '.join(SUNO_FILES[size])}"
        )
    files = dict(zip(("semantic", "coarse", "fine"), (path / name for name in SUNO_FILES[size]), strict=True))
    codec_files = sorted(path.glob("encodec_24khz*.th"))
    files["codec"] = codec_files[0] if codec_files else _existing(path / ENCODEC_FILE)
    tokenizer, tokens = _wordpiece(path), TokenConfig()
    check_vocabulary(tokenizer, tokens)

    def read(name: str) -> tuple:
        with _errors_name(files[name]):
            content = read_pickle(files[name])
            if name == "codec":
                return encodec.convert(_tensors(content), n_codebooks=tokens.n_codebooks, encoder=encoder)
            if not all(isinstance(content.get(part), Mapping) for part in ("model", "model_args")):
                raise ValueError("it has no 'model' and 'model_args': it is not one of Suno's checkpoints")
            convert = suno.convert_fine if name == "fine" else suno.convert_gpt
            return convert(_tensors(content["model"]), content["model_args"])

    return Checkpoint(
        path,
        BarkConfig(**{name: read(name)[0] for name in MODELS}, tokens=tokens),
        tokenizer,
        state=lambda name: read(name)[1],
        origin=files.__getitem__,
        **_voice_files(path / "voices", tokens),
    )


def _voice_files(folder: Path, tokens: TokenConfig) -> dict:
    """Return the Checkpoint fields for a folder of `.npz` voices."""
    return {
        "voices": voices.names_in(folder),
        "voice": lambda name: voices.checked(
            voices.read_npz(folder / f"{name}.npz"), tokens, f"voice {name!r}"
        ),
    }


def huggingface_voices(index: Path) -> dict[str, dict[str, str]]:
    """Read `speaker_embeddings_path.json`: {voice: {array: path relative to the checkpoint}}."""
    with _errors_name(index):
        return huggingface.voice_paths(read_json(index))


def read_huggingface_voice(
    files: Mapping[str, Path], name: str, tokens: TokenConfig
) -> dict[str, np.ndarray]:
    """Read and check the arrays of a voice from its three `.npy` files."""
    arrays = {key: voices.read_npy(path) for key, path in files.items()}
    return voices.checked(arrays, tokens, f"voice {name!r}")


# --- files --------------------------------------------------------------------------------------------------


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    return path


def read_json(path: Path) -> dict:
    """Read a JSON object from a file. ValueError if it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= MAX_JSON else None
    except ValueError as error:  # includes JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{path} is not JSON: {first_line(error)}") from None
    except RecursionError:
        raise ValueError(f"{path} is not valid JSON: it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object")
    return content


def _wordpiece(path: Path) -> WordPiece:
    if (path / "vocab.txt").is_file():
        return WordPiece.load(path / "vocab.txt")
    file = path / "tokenizer.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path / 'vocab.txt'} is missing: {VOCABULARY_HELP}")
    with _errors_name(file):
        return WordPiece(huggingface.vocabulary(read_json(file)))


def _huggingface_weights(path: Path) -> list[Path]:
    """Return the weight file or shards of a Hugging Face checkpoint."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return [path / name]
        index = path / f"{name}.index.json"
        if index.is_file():
            shards = read_json(index).get("weight_map")
            if not (isinstance(shards, dict) and shards and all(isinstance(s, str) for s in shards.values())):
                raise ValueError(f"{index} has no weight_map")
            if bad := [s for s in shards.values() if Path(s).name != s or not s.isprintable()]:
                raise ValueError(f"{index}: {bad[0]!r:.99} is not the name of a file in the checkpoint")
            return [_existing(path / shard) for shard in sorted(set(shards.values()))]
    raise FileNotFoundError(f"{path / 'model.safetensors'} is missing, and so is pytorch_model.bin")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    return _read_safetensors(path) if path.suffix == ".safetensors" else _tensors(read_pickle(path))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a file, memory-mapped."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is not a dict)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # SafetensorError, or another for a dtype that this PyTorch lacks
        raise ValueError(f"{path} is not a whole safetensors file: {first_line(error)}") from None


def round_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize (out, in) to int8 and float32 scales (out,): the largest value of a row becomes 127."""
    rounded, scales = torch.empty_like(weight, dtype=torch.int8), []
    for part, into in zip(weight.detach().split(256), rounded.split(256), strict=True):  # saves memory
        part = part.float()
        scale = part.abs().amax(-1).clamp(min=1e-30) / 127
        into.copy_((part / scale[:, None]).round())
        scales.append(scale)
    return rounded, torch.cat(scales)


def _dequantized(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A state with int8 tensors and their scales per row (`x.scale`), in float32; another one as it is."""
    rounded = [key for key, tensor in state.items() if tensor.dtype == torch.int8]
    for key in rounded:
        scale = state.pop(f"{key}.scale", None)
        if scale is None or scale.shape != state[key].shape[:1]:
            raise ValueError(f"{path}: tensor {key!r} is int8 and needs {key}.scale, one number per row")
        state[key] = state[key].float() * scale.float().view(-1, *[1] * (state[key].ndim - 1))
    return {key: tensor.float() for key, tensor in state.items()} if rounded else state


def _tensors(content: Mapping) -> dict[str, Tensor]:
    for key, value in content.items():
        if not (isinstance(value, Tensor) and isinstance(key, str)):
            raise ValueError(f"entry {key!r:.99} is not a tensor")
    return dict(content)

"""Builds models from checkpoints, strictly, and writes checkpoint directories in barklite's layout.

Files are memory-mapped and models are built on the meta device, so loading makes no second copy of weights.
"""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import BarkConfig
from ..messages import first_line
from ..models.codec import Codec
from ..models.fine import FineGPT
from ..models.gpt import GPT
from ..text.tokenizer import KINDS, Tokenizer
from ..validation import DTYPES
from . import atomic, home
from .formats import Checkpoint, is_native, open_checkpoint, round_rows
from .voices import npz

LARGE = 2**18  # numbers of a convolution that `write_model` rounds to int8
MODELS: dict[str, type[nn.Module]] = {"semantic": GPT, "coarse": GPT, "fine": FineGPT, "codec": Codec}


def load_model(
    checkpoint: Checkpoint, name: str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> nn.Module:
    """Load "semantic", "coarse", "fine" or "codec", in eval mode. dtype None keeps the file's."""
    state = checkpoint.state(name)
    check_state(checkpoint, name, state)
    model = blueprint(checkpoint.config, name)
    state = {key: tensor.to(device, dtype) for key, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def random_model(config: BarkConfig, name: str, generator: torch.Generator) -> nn.Module:
    """Build one model with random weights on the CPU, in eval mode; see `initialise`."""
    model = blueprint(config, name)
    model.to_empty(device="cpu")
    initialise(model, generator)
    return model.eval()


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator | None = None, std: float | None = None) -> None:
    """Draw random weights. std: of all matrices; None is 1 / sqrt(inputs), which preserves variance."""
    for key, parameter in model.named_parameters():
        if key == "codebooks":
            parameter.normal_(generator=generator)
        elif parameter.ndim == 1:
            parameter.fill_(1.0 if key.endswith("weight") else 0.0)
        else:
            parameter.normal_(std=std or parameter[0].numel() ** -0.5, generator=generator)


def check_state(checkpoint: Checkpoint, name: str, state: Mapping[str, Tensor], tick=lambda n: None) -> None:
    """ValueError, naming file and key, unless `state` has the model's keys and shapes and finite values."""
    expected = blueprint(checkpoint.config, name).state_dict()
    check_tensors(checkpoint.origin(name), state, expected, tick)


def blueprint(config: BarkConfig, name: str) -> nn.Module:
    """Build a model on the meta device. ValueError if its sizes overflow."""
    try:
        with torch.device("meta"):
            return MODELS[name](getattr(config, name))
    except (RuntimeError, OverflowError) as error:
        raise ValueError(f"the {name} model's sizes are out of range: {first_line(error)}") from None


def check_tensors(
    path: Path | str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], tick=lambda n: None
) -> None:
    """ValueError, naming `path` and a key, unless `state` is finite with the keys and shapes of `expected`.

    tick: called with the number of values of each tensor, for a progress bar.
    """
    if missing := [key for key in expected if key not in state]:
        raise ValueError(f"{path}: tensor {missing[0]!r} is missing")
    if unknown := [key for key in state if key not in expected]:
        raise ValueError(f"{path}: tensor {unknown[0]!r} is not part of this model")
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise ValueError(
                f"{path}: tensor {key!r} has shape {tuple(tensor.shape)}, not {tuple(expected[key].shape)}"
            )
        if tensor.dtype not in DTYPES.values():
            raise ValueError(f"{path}: tensor {key!r} is {tensor.dtype}, not one of {', '.join(DTYPES)}")
        if not all(bool(bound.isfinite()) for bound in tensor.aminmax()):  # one fast pass; NaN propagates
            raise ValueError(f"{path}: tensor {key!r} has values that are not finite")
        tick(tensor.numel())


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    dtype: torch.dtype | None = None,
    encoder: bool = False,
    force: bool = False,
    progress: bool | None = False,
    sealed: bool = False,
) -> None:
    """Convert the checkpoint in directory `source`, in any layout, to a barklite checkpoint `target`.

    dtype: of the three token models; the codec keeps its own. force: replace a `target` that is a barklite
    checkpoint. progress: a bar on stderr (None: only on a terminal). sealed: add a manifest, for the cache.
    The write is atomic, with one model in memory at a time. Raises FileNotFoundError, FileExistsError,
    another OSError such as that of a full disk, or ValueError.
    """
    from tqdm import tqdm

    checkpoint = open_checkpoint(source, encoder)
    with new_directory(target, force) as directory:
        disable = None if progress is None else not progress
        total = sum(n_parameters(name, checkpoint.config) for name in MODELS)
        with tqdm(
            total=total, unit=" parameters", unit_scale=True, desc="converting", disable=disable
        ) as bar:
            for name in MODELS:
                state = checkpoint.state(name)
                check_state(checkpoint, name, state, bar.update)
                write_model(directory, name, state, None if name == "codec" else dtype)
                del state
        voices = {name: checkpoint.voice(name) for name in checkpoint.voices}
        write_rest(directory, checkpoint.config, checkpoint.tokenizer, voices)
        if sealed:
            home.seal(directory)


def write_model(
    directory: Path, name: str, state: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> None:
    """Write `directory/name.safetensors`. int8: matrices and large convolutions in int8, with a scale for
    each index of their first dimension; the rest float16.
    """
    tensors = {}
    for key, tensor in state.items():
        large = tensor.ndim == 2 or (tensor.ndim == 3 and tensor.numel() >= LARGE and key != "codebooks")
        if dtype == torch.int8 and large:
            rows, tensors[f"{key}.scale"] = round_rows(tensor.detach().cpu().flatten(1))
            tensors[key] = rows.view(tensor.shape)
        else:
            kind = torch.float16 if dtype == torch.int8 else dtype
            tensors[key] = tensor.detach().to("cpu", kind).contiguous()
    save_tensors(tensors, directory / f"{name}.safetensors")


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file. OSError, for example if the disk is full."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        code = re.search(r"(?:code:|os error) (\d+)", str(error))
        number = int(code[1]) if code else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from None
    path.chmod(path.parent.stat().st_mode & 0o666)  # some safetensors versions write with mode 600


def write_rest(
    directory: Path, config: BarkConfig, tokenizer: Tokenizer, voices: Mapping[str, Mapping[str, np.ndarray]]
) -> None:
    """Write everything but the weights. voices: {name: its three arrays}."""
    write_tokenizer(directory, tokenizer)
    for name, arrays in voices.items():
        path = directory / "voices" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(npz(arrays))
    (directory / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")


def write_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """Write the tokenizer's file, if it has one."""
    if tokenizer.file_name:
        atomic.write_bytes(directory / tokenizer.file_name, tokenizer.content())


@contextlib.contextmanager
def new_directory(path: str | os.PathLike, force: bool) -> Iterator[Path]:
    """`atomic.directory` for a checkpoint. force: replace an existing checkpoint, but keep its voices."""
    replaces = force and is_replaceable(path)
    with atomic.directory(path, replaces) as directory:
        for file in (Path(path) / "voices").rglob("*") if replaces else ():
            if file.is_file():
                copy = directory / file.relative_to(path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        yield directory


def is_replaceable(path: str | os.PathLike) -> bool:
    """Whether a directory is a barklite checkpoint without foreign files."""
    ours = {
        "config.json",
        "voices",
        home.MANIFEST,
        *(f"{name}.safetensors" for name in MODELS),
        *(k.file_name for k in KINDS.values()),
    }
    return is_native(path) and all(entry.name in ours for entry in Path(path).iterdir())


def n_parameters(name: str, config: BarkConfig) -> int:
    """Count a model's parameters without memory for them. ValueError if its sizes overflow."""
    return sum(tensor.numel() for tensor in blueprint(config, name).state_dict().values())

"""What callers give, checked at the door: texts, rows of tokens, devices, dtypes."""

import numbers
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Rows = Sequence[Tensor | np.ndarray]


def check_text(text: str) -> None:
    """ValueError unless `text` is a string of whole characters with something in it to speak."""
    if not isinstance(text, str):
        raise ValueError(f"a text must be a string, not {type(text).__name__}")
    for i, character in enumerate(text):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            kind = "a NUL character" if character == "\0" else f"the lone surrogate U+{ord(character):04X}"
            raise ValueError(f"the text {shortened(text)} has {kind} at position {i}: it is not valid text")
    if not text.strip():
        raise ValueError("the text is empty: there is nothing to speak")


def shortened(text: str) -> str:
    """A text as an error message quotes it."""
    return ascii(text) if len(text) <= 40 else f"{ascii(text[:37])[:-1]}...'"


def first_line(error: Exception) -> str:
    """What a longer message of PyTorch's begins with; its class where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def one_a_row(given: Sequence | None, n: int, what: str) -> list:
    """`given` as a list of n, [None, ...] for None; ValueError for another length."""
    if given is None:
        return [None] * n
    if isinstance(given, str) or not isinstance(given, (Sequence, np.ndarray)):
        raise ValueError(f"{what} must be a list with one entry a row, not {given!r}")
    if len(given) != n:
        raise ValueError(f"{what} has {len(given)} entries for {n} rows")
    return list(given)


def token_rows(
    rows: Rows, what: str, codebooks: range | None, size: int, device: torch.device
) -> list[Tensor]:
    """Rows of token ids as int64 on `device`: (N,) where `codebooks` is None, else (k, T) with k in that
    range.

    ValueError for another type or shape, or ids outside 0 .. size - 1.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise ValueError(f"give a list with one {what} an entry, not {type(rows).__name__}")
    checked = []
    for i, given in enumerate(rows):
        try:
            if isinstance(given, np.ndarray):  # of any byte order and strides
                given = given.astype(given.dtype.newbyteorder("="))
            row = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{what} {i} is no tensor or array of integers") from None
        if row.is_floating_point() or row.is_complex() or row.dtype == torch.bool:
            raise ValueError(f"{what} {i} is {row.dtype}; it must hold integers")
        if codebooks is None and row.ndim != 1:
            raise ValueError(f"{what} {i} has shape {tuple(row.shape)}; it must be (N,)")
        if codebooks is not None and (row.ndim != 2 or row.shape[0] not in codebooks):
            wanted = f"(k, T) with k from {codebooks.start} to {codebooks.stop - 1}"
            raise ValueError(f"{what} {i} has shape {tuple(row.shape)}; it must be {wanted}")
        row = row.to(device, torch.long)
        if row.numel() and not 0 <= int(row.min()) <= int(row.max()) < size:
            raise ValueError(f"{what} {i} has values outside 0 .. {size - 1}")
        checked.append(row)
    return checked


def pick_device(device: torch.device | str | None) -> torch.device:
    """None is CUDA, else MPS, else the CPU; ValueError for a device that is not there."""
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except Exception as error:  # each backend that is missing has its own class
        raise ValueError(f"device {str(device)!r} cannot be used here: {first_line(error)}") from None
    if picked.type == "meta":
        raise ValueError("device 'meta' holds no numbers: nothing can be computed there")
    return picked


def is_seconds(value: float) -> bool:
    """Whether `value` is a time that can be asked for."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 <= value <= 3600


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be had on a device now; None where nobody says."""
    if device.type == "cuda":
        ours = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + ours
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024 if device.type == "cpu" else None
    except (OSError, KeyError, ValueError):
        return None


def pick_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype by itself or by name; ValueError for one that barklite does not compute in."""
    if dtype is None or dtype in DTYPES.values():
        return dtype
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[dtype]

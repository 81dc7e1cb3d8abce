"""Checks the arguments of public calls: texts, token rows, audio, devices, dtypes."""

import io
import math
import numbers
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .config import BarkConfig
from .messages import first_line, shortened

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Rows = Sequence[Tensor | np.ndarray]


def check_text(text: str) -> None:
    """ValueError unless `text` is a valid Unicode string that is not blank."""
    if not isinstance(text, str):
        raise ValueError(f"a text must be a string, not {type(text).__name__}")
    for i, character in enumerate(text):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            kind = "a NUL character" if character == "\0" else f"the lone surrogate U+{ord(character):04X}"
            raise ValueError(f"the text {shortened(text)} has {kind} at position {i}: it is not valid text")
    if not text.strip():
        raise ValueError("the text is empty: there is nothing to speak")


def one_a_row(given: Sequence | None, n: int, what: str) -> list:
    """Return `given` as a list of n entries, n times None for None. ValueError for another length."""
    if given is None:
        return [None] * n
    if isinstance(given, str) or not isinstance(given, (Sequence, np.ndarray)):
        raise ValueError(f"{what} must be a list with one entry for each row, not {given!r}")
    if len(given) != n:
        raise ValueError(f"{what} has {len(given)} entries for {n} rows")
    return list(given)


def token_rows(
    rows: Rows, what: str, codebooks: range | None, size: int, device: torch.device
) -> list[Tensor]:
    """Check rows of token ids and return them as int64 on `device`.

    A row is (N,) if `codebooks` is None, else (k, T) with k in `codebooks`. ValueError for another type or
    shape, or ids outside 0 .. size - 1.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise ValueError(f"give a list with one {what} for each entry, not {type(rows).__name__}")
    checked = []
    for i, given in enumerate(rows):
        try:
            if isinstance(given, np.ndarray):  # torch needs native byte order and positive strides
                given = given.astype(given.dtype.newbyteorder("="))
            row = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{what} {i} is not a tensor or array of integers") from None
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


def tokens_to_score(
    given: Sequence, config: BarkConfig, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Check the tokens for `Bark.score`. Return (semantic (N,), codes (2 or 8, T)), int64 on `device`; one of
    them may be None. Errors as in `Bark.score`.
    """
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise ValueError(f"give a Clip, or (semantic, codes), not {type(given).__name__}")
    semantic, codes, t = *given, config.tokens
    if semantic is not None:
        (semantic,) = token_rows([semantic], "semantic row", None, t.semantic_vocab_size, device)
        if len(semantic) > config.max_semantic_tokens:
            most = config.max_semantic_tokens
            raise ValueError(f"{len(semantic)} semantic tokens are too many: this model makes at most {most}")
    if codes is not None:
        books = range(t.n_coarse, t.n_codebooks + 1)
        (codes,) = token_rows([codes], "codes row", books, t.codebook_size, device)
        if len(codes) not in (t.n_coarse, t.n_codebooks):
            raise ValueError(f"codes have {len(codes)} codebooks; give {t.n_coarse} or {t.n_codebooks}")
        if semantic is not None and codes.shape[1] * t.n_coarse != t.coarse_steps(len(semantic)):
            wanted = t.coarse_steps(len(semantic)) // t.n_coarse
            raise ValueError(
                f"codes have {codes.shape[1]} frames; {len(semantic)} semantic tokens make {wanted}"
            )
    if semantic is None and (codes is None or len(codes) < t.n_codebooks):
        raise ValueError("there is nothing to score: give semantic tokens, or codes of all codebooks")
    return semantic, codes


def mono(audio: np.ndarray | Tensor | str | os.PathLike, sample_rate: int | None, wanted: int) -> Tensor:
    """Return audio, or the content of a WAV file, as float32 (samples,) at `wanted` Hz; see `Bark.encode`.

    FileNotFoundError if there is no such file, ValueError for bad audio.
    """
    if isinstance(audio, (str, os.PathLike)):
        if sample_rate is not None:
            raise ValueError("a sample_rate belongs to an array: a WAV file has its own")
        sample_rate, audio = _read_wav(os.fspath(audio))
    sample_rate = wanted if sample_rate is None else sample_rate
    if not isinstance(sample_rate, numbers.Integral) or not 1000 <= sample_rate <= 1_000_000:
        raise ValueError(f"sample_rate is {sample_rate!r}; it must be a whole number from 1000 to 1000000")
    if isinstance(audio, Tensor) and audio.is_floating_point():
        audio = audio.double()  # NumPy has no bfloat16
    sound = audio.detach().cpu().numpy() if isinstance(audio, Tensor) else audio
    if not isinstance(sound, np.ndarray) or sound.ndim != 1:
        shape = sound.shape if isinstance(sound, np.ndarray) else type(sound).__name__
        raise ValueError(f"audio must be an array of shape (samples,), one channel, not {shape}")
    if sound.dtype.kind != "f" and sound.dtype.str[1:] not in ("u1", "i2", "i4"):
        raise ValueError(f"audio is {sound.dtype}; samples must be float, int16, int32 or uint8")
    with np.errstate(over="ignore"):  # checked below
        sound = _floats(sound).astype(np.float32)
    if not np.isfinite(sound).all():
        raise ValueError("audio has samples that are not finite")
    if (peak := float(np.abs(sound).max(initial=0))) > 100:
        raise ValueError(f"audio reaches {peak:g}; floats must lie in [-1, 1]: divide by the full scale")
    if sample_rate != wanted and len(sound):
        from scipy.signal import resample_poly

        common = math.gcd(int(sample_rate), wanted)
        sound = resample_poly(sound, wanted // common, sample_rate // common)
    return torch.from_numpy(sound)


def _floats(sound: np.ndarray) -> np.ndarray:
    """Convert PCM integers to floats in [-1, 1]. The zero of unsigned PCM is the middle of its range."""
    if sound.dtype.kind not in "iu":
        return sound
    half = 1 << 8 * sound.dtype.itemsize - 1
    return (sound.astype(np.float64) - (half if sound.dtype.kind == "u" else 0)) / half


def _read_wav(path: str) -> tuple[int, np.ndarray]:
    """Read a WAV file: (sample rate, audio (samples,)), channels averaged."""
    import scipy.io.wavfile

    if Path(path).is_char_device() or Path(path).is_fifo():  # reading it may never end
        raise ValueError(f"{path} is not a WAV file")
    data = Path(path).read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scipy.io.wavfile.WavFileWarning)  # unknown chunks
            warnings.filterwarnings("error", "Reached EOF", scipy.io.wavfile.WavFileWarning)
            rate, sound = scipy.io.wavfile.read(io.BytesIO(data))  # allocates only for bytes that are there
    except Exception as error:  # a damaged header can raise almost any error in scipy
        raise ValueError(f"{path} is not a whole WAV file: {first_line(error)}") from None
    sound = _floats(sound)
    return rate, sound if sound.ndim == 1 else sound.astype(np.float64).mean(1)


def pick_device(device: torch.device | str | None) -> torch.device:
    """Return the device; None picks CUDA, else MPS, else the CPU. ValueError if it is not available."""
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except Exception as error:  # each missing backend raises its own class
        raise ValueError(f"device {str(device)!r} cannot be used here: {first_line(error)}") from None
    if picked.type == "meta":
        raise ValueError("device 'meta' cannot compute: its tensors have no values")
    return picked


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes on a device, or None if they are unknown."""
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
    """Return the dtype for a dtype or its name, None for None. ValueError for one that is not supported."""
    if dtype is None or dtype in DTYPES.values():
        return dtype
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[dtype]

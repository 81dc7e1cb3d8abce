"""Reads files of `torch.save` without unpickling them.

A pickle is a program. This interpreter handles the opcodes that `torch.save` writes and calls no function: it
builds containers, numbers, strings, and tensors that view the memory-mapped file, with checked bounds.
"""

import io
import os
import pickletools
import reprlib
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..messages import first_line

MAX_PROGRAM = 2**26  # bytes of the pickle without the weights; Suno's have half a million
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
DTYPES = {
    f"torch {name}Storage": getattr(torch, dtype)
    for name, dtype in (
        ("Float", "float32"), ("Double", "float64"), ("Half", "float16"), ("BFloat16", "bfloat16"),
        ("Long", "int64"), ("Int", "int32"), ("Short", "int16"), ("Char", "int8"), ("Byte", "uint8"),
        ("Bool", "bool"),
    )
}  # fmt: skip
REBUILD, PARAMETER, DICT = (
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict",
)  # fmt: skip
INERT = {  # Suno's files store a loss with these; they become `Inert`
    "_codecs encode", "numpy dtype", "numpy.core.multiarray scalar", "numpy._core.multiarray scalar",
}  # fmt: skip
KNOWN = {*DTYPES, *INERT, REBUILD, PARAMETER, DICT}
PUSH = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "SHORT_BINBYTES", "BINBYTES",
}  # fmt: skip
CONSTANTS = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict,
}  # fmt: skip


class Name(str):
    """The name of a global that a pickle refers to."""


class Inert:
    """Placeholder for an object that is not needed."""


@dataclass(frozen=True)
class Storage:
    """A storage in the file, memory-mapped."""

    data: torch.UntypedStorage
    dtype: torch.dtype

    def tensor(self, offset: int, size: tuple, stride: tuple) -> Tensor:
        """Return a view. ValueError if its elements overlap or exceed the storage."""
        whole = all(type(n) is int and 0 <= n < 2**48 for n in (offset, *size, *stride))
        if not whole or 0 in size or len(size) > 8:
            raise ValueError(f"a tensor of size {reprlib.repr(size)} and stride {reprlib.repr(stride)}")
        extent = 1  # positions from its first element to its last
        for step, n in sorted((step, n) for n, step in zip(size, stride, strict=True) if n > 1):
            if step < extent:
                raise ValueError(f"a tensor of size {size} and stride {stride} overlaps itself")
            extent += step * (n - 1)
        if (offset + extent) * self.dtype.itemsize > len(self.data):
            raise ValueError(f"a tensor of size {size} and stride {stride} does not fit its storage")
        return torch.empty(0, dtype=self.dtype).set_(self.data, offset, size, stride)


def read_pickle(path: Path) -> dict:
    """Read the dict in a file of `torch.save`, its tensors mapped. OSError, or ValueError naming `path`."""
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                content = _read(path, file, archive)
        except Forbidden as error:
            raise ValueError(
                f"{path} holds {error}, which is not a tensor: it was not loaded, because it could run code"
            ) from None
        except MemoryError:
            raise
        except Exception as error:  # nonsense opcodes can raise any error
            file.seek(0)
            if file.read(len(OLD_FORMAT)) == OLD_FORMAT:
                raise ValueError(
                    f"{path} is in the format of PyTorch before 1.6: load and save it with a newer PyTorch"
                ) from None
            known = isinstance(error, (ValueError, zipfile.BadZipFile))
            reason = first_line(error) if known else type(error).__name__
            raise ValueError(f"{path} is not a whole PyTorch file: {reason}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, not a dict of tensors")
    return content


class Forbidden(Exception):
    """The pickle refers to something that is neither a tensor nor a plain container."""


def _read(path: Path, file: io.BufferedReader, archive: zipfile.ZipFile) -> object:
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    size = os.fstat(file.fileno()).st_size
    if members["data.pkl"].file_size > MAX_PROGRAM:
        raise ValueError(f"its pickle has {members['data.pkl'].file_size:,} bytes")
    if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
        raise ValueError("its byte order is not little-endian")
    mapped = torch.UntypedStorage.from_file(os.fspath(path), False, size)

    def storage(kind: str, name: Name, key: str, location: str, count: int) -> Storage:
        info, dtype = members[f"data/{key}"], DTYPES[name]
        if kind != "storage" or info.compress_type or info.file_size != count * dtype.itemsize:
            raise ValueError(f"the storage {key!r} is not as large as declared")
        file.seek(info.header_offset + 26)  # the lengths of name and extra field in the local file header
        start = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
        if start % dtype.itemsize or start + info.file_size > size:
            raise ValueError(f"the storage {key!r} is truncated or unaligned")
        return Storage(mapped[start : start + info.file_size], dtype)

    return _run(archive.read(members["data.pkl"]), storage)


def _run(program: bytes, storage: Callable[..., Storage]) -> object:
    """Interpret a pickle and return its object. Any exception if it is malformed."""
    stack, marks, memo = [], [], {}

    def popped() -> list:
        """Pop everything above the last mark."""
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, given, _ in pickletools.genops(program):
        name = opcode.name
        if name in PUSH:
            stack.append(given)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(popped()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(name[-1])
            stack[-n:] = [tuple(stack[-n:])]
        elif name in ("APPEND", "APPENDS"):
            items = popped() if name == "APPENDS" else [stack.pop()]
            _checked(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = popped() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            for key, value in zip(items[::2], items[1::2], strict=True):
                _checked(stack[-1], dict)[_checked(key, str, int, float, type(None))] = value
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[given] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[given])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            called = given if name == "GLOBAL" else f"{stack.pop(-2)} {stack.pop()}"
            if called not in KNOWN:
                raise Forbidden(reprlib.repr(called.replace(" ", ".")).strip("'"))
            stack.append(Name(called))
        elif name == "BINPERSID":
            stack.append(storage(*stack.pop()))
        elif name == "REDUCE":
            arguments = _checked(stack.pop(), tuple)
            stack.append(_made(_checked(stack.pop(), Name), arguments))
        elif name == "BUILD":  # drops a state dict's metadata and a dtype's byte order
            stack.pop()
            _checked(stack[-1], dict, Inert)
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise Forbidden(f"the instruction {name}")


def _made(name: Name, arguments: tuple) -> object:
    """Return the result that calling `name` would have."""
    if name == REBUILD:
        data, offset, size, stride, _, _, *views = arguments
        if any(views):
            raise ValueError("a tensor is a conjugate or negative view")
        return _checked(data, Storage).tensor(offset, _checked(size, tuple), _checked(stride, tuple))
    if name == PARAMETER:
        return _checked(arguments[0], Tensor)
    if name == DICT and arguments == ():
        return {}
    if name in INERT:
        return Inert()
    raise Forbidden(f"a call of {name}")


def _checked(value: object, *kinds: type) -> object:
    if not isinstance(value, kinds):
        raise ValueError(f"found {type(value).__name__} instead of {kinds[0].__name__}")
    return value

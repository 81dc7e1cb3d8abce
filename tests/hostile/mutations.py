"""Damage with a structure: of bytes, JSON, NumPy arrays, archives, pickles, safetensors and WAV files.

Each function takes a `random.Random` first and depends on nothing else, so a case can be made again.
"""

import ast
import io
import json
import os
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

NUMBERS = (-1, 0, 1, 2, 3, 7, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63)
NUMBERS += (2**64, 10**18, 10**25, -(2**31), -(2**63))
DEEP = 100_000
OUTSIDE = ("../sentinel/secret.txt", "../sentinel/voice.npz", "/etc/passwd", "..", "/", "a/../../sentinel/x")
NAMES = (
    "__dict__",
    "__class__",
    "__init__",
    "__post_init__",
    "self",
    "cls",
    "",
    "a\nb",
    "\0",
    "x" * 300,
    "é",
)


def put(path: Path, content: bytes | str) -> None:
    """Replace a file; it may be a link to one that other cases need."""
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


def one_of(rng: Random, *weighted: tuple[int, Callable]) -> Callable:
    """One of the functions, by their weights."""
    return rng.choices([function for _, function in weighted], [weight for weight, _ in weighted])[0]


# --- bytes ------------------------------------------------------------------------------------------------


def damaged(rng: Random, content: bytes, most: int = 16) -> bytes:
    """A few bytes changed, inserted or lost; now and then the whole of it."""
    out = bytearray(content)
    if rng.random() < 0.05:
        return rng.choice(
            (b"", b"\0", b"{}", b"PK\3\4", b"\x80\2.", rng.randbytes(rng.randrange(200)), content * 2)
        )
    for _ in range(rng.choice((1, 1, 1, 2, 4, most))):
        start = rng.randrange(len(out) + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 64, 4096)), len(out) - start)
        kind = rng.randrange(8)
        if kind == 0:
            del out[start:]
        elif kind == 1:
            del out[start : start + length]
        elif kind == 2:
            out[start:start] = rng.randbytes(length)
        elif kind == 3:
            out[start:start] = out[start : start + length]
        elif kind == 4 and length:
            out[start] ^= 1 << rng.randrange(8)
        elif kind == 5:
            out[start : start + length] = bytes([rng.choice((0, 255, 127, 128, 10, 46))]) * length
        elif kind == 6:
            size, order = rng.choice((2, 4, 8)), rng.choice(("little", "big"))
            out[start : start + size] = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, order)
        else:
            out[start : start + length] = rng.randbytes(length)
    return bytes(out)


# --- JSON -------------------------------------------------------------------------------------------------

VALUES = [str(n) for n in NUMBERS] + [json.dumps(name) for name in (*NAMES, *OUTSIDE)]
VALUES += ["NaN", "Infinity", "-Infinity", "1e999", "-0.0", "1e-400", "1.5", "0.1", "1e18", "3e9", "null"]
VALUES += ["true", "false", "[]", "{}", "[[]]", '[null, "a", 1]', '{"a": {"b": 1}}', '{"a": 1, "a": 2}']
VALUES += [
    "1" + "0" * 400,
    "1" + "0" * 5000,
    "[" * DEEP,
    "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
]
VALUES += [
    "[" * 900 + "]" * 900,
    "[" + "8, " * 400 + "8]",
    '"\\ud800"',
    '"\\u0000"',
    f'"{"x" * 100_000}"',
    "",
    "'a'",
]
VALUES += ["[8, 5, 4, " + "1" + "0" * 30 + "]", "[0]", "[1.5]", "[true]", '["8"]']


def spoiled_json(rng: Random, text: bytes) -> bytes:
    """A JSON document with other values, types and names in it; or no JSON at all."""
    if rng.random() < 0.15:
        return damaged(rng, text)
    if rng.random() < 0.08:
        wrap = rng.choice(VALUES).encode("utf-8", "surrogatepass")
        return rng.choice(
            (
                wrap,
                b"\xef\xbb\xbf" + text,
                text + wrap,
                text.decode("utf-8", "replace").encode("utf-16"),
                b"[" + text,
            )
        )
    try:
        tree, raw = json.loads(text), []
    except (ValueError, RecursionError):  # spoiled before
        return damaged(rng, text)
    if not isinstance(tree, (dict, list)):
        return damaged(rng, text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        node = rng.choice(_containers(tree))
        if isinstance(node, dict) and node:
            key = rng.choice(list(node))
            kind = rng.randrange(8)
            if kind == 0:
                del node[key]
            elif kind == 1:
                node[rng.choice((*NAMES, *OUTSIDE))] = node.pop(key)
            elif kind == 2:
                node[rng.choice(NAMES)] = _raw(rng, raw)
            elif kind == 3:
                node[f"{key}\ue000"] = _raw(rng, raw)  # the same name twice
            else:
                node[key] = _raw(rng, raw)
        elif isinstance(node, dict):
            node[rng.choice(NAMES)] = _raw(rng, raw)
        elif node and rng.random() < 0.7:
            node[rng.randrange(len(node))] = _raw(rng, raw)
        else:
            node.insert(rng.randrange(len(node) + 1), _raw(rng, raw))
    text = json.dumps(tree, ensure_ascii=False).replace("\ue000", "")
    parts = re.split('"\ue001([0-9]+)"', text)
    parts[1::2] = [raw[int(i)] for i in parts[1::2]]
    return "".join(parts).encode("utf-8", "surrogatepass")


def _raw(rng: Random, raw: list[str]) -> str:
    raw.append(rng.choice(VALUES))
    return f"\ue001{len(raw) - 1}"


def _containers(tree) -> list:
    found = [tree]
    for node in found:
        inside = node.values() if isinstance(node, dict) else node
        found += [child for child in inside if isinstance(child, (dict, list))]
    return found


# --- .npy and .npz ----------------------------------------------------------------------------------------

DTYPES = ("'<i8'", "'<i4'", "'>i4'", "'<i2'", "'|i1'", "'<u8'", "'<u2'", "'<f8'", "'<f4'", "'<f2'", "'<c16'")
DTYPES += (
    "'|O'",
    "'O'",
    "'|b1'",
    "'<U1000'",
    "'|S0'",
    "'|V1000000'",
    "'|V0'",
    "'<M8[ns]'",
    "'<m8'",
    "'i8,i8'",
)
DTYPES += (
    "[('a', '<i8')]",
    "[('a', '|O')]",
    "('<i8', (3,))",
    "('<i8', (2000000000,))",
    "'<f16'",
    "'nope'",
    "''",
)
DTYPES += (
    "None",
    "3",
    "{}",
    "[('a', '<i8'), ('a', '<i8')]",
    "{'names': ['a'], 'formats': ['<i8'], 'offsets': [-8]}",
)
SHAPES = ("()", "(0,)", "(1,)", "(-1,)", "(2, -1)", "(9223372036854775807,)", "(4294967296, 4294967296)")
SHAPES += (
    "(4611686018427387904, 4)",
    "(3000000000,)",
    "(True,)",
    "(1.5,)",
    "('a',)",
    "[3]",
    "3",
    "None",
    "((3,),)",
)
SHAPES += (
    "(1,) * 3",
    "(" + "1, " * 70 + ")",
    "(0, 9223372036854775807, 9223372036854775807)",
    "(1, 2, 3)",
    "(2, 0)",
)
HEADERS = (
    "{",
    "{}",
    "[]",
    "(" * 3000,
    "[" * DEEP,
    "-" * 5000 + "1",
    "{'descr': '<i8'}",
    "__import__('os')",
    "\0",
    "é",
)
HEADERS += (
    "{'descr': '<i8', 'fortran_order': False, 'shape': (3,), 'more': 1}",
    "1" * 6000,
    "f'{1}'",
    "{1: {2: 3}}",
)


def spoiled_npy(rng: Random, content: bytes) -> bytes:
    """An array whose header announces something else, or whose bytes are damaged."""
    if rng.random() < 0.2:
        return damaged(rng, content)
    length = struct.unpack("<H", content[8:10])[0]
    header, body = content[10 : 10 + length].decode("latin-1"), content[10 + length :]
    entries = {key: repr(value) for key, value in ast.literal_eval(header).items()}
    for _ in range(rng.choice((1, 1, 2))):
        key, values = rng.choice(
            [("descr", DTYPES), ("shape", SHAPES), ("fortran_order", ("True", "2", "None", "'False'"))]
        )
        entries[key] = rng.choice(values)
    header = "{" + ", ".join(f"'{key}': {value}" for key, value in entries.items()) + "}\n"
    if rng.random() < 0.15:
        header = rng.choice(HEADERS)
    if rng.random() < 0.3:  # as many bytes as such an array has, often
        body = bytes(rng.choice((0, 8, 16, 24, 800, 4096)))
    elif rng.random() < 0.4:
        body = damaged(rng, body)
    announced = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS)
    if rng.random() < 0.8:
        return b"\x93NUMPY\1\0" + struct.pack("<H", announced % 2**16) + header.encode("latin-1") + body
    version = bytes(rng.choice(((2, 0), (3, 0), (1, 1), (0, 0), (9, 9))))
    return b"\x93NUMPY" + version + struct.pack("<I", announced % 2**32) + header.encode("utf-8") + body


def spoiled_zip(
    rng: Random, content: bytes, spoil: Callable[[Random, bytes], bytes], main: str = ""
) -> bytes:
    """An archive with a member spoiled (one whose name ends in `main`), renamed, lost, doubled, compressed or
    bombed, or whose directory lies.
    """
    if rng.random() < 0.15:
        return damaged(rng, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [[info.filename, archive.read(info), zipfile.ZIP_STORED] for info in archive.infolist()]
    suited = [member for member in members if member[0].endswith(main)]
    if rng.random() < 0.75:
        chosen = rng.choice(suited)
        chosen[1] = spoil(rng, chosen[1])
    else:
        chosen = rng.choice(members)
        kind = rng.randrange(8)
        if kind == 0:
            members.remove(chosen)
        elif kind == 1:
            members.append(list(chosen))
        elif kind == 2:
            chosen[0] = rng.choice(
                (*NAMES[3:], *OUTSIDE, chosen[0].upper(), chosen[0] + "/", "x/" + chosen[0])
            )
        elif kind == 3:
            chosen[1], chosen[2] = bytes(2**25), zipfile.ZIP_DEFLATED
        elif kind == 4:
            chosen[2] = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        elif kind == 5:
            chosen[1] = damaged(rng, chosen[1])
        elif kind == 6:
            other = rng.choice(members)
            chosen[1], other[1] = other[1], chosen[1]
        else:
            chosen[1] = b""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, _quiet():
        for name, data, method in members:
            archive.writestr(zipfile.ZipInfo(name or "empty"), data, method)
    packed = bytearray(buffer.getvalue())
    if rng.random() < 0.15:  # a number of the directory: sizes, offsets, methods, flags
        at = packed.rfind(b"PK\1\2") if rng.random() < 0.5 else packed.find(b"PK\1\2")
        field, size = rng.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)))
        packed[at + field : at + field + size] = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(
            size, "little"
        )
    return bytes(packed)


def _quiet():
    import warnings

    class Quiet(warnings.catch_warnings):
        def __enter__(self):
            super().__enter__()
            warnings.simplefilter("ignore")

    return Quiet()


# --- pickles ----------------------------------------------------------------------------------------------

GLOBALS = """
    numpy: dtype ndarray float64
    numpy.core.multiarray: scalar _reconstruct
    numpy._core.multiarray: scalar
    numpy.dtypes: Float64DType Float32DType ObjectDType
    numpy._core.numeric: _frombuffer
    numpy.random._pickle: __generator_ctor
    _codecs: encode
    torch: FloatStorage LongStorage ByteStorage BoolStorage DoubleStorage HalfStorage BFloat16Storage
    torch: UntypedStorage Tensor Size device float32 int64 dtype strided
    torch.storage: UntypedStorage TypedStorage _load_from_bytes
    torch._utils: _rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter
    torch._utils: _rebuild_parameter_with_state _rebuild_sparse_tensor _rebuild_meta_tensor_no_storage
    torch._utils: _rebuild_qtensor _rebuild_nested_tensor _rebuild_wrapper_subclass
    torch._utils: _rebuild_device_tensor_from_numpy
    torch._tensor: _rebuild_from_type_v2
    torch.nn.parameter: Parameter Buffer
    torch.serialization: _get_layout
    torch._C: _VariableFunctions
    collections: OrderedDict Counter defaultdict
    builtins: bytearray set frozenset list dict complex int getattr eval exec print range slice
    __builtin__: set
    os: system
    posix: system
    subprocess: Popen
    pathlib: PosixPath
    copyreg: _reconstructor
    copy_reg: _reconstructor
    functools: partial
    datetime: timedelta
    argparse: Namespace
    operator: attrgetter
    barklite.storage.atomic: write_bytes
"""
GLOBALS = [
    (line.split(":")[0].strip(), name)
    for line in GLOBALS.strip().splitlines()
    for name in line.split(":")[1].split()
]
INTEGERS = (*NUMBERS, 4, 5, 8, 12, 16, 20, 3_000_000_000, 10**12)


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def name_of(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def reduced(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def expression(rng: Random, depth: int = 3) -> bytes:
    """Opcodes that leave one object: what an unpickler may be asked to make."""
    inner = lambda: expression(rng, depth - 1)  # noqa: E731
    kind = rng.randrange(12) if depth else rng.randrange(4)
    if kind == 0:
        return integer(rng.choice(INTEGERS))
    if kind == 1:
        return rng.choice(
            (b"N", b"\x88", b"]", b"}", b")", b"\x8f", text(rng.choice(NAMES)), b"G" + rng.randbytes(8))
        )
    if kind == 2:
        return name_of(*rng.choice(GLOBALS))
    if kind == 3:
        length = rng.choice((0, 8, 2**20, 2**31 - 1, 2**33))
        quad, long = struct.pack("<Q", length), struct.pack("<I", length % 2**32)
        heads = (b"\x96" + quad, b"\x8e" + quad, b"\x8d" + quad, b"B" + long, b"\x8b" + long)
        return rng.choice((*heads, b"I" + b"9" * 5000 + b"\n")) + rng.randbytes(8)
    if kind == 4:
        return (
            b"("
            + b"".join(inner() for _ in range(rng.randrange(4)))
            + rng.choice((b"t", b"l", b"t", b"d", b"\x91"))
        )
    if kind in (5, 6):
        return reduced(name_of(*rng.choice(GLOBALS)), *(inner() for _ in range(rng.randrange(5))))
    if kind == 7:
        return inner() + inner() + b"b"
    if kind == 8:
        return tensor(rng)
    if kind == 9:
        return (
            name_of(*rng.choice(GLOBALS))
            + tuple_of(inner(), inner())
            + rng.choice((b"\x81", b"}\x92", b"o", b"Q"))
        )
    if kind == 10:
        return numpy_type(rng)
    return inner() + rng.choice((b"q\0", b"r\xff\xff\xff\x7f", b"\x94", b"2", b"00", b"h\0", b"Q", b"."))


def tensor(rng: Random) -> bytes:
    """A tensor over one of the file's storages: of any size, strides, offset and type."""

    def numbers() -> bytes:
        return tuple_of(*(integer(rng.choice(INTEGERS)) for _ in range(rng.choice((0, 1, 2, 2, 3, 5)))))

    kind = name_of(
        "torch", rng.choice(("FloatStorage", "LongStorage", "ByteStorage", "HalfStorage", "UntypedStorage"))
    )
    key, place = (
        text(rng.choice(("0", "1", "2", "99", "../0"))),
        text(rng.choice(("cpu", "cpu", "cpu", "cuda:0", "meta"))),
    )
    storage = tuple_of(text("storage"), kind, key, place, integer(rng.choice(INTEGERS))) + b"Q"
    size, stride, offset = rng.choice(
        ((numbers(), numbers(), integer(rng.choice(INTEGERS))),
         (tuple_of(integer(10**9)), tuple_of(integer(0)), integer(0)),
         (tuple_of(integer(20), integer(4)), tuple_of(integer(1), integer(1)), integer(0)),
         (tuple_of(integer(2**31), integer(2**31)), tuple_of(integer(0), integer(0)), integer(0)))
    )  # fmt: skip
    rebuild = rng.choice(
        ("_rebuild_tensor_v2", "_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_tensor_v3")
    )
    more = () if rebuild == "_rebuild_tensor" else (b"\x89", reduced(name_of("collections", "OrderedDict")))
    return reduced(name_of("torch._utils", rebuild), storage, offset, size, stride, *more)


def numpy_type(rng: Random) -> bytes:
    """A dtype with a state of its own, perhaps of objects, and a scalar of it."""
    made = reduced(
        name_of("numpy", "dtype"), text(rng.choice(("O8", "O", "f8", "V16", "S8"))), b"\x89", b"\x88"
    )
    state = (
        integer(3),
        text(rng.choice("<|>")),
        b"N",
        b"N",
        b"N",
        integer(-1),
        integer(-1),
        integer(rng.choice((0, 63))),
    )
    made += tuple_of(*(expression(rng, 1) if rng.random() < 0.1 else part for part in state)) + b"b"
    if rng.random() < 0.3:
        return made
    data = b"C\x08" + rng.choice((b"A" * 8, bytes(8), struct.pack("<d", 2.5)))
    return reduced(
        name_of(rng.choice(("numpy.core.multiarray", "numpy._core.multiarray")), "scalar"), made, data
    )


def spoiled_pickle(rng: Random, content: bytes) -> bytes:
    """Opcodes of a pickle changed, lost, doubled or put in between; or a pickle of nothing but that."""
    if rng.random() < 0.1:
        return damaged(rng, content)
    if rng.random() < 0.1:
        return b"\x80\2" + expression(rng, 4) + b"."
    ops = [(op, arg, at) for op, arg, at in pickletools.genops(content)]
    ends = [*(at for *_, at in ops[1:]), len(content)]
    pieces = [content[at:end] for (*_, at), end in zip(ops, ends, strict=True)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        i = rng.randrange(1, len(pieces))
        op, arg, _ = ops[i]
        kind = rng.randrange(8)
        if kind == 0:
            pieces[i] = b""
        elif kind == 1:
            pieces[i] *= 2
        elif kind in (2, 3):
            pieces[i] = expression(rng) + b"0" + pieces[i]  # made, and dropped
        elif isinstance(arg, int) and op.name.startswith(("BININT", "LONG")):
            pieces[i] = integer(rng.choice(INTEGERS))
        elif op.name == "GLOBAL":
            pieces[i] = name_of(*rng.choice(GLOBALS))
        elif op.name == "BINUNICODE":
            pieces[i] = rng.choice((text(rng.choice(NAMES)), expression(rng)))
        else:  # any object of the pickle: numbers are where sizes stand
            numbers = [j for j, (op, *_) in enumerate(ops) if op.name.startswith("BININT")]
            j = rng.choice(numbers or [i])
            pieces[j] = integer(rng.choice(INTEGERS)) if rng.random() < 0.7 else expression(rng)
    return b"".join(pieces)


def spoiled_torch(rng: Random, content: bytes) -> bytes:
    """A file of `torch.save`."""
    if rng.random() < 0.03:
        return b"\x80\2" + expression(rng, 4) + b"."  # the container before zip: a bare pickle
    return spoiled_zip(rng, content, spoiled_pickle, "data.pkl")


# --- safetensors, WAV, protocol buffers -------------------------------------------------------------------


def spoiled_safetensors(rng: Random, content: bytes) -> bytes:
    """A header that lies about offsets, shapes and types, or about its own length."""
    if rng.random() < 0.15:
        return damaged(rng, content)
    length = struct.unpack("<Q", content[:8])[0]
    header, body = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.4:
        header = spoiled_json(rng, header)
    else:
        tree = json.loads(header)
        entry = tree[rng.choice([key for key in tree if key != "__metadata__"])]
        kinds = ("I8", "U8", "BOOL", "F64", "F16", "BF16", "F8_E4M3", "C64", "I64", "U64", "F4", "f32", "")
        which = rng.randrange(3)
        if which == 0:
            entry["dtype"] = rng.choice(kinds)
        elif which == 1:
            entry["shape"] = [rng.choice(NUMBERS) for _ in range(rng.randrange(4))]
        else:
            entry["data_offsets"] = [
                rng.choice((*NUMBERS, 64, 128)) for _ in range(rng.choice((2, 2, 2, 1, 3)))
            ]
        header = json.dumps(tree).encode()
    if rng.random() < 0.3:
        body = damaged(rng, body)
    announced = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS) % 2**64
    return struct.pack("<Q", announced) + header + body


def spoiled_wav(rng: Random, content: bytes) -> bytes:
    """A WAV whose header announces another format, or whose chunks lie about their lengths."""
    if rng.random() < 0.25:
        return damaged(rng, content)
    out = bytearray(content)
    fields = ((4, 4), (16, 4), (20, 2), (22, 2), (24, 4), (28, 4), (32, 2), (34, 2), (40, 4))
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, size = rng.choice(fields)
        value = rng.choice((*NUMBERS, 8, 12, 16, 24, 32, 64, 3, 6, 0xFFFE, 44_100))
        out[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    if rng.random() < 0.2:
        out[:4] = rng.choice((b"RIFX", b"RF64", b"RIFF", b"FORM"))
    if rng.random() < 0.2:
        name = rng.choice((b"fact", b"LIST", b"data", b"fmt ", b"JUNK", b"ds64"))
        out[36:36] = name + struct.pack("<I", rng.choice((0, 4, 2**31, 2**32 - 1))) + bytes(4)
    if rng.random() < 0.2:  # samples that are no numbers
        out[44:] = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f")) * (len(out) // 4)
    return bytes(out)


def spoiled_protobuf(rng: Random, content: bytes) -> bytes:
    """A message with fields changed in type, length and value, doubled, lost or appended, at any depth."""
    if rng.random() < 0.2:
        return damaged(rng, content, 4)
    fields = _fields(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not fields:
            return content
        i = rng.randrange(len(fields))
        number, kind, value = fields[i]
        what = rng.randrange(8)
        if what == 0:
            del fields[i]
        elif what == 1:
            fields.insert(rng.randrange(len(fields) + 1), fields[i])
        elif what == 2:
            fields[i] = rng.randrange(1, 50), kind, value
        elif what == 3:
            fields.insert(i, (rng.randrange(1, 50), 0, rng.choice(NUMBERS)))
        elif what == 4 and kind == 2:
            fields[i] = (
                number,
                kind,
                rng.choice((b"", damaged(rng, value, 2), value * 2, b"\0" * 64, b"\xff" * 9)),
            )
        elif kind == 2:
            fields[i] = number, kind, spoiled_protobuf(rng, value)
        elif kind == 0:
            fields[i] = number, kind, rng.choice(NUMBERS)
        else:
            fields[i] = (
                number,
                kind,
                rng.choice((b"\xff" * 4, b"\0\0\xc0\x7f", bytes(4), bytes(8), b"")) or value,
            )
    return b"".join(_field(*field) for field in fields)


def _fields(content: bytes) -> list[tuple]:
    """(number, wire type, value) of each field; what cannot be read is left out."""
    found, at = [], 0
    try:
        while at < len(content):
            tag, at = _varint(content, at)
            if tag & 7 == 0:
                value, at = _varint(content, at)
            else:
                size = {1: 8, 5: 4}.get(tag & 7)
                if size is None:
                    size, at = _varint(content, at)
                value, at = content[at : at + size], at + size
            found.append((tag >> 3, tag & 7, value))
    except IndexError:
        pass
    return found


def _field(number: int, kind: int, value: int | bytes) -> bytes:
    tag = _encoded(number << 3 | kind)
    if isinstance(value, int):
        return tag + _encoded(value)
    return tag + (value if kind in (1, 5) else _encoded(len(value)) + value)


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        value |= (content[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if content[at - 1] < 128:
            return value, at


def _encoded(value: int) -> bytes:
    value, out = value % 2**64, bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


# --- lines ------------------------------------------------------------------------------------------------


def spoiled_lines(
    rng: Random, content: bytes, spoil: Callable[[Random, bytes], bytes] = spoiled_json
) -> bytes:
    """Some lines spoiled, doubled, swapped, joined or lost."""
    if rng.random() < 0.1:
        return damaged(rng, content)
    lines = content.splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not lines:
            break
        i = rng.randrange(len(lines))
        kind = rng.randrange(8)
        if kind == 0:
            del lines[i]
        elif kind == 1:
            lines.insert(rng.randrange(len(lines) + 1), lines[i])
        elif kind == 2:
            lines[i] = lines[i].rstrip(b"\n")
        elif kind == 3:
            lines[i] = lines[i][: rng.randrange(len(lines[i]) + 1)] + rng.choice((b"", b"\n"))
        else:
            body = lines[i].rstrip(b"\n")
            with_json = body if body.startswith((b"{", b"[")) else b"{}"
            lines[i] = spoil(rng, with_json if spoil is spoiled_json else body) + b"\n"
    return b"".join(lines)


def swapped(rng: Random, folder: Path) -> None:
    """A file of a folder emptied, removed, made a directory, a link to outside or a pipe, or another's."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    kind = rng.randrange(7)
    if kind == 0:
        put(path, b"")
    elif kind == 1:
        put(path, rng.choice(files).read_bytes())
    else:
        path.unlink()
        if kind == 2:
            path.mkdir()
        elif kind == 3:
            path.symlink_to(path.name)  # a circle
        elif kind == 4:
            path.symlink_to(folder / "nowhere")
        elif kind == 5:
            os.mkfifo(path)

"""Files of torch.save by hand: what is hostile or damaged is refused before anything is made of it."""

import pickle
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import torch

from barklite import Bark
from barklite.storage.pickles import Inert, read_pickle
from tests import builders


def text(given: str) -> bytes:
    return b"X" + struct.pack("<I", len(given)) + given.encode()


def number(n: int) -> bytes:
    return pickle.dumps(n, 2)[2:-1]


def numbers(*given: int) -> bytes:
    return b"(" + b"".join(map(number, given)) + b"t"


def call(name: str, *arguments: bytes) -> bytes:
    """An instruction that asks for a function's result."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n(" + b"".join(arguments) + b"tR"


def storage(count: int, key: str = "0", kind: str = "Float") -> bytes:
    name = f"ctorch\n{kind}Storage\n".encode()
    return b"(" + text("storage") + name + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(count: int, offset: int, size: tuple, stride: tuple, more: bytes = b"") -> bytes:
    hooks = call("collections OrderedDict")
    given = (storage(count), number(offset), numbers(*size), numbers(*stride), b"\x89", hooks, more)
    return call("torch._utils _rebuild_tensor_v2", *given)


def dict_of(value: bytes) -> bytes:
    return b"\x80\x02}" + text("a") + value + b"s."


def write(path, program: bytes, floats: int = 12, compression=zipfile.ZIP_STORED, **members: bytes):
    """A file of torch.save with one storage of floats 0, 1, 2, ..."""
    data = np.arange(floats, dtype=np.float32).tobytes()
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in {"data.pkl": program, "data/0": data, **members}.items():
            info = zipfile.ZipInfo(f"archive/{name}")
            info.compress_type = compression
            offset = file.fp.tell() + 30 + len(info.filename)
            info.extra = b"FB" + struct.pack("<H", -(offset + 4) % 64) + b"Z" * (-(offset + 4) % 64)
            file.writestr(info, content)
    return path


def test_what_torch_saves(tmp_path):
    """Strides, offsets, ties, dtypes, and protocols of pickles."""
    a, b = torch.arange(12.0).view(3, 4), torch.randn(5, 2)
    content = {
        "a": a, "transposed": a.T, "part": a[1:, 2:], "tied": a, "scalar": torch.tensor(3.5),
        "parameter": torch.nn.Parameter(b), "nothing": None, "big": 2**70,
        "more": [(1, 2.5), {"x": True, 7: "y"}],
        **{str(kind): b.to(kind) for kind in (torch.float16, torch.bfloat16, torch.float64, torch.int8)},
        **{str(kind): torch.ones(3, dtype=kind) for kind in (torch.bool, torch.int64, torch.uint8)},
    }  # fmt: skip
    for protocol in (2, 4):
        torch.save(content, tmp_path / "x.pt", pickle_protocol=protocol)
        again = read_pickle(tmp_path / "x.pt")
        assert again.keys() == content.keys()
        for key, value in content.items():
            same = again[key].equal(value) if isinstance(value, torch.Tensor) else again[key] == value
            assert same, key
        assert again["tied"].data_ptr() == again["a"].data_ptr()
    state = torch.nn.Linear(3, 2).state_dict()  # with versions
    torch.save(state, tmp_path / "x.pt")
    assert read_pickle(tmp_path / "x.pt")["weight"].equal(state["weight"])


def test_by_hand(tmp_path):
    path = write(tmp_path / "x.pt", dict_of(tensor(12, 1, (2, 3), (4, 1))))
    assert read_pickle(path)["a"].tolist() == [[1, 2, 3], [5, 6, 7]]


DTYPE = call("numpy dtype", text("O8"), b"\x89", b"\x88") + (
    b"(" + number(3) + text("|") + b"NNN" + numbers(-1, -1, 63)[1:-1] + b"tb"
)
SCALAR = call("numpy.core.multiarray scalar", DTYPE, call("_codecs encode", text("A" * 8), text("latin1")))
HUGE = b"\x96" + struct.pack("<Q", 3_000_000_000) + b"x"  # bytearray of a length
MEMO = b"Nr" + struct.pack("<I", 2**31 - 1)  # a place in a list of four thousand million

REFUSED = {
    "bytearray": (call("builtins bytearray", number(3_000_000_000)), r"builtins\.bytearray.*could run code"),
    "bytearray instruction": (HUGE, "not a whole PyTorch file"),
    "system": (call("os system", text("touch executed")), r"os\.system.*could run code"),
    "getattr": (call("builtins getattr", text("a"), text("b")), "could run code"),
    "numpy array": (call("numpy.core.multiarray _reconstruct", b""), "could run code"),
    "instance": (b"(ios\nsystem\n", "could run code"),
    "extension": (b"\x82\x01", "could run code"),
    "storage called": (call("torch FloatStorage", number(10**12)), "could run code"),
    "stride 0": (tensor(12, 0, (1000, 1000), (0, 0)), "overlaps itself"),
    "overlap": (tensor(12, 0, (3, 4), (2, 1)), "overlaps itself"),
    "overrun": (tensor(12, 1, (3, 4), (4, 1)), "does not fit its storage"),
    "offset": (tensor(12, 2**40, (1,), (1,)), "does not fit its storage"),
    "negative": (tensor(12, -1, (1,), (1,)), "a tensor of size"),
    "negative stride": (tensor(12, 11, (2,), (-1,)), "a tensor of size"),
    "huge": (tensor(12, 0, (2**62, 2**62), (1, 1)), "a tensor of size"),
    "empty": (tensor(12, 0, (0, 2**40), (1, 1)), "a tensor of size"),
    "dimensions": (tensor(12, 0, (1,) * 70, (1,) * 70), "a tensor of size"),
    "sizes and strides": (tensor(12, 0, (3, 4), (1,)), "not a whole"),
    "a view": (tensor(12, 0, (1,), (1,), b"}" + text("neg") + b"\x88s"), "negative view"),
    "storage of more": (storage(13), "not as large as declared"),
    "storage of doubles": (storage(12, kind="Double"), "not as large as declared"),
    "another storage": (storage(12, "1"), "not a whole"),
    "storage of a pickle": (storage(12, "../data.pkl"), "not a whole"),
    "list as key": (b"}]Ns", "instead of str"),
    "no stack": (b"R", "not a whole"),
    "cycle": (b"]q\x00h\x00a", None),
    "memo": (MEMO, None),
    "loss of 8 bytes": (SCALAR, None),
    "brackets": (b"]" * 10**5 + b"a" * (10**5 - 1), None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_programs(case, tmp_path, monkeypatch):
    """Refused in a sentence, or loaded as what it is: nothing is called, and no memory taken for it."""
    program, message = REFUSED[case]
    path = write(tmp_path / "x.pt", dict_of(program))
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    try:
        if message:
            with pytest.raises(ValueError, match=message) as error:
                read_pickle(path)
            assert str(path) in str(error.value)
            assert len(str(error.value)) < 400
        else:
            assert read_pickle(path).keys() == {"a"}
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.pt"]


def test_numpy_is_never_called(tmp_path):
    """Regression: dtype('O') over chosen bytes was made, and read memory at an address of the file."""
    content = read_pickle(write(tmp_path / "x.pt", dict_of(SCALAR)))
    assert type(content["a"]) is Inert
    for loss in (np.float64(2.5), np.float32(2.5)):
        torch.save({"best_val_loss": loss}, tmp_path / "y.pt")
        assert type(read_pickle(tmp_path / "y.pt")["best_val_loss"]) is Inert


def test_damaged_archives(tmp_path):
    good = dict_of(tensor(12, 0, (12,), (1,)))
    path = tmp_path / "x.pt"

    def expect(message):
        with pytest.raises(ValueError, match=message) as error:
            read_pickle(path)
        assert str(path) in str(error.value)

    write(path, good, compression=zipfile.ZIP_DEFLATED)
    expect("not as large as declared")
    write(path, good, byteorder=b"big")
    expect("byte order")
    write(path, b"\x80\x02]" + b"]" * 2**26)
    expect("its pickle has 67,108,867 bytes")
    write(path, b"\x80\x02].")
    expect("holds list, not a dict")
    write(path, good)
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")  # the storage's entry: another place for its bytes
    for place in (5, len(data) - 60, 2**31):
        data[directory + 42 : directory + 46] = struct.pack("<I", place)
        path.write_bytes(data)
        expect("not a whole|is not as large")
    for cut in (0, 3, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        expect("not a whole PyTorch file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    expect("in the format of PyTorch before 1.6: load and save it with a newer PyTorch")


SIZES = [10**7, 2**70_000, -1, True, 1.5, "2", None, [12]]


@pytest.mark.parametrize("value", SIZES, ids=range(len(SIZES)))
def test_sizes_of_suno_files(value, tiny, tmp_path):
    """Millions of layers: their names would be made before any is missed."""
    builders.write_suno(tmp_path, tiny)
    content = builders.suno_file("semantic", tiny.semantic)
    content["model_args"]["n_layer"] = value
    torch.save(content, tmp_path / "text_2.pt")
    with pytest.raises(ValueError, match=r"text_2.pt: .*n_layer") as error:
        Bark.from_pretrained(tmp_path, device="cpu")
    assert len(str(error.value)) < 400

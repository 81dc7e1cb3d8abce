"""Voices: what is released drives a generation; what is broken or hostile is refused."""

import io
import zipfile

import numpy as np
import pytest

from barklite import GenerationConfig, Voice, voices
from barklite.clip import MIN_VOICE
from barklite.voice import ARRAYS
from tests import builders

SHORT = GenerationConfig(max_semantic_tokens=30)
NAMES = [
    "announcer",
    "en_speaker_6",
    *(f"v2/{v}" for v in ("de_speaker_3", "en_speaker_0", "en_speaker_6", "en_speaker_9", "fr_speaker_5")),
    "v2/zh_speaker_9",
]


def arrays(voice: Voice) -> dict[str, np.ndarray]:
    return {"semantic_prompt": voice.semantic, "coarse_prompt": voice.coarse, "fine_prompt": voice.fine}


GOOD = arrays(builders.voice("good"))


@pytest.mark.parametrize("name", NAMES)
def test_released_voices_drive_a_generation(name, tiny, released, tmp_path):
    path = released / "voices" / f"{name}.npz"
    voice = Voice.load(path)
    T = voice.coarse.shape[1]
    assert T == len(voice.semantic) * 750 // 499 == voice.fine.shape[1]
    assert voice.semantic.dtype == voice.coarse.dtype == voice.fine.dtype == np.int64
    assert (voice.fine[:2] == voice.coarse).all()
    spoken, plain = (tiny.generate("Hello", v, 0, SHORT) for v in (voice, None))
    assert spoken.semantic.tolist() != plain.semantic.tolist()

    voice.save(tmp_path / "saved.npz")  # the layout others read
    with np.load(path) as original, np.load(tmp_path / "saved.npz") as saved:
        assert set(saved.files) == set(original.files) == set(ARRAYS)
        assert [saved[a].dtype for a in ARRAYS] == [np.int64, np.int64, np.int32]
        assert all(np.array_equal(saved[a], original[a]) for a in ARRAYS)
    with zipfile.ZipFile(tmp_path / "saved.npz") as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())


def test_names():
    assert len(voices()) == len(set(voices())) == 261
    assert voices("en") == [f"{v}en_speaker_{i}" for v in ("v2/", "") for i in range(10)]
    with pytest.raises(ValueError, match="no voices for language 'xx'"):
        voices("xx")


def test_every_form_of_a_voice(tiny, tmp_path):
    voice = builders.voice("mine")
    voice.save(tmp_path / "mine.npz")
    forms = [voice, str(tmp_path / "mine.npz"), tmp_path / "mine.npz", arrays(voice)]
    clips = [tiny.generate("Hello", form, 1, SHORT) for form in forms]
    assert len({clip.codes.tobytes() for clip in clips}) == 1


def test_names_in_the_checkpoints_directory(native, tmp_path):
    import shutil

    from barklite import Bark

    path = shutil.copytree(native, tmp_path / "copy")
    (path / "voices" / "v2").mkdir(parents=True)
    builders.voice("x").save(path / "voices" / "v2" / "en_speaker_6.npz")
    builders.voice("y", seed=1).save(path / "voices" / "grandmother.npz")
    bark = Bark.from_pretrained(path, device="cpu")
    one, two = (bark.generate("Hello", v, 1, SHORT) for v in ("v2/en_speaker_6", "grandmother"))
    assert one.codes.tolist() != two.codes.tolist()
    bark.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "voices" / "v2" / "en_speaker_6.npz").is_file()


def test_a_clip_is_a_voice(tiny, tmp_path):
    clip = tiny.generate("Hello world", seed=2, config=SHORT)
    voice = clip.voice("me")
    voice.save(tmp_path / "me.npz")
    again = Voice.load(tmp_path / "me.npz")
    assert np.array_equal(again.fine, clip.codes)
    assert np.array_equal(again.coarse, clip.codes[:2])
    assert np.array_equal(again.semantic, clip.semantic)
    tiny.generate("And more", voice, 3, SHORT)
    for n in (1, MIN_VOICE - 1, MIN_VOICE, MIN_VOICE + 1):
        clip = tiny.generate("Hello", seed=2, config=GenerationConfig(max_semantic_tokens=n))
        if n >= MIN_VOICE:
            clip.voice()
        else:
            with pytest.raises(ValueError, match="too short to be a voice"):
                clip.voice()


def test_a_voice_file_is_named_as_one(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        builders.voice("mine").save(tmp_path / "mine.txt")
    with pytest.raises(FileNotFoundError, match="there is no voice file"):
        Voice.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="mapping of arrays, not int"):
        Voice.from_arrays(7)


@pytest.mark.parametrize(
    "name, nearest",
    [("v2/en_speker_6", "v2/en_speaker_6"), ("en_speaker_10", "en_speaker_1"), ("anouncer", "announcer")],
)
def test_unknown_names_suggest_the_nearest(name, nearest, tiny):
    with pytest.raises(ValueError, match=f"unknown voice '{name}'; did you mean '{nearest}'"):
        tiny.generate("Hello", name)


@pytest.mark.parametrize("name", ["speaker_0", "../../etc/passwd", "", "v2\\en_speaker_6"])
def test_other_names_are_refused(name, tiny):
    with pytest.raises(ValueError, match="unknown voice"):
        tiny.generate("Hello", name)


BROKEN = {
    "missing array": (dict(fine_prompt=None), "no fine_prompt"),
    "floats": (dict(semantic_prompt=GOOD["semantic_prompt"] / 2), "array of integers, not float64"),
    "bools": (dict(semantic_prompt=GOOD["semantic_prompt"] > 2), "array of integers, not bool"),
    "2-d semantic": (
        dict(semantic_prompt=GOOD["semantic_prompt"][None]),
        r"shape \(1, 120\); it must be \(n,\)",
    ),
    "empty": (dict(semantic_prompt=np.zeros(0, int)), "not empty"),
    "three coarse rows": (dict(coarse_prompt=GOOD["fine_prompt"][:3]), r"it must be \(2, T\)"),
    "seven fine rows": (dict(fine_prompt=GOOD["fine_prompt"][:7]), r"it must be \(8, T\)"),
    "no fine frames": (dict(fine_prompt=GOOD["fine_prompt"][:, :0]), "not empty"),
    "semantic range": (dict(semantic_prompt=GOOD["semantic_prompt"] + 5000), r"outside 0 \.\. 9999"),
    "negative": (dict(coarse_prompt=GOOD["coarse_prompt"] - 9), r"outside 0 \.\. 1023"),
    "pad in fine": (dict(fine_prompt=GOOD["fine_prompt"] + 1), r"outside 0 \.\. 1023"),
    "ratio": (dict(semantic_prompt=GOOD["semantic_prompt"][:99]), "180 frames do not fit 99 semantic tokens"),
    "fine frames": (
        dict(fine_prompt=GOOD["fine_prompt"][:, :10]),
        "fine prompt has 10 frames, the coarse prompt 180",
    ),
    "list": (dict(semantic_prompt=[1, 2, 3]), "not list"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_voices(broken, tiny, tmp_path):
    changes, message = BROKEN[broken]
    content = {name: array for name, array in {**GOOD, **changes}.items() if array is not None}
    with pytest.raises(ValueError, match=message):
        tiny.generate("Hello", content)
    if broken == "list":
        return
    np.savez(tmp_path / "broken.npz", **content)
    with pytest.raises(ValueError, match=message) as error:
        tiny.generate("Hello", tmp_path / "broken.npz")
    assert "broken.npz" in str(error.value)


@pytest.mark.parametrize("frames, fits", [(146, True), (154, True), (145, False), (155, False)])
def test_ratio_of_spec_4_2(frames, fits):
    codes = np.zeros((8, frames), int)
    if fits:
        Voice(np.zeros(100, int), codes[:2], codes)
    else:
        with pytest.raises(ValueError, match="do not fit"):
            Voice(np.zeros(100, int), codes[:2], codes)


def test_unsigned_voices_work(tiny):
    """The released announcer is uint16."""
    unsigned = {name: array.astype(np.uint16) for name, array in GOOD.items()}
    one, two = (tiny.generate("Hello", v, 0, SHORT) for v in (GOOD, unsigned))
    assert one.codes.tolist() == two.codes.tolist()


def npy(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def archive(path, members: dict[str, bytes], compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)


class Boom:
    def __reduce__(self):
        return (print, ("executed!",))


def test_hostile_files(tiny, tmp_path, capsys):
    members = {f"{name}.npy": npy(array) for name, array in GOOD.items()}
    path = tmp_path / "hostile.npz"

    def expect(message, **changes):
        compression = changes.pop("compression", zipfile.ZIP_STORED)
        archive(path, members | {f"{name}.npy": data for name, data in changes.items()}, compression)
        with pytest.raises(ValueError, match=message) as error:
            tiny.generate("Hello", path)
        assert "hostile.npz" in str(error.value)

    expect("pickled Python objects", fine_prompt=npy(np.array([Boom()], dtype=object), allow_pickle=True))
    expect("cut short", fine_prompt=members["fine_prompt.npy"][:-8])
    expect("not an array", fine_prompt=b"hello")
    expect("not an array|cut short", fine_prompt=b"")
    for header in (
        b"{[]:1}",
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (True,2), }",
        b"{'descr': (",
        b"1",
    ):
        expect(
            "not an array|cut short",
            fine_prompt=b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header,
        )
    for compression in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED):
        archive(path, members, compression)
        data = bytearray(path.read_bytes())
        data[60:400] = bytes(340)
        path.write_bytes(bytes(data))
        with pytest.raises(ValueError, match=r"hostile\.npz"):
            tiny.generate("Hello", path)
    huge = npy(np.zeros(1, np.int64)).replace(b"'shape': (1,)", b"'shape': (999999999999,)"[:14] + b",)")
    expect("not an array|cut short", fine_prompt=huge)
    bomb = npy(np.zeros(2**26, np.int8))  # 64 MB that pack to 64 kB
    expect("unpacks to", semantic_prompt=bomb, compression=zipfile.ZIP_DEFLATED)

    archive(path, members)
    whole = path.read_bytes()
    for cut in (0, 10, 1000, len(whole) - 30):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="not a whole"):
            tiny.generate("Hello", path)
    with pytest.raises(FileNotFoundError, match="there is no voice file"):
        tiny.generate("Hello", tmp_path / "none.npz")
    assert "executed" not in capsys.readouterr().out


def test_zip_bomb_costs_no_memory(tiny, tmp_path):
    """Gigabytes are announced; nothing of that size is ever allocated."""
    import tracemalloc

    path = tmp_path / "bomb.npz"
    file = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
    with file, file.open("semantic_prompt.npy", "w", force_zip64=True) as member:
        for _ in range(130):  # 2 GiB
            member.write(bytes(2**24))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"unpacks to 2,18"):
        tiny.generate("Hello", path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_lying_zip_header_is_caught(tiny, tmp_path):
    """The directory says a small size, the data are larger: never read past the limit."""
    path = tmp_path / "lie.npz"
    archive(path, {f"{name}.npy": npy(array) for name, array in GOOD.items()}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    size = len(npy(GOOD["fine_prompt"])).to_bytes(4, "little")
    at = data.rfind(size)
    data[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"lie\.npz"):
        tiny.generate("Hello", path)


def test_a_voice_is_not_changed(tiny):
    content = {name: array.copy() for name, array in GOOD.items()}
    voice = Voice.from_arrays(content)
    tiny.generate("Hello", voice, 0, SHORT)
    assert all(np.array_equal(content[name], GOOD[name]) for name in GOOD)
    with pytest.raises(ValueError, match="read-only"):
        voice.semantic[0] = 1


def test_a_voice_of_another_model(tiny):
    from dataclasses import replace

    from barklite import Bark

    tokens = replace(tiny.config.tokens, semantic_rate=100.0)
    bark = Bark.from_config(replace(tiny.config, tokens=tokens), device="cpu")
    with pytest.raises(ValueError, match="do not fit"):
        bark.generate("Hello", builders.voice("released rates"))
    with pytest.raises(ValueError, match=r"'v2/en_speaker_6' is one of Suno's.*has no named voices"):
        bark.generate("Hello", "v2/en_speaker_6")
    with pytest.raises(ValueError, match=r"unknown voice 'me' \(this model has no named voices; a file"):
        bark.generate("Hello", "me")
    assert bark.voices == []


def test_trimmed_history_is_plain_numbers(tiny):
    from barklite.reference import trim_history

    semantic, coarse = trim_history(builders.voice("a"), GenerationConfig(), tiny.config.tokens)
    assert {type(i) for i in (*semantic, *coarse)} == {int}


@pytest.mark.parametrize(
    "changes, mended",
    [
        (dict(semantic_prompt=GOOD["semantic_prompt"].astype(float)), r"array\.astype\(numpy\.int64\)"),
        (dict(semantic_prompt=np.full(120, np.nan)), "must be an array of integers, not float64"),
        (dict(coarse_prompt=np.full((2, 180), -1)), "remove padding"),
        (dict(fine_prompt=np.full((8, 180), 1024)), "remove padding"),
        (dict(semantic_prompt=GOOD["semantic_prompt"][:90]), r"\(cut the codes to 135 frames\)"),
        (dict(semantic_prompt=np.tile(GOOD["semantic_prompt"], 2)), r"\(keep 119 tokens\)"),
        (dict(fine_prompt=GOOD["fine_prompt"][:, :9]), "must be the first 2 rows of the fine prompt"),
    ],
    ids=range(7),
)
def test_what_is_refused_says_how_to_mend_it(changes, mended):
    with pytest.raises(ValueError, match=mended):
        Voice.from_arrays({**GOOD, **changes})


def test_rates_of_a_voice():
    from dataclasses import replace

    from barklite.config import TokenConfig

    for rates in (dict(semantic_rate=0.0), dict(frame_rate=0.0), dict(semantic_rate=-1.0)):
        with pytest.raises(ValueError, match="rate"):
            Voice.from_arrays(GOOD, tokens=replace(TokenConfig(), **rates))


def test_numpy_files_that_are_no_numbers(tmp_path):
    """Whatever NumPy can write besides; LZMA, whose header asks for memory; more bytes than are read."""
    for array in (
        np.array(["a"]),
        np.array([(1, 2)], "i4,i4"),
        np.array(["2020"], "M8[D]"),
        np.array([b""], "V0"),
    ):
        archive(tmp_path / "x.npz", {"semantic_prompt.npy": npy(array)})
        with pytest.raises(ValueError, match=r"x\.npz: semantic_prompt\.npy (holds|is)"):
            Voice.load(tmp_path / "x.npz")
    archive(tmp_path / "x.npz", {"semantic_prompt.npy": npy(np.zeros(3, int))}, zipfile.ZIP_LZMA)
    with pytest.raises(ValueError, match="compressed in a way"):
        Voice.load(tmp_path / "x.npz")
    with open(tmp_path / "x.npz", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="far too large for a voice"):
        Voice.load(tmp_path / "x.npz")
    for i in range(2):  # a directory that points before the file: an OSError without a name, once
        archive(tmp_path / "x.npz", {f"{name}.npy": npy(array) for name, array in GOOD.items()})
        data = bytearray((tmp_path / "x.npz").read_bytes())
        data[-6 - 4 * i : -2 - 4 * i] = b"\xff\xff\xff\x7f"
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(ValueError, match=r"x\.npz"):
            Voice.load(tmp_path / "x.npz")


def test_clips_that_cannot_be_played_are_not_written(tiny, tmp_path):
    from dataclasses import replace

    clip = tiny.generate("Hello", seed=2, config=SHORT)
    for changes, message in (
        (dict(audio=np.array([0, np.nan], np.float32)), "not finite: .*dtype='float32'"),
        (dict(audio=np.array([np.inf], np.float32)), "not finite"),
        (dict(audio=np.zeros((2, 3), np.float32)), r"float32 \(2, 3\); it must be floats of shape"),
        (dict(audio=[0.0]), "audio is list"),
        (dict(sample_rate=0), "sample_rate is 0"),
        (dict(sample_rate=24_000.5), "sample_rate is 24000.5"),
        (dict(sample_rate=-24_000), "sample_rate is -24000"),
    ):
        for float32 in (False, True):
            with pytest.raises(ValueError, match=message):
                replace(clip, **changes).save(tmp_path / "x.wav", float32=float32)
    for codes in (-1 - clip.codes, clip.codes + 1024, clip.codes.astype(float)):
        with pytest.raises(ValueError, match=r"fine_prompt|coarse_prompt"):
            replace(clip, codes=codes).voice()
    with pytest.raises(ValueError, match="let it speak a longer text"):
        replace(clip, semantic=clip.semantic[:3]).voice()
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_follow_no_link(tmp_path, monkeypatch):
    """Not even if their name were known."""
    from barklite.storage import atomic

    names = iter(["0" * 12, "1" * 12])
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda n: next(names))
    (tmp_path / "thesis").write_text("mine")
    (tmp_path / f".{'0' * 12}.partial").symlink_to(tmp_path / "thesis")
    with pytest.raises(FileExistsError):
        builders.voice("x").save(tmp_path / "x.npz")
    builders.voice("x").save(tmp_path / "x.npz")
    assert (tmp_path / "thesis").read_text() == "mine"


def test_a_deleted_working_directory(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for path in ("x.npz", "a/x.npz"):
        with pytest.raises(FileNotFoundError, match=path):
            builders.voice("x").save(path)
        with pytest.raises(FileNotFoundError):
            Voice.load(path)

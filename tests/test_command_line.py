"""The `barklite` command as its user meets it: exit status, files, one sentence a mistake."""

import io
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile

from barklite import Voice
from barklite.__main__ import main
from barklite.decode import engine
from barklite.speed import quantize
from barklite.storage import atomic
from tests import builders


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def command(native, capfd):
    """Run the command with the tiny checkpoint: (exit status, stdout, stderr)."""

    def run(*arguments, model=True):
        options = ["-m", str(native), "--device", "cpu"] if model else []
        first = [] if model else [str(arguments[0])]
        try:
            status = main([*first, *options, *map(str, arguments[len(first) :])])
        except SystemExit as exit:  # argparse
            status = exit.code
        return status, *capfd.readouterr()

    return run


SHORT = ("--max-seconds", "0.5", "--seed", "1")


def test_makes_a_wav(command):
    status, out, err = command("Hello [laughs]", "-o", "hello.wav", *SHORT)
    assert (status, out) == (0, "")
    assert err.splitlines()[-1].startswith("hello.wav: 0.5 s, seed 1")
    rate, samples = scipy.io.wavfile.read("hello.wav")
    assert (rate, samples.dtype) == (24_000, np.int16)
    assert len(samples) == 25 * 750 // 499 * 320  # 0.5 s is 25 semantic tokens
    assert os.listdir() == ["hello.wav"]
    assert os.stat("hello.wav").st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_quiet_float_and_force(command):
    assert command("Hello", "-o", "a.wav", "-q", "--float", *SHORT)[::2] == (0, "")
    assert scipy.io.wavfile.read("a.wav")[1].dtype == np.float32
    before = Path("a.wav").read_bytes()
    status, _, err = command("Hello", "-o", "a.wav", *SHORT)
    assert (status, err) == (1, "barklite: a.wav exists: give -f to replace it, or another name\n")
    assert Path("a.wav").read_bytes() == before
    assert command("Hello", "-o", "a.wav", "-f", *SHORT)[0] == 0
    assert scipy.io.wavfile.read("a.wav")[1].dtype == np.int16


def test_settings_reach_the_generation(command, tiny):
    from barklite import GenerationConfig, SamplingConfig

    options = ["--temperature", "0.9", "--top-k", "40", "--top-p", "0.8", "--fine-temperature", "0"]
    options += ["--min-eos-p", "0.3", "--rules", "transformers", "--max-seconds", "0.5", "--seed", "3"]
    assert command("Hello", "-o", "a.wav", "--float", *options)[0] == 0
    drawn = SamplingConfig(0.9, 40, 0.8)
    config = GenerationConfig(drawn, drawn, SamplingConfig(0), 0.3, max_seconds=0.5, rules="transformers")
    assert np.array_equal(scipy.io.wavfile.read("a.wav")[1], tiny.generate("Hello", None, 3, config).audio)


def test_faster_and_smaller(command, tiny, monkeypatch):
    """--quantize and --compile reach the loading; what is compiled is kept out of this test."""
    seen = []
    monkeypatch.setattr("barklite.bark.engine_for", lambda *models: seen.append(models) or engine.PLAIN)
    waves = []
    for options in ((), ("--quantize", "int8", "--compile"), ("--dtype", "bfloat16")):
        assert command("Hello", "-f", *SHORT, *options)[0] == 0
        waves.append(Path("bark.wav").read_bytes())
    assert len(seen) == 1
    assert any(type(m) is quantize.Linear8 for m in seen[0][0].modules())
    assert len({*waves}) == 3


def test_voices_in_and_out(command):
    builders.voice("mine").save("mine.npz")
    assert command("Hello", "-o", "a.wav", "--voice", "mine.npz", "--save-voice", "next.npz", *SHORT)[0] == 0
    assert Voice.load("next.npz").semantic.shape == (25,)
    assert command("Hello", "-o", "b.wav", "--voice", "next.npz", *SHORT)[0] == 0
    status, _, err = command("Hello", "-o", "c.wav", "--save-voice", "next.npz", *SHORT)
    assert status == 1
    assert "next.npz exists" in err
    status, _, err = command("Hello", "-o", "c.wav", "--save-voice", "short.npz", "--max-seconds", "0.1")
    assert status == 1
    assert err.splitlines()[-1].startswith(
        "barklite: a clip of 0.09 s is too short to be a voice: it needs 10"
    )
    assert os.path.exists("c.wav")  # what was made is not lost
    os.unlink("c.wav")
    status, _, err = command("Hello", "-o", "c.npz", "--save-voice", "c.npz", *SHORT)
    assert status == 1
    assert "same file" in err
    assert not os.path.exists("c.npz")


def test_standard_input(command, monkeypatch):
    class Input:
        buffer = io.BytesIO("Hello world\n".encode("utf-8-sig"))

    monkeypatch.setattr(sys, "stdin", Input)
    assert command("-", "-o", "a.wav", *SHORT)[0] == 0
    assert command("Hello world", "-o", "b.wav", *SHORT)[0] == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


def test_a_long_file(command, tiny):
    Path("book.txt").write_text("Hello world. Hell! " + "hello, " * 300)
    assert command("-i", "book.txt", "-o", "book.wav", "--float", *SHORT)[0] == 0
    from barklite import GenerationConfig

    config = GenerationConfig(max_seconds=0.5)
    clips = list(tiny.stream(Path("book.txt").read_text(), None, 1, config))
    assert len(clips) > 3
    audio = scipy.io.wavfile.read("book.wav")[1]
    assert len(audio) == sum(320 * clip.codes.shape[1] for clip in clips) + 6000 * (len(clips) - 1)
    n = len(clips[0].audio)
    assert np.array_equal(audio[:n], clips[0].audio)
    assert not audio[n - 6000 : n].any()
    assert audio[n - 6001]
    assert np.array_equal(audio[n:][: len(clips[1].audio)], clips[1].audio)
    status, _, err = command(
        "-i", "book.txt", "-o", "b.wav", "--float", "--pause", "0", "--batch-size", "2", *SHORT
    )
    assert status == 0
    assert "first audio after" in err
    whole = np.concatenate([clip.audio[: 320 * clip.codes.shape[1]] for clip in clips])
    assert np.array_equal(scipy.io.wavfile.read("b.wav")[1], whole)


def test_the_voice_of_a_long_text(command):
    """What is kept is the voice that the text goes on in, not that of a first clip too short to have one."""
    Path("a.txt").write_text("Hi. Hello world, hello world.")
    from barklite import Bark

    spoken, lengths = Bark._sentences, []

    def short(self, *arguments, **options):
        for i, (job, more) in enumerate(spoken(self, *arguments, **options)):
            lengths.append(len(job.semantic))
            job.semantic = job.semantic[: 5 if i == 0 else None]
            yield job, more

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bark, "_sentences", short)
        assert command("-i", "a.txt", "-o", "a.wav", "--save-voice", "v.npz", *SHORT)[0] == 0
    assert len(Voice.load("v.npz").semantic) == lengths[1]


def test_told_to_end(native):
    """SIGTERM leaves no unfinished file."""
    process = subprocess.Popen(
        [sys.executable, "-m", "barklite", "-i", "-", "-m", native, "-o", "a.wav", "--max-seconds", "15"],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdin.write("Hello world. " * 100)
    process.stdin.close()
    while not os.listdir():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.terminate()
    process.wait(timeout=60)
    assert process.returncode == 143
    assert os.listdir() == []


@pytest.mark.parametrize("place, name", [(os, "open"), (atomic, "_locked")])
def test_told_to_end_as_a_file_is_made(place, name, monkeypatch):
    act = getattr(place, name)

    def told(path, *rest, **options):
        result = act(path, *rest, **options)
        if os.listdir():
            sys.exit(143)
        return result

    monkeypatch.setattr(place, name, told)
    with pytest.raises(SystemExit), atomic.writing("a.wav"):
        pass
    assert os.listdir() == []


def test_voices_command(command):
    """Suno's names; those of the built-in model are tested with it."""
    status, out, _ = command("voices", "-m", "suno/bark-small", "en", model=False)
    assert status == 0
    assert out.splitlines()[1:] == [f"{v}en_speaker_{i}" for v in ("v2/", "") for i in range(10)]
    assert len(command("voices", "-m", "suno/bark-small", model=False)[1].splitlines()) == 1 + 261
    status, _, err = command("voices", "xx", model=False)
    assert status == 1
    assert err.startswith("barklite: no voices for language 'xx'; there are en, de, es,")


def test_convert_command(command, native):
    assert command("convert", native, "out", "--dtype", "float16", "-q", model=False) == (0, "", "")
    assert command("Hello", "-o", "a.wav", "-m", "out", *SHORT, model=False)[0] == 0
    status, _, err = command("convert", native, "out", model=False)
    assert status == 1
    assert "not empty" in err
    assert command("convert", native, "out", "-f", "-q", model=False)[0] == 0
    status, _, err = command("convert", "nowhere", "out2", model=False)
    assert status == 1
    assert "neither a directory nor a Hub id" in err
    assert sorted(os.listdir()) == ["a.wav", "out"]
    modes = {path.stat().st_mode & 0o777 for path in Path("out").iterdir() if path.is_file()}
    assert modes == {0o666 & ~_umask()}  # regression: weights that only their owner could read


def test_clipping_is_reported(command, monkeypatch):
    from barklite.models.codec import Codec

    decode = Codec.decode
    monkeypatch.setattr(Codec, "decode", lambda self, codes: decode(self, codes) * 100)
    _, _, err = command("Hello", "-o", "a.wav", *SHORT)
    assert "samples were clipped to [-1, 1]" in err
    _, _, err = command("Hello", "-o", "b.wav", "--float", *SHORT)
    assert "clipped" not in err


BAD = [
    (["Hello", "-o", "n" * 300], "file name too long"),
    (["Hello", "-o", "a.wav", "-m", ""], "name is empty"),
    (["Hello", "-o", "a.wav", "--temperature", "1e-40"], "temperature is 1e-40"),
    (["", "-o", "a.wav"], "the text is empty"),
    (["  \n", "-o", "a.wav"], "the text is empty"),
    (["a\udcff", "-o", "a.wav"], "lone surrogate U+DCFF"),
    (["Hello " * 300, "-o", "a.wav"], "has 300 tokens, and the model reads 256"),
    (["Hello", "-o", "a.wav", "--voice", "v2/en_speker_6"], "did you mean 'v2/en_speaker_6'"),
    (["Hello", "-o", "a.wav", "--voice", "none.npz"], "there is no voice file none.npz"),
    (["Hello", "-o", "no/such/a.wav"], "does not exist"),
    (["Hello", "-o", "."], "is a directory"),
    (["Hello", "-o", ""], "is a directory"),
    (["Hello", "-o", "a.mp3"], "writes WAV, not .mp3"),
    (["Hello", "-o", "a.wav", "--save-voice", "v.txt"], "must end in .npz"),
    (["Hello", "-o", "a.wav", "--device", "meta"], "device 'meta' cannot compute"),
    (["Hello", "-o", "a.wav", "--save-voice", "no/v.npz"], "does not exist"),
    (["Hello", "-o", "a.wav", "--seed", "-1"], "seed is -1"),
    (["Hello", "-o", "a.wav", "--seed", str(2**70)], "seed is"),
    (["Hello", "-o", "a.wav", "--temperature", "-1"], "temperature is -1"),
    (["Hello", "-o", "a.wav", "--temperature", "nan"], "temperature is nan"),
    (["Hello", "-o", "a.wav", "--top-k", "0"], "top_k is 0"),
    (["Hello", "-o", "a.wav", "--top-p", "1.5"], "top_p is 1.5"),
    (["Hello", "-o", "a.wav", "--min-eos-p", "7"], "min_eos_p is 7"),
    (["Hello", "-o", "a.wav", "--max-seconds", "-3"], "max_seconds is -3"),
    (["Hello", "-o", "a.wav", "--rules", "mine"], "rules is 'mine'"),
    (["Hello", "-o", "a.wav", "--dtype", "int4"], "dtype is 'int4'"),
    (["Hello", "-o", "a.wav", "--quantize", "int3"], "quantize is 'int3'; choose None or one of int8, int4"),
    (["Hello", "-o", "a.wav", "--device", "warp"], "device 'warp' cannot be used"),
    (["Hello", "-o", "a.wav", "-m", "no/such/model"], "neither a directory nor a Hub id"),
    (["-i", "none.txt", "-o", "a.wav"], "none.txt: no such file"),
    (["-i", ".", "-o", "a.wav"], "is a directory"),
    (["-i", "rows.jsonl", "-o", "a.wav"], ".jsonl"),
    (["Hello", "--batch-size", "0"], "batch_size is 0"),
    (["Hello", "--pause", "-1"], "pause is -1"),
    (["Hello", "--retries", "-1"], "retries is -1"),
]


@pytest.mark.parametrize(
    "arguments, message", BAD, ids=lambda value: value[:20] if isinstance(value, str) else ""
)
def test_mistakes_get_one_line(arguments, message, command):
    status, out, err = command(*arguments, model="-m" not in arguments)
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("barklite: ")
    assert message in err
    assert os.listdir() == []


def test_version(command):
    import barklite

    assert command("--version", model=False)[:2] == (0, f"barklite {barklite.__version__}\n")


def test_wrong_usage(command):
    for arguments in ([], ["Hello", "-i", "x.txt"], ["Hello", "--loud"], ["Hello", "--seed", "x"]):
        status, _, err = command(*arguments)
        assert status == 2
        assert "usage: barklite" in err


def test_a_file_that_is_not_text(command):
    Path("x.txt").write_bytes(b"Hello \xff\xfe")
    status, _, err = command("-i", "x.txt", "-o", "a.wav")
    assert status == 1
    assert err == "barklite: x.txt is not UTF-8 text: invalid start byte at byte 6\n"


def test_a_read_only_directory(tmp_path):
    """Refused before anything is computed, and when it is written. In a process without root's powers."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    for parent in (tmp_path, *list(tmp_path.parents)[:3]):  # pytest-xdist has a folder a process
        parent.chmod(0o755)
    code = f"""
import os
from barklite.storage import atomic
if os.getuid() == 0:
    os.seteuid(65534)
for call in (atomic.check_writable, lambda path: atomic.write_bytes(path, b"x")):
    try:
        call({str(folder / "a.wav")!r})
    except PermissionError as error:
        print(error.strerror, error.filename)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        f"Permission denied {folder}",
        f"Permission denied {folder / 'a.wav'}",
    ]


def test_a_full_disk(command):
    """/dev/full says what a full disk says; a limit on file sizes stops a real file half way."""
    status, _, err = command("Hello", "-o", "/dev/full", *SHORT)
    assert status == 1
    assert err.splitlines()[-1] == "barklite: /dev/full: no space left on device"
    Path("a.wav").write_bytes(b"precious")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        status, _, err = command("Hello", "-o", "a.wav", "-f", *SHORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 1
    assert err.splitlines()[-1] == "barklite: a.wav: file too large"
    assert Path("a.wav").read_bytes() == b"precious"
    assert os.listdir() == ["a.wav"]


def test_output_to_a_pipe_and_through_a_link(command, native, tmp_path):
    os.symlink(tmp_path / "target.wav", "link.wav")
    assert command("Hello", "-o", "link.wav", *SHORT)[0] == 0
    assert os.path.islink("link.wav")
    assert scipy.io.wavfile.read(tmp_path / "target.wav")[0] == 24_000
    long = "n" * 251 + ".wav"  # the longest name that a file may have
    assert command("Hello", "-o", long, *SHORT)[0] == 0
    os.unlink(long)
    assert command("Hello", "-o", "/dev/null", *SHORT)[0] == 0
    code = "import sys; from barklite.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "Hello", "-m", native, "-o", "/dev/stdout", "-q", *SHORT],
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert scipy.io.wavfile.read(io.BytesIO(done.stdout))[0] == 24_000
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize("stage", ["loading", "semantic", "coarse", "fine", "codec", "writing"])
def test_an_interrupt_leaves_nothing(stage, command, monkeypatch):
    from barklite.decode.stages import CoarseStage, FineStage, SemanticStage
    from barklite.models.codec import Codec
    from barklite.storage import atomic, checkpoint

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    place, name = {
        "loading": (checkpoint, "load_model"),
        "semantic": (SemanticStage, "start"),
        "coarse": (CoarseStage, "start"),
        "fine": (FineStage, "start"),
        "codec": (Codec, "decode"),
        "writing": (os, "replace"),
    }[stage]
    monkeypatch.setattr(place, name, interrupt)
    status, out, err = command("Hello", "-o", "a.wav", *SHORT)
    assert (status, out) == (130, "")
    assert err.splitlines()[-1] == "barklite: interrupted"
    assert os.listdir() == []
    assert atomic  # the module whose promise this is


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc to see how far the process is")
@pytest.mark.parametrize("wait", [0.0, 1.0, 3.0])
def test_ctrl_c(wait, native):
    """The real signal, to a real process, while it starts and while it works."""
    process = subprocess.Popen(
        [sys.executable, "-m", "barklite", "-i", "-", "-m", native, "-o", "a.wav", "--max-seconds", "15"],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore it
    )  # fmt: skip
    process.stdin.write("Hello world. " * 100)
    process.stdin.close()
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    err = process.stderr.read()
    process.wait(timeout=60)
    assert "Traceback" not in err
    assert process.returncode == 130
    assert os.listdir() == []


def test_ctrl_c_within_an_exec():
    """Regression: Python remembers an interrupted `exec`, though it was caught, and ends by the signal."""
    act = "exec('raise KeyboardInterrupt')"
    code = f"import sys; from barklite.command import run; sys.exit(run('x', lambda: {act}))"
    Path("interrupted.py").write_text(code)
    done = subprocess.run([sys.executable, "-m", "interrupted"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "x: interrupted\n")


def test_the_reader_of_our_output_may_leave():
    done = subprocess.run(
        f"{sys.executable} -m barklite voices | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout[:1], done.stdout.count("\n"), done.stderr) == ("#", 1, "")


def test_no_file_is_called_minus(command):
    """Regression: `-o -` wrote a file of that name."""
    status, out, err = command("Hello", "-o", "-")
    assert (status, out) == (1, "")
    assert err == "barklite: -o takes a file name: for standard output give /dev/stdout\n"
    assert os.listdir() == []


def test_an_error_is_one_line(command):
    """Whatever is in a file's name."""
    status, _, err = command("Hello", "-o", "a.wav", "--voice", "no\nsuch\nvoice.npz", *SHORT)
    assert (status, err.count("\n")) == (1, err.count("barklite:"))
    status, _, err = command("Hello", "-o", "no\nsuch/a.wav", *SHORT)
    assert (status, err.count("\n")) == (1, err.count("barklite:"))

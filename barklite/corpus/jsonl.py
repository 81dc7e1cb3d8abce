"""A directory of WAVs from a JSONL file.

A row is done when its line is in the results. The line is written after the sound, which appears whole: a
process may be killed at any moment, and the next one goes on from there.
"""

import fcntl
import hashlib
import itertools
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..clip import Clip, clipped, wav
from ..storage import atomic

if TYPE_CHECKING:
    from ..bark import Request

KEYS = ("id", "text", "voice", "seed")  # of an input line
FIELDS = (*KEYS, "line", "file", "duration", "finish_reason", "timings", "error")  # of a line of results
MAX_LINE = 2**20  # bytes; a longer line is no row
MAX_RESULT = 8 * MAX_LINE  # bytes; a longer line is no result: what was given is escaped there
PATIENCE = 10  # seconds to wait for another process that puts the same results in order

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SOUND = re.compile(_SAFE.pattern + r"\.wav")
_TAKEN = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*-[0-9a-f]{12}", re.IGNORECASE)  # devices, hashes


@dataclass(frozen=True)
class Shard:
    """Part i of n of a corpus, i from 1: the rows whose id's hash leaves i - 1 when divided by n.

    By id and not by line number, so that a row stays in its part when others are inserted, and rows that
    must not get the same file meet in one part.
    """

    i: int = 1
    n: int = 1

    @classmethod
    def parse(cls, given: str) -> "Shard":
        """Of "i/n"; ValueError for anything else."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", given)
        i, n = map(int, match.groups()) if match else (0, 0)
        if not 1 <= i <= n:
            raise ValueError(
                f"shard is {given!r}; it must be i/n, for example 1/4 for the first of four parts"
            )
        return cls(i, n)

    def has(self, key: str) -> bool:
        return _digest(key.lower()) % self.n == self.i - 1

    @property
    def results(self) -> str:
        """The name of the file with its results."""
        return "results.jsonl" if self.n == 1 else f"results-{self.i}-of-{self.n}.jsonl"

    @classmethod
    def of_results(cls, name: str) -> "Shard | None":
        """Whose results a file of that name holds."""
        match = re.fullmatch(r"results(?:-([0-9]{1,6})-of-([0-9]{1,6}))?\.jsonl", name)
        return match and cls(*(int(number or 1) for number in match.groups()))


@dataclass
class Summary:
    """What `speak` did, in rows; `seconds` of sound. `cut` rows reached the length limit."""

    spoken: int = 0
    skipped: int = 0
    failed: int = 0
    cut: int = 0
    clipped: int = 0
    seconds: float = 0.0


def speak(
    generate_many: Callable[[Iterable["Request"]], Iterable[tuple[int, Clip | Exception]]],
    source: str | os.PathLike,
    outdir: str | os.PathLike,
    *,
    seed: int = 0,
    voice: str | None = None,
    shard: Shard = Shard(),
    float32: bool = False,
    force: bool = False,
    progress: bool | None = False,
) -> Summary:
    """Speak the rows of a JSONL file into a directory: a WAV and a line in `results.jsonl` a row.

    generate_many: `Bark.generate_many`, or what calls it; only called if there is something to speak.
    source: an object a line, {"id", "text", "voice", "seed"}; all but the text may be missing or null. An id
        is a string or a whole number, the line's number where it is missing. Read as rows are needed.
    outdir: rows whose lines are there already are skipped, those with an error tried again. A line has
        FIELDS: "file" is the WAV's name, `{id}.wav` wherever that is a name for every file system.
    seed: rows without one are drawn with `derived_seed(seed, id)`. voice: of rows without one.
    shard: the part of the rows to speak. Each part has its own results and may run at the same time.
    float32: WAVs of 32-bit floats, not 16-bit PCM. force: forget the results of these rows and begin anew.
    progress: a bar on stderr; None: only on a terminal.

    A row that cannot be read or spoken has its "error", in words, and the rest go on. OSError or ValueError,
    before anything is spoken, for a source or a directory that cannot be used.
    """
    from tqdm import tqdm

    from ..bark import Request
    from ..decode.sampling import check_seed

    check_seed(seed)
    hidden = None if progress is None else not progress
    with open(source, "rb") as lines:
        _check_places(Path(source), Path(outdir), force)
        total = _count(lines, shard)
        with (
            _Results(Path(outdir), shard, force) as results,
            tqdm(total=total, desc="rows", unit="row", disable=hidden) as bar,
        ):
            summary, waiting = Summary(), {}

            def requests(records: Iterator[dict]) -> Iterator[Request]:
                for i, record in enumerate(records):
                    waiting[i] = record
                    yield Request(record["text"], record["voice"], record["seed"])

            records = _pending(_records(lines), results, seed, voice, summary, bar)
            if (first := next(records, None)) is not None:
                for i, result in generate_many(requests(itertools.chain([first], records))):
                    _finish(waiting.pop(i), result, results, float32, summary)
                    bar.update()
            assert not waiting
    return summary


def _check_places(source: Path, outdir: Path, force: bool) -> None:
    if outdir.suffix.lower() == ".wav":
        raise ValueError(f"a corpus becomes a directory of WAV files, not {outdir}: name a directory")
    if outdir.exists() and not outdir.is_dir():
        raise NotADirectoryError(f"{outdir} is a file: name a directory for the WAV files")
    names = os.listdir(outdir) if outdir.is_dir() else []
    held = [name for name in names if Shard.of_results(name)]
    if any(os.path.samefile(source, outdir / name) for name in held):
        raise ValueError(f"{source} holds results, which cannot be spoken: give the file with the texts")
    if not force and not held and any(name.lower().endswith(".wav") for name in names):
        raise FileExistsError(
            f"{outdir} has WAV files that are no corpus's: name another directory, or give force (-f) to "
            "replace those that have the name of a row"
        )


def _count(lines: BinaryIO, shard: Shard) -> int | None:
    """About how many rows there are; None for a pipe, which can be read only once."""
    if not stat.S_ISREG(os.fstat(lines.fileno()).st_mode):
        return None
    total = sum(chunk.count(b"\n") for chunk in iter(lambda: lines.read(2**20), b""))
    lines.seek(0)
    return -(-total // shard.n)


# --- lines in -------------------------------------------------------------------------------------------


def _records(lines: BinaryIO) -> Iterator[dict]:
    """A record with FIELDS of each line that is not blank; with an "error" if it is no row."""
    for number in itertools.count(1):
        data = line = lines.readline(MAX_LINE)
        while line and not line.endswith(b"\n"):  # the rest of a line that is too long is not kept
            line = lines.readline(MAX_LINE)
        if not data:
            return
        if not data.strip():
            continue
        record = dict.fromkeys(FIELDS) | {"line": number}
        try:
            _fill(record, data)
        except ValueError as error:
            record["error"] = f"line {number}: {error}"
        yield record


def _fill(record: dict, data: bytes) -> None:
    """Put what a line asks for into its record; ValueError for the first thing that is wrong."""
    if len(data) == MAX_LINE and not data.endswith(b"\n"):
        raise ValueError(f"longer than {MAX_LINE:,} bytes")
    try:
        given = json.loads(data.rstrip().decode("utf-8-sig" if record["line"] == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("not a row: too many brackets") from None
    except ValueError:  # a number that Python does not take for its length
        raise ValueError("not a row: a number has thousands of digits") from None
    if not isinstance(given, dict):
        raise ValueError('not an object such as {"id": "a", "text": "Hello."}')
    record["id"] = check_id(given.get("id")) if given.get("id") is not None else record["line"]
    if unknown := sorted(given.keys() - set(KEYS)):
        raise ValueError(f"unknown key {unknown[0]!r:.40}; there are {', '.join(KEYS)}")
    for key, kind, word in (("text", str, "string"), ("voice", str, "string"), ("seed", int, "whole number")):
        value = given.get(key)
        if value is None and key == "text":
            raise ValueError("there is no text")
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{key} must be a {word}, not {value!r:.40}")
        record[key] = value


def _pending(
    records: Iterator[dict], results: "_Results", seed: int, voice: str | None, summary: Summary, bar: Any
) -> Iterator[dict]:
    """The records of this shard that are still to be spoken. Those with an error go to the results."""
    seen, folded = _Names(), _Names()
    for record in records:
        key = _key(record)
        if not results.shard.has(key):
            continue
        again = False
        if record["id"] is not None:
            again, twin = not seen.add(key), not folded.add(key.lower())
            record["file"] = file_name(key, twin)
        if again and not record["error"]:
            record["error"] = f"line {record['line']}: the id {record['id']!r} stands on an earlier line too"
        elif record["id"] is not None and key in results.done:
            summary.skipped += 1
            if not bar.disable:
                bar.initial += 1  # it took no time, and does not count for the rate
            bar.update()
            continue
        if not record["error"]:
            try:
                record["seed"] = row_seed(seed, record["id"], record["seed"])
            except ValueError as error:  # which quotes a seed of any length
                record["error"] = f"line {record['line']}: {error!s:.200}"
        if record["error"]:
            results.add(record | {"file": None})
            summary.failed += 1
            bar.update()
            continue
        record["voice"] = voice if record["voice"] is None else record["voice"]
        yield record


def _finish(
    record: dict, result: Clip | Exception, results: "_Results", float32: bool, summary: Summary
) -> None:
    if isinstance(result, Exception):
        summary.failed += 1
        results.add(record | {"file": None, "error": f"line {record['line']}: {result}"})
        return
    summary.spoken += 1
    summary.seconds += result.seconds
    summary.cut += result.finish_reason == "length"
    summary.clipped += not float32 and clipped(result.audio) > 0
    made = {
        "seed": result.seed,
        "duration": result.seconds,
        "finish_reason": result.finish_reason,
        "timings": {stage: round(seconds, 4) for stage, seconds in result.timings.items()},
    }
    results.add(record | made, wav(result.audio, result.sample_rate, float32))


def check_id(id: str | int) -> str | int:
    """ValueError unless it is a string that is not empty, or a whole number."""
    if isinstance(id, bool) or not isinstance(id, (str, int)) or id == "":
        raise ValueError(f"id must be a string or a whole number, not {id!r:.40}")
    return id


def row_seed(seed: int, id: str | int | None, given: int | None) -> int:
    """A row's own seed, else the one of its id: the same in every batch, shard and trial. ValueError."""
    from ..decode.sampling import check_seed, derived_seed

    if given is not None:
        return check_seed(given)
    if id is None:
        raise ValueError("the row has neither an id nor a seed: its sound could not be made again")
    return derived_seed(seed, check_id(id))


def file_name(key: str, twin: bool = False) -> str:
    """The WAV of an id: its name if that means one and the same file everywhere, else with a hash.

    twin: an earlier id is the same but for the case of its letters, which some file systems do not see.
    """
    if _SAFE.fullmatch(key) and not _TAKEN.fullmatch(key) and not twin:
        return f"{key}.wav"
    slug = re.sub(r"[^a-z0-9]+", "-", key.lower())[:40].strip("-")
    return f"{slug or 'row'}-{_sha256(key).hex()[:12]}.wav"


def _key(record: dict) -> str:
    """What names a row: 7 and "7" are one id. A line without an id is its number."""
    return str(record["line"] if record["id"] is None else record["id"])


def _sha256(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _digest(key: str) -> int:
    return int.from_bytes(_sha256(key)[:8], "big")


class _Names:
    """A set of names that takes 8 bytes for each. (Of ten million, two are mistaken once in 400,000 runs.)"""

    def __init__(self) -> None:
        self.sorted, self.recent = np.empty(0, np.uint64), set()

    def __contains__(self, name: str) -> bool:
        digest = _digest(name)
        i = np.searchsorted(self.sorted, np.uint64(digest))
        return digest in self.recent or bool(i < len(self.sorted) and self.sorted[i] == digest)

    def add(self, name: str) -> bool:
        """Whether it is new."""
        if name in self:
            return False
        self.recent.add(_digest(name))
        if len(self.recent) > 2**16:
            recent = np.fromiter(self.recent, np.uint64, len(self.recent))
            self.sorted, self.recent = np.sort(np.concatenate([self.sorted, recent])), set()
        return True


# --- results out ----------------------------------------------------------------------------------------


class _Results:
    """A shard's results in a directory: `done` names the rows with a sound, `add` puts in one more.

    The results file is locked while it is open. What a killed process left half written goes when it opens:
    its own unfinished sound and line, and those of other splits of the corpus, none of which may be running.
    """

    def __init__(self, outdir: Path, shard: Shard, force: bool):
        self.outdir, self.shard, self.force, self.done = outdir, shard, force, _Names()
        outdir.mkdir(parents=True, exist_ok=True)
        self.file = _locked(outdir / shard.results)
        try:
            self.file = self._pruned(outdir / shard.results, self.file)
            for path in sorted(outdir.iterdir()):
                other = Shard.of_results(path.name)
                if other and other.n != shard.n:  # those of this n have none of our rows
                    file = _locked(path)
                    with self._pruned(path, file):  # still ours
                        if path.stat().st_size == 0:
                            path.unlink()
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> "_Results":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()

    def add(self, record: dict, sound: bytes | None = None) -> None:
        """Write a row's WAV if it has one, then its line. OSError if the disk is full, or the like."""
        path = self.outdir / self.shard.results
        if sound is not None:
            atomic.write_bytes(self.outdir / record["file"], sound)
        try:
            self.file.write(_line(record))
            _sync(self.file)
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(path)) from None

    def _pruned(self, path: Path, file: BinaryIO) -> BinaryIO:
        """Results without the lines that must go: the locked `file`, or the one that took its place."""
        shorter, descriptor = atomic.unfinished_file(self.outdir)
        new, dropped = os.fdopen(descriptor, "ab"), 0  # locked
        try:
            with open(path, "rb") as lines:
                for line in iter(lambda: lines.readline(MAX_RESULT), b""):
                    if self._stays(line):
                        new.write(line)
                    else:
                        dropped += 1
            _sync(new)
            if not dropped:
                new.close()
                return file
            os.replace(shorter, path)
            atomic.sync(self.outdir)
            file.close()
            return new
        except BaseException:
            new.close()
            raise
        finally:
            shorter.unlink(missing_ok=True)

    def _stays(self, line: bytes) -> bool:
        """Whether a line of results is whole and another shard's, or that of a row that is done."""
        try:
            record = json.loads(line)
            key, name, error = _key(record), record["file"], record["error"]
        except (ValueError, RecursionError, TypeError, KeyError):
            return False
        if not line.endswith(b"\n"):
            return False
        if not self.shard.has(key):
            return True
        if error or not (isinstance(name, str) and _SOUND.fullmatch(name)):  # not one of our names
            return False
        if self.force:
            (self.outdir / name).unlink(missing_ok=True)  # before its line goes, or nobody would know it
        return (self.outdir / name).is_file() and self.done.add(key)


def _locked(path: Path) -> BinaryIO:
    """A file opened for appending and, where the file system has locks, ours until it is closed.

    ValueError if another process keeps it, or if it is a pipe or the like.
    """
    patient = time.monotonic() + PATIENCE
    while True:
        if (
            path.exists() and not path.is_file() and not path.is_dir()
        ):  # to open a pipe would wait for its reader
            raise ValueError(f"{path} is not a file: remove it")
        file = open(path, "ab")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            if time.monotonic() > patient:
                raise ValueError(f"{path} is being written by another barklite: let it end first") from None
            time.sleep(0.1)
            continue
        except OSError:  # no locks here
            pass
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        file.close()  # it was replaced while we waited for it


def _line(record: dict) -> bytes:
    try:
        return f"{json.dumps(record, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:  # a lone surrogate, which the error speaks of
        return f"{json.dumps(record)}\n".encode()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())

"""Turns a JSONL file into a directory of WAVs.

A row is done when its line is in the results, which is written after its WAV. So a process may be killed at
any time, and the next one continues.
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
MAX_LINE = 2**20  # bytes of an input line; a longer one is an error
MAX_RESULT = 8 * MAX_LINE  # bytes of a line of results, where the input is escaped
PATIENCE = 10  # seconds to wait for another process that locks the same results

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SOUND = re.compile(_SAFE.pattern + r"\.wav")
# Windows devices, and names that end like the hashed ones of `file_name`.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True)
class Shard:
    """Part i of n of a corpus, i from 1: the rows whose hash of the id is i - 1 modulo n.

    The id decides, not the line number, so that inserting rows moves no others, and rows whose file names
    could collide are in the same part.
    """

    i: int = 1
    n: int = 1

    @classmethod
    def parse(cls, given: str) -> "Shard":
        """Parse "i/n". ValueError for anything else."""
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
        """Name of the shard's results file."""
        return "results.jsonl" if self.n == 1 else f"results-{self.i}-of-{self.n}.jsonl"

    @classmethod
    def of_results(cls, name: str) -> "Shard | None":
        """Return the shard of a results file, or None if `name` is not one."""
        match = re.fullmatch(r"results(?:-([0-9]{1,6})-of-([0-9]{1,6}))?\.jsonl", name)
        return match and cls(*(int(number or 1) for number in match.groups()))


@dataclass
class Summary:
    """Numbers of rows in a run of `speak`, and seconds of audio. `cut` rows reached the length limit."""

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
    """Speak the rows of a JSONL file into a directory: a WAV and a line in `results.jsonl` for each row.

    generate_many: `Bark.generate_many` or a wrapper; it is not called if all rows are done.
    source: one object per line, {"id", "text", "voice", "seed"}; all but the text may be missing or null. An
        id is a string or a whole number, by default the line number. Lines are read lazily.
    outdir: finished rows in its results are skipped, failed ones are tried again. A line of results has
        FIELDS; "file" is the WAV's name, `{id}.wav` if that is valid on every file system.
    seed: rows without a seed use `derived_seed(seed, id)`. voice: for rows without one.
    shard: the part of the rows to speak. Each part has its own results file, so parts can run in parallel.
    float32: write 32-bit float WAVs, not 16-bit PCM. force: delete the results of these rows and start over.
    progress: a bar on stderr; None: only on a terminal.

    A row that cannot be read or spoken gets an "error", and the others continue. OSError or ValueError,
    before anything is spoken, for an unusable source or directory.
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
        raise ValueError(f"a corpus becomes a directory of WAV files, not {outdir}: give a directory")
    if outdir.exists() and not outdir.is_dir():
        raise NotADirectoryError(f"{outdir} is a file: give a directory for the WAV files")
    names = os.listdir(outdir) if outdir.is_dir() else []
    held = [name for name in names if Shard.of_results(name)]
    if any(os.path.samefile(source, outdir / name) for name in held):
        raise ValueError(f"{source} is a results file: give the file with the texts")
    if not force and not held and any(name.lower().endswith(".wav") for name in names):
        raise FileExistsError(
            f"{outdir} has WAV files but no results: give another directory, or force (-f) to replace WAV "
            "files that have the name of a row"
        )


def _count(lines: BinaryIO, shard: Shard) -> int | None:
    """Estimate the number of rows in a shard; None for a pipe, which can be read only once."""
    if not stat.S_ISREG(os.fstat(lines.fileno()).st_mode):
        return None
    total = sum(chunk.count(b"\n") for chunk in iter(lambda: lines.read(2**20), b""))
    lines.seek(0)
    return -(-total // shard.n)


# --- lines in -------------------------------------------------------------------------------------------


def _records(lines: BinaryIO) -> Iterator[dict]:
    """Yield a record with FIELDS for each line that is not blank, with an "error" if it is malformed."""
    for number in itertools.count(1):
        data = line = lines.readline(MAX_LINE)
        while line and not line.endswith(b"\n"):  # skip the rest of a line that is too long
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
    """Parse a line into its record. ValueError for the first error."""
    if len(data) == MAX_LINE and not data.endswith(b"\n"):
        raise ValueError(f"longer than {MAX_LINE:,} bytes")
    try:
        given = json.loads(data.rstrip().decode("utf-8-sig" if record["line"] == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("not a row: it is nested too deeply") from None
    except ValueError:  # Python's limit for the digits of an integer
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
    """Yield the records of this shard that are not done. Write those with an error to the results."""
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
            record["error"] = f"line {record['line']}: the id {record['id']!r} is also on an earlier line"
        elif record["id"] is not None and key in results.done:
            summary.skipped += 1
            if not bar.disable:
                bar.initial += 1  # does not count for the rate
            bar.update()
            continue
        if not record["error"]:
            try:
                record["seed"] = row_seed(seed, record["id"], record["seed"])
            except ValueError as error:  # it may quote a very long seed
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
    """Return `id`. ValueError unless it is a non-empty string or a whole number."""
    if isinstance(id, bool) or not isinstance(id, (str, int)) or id == "":
        raise ValueError(f"id must be a string or a whole number, not {id!r:.40}")
    return id


def row_seed(seed: int, id: str | int | None, given: int | None) -> int:
    """Return a row's `given` seed, or one derived from its id, which is the same in every run.

    ValueError if it has neither, or a bad one.
    """
    from ..decode.sampling import check_seed, derived_seed

    if given is not None:
        return check_seed(given)
    if id is None:
        raise ValueError("the row has neither an id nor a seed: its audio would not be reproducible")
    return derived_seed(seed, check_id(id))


def file_name(key: str, twin: bool = False) -> str:
    """Return the WAV's name for an id: `{key}.wav` if it is valid on every file system, else with a hash.

    twin: an earlier id differs only in upper and lower case, which some file systems ignore.
    """
    if _SAFE.fullmatch(key) and not _RESERVED.fullmatch(key) and not twin:
        return f"{key}.wav"
    slug = re.sub(r"[^a-z0-9]+", "-", key.lower())[:40].strip("-")
    return f"{slug or 'row'}-{_sha256(key).hex()[:12]}.wav"


def _key(record: dict) -> str:
    """Return a row's id, or its line number, as a string: 7 and "7" are the same id."""
    return str(record["line"] if record["id"] is None else record["id"])


def _sha256(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _digest(key: str) -> int:
    return int.from_bytes(_sha256(key)[:8], "big")


class _Names:
    """A set of names as 8-byte hashes. (Ten million names collide in one of 400,000 runs.)"""

    def __init__(self) -> None:
        self.sorted, self.recent = np.empty(0, np.uint64), set()

    def __contains__(self, name: str) -> bool:
        digest = _digest(name)
        i = np.searchsorted(self.sorted, np.uint64(digest))
        return digest in self.recent or bool(i < len(self.sorted) and self.sorted[i] == digest)

    def add(self, name: str) -> bool:
        """Add a name. Return whether it is new."""
        if name in self:
            return False
        self.recent.add(_digest(name))
        if len(self.recent) > 2**16:
            recent = np.fromiter(self.recent, np.uint64, len(self.recent))
            self.sorted, self.recent = np.sort(np.concatenate([self.sorted, recent])), set()
        return True


# --- results out ----------------------------------------------------------------------------------------


class _Results:
    """A shard's results file, locked while it is open. `done` has the ids of finished rows.

    Opening it removes partial WAVs and lines of killed processes, and results of runs that split the corpus
    into another number of shards, none of which may be running.
    """

    def __init__(self, outdir: Path, shard: Shard, force: bool):
        self.outdir, self.shard, self.force, self.done = outdir, shard, force, _Names()
        outdir.mkdir(parents=True, exist_ok=True)
        self.file = _locked(outdir / shard.results)
        try:
            self.file = self._pruned(outdir / shard.results, self.file)
            for path in sorted(outdir.iterdir()):
                other = Shard.of_results(path.name)
                if other and other.n != shard.n:  # shards with the same n have none of our rows
                    file = _locked(path)
                    with self._pruned(path, file):  # stays locked
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
        """Write a row's WAV, if any, then its line. OSError, for example if the disk is full."""
        path = self.outdir / self.shard.results
        if sound is not None:
            place = self.outdir / record["file"]
            if place.is_symlink() or (place.exists() and not place.is_file()):
                place.unlink()  # otherwise the WAV would go to the link's target or into the pipe
            atomic.write_bytes(place, sound)
        try:
            self.file.write(_line(record))
            _sync(self.file)
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(path)) from None

    def _pruned(self, path: Path, file: BinaryIO) -> BinaryIO:
        """Remove lines that `_stays` rejects. Return the locked `file` or the locked one that replaced it."""
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
        """Whether a line of results is complete, and of a finished row or of another shard. With `force` it
        deletes the WAVs of this shard's rows.
        """
        try:
            record = json.loads(line)
            key, name, error = _key(record), record["file"], record["error"]
        except (ValueError, RecursionError, TypeError, KeyError):
            return False
        if not line.endswith(b"\n"):
            return False
        if not self.shard.has(key):
            return True
        if error or not (isinstance(name, str) and _SOUND.fullmatch(name)):  # not a name of `file_name`
            return False
        if self.force:
            (self.outdir / name).unlink(missing_ok=True)  # before its line, which is the only record of it
        return (self.outdir / name).is_file() and self.done.add(key)


def _locked(path: Path) -> BinaryIO:
    """Open a file for appending and lock it, if the file system has locks, until it is closed.

    ValueError if another process has the lock, or if it is not a regular file.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        if (
            path.exists() and not path.is_file() and not path.is_dir()
        ):  # opening a pipe would block until it has a reader
            raise ValueError(f"{path} is not a file: remove it")
        file = open(path, "ab")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            if time.monotonic() > deadline:
                raise ValueError(f"{path} is being written by another barklite: wait for it") from None
            time.sleep(0.1)
            continue
        except OSError:  # no locks on this file system
            pass
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        file.close()  # replaced while this process waited: open the new one


def _line(record: dict) -> bytes:
    try:
        return f"{json.dumps(record, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:  # a lone surrogate: escape it
        return f"{json.dumps(record)}\n".encode()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())

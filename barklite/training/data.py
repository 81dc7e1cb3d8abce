"""The corpus on disk that all training steps read.

`DIR/data` has `rows.jsonl`, with one line per utterance (text, speaker, samples, semantic tokens), and the
utterances' concatenated arrays, which are memory-mapped: `audio.i16` (int16 at the codec's rate),
`semantic.u16`, `spans.u16` and, after the `tokens` step, `codes.u16` (frame by frame).
An utterance may lack audio (it trains only the semantic model) or semantic tokens (only codec and fine).
Every 51st row, beginning with the first, is for validation.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ..config import TokenConfig
from ..storage.atomic import write_bytes
from ..storage.voices import read_npz
from ..validation import mono

ARRAYS = {"audio": "i2", "semantic": "u2", "spans": "u2"}
VALIDATION = 51  # every 51st row is for validation; odd, so that alternating speakers both occur
MOST = 2**16  # ids are stored in 16 bits
MAX_BYTES = 2**24  # of a recording's .npz; one hour of semantic tokens and spans has 4 MB


@dataclass(frozen=True)
class Row:
    """One utterance. samples and semantic are lengths; spans is 0 or `semantic`."""

    text: str
    speaker: str = ""
    samples: int = 0
    semantic: int = 0
    spans: int = 0


class Writer:
    """Context manager that appends utterances. The index, which makes the directory a corpus, is written at
    the end of the `with` block, unless an exception ends it.
    """

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.rows = directory, []
        (directory / "rows.jsonl").unlink(missing_ok=True)  # the corpus is overwritten
        self._files = {name: open(_file(directory, name), "wb") for name in ARRAYS}  # noqa: SIM115

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        for file in self._files.values():
            file.close()
        if kind is None:
            lines = "".join(json.dumps(asdict(row)) + "\n" for row in self.rows)
            write_bytes(self.directory / "rows.jsonl", lines.encode("utf-8"))

    def add(
        self,
        text: str,
        speaker: str = "",
        audio: np.ndarray | None = None,
        semantic: np.ndarray | None = None,
        spans: np.ndarray | None = None,
    ) -> None:
        """Append an utterance. ValueError for a wrong shape or range.

        audio: float (samples,) in [-1, 1] at the codec's rate. semantic: (N,) ids below 65536. spans: (N, 2),
        the first and last text token that each semantic token belongs to, to guide attention.
        """
        if spans is not None and (semantic is None or spans.shape != (len(semantic), 2)):
            raise ValueError(f"{text!r}: spans must have shape (semantic tokens, 2), not {spans.shape}")
        if semantic is not None and np.ndim(semantic) != 1:
            raise ValueError(f"{text!r}: semantic must have shape (N,), not {np.shape(semantic)}")
        values = {"semantic": semantic, "spans": spans}
        for name, value in values.items():
            if value is not None and len(value) and not 0 <= np.min(value) <= np.max(value) < MOST:
                raise ValueError(f"{text!r}: {name} has values outside 0 .. {MOST - 1}")
        if audio is not None:
            if np.ndim(audio) != 1 or not np.isfinite(audio).all():
                raise ValueError(f"{text!r}: audio must be finite numbers of shape (samples,)")
            values["audio"] = np.clip(np.round(np.asarray(audio) * 32767), -32768, 32767)
        for name, value in values.items():
            if value is not None:
                self._files[name].write(np.ascontiguousarray(value, ARRAYS[name]).tobytes())
        lengths = {name: 0 if value is None else len(value) for name, value in values.items()}
        lengths["samples"] = lengths.pop("audio", 0)
        self.rows.append(Row(text, speaker, **lengths))


class Corpus:
    """A corpus, memory-mapped. FileNotFoundError without one, ValueError for files that do not match."""

    def __init__(self, directory: Path):
        index = directory / "rows.jsonl"
        if not index.is_file():
            raise FileNotFoundError(f"{directory} holds no corpus: run `prepare` first")
        self.directory = directory
        lines = index.read_bytes().splitlines()
        try:
            self.rows = [_row(number, line) for number, line in enumerate(lines, 1)]
        except ValueError as error:
            raise ValueError(f"{index} is damaged ({error}): prepare the data again") from None
        lengths = {
            "audio": [row.samples for row in self.rows],
            "semantic": [row.semantic for row in self.rows],
            "spans": [2 * row.spans for row in self.rows],
        }
        self._arrays = {name: self._map(name, sum(n)) for name, n in lengths.items()}
        self._ends = {name: np.cumsum([0, *n]) for name, n in lengths.items()}

    def _map(self, name: str, size: int) -> np.ndarray:
        path, dtype = _file(self.directory, name), ARRAYS[name]
        if not path.is_file() or path.stat().st_size != size * 2:
            raise ValueError(f"{path} does not fit rows.jsonl: prepare the data again")
        return np.memmap(path, dtype, "r") if size else np.zeros(0, dtype)

    def __str__(self) -> str:
        spoken, speakers = sum(row.semantic > 0 for row in self.rows), {row.speaker for row in self.rows}
        of = "1 speaker" if len(speakers) == 1 else f"{len(speakers)} speakers"
        return f"{self.directory}: {len(self)} rows of {of}, {spoken} with semantic tokens"

    def __len__(self) -> int:
        return len(self.rows)

    def _part(self, name: str, i: int) -> np.ndarray:
        return self._arrays[name][self._ends[name][i] : self._ends[name][i + 1]]

    def audio(self, i: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the audio of row i, or a part of it: float32 (samples,)."""
        return self._part("audio", i)[start:stop].astype(np.float32) / 32767

    def semantic(self, i: int) -> np.ndarray:
        """Return the semantic tokens of row i: int64 (N,)."""
        return self._part("semantic", i).astype(np.int64)

    def spans(self, i: int) -> np.ndarray | None:
        """Return the spans of row i: int64 (N, 2), or None."""
        return self._part("spans", i).astype(np.int64).reshape(-1, 2) if self.rows[i].spans else None

    def split(self, which: str, *needs: str) -> list[int]:
        """Return rows of "train" or "validation" that have all of `needs`: "samples", "semantic", "spans".

        The row of a corpus with only one is for training.
        """
        return [
            i
            for i, row in enumerate(self.rows)
            if (i % VALIDATION == 0 and len(self.rows) > 1) == (which == "validation")
            and all(getattr(row, need) for need in needs)
        ]

    def training_rows(self, what: str, rows: list[int]) -> list[int]:
        """Return `rows`. ValueError, saying that `what` is missing, if there are none."""
        if not rows:
            raise ValueError(
                f"{self.directory} has no {what} to train on "
                f"(every {VALIDATION}st row, beginning with the first, is for validation)"
            )
        return rows

    def write_codes(self, codes: Iterator[np.ndarray], n_codebooks: int) -> None:
        """Write all rows' codes (K, T), in order; T is 0 for a row without audio."""
        frames, parts = [], []
        for array in codes:
            parts.append(np.ascontiguousarray(array.T, "u2"))
            frames.append(array.shape[1])
        write_bytes(_file(self.directory, "codes"), b"".join(part.tobytes() for part in parts))
        description = {"n_codebooks": n_codebooks, "frames": frames}
        write_bytes(self.directory / "codes.json", json.dumps(description).encode("utf-8"))

    def codes(self) -> list[np.ndarray]:
        """Return all rows' codes, int64 (K, T). FileNotFoundError before the `tokens` step, ValueError for
        codes of another corpus.
        """
        path, file = self.directory / "codes.json", _file(self.directory, "codes")
        if not path.is_file():
            raise FileNotFoundError(f"{self.directory} has no codes: run `tokens` first")
        try:
            description = json.loads(path.read_bytes())
            K, frames = description["n_codebooks"], description["frames"]
            whole = _is_length(K) and K and isinstance(frames, list) and all(map(_is_length, frames))
        except (ValueError, TypeError, KeyError, RecursionError):
            whole = False
        size = file.stat().st_size if file.is_file() else -1
        if not whole or len(frames) != len(self.rows) or size != 2 * K * sum(frames):
            raise ValueError(f"{path} does not fit the corpus: run `tokens` again")
        flat, ends = np.fromfile(file, "u2").reshape(-1, K), np.cumsum(frames)[:-1]
        return [np.ascontiguousarray(part.T, dtype=np.int64) for part in np.split(flat, ends)]

    def check(self, tokens: TokenConfig) -> None:
        """ValueError unless semantic tokens and codes, if they exist, are valid ids for these models."""
        if self._arrays["semantic"].max(initial=0) >= tokens.semantic_vocab_size:
            file = _file(self.directory, "semantic")
            raise ValueError(f"{file} has ids above those of config.json: prepare the data again")
        if not (self.directory / "codes.json").is_file():
            return
        K, V = tokens.n_codebooks, tokens.codebook_size
        if any(len(part) != K or part.max(initial=0) >= V for part in self.codes()):
            raise ValueError(
                f"{_file(self.directory, 'codes')} has no {K} codebooks of {V}: run `tokens` again"
            )


def _row(number: int, line: bytes) -> Row:
    """Parse a line of `rows.jsonl`. ValueError if it is damaged."""
    try:
        given = json.loads(line)
        row = Row(**given)
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"line {number} is not a row") from None
    texts, lengths = (row.text, row.speaker), (row.samples, row.semantic, row.spans)
    if not all(isinstance(text, str) for text in texts) or not all(map(_is_length, lengths)):
        raise ValueError(f"line {number} has an entry of a wrong type")
    if row.spans not in (0, row.semantic):
        raise ValueError(f"line {number} has {row.spans} spans of {row.semantic} semantic tokens")
    folder = PurePosixPath(row.speaker)  # becomes the name of a voice file
    if folder.is_absolute() or ".." in folder.parts or "\0" in row.speaker:
        raise ValueError(f"line {number} has no valid speaker")
    return row


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def from_folder(folder: str | os.PathLike, sample_rate: int) -> Iterator[tuple[Path, dict]]:
    """Yield (path, arguments of `Writer.add`) for each recording of a folder.

    A recording is `a.wav` at any rate, its text `a.txt` and optionally `a.npz` with `semantic` (N,) and
    perhaps `spans` (N, 2). Its subfolder is the speaker. FileNotFoundError for a missing text, ValueError for
    a bad file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".wav" and path.is_file())
    if not paths:
        raise FileNotFoundError(f"{folder} holds no .wav files")
    for path in paths:
        speaker = path.parent.relative_to(folder).as_posix()
        row = {"text": read_text(path.with_suffix(".txt")), "speaker": "" if speaker == "." else speaker}
        try:
            row["audio"] = mono(path, None, sample_rate).numpy()
        except ValueError as error:
            raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
        if not len(row["audio"]):
            raise ValueError(f"{path} is empty: it has no samples")
        tokens = path.with_suffix(".npz")
        if tokens.is_file():
            row.update(read_semantic(tokens))
        yield path, row


def read_text(path: Path) -> str:
    """Read a recording's text. FileNotFoundError, or ValueError if it is not UTF-8 or empty."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: each recording needs its text")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not text:
        raise ValueError(f"{path} is empty: it must have the text of the recording")
    return text


def read_semantic(path: Path) -> dict[str, np.ndarray]:
    """Read `semantic` (N,), and `spans` (N, 2) if present, from an `.npz`. ValueError for anything else."""
    arrays = read_npz(path, ("semantic", "spans"))
    for name, ndim in (("semantic", 1), ("spans", 2)):
        array = arrays.get(name)
        if array is None and name == "spans":
            continue
        if array is None or array.dtype.kind not in "iu" or array.ndim != ndim or (array < 0).any():
            shape = {"semantic": "(N,)", "spans": "(N, 2)"}[name]
            raise ValueError(f"{path} needs {name}: whole numbers of at least 0, of shape {shape}")
    if "spans" in arrays and arrays["spans"].shape != (len(arrays["semantic"]), 2):
        raise ValueError(f"{path}: spans must have shape ({len(arrays['semantic'])}, 2), as many as semantic")
    return arrays


def _file(directory: Path, name: str) -> Path:
    return directory / f"{name}.{'i16' if name == 'audio' else 'u16'}"

"""Speaks batches of rows for Ray Data."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import GenerationConfig, LoadOptions, RunOptions
from .jsonl import KEYS, row_seed

if TYPE_CHECKING:
    from ..bark import Bark


class Synthesizer:
    """A callable class for `ray.data.Dataset.map_batches`. It loads the model at its first batch.

    model: as in `Bark.from_pretrained`. seed: rows without a seed use `derived_seed(seed, id)`, so that they
    sound the same in every run. voice: for rows without one. config: as in `Bark.generate_many`. options:
    fields of `LoadOptions`, and batch_size and retries of `RunOptions`.
    """

    def __init__(
        self,
        model: str | os.PathLike | None = None,
        *,
        seed: int = 0,
        voice: str | None = None,
        config: GenerationConfig | None = None,
        **options: Any,
    ):
        self.model, self.seed, self.voice = model, seed, voice
        run = {name: options.pop(name) for name in ("batch_size", "retries") if name in options}
        RunOptions(**run), LoadOptions.of(options)  # raises for bad options here, not in a worker
        self.options, self.settings = options, {"config": config, **run}
        self._bark: Bark | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_bark": None}  # workers load the model themselves

    def __call__(self, batch):
        """Speak a batch and return it with new columns, in the same order.

        batch: a dict of arrays or a pyarrow Table, with "text" and optionally "id", "voice" and "seed"; None,
            NaN, NA and masked entries count as missing. A row needs an id or a seed.

        The new columns are "audio" (a pyarrow array of float32 for each row, in Parquet a list),
        "sample_rate", "duration" (seconds), "finish_reason", "seed" (the one used, or -1) and "error" (a
        message, or ""). None of them is null. A row with an error has empty audio.
        """
        import pyarrow as pa

        table = isinstance(batch, pa.Table)
        if not table and not isinstance(batch, Mapping):
            raise ValueError('a batch is a dict of arrays or a Table: batch_format="numpy" or "pyarrow"')
        names = batch.column_names if table else list(batch)
        if "text" not in names:
            raise ValueError(f"there is no column 'text'; there are {', '.join(names) or 'none'}")
        n = len(batch["text"])
        given = {key: _entries(batch[key]) if key in names else [None] * n for key in KEYS}
        made = self._speak(n, given)
        columns = {
            "audio": pa.array([row["audio"] for row in made], pa.list_(pa.float32())),
            "sample_rate": pa.array([self._bark.sample_rate] * n, pa.int32()),
            "duration": pa.array([row["duration"] for row in made], pa.float64()),
            "finish_reason": pa.array([row["finish_reason"] for row in made], pa.string()),
            "seed": pa.array([row["seed"] for row in made], pa.int64()),
            "error": pa.array([row["error"] for row in made], pa.string()),
        }
        if table:
            kept = batch.drop_columns([name for name in names if name in columns])
            for name, column in columns.items():
                kept = kept.append_column(name, column)
            return kept
        # Ray would store NumPy arrays as tensors, whose type depends on whether their lengths differ.
        audio = [sound.values for sound in columns.pop("audio")]
        return {**batch, "audio": audio} | {key: column.to_numpy(False) for key, column in columns.items()}

    def _speak(self, n: int, given: dict[str, list]) -> list[dict]:
        """Return the new columns' values for each row."""
        from ..bark import Bark, Request
        from ..decode.sampling import check_seed

        check_seed(self.seed)
        if self._bark is None:
            self._bark = Bark.from_pretrained(self.model, **self.options)
        silence = {
            "audio": np.empty(0, np.float32),
            "duration": 0.0,
            "finish_reason": "",
            "seed": -1,
            "error": "",
        }
        made, requests, places = [dict(silence) for _ in range(n)], [], []
        for i, (id, text, voice, seed) in enumerate(zip(*given.values(), strict=True)):
            try:
                made[i]["seed"] = row_seed(self.seed, id, seed)
            except ValueError as error:
                made[i]["error"] = str(error)
                continue
            requests.append(Request(text, self.voice if voice is None else voice, made[i]["seed"]))
            places.append(i)
        for i, result in self._bark.generate_many(requests, **self.settings):
            if isinstance(result, Exception):
                made[places[i]]["error"] = str(result) or type(result).__name__
            else:
                made[places[i]].update(
                    audio=result.audio,
                    duration=result.seconds,
                    finish_reason=result.finish_reason,
                    seed=result.seed,
                )
        return made


def _entries(column: Any) -> list:
    """Return a column's entries as Python objects, None for missing ones."""
    return [_entry(value) for value in (column.to_pylist() if hasattr(column, "to_pylist") else column)]


def _entry(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, float):  # integer columns with missing entries become floats
        return None if value != value else int(value) if value.is_integer() else value
    return value


def spoken_ids(directory: str | os.PathLike) -> set:
    """Return the ids of rows without an error in a directory's Parquet files, which a second run can skip.

    Skips truncated files. Empty if there is no such directory.
    """
    import pyarrow.dataset as parquet

    if not os.path.isdir(directory):
        return set()
    files = parquet.dataset(directory, format="parquet", exclude_invalid_files=True)
    if not files.files:
        return set()
    return set(files.to_table(columns=["id"], filter=parquet.field("error") == "")["id"].to_pylist())

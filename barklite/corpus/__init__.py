"""Corpora: `speak` turns a JSONL file into a directory of WAVs; `Synthesizer` speaks rows of Ray Data.

May import the door and all below it; nothing below imports this room.
"""

from .jsonl import Shard, Summary, file_name, row_seed, speak
from .ray import Synthesizer, spoken_ids

__all__ = ["Shard", "Summary", "Synthesizer", "file_name", "row_seed", "speak", "spoken_ids"]

"""Many texts: `speak` makes a directory of WAVs from a JSONL file; `Synthesizer` speaks the rows of Ray Data.

May import the door and all below it; nothing below knows this room.
"""

from .jsonl import Shard, Summary, file_name, row_seed, speak
from .ray import Synthesizer, spoken_ids

__all__ = ["Shard", "Summary", "Synthesizer", "file_name", "row_seed", "speak", "spoken_ids"]

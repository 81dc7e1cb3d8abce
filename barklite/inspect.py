"""Tools to inspect models and clips.

`trace` records hidden states and attention, `ablate` switches heads and layers off, `align` finds the time of
each word, `look` collects everything that a clip's report shows.
"""

from .analysis.align import Alignment, Word, align
from .analysis.report import View, look
from .analysis.trace import Trace, ablate, attention_map, trace

__all__ = ["Alignment", "Trace", "View", "Word", "ablate", "align", "attention_map", "look", "trace"]

"""Look inside the models and at what they made.

`trace` records hidden states and attention, `ablate` switches parts off, `align` finds when each word is
said, `look` gathers what is known of a clip for its report.
"""

from .analysis.align import Alignment, Word, align
from .analysis.report import View, look
from .analysis.trace import Trace, ablate, attention_map, trace

__all__ = ["Alignment", "Trace", "View", "Word", "ablate", "align", "attention_map", "look", "trace"]

"""Look inside the models: `trace` records hidden states and attention, `ablate` switches parts off."""

from .analysis.trace import Trace, ablate, attention_map, trace

__all__ = ["Trace", "ablate", "attention_map", "trace"]

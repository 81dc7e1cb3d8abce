"""barklite: Bark, Suno's text-to-audio model, from scratch in plain PyTorch.

from barklite import Bark
Bark.from_pretrained("suno/bark-small").generate("Hello [laughs]").save("hello.wav")
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bark import Bark, Request
    from .clip import Clip
    from .config import BarkConfig, CompileConfig, GenerationConfig, SamplingConfig
    from .voice import Voice, voices

__version__ = "0.2.0"
__all__ = [
    "Bark",
    "BarkConfig",
    "Clip",
    "CompileConfig",
    "GenerationConfig",
    "Request",
    "SamplingConfig",
    "Voice",
    "voices",
]

_HOME = {"Bark": "bark", "Request": "bark", "Clip": "clip", "Voice": "voice", "voices": "voice"}


def __getattr__(name: str):
    """Import public names lazily, so that `barklite --help` does not wait for PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module 'barklite' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME.get(name, 'config')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""barklite: Bark, Suno's text-to-audio model, from scratch in plain PyTorch.

from barklite import Bark
Bark.from_pretrained("suno/bark-small").generate("Hello [laughs]").save("hello.wav")
"""

from .bark import Bark
from .clip import Clip
from .config import BarkConfig, GenerationConfig, SamplingConfig
from .voice import Voice, voices

__version__ = "0.1.0"
__all__ = ["Bark", "BarkConfig", "Clip", "GenerationConfig", "SamplingConfig", "Voice", "voices"]

"""A user's program, for a type checker: `pyright tests/public_surface.py` accepts it. It is never run."""

from pathlib import Path

import numpy as np
import torch

from barklite import Bark, BarkConfig, Clip, GenerationConfig, Request, SamplingConfig, Voice, voices


def speak(model: Path) -> Clip:
    bark = Bark.from_pretrained(model, device="cpu", dtype="float32", compile=False, quantize=None)
    config = GenerationConfig(semantic=SamplingConfig(0.7, top_k=50), max_seconds=3.0)
    clip: Clip = bark.generate("Hello [laughs]", voice="v2/en_speaker_6", seed=0, config=config)
    clip.save("hello.wav")
    samples: np.ndarray = clip.audio
    print(samples.shape, clip.sample_rate, clip.seed, clip.finish_reason, clip.seconds)
    return clip


def many(bark: Bark) -> list[Clip]:
    clips: list[Clip] = bark.generate_batch(["a", "b"], voices=["low", None], seeds=[1, 2])
    for i, result in bark.generate_many([Request("a", seed=i) for i in range(3)], batch_size=2):
        print(i, result if isinstance(result, Exception) else result.seconds)
    for clip in bark.stream("A. B.", voice="low", seed=0):
        clips.append(clip)
    for piece in bark.stream_audio("A. B.", seed=0):
        print(piece.shape)
    return clips


def stages(bark: Bark) -> list[torch.Tensor]:
    semantic: list[torch.Tensor] = bark.text_to_semantic(["Hello."], seeds=[7])
    coarse: list[torch.Tensor] = bark.semantic_to_coarse(semantic)
    return bark.decode(bark.coarse_to_fine(coarse))


def keep(clip: Clip, target: Path) -> Voice:
    voice: Voice = clip.voice()
    voice.save(target)
    names: list[str] = voices("en")
    print(names, Bark.from_config(BarkConfig.small(), seed=0).config.tokens)
    return Voice.load(target)

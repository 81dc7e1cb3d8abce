"""The built-in voice's hyperparameters: corpus, model sizes, training settings."""

from dataclasses import dataclass

from ..config import (
    BarkConfig,
    CodecConfig,
    FineConfig,
    GenerationConfig,
    GPTConfig,
    SamplingConfig,
    TokenConfig,
)
from .loop import Settings
from .speech import Speaker

SPEAKERS = (Speaker("low", "rms", 100.0, 0.144, 1.6), Speaker("high", "slt", 173.5, 0.1, 1.1))
FRAMES_A_UNIT = 6  # semantic ids per phone; the last one repeats


SETTINGS = {
    "quantizer": Settings(steps=600, batch_size=4096),
    "decoder": Settings(steps=77_000, batch_size=8, lr=1.5e-3, muon_lr=0, decay=0.6),
    "encoder": Settings(steps=6_400, batch_size=8, lr=1.5e-3, muon_lr=0),
    "semantic": Settings(steps=44_500, batch_size=16),
    "coarse": Settings(steps=7_800, batch_size=16),
    "fine": Settings(steps=1_300, batch_size=12),
}


@dataclass(frozen=True)
class Recipe:
    """The corpus and model sizes of the command `voice`; `SETTINGS` has the training settings."""

    wordnet: str = "/usr/share/wordnet"
    n_everyday: int = 60_000
    n_rare: int = 70_000
    n_audio: int = 8_000  # texts with audio, by alternating speakers
    seed: int = 0
    size: tuple[int, int, int] = (5, 6, 192)  # layers, heads, width of each token model


def voice_config(
    n_text_ids: int, n_semantic_ids: int, size: tuple[int, int, int] = Recipe.size
) -> BarkConfig:
    """Return the configuration of a small Bark at 16 kHz with 50 frames a second, each with one semantic
    token and 6 codes of 9 bits, of which 4 are coarse. Id ranges have no gaps.
    """
    codebook_size, n_coarse, n_codebooks, n_text = 512, 4, 6, 128
    layers, heads, width = size
    text_pad = n_semantic_ids + 1 + n_text_ids
    coarse_pad = n_semantic_ids + n_coarse * codebook_size
    tokens = TokenConfig(
        text_offset=n_semantic_ids + 1,
        text_pad=text_pad,
        semantic_infer=text_pad + 1,
        semantic_vocab_size=n_semantic_ids,
        semantic_eos=n_semantic_ids,
        n_text=n_text,
        n_semantic_history=n_text,
        semantic_rate=50.0,
        coarse_pad=coarse_pad,
        coarse_infer=coarse_pad + 1,
        n_coarse_semantic=80,
        n_coarse=n_coarse,
        coarse_window=80,
        max_coarse_history=160,
        frame_rate=50.0,
        n_codebooks=n_codebooks,
        codebook_size=codebook_size,
        fine_pad=codebook_size,
        fine_window=256,
        fine_hop=128,
        max_fine_history=128,
    )
    shape = {"n_layer": layers, "n_head": heads, "n_embd": width}
    most = 512  # semantic tokens per generation: 10 s
    return BarkConfig(
        semantic=GPTConfig(
            input_vocab_size=text_pad + 2,
            output_vocab_size=n_semantic_ids + 1,
            block_size=tokens.n_prompt + most,
            **shape,
        ),
        coarse=GPTConfig(
            input_vocab_size=coarse_pad + 2,
            output_vocab_size=coarse_pad + 2,
            block_size=tokens.n_coarse_semantic + 1 + tokens.max_coarse_history + tokens.coarse_window,
            **shape,
        ),
        fine=FineConfig(vocab_size=codebook_size + 1, block_size=256, n_codes_total=n_codebooks, **shape),
        codec=CodecConfig(
            sample_rate=16_000,
            n_filters=16,
            dimension=83,
            ratios=(8, 5, 4, 2),
            n_codebooks=n_codebooks,
            codebook_size=codebook_size,
            encoder=True,
        ),
        tokens=tokens,
        tokenizer="english",
        generation=GenerationConfig(
            semantic=SamplingConfig(0.0),
            coarse=SamplingConfig(0.2),
            fine=SamplingConfig(0.0),
            min_eos_p=0.5,
            max_semantic_tokens=most,
            max_coarse_history=tokens.max_coarse_history,
        ),
    )

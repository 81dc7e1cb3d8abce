"""A small Bark to train, and a few seconds of sound to train it on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.io.wavfile

from barklite.config import (
    BarkConfig,
    CodecConfig,
    FineConfig,
    GenerationConfig,
    GPTConfig,
    SamplingConfig,
    TokenConfig,
)
from barklite.training import prepare
from barklite.training.data import Corpus, Writer

SMALL = TokenConfig(
    text_offset=13, text_pad=269, semantic_infer=270, semantic_vocab_size=12, semantic_eos=12,
    n_text=16, n_semantic_history=16, semantic_rate=50.0,
    coarse_pad=28, coarse_infer=29, n_coarse_semantic=16, n_coarse=2, coarse_window=12,
    max_coarse_history=24, frame_rate=50.0, n_codebooks=4, codebook_size=8,
    fine_pad=8, fine_window=32, fine_hop=16, max_fine_history=16,
)  # fmt: skip
# Suno's rates, which no whole number relates, at these sizes.
UNEVEN = replace(SMALL, semantic_rate=49.9, frame_rate=75.0)


def config(tokens: TokenConfig = SMALL, width: int = 16) -> BarkConfig:
    """50 frames of 80 samples a second, 4 codebooks of 8 codes, 12 semantic tokens; texts are bytes."""
    size = dict(n_layer=2, n_head=2, n_embd=width)
    rate = int(80 * tokens.frame_rate)
    return BarkConfig(
        GPTConfig(input_vocab_size=271, output_vocab_size=13, block_size=17 + 80, **size),
        GPTConfig(input_vocab_size=30, output_vocab_size=30, block_size=16 + 1 + 24 + 12, **size),
        FineConfig(vocab_size=9, block_size=32, n_codes_total=4, **size),
        CodecConfig(rate, n_filters=2, dimension=11, ratios=(5, 4, 4), n_codebooks=4, codebook_size=8),
        tokens,
        tokenizer="bytes",
        generation=GenerationConfig(
            fine=SamplingConfig(0.0), max_semantic_tokens=60, max_coarse_history=24, min_eos_p=0.5
        ),
    )


def sine(samples: int, hertz: float, rate: int = 4000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)).astype(np.float32)


def row(i: int, frames: int = 50) -> dict:
    """Utterance i of two speakers: a text of three letters, each a semantic token and a pitch for a while."""
    letters = [(i + 3 * j) % 12 for j in range(3)]
    semantic = np.repeat(letters, [frames // 3, frames // 3, frames - 2 * (frames // 3)])
    hertz = np.repeat(200.0 + 100 * semantic, 80)
    audio = 0.3 * np.sin(2 * np.pi * np.cumsum(hertz) / 4000) * (1 + i % 2)
    return {
        "text": "".join(chr(ord("a") + letter) for letter in letters),
        "speaker": ("low", "high")[i % 2],
        "audio": audio.astype(np.float32),
        "semantic": semantic,
        "spans": np.stack([np.repeat(range(3), np.diff([0, frames // 3, 2 * (frames // 3), frames]))] * 2, 1),
    }


def prepared(directory: Path, n: int = 9, frames: int = 50, tokens: TokenConfig = SMALL) -> Corpus:
    """What `prepare` leaves, with random codes in the place of learned ones."""
    with Writer(directory / "data") as writer:
        for i in range(n):
            writer.add(**row(i, frames + 3 * i))
    models = config(tokens)
    prepare.write_config(directory, models)
    corpus = Corpus(directory / "data")
    rng = np.random.default_rng(0)
    lengths = [tokens.coarse_steps(row.semantic) // tokens.n_coarse for row in corpus.rows]
    corpus.write_codes(iter([rng.integers(8, size=(4, T)) for T in lengths]), 4)
    return corpus


def folder(directory: Path, n: int = 4, rate: int = 8000, frames: int = 50) -> Path:
    """Recordings as users bring them, at another rate than the codec's: two speakers' subfolders."""
    for i in range(n):
        part = row(i, frames)
        place = directory / part["speaker"]
        place.mkdir(parents=True, exist_ok=True)
        sound = np.interp(
            np.arange(frames * 80 * rate // 4000) * 4000 / rate, np.arange(frames * 80), part["audio"]
        )
        scipy.io.wavfile.write(place / f"{i}.wav", rate, sound.astype(np.float32))
        (place / f"{i}.txt").write_text(part["text"] + "\n", encoding="utf-8")
        np.savez(place / f"{i}.npz", semantic=part["semantic"], spans=part["spans"])
    return directory

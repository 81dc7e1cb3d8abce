"""Trains the codec. Its latents are fixed features (`spectrum.latents`), so its parts train independently.

1. The quantiser: codebooks for the latents of the recordings. Then the codes are known, and the token models
   can train before the decoder.
2. The decoder: from the codes' vectors to audio, with a random number of codebooks (quantiser dropout),
   mostly the coarse ones, because the fine codes can hardly be predicted from them. The losses are a spectral
   one and the waveform's distance (the codes contain the phase), later an adversary.
3. The encoder, which only `Bark.encode` needs: regression from audio to latents.

Axes: B batch, K codebooks, T frames.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

from ..config import BarkConfig, CodecConfig
from ..messages import first_line
from ..models.codec import Codec
from ..storage.atomic import write_bytes
from ..storage.checkpoint import check_tensors
from .adversary import Adversary
from .data import Corpus
from .loop import Loss, Machine, Run, Settings
from .quantizer import ResidualQuantizer
from .spectrum import N_PITCH, PARTS, latents, spectral_loss

FILE = "quantizer.safetensors"
MAX_RECORDINGS = 1500  # that the quantiser learns from
FRAMES = 40  # per training example of the decoder and encoder
COARSE_ONLY = 0.6  # share of the decoder's examples with only the coarse codebooks
WAVEFORM = 4.0  # weight of the waveform loss before the adversary starts
ADVERSARY_START = 2500  # step of the decoder
SPECTRAL, ADVERSARIAL, FEATURES = 3.0, 0.1, 0.5  # weights of the losses after the adversary starts
ADVERSARY_FRAMES = 20  # the adversary sees this many frames of half the examples


def train_quantizer(
    corpus: Corpus, config: CodecConfig, directory: Path, settings: Settings, machine: Machine
) -> ResidualQuantizer:
    """Train the quantiser and write `quantizer.safetensors`, or read it if it exists. ValueError without
    recordings.
    """
    if (directory / FILE).is_file():
        return read_quantizer(directory, config, machine)
    if (config.dimension - N_PITCH) % PARTS or config.hop % PARTS:
        raise ValueError(
            f"the codec's hop, and its dimension minus {N_PITCH}, must be multiples of {PARTS} for training"
        )
    rows = [i for i in corpus.split("train", "samples") if corpus.rows[i].samples >= config.hop]
    rows = corpus.training_rows("recordings", rows)
    model = ResidualQuantizer(config.n_codebooks, config.codebook_size, config.dimension, N_PITCH).to(
        machine.device
    )
    generator = torch.Generator().manual_seed(settings.seed)
    rng = machine.rng(settings.seed, 0)
    some = rng.permutation(rows)[:MAX_RECORDINGS]
    vectors = torch.cat(
        [latents_of(corpus, i, config, machine) for i in tqdm(some, desc="latents", unit=" rows")], 1
    ).T
    lines, bar = [], tqdm(range(settings.steps), desc="quantizer", unit=" steps")
    for step in bar:
        picked = torch.from_numpy(rng.integers(len(vectors), size=settings.batch_size))
        errors, revived = model.learn(vectors[picked.to(vectors.device)], generator)
        if step % settings.log_every == 0 or step == settings.steps - 1:
            lines.append(f"{step} errors {[round(float(e), 4) for e in errors]} revived {revived}")
            bar.set_postfix(error=f"{float(errors[-1]):.4f}", revived=revived)
    directory.mkdir(parents=True, exist_ok=True)
    write_bytes(directory / "log.txt", "\n".join([*lines, ""]).encode("utf-8"))
    write_quantizer(directory, model)
    return model


def write_quantizer(directory: Path, model: ResidualQuantizer) -> None:
    """Write `quantizer.safetensors` to `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(directory / FILE, save(state))


def read_quantizer(directory: Path, config: CodecConfig, machine: Machine) -> ResidualQuantizer:
    """Read `quantizer.safetensors`. FileNotFoundError if it is missing, ValueError if it is damaged or of
    another codec.
    """
    path = directory / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `quantizer` first, or `tokens --init CHECKPOINT`")
    model = ResidualQuantizer(config.n_codebooks, config.codebook_size, config.dimension, N_PITCH)
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} does not fit config.json: {first_line(error)}") from None
    check_tensors(f"{path} does not fit config.json", state, model.state_dict())
    model.load_state_dict(state)
    return model.to(machine.device)


def latents_of(corpus: Corpus, i: int, config: CodecConfig, machine: Machine) -> Tensor:
    """Compute the latents (dimension, T) of a row's whole frames."""
    T = corpus.rows[i].samples // config.hop
    audio = torch.from_numpy(corpus.audio(i, 0, T * config.hop)).to(machine.device)
    return latents(audio[None], config)[0]


def codes_of_corpus(
    corpus: Corpus, config: CodecConfig, quantizer: ResidualQuantizer, machine: Machine
) -> Iterator[np.ndarray]:
    """Yield each row's codes (K, T): its latents, quantised."""
    for i in tqdm(range(len(corpus)), desc="tokens", unit=" rows"):
        if corpus.rows[i].samples < config.hop:
            yield np.zeros((config.n_codebooks, 0), np.int64)
        else:
            yield quantizer.encode(latents_of(corpus, i, config, machine).T).cpu().numpy()


def codes_by_encoder(
    corpus: Corpus, codec: Codec, machine: Machine, n_codebooks: int
) -> Iterator[np.ndarray]:
    """Yield each row's codes from a codec's encoder, to fine-tune a checkpoint."""
    codec = codec.to(machine.device)
    with torch.no_grad():
        for i in tqdm(range(len(corpus)), desc="tokens", unit=" rows"):
            audio = torch.from_numpy(corpus.audio(i)).to(machine.device)
            yield codec.encode(audio[None], n_codebooks)[0].cpu().numpy()


def crops(
    corpus: Corpus, rows: list[int], hop: int, n: int, frames: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Draw n crops (row, first frame) of `frames` frames, uniformly over all positions. All rows must have at
    least that many frames.
    """
    lengths = np.array([corpus.rows[i].samples // hop - frames + 1 for i in rows])
    picked = rng.choice(len(rows), n, p=lengths / lengths.sum())
    return [(rows[i], int(rng.integers(lengths[i]))) for i in picked]


def croppable(corpus: Corpus, hop: int) -> dict[str, list[int]]:
    """Return the rows of "train" and "validation" with at least FRAMES frames. ValueError if none train."""
    rows = {
        which: [i for i in corpus.split(which, "samples") if corpus.rows[i].samples // hop >= FRAMES]
        for which in ("train", "validation")
    }
    corpus.training_rows(f"recordings of at least {FRAMES} frames", rows["train"])
    return rows


def train_decoder(corpus: Corpus, config: BarkConfig, run: Run, quantizer: ResidualQuantizer) -> None:
    """Train the decoder, from the codes' vectors to audio. `run.model` is a `codec.decoder`."""
    codec, codes = config.codec, corpus.codes()
    books = quantizer.codebooks.to(run.machine.device)
    least, most = config.tokens.n_coarse, codec.n_codebooks
    rows = croppable(corpus, codec.hop)
    adversary = Adversary(run.settings, books.device)
    run.keep("adversary", adversary)

    def example(
        model: nn.Module, which: str, rng: np.random.Generator, n: int, K: int
    ) -> tuple[Tensor, Tensor]:
        places = crops(corpus, rows[which], codec.hop, n, FRAMES, rng)
        audio = [corpus.audio(i, t * codec.hop, (t + FRAMES) * codec.hop) for i, t in places]
        target = torch.from_numpy(np.stack(audio)).to(books.device)
        part = np.stack([codes[i][:K, t : t + FRAMES] for i, t in places])  # (B, K, T)
        z = embedded(torch.from_numpy(part).to(books.device), books)
        return model(z).squeeze(1).float(), target

    def loss(model: nn.Module, rng: np.random.Generator) -> Loss:
        K = least if rng.random() < COARSE_ONLY else int(rng.integers(least, most + 1))
        audio, target = example(model, "train", rng, run.settings.batch_size, K)
        spectral = spectral_loss(audio, target, codec.sample_rate)
        waveform = F.l1_loss(audio, target)
        numbers = {"spectral": spectral, "waveform": waveform}
        if run.step < ADVERSARY_START:
            return spectral + WAVEFORM * waveform, numbers
        start, n = int(rng.integers(FRAMES - ADVERSARY_FRAMES + 1)) * codec.hop, -(-len(audio) // 2)
        ours, wanted = (x[:n, start : start + ADVERSARY_FRAMES * codec.hop] for x in (audio, target))
        hinge = adversary.learn(ours, wanted)
        fooled, features = adversary.losses(ours, wanted)
        value = SPECTRAL * spectral + ADVERSARIAL * fooled + FEATURES * features
        return value, {**numbers, "adversary": hinge, "fooled": fooled, "features": features}

    def validate(model: nn.Module) -> dict[str, float]:
        if not rows["validation"]:
            return {}
        result = {}
        for K in (least, most):
            pair = example(model, "validation", np.random.default_rng(0), 16, K)
            result[f"spectral_{K}"] = float(spectral_loss(*pair, codec.sample_rate))
        return result

    run.train(loss, validate)


def embedded(codes: Tensor, books: Tensor) -> Tensor:
    """Codes (B, K, T) -> sum of their vectors (B, dimension, T)."""
    z = sum(books[k][codes[:, k]] for k in range(codes.shape[1]))
    return z.transpose(1, 2)


def train_encoder(corpus: Corpus, config: BarkConfig, run: Run) -> None:
    """Train the encoder, from audio to latents. `run.model` is a `codec.encoder`."""
    codec, device = config.codec, run.machine.device
    rows = croppable(corpus, codec.hop)

    def error(model: nn.Module, which: str, rng: np.random.Generator, n: int) -> Tensor:
        places = crops(corpus, rows[which], codec.hop, n, FRAMES, rng)
        audio = [corpus.audio(i, t * codec.hop, (t + FRAMES) * codec.hop) for i, t in places]
        sound = torch.from_numpy(np.stack(audio)).to(device)
        ours = model(sound[:, None]).float()
        return F.mse_loss(ours[..., 4:-1], latents(sound, codec)[..., 4:-1])  # without edge effects

    def loss(model: nn.Module, rng: np.random.Generator) -> Loss:
        return error(model, "train", rng, run.settings.batch_size), {}

    def validate(model: nn.Module) -> dict[str, float]:
        if not rows["validation"]:
            return {}
        return {"loss": float(error(model, "validation", np.random.default_rng(0), 16))}

    run.train(loss, validate)

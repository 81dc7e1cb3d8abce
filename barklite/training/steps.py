"""The commands of `python -m barklite.training`. They add to a directory that `prepare` made:

DIR/quantizer, decoder, encoder, semantic, coarse, fine/    one model each (`loop`)
DIR/data/codes.*                                            the codes of every recording
DIR/checkpoint/                                             the export, for `Bark.from_pretrained`
"""

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..config import BarkConfig, TokenConfig
from ..models import codec
from ..storage import checkpoint, hub
from ..storage.formats import Checkpoint
from ..validation import free_memory
from ..voice import Voice
from . import codec as codec_training
from . import spoken
from .coarse import Coarse
from .data import Corpus
from .examples import initialise, prompt
from .fine import Fine
from .loop import Machine, Run, Settings, read_state
from .prepare import corpus_of, prepare_voice, read_config, tokenizer_of
from .quantizer import ResidualQuantizer
from .recipe import FRAMES_A_UNIT, SETTINGS, Recipe
from .semantic import Semantic
from .spectrum import N_PITCH

LONGEST = 3.0  # seconds of a voice prompt


# --- training -----------------------------------------------------------------------------------------------


def run_of(
    directory: Path, name: str, settings: Settings, machine: Machine, init: str | os.PathLike | None = None
) -> Run:
    """Start or continue one model's run. init: a checkpoint in any layout, for the initial weights."""
    config = read_config(directory)
    if name in ("decoder", "encoder"):
        model = getattr(codec, name)(config.codec)
        checkpoint.initialise(model, torch.Generator().manual_seed(settings.seed))
    else:
        size, free = 4 * checkpoint.n_parameters(name, config), free_memory(torch.device("cpu"))
        if free is not None and size > free:
            raise ValueError(
                f"the {name} model needs {size / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free"
            )
        model = checkpoint.MODELS[name](getattr(config, name))
        initialise(model, settings.seed)
    if init is not None and not (directory / name / "last.pt").is_file():
        begin_with(model, name, config, init)
    return Run(directory / name, model, settings, machine)


def begin_with(model: nn.Module, name: str, config: BarkConfig, init: str | os.PathLike) -> None:
    """Copy the weights of a checkpoint's model. ValueError if it has another size or no encoder."""
    opened, _ = hub.find(os.fspath(init), None, False, name == "encoder")
    check_sizes(opened, name, config)
    if name in ("decoder", "encoder"):
        loaded = getattr(checkpoint.load_model(opened, "codec"), name)
    else:
        loaded = checkpoint.load_model(opened, name)
    model.load_state_dict({key: tensor.float() for key, tensor in loaded.state_dict().items()})


def check_sizes(opened: Checkpoint, name: str, config: BarkConfig) -> None:
    """ValueError unless a checkpoint's model has the sizes in `config`."""
    field = name if name in ("semantic", "coarse", "fine") else "codec"
    theirs, ours = getattr(opened.config, field), getattr(config, field)
    if field == "codec":  # with an encoder it may have more codebooks; the first ones are used
        n = min(theirs.n_codebooks, ours.n_codebooks)
        theirs, ours = replace(theirs, encoder=False, n_codebooks=n), replace(ours, encoder=False)
    if theirs != ours:
        raise ValueError(f"{opened.path}: {name} has other sizes than config.json says: {theirs}, not {ours}")


def quantizer(directory: Path, settings: Settings, machine: Machine) -> ResidualQuantizer:
    """Train the codebooks, unless they exist."""
    return codec_training.train_quantizer(
        corpus_of(directory), read_config(directory).codec, directory / "quantizer", settings, machine
    )


def codebooks(directory: Path, config: BarkConfig, machine: Machine) -> tuple[ResidualQuantizer, bool]:
    """Return the quantiser, and whether it was trained here or copied from a checkpoint by `tokens`.

    FileNotFoundError if neither has been done.
    """
    model = codec_training.read_quantizer(directory / "quantizer", config.codec, machine)
    return model, bool(model.counts.any())


def extract(directory: Path, machine: Machine, init: str | os.PathLike | None = None) -> None:
    """Compute the codes of all recordings, with the trained quantiser, or with the codec of the checkpoint
    `init`, whose codebooks are then saved as the quantiser. ValueError if a quantiser was trained too.
    """
    corpus, config = corpus_of(directory), read_config(directory)
    path = directory / "quantizer" / codec_training.FILE
    if init is None:
        model, ours = codebooks(directory, config, machine)
        if not ours:
            raise ValueError(f"{path} has a checkpoint's codebooks: give --init again")
        codes = codec_training.codes_of_corpus(corpus, config.codec, model, machine)
    else:
        if path.is_file() and codebooks(directory, config, machine)[1]:
            raise ValueError(f"{path} was trained here, but --init has other codebooks: choose a new --out")
        opened, _ = hub.find(os.fspath(init), None, False, True)
        check_sizes(opened, "codec", config)
        K, V, D = config.codec.n_codebooks, config.codec.codebook_size, config.codec.dimension
        theirs = checkpoint.load_model(opened, "codec", dtype=torch.float32)
        model = ResidualQuantizer(K, V, D, N_PITCH)
        model.codebooks.copy_(theirs.codebooks.detach()[:K])
        codec_training.write_quantizer(path.parent, model)
        codes = codec_training.codes_by_encoder(corpus, theirs, machine, K)
    corpus.write_codes(codes, config.codec.n_codebooks)


def train(
    directory: Path,
    name: str,
    settings: Settings,
    machine: Machine,
    init: str | os.PathLike | None = None,
) -> None:
    """Train "decoder", "encoder", "semantic", "coarse" or "fine", or continue its training.

    FileNotFoundError if an earlier step is missing, ValueError for data or weights that do not fit.
    """
    corpus, config = corpus_of(directory), read_config(directory)
    corpus.check(config.tokens)
    if name in ("decoder", "encoder") and machine.device.type == "cuda":
        machine = replace(machine, dtype=None)  # autocast runs cuDNN's LSTM in float16: gradients vanish
    run = run_of(directory, name, settings, machine, init)
    if name == "decoder":
        codec_training.train_decoder(corpus, config, run, codebooks(directory, config, machine)[0])
    elif name == "encoder":
        if not codebooks(directory, config, machine)[1]:
            raise ValueError(
                "the codebooks are a checkpoint's, so its own encoder must be used: it cannot be trained"
            )
        codec_training.train_encoder(corpus, config, run)
    elif name == "semantic":
        pause = spoken.pause(corpus.directory, FRAMES_A_UNIT)
        beginnings = spoken.beginnings(corpus.directory, FRAMES_A_UNIT)
        if len(beginnings) * FRAMES_A_UNIT > config.tokens.semantic_vocab_size:
            raise ValueError(
                f"{corpus.directory / spoken.UNITS} has {len(beginnings)} units: too many for config.json's "
                f"semantic_vocab_size, {config.tokens.semantic_vocab_size}"
            )
        Semantic(corpus, config, tokenizer_of(directory, config), pause, beginnings).train(run)
    elif name == "coarse":
        Coarse(corpus, config).train(run)
    else:
        corpus.codes()  # if they are missing, the error names that step first
        Fine(corpus, config, codebooks(directory, config, machine)[0].codebooks).train(run)


# --- export -------------------------------------------------------------------------------------------------


def export(
    directory: Path,
    target: Path | None = None,
    dtype: torch.dtype | None = torch.float16,
    init: str | os.PathLike | None = None,
) -> Path:
    """Write the trained models as a checkpoint with one voice per speaker. Return its directory.

    dtype: of the files; int8 as in `checkpoint.write_model`. The codec has an encoder if one was trained.
    init: a checkpoint for models that were not trained. FileNotFoundError names a missing model.
    """
    target = target or directory / "checkpoint"
    corpus, config = corpus_of(directory), read_config(directory)
    opened = None if init is None else hub.find(os.fspath(init), None, False)[0]
    states = {name: weights(directory, name, config, opened) for name in ("semantic", "coarse", "fine")}
    states["codec"] = codec_weights(directory, config, opened)
    has_encoder = any(key.startswith("encoder.") for key in states["codec"])
    config = replace(config, codec=replace(config.codec, encoder=has_encoder))
    for name, state in states.items():
        with torch.device("meta"):
            expected = checkpoint.MODELS[name](getattr(config, name)).state_dict()
        checkpoint.check_tensors(directory / name, state, expected)
    speakers = {} if opened is None else {name: opened.voice(name) for name in opened.voices}
    if opened is None or (directory / "data" / "codes.json").is_file():
        speakers |= {name: voice.arrays for name, voice in voices(corpus, config.tokens).items()}
    with checkpoint.new_directory(target, force=True) as new:
        for name, state in states.items():
            checkpoint.write_model(new, name, state, dtype)
        checkpoint.write_rest(new, config, tokenizer_of(directory, config), speakers)
    return target


def weights(
    directory: Path, name: str, config: BarkConfig, opened: Checkpoint | None = None
) -> dict[str, torch.Tensor]:
    """Return a trained model's weights, or else those of a checkpoint. FileNotFoundError without either."""
    path = directory / name / "last.pt"
    if path.is_file():
        return read_state(path)["model"]
    if opened is None:
        raise FileNotFoundError(f"{path} is missing: train {name} first")
    check_sizes(opened, name, config)
    return opened.state(name)


def codec_weights(directory: Path, config: BarkConfig, opened: Checkpoint | None) -> dict[str, torch.Tensor]:
    """Return the trained codec's weights. If the codebooks are a checkpoint's, return its codec with the
    parts that were trained replaced.
    """
    path, machine = directory / "quantizer" / codec_training.FILE, Machine(torch.device("cpu"))
    ours = opened is None or (path.is_file() and codebooks(directory, config, machine)[1])
    if ours:
        state = {"codebooks": codebooks(directory, config, machine)[0].codebooks}
    else:
        state = dict(weights(directory, "codec", config, opened))
        state["codebooks"] = state["codebooks"][: config.codec.n_codebooks]
    for part in ("decoder", "encoder"):
        if (directory / part / "last.pt").is_file() or (ours and part == "decoder"):
            state |= {f"{part}.{key}": tensor for key, tensor in weights(directory, part, config).items()}
    return state


def voices(corpus: Corpus, ids: TokenConfig) -> dict[str, Voice]:
    """Choose one voice prompt for each speaker: the first utterance between two thirds and all of the maximal
    length (3 s, or the semantic history), else the longest shorter one, else the beginning of a longer one.
    """
    codes, found = corpus.codes(), {}
    most = min(LONGEST, ids.n_semantic_history / ids.semantic_rate)
    for i in corpus.split("train", "samples", "semantic"):
        name, seconds = corpus.rows[i].speaker or "voice", codes[i].shape[1] / ids.frame_rate
        worth = 0.0 if seconds > most else min(seconds, most * 2 / 3)
        if name not in found or found[name][0] < worth:
            voice = prompt(corpus.semantic(i), codes[i], ids, name, most)
            if voice is not None:
                found[name] = worth, voice
    return {name: voice for name, (_, voice) in found.items()}


def voice(directory: Path, machine: Machine, recipe: Recipe) -> Path:
    """Run all steps of the built-in voice that are not done. The export is int8, like barklite's own."""
    prepare_voice(directory, recipe)
    quantizer(directory, SETTINGS["quantizer"], machine)
    if not (directory / "data" / "codes.json").is_file():
        extract(directory, machine)
    for name in ("semantic", "coarse", "fine", "decoder", "encoder"):
        train(directory, name, SETTINGS[name], machine)
    return export(directory, dtype=torch.int8)

"""What each command of `python -m barklite.training` does. They share one directory:

DIR/config.json, tokenizer.model   what the models are
DIR/data/                          the corpus (`data`)
DIR/quantizer, decoder, encoder, semantic, coarse, fine/    one model each (`loop`)
DIR/checkpoint/                    the export, for `Bark.from_pretrained`
"""

import io
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import checkpoint, codec, hub
from ..atomic import write_bytes
from ..config import BarkConfig, TokenConfig
from ..english import spell_out
from ..layouts import Checkpoint, read_json
from ..tokenizer import KINDS, Tokenizer, check_vocabulary
from ..voice import Voice
from . import codec as codec_training
from . import tokens
from .data import Corpus, Writer, from_folder
from .loop import Machine, Run, Settings, read_state
from .quantizer import ResidualQuantizer
from .recipe import FRAMES_A_PHONEME, SETTINGS, SPEAKERS, Recipe, voice_config
from .spoken import write_corpus
from .texts import training_texts

LONGEST = 3.0  # seconds of a voice prompt


# --- data ---------------------------------------------------------------------------------------------------


def prepare_voice(
    directory: Path, recipe: Recipe, without: Iterable[str], processes: int | None = None
) -> None:
    """The built-in voice's corpus, tokenizer and configuration, unless they are there. OSError without
    espeak-ng or WordNet.
    """
    if (directory / "config.json").is_file():
        return
    texts = training_texts(recipe.wordnet, recipe.n_everyday, recipe.seed, without)
    processes = processes or os.cpu_count() or 1
    n = write_corpus(
        directory / "data", texts, SPEAKERS, recipe.n_aloud, FRAMES_A_PHONEME, 24_000, 480, processes
    )
    n_text = train_tokenizer(directory / "tokenizer.model", texts)
    write_config(directory, voice_config(n_text, n, recipe.size))


def train_tokenizer(path: Path, texts: Iterable[str]) -> int:
    """A SentencePiece model whose pieces are characters; gives their number. ValueError if there are none."""
    import sentencepiece

    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("the texts have no English words: bring a tokenizer of your own, with --config")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="char",
        character_coverage=1.0,
        vocab_size=1000,
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=-1,
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    write_bytes(path, model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()


def prepare_folder(
    directory: Path,
    folder: str | os.PathLike,
    config: str | os.PathLike | None = None,
    init: str | os.PathLike | None = None,
) -> None:
    """A corpus of one's own recordings (`data.from_folder`).

    The models' configuration and tokenizer are those of the checkpoint `init`, to fine-tune it; else of the
    file `config`, a tokenizer's file beside it; else the built-in voice's sizes, with as many semantic ids as
    the recordings use. FileExistsError for a directory that has a corpus; ValueError, or FileNotFoundError,
    for what does not fit together.
    """
    if (directory / "config.json").is_file():
        raise FileExistsError(f"{directory} is prepared already: name another directory")
    models = tokenizer = None
    if init is not None:
        opened, _ = hub.find(os.fspath(init), None, False)
        models, tokenizer = opened.config, opened.tokenizer
    elif config is not None:
        models, tokenizer = configured(Path(config))
    if models is not None:  # a codec with an encoder may have more codebooks than Bark uses
        models = replace(models, codec=replace(models.codec, n_codebooks=models.tokens.n_codebooks))

    shape = models or voice_config(1, 1)  # whose rates do not depend on the recordings
    most, texts = 1, []
    with Writer(directory / "data") as writer:
        for row in from_folder(folder, shape.codec.sample_rate):
            if len(row.get("semantic", ())):
                check_semantic(row, shape, models is not None)
                most = max(most, int(row["semantic"].max()) + 1)
            writer.add(**row)
            texts.append(row["text"])
    if models is None:
        models = voice_config(train_tokenizer(directory / "tokenizer.model", map(spell_out, texts)), most)
        tokenizer = tokenizer_of(directory, models)
    check_spans(corpus_of(directory), tokenizer)
    tokenizer.save(directory)
    write_config(directory, models)


def check_semantic(row: dict, config: BarkConfig, vocabulary: bool) -> None:
    """ValueError unless a row's semantic tokens last as long as its sound and are in the `vocabulary`, if
    there is one yet.
    """
    semantic, tokens = row["semantic"], config.tokens
    size = tokens.semantic_vocab_size
    if vocabulary and semantic.max() >= size:
        raise ValueError(f"{row['text']!r}: semantic token {semantic.max()} is outside 0 .. {size - 1}")
    seconds, spoken = len(row["audio"]) / config.codec.sample_rate, len(semantic) / tokens.semantic_rate
    if abs(seconds - spoken) > 0.1 + 0.03 * seconds:
        raise ValueError(
            f"{row['text']!r}: {len(semantic)} semantic tokens at {tokens.semantic_rate:g} a second "
            f"are {spoken:.2f} s, but the sound has {seconds:.2f} s"
        )


def check_spans(corpus: Corpus, tokenizer: Tokenizer) -> None:
    """ValueError unless all spans lie within their texts' ids."""
    for i, row in enumerate(corpus.rows):
        spans = corpus.spans(i)
        if spans is None:
            continue
        n = len(tokenizer.encode(row.text))
        if (spans[:, 0] > spans[:, 1]).any() or spans.max() >= n:
            raise ValueError(f"{row.text!r}: spans must be first <= last < {n}, the number of its text ids")


def configured(path: Path) -> tuple[BarkConfig, Tokenizer]:
    """A configuration file, and the tokenizer beside it. FileNotFoundError without that, or ValueError."""
    try:
        config = BarkConfig.from_dict(read_json(path))
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    if config.tokenizer not in KINDS:
        raise ValueError(f"{path}: tokenizer is {config.tokenizer!r}, not one of {', '.join(KINDS)}")
    tokenizer = tokenizer_of(path.parent, config)
    check_vocabulary(tokenizer, config.tokens)
    return config, tokenizer


def write_config(directory: Path, config: BarkConfig) -> None:
    """`config.json`: it makes a directory a prepared one, so it comes last."""
    write_bytes(directory / "config.json", (json.dumps(config.to_dict(), indent=2) + "\n").encode("utf-8"))


def read_config(directory: Path) -> BarkConfig:
    """FileNotFoundError before `prepare`."""
    path = directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} has no config.json: run `prepare` first")
    return BarkConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))


def corpus_of(directory: Path) -> Corpus:
    """FileNotFoundError before `prepare`."""
    return Corpus(directory / "data")


def tokenizer_of(directory: Path, config: BarkConfig) -> Tokenizer:
    """FileNotFoundError if its file is not in the directory."""
    kind = KINDS[config.tokenizer]
    if kind.file_name is None:
        return kind.load()
    path = directory / kind.file_name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: config.json asks for the tokenizer {config.tokenizer!r}")
    return kind.load(path)


# --- training -----------------------------------------------------------------------------------------------


def run_of(
    directory: Path, name: str, settings: Settings, machine: Machine, init: str | os.PathLike | None = None
) -> Run:
    """One model's run, begun or gone on with. init: a checkpoint, in any layout, to begin with."""
    config = read_config(directory)
    if name in ("decoder", "encoder"):
        model = getattr(codec, name)(config.codec)
        checkpoint.initialise(model, torch.Generator().manual_seed(settings.seed))
    else:
        model = checkpoint.MODELS[name](getattr(config, name))
        tokens.initialise(model, settings.seed)
    if init is not None and not (directory / name / "last.pt").is_file():
        begin_with(model, name, config, init)
    return Run(directory / name, model, settings, machine)


def begin_with(model: nn.Module, name: str, config: BarkConfig, init: str | os.PathLike) -> None:
    """Take the weights of a checkpoint's model. ValueError if it has another size, or no encoder."""
    opened, _ = hub.find(os.fspath(init), None, False, name == "encoder")
    check_sizes(opened, name, config)
    if name in ("decoder", "encoder"):
        loaded = getattr(checkpoint.load_model(opened, "codec"), name)
    else:
        loaded = checkpoint.load_model(opened, name)
    model.load_state_dict({key: tensor.float() for key, tensor in loaded.state_dict().items()})


def check_sizes(opened: Checkpoint, name: str, config: BarkConfig) -> None:
    """ValueError unless a checkpoint's model is of the size that `config` says."""
    field = name if name in ("semantic", "coarse", "fine") else "codec"
    theirs, ours = getattr(opened.config, field), getattr(config, field)
    if field == "codec":  # one with its encoder may have more codebooks, of which the first ones are used
        n = min(theirs.n_codebooks, ours.n_codebooks)
        theirs, ours = replace(theirs, encoder=False, n_codebooks=n), replace(ours, encoder=False)
    if theirs != ours:
        raise ValueError(f"{opened.path}: {name} has other sizes than config.json says: {theirs}, not {ours}")


def quantizer(directory: Path, settings: Settings, machine: Machine) -> ResidualQuantizer:
    """Train the codebooks, unless they are there."""
    return codec_training.train_quantizer(
        corpus_of(directory), read_config(directory).codec, directory / "quantizer", settings, machine
    )


def codebooks(directory: Path, config: BarkConfig, machine: Machine) -> tuple[ResidualQuantizer, bool]:
    """The quantiser that the codes are of, and whether it was trained here: else `tokens` took it from a
    checkpoint. FileNotFoundError before either.
    """
    model = codec_training.read_quantizer(directory / "quantizer", config.codec, machine)
    return model, bool(model.counts.any())


def extract(directory: Path, machine: Machine, init: str | os.PathLike | None = None) -> None:
    """Codes of every recording: by the trained quantiser, or by the codec of a checkpoint, whose codebooks
    are kept in its place. ValueError if there are both.
    """
    corpus, config = corpus_of(directory), read_config(directory)
    path = directory / "quantizer" / codec_training.FILE
    if init is None:
        model, ours = codebooks(directory, config, machine)
        if not ours:
            raise ValueError(f"{path} holds a checkpoint's codebooks: give --init again")
        codes = codec_training.codes_of_corpus(corpus, config.codec, model, machine)
    else:
        if path.is_file() and codebooks(directory, config, machine)[1]:
            raise ValueError(
                f"{path} was trained here, and --init brings other codebooks: choose a new --out"
            )
        opened, _ = hub.find(os.fspath(init), None, False, True)
        check_sizes(opened, "codec", config)
        K, V, D = config.codec.n_codebooks, config.codec.codebook_size, config.codec.dimension
        theirs, model = checkpoint.load_model(opened, "codec"), ResidualQuantizer(K, V, D)
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
    """Train "decoder", "encoder", "semantic", "coarse" or "fine", from where it was left.

    FileNotFoundError if a step before it is missing, ValueError for data or weights that do not fit.
    """
    corpus, config = corpus_of(directory), read_config(directory)
    run = run_of(directory, name, settings, machine, init)
    if name == "decoder":
        codec_training.train_decoder(corpus, config, run, codebooks(directory, config, machine)[0])
    elif name == "encoder":
        if not codebooks(directory, config, machine)[1]:
            raise ValueError(
                "the codebooks are a checkpoint's, whose encoder has latents of its own: it stays"
            )
        codec_training.train_encoder(corpus, config, run)
    elif name == "semantic":
        tokens.Semantic(corpus, config, tokenizer_of(directory, config)).train(run)
    else:
        {"coarse": tokens.Coarse, "fine": tokens.Fine}[name](corpus, config).train(run)


# --- export -------------------------------------------------------------------------------------------------


def export(
    directory: Path,
    target: Path | None = None,
    dtype: torch.dtype | None = torch.float16,
    init: str | os.PathLike | None = None,
) -> Path:
    """Write what has been trained as a checkpoint, with one voice a speaker; gives its directory.

    dtype: of the files; int8 is `checkpoint.write_model`'s, and leaves the codec float16. The codec has an
    encoder if one was trained. init: a checkpoint that gives what was not trained here.
    FileNotFoundError names a model that is still missing.
    """
    target = target or directory / "checkpoint"
    corpus, config = corpus_of(directory), read_config(directory)
    opened = None if init is None else hub.find(os.fspath(init), None, False)[0]
    states = {name: weights(directory, name, config, opened) for name in ("semantic", "coarse", "fine")}
    states["codec"] = codec_weights(directory, config, opened)
    has_encoder = any(key.startswith("encoder.") for key in states["codec"])
    config = replace(config, codec=replace(config.codec, encoder=has_encoder))
    speakers = {} if opened is None else {name: opened.voice(name) for name in opened.voices}
    if opened is None or (directory / "data" / "codes.json").is_file():
        speakers |= voices(corpus, config.tokens)
    with checkpoint.new_directory(target, force=True) as new:
        for name, state in states.items():
            codec_dtype = torch.float16 if dtype == torch.int8 else dtype
            checkpoint.write_model(new, name, state, codec_dtype if name == "codec" else dtype)
        checkpoint.write_rest(new, config, tokenizer_of(directory, config), speakers)
    return target


def weights(
    directory: Path, name: str, config: BarkConfig, opened: Checkpoint | None = None
) -> dict[str, torch.Tensor]:
    """A model as it was trained, or else that of a checkpoint. FileNotFoundError if there is neither."""
    path = directory / name / "last.pt"
    if path.is_file():
        return read_state(path)["model"]
    if opened is None:
        raise FileNotFoundError(f"{path} is missing: train {name} first")
    check_sizes(opened, name, config)
    return opened.state(name)


def codec_weights(directory: Path, config: BarkConfig, opened: Checkpoint | None) -> dict[str, torch.Tensor]:
    """The codec that was trained; where the codebooks are not our own, the checkpoint's, with what was
    trained of it.
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
    """One voice prompt a speaker: the first utterance of 2 to 3 seconds that has all tokens, else the longest
    below that, else the first 3 seconds of a longer one.
    """
    codes, found = corpus.codes(), {}
    for i in corpus.split("train", "samples", "semantic"):
        seconds = codes[i].shape[1] / ids.frame_rate
        if not seconds:
            continue
        name, worth = corpus.rows[i].speaker or "voice", 0.0 if seconds > LONGEST else min(seconds, 2)
        if name not in found or found[name][0] < worth:
            found[name] = worth, i
    return {name: prompt(name, corpus.semantic(i), codes[i], ids) for name, (_, i) in found.items()}


def prompt(name: str, semantic: np.ndarray, codes: np.ndarray, ids: TokenConfig) -> Voice:
    """The time that both cover, up to 3 seconds."""
    seconds = min(LONGEST, len(semantic) / ids.semantic_rate, codes.shape[1] / ids.frame_rate)
    semantic, codes = (
        semantic[: round(seconds * ids.semantic_rate)],
        codes[:, : round(seconds * ids.frame_rate)],
    )
    return Voice(semantic, codes[: ids.n_coarse], codes[: ids.n_codebooks], name, ids)


def voice(directory: Path, machine: Machine, recipe: Recipe, without: Iterable[str] = ()) -> Path:
    """All steps of the built-in voice; what is there already is kept. The export is int8, as what comes with
    barklite.
    """
    prepare_voice(directory, recipe, without)
    quantizer(directory, SETTINGS["quantizer"], machine)
    if not (directory / "data" / "codes.json").is_file():
        extract(directory, machine)
    for name in ("semantic", "coarse", "fine", "decoder", "encoder"):
        train(directory, name, SETTINGS[name], machine)
    return export(directory, dtype=torch.int8)

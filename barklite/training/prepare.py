"""Prepares a training directory, for the built-in voice or from a folder of recordings.

DIR/config.json, tokenizer.model   the models' configuration
DIR/data/                          the corpus (`data`)
"""

import io
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..config import BarkConfig
from ..storage import hub
from ..storage.atomic import write_bytes
from ..storage.checkpoint import write_tokenizer
from ..storage.formats import read_json
from ..text.english import spell_out
from ..text.tokenizer import KINDS, Tokenizer, check_vocabulary
from .data import Corpus, Writer, from_folder
from .recipe import FRAMES_A_UNIT, SPEAKERS, Recipe, voice_config
from .spoken import UNITS, write_corpus
from .texts import held_out, training_texts


def prepare_voice(directory: Path, recipe: Recipe, processes: int | None = None) -> None:
    """Make the built-in voice's corpus, tokenizer and configuration, unless they exist. OSError without flite
    or WordNet; FileExistsError for a directory that was prepared for other recordings.
    """
    if (directory / "config.json").is_file():
        if not (directory / "data" / UNITS).is_file():
            raise FileExistsError(f"{directory} is prepared for other recordings: give another directory")
        return
    texts = training_texts(recipe.wordnet, recipe.n_everyday, recipe.n_rare, recipe.seed, held_out())
    processes = processes or os.cpu_count() or 1
    n = write_corpus(directory / "data", texts, SPEAKERS, recipe.n_audio, FRAMES_A_UNIT, 320, processes)
    n_text = train_tokenizer(directory / "tokenizer.model", texts)
    write_config(directory, voice_config(n_text, n, recipe.size))


def train_tokenizer(path: Path, texts: Iterable[str]) -> int:
    """Train a SentencePiece model of characters and return its vocabulary size. ValueError without texts."""
    import sentencepiece

    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("the texts have no English words: give your own tokenizer with --config")
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
) -> Corpus:
    """Make a corpus from a folder of recordings (`data.from_folder`).

    init: a checkpoint to fine-tune, whose configuration and tokenizer are used. config: a configuration file,
    with its tokenizer in the same directory. By default, the models have the built-in voice's sizes and as
    many semantic ids as the recordings use. FileExistsError for a directory that has a corpus; ValueError or
    FileNotFoundError for bad input.
    """
    if (directory / "config.json").is_file():
        raise FileExistsError(f"{directory} is prepared already: give another directory")
    models = tokenizer = None
    if init is not None:
        opened, _ = hub.find(os.fspath(init), None, False)
        models, tokenizer = opened.config, opened.tokenizer
    elif config is not None:
        models, tokenizer = configured(Path(config))
    if models is not None:  # a codec with an encoder may have more codebooks than Bark uses
        models = replace(models, codec=replace(models.codec, n_codebooks=models.tokens.n_codebooks))

    shape = models or voice_config(1, 1)  # only the rates are used
    most, texts = 1, []
    (directory / "data" / UNITS).unlink(missing_ok=True)
    with Writer(directory / "data") as writer:
        for path, row in from_folder(folder, shape.codec.sample_rate):
            try:
                if len(row.get("semantic", ())):
                    check_semantic(row, shape, models is not None)
                    most = max(most, int(row["semantic"].max()) + 1)
                writer.add(**row)
            except ValueError as error:
                raise ValueError(f"{path}, {error}") from None
            texts.append(row["text"])
    if models is None:
        models = voice_config(train_tokenizer(directory / "tokenizer.model", map(spell_out, texts)), most)
        tokenizer = tokenizer_of(directory, models)
    corpus = corpus_of(directory)
    check_spans(corpus, tokenizer)
    write_tokenizer(directory, tokenizer)
    write_config(directory, models)
    return corpus


def check_semantic(row: dict, config: BarkConfig, vocabulary: bool) -> None:
    """ValueError unless a row's semantic tokens are as long as its audio, and within the vocabulary if it is
    known (`vocabulary`).
    """
    semantic, tokens = row["semantic"], config.tokens
    size = tokens.semantic_vocab_size
    if vocabulary and semantic.max() >= size:
        raise ValueError(f"{row['text']!r}: semantic token {semantic.max()} is outside 0 .. {size - 1}")
    seconds, spoken = len(row["audio"]) / config.codec.sample_rate, len(semantic) / tokens.semantic_rate
    if abs(seconds - spoken) > 0.1 + 0.03 * seconds:
        raise ValueError(
            f"{row['text']!r}: {len(semantic)} semantic tokens at {tokens.semantic_rate:g} a second "
            f"are {spoken:.2f} s, but the audio has {seconds:.2f} s"
        )


def check_spans(corpus: Corpus, tokenizer: Tokenizer) -> None:
    """ValueError unless all spans are within their texts' ids."""
    for i, row in enumerate(corpus.rows):
        spans = corpus.spans(i)
        if spans is None:
            continue
        n = len(tokenizer.encode(row.text))
        if (spans[:, 0] > spans[:, 1]).any() or spans.max() >= n:
            raise ValueError(f"{row.text!r}: spans must be first <= last < {n}, the number of its text ids")


def configured(path: Path) -> tuple[BarkConfig, Tokenizer]:
    """Read a configuration file and the tokenizer next to it. FileNotFoundError or ValueError."""
    config = _config(path)
    tokenizer = tokenizer_of(path.parent, config)
    check_vocabulary(tokenizer, config.tokens)
    return config, tokenizer


def _config(path: Path) -> BarkConfig:
    """Read a configuration file. ValueError, naming the file, if it is not one."""
    try:
        config = BarkConfig.from_dict(read_json(path))
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    if config.tokenizer not in KINDS:
        raise ValueError(f"{path}: tokenizer is {config.tokenizer!r}, not one of {', '.join(KINDS)}")
    return config


def write_config(directory: Path, config: BarkConfig) -> None:
    """Write `config.json`. It marks the directory as prepared, so it must be written last."""
    write_bytes(directory / "config.json", (json.dumps(config.to_dict(), indent=2) + "\n").encode("utf-8"))


def read_config(directory: Path) -> BarkConfig:
    """Read `config.json`. FileNotFoundError before `prepare`, ValueError if it is damaged."""
    path = directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} has no config.json: run `prepare` first")
    return _config(path)


def corpus_of(directory: Path) -> Corpus:
    """Open the corpus. FileNotFoundError before `prepare`."""
    return Corpus(directory / "data")


def tokenizer_of(directory: Path, config: BarkConfig) -> Tokenizer:
    """Load the tokenizer. FileNotFoundError if its file is not in the directory."""
    kind = KINDS[config.tokenizer]
    if kind.file_name is None:
        return kind.load()
    path = directory / kind.file_name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: config.json needs the tokenizer {config.tokenizer!r}")
    return kind.load(path)

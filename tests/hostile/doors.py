"""Every way into the program: what valid files look like there, how they are spoiled, and who reads them."""

import contextlib
import io
import json
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from random import Random

import matplotlib.figure  # noqa: F401 (here, for it makes folders when it is first imported)
import numpy as np
import scipy.io.wavfile
import torch
from safetensors.torch import save_file

from barklite import Bark, BarkConfig, Clip, GenerationConfig, Voice
from barklite import __main__ as command
from barklite import corpus as corpora
from barklite.config import CodecConfig, FineConfig, GPTConfig, TokenConfig
from barklite.decode.sampling import check_seed
from barklite.text.tokenizer import English, SentencePiece, WordPiece
from barklite.training import __main__ as training_command
from barklite.training import codec as codec_training
from barklite.training import loop, prepare, steps
from barklite.training.coarse import Coarse
from barklite.training.fine import Fine
from barklite.training.semantic import Semantic
from barklite.validation import mono
from tests import builders, sounds
from weights_convert import encodec, huggingface

from . import mutations as m
from .harness import Door, Wrong

TOKENS = TokenConfig(
    text_offset=12, text_pad=312, semantic_infer=314, semantic_vocab_size=10, semantic_eos=10,
    n_text=8, n_semantic_history=8, semantic_rate=50.0, coarse_pad=30, coarse_infer=31,
    n_coarse_semantic=8, n_coarse=2, coarse_window=4, max_coarse_history=8, frame_rate=50.0,
    n_codebooks=3, codebook_size=4, fine_pad=4, fine_window=16, fine_hop=8, max_fine_history=8,
)  # fmt: skip
SIZE = {"n_layer": 1, "n_head": 1, "n_embd": 4}
MICRO = BarkConfig(  # 40 kB in five files
    GPTConfig(input_vocab_size=315, output_vocab_size=11, block_size=20, **SIZE),
    GPTConfig(input_vocab_size=32, output_vocab_size=32, block_size=21, **SIZE),
    FineConfig(vocab_size=5, block_size=16, n_codes_total=3, **SIZE),
    CodecConfig(200, n_filters=2, dimension=4, ratios=(2, 2), n_codebooks=3, codebook_size=4, encoder=True),
    TOKENS,
    tokenizer="bytes",
    generation=GenerationConfig(max_semantic_tokens=12, max_coarse_history=8),
)
WORDS = [*["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], *map(chr, range(33, 127)), "##a", "##b", "hello"]
WORDS += [f"[unused{i}]" for i in range(300 - len(WORDS))]


# --- voices and arrays --------------------------------------------------------------------------------------


def _voice(folder: Path) -> None:
    builders.voice("good", 12).save(folder / "voice.npz")


def _load_voice(folder: Path) -> None:
    voice = Voice.load(folder / "voice.npz")
    for array, most in ((voice.semantic, 10_000), (voice.coarse, 1024), (voice.fine, 1024)):
        if array.dtype != np.int64 or not array.size or array.min() < 0 or array.max() >= most:
            raise Wrong("a voice was accepted with wrong numbers")


def _spoil_voice(rng: Random, folder: Path) -> None:
    path = folder / "voice.npz"
    m.put(path, m.spoiled_zip(rng, path.read_bytes(), m.spoiled_npy))


def _wav(folder: Path) -> None:
    samples = (np.sin(np.arange(400)) * 9000).astype(np.int16)
    scipy.io.wavfile.write(folder / "a.wav", 8000, samples)


def _load_wav(folder: Path) -> None:
    audio = mono(folder / "a.wav", None, 24_000)
    if audio.ndim != 1 or audio.dtype != torch.float32 or not audio.isfinite().all():
        raise Wrong("a sound was accepted that is not finite numbers")


def _spoil_wav(rng: Random, folder: Path) -> None:
    m.put(folder / "a.wav", m.spoiled_wav(rng, (folder / "a.wav").read_bytes()))


# --- checkpoints --------------------------------------------------------------------------------------------


def micro(tokenizer=None) -> Bark:
    return Bark.from_config(MICRO, seed=0, tokenizer=tokenizer, device="cpu")


def _native(folder: Path) -> None:
    micro().save_pretrained(folder / "m")
    (folder / "m" / "voices").mkdir()
    semantic, codes = np.arange(10), np.arange(30).reshape(3, 10) % 4
    Voice(semantic, codes[:2], codes, "mine", TOKENS).save(folder / "m" / "voices" / "mine.npz")


def _huggingface(folder: Path, weights: str) -> None:
    """A published directory of MICRO, of which generation_config.json gives all ids."""
    bark, path = micro(), folder / "m"
    path.mkdir()
    state = {}
    for name in ("semantic", "coarse", "fine"):
        named = getattr(bark, name).state_dict().items()
        state |= {huggingface.PREFIXES[name] + huggingface.theirs(key): tensor for key, tensor in named}
    codec = encodec.export(bark.codec.state_dict(), MICRO.codec).items()
    state |= {huggingface.PREFIXES["codec"] + key: tensor for key, tensor in codec}
    state = {key: tensor.detach().clone() for key, tensor in state.items()}
    if weights == "bin":
        torch.save(state, path / "pytorch_model.bin")
    elif weights == "safetensors":
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    else:
        shards = {}
        for i, keys in enumerate((sorted(state)[::2], sorted(state)[1::2]), 1):
            file = f"model-0000{i}-of-00002.safetensors"
            save_file({key: state[key] for key in keys}, path / file, metadata={"format": "pt"})
            shards |= dict.fromkeys(keys, file)
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    config = builders.huggingface_config(MICRO)
    config["fine_acoustics_config"] |= {"input_vocab_size": 5, "output_vocab_size": 5, "n_codes_total": 3}
    config["codec_config"] |= {"codebook_size": 4, "sampling_rate": 200}
    (path / "config.json").write_text(json.dumps(config))
    (path / "generation_config.json").write_text(json.dumps(_ids(TOKENS)))
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    index: dict = {"repo_or_path": "suno/bark-small", "v2/mine": {}}
    semantic, codes = np.arange(10), np.arange(30).reshape(3, 10) % 4
    for name, array in (("semantic", semantic), ("coarse", codes[:2]), ("fine", codes)):
        file = path / "speaker_embeddings" / f"mine_{name}_prompt.npy"
        file.parent.mkdir(exist_ok=True)
        np.save(file, array)
        index["v2/mine"][f"{name}_prompt"] = file.relative_to(path).as_posix()
    (path / "speaker_embeddings_path.json").write_text(json.dumps(index))


def _ids(ids: TokenConfig) -> dict:
    """`generation_config.json` as transformers spells what a TokenConfig says."""
    generation: dict = {"model_type": "bark", "codebook_size": ids.codebook_size}
    for section, names in huggingface._TOKENS.items():
        generation[section] = {theirs: getattr(ids, ours[0]) for theirs, ours in names.items()}
    return generation


def _suno(folder: Path) -> None:
    """Suno's ids are fixed and their tables long: width 1, and one layer."""
    size = {"n_layer": 1, "n_head": 1, "n_embd": 1}
    config = BarkConfig(
        GPTConfig(input_vocab_size=129_600, output_vocab_size=10_048, **size),
        GPTConfig(input_vocab_size=12_096, output_vocab_size=12_096, **size),
        FineConfig(**size),
        CodecConfig(n_filters=2, dimension=2),
    )
    builders.write_suno(folder / "m", Bark.from_config(config, seed=0, tokenizer=_vocabulary(), device="cpu"))


_KEPT: dict[str, WordPiece] = {}


def _vocabulary() -> WordPiece:
    """The long vocabulary, which is the same in all cases of Suno's layout and is made once a process."""
    if not _KEPT:
        _KEPT["vocab.txt"] = WordPiece(builders.vocabulary())
    return _KEPT["vocab.txt"]


def _load(folder: Path) -> None:
    """Load a checkpoint; speak a word with what was accepted, and read its voices."""
    bark = Bark.from_pretrained(folder / "m", device="cpu")
    opened = bark._checkpoint
    for name in opened.voices[:2]:
        with contextlib.suppress(ValueError):
            opened.voice(name)
    bark.generate("hello", seed=1, config=replace(bark.config.generation, max_semantic_tokens=3))


def _load_suno(folder: Path) -> None:
    kept, vocabulary = WordPiece.load, _vocabulary()
    WordPiece.load = lambda path: vocabulary
    try:
        Bark.from_pretrained(folder / "m", device="cpu")
    finally:
        WordPiece.load = kept


def _convert(folder: Path) -> None:
    from barklite.storage.checkpoint import convert

    convert(folder / "m", folder / "new")
    if sorted(path.name for path in folder.iterdir()) != ["m", "new"]:
        raise Wrong("convert left something behind")


def _json(*files: str):
    """Damage that spoils one of the checkpoint's JSON files."""

    def damage(rng: Random, folder: Path) -> None:
        path = folder / "m" / rng.choice(files)
        m.put(path, m.spoiled_json(rng, path.read_bytes()))

    return damage


def _weights(spoil, *files: str):
    def damage(rng: Random, folder: Path) -> None:
        path = folder / "m" / rng.choice(files)
        m.put(path, spoil(rng, path.read_bytes()))

    return damage


def _files(rng: Random, folder: Path) -> None:
    m.swapped(rng, folder / "m")


NATIVE = ("semantic.safetensors", "coarse.safetensors", "fine.safetensors", "codec.safetensors")


def _spoil_speakers(rng: Random, folder: Path) -> None:
    if rng.random() < 0.6:
        _json("speaker_embeddings_path.json")(rng, folder)
    else:
        path = rng.choice(sorted((folder / "m" / "speaker_embeddings").iterdir()))
        m.put(path, m.spoiled_npy(rng, path.read_bytes()))


def _tokenizer_json(folder: Path) -> None:
    _huggingface(folder, "safetensors")
    (folder / "m" / "vocab.txt").unlink()
    ids = {word: i for i, word in enumerate(WORDS)}
    (folder / "m" / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": ids}}))


# --- vocabularies -------------------------------------------------------------------------------------------


def _vocab(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")


def _spoil_vocab(rng: Random, folder: Path) -> None:
    path = folder / "vocab.txt"
    m.put(path, m.spoiled_lines(rng, path.read_bytes(), m.damaged))


def _load_vocab(folder: Path) -> None:
    tokenizer = WordPiece.load(folder / "vocab.txt")
    ids = tokenizer.encode("hello ab, [MASK] zzz\n你")
    if not all(0 <= i < tokenizer.vocab_size for i in ids):
        raise Wrong("an id outside the vocabulary")


def _sentencepiece(folder: Path) -> None:
    prepare.train_tokenizer(folder / "tokenizer.model", ["hello world", "a text of letters"])


def _spoil_sentencepiece(rng: Random, folder: Path) -> None:
    path = folder / "tokenizer.model"
    m.put(path, m.spoiled_protobuf(rng, path.read_bytes()))


def _load_sentencepiece(folder: Path) -> None:
    tokenizer = SentencePiece.load(folder / "tokenizer.model")
    ids = [
        *tokenizer.encode("hello ab, zzz\n你 \0"),
        *English.load(folder / "tokenizer.model").encode("hello 12"),
    ]
    if not all(0 <= i < tokenizer.vocab_size for i in ids):
        raise Wrong("an id outside the vocabulary")


# --- a corpus -----------------------------------------------------------------------------------------------


def _speak(requests):
    """Stands for `Bark.generate_many`, in no time; it refuses as that does."""
    for i, request in enumerate(requests):
        check_seed(request.seed)
        if request.text.strip():
            none = np.zeros(0, np.int64), np.zeros((8, 0), np.int64)
            yield (
                i,
                Clip(np.zeros(10, np.float32), 24_000, *none, request.text, request.seed, "eos", {"a": 0.1}),
            )
        else:
            yield i, ValueError("the text is empty")


def _rows(folder: Path) -> None:
    rows = [
        {"id": f"row {i}" if i % 2 else i, "text": f"Text {i}.", "voice": None, "seed": i} for i in range(6)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    corpora.speak(_speak, folder / "rows.jsonl", folder / "out")


def _speak_rows(folder: Path) -> None:
    """What results say must be so afterwards, and stay so when it is done again."""
    rows = folder / "rows.jsonl"
    for _ in range(2):
        corpora.speak(_speak, rows, folder / "out")
        records = [json.loads(line) for line in (folder / "out" / "results.jsonl").read_bytes().splitlines()]
        if not all((folder / "out" / r["file"]).is_file() for r in records if not r["error"]):
            raise Wrong("results name a sound that is not there")
    if any(path.name.endswith(".partial") for path in (folder / "out").iterdir()):
        raise Wrong("a half file is left")


def _spoil_rows(rng: Random, folder: Path) -> None:
    path = folder / "rows.jsonl"
    m.put(path, m.spoiled_lines(rng, path.read_bytes()))
    if rng.random() < 0.8:
        shutil.rmtree(folder / "out")


def _spoil_results(rng: Random, folder: Path) -> None:
    path = folder / "out" / "results.jsonl"
    m.put(path, m.spoiled_lines(rng, path.read_bytes()))
    if rng.random() < 0.2:
        path.rename(path.with_name(rng.choice(("results-1-of-2.jsonl", "results-2-of-3.jsonl"))))
    if rng.random() < 0.1:
        m.swapped(rng, folder / "out")


# --- the command line ---------------------------------------------------------------------------------------

ARGUMENTS = (
    "--voice", "--save-voice", "--seed", "--rules", "--temperature", "--fine-temperature", "--top-k",
    "--top-p", "--min-eos-p", "--max-seconds", "--retries", "--pause", "--batch-size", "--shard", "-o",
    "-i", "--plot", "-m", "--device", "--dtype", "--quantize", "--revision", "--float", "-f", "-q",
    "--offload", "--version", "-h", "-", "--nonsense", "voices", "convert", "--encoder",
)  # fmt: skip
WORTHS = (
    "", "0", "1", "-1", "2", "0.5", "1e-7", "nan", "inf", "-inf", "1e400", "9" * 30, "9" * 5000, "0x10",
    "1_0", "½", "٣", "cpu", "cuda:99", "meta", "float16", "int8", "int4", "float64", "suno",
    "transformers", "hello", "mine", "en", "a\nb", "\udcff", "x" * 5000, "m", "out", "out.wav",
    "a\nb.wav", "m/voices/mine.npz", "rows.jsonl", "text.txt", "m/config.json", "/dev/null",
    "/dev/null/x.wav", ".", "..", "v.npz", "p.png", "p.xyz", "1/2", "2/1", "0/0", "-", "nowhere", "a/b",
    "\0",
)  # fmt: skip


def _command(folder: Path) -> None:
    _native(folder)
    (folder / "text.txt").write_text("Hello. World!")
    (folder / "rows.jsonl").write_text('{"text": "Hello."}\n')
    (folder / "arguments.json").write_text(json.dumps(["hello", "-o", "out.wav", "--seed", "1"]))


def _spoil_command(rng: Random, folder: Path) -> None:
    corpus = ["-i", "rows.jsonl", "-o", "d"]
    starts = (["hello"], ["hello"], ["-i", "text.txt"], corpus, [], ["voices"], ["convert", "m"], ["-"])
    start = rng.choice(starts)
    arguments = [*start, "-o", "out.wav"] if start and start[0] not in ("voices", "convert") else start
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 5))):
        option = rng.choice(ARGUMENTS)
        arguments.append(option)
        if rng.random() < 0.85 and option not in ("--float", "-f", "-q", "--offload", "--version", "-h", "-"):
            arguments.append(rng.choice(WORTHS))
        if rng.random() < 0.1:
            arguments.append(rng.choice(WORTHS))
    m.put(folder / "arguments.json", json.dumps(arguments))


def run_command(main, arguments: list[str]) -> None:
    """As the shell does: status 0, or another and one line on stderr."""
    try:
        status = main(arguments)
    except SystemExit as exit:  # argparse
        status = exit.code
    err = sys.stderr.getvalue()
    if "Traceback" in err:
        raise Wrong("a traceback on stderr")
    if "a bug in barklite" in err:
        raise Wrong(err.splitlines()[-1][:200])
    lines = [line for line in err.splitlines() if not line.startswith(("usage:", " "))]
    if status != 0 and (status not in (1, 2) or not lines or "barklite" not in lines[-1]):
        raise Wrong(f"status {status} without a sentence\n{err}")
    if status != 0:
        raise ValueError(lines[-1][:500])


def _run_command(folder: Path) -> None:
    arguments = json.loads((folder / "arguments.json").read_text())
    model = [] if {"voices", "convert", "-m"} & set(arguments) else ["-m", "m"]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        run_command(command.main, [*arguments, *model, *(["--device", "cpu"] if model else [])])


# --- training -----------------------------------------------------------------------------------------------

CPU = loop.Machine(torch.device("cpu"))
SETTINGS = loop.Settings(steps=4, batch_size=2, save_every=2, log_every=1)


def _training(folder: Path) -> None:
    """A prepared directory with every step done, on a small codec."""
    sounds.prepared(folder / "d", 5)
    config = replace(sounds.config(width=4), codec=replace(sounds.config().codec, encoder=True))
    prepare.write_config(folder / "d", config)
    codec_training.write_quantizer(
        folder / "d" / "quantizer", codec_training.ResidualQuantizer(4, 8, config.codec.dimension)
    )
    for name in ("semantic", "coarse", "fine", "decoder", "encoder"):
        run = steps.run_of(folder / "d", name, SETTINGS, CPU)
        run.step = 2
        run._log({"step": 1, "loss": 2.5})
        run._log({"step": 2, "loss": 2.25, "validation_loss": 2.0})
        run._save()


def _spoil_training(rng: Random, folder: Path) -> None:
    path, spoil = rng.choice(
        (
            ("data/rows.jsonl", m.spoiled_lines), ("data/rows.jsonl", m.spoiled_lines),
            ("data/codes.json", m.spoiled_json), ("data/codes.json", m.spoiled_json),
            ("data/codes.u16", m.damaged), ("data/semantic.u16", m.damaged), ("data/spans.u16", m.damaged),
            ("data/audio.i16", m.damaged), ("config.json", m.spoiled_json),
            ("semantic/log.jsonl", m.spoiled_lines), ("semantic/log.jsonl", m.spoiled_lines),
            ("semantic/last.pt", m.spoiled_torch), ("fine/last.pt", m.spoiled_torch),
            ("encoder/last.pt", m.spoiled_torch), ("quantizer/quantizer.safetensors", m.spoiled_safetensors),
            (None, None),
        )
    )  # fmt: skip
    if path is None:
        m.swapped(rng, folder / "d")
    else:
        m.put(folder / "d" / path, spoil(rng, (folder / "d" / path).read_bytes()))


def _go_on(folder: Path) -> None:
    """What the steps read before they train, the first batch, and the export."""
    directory, rng = folder / "d", np.random.default_rng(0)
    config, corpus = prepare.read_config(directory), prepare.corpus_of(directory)
    str(corpus)
    for name in ("semantic", "fine", "encoder"):
        steps.run_of(directory, name, SETTINGS, CPU)
        loop.read_log(directory / name)
    steps.codebooks(directory, config, CPU)
    prepare.check_spans(corpus, prepare.tokenizer_of(directory, config))
    Semantic(corpus, config, prepare.tokenizer_of(directory, config)).batch("train", 2, rng)
    Coarse(corpus, config).batch("train", 2, rng)
    Fine(corpus, config).batch("train", 2, 2, rng)
    rows = codec_training.croppable(corpus, config.codec.hop)
    codec_training.crops(corpus, rows["train"], config.codec.hop, 2, 40, rng)
    Bark.from_pretrained(steps.export(directory), device="cpu")


def _recordings(folder: Path) -> None:
    sounds.folder(folder / "recordings", 2)
    (folder / "small.json").write_text(json.dumps(sounds.config().to_dict()))


def _spoil_recordings(rng: Random, folder: Path) -> None:
    kind = rng.choice(("npz", "npz", "npz", "wav", "txt", "json", "swapped"))
    path = folder / "recordings" / "low" / f"0.{kind}"
    if kind == "npz":
        m.put(path, m.spoiled_zip(rng, path.read_bytes(), m.spoiled_npy))
    elif kind == "wav":
        m.put(path, m.spoiled_wav(rng, path.read_bytes()))
    elif kind == "txt":
        m.put(path, m.damaged(rng, path.read_bytes()))
    elif kind == "json":
        m.put(folder / "small.json", m.spoiled_json(rng, (folder / "small.json").read_bytes()))
    else:
        m.swapped(rng, folder / "recordings")


def _prepare(folder: Path) -> None:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        arguments = ["prepare", "recordings", "--out", "d", "--config", "small.json"]
        with contextlib.redirect_stdout(io.StringIO()):
            run_command(training_command.main, arguments)


def _hf(weights: str):
    return lambda folder: _huggingface(folder, weights)


SUNO = ("text_2.pt", "fine_2.pt", "encodec_24khz-d7cc33bc.th")
ONE = "model.safetensors"
TABLE = (
    Door("voice", _voice, _spoil_voice, _load_voice, 16),
    Door("wav", _wav, _spoil_wav, _load_wav, 8),
    Door("config", _native, _json("config.json"), _load, 8),
    Door("safetensors", _native, _weights(m.spoiled_safetensors, *NATIVE), _load, 8),
    Door("native-files", _native, _files, _convert, 1),
    Door("bin", _hf("bin"), _weights(m.spoiled_torch, "pytorch_model.bin"), _load, 16),
    Door("hf-safetensors", _hf("safetensors"), _weights(m.spoiled_safetensors, ONE), _load, 3),
    Door("hf-config", _hf("safetensors"), _json("config.json", "generation_config.json"), _load, 8),
    Door("hf-index", _hf("shards"), _json(f"{ONE}.index.json"), _load, 3),
    Door("hf-files", _hf("shards"), _files, _convert, 1),
    Door("speakers", _hf("safetensors"), _spoil_speakers, _convert, 4),
    Door("tokenizer-json", _tokenizer_json, _json("tokenizer.json"), _load, 3),
    Door("suno", _suno, _weights(m.spoiled_torch, *SUNO), _load_suno, 4),
    Door("vocab", _vocab, _spoil_vocab, _load_vocab, 4),
    Door("sentencepiece", _sentencepiece, _spoil_sentencepiece, _load_sentencepiece, 6),
    Door("rows", _rows, _spoil_rows, _speak_rows, 8),
    Door("results", _rows, _spoil_results, _speak_rows, 8),
    Door("command", _command, _spoil_command, _run_command, 6),
    Door("training", _training, _spoil_training, _go_on, 6),
    Door("recordings", _recordings, _spoil_recordings, _prepare, 6),
)
DOORS = {door.name: door for door in TABLE}

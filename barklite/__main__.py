"""The `barklite` command. Mistakes get one line on stderr and a non-zero exit status, never a traceback."""

import argparse
import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

from . import __version__

DESCRIPTION = """Speak a text with Bark.

A corpus is a .jsonl file with an object a line, {"id": "a", "text": "Hello.", "voice": null, "seed": null},
of which only the text is needed. It becomes a directory with a WAV and a line of results.jsonl a row. Start
the same command again to go on after an interruption: rows done are skipped, those that failed tried again.

Other commands:
  barklite voices [LANGUAGE]      list the names of voices: the built-in model's and Suno's
  barklite convert SOURCE DIR     make a barklite checkpoint of a Hub id or a directory
  barklite serve                  speak over HTTP, in the shape of OpenAI's speech endpoint"""

NOTE = (
    "barklite: the built-in voice speaks, a small English model trained on synthetic speech "
    "(for Suno's give -m suno/bark-small)"
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command: exit status 0, 1 for an error, 2 for wrong usage, 130 if interrupted."""
    if arguments is None:  # this process is the command: what it began is to vanish when it is told to end
        arguments = sys.argv[1:]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    command = {"voices": _voices, "convert": _convert, "serve": _serve}.get(arguments[0] if arguments else "")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"barklite: {message}", file=sys.stderr)
            return command(arguments[1:]) if command else _speak(arguments)
    except KeyboardInterrupt:
        print("barklite: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left: nobody is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError as error:
        print(f"barklite: not enough memory {error}".rstrip(), file=sys.stderr)
    except (ValueError, OSError, ImportError) as error:  # the last for an extra that is not installed
        print(f"barklite: {_sentence(error)}", file=sys.stderr)
    except RuntimeError as error:  # PyTorch's word for a device that is out of memory, among others
        if "out of memory" not in str(error):
            raise
        print("barklite: the device is out of memory: try --offload or a smaller model", file=sys.stderr)
    return 1


def _speak(arguments: list[str]) -> int:
    parser = _parser("barklite", DESCRIPTION)
    parser.add_argument("text", nargs="?", help='what to say; "-" reads standard input')
    parser.add_argument(
        "-i", "--input", metavar="FILE", help="a text file of any length, spoken by sentences; or a .jsonl"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the WAV file (default: bark.wav); of a .jsonl, a directory"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw sound and tokens: a .png, .pdf, .svg or .jpg")
    parser.add_argument("--float", action="store_true", help="write 32-bit float samples, not 16-bit")
    parser.add_argument(
        "-f", "--force", action="store_true", help="replace files that exist; of a .jsonl, all its rows"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no report; warnings only")
    parser.add_argument("--version", action="version", version=f"barklite {__version__}")
    _model_options(parser)
    group = parser.add_argument_group("voice and sampling", "What is not given is as the model has it.")
    group.add_argument(
        "--voice", metavar="NAME", help="a name that `barklite voices` lists for the model, or an .npz file"
    )
    group.add_argument("--save-voice", metavar="FILE", help="keep this voice as an .npz file")
    group.add_argument("--seed", type=int, help="makes the result repeatable (default of a .jsonl: 0)")
    group.add_argument("--rules", help="suno or transformers: whose tokens to reproduce")
    group.add_argument("--temperature", type=float, help="of the semantic and coarse stages (Suno's: 0.7)")
    group.add_argument("--fine-temperature", type=float, help="of the fine stage (Suno's: 0.5)")
    group.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    group.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the likeliest tokens that sum up to P"
    )
    group.add_argument(
        "--min-eos-p", type=float, metavar="P", help="end when the end is this likely (Suno's: 0.2)"
    )
    group.add_argument("--max-seconds", type=float, metavar="S", help="end after this much sound")
    group.add_argument(
        "--retries",
        type=int,
        default=0,
        metavar="N",
        help="try N other seeds when the length limit is reached",
    )
    group = parser.add_argument_group("long texts, and a corpus (-i FILE.jsonl)")
    group.add_argument(
        "--pause", type=float, default=0.25, metavar="S", help="seconds of silence between sentences"
    )
    group.add_argument("--batch-size", type=int, metavar="N", help="sentences or rows spoken at a time")
    group.add_argument(
        "--shard", metavar="I/N", help="speak part I of N of a corpus; parts may run at the same time"
    )
    options = parser.parse_args(arguments)
    if (options.text is None) == (options.input is None):
        parser.error("give one thing to say: a text, - for standard input, or -i FILE")
    if options.plot is not None and options.input is not None:
        raise ValueError("--plot draws one clip, and -i FILE makes many: give the text itself")
    if options.input is not None and options.input.endswith(".jsonl"):
        return _corpus(options)
    if options.shard is not None:
        raise ValueError("--shard is for a corpus: -i FILE.jsonl")
    _check_numbers(options)
    options.output = "bark.wav" if options.output is None else options.output
    if options.output == "-":
        raise ValueError("-o names a file: for standard output give /dev/stdout")

    text, long = _text(options)
    outputs = [path for path in (options.output, options.save_voice, options.plot) if path is not None]
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise ValueError("two of --output, --save-voice and --plot name the same file")
    from . import clip, voice
    from .storage import atomic
    from .validation import check_text

    clip.check_suffix(options.output)
    if options.save_voice is not None:
        voice.check_suffix(options.save_voice)
    if options.plot is not None:
        clip.plotting().format_of(options.plot)
    for path in outputs:
        atomic.check_writable(path)
        if os.path.isfile(path) and not options.force:
            raise FileExistsError(f"{path} exists: give -f to replace it, or another name")

    check_text(text)  # what is bad is refused before a model is loaded
    config_of = _generation(options)
    bark = _bark(options)
    config = config_of(bark.config.generation)
    progress = False if options.quiet else None
    if long:
        clips = bark.stream(
            text,
            options.voice,
            options.seed,
            config,
            progress,
            pause=options.pause,
            batch_size=options.batch_size,
            retries=options.retries,
        )
    else:
        clips = [bark.generate(text, options.voice, options.seed, config, progress, options.retries)]
    _write(options, clips)
    return 0


def _corpus(options: argparse.Namespace) -> int:
    """Speak the rows of a .jsonl file into a directory; 1 if any failed."""
    if options.output is None:
        raise ValueError("a .jsonl file becomes many WAVs: name a directory with -o")
    if options.save_voice is not None:
        raise ValueError("--save-voice keeps the voice of one text, and a .jsonl file has many")
    _check_numbers(options)
    from .corpus import Shard, speak

    config_of = _generation(options)
    shard = Shard() if options.shard is None else Shard.parse(options.shard)

    def generate_many(requests):
        bark = _bark(options)
        yield from bark.generate_many(
            requests,
            batch_size=options.batch_size,
            config=config_of(bark.config.generation),
            retries=options.retries,
        )

    done = speak(
        generate_many,
        options.input,
        options.output,
        seed=options.seed or 0,
        voice=options.voice,
        shard=shard,
        float32=options.float,
        force=options.force,
        progress=False if options.quiet else None,
    )
    if done.failed or not options.quiet:
        results = os.path.join(options.output, shard.results)
        notes = [
            f"{done.failed} failed: see {results}" if done.failed else "",
            f"{done.skipped} had been done" if done.skipped else "",
            f"{done.cut} reached the length limit" if done.cut else "",
            f"{done.clipped} had samples clipped to [-1, 1] (--float keeps them)" if done.clipped else "",
        ]
        made = f"{done.spoken} rows spoken, {done.seconds:.1f} s of sound"
        print("; ".join([f"{options.output}: {made}", *filter(None, notes)]), file=sys.stderr)
    return 1 if done.failed else 0


def _check_numbers(options: argparse.Namespace) -> None:
    for name, least in (("batch_size", 1), ("retries", 0)):
        if (value := getattr(options, name)) is not None and value < least:
            raise ValueError(f"{name} is {value}; it must be {least} or more")
    if not 0 <= options.pause <= 3600:
        raise ValueError(f"pause is {options.pause}; it must be a number of seconds")


def _bark(options: argparse.Namespace):
    from tqdm import tqdm

    from . import Bark

    bark = Bark.from_pretrained(
        options.model,
        device=options.device,
        dtype=options.dtype,
        compile=options.compile,
        quantize=options.quantize,
        offload=options.offload,
        revision=options.revision,
    )
    if options.model is None and not options.quiet:
        tqdm.write(NOTE, file=sys.stderr)  # above a bar, if there is one
    return bark


def _text(options: argparse.Namespace) -> tuple[str, bool]:
    """What to say, and whether it is a file of any length."""
    if options.input is not None:
        data = sys.stdin.buffer.read() if options.input == "-" else Path(options.input).read_bytes()
        source = options.input
    elif options.text == "-":
        data, source = sys.stdin.buffer.read(), "standard input"
    else:
        return options.text, False
    try:
        return data.decode("utf-8-sig"), options.input is not None
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def _generation(options: argparse.Namespace):
    """A function that puts the options' settings in place of a checkpoint's. ValueError for bad ones."""
    from dataclasses import replace

    from .config import GenerationConfig

    def given(**values) -> dict:
        return {name: value for name, value in values.items() if value is not None}

    filters = given(top_k=options.top_k, top_p=options.top_p)
    drawn = given(temperature=options.temperature) | filters
    fine = given(temperature=options.fine_temperature)
    rest = given(min_eos_p=options.min_eos_p, max_seconds=options.max_seconds, rules=options.rules)

    def changed(config: GenerationConfig) -> GenerationConfig:
        return replace(
            config,
            semantic=replace(config.semantic, **drawn),
            coarse=replace(config.coarse, **drawn),
            fine=replace(config.fine, **fine),
            **rest,
        )

    changed(GenerationConfig())
    if options.seed is not None:
        from .decode.sampling import check_seed

        check_seed(options.seed)
    return changed


def _write(options: argparse.Namespace, clips: Iterable) -> None:
    """The joined sound, written while it is made; if asked plot and voice; a line that says what was made."""
    from .clip import WavWriter
    from .storage import atomic

    first, voice, seconds, count, cut = None, None, {}, 0, 0
    with atomic.writing(options.output) as file:
        for clip in clips:
            if first is None:
                first, writer = clip, WavWriter(file, clip.sample_rate, options.float)
            writer.write(clip.audio)
            if options.save_voice and voice is None:
                with contextlib.suppress(ValueError):  # too short: the text goes on in that of a later clip
                    voice = clip.voice()
            count, cut = count + 1, cut + (clip.finish_reason == "length")
            for stage, second in clip.timings.items():
                seconds[stage] = seconds.get(stage, 0.0) + second
        writer.finish()
    if not options.float and writer.clipped:
        warnings.warn(
            f"{writer.clipped} of {writer.samples} samples were clipped to [-1, 1] (--float keeps them)",
            stacklevel=2,
        )
    if options.plot:
        first.plot(options.plot)
    if options.save_voice:  # after the sound, which a clip too short to be a voice must not cost
        (voice or first.voice()).save(options.save_voice)
    if not options.quiet:
        spent = ", ".join(f"{stage} {second:.1f} s" for stage, second in seconds.items())
        note = f"; {cut} of {count} reached the length limit" if cut else ""
        if first.first_audio is not None:
            note += f"; first sound after {first.first_audio:.1f} s"
        length = f"{writer.samples / first.sample_rate:.1f} s"
        print(f"{options.output}: {length}, seed {first.seed}{note} ({spent})", file=sys.stderr)


def _voices(arguments: list[str]) -> int:
    parser = _parser(
        "barklite voices",
        "List the names for --voice, one a line. A line with # says which models have them.",
    )
    parser.add_argument("language", nargs="?", help="such as en, de or zh (default: all)")
    parser.add_argument("-m", "--model", metavar="DIR", help="only those of a checkpoint directory")
    options = parser.parse_args(arguments)
    from .voice import SUNO_MODELS, built_in, known, voices

    released, groups = voices(options.language), {}
    if options.model is None and (options.language or "en").lower() == "en" and built_in():
        groups["the built-in model, English (without -m)"] = built_in()
    if options.model is None or options.model in SUNO_MODELS:
        groups[f"Suno's models ({', '.join(f'-m {name}' for name in SUNO_MODELS)})"] = released
    else:
        from .storage.formats import open_checkpoint

        opened = open_checkpoint(options.model)
        names, others = known(opened.voices, opened.config.tokens), {*voices()} - {*released}
        groups[options.model] = [name for name in names if name not in others]
    print("\n".join(line for title, names in groups.items() for line in (f"# {title}", *names)))
    return 0


def _convert(arguments: list[str]) -> int:
    parser = _parser(
        "barklite convert", "Make a barklite checkpoint of a Hub id or a directory in any layout."
    )
    parser.add_argument("source", help="suno/bark, suno/bark-small, or a directory")
    parser.add_argument("directory", help="where the new checkpoint goes")
    parser.add_argument("--dtype", help="float32, float16 or bfloat16, for the three token models")
    parser.add_argument(
        "--encoder", action="store_true", help="keep the codec's encoder and all its codebooks"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument(
        "-f", "--force", action="store_true", help="replace a barklite checkpoint that exists"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    from .storage import hub
    from .storage.checkpoint import convert
    from .validation import pick_dtype

    dtype = pick_dtype(options.dtype)
    source = Path(options.source)
    if source.is_dir() and options.revision is not None:
        raise ValueError("a revision belongs to a Hub id, and a directory is given")
    if not source.is_dir():
        if not hub.is_repo_id(options.source):
            raise FileNotFoundError(f"{source} is neither a directory nor a Hub id such as suno/bark-small")
        source = hub.download(options.source, options.revision)
    convert(
        source, options.directory, dtype, options.encoder, options.force, False if options.quiet else None
    )
    return 0


def _serve(arguments: list[str]) -> int:
    from .serve import cli

    parser = _parser("barklite serve", cli.DESCRIPTION)
    _model_options(parser)
    cli.add_options(parser)
    options = parser.parse_args(arguments)
    return cli.run(options, lambda: _bark(options))


def _model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m",
        "--model",
        metavar="NAME",
        help="a Hub id (suno/bark-small) or a checkpoint directory (default: the small English one built in)",
    )
    group.add_argument("--revision", help="branch, tag or commit of a Hub id")
    group.add_argument("--device", help="cuda, mps or cpu (default: the first that is there)")
    group.add_argument("--dtype", help="float32, float16 or bfloat16 (default: the checkpoint's)")
    group.add_argument("--quantize", help="int8, or on the CPU int4: smaller weights, other tokens")
    group.add_argument(
        "--compile", action="store_true", help="compile the steps: slow the first time, then faster"
    )
    group.add_argument("--offload", action="store_true", help="keep one model at a time on the device")


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        name,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _sentence(error: Exception) -> str:
    """An error as one line; the operating system's with the file's name in front."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror[:1].lower()}{error.strerror[1:]}"
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())

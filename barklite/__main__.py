"""The `barklite` command. Errors are one line on stderr and a non-zero exit status, never a traceback."""

import argparse
import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from . import __version__
from .command import Parser, open_streams, options_of, run, say
from .config import LoadOptions, RunOptions

DESCRIPTION = """Speak a text with Bark.

A corpus is a .jsonl file with one object per line, {"id": "a", "text": "Hello.", "voice": null, "seed": 1},
where only the text is required. The output is a directory with a WAV and a line in results.jsonl for each
row. To continue after an interruption run the same command: it skips finished rows and retries failed ones.

Other commands:
  barklite voices [LANGUAGE]      list the voices of the built-in model and of Suno's
  barklite convert SOURCE DIR     convert a Hub id or a directory to a barklite checkpoint
  barklite serve                  serve an HTTP API like OpenAI's speech endpoint"""

NOTE = (
    "barklite: this is the built-in voice, a small English model trained on synthetic speech "
    "(for Suno's give -m suno/bark-small)"
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command: exit status 0, 1 for an error, 2 for wrong usage, 130 if interrupted."""
    if arguments is None:  # this process is the command: on SIGTERM, exit cleanly and delete partial files
        arguments = sys.argv[1:]
        open_streams()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    commands = {"voices": _voices, "convert": _convert, "serve": _serve}
    command = commands.get(arguments[0] if arguments else "")

    def act() -> int:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say(f"barklite: {message}")
            return command(arguments[1:]) if command else _speak(arguments)

    return run("barklite", act)


def _speak(arguments: list[str]) -> int:
    parser = Parser("barklite", DESCRIPTION)
    parser.add_argument("text", nargs="?", help='what to say; "-" reads standard input')
    parser.add_argument(
        "-i", "--input", metavar="FILE", help="a text file of any length, spoken by sentence; or a .jsonl"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the WAV file (default: bark.wav); for a .jsonl, a directory"
    )
    parser.add_argument("--plot", metavar="FILE", help="plot audio and tokens: a .png, .pdf, .svg or .jpg")
    parser.add_argument("--report", metavar="FILE", help="an .html page that shows audio and tokens in time")
    parser.add_argument("--words", metavar="FILE", help="the time of each word: a .srt, .vtt or .json")
    parser.add_argument("--float", action="store_true", help="write 32-bit float samples, not 16-bit")
    parser.add_argument(
        "-f", "--force", action="store_true", help="replace existing files; with a .jsonl, redo all rows"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no report; warnings only")
    parser.add_argument("--version", action="version", version=f"barklite {__version__}")
    _model_options(parser)
    group = parser.add_argument_group("voice and sampling", "The defaults are the model's own.")
    group.add_argument(
        "--voice", metavar="NAME", help="a name that `barklite voices` lists for the model, or an .npz file"
    )
    group.add_argument("--save-voice", metavar="FILE", help="save the clip's voice as an .npz file")
    group.add_argument("--seed", type=int, help="makes the result repeatable (default with a .jsonl: 0)")
    group.add_argument("--rules", help="suno or transformers: the system whose tokens to reproduce")
    group.add_argument(
        "--temperature", type=float, help="temperature of the semantic and coarse stages (Suno's: 0.7)"
    )
    group.add_argument("--fine-temperature", type=float, help="temperature of the fine stage (Suno's: 0.5)")
    group.add_argument("--top-k", type=int, metavar="K", help="sample from the K most probable tokens")
    group.add_argument(
        "--top-p", type=float, metavar="P", help="sample from the most probable tokens, up to a sum of P"
    )
    group.add_argument(
        "--min-eos-p",
        type=float,
        metavar="P",
        help="end when the end token's probability reaches P (Suno's: 0.2)",
    )
    group.add_argument("--max-seconds", type=float, metavar="S", help="end after S seconds of audio")
    names = "retries", "pause", "batch_size"
    group = parser.add_options("retries, long texts and corpora", RunOptions, *names)
    group.add_argument(
        "--shard", metavar="I/N", help="speak part I of N of a corpus, into the same directory"
    )
    options = parser.parse_args(arguments)
    if (options.text is None) == (options.input is None):
        parser.error("give one thing to say: a text, - for standard input, or -i FILE")
    for name, does in (("plot", "draws"), ("report", "shows")):
        if getattr(options, name) is not None and options.input is not None:
            raise ValueError(f"--{name} {does} one clip, but -i FILE makes many: give the text itself")
    if options.input is not None and options.input.endswith(".jsonl"):
        if options.words is not None:
            raise ValueError("--words is for a text: a .jsonl file becomes many WAVs")
        return _corpus(options)
    if options.shard is not None:
        raise ValueError("--shard is for a corpus: -i FILE.jsonl")
    running = replace(options_of(options, RunOptions), progress=False if options.quiet else None)
    options.output = "bark.wav" if options.output is None else options.output
    if options.output == "-":
        raise ValueError("-o takes a file name: for standard output give /dev/stdout")

    text, long = _text(options)
    outputs = (options.output, options.save_voice, options.plot, options.report, options.words)
    outputs = [path for path in outputs if path is not None]
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise ValueError("two of --output, --save-voice, --plot, --report and --words name the same file")
    from . import clip, voice
    from .storage import atomic
    from .validation import check_text

    clip.check_suffix(options.output)
    if options.save_voice is not None:
        voice.check_suffix(options.save_voice)
    if options.plot is not None:
        clip.plotting().format_of(options.plot)
    if options.report is not None or options.words is not None:
        from .analysis import report, subtitles

        if options.report is not None:
            report.check_suffix(options.report)
        if options.words is not None:
            subtitles.format_of(options.words)
    for path in outputs:
        atomic.check_writable(path)
        if os.path.isfile(path) and not options.force:
            raise FileExistsError(f"{path} exists: give -f to replace it, or another name")

    check_text(text)  # fail before the model is loaded
    config_of = _generation(options)
    bark = _bark(options)
    config = config_of(bark.config.generation)
    arguments = text, options.voice, options.seed, config
    if long:
        names = "progress", "batch_size", "retries", "pause"
        clips = bark.stream(*arguments, **{name: getattr(running, name) for name in names})
    else:
        clips = [bark.generate(*arguments, progress=running.progress, retries=running.retries)]
    _write(options, clips, bark)
    return 0


def _corpus(options: argparse.Namespace) -> int:
    """Speak the rows of a .jsonl file into a directory; 1 if any failed."""
    if options.output is None:
        raise ValueError("a .jsonl file becomes many WAVs: give a directory with -o")
    if options.save_voice is not None:
        raise ValueError("--save-voice saves the voice of one text, but a .jsonl file has many")
    running = options_of(options, RunOptions)
    from .corpus import Shard, speak

    config_of = _generation(options)
    shard = Shard() if options.shard is None else Shard.parse(options.shard)

    def generate_many(requests):
        bark = _bark(options)
        config = config_of(bark.config.generation)
        run = dict(batch_size=running.batch_size, retries=running.retries)
        yield from bark.generate_many(requests, config=config, **run)

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
            f"{done.skipped} were already done" if done.skipped else "",
            f"{done.cut} reached the length limit" if done.cut else "",
            f"{done.clipped} had samples clipped to [-1, 1] (--float keeps them)" if done.clipped else "",
        ]
        made = f"{done.spoken} {'row' if done.spoken == 1 else 'rows'} spoken, {done.seconds:.1f} s of audio"
        say("; ".join([f"{options.output}: {made}", *filter(None, notes)]))
    return 1 if done.failed else 0


def _bark(options: argparse.Namespace):
    from tqdm import tqdm

    from . import Bark

    bark = Bark.from_pretrained(options.model, **vars(options_of(options, LoadOptions)))
    if options.model is None and not options.quiet:
        tqdm.write(NOTE, file=sys.stderr)  # above a progress bar, if there is one
    return bark


def _text(options: argparse.Namespace) -> tuple[str, bool]:
    """Return the text to speak, and whether it comes from -i and so may have any length."""
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
    """Return a function that overrides a checkpoint's settings with the flags. ValueError for bad flags."""
    from .config import GenerationConfig

    def chosen(**values) -> dict:
        return {name: value for name, value in values.items() if value is not None}

    filters = chosen(top_k=options.top_k, top_p=options.top_p)
    drawn = chosen(temperature=options.temperature) | filters
    fine = chosen(temperature=options.fine_temperature)
    rest = chosen(min_eos_p=options.min_eos_p, max_seconds=options.max_seconds, rules=options.rules)

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


def _write(options: argparse.Namespace, clips: Iterable, bark) -> None:
    """Write the clips' audio to one WAV as they come, then the plot, report, word times and voice if asked.
    Print a line that sums it up.
    """
    from .clip import WavWriter
    from .storage import atomic

    if options.words:
        from .analysis.subtitles import Transcript

        transcript = Transcript(bark, options.voice)
    first, voice, seconds, count, cut = None, None, {}, 0, 0
    with atomic.writing(options.output) as file:
        for clip in clips:
            if first is None:
                first, writer = clip, WavWriter(file, clip.sample_rate, options.float)
            writer.write(clip.audio)
            if options.words:
                transcript.add(clip)
            if options.save_voice and voice is None:
                with contextlib.suppress(ValueError):  # too short: try the next clip
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
    if options.words:
        transcript.save(options.words)
    if options.report:
        from .inspect import look

        look(bark, first, options.voice).report(options.report)
    if options.save_voice:  # last: if the clip is too short to be a voice, the audio is already written
        (voice or first.voice()).save(options.save_voice)
    if not options.quiet:
        spent = ", ".join(f"{stage} {second:.1f} s" for stage, second in seconds.items())
        note = f"; {cut} of {count} reached the length limit" if cut else ""
        if first.first_audio is not None:
            note += f"; first audio after {first.first_audio:.1f} s"
        length = f"{writer.samples / first.sample_rate:.1f} s"
        say(f"{options.output}: {length}, seed {first.seed}{note} ({spent})")


def _voices(arguments: list[str]) -> int:
    parser = Parser(
        "barklite voices",
        "List the names for --voice, one per line. Lines with # say which models have the names that follow.",
    )
    parser.add_argument("language", nargs="?", help="such as en, de or zh (default: all)")
    parser.add_argument("-m", "--model", metavar="DIR", help="only the voices of a checkpoint directory")
    options = parser.parse_args(arguments)
    from .voice import SUNO_MODELS, built_in, voice_names, voices

    released, groups = voices(options.language), {}
    if options.model is None and (options.language or "en").lower() == "en" and built_in():
        groups["the built-in model, English (without -m)"] = built_in()
    if options.model is None or options.model in SUNO_MODELS:
        groups[f"Suno's models ({', '.join(f'-m {name}' for name in SUNO_MODELS)})"] = released
    else:
        from .storage.formats import open_checkpoint

        opened = open_checkpoint(options.model)
        names, others = voice_names(opened.voices, opened.config.tokens), {*voices()} - {*released}
        groups[options.model] = [name for name in names if name not in others]
    print("\n".join(line for title, names in groups.items() for line in (f"# {title}", *names)))
    return 0


def _convert(arguments: list[str]) -> int:
    parser = Parser(
        "barklite convert", "Convert a Hub id or a directory in any layout to a barklite checkpoint."
    )
    parser.add_argument("source", help="suno/bark, suno/bark-small, or a directory")
    parser.add_argument("directory", help="the new checkpoint's directory")
    parser.add_argument("--dtype", help="float32, float16 or bfloat16, for the three token models")
    parser.add_argument(
        "--encoder", action="store_true", help="keep the codec's encoder and all its codebooks"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing barklite checkpoint")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    from .storage import hub
    from .storage.checkpoint import convert
    from .validation import pick_dtype

    dtype = pick_dtype(options.dtype)
    source = Path(options.source)
    if source.is_dir() and options.revision is not None:
        raise ValueError("a revision belongs to a Hub id, but a directory is given")
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

    parser = Parser("barklite serve", cli.DESCRIPTION)
    _model_options(parser)
    cli.add_options(parser)
    options = parser.parse_args(arguments)
    return cli.run(options, lambda: _bark(options))


def _model_options(parser: Parser) -> None:
    names = "device", "dtype", "quantize", "compile", "offload", "revision", "local_files_only"
    group = parser.add_options("model", LoadOptions, *names)
    kinds = "a Hub id (suno/bark-small) or a checkpoint directory (default: the small English one built in)"
    group.add_argument("-m", "--model", metavar="NAME", help=kinds)


if __name__ == "__main__":
    sys.exit(main())

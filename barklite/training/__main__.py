"""The command `python -m barklite.training`. `prepare` and `steps` implement its subcommands."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from ..command import Parser, open_streams, run

DESCRIPTION = """Train Bark.

  voice      train the built-in voice: data, codec, token models, export
             (needs WordNet and flite)
  prepare    make a corpus from a folder of recordings: a.wav, a.txt, and a.npz with `semantic` (N,)
  quantizer, tokens, decoder, encoder
             the codec: codebooks, codes of the corpus, codes to audio, audio to codes
  codec      all four of them
  semantic, coarse, fine
             the three token models (on several GPUs: torchrun)
  export     write DIR/checkpoint, for Bark.from_pretrained

Each step saves its state in DIR; run the command again to continue after an interruption."""
NUMBERS = ("steps", "batch_size", "lr", "muon_lr", "seed", "save_every")
HERE = ("device", "dtype", "compile")
TAKES = {  # the options of each command beside --out
    "voice": HERE,
    "prepare": ("config", "init"),
    "codec": (*NUMBERS, *HERE),
    "quantizer": ("steps", "batch_size", "seed", "device"),
    "tokens": ("init", "device"),
    **dict.fromkeys(("decoder", "encoder", "semantic", "coarse", "fine"), ("init", *NUMBERS, *HERE)),
    "export": ("init", "dtype"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command: exit status 0, 1 for an error, 2 for wrong usage, 130 if interrupted."""
    if arguments is None:
        open_streams()
    parser = Parser("python -m barklite.training", DESCRIPTION)
    parser.add_argument("command", choices=TAKES, metavar="COMMAND")
    parser.add_argument("folder", nargs="?", help="for prepare: the folder of recordings")
    parser.add_argument(
        "--out", required=True, metavar="DIR", type=Path, help="directory of all steps' files"
    )
    parser.add_argument(
        "--init",
        metavar="CHECKPOINT",
        help="a checkpoint in any layout, for sizes (prepare), codes (tokens), initial weights (training) "
        "or untrained models (export)",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="for prepare: a config.json with other sizes, next to its tokenizer"
    )
    parser.add_argument("--steps", type=int, help="training steps (default, as below: the built-in voice's)")
    parser.add_argument("--batch-size", type=int, help="examples per process and step")
    parser.add_argument("--lr", type=float, help="learning rate of AdamW")
    parser.add_argument(
        "--muon-lr", type=float, help="learning rate of Muon; 0 uses AdamW for all parameters"
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument("--save-every", type=int, metavar="STEPS")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if available)")
    parser.add_argument(
        "--dtype",
        help="of computation: float32 or bfloat16 (default: bfloat16); for export, of the files: float32, "
        "float16 or int8 (default: float16)",
    )
    parser.add_argument("--compile", action="store_true", default=None, help="compile the model")
    options = parser.parse_args(arguments)
    if (options.command == "prepare") != (options.folder is not None):
        parser.error("prepare, and only prepare, takes a folder of recordings")
    if options.config and options.init:
        parser.error("--config or --init, not both")
    for name in ("init", "config", *NUMBERS, *HERE):
        if getattr(options, name) is not None and name not in TAKES[options.command]:
            parser.error(f"{options.command} takes no --{name.replace('_', '-')}")
    again = "interrupted; run the same command again to continue"
    return run("barklite.training", lambda: act(options) or 0, again)


def act(options: argparse.Namespace) -> None:
    """Run the parsed command. ValueError, OSError or ImportError if it fails."""
    import torch

    from . import prepare, steps
    from .loop import machine
    from .recipe import SETTINGS, Recipe

    command, directory = options.command, options.out
    if command == "prepare":
        print(prepare.prepare_folder(directory, options.folder, options.config, options.init))
        return
    if command == "export":
        kinds = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
        if (dtype := options.dtype or "float16") not in kinds:
            raise ValueError(f"dtype is {dtype!r}; export takes {', '.join(kinds)}")
        print(steps.export(directory, dtype=kinds[dtype], init=options.init))
        return
    given = {name: getattr(options, name) for name in NUMBERS if getattr(options, name) is not None}
    with machine(options.device, options.dtype or "bfloat16", bool(options.compile)) as here:
        if here.world > 1 and command not in ("semantic", "coarse", "fine"):
            raise ValueError("torchrun is for semantic, coarse and fine: the other steps run in one process")
        if command == "voice":
            print(steps.voice(directory, here, Recipe()))
            return
        for step in ("quantizer", "tokens", "decoder", "encoder") if command == "codec" else (command,):
            if step == "tokens":
                steps.extract(directory, here, options.init)
            elif step == "quantizer":
                steps.quantizer(directory, replace(SETTINGS[step], **given), here)
            else:
                steps.train(directory, step, replace(SETTINGS[step], **given), here, options.init)


if __name__ == "__main__":
    sys.exit(main())

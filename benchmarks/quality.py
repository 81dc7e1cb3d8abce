"""Measures what each weight format costs in quality, per stage.

    python -m benchmarks.quality [--size small|tiny|large] [--formats A,B] [--compile]   random weights
    python -m benchmarks.quality --size built-in                           the voice that comes with barklite
    python -m benchmarks.quality --checkpoint DIR                                            any other weights

All formats get the same inputs, teacher-forced. Their next-token distributions (softmax over the eligible
ids) are compared with those of float32: mean Kullback-Leibler divergence KL(float32 || format) in nats, and
the share of positions with the same most probable token. "prompt" is one forward over many positions; "step"
feeds one token at a time, with other kernels. Prints tables, and a line of JSON at the end.
"""

import argparse
import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from barklite import Bark, BarkConfig, SamplingConfig
from barklite.decode.engine import PLAIN, Engine
from barklite.decode.sampling import TokenSampler
from barklite.reference import semantic_prompt
from barklite.validation import pick_device

from . import ceiling, systems
from .intelligibility import HELD_OUT, sentences
from .jobs import note, rounded
from .report import table
from .step import eligible, prompt
from .systems import FORMATS

TEXT = "The quick brown fox jumps over the lazy dog, and then [laughs] it sleeps."
LONGEST = 600  # maximal tokens per stage and text
STEPS = 100  # of these, maximal number of single steps
BUILT_IN = "built-in"  # a value of --size: the built-in voice

Inputs = dict[str, Tensor]


def inputs(bark: Bark, random: bool, tokens: int = 384) -> list[Inputs]:
    """Return the inputs of the models, one per text (see `fed`).

    random: one text of uniformly random tokens, for random weights. Otherwise `bark` generates the tokens, so
    that they resemble its training data, in texts with LONGEST coarse tokens in all. A text has as many as
    fit before the coarse model's window slides.
    """
    t = bark.config.tokens
    if random:
        generator = torch.Generator().manual_seed(0)
        semantic = torch.randint(t.semantic_vocab_size, (LONGEST,), generator=generator)
        codes = torch.randint(t.codebook_size, (t.n_codebooks, t.fine_window), generator=generator)
        return [fed(bark, TEXT, semantic, codes)]
    found, missing = [], LONGEST
    limit = min(tokens, bark.config.max_semantic_tokens)
    settings = replace(bark.config.generation, max_semantic_tokens=limit)
    for text in chain([TEXT], sentences(HELD_OUT)):
        clip = bark.generate(text, seed=0, config=settings)
        if clip.codes.shape[1] > 1:  # a single answer has no step
            found.append(fed(bark, text, torch.from_numpy(clip.semantic), torch.from_numpy(clip.codes)))
            missing -= len(found[-1]["coarse"])
        if missing <= 0:
            return found
    raise SystemExit("the checkpoint ends every text at once: there are no tokens to compare")


def fed(bark: Bark, text: str, semantic: Tensor, codes: Tensor) -> Inputs:
    """Return ids: "text" (513,), "semantic" (N,), "coarse" (M,) in the coarse model's order, "fine" (8, T),
    each as long as fits.
    """
    t = bark.config.tokens
    offsets = t.semantic_vocab_size + t.codebook_size * torch.arange(t.n_coarse)
    coarse = (codes[: t.n_coarse] + offsets[:, None]).T.flatten()
    ids = bark.tokenizer.encode(text)
    return {
        "text": torch.tensor([id for half in semantic_prompt(ids, None, t) for id in half]),
        "semantic": semantic[: min(LONGEST, bark.config.max_semantic_tokens)],
        "coarse": coarse[: min(LONGEST, t.max_coarse_history + t.coarse_window)],
        "fine": codes[:, : t.fine_window],
    }


def prefix(bark: Bark, name: str, given: Inputs) -> Tensor:
    """Return embeddings (1, 257, D) of a stage's prompt, with the infer id at the end."""
    t, model = bark.config.tokens, getattr(bark, name)
    if name == "semantic":
        text, history = given["text"].to(bark.device).split((t.n_text, t.n_semantic_history))
        infer = torch.tensor([t.semantic_infer], device=bark.device)
        return torch.cat((model.wte(text) + model.wte(history), model.wte(infer)))[None]
    window = given["semantic"][: t.n_coarse_semantic]
    padding = window.new_full((t.n_coarse_semantic - len(window),), t.coarse_pad)
    return model.wte(torch.cat((window, padding, torch.tensor([t.coarse_infer]))).to(bark.device))[None]


def of_codebook(bark: Bark, name: str, logits: Tensor) -> Tensor:
    """Select the eligible ids of logits (T, V) of successive coarse steps, which alternate codebooks."""
    if name == "semantic":
        return logits
    t = bark.config.tokens
    rows = [row.unflatten(0, (t.n_coarse, t.codebook_size))[i % t.n_coarse] for i, row in enumerate(logits)]
    return torch.stack(rows)


@torch.no_grad()
def many_rows(bark: Bark, given: Inputs) -> dict[str, Tensor]:
    """Return logits (T, V) of each stage from one forward over all positions; the fine model's are of the
    first and the last codebook that it predicts.
    """
    found = {}
    for name in ("semantic", "coarse"):
        model, vocab = getattr(bark, name), vocabulary(bark, name)
        answers = given[name].to(bark.device)
        embeds = torch.cat((prefix(bark, name, given), model.wte(answers[:-1])[None]), 1)
        logits = model(embeds=embeds, vocab=vocab)[0][0, prompt(bark, name) - 1 :]
        found[name] = of_codebook(bark, name, logits)
    t, n_frames = bark.config.tokens, given["fine"].shape[1]
    codes = torch.full((1, t.n_codebooks, t.fine_window), t.fine_pad, device=bark.device)
    codes[0, :, :n_frames] = given["fine"]
    for k in sorted({t.n_coarse, t.n_codebooks - 1}):
        window = codes.clone()
        window[:, k:] = t.fine_pad  # not known yet
        found[f"fine {k}"] = bark.fine(k, window, vocab=slice(0, t.codebook_size))[0][0, :n_frames]
    return {name: logits.float().cpu() for name, logits in found.items()}


class Recorder(TokenSampler):
    """A sampler that records its logits."""

    def __call__(self, logits: Tensor, noise: Tensor | None, past=()) -> tuple[Tensor, Tensor, Tensor]:
        self.rows.append(logits[0].float().cpu())
        return super().__call__(logits, noise, past)


@torch.no_grad()
def one_row(bark: Bark, given: Inputs, engine: Engine) -> dict[str, Tensor]:
    """Return logits (T, V) of up to 100 steps after the prompt of each causal stage, one token at a time."""
    found = {}
    for name in ("semantic", "coarse"):
        model, vocab, rows = getattr(bark, name), vocabulary(bark, name), []
        answers = given[name][: STEPS + 1].to(bark.device)
        cache = engine.new_cache(model, 1, prompt(bark, name) + len(answers))
        engine.prefill(model, prefix(bark, name, given), cache, [0])
        sampler = Recorder(vocab.start, vocab.stop, SamplingConfig(0), "suno", 0)
        object.__setattr__(sampler, "rows", rows)
        for i in range(len(answers) - 1):
            engine.decode(model, answers[i : i + 1], cache, [sampler], None)
        # the first step answers for the second token: the codebooks' turns are counted from there
        found[name] = of_codebook(bark, name, torch.stack([rows[0], *rows]))[1:]
    return found


def vocabulary(bark: Bark, name: str) -> slice:
    """Return the ids that a stage samples from; for the coarse one, of all its codebooks."""
    one, t = eligible(bark, name), bark.config.tokens
    return one if name == "semantic" else slice(one.start, one.start + t.n_coarse * t.codebook_size)


def over_texts(logits: Callable[[Inputs], dict[str, Tensor]], given: list[Inputs]) -> dict[str, Tensor]:
    """Return the logits of each stage, concatenated over texts."""
    found = [logits(one) for one in given]
    return {name: torch.cat([one[name] for one in found]) for name in found[0]}


def compared(reference: Tensor, logits: Tensor) -> dict[str, float]:
    """Return the mean KL(reference || logits) in nats, and the share with the same most probable id."""
    p, q = reference.double().log_softmax(-1), logits.double().log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).mean()
    same = (reference.argmax(-1) == logits.argmax(-1)).double().mean()
    return {"kl_nats": float(kl), "same_greedy": float(same), "positions": len(reference)}


def measure(options: argparse.Namespace) -> dict:
    """Compare all formats with float32, per stage, by both paths. Return plain JSON types."""

    def load(format: str, compile: bool) -> Bark:
        chosen = dict(device=options.device, compile=compile, **systems.options_of(format))
        if options.checkpoint or options.size == BUILT_IN:
            return Bark.from_pretrained(options.checkpoint, **chosen)
        return Bark.from_config(getattr(BarkConfig, options.size)(), seed=0, **chosen)

    def paths_of(bark: Bark) -> dict[str, dict[str, Tensor]]:
        found = {
            "prompt": over_texts(lambda one: many_rows(bark, one), given),
            "step": over_texts(lambda one: one_row(bark, one, PLAIN), given),
        }
        if bark.engine is not PLAIN:
            found["compiled step"] = over_texts(lambda one: one_row(bark, one, bark.engine), given)
        return found

    note("the reference, float32")
    bark = load("float32", False)
    weights = "checkpoint" if options.checkpoint else BUILT_IN if options.size == BUILT_IN else "random"
    given = inputs(bark, random=weights == "random")
    reference = paths_of(bark)
    del bark
    gc.collect()

    found = {}
    for format in options.formats:
        note(format)
        bark = load(format, options.compile)
        found[format] = {
            f"{name} {path}": {key: rounded(x) for key, x in compared(expected, logits[name]).items()}
            for path, logits in paths_of(bark).items()
            for name, expected in reference[path.removeprefix("compiled ")].items()
        }
        del bark
        gc.collect()
    return {
        "benchmark": "quality",
        "size": None if options.checkpoint else options.size,
        "weights": weights,
        "machine": ceiling.machine(options.device),
        "formats": found,
    }


def in_words(result: dict) -> str:
    """Format the result."""
    whose = "the built-in voice" if result["weights"] == BUILT_IN else "the checkpoint"
    what = f"{whose}'s weights, on tokens that its float32 weights generated"
    if result["weights"] == "random":
        what = (
            f"RANDOM weights at bark-{result['size']}'s size, on random tokens. Their distributions are "
            "nearly even: divergences are smaller, and likeliest tokens change sooner, than when trained"
        )
    rows = []
    for format, paths in result["formats"].items():
        for path, one in paths.items():
            same = f"{100 * one['same_greedy']:.1f} %"
            rows.append([f"{format}, {path}", f"{one['kl_nats']:.2e}", same, f"{one['positions']:.0f}"])
    header = ["format, stage, path", "KL nats", "same greedy token", "positions"]
    return f"Against float32, with {what}.\n\n{table(header, rows)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sizes = ("small", "tiny", "large", BUILT_IN)
    parser.add_argument("--size", choices=sizes, default="small", help="of random weights; or barklite's own")
    parser.add_argument("--checkpoint", metavar="DIR", help="weights to use instead (or a Hub id)")
    parser.add_argument("--formats", metavar="A,B", help=f"of {','.join(FORMATS)} (all)")
    parser.add_argument("--compile", action="store_true", help="the compiled steps, too")
    parser.add_argument("--device", help="cpu or cuda (the best there is)")
    options = parser.parse_args(arguments)
    try:
        options.device = pick_device(options.device)
    except ValueError as error:
        parser.error(str(error))
    named = options.formats.split(",") if options.formats else [*FORMATS]
    for name in named:
        if name not in FORMATS:
            parser.error(f"--formats: {name!r} is not one of {', '.join(FORMATS)}")
    options.formats = [name for name in named if name != "int4" or options.device.type == "cpu"]
    result = measure(options)
    print(in_words(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()

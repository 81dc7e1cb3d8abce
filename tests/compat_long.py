"""Random settings through transformers and `barklite.compat`: the same tokens, sound and state of the noise.

python -m tests.compat_long --settings 300 --seed 0      # some minutes; prints the settings of a difference
"""

import argparse
import random
import sys
import traceback

import torch

from barklite import compat
from barklite.text.tokenizer import WordPiece
from tests import builders
from tests.test_compat import GREEDY, close, history, run, same_run, settings

WORDS = ["Hello", "world", "hell", "[laughs]", "♪", "don't", "5", "—", "a", "B!", "x,y", "..."]


def random_case(seed: int) -> tuple[dict, dict, dict]:
    """The processor's arguments, those of `generate`, and changes to the generation configurations."""
    r = random.Random(seed)

    def maybe(chance: float, name: str, *values) -> dict:
        return {name: r.choice(values)} if r.random() < chance else {}

    rows = r.choice((1, 1, 1, 2, 3))
    texts = [" ".join(r.choices(WORDS, k=r.randint(1, 60))) for _ in range(rows)]
    given = {"semantic_max_new_tokens": r.choice((1, 2, 7, 24, 41, 60))}
    for prefix in ("", "semantic_", "coarse_"):
        given |= maybe(0.3, f"{prefix}temperature", 0.3, 0.7, 1.3, r.uniform(0.1, 2.0))
        given |= maybe(0.2, f"{prefix}top_k", None, 0, 1, 3, 50, 5000)
        given |= maybe(0.2, f"{prefix}top_p", 0.1, 0.5, 0.9, 0.999, 1.0)
    given |= maybe(0.3, "fine_temperature", None, 0.2, 0.9, 1.7)
    given |= maybe(0.3, "min_eos_p", 5e-5, 7e-5, 8e-5, 0.2)
    given |= maybe(0.1, "do_sample", False)
    given |= maybe(0.1, "semantic_do_sample", False)
    if r.random() < 0.4:
        given["history_prompt"] = history(
            builders.voice("v", n=r.choice((2, 12, 33, 120, 400, 700)), seed=r.randrange(99))
        )
    if rows > 1:  # together transformers draws other noise for a row than alone
        given |= GREEDY
        given = {
            name: value for name, value in given.items() if "temperature" not in name and name != "min_eos_p"
        }
        given["fine_temperature"] = None
    changes = {
        "semantic_config": maybe(0.2, "top_k", 5, 30) | maybe(0.2, "temperature", 0.5, 1.0),
        "coarse_acoustics_config": maybe(0.3, "max_coarse_history", 60, 100, 630)
        | maybe(0.3, "sliding_window_len", 10, 20, 60)
        | maybe(0.2, "top_p", 0.9),
        "fine_acoustics_config": maybe(0.3, "max_fine_history_length", 128, 256, 512)
        | maybe(0.3, "temperature", 0.9, 1.0),
    }
    return {"text": texts}, given, changes


def compare(seed: int, bark, oracle) -> bool:
    """AssertionError unless both make the same of a random case. False if transformers cannot run it."""
    text, given, changes = random_case(seed)
    given |= dict(compat.BarkProcessor(WordPiece(builders.vocabulary()))(**text))
    try:
        for model in (bark, oracle):
            settings(model, changes)
        try:
            theirs = run(oracle, seed, **given)
        except (RuntimeError, IndexError):
            if given.get("min_eos_p") is None:  # nothing said, which its codec cannot decode
                raise
            return False
        ours = run(bark, seed, **given)
    finally:
        for model in (bark, oracle):
            settings(model, {})
    rows = len(given["input_ids"])
    if rows == 1:
        same_run(ours, theirs)
        return True
    ends = (theirs[0][0] == 10_000).any()
    if ends:  # a row that ended early is padded here, and goes on there
        return False
    for one, other in zip(ours[0], theirs[0], strict=True):
        assert one.tolist() == other.tolist()
    close(ours[1], theirs[1], 1e-5 * float(theirs[1].abs().max()))
    return True


def models():
    """The oracle, and ours with its weights."""
    from transformers.models.bark.generation_configuration_bark import BarkGenerationConfig

    oracle = builders.oracle()
    oracle.generation_config = BarkGenerationConfig()
    settings(oracle, {})
    bark = compat.BarkModel(compat.BarkConfig(**oracle.config.to_dict())).eval()
    bark.load_state_dict(oracle.state_dict())
    settings(bark, {})
    return bark, oracle


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    arguments = parser.parse_args()
    bark, oracle = models()
    compared, wrong = 0, []
    for seed in range(arguments.seed, arguments.seed + arguments.settings):
        try:
            compared += compare(seed, bark, oracle)
        except Exception:
            wrong.append(seed)
            print(f"seed {seed}: {random_case(seed)}\n{traceback.format_exc()}", flush=True)
    torch.manual_seed(0)
    print(f"{arguments.settings} settings: {compared} compared, {len(wrong)} differ {wrong or ''}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

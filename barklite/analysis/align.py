"""When each word of a clip is said: read off the semantic model's attention to the text.

The semantic model runs once over the clip's own tokens. In some heads the attention moves through the text as
its words are said. They are found anew for each clip: the heads along whose attention the best monotone path
is the most probable. Dynamic time warping gives the path. Axes: H heads of all layers, N semantic tokens, W
text tokens.
"""

import contextlib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..models.gpt import GPT
from .trace import attention_map, replaced

FLOOR = 1e-3  # attention below this says nothing
CLOSE = 0.1  # nats a frame: heads this close to the best one are averaged
_SYMBOLS = "%‰&@#*/\\°"  # punctuation by Unicode's classes, but read aloud
# A cue, one ideograph or kana, or a run of what has spaces around it, with the marks that follow.
_WORD = re.compile(
    r"\[[^][]+\]\S*?(?=\s|\[|$)|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff[]+"
    r"|[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff][\u30fc、。，！？；：」』）…]*|\["
)


@dataclass(frozen=True)
class Word:
    """A typed word, without the marks around it, as `text[first:last]` of its clip; seconds of the clip."""

    text: str
    start: float
    end: float
    first: int
    last: int


@dataclass(frozen=True, eq=False, repr=False)
class Alignment:
    """When a clip's words and text tokens are said.

    words: in their order; those that a clip which was cut never reached are missing. tokens: the text as the
    model reads it; times: float64 (W, 2), start and end of each in seconds; nan if it was not reached. heads:
    the (layer, head) pairs whose attention was averaged; score: how probable it makes the path, 0 to 1: a
    geometric mean over time. Below about 0.1 the times say little.
    """

    words: list[Word]
    tokens: list[str]
    times: np.ndarray
    heads: list[tuple[int, int]]
    score: float

    def __repr__(self) -> str:
        return f"Alignment({len(self.words)} words, heads {self.heads}, score {self.score:.2f})"


def align(bark, clip, voice=None) -> Alignment:
    """The start and end of each word of a clip, to a semantic token (20 ms).

    A clip holds no model and does not remember its voice: give the `Bark` that made it, and the voice that it
    was spoken with, as for `Bark.score`. ValueError for a clip without semantic tokens or with those of
    another model.
    """
    if len(clip.semantic) == 0:
        raise ValueError("an empty clip has no words to align")
    config, t = bark.config.generation, clip.tokens

    def encode(text: str) -> list[int]:
        if config.rules == "suno":
            text = " ".join(re.split(r"\s+", text.strip()))
        return bark.tokenizer.encode(text)

    ids = encode(clip.text)[: t.n_text]
    answers = slice(t.n_prompt - 1, t.n_prompt - 1 + len(clip.semantic))  # the positions that predict them
    with recorded(bark.semantic, answers, len(ids)) as maps:
        bark.score((clip.semantic, None), clip.text, voice)
    ended, n = clip.finish_reason == "eos", len(clip.semantic)
    totals = np.stack([warp(costs(layer), ended)[0] for layer in maps]) / n  # (L, n_head)
    heads = [(int(layer), int(head)) for layer, head in np.argwhere(totals <= totals.min() + CLOSE)]
    (total,), (path,) = warp(costs(np.mean([maps[layer][[head]] for layer, head in heads], 0)), ended)

    rate, end = t.semantic_rate, min(n / t.semantic_rate, clip.seconds)
    times = np.full((len(ids), 2), np.nan)
    reached = np.flatnonzero(path >= 0)
    times[reached, 0] = np.minimum(path[reached] / rate, end)
    times[reached, 1] = np.append(times[reached[1:], 0], end)
    words = timed(clip.text, times, spans(clip.text, ids, encode))
    return Alignment(words, bark.tokenizer.pieces(ids), times, heads, float(np.exp(-total / n)))


def costs(attention: np.ndarray) -> np.ndarray:
    return -np.log(attention + FLOOR)


@contextlib.contextmanager
def recorded(model: GPT, queries: slice, n_text: int):
    """A list that gets each layer's attention of `queries` to the first `n_text` positions, float32
    (n_head, N, W): all that `trace` keeps would be gigabytes of a large model.
    """
    maps: list[np.ndarray] = []

    def recorder(attend: Callable) -> Callable:
        def record(q, k, v, mask, causal):
            maps.append(attention_map(q, k, mask, causal)[0, :, queries, :n_text].cpu().numpy())
            return attend(q, k, v, mask, causal)

        return record

    with contextlib.ExitStack() as undo:
        for block in model.h:
            undo.enter_context(replaced(block.attn, "attend", recorder(block.attn.attend)))
        yield maps


def warp(cost: np.ndarray, whole: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest monotone paths through costs (H, N, W), from the first text token at the first frame, by
    steps to the next frame, the next token, or both: their costs (H,), and the frame at which each token
    begins, int64 (H, W).

    whole: paths end with the last token; otherwise anywhere at the last frame, and tokens behind have -1.
    """
    H, N, W = cost.shape
    best = cost[:, 0].cumsum(-1)  # (H, W): up to this token at this frame
    stays = np.zeros((N, H, W), bool)  # came from the same token of the frame before
    comes = np.zeros((N, H, W), bool)  # came from another token of it, not of this frame
    for i in range(1, N):
        before = np.pad(best[:, :-1], ((0, 0), (1, 0)), constant_values=np.inf)
        stays[i] = best <= before
        entered = np.minimum(best, before)
        along = cost[:, i].cumsum(-1)
        offset = entered - (along - cost[:, i])
        least = np.minimum.accumulate(offset, -1)
        comes[i] = offset <= least
        best = along + least
    last = np.full(H, W - 1) if whole else best.argmin(-1)
    starts = np.full((H, W), -1)
    for h, w in enumerate(last):
        i = N - 1
        while i >= 0 and w >= 0:
            starts[h, w] = i
            if i == 0 or not comes[i, h, w]:
                w -= 1
            else:
                w -= not stays[i, h, w]
                i -= 1
    return best[np.arange(H), last], starts


# --- text tokens to typed words -----------------------------------------------------------------------------


def typed(text: str) -> list[tuple[int, int, int, int]]:
    """The words of a text: where each begins and ends, with the marks around it and without. A run without a
    letter or digit is no word.
    """

    def mark(character: str) -> bool:
        return unicodedata.category(character)[0] == "P" and character not in _SYMBOLS

    found = []
    for match in _WORD.finditer(text):
        first, last = match.span()
        while first < last and mark(text[first]):
            first += 1
        while first < last and mark(text[last - 1]):
            last -= 1
        if any(map(str.isalnum, text[first:last])):
            found.append((match.start(), first, last, match.end()))
    return found


def spans(text: str, ids: list[int], encode: Callable[[str], list[int]]) -> list[tuple[int, int, int, int]]:
    """Of each typed word its characters `text[first:last]`, and its tokens `ids[start:stop]`.

    For any tokenizer, also one that rewrites the text (42 is `forty two`): a word's tokens begin where the
    text from it on is encoded alike, and end where the text up to it is. Words whose tokens cannot be told
    apart have the same start. Words behind the last of `ids`, which may be cut, are left out.
    """
    n, words, full = len(ids), typed(text), encode(text)
    begins, before = [], 0
    for begin, _, _, end in words:
        rest = encode(text[begin:])  # it may be read otherwise behind what is before it: `$5 million`
        begins.append(len(full) - len(rest) if rest == full[len(full) - len(rest) :] else before)
        upto = encode(text[:end])
        before = next((i for i, (a, b) in enumerate(zip(upto, full, strict=False)) if a != b), len(upto))
    begins = np.minimum(np.maximum.accumulate([*begins, n]), n).tolist()
    result = []
    for w, (_, first, last, _) in enumerate(words):
        later = next((begin for begin in begins[w:] if begin > begins[w]), n)
        upto = encode(text[:last])
        stop = len(upto) if upto == full[: len(upto)] and begins[w] < len(upto) <= later else later
        if begins[w] < n:
            result.append((first, last, begins[w], stop))
    return result


def timed(text: str, times: np.ndarray, found: list[tuple[int, int, int, int]]) -> list[Word]:
    """Words with the times of their tokens. A word ends where the next begins, unless marks are between them,
    which are pauses; words that share their tokens share the time by their lengths.
    """
    words, w = [], 0
    while w < len(found):
        begin = found[w][2]
        shared = [one for one in found[w:] if one[2] == begin]
        w += len(shared)
        stop = shared[-1][3]
        between = text[shared[-1][1] : found[w][0]] if w < len(found) else text[shared[-1][1] :]
        if w < len(found) and not between.strip():
            stop = found[w][2]
        start = times[begin, 0]
        if np.isnan(start):
            continue
        end = np.nanmax(times[begin:stop, 1], initial=start)
        edges = start + (end - start) * np.cumsum([0, *(b - a for a, b, *_ in shared)]) / sum(
            b - a for a, b, *_ in shared
        )
        for (first, last, *_), a, b in zip(shared, edges, edges[1:], strict=False):
            words.append(Word(text[first:last], round(float(a), 3), round(float(b), 3), first, last))
    return words

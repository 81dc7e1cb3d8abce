"""Word times of a clip, from the semantic model's attention to the text.

The semantic model runs once over the clip's tokens. In some heads the attention moves through the text as its
words are spoken. Dynamic time warping finds the best monotone path through each head's attention; the heads
with the most probable paths are chosen for each clip, and their averaged attention gives the word times.
Axes: H heads, N semantic tokens, W text tokens.
"""

import contextlib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..models.gpt import GPT
from .trace import attention_map, replaced

FLOOR = 1e-3  # added to attention, so that values below it do not matter
CLOSE = 0.1  # nats per semantic token: average all heads whose path costs at most this more than the best
_SYMBOLS = "%‰&@#*/\\°"  # punctuation in Unicode, but read aloud
# A cue, one ideograph or kana, or a run between spaces, each with the marks that follow.
_WORD = re.compile(
    r"\[[^][]+\]\S*?(?=\s|\[|$)|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff[]+"
    r"|[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff][\u30fc、。，！？；：」』）…]*|\["
)


@dataclass(frozen=True)
class Word:
    """A written word, `clip.text[first:last]`, without the marks around it. start, end: seconds."""

    text: str
    start: float
    end: float
    first: int
    last: int


@dataclass(frozen=True, eq=False, repr=False)
class Alignment:
    """The times of a clip's words and text tokens.

    words: in the text's order, without those that a truncated clip does not reach.
    tokens: the text's tokens. times: float64 (W, 2), start and end of each in seconds; nan if not reached.
    heads: the (layer, head) pairs whose attention was averaged.
    score: 0 to 1, the geometric mean of the attention along the path. Below about 0.1 the times are
        unreliable.
    """

    words: list[Word]
    tokens: list[str]
    times: np.ndarray
    heads: list[tuple[int, int]]
    score: float

    def __repr__(self) -> str:
        return f"Alignment({len(self.words)} words, heads {self.heads}, score {self.score:.2f})"


def align(bark, clip, voice=None) -> Alignment:
    """Find the start and end of each word of a clip, with the resolution of a semantic token (20 ms).

    bark: the `Bark` that made the clip. voice: the one it was spoken with, as in `Bark.score`. ValueError for
    a clip without semantic tokens or with those of another model.
    """
    if len(clip.semantic) == 0:
        raise ValueError("an empty clip has no words to align")
    config, t = bark.config.generation, clip.tokens

    def encode(text: str) -> list[int]:
        if config.rules == "suno":
            text = " ".join(re.split(r"\s+", text.strip()))
        return bark.tokenizer.encode(text)

    ids = encode(clip.text)[: t.n_text]
    queries = slice(t.n_prompt - 1, t.n_prompt - 1 + len(clip.semantic))  # they predict the clip's tokens
    with record_attention(bark.semantic, queries, len(ids)) as maps:
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
    words = word_times(clip.text, times, word_spans(clip.text, ids, encode))
    return Alignment(words, bark.tokenizer.pieces(ids), times, heads, float(np.exp(-total / n)))


def costs(attention: np.ndarray) -> np.ndarray:
    """Return the negative log of attention weights, the costs for `warp`."""
    return -np.log(attention + FLOOR)


@contextlib.contextmanager
def record_attention(model: GPT, queries: slice, n_text: int):
    """Yield a list that collects each layer's attention from `queries` to the first `n_text` positions,
    float32 (n_head, N, W). The full maps of `trace` would take gigabytes for a large model.
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
    """Dynamic time warping: find the cheapest monotone path through each head's costs (H, N, W).

    A path begins at the first text token and the first semantic token. Each step goes to the next semantic
    token, the next text token, or both. Returns the paths' total costs (H,), and the semantic token at which
    each text token begins, int64 (H, W).

    whole: paths must reach the last text token. If False they may end at any, and later ones have -1.
    """
    H, N, W = cost.shape
    best = cost[:, 0].cumsum(-1)  # (H, W): cheapest path up to this text token at semantic token i
    stays = np.zeros((N, H, W), bool)  # the step from i - 1 keeps the text token, else it advances by one
    comes = np.zeros((N, H, W), bool)  # the last step is from i - 1, else from the text token before at i
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


# --- text tokens to written words ---------------------------------------------------------------------------


def words_of(text: str) -> list[tuple[int, int, int, int]]:
    """Find the words of a text: (begin, first, last, end) for each.

    `text[begin:end]` includes the marks around a word, `text[first:last]` does not. A word has at least one
    letter or digit.
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


def word_spans(
    text: str, ids: list[int], encode: Callable[[str], list[int]]
) -> list[tuple[int, int, int, int]]:
    """Map words to tokens: (first, last, start, stop) for each, with the characters `text[first:last]` and
    the tokens `ids[start:stop]`.

    Works with any tokenizer, also one that rewrites the text (42 to `forty two`). A word's first token is
    found by encoding the text from the word on, its last by encoding the text up to it. Words whose tokens
    cannot be separated share them. Words beyond `ids`, which may be truncated, are left out.
    """
    n, words, full = len(ids), words_of(text), encode(text)
    begins, before = [], 0
    for begin, _, _, end in words:
        rest = encode(text[begin:])  # may differ from its encoding in context: `$5 million`
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


def word_times(text: str, times: np.ndarray, found: list[tuple[int, int, int, int]]) -> list[Word]:
    """Make words with the times of their tokens.

    A word ends where the next begins, unless there are marks between them, which are pauses. Words that share
    tokens divide the time in proportion to their lengths.
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

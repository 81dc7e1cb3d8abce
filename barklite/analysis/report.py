"""Makes an HTML report of a clip: one file with audio, data and script that needs no network.

The page plays the audio and moves a cursor through waveform, spectrogram, tokens and codes, and through word
times, log-probabilities and attention if they are given. `report.html` is the template; this file adds data.
"""

import base64
import contextlib
import html
import json
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..storage import atomic
from .align import Alignment, align
from .score import Scores
from .trace import Trace, trace

TEMPLATE = Path(__file__).with_name("report.html")
MAPS = 900_000  # limit in bytes of packed attention maps
TRACED = 1e9  # limit in bytes of a trace


@dataclass(frozen=True, eq=False)
class View:
    """A clip with its analysis, for a report. `barklite.inspect.look` makes one with all parts.

    words: from `align`. scores: from `Bark.score`. trace: of `bark.semantic`, with `Bark.score` of this clip
    as its last call. label: a heading, to tell two clips apart.
    """

    clip: "Clip"  # noqa: F821
    words: Alignment | None = None
    scores: Scores | None = None
    trace: Trace | None = None
    label: str | None = None

    def report(
        self,
        path: str | os.PathLike | None = None,
        other: "View | Clip | None" = None,  # noqa: F821
    ) -> "Report":
        """Make the page of this clip, or of two side by side. With a path it is also written. See `page`."""
        if path is not None:
            check_suffix(path)
        beside = [] if other is None else [other if isinstance(other, View) else View(other)]
        made = page(self, *beside)
        if path is not None:
            made.save(path)
        return made


def look(bark, clip, voice=None, *, attention: bool | None = None, label: str | None = None) -> View:
    """Compute a clip's word times, log-probabilities and attention maps, for `View.report`.

    voice: the one it was spoken with; a clip does not store it. attention: None skips the maps if they would
    take more than 1 GB. Errors as in `Bark.score`.
    """
    if len(clip.semantic) == 0:
        return View(clip, label=label)
    sizes, positions = bark.semantic.config, clip.tokens.n_prompt + len(clip.semantic)
    if attention is None:
        attention = 4 * sizes.n_layer * sizes.n_head * positions**2 <= TRACED
    with trace(bark.semantic, keep=1) if attention else contextlib.nullcontext() as traced:
        scores = bark.score(clip, voice=voice)
    return View(clip, align(bark, clip, voice), scores, traced, label)


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """An HTML page, which notebooks display."""

    html: str

    def save(self, path: str | os.PathLike) -> None:
        """Write the page atomically. ValueError unless the name ends in .html or .htm."""
        check_suffix(path)
        atomic.write_bytes(path, self.html.encode("utf-8"))

    def _repr_html_(self) -> str:
        frame = 'style="width:100%;height:48rem;border:0" title="barklite report"'
        return f'<iframe {frame} srcdoc="{html.escape(self.html)}"></iframe>'


def check_suffix(path: str | os.PathLike) -> None:
    """ValueError unless a file name ends in .html or .htm."""
    if os.path.splitext(os.fspath(path))[1].lower() not in (".html", ".htm"):
        raise ValueError(f"a report is written as .html, not {os.fspath(path)!r}: change the suffix")


def page(*views: View) -> Report:
    """Make the page of one clip, or of two compared side by side.

    ValueError for scores or a trace of another clip.
    """
    if not 1 <= len(views) <= 2:
        raise ValueError(f"a report shows one clip or two, not {len(views)}")
    data = [_view(view, "AB"[i]) for i, view in enumerate(views)]
    text = json.dumps({"views": data})  # ASCII
    for character in "<>&":  # so that no text can end the script or begin a comment in it
        text = text.replace(character, f"\\u{ord(character):04x}")
    title = " ".join(views[0].clip.text.split())[:80]
    start, rest = TEMPLATE.read_text(encoding="utf-8").split("{{title}}")
    middle, end = rest.split("{{data}}")
    return Report("".join((start, html.escape(title), middle, text, end)))


def _view(view: View, name: str) -> dict:
    clip, t, scores = view.clip, view.clip.tokens, view.scores
    data = {
        "name": name,
        "label": view.label or "",
        "text": clip.text,
        "facts": {
            "Length": f"{clip.seconds:.2f} s",
            "Seed": str(clip.seed),
            "End": {"eos": "by the model (eos)", "length": "at the limit (length)"}.get(
                clip.finish_reason, clip.finish_reason
            ),
            "Semantic tokens": f"{len(clip.semantic)}",
            "Codes": "{} × {}".format(*clip.codes.shape),
            **({"Computing time": f"{sum(clip.timings.values()):.2f} s"} if clip.timings else {}),
        },
        "seconds": clip.seconds,
        "wav": base64.b64encode(clip.wav()).decode("ascii"),
        "rate": clip.sample_rate,
        "semanticRate": t.semantic_rate,
        "frameRate": t.frame_rate,
        "semanticSize": t.semantic_vocab_size,
        "codebookSize": t.codebook_size,
        "coarse": t.n_coarse,
        "semantic": packed(clip.semantic, "int32"),
        "codes": packed(clip.codes, "int32"),
    }
    if clip.eos_p is not None:
        data["eosP"] = packed(clip.eos_p, "float32")
    if scores is not None:
        for stage, shape in (
            ("semantic", clip.semantic.shape),
            ("coarse", clip.codes[: t.n_coarse].shape),
            ("fine", clip.codes[t.n_coarse :].shape),
        ):
            known = getattr(scores, stage)
            if known is not None and known.shape != shape:
                raise ValueError(f"the {stage} scores {known.shape} are not those of this clip, {shape}")
            if known is not None:
                data[f"{stage}P"] = packed(known, "float32")
        means = ", ".join(f"{stage} {mean:.2f}" for stage, mean in scores.means.items())
        data["facts"]["Mean log-probability"] = means
    if view.words is not None:
        found = view.words
        data["words"] = [[w.text, w.start, w.end, w.first, w.last] for w in found.words]
        data["tokens"] = [
            [piece, float(a), float(b)]
            for piece, (a, b) in zip(found.tokens, found.times, strict=True)
            if not math.isnan(a)
        ]
        data["facts"]["Certainty of the word times"] = f"{found.score:.2f}"
    if view.trace is not None:
        data["attention"] = attention(view)
    return data


def packed(array: np.ndarray, dtype: str) -> dict:
    """Pack an array for the page: deflated little-endian numbers in row-major order, base64."""
    small = zlib.compress(np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<")).tobytes(), 9)
    return {"dtype": dtype, "shape": list(array.shape), "data": base64.b64encode(small).decode("ascii")}


def attention(view: View) -> dict:
    """Pack the attention of each semantic token to the text tokens, the rest of the prompt (summed), and the
    earlier semantic tokens. Square roots in 8 bits; large maps are max-pooled until they fit in `MAPS` bytes.
    """
    clip, t, maps = view.clip, view.clip.tokens, view.trace.attentions
    n, first = len(clip.semantic), t.n_prompt - 1
    if not maps or not first + n <= maps[0].shape[-2] <= first + n + 1 or n == 0:
        raise ValueError("the trace is not of this clip: its last call must be bark.score(clip)")
    tokens = view.words.tokens if view.words is not None else []
    k = len(tokens) or t.n_text
    columns, rows = n, n
    while True:
        wide, high = (np.linspace(0, n, min(n, bins) + 1).astype(int)[:-1] for bins in (columns, rows))
        parts = []
        for one in maps:  # one layer at a time: a large model's maps take gigabytes
            of = one[0, :, first : first + n].detach().float().cpu().numpy()  # (H, N, S)
            text, slots, said = (
                of[..., :k],
                of[..., k:first].sum(-1, keepdims=True),
                of[..., first : first + n],
            )
            seen = np.concatenate((text, slots, np.maximum.reduceat(said, high, -1)), -1)
            seen = np.maximum.reduceat(seen, wide, 1)  # (H, columns, k + 1 + rows)
            parts.append(np.round(255 * np.sqrt(seen.clip(0, 1))).astype(np.uint8).swapaxes(1, 2))
        done = packed(np.stack(parts), "uint8")  # (L, H, k + 1 + rows, columns)
        if len(done["data"]) <= MAPS or columns <= 16:
            break
        columns, rows = columns // 2, max(1, rows // (4 if rows > 64 else 2))
    shown = view.words.heads[0] if view.words is not None else (len(maps) // 2, 0)
    return {"maps": done, "text": k, "tokens": tokens, "shown": list(shown)}

"""EnCodec at 24 kHz, in its authors' layout (`encodec_24khz-d7cc33bc.th`) and in transformers' (spec 6.5).

Both store weight norm as a direction v and a length g per filter; `convert` folds them: w = g v / |v|
(spec 6.3).
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from barklite.config import CodecConfig

from . import select

_LSTM = [f"{kind}_l{layer}" for layer in (0, 1) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
# keys of (length, direction) in older and newer versions of PyTorch
_WEIGHT_NORM = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)


def convert(
    state: Mapping[str, Tensor],
    huggingface: bool = False,
    n_codebooks: int = 8,
    encoder: bool = False,
    config: CodecConfig | None = None,
) -> tuple[CodecConfig, dict[str, Tensor]]:
    """Convert the decoder and the first `n_codebooks` codebooks; with `encoder`, also the encoder and all
    codebooks.

    huggingface: whether keys are those of transformers' EncodecModel. config: gives sample rate and `ratios`,
    if they are not the released ones. ValueError names a missing or unknown key.
    """
    config = config or CodecConfig()
    names: dict[str, str] = {}  # theirs -> ours, after folding
    ignored: list[str] = []
    for side in ("decoder", "encoder"):
        for layer, kind in _layers(side, len(config.ratios)):
            for part, leaf in _parts(kind):
                theirs = _theirs(side, layer, part, leaf, kind, huggingface)
                names[theirs] = ".".join(filter(None, (side, str(layer), part, leaf)))
    prefix, book = ("quantizer.layers", "codebook") if huggingface else ("quantizer.vq.layers", "_codebook")
    stored = sum(key.startswith(prefix) and key.endswith(f"{book}.embed") for key in state)
    if stored < n_codebooks:
        raise ValueError(
            f"tensor '{prefix}.{stored}.{book}.embed' is missing: {n_codebooks} codebooks are needed"
        )
    for q in range(stored):
        names[f"{prefix}.{q}.{book}.embed"] = f"codebook.{q}"
        ignored += [
            f"{prefix}.{q}.{book}.{statistic}" for statistic in ("inited", "cluster_size", "embed_avg")
        ]

    converted = select(_folded(state), names, ignored)
    shapes = {converted[f"codebook.{q}"].shape for q in range(stored)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            f"the codebooks ({prefix}.*.{book}.embed) differ in shape or are not matrices: {shapes}"
        )
    books = torch.stack(
        [converted.pop(f"codebook.{q}") for q in range(stored)][: stored if encoder else n_codebooks]
    )
    if not encoder:
        converted = {key: tensor for key, tensor in converted.items() if key.startswith("decoder.")}
    converted["codebooks"] = books
    n_filters = _dim(converted, f"decoder.{3 * len(config.ratios) + 3}.weight", 1)
    return replace(
        config,
        n_filters=n_filters,
        dimension=books.shape[2],
        codebook_size=books.shape[1],
        n_codebooks=books.shape[0],
        encoder=encoder,
    ), converted


def export(state: Mapping[str, Tensor], config: CodecConfig) -> dict[str, Tensor]:
    """The inverse of `convert`, to transformers' names, with weight norm unfolded."""
    exported = {}
    for side in ("decoder", "encoder") if config.encoder else ("decoder",):
        for layer, kind in _layers(side, len(config.ratios)):
            for part, leaf in _parts(kind):
                tensor = state[".".join(filter(None, (side, str(layer), part, leaf)))]
                theirs = _theirs(side, layer, part, leaf, kind, True)
                if leaf == "weight":
                    length, direction = (theirs.removesuffix(".weight") + end for end in _WEIGHT_NORM[1])
                    exported[length] = torch.norm_except_dim(tensor, 2, 0)
                    exported[direction] = tensor
                else:
                    exported[theirs] = tensor
    for q, book in enumerate(state["codebooks"]):
        stem = f"quantizer.layers.{q}.codebook"
        exported |= {f"{stem}.inited": torch.ones(1), f"{stem}.cluster_size": torch.ones(len(book))}
        exported |= {f"{stem}.embed": book, f"{stem}.embed_avg": book.clone()}
    return exported


def _dim(state: Mapping[str, Tensor], key: str, dim: int) -> int:
    if state[key].ndim <= dim:
        raise ValueError(f"tensor {key!r} has shape {tuple(state[key].shape)}, of too few dimensions")
    return state[key].shape[dim]


def _layers(side: str, stages: int) -> list[tuple[int, str]]:
    """Return (index, kind) of the layers with weights. ELUs have an index but no weights (spec 6.1)."""
    if side == "decoder":  # conv, LSTM, then per stage (ELU, transposed conv, residual), then ELU, conv
        body = [(i, kind) for s in range(stages) for i, kind in ((3 * s + 3, "up"), (3 * s + 4, "res"))]
        return [(0, "conv"), (1, "lstm"), *body, (3 * stages + 3, "conv")]
    body = [(i, kind) for s in range(stages) for i, kind in ((3 * s + 1, "res"), (3 * s + 3, "conv"))]
    return [(0, "conv"), *body, (3 * stages + 1, "lstm"), (3 * stages + 3, "conv")]


def _parts(kind: str) -> list[tuple[str, str]]:
    if kind == "lstm":
        return [("", leaf) for leaf in _LSTM]
    parts = ("block.1", "block.3", "shortcut") if kind == "res" else ("",)
    return [(part, leaf) for part in parts for leaf in ("weight", "bias")]


def _theirs(side: str, layer: int, part: str, leaf: str, kind: str, huggingface: bool) -> str:
    stem = f"{side}.{'layers' if huggingface else 'model'}.{layer}"
    if kind == "lstm":
        return f"{stem}.lstm.{leaf}"
    wrapper = "conv" if huggingface else "convtr.convtr" if kind == "up" else "conv.conv"
    return ".".join(filter(None, (stem, part, wrapper, leaf)))


def _folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace each pair of length and direction by `x.weight`; keep all other tensors."""
    folded = dict(state)
    for length, direction in _WEIGHT_NORM:
        stems = {key.removesuffix(end) for end in (length, direction) for key in state if key.endswith(end)}
        for stem in sorted(stems):
            for key in (stem + length, stem + direction):
                if key not in state:
                    raise ValueError(f"tensor {key!r} is missing")
            g, v = folded.pop(stem + length), folded.pop(stem + direction)
            if v.ndim != 3 or g.shape != (v.shape[0], 1, 1):
                raise ValueError(
                    f"tensor {stem + length!r} has shape {tuple(g.shape)}, which does not fit {v.shape}"
                )
            folded[f"{stem}.weight"] = torch._weight_norm(v.float(), g.float(), 0)
    return folded

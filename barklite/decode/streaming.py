"""Long texts: sentences generated together and returned in order; audio in pieces."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..models.codec import Codec
from .batch import PREFIX_FRAMES
from .pipeline import Pipeline, RequestState

if TYPE_CHECKING:
    from ..voice import Voice


def in_order(
    alone: Pipeline,
    together: Pipeline,
    start: Callable[[int, "Voice | None"], RequestState],
    n: int,
    voice: "Voice | None",
    voice_of: Callable[[RequestState], "Voice"],
) -> Iterator[RequestState]:
    """Sentences 0 .. n - 1, finished, in their order. Raises the first error.

    start: makes a sentence's request. The first sentence runs alone, for low latency. Without a `voice`, the
    others use the voice of the first clip that is long enough to give one.
    """
    done, given = 0, voice is not None
    while done < n and (done == 0 or voice is None):
        (state,) = alone.run([start(done, voice)])
        yield _checked(state)
        done += 1
        if not given:
            with contextlib.suppress(ValueError):  # too short to be a voice
                voice = voice_of(state)
    early: dict[int, RequestState] = {}  # finished before their turn
    for state in together.run(start(i, voice) for i in range(done, n)):
        early[state.index] = _checked(state)
        while done in early:
            yield early.pop(done)
            done += 1


def _checked(state: RequestState) -> RequestState:
    if state.error is not None:
        raise state.error
    return state


def with_progress(
    states: Iterator[RequestState], characters: Sequence[int], progress: bool | None
) -> Iterator[tuple[RequestState, bool]]:
    """States, and whether more follow, with a bar that estimates the time left from the characters left."""
    from tqdm import tqdm

    bar = dict(disable=None if progress is None else not progress, leave=False, smoothing=0)
    shown = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=sum(characters), bar_format=shown, **bar) as bar:
        for i, state in enumerate(states):
            bar.set_description(f"sentence {i + 1} of {len(characters)}", refresh=False)
            bar.update(characters[i])
            yield state, i + 1 < len(characters)


@torch.no_grad()
def decode_in_pieces(codec: Codec, codes: Tensor, frames: int) -> Iterator[Tensor]:
    """Codes (k, T) -> audio, in pieces of `frames` frames; joined, they equal the output of `decode`.

    Except for the reflection at the start, which needs 7 frames, every layer is causal. The first convolution
    looks back 6 frames, the LSTM over the whole past, and the other layers fewer than `behind` frames.
    """
    assert frames >= PREFIX_FRAMES
    if type(codec) is not Codec:  # whose layers nobody knows
        audio = codec(codes[None])[0]
        yield from audio.split(frames * codec.config.hop)
        return
    convolution, lstm, *rest = codec.decoder
    rest, config, rate, behind = nn.Sequential(*rest), codec.config, 1, 0.0
    for ratio in config.ratios:
        behind, rate = behind + 1 / rate + 2 / (rate * ratio), rate * ratio  # transposed; residual
    behind = math.ceil(behind + 6 / rate)
    z, state, T = codec.embed(codes[None]), None, codes.shape[-1]  # (1, C, T)
    tail = z[..., :0]
    for start in range(0, T, frames):
        before = min(start, PREFIX_FRAMES - 1)
        x = convolution(z[..., start - before : start + frames])[..., before:]
        x, state = lstm.go_on(x, state)
        x = torch.cat((tail, x), -1) if start else x
        yield rest(x)[0, 0, (tail.shape[-1] if start else 0) * config.hop :]
        tail = x[..., -behind:]

"""Long texts: sentences that are spoken together and heard in their order, and sound piece by piece."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..models.codec import Codec
from ..voice import Voice
from .pipeline import PREFIX_FRAMES, Job, Pipeline


def in_order(
    alone: Pipeline,
    together: Pipeline,
    job: Callable[[int, Voice | None], Job],
    n: int,
    voice: Voice | None,
    voice_of: Callable[[Job], Voice],
) -> Iterator[Job]:
    """The jobs 0 .. n - 1, done, in their order.

    The first goes alone, to be heard soon. Without a `voice` all others speak in that of the first clip that
    is long enough to have one. An error of a job is raised.
    """
    done, given = 0, voice is not None
    while done < n and (done == 0 or voice is None):
        (one,) = alone.run(iter([job(done, voice)]))
        yield _good(one)
        done += 1
        if not given:
            with contextlib.suppress(ValueError):  # too short to be a voice
                voice = voice_of(one)
    held: dict[int, Job] = {}
    for one in together.run(job(i, voice) for i in range(done, n)):
        held[one.index] = _good(one)
        while done in held:
            yield held.pop(done)
            done += 1


def _good(job: Job) -> Job:
    if job.error is not None:
        raise job.error
    return job


def counted(
    jobs: Iterator[Job], characters: Sequence[int], progress: bool | None
) -> Iterator[tuple[Job, bool]]:
    """Jobs, and whether more follow, beside a bar that knows the sentences and, by length, the time left."""
    from tqdm import tqdm

    hidden, shown = (
        None if progress is None else not progress,
        "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
    )
    with tqdm(total=sum(characters), leave=False, disable=hidden, bar_format=shown, smoothing=0) as bar:
        for i, job in enumerate(jobs):
            bar.set_description(f"sentence {i + 1} of {len(characters)}", refresh=False)
            bar.update(characters[i])
            yield job, i + 1 < len(characters)


@torch.no_grad()
def decode_in_pieces(codec: Codec, codes: Tensor, frames: int) -> Iterator[Tensor]:
    """Codes (k, T) -> audio, in pieces of `frames` frames; joined, they are what `decode` gives.

    But for the reflection at the start, which wants 7 frames, every layer looks back only: the first
    convolution 6 frames, the LSTM at all, and the rest, whose rate grows by each ratio, less than `behind`.
    """
    assert frames >= PREFIX_FRAMES
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

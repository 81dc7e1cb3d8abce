"""Many rows of a stage at once: `BatchDecoder` for the causal models, `synthesize` for the codec.

What a row gets does not depend on its neighbours: it has its own position, noise and end.
"""

import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Rows

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.codec import Codec
from .engine import PLAIN, Engine, drop_row, engine_of
from .sampling import TokenSampler
from .stages import CoarseStage, FineSequence, FineStage, SemanticStage, Sequence, not_finite

PREFIX_FRAMES = 7  # from so many frames on, audio does not depend on the frames that follow (spec 6.2)


class BatchDecoder:
    """Decodes the sequences of a stage in lockstep. One that ends makes room for the next.

    Sequence i is row i of the cache. All rows are always at the same codebook, because prompts and ends fall
    on whole frames.
    """

    def __init__(
        self,
        stage: SemanticStage | CoarseStage,
        size: int,
        engine: Engine = PLAIN,
        on_tokens: Callable[[int], object] = lambda n: None,
    ):
        """size: the most rows at a time. on_tokens: is told how many tokens were made."""
        self.stage, self.size, self.on_tokens = stage, size, on_tokens
        self.engine = engine_of(stage.model, engine)
        self.cache = self.engine.new_cache(stage.model, size, stage.max_length)
        self.sequences: list[Sequence] = []

    @property
    def free(self) -> int:
        """How many sequences can be added now."""
        return self.size - len(self.sequences)

    def add(self, sequence: Sequence) -> None:
        assert self.free
        self.sequences.append(sequence)
        self.cache.lengths.append(0)

    def remove(self, sequence: Sequence) -> None:
        row = self.sequences.index(sequence)
        drop_row(self.cache, row)
        self.sequences[row] = self.sequences[-1]
        self.sequences.pop()

    def close(self) -> None:
        """Return the cache to the engine."""
        self.engine.release(self.stage.model, self.cache)

    def step(self) -> list[Sequence]:
        """Read the prompts that are due, decode one chunk of tokens; return the sequences that are done."""
        start, rows = time.perf_counter(), self.sequences
        for one in rows:
            if one.remaining == 0:  # nothing to decode
                self.remove(one)
                return [one]
        with torch.no_grad():
            self._prefill()
            samplers = self._samplers()
            ids = torch.tensor([one.last for one in rows], device=self.cache.keys.device)
            noise = self._noise(samplers)
            past = [one.tokens for one in rows] if samplers[0].sampling.filter else ()
            made = self.engine.decode(self.stage.model, ids, self.cache, samplers, noise, past)
            made = [each.T.tolist() for each in made]  # rows of (n,)
        for one in rows:
            one.seconds += (time.perf_counter() - start) / len(rows)
        done = [one for one, *taken in zip(list(rows), *made, strict=True) if self._take(one, *taken)]
        for one in done:
            self.remove(one)
        return done

    def run(self, sequences: Iterable[Sequence]) -> list[Sequence]:
        """Decode all of `sequences`, as many at a time as there are rows; return them as they end."""
        waiting, done = iter(sequences), []
        while True:
            while self.free and (one := next(waiting, None)) is not None:
                self.add(one)
            if not self.sequences:
                return done
            done += self.step()

    def _prefill(self) -> None:
        """Read prompts; those of one length are read together."""
        groups: dict[tuple, list[int]] = {}
        for row, one in enumerate(self.sequences):
            if one.prompt is not None:
                groups.setdefault(tuple(one.prompt.shape), []).append(row)
        for rows in groups.values():
            prompts = torch.stack([self.sequences[row].prompt for row in rows])
            self.engine.prefill(self.stage.model, prompts.to(self.cache.keys.device), self.cache, rows)
            for row in rows:
                self.sequences[row].prompt = None

    def _samplers(self) -> list[TokenSampler]:
        """Those of the next chunk: whole frames, no more than any row still wants."""
        samplers = self.stage.samplers
        n = max(self.engine.chunk, len(samplers))
        n = min(n - n % len(samplers), *(one.remaining for one in self.sequences))
        return (samplers * n)[:n]

    def _noise(self, samplers: list[TokenSampler]) -> Tensor | None:
        """Noise of a chunk, (n, B, noise_width); None if sampling is greedy."""
        n, sampler = len(samplers), samplers[0]
        if sampler.sampling.temperature == 0:
            return None
        noise = [one.noise.take(n, sampler.noise_width) for one in self.sequences]
        return torch.stack(noise, 1)

    def _take(self, one: Sequence, ids: list[int], ended: list[bool], last_p: list[float]) -> bool:
        """Give a row its tokens up to its end; whether the row is done."""
        n = ended.index(True) + 1 if True in ended else len(ids)
        if any(p != p for p in last_p[:n]):  # NaN
            one.error = not_finite(self.stage.name, self.cache.keys.dtype)
            return True
        one.tokens += ids[:n]
        one.eos_p += last_p[:n]
        one.last, one.remaining, one.ended = ids[n - 1], one.remaining - n, ended[n - 1]
        self.on_tokens(n)
        if n < len(ids):
            one.noise.rewind(n, self.stage.samplers[0].noise_width)
        return one.ended or (one.remaining == 0 and not self.stage.advance(one))


@torch.no_grad()
def run_stage(
    stage: SemanticStage | CoarseStage | FineStage,
    rows: Rows[tuple],
    size: int,
    engine: Engine = PLAIN,
    report: Callable[[int], object] = lambda n: None,
) -> list[Sequence | FineSequence]:
    """Run a stage on rows (what `start` takes: input, voice, generator): the finished sequences, in order.

    size: rows at a time. report: is told of tokens or passes as they are made. The first row that failed
    raises its error. `stage.result` turns a sequence into the stage's result.
    """
    if isinstance(stage, FineStage):
        groups = [rows[i : i + size] for i in range(0, len(rows), size)]
        done = [stage.run([stage.start(*row) for row in group], engine, report) for group in groups]
        done = [one for group in done for one in group]
    else:
        decoder = BatchDecoder(stage, size, engine, report)
        try:
            done = decoder.run(stage.start(*row, i) for i, row in enumerate(rows))
        finally:
            decoder.close()
        done.sort(key=lambda one: one.key)
    for one in done:
        if one.error is not None:
            raise one.error
    return done


@torch.no_grad()
def synthesize(codec: Codec, rows: Rows[Tensor], engine: Engine = PLAIN) -> list[Tensor]:
    """Codes (k, T_i) -> audio, float32 (320 T_i,). Rows are padded on the right and computed together."""
    engine, audio = engine_of(codec, engine), [None] * len(rows)
    groups: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        k, T = row.shape
        groups.setdefault((k, T if T < PREFIX_FRAMES else None), []).append(i)
    for group in groups.values():
        longest = max(rows[i].shape[1] for i in group)
        codes = torch.stack([F.pad(rows[i], (0, longest - rows[i].shape[1])) for i in group])
        for i, sound in zip(group, engine.synthesize(codec, codes), strict=True):
            audio[i] = sound[: rows[i].shape[1] * codec.config.hop].float()
    return audio

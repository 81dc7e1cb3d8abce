"""Batched decoding of a stage: `BatchDecoder` for the causal models, `synthesize` for the codec.

A row's result does not depend on its neighbours: each row has its own position, noise and end.
"""

import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Rows

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.codec import Codec
from .engine import PLAIN, Engine, count_weights, drop_row, engine_of
from .sampling import TokenSampler
from .stages import CoarseStage, FineSequence, FineStage, SemanticStage, Sequence, not_finite

PREFIX_FRAMES = 7  # with at least this many frames, audio does not depend on later frames (spec 6.2)


class BatchDecoder:
    """Decodes the sequences of a stage in lockstep. When one ends, its row is free for the next.

    Sequence i is row i of the cache. All rows are always at the same codebook, because prompts and sequence
    ends align to whole frames.
    """

    def __init__(
        self,
        stage: SemanticStage | CoarseStage,
        size: int,
        engine: Engine = PLAIN,
        on_tokens: Callable[[int], object] = lambda n: None,
    ):
        """size: maximum number of rows. on_tokens: called with the number of new tokens."""
        self.stage, self.size, self.on_tokens = stage, size, on_tokens
        self.engine = engine_of(stage.model, engine)
        self.cache = self.engine.new_cache(stage.model, size, stage.max_length)
        self.weights = count_weights(stage.model)
        self.sequences: list[Sequence] = []

    @property
    def free(self) -> int:
        """Number of free rows."""
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
        """Prefill pending prompts and decode one chunk of tokens; return the finished sequences."""
        start, rows = time.perf_counter(), self.sequences
        for sequence in rows:
            if sequence.remaining == 0:  # nothing to decode
                self.remove(sequence)
                return [sequence]
        with torch.no_grad(), self.engine.threads(self.weights, len(rows)):
            self._prefill()
            samplers = self._samplers()
            ids = torch.tensor([sequence.last for sequence in rows], device=self.cache.keys.device)
            noise = self._noise(samplers)
            past = [sequence.tokens for sequence in rows] if samplers[0].sampling.filter else ()
            outputs = self.engine.decode(self.stage.model, ids, self.cache, samplers, noise, past)
            outputs = [each.T.tolist() for each in outputs]  # rows of (n,)
        for sequence in rows:
            sequence.seconds += (time.perf_counter() - start) / len(rows)
        done = [
            sequence
            for sequence, *taken in zip(list(rows), *outputs, strict=True)
            if self._take(sequence, *taken)
        ]
        for sequence in done:
            self.remove(sequence)
        return done

    def run(self, sequences: Iterable[Sequence]) -> list[Sequence]:
        """Decode all `sequences`, up to `size` at a time; return them in the order in which they finish."""
        waiting, done = iter(sequences), []
        while True:
            while self.free and (sequence := next(waiting, None)) is not None:
                self.add(sequence)
            if not self.sequences:
                return done
            done += self.step()

    def _prefill(self) -> None:
        """Prefill pending prompts; prompts of the same length share a forward pass."""
        groups: dict[tuple, list[int]] = {}
        for row, sequence in enumerate(self.sequences):
            if sequence.prompt is not None:
                groups.setdefault(tuple(sequence.prompt.shape), []).append(row)
        for rows in groups.values():
            prompts = torch.stack([self.sequences[row].prompt for row in rows])
            self.engine.prefill(self.stage.model, prompts.to(self.cache.keys.device), self.cache, rows)
            for row in rows:
                self.sequences[row].prompt = None

    def _samplers(self) -> list[TokenSampler]:
        """Samplers of the next chunk: whole frames, at most the smallest `remaining` of all rows."""
        samplers = self.stage.samplers
        n = max(self.engine.chunk, len(samplers))
        n = min(n - n % len(samplers), *(sequence.remaining for sequence in self.sequences))
        return (samplers * n)[:n]

    def _noise(self, samplers: list[TokenSampler]) -> Tensor | None:
        """Noise of a chunk, (n, B, noise_width); None if sampling is greedy."""
        n, sampler = len(samplers), samplers[0]
        if sampler.sampling.temperature == 0:
            return None
        noise = [sequence.noise.take(n, sampler.noise_width) for sequence in self.sequences]
        return torch.stack(noise, 1)

    def _take(self, sequence: Sequence, ids: list[int], ended: list[bool], last_p: list[float]) -> bool:
        """Append a row's tokens up to its end; return whether the row is finished."""
        n = ended.index(True) + 1 if True in ended else len(ids)
        if any(p != p for p in last_p[:n]):  # NaN
            sequence.error = not_finite(self.stage.name, self.cache.keys.dtype)
            return True
        sequence.tokens += ids[:n]
        sequence.eos_p += last_p[:n]
        sequence.last, sequence.remaining, sequence.ended = ids[n - 1], sequence.remaining - n, ended[n - 1]
        self.on_tokens(n)
        if n < len(ids):
            sequence.noise.rewind(n, self.stage.samplers[0].noise_width)
        return sequence.ended or (sequence.remaining == 0 and not self.stage.advance(sequence))


@torch.no_grad()
def run_stage(
    stage: SemanticStage | CoarseStage | FineStage,
    rows: Rows[tuple],
    size: int,
    engine: Engine = PLAIN,
    report: Callable[[int], object] = lambda n: None,
) -> list[Sequence | FineSequence]:
    """Run a stage on rows (input, voice, generator), the arguments of `start`; return the finished sequences
    in input order.

    size: rows at a time. report: called with the number of new tokens or passes. Raises the error of the
    first row that failed. `stage.result` turns a sequence into the stage's result.
    """
    if isinstance(stage, FineStage):
        groups = [rows[i : i + size] for i in range(0, len(rows), size)]
        done = [stage.run([stage.start(*row) for row in group], engine, report) for group in groups]
        done = [sequence for group in done for sequence in group]
    else:
        decoder = BatchDecoder(stage, size, engine, report)
        try:
            done = decoder.run(stage.start(*row, i) for i, row in enumerate(rows))
        finally:
            decoder.close()
        done.sort(key=lambda sequence: sequence.key)
    for sequence in done:
        if sequence.error is not None:
            raise sequence.error
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
        with engine.threads(count_weights(codec), len(group)):
            sounds = engine.synthesize(codec, codes)
        for i, sound in zip(group, sounds, strict=True):
            audio[i] = sound[: rows[i].shape[1] * codec.config.hop].float()
    return audio

"""The three token stages for many rows. Each row gets the same tokens as from `barklite.reference` alone.

A stage holds a model, the settings and the ids. `SemanticStage` and `CoarseStage` make one `Sequence` per
row, which `batch.BatchDecoder` decodes; `FineStage.run` fills the codebooks of many rows together.
Axes: K codebooks, T positions or frames, N semantic tokens, D width, V vocabulary.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import reference
from ..config import GenerationConfig, TokenConfig
from ..models.fine import FineGPT
from ..models.gpt import GPT
from .engine import PLAIN, Engine, count_weights, engine_of
from .sampling import NoiseSource, coarse_samplers, draw, exponential, probabilities, semantic_sampler

if TYPE_CHECKING:
    from ..voice import Voice


@dataclass(eq=False)
class Sequence:
    """State of one row in a stage. `key` is the caller's; `error` is set if the row failed."""

    key: Any
    noise: NoiseSource
    prompt: Tensor | None = None  # to prefill, ids (T,) or embeddings (T, D); None: nothing to prefill
    last: int = 0  # the newest id, which follows the prompt
    remaining: int = 0  # tokens until `advance` is called
    tokens: list[int] = field(default_factory=list)
    eos_p: list[float] = field(default_factory=list)  # probability of the end at each step
    ended: bool = False  # by the end token, which is in `tokens`, or by min_eos_p
    error: Exception | None = None
    seconds: float = 0.0  # its share of the batch's time


class SemanticStage:
    """Tokenizer ids -> semantic tokens (spec 4.1)."""

    name = "semantic"

    def __init__(self, model: GPT, config: GenerationConfig, tokens: TokenConfig):
        self.model, self.config, self.tokens = model, config, tokens
        self.samplers = [semantic_sampler(model.config.output_vocab_size, config, tokens)]
        self.limit = config.semantic_limit(tokens)
        self.max_length = tokens.n_prompt + self.limit - 1  # the last token takes no position

    def start(
        self, ids: list[int], voice: "Voice | None", generator: torch.Generator, key: Any = None
    ) -> Sequence:
        t, model = self.tokens, self.model
        device = model.wpe.weight.device
        halves = reference.semantic_prompt(ids, voice, t)
        text, history = (torch.tensor(half, device=device) for half in halves)
        embeds = model.wte(text) + model.wte(history)  # (n_text, D)
        return Sequence(key, NoiseSource(generator), embeds, t.semantic_infer, self.limit)

    def work(self, ids: list[int], voice: "Voice | None") -> int:
        """Maximum number of tokens of a row."""
        return self.limit

    def advance(self, sequence: Sequence) -> bool:
        """Always False: the semantic stage has a single window."""
        return False

    def result(self, sequence: Sequence) -> tuple[Tensor, str]:
        """Semantic tokens, int64 (N,), and why they end: "eos" or "length"."""
        spoken = sequence.tokens[:-1] if sequence.ended else sequence.tokens
        device = self.model.wpe.weight.device
        reason = "eos" if sequence.ended else "length"
        return torch.tensor(spoken, dtype=torch.long, device=device), reason


@dataclass(eq=False)
class CoarseSequence(Sequence):
    """State of one row in the coarse stage, with the tokens its windows are cut from."""

    source: list[int] = field(default_factory=list)  # semantic tokens, the voice's first
    past: list[int] = field(default_factory=list)  # coarse ids of the voice
    n_past: int = 0  # semantic tokens of the voice
    steps: int = 0
    view: tuple[int, int] | None = None  # where the histories of the last window began


class CoarseStage:
    """Semantic tokens -> codes of the first codebooks (spec 4.2).

    reuse_cache: keep the KV cache while neither history slides (without a voice, the first 4.4 seconds);
    False prefills every window, as both reference systems do.
    """

    name = "coarse"

    def __init__(
        self, model: GPT, config: GenerationConfig, tokens: TokenConfig, *, reuse_cache: bool = True
    ):
        self.model, self.config, self.tokens, self.reuse_cache = model, config, tokens, reuse_cache
        self.samplers = coarse_samplers(model.config.output_vocab_size, config, tokens)
        self.max_length = tokens.n_coarse_semantic + config.max_coarse_history + tokens.coarse_window

    def start(
        self, semantic: Tensor, voice: "Voice | None", generator: torch.Generator, key: Any = None
    ) -> CoarseSequence:
        past_semantic, past = reference.trim_history(voice, self.config, self.tokens)
        sequence = CoarseSequence(
            key,
            NoiseSource(generator),
            source=past_semantic + semantic.tolist(),
            past=past,
            n_past=len(past_semantic),
            steps=self.work(semantic, voice),
        )
        self.advance(sequence)
        return sequence

    def work(self, semantic: Tensor, voice: "Voice | None") -> int:
        """Number of tokens of a row."""
        return self.tokens.coarse_steps(len(semantic))

    def advance(self, sequence: CoarseSequence) -> bool:
        """Set up the next window; False if there is none."""
        t, done = self.tokens, len(sequence.tokens)
        sequence.remaining = min(t.coarse_window, sequence.steps - done)
        if sequence.remaining == 0:
            return False
        ids = sequence.past + sequence.tokens
        view = reference.coarse_view(sequence.n_past, done, len(ids), self.config, t)
        if view != sequence.view or not self.reuse_cache:
            *prompt, sequence.last = reference.coarse_prompt(sequence.source, ids, view, t)
            sequence.prompt = torch.tensor(prompt)
        sequence.view = view
        return True

    def result(self, sequence: Sequence) -> Tensor:
        """Codes of the first codebooks, int64 (K, T)."""
        ids = torch.tensor(sequence.tokens, dtype=torch.long, device=self.model.wpe.weight.device)
        return reference.coarse_codes(ids, self.tokens)


@dataclass(eq=False)
class FineSequence:
    """A row in the fine stage: its codes, filled in place, and its windows."""

    key: Any
    generator: torch.Generator
    codes: Tensor  # (K, history + T)
    n_given: int
    n_past: int
    n_frames: int
    windows: list[tuple[int, int]]  # (first frame seen, first frame filled)
    error: Exception | None = None
    seconds: float = 0.0


class FineStage:
    """Codes of the first codebooks -> codes of all (spec 4.3)."""

    name = "fine"

    def __init__(self, model: FineGPT, config: GenerationConfig, tokens: TokenConfig):
        self.model, self.config, self.tokens = model, config, tokens

    def start(
        self, coarse: Tensor, voice: "Voice | None", generator: torch.Generator, key: Any = None
    ) -> FineSequence:
        """coarse: (k, T), k < K."""
        t, (n_given, T) = self.tokens, coarse.shape
        codes, n_past = reference.fine_canvas(coarse, voice, t)
        return FineSequence(key, generator, codes, n_given, n_past, T, reference.fine_windows(T, n_past, t))

    def work(self, coarse: Tensor, voice: "Voice | None") -> int:
        """Forward passes that a row takes part in."""
        t, (n_given, T) = self.tokens, coarse.shape
        n_past = 0 if voice is None else min(voice.fine.shape[1], t.max_fine_history)
        return len(reference.fine_windows(T, n_past, t)) * (t.n_codebooks - n_given)

    def result(self, sequence: FineSequence) -> Tensor:
        """Codes of all codebooks, int64 (K, T)."""
        return sequence.codes[:, sequence.n_past : sequence.n_past + sequence.n_frames].contiguous()

    @torch.no_grad()
    def run(
        self,
        sequences: Iterable[FineSequence],
        engine: Engine = PLAIN,
        on_pass: Callable[[int], object] = lambda n: None,
    ) -> list[FineSequence]:
        """Fill all codebooks, window by window; rows that are at the same window share a forward pass.

        on_pass: called after each pass with its number of rows.
        """
        sequences, t, engine = list(sequences), self.tokens, engine_of(self.model, engine)
        weights = count_weights(self.model)
        for i in range(max((len(sequence.windows) for sequence in sequences), default=0)):
            for k in range(min(sequence.n_given for sequence in sequences), t.n_codebooks):
                group = [
                    sequence for sequence in sequences if i < len(sequence.windows) and sequence.n_given <= k
                ]
                group = [sequence for sequence in group if sequence.error is None]
                if group:
                    start = time.perf_counter()
                    with engine.threads(weights, len(group)):
                        self._fill(group, i, k, engine)
                    on_pass(len(group))
                    for sequence in group:
                        sequence.seconds += (time.perf_counter() - start) / len(group)
        return sequences

    def _fill(self, group: list[FineSequence], i: int, k: int, engine: Engine) -> None:
        """Predict codebook k in window i of each row, from its first new frame on."""
        t, sampling, W = self.tokens, self.config.fine, self.tokens.fine_window
        windows = [sequence.codes[:, sequence.windows[i][0] :][:, :W] for sequence in group]  # views
        rows = [self._rows(sequence, i, k) for sequence in group]
        span = slice(min(start for start, _ in rows), max(stop for _, stop in rows))
        vocab = slice(0, t.codebook_size)
        logits = engine.fine_logits(self.model, k, torch.stack(windows), span, vocab)  # (B, span, V)
        for sequence, window, (start, stop), row in zip(group, windows, rows, logits, strict=True):
            row = row[start - span.start : stop - span.start]
            if k == sequence.n_given and not bool(row.isfinite().all()):
                sequence.error = not_finite(self.name, row.dtype)
                continue
            noise = None
            if sampling.temperature != 0:  # drawn to the window's end, used or not
                noise = exponential((W - start, t.codebook_size), sequence.generator)[: stop - start]
            window[k, start:stop] = draw(probabilities(row, sampling), noise)

    def _rows(self, sequence: FineSequence, i: int, k: int) -> tuple[int, int]:
        """Frames start .. stop - 1 of window i to predict for codebook k."""
        t, (start, fill) = self.tokens, sequence.windows[i]
        stop = t.fine_window
        if k == t.n_codebooks - 1:  # no later codebook reads the padding frames
            stop = min(stop, sequence.n_past + sequence.n_frames - start)
        return fill - start, stop


def not_finite(stage: str, dtype: torch.dtype) -> ValueError:
    """The error of a row whose logits are NaN or infinite."""
    return ValueError(
        f"the {stage} model computed values that are not finite: its weights are damaged, "
        f"or {dtype} has too little range for them (try float32 or bfloat16)"
    )

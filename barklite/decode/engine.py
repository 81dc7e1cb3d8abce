"""What a row asks for, how a token is chosen, and the plain engine that computes it.

`Engine` computes plainly, as the oracle; `speed` does the same fast. Axes: B rows, T
positions, S positions seen so far, H heads, d width of a head, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import GPTConfig, SamplingConfig
from ..models.codec import Codec
from ..models.fine import FineGPT
from ..models.gpt import GPT
from .sampling import draw, probabilities


@dataclass(frozen=True)
class Choice:
    """How one step's logits become a token: of which ids, drawn how, and when it is the end.

    It asks nothing of the host, so it can be part of a captured graph.
    """

    start: int  # the eligible ids: start .. stop - 1
    stop: int
    sampling: SamplingConfig
    rules: str
    width: int  # variates of noise a draw: Suno's code draws those it needs, transformers a vocabulary (D33)
    ends: bool = False  # whether the last eligible id is the end
    min_eos_p: float | None = None

    @property
    def vocab(self) -> slice:
        return slice(self.start, self.stop)

    def __call__(self, logits: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the eligible ids (B, V) and noise (B, width) -> ids, int64 (B,); which rows end, bool
        (B,); and how probable the end was, float32 (B,).

        The probability is the one that `min_eos_p` is for: of what is drawn from, to Suno; of the raw model,
        to transformers, and at temperature 0.
        """
        p = probabilities(logits, self.sampling, self.rules)
        if noise is not None and self.width > self.stop - self.start:
            noise = noise[:, self.vocab]
        drawn = draw(p, noise)  # counted from `start`
        ended = torch.zeros_like(drawn, dtype=torch.bool)
        eos_p = torch.zeros_like(drawn, dtype=torch.float32)
        if self.ends:
            suno, ended = self.rules == "suno", drawn == self.stop - self.start - 1
            raw = not suno or self.sampling.temperature == 0
            eos_p = logits.float().softmax(-1)[:, -1] if raw else p[:, -1]
            if self.min_eos_p is not None:
                ended = ended | (p[:, -1] >= self.min_eos_p if suno else eos_p > self.min_eos_p)
        return self.start + drawn, ended, eos_p


@dataclass(frozen=True, eq=False)
class Draw:
    """A row asks for tokens, one a choice, or fewer if one of them is the end: it gets (tokens, ended,
    eos_p), the last a list of the end's probability at each of them.

    prompt: ids (T,) or embeddings (T, D), from which the first is drawn; None goes on from the last one.
    """

    prompt: Tensor | None
    choices: Sequence[Choice]


@dataclass(frozen=True, eq=False)
class Pass:
    """A row asks for logits of `codebook` in a window (K, T) of the fine model: it gets those of `rows`."""

    codebook: int
    window: Tensor
    rows: slice


class SlotCache:
    """Keys and values of rows that decode together: of slot b the first `lengths[b]` positions are filled."""

    def __init__(self, config: GPTConfig, slots: int, length: int, device=None, dtype=None):
        shape = (2, config.n_layer, slots, config.n_head, length, config.n_embd // config.n_head)
        # Behind its length a slot is finite, because what is masked is still read: 0 times NaN is NaN.
        # Of zeros memory is only taken where something is written.
        self.keys, self.values = torch.zeros(shape, device=device, dtype=dtype)  # (L, B, H, S, d)
        self.lengths = [0] * slots

    def prompts(self, slots: Sequence[int]) -> "Prompts":
        return Prompts(self, slots)

    def stale(self, slot: int) -> int:
        """Behind this position nothing was ever written."""
        return self.lengths[slot]

    def is_finite(self, slot: int) -> bool:
        """Whether all of a row's steps were: what once is not shows in the last layer from there on."""
        return bool(self.values[-1, slot, :, : self.lengths[slot]].isfinite().all())

    def move(self, source: int, target: int) -> None:
        """The row in `source` goes on in `target`."""
        n, stale = self.lengths[source], self.stale(target)
        for both in (self.keys, self.values):
            both[:, target, :, :n] = both[:, source, :, :n]
            both[:, target, :, n:stale] = 0
        self.lengths[target] = n


class Prompts:
    """Some slots of a cache, empty, as a forward of prompts (B, T) fills them; it has KVCache's interface."""

    def __init__(self, cache: SlotCache, slots: Sequence[int]):
        self.cache, self.slots, self.length = cache, slots, 0
        self.stale = max(map(cache.stale, slots))
        self.index = (
            torch.tensor(slots, device=cache.keys.device) if len(slots) > 1 else slice(slots[0], slots[0] + 1)
        )

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        T = k.shape[2]
        for both, new in ((self.cache.keys[layer], k), (self.cache.values[layer], v)):
            both[self.index, :, :T] = new.to(both.dtype)
            both[self.index, :, T : self.stale] = 0  # another row's: if not finite, it came through a mask
        for slot in self.slots:
            self.cache.lengths[slot] = T
        return k, v


class Newest:
    """The first n slots as a forward of their newest tokens (n, 1) extends them, each at its own position."""

    def __init__(self, cache: SlotCache, n: int):
        self.cache, self.n, self.length = cache, n, 0
        lengths, device = cache.lengths[:n], cache.keys.device
        self.seen = max(lengths) + 1
        assert self.seen <= cache.keys.shape[3], (
            f"a cache of {cache.keys.shape[3]} positions cannot hold {self.seen}"
        )
        self.positions = torch.tensor(lengths, device=device)
        self.mask, self.where = None, None
        if min(lengths) + 1 < self.seen:
            self.mask = (
                torch.arange(self.seen, device=device) <= self.positions[:, None, None, None]
            )  # (B, 1, 1, S)
            self.where = torch.arange(n, device=device)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        grown = []
        for both, new in ((self.cache.keys[layer, : self.n], k), (self.cache.values[layer, : self.n], v)):
            if self.where is None:
                both[:, :, self.seen - 1] = new[:, :, 0]
            else:
                both[self.where, :, self.positions] = new[:, :, 0].to(both.dtype)
            grown.append(both[:, :, : self.seen])
        return grown[0], grown[1]


class Engine:
    """The plain way to compute: one call of the model a step. Subclasses do the same faster."""

    chunk = 1  # steps between two looks at whether a row has ended

    def cache(self, model: GPT, length: int, slots: int = 1) -> SlotCache:
        """An empty cache for rows of up to `length` positions."""
        like = model.wpe(torch.zeros(1, dtype=torch.long, device=model.wpe.weight.device))  # as is computed
        return SlotCache(model.config, slots, length, like.device, like.dtype)

    def row_bytes(self, model: GPT, length: int) -> int:
        """Bytes that a slot of such a cache takes."""
        itemsize = 4 if model.wpe.weight.device.type == "cpu" else model.wpe.weight.itemsize
        return 2 * model.config.n_layer * model.config.n_embd * length * itemsize

    def release(self, model: GPT, cache: SlotCache) -> None:
        """The cache will not be used again."""

    def prefill(
        self, model: GPT, prompts: Tensor, cache: SlotCache, slots: Sequence[int], vocab: slice
    ) -> Tensor:
        """Prompts of one length, ids (B, T) or embeddings (B, T, D), into `slots`: logits (B, V)."""
        given = dict(ids=prompts) if prompts.ndim == 2 else dict(embeds=prompts)
        return model(**given, cache=cache.prompts(slots), last=True, vocab=vocab)[0][:, -1]

    def step(self, model: GPT, ids: Tensor, cache: SlotCache, vocab: slice) -> Tensor:
        """Feed the newest ids (B, 1) of the first B slots: logits of the next (B, V)."""
        newest = Newest(cache, n := len(ids))
        positions = newest.positions[:, None]
        logits, _ = model(ids, positions=positions, mask=newest.mask, cache=newest, last=True, vocab=vocab)
        cache.lengths[:n] = [length + 1 for length in cache.lengths[:n]]
        return logits[:, -1]

    def decode(
        self, model: GPT, tokens: Tensor, cache: SlotCache, noise: Tensor | None, choices: Sequence[Choice]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step a choice from `tokens` (B,) on, with noise (n, B, width): what choices give, (n, B)."""
        made = []
        for i, choice in enumerate(choices):
            logits = self.step(model, tokens[:, None], cache, choice.vocab)
            made.append(choice(logits, None if noise is None else noise[i]))
            tokens = made[-1][0]
        return tuple(map(torch.stack, zip(*made, strict=True)))

    def fine(self, model: FineGPT, codebook: int, codes: Tensor, rows: slice, vocab: slice) -> Tensor:
        """Logits (B, rows, V) of a codebook, given codes (B, K, T)."""
        return model(codebook, codes, rows=rows, vocab=vocab)[0]

    def decode_audio(self, codec: Codec, codes: Tensor) -> Tensor:
        """Codes (B, K, T) -> audio (B, 320 T)."""
        return codec(codes)


PLAIN = Engine()


def engine_of(model: nn.Module, engine: Engine) -> Engine:
    """`engine`, but the plain one for a model with hooks: only that calls its modules, and so the hooks."""
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return PLAIN if hooked else engine

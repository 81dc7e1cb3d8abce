"""Engines compute the tokens. `Engine` runs the plain modules; `speed` has faster engines, tested against it.

Axes: B rows, T positions, D width, V vocabulary, K codebooks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..models.codec import Codec
from ..models.fine import FineGPT
from ..models.gpt import GPT, KVCache
from .sampling import TokenSampler


class Engine:
    """Runs the models' own forward functions, one call a step. Assign a subclass to `Bark.engine`."""

    chunk = 1  # steps between two checks for the end of a row
    small = 5_000_000  # weights times rows that one CPU thread computes

    def supports(self, model: nn.Module) -> bool:
        """Whether this engine gives the same results as the model's own forward. If not, `PLAIN` runs the
        model."""
        return True

    @contextmanager
    def threads(self, weights: int, rows: int) -> Iterator[None]:
        """Use one CPU thread while a model of so many weights computes `rows` rows, if that is too little to
        divide.

        PyTorch divides every product, GELU and attention. On an idle machine that gains nothing for a model
        as small as the built-in voice's; on a busy one each division waits for a processor, and a clip takes
        thirty times as long. Threads that begin meanwhile and use PyTorch have one, too. `small = 0` turns
        this off.
        """
        before = torch.get_num_threads()
        if before == 1 or rows * weights > self.small:
            yield
            return
        torch.set_num_threads(1)  # PyTorch keeps the number for each calling thread
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def new_cache(self, model: GPT, rows: int, max_length: int) -> KVCache:
        """An empty cache with room for `rows` rows of up to `max_length` positions."""
        cache = model.new_cache(rows, max_length)
        cache.lengths = []
        return cache

    def release(self, model: GPT, cache: KVCache) -> None:
        """Called when a cache is no longer needed."""

    def cache_bytes(self, model: GPT, max_length: int) -> int:
        """Bytes of one cache row."""
        itemsize = 4 if model.wpe.weight.device.type == "cpu" else model.wpe.weight.itemsize
        return 2 * model.config.n_layer * model.config.n_embd * max_length * itemsize

    def prefill(self, model: GPT, prompts: Tensor, cache: KVCache, rows: Sequence[int]) -> None:
        """Fill `rows` of the cache with prompts of one length, ids (B, T) or embeddings (B, T, D)."""
        B, T = prompts.shape[:2]
        filled = KVCache(model.config, B, T, cache.keys.device, cache.keys.dtype)
        inputs = {"ids" if prompts.ndim == 2 else "embeds": prompts}
        model(**inputs, cache=filled, last=True, vocab=slice(0, 1))  # the logits are not used
        for i, row in enumerate(rows):
            put_row(cache, row, filled, i)

    def decode(
        self,
        model: GPT,
        ids: Tensor,
        cache: KVCache,
        samplers: Sequence[TokenSampler],
        noise: Tensor | None,
        past: Sequence[list[int]] = (),
        forward: Callable | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode one step per sampler, starting from the newest ids (B,): ids, ended and last_p, each (n, B).

        noise: (n, B, noise_width). past: each row's earlier ids, needed only by a sampler with a filter.
        forward: computes the logits (B, 1, V); None is the model.
        """
        outputs = []
        for i, sampler in enumerate(samplers):
            logits, _ = (forward or model)(ids[:, None], cache=cache, last=True, vocab=sampler.vocab)
            step = sampler(logits[:, -1], None if noise is None else noise[i], past)
            ids = step[0]
            past = [[*earlier, int(new)] for earlier, new in zip(past, ids, strict=True)] if past else past
            outputs.append(step)
        return tuple(map(torch.stack, zip(*outputs, strict=True)))

    def fine_logits(self, model: FineGPT, codebook: int, codes: Tensor, rows: slice, vocab: slice) -> Tensor:
        """Logits (B, rows, V) of a codebook for codes (B, K, T)."""
        return model(codebook, codes, rows=rows, vocab=vocab)[0]

    def synthesize(self, codec: Codec, codes: Tensor) -> Tensor:
        """Codes (B, K, T) -> audio (B, 320 T)."""
        return codec(codes)


PLAIN = Engine()


def engine_of(model: nn.Module, engine: Engine) -> Engine:
    """`engine`, or `PLAIN` if the model has forward hooks or the engine does not support it."""
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return engine if engine.supports(model) and not hooked else PLAIN


def count_weights(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))


def put_row(cache: KVCache, row: int, source: KVCache, index: int) -> None:
    """Copy row `index` of `source` into `row` of `cache`, which may be the first unused one."""
    n, stale = source.lengths[index], max([cache.stale[row], *cache.lengths[row : row + 1]])
    for stored, new in ((cache.keys, source.keys), (cache.values, source.values)):
        stored[:, row, :, :n] = new[:, index, :, :n]
        stored[:, row, :, n:stale] = 0  # masked values are still read, and 0 times NaN is NaN
    cache.lengths[row : row + 1] = [n]
    cache.stale[row] = 0


def drop_row(cache: KVCache, row: int) -> None:
    """Remove a row; the last one takes its place."""
    last = len(cache.lengths) - 1
    if row != last:
        put_row(cache, row, cache, last)
    cache.stale[last] = max(cache.stale[last], cache.lengths.pop())

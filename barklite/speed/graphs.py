"""Steps as CUDA graphs, the engine of `compile=True` on a GPU, where launches cost more than arithmetic."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import SamplingConfig
from ..decode.engine import Engine
from ..decode.sampling import TokenSampler
from ..messages import first_line
from ..models.codec import Codec
from ..models.fine import FineGPT
from ..models.gpt import GPT, KVCache


class StepBuffers:
    """What a captured step reads and writes beside keys and values, at fixed addresses."""

    def __init__(self, cache: KVCache, chunk: int, vocab_size: int):
        rows, device = cache.keys.shape[1], cache.keys.device
        self.positions, self.token = (torch.zeros(rows, dtype=torch.long, device=device) for _ in range(2))
        self.index = torch.zeros(1, dtype=torch.long, device=device)  # of the step within its chunk
        self.made = (  # ids, ended and last_p of each step, (chunk, rows)
            torch.zeros(chunk, rows, dtype=torch.long, device=device),
            torch.zeros(chunk, rows, dtype=torch.bool, device=device),
            torch.zeros(chunk, rows, device=device),
        )
        self.noise = torch.ones(chunk, rows, vocab_size, device=device)

    def state(self) -> list[Tensor]:
        """What a step changes; keys and values are not in it, because a second run writes the same again."""
        return [self.positions, self.index, self.token, *self.made]


class LayerView:
    """One layer of a cache inside a step: each row writes at its position and reads a whole bucket."""

    def __init__(self, keys: Tensor, values: Tensor, positions: Tensor, bucket: int):
        self.keys, self.values, self.positions, self.bucket = keys, values, positions, bucket
        self.rows = torch.arange(len(positions), device=positions.device)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        for stored, new in ((self.keys, k), (self.values, v)):
            stored[self.rows, :, self.positions] = new[:, :, 0].to(stored.dtype)
        return self.keys[:, :, : self.bucket], self.values[:, :, : self.bucket]


def block_step(
    block: nn.Module, x: Tensor, mask: Tensor, keys: Tensor, values: Tensor, positions: Tensor, bucket: int
) -> Tensor:
    """`block` for one token a row, x (B, 1, D); compiled once a bucket for all layers of all models."""
    return block(x, mask, False, LayerView(keys, values, positions, bucket))


def next_power_of_two(n: int) -> int:
    """Smallest power of two >= n."""
    return 1 << (n - 1).bit_length()


def padded_rows(codes: Tensor) -> Tensor:
    """Repeat the last row up to a power of two, so that few batch sizes are captured."""
    missing = next_power_of_two(len(codes)) - len(codes)
    return torch.cat((codes, codes[-1:].expand(missing, *codes.shape[1:]))) if missing else codes


class CUDAGraphEngine(Engine):
    """Steps as CUDA graphs: forward, sampling, cache write and position + 1 are one launch.

    The noise of a chunk of steps is drawn outside and read by index; the host checks for the end once a
    chunk. Lengths are bucketed, and so are batch sizes (1, 2, 4, 8 ...): the first text that needs a bucket
    captures it, in a fraction of a second, and other sampling settings are captured again. Blocks are
    compiled once for a length and a batch size, those for one row when the engine is made. The passes of the
    fine model and the codec are captured at their few shapes. Use it from one thread.
    """

    chunk = 32
    bucket = 256  # cache lengths are multiples of it
    start_step, frame_step = 128, 128  # first row of a fine window's result, frames of sound: likewise
    most = 256  # graphs kept

    def __init__(self, models: list[GPT], device: torch.device, compiler: Callable = torch.compile):
        """compiler: makes `block_step` fast; the identity leaves it as it is."""
        self.device = device
        # Dynamo counts, and limits, compilations by code object: each engine has its own.
        own = FunctionType(block_step.__code__.replace(), globals())
        from torch._dynamo import config

        # One code for every number of rows and length: more than Dynamo's 8.
        raised = config.patch(recompile_limit=64)
        self._block_step = raised(compiler(own, fullgraph=True, dynamic=False))
        self._pooled: dict[GPT, list[KVCache]] = {}  # caches that are not in use
        self._buffers: dict[KVCache, StepBuffers] = {}
        self._weights: dict[nn.Module, tuple[int, ...]] = {}  # addresses when their graphs were captured
        self._graphs: dict[tuple, Callable] = {}
        self._pool, self._stream = None, torch.cuda.Stream(device) if device.type == "cuda" else None
        start = time.perf_counter()
        try:
            for model in models:
                self._warm_up(model)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # every stage of the compiler has its own classes
            reason = first_line(error)
            raise ValueError(f"compile=True on CUDA needs Triton and a C compiler: {reason}") from error
        self.seconds = time.perf_counter() - start

    def supports(self, model: nn.Module) -> bool:
        """Whether a causal model is a plain GPT: a step calls its blocks, and not its own forward."""
        return not isinstance(model, GPT) or (type(model) is GPT and "forward" not in vars(model))

    def new_cache(self, model: GPT, rows: int, max_length: int) -> KVCache:
        """A pooled cache with at least `rows` rows, or a new one of the model's block size."""
        rows, pooled = next_power_of_two(rows), self._pooled.setdefault(model, [])
        pooled.sort(key=lambda cache: cache.keys.shape[1])
        for i, cache in enumerate(pooled):
            if cache.keys.shape[1] >= rows:
                return pooled.pop(i)
        for cache in pooled:  # a larger cache replaces them
            self._graphs = {key: graph for key, graph in self._graphs.items() if key[1] is not cache}
            del self._buffers[cache]
        pooled.clear()
        cache = super().new_cache(model, rows, model.config.block_size)
        self._buffers[cache] = StepBuffers(cache, self.chunk, model.config.output_vocab_size)
        return cache

    def release(self, model: GPT, cache: KVCache) -> None:
        """Return the cache to the pool; its graphs stay valid."""
        assert not any(cache is other for other in self._pooled[model])
        cache.stale, cache.lengths = [cache.keys.shape[3]] * cache.keys.shape[1], []
        self._pooled[model].append(cache)

    def cache_bytes(self, model: GPT, max_length: int) -> int:
        """Of the whole block size, and twice, because batch sizes are powers of two."""
        return 2 * super().cache_bytes(model, model.config.block_size)

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
        if past or forward:  # a sampler with a Python filter
            return super().decode(model, ids, cache, samplers, noise, past, forward)
        self._forget_moved(model)
        n, B, buffers, longest = len(samplers), len(ids), self._buffers[cache], model.config.block_size
        rows = next_power_of_two(B)  # the rows past B compute nothing of use
        buffers.token[:B].copy_(ids)
        lengths = torch.zeros(len(cache.stale), dtype=torch.long)
        lengths[:B] = torch.tensor(cache.lengths)
        buffers.positions.copy_(lengths)
        buffers.index.zero_()
        if noise is not None:
            buffers.noise[:n, :B, : noise.shape[2]].copy_(noise)
        for sampler in samplers:
            bucket = min(-(-(cache.length + 1) // self.bucket) * self.bucket, longest)
            step = partial(self._step, model, cache, sampler, rows, bucket)
            self._graph((model, cache, sampler, rows, bucket), step, buffers.state())()
            cache.lengths = [length + 1 for length in cache.lengths]
        cache.stale[B:] = [longest] * len(cache.stale[B:])
        return tuple(each[:n, :B].clone() for each in buffers.made)

    def _step(self, model: GPT, cache: KVCache, sampler: TokenSampler, rows: int, bucket: int) -> None:
        """One step of the first `rows` rows, from buffer to buffer. It never waits for the device."""
        buffers = self._buffers[cache]
        positions = buffers.positions[:rows]
        x = (model.wte(buffers.token[:rows]) + model.wpe(positions))[:, None]  # (B, 1, D)
        mask = torch.arange(bucket, device=self.device) <= positions[:, None, None, None]  # (B, 1, 1, S)
        for block, keys, values in zip(model.h, cache.keys, cache.values, strict=True):
            x = self._block_step(block, x, mask, keys[:rows], values[:rows], positions, bucket)
        logits = model.lm_head(model.ln_f(x), sampler.vocab)[:, -1]
        noise = None
        if sampler.sampling.temperature != 0:
            noise = buffers.noise.index_select(0, buffers.index)[0, :rows, : sampler.noise_width]
        step = sampler(logits, noise)
        for each, new in zip(buffers.made, step, strict=True):
            each[:, :rows].index_copy_(0, buffers.index, new[None])
        buffers.token[:rows].copy_(step[0])
        buffers.positions.add_(1).clamp_(max=model.config.block_size - 1)
        buffers.index.add_(1)

    def fine_logits(self, model: FineGPT, codebook: int, codes: Tensor, rows: slice, vocab: slice) -> Tensor:
        self._forget_moved(model)
        T, stop = codes.shape[-1], rows.stop if rows.stop is not None else codes.shape[-1]
        first = rows.start // self.start_step * self.start_step
        padded = padded_rows(codes)
        out = self._call(
            (model, codebook, padded.shape, first, vocab.start, vocab.stop),
            lambda codes: model(codebook, codes, rows=slice(first, T), vocab=vocab)[0],
            padded,
        )
        return out[: len(codes), rows.start - first : stop - first].clone()

    def synthesize(self, codec: Codec, codes: Tensor) -> Tensor:
        T = codes.shape[-1]
        if T < 16:  # padding on the right changes what is shorter than the filters see (spec 6.2)
            return codec.decode(codes)
        self._forget_moved(codec)
        padded = padded_rows(F.pad(codes, (0, -T % self.frame_step), value=0))
        out = self._call((codec, padded.shape), codec.decode, padded)
        return out[: len(codes), : T * codec.config.hop].clone()

    def _call(self, key: tuple, function: Callable, given: Tensor) -> Tensor:
        """A captured function of one tensor: its result, which the next call overwrites."""
        if key not in self._graphs:
            static = given.clone()
            outputs: list[Tensor] = []

            def run() -> None:
                outputs[:] = [function(static)]

            self._graphs[key] = self._captured(run), static, outputs
        replay, static, outputs = self._graphs[key]
        static.copy_(given)
        replay()
        return outputs[0]

    def _graph(self, key: tuple, function: Callable, state: list[Tensor]) -> Callable:
        if key not in self._graphs:
            self._graphs[key] = self._captured(function, state)
        self._graphs[key] = self._graphs.pop(key)  # the newest used is last, the next to go first
        return self._graphs[key]

    def _captured(self, function: Callable, state: Sequence[Tensor] = ()) -> Callable:
        """`function` as one launch. It is run before, as capturing demands; `state` is put back then."""
        if self.device.type != "cuda":  # the same without graphs, for tests
            return function
        while len(self._graphs) >= self.most:
            self._graphs.pop(next(iter(self._graphs)))
        if not self._graphs:
            self._pool = torch.cuda.graph_pool_handle()
        kept = [tensor.clone() for tensor in state]
        with torch.cuda.device(self.device), torch.no_grad():
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(2):
                    function()
                    for tensor, before in zip(state, kept, strict=True):
                        tensor.copy_(before)
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                function()
        return graph.replay

    def _forget_moved(self, model: nn.Module) -> None:
        """Drop a model's graphs when its weights are no longer where they were captured (offload)."""
        where = tuple(t.data_ptr() for t in (*model.parameters(), *model.buffers()))
        if self._weights.setdefault(model, where) != where:
            self._weights[model] = where
            self._graphs = {key: graph for key, graph in self._graphs.items() if key[0] is not model}

    @torch.no_grad()
    def _warm_up(self, model: GPT) -> None:
        """Compile for every bucket now, not when a text first needs it."""
        if model.wpe.weight.device.type != self.device.type:
            return  # offloaded: its first stage compiles
        cache = self.new_cache(model, 1, 0)
        buffers, sampler = self._buffers[cache], TokenSampler(0, 2, SamplingConfig(), "suno", 2)
        last = model.config.block_size
        for bucket in (*range(self.bucket, last, self.bucket), last):
            buffers.positions.zero_()
            buffers.index.zero_()
            self._step(model, cache, sampler, 1, bucket)
        self.release(model, cache)

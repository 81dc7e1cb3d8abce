"""Steps as CUDA graphs, the engine of `compile=True` on a GPU, where launches cost more than arithmetic."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .codec import Codec
from .config import SamplingConfig
from .fine import FineGPT
from .generate import Choice, Engine
from .gpt import GPT
from .inputs import first_line


class StaticCache:
    """Keys and values that stay where they are, and what else one captured step of one row reads and writes.

    `length` is the host's count of the filled positions, `position` the device's.
    """

    def __init__(self, model: GPT, chunk: int, device: torch.device, dtype: torch.dtype):
        config = model.config
        shape = (config.n_layer, 1, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)  # masked, but read: never NaN
        self.values = torch.zeros_like(self.keys)
        self.length = 0
        self.position, self.index, self.token = (
            torch.zeros(1, dtype=torch.long, device=device) for _ in range(3)
        )
        self.tokens = torch.zeros(chunk, dtype=torch.long, device=device)  # of this chunk
        self.ended = torch.zeros(chunk, dtype=torch.bool, device=device)
        self.noise = torch.ones(chunk, model.config.output_vocab_size, device=device)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As KVCache, for prompts: write (1, H, T, d) behind the filled part; return all of it."""
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def state(self) -> list[Tensor]:
        """What a step changes, but for keys and values, which a second run writes again as they are."""
        return [self.position, self.index, self.token, self.tokens, self.ended]


class _Layer:
    """One layer of a StaticCache inside a step: writes at `position`, reads a whole bucket."""

    def __init__(self, keys: Tensor, values: Tensor, position: Tensor, bucket: int):
        self.keys, self.values, self.position, self.bucket = keys, values, position, bucket

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.position, k.to(self.keys.dtype))
        self.values.index_copy_(2, self.position, v.to(self.values.dtype))
        return self.keys[:, :, : self.bucket], self.values[:, :, : self.bucket]


def block_step(
    block: nn.Module, x: Tensor, mask: Tensor, keys: Tensor, values: Tensor, position: Tensor, bucket: int
) -> Tensor:
    """`block` for one token x (1, 1, D); compiled once a bucket, for all layers of all models alike."""
    return block(x, mask, False, _Layer(keys, values, position, bucket))


class Graphs(Engine):
    """Steps as CUDA graphs: forward, draw, cache write and position + 1 are one launch.

    The noise of a chunk of steps is drawn outside and read by index; the host looks for the end once a chunk.
    Lengths are bucketed: the first text that needs a length captures it, which takes a fraction of a second,
    and other sampling settings capture anew, but nothing is compiled again. The passes of the fine model and
    the codec are captured at their few shapes. One row at a time, from one thread.
    """

    chunk = 32
    bucket = 256  # cache lengths are multiples of it
    start_step, frame_step = 128, 128  # first row of a fine window's result, frames of sound: likewise
    most = 128  # graphs kept

    def __init__(self, models: list[GPT], device: torch.device, compiler: Callable = torch.compile):
        """compiler: makes `block_step` fast; the identity leaves it as it is."""
        self.device = device
        # Dynamo counts, and limits, compilations by code object: each engine has its own.
        own = FunctionType(block_step.__code__.replace(), globals())
        self._block_step = compiler(own, fullgraph=True, dynamic=False)
        self._caches: dict[GPT, StaticCache] = {}
        self._weights: dict[nn.Module, tuple[int, ...]] = {}  # where those of the captured graphs lie
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

    def cache(self, model: GPT, length: int) -> StaticCache:
        if model not in self._caches:
            like = model.wpe(torch.zeros(1, dtype=torch.long, device=self.device))
            self._caches[model] = StaticCache(model, self.chunk, self.device, like.dtype)
        cache = self._caches[model]
        cache.length = 0
        cache.keys.zero_()  # a value that was not finite would come through the mask
        cache.values.zero_()
        return cache

    def decode(
        self, model: GPT, token: Tensor, cache: StaticCache, noise: Tensor | None, choices: Sequence[Choice]
    ) -> tuple[Tensor, Tensor]:
        self._forget_moved(model)
        cache.token.copy_(token)
        cache.position.fill_(cache.length)
        cache.index.zero_()
        if noise is not None:
            cache.noise[: len(noise), : noise.shape[1]].copy_(noise)
        for choice in choices:
            bucket = min(-(-(cache.length + 1) // self.bucket) * self.bucket, model.config.block_size)
            step = partial(self._step, model, cache, choice, bucket)
            self._graph((model, choice, bucket), step, cache.state())()
            cache.length += 1
        n = len(choices)
        return cache.tokens[:n].clone(), cache.ended[:n].clone()

    def _step(self, model: GPT, cache: StaticCache, choice: Choice, bucket: int) -> None:
        """One step, from state to state. Nothing in it waits for the device."""
        x = (model.wte(cache.token) + model.wpe(cache.position))[None]  # (1, 1, D)
        mask = (torch.arange(bucket, device=self.device) <= cache.position)[None]  # (1, S)
        for block, keys, values in zip(model.h, cache.keys, cache.values, strict=True):
            x = self._block_step(block, x, mask, keys, values, cache.position, bucket)
        logits = model.lm_head(model.ln_f(x), choice.vocab)[:, -1]
        noise = None
        if choice.sampling.temperature != 0:
            noise = cache.noise.index_select(0, cache.index)[:, : choice.width]
        token, ended = choice(logits, noise)
        cache.tokens.index_copy_(0, cache.index, token)
        cache.ended.index_copy_(0, cache.index, ended)
        cache.token.copy_(token)
        cache.position.add_(1)
        cache.index.add_(1)

    def fine(self, model: FineGPT, codebook: int, codes: Tensor, rows: slice, vocab: slice) -> Tensor:
        self._forget_moved(model)
        T, stop = codes.shape[-1], rows.stop if rows.stop is not None else codes.shape[-1]
        first = rows.start // self.start_step * self.start_step
        out = self._call(
            (model, codebook, codes.shape, first, vocab.start, vocab.stop),
            lambda codes: model(codebook, codes, rows=slice(first, T), vocab=vocab)[0],
            codes,
        )
        return out[:, rows.start - first : stop - first].clone()

    def decode_audio(self, codec: Codec, codes: Tensor) -> Tensor:
        T = codes.shape[-1]
        if T < 16:  # padding on the right changes what is shorter than the filters see (spec 6.2)
            return codec.decode(codes)
        self._forget_moved(codec)
        padded = F.pad(codes, (0, -T % self.frame_step), value=0)
        out = self._call((codec, padded.shape), codec.decode, padded)
        return out[:, : T * codec.config.hop].clone()

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
        cache = self.cache(model, 0)
        choice = Choice(0, 2, SamplingConfig(), "suno", 2)
        last = model.config.block_size
        for bucket in (*range(self.bucket, last, self.bucket), last):
            cache.position.fill_(0)
            cache.index.zero_()
            self._step(model, cache, choice, bucket)

"""Steps as CUDA graphs, the engine of `compile=True` on a GPU, where launches cost more than arithmetic."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import SamplingConfig
from ..decode.engine import Choice, Engine, SlotCache
from ..models.codec import Codec
from ..models.fine import FineGPT
from ..models.gpt import GPT
from ..validation import first_line


class StaticCache(SlotCache):
    """Keys and values that stay where they are, and what else one captured step of all rows reads and writes.

    `lengths` are the host's counts of the filled positions, `positions` the device's.
    """

    def __init__(self, model: GPT, slots: int, chunk: int, device: torch.device, dtype: torch.dtype):
        super().__init__(model.config, slots, model.config.block_size, device, dtype)
        self.positions, self.token = (torch.zeros(slots, dtype=torch.long, device=device) for _ in range(2))
        self.index = torch.zeros(1, dtype=torch.long, device=device)  # of the step within its chunk
        self.tokens = torch.zeros(chunk, slots, dtype=torch.long, device=device)
        self.ended = torch.zeros(chunk, slots, dtype=torch.bool, device=device)
        self.eos_p = torch.zeros(chunk, slots, device=device)
        self.noise = torch.ones(chunk, slots, model.config.output_vocab_size, device=device)

    def stale(self, slot: int) -> int:
        """Any: empty slots are computed too, and the cache serves many rows one after another."""
        return self.keys.shape[3]

    def state(self) -> list[Tensor]:
        """What a step changes, but for keys and values, which a second run writes again as they are."""
        return [self.positions, self.index, self.token, *self.made]

    @property
    def made(self) -> tuple[Tensor, ...]:
        """What a chunk's choices give, each (chunk, slots)."""
        return self.tokens, self.ended, self.eos_p


class _Layer:
    """One layer of a StaticCache inside a step: each row writes at its position and reads a whole bucket."""

    def __init__(self, keys: Tensor, values: Tensor, positions: Tensor, bucket: int):
        self.keys, self.values, self.positions, self.bucket = keys, values, positions, bucket
        self.rows = torch.arange(len(positions), device=positions.device)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        for both, new in ((self.keys, k), (self.values, v)):
            both[self.rows, :, self.positions] = new[:, :, 0].to(both.dtype)
        return self.keys[:, :, : self.bucket], self.values[:, :, : self.bucket]


def block_step(
    block: nn.Module, x: Tensor, mask: Tensor, keys: Tensor, values: Tensor, positions: Tensor, bucket: int
) -> Tensor:
    """`block` for one token a row, x (B, 1, D); compiled once a bucket for all layers of all models."""
    return block(x, mask, False, _Layer(keys, values, positions, bucket))


def power_of_two(n: int) -> int:
    """The least that is not less than n."""
    return 1 << (n - 1).bit_length()


def _more_rows(codes: Tensor) -> Tensor:
    """The last row repeated up to a power of two: few numbers of rows are captured."""
    lack = power_of_two(len(codes)) - len(codes)
    return torch.cat((codes, codes[-1:].expand(lack, *codes.shape[1:]))) if lack else codes


class Graphs(Engine):
    """Steps as CUDA graphs: forward, draw, cache write and position + 1 are one launch.

    The noise of a chunk of steps is drawn outside and read by index; the host looks for the end once a chunk.
    Lengths are bucketed, and so are numbers of rows (1, 2, 4, 8 ...): the first text that needs a length
    captures it, which takes a fraction of a second, and other sampling settings capture anew. Blocks are
    compiled once for a length and a number of rows, those for one row when the engine is made. The passes of
    the fine model and the codec are captured at their few shapes. From one thread.
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
        self._free: dict[GPT, list[StaticCache]] = {}  # caches that nobody uses now
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

    def cache(self, model: GPT, length: int, slots: int = 1) -> StaticCache:
        slots, held = power_of_two(slots), self._free.setdefault(model, [])
        held.sort(key=lambda cache: len(cache.lengths))
        for i, cache in enumerate(held):
            if len(cache.lengths) >= slots:
                return held.pop(i)
        self._graphs = {key: graph for key, graph in self._graphs.items() if key[1] not in held}
        held.clear()  # the larger one serves as well
        like = model.wpe(torch.zeros(1, dtype=torch.long, device=self.device))
        return StaticCache(model, slots, self.chunk, self.device, like.dtype)

    def row_bytes(self, model: GPT, length: int) -> int:
        """Of a whole block, and twice: numbers of slots are powers of two."""
        return 2 * super().row_bytes(model, model.config.block_size)

    def release(self, model: GPT, cache: StaticCache) -> None:
        """Its graphs can serve the next rows."""
        assert not any(cache is other for other in self._free[model])
        cache.lengths = [0] * len(cache.lengths)
        self._free[model].append(cache)

    def decode(
        self, model: GPT, tokens: Tensor, cache: StaticCache, noise: Tensor | None, choices: Sequence[Choice]
    ) -> tuple[Tensor, Tensor, Tensor]:
        self._forget_moved(model)
        n, B = len(choices), len(tokens)
        rows = power_of_two(B)  # those behind the last compute nothing of use
        most = model.config.block_size
        cache.token[:B].copy_(tokens)
        cache.positions.copy_(torch.tensor(cache.lengths).clamp_(max=most - 1))
        cache.index.zero_()
        if noise is not None:
            cache.noise[:n, :B, : noise.shape[2]].copy_(noise)
        for choice in choices:
            bucket = min(-(-(max(cache.lengths[:B]) + 1) // self.bucket) * self.bucket, most)
            step = partial(self._step, model, cache, choice, rows, bucket)
            self._graph((model, cache, choice, rows, bucket), step, cache.state())()
            cache.lengths[:B] = [length + 1 for length in cache.lengths[:B]]
        return tuple(each[:n, :B].clone() for each in cache.made)

    def _step(self, model: GPT, cache: StaticCache, choice: Choice, rows: int, bucket: int) -> None:
        """One step of the first `rows` slots, from state to state. Nothing in it waits for the device."""
        positions = cache.positions[:rows]
        x = (model.wte(cache.token[:rows]) + model.wpe(positions))[:, None]  # (B, 1, D)
        mask = torch.arange(bucket, device=self.device) <= positions[:, None, None, None]  # (B, 1, 1, S)
        for block, keys, values in zip(model.h, cache.keys, cache.values, strict=True):
            x = self._block_step(block, x, mask, keys[:rows], values[:rows], positions, bucket)
        logits = model.lm_head(model.ln_f(x), choice.vocab)[:, -1]
        noise = None
        if choice.sampling.temperature != 0:
            noise = cache.noise.index_select(0, cache.index)[0, :rows, : choice.width]
        made = choice(logits, noise)
        for each, new in zip(cache.made, made, strict=True):
            each[:, :rows].index_copy_(0, cache.index, new[None])
        cache.token[:rows].copy_(made[0])
        cache.positions.add_(1).clamp_(max=model.config.block_size - 1)
        cache.index.add_(1)

    def fine(self, model: FineGPT, codebook: int, codes: Tensor, rows: slice, vocab: slice) -> Tensor:
        self._forget_moved(model)
        T, stop = codes.shape[-1], rows.stop if rows.stop is not None else codes.shape[-1]
        first = rows.start // self.start_step * self.start_step
        padded = _more_rows(codes)
        out = self._call(
            (model, codebook, padded.shape, first, vocab.start, vocab.stop),
            lambda codes: model(codebook, codes, rows=slice(first, T), vocab=vocab)[0],
            padded,
        )
        return out[: len(codes), rows.start - first : stop - first].clone()

    def decode_audio(self, codec: Codec, codes: Tensor) -> Tensor:
        T = codes.shape[-1]
        if T < 16:  # padding on the right changes what is shorter than the filters see (spec 6.2)
            return codec.decode(codes)
        self._forget_moved(codec)
        padded = _more_rows(F.pad(codes, (0, -T % self.frame_step), value=0))
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
        cache = self.cache(model, 0)
        choice = Choice(0, 2, SamplingConfig(), "suno", 2)
        last = model.config.block_size
        for bucket in (*range(self.bucket, last, self.bucket), last):
            cache.positions.zero_()
            cache.index.zero_()
            self._step(model, cache, choice, 1, bucket)
        self.release(model, cache)

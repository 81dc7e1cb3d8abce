"""The engine for `compile=CompileConfig(...)` and for `compile=True` on CUDA: compiled and captured steps.

A step reads and writes fixed buffers and never waits for the device: it embeds the newest ids, runs the
layers, samples, and stores the results. So it can be one CUDA graph, which saves launches.
Axes: B rows, S positions of a bucket, H heads, d width of a head, D width, V vocabulary.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..config import CompileConfig, SamplingConfig
from ..decode.engine import Engine
from ..decode.sampling import TokenSampler
from ..messages import first_line
from ..models.codec import Codec
from ..models.fine import FineGPT
from ..models.gpt import GPT, Block, KVCache
from .quantize import is_unchanged

# --- attention of one query a row ---------------------------------------------------------------------------
# q (B, H, 1, d); k, v (B, H, S, d); mask, bool (B, 1, 1, S), True for the keys that are seen; positions (B,),
# each row's own -> (B, H, 1, d).


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    """The kernel that PyTorch chooses."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def by_kernel(kernel: SDPBackend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    """The given kernel; RuntimeError if it does not support the input."""
    with sdpa_kernel(kernel):
        return sdpa(q, k, v, mask, positions)


def flex(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    """FlexAttention, which on CUDA splits the keys over the multiprocessors."""
    from torch.nn.attention.flex_attention import flex_attention

    def seen(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.where(key <= positions[b], score, -torch.inf)

    # Scaled here: on the CPU, Inductor takes no query that is a view of a product.
    return flex_attention(q * q.shape[-1] ** -0.5, k, v, score_mod=seen, scale=1.0)


def decomposed(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    """Sums in float32 instead of products, which a compiler fuses with the surrounding operations."""
    scores = (q.float() * q.shape[-1] ** -0.5 * k.float()).sum(-1)[:, :, None]  # (B, H, 1, S)
    p = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return (p.mT * v.float()).sum(2, keepdim=True).to(v.dtype)


ATTENTION: dict[str, Callable[..., Tensor]] = {
    "sdpa": sdpa,
    "flash": partial(by_kernel, SDPBackend.FLASH_ATTENTION),
    "efficient": partial(by_kernel, SDPBackend.EFFICIENT_ATTENTION),
    "math": partial(by_kernel, SDPBackend.MATH),
    "cudnn": partial(by_kernel, SDPBackend.CUDNN_ATTENTION),
    "flex": flex,
    "decomposed": decomposed,
}


# --- the compiler -------------------------------------------------------------------------------------------


def row_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` as a sum, which a compiler fuses with the surrounding operations."""
    y = (x[..., None, :] * weight).sum(-1)
    return y if bias is None else y + bias


def inductor(graph: GraphModule, inputs: list[Tensor]) -> Callable:
    """Backend for `torch.compile`: Inductor, with `row_product` for the products of a single row.

    Inductor's own option for this, `coordinate_descent_tuning`, also compiles dozens of variants of each
    kernel one by one, which takes minutes for a step.
    """
    from torch import _inductor

    for node in graph.graph.nodes:
        if node.target is F.linear and node.args:
            x = node.args[0].meta["example_value"]
            if x.numel() == x.shape[-1]:
                node.target = row_product
    graph.recompile()
    return _inductor.compile(graph, inputs)


# --- the step and its parts ---------------------------------------------------------------------------------


class StepBuffers(NamedTuple):
    """The fixed buffers of a step, besides keys and values."""

    token: Tensor  # the newest id of each row, (rows,)
    positions: Tensor  # (rows,)
    index: Tensor  # of the step within its chunk, (1,)
    ids: Tensor  # results of each step, (chunk, rows)
    ended: Tensor
    last_p: Tensor
    noise: Tensor  # (chunk, rows, V)

    @classmethod
    def of(cls, rows: int, chunk: int, vocab_size: int, device: torch.device) -> "StepBuffers":
        zeros = partial(torch.zeros, device=device)
        token, positions, index = (zeros(n, dtype=torch.long) for n in (rows, rows, 1))
        made = (zeros(chunk, rows, dtype=dtype) for dtype in (torch.long, torch.bool, torch.float32))
        return cls(token, positions, index, *made, torch.ones(chunk, rows, vocab_size, device=device))


def embed(model: GPT, token: Tensor, positions: Tensor, bucket: int) -> tuple[Tensor, Tensor]:
    """Embed the newest ids (B,). Return x (B, 1, D) and the mask of the bucket's positions (B, 1, 1, S)."""
    x = (model.wte(token) + model.wpe(positions))[:, None]
    return x, torch.arange(bucket, device=token.device) <= positions[:, None, None, None]


def layer(
    block: Block,
    attention: Callable,
    x: Tensor,
    mask: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
) -> Tensor:
    """Run `block` for one token per row, x (B, 1, D). Each row writes at its position and reads a bucket.

    keys, values: one layer of the cache, (B, H, block_size, d).
    """
    attn, rows = block.attn, torch.arange(len(positions), device=positions.device)
    q, k, v = rearrange(
        attn.c_attn(block.ln_1(x)), "B T (three H d) -> three B H T d", three=3, H=attn.n_head
    )
    for stored, new in ((keys, k), (values, v)):
        stored[rows, :, positions] = new[:, :, 0].to(stored.dtype)
    S = mask.shape[-1]
    y = attention(q, keys[:, :, :S], values[:, :, :S], mask, positions)
    x = x + attn.c_proj(rearrange(y, "B H T d -> B T (H d)"))
    return x + block.mlp(block.ln_2(x))


def finish(model: GPT, sampler: TokenSampler, x: Tensor, buffers: StepBuffers) -> None:
    """Compute logits, sample, store the results of the first B rows, and advance all positions."""
    B, index = len(x), buffers.index
    logits, noise = model.lm_head(model.ln_f(x), sampler.vocab)[:, -1], None
    if sampler.sampling.temperature != 0:
        noise = buffers.noise.index_select(0, index)[0, :B, : sampler.noise_width]
    made = sampler(logits, noise)
    for each, new in zip((buffers.ids, buffers.ended, buffers.last_p), made, strict=True):
        each[:, :B].index_copy_(0, index, new[None])
    buffers.token[:B].copy_(made[0])
    buffers.positions.add_(1).clamp_(max=model.config.block_size - 1)
    index.add_(1)


def run_step(
    parts: tuple[Callable, Callable, Callable],
    model: GPT,
    sampler: TokenSampler,
    attention: Callable,
    layers: list[tuple[Tensor, Tensor]],
    buffers: StepBuffers,
    bucket: int,
) -> None:
    """Run one step. layers: keys and values of each layer; they have the step's rows."""
    embed, layer, finish = parts
    positions = buffers.positions[: len(layers[0][0])]
    x, mask = embed(model, buffers.token[: len(positions)], positions, bucket)
    for block, (keys, values) in zip(model.h, layers, strict=False):  # a model may have lost layers
        x = layer(block, attention, x, mask, keys, values, positions)
    finish(model, sampler, x, buffers)


def fine_layers(model: FineGPT, x: Tensor, first: int) -> Tensor:
    """Run the fine model's layers, x (B, T, D) -> normalised (B, T - first, D)."""
    x = x + model.wpe(torch.arange(x.shape[1], device=x.device))
    for block in model.h[:-1]:
        x = block(x)
    return model.ln_f(model.h[-1](x, rows=slice(first, None)))


def codec_layers(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Run the codec's layers after the LSTM, (B, C, T) -> audio (B, hop * T)."""
    return layers(x).squeeze(1)


def next_power_of_two(n: int) -> int:
    """Return the smallest power of two >= n."""
    return 1 << (n - 1).bit_length()


def padded_rows(codes: Tensor) -> Tensor:
    """Repeat the last row up to a power of two, to limit the number of captured batch sizes."""
    missing = next_power_of_two(len(codes)) - len(codes)
    return torch.cat((codes, codes[-1:].expand(missing, *codes.shape[1:]))) if missing else codes


class StepEngine(Engine):
    """Runs `run_step`, compiled and, on CUDA, captured according to `config`.

    The noise of a chunk of steps is drawn outside the graph and read by index; the host checks for ended rows
    once per chunk. Lengths and batch sizes (1, 2, 4, 8 ...) are bucketed; the first text that needs a bucket
    captures its graph, in a fraction of a second. Layers are compiled once per bucket of lengths and batch
    size: those for one row in the constructor, others and the sampling at first use. The fine model's layers
    and the codec have few shapes, compiled and captured at first use. Not thread-safe.
    """

    start_step, frame_step = 128, 128  # first row of a fine window's result, frames of sound: likewise
    most = 256  # graphs kept
    small = 0  # torch.compile compiles again for another number of threads

    def __init__(self, models: list[GPT], device: torch.device, config: CompileConfig | None = None):
        self.device, self.config = device, config or CompileConfig()
        self.chunk, self.bucket = self.config.chunk, self.config.bucket
        given = self.config.attention
        self._attention = given if callable(given) else ATTENTION[given]
        whole = self.config.scope == "step"
        self._parts = tuple(part if whole else self._compiled(part) for part in (embed, layer, finish))
        self._run_step = self._compiled(run_step) if whole else run_step
        self._fine, self._codec = self._compiled(fine_layers), self._compiled(codec_layers)
        self._pooled: dict[GPT, list[KVCache]] = {}  # caches that are not in use
        self._buffers: dict[KVCache, StepBuffers] = {}
        self._weights: dict[nn.Module, tuple[int, ...]] = {}  # addresses when their graphs were captured
        self._graphs: dict[tuple, Callable] = {}
        captures = device.type == "cuda" and self.config.cuda_graphs
        self._pool, self._stream = None, torch.cuda.Stream(device) if captures else None
        start = time.perf_counter()
        try:
            for model in () if whole else models:
                self._warm_up(model)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # every stage of the compiler has its own classes
            need = "Triton and a C compiler" if device.type == "cuda" else "a C++ compiler"
            reason = first_line(error)
            raise ValueError(f"a step cannot be compiled here, which needs {need}: {reason}") from error
        self.seconds = time.perf_counter() - start

    def supports(self, model: nn.Module) -> bool:
        """Whether the modules that a step replaces are barklite's own. Their submodules may be any."""
        if not isinstance(model, (GPT, FineGPT)):
            return type(model) is Codec and not {"forward", "decode", "embed"} & vars(model).keys()
        blocks = model.h if isinstance(model, GPT) else ()
        return all(map(is_unchanged, (model, *blocks, *(block.attn for block in blocks))))

    def new_cache(self, model: GPT, rows: int, max_length: int) -> KVCache:
        """Return a pooled cache with at least `rows` rows, or a new one of the model's block size."""
        rows, pooled = next_power_of_two(rows), self._pooled.setdefault(model, [])
        pooled.sort(key=lambda cache: cache.keys.shape[1])
        for i, cache in enumerate(pooled):
            if cache.keys.shape[1] >= rows:
                return pooled.pop(i)
        for cache in pooled:  # the larger cache replaces them
            self._graphs = {key: graph for key, graph in self._graphs.items() if key[1] is not cache}
            del self._buffers[cache]
        pooled.clear()
        cache = super().new_cache(model, rows, model.config.block_size)
        vocab_size = model.config.output_vocab_size
        self._buffers[cache] = StepBuffers.of(rows, self.chunk, vocab_size, cache.keys.device)
        return cache

    def release(self, model: GPT, cache: KVCache) -> None:
        """Return the cache to the pool, keeping its graphs."""
        assert not any(cache is other for other in self._pooled[model])
        cache.stale, cache.lengths = [cache.keys.shape[3]] * cache.keys.shape[1], []
        self._pooled[model].append(cache)

    def cache_bytes(self, model: GPT, max_length: int) -> int:
        """Return twice the bytes of the whole block size, because batch sizes are powers of two."""
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
        lengths = torch.zeros(len(cache.stale), dtype=torch.long)
        lengths[:B] = torch.tensor(cache.lengths)
        if self.device.type == "cuda":  # copies from pageable memory would wait for the device
            lengths = lengths.pin_memory()
        buffers.positions.copy_(lengths, non_blocking=True)
        buffers.token[:B].copy_(ids)
        buffers.index.zero_()
        if noise is not None:
            buffers.noise[:n, :B, : noise.shape[2]].copy_(noise)
        state = buffers[:-1]  # without keys and values, which a second run overwrites with the same
        for sampler in samplers:
            bucket = min(-(-(cache.length + 1) // self.bucket) * self.bucket, longest)
            step = partial(self._step, model, cache, sampler, rows, bucket)
            self._graph((model, cache, sampler, rows, bucket), step, state)()
            cache.lengths = [length + 1 for length in cache.lengths]
        cache.stale[B:] = [longest] * len(cache.stale[B:])
        return tuple(each[:n, :B].clone() for each in (buffers.ids, buffers.ended, buffers.last_p))

    def _step(self, model: GPT, cache: KVCache, sampler: TokenSampler, rows: int, bucket: int) -> None:
        """Run one step of the first `rows` rows."""
        layers = list(zip(cache.keys[:, :rows], cache.values[:, :rows], strict=True))
        buffers = self._buffers[cache]
        self._run_step(self._parts, model, sampler, self._attention, layers, buffers, bucket)

    def fine_logits(self, model: FineGPT, codebook: int, codes: Tensor, rows: slice, vocab: slice) -> Tensor:
        self._forget_moved(model)
        stop = rows.stop if rows.stop is not None else codes.shape[-1]
        first = rows.start // self.start_step * self.start_step
        padded = padded_rows(codes)

        def logits(codes: Tensor) -> Tensor:
            return model.wtes[codebook].attend(self._fine(model, model.embed(codebook, codes), first), vocab)

        key = model, codebook, padded.shape, first, vocab.start, vocab.stop
        out = self._call(key, logits, padded)
        return out[: len(codes), rows.start - first : stop - first].clone()

    def synthesize(self, codec: Codec, codes: Tensor) -> Tensor:
        T = codes.shape[-1]
        if T < 16:  # shorter than the receptive field, where padding changes the result (spec 6.2)
            return codec.decode(codes)
        self._forget_moved(codec)
        padded = padded_rows(F.pad(codes, (0, -T % self.frame_step), value=0))

        def sound(codes: Tensor) -> Tensor:  # Dynamo does not support LSTMs
            return self._codec(codec.decoder[2:], codec.decoder[:2](codec.embed(codes)))

        out = self._call((codec, padded.shape), sound, padded)
        return out[: len(codes), : T * codec.config.hop].clone()

    # --- compiling and capturing ----------------------------------------------------------------------------

    def _compiled(self, function: Callable) -> Callable:
        """Compile a copy of `function`, because Dynamo counts compilations per code object."""
        from torch._dynamo import config as dynamo

        wanted = self.config
        if wanted.backend is None:
            return function
        how = {"mode": wanted.mode} if wanted.mode else {}
        backend = wanted.backend
        if not how and backend == "inductor" and self.device.type == "cuda":
            backend = inductor
        own = FunctionType(function.__code__.replace(), function.__globals__)
        fast = torch.compile(own, backend=backend, fullgraph=True, dynamic=wanted.dynamic, **how)
        return dynamo.patch(recompile_limit=1024, accumulated_recompile_limit=4096)(fast)

    def _call(self, key: tuple, function: Callable, given: Tensor) -> Tensor:
        """Call the captured `function` of one tensor. The next call overwrites the result."""
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

    def _graph(self, key: tuple, function: Callable, state: Sequence[Tensor]) -> Callable:
        if key not in self._graphs:
            self._graphs[key] = self._captured(function, state)
        self._graphs[key] = self._graphs.pop(key)  # in order of last use; the first is the next to be dropped
        return self._graphs[key]

    def _captured(self, function: Callable, state: Sequence[Tensor] = ()) -> Callable:
        """Capture `function` as a CUDA graph, after warm-up runs that leave `state` as it is."""
        if self._stream is None:
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
        """Drop a model's graphs if its weights have moved since the capture (offload)."""
        where = tuple(t.data_ptr() for t in (*model.parameters(), *model.buffers()))
        if self._weights.setdefault(model, where) != where:
            self._weights[model] = where
            self._graphs = {key: graph for key, graph in self._graphs.items() if key[0] is not model}

    @torch.no_grad()
    def _warm_up(self, model: GPT) -> None:
        """Compile the layers for all buckets."""
        if model.wpe.weight.device.type != self.device.type:
            return  # offloaded: compiled at first use
        cache = self.new_cache(model, 1, 0)
        buffers, sampler = self._buffers[cache], TokenSampler(0, 2, SamplingConfig(), "suno", 2)
        last = model.config.block_size
        for bucket in (*range(self.bucket, last, self.bucket), last):
            buffers.positions.zero_()
            buffers.index.zero_()
            self._step(model, cache, sampler, 1, bucket)
        self.release(model, cache)

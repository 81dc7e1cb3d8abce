"""The Triton kernels of a compiled step without a GPU: made and compiled for an H100, and counted.

Dynamo traces a step of the large model on the meta device. Its graphs move to fake tensors of device "cuda",
Inductor writes their code with an H100's properties in place of the driver's, and Triton compiles all kernels
to machine code; its wheel has ptxas. Nothing is launched. What PyTorch decides by timing is not seen: the
padding of matrix products. The stand-ins are for PyTorch 2.13.

`python -m tests.fakecuda` runs this.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, fx
from torch._dynamo.device_interface import CudaInterface
from torch._guards import TracingContext, tracing
from torch._inductor import config, utils
from torch._inductor.fx_passes.joint_graph import UniformValueConstantFolder
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.triton_heuristics import CachingAutotuner
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._triton import has_triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from barklite import BarkConfig, CompileConfig, GenerationConfig
from barklite.decode.stages import CoarseStage, SemanticStage
from barklite.models.gpt import GPT
from barklite.speed.graphs import StepEngine, inductor
from barklite.speed.quantize import shrink

CUDA, META = torch.device("cuda", 0), torch.device("meta")
CALL = re.compile(r"\b(triton_\w+\.run|extern_kernels\.\w+|torch\.ops\.aten[\w.]+)\(")
MOST = {  # stage, rows, quantize -> kernels of `embed`, of a `layer` and of `finish`
    ("semantic", 1, None): (2, 12, 11),
    ("coarse", 1, None): (2, 12, 5),
    ("semantic", 4, None): (2, 13, 12),
    ("semantic", 1, "int8"): (2, 12, 11),
}


@contextlib.contextmanager
def h100() -> Iterator[None]:
    """Where Inductor and Triton ask the driver, an H100 answers. Kernels are compiled and not loaded."""
    threads = dict(warp_size=32, max_threads_per_block=1024, max_threads_per_multi_processor=2048)
    processors = dict(multi_processor_count=132, regs_per_multiprocessor=65536)
    properties = SimpleNamespace(name="H100", major=9, minor=0, **threads, **processors)
    fold = UniformValueConstantFolder._deduce_value

    def folded(self, node: fx.Node):
        """Constants are computed with real tensors: on the CPU."""
        kept = node.kwargs
        node.kwargs = {name: "cpu" if name == "device" else value for name, value in kept.items()}
        try:
            return fold(self, node)
        finally:
            node.kwargs = kept

    def compiled(self, *_, **__) -> None:
        for each in self.configs:
            assert self._precompile_config(each).kernel.asm["cubin"].startswith(b"\x7fELF")

    answers = {
        torch.cuda: dict(
            is_available=lambda: True,
            current_device=lambda: 0,
            get_device_properties=lambda device=None: properties,
            get_rng_state=lambda device=None: torch.zeros(16, dtype=torch.uint8),
            _exchange_device=lambda device: 0,
            _maybe_exchange_device=lambda device: 0,
        ),
        CudaInterface: dict(get_device_properties=staticmethod(lambda device=None: properties)),
        CudaInterface.Worker: dict(get_device_properties=staticmethod(lambda device=None: properties)),
        FakeTensorMode: dict(avoid_device_init=True),
        UniformValueConstantFolder: dict(_deduce_value=folded),
        CachingAutotuner: dict(precompile=compiled),
        triton_helpers: dict(set_driver_to_gpu=lambda: None),
        driver: dict(_active=SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32))),
    }
    settings = dict(shape_padding=False, compile_threads=1, use_static_triton_launcher=False)
    with contextlib.ExitStack() as stack:
        for owner, attributes in answers.items():
            for name, value in attributes.items():
                stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(config.patch(settings))
        stack.enter_context(utils.fresh_cache())
        has_triton.cache_clear()
        stack.callback(has_triton.cache_clear)
        yield


def traced(stage: str, rows: int, quantize: str | None) -> list[tuple[fx.GraphModule, list[Tensor]]]:
    """The graphs that the engine compiles for a step of the large model, and their arguments, on meta."""
    found = []

    def recorded(graph: fx.GraphModule, given: list[Tensor]) -> Callable:
        found.append((graph, given))
        return graph.forward

    large = BarkConfig.large()
    kind = {"semantic": SemanticStage, "coarse": CoarseStage}[stage]
    with META, torch.no_grad():
        model = GPT(replace(getattr(large, stage), n_layer=2)).to(torch.bfloat16)
        shrink(model, quantize, META)
        engine = StepEngine([], META, CompileConfig(backend=recorded))
        sampler = kind(model, GenerationConfig(), large.tokens).samplers[0]
        engine._step(model, engine.new_cache(model, rows, 0), sampler, rows, 768)
    return found


def calls(graph: fx.GraphModule, given: list[Tensor]) -> list[str]:
    """The kernels that Inductor's code of a graph calls, in order: its own, and those of libraries."""

    def moved(x):
        return CUDA if isinstance(x, torch.device) else x

    for node in graph.graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), moved)
    graph.recompile()
    code: list[str] = []
    with FakeTensorMode() as mode, tracing(TracingContext(mode)), torch.no_grad():
        inputs = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=CUDA) for x in given]
        with mock.patch.object(GraphLowering, "save_output_code", staticmethod(code.append)):
            inductor(graph, inputs)
    return CALL.findall(*code)


def check() -> int:
    """Report the kernels of each step in MOST; how many steps have more of them than before."""
    failed = 0
    for (stage, rows, quantize), most in MOST.items():
        graphs = traced(stage, rows, quantize)  # not within h100(), which Dynamo would ask for its streams
        with h100():
            parts = [calls(*each) for each in graphs]
        found = tuple(map(len, parts))
        worse = len(found) != len(most) or not all(0 < n <= m for n, m in zip(found, most, strict=True))
        failed += worse
        libraries = sum(not call.startswith("triton") for part in parts for call in part)
        text = " + ".join(map(str, found)) + f" before, in and after a layer, {libraries} of them a library's"
        text += f", where {most} are expected" if worse else ""
        print(f"{'FAILED' if worse else 'ok':7}kernels of a {stage} step, {rows} rows, {quantize}: {text}")
    return failed


if __name__ == "__main__":
    raise SystemExit(check())

"""The CUDA path without a GPU: `python -m tests.fakecuda` runs it on fake tensors of device "cuda".

PyTorch's FakeTensorMode computes shapes, dtypes and devices and no numbers. Under it this program runs what a
CUDA run would, with stand-ins for streams, graphs and generators, and reports

* a tensor on the wrong device, as PyTorch would;
* what waits for the device inside a chunk of steps, or cannot be captured as a CUDA graph;
* a generator on another device than its noise.

Then it compiles the kernels of a step and counts them (`tests.kernels`).

Numbers that the host reads between chunks are made up: zeros and True. It needs a CUDA build of PyTorch, no
driver, and is not part of the tests that pytest runs.
"""

import contextlib
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)

from barklite import Bark, BarkConfig, CompileConfig, GenerationConfig, SamplingConfig, inspect
from barklite.decode import sampling
from barklite.decode.sampling import NoiseSource
from barklite.decode.stages import CoarseStage, SemanticStage
from barklite.messages import first_line
from barklite.speed import graphs
from barklite.storage import checkpoint
from tests import builders

CUDA = torch.device("cuda", 0)
SHAPE_FROM_DATA = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}


class Fault(AssertionError):
    """What a real CUDA run would not forgive."""


class Device(TorchDispatchMode):
    """Stands above FakeTensorMode and refuses what waits (`chunk`) or cannot be captured (`capturing`)."""

    def __init__(self):
        super().__init__()
        self.chunk = self.capturing = False
        self.calls = 0  # operations on the device
        self.truth = True  # the answer to a question

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), function.overloadpacket.__name__
        if name == "_local_scalar_dense":
            return self.read(args[0])
        on_cuda = any(isinstance(x, Tensor) and x.is_cuda for x in args)
        if on_cuda and name in SHAPE_FROM_DATA:
            self.wait(f"{name}, whose shape depends on numbers,")
        if on_cuda and name in ("index", "index_put", "index_put_"):
            given = [i for i in args[1] if i is not None]
            if any(i.dtype == torch.bool for i in given):
                self.wait(f"{name} with a mask")
                if name == "index" and len(given) == args[0].ndim == 1:  # as if it were all True
                    return args[0].clone()
            if not all(i.is_cuda for i in given):
                self.wait(f"{name} with an index on the CPU")
        if name in ("_to_copy", "copy_"):
            source, target = (
                (args[0], kwargs.get("device")) if name == "_to_copy" else (args[1], args[0].device)
            )
            self.copied(source, torch.device(target or source.device), kwargs, args)
        if (generator := kwargs.get("generator")) is not None:
            target = args[0].device if isinstance(args[0], Tensor) else torch.device(kwargs["device"])
            where = Generator.made.get(generator._cdata, generator.device)
            if where.type != target.type:
                raise Fault(f"{name}: a generator on {where} for a tensor on {target}")
            kwargs["generator"] = None
        out = function(*args, **kwargs)
        self.calls += isinstance(out, Tensor) and out.is_cuda
        return out

    def wait(self, what: str) -> None:
        if self.chunk or self.capturing:
            raise Fault(f"{what} waits for the device within a chunk of steps")

    def copied(self, source: Tensor, target: torch.device, kwargs: dict, args: tuple) -> None:
        if source.device.type == target.type:
            return
        queued = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
        if source.is_cuda or not (queued and getattr(source, "pinned", False)):
            self.wait(f"a copy from {source.device} to {target}")
        if self.capturing and source.ndim:
            raise Fault(f"a copy from {source.device} to {target} cannot be captured")

    def read(self, x: Tensor):
        """A number that the host asks for."""
        if x.is_cuda:
            self.wait("reading a number")
        constant = getattr(x, "constant", None)
        return (
            constant.item()
            if constant is not None
            else self.truth
            if x.dtype == torch.bool
            else x.dtype.is_floating_point * 0.0
        )


class Generator(torch.Generator):
    """A generator that says it is on CUDA."""

    made: ClassVar[dict[int, torch.device]] = {}  # operations see another wrapper of the same generator

    def __new__(cls, device="cpu"):
        self = super().__new__(cls, "cpu")
        self.where = cls.made[self._cdata] = torch.device(device)
        return self

    def __init__(self, device="cpu"):
        pass

    @property
    def device(self):
        return self.where


class Stream:
    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass

    def synchronize(self):
        pass


class Graph:
    def replay(self):
        pass


@contextlib.contextmanager
def fake_cuda() -> Iterator[Device]:
    """Tensors on "cuda" are fake in this block, and the host's ways to read them answer."""
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    device, plain = Device(), {name: getattr(Tensor, name) for name in ("tolist", "numpy", "data_ptr")}

    def tolist(x):
        if not isinstance(x, FakeTensor):
            return plain["tolist"](x)
        if x.is_cuda:
            device.wait("tolist")
        return x.constant.tolist() if x.constant is not None else made_up(x).tolist()

    def numpy(x, *_, **__):
        if not isinstance(x, FakeTensor):
            return plain["numpy"](x)
        if x.is_cuda:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if x.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")
        return made_up(x)

    def pin_memory(x, *_):
        x.pinned = True
        return x

    def set_data(x, new):
        Tensor.data.__set__(x, new)
        x.fake_device = new.device

    @contextlib.contextmanager
    def graph(*_, **__):
        device.capturing = True
        try:
            yield
        finally:
            device.capturing = False

    tensor = dict(
        tolist=tolist,
        numpy=numpy,
        __array__=lambda x, *dtype: numpy(x),
        pin_memory=pin_memory,
        data_ptr=lambda x: x.untyped_storage()._cdata if isinstance(x, FakeTensor) else plain["data_ptr"](x),
    )
    cuda = dict(
        init=lambda: None,
        current_device=lambda: 0,
        default_generators=(Generator(CUDA),),
        Stream=Stream,
        CUDAGraph=Graph,
        graph=graph,
        stream=lambda stream: contextlib.nullcontext(),
        device=lambda device: contextlib.nullcontext(),
        current_stream=lambda device=None: Stream(),
        graph_pool_handle=lambda: (0, 1),
        synchronize=lambda device=None: None,
        memory_reserved=lambda device=None: 0,
        memory_allocated=lambda device=None: 0,
        mem_get_info=lambda device=None: (80 * 2**30, 80 * 2**30),
    )
    with contextlib.ExitStack() as stack:
        for name, value in tensor.items():
            for kind in (Tensor, FakeTensor):  # which has some of its own
                stack.enter_context(mock.patch.object(kind, name, value))
        stack.enter_context(mock.patch.object(FakeTensor, "data", property(Tensor.data.__get__, set_data)))
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(mock.patch.object(nn.Module, "_apply", moved))
        stack.enter_context(mock.patch.object(nn.LSTM, "flatten_parameters"))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # which asks the driver for a version
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(device)
        yield device


@contextlib.contextmanager
def answering(truth: bool) -> Iterator[None]:
    """What the host reads of truth values in this block."""
    device = next(mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, Device))
    device.truth = truth
    try:
        yield
    finally:
        device.truth = True


def made_up(x: Tensor) -> np.ndarray:
    return np.zeros(tuple(x.shape), {torch.bfloat16: np.float32}.get(x.dtype) or str(x.dtype).split(".")[1])


def moved(module: nn.Module, function: Callable, recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, which cannot swap fake tensors."""
    for child in module.children():
        moved(child, function)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                new = function(parameter)
            if new is not parameter:
                module._parameters[name] = nn.Parameter(new, parameter.requires_grad)
                if isinstance(module, nn.RNNBase):
                    setattr(module, name, module._parameters[name])
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = function(buffer)
    return module


# --- what runs ----------------------------------------------------------------------------------------------

TINY, VOICE = BarkConfig.tiny(), builders.voice("announcer")
SHORT = GenerationConfig(max_seconds=0.3)
PLAIN, ALL = SamplingConfig(0.7), SamplingConfig(0.9, top_k=50, top_p=0.8)
SAMPLINGS = {
    "greedy": SamplingConfig(0),
    "temperature": PLAIN,
    "top_k": SamplingConfig(0.7, top_k=50),
    "top_p": SamplingConfig(0.7, top_p=0.9),
    "top_k and top_p": ALL,
}
STEP = CompileConfig(backend=None)  # captured, not compiled: Dynamo asks the driver for its streams
FORMATS = dict(
    float32={}, bfloat16=dict(dtype="bfloat16"), float16=dict(dtype="float16"), int8=dict(quantize="int8")
)
CASES: dict[str, Callable[[], object]] = {}


def case(function: Callable) -> Callable:
    CASES[function.__name__.replace("_", " ")] = function
    return function


def made(config: BarkConfig = TINY, **options) -> Bark:
    return Bark.from_config(config, device="cuda", **options)


def chunk(
    bark: Bark, stage: str, rows: int, before: int = 300, n: int = 2, config: GenerationConfig = SHORT
) -> None:
    """A prompt of `before` positions in each of `rows` rows of a stage, and n steps more, as one chunk."""
    kind, name = {"semantic": (SemanticStage, "semantic"), "coarse": (CoarseStage, "coarse")}[stage]
    model, engine = getattr(bark, name), bark.engine
    samplers = (kind(model, config, bark.config.tokens).samplers * n)[:n]
    with torch.no_grad():
        cache = engine.new_cache(model, rows, before + n)
        cache.lengths = [0] * rows
        engine.prefill(model, torch.zeros(rows, before, dtype=torch.long, device=CUDA), cache, range(rows))
        ids, width = torch.zeros(rows, dtype=torch.long, device=CUDA), samplers[0].noise_width
        noise = None
        if samplers[0].sampling.temperature != 0:
            sources = [NoiseSource(sampling.generator(row, CUDA)) for row in range(rows)]
            noise = torch.stack([source.take(n, width) for source in sources], 1)
        made = engine.decode(model, ids, cache, samplers, noise)
        assert [(tuple(x.shape), x.device) for x in made] == [((n, rows), CUDA)] * 3
        engine.release(model, cache)


def settings(rules: str, how: SamplingConfig, min_eos_p: float | None = 0.2) -> GenerationConfig:
    return replace(SHORT, rules=rules, semantic=how, coarse=how, min_eos_p=min_eos_p)


@case
def steps_of_every_sampling() -> None:
    for engine in (dict(compile=STEP), {}):
        bark = made(**engine)
        for rules in ("suno", "transformers"):
            for how in SAMPLINGS.values():
                for stage in ("semantic", "coarse"):
                    chunk(bark, stage, 3, config=settings(rules, how))
            chunk(bark, "semantic", 1, config=settings(rules, PLAIN, None))


@case
def steps_of_every_bucket_and_batch() -> None:
    bark = made(compile=STEP)
    for rows in (1, 2, 3, 8, 16, 33, 64):
        for bucket in range(256, 1025, 256):
            for stage in ("semantic", "coarse"):
                chunk(bark, stage, rows, before=bucket - 2, n=2)


@case
def steps_of_every_format_and_attention() -> None:
    for options in FORMATS.values():
        for attention in ("decomposed", "sdpa", "math"):  # other kernels ask the driver
            chunk(made(compile=replace(STEP, attention=attention), **options), "semantic", 2)
    for n in (1, 2):  # a layer of whole size
        config = replace(TINY, semantic=replace(BarkConfig.large().semantic, n_layer=n))
        chunk(made(config, dtype="bfloat16", compile=STEP), "semantic", n)


@case
def a_text_in_every_format() -> None:
    for options in FORMATS.values():
        for engine in ({}, dict(compile=STEP), dict(compile=STEP, offload=True), dict(offload=True)):
            bark = made(**options, **engine)
            assert len(bark.generate("Hello", voice=VOICE, seed=1, config=SHORT).audio)


@case
def texts_together() -> None:
    for engine in ({}, dict(compile=STEP)):
        bark = made(**engine)
        config = replace(settings("transformers", ALL), fine=SamplingConfig(0))
        for given in (SHORT, config):
            clips = bark.generate_batch(["a", "b b", "c"], [VOICE, None, None], seeds=[1, 2, 3], config=given)
            assert len(clips) == 3
        assert len(list(bark.generate_many(["a", "b", "c"], batch_size=2, config=SHORT))) == 3
        longer = replace(SHORT, max_seconds=1.5)
        bark.generate("Hello", seed=1, config=longer)  # two coarse windows, three chunks


@case
def streams() -> None:
    for engine in ({}, dict(compile=STEP, offload=True)):
        bark = made(**engine)
        assert len(list(bark.stream("One. Two. Three.", seed=0, config=SHORT))) == 3
        assert len(list(bark.stream_audio("One. Two.", seed=0, config=SHORT, piece=0.1))) > 3


@case
def stages_one_by_one() -> None:
    for engine in ({}, dict(compile=STEP)):
        bark = made(replace(TINY, codec=replace(TINY.codec, encoder=True)), **engine)
        seeds = [torch.Generator(CUDA).manual_seed(1), 2]
        semantic = bark.text_to_semantic(["Hello", "You"], [VOICE, None], seeds, SHORT)
        coarse = bark.semantic_to_coarse(semantic, seeds=seeds, config=SHORT)
        codes = bark.coarse_to_fine(coarse, seeds=seeds)
        audio = bark.decode(codes)
        assert {x.device for x in (*semantic, *coarse, *codes, *audio)} == {CUDA}
        assert bark.encode(np.zeros(3200, np.float32)).device == CUDA


@case
def a_users_filter() -> None:
    bark = made(compile=STEP)
    how = SamplingConfig(0.7, filter=lambda logits, past: logits.index_fill(-1, past[0], -torch.inf))
    with answering(False):  # to whether a row has lost all its ids
        semantic = bark.text_to_semantic(["Hello"], seeds=[1], config=replace(SHORT, semantic=how))
        bark.semantic_to_coarse(semantic, seeds=[1], config=replace(SHORT, coarse=how))


@case
def the_built_in_voice() -> None:
    load = checkpoint.load_model

    def on_the_cpu(opened, name, place, dtype):
        with _disable_current_modes():  # files hold numbers
            return load(opened, name, "cpu", dtype)

    for options in (dict(compile=STEP), dict(quantize="int8")):
        with mock.patch.object(checkpoint, "load_model", on_the_cpu):
            bark = Bark.from_pretrained(device="cuda", encoder=True, **options)
        clip = bark.generate("Hello.", voice="low", seed=1, config=replace(bark.settings(), max_seconds=0.3))
        assert clip.seconds


@case
def scores_traces_and_reports() -> None:
    bark = made()
    clip = bark.generate("Hello", VOICE, 1, SHORT)
    bark.score(clip, voice=VOICE)
    with inspect.trace(bark.semantic, keep=1):
        bark.score(clip)
    with inspect.ablate(bark.semantic, {0: [0]}):
        bark.generate("Hello", seed=1, config=SHORT)
    inspect.look(bark, clip, VOICE)


@case
def losses() -> None:  # their gradients' threads ask the driver
    bark, ids = made(), torch.zeros(2, 20, dtype=torch.long, device=CUDA)
    codes = torch.zeros(2, 8, 20, dtype=torch.long, device=CUDA)
    found = bark.semantic(ids, targets=ids)[1], bark.fine(3, codes, targets=codes[:, 3])[1]
    assert {loss.device for loss in found} == {CUDA}


@case
def what_compat_generates() -> None:
    from barklite.compat import BarkModel

    with tempfile.TemporaryDirectory() as folder:
        with _disable_current_modes():
            builders.write_huggingface(Path(folder, "hf"), Bark.from_config(TINY, device="cpu"))
            model = BarkModel.from_pretrained(Path(folder, "hf"))
        model = model.to("cuda")
        ids = torch.zeros(1, 256, dtype=torch.long, device=CUDA)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), semantic_max_new_tokens=10)
        assert out.device == CUDA
        assert model.semantic(ids).logits.device == CUDA


# --- what it would say --------------------------------------------------------------------------------------


def on_the_cpu(model, token, positions, bucket):
    x, _ = graphs.embed(model, token, positions, bucket)
    return x, torch.arange(bucket) <= positions[:, None, None, None]


def reads(model, sampler, x, buffers):
    graphs.finish(model, sampler, x, buffers)
    int(buffers.token[0])


def asks(model, sampler, x, buffers):
    if (buffers.token > 3).any():
        graphs.finish(model, sampler, x, buffers)


def masks(model, sampler, x, buffers):
    graphs.finish(model, sampler, x, buffers)
    buffers.ids[buffers.ended] = 0


def moves(model, sampler, x, buffers):
    graphs.finish(model, sampler, x, buffers)
    buffers.token.cpu()


def uploads(model, sampler, x, buffers):
    graphs.finish(model, sampler, x, buffers)
    buffers.token.add_(torch.tensor([1], device=CUDA))


BROKEN = {  # part of a step, what replaces it -> what must be reported
    "a mask made on the CPU": (0, on_the_cpu, "found at least two devices"),
    "a step that reads its token": (2, reads, "reading a number waits for the device"),
    "a step that asks a tensor": (2, asks, "reading a number waits for the device"),
    "an index that is a mask": (2, masks, "with a mask waits for the device"),
    "a copy to the CPU": (2, moves, "a copy from cuda:0 to cpu waits for the device"),
    "a constant from the CPU": (2, uploads, "waits for the device"),
}


def broken(part: int, instead: Callable) -> str:
    """What is reported of a step with one of its parts replaced."""
    bark = made(compile=STEP)
    bark.engine._parts = tuple(instead if i == part else each for i, each in enumerate(bark.engine._parts))
    try:
        chunk(bark, "semantic", 2)
    except Exception as error:
        return first_line(error)
    return "nothing"


def wrong_generator() -> str:
    try:
        torch.empty(3, device=CUDA).exponential_(generator=torch.Generator("cpu"))
    except Fault as error:
        return str(error)
    return "nothing"


def watched(device: Device) -> Callable:
    """`StepEngine.decode`, in which nothing may wait."""
    decode = graphs.StepEngine.decode

    def inner(engine, model, ids, cache, samplers, noise, past=(), forward=None):
        device.chunk = not past and forward is None
        try:
            return decode(engine, model, ids, cache, samplers, noise, past, forward)
        finally:
            device.chunk = False

    return mock.patch.object(graphs.StepEngine, "decode", inner)


def main(wanted: str = "") -> int:
    """Run the cases with `wanted` in their names; 1 if one failed, or something broken was not noticed."""
    if torch.version.cuda is None:
        print(
            "skipped: this needs a CUDA build of PyTorch (no GPU and no driver), and this one is for the CPU"
        )
        return 0
    warnings.simplefilter("ignore")
    failed = 0
    with fake_cuda() as device, watched(device):
        for name, run in [one for one in CASES.items() if wanted in one[0]]:
            start, before, problem = time.perf_counter(), device.calls, ""
            try:
                run()
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)
                frames = [f"{Path(f.filename).name}:{f.lineno}" for f in place if "barklite" in f.filename]
                problem = f"  {type(error).__name__}: {first_line(error)} ({' '.join(frames[-3:])})"
            device.capturing = device.chunk = False
            failed += bool(problem)
            seconds, n = time.perf_counter() - start, device.calls - before
            print(
                f"{'FAILED' if problem else 'ok':7}{name}: {n} operations, {seconds:.0f} s{problem}",
                flush=True,
            )
        reports = {what: (broken(part, instead), text) for what, (part, instead, text) in BROKEN.items()}
        reports["noise from a generator on the CPU"] = (
            wrong_generator(),
            "a generator on cpu for a tensor on cuda",
        )
        for what, (report, text) in reports.items():
            noticed = text in report
            failed += not noticed
            print(f"{'caught' if noticed else 'MISSED':7}{what}: {report}")
    if wanted in "kernels of a step":
        from tests import kernels  # which needs Triton

        failed += kernels.check()
    print("nothing failed" if not failed else f"{failed} failed")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main(" ".join(sys.argv[1:])))

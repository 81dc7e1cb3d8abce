"""The training loop of all models. A step depends only on the seed and its number, so an interrupted run
continues exactly as if it had not been interrupted.

A model's directory has `last.pt` (weights, optimizers, step), `log.jsonl` (a line every few steps) and
`loss.png`.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..messages import first_line
from ..storage.atomic import write_bytes, writing
from ..storage.checkpoint import check_tensors
from ..storage.pickles import read_pickle
from ..validation import pick_device

Loss = tuple[Tensor, dict[str, Tensor]]  # the loss, and numbers to log


@dataclass(frozen=True)
class Settings:
    """Hyperparameters of one model's training. ValueError for impossible ones.

    The learning rate rises over `warmup` steps, stays constant, and falls to 2 % over the last share `decay`
    of all steps. Until the decay begins, `steps` may be changed.
    """

    steps: int = 1000
    batch_size: int = 16
    lr: float = 3e-3  # of AdamW
    muon_lr: float = 0.02  # of Muon (Jordan, 2024), for matrices in transformer blocks; 0 uses AdamW
    warmup: int = 50
    decay: float = 0.5
    clip: float = 1.0  # maximal norm of the gradient
    seed: int = 0
    log_every: int = 50
    save_every: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "warmup", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("lr", "muon_lr", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")

    def factor(self, step: int) -> float:
        """Return the factor of the learning rate at a step, counted from 0."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, (step + 1) / self.warmup, max(left, 0.02))


@dataclass(frozen=True)
class Machine:
    """The device of this process, and its `rank` among `world` processes (`machine`)."""

    device: torch.device
    dtype: torch.dtype | None = None  # of autocast; None: float32
    compile: bool = False
    rank: int = 0
    world: int = 1

    def autocast(self) -> contextlib.AbstractContextManager:
        """Matrix products in `dtype`; the parameters stay float32."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def rng(self, seed: int, step: int) -> np.random.Generator:
        """Return the random generator of a step, different for each process."""
        return np.random.default_rng((seed, step, self.rank))


@contextlib.contextmanager
def machine(device: str | None, dtype: str | None, compile: bool = False) -> Iterator[Machine]:
    """Yield this process's Machine; under torchrun, join the process group (gloo on CPUs, NCCL on GPUs).

    device: None is CUDA if available. ValueError for an unavailable device or an unsupported dtype.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtypes = {None: None, "float32": None, "bfloat16": torch.bfloat16}
    if dtype not in dtypes:
        raise ValueError(f"dtype is {dtype!r}; training computes in float32 or bfloat16")
    if "LOCAL_RANK" not in os.environ:
        yield Machine(pick_device(kind), dtypes[dtype], compile)
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if kind.startswith("cuda"):  # each process uses the GPU of its local rank
        kind = f"cuda:{os.environ['LOCAL_RANK']}"
    place = pick_device(kind)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    torch.distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Machine(place, dtypes[dtype], compile, rank, world)
    finally:
        torch.distributed.destroy_process_group()


def optimizers(model: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Return the optimizers: Muon for matrices in transformer blocks, AdamW for all other parameters."""
    hidden = [p for name, p in model.named_parameters() if name.startswith("h.") and p.ndim == 2]
    if not settings.muon_lr or not hidden:
        return [torch.optim.AdamW(model.parameters(), settings.lr, betas=(0.9, 0.95), weight_decay=0.0)]
    inside = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.AdamW(rest, settings.lr, betas=(0.9, 0.95), weight_decay=0.0),
        torch.optim.Muon(hidden, settings.muon_lr, weight_decay=0.01),
    ]


class Kept(Protocol):
    """Something whose state is saved with a run's, such as the decoder's adversary."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


@dataclass
class Run:
    """The training run of one model. `train` continues it and saves its state atomically in `directory`.

    If the directory has a state, it replaces the model's weights. ValueError for a state that is damaged or
    of another model.
    """

    directory: Path
    model: nn.Module
    settings: Settings
    machine: Machine
    step: int = 0
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)
    kept: dict[str, "Kept"] = field(default_factory=dict)
    _states: dict[str, dict] = field(default_factory=dict)  # loaded states for `keep`

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.model.to(self.machine.device)
        self.optimizers = optimizers(self.model, self.settings)
        self._rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        path = self.directory / "last.pt"
        if path.is_file():
            self._take(path, read_state(path))
        if self.machine.rank == 0:
            trim_log(self.directory, self.step)

    def _take(self, path: Path, state: dict) -> None:
        if len(state["optimizers"]) != len(self.optimizers):
            raise ValueError(
                f"{path} was trained with other optimizers: as before, give --muon-lr 0 or a positive one"
            )
        another = f"{path} is another model's state: {type(self.model).__name__}"
        check_tensors(another, state["model"], self.model.state_dict())
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            ours = optimizer.state_dict()  # load only the moments; hyperparameters are the current ones
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if not _are_moments(kept.get("state"), parameters):
                raise ValueError(
                    f"{path} is damaged: its optimizers are not this model's; remove it to start over"
                )
            optimizer.load_state_dict({"state": kept["state"], "param_groups": ours["param_groups"]})
        self.step, self._states = state["step"], state.get("kept", {})

    def keep(self, name: str, thing: "Kept") -> None:
        """Restore the saved state of `thing`, if any, and save it with the run's from now on."""
        if name in self._states:
            try:
                thing.load_state_dict(self._states.pop(name))
            except Exception as error:  # a damaged state can raise many of PyTorch's errors
                path = self.directory / "last.pt"
                raise ValueError(f"{path} is another run's state: {first_line(error):.200}") from None
        self.kept[name] = thing

    def train(
        self,
        loss: Callable[[nn.Module, np.random.Generator], Loss],
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
    ) -> None:
        """Train until `settings.steps`. loss(model, rng): of one batch. validate(model): called at each save.

        ValueError if the gradients of `settings.log_every` consecutive steps are not finite.
        """
        settings, chief = self.settings, self.machine.rank == 0
        model = self._wrapped()
        bar = tqdm(
            total=settings.steps,
            initial=self.step,
            desc=self.directory.name,
            unit=" steps",
            disable=not chief,
        )
        seen: dict[str, list[Tensor]] = {}  # on the model's device; reading them would synchronise
        n, skipped, since = 0, 0, time.perf_counter()
        while self.step < settings.steps:
            self._set_rate()
            with self.machine.autocast():
                value, numbers = loss(model, self.machine.rng(settings.seed, self.step))
            value.backward()
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
            skipped = 0 if bool(norm.isfinite()) else skipped + 1
            if not skipped:  # skip a step that overflowed
                for optimizer in self.optimizers:
                    optimizer.step()
            elif skipped == settings.log_every:
                bar.close()
                raise ValueError(
                    f"{self.directory.name}: the gradients of {skipped} steps in a row are not finite: "
                    "lower --lr or use --dtype float32"
                )
            self.model.zero_grad(set_to_none=True)
            self.step, n = self.step + 1, n + 1
            for name, number in {"loss": value, **numbers}.items():
                seen.setdefault(name, []).append(number.detach())
            bar.update()
            last = self.step == settings.steps
            save = last or self.step % settings.save_every == 0
            if not save and self.step % settings.log_every:
                continue
            if chief:
                line = {"step": self.step}
                line.update({name: _mean(some) for name, some in seen.items()})
                line["seconds_a_step"] = (time.perf_counter() - since) / n
                if save and validate is not None:
                    line.update({f"validation_{k}": v for k, v in self._validated(validate).items()})
                self._log(line)
                bar.set_postfix({k: f"{v:.3f}" for k, v in line.items() if k.endswith("loss")})
                if save:
                    self._save()
                    plot(self.directory)
            seen, n, since = {}, 0, time.perf_counter()
        bar.close()

    def _wrapped(self) -> nn.Module:
        model = self.model.train()
        if self.machine.compile:
            model = torch.compile(model, dynamic=True)
        if self.machine.world > 1:
            model = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        return model

    def _set_rate(self) -> None:
        factor = self.settings.factor(self.step)
        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    @torch.no_grad()
    def _validated(self, validate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
        self.model.eval()
        with self.machine.autocast():
            numbers = validate(self.model)
        self.model.train()
        return numbers

    def _log(self, line: dict[str, float]) -> None:
        with open(self.directory / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(_line(line))

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "kept": {name: thing.state_dict() for name, thing in self.kept.items()},
        }
        with writing(self.directory / "last.pt") as file:
            torch.save(state, file)


def read_state(path: Path) -> dict:
    """Read a `last.pt` to the CPU: "model" and "optimizers" (state dicts), "step". ValueError if damaged."""
    try:
        state = read_pickle(path)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path} ")
        raise ValueError(f"{path} is damaged ({reason:.200}): remove it to start over") from None
    if not {"model", "optimizers", "step"} <= state.keys():
        raise ValueError(f"{path} is not the state of a training run")
    model, kept, step = state["model"], state["optimizers"], state["step"]
    tensors = isinstance(model, dict) and all(
        isinstance(key, str) and _is_plain(tensor) for key, tensor in model.items()
    )
    if not tensors or not isinstance(kept, list) or not all(isinstance(one, dict) for one in kept):
        raise ValueError(f"{path} is not the state of a training run")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**48:
        raise ValueError(f"{path} is not the state of a training run: its step is not a number")
    return state


def _is_plain(tensor: object) -> bool:
    dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
    return dense and not tensor.is_quantized


def _are_moments(state: object, parameters: list[Tensor]) -> bool:
    """Whether an optimizer's state has, by parameter index, scalars and tensors of the parameters' shapes."""
    return isinstance(state, dict) and all(
        isinstance(i, int)
        and 0 <= i < len(parameters)
        and isinstance(moments, dict)
        and all(
            isinstance(name, str)
            and _is_plain(value)
            and (not value.ndim or value.shape == parameters[i].shape)
            for name, value in moments.items()
        )
        for i, moments in state.items()
    )


def read_log(directory: Path) -> list[dict[str, float]]:
    """Return a run's log, sorted by step. If a step ran twice the later line counts. Skips damaged lines,
    such as the last one after a crash.
    """
    path = directory / "log.jsonl"
    lines = {}
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if (
            isinstance(line, dict)
            and isinstance(line.get("step"), int)
            and all(map(_is_number, line.values()))
        ):
            lines[line["step"]] = line
    return [lines[step] for step in sorted(lines)]


def _is_number(value: object) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**48
    return whole or isinstance(value, float)


def trim_log(directory: Path, step: int) -> None:
    """Remove log lines of steps after `step`, which will run again."""
    path = directory / "log.jsonl"
    if path.is_file():
        kept = "".join(_line(line) for line in read_log(directory) if line["step"] <= step)
        write_bytes(path, kept.encode("utf-8"))


def _mean(numbers: list[Tensor]) -> float:
    return sum(torch.stack(numbers).tolist()) / len(numbers)


def _line(numbers: dict[str, float]) -> str:
    return json.dumps({name: round(number, 5) for name, number in numbers.items()}) + "\n"


def plot(directory: Path) -> None:
    """Draw `loss.png` from the log, if matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    lines = read_log(directory)
    names = [name for name in ("loss", "validation_loss") if any(name in line for line in lines)]
    if not names:
        return
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points, strict=True), label=name.replace("_", " "))
    axes.set(title=directory.name, xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    with writing(directory / "loss.png") as file:
        figure.savefig(file, format="png", dpi=110)

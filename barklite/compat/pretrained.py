"""The base class of all models: files, dtypes, devices, attention backends, parameter counts."""

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from barklite.storage import atomic, checkpoint, hub
from barklite.storage import formats as layouts
from weights_convert import check_tied, huggingface

from .configuration import BarkConfig, from_barklite
from .files import IGNORED, hub_options, saving
from .generation import BarkGenerationConfig

BACKENDS = {
    None: None,
    "sdpa": None,  # PyTorch's own choice
    "eager": [SDPBackend.MATH],
    "flash_attention_2": [
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,  # fallback, for example if there is a mask
    ],
}
SAVING = ("safe_serialization", "max_shard_size", "save_function")  # keywords of save_pretrained, ignored
UPLOADING = ("repo_id", "token", "private", "revision", "commit_message", "create_pr")
# Entries of a state dict that transformers does not count as parameters.
BUFFERS = (".attn.bias", ".inited", ".cluster_size", ".embed", ".embed_avg")


class BarkPreTrainedModel(nn.Module):
    """Base of the whole Bark and its three token models."""

    config_class: type = BarkConfig
    main_input_name = "input_ids"
    base_model_prefix = ""
    supports_gradient_checkpointing = True

    def __init__(self, config: BarkConfig):
        super().__init__()
        if not isinstance(config, self.config_class):
            kind = type(config).__name__
            raise ValueError(f"{type(self).__name__} needs a {self.config_class.__name__}, not {kind}")
        self.config = config
        self.recompute: tuple[int, dict] | None = None  # checkpoint every n-th block, with these options
        self._runs_on: torch.device | None = None  # the device, if the weights are offloaded to the CPU
        self.set_attn_implementation(config._attn_implementation)

    @property
    def device(self) -> torch.device:
        """The device on which the model computes."""
        hooks = (module.__dict__.get("_hf_hook") for module in self.modules())  # accelerate's
        executing = (getattr(hook, "execution_device", None) for hook in hooks)
        device = self._runs_on or next((d for d in executing if d is not None), None)
        return next(self.parameters()).device if device is None else torch.device(device)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def base_model(self) -> nn.Module:
        return getattr(self, self.base_model_prefix, self)

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the class supports transformers' generation: all but the fine model."""
        return hasattr(cls, "prepare_inputs_for_generation") or cls.config_class is BarkConfig

    @torch.enable_grad()
    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Count parameters as transformers does: with the norms of weight norm, without the codebooks."""
        return sum(
            tensor.numel()
            for key, tensor in _once(self.state_dict(keep_vars=True)).items()
            if not (
                key.endswith(BUFFERS)
                or (exclude_embeddings and "_embeds_layer" in key)
                or (only_trainable and not tensor.requires_grad)
            )
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Return the bytes of the parameters and buffers."""
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.nelement() * tensor.element_size() for tensor in tensors)

    def _models(self) -> list["BarkPreTrainedModel"]:
        return [model for model in self.modules() if isinstance(model, BarkPreTrainedModel)]

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Mapping | None = None, every_n_layers: int = 1, **kwargs
    ) -> None:
        """Checkpoint activations in training: recompute them in the backward pass. Turns the KV cache off.

        activation_checkpointing_kwargs (gradient_checkpointing_kwargs): options of
        `torch.utils.checkpoint.checkpoint`. every_n_layers: checkpoint every n-th block.
        """
        options = activation_checkpointing_kwargs or kwargs.get("gradient_checkpointing_kwargs") or {}
        for model in self._models():
            model.recompute = every_n_layers, {"use_reentrant": False, **options}

    def activation_checkpointing_disable(self) -> None:
        for model in self._models():
            model.recompute = None

    @property
    def is_activation_checkpointing(self) -> bool:
        return any(model.recompute is not None for model in self._models())

    gradient_checkpointing_enable = activation_checkpointing_enable
    gradient_checkpointing_disable = activation_checkpointing_disable
    is_gradient_checkpointing = is_activation_checkpointing

    def enable_input_require_grads(self) -> None:
        """Make embeddings require gradients, which checkpointed blocks with frozen weights need."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                module.register_forward_hook(_require_grad)

    def set_attn_implementation(self, name: str | None) -> None:
        """Choose the backends of PyTorch's attention: "eager", "sdpa" or "flash_attention_2"."""
        if name not in BACKENDS:
            names = ", ".join(name for name in BACKENDS if name)
            raise ValueError(f"attn_implementation is {name!r}; choose one of {names}")
        for model in self._models():
            model.config._attn_implementation = name

    def to_bettertransformer(self) -> "BarkPreTrainedModel":
        """Use PyTorch's fused attention, barklite's default. Return the model."""
        self.set_attn_implementation("sdpa")
        return self

    @contextlib.contextmanager
    def _ready(self, model: nn.Module | None = None) -> Iterator[None]:
        """Inside the block, select the attention backends, and move `model` (None: self) to its device."""
        model, backends = model or self, BACKENDS[self.config._attn_implementation]
        with sdpa_kernel(backends, set_priority=True) if backends else contextlib.nullcontext():
            if self._runs_on is not None:
                model.to(self._runs_on)
            try:
                yield
            finally:
                if self._runs_on is not None:
                    model.to("cpu")

    @contextlib.contextmanager
    def _generating(self) -> Iterator[None]:
        """`_ready`, with modules that accelerate offloads on the device for the whole stage."""
        modules = [module for module in self.modules() if hasattr(module, "_hf_hook")]
        away = [module for module in modules if getattr(module._hf_hook, "offload", False)]
        with self._ready(), contextlib.ExitStack() as undo:
            for module in {*away, *modules[: modules[:1] == [self]]}:
                module._hf_hook.pre_forward(module)
            for module in away:
                undo.callback(module._hf_hook.post_forward, module, None)
                undo.callback(setattr, module, "forward", vars(module).pop("forward"))
            yield

    # --- files ----------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        config: BarkConfig | str | os.PathLike | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        device_map: str | torch.device | Mapping | None = None,
        output_loading_info: bool = False,
        **kwargs,
    ) -> "BarkPreTrainedModel | tuple[BarkPreTrainedModel, dict]":
        """Load a Hub id, or a directory in any layout that barklite reads, strictly and without pickles.

        config: replaces the directory's. dtype (torch_dtype): None and "auto" keep the file's; the codec
        stays float32. output_loading_info: return (model, info), where info is always empty because a misfit
        is an error. Other keywords are Hub options (`revision`, `local_files_only`, `cache_dir`, `token`,
        `subfolder` ...) or override the configuration. OSError for missing files, ValueError for bad ones,
        TypeError for an unknown keyword.
        """
        options = hub_options(kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name not in IGNORED}
        path = _directory(pretrained_model_name_or_path, options)
        source = Source(path)
        if config is None:
            config, kwargs = cls.config_class.from_dict(
                source.config_of(cls.config_class).to_dict(), return_unused_kwargs=True, **kwargs
            )
        elif isinstance(config, (str, os.PathLike)):
            config = cls.config_class.from_pretrained(config)
        if kwargs:
            raise TypeError(f"{cls.__name__}.from_pretrained() got an unexpected keyword {min(kwargs)!r}")
        config = copy.deepcopy(config)
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        with torch.device("meta"):
            model = cls(config)
        model._fill(source, _dtype(dtype if torch_dtype is None else torch_dtype))
        model.eval()
        model.config.dtype = model.dtype
        if device_map is not None:
            model.to(_device(device_map))
        info = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, info) if output_loading_info else model

    def _fill(self, source: "Source", dtype: torch.dtype | None) -> None:
        """Load a token model's weights into parameters on the meta device."""
        prefix = huggingface.PREFIXES[self.part]
        expected = {prefix + key: tensor for key, tensor in self.named_parameters()}
        state, origin = source.state(self.part, expected, self._tied() if self.part == "fine" else {})
        checkpoint.check_tensors(origin, state, expected)
        state = {key.removeprefix(prefix): tensor.to(dtype or tensor.dtype) for key, tensor in state.items()}
        self.load_state_dict(state, strict=False, assign=True)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Write `config.json`, `model.safetensors` and, for a whole Bark, `generation_config.json`, in
        transformers' layout.

        state_dict: weights to write instead of the model's. push_to_hub: also upload the directory, to
        `repo_id` (default: its name); other keywords: `UPLOADING`.
        """
        if not kwargs.pop("is_main_process", True):
            return
        state_dict = kwargs.pop("state_dict", None)
        options = {name: value for name, value in kwargs.items() if name not in SAVING}
        if unknown := options.keys() - {*UPLOADING}:
            raise TypeError(f"save_pretrained() got an unexpected keyword {min(unknown)!r}")
        with saving(save_directory, push_to_hub, **options) as directory:
            self._save(directory, self.state_dict() if state_dict is None else state_dict)

    def _save(self, directory: Path, state: Mapping[str, Tensor]) -> None:
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in _once(state).items()}
        with atomic.placing(directory / "model.safetensors") as unfinished:
            checkpoint.save_tensors(state, unfinished)
        self.config.architectures, self.config.dtype = [type(self).__name__], self.dtype
        self.config.save_pretrained(directory)

    def push_to_hub(self, repo_id: str, **kwargs) -> None:
        """Save to a temporary directory, and upload it."""
        import tempfile

        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory, push_to_hub=True, repo_id=repo_id, **kwargs)


def _require_grad(module: nn.Module, given: tuple, made: Tensor) -> None:
    made.requires_grad_()


def _once(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the second names of tied tensors from a state dict."""
    kept, seen = {}, set()
    for key, tensor in state.items():
        place = tensor.data_ptr(), tensor.shape, tensor.device
        if place not in seen or not tensor.numel() or tensor.is_meta:
            kept[key] = tensor
        seen.add(place)
    return kept


# --- files --------------------------------------------------------------------------------------------------


class Source:
    """An opened checkpoint directory: configurations, and state dicts with transformers' names."""

    def __init__(self, path: Path):
        self.path, self.opened = path, None
        if layouts.is_huggingface(path):
            self.joint, self.origin = layouts.read_huggingface(path)
        else:
            try:
                self.opened = layouts.open_checkpoint(path, encoder=True)
            except ValueError:  # perhaps converted without the encoder
                self.opened = layouts.open_checkpoint(path)

    def config_of(self, kind: type) -> BarkConfig:
        if self.opened is None:
            return kind.from_pretrained(self.path)
        config = from_barklite(self.opened.config)
        return config if kind.section is None else getattr(config, kind.section)

    def generation_config(self) -> BarkGenerationConfig:
        try:
            return BarkGenerationConfig.from_pretrained(self.path)
        except FileNotFoundError as error:
            warnings.warn(f"{error}, and is used instead", stacklevel=5)
            return BarkGenerationConfig.published()

    def state(self, part: str, expected: Mapping, tied: Mapping[str, str]) -> tuple[dict[str, Tensor], Path]:
        """Return a token model's tensors under their names in a whole Bark, and their file.

        tied: {head: embedding}; a file may have either name or both.
        """
        prefix = huggingface.PREFIXES[part]
        if self.opened is not None:
            state = self.opened.state(part)
            return {prefix + huggingface.theirs(key): t for key, t in state.items()}, self.opened.origin(part)
        joint = self.joint
        if not any(key.startswith(tuple(huggingface.PREFIXES.values())) for key in joint):
            joint = {prefix + key: tensor for key, tensor in joint.items()}  # a token model saved alone
        try:
            huggingface.check_prefixes(joint)
            state = {key: tensor for key, tensor in joint.items() if key.startswith(prefix)}
            state = {key: tensor for key, tensor in state.items() if not key.endswith(".attn.bias")}
            for head, table in ((prefix + head, prefix + table) for head, table in tied.items()):
                if head in state:
                    given = state.pop(head)
                    check_tied({head: given}, {table: state.setdefault(table, given)})
        except ValueError as error:
            raise ValueError(f"{self.origin}: {error}") from None
        return state, self.origin

    def codec(self, config) -> tuple[dict[str, Tensor], Path]:
        """Return the codec's tensors under barklite's names, and their file."""
        if self.opened is not None:
            return self.opened.state("codec"), self.opened.origin("codec")
        try:
            huggingface.check_prefixes(self.joint)
            return huggingface.convert_codec(self.joint, config, config.n_codebooks, True)[1], self.origin
        except ValueError as error:
            raise ValueError(f"{self.origin}: {error}") from None


def _directory(name: str | os.PathLike, options: Mapping) -> Path:
    """Return the directory of a checkpoint, downloaded if it is a Hub id. OSError if that fails."""
    inner = options.get("subfolder") or ""
    if os.path.isdir(name):
        return Path(name, inner)
    if not hub.is_repo_id(str(name)):
        raise FileNotFoundError(f"{name} is neither a directory nor a Hub id such as suno/bark-small")
    return Path(hub.download(str(name), **options), inner)


def _dtype(given: torch.dtype | str | None) -> torch.dtype | None:
    named = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if given in (None, "auto"):
        return None
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise ValueError(f"dtype is {given!r}; give torch.float32, torch.float16 or torch.bfloat16")
    return named


def _device(given) -> torch.device:
    if isinstance(given, Mapping):
        places = set(given.values())
        if len(places) != 1:
            raise ValueError("device_map spreads the model over several devices; barklite uses one")
        (given,) = places
    if given in ("auto", "balanced", "balanced_low_0", "sequential"):
        return accelerator() or torch.device("cpu")
    return torch.device(given)


def accelerator() -> torch.device | None:
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None

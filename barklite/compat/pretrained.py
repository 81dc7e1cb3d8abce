"""What transformers' models share: files, dtypes, devices, attention's backends, weights in its names."""

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import _IncompatibleKeys

from barklite.models.codec import Codec
from barklite.storage import atomic, checkpoint, hub
from barklite.storage import formats as layouts
from weights_convert import huggingface

from .building import empty
from .configuration import BarkConfig, from_barklite
from .files import hub_options, saving
from .generation import BarkGenerationConfig

BACKENDS = {
    None: None,
    "sdpa": None,  # PyTorch's own choice
    "eager": [SDPBackend.MATH],
    "flash_attention_2": [
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,  # where there is a mask, say
    ],
}
# What from_pretrained takes and does not need: how transformers reads files.
IGNORED = (
    "low_cpu_mem_usage", "use_safetensors", "trust_remote_code", "weights_only", "ignore_mismatched_sizes",
    "proxies", "max_memory", "offload_folder", "offload_state_dict", "resume_download", "variant",
)  # fmt: skip
SAVING = ("safe_serialization", "max_shard_size", "save_function")  # save_pretrained's, not needed
UPLOADING = ("repo_id", "token", "private", "revision", "commit_message", "create_pr")
# In a state dict, but no parameters to transformers.
BUFFERS = (".attn.bias", ".inited", ".cluster_size", ".embed", ".embed_avg")


class BarkPreTrainedModel(nn.Module):
    """What the whole Bark and its three token models share."""

    config_class: type = BarkConfig
    main_input_name = "input_ids"

    def __init__(self, config: BarkConfig):
        super().__init__()
        if not isinstance(config, self.config_class):
            kind = type(config).__name__
            raise ValueError(f"{type(self).__name__} is made of a {self.config_class.__name__}, not {kind}")
        self.config = config
        self._runs_on: torch.device | None = None  # while its weights wait on the CPU
        self.set_attn_implementation(config._attn_implementation)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._runs_on or next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @torch.enable_grad()
    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """As transformers counts: weight norm's lengths are some, the codec's codebooks are none."""
        return sum(
            tensor.numel()
            for key, tensor in self._exported().items()
            if not (
                key.endswith(BUFFERS)
                or (exclude_embeddings and "_embeds_layer" in key)
                or (only_trainable and not tensor.requires_grad)
            )
        )

    def set_attn_implementation(self, name: str | None) -> None:
        """ "eager", "sdpa" or "flash_attention_2": which backends PyTorch's attention may choose from."""
        if name not in BACKENDS:
            names = ", ".join(name for name in BACKENDS if name)
            raise ValueError(f"attn_implementation is {name!r}; choose one of {names}")
        for model in self.modules():
            if isinstance(model, BarkPreTrainedModel):
                model.config._attn_implementation = name

    def to_bettertransformer(self) -> "BarkPreTrainedModel":
        """The same model with PyTorch's fused attention, which barklite uses anyway."""
        self.set_attn_implementation("sdpa")
        return self

    @contextlib.contextmanager
    def _ready(self, model: nn.Module | None = None) -> Iterator[None]:
        """Within, attention is as asked for, and an offloaded model (this one) is where it computes."""
        model, backends = model or self, BACKENDS[self.config._attn_implementation]
        with sdpa_kernel(backends, set_priority=True) if backends else contextlib.nullcontext():
            if self._runs_on is not None:
                model.to(self._runs_on)
            try:
                yield
            finally:
                if self._runs_on is not None:
                    model.to("cpu")

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
        **kwargs,
    ) -> "BarkPreTrainedModel":
        """Load a Hub id, or a directory in any layout that barklite reads; strictly, and without pickles.

        config: another than the directory's. dtype (torch_dtype): None and "auto" keep the file's; the codec
        stays float32. Further keywords name the place on the Hub (`revision`, `local_files_only`,
        `cache_dir`, `token` ...) or change the configuration. OSError for files that are missing, ValueError
        for wrong ones, TypeError for a keyword that means nothing.
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
        model = cls._load(config, source, _dtype(dtype if torch_dtype is None else torch_dtype)).eval()
        model.config.dtype = model.dtype
        if device_map is not None:
            model.to(_device(device_map))
        return model

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Write `config.json` and `model.safetensors` (of a whole Bark `generation_config.json` too), as
        transformers does and reads.

        push_to_hub: upload the directory too, to `repo_id` or its own name; further keywords: `UPLOADING`.
        """
        if not kwargs.pop("is_main_process", True):
            return
        options = {name: value for name, value in kwargs.items() if name not in SAVING}
        if unknown := options.keys() - {*UPLOADING}:
            raise TypeError(f"save_pretrained() got an unexpected keyword {min(unknown)!r}")
        with saving(save_directory, push_to_hub, **options) as directory:
            self._save(directory)

    def _save(self, directory: Path) -> None:
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in self._exported().items()}
        with atomic.placing(directory / "model.safetensors") as unfinished:
            checkpoint.save_tensors(state, unfinished)
        self.config.architectures, self.config.dtype = [type(self).__name__], self.dtype
        self.config.save_pretrained(directory)

    def push_to_hub(self, repo_id: str, **kwargs) -> None:
        """Save to a directory that vanishes, and upload it."""
        import tempfile

        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory, push_to_hub=True, repo_id=repo_id, **kwargs)

    def state_dict(self, *args, destination=None, prefix: str = "", keep_vars: bool = False) -> dict:
        """The weights under transformers' names."""
        destination = {} if destination is None else destination
        for key, tensor in self._exported(tied=True).items():
            destination[prefix + key] = tensor if keep_vars else tensor.detach()
        return destination

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False):
        """Weights under transformers' names; gives (missing_keys, unexpected_keys), both empty if strict.

        RuntimeError if they do not fit; not strict takes those that do.
        """
        missing, unexpected = [], []
        if not strict:
            own = self.state_dict()
            missing = [key for key in own if key not in state_dict]
            unexpected = [key for key in state_dict if key not in own]
            state_dict = {key: tensor for key, tensor in state_dict.items() if key in own}
            given = {own[key].data_ptr() for key in state_dict}  # also under the other name of a tied pair
            state_dict |= {key: own[key] for key in missing if own[key].data_ptr() not in given}
        try:
            for model, state in self._imported(state_dict):
                model.load_state_dict(state, assign=assign)
        except ValueError as error:
            raise RuntimeError(str(error)) from None
        return _IncompatibleKeys(missing, unexpected)


# --- files --------------------------------------------------------------------------------------------------


class Source:
    """An opened directory: configurations, and the token models' and the codec's tensors in our names."""

    def __init__(self, path: Path):
        self.path, self.opened = path, None
        if layouts.is_huggingface(path):
            self.joint, self.origin = layouts.read_huggingface(path)
        else:
            try:
                self.opened = layouts.open_checkpoint(path, encoder=True)
            except ValueError:  # converted without the encoder, perhaps
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
            warnings.warn(f"{error}, and is taken instead", stacklevel=4)
            return BarkGenerationConfig.published()

    def empty_codec(self, config: BarkConfig) -> Codec:
        if self.opened is None:
            return empty(config.codec_config, "codec")
        with torch.device("meta"):
            return Codec(self.opened.config.codec)

    def state(self, part: str, model: nn.Module) -> tuple[dict[str, Tensor], Path]:
        if self.opened is not None:
            return self.opened.state(part), self.opened.origin(part)
        joint = self.joint
        if not any(key.startswith(tuple(huggingface.PREFIXES.values())) for key in joint):
            prefix = huggingface.PREFIXES[part]  # a token model saved alone
            joint = {prefix + key: tensor for key, tensor in joint.items()}
        try:
            huggingface.check_prefixes(joint)
            return ours(joint, part, model), self.origin
        except ValueError as error:
            raise ValueError(f"{self.origin}: {error}") from None


def _directory(name: str | os.PathLike, options: Mapping) -> Path:
    """Where a checkpoint's files are; OSError if they cannot be had."""
    if os.path.isdir(name):
        return Path(name, options.get("subfolder") or "")
    if not hub.is_repo_id(str(name)):
        raise FileNotFoundError(f"{name} is neither a directory nor a Hub id such as suno/bark-small")
    return hub.download(str(name), **{key: value for key, value in options.items() if key != "subfolder"})


def loaded(model: nn.Module, source: Source, part: str, dtype: torch.dtype | None) -> nn.Module:
    state, origin = source.state(part, model)
    checkpoint.check_tensors(origin, state, model.state_dict())
    model.load_state_dict(
        {key: tensor.to(dtype or tensor.dtype) for key, tensor in state.items()}, assign=True
    )
    return model


def ours(state: Mapping[str, Tensor], part: str, model: nn.Module) -> dict[str, Tensor]:
    """One model's tensors out of a joint state dict in transformers' names."""
    if part == "codec":
        config = model.config
        return huggingface.convert_codec(state, config, config.n_codebooks, config.encoder)[1]
    keys = list(model.state_dict())
    if part == "fine":
        return huggingface.convert_fine(state, model.config, keys)
    return huggingface.convert_gpt(state, model.config, part, keys)


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

"""Finds, reads and writes the files of configurations and processors, in a directory or on the Hub."""

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from barklite import config as own
from barklite.storage import atomic, hub
from barklite.storage.formats import open_checkpoint, read_json
from barklite.storage.hub import fetch_file, is_repo_id

HUB_OPTIONS = ("revision", "local_files_only", "cache_dir", "force_download", "token", "subfolder")

# Keywords of from_pretrained that control how transformers reads files, without effect here.
IGNORED = (
    "low_cpu_mem_usage", "use_safetensors", "trust_remote_code", "weights_only", "ignore_mismatched_sizes",
    "proxies", "max_memory", "offload_folder", "offload_state_dict", "resume_download", "variant", "use_fast",
)  # fmt: skip


def hub_options(options: dict) -> dict:
    """Remove the `HUB_OPTIONS` from `options` and return them."""
    return {name: options.pop(name) for name in HUB_OPTIONS if name in options}


def warn_of(what: str, ignored: Mapping) -> None:
    """Warn about unused keywords, at the caller's caller."""
    if names := sorted(ignored.keys() - {*IGNORED}):
        warnings.warn(f"{what} does not read {', '.join(names)}", stacklevel=3)


def locate(name: str | os.PathLike, file: str, **options) -> Path | None:
    """Return the path of a file in a directory or Hub repository, or None if it has no such file.

    options: `HUB_OPTIONS`. FileNotFoundError if `name` is neither; OSError if the Hub cannot be reached.
    """
    if os.path.isdir(name):
        path = Path(name, options.get("subfolder") or "", file)
        return path if path.is_file() else None
    if not is_repo_id(str(name)):
        raise FileNotFoundError(f"{name} is neither a directory nor a Hub id such as suno/bark-small")
    return fetch_file(str(name), file, **options)


def read_config(name: str | os.PathLike, **options) -> tuple[dict, own.BarkConfig | None]:
    """Read a checkpoint's configuration: (content of `config.json`, barklite's BarkConfig or None).

    The content is {} for Suno's layout; the BarkConfig is None for Hugging Face's. OSError if there is no
    checkpoint, ValueError for a damaged one.
    """
    file = locate(name, "config.json", **options)
    if file is None:
        if os.path.isdir(name):
            return {}, open_checkpoint(Path(name, options.get("subfolder") or "")).config
        raise FileNotFoundError(f"{name} has no config.json: it is not a Bark checkpoint")
    data = read_json(file)
    if data.get("model_type") != "barklite":
        return data, None
    try:
        return data, own.BarkConfig.from_dict(data)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


@contextlib.contextmanager
def saving(path: str | os.PathLike, push_to_hub: bool = False, **options) -> Iterator[Path]:
    """Yield a directory for `save_pretrained`, created if it does not exist, and upload it if asked.

    options: `repo_id` (default: the directory's name), and those of `hub.upload`.
    """
    os.makedirs(path, exist_ok=True)
    yield Path(path)
    if push_to_hub:
        hub.upload(Path(path), options.pop("repo_id", None) or Path(path).name, **options)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, and create its directory. OSError if it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, text.encode("utf-8"))


class Saved:
    """Base of model and generation configurations: equality, text form and files."""

    model_type = ""
    section: str | None = None  # its key in a whole Bark's file
    file_name = "config.json"

    def __eq__(self, other) -> bool:
        return type(self) is type(other) and self.to_dict() == other.to_dict()

    __hash__ = None

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return `to_diff_dict` (or `to_dict`) as JSON."""
        content = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike, use_diff: bool = True) -> None:
        """Write `to_json_string`."""
        write_text(Path(json_file_path), self.to_json_string(use_diff))

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike):
        """Read a file that `to_json_file` wrote."""
        return cls(**read_json(Path(json_file)))

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        config_file_name: str | None = None,
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """Write `config.json` or `generation_config.json`, and create the directory. OSError if it fails.

        push_to_hub: also upload the directory, to `repo_id` (default: the directory's name).
        """
        with saving(save_directory, push_to_hub, **kwargs) as directory:
            write_text(directory / (config_file_name or self.file_name), self.to_json_string())

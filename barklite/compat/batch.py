"""Mappings of tensors, as transformers' processors give them and its models take them."""

from collections import UserDict
from collections.abc import Mapping

import numpy as np
import torch

TENSORS = ("pt", "np", None)


def check_tensors(tensor_type: str | None) -> str | None:
    """ValueError unless `tensor_type` is one of `TENSORS`."""
    if tensor_type not in TENSORS:
        raise ValueError(f'return_tensors is {tensor_type!r}; choose "pt", "np", or None for lists')
    return tensor_type


class BatchFeature(UserDict):
    """A mapping whose entries are attributes too; `data` is the dict itself.

    tensor_type: "pt", "np" or None, what to make of the entries. ValueError if an entry cannot be.
    """

    def __init__(self, data: Mapping | None = None, tensor_type: str | None = None):
        super().__init__(data)
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str):
        if name == "data" or name not in self.data:
            raise AttributeError(f"{type(self).__name__} has no entry {name!r}")
        return self.data[name]

    def convert_to_tensors(self, tensor_type: str | None = None) -> "BatchFeature":
        """Entries as PyTorch's ("pt") or NumPy's ("np") tensors, in place; None leaves them."""
        if check_tensors(tensor_type) is None:
            return self
        convert = torch.as_tensor if tensor_type == "pt" else np.asarray
        for name, value in self.data.items():
            if not isinstance(value, BatchFeature):
                try:
                    self.data[name] = convert(value)
                except (TypeError, ValueError, RuntimeError) as error:
                    raise ValueError(f"{name} cannot become a tensor: {error}") from None
        return self

    def to(self, *args, **kwargs) -> "BatchFeature":
        """Move every tensor, nested ones too, in place; the arguments are those of `Tensor.to`. Ids stay
        whole numbers: a dtype among the arguments does nothing.
        """
        args = [argument for argument in args if not isinstance(argument, torch.dtype)]
        kwargs.pop("dtype", None)
        if args or kwargs:
            for name, value in self.data.items():
                if isinstance(value, (torch.Tensor, BatchFeature)):
                    self.data[name] = value.to(*args, **kwargs)
        return self


class BatchEncoding(BatchFeature):
    """What the processor gives: `input_ids`, `attention_mask` and, with a voice, `history_prompt`."""

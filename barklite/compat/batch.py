"""Mappings of tensors: the output of the processor and input of the models."""

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
    """A mapping whose entries are also attributes; `data` is the underlying dict.

    tensor_type: as in `convert_to_tensors`. ValueError for an entry that cannot become a tensor.
    """

    def __init__(self, data: Mapping | None = None, tensor_type: str | None = None):
        super().__init__(data)
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str):
        if name == "data" or name not in self.data:
            raise AttributeError(f"{type(self).__name__} has no entry {name!r}")
        return self.data[name]

    def convert_to_tensors(self, tensor_type: str | None = None) -> "BatchFeature":
        """Convert entries in place to PyTorch ("pt") or NumPy ("np") tensors; None leaves them."""
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
        """Move all tensors in place, also nested ones. Takes the arguments of `Tensor.to`, but ignores a
        dtype, so that ids stay integers.
        """
        args = [argument for argument in args if not isinstance(argument, torch.dtype)]
        kwargs.pop("dtype", None)
        if args or kwargs:
            for name, value in self.data.items():
                if isinstance(value, (torch.Tensor, BatchFeature)):
                    self.data[name] = value.to(*args, **kwargs)
        return self


class BatchEncoding(BatchFeature):
    """The processor's output: `input_ids`, `attention_mask` and, with a voice, `history_prompt`."""

"""Weights filled by the formula of specification 9.1, so that golden numbers need no other package."""

import zlib

import numpy as np
import torch

from barklite.config import BarkConfig, CodecConfig
from barklite.models.codec import Codec
from barklite.models.fine import FineGPT
from barklite.models.gpt import GPT


def fill(name: str, shape: tuple[int, ...], offset: float, amp: float) -> torch.Tensor:
    """The tensor called `name`: a hash of its name and of each flat index, as float32 in offset +- amp."""
    return torch.from_numpy((offset + amp * uniform(name, int(np.prod(shape)))).astype(np.float32)).view(
        shape
    )


def uniform(name: str, n: int) -> np.ndarray:
    h = np.arange(n, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(zlib.crc32(name.encode()))
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return 2 * h.astype(np.float64) / 2**32 - 1


def token_model(name: str) -> GPT | FineGPT:
    """ "text", "coarse" or "fine": 2 layers, 2 heads, width 16, the released vocabularies."""
    config = BarkConfig.tiny()
    model = {
        "text": lambda: GPT(config.semantic),
        "coarse": lambda: GPT(config.coarse),
        "fine": lambda: FineGPT(config.fine),
    }[name]()
    state = {}
    for key, tensor in model.state_dict().items():
        suno = key if key.startswith("lm_head") else f"transformer.{key}"
        norm = ".ln_" in f".{key}"
        offset, amp = (0, 0.1) if norm and key.endswith("bias") else (1, 0.1) if norm else (0, 0.4)
        state[key] = fill(f"{name}.{suno}", tuple(tensor.shape), offset, amp)
    model.load_state_dict(state)
    return model.eval()


def encodec_state() -> dict[str, torch.Tensor]:
    """A state dict in the layout of `encodec_24khz-d7cc33bc.th`, all 252 tensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for side, name in (("decoder", "model"), ("encoder", "model")):
        for key, tensor in getattr(Codec(CodecConfig(encoder=True)), side).state_dict().items():
            layer, _, rest = key.partition(".")
            part, _, leaf = rest.rpartition(".")
            stem = f"{side}.{name}.{layer}"
            if "_l" in leaf:
                shapes[f"{stem}.lstm.{leaf}"] = tuple(tensor.shape)
                continue
            up = side == "decoder" and not part and int(layer) in (3, 6, 9, 12)
            conv = ".".join(filter(None, (stem, part, "convtr.convtr" if up else "conv.conv")))
            if leaf == "bias":
                shapes[f"{conv}.bias"] = tuple(tensor.shape)
            else:
                shapes[f"{conv}.weight_g"] = (tensor.shape[0], 1, 1)
                shapes[f"{conv}.weight_v"] = tuple(tensor.shape)
    for q in range(32):
        book = f"quantizer.vq.layers.{q}._codebook"
        shapes |= {f"{book}.inited": (1,), f"{book}.cluster_size": (1024,)}
        shapes |= {f"{book}.embed": (1024, 128), f"{book}.embed_avg": (1024, 128)}

    def filled(key: str, shape: tuple[int, ...]) -> torch.Tensor:
        offset, amp = (1.5, 0.3) if key.endswith("_g") else (0, 0.05) if "lstm" in key else (0, 0.1)
        return fill(f"codec.{key}", shape, offset, 1.0 if key.endswith(".embed") else amp)

    return {key: filled(key, shape) for key, shape in shapes.items()}

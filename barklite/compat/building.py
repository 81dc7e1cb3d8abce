"""barklite's modules made after transformers' configurations."""

import dataclasses

import torch
from torch import nn

from barklite.config import FineConfig, GPTConfig
from barklite.models.codec import Codec
from barklite.models.fine import FineGPT
from barklite.models.gpt import GPT, Head
from barklite.storage import checkpoint
from weights_convert import huggingface


def empty(config, part: str) -> nn.Module:
    """One model on the meta device. ValueError for a configuration that no Bark of ours can have."""
    if part == "codec":
        ours = huggingface.convert_codec_config(config.to_dict(), config.num_quantizers)
        with torch.device("meta"):
            return Codec(dataclasses.replace(ours, encoder=True))
    size = dict(
        n_layer=config.num_layers,
        n_head=config.num_heads,
        n_embd=config.hidden_size,
        block_size=config.block_size,
    )
    if min(*size.values(), config.input_vocab_size, config.output_vocab_size) < 1:
        raise ValueError(f"the {part} model's sizes must be 1 or more: {size}")
    if config.hidden_size % config.num_heads:
        raise ValueError(f"hidden_size {config.hidden_size} is no multiple of num_heads {config.num_heads}")
    if config.dropout:
        raise ValueError(f"dropout is {config.dropout}; Bark was published without, and barklite has none")
    vocab = config.input_vocab_size, config.output_vocab_size
    with torch.device("meta"):
        if part == "fine":
            if config.n_codes_given != 1 or vocab[0] != vocab[1]:
                raise ValueError(
                    "a fine model has n_codes_given 1 and one vocabulary size: its heads are its tables"
                )
            model = FineGPT(FineConfig(**size, vocab_size=vocab[0], n_codes_total=config.n_codes_total))
        else:
            model = GPT(GPTConfig(**size, input_vocab_size=vocab[0], output_vocab_size=vocab[1]))
        if config.bias:
            _add_biases(model)
    return model


def _add_biases(model: nn.Module) -> None:
    """Linear layers and norms with biases, which transformers' default is and no released Bark has."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and not isinstance(child, Head):
                setattr(parent, name, nn.Linear(child.in_features, child.out_features))
            elif isinstance(child, nn.LayerNorm):
                setattr(parent, name, nn.LayerNorm(child.normalized_shape, child.eps))


def randomised(model: nn.Module, std: float | None = None) -> nn.Module:
    """An `empty` model with random weights, on the CPU."""
    model.to_empty(device="cpu")
    checkpoint.initialise(model, std=std)
    return model

"""transformers' module tree, and barklite's models built around it.

Blocks are barklite's, but their children are registered under transformers' names, which appear in
`named_modules`, state dicts, adapters and hooks; properties give barklite's names. A stage generates with a
`GPT` or `FineGPT` built from the same modules, so it uses any replacement of one of them.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from barklite.analysis.trace import attention_map
from barklite.config import FineConfig, GPTConfig
from barklite.models.codec import Codec
from barklite.models.fine import FineGPT
from barklite.models.gpt import GPT, MLP, Attention, Block
from barklite.storage import checkpoint
from weights_convert import encodec


def also(name: str) -> property:
    """Make a property that is an alias of the child `name`."""
    return property(lambda module: getattr(module, name))


@dataclass
class Report:
    """Passed instead of a mask to record attention maps and scale heads.

    allowed: the mask. maps: collects (B, H, T, S) of each layer. heads: factors (L, H).
    """

    allowed: Tensor | None
    maps: list[Tensor]
    heads: Tensor | None = None


class BarkSelfAttention(Attention):
    c_attn, c_proj = also("att_proj"), also("out_proj")

    def __init__(self, config, is_causal: bool):
        nn.Module.__init__(self)
        D, bias = config.hidden_size, config.bias
        self.n_head = self.num_heads = config.num_heads
        self.head_dim, self.dropout = D // config.num_heads, config.dropout
        self.block_size, self.is_causal = config.block_size, is_causal
        self.att_proj = nn.Linear(D, 3 * D, bias=bias)
        self.out_proj = nn.Linear(D, D, bias=bias)

    def forward(self, *args, **kwargs) -> Tensor:
        return F.dropout(super().forward(*args, **kwargs), self.dropout, self.training)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | Report | None, causal: bool) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if not isinstance(mask, Report):
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        p = attention_map(q, k, mask.allowed, causal).to(v.dtype)
        if mask.heads is not None:
            p = p * mask.heads[len(mask.maps), :, None, None].to(p)
        mask.maps.append(F.dropout(p, dropout))
        return mask.maps[-1] @ v

    # transformers' state dicts contain the causal mask.

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_causal:
            mask = torch.ones(1, 1, self.block_size, self.block_size, dtype=torch.bool)
            destination[prefix + "bias"] = mask.tril()

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        if prefix + "bias" not in state_dict and self.is_causal:
            missing.append(prefix + "bias")
        state_dict.pop(prefix + "bias", None)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)


class BarkMLP(MLP):
    c_fc, c_proj = also("in_proj"), also("out_proj")

    def __init__(self, config):
        nn.Module.__init__(self)
        D, bias, self.dropout = config.hidden_size, config.bias, config.dropout
        self.in_proj = nn.Linear(D, 4 * D, bias=bias)
        self.out_proj = nn.Linear(4 * D, D, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), self.dropout, self.training)


class BarkBlock(Block):
    ln_1, ln_2 = also("layernorm_1"), also("layernorm_2")

    def __init__(self, config, is_causal: bool):
        nn.Module.__init__(self)
        bias = config.bias or not is_causal
        self.layernorm_1 = nn.LayerNorm(config.hidden_size, bias=bias)
        self.layernorm_2 = nn.LayerNorm(config.hidden_size, bias=bias)
        self.attn = BarkSelfAttention(config, is_causal)
        self.mlp = BarkMLP(config)


class Table(nn.Module):
    """Gives a head, and optionally the embedding tied to it, the interface of barklite's `Embedding`."""

    def __init__(self, head: nn.Module | None, embedding: nn.Module | None = None):
        super().__init__()
        self.head, self.embedding = head, embedding

    @property
    def weight(self) -> Tensor:
        return (self.embedding or self.head).weight

    def forward(self, x: Tensor, vocab: slice = slice(None)) -> Tensor:
        return self.attend(x, vocab) if self.embedding is None else self.embedding(x)

    def attend(self, x: Tensor, vocab: slice = slice(None)) -> Tensor:
        """Return logits of the ids in `vocab`. A plain linear head computes only those."""
        plain = type(self.head) is nn.Linear and self.head.bias is None and "forward" not in vars(self.head)
        if plain and not (self.head._forward_hooks or self.head._forward_pre_hooks):
            return F.linear(x, self.head.weight[vocab])
        return self.head(x)[..., vocab]


def _around(kind: type, config, model: nn.Module, **children: nn.Module) -> nn.Module:
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    made.config, made.wpe = config, model.position_embeds_layer
    made.h, made.ln_f = model.layers, model.layernorm_final
    for name, child in children.items():
        setattr(made, name, child)
    return made.train(model.training)


def _size(config) -> dict:
    return dict(n_layer=config.num_layers, n_head=config.num_heads, n_embd=config.hidden_size)


def causal_core(model: nn.Module) -> GPT:
    """Build barklite's model around a causal model's modules."""
    vocab = dict(
        input_vocab_size=model.config.input_vocab_size, output_vocab_size=model.config.output_vocab_size
    )
    config = GPTConfig(**_size(model.config), block_size=model.config.block_size, **vocab)
    return _around(GPT, config, model, wte=model.input_embeds_layer, lm_head=Table(model.lm_head))


def fine_core(model: nn.Module) -> FineGPT:
    """Build barklite's model around a fine model's modules."""
    c, given = model.config, model.config.n_codes_given
    config = FineConfig(
        **_size(c), block_size=c.block_size, vocab_size=c.input_vocab_size, n_codes_total=c.n_codes_total
    )
    heads = [*[None] * given, *model.lm_heads]
    tables = [Table(head, table) for head, table in zip(heads, model.input_embeds_layers, strict=True)]
    return _around(FineGPT, config, model, wtes=nn.ModuleList(tables))


class Quantizer:
    """transformers' interface to a codec's codebooks."""

    def __init__(self, codec: Codec):
        self.codec = codec

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (K, B, T) -> sum of their vectors, (B, dimension, T)."""
        return self.codec.embed(codes.transpose(0, 1))


class EncodecModel(Codec):
    """barklite's codec with transformers' state dict. It stays float32 in a 16-bit model."""

    @property
    def quantizer(self) -> Quantizer:
        return Quantizer(self)

    def fill(self, state: dict[str, Tensor], origin: Path) -> None:
        """Replace the parameters on the meta device by barklite's tensors. ValueError if they do not fit."""
        own = dict(self.named_parameters())
        checkpoint.check_tensors(origin, state, own)
        for name in own:
            module, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(module), leaf, nn.Parameter(state[name]))

    def _apply(self, fn, recurse: bool = True) -> "EncodecModel":
        def kept(tensor: Tensor) -> Tensor:
            """Keep the dtype: 16 bits would be audible and save little memory."""
            made = fn(tensor)
            return made if made.dtype == tensor.dtype else tensor.to(made.device)

        return super()._apply(kept, recurse)

    def state_dict(self, *, destination=None, prefix: str = "", keep_vars: bool = False) -> dict:
        """Return the weights under transformers' names, with weight norm unfolded."""
        destination = {} if destination is None else destination
        own = super().state_dict(keep_vars=keep_vars)
        for key, tensor in encodec.export(own, self.config).items():
            destination[prefix + key] = tensor
        return destination

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        """Convert the entries under `prefix` to barklite's names; current weights replace missing ones."""
        given = {key: state_dict.pop(key) for key in [*state_dict] if key.startswith(prefix)}
        given = {_respelled(key.removeprefix(prefix)): tensor for key, tensor in given.items()}
        own, whole = self.state_dict(), replace(self.config, encoder=True)
        missing += [prefix + key for key in own if key not in given]
        unexpected += [prefix + key for key in given if key not in own]
        with torch.device("meta"):
            base = encodec.export(Codec(whole).state_dict(), whole)
        base |= own | {key: tensor for key, tensor in given.items() if key in own}
        try:
            made = encodec.convert(base, True, self.config.n_codebooks, self.config.encoder, self.config)[1]
        except ValueError as error:
            errors.append(str(error))
        else:
            state_dict.update({prefix + key: tensor for key, tensor in made.items()})
            super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)


def _respelled(key: str) -> str:
    """Convert a key of an old weight norm to PyTorch's current name."""
    for i, old in enumerate((".weight_g", ".weight_v")):
        if key.endswith(old):
            return f"{key.removesuffix(old)}.parametrizations.weight.original{i}"
    return key

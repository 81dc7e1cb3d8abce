"""transformers' token models on top of barklite's, with its `forward` and `generate`."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from barklite.config import TokenConfig
from barklite.models.gpt import Embedding
from barklite.storage import checkpoint
from barklite.voice import Voice

from . import decoding
from .configuration import BarkCoarseConfig, BarkFineConfig, BarkSemanticConfig, BarkSubModelConfig
from .files import warn_of
from .generation import (
    BarkCoarseGenerationConfig,
    BarkFineGenerationConfig,
    BarkSemanticGenerationConfig,
    GenerationConfig,
)
from .modules import BarkBlock, Report, causal_core, fine_core
from .outputs import Appending, CausalLMOutputWithPast, DynamicCache, Generated, MaskedLMOutput
from .pretrained import BarkPreTrainedModel
from .settings import coarse_settings, fine_settings, semantic_settings, tokens_of
from .stages import coarse_rows, fine_rows, noise_of, padded, semantic_rows


class TokenModel(BarkPreTrainedModel):
    """Base of the three token models."""

    part = ""  # barklite's name of the model
    is_causal = True

    def __init__(self, config: BarkSubModelConfig):
        super().__init__(config)
        device = torch.get_default_device()
        with torch.device("meta"):
            self._build(config)
        if device.type != "meta":
            self.to_empty(device=device)
            checkpoint.initialise(self, std=config.initializer_range)

    def _build(self, c: BarkSubModelConfig) -> None:
        sizes = dict(num_layers=c.num_layers, num_heads=c.num_heads, hidden_size=c.hidden_size)
        sizes |= dict(block_size=c.block_size, vocab_size=min(c.input_vocab_size, c.output_vocab_size))
        if min(sizes.values()) < 1:
            raise ValueError(f"the {self.part} model's sizes must be 1 or more: {sizes}")
        if c.hidden_size % c.num_heads:
            raise ValueError(f"hidden_size {c.hidden_size} is not a multiple of num_heads {c.num_heads}")
        self.position_embeds_layer = Embedding(c.block_size, c.hidden_size)
        self.layers = nn.ModuleList(BarkBlock(c, self.is_causal) for _ in range(c.num_layers))
        self.layernorm_final = nn.LayerNorm(c.hidden_size, bias=c.bias or not self.is_causal)

    def _inputs(self, input_ids, inputs_embeds, input_embeds) -> Tensor:
        """Check and return the input: ids, or embeddings (B, T, D)."""
        embeds = inputs_embeds if input_embeds is None else input_embeds
        if input_ids is not None and embeds is not None:
            raise ValueError("give input_ids or inputs_embeds, not both at the same time")
        if input_ids is None and embeds is None:
            raise ValueError("give input_ids or inputs_embeds: both are missing")
        name, given, wanted = "inputs_embeds", embeds, 3
        if embeds is None:
            name, given, wanted = "input_ids", input_ids, 2 if self.is_causal else 3
        if not isinstance(given, Tensor) or given.ndim != wanted:
            shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"{name} must be a tensor of {wanted} dimensions, not {shape}")
        return given.to(self.device)

    def _forward(self, x: Tensor, position_ids, mask, head_mask, wanted: tuple, cache=None) -> tuple:
        """Embeddings (B, T, D) -> (last hidden state, all hidden states or None, attention maps or None)."""
        c, (B, T), device, causal = self.config, x.shape[:2], x.device, False
        maps, states = (
            d if w is None else w
            for d, w in zip((c.output_attentions, c.output_hidden_states), wanted, strict=True)
        )
        past, S = (0, T) if cache is None else cache.sizes(T)
        mask = _allowed(mask, B, T, S, past, device)
        if self.is_causal and mask is None and S == T and T > 1:
            causal = True  # set in a branch, because a traced comparison is not a bool
        elif self.is_causal and (isinstance(past, Tensor) or T > 1 or past + T < S):
            order = torch.arange(S, device=device) <= past + torch.arange(T, device=device)[:, None]
            mask = order if mask is None else order & mask
        report = Report(mask, [], _head_mask(head_mask, c.num_layers, c.num_heads, device))
        explicit = maps or head_mask is not None
        x = x + self.position_embeds_layer(_positions(position_ids, past, T, c.block_size, device))
        x = F.dropout(x, c.dropout, self.training)
        mask, hidden = report if explicit else mask, [x] if states else []
        every, options = self.recompute if self.recompute and self.training else (0, {})
        for layer, block in enumerate(self.layers):
            if every and layer % every == 0:
                x = recompute(block, x, mask, causal, None, layer, **options)
            else:
                x = block(x, mask, causal, cache, layer)
            if states:
                hidden.append(x)
        x = self.layernorm_final(x)
        return x, (*hidden[:-1], x) if states else None, tuple(report.maps) if maps else None

    def _returned(self, output, return_dict: bool | None):
        named = self.config.return_dict if return_dict is None else return_dict
        return output if named else output.to_tuple()


class BarkCausalModel(TokenModel):
    """The transformer of the semantic and coarse models."""

    config_class = BarkSubModelConfig
    part = "semantic"

    def __init__(self, config: BarkSubModelConfig):
        super().__init__(config)
        self.generation_config = GenerationConfig.from_model_config(config)

    def _build(self, c: BarkSubModelConfig) -> None:
        self.input_embeds_layer = Embedding(c.input_vocab_size, c.hidden_size)
        super()._build(c)
        self.lm_head = nn.Linear(c.hidden_size, c.output_vocab_size, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.input_embeds_layer

    def set_input_embeddings(self, new_embeddings: nn.Module) -> None:
        self.input_embeds_layer = new_embeddings

    def get_output_embeddings(self) -> None:
        """Return None: the head is not tied to the embedding."""

    def resize_token_embeddings(self, new_num_tokens: int | None = None, **kwargs) -> nn.Module:
        """Change the number of input embeddings; new ones are the mean of the old."""
        if new_num_tokens is not None:
            self.input_embeds_layer = _resized(self.input_embeds_layer, new_num_tokens)
            self.config.input_vocab_size = new_num_tokens
        return self.input_embeds_layer

    def forward(
        self,
        input_ids: Tensor | None = None,
        cache: DynamicCache | Sequence | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        labels: Tensor | None = None,
        input_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: DynamicCache | Sequence | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast | tuple:
        """Return logits (B, T, V) and the extended cache (None if `use_cache` is False).

        input_ids: int64 (B, T), or inputs_embeds (B, T, D). cache: of this module or of transformers, or a
        (keys, values) pair per layer; past_key_values is its older name. attention_mask: (B, S) of 1 and 0,
        or (B, 1, T, S), bool or additive, combined with the causal mask. head_mask: (H,) or (L, H), 1 keeps a
        head. labels: ids (B, T), shifted by one position for the loss; -100 is ignored. num_items_in_batch:
        divisor of the summed loss, instead of the number of labels. return_dict: False returns a tuple of the
        results that are not None. ValueError for neither or both inputs and for wrong shapes of masks;
        IndexError for ids or positions without an embedding. Unused keywords cause a warning.
        """
        warn_of("forward", kwargs)
        given = self._inputs(input_ids, inputs_embeds, input_embeds)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = past_key_values if cache is None else cache
        if isinstance(cache, (tuple, list)):
            cache = DynamicCache(cache)
        if cache is None and use_cache and not (self.recompute and self.training):
            cache = DynamicCache()
        with self._ready():
            x = self.input_embeds_layer(given) if given.ndim == 2 else given
            wanted = output_attentions, output_hidden_states
            appending = None if cache is None else Appending(cache)
            x, states, maps = self._forward(x, position_ids, attention_mask, head_mask, wanted, appending)
            logits = self.lm_head(x)
        loss = None
        if labels is not None:
            loss = _loss(logits[:, :-1], labels[:, 1:], num_items_in_batch)
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, cache=cache, hidden_states=states, attentions=maps
        )
        return self._returned(output, return_dict)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, cache=None, attention_mask=None, **kwargs
    ) -> dict:
        """Return the arguments of the next forward in a generation loop."""
        cache = kwargs.pop("past_key_values", None) if cache is None else cache
        past = 0 if cache is None else cache.get_seq_length()
        given = {"input_ids": input_ids[:, past:], "cache": cache, "attention_mask": attention_mask}
        return given | {"use_cache": kwargs.get("use_cache", True)}

    def generate(self, inputs: Tensor | None = None, **kwargs) -> Tensor | Generated:
        """Continue ids (B, T) as a plain language model; see `decoding.generate`."""
        return decoding.generate(self, inputs, **kwargs)


class BarkSemanticModel(BarkCausalModel):
    """Text to semantic tokens."""

    config_class = BarkSemanticConfig
    base_model_prefix = "semantic"

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        semantic_generation_config: BarkSemanticGenerationConfig | None = None,
        history_prompt: Mapping | None = None,
        attention_mask: Tensor | None = None,
        _noise: Sequence[torch.Generator] | None = None,
        **kwargs,
    ) -> Tensor:
        """Tokenizer ids (B, up to 256), with 0 in the mask for padding -> int64 (B, n) (spec 4.1).

        A row that ended is filled with the end token, 10000. ValueError without a configuration.
        """
        config, rows = required(semantic_generation_config, "semantic"), rows_of(input_ids, "input_ids")
        t = tokens_of(semantic_config=config)
        settings = semantic_settings(kwargs, config, t, self.config.block_size - t.n_prompt + 1)
        if attention_mask is not None:  # padding becomes the text pad, as an id before the offset
            if attention_mask.shape != input_ids.shape:
                shapes = tuple(attention_mask.shape), tuple(input_ids.shape)
                raise ValueError("attention_mask has shape {}, input_ids {}".format(*shapes))
            rows = rows.masked_fill(attention_mask.to(rows.device) == 0, t.text_pad - t.text_offset)
        rows = rows[:, : t.n_text].tolist()
        vocab = self.config.input_vocab_size
        if vocab <= max(t.semantic_infer, t.text_pad):
            raise IndexError(f"input_vocab_size is {vocab}, but the prompt has ids up to {t.semantic_infer}")
        if any(not 0 <= i + t.text_offset < vocab for row in rows for i in row):
            raise IndexError("input_ids has ids that the model has no embedding for")
        voice, noise = voice_of(history_prompt, t), _noise or noise_of(len(rows), self.device)
        with self._generating():
            return padded(semantic_rows(causal_core(self), rows, voice, noise, settings, t), t.semantic_eos)


class BarkCoarseModel(BarkCausalModel):
    """Semantic tokens to codes of the first two codebooks."""

    config_class, part = BarkCoarseConfig, "coarse"
    base_model_prefix = "coarse_acoustics"

    @torch.no_grad()
    def generate(
        self,
        semantic_output: Tensor,
        semantic_generation_config: BarkSemanticGenerationConfig | None = None,
        coarse_generation_config: BarkCoarseGenerationConfig | None = None,
        codebook_size: int = 1024,
        history_prompt: Mapping | None = None,
        return_output_lengths: bool | None = None,
        _noise: Sequence[torch.Generator] | None = None,
        **kwargs,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Semantic tokens (B, n), padded with 10000 or 12048 -> coarse ids, int64 (B, 2 T), padded with 12048
        (spec 4.2). return_output_lengths: return (ids, lengths of the rows, int32 (B,)).
        """
        config = required(coarse_generation_config, "coarse")
        t = tokens_of(
            semantic_config=required(semantic_generation_config, "semantic"),
            coarse_acoustics_config=config,
            codebook_size=codebook_size,
        )
        settings, voice = coarse_settings(kwargs, config, t), voice_of(history_prompt, t)
        rows = rows_of(semantic_output, "semantic_output").to(self.device)
        rows = [row[(row != t.semantic_eos) & (row != t.coarse_pad)] for row in rows]
        noise = _noise or noise_of(len(rows), self.device)
        with self._generating():
            rows = coarse_rows(causal_core(self), rows, voice, noise, settings, t)
        made, lengths = padded(rows, t.coarse_pad), [len(ids) for ids in rows]
        return (made, torch.tensor(lengths, dtype=torch.int32)) if return_output_lengths else made


class BarkFineModel(TokenModel):
    """Codes of two codebooks to codes of eight."""

    config_class, part, is_causal = BarkFineConfig, "fine", False
    main_input_name = "codebook_idx"
    base_model_prefix = "fine_acoustics"

    def _build(self, c: BarkFineConfig) -> None:
        n, given = c.n_codes_total, c.n_codes_given
        self.input_embeds_layers = nn.ModuleList(
            Embedding(c.input_vocab_size, c.hidden_size) for _ in range(n)
        )
        super()._build(c)
        head = dict(in_features=c.hidden_size, out_features=c.output_vocab_size, bias=False)
        self.lm_heads = nn.ModuleList(nn.Linear(**head) for _ in range(given, n))
        if c.tie_word_embeddings and c.input_vocab_size != c.output_vocab_size:
            raise ValueError("input and output vocabulary sizes differ, but heads and embeddings are tied")
        self.tie_weights()
        self.register_load_state_dict_post_hook(BarkFineModel.tie_weights)

    def _tied(self) -> dict[str, str]:
        """Return the names of tied parameters: {head: embedding}."""
        names = range(len(self.lm_heads))
        pairs = {f"lm_heads.{i}.weight": f"input_embeds_layers.{i + 1}.weight" for i in names}
        return pairs if self.config.tie_word_embeddings else {}

    def tie_weights(self, *args, **kwargs) -> None:
        """Share each head's weight with the embedding of the next codebook, if they are tied."""
        for head, table in self._tied().items():
            weight = self.get_parameter(table)
            module = self.get_submodule(head.removesuffix(".weight"))
            if getattr(module, "weight", None) is not weight:
                module.weight, module.out_features = weight, len(weight)

    def _apply(self, fn, recurse: bool = True) -> "BarkFineModel":
        super()._apply(fn, recurse)
        self.tie_weights()
        return self

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        for head, table in self._tied().items():
            pair = state_dict.get(prefix + head), state_dict.get(prefix + table)
            if None not in pair and pair[0].shape == pair[1].shape and not torch.equal(*pair):
                errors.append(f"{prefix + head} and {prefix + table} differ, but in Bark they are one tensor")
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)

    def get_input_embeddings(self) -> nn.ModuleList:
        return self.input_embeds_layers

    def set_input_embeddings(self, new_embeddings: nn.ModuleList) -> None:
        self.input_embeds_layers = new_embeddings
        self.tie_weights()

    def get_output_embeddings(self) -> nn.ModuleList:
        return self.lm_heads

    def set_output_embeddings(self, new_output_embeddings: nn.ModuleList) -> None:
        self.lm_heads = new_output_embeddings

    def resize_token_embeddings(self, new_num_tokens: int | None = None, **kwargs) -> nn.ModuleList:
        """Change the number of rows in all embeddings and heads; new ones are the mean of the old."""
        if new_num_tokens is not None:
            self.input_embeds_layers = nn.ModuleList(
                _resized(table, new_num_tokens) for table in self.input_embeds_layers
            )
            for head in self.lm_heads:
                if not self.config.tie_word_embeddings:
                    head.weight = _resized(head, new_num_tokens).weight
                    head.out_features = new_num_tokens
            self.config.input_vocab_size = self.config.output_vocab_size = new_num_tokens
            self.tie_weights()
        return self.input_embeds_layers

    def forward(
        self,
        codebook_idx: int,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        labels: Tensor | None = None,
        input_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs,
    ) -> MaskedLMOutput | tuple:
        """Return logits (B, T, V) of codebook 1 to 7, given the codebooks up to and including it (spec 3.5).

        input_ids: int64 (B, T, 8), or inputs_embeds (B, T, D). attention_mask: (B, T) of 1 and 0. labels:
        this codebook's codes (B, T); -100 is ignored. The other arguments are as in `BarkCausalModel`.
        ValueError for codebook 0, which the coarse model predicts; IndexError for one that does not exist.
        """
        warn_of("forward", kwargs)
        given, c = self._inputs(input_ids, inputs_embeds, input_embeds), self.config
        if codebook_idx == 0:
            raise ValueError("codebook 0 is predicted by the coarse model; the fine model begins with 1")
        if not c.n_codes_given <= codebook_idx < c.n_codes_total:
            raise IndexError(
                f"codebook {codebook_idx} does not exist: give {c.n_codes_given} to {c.n_codes_total - 1}"
            )
        if input_ids is not None and given.shape[2] < c.n_codes_total:
            raise IndexError(f"input_ids must have shape (B, T, {c.n_codes_total})")
        with self._ready():
            x = given
            if input_ids is not None:
                x = self.input_embeds_layers[0](given[..., 0])
                for k in range(1, codebook_idx + 1):
                    x = x + self.input_embeds_layers[k](given[..., k])
            wanted = output_attentions, output_hidden_states
            x, states, maps = self._forward(x, position_ids, attention_mask, head_mask, wanted)
            logits = self.lm_heads[codebook_idx - c.n_codes_given](x)
        loss = None if labels is None else _loss(logits, labels, num_items_in_batch)
        output = MaskedLMOutput(loss=loss, logits=logits, hidden_states=states, attentions=maps)
        return self._returned(output, return_dict)

    @torch.no_grad()
    def generate(
        self,
        coarse_output: Tensor,
        semantic_generation_config: BarkSemanticGenerationConfig | None = None,
        coarse_generation_config: BarkCoarseGenerationConfig | None = None,
        fine_generation_config: BarkFineGenerationConfig | None = None,
        codebook_size: int = 1024,
        history_prompt: Mapping | None = None,
        _noise: Sequence[torch.Generator] | None = None,
        **kwargs,
    ) -> Tensor:
        """Coarse ids (B, 2 T), padded with 12048 -> codes, int64 (B, 8, T) (spec 4.3).

        Frames after a row's end are 1024 in all codebooks. The only keyword that is used is `temperature`.
        """
        config = required(fine_generation_config, "fine")
        t = tokens_of(
            semantic_config=required(semantic_generation_config, "semantic"),
            coarse_acoustics_config=required(coarse_generation_config, "coarse"),
            fine_acoustics_config=config,
            codebook_size=codebook_size,
        )
        settings, voice = fine_settings(kwargs, config), voice_of(history_prompt, t)
        if isinstance(coarse_output, Tensor) and coarse_output.ndim > 2:
            coarse_output = coarse_output.flatten(1)  # for example (B, T, codebooks)
        rows = rows_of(coarse_output, "coarse_output").to(self.device)
        if rows.shape[1] % t.n_coarse:
            raise RuntimeError(f"coarse_output has {rows.shape[1]} columns: not a whole number of frames")
        # Padded frames are those whose first id is the pad, which no real frame begins with.
        rows = [row[: t.n_coarse * int((row[:: t.n_coarse] != t.coarse_pad).sum())] for row in rows]
        noise = _noise or noise_of(len(rows), self.device)
        with self._generating():
            return padded(fine_rows(fine_core(self), rows, voice, noise, settings, t), t.fine_pad)


def _resized(table: nn.Module, n: int) -> Embedding:
    old = table.weight.detach()
    with torch.device("meta"):
        new = Embedding(n, old.shape[1])
    new.weight = nn.Parameter(torch.cat((old[:n], old.mean(0).expand(max(0, n - len(old)), -1))))
    return new


def _loss(logits: Tensor, labels: Tensor, n: Tensor | int | None) -> Tensor:
    """Cross entropy of the labels that are not -100, float32: their mean, or their sum divided by `n`."""
    logits, labels = logits.flatten(0, 1).float(), labels.to(logits.device).flatten()
    loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="mean" if n is None else "sum")
    return loss if n is None else loss / n


# --- arguments of forward and generate ----------------------------------------------------------------------


def _positions(given: Tensor | None, past, T: int, size: int, device: torch.device) -> Tensor:
    """Return positions of T ids after `past` others: (T,), or (B, T) if given. IndexError if out of range."""
    if given is None and not isinstance(past, Tensor):
        last = past + T - 1
    elif given is not None and given.numel() and not torch.compiler.is_compiling():
        last = int(given.max())
    else:  # unchecked, for a graph without breaks
        last = 0
    if last >= size:
        raise IndexError(f"position {last} is out of range: this model has {size}")
    if given is None:
        return torch.arange(T, device=device) + past
    return given.reshape(-1, T).to(device)


def _allowed(mask: Tensor | None, B: int, T: int, S: int, past, device: torch.device) -> Tensor | None:
    """Convert an attention mask to bool, True where attention is allowed; None if it is allowed everywhere.

    S: number of keys; in a static cache, those after the T new ones are unfilled.
    """
    if mask is None:
        return None
    mask, fixed = mask.to(device), isinstance(past, Tensor) or past + T < S
    if mask.ndim == 2 and mask.shape[0] in (1, B) and (mask.shape[1] in (T, S) or fixed):
        keep = mask != 0
        if fixed:
            keep = F.pad(keep, (0, S - keep.shape[1]))
        elif keep.shape[1] < S:  # a mask of the new positions only: allow all cached ones
            keep = F.pad(keep, (S - T, 0), value=True)
        everywhere = not torch.compiler.is_compiling() and bool(keep.all())
        return None if everywhere else keep[:, None, None]
    if mask.ndim == 4 and mask.shape[-2] in (1, T) and mask.shape[-1] == S:
        if mask.dtype == torch.bool:
            return mask
        if mask.is_floating_point() and (
            torch.compiler.is_compiling() or bool(((mask == 0) | (mask < -1e4)).all())
        ):  # added to scores
            return mask == 0
        raise ValueError("a mask of four dimensions must be bool, or 0 and very negative floats")
    raise ValueError(f"attention_mask has shape {tuple(mask.shape)}; it must be {(B, S)} or {(B, 1, T, S)}")


def _head_mask(mask: Tensor | None, n_layer: int, n_head: int, device: torch.device) -> Tensor | None:
    """Expand a head mask (H,) or (L, H), possibly with axes of size 1, to (L, H)."""
    if mask is None:
        return None
    if mask.numel() not in (n_head, n_layer * n_head):
        raise ValueError(
            f"head_mask has shape {tuple(mask.shape)}; it must be {(n_head,)} or {(n_layer, n_head)}"
        )
    return mask.reshape(-1, n_head).float().expand(n_layer, n_head).to(device)


def required(config, stage: str):
    if config is None:
        raise ValueError(f"{stage}_generation_config is missing: it has the ids, windows and settings")
    return config


def rows_of(given: Tensor, what: str) -> Tensor:
    """Check ids (B, n) and return them as int64."""
    if not isinstance(given, Tensor) or given.ndim != 2 or given.is_floating_point() or len(given) == 0:
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"{what} must be whole numbers of shape (B, n), not {shape}")
    return given.long()


def voice_of(history: Mapping | None, tokens: TokenConfig) -> Voice | None:
    """Make a Voice from a history prompt of tensors or arrays. TypeError unless it is a mapping, ValueError
    for a bad voice.
    """
    if history is None:
        return None
    if not isinstance(history, Mapping):
        kind = type(history).__name__
        raise TypeError(f"history_prompt is a {kind}; the processor makes one from voice_preset")
    arrays = {
        name: value.cpu().numpy() if isinstance(value, Tensor) else value for name, value in history.items()
    }
    return Voice.from_arrays(arrays, tokens=tokens)

"""transformers' token models over barklite's: `forward` with its arguments and outputs, and `generate`."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from barklite.decode.generate import (
    coarse_codes,
    coarse_length,
    coarse_row,
    fine_row,
    semantic_length,
    semantic_row,
)
from barklite.decode.slots import passes
from barklite.inspect import trace
from barklite.models.fine import FineGPT
from barklite.models.gpt import GPT, Embedding, Head, cross_entropy
from weights_convert import huggingface

from .building import empty, randomised
from .configuration import BarkCoarseConfig, BarkFineConfig, BarkSemanticConfig, BarkSubModelConfig
from .generation import BarkCoarseGenerationConfig, BarkFineGenerationConfig, BarkSemanticGenerationConfig
from .outputs import Appending, CausalLMOutputWithPast, DynamicCache, MaskedLMOutput
from .pretrained import BarkPreTrainedModel, Source, loaded, ours
from .settings import coarse_settings, fine_settings, semantic_settings, tokens_of
from .stages import decoded, generators, padded, required, rows_of, voice_of


class TokenModel(BarkPreTrainedModel):
    """One of the three token models; `model` is barklite's own module."""

    part = ""  # barklite's name for it
    model: GPT | FineGPT

    def __init__(self, config, _model: nn.Module | None = None):
        super().__init__(config)
        self.model = _model or randomised(empty(config, self.part), config.initializer_range)

    @classmethod
    def _load(cls, config, source: "Source", dtype: torch.dtype | None):
        return cls(config, loaded(empty(config, cls.part), source, cls.part, dtype))

    def _exported(self, tied: bool = False) -> dict[str, Tensor]:
        state, prefix = self.model.state_dict(keep_vars=True), huggingface.PREFIXES[self.part]
        if self.part == "fine":
            exported = huggingface.export_fine(state, tied)
        else:
            exported = huggingface.export_gpt(state, self.model.config, self.part)
        return {key.removeprefix(prefix): tensor for key, tensor in exported.items()}

    def _imported(self, state: Mapping[str, Tensor]) -> list[tuple[nn.Module, dict[str, Tensor]]]:
        prefix = huggingface.PREFIXES[self.part]
        state = {prefix + key: tensor for key, tensor in state.items()}
        return [(self.model, ours(state, self.part, self.model))]

    @property
    def position_embeds_layer(self) -> Embedding:
        return self.model.wpe

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.h

    @property
    def layernorm_final(self) -> nn.LayerNorm:
        return self.model.ln_f

    def _inputs(self, input_ids, inputs_embeds, input_embeds) -> dict[str, Tensor]:
        """What the model is to read."""
        embeds = inputs_embeds if input_embeds is None else input_embeds
        if input_ids is not None and embeds is not None:
            raise ValueError("give input_ids or inputs_embeds, not both at the same time")
        if input_ids is None and embeds is None:
            raise ValueError("give input_ids or inputs_embeds: there is nothing to read")
        name, given, wanted = "inputs_embeds", embeds, 3
        if embeds is None:
            name, given, wanted = "input_ids", input_ids, 3 if self.part == "fine" else 2
        if not isinstance(given, Tensor) or given.ndim != wanted:
            shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"{name} must be a tensor of {wanted} dimensions, not {shape}")
        return {"ids" if embeds is None else "embeds": given.to(self.device)}

    def _run(self, call, head_mask, output_attentions, output_hidden_states) -> dict:
        """Logits, and what else is wanted of the computation in `call`."""
        config = self.config
        attentions = config.output_attentions if output_attentions is None else output_attentions
        states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._ready())
            if head_mask is not None:
                head_mask = _head_mask(head_mask, config.num_layers, config.num_heads)
                stack.enter_context(_scaled_heads(self.model, head_mask))
            traced = stack.enter_context(trace(self.model, keep=1)) if attentions or states else None
            logits, _ = call()
        maps = tuple(p.to(logits.dtype) for p in traced.attentions) if attentions else None
        if maps and head_mask is not None:
            maps = tuple(p * keep[:, None, None].to(p) for p, keep in zip(maps, head_mask, strict=True))
        return {
            "logits": logits,
            "hidden_states": tuple(traced.hidden_states) if states else None,
            "attentions": maps,
        }

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels.to(logits.device))

    def _returned(self, output, return_dict: bool | None):
        named = self.config.return_dict if return_dict is None else return_dict
        return output if named else output.to_tuple()


class BarkCausalModel(TokenModel):
    """The transformer of the semantic and the coarse model."""

    config_class = BarkSubModelConfig
    part = "semantic"

    @property
    def input_embeds_layer(self) -> Embedding:
        return self.model.wte

    @property
    def lm_head(self) -> Head:
        return self.model.lm_head

    def get_input_embeddings(self) -> nn.Module:
        return self.model.wte

    def set_input_embeddings(self, new_embeddings: nn.Module) -> None:
        self.model.wte = new_embeddings

    def get_output_embeddings(self) -> None:
        """None: the head is not tied to the table."""

    def resize_token_embeddings(self, new_num_tokens: int | None = None) -> nn.Module:
        """Another number of rows in the input table; new ones are the mean of the old."""
        if new_num_tokens is not None:
            self.model.wte = _resized(self.model.wte, new_num_tokens)
            self.config.input_vocab_size = new_num_tokens
            self.model.config = dataclasses.replace(self.model.config, input_vocab_size=new_num_tokens)
        return self.model.wte

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
        **kwargs,
    ) -> CausalLMOutputWithPast | tuple:
        """Logits (B, T, V) of all positions, and the grown cache unless `use_cache` is False.

        input_ids: int64 (B, T), or inputs_embeds (B, T, D). cache: barklite's or transformers', or (keys,
        values) a layer; past_key_values is its older name. attention_mask: (B, S) of 1 and 0, or (B, 1, T,
        S), bool or additive; the order stays causal. head_mask: (H,) or (L, H), 1 keeps a head. labels: (B,
        T), ids whose prediction one position before gives the loss; -100 for none. return_dict=False gives
        the results that are not None as a tuple. ValueError for neither or both inputs and for misshapen
        masks; IndexError for ids or positions that have no embedding.
        """
        given = self._inputs(input_ids, inputs_embeds, input_embeds)
        (x,) = given.values()
        B, T = x.shape[:2]
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = past_key_values if cache is None else cache
        if isinstance(cache, (tuple, list)):
            cache = DynamicCache(cache)
        if cache is None and use_cache:
            cache = DynamicCache()
        past = 0 if cache is None else cache.get_seq_length()
        output = self._run(
            lambda: self.model(
                **given,
                positions=_positions(position_ids, past, T, self.model),
                mask=_allowed(attention_mask, B, T, past + T, self.device),
                cache=None if cache is None else Appending(cache),
            ),
            head_mask,
            output_attentions,
            output_hidden_states,
        )
        loss = None if labels is None else self._loss(output["logits"][:, :-1], labels[:, 1:])
        return self._returned(CausalLMOutputWithPast(loss=loss, cache=cache, **output), return_dict)


class BarkSemanticModel(BarkCausalModel):
    """Text to semantic tokens."""

    config_class = BarkSemanticConfig

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
        """Tokenizer ids (B, up to 256), 0 in the mask where they are padding -> int64 (B, n) (spec 4.1).

        A row that ended holds the end, 10000, from there on. ValueError without a configuration.
        """
        config, rows = required(semantic_generation_config, "semantic"), rows_of(input_ids, "input_ids")
        t = tokens_of(semantic_config=config)
        settings = semantic_settings(kwargs, config, t, self.config.block_size - t.n_prompt + 1)
        if attention_mask is not None:  # a padded place holds the text pad's id, counted as a tokenizer's
            if attention_mask.shape != input_ids.shape:
                shapes = tuple(attention_mask.shape), tuple(input_ids.shape)
                raise ValueError("attention_mask has shape {}, input_ids {}".format(*shapes))
            rows = rows.masked_fill(attention_mask.to(rows.device) == 0, t.text_pad - t.text_offset)
        rows = rows[:, : t.n_text].tolist()
        vocab = self.config.input_vocab_size
        if vocab <= max(t.semantic_infer, t.text_pad):
            raise IndexError(f"input_vocab_size is {vocab}, and the prompt has ids up to {t.semantic_infer}")
        if any(not 0 <= i + t.text_offset < vocab for row in rows for i in row):
            raise IndexError("input_ids has ids that the model has no embedding for")
        voice = voice_of(history_prompt, t)
        with self._ready():
            coroutines = [semantic_row(self.model, row, voice, settings, t) for row in rows]
            made = decoded("semantic", self.model, coroutines, _noise, semantic_length(settings, t))
        end = torch.tensor([t.semantic_eos], device=self.device)
        made = [torch.cat((row, end)) if reason == "eos" else row for row, reason, _ in made]
        return padded(made, t.semantic_eos)


class BarkCoarseModel(BarkCausalModel):
    """Semantic tokens to codes of the first two codebooks."""

    config_class, part = BarkCoarseConfig, "coarse"

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
        """Semantic tokens (B, n), padded with 10000 or 12048 -> the coarse model's ids, int64 (B, 2 T) (spec
        4.2), of shorter rows padded with 12048; and if asked for their numbers, int32 (B,).
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
        with self._ready():
            coroutines = [coarse_row(self.model, row, voice, settings, t) for row in rows]
            made = decoded("coarse", self.model, coroutines, _noise, coarse_length(settings, t))
        made, lengths = padded(made, t.coarse_pad), [len(ids) for ids in made]
        return (made, torch.tensor(lengths, dtype=torch.int32)) if return_output_lengths else made


class BarkFineModel(TokenModel):
    """Codes of two codebooks to eight."""

    config_class, part = BarkFineConfig, "fine"
    main_input_name = "codebook_idx"

    @property
    def input_embeds_layers(self) -> nn.ModuleList:
        return self.model.wtes

    @property
    def lm_heads(self) -> nn.ModuleList:
        """The heads, which are the tables of the codebooks that they predict."""
        return self.model.wtes[1:]

    def get_input_embeddings(self) -> nn.ModuleList:
        return self.model.wtes

    def set_input_embeddings(self, new_embeddings: nn.ModuleList) -> None:
        self.model.wtes = nn.ModuleList(Embedding(*table.weight.shape) for table in new_embeddings)
        for own, table in zip(self.model.wtes, new_embeddings, strict=True):
            own.weight = table.weight

    def get_output_embeddings(self) -> nn.ModuleList:
        return self.lm_heads

    def resize_token_embeddings(self, new_num_tokens: int | None = None) -> nn.ModuleList:
        """Another number of rows in every table, and so in every head; new ones are the mean of the old."""
        if new_num_tokens is not None:
            self.model.wtes = nn.ModuleList(_resized(table, new_num_tokens) for table in self.model.wtes)
            self.config.input_vocab_size = self.config.output_vocab_size = new_num_tokens
            self.model.config = dataclasses.replace(self.model.config, vocab_size=new_num_tokens)
        return self.model.wtes

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
        **kwargs,
    ) -> MaskedLMOutput | tuple:
        """Logits (B, T, V) of codebook 1 to 7, from all codebooks up to it (spec 3.5).

        input_ids: int64 (B, T, 8), or inputs_embeds (B, T, D). attention_mask: (B, T) of 1 and 0. labels: (B,
        T), this codebook's codes, for a loss; -100 for none. The rest as in `BarkCausalModel`. ValueError for
        codebook 0, which the coarse model predicts; IndexError for one that is not there.
        """
        given = self._inputs(input_ids, inputs_embeds, input_embeds)
        if codebook_idx == 0:
            raise ValueError("codebook 0 is the coarse model's to predict; the fine model begins with 1")
        if not 0 < codebook_idx < self.config.n_codes_total:
            raise IndexError(
                f"codebook {codebook_idx} is not there: give 1 to {self.config.n_codes_total - 1}"
            )
        if "ids" in given and given["ids"].shape[2] < self.config.n_codes_total:
            raise IndexError(f"input_ids must have shape (B, T, {self.config.n_codes_total})")
        if "ids" in given:
            given = {"codes": given["ids"].transpose(1, 2)}  # (B, 8, T)
        B, T = (input_ids if input_ids is not None else given["embeds"]).shape[:2]
        output = self._run(
            lambda: self.model(
                codebook_idx,
                **given,
                positions=_positions(position_ids, 0, T, self.model),
                mask=_allowed(attention_mask, B, T, T, self.device),
            ),
            head_mask,
            output_attentions,
            output_hidden_states,
        )
        loss = None if labels is None else self._loss(output["logits"], labels)
        return self._returned(MaskedLMOutput(loss=loss, **output), return_dict)

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
        """The coarse model's ids (B, 2 T), padded with 12048 -> codes, int64 (B, 8, T) (spec 4.3).

        Frames behind a row's end hold 1024 in all codebooks. Of the keywords only `temperature` is read.
        """
        config = required(fine_generation_config, "fine")
        t = tokens_of(
            semantic_config=required(semantic_generation_config, "semantic"),
            coarse_acoustics_config=required(coarse_generation_config, "coarse"),
            fine_acoustics_config=config,
            codebook_size=codebook_size,
        )
        settings, voice = fine_settings(kwargs, config), voice_of(history_prompt, t)
        rows = rows_of(coarse_output, "coarse_output").to(self.device)
        if rows.shape[1] % t.n_coarse:
            raise RuntimeError(f"coarse_output has {rows.shape[1]} ids a row: no whole number of frames")
        # The first id of a frame is never the pad, by which a row that ended is filled up.
        rows = [row[: t.n_coarse * int((row[:: t.n_coarse] != t.coarse_pad).sum())] for row in rows]
        noise = _noise or generators(len(rows), self.device)
        with self._ready():
            coroutines = [
                fine_row(self.model, coarse_codes(row, t), voice, g, settings, t)
                for row, g in zip(rows, noise, strict=True)
            ]
            groups = [coroutines[i : i + 8] for i in range(0, len(rows), 8)]
            made = [done.get() for group in groups for done in passes(self.model, group, t)]
        return padded(made, t.fine_pad)


def _resized(table: nn.Embedding, n: int) -> Embedding:
    old = table.weight.detach()
    new = Embedding(n, old.shape[1], device=old.device, dtype=old.dtype)
    with torch.no_grad():
        new.weight[:] = old.mean(0)
        new.weight[: min(n, len(old))] = old[:n]
    return new


# --- what forward and generate are given --------------------------------------------------------------------


def _positions(given: Tensor | None, past: int, T: int, model: nn.Module) -> Tensor:
    """Those of T ids behind `past`, (T,), or (B, T) if given; IndexError if the model does not have one."""
    size, device = model.wpe.weight.shape[0], model.wpe.weight.device
    positions = torch.arange(past, past + T) if given is None else given.reshape(-1, T)
    if T and int(positions.max()) >= size:
        raise IndexError(f"position {int(positions.max())} is out of range: this model has {size}")
    return positions.to(device)


def _allowed(mask: Tensor | None, B: int, T: int, S: int, device: torch.device) -> Tensor | None:
    """An attention mask as barklite's: bool, True where attention is allowed; None if it is everywhere."""
    if mask is None:
        return None
    mask = mask.to(device)
    if mask.ndim == 2 and mask.shape[0] in (1, B) and mask.shape[1] in (T, S):
        keep = mask != 0
        if keep.shape[1] < S:  # of the new positions only: all that are in the cache count
            keep = torch.cat((keep.new_ones(len(keep), S - T), keep), dim=1)
        return None if bool(keep.all()) else keep[:, None, None]
    if mask.ndim == 4 and mask.shape[-2] in (1, T) and mask.shape[-1] == S:
        if mask.dtype == torch.bool:
            return mask
        if mask.is_floating_point() and bool(((mask == 0) | (mask < -1e4)).all()):  # added to scores
            return mask == 0
        raise ValueError("a mask of four dimensions must be bool, or 0 and very negative floats")
    raise ValueError(f"attention_mask has shape {tuple(mask.shape)}; it must be {(B, S)} or {(B, 1, T, S)}")


def _head_mask(mask: Tensor, n_layer: int, n_head: int) -> Tensor:
    """(H,) or (L, H), also with axes of 1, as (L, H)."""
    flat = mask.reshape(-1, n_head) if mask.numel() in (n_head, n_layer * n_head) else None
    if flat is None:
        raise ValueError(
            f"head_mask has shape {tuple(mask.shape)}; it must be {(n_head,)} or {(n_layer, n_head)}"
        )
    return flat.float().expand(n_layer, n_head)


@contextlib.contextmanager
def _scaled_heads(model: nn.Module, scale: Tensor) -> Iterator[None]:
    """What each head (L, H) hands to c_proj, times its factor."""

    def hook_of(factors: Tensor):
        return lambda module, given: (
            (given[0].unflatten(-1, (len(factors), -1)) * factors[:, None]).flatten(-2),
        )

    with contextlib.ExitStack() as undo:
        for block, factors in zip(model.h, scale, strict=True):
            hook = hook_of(factors.to(model.wpe.weight))
            undo.callback(block.attn.c_proj.register_forward_pre_hook(hook).remove)
        yield

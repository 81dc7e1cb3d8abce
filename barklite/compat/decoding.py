"""transformers' `generate` for a causal model as a plain language model: greedy, sampling, beam search.

Bark's stages do not use it: they have their own `generate`.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .generation import GenerationConfig
from .outputs import Generated
from .settings import check_keywords, sampling
from .stages import probabilities

READ = {
    "max_length", "max_new_tokens", "min_new_tokens", "min_length", "do_sample", "temperature", "top_k",
    "top_p",     "num_beams", "num_return_sequences", "early_stopping", "length_penalty", "eos_token_id",
    "pad_token_id", "bos_token_id", "use_cache", "output_scores", "output_logits", "output_attentions",
    "output_hidden_states", "return_dict_in_generate",
}  # fmt: skip
NEVER = -1e9  # lower than the score of any beam


@torch.no_grad()
def generate(
    model,
    inputs: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    input_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    attention_mask: Tensor | None = None,
    cache=None,
    past_key_values=None,
    **kwargs,
) -> Tensor | Generated:
    """Continue ids (B, T): int64 (B * num_return_sequences, up to T + max_new_tokens), padded after the end.

    inputs or input_ids: int64 (B, T); None begins with bos_token_id. inputs_embeds: (B, T, D) instead; the
    result then excludes the prompt. attention_mask: (B, T), 0 for padding. cache: keys and values of a prefix
    of the ids. Keywords: `READ`, which override the configuration. return_dict_in_generate: return a
    `Generated`. ValueError for a setting that barklite does not support, and without a prompt.
    """
    config = generation_config or model.generation_config
    check_keywords(kwargs, config, READ)
    s = {name: kwargs.get(name, getattr(config, name, None)) for name in READ}
    ids = inputs if input_ids is None else input_ids
    if ids is None and inputs_embeds is None:
        if s["bos_token_id"] is None:
            raise ValueError("give input_ids, or a bos_token_id to begin with")
        ids = torch.full((1, 1), s["bos_token_id"])
    if ids is None:
        ids = torch.empty(len(inputs_embeds), 0, dtype=torch.long)
    ids = ids.to(model.device)
    ends = torch.tensor(
        [s["eos_token_id"]] if s["eos_token_id"] is not None else [], device=ids.device
    ).flatten()
    if s["pad_token_id"] is None and len(ends):
        s["pad_token_id"] = int(ends[0])
    begin = ids.shape[1]
    length = begin + s["max_new_tokens"] if s["max_new_tokens"] is not None else s["max_length"]
    length = begin + 20 if length is None else length
    least = begin + s["min_new_tokens"] if s["min_new_tokens"] else s["min_length"] or 0
    if length <= begin:
        raise ValueError(f"{begin} ids are given, and max_length is {length}: nothing could be generated")
    beams, wanted = s["num_beams"] or 1, s["num_return_sequences"] or 1
    if wanted > beams and (beams > 1 or not s["do_sample"]):
        raise ValueError(
            f"num_return_sequences is {wanted}, more than {beams} beams or greedy search can give"
        )
    each = beams if beams > 1 else wanted
    step = _Steps(model, s, inputs_embeds, attention_mask, past_key_values if cache is None else cache, each)
    rows = ids.repeat_interleave(each, 0)
    draws, choose = sampling(kwargs, config), _beams if beams > 1 else _one_by_one

    def filtered(logits: Tensor, n: int) -> Tensor:
        if n < least and len(ends):
            logits = logits.index_fill(-1, ends, -torch.inf)
        if draws.temperature == 0:
            return logits
        p = probabilities(logits, draws, "transformers")
        return (logits / draws.temperature).masked_fill(p == 0, -torch.inf)

    sequences, scores = choose(step, rows, filtered, ends, s, length)
    if not s["return_dict_in_generate"]:
        return sequences
    reports = {name: tuple(made) for name, made in step.reports.items() if s[f"output_{name}"]}
    return Generated(sequences=sequences, sequences_scores=scores, cache=step.cache, **reports)


class _Steps:
    """Runs the model step by step, and collects what each step reports."""

    def __init__(self, model, s: Mapping, embeds, mask, cache, each: int):
        self.model, self.s, self.cache, self.each = model, s, cache, each
        self.embeds, self.mask = (
            None if t is None else t.to(model.device).repeat_interleave(each, 0) for t in (embeds, mask)
        )
        self.reports = {name: [] for name in ("scores", "logits", "attentions", "hidden_states")}

    def __call__(self, rows: Tensor) -> Tensor:
        """Return logits (B, V) of the next id, float32."""
        use_cache = self.s["use_cache"] is not False
        given, past = {"input_ids": rows}, 0 if self.cache is None else int(self.cache.get_seq_length())
        S = rows.shape[1]
        if self.embeds is not None:
            given = {"inputs_embeds": self.embeds}
            if S and past == 0:
                new = self.model.get_input_embeddings()(rows)
                given = {"inputs_embeds": torch.cat((self.embeds, new), 1)}
            elif S:
                given = {"input_ids": rows}
            S += self.embeds.shape[1]
        if past:
            name, ids = next(iter(given.items()))
            given = {name: ids[:, past - S :]}
        if self.mask is not None:
            mask = F.pad(self.mask, (0, S - self.mask.shape[1]), value=1)
            positions = (mask.long().cumsum(1) - 1).clamp(min=0)
            given |= {"attention_mask": mask, "position_ids": positions[:, past:]}
        reports = {name: self.s[name] for name in ("output_attentions", "output_hidden_states")}
        out = self.model(**given, cache=self.cache, use_cache=use_cache, **reports, return_dict=True)
        self.cache = out.cache
        logits = out.logits[:, -1].float()
        for name, made in (
            ("logits", logits),
            ("attentions", out.attentions),
            ("hidden_states", out.hidden_states),
        ):
            self.reports[name].append(made)
        return logits


def _one_by_one(step: _Steps, rows: Tensor, filtered, ends: Tensor, s: Mapping, length: int) -> tuple:
    """Greedy search or sampling, for each row on its own, until all have ended."""
    going = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    while rows.shape[1] < length and going.any():
        scores = filtered(step(rows), rows.shape[1])
        step.reports["scores"].append(scores)
        new = torch.multinomial(scores.softmax(-1), 1)[:, 0] if s["do_sample"] else scores.argmax(-1)
        if len(ends):
            new = new.where(going, torch.full_like(new, s["pad_token_id"]))
        rows = torch.cat((rows, new[:, None]), 1)
        going &= ~torch.isin(new, ends)
    return rows, None


def _beams(step: _Steps, rows: Tensor, filtered, ends: Tensor, s: Mapping, length: int) -> tuple:
    """Beam search with K beams. Returns the best `num_return_sequences` of each text, and their scores."""
    K, begin, device = s["num_beams"], rows.shape[1], rows.device
    B, early = len(rows) // K, s["early_stopping"] or False
    penalty = 1.0 if s["length_penalty"] is None else s["length_penalty"]
    n = max(2, 1 + len(ends)) * K  # candidates: at least K of them do not end
    fill = (s["pad_token_id"] or int(ends[0])) if len(ends) else -1

    def pick(tensor: Tensor, index: Tensor) -> Tensor:
        index = index.view(*index.shape, *[1] * (tensor.ndim - 2)).expand(-1, -1, *tensor.shape[2:])
        return tensor.gather(1, index)

    running = F.pad(rows, (0, length - begin), value=fill).view(B, K, length)
    done, lengths = running.clone(), torch.zeros(B, K, dtype=torch.long, device=device)
    scores = torch.full((B, K), NEVER, device=device)
    scores[:, 0] = 0  # all beams are equal at first: use one
    best, ended = torch.full((B, K), NEVER, device=device), torch.zeros(B, K, dtype=torch.bool, device=device)
    hopeful = torch.ones(B, 1, dtype=torch.bool, device=device)
    for now in range(begin, length):
        flat = running[:, :, :now].flatten(0, 1)
        log_p = filtered(step(flat).log_softmax(-1), now)
        step.reports["scores"].append(log_p)
        total = (log_p.view(B, K, -1) + scores[:, :, None]).flatten(1)
        if s["do_sample"]:
            index = torch.multinomial(total.softmax(-1), n)
            value, order = total.gather(1, index).sort(descending=True)
            index = index.gather(1, order)
        else:
            value, index = total.topk(n)
        V = log_p.shape[-1]
        beam, new = index // V, index % V
        candidates = pick(running, beam)
        candidates[:, :, now] = new
        stops = torch.isin(new, ends) | (now + 1 == length)

        scores, order = (value + stops * NEVER).topk(K)
        running, beam = pick(candidates, order), pick(beam, order)
        if step.cache is not None:
            step.cache.reorder_cache((beam + K * torch.arange(B, device=device)[:, None]).flatten())

        whole = stops & (torch.arange(n, device=device) < K)
        value = value / (now + 1 - begin) ** penalty
        value = value + NEVER * (
            (ended.all(1, keepdim=True) & (early is True)).float() + (~hopeful).float() + (~whole).float()
        )
        best, order = torch.cat((best, value), 1).topk(K)
        done, ended = pick(torch.cat((done, candidates), 1), order), pick(torch.cat((ended, whole), 1), order)
        lengths = pick(torch.cat((lengths, torch.full_like(index, now + 1 - begin)), 1), order)

        far = length - begin if early == "never" and penalty > 0 else now + 1 - begin
        worst = best.min(1, keepdim=True).values.where(ended, torch.tensor(NEVER, device=device))
        hopeful &= (scores[:, :1] / far**penalty > worst).any(1, keepdim=True)
        if not hopeful.any() or (ended.all() and early is True) or stops.all():
            break
    wanted = s["num_return_sequences"] or 1
    longest = begin + int(lengths[:, :wanted].max())
    return done[:, :wanted, :longest].flatten(0, 1), best[:, :wanted].flatten()

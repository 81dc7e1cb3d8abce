"""The three stages, one row each, as functions over a model, tensors and settings: spec section 4 as code.

Every function takes one row's own `generator`, which is also the thread that ties the stages together: called
in order with the same generator they consume its noise as the named system does. `tick(n)` is told of
progress. `engine` computes the steps: `Engine` plainly, as the oracle, and those of compile.py fast.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from .codec import Codec
from .config import GenerationConfig, SamplingConfig, TokenConfig
from .fine import FineGPT
from .gpt import GPT, KVCache
from .sampling import draw, exponential, probabilities
from .voice import Voice

Tick = Callable[[int], object]


def _silent(n: int) -> None:
    pass


@dataclass(frozen=True)
class Choice:
    """How one step's logits become a token: of which ids, drawn how, and when it is the end.

    It asks nothing of the host, so it can be part of a captured graph.
    """

    start: int  # the eligible ids: start .. stop - 1
    stop: int
    sampling: SamplingConfig
    rules: str
    width: int  # variates of noise a draw: Suno's code draws those it needs, transformers a vocabulary (D33)
    ends: bool = False  # whether the last eligible id is the end
    min_eos_p: float | None = None

    @property
    def vocab(self) -> slice:
        return slice(self.start, self.stop)

    def noise(self, n: int, generator: torch.Generator) -> Tensor | None:
        """Noise of n draws, (n, width); None where the likeliest is taken."""
        if self.sampling.temperature == 0:
            return None
        if generator.device.type == "cpu":  # one draw of n rows is what n draws are
            return exponential((n, self.width), generator)
        return torch.cat([exponential((1, self.width), generator) for _ in range(n)])

    def __call__(self, logits: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits of the eligible ids (B, V) and noise (B, width) -> ids, int64 (B,), and which rows end, bool
        (B,).
        """
        p = probabilities(logits, self.sampling, self.rules)
        if noise is not None and self.width > self.stop - self.start:
            noise = noise[:, self.vocab]
        drawn = draw(p, noise)  # counted from `start`
        ended = torch.full_like(drawn, False, dtype=torch.bool)
        if self.ends:
            ended = drawn == self.stop - self.start - 1
            if self.min_eos_p is not None:  # of what is drawn, to Suno; of the raw model, to transformers
                likely = (
                    p[:, -1] >= self.min_eos_p
                    if self.rules == "suno"
                    else logits.float().softmax(-1)[:, -1] > self.min_eos_p
                )
                ended = ended | likely
        return self.start + drawn, ended


class Engine:
    """The plain way to compute: one call of the model a step. Subclasses do the same faster."""

    chunk = 1  # steps between two looks at whether a row has ended

    def cache(self, model: GPT, length: int) -> KVCache:
        """An empty cache for one row of up to `length` positions."""
        like = model.wpe(torch.zeros(1, dtype=torch.long, device=model.wpe.weight.device))  # as is computed
        return KVCache(model.config, 1, length, like.device, like.dtype)

    def step(self, model: GPT, ids: Tensor, cache: KVCache, vocab: slice) -> Tensor:
        """Feed the newest ids (B, 1): logits of the next (B, V)."""
        return model(ids, cache=cache, last=True, vocab=vocab)[0][:, -1]

    def decode(
        self, model: GPT, token: Tensor, cache: KVCache, noise: Tensor | None, choices: Sequence[Choice]
    ) -> tuple[Tensor, Tensor]:
        """One step a choice from `token` (1,) on, with noise (n, width): ids and ends, both (n,)."""
        drawn, ended = [], []
        for i, choice in enumerate(choices):
            logits = self.step(model, token[:, None], cache, choice.vocab)
            token, end = choice(logits, None if noise is None else noise[i : i + 1])
            drawn.append(token)
            ended.append(end)
        return torch.cat(drawn), torch.cat(ended)

    def fine(self, model: FineGPT, codebook: int, codes: Tensor, rows: slice, vocab: slice) -> Tensor:
        """Logits (B, rows, V) of a codebook, given codes (B, K, T)."""
        return model(codebook, codes, rows=rows, vocab=vocab)[0]

    def decode_audio(self, codec: Codec, codes: Tensor) -> Tensor:
        """Codes (B, K, T) -> audio (B, 320 T)."""
        return codec.decode(codes)


PLAIN = Engine()


@torch.no_grad()
def text_to_semantic(
    model: GPT,
    ids: list[int],
    voice: Voice | None,
    generator: torch.Generator,
    config: GenerationConfig,
    tokens: TokenConfig,
    tick: Tick = _silent,
    engine: Engine = PLAIN,
) -> tuple[Tensor, str]:
    """Tokenizer ids -> semantic tokens, int64 (N,), and why they end: "eos" or "length" (spec 4.1)."""
    device, limit, eos = model.wpe.weight.device, config.semantic_limit(tokens), tokens.semantic_eos
    width = eos + 1 if config.rules == "suno" else model.config.output_vocab_size
    choice = Choice(0, eos + 1, config.semantic, config.rules, width, True, config.min_eos_p)
    prompt = semantic_prompt(ids, voice, tokens).to(device)
    cache = engine.cache(model, tokens.n_prompt + limit - 1)
    # The text and the history share their positions: two prompts, one sum of embeddings.
    text, history, infer = prompt.split((tokens.n_text, tokens.n_semantic_history, 1))
    embeds = torch.cat((model.wte(text) + model.wte(history), model.wte(infer)))[None]  # (1, n_text + 1, D)
    logits, _ = model(embeds=embeds, cache=cache, last=True, vocab=choice.vocab)
    _check_finite(logits, "semantic")

    spoken: list[int] = []
    start = generator.get_state()
    noise = choice.noise(1, generator)
    drawn, ended = choice(logits[:, -1], noise)
    while True:
        for i, (token, end) in enumerate(zip(drawn.tolist(), ended.tolist(), strict=True)):
            if end:
                if i + 1 < len(drawn):  # what was drawn beyond the end goes back
                    generator.set_state(start)
                    choice.noise(i + 1, generator)
                return torch.tensor(spoken, dtype=torch.long, device=device), "eos"
            spoken.append(token)
        tick(len(drawn))
        if len(spoken) == limit:
            return torch.tensor(spoken, dtype=torch.long, device=device), "length"
        n, start = min(engine.chunk, limit - len(spoken)), generator.get_state()
        noise = choice.noise(n, generator)
        drawn, ended = engine.decode(model, drawn[-1:], cache, noise, [choice] * n)


def semantic_prompt(ids: list[int], voice: Voice | None, tokens: TokenConfig) -> Tensor:
    """The 513 ids of the semantic prompt: text, history, the id that asks for an answer (spec 4.1)."""
    assert len(ids) <= tokens.n_text
    text = [i + tokens.text_offset for i in ids] + [tokens.text_pad] * (tokens.n_text - len(ids))
    history = [] if voice is None else voice.semantic[-tokens.n_semantic_history :].tolist()
    history += [tokens.semantic_eos] * (tokens.n_semantic_history - len(history))
    return torch.tensor([*text, *history, tokens.semantic_infer])


@torch.no_grad()
def semantic_to_coarse(
    model: GPT,
    semantic: Tensor,
    voice: Voice | None,
    generator: torch.Generator,
    config: GenerationConfig,
    tokens: TokenConfig,
    tick: Tick = _silent,
    engine: Engine = PLAIN,
) -> Tensor:
    """Semantic tokens (N,) -> codes of two codebooks, int64 (2, T), T = N * 75 / 49.9 (spec 4.2)."""
    ids = coarse_ids(model, semantic, voice, generator, config, tokens, tick, engine)
    codes = (ids - tokens.semantic_vocab_size) % tokens.codebook_size
    return rearrange(codes, "(T K) -> K T", K=tokens.n_coarse)


@torch.no_grad()
def coarse_ids(
    model: GPT,
    semantic: Tensor,
    voice: Voice | None,
    generator: torch.Generator,
    config: GenerationConfig,
    tokens: TokenConfig,
    tick: Tick = _silent,
    engine: Engine = PLAIN,
    carry: bool = True,
) -> Tensor:
    """The coarse model's own ids, frame by frame, int64 (steps,): codebook k's start at 10000 + 1024 k.

    carry: keep the cache from window to window as long as neither history slides (without a voice, for the
    first 4.4 seconds); False computes every window's prompt anew, as both systems do.
    """
    device, R = model.wpe.weight.device, tokens.coarse_per_semantic
    choices = [_coarse_choice(k, model, config, tokens) for k in range(tokens.n_coarse)]
    semantic_history, coarse_history = (h.to(device) for h in trim_history(voice, config, tokens))
    source = torch.cat((semantic_history, semantic.to(device)))
    base, behind = len(semantic_history), math.floor(config.max_coarse_history / R)
    steps = tokens.coarse_steps(len(semantic))
    ids = torch.cat((coarse_history, coarse_history.new_empty(steps)))
    end = len(coarse_history)  # ids[:end] are known
    infer = torch.tensor([tokens.coarse_infer], device=device)
    capacity = tokens.n_coarse_semantic + 1 + min(len(ids), config.max_coarse_history + tokens.coarse_window)

    seen = None
    for done in range(0, steps, tokens.coarse_window):
        spoken = base + round(done / R)  # the semantic token being spoken; Python's round, ties to even
        view = (
            max(0, spoken - behind),
            max(0, end - config.max_coarse_history),
        )  # where the two histories begin
        if view != seen or not carry:
            window = source[view[0] :][: tokens.n_coarse_semantic]
            padding = window.new_full((tokens.n_coarse_semantic - len(window),), tokens.coarse_pad)
            prompt = torch.cat((window, padding, infer, ids[view[1] : end]))
            cache, seen, step = engine.cache(model, capacity), view, 1
            logits, _ = model(prompt[None], cache=cache, last=True, vocab=choices[0].vocab)
            _check_finite(logits, "coarse")
            ids[end : end + 1], _ = choices[0](logits[:, -1], choices[0].noise(1, generator))
            tick(1)
        else:  # this window's prompt is the last one's, continued: what the cache lacks is the newest token
            step = 0
        n = min(tokens.coarse_window, steps - done)
        while step < n:
            m = min(engine.chunk, n - step)
            now = [choices[i % tokens.n_coarse] for i in range(step, step + m)]
            newest = ids[end + step - 1 : end + step]
            ids[end + step : end + step + m], _ = engine.decode(
                model, newest, cache, now[0].noise(m, generator), now
            )
            step += m
            tick(m)
        end += n
    return ids[len(coarse_history) :]


def trim_history(voice: Voice | None, config: GenerationConfig, tokens: TokenConfig) -> tuple[Tensor, Tensor]:
    """What the coarse model keeps of a voice: semantic (n,) and interleaved coarse ids (m - 2,), spec 4.2.

    Both cover the same time, up to the maximal history, and the last frame is dropped. m can be odd, and then
    the history begins with a token of the second codebook.
    """
    if voice is None:
        return torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
    R, K = tokens.coarse_per_semantic, tokens.n_coarse
    n_semantic, n_frames = len(voice.semantic), voice.coarse.shape[1]
    n = min(
        math.floor(config.max_coarse_history / R), n_semantic - n_semantic % 2, math.floor(K * n_frames / R)
    )
    m = round(n * R)
    offsets = tokens.semantic_vocab_size + tokens.codebook_size * np.arange(K)
    flat = rearrange(voice.coarse + offsets[:, None], "K T -> (T K)")
    semantic, coarse = voice.semantic[n_semantic - n :], flat[max(0, len(flat) - m) :][:-K]
    return torch.from_numpy(semantic.copy()), torch.from_numpy(coarse.copy())


def _coarse_choice(codebook: int, model: GPT, config: GenerationConfig, tokens: TokenConfig) -> Choice:
    """The ids eligible at a step: the codes of its codebook. After the last codebook, transformers' rules
    also let the ids through that lie behind the codes (D17).
    """
    start = tokens.semantic_vocab_size + codebook * tokens.codebook_size
    stop, width = start + tokens.codebook_size, tokens.codebook_size
    if config.rules == "transformers":
        width = model.config.output_vocab_size
        stop = width if codebook == tokens.n_coarse - 1 else stop
    return Choice(start, stop, config.coarse, config.rules, width)


@torch.no_grad()
def coarse_to_fine(
    model: FineGPT,
    coarse: Tensor,
    voice: Voice | None,
    generator: torch.Generator,
    config: GenerationConfig,
    tokens: TokenConfig,
    tick: Tick = _silent,
    engine: Engine = PLAIN,
) -> Tensor:
    """Codes of the first codebooks (k, T), usually two -> codes of all, int64 (8, T) (spec 4.3)."""
    n_given, T = coarse.shape
    W, device = tokens.fine_window, model.wpe.weight.device
    if T == 0:
        return torch.empty(tokens.n_codebooks, 0, dtype=torch.long, device=device)
    history = torch.empty(tokens.n_codebooks, 0, dtype=torch.long)
    if voice is not None:
        history = torch.from_numpy(voice.fine[:, -tokens.max_fine_history :].copy())
    seen = history.shape[1]

    codes = torch.full((tokens.n_codebooks, max(seen + T, W)), tokens.fine_pad, device=device)
    codes[:, :seen] = history
    codes[:n_given, seen : seen + T] = coarse
    for start, fill in fine_windows(T, seen, tokens):
        window = codes[:, start : start + W]  # a view: what is chosen for a codebook is input to the next
        rows = slice(fill - start, W)
        for k in range(n_given, tokens.n_codebooks):
            if k == tokens.n_codebooks - 1:  # no codebook comes that would read what is drawn behind the end
                rows = slice(rows.start, min(W, seen + T - start))
            logits = engine.fine(model, k, window[None], rows, slice(0, tokens.codebook_size))
            if k == n_given:
                _check_finite(logits, "fine")
            p = probabilities(logits[0], config.fine)  # by either system's rules a plain softmax
            noise = None
            if config.fine.temperature != 0:  # for every row down to the window's end, read or not
                noise = exponential((start + W - fill, tokens.codebook_size), generator)[: len(p)]
            window[k, rows] = draw(p, noise)
            tick(1)
    return codes[:, seen : seen + T].contiguous()


def fine_windows(n_frames: int, n_history: int, tokens: TokenConfig) -> list[tuple[int, int]]:
    """(first frame seen, first frame filled) of each window, history included (table in spec 4.3)."""
    W, hop = tokens.fine_window, tokens.fine_hop
    total = max(n_history + n_frames, W)
    n = max(0, math.ceil((n_frames - (W - n_history)) / hop)) + 1
    return [(min(i * hop, total - W), min(n_history + i * hop, total - hop)) for i in range(n)]


def _check_finite(logits: Tensor, stage: str) -> None:
    """Looked at once a prompt: damaged weights, or float16 on a model that needs more range, show here."""
    if not bool(logits.isfinite().all()):
        raise ValueError(
            f"the {stage} model computed values that are not finite: its weights are damaged, "
            f"or {logits.dtype} has too little range for them (try float32 or bfloat16)"
        )

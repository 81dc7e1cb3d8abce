"""Sampling: logits and noise to tokens. All noise of generation is drawn here.

A token is argmax(p / e), where e is exponential noise from its row's own generator. `torch.multinomial(p, 1)`
samples the same way (spec 8.2), so a seed gives the same tokens as systems that use it.
Axes: B rows, V eligible ids.
"""

import hashlib
import numbers
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import GenerationConfig, SamplingConfig, TokenConfig

MAX_SEED = 2**32 - 1


def check_seed(seed: int) -> int:
    """ValueError unless 0 <= seed < 2**32: PyTorch's generator on the CPU ignores higher bits."""
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed!r}; it must be a whole number from 0 to {MAX_SEED}")
    return int(seed)


def new_seed() -> int:
    """A seed from the operating system's entropy; PyTorch's generators are not used."""
    return secrets.randbelow(MAX_SEED + 1)


def derived_seed(seed: int, *names: str | int) -> int:
    """A seed that depends on `seed` and `names` alone: the same on every machine and in every version."""
    given = "\0".join(map(str, (check_seed(seed), *names)))
    return int.from_bytes(hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest()[:4], "big")


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A row's own generator. ValueError for a bad seed."""
    return torch.Generator(device).manual_seed(check_seed(seed))


def exponential(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Exponential noise, float32, row-major: on a CPU one large call equals several smaller ones."""
    return torch.empty(shape, device=generator.device).exponential_(generator=generator)


class NoiseSource:
    """A row's noise in one stage, drawn in chunks.

    On a CPU, n draws at once equal n single draws, and `rewind` undoes the unused ones. On other devices they
    differ: there each stage has its own generator, seeded from the row's, and draws blocks of a fixed size.
    Either way a row's noise does not depend on the chunk size, which depends on its neighbours.
    """

    block = 32

    def __init__(self, generator: torch.Generator):
        self.on_cpu, self.generator = generator.device.type == "cpu", generator
        self.ahead: Tensor | None = None  # drawn and not used yet, (n, width)
        self.state: Tensor | None = None  # of the generator, before the last chunk
        if not self.on_cpu:
            seed = torch.randint(2**62, (), generator=generator, device=generator.device)
            self.generator = torch.Generator(generator.device).manual_seed(int(seed))

    def take(self, n: int, width: int) -> Tensor:
        """Noise of n draws, (n, width)."""
        if self.on_cpu:
            self.state = self.generator.get_state() if n > 1 else None
            return exponential((n, width), self.generator)
        while self.ahead is None or len(self.ahead) < n:
            block = exponential((self.block, width), self.generator)
            self.ahead = block if self.ahead is None else torch.cat((self.ahead, block))
        taken, self.ahead = self.ahead[:n], self.ahead[n:]
        return taken

    def rewind(self, used: int, width: int) -> None:
        """Rewind the generator to just after the first `used` draws of the last chunk."""
        if self.state is not None:
            self.generator.set_state(self.state)
            exponential((used, width), self.generator)


@dataclass(frozen=True)
class TokenSampler:
    """Turns logits into a token: the eligible ids, how one is drawn, and when the sequence ends.

    It never waits for the device, so it can be part of a CUDA graph.
    """

    start: int  # the eligible ids are start .. stop - 1
    stop: int
    sampling: SamplingConfig
    rules: str
    noise_width: int  # variates a draw: Suno: one per eligible id; transformers: one per id (D33)
    ends: bool = False  # whether the last eligible id is the end of the sequence
    min_eos_p: float | None = None

    @property
    def vocab(self) -> slice:
        """The eligible ids, as a slice of the head."""
        return slice(self.start, self.stop)

    def noise(self, n: int, generator: torch.Generator) -> Tensor | None:
        """Noise for n draws, (n, noise_width); None if the sampler is greedy."""
        greedy = self.sampling.temperature == 0
        return None if greedy else exponential((n, self.noise_width), generator)

    def __call__(
        self, logits: Tensor, noise: Tensor | None, past: Sequence[list[int]] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the eligible ids (B, V) and noise (B, noise_width) -> ids, int64 (B,); whether each ends
        its row, bool (B,); and the probability of the last eligible id, float32 (B,).

        past: each row's earlier ids, for `sampling.filter`. The probability is that of the filtered
        distribution by Suno's rules, else that of the model's own softmax, also in greedy decoding; NaN if
        the logits are not finite. `min_eos_p` is compared with it, but in greedy decoding by Suno's rules
        with 1 if the last id is the most probable one, else 0.
        """
        if self.sampling.filter is not None:
            seen = [
                torch.tensor([i - self.start for i in ids if self.start <= i < self.stop]) for ids in past
            ]
            logits = self._filtered(logits.float(), [ids.long().to(logits.device) for ids in seen])
        p = probabilities(logits, self.sampling, self.rules)
        if noise is not None and self.noise_width > self.stop - self.start:
            noise = noise[:, self.vocab]
        index = draw(p, noise)
        own = self.rules != "suno" or self.sampling.temperature == 0
        last_p = logits.float().softmax(-1)[:, -1] if own else p[:, -1]
        ended = torch.zeros_like(index, dtype=torch.bool)
        if self.ends:
            ended = index == self.stop - self.start - 1
            if self.min_eos_p is not None and self.rules == "suno":
                ended = ended | (p[:, -1] >= self.min_eos_p)
            elif self.min_eos_p is not None:
                ended = ended | (last_p > self.min_eos_p)
        return self.start + index, ended, last_p

    def _filtered(self, logits: Tensor, past: list[Tensor]) -> Tensor:
        """The logits as the user's filter returns them. ValueError for what no id can be drawn from."""
        filtered = self.sampling.filter(logits, past)
        if not isinstance(filtered, Tensor) or filtered.shape != logits.shape:
            shape = tuple(filtered.shape) if isinstance(filtered, Tensor) else type(filtered).__name__
            raise ValueError(f"the filter must return logits of shape {tuple(logits.shape)}, not {shape}")
        if bool((filtered == -torch.inf).all(-1).any()):
            raise ValueError("the filter left a row no id: at least one logit must stay above -inf")
        return filtered


def semantic_sampler(vocab_size: int, config: GenerationConfig, tokens: TokenConfig) -> TokenSampler:
    """Any semantic token or the end (spec 4.1). vocab_size: of the model's output."""
    stop = tokens.semantic_eos + 1
    width = stop if config.rules == "suno" else vocab_size
    return TokenSampler(0, stop, config.semantic, config.rules, width, True, config.min_eos_p)


def coarse_samplers(vocab_size: int, config: GenerationConfig, tokens: TokenConfig) -> list[TokenSampler]:
    """One sampler per codebook; it allows only that codebook's codes (spec 4.2).

    With transformers' rules, the last sampler also allows the ids after the codes (D17).
    """
    samplers = []
    for k in range(tokens.n_coarse):
        start = tokens.semantic_vocab_size + k * tokens.codebook_size
        stop, width = start + tokens.codebook_size, tokens.codebook_size
        if config.rules == "transformers":
            stop, width = vocab_size if k == tokens.n_coarse - 1 else stop, vocab_size
        samplers.append(TokenSampler(start, stop, config.coarse, config.rules, width))
    return samplers


def probabilities(logits: Tensor, sampling: SamplingConfig, rules: str = "suno") -> Tensor:
    """The distribution (..., V), float32, that a token is drawn from; one-hot at temperature 0.

    The two systems filter in different orders and cut the nucleus differently (spec 4.1, D9, D10, D32).
    """
    logits = logits.float()
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    if rules == "suno":
        logits = _top_p_suno(logits, sampling.top_p)
        logits = _top_k(logits, sampling.top_k)
        return (logits / sampling.temperature).softmax(-1)
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    logits = _top_k(logits, sampling.top_k)
    logits = _top_p_transformers(logits, sampling.top_p)
    return logits.log_softmax(-1).softmax(-1)


def draw(p: Tensor, noise: Tensor | None) -> Tensor:
    """Indices (...) into probabilities (..., V), with noise of that shape; None takes the argmax."""
    return p.argmax(-1) if noise is None else (p / noise).argmax(-1)


def _top_k(logits: Tensor, k: int | None) -> Tensor:
    """Keep the k largest logits, and those equal to the k-th."""
    if k is None:
        return logits
    threshold = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < threshold, -torch.inf)


def _top_p_suno(logits: Tensor, p: float | None) -> Tensor:
    """Keep the most probable ids until their sum, before temperature, exceeds p, and the one that crosses."""
    if p is None:
        return logits
    ordered, order = logits.sort(descending=True)
    beyond = _cumulative(ordered) > p
    beyond = beyond.roll(1, -1)
    beyond[..., 0] = False
    return logits.masked_fill(torch.empty_like(beyond).scatter_(-1, order, beyond), -torch.inf)


def _cumulative(ordered: Tensor) -> Tensor:
    """Running sums of the softmax; on the CPU added by numpy in float32, as Suno does, because rounding
    decides which ids are in the nucleus.
    """
    if ordered.device.type != "cpu":
        return ordered.softmax(-1).cumsum(-1)
    e = np.exp(ordered.numpy() - ordered.numpy().max(-1, keepdims=True))
    return torch.from_numpy(np.cumsum(e / e.sum(-1, keepdims=True), -1))


def _top_p_transformers(logits: Tensor, p: float | None) -> Tensor:
    """Drop the least probable ids while their sum is at most 1 - p; the most probable always stays."""
    if p is None or p >= 1.0:
        return logits
    ordered, order = logits.sort(descending=False)
    beyond = ordered.softmax(-1).cumsum(-1) <= 1 - p
    beyond[..., -1] = False
    return logits.masked_fill(torch.empty_like(beyond).scatter_(-1, order, beyond), -torch.inf)

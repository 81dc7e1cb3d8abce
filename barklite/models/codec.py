"""EnCodec at 24 kHz (Défossez et al., 2022; spec 6), with weight norm folded at conversion.

A frame is 320 samples. Everything is causal except the reflection at the start: for n >= 7, the audio of the
first n frames does not depend on later frames. Axes: B batch, K codebooks, T frames or
samples, C channels.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import CodecConfig


class Conv(nn.Conv1d):
    """A convolution padded on the left, and on the right until the last window is full (spec 6.2)."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel,), (stride,) = self.kernel_size, self.stride
        return super().forward(_reflect(x, kernel - stride, -x.shape[-1] % stride))


class ConvTranspose(nn.ConvTranspose1d):
    """The inverse of a strided `Conv`: T -> T * stride; output beyond that is cut."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., : x.shape[-1] * self.stride[0]]


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.block = nn.Sequential(nn.ELU(), Conv(channels, half, 3), nn.ELU(), Conv(half, channels, 1))
        self.shortcut = Conv(channels, channels, 1)  # learned, not the identity

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


class LSTM(nn.LSTM):
    """Two layers with a skip connection, on (B, C, T)."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, num_layers=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.go_on(x, None)[0]

    def go_on(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Continue from the state after an earlier part; return the output and the new state."""
        x = rearrange(x, "B C T -> T B C")
        y, state = super().forward(x, state)
        return rearrange(y + x, "T B C -> B C T"), state


def decoder(config: CodecConfig) -> nn.Sequential:
    """(B, dimension, T) -> (B, 1, hop * T). Layers are numbered as published (spec 6.1)."""
    channels = config.n_filters * 2 ** len(config.ratios)
    layers = [Conv(config.dimension, channels, 7), LSTM(channels)]
    for ratio in config.ratios:
        half = channels // 2
        layers += [nn.ELU(), ConvTranspose(channels, half, 2 * ratio, ratio), Residual(half)]
        channels = half
    return nn.Sequential(*layers, nn.ELU(), Conv(channels, 1, 7))


def encoder(config: CodecConfig) -> nn.Sequential:
    """(B, 1, samples) -> (B, dimension, T): the decoder's mirror image."""
    channels = config.n_filters
    layers = [Conv(1, channels, 7)]
    for ratio in reversed(config.ratios):
        layers += [Residual(channels), nn.ELU(), Conv(channels, channels * 2, 2 * ratio, ratio)]
        channels *= 2
    return nn.Sequential(*layers, LSTM(channels), nn.ELU(), Conv(channels, config.dimension, 7))


class Codec(nn.Module):
    """Codes to audio; with the checkpoint's encoder also audio to codes."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.codebooks = nn.Parameter(torch.empty(config.n_codebooks, config.codebook_size, config.dimension))
        self.decoder = decoder(config)
        self.encoder = encoder(config) if config.encoder else None

    def forward(self, codes: Tensor) -> Tensor:
        """The same as `decode`."""
        return self.decode(codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, K, T) of the first K codebooks -> audio (B, 320 T), nominally in [-1, 1]."""
        if codes.shape[-1] == 0:
            return self.codebooks.new_zeros(codes.shape[0], 0)
        return self.decoder(self.embed(codes)).squeeze(1)

    def embed(self, codes: Tensor) -> Tensor:
        """The sum of the codes' vectors, in the order of the codebooks: (B, K, T) -> (B, dimension, T)."""
        z = F.embedding(codes[:, 0], self.codebooks[0])
        for k in range(1, codes.shape[1]):
            z = z + F.embedding(codes[:, k], self.codebooks[k])
        return rearrange(z, "B T C -> B C T")

    def encode(self, audio: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Audio (B, samples) at 24 kHz -> codes (B, n_codebooks, ceil(samples / 320)), by residual
        quantisation.

        None takes 8 codebooks, which are 6 kbps, or all if there are fewer. ValueError without the encoder or
        with too many codebooks.
        """
        if self.encoder is None:
            raise ValueError("the codec has no encoder: load it with from_pretrained(..., encoder=True)")
        n_codebooks = min(8, self.config.n_codebooks) if n_codebooks is None else n_codebooks
        if not 1 <= n_codebooks <= self.config.n_codebooks:
            raise ValueError(f"n_codebooks is {n_codebooks}; this codec has 1 to {self.config.n_codebooks}")
        if audio.shape[-1] == 0:
            return torch.zeros(audio.shape[0], n_codebooks, 0, dtype=torch.long, device=audio.device)
        residual = rearrange(self.encoder(audio.unsqueeze(1)), "B C T -> B T C")
        codes = []
        for book in self.codebooks[:n_codebooks]:  # (V, C)
            distance = residual.pow(2).sum(-1, keepdim=True) - 2 * residual @ book.T + book.pow(2).sum(-1)
            codes.append(distance.argmin(-1))
            residual = residual - F.embedding(codes[-1], book)
        return torch.stack(codes, dim=1)


def _reflect(x: Tensor, left: int, right: int) -> Tensor:
    """Reflect-pad the last axis; a signal too short to reflect is first extended with zeros."""
    lack = max(left, right) - x.shape[-1] + 1
    if lack <= 0:
        return F.pad(x, (left, right), mode="reflect") if left or right else x
    return F.pad(F.pad(x, (0, lack)), (left, right), mode="reflect")[..., :-lack]

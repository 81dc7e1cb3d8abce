"""Mel spectra: what the codec's latents are, and what its decoder is trained to match.

Axes: B batch, T frames, M mel bands.
"""

from functools import cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..config import CodecConfig

FLOOR = 0.05  # of a magnitude, before its logarithm: what is softer counts as silence
PARTS = 2  # spectra a frame: two, half a frame apart, keep a burst's place
RESOLUTIONS = ((256, 32), (512, 48), (1024, 80), (2048, 80))  # (window, bands) of the loss


@cache
def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Triangles on the mel scale (O'Shaughnessy's), up to half the sample rate: (M, n_fft / 2 + 1)."""

    def mel(hertz: Tensor) -> Tensor:
        return 2595 * torch.log10(1 + hertz / 700)

    top = torch.tensor(sample_rate / 2)
    edges = 700 * (10 ** (torch.linspace(0, mel(top), n_mels + 2) / 2595) - 1)
    bins = torch.linspace(0, top, n_fft // 2 + 1)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return torch.minimum((bins - left) / (middle - left), (right - bins) / (right - middle)).clamp(min=0)


def mel(audio: Tensor, sample_rate: int, window: int, hop: int, n_mels: int, n_fft: int) -> Tensor:
    """Audio (B, samples), already padded -> magnitudes (B, M, T)."""
    shape = torch.hann_window(window, device=audio.device)
    with torch.autocast(audio.device.type, enabled=False):  # 16 bits would blur what the logarithm spreads
        spectrum = torch.stft(audio.float(), n_fft, hop, window, shape, center=False, return_complex=True)
        return mel_filters(sample_rate, n_fft, n_mels).to(audio.device) @ spectrum.abs()


def latents(audio: Tensor, config: CodecConfig) -> Tensor:
    """Audio (B, hop * T) -> the codec's latents (B, dimension, T): `PARTS` log mel spectra of each frame.

    Windows are as long as a frame, so that a pitch with whole periods in a frame gives a steady spectrum
    whatever its phase.
    """
    hop, n_fft = config.hop // PARTS, 2 * config.hop
    reach = (n_fft - hop) // 2  # torch centres a window in its n_fft samples
    padded = F.pad(audio, (reach, n_fft - hop - reach))
    spectrum = mel(padded, config.sample_rate, config.hop, hop, config.dimension // PARTS, n_fft)
    return rearrange(torch.log(spectrum + FLOOR), "B M (T part) -> B (part M) T", part=PARTS)


def spectral_loss(audio: Tensor, target: Tensor, sample_rate: int) -> Tensor:
    """Distance of mel spectra at four resolutions, logarithmic (every band counts) and linear (the loud
    ones), after Défossez et al., 2022, section 3.4. Both (B, samples).
    """
    loss = audio.new_zeros(())
    for window, n_mels in RESOLUTIONS:
        both = F.pad(torch.cat((audio, target)), (window // 2, window // 2), mode="reflect")
        ours, wanted = mel(both, sample_rate, window, window // 4, n_mels, window).chunk(2)
        loss = loss + F.l1_loss((ours + FLOOR / 5).log(), (wanted + FLOOR / 5).log())
        loss = loss + 0.3 * F.l1_loss(ours, wanted) / (wanted.mean() + 1e-3)
    return loss / len(RESOLUTIONS)

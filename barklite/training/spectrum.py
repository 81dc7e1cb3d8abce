"""Mel spectra and pitch: the codec's latents, and the spectral loss of its decoder.

Axes: B batch, T frames, M mel bands.
"""

from functools import cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..config import CodecConfig
from .pitch import pitch

FLOOR = 0.05  # added to magnitudes before the logarithm: softer ones count as silence
PARTS = 2  # spectra per frame, half a frame apart, to locate bursts
N_PITCH = 3  # dimensions of the pitch
HEIGHT, MIDDLE = 3.0, 130.0  # height of an octave on the cylinder of radius 1; pitch in Hz at height 0
RESOLUTIONS = ((256, 32), (512, 48), (1024, 80), (2048, 80))  # (window, mel bands) of the loss


@cache
def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Return triangular filters (M, n_fft / 2 + 1) on O'Shaughnessy's mel scale, up to sample_rate / 2."""

    def mel(hertz: Tensor) -> Tensor:
        return 2595 * torch.log10(1 + hertz / 700)

    top = torch.tensor(sample_rate / 2)
    edges = 700 * (10 ** (torch.linspace(0, mel(top), n_mels + 2) / 2595) - 1)
    bins = torch.linspace(0, top, n_fft // 2 + 1)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return torch.minimum((bins - left) / (middle - left), (right - bins) / (right - middle)).clamp(min=0)


def mel(audio: Tensor, sample_rate: int, window: int, hop: int, n_mels: int, n_fft: int) -> Tensor:
    """Audio (B, samples), already padded -> mel magnitudes (B, M, T)."""
    shape = torch.hann_window(window, device=audio.device)
    with torch.autocast(audio.device.type, enabled=False):  # 16 bits are not precise enough for the logarithm
        spectrum = torch.stft(audio.float(), n_fft, hop, window, shape, center=False, return_complex=True)
        return mel_filters(sample_rate, n_fft, n_mels).to(audio.device) @ spectrum.abs()


def latents(audio: Tensor, config: CodecConfig) -> Tensor:
    """Audio (B, hop * T) -> the codec's latents (B, dimension, T).

    A frame has `PARTS` log mel spectra and `N_PITCH` numbers for the pitch: a point on a cylinder, with the
    pitch as height and the phase of the fundamental as angle, or the origin if it is unvoiced. The phase
    tells the decoder where pulses are.
    """
    hop, n_fft, window = config.hop // PARTS, 2 * config.hop, config.hop * 5 // 4
    reach = (n_fft - hop) // 2  # torch centres a window in its n_fft samples
    padded = F.pad(audio, (reach, n_fft - hop - reach))
    n_mels = (config.dimension - N_PITCH) // PARTS
    spectrum = mel(padded, config.sample_rate, window, hop, n_mels, n_fft)
    envelope = rearrange(torch.log(spectrum + FLOOR), "B M (T part) -> B (part M) T", part=PARTS)
    f0, phase = pitch(audio, config.sample_rate, config.hop)
    voiced = f0 > 0
    height = HEIGHT * torch.log2(f0.clamp(min=1) / MIDDLE)
    around = torch.stack((height, torch.cos(phase), torch.sin(phase)), 1) * voiced[:, None]
    return torch.cat((envelope, around), 1)


def spectral_loss(audio: Tensor, target: Tensor, sample_rate: int) -> Tensor:
    """Return the distance of mel spectra at four resolutions, logarithmic (weights all bands) plus linear
    (weights loud ones), after Défossez et al., 2022, section 3.4. Both inputs are (B, samples).
    """
    loss = audio.new_zeros(())
    for window, n_mels in RESOLUTIONS:
        both = F.pad(torch.cat((audio, target)), (window // 2, window // 2), mode="reflect")
        ours, wanted = mel(both, sample_rate, window, window // 4, n_mels, window).chunk(2)
        loss = loss + F.l1_loss((ours + FLOOR / 5).log(), (wanted + FLOOR / 5).log())
        loss = loss + 0.3 * F.l1_loss(ours, wanted) / (wanted.mean() + 1e-3)
    return loss / len(RESOLUTIONS)

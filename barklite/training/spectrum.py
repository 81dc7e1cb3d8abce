"""Mel spectra and pitch: what the codec's latents are, and what its decoder is trained to match.

Axes: B batch, T frames, M mel bands.
"""

from functools import cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..config import CodecConfig
from .pitch import pitch

FLOOR = 0.05  # of a magnitude, before its logarithm: what is softer counts as silence
PARTS = 2  # spectra a frame: two, half a frame apart, keep a burst's place
N_PITCH = 3  # numbers of a frame's pitch
HEIGHT, MIDDLE = 3.0, 130.0  # of an octave on the cylinder, whose radius is 1; Hz at height 0
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
    """Audio (B, hop * T) -> the codec's latents (B, dimension, T): `PARTS` log mel spectra of each frame,
    then its pitch, `N_PITCH` numbers: a point on a cylinder, whose height is the pitch and whose angle is the
    phase of the fundamental; on its axis where there is no voice.

    With the phase the codes say where pulses lie, so that a decoder need not guess it.
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

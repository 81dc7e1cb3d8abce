"""Pitch tracking: fundamental frequency and its phase for each codec frame.

Axes: B batch, T frames, N samples of a window, L lags.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST, HIGHEST = 60.0, 400.0  # Hz
RATE = 4000  # Hz, about: sample rate of the autocorrelation
WINDOW = 0.025  # seconds of the autocorrelation window
VOICED = 0.6  # minimal correlation of a voiced frame
SILENT = 0.003  # RMS below 1 kHz, under which a frame is unvoiced
NEARLY = 0.9  # the period is the first peak with this share of the best correlation, to avoid multiples of it
PERIODS = 2.5  # length of the phase window


def pitch(audio: Tensor, sample_rate: int, hop: int) -> tuple[Tensor, Tensor]:
    """Audio (B, hop * T) -> f0 in Hz, 0 where unvoiced, and the phase of the fundamental in the middle of
    each frame, in radians: both (B, T).

    The period is the lag with the highest normalised autocorrelation (after Talkin, 1995), refined by the
    change of phase over time.
    """
    with torch.autocast(audio.device.type, enabled=False):  # 16 bits are not precise enough
        return _pitch(audio.float(), sample_rate, hop)


def _pitch(audio: Tensor, sample_rate: int, hop: int) -> tuple[Tensor, Tensor]:
    T = audio.shape[-1] // hop
    middles = (torch.arange(T, device=audio.device) + 0.5) * hop
    f0 = _by_correlation(audio, sample_rate, middles)
    step = hop / 4  # samples
    before, after = (_phase(audio, sample_rate, middles + sign * step, f0) for sign in (-1, 1))
    turn = (after - before + math.pi).remainder(2 * math.pi) - math.pi
    expected = 2 * math.pi * f0 * 2 * step / sample_rate
    off = (turn - expected + math.pi).remainder(2 * math.pi) - math.pi
    exact = f0 + (off * sample_rate / (4 * math.pi * step)).clamp(-0.1 * f0, 0.1 * f0)
    return exact, _phase(audio, sample_rate, middles, exact) * (f0 > 0)


def _by_correlation(audio: Tensor, sample_rate: int, middles: Tensor) -> Tensor:
    """Estimate f0 (B, T) in Hz at each of `middles` (samples); 0 where unvoiced."""
    q = max(1, round(sample_rate / RATE))
    taps = torch.arange(-8 * q, 8 * q + 1, device=audio.device)
    low = torch.sinc(taps / (2 * q)) * torch.hann_window(len(taps) + 2, False, device=audio.device)[1:-1]
    soft = F.conv1d(audio[:, None], (low / low.sum())[None, None], stride=q, padding=8 * q)[:, 0]
    rate = sample_rate / q
    N, first, last = round(WINDOW * rate), int(rate / HIGHEST) - 1, math.ceil(rate / LOWEST) + 1
    reach = N + last
    at = (middles / q).round().long()[:, None] + torch.arange(reach, device=audio.device)
    frames = F.pad(soft, (reach // 2, reach))[:, at]  # (B, T, N + last)
    frames = frames - frames.mean(-1, keepdim=True)
    here, later = frames[..., :N], frames[..., first:].unfold(-1, N, 1)  # (B, T, L, N)
    energy = (here.square().sum(-1, keepdim=True) * later.square().sum(-1)).sqrt()
    r = (here[..., None, :] * later).sum(-1) / energy.clamp(min=1e-9)  # (B, T, L)
    left, middle, right = r[..., :-2], r[..., 1:-1], r[..., 2:]
    best = middle.amax(-1, keepdim=True)
    peak = (middle >= left) & (middle >= right) & (middle >= NEARLY * best)
    k = peak.float().argmax(-1, keepdim=True)  # the first of them
    left, middle, right = (part.gather(-1, k) for part in (left, middle, right))
    curve = (left - 2 * middle + right).clamp(max=-1e-6)
    lag = first + 1 + k + 0.5 * (left - right) / curve
    loud = here.square().mean(-1, keepdim=True).sqrt() > SILENT
    return torch.where(peak.any(-1, True) & (middle > VOICED) & loud, rate / lag, 0.0)[..., 0]


def _phase(audio: Tensor, sample_rate: int, middles: Tensor, f0: Tensor) -> Tensor:
    """Return the phase of the component at f0 (B, T), in a window around each of `middles` (samples)."""
    reach = math.ceil(PERIODS / 2 * sample_rate / LOWEST)
    whole = middles.round()
    n = torch.arange(-reach, reach + 1, device=audio.device)
    frames = F.pad(audio, (reach, reach + 1))[:, (whole.long() + reach)[:, None] + n]  # (B, T, N)
    there = (whole - middles)[:, None] + n  # samples from the exact middle
    turns = there * f0[..., None] / sample_rate
    window = 0.5 + 0.5 * torch.cos(2 * math.pi * (turns / PERIODS).clamp(-0.5, 0.5))
    real = (frames * window * torch.cos(2 * math.pi * turns)).sum(-1)
    imaginary = -(frames * window * torch.sin(2 * math.pi * turns)).sum(-1)
    return torch.atan2(imaginary, real)

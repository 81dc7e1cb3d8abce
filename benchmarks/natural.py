"""Measures the distance of a reading to its source and its naturalness, by numbers that were not training
losses.

Two systems speak a sentence with different durations, so frames are first paired by dynamic time warping of
their mel cepstra; then pitch and spectrum are compared for each pair. The opinion score needs no source:
Distill-MOS (Stahl and Gamper, 2025; its package has the weights) estimates listeners' mean opinion score.
"""

import math
import sys
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from scipy.fft import dct
from scipy.signal import resample_poly

from barklite.training.pitch import pitch
from barklite.training.spectrum import mel

RATE = 16_000  # of all measurements
HOP, WINDOW, BANDS, CEPSTRA = 160, 400, 40, 13  # 10 ms; the cepstra 1 to 13
LONG = 1280  # 80 ms: with a Hann window, a line is 25 Hz wide on either side
HUM_FROM, HUM_TO = 300, 7000  # Hz
QUIET = 0.003  # RMS of silence, where speech has 0.1


@dataclass(frozen=True)
class Features:
    """Features of a reading, every 10 ms: cepstra (T, CEPSTRA), f0 (T,) in Hz, 0 if unvoiced; and noise
    (LONG / 2 + 1,), the power spectrum of its unvoiced windows.
    """

    cepstra: np.ndarray
    f0: np.ndarray
    noise: np.ndarray


def at_rate(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return float32 audio at `RATE`."""
    common = math.gcd(RATE, sample_rate)
    return resample_poly(audio.astype(np.float64), RATE // common, sample_rate // common).astype(np.float32)


def features(audio: np.ndarray, sample_rate: int) -> Features:
    """Compute the features of audio (samples,), independent of its loudness."""
    sound = at_rate(audio, sample_rate)
    sound = sound * (0.1 / max(float(np.sqrt(np.mean(sound**2))) if len(sound) else 0.0, 1e-6))
    T = len(sound) // HOP
    if not T:
        return Features(np.zeros((0, CEPSTRA)), np.zeros(0), np.zeros(LONG // 2 + 1))
    whole = torch.from_numpy(sound[: T * HOP])[None]
    reach = (WINDOW - HOP) // 2
    padded = torch.nn.functional.pad(whole, (reach, WINDOW - HOP - reach))
    spectrum = torch.log(mel(padded, RATE, WINDOW, HOP, BANDS, WINDOW)[0].T + 1e-2).numpy()
    f0, _ = pitch(whole, RATE, HOP)
    return Features(
        dct(spectrum, norm="ortho")[:, 1 : CEPSTRA + 1], f0[0].numpy(), unvoiced(sound, f0[0].numpy())
    )


def unvoiced(sound: np.ndarray, f0: np.ndarray) -> np.ndarray:
    """Return the sum of the power spectra (LONG / 2 + 1,) of the windows with no voiced frame, each at the
    same loudness; silent ones are left out.
    """
    total = np.zeros(LONG // 2 + 1)
    for start in range(0, len(sound) - LONG + 1, LONG // 2):
        window = sound[start : start + LONG]
        if not f0[start // HOP : (start + LONG) // HOP].any() and np.mean(window**2) > QUIET**2:
            power = np.abs(np.fft.rfft(window * np.hanning(LONG + 1)[:-1])) ** 2
            total += power / power.sum()
    return total


def hum(readings: list[Features], frame_rate: float) -> float:
    """Return how far the lines at multiples of the codec's frame rate (Hz) stand above the spectrum halfway
    between them, in the noise of all readings: the mean in dB, 0 for none. NaN if nothing is unvoiced.
    """
    noise = sum((one.noise for one in readings), np.zeros(LONG // 2 + 1))
    if not noise.any():
        return math.nan
    lines = np.arange(math.ceil(HUM_FROM / frame_rate), HUM_TO // frame_rate) * frame_rate
    bins = np.arange(len(noise)) * RATE / LONG
    at, below, above = (np.interp(lines + off, bins, noise) for off in (0, -frame_rate / 2, frame_rate / 2))
    return float(np.mean(10 * np.log10(2 * at / (below + above))))


def paired(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dynamic time warping (Sakoe and Chiba, 1978) of (T, C) and (S, C). Return the path with the smallest
    sum of distances, as pairs of indices (n, 2).
    """
    distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    T, S = distance.shape
    total = np.full((T + 1, S + 1), np.inf)
    total[0, 0] = 0
    for i, row in enumerate(distance.tolist()):
        above, left, done = total[i].tolist(), math.inf, [math.inf]
        for j, d in enumerate(row):
            left = d + min(above[j], above[j + 1], left)
            done.append(left)
        total[i + 1] = done
    path, i, j = [], T, S
    while i and j:
        path.append((i - 1, j - 1))
        steps = (
            (total[i - 1, j - 1], i - 1, j - 1),
            (total[i - 1, j], i - 1, j),
            (total[i, j - 1], i, j - 1),
        )
        _, i, j = min(steps)
    return np.array(path[::-1])


def compare(ours: list[Features], source: list[Features]) -> dict[str, float]:
    """Compare all sentences. Return the mel cepstral distortion in dB; for pairs with both frames voiced, the
    correlation of log F0 and its root mean square difference in semitones, without each sentence's mean (a
    voice may have another register); and the share of pairs with only one frame voiced.
    """
    distortions, pitches, voiced = [], [], []
    for a, b in zip(ours, source, strict=True):
        if not len(a.f0) or not len(b.f0):
            continue
        i, j = paired(a.cepstra, b.cepstra).T
        difference = a.cepstra[i] - b.cepstra[j]
        distortions.append(10 / math.log(10) * np.sqrt(2 * (difference**2).sum(1)))
        both = (a.f0[i] > 0) & (b.f0[j] > 0)
        voiced.append((a.f0[i] > 0) != (b.f0[j] > 0))
        if both.sum() > 1:
            two = 12 * np.log2(np.stack((a.f0[i][both], b.f0[j][both])))
            pitches.append(two - two.mean(1, keepdims=True))
    if not pitches:
        return {}
    x, y = np.concatenate(pitches, 1)
    return {
        "distortion_db": float(np.concatenate(distortions).mean()),
        "pitch_correlation": float((x * y).sum() / max(np.sqrt((x**2).sum() * (y**2).sum()), 1e-9)),
        "pitch_rmse_semitones": float(np.sqrt(((x - y) ** 2).mean())),
        "voicing_differs": float(np.concatenate(voiced).mean()),
    }


class Opinion:
    """Distill-MOS: 1 (bad) to 5 (excellent). ImportError where it is not installed."""

    def __init__(self):
        sys.modules.setdefault("torchaudio", ModuleType("torchaudio"))  # its command alone needs it
        import distillmos

        self.model = distillmos.ConvTransformerSQAModel().eval()

    @torch.no_grad()
    def score(self, audio: np.ndarray, sample_rate: int) -> float:
        """Score audio (samples,). 1 for empty audio."""
        sound = at_rate(audio, sample_rate)
        if not len(sound):
            return 1.0
        return float(self.model(torch.from_numpy(sound)[None]))

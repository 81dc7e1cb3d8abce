"""The decoder's adversary: a discriminator of decoded and recorded audio (Goodfellow et al., 2014), on
short-time spectra as in EnCodec (Défossez et al., 2022, section 3.4).

With a spectral loss alone, the decoder outputs a mean of all audio that fits the codes: noise becomes tonal,
high harmonics blur. The adversary penalises that.

Axes: B batch, C channels, F frequencies, T frames.
"""

import torch
from torch import Tensor, nn

from .loop import Settings

WINDOWS = (1024, 512, 256)  # STFT window of each part: long ones resolve harmonics, short ones pulses
CHANNELS = 16
LR = 1e-4  # lower than the decoder's, because a discriminator that wins gives no useful gradient


class Part(nn.Module):
    """The discriminator at one resolution: audio (B, samples) -> features, then logits (B, 1, F, T)."""

    def __init__(self, window: int, channels: int = CHANNELS):
        super().__init__()
        self.window = window
        self.register_buffer("shape", torch.hann_window(window), persistent=False)
        sizes = ((2, channels, 1), (channels, channels, 1), (channels, channels, 2), (channels, channels, 1))
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(c, d, (7, 3), (2, stride), (3, 1)))
            for c, d, stride in sizes
        )
        self.judge = nn.utils.parametrizations.weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> list[Tensor]:
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio.float(), self.window, self.window // 4, window=self.shape, return_complex=True
            )
            soft = (spectrum.abs() + 1e-2) ** -0.7  # compresses magnitudes, so that quiet parts count
            x = torch.stack((spectrum.real * soft, spectrum.imag * soft), 1)
        features = []
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(x), 0.2)
            features.append(x)
        return [*features, self.judge(x)]


class Adversary:
    """The discriminator and its optimizer, saved with a run's state (`Run.keep`)."""

    def __init__(self, settings: Settings, device: torch.device):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.parts = nn.ModuleList(map(Part, WINDOWS)).to(device)
        self.optimizer = torch.optim.AdamW(self.parts.parameters(), LR, betas=(0.8, 0.99), weight_decay=0.0)

    def state_dict(self) -> dict:
        return {"parts": self.parts.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.parts.load_state_dict(state["parts"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = LR  # the current value, not the saved one

    def learn(self, audio: Tensor, target: Tensor) -> Tensor:
        """Train a step on decoded `audio` and recorded `target`, both (B, samples). Return the hinge loss."""
        audio = audio.detach()
        self.parts.requires_grad_(True)
        loss = audio.new_zeros(())
        for part in self.parts:
            ours, wanted = part(torch.cat((audio, target)))[-1].float().chunk(2)
            loss = loss + (1 + ours).relu().mean() + (1 - wanted).relu().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parts.parameters(), 10.0)
        self.optimizer.step()
        return loss.detach() / len(self.parts)

    def losses(self, audio: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's losses: the adversarial one, minus the mean logit of `audio`, and the feature
        matching one, the relative L1 distance between the features of `audio` and `target`.
        """
        self.parts.requires_grad_(False)  # so that the decoder's step leaves no gradients here
        fooled, features = audio.new_zeros(()), audio.new_zeros(())
        for part in self.parts:
            ours = part(audio)
            with torch.no_grad():
                wanted = part(target)
            fooled = fooled - ours[-1].float().mean() / len(self.parts)
            for a, b in zip(ours[:-1], wanted[:-1], strict=True):
                distance = (a.float() - b.float()).abs().mean() / b.float().abs().mean()
                features = features + distance / (len(self.parts) * (len(ours) - 1))
        return fooled, features

"""Log-mel features: how strong a sound is in each band of the mel scale, frame by frame."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from pydantic import Field
from torch import Tensor

from attnlib.errors import LayoutError
from attnlib.spec import Spec

LINEAR, STEP = 1000.0, math.log(6.4) / 27.0  # the mel scale is linear below 1000 Hz, with a mel of 200 / 3 Hz
BLOCK = 6000  # frames turned at once: their spectra take thirty times the memory of the sound itself


def _mel(hertz: float) -> float:
    return 3 * hertz / 200 if hertz < LINEAR else 15 + math.log(hertz / LINEAR) / STEP


def _hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, 200 * mel / 3, LINEAR * torch.exp(STEP * (mel - 15)))


@lru_cache(maxsize=8)
def mel_filters(channels: int, n_fft: int, rate: int) -> Tensor:
    """[channels, n_fft / 2 + 1] triangles of equal area, even on Slaney's mel scale, 0 to rate / 2 (Slaney 1998).

    Triangle m rises from edge m to edge m + 1 and falls to edge m + 2, and has the height 2 / (edge m + 2 - edge m) per Hz.
    """
    edges = _hertz(torch.linspace(0, _mel(rate / 2), channels + 2, dtype=torch.float64))
    bins = torch.linspace(0, rate // 2, n_fft // 2 + 1, dtype=torch.float64)
    low, middle, high = (edges[i : i + channels, None] for i in range(3))
    sides = torch.minimum((bins - low) / (middle - low), (high - bins) / (high - middle))
    return (sides.clamp(min=0) * 2 / (high - low)).float()


class LogMel(Spec):
    """The log-mel spectrogram of Radford et al. 2022 (arXiv:2212.04356).

    Frames of n_fft samples under a Hann window, `hop` apart, the first centred on the first sample (its mirror image before
    it); their power through `mel_filters`; the logarithm to base 10, no lower than 8 below its greatest; (x + 4) / 4.

    rate: samples a second of what is given. seconds: of one window, as much as a model listens to at once.
    """

    channels: int = Field(default=80, ge=1)
    rate: int = Field(default=16000, ge=1)
    n_fft: int = Field(default=400, ge=2)
    hop: int = Field(default=160, ge=1)
    seconds: float = Field(default=30.0, gt=0)

    @property
    def samples(self) -> int:
        """Samples of a window."""
        return round(self.seconds * self.rate)

    @property
    def frames(self) -> int:
        """Frames of a window."""
        return self.samples // self.hop

    def windows(self, sound: Tensor) -> Tensor:
        """[N] -> [W, samples]: the sound in windows one after another, silence after its end; a window at least."""
        if sound.dim() != 1:
            raise LayoutError("sound", f"has shape {tuple(sound.shape)}", "must be [samples], one channel")
        count = max(-(-len(sound) // self.samples), 1)
        return torch.nn.functional.pad(sound, (0, count * self.samples - len(sound))).view(count, self.samples)

    def __call__(self, windows: Tensor) -> Tensor:
        """Samples [.., N] in [-1, 1] -> features [.., channels, N / hop]."""
        side = self.n_fft // 2
        if windows.shape[-1] <= side or not windows.is_floating_point():
            fact = f"are {windows.dtype} of shape {tuple(windows.shape)}"
            raise LayoutError("sound", fact, f"must be floats, more than {side} of them")
        rows = windows.float().reshape(-1, 1, windows.shape[-1])
        mirrored = torch.nn.functional.pad(rows, (side, side), mode="reflect")[:, 0]
        count = windows.shape[-1] // self.hop
        logs = [self._logs(mirrored, first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
        whole = torch.cat(logs, -1).view(*windows.shape[:-1], self.channels, count)
        loudest = whole.amax((-2, -1), keepdim=True)
        return (torch.maximum(whole, loudest - 8.0) + 4.0) / 4.0

    def _logs(self, mirrored: Tensor, first: int, last: int) -> Tensor:
        """[B, channels, last - first] of these frames."""
        heard = mirrored[:, first * self.hop : (last - 1) * self.hop + self.n_fft]
        hann = torch.hann_window(self.n_fft, device=heard.device)
        turned = torch.stft(heard, self.n_fft, self.hop, window=hann, center=False, return_complex=True)
        power = turned.abs() ** 2  # [B, bins, frames]
        return (mel_filters(self.channels, self.n_fft, self.rate).to(power.device) @ power).clamp(min=1e-10).log10()

"""Another rate of samples, by a windowed sinc: the band that both rates can hold is kept, the rest let go."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.errors import UsageError

ZEROS, ROLL_OFF, BETA = 64, 0.9475937167399596, 14.769656459379492  # of the sinc kept on a side; Kaiser's window

LARGEST = 100_000_000  # weights of a kernel: rates that share no divisor ask for one for each pair of samples


def resample(samples: Tensor, rate: int, wanted: int) -> Tensor:
    """samples [.., N] at `rate` a second -> [.., ceil(N wanted / rate)] at `wanted`.

    y[j] = sum_n x[n] h(n - j rate / wanted), h a sinc under a Kaiser window of 64 zero crossings a side that passes 95% of
    the narrower band (Smith & Gossett 1984). Exact in the ratio of the rates; silence stands before and after the sound.
    """
    if rate < 1 or wanted < 1:
        raise UsageError("resample", f"from {rate} to {wanted} a second", "rates must be at least 1")
    common = math.gcd(rate, wanted)
    old, new = rate // common, wanted // common
    if old == new or not samples.shape[-1]:
        return samples
    if old * new > LARGEST:
        raise UsageError("resample", f"from {rate} to {wanted} a second", "wish rates that share a larger divisor",
                         f"ffmpeg -i FILE -ar {wanted} FILE.wav")  # fmt: skip
    kernel, width = _kernel(old, new)
    length = -(-samples.shape[-1] * new // old)
    rows = F.pad(samples.reshape(-1, 1, samples.shape[-1]), (width, width + old))
    found = F.conv1d(rows, kernel.to(rows), stride=old)  # [B, new, blocks]: a phase of the output each
    return found.transpose(1, 2).flatten(1)[:, :length].reshape(*samples.shape[:-1], length)


@lru_cache(maxsize=8)
def _kernel(old: int, new: int) -> tuple[Tensor, int]:
    """[new, 1, taps] weights of `new` outputs over a block of `old` inputs, and the inputs read before the block."""
    band = min(1.0, new / old) * ROLL_OFF  # of the input's own
    width = math.ceil(ZEROS / band)
    places = torch.arange(-width, width + old, dtype=torch.float64)
    t = (places[None] - torch.arange(new, dtype=torch.float64)[:, None] * old / new) * band
    inside = (1 - (t / ZEROS).square()).clamp(min=0)
    window = torch.special.i0(BETA * inside.sqrt()) / torch.special.i0(torch.tensor(BETA, dtype=torch.float64))
    kernel = torch.where(t.abs() < ZEROS, torch.sinc(t) * window, 0.0) * band
    return kernel[:, None].float(), width

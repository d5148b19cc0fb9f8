"""From logits to tokens: pure functions on `[B, V]`; a filtered token has logit -inf, and one token always remains."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from attnlib.generate.options import Sampling

_HIDDEN = float("-inf")
_NUCLEUS = (256, 4096)  # how many of the likeliest tokens top-p looks at before it sorts all


def temperature(logits: Tensor, value: float) -> Tensor:
    """(logits - max) / value. The maximum goes first, so that a tiny temperature tends to greedy and never to NaN."""
    return (logits - logits.amax(-1, keepdim=True)) / value


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keeps the k highest logits of each row and all that tie with the k-th (Fan et al. 2018)."""
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, _HIDDEN)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the fewest tokens, likeliest first, whose probabilities reach p (nucleus; Holtzman et al. 2020).

    Of tied tokens the lower id comes first. p = 0 keeps the likeliest token, p = 1 all.
    """
    if p >= 1:
        return logits
    vocab, total = logits.shape[-1], logits.logsumexp(-1, keepdim=True)
    for width in (
        *(n for n in _NUCLEUS if n < vocab),
        vocab,
    ):  # sorting all of a large vocabulary costs more than the rest together
        ordered = logits.topk(width, dim=-1).values
        weights = (ordered - total).exp().double()
        mass = weights.cumsum(-1)
        if bool((mass[:, -1] >= p).all()):
            break
    count = (mass - weights < p).sum(-1, keepdim=True).clamp(min=1)  # a token stays if the likelier ones fall short of p
    least = ordered.gather(-1, count - 1)
    above, ties = logits > least, logits == least
    room = count - above.sum(-1, keepdim=True)
    return logits.masked_fill(~(above | (ties & (ties.cumsum(-1) <= room))), _HIDDEN)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keeps tokens at least p times as probable as the likeliest (Nguyen et al. 2024): logit >= max + log p."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + (math.log(p) if p else _HIDDEN), _HIDDEN)


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Tokens of `seen` [B, V] (bool) are penalised: logit / penalty above 0, * penalty below (Keskar et al. 2019)."""
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def filtered(logits: Tensor, options: Sampling) -> Tensor:
    """Temperature, top-k, top-p, min-p, in this order, as far as `options` has them."""
    logits = temperature(logits, options.temperature)
    if options.top_k is not None:
        logits = top_k(logits, options.top_k)
    if options.top_p is not None:
        logits = top_p(logits, options.top_p)
    if options.min_p is not None:
        logits = min_p(logits, options.min_p)
    return logits


def greedy(logits: Tensor) -> Tensor:
    """The likeliest token of each row, [B]; of tied ones the lowest id."""
    return logits.argmax(-1)


def draw(logits: Tensor, uniforms: Sequence[float]) -> Tensor:
    """The token of each row whose slice of the cumulative distribution holds the row's number u in [0, 1); [B].

    One number a row and fp64 sums on the CPU: what a row draws depends on nothing but its own logits and number, and is
    the same on every device.
    """
    cumulative = logits.cpu().softmax(-1).cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    aim = torch.tensor(uniforms, dtype=torch.float64)[:, None] * total
    # strictly below the total: the first slot that rises above it is one with probability, whatever was rounded
    aim = torch.minimum(aim, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, aim, right=True)[:, 0]
    return found.clamp(max=logits.shape[-1] - 1).to(logits.device)  # the clamp is for NaN, which the caller reports


def key(seed: int, sample: int, *rows: Sequence[int]) -> bytes:
    """Names the random numbers of one row: seed, sample number and what was asked, never its place in a batch."""
    digest = hashlib.blake2b(f"{seed}/{sample}".encode(), digest_size=16)
    for row in rows:
        digest.update(struct.pack(f"<q{len(row)}q", len(row), *row))
    return digest.digest()


def uniform(row_key: bytes, step: int) -> float:
    """The row's number in [0, 1) at a step: 53 bits of a hash of both, so that no generator state is carried."""
    word = hashlib.blake2b(struct.pack("<q", step), key=row_key, digest_size=8).digest()
    return float(int.from_bytes(word, "little") >> 11) * 2.0**-53

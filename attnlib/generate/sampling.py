"""From logits to tokens: pure functions on `[B, V]`; a filtered token has logit -inf, and one token always remains."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

_HIDDEN = float("-inf")
_BOUNDED = 100  # how many of the likeliest tokens top-h looks at
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


def typical_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the tokens whose -log-probability is nearest to the entropy, until they reach p (Meister et al. 2022).

    Tokens that tie with the last one stay too.
    """
    logprobs = logits.log_softmax(-1)
    weights = logprobs.exp()
    entropy = -(logprobs * weights).nansum(-1, keepdim=True)
    distance, order = (-logprobs - entropy).abs().sort(-1)
    mass = weights.gather(-1, order).cumsum(-1)
    last = (mass < p).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    far = distance > distance.gather(-1, last)
    return logits.masked_fill(torch.zeros_like(far).scatter(-1, order, far), _HIDDEN)


def epsilon_cutoff(logits: Tensor, epsilon: float) -> Tensor:
    """Keeps tokens of at least probability epsilon, and the likeliest (Hewitt et al. 2022, arXiv:2210.15191)."""
    return _above(logits, torch.tensor(epsilon, device=logits.device))


def eta_cutoff(logits: Tensor, eta: float) -> Tensor:
    """Keeps tokens of at least probability min(eta, sqrt(eta) exp(-entropy)), and the likeliest (Hewitt et al. 2022)."""
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs.clamp(min=torch.finfo(logits.dtype).min)).sum(-1, keepdim=True)
    return _above(logits, (math.sqrt(eta) * (-entropy).exp()).clamp(max=eta))


def _above(logits: Tensor, least: Tensor) -> Tensor:
    return logits.masked_fill((logits.softmax(-1) < least) & (logits < logits.amax(-1, keepdim=True)), _HIDDEN)


def top_h(logits: Tensor, share: float) -> Tensor:
    """Keeps the likeliest tokens while their terms of the entropy sum to at most `share` of it; the likeliest always.

    Of the 100 likeliest, whose entropy it is (Potraghloo et al. 2025, arXiv:2509.02510).
    """
    best = logits.topk(min(_BOUNDED, logits.shape[-1]), dim=-1)
    logprobs = best.values.log_softmax(-1)
    terms = -logprobs.exp() * logprobs.clamp(min=torch.finfo(logits.dtype).min)
    keep = terms.cumsum(-1) <= terms.sum(-1, keepdim=True) * share
    keep[..., 0] = True
    return logits.masked_fill(~torch.zeros_like(logits, dtype=torch.bool).scatter(-1, best.indices, keep), _HIDDEN)


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

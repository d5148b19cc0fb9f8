"""A scalar decay of each head that the token sets, as state-space models have it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attnlib.attention.exact import exact
from attnlib.nn.linear import Linear


class TokenDecay(nn.Module):
    """dt = softplus(W x + bias) and g = -exp(rate) dt <= 0 of each of G heads: [B, T, M] -> two [B, G, T].

    Begins in the ranges of Dao & Gu 2024 (arXiv:2405.21060), rates 1 to 16 and time steps 0.1 to 0.001, spread evenly by
    their logarithms: the greater a head's rate, the smaller its step, so that each remembers some 10 to 60 tokens. With the
    greatest of both in one head, two heads of a small model learned no induction: one forgot all, the other wrote nothing.
    """

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.step = Linear(d_model, heads, bias=False)
        self.rate, self.bias = nn.Parameter(torch.empty(heads)), nn.Parameter(torch.empty(heads))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        heads = self.rate.shape[0]
        self.rate.copy_(torch.linspace(0.0, math.log(16.0), heads))
        steps = torch.logspace(-1.0, -3.0, heads)
        self.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus backwards

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        step = exact(self.step(x)) + exact(self.bias)
        step = torch.logaddexp(step, torch.zeros_like(step)).transpose(1, 2)  # softplus
        return step, -exact(self.rate).exp()[:, None] * step

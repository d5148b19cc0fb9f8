"""Talking heads: scores, and again weights, of each head mixed out of those of all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnlib.attention.scores import Normaliser, NormaliserSpec, Softmax


class TalkingHeads(Normaliser):
    """weights[h] = sum over g of W[h, g] softmax(sum over f of S[g, f] scores[f]) (Shazeer et al. 2020, arXiv:2003.02436).

    S and W [H, H] begin as the identity, which is softmax attention. Where masks differ by head, a head gives weight to
    what it sees itself.
    """

    def __init__(self, *, num_heads: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.empty(num_heads, num_heads))
        self.weights = nn.Parameter(torch.empty(num_heads, num_heads))
        self.softmax = Softmax()
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Begins as softmax."""
        nn.init.eye_(self.scores)
        nn.init.eye_(self.weights)

    def forward(self, scores: Tensor, visible: Tensor | None) -> Tensor:
        weights = _mixed(self.weights, self.softmax(_mixed(self.scores, scores), visible))
        return weights if visible is None else weights.masked_fill(~visible, 0.0)


def _mixed(table: Tensor, x: Tensor) -> Tensor:
    """[H, H] by [B, H, Q, K] -> [B, H, Q, K]."""
    return torch.einsum("gh,bhqk->bgqk", table.to(x.dtype), x)


class TalkingHeadsSpec(NormaliserSpec, kind="talking_heads"):
    """Softmax between two learned mixtures of all heads."""

    def build(self, *, num_heads: int) -> Normaliser:
        return TalkingHeads(num_heads=num_heads)

"""Sigmoid attention: each key weighed for itself, none at the cost of another."""

from __future__ import annotations

from torch import Tensor

from attnlib.attention.scores import Normaliser, NormaliserSpec


class SigmoidWeights(Normaliser):
    """1 / (1 + exp(-(s + b))) of each key seen (Ramapuram et al. 2024, arXiv:2409.04431).

    b: `offset`, or minus the logarithm of how many keys the query sees, which the paper takes of the text's length: then
    weights sum to about one at the start, as softmax's do, and a causal query reads the same b through a cache.
    """

    by_head = False

    def __init__(self, *, offset: float | None = None) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, scores: Tensor, visible: Tensor | None) -> Tensor:
        if self.offset is not None:
            scores = scores + self.offset
        elif visible is None:
            scores = scores - scores.new_tensor(max(scores.shape[-1], 1)).log()
        else:
            scores = scores - visible.sum(-1, keepdim=True).clamp(min=1).to(scores.dtype).log()
        weights = scores.sigmoid()
        return weights if visible is None else weights.masked_fill(~visible, 0.0)

    def extra_repr(self) -> str:
        return f"offset={self.offset}"


class SigmoidSpec(NormaliserSpec, kind="sigmoid"):
    """Each key for itself, by the sigmoid of its score.

    offset: added to each score, null = minus the logarithm of the number of keys that the query sees.
    """

    offset: float | None = None

    def build(self, *, num_heads: int) -> Normaliser:
        return SigmoidWeights(offset=self.offset)

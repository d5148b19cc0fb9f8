"""Top-k attention: a softmax over the keys of each query that score highest."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from attnlib.attention.scores import Normaliser, NormaliserSpec, Softmax


class TopK(Normaliser):
    """exp(s) / sum exp(s) over the seen keys whose score is at least the `count`-th greatest (Gupta et al. 2021).

    arXiv:2106.06899. Equal scores stay or go together, so that no order of the keys decides; where fewer are seen all stay.
    """

    by_head = False

    def __init__(self, *, count: int) -> None:
        super().__init__()
        self.count = count
        self.softmax = Softmax()

    def forward(self, scores: Tensor, visible: Tensor | None) -> Tensor:
        if scores.shape[-1] <= self.count:
            return self.softmax(scores, visible)  # type: ignore[no-any-return]
        found = scores.detach()
        if visible is not None:
            found = found.masked_fill(~visible, torch.finfo(scores.dtype).min)
        kept = found >= found.topk(self.count, -1).values[..., -1:]
        return self.softmax(scores, kept if visible is None else kept & visible)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"count={self.count}"


class TopKSpec(NormaliserSpec, kind="top_k"):
    """Softmax over the `count` highest scores of each query, the others exactly zero."""

    approximates: ClassVar[bool] = True
    count: int = Field(default=32, ge=1)

    def build(self, *, num_heads: int) -> Normaliser:
        return TopK(count=self.count)

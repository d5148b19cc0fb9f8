"""The score rule: how q.k becomes weights. Order: scale, terms, softcap, mask, normaliser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from attnlib.attention.biases import ScoreTerm
from attnlib.attention.products import DotSpec, Product, ProductSpec
from attnlib.spec import Spec


class Normaliser(nn.Module):
    """Turns the scores of a row [B, H, Q, K] into weights; where `visible` is false, or all is, the weight is zero.

    by_head: it may treat heads unlike, and so wants the scores of all of them at once.
    """

    by_head: ClassVar[bool] = True

    def forward(self, scores: Tensor, visible: Tensor | None) -> Tensor:
        raise NotImplementedError


class NormaliserSpec(Spec, slot="normaliser"):
    """How a row of scores becomes weights. approximates: it leaves out what softmax would weigh."""

    approximates: ClassVar[bool] = False

    def build(self, *, num_heads: int) -> Normaliser:
        raise NotImplementedError


class Softmax(Normaliser):
    """exp(s) / sum exp(s) over the keys seen; a query that sees none gets zeros."""

    by_head = False

    def forward(self, scores: Tensor, visible: Tensor | None) -> Tensor:
        if visible is None:
            return scores.softmax(-1)
        # finite fill: a blind row stays finite in value and gradient, and the second fill makes it zero
        lowest = torch.finfo(scores.dtype).min
        return scores.masked_fill(~visible, lowest).softmax(-1).masked_fill(~visible, 0.0)


class SoftmaxSpec(NormaliserSpec, kind="softmax"):
    """Plain softmax."""

    def build(self, *, num_heads: int) -> Normaliser:
        return Softmax()


class SoftmaxSink(Normaliser):
    """exp(s) / (exp(sink[h]) + sum exp(s)): a learned logit a head that takes mass and gives nothing (gpt-oss)."""

    def __init__(self, *, num_heads: int) -> None:
        super().__init__()
        self.sink = nn.Parameter(torch.zeros(num_heads))

    def forward(self, scores: Tensor, visible: Tensor | None) -> Tensor:
        if visible is not None:
            scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        sink = self.sink.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
        return weights if visible is None else weights.masked_fill(~visible, 0.0)


class SoftmaxSinkSpec(NormaliserSpec, kind="softmax_sink"):
    """Softmax with a learned sink logit a head."""

    def build(self, *, num_heads: int) -> Normaliser:
        return SoftmaxSink(num_heads=num_heads)


class ScoreRule(nn.Module):
    """scale, softcap and normaliser of one attention, how its queries meet keys, and the terms added to its scores."""

    def __init__(
        self,
        *,
        scale: float,
        softcap: float | None = None,
        normaliser: Normaliser | None = None,
        terms: Sequence[ScoreTerm] = (),
        product: Product | None = None,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.softcap = softcap
        self.normaliser = normaliser or Softmax()
        self.product = product or Product()
        self.terms = nn.ModuleList(terms)
        # the names of the parts in use: a backend whose list lacks one refuses, so what is new is slow and right
        parts = {"softcap"} if softcap is not None else set()
        parts |= {"term"} if terms else set()
        parts |= set() if type(self.normaliser) is Softmax else {type(self.normaliser).__name__}
        self.parts = frozenset(parts)

    def add(self, term: ScoreTerm) -> None:
        """One term more."""
        self.terms.append(term)
        self.parts |= {"term"}


class ScoresSpec(Spec):
    """product: how q meets k. scale: null is d_head^-0.5, or what the product wants; 0 leaves the terms alone.

    by_layer divides it by the layer's number (from 1). softcap: c * tanh(s / c). normaliser: from scores to weights.
    """

    product: ProductSpec = DotSpec()
    scale: float | None = Field(default=None, ge=0)
    by_layer: bool = False
    softcap: float | None = Field(default=None, gt=0)
    normaliser: NormaliserSpec = SoftmaxSpec()

    def build(self, *, num_heads: int, d_head: int, layer: int) -> ScoreRule:
        scale = self.product.scale(d_head) if self.scale is None else self.scale
        return ScoreRule(
            scale=scale / (layer + 1 if self.by_layer else 1),
            softcap=self.softcap,
            normaliser=self.normaliser.build(num_heads=num_heads),
            product=self.product.build(num_heads=num_heads, d_head=d_head),
        )

"""Rules that leave only the likelier tokens to be drawn, and the one that makes scores sum to one again."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from attnlib.generate import sampling
from attnlib.generate.rules.base import Change, Known, Rule


class TopH(Rule, kind="top_h"):
    """Draw among the likeliest tokens whose entropy stays within `share` of the whole (Potraghloo et al. 2025)."""

    share: float = Field(gt=0.0, le=1.0)
    place: ClassVar[int] = 610
    draws: ClassVar[bool] = True

    def build(self, known: Known) -> Change:
        return lambda scores, texts: sampling.top_h(scores, self.share)


class TopK(Rule, kind="top_k"):
    """Draw among the k likeliest tokens (Fan et al. 2018)."""

    k: int = Field(ge=1)
    place: ClassVar[int] = 620
    draws: ClassVar[bool] = True
    none: ClassVar = (0,)

    def build(self, known: Known) -> Change:
        return lambda scores, texts: sampling.top_k(scores, self.k)


class TopP(Rule, kind="top_p"):
    """Draw among the likeliest tokens that together have probability p (Holtzman et al. 2020)."""

    p: float = Field(ge=0.0, le=1.0)
    place: ClassVar[int] = 630
    draws: ClassVar[bool] = True
    none: ClassVar = (1,)

    def build(self, known: Known) -> Change:
        return lambda scores, texts: sampling.top_p(scores, self.p)


class MinP(Rule, kind="min_p"):
    """Draw among tokens of at least p times the likeliest's probability (Nguyen et al. 2024)."""

    p: float = Field(ge=0.0, le=1.0)
    place: ClassVar[int] = 640
    draws: ClassVar[bool] = True

    def build(self, known: Known) -> Change:
        return lambda scores, texts: sampling.min_p(scores, self.p)


class TypicalP(Rule, kind="typical_p"):
    """Draw among the tokens nearest to the expected information that together have probability p (Meister et al. 2022)."""

    p: float = Field(gt=0.0, le=1.0)
    place: ClassVar[int] = 650
    draws: ClassVar[bool] = True
    none: ClassVar = (1,)

    def build(self, known: Known) -> Change:
        return lambda scores, texts: sampling.typical_p(scores, self.p)


class EpsilonCutoff(Rule, kind="epsilon_cutoff"):
    """Draw among tokens of at least this probability (Hewitt et al. 2022)."""

    epsilon: float = Field(ge=0.0, lt=1.0)
    place: ClassVar[int] = 660
    draws: ClassVar[bool] = True
    none: ClassVar = (0,)

    def build(self, known: Known) -> Change:
        return lambda scores, texts: sampling.epsilon_cutoff(scores, self.epsilon)


class EtaCutoff(Rule, kind="eta_cutoff"):
    """Draw among tokens of at least min(eta, sqrt(eta) exp(-entropy)) (Hewitt et al. 2022)."""

    eta: float = Field(ge=0.0, lt=1.0)
    place: ClassVar[int] = 670
    draws: ClassVar[bool] = True
    none: ClassVar = (0,)

    def build(self, known: Known) -> Change:
        return lambda scores, texts: sampling.eta_cutoff(scores, self.eta)


class Renormalise(Rule, kind="renormalize_logits"):
    """Probabilities sum to one again after all other rules; only beam search can tell the difference."""

    on: bool
    place: ClassVar[int] = 590
    none: ClassVar = (False,)

    def build(self, known: Known) -> Change:
        return lambda scores, texts: scores.log_softmax(-1) if self.on else scores

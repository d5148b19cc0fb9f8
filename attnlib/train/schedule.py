"""Learning-rate schedules: the slot `schedule`, pure functions from progress to a factor of the peak rate."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from pydantic import Field

from attnlib.spec import Spec

Share = Annotated[float, Field(ge=0, le=1)]


class Progress(NamedTuple):
    """How far a run is, whether its budget is counted in steps or in seconds."""

    step: int  # steps done
    fraction: float  # of the budget, 0..1


class Schedule(Spec, slot="schedule", default="cosine"):
    """min(warm-up, floor + (1 - floor) * fall): the kinds differ in how they fall from 1 to 0.

    warmup: a number of steps (100), or a fraction of the budget (0.02). floor: the factor at the end of the budget.
    """

    warmup: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = 0.02
    floor: Share = 0.0

    def factor(self, at: Progress) -> float:
        """What the peak rate is multiplied by in the step that begins at `at`."""
        if isinstance(self.warmup, int):
            risen = (at.step + 1) / self.warmup if self.warmup else 1.0
        else:
            risen = at.fraction / self.warmup if self.warmup else 1.0
        return min(risen, self.floor + (1 - self.floor) * self.fall(at.fraction))

    def fall(self, fraction: float) -> float:
        """From 1 to 0 over the budget."""
        raise NotImplementedError

    def after_warmup(self, fraction: float) -> float:
        """The fraction of what a warm-up, given as a fraction, leaves of the budget."""
        before = self.warmup if isinstance(self.warmup, float) else 0.0
        return min(max((fraction - before) / (1 - before), 0.0), 1.0)


class Cosine(Schedule, kind="cosine"):
    """(1 + cos(pi u)) / 2 after the warm-up (Loshchilov & Hutter, 2017)."""

    def fall(self, fraction: float) -> float:
        return (1 + math.cos(math.pi * self.after_warmup(fraction))) / 2


class Linear(Schedule, kind="linear"):
    """1 - u after the warm-up."""

    def fall(self, fraction: float) -> float:
        return 1 - self.after_warmup(fraction)


class ConstantLinear(Schedule, kind="constant_linear"):
    """1 until the last `decay` of the budget, then linearly down (Zhai et al., 2022)."""

    decay: Annotated[float, Field(gt=0, le=1)] = 0.5

    def fall(self, fraction: float) -> float:
        return min(1.0, max(0.0, 1 - fraction) / self.decay)


class Constant(Schedule, kind="constant"):
    """1."""

    def fall(self, fraction: float) -> float:
        return 1.0

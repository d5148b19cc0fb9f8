"""What is left after a decay."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

LEAST = -60.0  # exp of it, 9e-27, is lost in any sum; what is less would make denormal products, a hundred times slower


def decayed(x: Tensor) -> Tensor:
    """exp(x) in the place of x <= 0, which nobody else may need; 0 where x < LEAST."""
    return F.threshold_(x, LEAST, -float("inf")).exp_()  # type: ignore[no-any-return]

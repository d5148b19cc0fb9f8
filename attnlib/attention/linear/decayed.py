"""What is left after a decay."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = -40.0  # exp of it, 4e-18, is lost in any sum; of less, products would be denormal numbers, many times slower


def decayed(x: Tensor) -> Tensor:
    """exp(x) in the place of x <= 0, which nobody else may need; 0 where x <= LEAST."""
    return torch.threshold_(x, LEAST, -float("inf")).exp_()

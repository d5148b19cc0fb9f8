"""Sources that are heard, not read: features [B, channels, frames] where other encoders take ids."""

from __future__ import annotations

import zlib
from typing import Any

from torch import Tensor

from attnlib.errors import LayoutError, UsageError


def listens(model: Any) -> bool:
    """Whether a model's source is features."""
    return getattr(model, "features", None) is not None


def reads(model: Any) -> None:
    """UsageError for a model whose source is no text."""
    if listens(model):
        raise UsageError("model", "reads no text, it listens", "wish sounds for it", "attnlib transcribe, tasks.transcribe")


def heard(model: Any, given: Any, path: str) -> Tensor:
    """The features as the model takes them; LayoutError where they are none, or more than there are places for."""
    front = model.features
    wish = f"must be floats [batch, {front.channels}, frames]"
    fits = isinstance(given, Tensor) and given.dim() == 3 and given.shape[1] == front.channels
    if not fits or not given.is_floating_point():
        shape = f" of shape {tuple(given.shape)}, {given.dtype}" if isinstance(given, Tensor) else ""
        raise LayoutError(path, f"is a {type(given).__name__}{shape}", wish, "this model listens: tasks.transcribe")
    places, most = -(-given.shape[2] // front.stride), front.max_length
    if not places or (most is not None and places > most):
        wish = "at least one" if most is None else f"wish 1 to {most * front.stride}"
        raise LayoutError(path, f"has {given.shape[2]} frames", wish)
    weight = next(model.parameters())
    found: Tensor = given.to(weight.device, weight.dtype)
    return found


def named(row: Tensor) -> list[int]:
    """What the random numbers of a row are drawn by, as ids are of a text."""
    return [zlib.crc32(row.float().contiguous().cpu().numpy().tobytes())]

"""What a run tells while it goes on: events to a callback. The library itself prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from attnlib.errors import AttnlibError

What = Literal["start", "step", "eval", "checkpoint", "note", "end"]


@dataclass(frozen=True)
class Event:
    """One thing that happened after `step` steps, `fraction` of the budget; `text` says it to people."""

    what: What
    step: int
    fraction: float
    text: str
    values: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __str__(self) -> str:
        return self.text


Reporter = Callable[[Event], None]


def told(values: Mapping[str, Any]) -> str:
    """Figures as people read them: loss 2.1234  lr 0.001."""
    return "  ".join(f"{name} {_figure(value)}" for name, value in values.items())


def _figure(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class Interrupted(AttnlibError):
    """A run that a signal ended, after its state was written to `folder` (None: before the first step)."""

    def __init__(self, signal: int, name: str, step: int, folder: Path | None, fact: str = "") -> None:
        self.signal, self.name, self.step, self.folder = signal, name, step, folder
        where = fact or (f"checkpoint in {folder}" if folder is not None else "nothing was to be saved")
        super().__init__("train", f"stopped by {name} after step {step}", where, "start it again to go on")

    @property
    def exit_code(self) -> int:
        """What a script ends with: 128 + signal."""
        return 128 + self.signal

    def __reduce__(self) -> Any:
        return type(self), (self.signal, self.name, self.step, self.folder, self.fact)


class Diverged(AttnlibError):
    """A loss, gradient or parameter that is no longer a finite number."""

"""One sample proven: logits, padding, cache, gradients, the way back, and half precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from attnlib.errors import AttnlibError
from attnlib.pretrained.family import Family, Sample
from attnlib.pretrained.folder import check, load
from attnlib.pretrained.parity import theirs
from attnlib.pretrained.parity.sides import Sides

GATE = 2e-5  # of max |logit|, in fp32
GRADIENT_GATE = 1e-4  # of the largest gradient of the same tensor


@dataclass(frozen=True)
class Row:
    """What one sample gave. Figures are max |a - b| / max |b|; None = does not apply.

    plain, left, right, cached: outputs of a batch without padding, padded on a side, and of steps through both caches;
    gradient: the worst tensor's; back: what transformers gives for the folder we write, against its own;
    bits: whether `plain` is equal bit for bit; half: the deviation in bfloat16 (0: bit for bit);
    read, written, ignored: tensors of the files. stack, head: kinds of ours. fault: what went wrong, if anything.
    """

    family: str
    sample: str
    stack: str = ""
    head: str = ""
    plain: float | None = None
    left: float | None = None
    right: float | None = None
    cached: float | None = None
    gradient: float | None = None
    back: float | None = None
    half: float | None = None
    bits: bool = False
    read: int = 0
    written: int = 0
    ignored: int = 0
    fault: str = ""

    @property
    def worst(self) -> float:
        """The largest deviation of outputs in fp32."""
        return max((f for f in (self.plain, self.left, self.right, self.cached, self.back) if f is not None), default=0.0)

    @property
    def ok(self) -> bool:
        return not self.fault and self.worst <= GATE and (self.gradient or 0.0) <= GRADIENT_GATE


COLUMNS = tuple(field.name for field in fields(Row))


def prove(family: Family, name: str, sample: Sample, place: Path, *, seed: int = 0) -> Row:
    """Everything about one sample; `place` is an empty folder to write in."""
    found: dict[str, Any] = {}
    try:
        for figure in _figures(family, sample, place, seed):
            found |= figure
    except AttnlibError as error:
        found["fault"] = str(error)
    return Row(family.name, name, **found)


def _figures(family: Family, sample: Sample, place: Path, seed: int) -> Iterator[dict[str, Any]]:
    hf = theirs.build(family, sample, seed=seed)
    folder = theirs.write(hf, place / "theirs")
    report = check(folder)
    yield {"read": report.read, "ignored": len(report.ignored)}
    side = Sides(family, hf, load(folder), seed)
    yield {"stack": side.ours.spec.kind, "head": side.ours.spec.head.kind}
    yield side.plain()
    yield {} if family.positions == "none" or side.rereads or not family.pads else {"left": side.padded("left")}
    yield {"right": side.padded("right")} if family.pads else {}
    yield side.cached()
    yield side.gradient(place / "gradients")
    yield side.back(sample, place / "back", folder)
    yield side.half(sample, folder) if family.halves else {}

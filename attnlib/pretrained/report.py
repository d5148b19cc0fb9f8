"""What a checkpoint folder holds and what loading it does, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnlib.pretrained.manifest import MANIFEST


@dataclass(frozen=True)
class Report:
    """What a folder holds and what loading it does, without building weights.

    read, made: tensors of the file, and of ours; ties: (theirs, ours) found equal; untied: theirs that differ from what
    they are tied to; ignored: theirs -> why; dtypes: of the file, or each change that loading makes;
    fresh: ours that begin anew, because the head is meant to; nbytes: of our tensors as they are loaded; unfinite: theirs
    that hold NaN or infinities -> how many of each.
    """

    family: str
    read: int
    made: int
    ties: tuple[tuple[str, str], ...]
    untied: tuple[str, ...]
    ignored: Mapping[str, str]
    dtypes: tuple[str, ...]
    fresh: tuple[str, ...]
    nbytes: int
    verified: bool
    unfinite: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{self.family}: {self.read} tensors read, {self.made} made, {self.nbytes:,} bytes"]
        lines.append(f"dtypes: {', '.join(self.dtypes)}")
        lines += [f"tied: {theirs} = {ours}" for theirs, ours in self.ties]
        lines += [f"untied, the values differ: {theirs}" for theirs in self.untied]
        lines += [f"ignored: {name}: {why}" for name, why in self.ignored.items()]
        lines += [f"fresh: {name}" for name in self.fresh]
        lines += [f"warning: not finite: {name}: {what}" for name, what in self.unfinite.items()]
        lines.append(f"every file as in {MANIFEST}" if self.verified else f"no {MANIFEST}: bytes not verified")
        return "\n".join(lines)

"""Fine-tuning: weights of another checkpoint into a new model, and parameters that stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnlib.errors import CheckpointError, SpecError, nearest
from attnlib.pretrained import load
from attnlib.pretrained.state import tensors_of
from attnlib.train.output import checkpoint_of
from attnlib.train.spec import InitFrom


def source_of(init: InitFrom, base: Path | None = None) -> Path:
    """The checkpoint to begin with, a model's folder or a run's: beside the config, or in the working directory."""
    places = [place / init.from_ for place in (base or Path(), Path())]
    return checkpoint_of(next((place for place in places if place.is_dir()), places[0]))


def start_from(model: Any, folder: Path, init: InitFrom) -> list[str]:
    """Copy every weight of the checkpoint into the model, which keeps its own dtype; returns the names left fresh.

    Strict: all names and shapes agree, except those of the head with `head: new`. Nothing is copied otherwise.
    """
    found = load(folder, verify=(folder / "manifest.json").is_file())
    theirs, ours = tensors_of(found), tensors_of(model)
    fresh = {name for name in {*theirs, *ours} if init.head == "new" and name.split(".")[0] == "head"}
    hint = "" if fresh or init.head == "new" else "train.init.head: new leaves the head out"
    for names, fact in ((theirs.keys() - ours.keys(), "is not in the model"), (ours.keys() - theirs.keys(), "is missing")):
        if left := sorted(names - fresh):
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            raise CheckpointError(str(folder), f"{left[0]}{more} {fact}", "names must agree", hint)
    for name in ours.keys() - fresh:
        if theirs[name].shape != ours[name].shape:
            shapes = f"{name} has shape {tuple(theirs[name].shape)}"
            raise CheckpointError(str(folder), shapes, f"the model's has {tuple(ours[name].shape)}", hint)
    with torch.no_grad():
        for name in ours.keys() - fresh:
            ours[name].copy_(theirs[name])
    new = init.head == "new"
    model.origin = found.origin.headless() if new and found.origin is not None else found.origin
    if not new:
        model.generation = found.generation  # the same head writes as before
    return sorted(fresh & ours.keys())


def freeze(model: nn.Module, patterns: Sequence[str]) -> int:
    """Take the parameters whose name matches a pattern out of training; returns how many numbers that are."""
    named, count = dict(model.named_parameters()), 0
    for pattern in patterns:
        found = [name for name in named if fnmatchcase(name, pattern)]
        if not found:
            raise SpecError("train.freeze", f"{pattern!r} matches no parameter", "wish a pattern such as embedding.*",
                            nearest(pattern, named))  # fmt: skip
        for name in found:
            count += named[name].numel() if named[name].requires_grad else 0
            named[name].requires_grad_(False)
    if not any(p.requires_grad for p in named.values()):
        raise SpecError("train.freeze", "matches every parameter", "must leave some to train")
    return count

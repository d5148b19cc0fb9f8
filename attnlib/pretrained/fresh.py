"""A head that is meant to be fresh: what the file holds of its own is left out, by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attnlib.models.block import Block
from attnlib.models.heads import HeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.nn.init import initialise
from attnlib.pretrained.table import Plan
from attnlib.spec import read

HEAD = "head."
LEFT_OUT = "left out, the head is new"


@dataclass(frozen=True)
class New:
    """A part to begin anew instead of reading it."""

    spec: HeadSpec


def new(head: HeadSpec | Mapping[str, Any] | str) -> New:
    """The head that a loaded model is to have in place of its file's: `load(folder, head=new({"kind": "classify", ...}))`.

    It is drawn by the model's own `init` from torch's generator. SpecErrors where it is none.
    """
    return New(head if isinstance(head, HeadSpec) else read(HeadSpec, head, path="head"))


def without_head(plan: Plan) -> Plan:
    """The plan, reading nothing into the head."""
    kept = [step for step in plan.steps if not any(name.startswith(HEAD) for name in step.makes)]
    dropped = [name for step in plan.steps if step not in kept for name in step.reads]
    facts = {name: fact for name, fact in plan.facts.items() if not name.startswith(HEAD)}
    return replace(plan, steps=kept, facts=facts, ignored={**plan.ignored, **dict.fromkeys(dropped, LEFT_OUT)})


def drawn_head(model: nn.Module, spec: ModelSpec, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a meta model's head, drawn on the CPU, by their names in the model."""
    holder = nn.Module()
    if isinstance(model.head, nn.Module):
        holder.head = copy.deepcopy(model.head).to_empty(device="cpu")
    initialise(holder, spec.init, sum(isinstance(module, Block) for module in model.modules()))
    return dict(holder.to(dtype).state_dict())

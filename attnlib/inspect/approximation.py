"""How far attention that approximates is from what it approximates, both with the same projections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attnlib.attention.scope import Scope
from attnlib.attention.softmax import MixerSpec
from attnlib.layout import Layout
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec

MOST = 1024  # tokens that are compared at most: what is approximated takes work that grows as their square


def approximations(spec: ModelSpec, tokens: int, *, seed: int = 0) -> dict[str, float]:
    """The distance of every attention of a model that approximates another, by its path: see `distance`."""
    found: dict[str, float] = {}
    known: dict[tuple[MixerSpec, int | None], float | None] = {}  # layers alike draw other numbers, and differ as much
    d_model: int = spec.d_model  # every kind of model has one
    for name in type(spec).model_fields:
        if not isinstance(stack := getattr(spec, name), StackSpec):
            continue
        path = type(spec).kind if name == "stack" else name
        for number, block in enumerate(stack.layers):
            for side, mixer in (("self", block.attention), ("cross", block.cross)):
                if mixer is None:
                    continue
                key = (mixer, d_model if side == "cross" else None)
                if key not in known:
                    known[key] = distance(mixer, min(tokens, MOST), d_model=d_model, d_memory=key[1], seed=seed)
                if (away := known[key]) is not None:
                    found[f"{path}.{number}.{side}"] = away
    return found


@torch.no_grad()
def distance(spec: MixerSpec, tokens: int, *, d_model: int, d_memory: int | None = None, seed: int = 0) -> float | None:
    """|approximated - exact| / |exact| over the outputs of two random texts; None where the spec approximates nothing.

    Weights, and what an approximation learns beside, are drawn N(0, 1 / width), so that scores have about variance 1.
    """
    exact = spec.exact()
    if exact is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ours, theirs = (one.build(d_model=d_model, layer=0, d_memory=d_memory).eval() for one in (spec, exact))
        for parameter in ours.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
        x, source = torch.randn(2, tokens, d_model), torch.randn(2, tokens, d_memory or 1)
    return between(ours, theirs, x, None if d_memory is None else source)


def between(ours: nn.Module, exact: nn.Module, x: Tensor, source: Tensor | None = None) -> float:
    """|ours - exact| / |exact| of x [B, T, M], and a source [B, S, N], once the exact mixer has the weights of ours."""
    held = ours.state_dict()
    exact.load_state_dict({name: held[name] for name in exact.state_dict()})
    a, b = (_output(mixer, x, source) for mixer in (ours, exact))
    return float((a - b).norm() / b.norm())


def _output(mixer: Any, x: Tensor, source: Tensor | None) -> Tensor:
    layout = Layout.dense(x.shape[0], x.shape[1], device=x.device)
    memory = None if source is None else mixer.remember(source, Layout.dense(*source.shape[:2], device=x.device))
    return mixer(x, layout, Scope(), memory=memory)  # type: ignore[no-any-return]

"""Heads turned down: gates on what each head adds, and heads taken out altogether."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from attnlib.errors import UsageError
from attnlib.inspect.choice import Chosen, choose, heads_of
from attnlib.inspect.sites import Look, Site, sites


@contextmanager
def gated(model: nn.Module, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """While open, each head's mix of values [B, T, H, D] is multiplied by its gate, before the out projection.

    gates: [H] by an attention's path or pattern ("decoder.3.self"); gradients reach them. 1 changes nothing, 0 ablates.
    Raises UsageError for paths that there are not and for gates of another length.
    """
    with ExitStack() as stack:
        for path, gate in gates.items():
            for one in choose(model, path):
                if gate.shape != (heads_of(one.mixer),):
                    raise UsageError(one.path, f"{list(gate.shape)} gates", f"must be [{heads_of(one.mixer)}], one a head")
                stack.callback(_site(model, one).attach(_multiplied(gate)).remove)
        yield


@contextmanager
def ablated(model: nn.Module, heads: int | str | Sequence[int | str]) -> Iterator[None]:
    """While open, heads add nothing: `with ablated(model, ["decoder.3.self.5", "decoder.4.self.0"]):`.

    heads: a path with a number or a pattern; a number alone is that head of every attention. No head: nothing changes.
    Raises UsageError for heads that there are not.
    """
    listed = [heads] if isinstance(heads, int | str) else list(heads)
    gates = {}
    for one in choose(model, heads=listed) if listed else ():
        gate = torch.ones(heads_of(one.mixer))
        gate[list(one.heads or ())] = 0.0
        gates[one.path] = gate
    with gated(model, gates):
        yield


def _multiplied(gate: Tensor) -> Look:
    return lambda mixed: mixed * gate.to(mixed)[:, None]


def _site(model: nn.Module, one: Chosen) -> Site:
    out = getattr(one.mixer, "out", None)
    for name, site in sites(model).items():
        if site.module is out and name.endswith(".heads"):
            return site
    raise UsageError(one.path, f"{type(one.mixer).__name__} keeps no heads apart", "wish attention of several heads")

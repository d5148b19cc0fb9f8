"""Heads turned down by gates on what each adds, or taken out: zeros in their place, or what they say on average."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from attnlib.errors import UsageError
from attnlib.inspect.choice import Chosen, attentions, choose, heads_of
from attnlib.inspect.sites import Look, Site, sites
from attnlib.layout import Layout

Heads = int | str | Sequence[int | str]


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
def ablated(model: nn.Module, heads: Heads, instead: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """While open, heads say nothing of the text: `with ablated(model, ["decoder.3.self.5", "decoder.4.self.0"]):`.

    heads: a path with a number or a pattern; a number alone is that head of every attention. No head: nothing changes.
    instead: what stands in the place of their mixes of values, [H, D] by path, such as `mean_mixes`; None = zeros.
    Raises UsageError for heads that there are not.
    """
    listed = [heads] if isinstance(heads, int | str) else list(heads)
    with ExitStack() as stack:
        for one in choose(model, heads=listed) if listed else ():
            gone = torch.zeros(heads_of(one.mixer), dtype=torch.bool)
            gone[list(one.heads or ())] = True
            put = None if instead is None else instead[one.path]
            stack.callback(_site(model, one).attach(_replaced(gone, put)).remove)
        yield


def mean_mixes(model: nn.Module, run: Callable[[], object], layout: Layout) -> dict[str, Tensor]:
    """The mean over all tokens of each head's mix of values, [H, D] by path, in one forward `run` with its layout.

    Put in the place of a head, it takes away what the head tells of single tokens and leaves what it always adds
    (mean ablation, Wang et al. 2022, arXiv:2211.00593). Of the stack that the layout is of.
    """
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for one in attentions(model):
            stack.callback(_site(model, one).attach(_averaged(found, one.path, layout)).remove)
        run()
    return found


def _averaged(into: dict[str, Tensor], path: str, layout: Layout) -> Look:
    def look(mixed: Tensor) -> None:
        into[path] = (mixed if layout.real is None else mixed[layout.real]).detach().flatten(0, -3).mean(0)

    return look


def _replaced(gone: Tensor, put: Tensor | None) -> Look:
    def look(mixed: Tensor) -> Tensor:
        return torch.where(gone.to(mixed.device)[:, None], mixed.new_zeros(()) if put is None else put.to(mixed), mixed)

    return look


def _multiplied(gate: Tensor) -> Look:
    return lambda mixed: mixed * gate.to(mixed)[:, None]


def _site(model: nn.Module, one: Chosen) -> Site:
    out = getattr(one.mixer, "out", None)
    for name, site in sites(model).items():
        if site.module is out and name.endswith(".heads"):
            return site
    raise UsageError(one.path, f"{type(one.mixer).__name__} keeps no heads apart", "wish attention of several heads")

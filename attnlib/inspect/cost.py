"""Cost curves: what a forward of n tokens costs in work and memory, for growing n; predicted from a config alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log
from typing import Any

import torch
from torch import nn

from attnlib.errors import LayoutError
from attnlib.inspect.counting import Counting
from attnlib.inspect.describe import cache_bytes, longest_of, run_once
from attnlib.inspect.on_meta import fresh
from attnlib.models.block import Block
from attnlib.models.spec import ModelSpec
from attnlib.nn.meta import on_meta

MOST = 1 << 20  # tokens that are counted at most


@dataclass(frozen=True)
class Cost:
    """A forward without gradients of `batch` rows of `tokens` tokens (source and target alike).

    flops: multiply and add count as two; every pair of a fused kernel counts, causal or not. memory: most bytes alive at
    once beyond weights. mixer_flops: of all attentions and other mixers with their projections; mixer_memory: the most
    that one of them takes. cache, rolling, state: bytes of one row after so many tokens: columns that grow, those that a
    rolling cache keeps, and states that do not grow; None = nothing is cached. seconds, measured_memory: on this machine.
    """

    tokens: int
    flops: int
    mixer_flops: int
    memory: int
    mixer_memory: int
    cache: int | None
    rolling: int | None
    state: int | None
    seconds: float | None = None
    measured_memory: int | None = None


FIGURES = ("flops", "mixer_flops", "memory", "mixer_memory", "cache", "rolling", "state", "seconds", "measured_memory")


@dataclass(frozen=True)
class Curve:
    """The costs of one model by length. backends: what computes its attentions at the greatest, and how many of them."""

    name: str
    costs: tuple[Cost, ...]
    backends: Mapping[str, int]

    def points(self, figure: str) -> dict[int, float]:
        """What is known of a figure by tokens."""
        found = {one.tokens: getattr(one, figure) for one in self.costs}
        return {tokens: float(value) for tokens, value in found.items() if value is not None}

    def exponents(self) -> dict[str, float | None]:
        """For each figure b of figure = a n^b, fitted; None where fewer than two lengths have a figure above 0."""
        return {figure: exponent(self.points(figure)) for figure in FIGURES}

    def as_dict(self) -> dict[str, Any]:
        rows = [asdict(one) for one in self.costs]
        return {"name": self.name, "backends": dict(self.backends), "costs": rows, "exponents": self.exponents()}


def exponent(points: Mapping[int, float]) -> float | None:
    """b of y = a x^b, by least squares in logarithms; None where fewer than two points are above 0."""
    pairs = [(log(x), log(y)) for x, y in points.items() if y > 0]
    if len(pairs) < 2:
        return None
    mx, my = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
    slope: float = sum((x - mx) * (y - my) for x, y in pairs) / sum((x - mx) ** 2 for x, _ in pairs)
    return slope


def cost(
    spec: ModelSpec,
    tokens: Iterable[int],
    *,
    name: str | None = None,
    batch: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: str = "auto",
) -> Curve:
    """Predicted FLOPs, memory and cache bytes of a model's forward for each number of tokens; nothing is allocated.

    The model runs on the meta device with the backends that `device` would choose. Raises LayoutError for a length below 1,
    or beyond the model's positions, UsageError where a part of the model has no count.
    """
    with on_meta():
        model = spec.build().to(dtype).eval()
    lengths = [*dict.fromkeys(tokens)]
    check_lengths(lengths, longest_of(model))
    costs: list[Cost] = []
    chosen: Mapping[str, str] = {}
    for n in lengths:
        one, chosen = _counted(model, n, batch, device, backend)
        costs.append(one)
    counts = {kind: [*chosen.values()].count(kind) for kind in dict.fromkeys(chosen.values())}
    return Curve(name or type(spec).kind, tuple(costs), counts)


def check_lengths(lengths: Sequence[int], longest: int | None) -> None:
    """Raises LayoutError unless there are lengths, each from 1 to what a model takes."""
    if not lengths:
        raise LayoutError("tokens", "has no lengths", "wish at least one")
    for n in lengths:
        if n < 1 or n > MOST:
            raise LayoutError("tokens", f"are {n}", f"wish 1 to {MOST}")
        if longest is not None and n > longest:
            raise LayoutError("tokens", f"are {n}", f"the model's positions end at {longest}")


def mixers_of(model: nn.Module) -> dict[str, Any]:
    """The mixers of all blocks by their path, those of cross-attention included."""
    found: dict[str, Any] = {}
    for path, block in model.named_modules():
        if isinstance(block, Block):
            sides = {"attention": block.attention, "cross": block.cross}
            found |= {f"{path}.{side}.body": part.body for side, part in sides.items() if part is not None}
    return found


def _counted(
    model: nn.Module, tokens: int, batch: int, device: torch.device | str, backend: str
) -> tuple[Cost, Mapping[str, str]]:
    mixers = mixers_of(model)
    ids, layout = torch.zeros(batch, tokens, dtype=torch.long, device="meta"), fresh(batch, tokens, device="meta")
    seen = Counting(model, ids, layout.positions, device=device, backend=backend)
    with seen, seen.peaks_of([*mixers.values()]) as peaks:
        run_once(model, ids, layout)
    growing, state = cache_bytes(model, tokens, "growing")
    lets_go = any(body.keeps().last is not None and not getattr(body, "stateful", False) for body in mixers.values())
    rolling = cache_bytes(model, tokens, "rolling")[0] if lets_go and growing else growing
    by_module = seen.by_module()
    within = sum(by_module.get(path, 0) for path in mixers)
    found = Cost(tokens, seen.flops, within, seen.peak, max(peaks, default=0), growing, rolling,
                 None if growing is None else state)  # fmt: skip
    return found, dict(seen.backends)

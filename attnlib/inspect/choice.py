"""Which attentions and heads of a model are meant: by number, by path, or all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from attnlib.attention.softmax import SoftmaxAttention
from attnlib.errors import UsageError, nearest
from attnlib.models.block import Block

Names = int | str | Sequence[int | str] | None

_LAYER = re.compile(r"\.(\d+)\.[^.]+$")


@dataclass(frozen=True, eq=False)
class Chosen:
    """An attention of the model: its path, its module, which of its heads (None = all), whether it reads another text."""

    path: str
    mixer: nn.Module
    heads: tuple[int, ...] | None = None
    cross: bool = False

    @property
    def softmax(self) -> bool:
        """Whether it passes the attention's door, where weights can be recomputed."""
        return isinstance(self.mixer, SoftmaxAttention) and not hasattr(self.mixer, "implied_weights")

    @property
    def layer(self) -> int | None:
        """Its number in its stack."""
        found = _LAYER.search(self.path)
        return int(found[1]) if found else None


def attentions(model: nn.Module) -> list[Chosen]:
    """Every mixer of a model, in its order, under its path; where two share one, under the modules' names."""
    found: dict[int, tuple[str, nn.Module, bool]] = {}
    for name, module in model.named_modules():
        mixers: list[nn.Module] = [module] if isinstance(module, SoftmaxAttention) else []
        if isinstance(module, Block):
            mixers = [part.body for part in (module.attention, module.cross) if part is not None]
        for mixer in mixers:
            found.setdefault(id(mixer), (name, mixer, isinstance(module, Block) and mixer is not module.attention.body))
    twice = Counter(str(getattr(mixer, "path", "")) for _, mixer, _ in found.values())
    chosen = []
    for name, mixer, cross in found.values():
        path = str(getattr(mixer, "path", ""))
        chosen.append(Chosen(path if path and twice[path] == 1 else name or path, mixer, cross=cross))
    return chosen


def choose(model: nn.Module, layers: Names = None, heads: Names = None) -> list[Chosen]:
    """The attentions of `layers` with their `heads`.

    layers: numbers (of every stack) or path patterns ("decoder.*.cross"); None = all.
    heads: numbers (of each attention) or a path with a number ("decoder.3.self.5"); None = all.
    Raises UsageError for what the model does not have.
    """
    known = attentions(model)
    if not known:
        raise UsageError("model", f"a {type(model).__name__} has no attention", "wish a model with one")
    picked = known if layers is None else _by_layer(known, _listed(layers))
    return picked if heads is None else _by_head(picked, _listed(heads))


def _listed(names: int | str | Sequence[int | str]) -> list[int | str]:
    listed: list[int | str] = [names] if isinstance(names, int | str) else list(names)
    for name in listed:
        if isinstance(name, bool) or not isinstance(name, int | str):
            raise UsageError("layers and heads", f"{name!r:.40} is neither a number nor a path",
                             "wish 0 or 'decoder.0.self'")  # fmt: skip
    return listed


def _by_layer(known: list[Chosen], names: list[int | str]) -> list[Chosen]:
    numbers = sorted({one.layer for one in known if one.layer is not None})
    for name in names:
        if isinstance(name, int) and name not in numbers:
            raise UsageError("layers", f"{name} is out of range", f"the model's are {_span(numbers)}")
        if isinstance(name, str) and not any(fnmatchcase(one.path, name) for one in known):
            paths = [one.path for one in known]
            raise UsageError("layers", f"{name!r} matches no attention", f"wish one such as {', '.join(paths[:3])}",
                             nearest(name, paths))  # fmt: skip
    return [one for one in known if any(one.layer == n if isinstance(n, int) else fnmatchcase(one.path, n) for n in names)]


def _by_head(picked: list[Chosen], names: list[int | str]) -> list[Chosen]:
    found: list[Chosen] = []
    met: set[int | str] = set()
    for one in picked:
        count = heads_of(one.mixer)
        here = set()
        for name in names:
            path, _, number = name.rpartition(".") if isinstance(name, str) else ("*", "", str(name))
            if fnmatchcase(one.path, path) and number.isascii() and number.isdigit() and int(number) < count:
                here.add(int(number))
                met.add(name)
        if here:
            found.append(replace(one, heads=tuple(sorted(here))))
    missing = [name for name in names if name not in met]
    if missing or not found:
        counts = sorted({heads_of(one.mixer) for one in picked})
        fact = f"{missing[0]!r} is out of range" if missing else "none is named"
        raise UsageError("heads", fact, f"each attention has {' or '.join(map(str, counts))} heads, numbered from 0",
                         f"or {picked[0].path}.0")  # fmt: skip
    return found


def heads_of(mixer: Any) -> int:
    """How many heads a mixer says it has."""
    return int(getattr(mixer, "num_heads", 1))


def unweighed(mixer: nn.Module) -> str:
    """Why a mixer has no weights to show."""
    return f"{type(mixer).__name__} {getattr(mixer, 'why_no_weights', '') or 'defines no implied_weights'}"


def _span(numbers: list[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if numbers else "not numbered"

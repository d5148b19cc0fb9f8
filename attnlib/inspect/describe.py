"""describe: what a config would build, from the meta device alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnlib.attention.beside import BesideCache
from attnlib.attention.caches import LayerCache
from attnlib.attention.state_cache import StateCache
from attnlib.errors import LayoutError
from attnlib.inspect.counting import Counting
from attnlib.inspect.on_meta import Skipped, fresh
from attnlib.layout import Layout
from attnlib.models.decoder import Decoder
from attnlib.models.encoder_decoder import EncoderDecoder
from attnlib.models.spec import ModelSpec
from attnlib.models.state import DecodingState
from attnlib.nn.meta import on_meta


@dataclass(frozen=True)
class Row:
    """One module: its path, class, the shapes of its own parameters, all parameters below it and FLOPs of a forward.

    same: the path of the module before it whose weights are its own too, counted there; what lies below is left out.
    """

    path: str
    name: str
    shapes: dict[str, tuple[int, ...]]
    parameters: int
    flops: int
    same: str = ""


@dataclass(frozen=True)
class Description:
    """What a model is made of and what it costs, for `batch` rows of `tokens` tokens (source and target alike)."""

    kind: str
    rows: tuple[Row, ...]
    parameters: int
    flops: int
    tokens: int
    batch: int
    cache_bytes_per_token: float | None
    cache_bytes_rolling: int | None
    state_bytes: int = 0  # of recurrences and of memory tokens with their segment, in one row: they do not grow

    def text(self) -> str:
        """The module tree as people read it."""
        lines = [f"{self.kind}: {self.parameters:,} parameters, {_short(self.flops)}FLOP a forward"
                 f" ({self.batch} x {self.tokens} tokens)"]  # fmt: skip
        if self.cache_bytes_per_token is not None:
            rolling = self.cache_bytes_rolling or 0
            lines.append(f"cache: {self.cache_bytes_per_token:,.0f} bytes a token growing; rolling, {rolling:,} bytes"
                         f" after {self.tokens} tokens")  # fmt: skip
        if self.state_bytes:
            lines.append(f"state: {self.state_bytes:,} bytes after {self.tokens} tokens, of what does not grow with them")
        width = max(len("  " * row.path.count(".") + row.path.rpartition(".")[2]) for row in self.rows) + 2
        for row in self.rows:
            label = "  " * row.path.count(".") + (row.path.rpartition(".")[2] or "model")
            shapes = "  ".join(f"{name} {list(shape)}" for name, shape in row.shapes.items())
            shapes = f"the weights of {row.same}" if row.same else shapes
            cost = f"{_short(row.flops)}FLOP" if row.flops else ""
            lines.append(f"{label:{width}}{row.name:18}{row.parameters:>14,}  {cost:>11}  {shapes}".rstrip())
        return "\n".join(lines)


def describe(
    spec: ModelSpec, *, tokens: int | None = None, batch: int = 1, dtype: torch.dtype = torch.float32
) -> Description:
    """Shapes, parameters, FLOPs (multiply and add count as two) and cache bytes of the model that `spec` builds.

    Nothing is allocated: the model is built and run on the meta device, so a part of one's own is counted like any other.
    Raises LayoutError for more tokens than the model has positions for.
    """
    with on_meta():
        model = spec.build().to(dtype).eval()
        length = longest_of(model)
        if length is not None and tokens is not None and tokens > length:
            raise LayoutError("tokens", f"are {tokens}", f"the model's positions end at {length}")
        tokens = tokens or min(length or 128, 128)
    with Counting(model) as counted:
        run_once(model, torch.zeros(batch, tokens, dtype=torch.long), fresh(batch, tokens))
    counts = counted.by_module()
    growing, state = cache_bytes(model, tokens, "growing")
    rolling, _ = cache_bytes(model, tokens, "rolling")
    rows = tuple(
        Row(path, type(module).__name__, {n: tuple(p.shape) for n, p in module.named_parameters(recurse=False)},
            sum(p.numel() for p in module.parameters()), counts.get(path, 0), same)
        for path, module, same in _modules(model)
    )  # fmt: skip
    return Description(
        type(spec).kind, rows, rows[0].parameters, counted.flops, tokens, batch,
        None if growing is None else growing / tokens, rolling, state,
    )  # fmt: skip


def _each(caches: Iterable[LayerCache]) -> Iterator[LayerCache]:
    """Caches, and those that stand beside each other in one."""
    for cache in caches:
        yield from cache.parts if isinstance(cache, BesideCache) else (cache,)


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(path, module, path of an earlier one with the same weights) of what has weights, without what lies below a repeat."""
    seen: dict[tuple[int, ...], str] = {}
    repeated: list[str] = []
    for path, module in model.named_modules():
        held = tuple(id(p) for p in module.parameters())
        if (path and not held) or any(path.startswith(f"{above}.") for above in repeated):
            continue
        first = seen.setdefault(held, path)
        same = "" if first == path or path.startswith(f"{first}.") or not first else first
        if same:
            repeated.append(path)
        yield path, module, same


def longest(spec: ModelSpec) -> int | None:
    """Most tokens that the model of a spec takes; None = no bound."""
    with on_meta():
        return longest_of(spec.build())


def longest_of(model: nn.Module) -> int | None:
    """Most tokens that a model takes, of a source and of a text; None = no bound."""
    found = [getattr(model, name, None) for name in ("max_length", "max_source_length")]
    return min((length for length in found if length is not None), default=None)


def run_once(model: nn.Module, ids: Tensor, layout: Layout) -> None:
    """A forward over ids [B, T], of a pair with a source of as many places."""
    if isinstance(model, EncoderDecoder):
        if getattr(model, "features", None) is not None:
            model(blank_source(model, ids), ids)
        else:
            model(ids, ids, layout, layout)
    else:
        model(ids, layout)


def blank_source(model: nn.Module, ids: Tensor) -> Tensor:
    """What an encoder reads for as many places as there are ids [B, T]: these, or features [B, C, frames]."""
    features = getattr(model, "features", None)
    if features is None:
        return ids
    frames, dtype = ids.shape[1] * features.stride, next(features.parameters()).dtype
    return torch.zeros(ids.shape[0], features.channels, frames, dtype=dtype, device=ids.device)


def cache_bytes(model: nn.Module, tokens: int, cache: str) -> tuple[int | None, int]:
    """Of a model on the meta device: bytes of one row's columns after `tokens` tokens, None where nothing is cached; and
    bytes of its states."""
    if not isinstance(model, Decoder | EncoderDecoder):
        return None, 0
    with Counting(model, door=Skipped()):
        ids = torch.zeros(1, tokens, dtype=torch.long)
        state = model.begin(blank_source(model, ids), cache=cache, batch=1)
        for at in (slice(0, tokens - 1), slice(tokens - 1, tokens)):  # a rolling cache lets go when the next token comes
            if at.stop > at.start:
                advance(model, ids[:, at], state)
        fixed = sum(cache.nbytes() for cache in _each(state.caches) if isinstance(cache, StateCache))
        return state.nbytes() - fixed, fixed


def advance(model: Decoder | EncoderDecoder, ids: Tensor, state: DecodingState, layout: Layout | None = None) -> Tensor:
    """Append tokens [B, T] to every row of a state, of a model with or without a head; the final stream [B, T, M]."""
    layout = layout or state.following(ids.shape[1])
    state.count(layout)
    if isinstance(model, Decoder):
        last: Tensor = model(ids, layout, state=state, head=False).last
    else:
        table = model.decoder_embedding or model.embedding
        last = model.decoder(table(ids, layout), layout, state=state).last
    return last


def _short(n: int) -> str:
    value = float(n)
    for unit in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} P"

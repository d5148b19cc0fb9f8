"""Layout: where each token of a batch stands. Padding, packing and unwritten cache slots are one thing: segments."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnlib.errors import LayoutError

PREFIX, GLOBAL = 1, 2  # bits of a tag

Runs = tuple[tuple[int, int, int], ...]


class Coordinates(NamedTuple):
    """One side of a score: any broadcastable integer tensors (inside a compiled kernel: scalars)."""

    position: Tensor  # place inside the token's own segment
    segment: Tensor  # which sequence of the row it belongs to, -1 = no token
    column: Tensor  # column of the batch
    row: Tensor  # row of the batch
    head: Tensor  # query head
    tag: Tensor  # bits: PREFIX, GLOBAL


@dataclass(frozen=True, eq=False)
class Layout:
    """Where B rows of T tokens stand. Tensors tell kernels; the host facts beside them choose paths without a sync.

    positions:  [B, T] int64, place of a token inside its own segment, counting real tokens only.
    segments:   [B, T] int64, -1 = no token; None = every token real, one segment a row.
    start:      positions are start .. start+T in every row; None = not so, or not known.
    runs:       (row, first column, length) of each segment, where they are contiguous and begin at position 0.
    extent:     largest position + 1; None = not known.
    counts:     real tokens of each row; None = all columns, or not known.
    tags:       [B, T] int64 bits (PREFIX, GLOBAL) read by the masks of those names.
    encoded_at: [B, T] what position tables and rotary read; by default the positions.
    """

    positions: Tensor
    segments: Tensor | None = None
    start: int | None = None
    runs: Runs | None = None
    extent: int | None = None
    tags: Tensor | None = None
    encoded_at: Tensor | None = None
    counts: tuple[int, ...] | None = None
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)  # lowered forms of these tensors; nothing learned

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """`make()`, kept beside the layout under `key`; a traced graph shares equal expressions by itself."""
        if torch.compiler.is_compiling():
            return make()
        found = self.memo.get(key)
        if found is None:
            with torch.inference_mode(False):  # an inference tensor could not be saved for a later backward
                found = self.memo.setdefault(key, make())
        return found

    @property
    def batch(self) -> int:
        return self.positions.shape[0]

    @property
    def tokens(self) -> int:
        return self.positions.shape[1]

    @property
    def device(self) -> torch.device:
        return self.positions.device

    @property
    def is_dense(self) -> bool:
        """Static: nothing missing, nothing tagged, positions counted from `start` in every row."""
        return self.start is not None and self.segments is None and self.tags is None

    @property
    def encoding(self) -> Tensor:
        """[B, T] the positions that learned tables, sinusoids and rotary read."""
        return self.positions if self.encoded_at is None else self.encoded_at

    @property
    def real(self) -> Tensor | None:
        """[B, T] bool: which columns hold a token; None = all."""
        return None if self.segments is None else self.segments >= 0

    @property
    def lengths(self) -> tuple[int, ...] | None:
        """Real tokens of each row, where the host knows them."""
        return (self.tokens,) * self.batch if self.segments is None else self.counts

    # -- for tools that read no values -------------------------------------------------------------------------------

    def derived(self, source: Layout, how: Callable[[Layout], Layout]) -> Layout:
        """This layout, which on the meta device remembers that it is `how(source)`."""
        if self.device.type == "meta":
            self.memo["derived"] = (source, how)
        return self

    def readable(self, leaf: Callable[[Layout], Layout]) -> Layout:
        """The same layout where values are: made again, as it was derived, from what `leaf` gives for its source."""
        found = self.memo.get("derived")
        return leaf(self) if found is None else found[1](found[0].readable(leaf))

    # -- making -----------------------------------------------------------------------------------------------------

    @staticmethod
    def of(positions: Tensor, segments: Tensor | None = None, **facts: Any) -> Layout:
        """A layout from tensors alone; host facts that are not given stay unknown."""
        if positions.dim() != 2 or (segments is not None and segments.shape != positions.shape):
            shapes = f"{tuple(positions.shape)} and {None if segments is None else tuple(segments.shape)}"
            raise LayoutError("layout", f"positions and segments of shape {shapes}", "both must be [batch, tokens]")
        return Layout(positions.long(), None if segments is None else segments.long(), **facts)

    @staticmethod
    def dense(batch: int, tokens: int, *, start: int = 0, device: torch.device | str | None = None) -> Layout:
        """Every row full: positions start .. start+tokens. Interned, so that what was lowered for it survives."""
        where = torch.device(device) if isinstance(device, str) else device or torch.get_default_device()
        if torch.compiler.is_compiling():
            return _dense(batch, tokens, start, where)
        key = (batch, tokens, start, where)
        found = _interned.get(key)
        if found is not None:
            return found
        if batch < 0 or tokens < 0 or start < 0:
            raise LayoutError("layout", f"batch {batch}, tokens {tokens}, start {start}", "none may be below 0")
        made = _dense(batch, tokens, start, where)
        if type(made.positions) is Tensor:  # never keep a fake tensor beyond its mode
            with _lock:
                _interned[key] = made
                while len(_interned) > _INTERNED_AT_MOST:
                    _interned.popitem(last=False)
        return made

    @staticmethod
    def from_lengths(
        lengths: Sequence[int],
        tokens: int | None = None,
        *,
        side: str = "right",
        starts: Sequence[int] | None = None,
        device: torch.device | str | None = None,
    ) -> Layout:
        """Ragged rows padded on one `side` to `tokens` columns; `starts` is the position of each row's first token."""
        lengths = [int(n) for n in lengths]
        tokens = max(lengths, default=0) if tokens is None else tokens
        starts = [0] * len(lengths) if starts is None else [int(s) for s in starts]
        if side not in ("left", "right"):
            raise LayoutError("layout.side", f"is {side!r}", "must be 'left' or 'right'")
        if len(starts) != len(lengths) or any(s < 0 for s in starts):
            raise LayoutError("layout.starts", f"{starts} for {len(lengths)} rows", "must be one position >= 0 a row")
        if any(n < 0 or n > tokens for n in lengths):
            raise LayoutError("layout.lengths", f"{lengths} in {tokens} columns", f"each must lie in 0..{tokens}")
        if all(n == tokens for n in lengths) and len(set(starts)) <= 1:
            return Layout.dense(len(lengths), tokens, start=starts[0] if starts else 0, device=device)
        first = [tokens - n if side == "left" else 0 for n in lengths]
        runs = tuple((row, first[row], n) for row, n in enumerate(lengths) if n)
        return Layout._of_runs(len(lengths), tokens, runs, [starts[row] for row, _, _ in runs], device, number=False)

    @staticmethod
    def packed(
        lengths: Sequence[Sequence[int]], tokens: int | None = None, *, device: torch.device | str | None = None
    ) -> Layout:
        """Several segments a row, end to end; positions restart with each; what is left of a row holds no token."""
        tokens = max((sum(row) for row in lengths), default=0) if tokens is None else tokens
        runs: list[tuple[int, int, int]] = []
        for row, parts in enumerate(lengths):
            at = 0
            for n in parts:
                runs.append((row, at, int(n)))
                at += int(n)
            if at > tokens or any(n < 1 for n in parts):
                raise LayoutError("layout.packed", f"row {row} holds segments of {list(parts)}",
                                  f"lengths must be at least 1 and add up to at most {tokens}")  # fmt: skip
        return Layout._of_runs(len(lengths), tokens, tuple(runs), [0] * len(runs), device, number=True)

    @staticmethod
    def from_mask(attention_mask: Tensor) -> Layout:
        """From a [B, T] mask of ones (token) and zeros (none), as people have it. Read once, here; all ones is dense."""
        if attention_mask.dim() != 2:
            raise LayoutError("attention_mask", f"has shape {tuple(attention_mask.shape)}", "must be [batch, tokens]",
                              "a mask over pairs goes to attend(mask=...)")  # fmt: skip
        batch, tokens = attention_mask.shape
        host = attention_mask.detach().to("cpu")
        real = host != 0
        if host.dtype != torch.bool and not torch.equal(real.to(host.dtype), host):
            raise LayoutError("attention_mask", "holds other values than 0 and 1", "must be 1 (token) or 0 (none)",
                              "a mask that is added to scores goes to attend(attn_mask=...)")  # fmt: skip
        if bool(real.all()):
            return Layout.dense(batch, tokens, device=attention_mask.device)
        runs: list[tuple[int, int, int]] = []
        lengths = real.sum(1).tolist()
        firsts = real.int().argmax(1).tolist()
        whole = all(bool(real[b, f : f + n].all()) for b, (f, n) in enumerate(zip(firsts, lengths)))
        if whole:
            runs = [(b, f, n) for b, (f, n) in enumerate(zip(firsts, lengths)) if n]
        positions = (real.long().cumsum(1) - 1).clamp(min=0)
        segments = torch.where(real, 0, -1)
        return Layout(
            positions.to(attention_mask.device),
            segments.to(attention_mask.device),
            runs=tuple(runs) if whole else None,
            extent=max(lengths, default=0),
            counts=tuple(lengths),
        )

    @staticmethod
    def _of_runs(batch: int, tokens: int, runs: Runs, starts: Sequence[int], device: Any, *, number: bool) -> Layout:
        with torch.inference_mode(False):
            positions = torch.zeros(batch, tokens, dtype=torch.long)
            segments = torch.full((batch, tokens), -1, dtype=torch.long)
        seen: dict[int, int] = {}
        for (row, at, n), first in zip(runs, starts):
            positions[row, at : at + n] = torch.arange(first, first + n)
            segments[row, at : at + n] = seen.get(row, 0)
            seen[row] = seen.get(row, 0) + 1 if number else 0
        full = sum(n for _, _, n in runs) == batch * tokens and all(count <= 1 for count in seen.values())
        extent = max((first + n for (_, _, n), first in zip(runs, starts)), default=0)
        known = None if any(starts) else runs  # runs are of whole segments, counted from their first token
        counts = [0] * batch
        for row, _, n in runs:
            counts[row] += n
        device = device or "cpu"
        return Layout(positions.to(device), None if full else segments.to(device), runs=known, extent=extent,
                      counts=tuple(counts))  # fmt: skip

    # -- deriving ---------------------------------------------------------------------------------------------------

    def tagged(self, *, prefix: Sequence[int] | None = None, global_tokens: Tensor | None = None) -> Layout:
        """The same layout, tagged: the first `prefix[b]` positions of row b, and where `global_tokens` [B, T] is true."""
        tags = torch.zeros_like(self.positions) if self.tags is None else self.tags.clone()
        if prefix is not None:
            ends = torch.as_tensor(list(prefix), device=self.device)
            tags |= torch.where(self.positions < ends[:, None], PREFIX, 0)
        if global_tokens is not None:
            tags |= torch.where(global_tokens.to(self.device) != 0, GLOBAL, 0)
        return replace(self, tags=tags, memo={})

    def encoded(self, at: Tensor) -> Layout:
        """The same layout whose position tables and rotary read `at` [B, T] instead of the positions."""
        if at.shape != self.positions.shape:
            raise LayoutError("position_ids", f"have shape {tuple(at.shape)}", f"must be {tuple(self.positions.shape)}")
        return replace(self, encoded_at=at.long(), extent=None, memo={})

    def select(self, rows: Tensor) -> Layout:
        """The rows named, in that order; rows may repeat."""
        if self.start is not None and self.segments is None and self.tags is None and self.encoded_at is None:
            return Layout.dense(len(rows), self.tokens, start=self.start, device=self.device)
        pick = [None if t is None else t.index_select(0, rows) for t in (self.segments, self.tags, self.encoded_at)]
        return Layout(
            self.positions.index_select(0, rows),
            pick[0],
            self.start,
            None,
            self.extent,
            tags=pick[1],
            encoded_at=pick[2],
        )

    def to(self, device: torch.device | str) -> Layout:
        """The same layout on another device."""
        if self.device == torch.device(device):
            return self
        moved = [None if t is None else t.to(device) for t in (self.segments, self.tags, self.encoded_at)]
        return replace(
            self, positions=self.positions.to(device), segments=moved[0], tags=moved[1], encoded_at=moved[2], memo={}
        )

    def coordinates(self, side: str, columns: slice | Tensor = slice(None), heads: int | tuple[int, ...] = 1) -> Coordinates:
        """Broadcastable coordinates: "q" gives [B|1, 1, T, 1], "k" gives [B|1, 1, 1, T]; head is [1, H, 1, 1].

        heads: how many, or which.
        """
        rows, batch = (slice(0, 1), min(1, self.batch)) if self.is_dense else (slice(None), self.batch)
        tokens = self.tokens_in(columns)
        shape = (batch, 1, tokens, 1) if side == "q" else (batch, 1, 1, tokens)
        zero = self.positions.new_zeros(1, 1, 1, 1)

        def lay(t: Tensor | None) -> Tensor:
            return zero if t is None else t[rows, columns].reshape(shape)

        index = torch.arange(self.tokens, device=self.device)[columns].reshape(1, *shape[1:])
        row = torch.arange(self.batch, device=self.device).view(-1, 1, 1, 1)
        named = range(heads) if isinstance(heads, int) else heads
        head = torch.tensor([*named], device=self.device).view(1, -1, 1, 1)
        return Coordinates(lay(self.positions), lay(self.segments), index, row, head, lay(self.tags))

    def tokens_in(self, columns: slice | Tensor) -> int:
        if isinstance(columns, Tensor):
            return columns.shape[0]
        return len(range(*columns.indices(self.tokens)))


def join(first: Layout | None, second: Layout) -> Layout:
    """The columns of both, side by side: what a growing cache holds after new tokens came."""
    if first is None:
        return second
    if first.is_dense and second.is_dense and first.encoded_at is None and second.encoded_at is None:
        assert first.start is not None and second.start is not None
        if first.start + first.tokens == second.start:
            return Layout.dense(first.batch, first.tokens + second.tokens, start=first.start, device=first.device)
    both = (first, second)

    def cat(name: str, fill: str | None = None) -> Tensor | None:
        parts = [getattr(part, name) for part in both]
        if all(part is None for part in parts):
            return None
        rest = [getattr(part, fill) if fill else torch.zeros_like(part.positions) for part in both]
        return torch.cat([r if p is None else p for p, r in zip(parts, rest)], 1)

    extent = None if first.extent is None or second.extent is None else max(first.extent, second.extent)
    return Layout(torch.cat([part.positions for part in both], 1), cat("segments"), None, None, extent,
                  cat("tags"), cat("encoded_at", "positions"))  # fmt: skip


def _dense(batch: int, tokens: int, start: int, device: torch.device) -> Layout:
    with torch.inference_mode(False):  # an inference tensor could not be saved for a later backward
        positions = torch.arange(start, start + tokens, device=device)[None].expand(batch, tokens)
    runs = tuple((row, 0, tokens) for row in range(batch)) if start == 0 and tokens else None
    return Layout(positions, None, start, runs, start + tokens)


_INTERNED_AT_MOST = 64
_interned: OrderedDict[tuple[int, int, int, torch.device], Layout] = OrderedDict()
_lock = threading.Lock()

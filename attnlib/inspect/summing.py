"""Summing up one call of an attention, a block of query rows at a time: the sums that `attnlib.inspect.summaries` names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from attnlib.inspect.rows import Application, Block, Call

TILE = 32  # keys looked at together


class Summing:
    """One call on its way.

    values: name -> [B, h, Q, ...] of each query, on the CPU. sums: name -> [B, h, ...] float64 over the queries.
    """

    def __init__(
        self,
        seen: Application,
        call: Call,
        *,
        top: int,
        windows: Sequence[int],
        sinks: int,
        spans: tuple[Sequence[int], Sequence[int]] | None,
    ) -> None:
        self.seen, self.call, self.windows, self.device = seen, call, tuple(windows), seen.q.device
        self.top = min(top, seen.k.tokens)
        self.ranks = call.k.to(self.device)
        self.positions = seen.q.positions.float(), seen.k.positions.float()
        self.first = (seen.k.positions < sinks).float()  # [B, K]
        self.shift = _shift(seen) if seen.own else None
        self.spans = None if spans is None else [_numbered(*pair) for pair in zip(spans, (call.q, call.k))]
        shape = (seen.q.batch, seen.heads, seen.q.tokens)
        names = ("given", "entropy", "sink", *(("distance",) if seen.own else ()))
        self.values = {name: torch.zeros(shape) for name in names}
        self.values["top_weights"] = torch.zeros(*shape, self.top)
        self.values["top_keys"] = torch.zeros(*shape, self.top, dtype=torch.int32)
        wide: dict[str, tuple[int, ...]] = {}
        if seen.own:
            wide |= {"outside": (len(self.windows),), "outside_most": (len(self.windows),)}
        if self.spans is not None:
            wide["flow"] = (self.spans[0][1], self.spans[1][1])
        self.sums = {name: torch.zeros(*shape[:2], *size, dtype=torch.float64) for name, size in wide.items()}
        self._received = torch.zeros(*shape[:2], seen.k.tokens, dtype=torch.float64, device=self.device)

    def add(self, block: Block) -> None:
        """One block of rows of some heads."""
        _, rows, keys, weights = block
        logs = weights.clamp(min=torch.finfo(weights.dtype).tiny).log_()
        given = weights.sum(-1)
        self._put("entropy", block, -torch.linalg.vecdot(weights, logs))
        self._put("given", block, given)
        self._put("sink", block, (weights @ self.first[:, None, keys, None].to(weights.dtype))[..., 0])
        self._targets(block)
        if self.seen.own:
            q, k = self.positions
            far = (q[:, None, rows, None] - k[:, None, None, keys]).abs_()
            self._put("distance", block, torch.linalg.vecdot(weights, far.to(weights.dtype)) / given.clamp(min=1e-30))
            self._windows(block, far, given)
        self._keys(block)

    def received(self, room: int) -> Tensor:
        """[B, h, room] float64: what the tokens of the text received, each at its number."""
        real = self.ranks[:, None] >= 0
        at = self.ranks.clamp(min=0)[:, None].expand_as(self._received).cpu()
        found = torch.where(real, self._received, 0.0).cpu()
        return found.new_zeros(*found.shape[:2], room).scatter_add_(2, at, found)

    def _put(self, name: str, block: Block, value: Tensor) -> None:
        into = self.values[name][:, block.heads, block.rows]
        (into if value.dim() == 3 else into[..., : value.shape[-1]]).copy_(value)

    def _targets(self, block: Block) -> None:
        top = min(self.top, block.weights.shape[-1])
        if top:
            found, columns = largest(block.weights, top)
            numbers = self.ranks[:, None, None, block.keys].expand(*columns.shape[:3], -1).gather(-1, columns)
            self._put("top_weights", block, found)
            self._put("top_keys", block, numbers)

    def _windows(self, block: Block, far: Tensor, given: Tensor) -> None:
        if not self.windows:
            return
        if self.shift is None:
            lost = torch.stack([(block.weights * (far > n)).sum(-1) for n in self.windows], -1)
        else:
            lost = beyond(block, self.shift, self.windows, self.seen.after, given)
        mean, most = self.sums["outside"], self.sums["outside_most"]
        mean[:, block.heads] += lost.sum(2, dtype=torch.float64).cpu()
        most[:, block.heads] = torch.maximum(most[:, block.heads], lost.amax(2).double().cpu())

    def _keys(self, block: Block) -> None:
        """Over queries; by their spans where there are some, so that the flow costs no look of its own at every weight."""
        heads, rows, keys, weights = block
        if self.spans is None:
            self._received[:, heads, keys] += weights.sum(-2)
            return
        (q, many), (k, others) = self.spans
        met, place = q[:, rows].to(self.device).unique(return_inverse=True)
        member = one_hot(place, len(met)).to(weights.dtype)  # [B, R, s]
        parts = (member.mT[:, None] @ weights).double()  # [B, h, s, N]
        self._received[:, heads, keys] += parts.sum(2)
        label = k.to(self.device)[:, None, None, keys].expand_as(parts)
        flow = parts.new_zeros(*parts.shape[:3], others + 1).scatter_add_(-1, label, parts)[..., :others]
        known = met.cpu() < many
        self.sums["flow"][:, heads, met.cpu()[known]] += flow.cpu()[:, :, known]


def largest(weights: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The `top` largest of each row and their columns: looked for in the tiles that have the largest maxima."""
    columns = weights.shape[-1]
    whole = columns // TILE * TILE
    if columns < 4 * TILE * top:
        found = weights.topk(top, -1)
        return found.values, found.indices
    tiles = weights[..., :whole].unflatten(-1, (-1, TILE))
    chosen = tiles.amax(-1).topk(top, -1).indices  # [B, h, R, top]
    lead, here = chosen.shape[:3], torch.arange(columns, device=weights.device)
    inside = tiles.gather(-2, chosen[..., None].expand(*chosen.shape, TILE)).flatten(-2)
    places = (chosen[..., None] * TILE + here[:TILE]).flatten(-2)
    candidates = torch.cat([inside, weights[..., whole:]], -1).topk(top, -1)
    return candidates.values, torch.cat([places, here[whole:].expand(*lead, -1)], -1).gather(-1, candidates.indices)


def beyond(block: Block, shift: int, windows: Sequence[int], after: bool, given: Tensor) -> Tensor:
    """[B, h, R, W] mass farther than each window, where query column c stands at key column c + shift: by running sums."""
    _, rows, keys, weights = block
    own = torch.arange(rows.start, rows.stop, device=weights.device)[:, None] + shift - keys.start  # [R, 1]
    wide, columns = torch.tensor([*windows], device=weights.device), weights.shape[-1]
    cuts = (own - wide).clamp(0, columns)
    if after:
        cuts = torch.cat([cuts, (own + wide + 1).clamp(0, columns)], -1)
    found = before(weights, cuts)
    left = found[..., : len(windows)]
    return left + given[..., None] - found[..., len(windows) :] if after else left


def before(weights: Tensor, cuts: Tensor) -> Tensor:
    """[B, h, R, C] mass of the columns before each of the cuts [R, C]: whole tiles, then what is over."""
    columns, lead = weights.shape[-1], weights.shape[:2]
    tiles = weights[..., : columns // TILE * TILE].unflatten(-1, (-1, TILE)).sum(-1)
    running = pad(tiles.cumsum(-1, dtype=torch.float64), (1, 0))  # [B, h, R, tiles + 1]
    tile = cuts // TILE
    over = tile[..., None] * TILE + torch.arange(TILE, device=weights.device)  # [R, C, TILE]
    part = weights.gather(-1, over.clamp(max=columns - 1).flatten(1).expand(*lead, -1, -1)).unflatten(-1, over.shape[1:])
    rest: Tensor = (part * (over < cuts[..., None])).sum(-1)
    return running.gather(-1, tile.expand(*lead, -1, -1)) + rest


def _shift(seen: Application) -> int | None:
    """How far the key column of a token is from its query column; None = not the same everywhere."""
    q, k = seen.q, seen.k
    if q.is_dense and k.is_dense and q.start is not None and k.start is not None:
        return q.start - k.start
    return 0 if q is k and q.runs is not None else None


def _numbered(spans: Sequence[int], ranks: Tensor) -> tuple[Tensor, int]:
    """[B, T] the span of each token, the number after the last for tokens of none; and how many spans there are."""
    many = max(spans, default=-1) + 1
    known = torch.tensor([*spans, -1], dtype=torch.long)
    number = known[torch.where((ranks < 0) | (ranks >= len(spans)), len(spans), ranks)]
    return torch.where(number < 0, many, number), many

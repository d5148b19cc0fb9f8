"""Summing up one call of an attention, a block of query rows at a time: the sums that `attnlib.inspect.summaries` names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from attnlib.inspect.rows import Application, Block, Call

TILE = 32  # keys looked at together


class Tiled(NamedTuple):
    """Sums over tiles of TILE keys: of the weights, and of each times its distance to the tile's last key; what is over."""

    sums: Tensor  # [B, h, R, tiles]
    behind: Tensor  # [B, h, R, tiles]
    rest: Tensor  # [B, h, R, less than TILE]

    @staticmethod
    def of(weights: Tensor) -> Tiled:
        whole = weights.shape[-1] // TILE * TILE
        steps = torch.arange(TILE - 1, -1, -1, dtype=weights.dtype, device=weights.device)
        both = weights[..., :whole].unflatten(-1, (-1, TILE)) @ torch.stack([torch.ones_like(steps), steps], 1)
        return Tiled(both[..., 0], both[..., 1], weights[..., whole:])

    def given(self) -> Tensor:
        """[B, h, R] the sum over all keys."""
        return self.sums.sum(-1) + self.rest.sum(-1)


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
        self.dense = seen.q.is_dense and seen.k.is_dense  # positions follow each other
        self.firsts = self.first[0].cpu().bool()
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
        weights = block.weights
        logs = weights.clamp(min=torch.finfo(weights.dtype).tiny).log_()
        tiled = Tiled.of(weights)
        given = tiled.given()
        self._put("entropy", block, -logs.mul_(weights).sum(-1))
        self._put("given", block, given)
        self._put("sink", block, self._sink(block))
        self._targets(block)
        if self.seen.own:
            self._put("distance", block, self._distance(block, tiled) / given.clamp(min=1e-30))
            self._windows(block, tiled, given)
        self._keys(block)

    def _sink(self, block: Block) -> Tensor:
        """[B, h, R] mass on the first tokens; in a dense text they are the first columns."""
        first = self.first[:, block.keys]
        if self.dense:
            return block.weights[..., : int(self.firsts[block.keys].sum())].sum(-1)
        return (block.weights * first[:, None, None].to(block.weights.dtype)).sum(-1)

    def _distance(self, block: Block, tiled: Tiled) -> Tensor:
        """[B, h, R] sum w |q - k|. Keys in tiles before the block's own rows are q - e + e - k away, e the tile's last key:
        both are positive, so that sums over tiles tell it without loss of digits."""
        _, rows, keys, weights = block
        q, k = (side[:, part] for side, part in zip(self.positions, (rows, keys)))
        tiles = 0 if not self.dense or self.shift is None else max(rows.start + self.shift - keys.start, 0) // TILE
        split = tiles * TILE
        far = (q[:, None, :, None] - k[:, None, None, split:]).abs_().to(weights.dtype)
        found: Tensor = (weights[..., split:] * far).sum(-1)
        if tiles:
            ends, mass = k[:, TILE - 1 : split : TILE].double(), tiled.sums[..., :tiles].double()
            last = ends[:, -1:]
            found += tiled.behind[..., :tiles].sum(-1) + (mass * (last - ends)[:, None, None]).sum(-1)
            found += mass.sum(-1) * (q.double() - last)[:, None]
        return found

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

    def _windows(self, block: Block, tiled: Tiled, given: Tensor) -> None:
        if not self.windows:
            return
        if self.shift is None:
            q, k = (side[:, part] for side, part in zip(self.positions, (block.rows, block.keys)))
            far = (q[:, None, :, None] - k[:, None, None]).abs_()
            lost = torch.stack([(block.weights * (far > n)).sum(-1) for n in self.windows], -1)
        else:
            lost = beyond(block, tiled, self.shift, self.windows, self.seen.after, given)
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


def beyond(
    block: Block, tiled: Tiled, shift: int, windows: Sequence[int], after: bool, given: Tensor
) -> Tensor:
    """[B, h, R, W] mass farther than each window, where query column c stands at key column c + shift: by running sums."""
    _, rows, keys, weights = block
    own = torch.arange(rows.start, rows.stop, device=weights.device)[:, None] + shift - keys.start  # [R, 1]
    wide, columns = torch.tensor([*windows], device=weights.device), weights.shape[-1]
    cuts = (own - wide).clamp(0, columns)
    if after:
        cuts = torch.cat([cuts, (own + wide + 1).clamp(0, columns)], -1)
    found = before(weights, tiled, cuts)
    left = found[..., : len(windows)]
    return left + given[..., None] - found[..., len(windows) :] if after else left


def before(weights: Tensor, tiled: Tiled, cuts: Tensor) -> Tensor:
    """[B, h, R, C] mass of the columns before each of the cuts [R, C]: whole tiles, then what is over."""
    columns, lead = weights.shape[-1], weights.shape[:2]
    running = pad(tiled.sums.cumsum(-1, dtype=torch.float64), (1, 0))  # [B, h, R, tiles + 1]
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

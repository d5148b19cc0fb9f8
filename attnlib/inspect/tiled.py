"""Maps of long texts: the means of tiles, the exact largest targets of each query of some heads, and some full rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnlib.errors import UsageError
from attnlib.inspect.maps import Array, AttentionMap, place_of
from attnlib.inspect.summaries import Summary

SIDE = 256  # most tiles along one side of a map


class Targets(NamedTuple):
    """The largest weights of every query of one head.

    keys: [Q, n], -1 for none. weights: [Q, n]. given: [Q], the sum of all weights.
    """

    keys: NDArray[np.int32]
    weights: Array
    given: Array


@dataclass(frozen=True, eq=False)
class TiledMap:
    """Attention of one layer over a text too long for its map.

    tiles:  [H, R, C] mean weight of each tile of `steps` tokens (queries, keys); those at the ends may be smaller.
    tops:   head's place among the H -> its targets, exact.
    rows:   query -> [H, K] its weights in full.
    The rest is as in AttentionMap.
    """

    name: str
    tiles: Array
    steps: tuple[int, int]
    query_tokens: list[str]
    key_tokens: list[str]
    numbers: tuple[int, ...]
    tops: Mapping[int, Targets] = field(default_factory=dict)
    rows: Mapping[int, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = (len(self.query_tokens), len(self.key_tokens))
        wished = (len(self.numbers), *(-(-size // step) for size, step in zip(sizes, self.steps, strict=True)))
        if self.tiles.shape != wished:
            raise UsageError(self.name, f"tiles are {list(self.tiles.shape)}", f"wanted {list(wished)}")

    @property
    def heads(self) -> int:
        """H, the number of heads."""
        return len(self.numbers)

    @property
    def place(self) -> tuple[str, int | None]:
        """As of an AttentionMap."""
        return place_of(self.name)

    def coarser(self) -> TiledMap:
        """The same with tiles twice as long on both sides: the mean of four."""
        sizes = (len(self.query_tokens), len(self.key_tokens))
        sums = self.tiles * counts(sizes, self.steps)
        for axis in (1, 2):
            sums = np.add.reduceat(sums, np.arange(0, sums.shape[axis], 2), axis=axis)
        steps = (2 * self.steps[0], 2 * self.steps[1])
        return replace(self, tiles=means(sums, sizes, steps), steps=steps)

    def overview(self) -> AttentionMap:
        """The tiles as a map, each named by its first token."""
        names = [tokens[::step] for tokens, step in zip((self.query_tokens, self.key_tokens), self.steps, strict=True)]
        return AttentionMap(self.name, self.tiles, names[0], names[1], self.numbers)


def tiles(weights: Array, rows: int, columns: int) -> Array:
    """Mean of each tile of `rows` x `columns` cells, [H, Q, K] -> [H, ceil(Q/rows), ceil(K/columns)]."""
    if rows == columns == 1:
        return weights
    starts = [np.arange(0, size, step) for size, step in zip(weights.shape[1:], (rows, columns), strict=True)]
    heads = [  # one head at a time: sums of a long map in float32 should not all live at once
        np.add.reduceat(np.add.reduceat(head, starts[0], axis=0, dtype=np.float32), starts[1], axis=1) for head in weights
    ]
    return means(np.stack(heads), weights.shape[1:], (rows, columns))


def means(sums: Array, sizes: Sequence[int], steps: Sequence[int]) -> Array:
    """Sums over tiles [H, R, C] as means: the last tiles are smaller."""
    found: Array = sums / counts(sizes, steps)
    return found


def counts(sizes: Sequence[int], steps: Sequence[int]) -> NDArray[np.int64]:
    """[R, C] how many cells each tile has."""
    starts = [np.arange(0, size, step) for size, step in zip(sizes, steps, strict=True)]
    rows, columns = (np.diff(np.append(s, size)) for s, size in zip(starts, sizes, strict=True))
    found: NDArray[np.int64] = rows[:, None] * columns[None, :]
    return found


def step_of(tokens: int, side: int = SIDE) -> int:
    """How many tokens a tile spans, so that at most `side` of them span them all."""
    return max(1, -(-tokens // side))


def tile_spans(tokens: int, step: int) -> list[int]:
    """The number of the tile of each token: the spans whose flow is the tiles' sums."""
    return [at // step for at in range(tokens)]


def telling(summaries: Sequence[Summary], most: int) -> dict[str, tuple[int, ...]]:
    """At most so many heads, by the path of their attention, whose largest targets tell most of what they do.

    That is the share of their weight which those hold without the first token; first the best of each kind of attention.
    """
    shares = []
    for one in summaries:
        told = (one.top_weights * (one.top_keys > 0)).sum((1, 2)) / one.given.sum(1).clamp(min=1e-30)
        shares += [(float(share), one.path, head) for share, head in zip(told, one.heads)]
    shares.sort(key=lambda each: -each[0])
    kinds: dict[str, int] = {}
    for at, (_, path, _) in enumerate(shares):
        kinds.setdefault(place_of(path)[0], at)
    order = [*kinds.values(), *(at for at in range(len(shares)) if at not in kinds.values())]
    found: dict[str, tuple[int, ...]] = {}
    for _, path, head in (shares[at] for at in order[:most]):
        found[path] = (*found.get(path, ()), head)
    return found


def tiled_map(
    summary: Summary,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str],
    steps: tuple[int, int],
    *,
    exact: Sequence[int] = (),
    rows: Mapping[int, Any] | None = None,
) -> TiledMap:
    """The map of a summary made with `tile_spans` as its spans; `exact`: the numbers of the heads whose targets are kept."""
    assert summary.flow is not None
    sizes = (len(query_tokens), len(key_tokens))
    tops = {}
    for place in (summary.heads.index(head) for head in exact if head in summary.heads):
        keys, weights = summary.top_keys[place].numpy().astype(np.int32), summary.top_weights[place].numpy()
        tops[place] = Targets(keys, weights, summary.given[place].numpy())
    found = means(summary.flow.double().numpy(), sizes, steps).astype(np.float32)
    return TiledMap(
        summary.path, found, steps, list(query_tokens), list(key_tokens), summary.heads, tops, dict(rows or {})
    )

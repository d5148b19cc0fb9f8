"""Blocks of rows: what is known of their columns without looking is what looking finds, and their weights are the same."""

from __future__ import annotations

import pytest
import torch

from attnlib import Causal, Everything, First, Layout, Mask, ScoreRule, Window
from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.backends.reference import weights
from attnlib.attention.visibility import Visibility

MASKS: dict[str, Mask] = {
    "everything": Everything(),
    "causal": Causal(),
    "window": Causal() & Window(before=5),
    "both sides": Window(before=3, after=2),
    "first": Causal() & (First(count=2) | Window(before=4)),
    "not itself": ~First(count=3) & Causal(),
}
LAYOUTS = {
    "dense": (Layout.dense(2, 23), None),
    "after a cache": (Layout.dense(2, 5, start=18), Layout.dense(2, 23)),
    "after a rolling cache": (Layout.dense(2, 5, start=18), Layout.dense(2, 20, start=3)),
    "packed": (Layout.packed([[9, 14], [20, 2]], 23), None),
    "padded": (Layout.from_lengths([4, 23], 23, side="left"), None),
}
ROWS = [slice(0, 1), slice(0, 5), slice(2, 5), slice(3, 4)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mask", MASKS)
def test_columns_and_edges_hold_all_that_rows_see(mask: str, layout: str) -> None:
    q, k = LAYOUTS[layout]
    sight = Visibility(MASKS[mask], q, k or q, 1)
    seen = sight._lower(slice(None), slice(None)).expand(2, 1, -1, -1)
    for rows in [*ROWS, slice(9, 20)]:
        hull, parts = sight.keys_of(rows), sight.columns_of(rows)
        here = seen[:, :, rows].clone()
        for part in (hull, *parts):
            assert hull.start <= part.start < part.stop <= hull.stop
            if part is not hull:
                here[..., part] = False
        assert not bool(here.any()), (rows, parts)
        assert not bool(seen[:, :, rows, : hull.start].any() or seen[:, :, rows, hull.stop :].any())
        edges = sight.edges_of(rows, hull)
        if edges is not None:
            inner = torch.ones(sight.k.tokens, dtype=torch.bool)
            inner[: hull.start], inner[hull.stop :] = False, False
            for edge in edges:
                inner[edge] = False
            assert bool(seen[:, :, rows][..., inner].all()) and bool(seen[:, :, rows].any(-1).all())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mask", MASKS)
def test_weights_of_a_block_are_those_of_the_whole(mask: str, layout: str) -> None:
    at, keys = LAYOUTS[layout]
    keys = keys or at
    made = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, part.tokens, 4, generator=made) for part in (at, keys))
    call = AttentionCall(Visibility(MASKS[mask], at, keys, 3), ScoreRule(scale=0.7))
    seen = call.visibility._lower(slice(None), slice(None))
    scores = (q @ k.mT * 0.7).masked_fill(~seen, torch.finfo(torch.float32).min)
    whole = torch.where(seen, scores.softmax(-1), 0.0)
    for rows in [*ROWS, slice(9, 20)]:
        hull = call.visibility.keys_of(rows)
        found = weights(q, k, call, [], rows, hull)
        torch.testing.assert_close(found, whole[:, :, rows, hull], atol=1e-6, rtol=0)
        one = weights(q[:, 1:2], k[:, 1:2], call.again((1,)), [], rows, hull)
        assert torch.allclose(one, found[:, 1:2], atol=1e-6)


def test_known_edges_are_few() -> None:
    square = Layout.dense(1, 100)
    assert Visibility(Causal(), square, square).edges_of(slice(40, 50), slice(0, 50)) == (slice(41, 50),)
    local = Visibility(Causal() & Window(before=20), square, square)
    assert local.edges_of(slice(40, 50), local.keys_of(slice(40, 50))) == (slice(20, 29), slice(41, 50))
    sinks = Visibility(Causal() & (First(count=2) | Window(before=4)), square, square)
    assert sinks.edges_of(slice(40, 50), slice(0, 50)) is None  # unknown without looking
    assert sinks.columns_of(slice(40, 50)) == (slice(0, 2), slice(36, 50))
    packed = Layout.packed([[60, 40]], 100)
    assert Visibility(Causal(), packed, packed).keys_of(slice(10, 20)) == slice(0, 20)

"""Masks drawn by hand, and what kernels and caches may conclude from them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlib.attention.caches import Rolling
from attnlib.attention.masks import (
    AllOf,
    Causal,
    Chunk,
    Everything,
    Explicit,
    First,
    Global,
    Mask,
    Prefix,
    SameSegment,
    Span,
    Window,
    picture,
    terms,
)
from attnlib.attention.patterns import ByHead, Dilated, DilatedSegments, Fixed, Strided
from attnlib.attention.random_blocks import BigBird, RandomBlocks
from attnlib.attention.visibility import Visibility
from attnlib.layout import Layout
from attnlib.spec import read, write


@pytest.mark.parametrize(
    ("mask", "drawn"),
    [
        (Everything(), "####  ####  ####  ####"),
        (Causal(), "#...  ##..  ###.  ####"),
        (Window(before=1), "####  ####  .###  ..##"),
        (Window(after=1), "##..  ###.  ####  ####"),
        (Window(before=0, after=2), "###.  .###  ..##  ...#"),
        (Causal() & Window(before=1), "#...  ##..  .##.  ..##"),
        (Causal() & Window(before=0), "#...  .#..  ..#.  ...#"),
        (Chunk(size=3), "###.  ###.  ###.  ...#"),
        (Chunk(size=2) & Causal(), "#...  ##..  ..#.  ..##"),
        (First(count=2), "##..  ##..  ##..  ##.."),
        (Causal() & (First(count=1) | Window(before=1)), "#...  ##..  ###.  #.##"),
        (~Causal(), ".###  ..##  ...#  ...."),
        (~Window(before=1, after=1), "..##  ...#  #...  ##.."),
        (SameSegment(), "####  ####  ####  ####"),
        (~SameSegment(), "....  ....  ....  ...."),
        (Prefix(), "....  ....  ....  ...."),
        (Global(), "....  ....  ....  ...."),
        (Explicit(rows=(".#", "##")), ".#..  ##..  ....  ...."),
        (Dilated(step=2), "#.#.  .#.#  #.#.  .#.#"),
        (Dilated(step=2, before=1, after=0), "#...  .#..  #.#.  .#.#"),
        (Strided(stride=2) & Causal(), "#...  ##..  ###.  .###"),
        (Fixed(block=2, summary=1) & Causal(), "#...  ##..  .##.  .###"),
        (DilatedSegments(lengths=(2, 4), rates=(1, 2)), "###.  ##..  #.##  ..##"),
        (RandomBlocks(block=1, count=1), ".#..  #.##  .#..  .#.."),
        (BigBird(block=1, count=1, window=1, global_blocks=0), "##..  ####  .###  .###"),
        (ByHead(masks=(Causal(), Everything())), "#...  ##..  ###.  ####"),
    ],
    ids=str,
)
def test_picture(mask: Mask, drawn: str) -> None:
    assert picture(mask, 4) == drawn


def test_picture_of_unequal_lengths_aligns_the_starts() -> None:
    assert picture(Causal(), 2, 4) == "#...  ##.."
    assert picture(Causal(), 3, 2) == "#.  ##  ##"


def drawn(mask: Mask, layout: Layout) -> str:
    seen = Visibility(mask, layout, layout).dense()
    assert seen is not None
    return "  ".join("".join(".#"[cell] for cell in row) for row in seen[0, 0].int().tolist())


def test_prefix_is_seen_by_all_and_the_rest_causally() -> None:
    assert drawn(Causal() | Prefix(), Layout.dense(1, 4).tagged(prefix=[2])) == "##..  ##..  ###.  ####"


def test_global_tokens_see_and_are_seen() -> None:
    layout = Layout.dense(1, 4).tagged(global_tokens=torch.tensor([[0, 0, 1, 0]]))
    assert drawn(Global() | Window(before=0, after=0), layout) == "#.#.  .##.  ####  ..##"


def test_segments_hold_under_every_mask() -> None:
    layout = Layout.packed([[2, 1]], 4)
    assert drawn(Everything(), layout) == "##..  ##..  ..#.  ...."
    assert drawn(~Causal(), layout) == ".#..  ....  ....  ...."


def test_operators_flatten_and_a_list_means_all() -> None:
    assert Causal() & Window(before=1) & First(count=1) == AllOf(masks=(Causal(), Window(before=1), First(count=1)))
    assert read(Mask, ["causal", {"kind": "window", "before": 3}]) == Causal() & Window(before=3)
    for mask in (~(Causal() | First(count=2)), Explicit(rows=("#.",)), Window(before=1, after=2)):
        assert read(Mask, write(mask)) == mask and hash(read(Mask, write(mask))) == hash(mask)


leaves = st.one_of(
    st.just(Everything()),
    st.just(Causal()),
    st.just(SameSegment()),
    st.builds(Window, before=st.none() | st.integers(0, 5), after=st.none() | st.integers(0, 5)),
    st.builds(Chunk, size=st.integers(1, 5)),
    st.builds(First, count=st.integers(1, 5)),
    st.just(Explicit(rows=("#.#", "##."))),
    st.builds(Dilated, step=st.integers(1, 4), before=st.none() | st.integers(0, 3), after=st.none() | st.integers(0, 2)),
    st.builds(Strided, stride=st.integers(1, 4), part=st.sampled_from(["both", "local", "strided"])),
    st.builds(Fixed, block=st.integers(2, 5), summary=st.integers(1, 2), part=st.sampled_from(["both", "local", "summary"])),
    st.just(DilatedSegments(lengths=(2, 6), rates=(1, 3))),
    st.builds(RandomBlocks, block=st.integers(1, 3), count=st.integers(1, 2), seed=st.integers(0, 3)),
    st.builds(BigBird, block=st.integers(1, 3), count=st.just(1), window=st.integers(0, 1)),
    st.just(ByHead(masks=(Causal(), Chunk(size=3)))),
)
masks = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
    ),
    max_leaves=5,
)


def seen(mask: Mask, q: range, k: range) -> torch.Tensor:
    a, b = Layout.dense(1, len(q), start=q[0]), Layout.dense(1, len(k), start=k[0])
    return mask.visible(a.coordinates("q"), b.coordinates("k")).expand(1, 1, len(q), len(k))[0, 0]


def cut(tokens: range, size: int, side: str) -> Span:
    """Blocks of `size` tokens as a grid sees them, with two heads."""
    first = torch.tensor([*tokens[::size]])
    last = torch.minimum(first + size - 1, torch.tensor(tokens[-1]))
    head = torch.arange(2).view(-1, 1, 1)
    return Span(first[:, None], last[:, None], None, head) if side == "q" else Span(first[None], last[None], None, head)


@settings(max_examples=200, deadline=None)
@given(masks, st.integers(1, 4), st.integers(1, 3))
def test_claims_about_a_grid_of_blocks_are_true(mask: Mask, rows: int, columns: int) -> None:
    tokens = range(2, 15)
    claim = mask.reach(cut(tokens, rows, "q"), cut(tokens, columns, "k"))
    layout = Layout.dense(1, len(tokens), start=2)
    cells = mask.visible(layout.coordinates("q", heads=2), layout.coordinates("k", heads=2)).expand(1, 2, 13, 13)[0]
    for i, queries in enumerate(cells.split(rows, 1)):
        for j, part in enumerate(queries.split(columns, 2)):
            some, whole = (torch.as_tensor(c).expand(2, -(-13 // rows), -(-13 // columns))[:, i, j] for c in claim)
            assert not (part.flatten(1).any(1) & ~some).any() and not (whole & ~part.flatten(1).all(1)).any()


ranges = st.tuples(st.integers(0, 9), st.integers(1, 7)).map(lambda t: range(t[0], t[0] + t[1]))


@settings(max_examples=200, deadline=None)
@given(masks, ranges, ranges)
def test_claims_about_blocks_are_true(mask: Mask, q: range, k: range) -> None:
    claim, cells = mask.blocks(q, k), seen(mask, q, k)
    assert claim != "all" or cells.all()
    assert claim != "none" or not cells.any()


@pytest.mark.parametrize(
    "mask", [Causal(), Window(before=2), Window(before=1, after=2), Chunk(size=3), First(count=3), Everything()]
)
def test_claims_about_blocks_of_a_leaf_are_exact(mask: Mask) -> None:
    for first in range(8):
        for at in range(8):
            for n in (1, 2, 4):
                q, k = range(first, first + n), range(at, at + 3)
                cells = seen(mask, q, k)
                assert mask.blocks(q, k) == ("all" if cells.all() else "none" if not cells.any() else "some")


@settings(max_examples=150, deadline=None)
@given(masks, ranges, ranges)
def test_terms_and_rest_are_the_mask(mask: Mask, q: range, k: range) -> None:
    before, after, rest = terms(mask)
    again: Mask = Window(before=before, after=after)
    again = again if rest is None else again & rest
    assert torch.equal(seen(again, q, k), seen(mask, q, k))
    assert terms(mask).causal == (after == 0)


@settings(max_examples=150, deadline=None)
@given(masks)
def test_what_is_kept_is_all_that_can_be_seen(mask: Mask) -> None:
    mask = mask & Causal()
    kept = mask.keeps()
    if kept.last is None:
        return
    cells = seen(mask, range(14), range(14))
    for q in range(14):
        for k in range(q):
            assert not cells[q, k] or k < kept.first or q - k <= kept.last


@settings(max_examples=60, deadline=None)
@given(masks, st.lists(st.integers(1, 4), min_size=1, max_size=6), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_a_rolling_cache_lets_a_mask_see_what_it_saw(mask: Mask, chunks: list[int], less: list[int]) -> None:
    """Whatever the chunks and however ragged the first: the positions seen through the cache are those seen without."""
    mask = mask & Causal()
    if mask.keeps().last is None:
        return
    slots, used = Rolling(mask.keeps()), [0, 0, 0]
    for number, n in enumerate(chunks):
        counts = [max(n - cut, 0) if number == 0 else n for cut in less]
        layout = Layout.from_lengths(counts, n, starts=used)
        slots.extend(layout)
        held = slots.layout
        assert held is not None
        cells = Visibility(mask, layout, held).dense()
        cells = torch.ones(1, 1, n, held.tokens, dtype=torch.bool) if cells is None else cells
        cells = cells.expand(3, 1, n, held.tokens)
        for row in range(3):
            for i in range(counts[row]):
                position = used[row] + i
                got = sorted(held.positions[row][cells[row, 0, i]].tolist())
                want = [k for k in range(position + 1) if seen(mask, range(position, position + 1), range(k, k + 1)).item()]
                assert got == want
            used[row] += counts[row]

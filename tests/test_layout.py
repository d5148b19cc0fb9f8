"""Layouts: where tokens stand, and the host facts beside the tensors."""

from __future__ import annotations

import threading

import pytest
import torch

from attnlib.errors import LayoutError
from attnlib.layout import Layout, join


def rows(layout: Layout) -> list[list[int | None]]:
    """Positions, None where no token stands."""
    real = torch.ones_like(layout.positions, dtype=torch.bool) if layout.real is None else layout.real
    return [[p if r else None for p, r in zip(*pair)] for pair in zip(layout.positions.tolist(), real.tolist())]


def test_dense_layouts_are_interned_and_keep_nothing_false() -> None:
    layout = Layout.dense(2, 3, start=4)
    assert layout is Layout.dense(2, 3, start=4) and layout is not Layout.dense(2, 3)
    assert rows(layout) == [[4, 5, 6]] * 2
    assert (layout.start, layout.extent, layout.lengths, layout.runs, layout.is_dense) == (4, 7, (3, 3), None, True)
    assert Layout.dense(2, 3).runs == ((0, 0, 3), (1, 0, 3))


def test_padding_on_either_side_counts_real_tokens() -> None:
    left, right = (Layout.from_lengths([2, 0, 3], 3, side=side) for side in ("left", "right"))
    assert rows(left) == [[None, 0, 1], [None] * 3, [0, 1, 2]]
    assert rows(right) == [[0, 1, None], [None] * 3, [0, 1, 2]]
    assert left.runs == ((0, 1, 2), (2, 0, 3)) and left.lengths == right.lengths == (2, 0, 3) and left.extent == 3


def test_full_rows_are_dense() -> None:
    assert Layout.from_lengths([3, 3], 3) is Layout.dense(2, 3)
    assert Layout.from_lengths([3, 3], 3, starts=[2, 2]) is Layout.dense(2, 3, start=2)
    assert Layout.from_mask(torch.ones(2, 3)) is Layout.dense(2, 3)


def test_later_starts_are_counted_and_have_no_runs() -> None:
    layout = Layout.from_lengths([2, 1], 2, starts=[3, 5])
    assert rows(layout) == [[3, 4], [5, None]]
    assert (layout.lengths, layout.extent, layout.runs) == ((2, 1), 6, None)


def test_masks_of_ones_and_zeros() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1]])
    layout = Layout.from_mask(mask)
    assert rows(layout) == [[None, 0, 1, None], [0, None, 1, 2]]
    assert layout.runs is None and layout.lengths == (2, 3)  # holes: the second row is no run
    assert Layout.from_mask(mask[:1]).runs == ((0, 1, 2),)
    for dtype in (torch.bool, torch.float32):
        assert rows(Layout.from_mask(mask.to(dtype))) == rows(layout)


def test_packed_positions_restart_and_segments_differ() -> None:
    layout = Layout.packed([[2, 1], [3]], 4)
    assert rows(layout) == [[0, 1, 0, None], [0, 1, 2, None]]
    assert layout.segments is not None and layout.segments.tolist() == [[0, 0, 1, -1], [0, 0, 0, -1]]
    assert layout.runs == ((0, 0, 2), (0, 2, 1), (1, 0, 3)) and layout.lengths == (3, 3)


def test_tags_and_encoding_leave_the_rest() -> None:
    layout = Layout.from_lengths([2, 3], 3)
    tagged = layout.tagged(prefix=[1, 2]).tagged(global_tokens=torch.tensor([[0, 1, 0], [1, 0, 0]]))
    assert tagged.tags is not None and tagged.tags.tolist()[0][:2] == [1, 2] and tagged.tags.tolist()[1] == [3, 1, 0]
    assert layout.tags is None and tagged.lengths == layout.lengths and not tagged.is_dense
    moved = layout.encoded(torch.full((2, 3), 9))
    assert moved.encoding.eq(9).all() and torch.equal(moved.positions, layout.positions) and moved.extent is None


def test_select_and_join() -> None:
    layout = Layout.from_lengths([2, 3], 3, side="left")
    assert rows(layout.select(torch.tensor([1, 0, 1]))) == [[0, 1, 2], [None, 0, 1], [0, 1, 2]]
    assert Layout.dense(2, 3).select(torch.tensor([0])) is Layout.dense(1, 3)
    assert join(Layout.dense(2, 3), Layout.dense(2, 1, start=3)) is Layout.dense(2, 4)
    joined = join(layout, Layout(torch.tensor([[2], [3]])))
    assert rows(joined) == [[None, 0, 1, 2], [0, 1, 2, 3]]
    gap = join(Layout.dense(1, 2), Layout.dense(1, 2, start=5))
    assert rows(gap) == [[0, 1, 5, 6]] and not gap.is_dense


def test_copies_of_a_layout_do_not_share_what_was_made_of_it() -> None:
    layout = Layout.from_lengths([1, 2], 2)
    layout.once("key", lambda: torch.zeros(1))
    assert layout.tagged(prefix=[1, 1]).memo == {} and layout.select(torch.tensor([0])).memo == {}


def test_layouts_made_in_inference_mode_may_be_used_in_training() -> None:
    with torch.inference_mode():
        layouts = [Layout.dense(3, 5, start=77), Layout.from_lengths([1, 5, 2], 5)]
    for layout in layouts:
        x = torch.randn(3, 5, requires_grad=True)
        (x * layout.positions).sum().backward()
        assert torch.equal(x.grad, layout.positions.float())


def test_threads_get_one_dense_layout() -> None:
    found: list[Layout] = []
    gate = threading.Barrier(6)

    def work() -> None:
        gate.wait()
        for n in range(1, 200):
            Layout.dense(1, n)
        found.append(Layout.dense(7, 7))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and all(rows(layout) == rows(found[0]) for layout in found)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Layout.from_lengths([4], 3), "each must lie in 0..3"),
        (lambda: Layout.from_lengths([-1], 3), "each must lie in 0..3"),
        (lambda: Layout.from_lengths([1], 3, side="middle"), "'left' or 'right'"),
        (lambda: Layout.packed([[2, 3]], 4), "add up to at most 4"),
        (lambda: Layout.packed([[2, 0]], 4), "at least 1"),
        (lambda: Layout.from_mask(torch.ones(2, 3, 3)), r"must be \[batch, tokens\]"),
        (lambda: Layout.of(torch.zeros(3)), r"must be \[batch, tokens\]"),
        (lambda: Layout.dense(1, 2).encoded(torch.zeros(1, 3)), "position_ids"),
    ],
)
def test_what_is_no_layout_says_so(make: object, text: str) -> None:
    with pytest.raises(LayoutError, match=text):
        make()  # type: ignore[operator]

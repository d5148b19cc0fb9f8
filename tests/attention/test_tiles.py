"""Blocks of queries and keys that hold something: found exactly, computed exactly, and no others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_masks import masks

from attnlib import BigBird, Causal, First, Global, Layout, Mask, RandomBlocks, Window, attend
from attnlib import layout as layouts
from attnlib.attention import tiling
from attnlib.attention.backends import tiles
from attnlib.attention.backends.choose import choose
from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.biases import ALiBi, Shaw
from attnlib.attention.masks import Given
from attnlib.attention.scores import ScoreRule
from attnlib.attention.visibility import Visibility

sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))
from matrix import all_masks, run_cells


@pytest.fixture(autouse=True)
def _small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of a few tokens, so that small texts have many; nothing that was kept for other blocks is met."""
    if "long" in request.node.name:
        yield
        return
    monkeypatch.setattr(tiling, "ROWS", (2, 4, 6))
    monkeypatch.setattr(tiling, "COLUMNS", 2)
    monkeypatch.setattr(tiles, "GATHERED", 60)
    layouts._interned.clear()
    yield
    layouts._interned.clear()


@pytest.mark.parametrize(
    "layout", ["dense", "left_padded", "packed", "tagged", "later_starts", "step_rolling", "cross_both_padded"]
)
def test_many_small_blocks_equal_the_oracle(layout: str) -> None:
    wrong, _, computed = run_cells(["tiles"], layout, all_masks(), ["none", "shaw"], ["plain"])
    assert not wrong, f"{len(wrong)} cells, first:\n" + "\n".join(wrong[:4])
    assert computed > 40


def rebuilt(sight: Visibility, groups: int) -> torch.Tensor:
    """What the bands say is seen, as a table [B, H, Q, K]."""
    plan = tiling.tiling(sight, groups)
    rows_of, groups_of = plan.plans
    share = sight.heads // groups_of
    table = torch.zeros(rows_of, groups_of, share, plan.blocks * plan.rows, sight.k.tokens, dtype=torch.long)
    for band in plan.bands:
        for i, (number, block) in enumerate(zip(band.plan.tolist(), band.block.tolist())):
            seen = torch.ones(1, 1, 1, 1) if band.seen is None else band.seen[i % len(band.seen)][None].float()
            cells = seen[0].expand(share, plan.rows, band.columns.shape[1]).long()
            part = table[number // groups_of, number % groups_of]
            part[:, block * plan.rows : (block + 1) * plan.rows].index_add_(2, band.columns[i], cells)
    assert table.max() <= 1, "no pair is computed twice"
    whole = table.flatten(1, 2)[:, :, : sight.q.tokens] > 0
    return whole.expand(sight.q.batch, -1, -1, -1)


LONGER = {
    "dense": Layout.dense(2, 29),
    "padded": Layout.from_lengths([29, 11], 29, side="left"),
    "packed": Layout.packed([[9, 20], [17, 3, 5]], 29),
}


@settings(max_examples=60, deadline=None)
@given(masks, st.sampled_from([*LONGER]))
def test_bands_hold_each_pair_that_is_seen_once(mask: Mask, name: str) -> None:
    old = tiling.ROWS, tiling.COLUMNS
    tiling.ROWS, tiling.COLUMNS = (2, 4, 6), 2
    try:
        sight = Visibility(mask, LONGER[name], LONGER[name], 4)
        seen = sight._lower(slice(None), slice(None)).expand(2, 4, -1, -1)
        real = torch.ones(2, 29, dtype=torch.bool) if LONGER[name].real is None else LONGER[name].real
        assert real is not None
        assert torch.equal(rebuilt(sight, 2) & real[:, None, :, None], seen & real[:, None, :, None])
    finally:
        tiling.ROWS, tiling.COLUMNS = old


def test_a_window_is_folded_and_random_blocks_are_not_masked_within() -> None:
    layout = Layout.dense(1, 40)
    window = tiling.tiling(Visibility(Causal() & Window(before=5), layout, layout, 2), 2)
    folded = [len(band.block) for band in window.bands if band.fold and band.fold[1] == window.rows]
    assert window.complete and max(folded) == 5
    assert all(band.seen is None or len(band.seen) == 1 for band in window.bands)
    drawn = tiling.tiling(Visibility(RandomBlocks(block=4, count=2), layout, layout, 2), 2)
    assert drawn.plans == (1, 2) and all(band.seen is None for band in drawn.bands)


@pytest.mark.parametrize(
    "mask",
    [
        Causal() & Window(before=90),
        Causal() & (First(count=3) | Window(before=70)),
        BigBird(block=32, count=1, layer=2),
        Window(before=40, after=9) & ~First(count=8),
    ],
)
@pytest.mark.parametrize("terms", ["none", "alibi", "shaw"])
def test_long_texts_in_fp32_equal_the_reference(mask: Mask, terms: str) -> None:
    torch.manual_seed(0)
    layout = Layout.from_lengths([700, 411], 700) if terms == "none" else Layout.dense(2, 700)
    made = {"none": [], "alibi": [ALiBi(num_heads=4)], "shaw": [Shaw(d_head=8, max_distance=5)]}[terms]
    inputs = [torch.randn(2, heads, 700, 8, requires_grad=True) for heads in (4, 2, 2)]
    weight = torch.randn(2, 4, 700, 8)
    found = []
    for backend in ("tiles", "reference"):
        out = attend(*inputs, mask=mask, layout=layout, terms=made, backend=backend)
        learned = [parameter for term in made for parameter in term.parameters()]
        found.append([out, *torch.autograd.grad((out * weight).sum(), [*inputs, *learned])])
    for ours, wanted in zip(*found):
        torch.testing.assert_close(ours, wanted, atol=2e-5, rtol=2e-5)


def call_of(mask: Mask, tokens: int, **rule: float) -> tuple[torch.Tensor, AttentionCall]:
    layout = Layout.dense(1, tokens)
    return torch.zeros(1, 2, tokens, 8), AttentionCall(Visibility(mask, layout, layout, 2), ScoreRule(scale=1.0, **rule))  # type: ignore[arg-type]


def test_long_sparse_texts_choose_it_and_others_do_not() -> None:
    for mask, tokens, name in (
        (Causal() & Window(before=127), 2048, "tiles"),
        (Global() | Window(before=63, after=63), 2048, "tiles"),
        (BigBird(block=64, count=1, layer=0), 2048, "tiles"),
        (Causal(), 2048, "sdpa"),
        (Window(before=1500, after=1500), 2048, "sdpa"),
        (Causal() & Window(before=15), 64, "sdpa"),
    ):
        q, call = call_of(mask, tokens)
        assert choose(q, q, q, call).name == name, mask
    q, call = call_of(Causal() & Window(before=127), 2048, softcap=3.0)
    assert choose(q, q, q, call).name == "tiles"


def test_long_texts_with_tagged_tokens_choose_it_whoever_is_tagged() -> None:
    marks = torch.zeros(1, 2048)
    marks[0, 9] = 1
    layout, q = Layout.dense(1, 2048).tagged(global_tokens=marks), torch.zeros(1, 2, 2048, 8)
    for queries in (layout, Layout.dense(1, 2048)):
        sight = Visibility(Window(before=63, after=63) | Global(), queries, layout, 2)
        assert choose(q, q, q, AttentionCall(sight, ScoreRule(scale=1.0))).name == "tiles"


def test_work_of_a_long_window_is_linear() -> None:
    def pairs(tokens: int, mask: Mask) -> int:
        plan = tiling.tiling(call_of(mask, tokens)[1].visibility, 2)
        return sum(band.columns.numel() for band in plan.bands) * plan.rows

    for mask in (Causal() & Window(before=255), BigBird(layer=0, global_blocks=1)):
        assert pairs(8192, mask) < 2.1 * pairs(4096, mask) < 2.1 * 4096 * 4096 / 3


def test_a_given_table_is_heeded() -> None:
    q = torch.randn(2, 3, 9, 4)
    table = torch.rand(2, 3, 9, 9) > 0.5
    wanted = attend(q, q, q, mask=table, backend="reference")
    torch.testing.assert_close(attend(q, q, q, mask=Given(table), backend="tiles"), wanted)


def test_half_precision_and_autocast_are_near() -> None:
    torch.manual_seed(1)
    q, k, v = (torch.randn(1, 2, 50, 8) for _ in range(3))
    mask = Causal() & Window(before=9)
    wanted = attend(q, k, v, mask=mask, backend="reference")
    half = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask=mask, backend="tiles")
    assert half.dtype == torch.bfloat16 and torch.isfinite(half).all()
    torch.testing.assert_close(half.float(), wanted, atol=0.05, rtol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attend(q, k, v, mask=mask, backend="tiles"), wanted, atol=1e-5, rtol=1e-5)


def test_a_traced_graph_is_refused() -> None:
    q, call = call_of(Causal(), 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        reason = tiles.Tiles().refuses(q, q, q, call)
    assert reason is not None and "traced" in reason

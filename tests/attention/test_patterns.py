"""Sparse patterns: what a query's gradient reaches is what is drawn; each trains, decodes and is written back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attnlib import (
    BigBird,
    ByHead,
    Causal,
    Chunk,
    Dilated,
    DilatedSegments,
    First,
    Fixed,
    Layout,
    Mask,
    RandomBlocks,
    Strided,
    Window,
    attend,
)
from attnlib.models.spec import ModelSpec
from attnlib.spec import read, write

PATTERNS: dict[str, Any] = {
    "chunk": {"kind": "chunk", "size": 4},
    "dilated": {"kind": "dilated", "step": 2, "before": 2},
    "strided": {"kind": "strided", "stride": 3},
    "fixed": {"kind": "fixed", "block": 4, "summary": 1},
    "dilated_segments": {"kind": "dilated_segments", "lengths": [2, 8], "rates": [1, 2]},
    "big_bird": {"kind": "big_bird", "block": 2, "count": 1},
    "random_blocks": {"kind": "any", "masks": [{"kind": "random_blocks", "block": 3}, {"kind": "window", "before": 0}]},
    "sinks": {"kind": "any", "masks": [{"kind": "first", "count": 2}, {"kind": "window", "before": 3}]},
    "by_head": {"kind": "by_head", "masks": [{"kind": "window", "before": 2}, {"kind": "strided", "stride": 4}]},
}
TOKENS = 13


def pattern(name: str) -> Mask:
    return read(Mask, ["causal", PATTERNS[name]]).in_layer(1)


@pytest.mark.parametrize("name", PATTERNS)
def test_gradients_reach_what_is_drawn_and_nothing_after(name: str) -> None:
    mask, layout = pattern(name), Layout.dense(1, TOKENS)
    drawn = mask.visible(layout.coordinates("q", heads=3), layout.coordinates("k", heads=3)).expand(1, 3, TOKENS, TOKENS)[0]
    made = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 3, TOKENS, 5, generator=made, dtype=torch.float64, requires_grad=True) for _ in range(3))
    out = attend(q, k, v, mask=mask)
    for row in range(TOKENS):
        for head in range(3):
            (reached,) = torch.autograd.grad(out[0, head, row].sum(), v, retain_graph=True)
            assert torch.equal((reached[0] != 0).any(-1)[head], drawn[head, row])
            assert not reached[0, :, row + 1 :].any()
    assert drawn[:, -1].sum(-1).max() < TOKENS, "the pattern leaves something out"


def spec_of(name: str) -> ModelSpec:
    attention = {"num_heads": 4, "num_kv_heads": 2, "mask": ["causal", PATTERNS[name]], "rotary": {"base": 100.0}}
    block = {"attention": attention, "mlp": {"kind": "dense", "d_ff": 24, "activation": "gelu"}}
    tree = {"kind": "decoder", "d_model": 16, "vocab_size": 11, "stack": {"num_layers": 2, "block": block}}
    return read(ModelSpec, tree)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_model_of_each_trains_decodes_and_is_written_back(name: str) -> None:
    torch.manual_seed(0)
    spec = spec_of(name)
    assert read(ModelSpec, write(spec)) == spec
    model: Any = spec.build()
    ids = torch.randint(11, (2, TOKENS))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        logits = model(ids).logits[:, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < losses[0] - 0.1
    model.eval()
    whole = model(ids).logits
    rolling = pattern(name).keeps().last is not None
    for cache in ("growing", "static", *(["rolling"] if rolling else [])):
        for chunk in (1, 3, TOKENS):
            state = model.begin(batch=2, cache=cache, **({"capacity": TOKENS} if cache == "static" else {}))
            parts = [model.step(part, None, state, at=slice(None)) for part in ids.split(chunk, 1)]
            torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)


def test_layers_and_heads_draw_unlike_and_the_same_again() -> None:
    layout = Layout.dense(1, 64)

    def cells(mask: Mask) -> torch.Tensor:
        return mask.visible(layout.coordinates("q", heads=3), layout.coordinates("k", heads=3))[0]

    mask = RandomBlocks(block=2, count=2)
    first, second = cells(mask.in_layer(0)), cells(mask.in_layer(1))
    assert torch.equal(first, cells(RandomBlocks(block=2, count=2, layer=0)))
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    assert (Causal() & mask).in_layer(1) == Causal() & mask.in_layer(1)
    assert mask.in_layer(4).in_layer(5) == mask.in_layer(4)
    plain = Causal() & (Window(before=3) | First(count=2))
    assert plain.in_layer(3) is plain


def test_each_block_draws_so_many_of_those_before_it() -> None:
    layout = Layout.dense(1, 90)
    cells = RandomBlocks(block=1, count=4).visible(layout.coordinates("q", heads=2), layout.coordinates("k", heads=2))
    drawn = cells[0].tril(-1).sum(-1)
    assert torch.equal(drawn, torch.arange(90).clamp(max=4).expand(2, -1))
    assert torch.equal(cells, cells.transpose(2, 3)) and not cells[0].diagonal(dim1=1, dim2=2).any()
    columns = cells[0, 0].tril(-1)[-40:].float().argmax(1)  # spread, not all at one place
    assert len(set(columns.tolist())) > 5


def test_heads_take_turns() -> None:
    masks = (Causal(), Chunk(size=2), Dilated(step=3))
    layout = Layout.dense(1, 7)
    q, k = layout.coordinates("q", heads=5), layout.coordinates("k", heads=5)
    cells = ByHead(masks=masks).visible(q, k)[0]
    for head in range(5):
        one = masks[head % 3].visible(layout.coordinates("q"), layout.coordinates("k"))[0, 0]
        assert torch.equal(cells[head], one)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"kind": "fixed", "block": 4, "summary": 5}, "summary"),
        ({"kind": "dilated_segments", "lengths": [4], "rates": [1, 2]}, "rates"),
        ({"kind": "dilated_segments", "lengths": [4], "rates": [0]}, "rates"),
        ({"kind": "strided", "stride": 0}, "stride"),
    ],
)
def test_a_pattern_that_cannot_be_is_refused_when_read(tree: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said) as error:
        read(Mask, tree)
    assert "\n" not in str(error.value)


def test_parts_of_a_pattern_make_the_whole() -> None:
    layout = Layout.dense(1, 12)
    q, k = layout.coordinates("q"), layout.coordinates("k")
    for whole, parts in (
        (Strided(stride=4), [Strided(stride=4, part="local"), Strided(stride=4, part="strided")]),
        (Fixed(block=4, summary=2), [Fixed(block=4, summary=2, part="local"), Fixed(block=4, summary=2, part="summary")]),
    ):
        assert torch.equal(whole.visible(q, k), parts[0].visible(q, k) | parts[1].visible(q, k))
    assert BigBird(count=1).block == 64 and DilatedSegments(lengths=(4,), rates=(1,)).keeps().last == 3

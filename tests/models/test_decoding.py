"""A cache changes nothing: any kind, any chunk size, ragged rows, rows moved, states saved and restored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import CAUSAL, PAIRS, build, ids, laid, near, texts

from attnlib.errors import LayoutError
from attnlib.layout import Layout

CACHES = ["growing", "static", "rolling"]
TOKENS = 9


def begin(name: str, model: nn.Module, batch: int, cache: str, capacity: int = 16) -> Any:
    if name in PAIRS:
        source, _, layout = laid(texts((4, 2, 5)[:batch], 30), "left")
        return model.begin(source, layout, cache=cache, capacity=capacity)
    return model.begin(batch=batch, cache=cache, capacity=capacity)


def whole(name: str, model: nn.Module, table: Tensor, layout: Layout | None = None) -> Tensor:
    """Logits without a cache."""
    if name in PAIRS:
        source, _, where = laid(texts((4, 2, 5)[: len(table)], 30), "left")
        logits = model(source, table, where, layout).logits
    else:
        logits = model(table, layout).logits
    assert isinstance(logits, Tensor)
    return logits


ALL_OF_IT = slice(None)


@torch.no_grad()
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", CAUSAL)
def test_decode_equals_full_forward_for_every_chunk_size(name: str, cache: str) -> None:
    model, table = build(name), ids(2, TOKENS)
    wanted = whole(name, model, table)
    for chunk in (1, 3, TOKENS):
        state = begin(name, model, 2, cache)
        steps = [model.step(table[:, i : i + chunk], None, state, at=ALL_OF_IT) for i in range(0, TOKENS, chunk)]
        near(torch.cat(steps, 1), wanted)
        assert state.lengths == (TOKENS, TOKENS)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", CAUSAL)
def test_ragged_rows_decode_as_alone(name: str, cache: str, side: str) -> None:
    """A padded prefill, single steps, a ragged chunk in the middle, single steps: each row as its whole text alone."""
    model = build(name)
    prompts, middles = (5, 1, 3), (2, 3, 1)
    rows = [p + 2 + m + 2 for p, m in zip(prompts, middles)]
    full = texts(tuple(rows), 11)
    table, _, _ = laid(full, "right")
    wanted = whole(name, model, table, Layout.from_lengths(rows, table.shape[1]))
    state, got, used = begin(name, model, 3, cache), [[], [], []], [0, 0, 0]
    for counts in (prompts, (1, 1, 1), (1, 1, 1), middles, (1, 1, 1), (1, 1, 1)):
        parts = [text[u : u + n] for text, u, n in zip(full, used, counts)]
        chunk, mask, _ = laid(parts, side)
        layout = Layout.from_lengths(counts, chunk.shape[1], side=side, starts=used) if len(set(counts)) > 1 else None
        logits = model.step(chunk, layout, state, at=ALL_OF_IT)
        for row in range(3):
            got[row].append(logits[row][mask[row] > 0])
            used[row] += counts[row]
    for row in range(3):
        near(torch.cat(got[row]), wanted[row, : rows[row]])
    assert state.lengths == tuple(rows)


@torch.no_grad()
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", ["llama", "local_global", "sinks", "shaw", "t5", "rotary_pair"])
def test_select_reorders_repeats_and_drops_rows(name: str, cache: str) -> None:
    model, table = build(name), ids(3, TOKENS)
    state, alone = begin(name, model, 3, cache), begin(name, model, 3, cache)
    model.step(table[:, :5], None, state)
    model.step(table[:, :5], None, alone)
    rows = torch.tensor([2, 0, 0, 2])
    state.select(rows)
    assert state.lengths == (5, 5, 5, 5) and state.batch == 4
    near(model.step(table[rows, 5:7], None, state, at=ALL_OF_IT), model.step(table[:, 5:7], None, alone, at=ALL_OF_IT)[rows])
    state.select(torch.tensor([1]))
    near(model.step(table[[0], 7:], None, state, at=ALL_OF_IT), model.step(table[:, 7:], None, alone, at=ALL_OF_IT)[[0]])


@torch.no_grad()
@pytest.mark.parametrize("cache", CACHES)
def test_select_of_ragged_rows_keeps_their_places(cache: str) -> None:
    model = build("sinks")
    full = texts((7, 4), 2)
    state = model.begin(batch=2, cache=cache, capacity=16)
    model.step(torch.stack([full[0][:5], torch.cat([full[1][:2], full[1][:3]])]), Layout.from_lengths([5, 2], 5), state)
    state.select(torch.tensor([1, 0]))
    assert state.lengths == (2, 5)
    got = model.step(torch.stack([full[1][2:4], full[0][5:7]]), None, state, at=ALL_OF_IT)
    near(got[0], model(full[1][None]).logits[0, 2:4])
    near(got[1], model(full[0][None]).logits[0, 5:7])


@torch.no_grad()
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", ["llama", "local_global", "sinks", "t5"])
def test_a_saved_state_is_come_back_to_as_often_as_wanted(name: str, cache: str) -> None:
    model, table = build(name), ids(2, TOKENS)
    state = begin(name, model, 2, cache)
    empty = state.save()
    model.step(table[:, :5], None, state)
    saved = state.save()
    wanted = model.step(table[:, 5:], None, state, at=ALL_OF_IT)
    for other in (1, 2):
        state.restore(saved)
        assert state.lengths == (5, 5)
        model.step((table[:, 5:8] + other) % 19, None, state)
        state.select(torch.tensor([1, 1, 0]))
        state.restore(saved)
        near(model.step(table[:, 5:], None, state, at=ALL_OF_IT), wanted)
    state.restore(empty)
    assert state.lengths == (0, 0)
    near(model.step(table, None, state, at=ALL_OF_IT), whole(name, model, table))


@torch.no_grad()
def test_cross_attention_reads_the_source_once() -> None:
    model = build("t5")
    calls = []
    for block in model.decoder.blocks:
        block.cross.body.k.register_forward_hook(lambda *_: calls.append(1))
    state = begin("t5", model, 2, "growing")
    for i in range(4):
        model.step(ids(2, 1, i), None, state)
    assert len(calls) == 2


@torch.no_grad()
def test_static_cache_refuses_what_does_not_fit() -> None:
    model = build("llama")
    state = model.begin(batch=1, cache="static", capacity=4)
    model.step(ids(1, 3), None, state)
    with pytest.raises(LayoutError, match="5 columns, capacity is 4"):
        model.step(ids(1, 2), None, state)
    assert state.lengths == (3,)


@torch.no_grad()
def test_forward_with_a_state_is_a_step_and_takes_no_plain_mask() -> None:
    model, table = build("llama"), ids(2, 5)
    state = model.begin(batch=2)
    model(table[:, :3], state=state)
    assert state.lengths == (3, 3)
    near(model(table[:, 3:], state=state).logits, model(table).logits[:, 3:])
    with pytest.raises(LayoutError, match="starts=state"):
        model(table, attention_mask=torch.ones(2, 5), state=state)


@torch.no_grad()
def test_rolling_cache_holds_only_what_the_mask_can_see() -> None:
    model, table = build("window"), ids(1, 20)
    state = model.begin(batch=1, cache="rolling")
    sizes = []
    for i in range(20):
        model.step(table[:, i : i + 1], None, state)
        sizes.append(state.nbytes())
    token = 2 * 12 * 8 * 2  # k and v, d_model channels of 8 bytes, 2 layers
    assert max(sizes) == sizes[-1] == 3 * token


@torch.no_grad()
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_rotary_that_reads_the_length_is_fixed_before_prefill(name: str, cache: str) -> None:
    """Past the original length: decoding with capacity = the whole text equals the whole text at once."""
    model, table = build(name), ids(2, 20)
    state = model.begin(batch=2, cache=cache, capacity=20)
    steps = [model.step(table[:, i : i + 4], None, state, at=ALL_OF_IT) for i in range(0, 20, 4)]
    near(torch.cat(steps, 1), model(table).logits)


def test_gradients_flow_through_a_growing_and_a_rolling_cache() -> None:
    model, table = build("sinks"), ids(2, 7)
    model(table).logits.square().sum().backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    for cache in CACHES:
        model.zero_grad()
        state = model.begin(batch=2, cache=cache, capacity=9)
        parts = [model.step(table[:, i : i + 3], None, state, at=ALL_OF_IT) for i in range(0, 7, 3)]
        torch.cat(parts, 1).square().sum().backward()
        for got, p in zip(wanted, model.parameters()):
            near(p.grad, got)


def test_prefill_in_inference_mode_may_be_followed_outside_it() -> None:
    model, table = build("llama"), ids(2, 7)
    for cache in CACHES:
        state = model.begin(batch=2, cache=cache, capacity=9)
        with torch.inference_mode():
            model.step(table[:, :3], None, state)
            model.step(table[:, 3:4], None, state)
        with torch.no_grad():
            near(model.step(table[:, 4:], None, state, at=ALL_OF_IT), model(table).logits[:, 4:])

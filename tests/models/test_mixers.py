"""Mixers other than softmax in whole models: beams, saved states, costs, implied weights, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import test_decoding
import torch
import toys

from attnlib.attention.state_cache import StateCache
from attnlib.errors import SpecError, UsageError
from attnlib.inspect.describe import describe
from attnlib.inspect.recording import record
from attnlib.models.spec import ModelSpec
from attnlib.spec import read

DECODERS = [f"mixer_{name}" for name in toys.MIXERS]


@pytest.mark.parametrize("name", DECODERS)
def test_beams_and_saved_states(name: str) -> None:
    test_decoding.test_select_reorders_repeats_and_drops_rows(name, "growing")
    test_decoding.test_a_saved_state_is_come_back_to_as_often_as_wanted(name, "static")


@torch.no_grad()
@pytest.mark.parametrize("name", DECODERS)
def test_the_state_does_not_grow_and_is_described(name: str) -> None:
    model = toys.build(name, dtype=torch.float32)
    state, sizes = model.begin(batch=1), []
    for i in range(6):
        model.step(toys.ids(1, 1, i), None, state)
        sizes.append(state.nbytes())
    found = describe(read(ModelSpec, toys.ALL[name]), tokens=9)
    if name == "mixer_beside":  # a window of softmax attention beside a GRU
        columns = 2 * 12 * 4 * 2  # k and v, channels, bytes, layers
        assert found.state_bytes == 2 * 5 * 4 and found.cache_bytes_per_token == columns
        assert sizes == [found.state_bytes + columns * (i + 1) for i in range(6)]
        return
    assert all(isinstance(cache, StateCache) for cache in state.caches)
    assert {*sizes} == {found.state_bytes} and found.state_bytes > 0 and found.cache_bytes_per_token == 0


def test_flops_are_those_of_the_products() -> None:
    """Delta rule, 1 layer, 64 tokens in one chunk of C = 64, H heads of D = E: counted by hand."""
    layer = {"attention": {"kind": "delta", "num_heads": 2, "mask": "causal"}, "norm": "rms"}
    tree = {"kind": "decoder", "d_model": 8, "vocab_size": 5, "stack": {"num_layers": 1, "block": layer}}
    rows = {row.path: row.flops for row in describe(read(ModelSpec, tree), tokens=64).rows}
    c, d, heads = 64, 4, 2
    projections = 2 * c * 8 * 8 * 4 + 2 * c * 8 * heads
    pairs = 2 * 2 * c * c * d  # q k and k k
    system = c * (c - 1) * c + 2 * c * c * 2 * d  # its inverse, by which values and keys are multiplied
    passed = 2 * 2 * c * d * d + 2 * d * d * d  # what u and w write, and what w takes from the state
    given = 2 * c * d * d * 2 + 2 * c * c * d  # u - w S, q S, weights u
    assert rows["stack.blocks.0.attention.body"] == projections + heads * (pairs + system + passed + given)


def test_flops_of_a_recurrent_network() -> None:
    tree = toys.decoder(toys.block(attention={"kind": "lstm", "d_hidden": 5, "mask": "causal"}))
    rows = {row.path: row.flops for row in describe(read(ModelSpec, tree), tokens=7).rows}
    assert rows["stack.blocks.0.attention.body"] == 2 * 7 * (12 * 20 + 5 * 20 + 5 * 12)


@pytest.mark.parametrize("name", ["mixer_performer", "encoder_performer", "mixer_elu"])
def test_implied_weights_times_values_are_the_output(name: str) -> None:
    model, table = toys.build(name), toys.ids(2, 6)
    body: Any = (model.stack.blocks[0]).attention.body  # type: ignore[union-attr, index]
    taken: list[Any] = []
    body.finish, finish = lambda x, y: taken.append((x, y)) or finish(x, y), body.finish
    with torch.no_grad(), record(model, layers=0) as seen:
        model(table)
    x, y = taken[0]
    flat, _ = body._flat(x, None, {}) if body.conv is None else body._flat(x, toys.Layout.dense(2, 6), {})
    v = body._split(flat[2], body.heads.d_value).repeat_interleave(body.heads.num // body.heads.kv, 1)
    weights = torch.stack([seen[body.path].dense(row) for row in range(2)])
    torch.testing.assert_close(weights @ v.float(), y.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mixer_delta", "mixer_ssd", "mixer_gru"])
def test_recurrences_without_weights_say_why(name: str) -> None:
    with pytest.raises(UsageError, match="has a share in"), record(toys.build(name), layers=0):
        pass


def causal_lm(**attention: Any) -> dict[str, Any]:
    return toys.decoder(toys.block(attention=attention))


def crossing(**cross: Any) -> dict[str, Any]:
    return toys.pair(toys.block(attention={"num_heads": 4}), toys.block(attention=toys.attention(), cross=cross))


REFUSED = {
    "window": (
        causal_lm(kind="gla", num_heads=2, mask=["causal", {"kind": "window", "before": 3}]),
        r"stack\.block\.attention\.mask: of kind all for gla, a state sums all tokens",
    ),
    "cross": (
        crossing(kind="delta", num_heads=2),
        r"decoder\.block\.cross\.kind: delta, orders and forgets by its own text",
    ),
    "recurrent cross": (crossing(kind="gru"), r"cross\.kind: gru, orders and forgets by its own text"),
    "window beside": (
        causal_lm(kind="beside", mixers=[{"num_heads": 2}, {"kind": "lstm", "mask": {"kind": "first", "count": 2}}]),
        r"attention\.mixers\.1\.mask: of kind first for lstm",
    ),
    "causal cross": (crossing(kind="linear", num_heads=2, mask="causal"), r"cross\.mask: causal in cross-attention"),
    "conv cross": (crossing(kind="linear", num_heads=2, conv=3), r"cross\.conv: in cross-attention, joins neighbours"),
    "heads": (causal_lm(kind="retention", num_heads=5), r"attention\.num_heads: 5, must divide d_model \(12\)"),
    "groups": (causal_lm(kind="ssd", num_heads=4, groups=3), r"attention\.groups: 3, must divide num_heads"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_when_it_is_read(name: str) -> None:
    tree, words = REFUSED[name]
    with pytest.raises(SpecError, match=words):
        read(ModelSpec, tree)

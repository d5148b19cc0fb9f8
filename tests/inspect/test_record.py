"""Recording sees every attention as it is, and changes nothing."""

from __future__ import annotations

import threading

import pytest
import torch
from configs_for_tests import LOCAL, SPECS, attention, decoder, pair

from attnlib.errors import UsageError
from attnlib.inspect.record import record
from attnlib.inspect.subject import drawn
from attnlib.layout import Layout

CPU, FP32 = torch.device("cpu"), torch.float32
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])


def test_recorded_weights_are_softmax_of_scores_by_hand() -> None:
    model = drawn(decoder(LOCAL), seed=1, device=CPU, dtype=FP32)
    body = model.stack.blocks[0].attention.body
    with torch.no_grad(), record("decoder.0.*") as seen:
        stream = model(IDS, hidden=True).hidden[0]
        x = model.stack.blocks[0].attention.before(stream)
        table = body.rotary.table(Layout.dense(2, 7), 6, FP32)
        q = body.rotary.turn(body.q(x).unflatten(2, (4, 6)).transpose(1, 2), table)
        k = body.rotary.turn(body.k(x).unflatten(2, (2, 6)).transpose(1, 2), table).repeat_interleave(2, 1)
        distance = torch.arange(7)[:, None] - torch.arange(7)
        scores = (q @ k.mT * 6**-0.5).masked_fill((distance < 0) | (distance > 5), -torch.inf)
    torch.testing.assert_close(seen.weights["decoder.0.self"][0], scores.softmax(-1), atol=2e-6, rtol=0)
    assert list(seen.weights) == ["decoder.0.self"]


@pytest.mark.parametrize("name", SPECS)
def test_recording_changes_no_output_and_rows_sum_to_one(name: str) -> None:
    model = drawn(SPECS[name], seed=2, device=CPU, dtype=FP32)
    given = (IDS, IDS) if type(SPECS[name]).kind == "encoder_decoder" else (IDS,)
    with torch.no_grad():
        plain = model(*given).last
        with record() as seen:
            watched = model(*given).last
        assert torch.equal(plain, watched)
    for path, calls in seen.weights.items():
        sums = calls[0].sum(-1)
        if name == "softcap, sink logits":  # the sink takes its share
            assert bool((sums < 1).all()), path
        else:
            torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)


def test_cross_attention_is_named_by_source_and_target_tokens() -> None:
    model = drawn(pair(), seed=3, device=CPU, dtype=FP32)
    with torch.no_grad(), record("*.cross") as seen:
        model(IDS[:1], IDS[:1, :4])
    (one,) = seen.maps(list("abcd"), list("ABCDEFG"))
    assert (one.name, one.query_tokens, one.key_tokens) == ("decoder.0.cross", list("abcd"), list("ABCDEFG"))
    assert one.weights.shape == (4, 4, 7)


def test_each_step_of_a_cache_is_recorded_and_padding_can_be_cut() -> None:
    model = drawn(decoder(attention(rotary={})), seed=4, device=CPU, dtype=FP32)
    with torch.no_grad(), record("decoder.1.self") as seen:
        state = model.begin(batch=2)
        for column in range(3):
            model.step(IDS[:, column : column + 1], None, state)
        whole = model(IDS, Layout.from_lengths([7, 4])).logits
    assert [tuple(w.shape) for w in seen.weights["decoder.1.self"]] == [
        (2, 4, 1, 1),
        (2, 4, 1, 2),
        (2, 4, 1, 3),
        (2, 4, 7, 7),
    ]
    (cut,) = seen.maps(list("abcd"), row=1, columns=slice(0, 4))
    assert cut.weights.shape == (4, 4, 4) and whole.shape == (2, 7, 61)


def test_other_threads_are_not_recorded() -> None:
    model = drawn(decoder(), seed=5, device=CPU, dtype=FP32)
    with record() as seen:
        other = threading.Thread(target=lambda: model(IDS))
        other.start()
        other.join()
    assert seen.weights == {}
    with pytest.raises(UsageError, match="no attention was seen"):
        seen.maps(["a"])


def test_gradients_flow_while_recording() -> None:
    model = drawn(decoder(), seed=6, device=CPU, dtype=FP32).requires_grad_()
    model(IDS).logits.sum().backward()
    plain = model.stack.blocks[0].attention.body.q.weight.grad.clone()
    model.zero_grad()
    with record():
        model(IDS).logits.sum().backward()
    assert torch.equal(plain, model.stack.blocks[0].attention.body.q.weight.grad)

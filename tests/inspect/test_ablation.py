"""Gates and ablations act on the heads they name, and on no others."""

from __future__ import annotations

import pytest
import torch
from configs_for_tests import SPECS, decoder, pair

from attnlib.errors import UsageError
from attnlib.inspect import ablated, gated, record
from attnlib.inspect.ablation import mean_mixes
from attnlib.inspect.subject import drawn
from attnlib.layout import Layout

CPU, FP64 = torch.device("cpu"), torch.float64
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])


@pytest.mark.parametrize("name", ["decoder", "grouped, local", "weights shared", "encoder", "pair"])
def test_an_ablated_head_is_one_whose_columns_of_the_out_projection_are_zero(name: str) -> None:
    model = drawn(SPECS[name], seed=2, device=CPU, dtype=FP64)
    given = (IDS, IDS) if name == "pair" else (IDS,)
    path = "decoder.0.cross.2" if name == "pair" else "encoder.1.self.2" if name == "encoder" else "decoder.1.self.2"
    with torch.no_grad():
        plain = model(*given).last
        with ablated(model, [path]):
            found = model(*given).last
        with ablated(model, []):
            assert torch.equal(model(*given).last, plain)
        assert torch.equal(model(*given).last, plain)
        stack, layer, kind, head = path.split(".")
        block = (getattr(model, stack) if name == "pair" else model.stack).blocks[int(layer)]
        body = (block.cross if kind == "cross" else block.attention).body
        width = body.out.weight.shape[1] // 4
        if name == "weights shared":  # the weights of other layers too, so that only the difference can be told
            assert not torch.allclose(found, plain)
            return
        body.out.weight[:, int(head) * width : (int(head) + 1) * width] = 0.0
        torch.testing.assert_close(found, model(*given).last, atol=1e-12, rtol=0)
    assert not torch.allclose(found, plain)


def test_a_gate_s_gradient_is_what_a_small_change_of_it_does() -> None:
    model = drawn(SPECS["decoder"], seed=2, device=CPU, dtype=FP64)
    gate = torch.tensor([1.0, 0.5, -2.0, 1.0], dtype=FP64, requires_grad=True)

    def total(gate: torch.Tensor) -> torch.Tensor:
        with gated(model, {"decoder.0.self": gate}):
            return model(IDS).logits.square().mean()

    assert torch.autograd.gradcheck(total, (gate,))


def test_what_is_no_head_is_refused() -> None:
    model, both = (drawn(spec, seed=2, device=CPU, dtype=FP64) for spec in (decoder(), pair()))
    for call, words in ((lambda: ablated(model, ["decoder.0.self.4"]), "'decoder.0.self.4' is out of range"),
                        (lambda: ablated(model, 9), "9 is out of range"),
                        (lambda: gated(both, {"decoder.1.cross": torch.ones(4)}), "matches no attention"),
                        (lambda: gated(model, {"decoder.1.self": torch.ones(3)}), "1.self: .3. gates")):  # fmt: skip
        with pytest.raises(UsageError, match=words), call():
            raise AssertionError("opened")


def test_mean_mixes_are_means_over_real_tokens_and_stand_in_for_heads() -> None:
    model = drawn(SPECS["decoder"], seed=2, device=CPU, dtype=FP64)
    layout = Layout.from_lengths([7, 4], 7, side="right")
    with torch.no_grad(), record(model, activations="decoder.1.attention.heads") as seen:
        means = mean_mixes(model, lambda: model(IDS, layout), layout)
    mixed = seen.activations["decoder.1.attention.heads"][0]
    wished = torch.cat([mixed[0], mixed[1, :4]]).mean(0)
    torch.testing.assert_close(means["decoder.1.self"], wished, atol=1e-12, rtol=0)
    with torch.no_grad(), ablated(model, "decoder.1.self.3", means):
        with record(model, activations="decoder.1.attention.add") as put:
            model(IDS, layout)
        there = mixed.clone()
        there[:, :, 3] = means["decoder.1.self"][3]
        added = model.stack.blocks[1].attention.body.out(there.flatten(2))
    torch.testing.assert_close(put.activations["decoder.1.attention.add"][0][0], added[0], atol=1e-12, rtol=0)

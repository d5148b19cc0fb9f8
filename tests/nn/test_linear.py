"""Linear maps: whichever kernel multiplies, the result is torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from attnlib.nn import linear as module
from attnlib.nn.feed_forward import Dense
from attnlib.nn.linear import Linear, linear


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 600), (600,), (1, 600), (3, 600), (70, 600), (2, 40, 600)])
def test_rows_through_either_kernel_equal_torch(
    faster: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "onednn_takes", lambda *asked: 0.5 if faster else 2.0)
    layer = Linear(600, 1800)
    x = torch.randn(shape)
    with torch.no_grad():
        for bias in (layer.bias, None):
            found, wished = linear(x, layer.weight, bias), F.linear(x, layer.weight, bias)
            assert found.shape == wished.shape
            torch.testing.assert_close(found, wished, rtol=1e-5, atol=1e-5)


def test_only_float32_inference_with_large_weights_takes_the_other_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onednn_takes", lambda *asked: 0.5)
    x, large, small = torch.randn(1, 600), torch.randn(500, 600), torch.randn(4, 600)
    with torch.no_grad():
        assert module._suits(x, large)
        assert not module._suits(x, small)
        assert not module._suits(x.double(), large.double())
        assert not module._suits(x, large.T.contiguous().T)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not module._suits(x, large)
    assert not module._suits(x, large)


def test_gradients_flow_as_in_torch() -> None:
    layer = Linear(600, 500)
    x = torch.randn(1, 600, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.detach().sum(0)[None])


def test_one_row_some_hundred_and_more_are_asked_of_the_machine_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()
    monkeypatch.setattr(module, "onednn_takes", lambda rows, *rest: asked.append(rows) or 1.0)
    weight, broad, more = torch.randn(500, 600), torch.randn(2000, 600), 2 * module.CACHED
    with torch.no_grad():
        for rows in (1, 2, module.MANY - 1, module.MANY, module.MANY + 1, module.CACHED, module.CACHED + 1, 5000):
            linear(torch.randn(rows, 600), broad)
        assert asked == [1, module.MANY, 2 * module.MANY, module.CACHED, more, more]
        asked.clear()
        for rows in (1, module.MANY):
            linear(torch.randn(rows, 600), weight)
        module.linear_gelu(Linear(600, 500), torch.randn(700, 600), "gelu")
        assert linear(torch.randn(0, 600), weight).shape == (0, 500)
    assert asked == [1, more, module.CACHED]


@pytest.mark.parametrize(
    ("rows", "time", "taken"),
    [(1, 0.9, True), (1, 1.0, False), (100, 1.0, True), (100, 1.1, False), (300, 0.9, False), (300, 0.5, True)],
)
def test_one_row_asks_for_a_gain_some_hundred_for_no_loss_and_more_for_a_large_gain(
    rows: int, time: float, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "onednn_takes", lambda *asked: time)
    with torch.no_grad():
        assert module._wins(torch.randn(rows, 600), torch.randn(2000, 600)) is taken


def test_compiled_once_for_any_number_of_rows() -> None:
    graphs = list[torch.fx.GraphModule]()

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    layer = Linear(600, 2000)
    compiled = torch.compile(layer, backend=backend, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for rows in (2, 70, 90, 300, 5000):
            x = torch.randn(rows, 600)
            torch.testing.assert_close(compiled(x), F.linear(x, layer.weight, layer.bias))
    assert len(graphs) == 1


@pytest.mark.parametrize(("rows", "activation"), [(1, None), (64, None), (512, None), (64, "gelu"), (64, "gelu_tanh")])
def test_the_machine_gives_an_answer(rows: int, activation: str | None) -> None:
    assert 0 < module.onednn_takes(rows, 1, activation) < 100


def test_a_clock_too_coarse_to_tell_chooses_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "process_time", lambda: 0.0)
    assert module.onednn_takes.__wrapped__(64, 1) == float("inf")


@pytest.mark.parametrize("activation", list(module.GELU))
@pytest.mark.parametrize("bias", [True, False])
def test_a_gelu_with_its_product_equals_one_after_it(activation: str, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onednn_takes", lambda *asked: 0.5)
    layer, x = Linear(600, 500, bias=bias), 3 * torch.randn(2, 40, 600)
    with torch.no_grad():
        found = module.linear_gelu(layer, x, activation)
        wished = F.gelu(F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None),
                        approximate=module.GELU[activation])  # fmt: skip
    assert found is not None
    torch.testing.assert_close(found.double(), wished, rtol=1e-5, atol=1e-5)


def test_two_steps_where_one_is_slower_unknown_or_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, seen = Linear(600, 500), torch.randn(80, 600), list[torch.Tensor]()
    monkeypatch.setattr(module, "onednn_takes", lambda *asked: 2.0)
    with torch.no_grad():
        assert module.linear_gelu(layer, x, "gelu") is None
        monkeypatch.setattr(module, "onednn_takes", lambda *asked: 0.5)
        assert module.linear_gelu(layer, x, "relu") is None
        assert module.linear_gelu(layer, x[:2], "gelu") is None
        assert module.linear_gelu(torch.nn.Linear(600, 500), x, "gelu") is None
        dense = Dense(d_model=600, d_ff=500, activation="gelu")
        before = dense(x)
        dense.up.register_forward_hook(lambda m, args, out: seen.append(out))
        after = dense(x)
    assert module.linear_gelu(layer, x, "gelu") is None  # with gradients
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen[0], F.linear(x, dense.up.weight, dense.up.bias).detach(), rtol=1e-5, atol=1e-5)

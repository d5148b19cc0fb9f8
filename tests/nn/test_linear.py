"""Linear maps: whichever kernel multiplies a single row, the result is torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from attnlib.nn import linear as module
from attnlib.nn.linear import Linear, linear


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 600), (600,), (1, 600), (3, 600), (70, 600), (2, 40, 600)])
def test_rows_through_either_kernel_equal_torch(
    faster: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "onednn_is_faster", lambda rows, threads: faster)
    layer = Linear(600, 500)
    x = torch.randn(shape)
    with torch.no_grad():
        for bias in (layer.bias, None):
            found, wished = linear(x, layer.weight, bias), F.linear(x, layer.weight, bias)
            assert found.shape == wished.shape
            torch.testing.assert_close(found, wished, rtol=1e-5, atol=1e-5)


def test_only_float32_inference_with_large_weights_takes_the_other_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onednn_is_faster", lambda rows, threads: True)
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


def test_one_row_and_many_are_asked_of_the_machine_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()
    monkeypatch.setattr(module, "onednn_is_faster", lambda rows, threads: bool(asked.append(rows)))
    weight = torch.randn(500, 600)
    with torch.no_grad():
        for rows in (1, 2, module.MANY - 1, module.MANY, 700):
            linear(torch.randn(rows, 600), weight)
        assert linear(torch.randn(0, 600), weight).shape == (0, 500)
    assert asked == [1, module.MANY, module.MANY]


@pytest.mark.parametrize("rows", [1, 64])
def test_the_machine_gives_an_answer(rows: int) -> None:
    assert module.onednn_is_faster(rows, 1) in (True, False)

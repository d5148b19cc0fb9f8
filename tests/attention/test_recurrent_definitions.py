"""Recurrent mixers equal their cells, one token after the other; GRU and LSTM equal torch's with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mixer_gradients import gradients_hold
from test_linear_definitions import WIDTH, text
from torch import Tensor, nn

from attnlib.attention.softmax import MixerSpec
from attnlib.layout import Layout
from attnlib.spec import read

KINDS = ["gru", "lstm", "min_gru"]


def module(**tree: Any) -> Any:
    mixer = read(MixerSpec, {"d_hidden": 5} | tree).build(d_model=WIDTH, layer=0).double()
    made = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in mixer.parameters():
            p.copy_(torch.randn(p.shape, generator=made, dtype=torch.float64) * 0.5)
    return mixer


def by_hand(kind: str, cell: Any, x: Tensor) -> Tensor:
    """h [T, N] of one text [T, M]."""
    sigmoid, h, c, found = torch.sigmoid, torch.zeros(5).double(), torch.zeros(5).double(), []
    for token in x:
        if kind == "min_gru":
            z = sigmoid(cell.update.weight @ token + cell.update.bias)
            h = (1 - z) * h + z * (cell.value.weight @ token + cell.value.bias)
        else:
            a, b = cell.x.weight @ token + cell.x.bias, cell.h.weight @ h + cell.h.bias
            if kind == "gru":
                r, z = sigmoid(a[:5] + b[:5]), sigmoid(a[5:10] + b[5:10])
                h = (1 - z) * torch.tanh(a[10:] + r * b[10:]) + z * h
            else:
                i, f, g, o = (a + b).chunk(4)
                c = sigmoid(f) * c + sigmoid(i) * torch.tanh(g)
                h = sigmoid(o) * torch.tanh(c)
        found.append(h)
    return torch.stack(found)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("mask", ["causal", "everything"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_its_cell_token_by_token(kind: str, mask: str, tokens: int) -> None:
    m, x = module(kind=kind, mask=mask), text(2, tokens)
    for row in range(2):
        h = [by_hand(kind, m.cells[0], x[row])]
        if mask == "everything":
            h.append(by_hand(kind, m.cells[1], x[row].flip(0)).flip(0))
        torch.testing.assert_close(m(x)[row], torch.cat(h, -1) @ m.out.weight.T + m.out.bias)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_it_equals_torchs_module(kind: str) -> None:
    m, x = module(kind=kind, mask="everything"), text(2, 6)
    theirs = (nn.GRU if kind == "gru" else nn.LSTM)(WIDTH, 5, batch_first=True, bidirectional=True).double()
    for end, cell in zip(("", "_reverse"), m.cells):
        for name, ours in (("ih", cell.x), ("hh", cell.h)):
            getattr(theirs, f"weight_{name}_l0{end}").copy_(ours.weight)
            getattr(theirs, f"bias_{name}_l0{end}").copy_(ours.bias)
    torch.testing.assert_close(m(x), m.out(theirs(x)[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_differences(kind: str) -> None:
    assert gradients_hold(module(kind=kind, mask="everything"), text(1, 5, seed=3), Layout.packed([[2, 3]]))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_texts_the_host_does_not_know_are_as_those_it_knows(kind: str) -> None:
    m, x = module(kind=kind, mask="everything"), text(2, 7)
    known = Layout.packed([[3, 2], [5]], 7)
    assert known.segments is not None
    torch.testing.assert_close(m(x, Layout.of(known.positions, known.segments)), m(x, known))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_token_gives_zeros_also_in_half_precision(kind: str, dtype: torch.dtype) -> None:
    m, x = module(kind=kind).to(dtype), text(2, 6).to(dtype)
    y = m(x, Layout.from_lengths([4, 0], 6, side="left"))
    assert torch.isfinite(y).all() and not y[0, :2].any() and not y[1].any() and y[0, 2:].any()

"""minGRU: a gated recurrence whose gates read the token alone, so that it is computed in parallel."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.exact import exact
from attnlib.attention.linear.texts import Texts
from attnlib.attention.recurrent.mixer import Cell, RecurrentSpec, States
from attnlib.layout import Layout
from attnlib.nn.linear import Linear


class MinGRUCell(Cell):
    """h_t = (1 - z_t) h_{t-1} + z_t (W x_t + b), z_t = sigmoid(V x_t + c) (Feng et al. 2024, arXiv:2410.01201)."""

    def __init__(self, d_model: int, d_hidden: int) -> None:
        super().__init__()
        self.update, self.value = Linear(d_model, d_hidden), Linear(d_model, d_hidden)

    def forward(self, x: Tensor, layout: Layout, held: States, *, back: bool, keep: bool) -> tuple[Tensor, States]:
        texts = Texts.backward(layout) if back else Texts.of(layout)
        x = x.flip(1) if back else x
        gate, value = (F.linear(x, exact(m.weight), exact(m.bias)) for m in (self.update, self.value))
        kept, new = (-gate).sigmoid(), gate.sigmoid() * value
        if texts.begins is not None:
            kept = kept.masked_fill(texts.begins[..., None], 0.0)
        if texts.real is not None:
            kept, new = kept.masked_fill(~texts.real[..., None], 1.0), texts.keep(new)
        y, h = channel_scan(kept, new, held.get("h"))
        return (y.flip(1) if back else y), {"h": h}

    def how(self, layout: Layout, *, keep: bool) -> str:
        return "one step of the state" if layout.tokens == 1 else "a scan of each channel, its pieces beside each other"


def channel_scan(kept: Tensor, new: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """h_t = kept_t h_{t-1} + new_t, each channel alone: [B, T, N] -> all h and the last, [B, N].

    Some sqrt(T) pieces run beside each other, then what enters each piece passes from one to the next.
    """
    batch, tokens, width = new.shape
    if state is None:
        state = new.new_zeros(batch, width)
    if tokens == 0:
        return new, state
    size = 1 << (tokens.bit_length() // 2)
    more = -tokens % size
    a = F.pad(kept, (0, 0, 0, more), value=1.0).unflatten(1, (-1, size)).unbind(2)  # [B, pieces, N] each
    b = F.pad(new, (0, 0, 0, more)).unflatten(1, (-1, size)).unbind(2)
    local, through = [b[0]], [a[0]]
    for decay, add in zip(a[1:], b[1:]):
        local.append(torch.addcmul(add, decay, local[-1]))
        through.append(through[-1] * decay)
    entering = []
    for end, passed in zip(local[-1].unbind(1), through[-1].unbind(1)):
        entering.append(state)
        state = torch.addcmul(end, passed, state)
    before = torch.stack(entering, 1)[:, :, None]
    y = torch.addcmul(torch.stack(local, 2), torch.stack(through, 2), before)
    return y.flatten(1, 2)[:, :tokens], state


class MinGRUSpec(RecurrentSpec, kind="min_gru"):
    """A gated recurrence computed in parallel: its gates read the token alone (Feng et al. 2024)."""

    cell: ClassVar[type[Cell]] = MinGRUCell

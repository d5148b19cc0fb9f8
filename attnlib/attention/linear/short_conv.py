"""A short causal convolution of each channel alone, over the tokens of one text."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.attention.linear.texts import Texts
from attnlib.layout import Layout


class ShortConv(nn.Module):
    """y_t = act(sum over o < K of w_o * x_{t-o}): [B, T, C] -> [B, T, C], w [K, C], x_{t-o} the o-th token before t.

    Tokens of other texts, and what is no token, count as absent, wherever they stand. The tail [B, K - 1, C] is what a later
    call needs of this one.
    """

    def __init__(self, width: int, *, kernel: int, activation: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(kernel, width))
        self.kernel, self.activation = kernel, activation
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Begins as the token itself, with a little of its neighbours."""
        nn.init.normal_(self.weight, std=0.02)
        self.weight[0] += 1.0

    def forward(self, x: Tensor, layout: Layout, tail: Tensor | None = None) -> tuple[Tensor, Tensor]:
        reach, texts = self.kernel - 1, Texts.of(layout)
        if texts.real is None:
            whole = F.pad(x, (0, 0, reach, 0)) if tail is None else torch.cat([tail, x], 1)
            return self._sum(whole, None, x.shape[1]), whole[:, whole.shape[1] - reach :]
        real = texts.real
        order = layout.once("tokens first", lambda: torch.argsort(~real, dim=1, stable=True))
        count = real.sum(1, keepdim=True)
        x = texts.keep(x).gather(1, order[..., None].expand_as(x))
        whole = F.pad(x, (0, 0, reach, 0)) if tail is None else torch.cat([tail, x], 1)
        runs = torch.zeros_like(order) if texts.runs is None else texts.runs.gather(1, order)
        runs = F.pad(runs, (reach, 0))
        y = self._sum(whole, runs, x.shape[1])
        back = torch.empty_like(order).scatter_(1, order, torch.arange(x.shape[1], device=x.device).expand_as(order))
        ends = count + torch.arange(reach, device=x.device)  # the last columns that hold a token, or the old tail
        last = runs.gather(1, count + reach - 1) if reach else runs[:, :0]
        kept = whole.gather(1, ends[..., None].expand(-1, -1, x.shape[2]))
        kept = kept.masked_fill((runs.gather(1, ends) != last)[..., None], 0.0)
        return y.gather(1, back[..., None].expand_as(y)), kept

    def _sum(self, whole: Tensor, runs: Tensor | None, tokens: int) -> Tensor:
        reach, y = self.kernel - 1, None
        for back, weight in enumerate(self.weight.unbind(0)):
            part = whole[:, reach - back : reach - back + tokens]
            if runs is not None and back:
                alike = runs[:, reach - back : reach - back + tokens] == runs[:, reach:]
                part = part.masked_fill(~alike[..., None], 0.0)
            y = part * weight if y is None else torch.addcmul(y, part, weight)
        assert y is not None
        return F.silu(y) if self.activation else y

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, kernel={self.kernel}"

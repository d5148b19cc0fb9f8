"""A mixture of experts: a router sends each token through a few of many feed-forward layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attnlib.layout import Layout
from attnlib.nn.feed_forward import ACTIVATIONS, Activation, FeedForward
from attnlib.nn.grouped import grouped_linear, make_known
from attnlib.nn.linear import Linear
from attnlib.spec import FieldError


class Routed(NamedTuple):
    """How a layer used its experts: of the real tokens, the mean choices [E] (they sum to k) and probabilities [E]."""

    coefficient: float
    choices: Tensor
    probabilities: Tensor


class Mixture(nn.Module):
    """sum_e w_e down_e(act(gate_e(x)) * up_e(x)) over the k experts e that the router finds likeliest for a token.

    w is the softmax of the router's logits, in fp32, over the chosen k alone. [.., M] -> [.., M]; the cost is that of k
    experts. Where tokens are few and experts many, unused weights are not read.
    """

    routes: ClassVar[bool] = True
    several: ClassVar[bool] = True  # matrices in one parameter, a first dimension for the expert

    def __init__(
        self, *, d_model: int, d_ff: int, num_experts: int, top_k: int, activation: Activation, balance: float = 0.0,
        jitter: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        make_known()
        self.router = Linear(d_model, num_experts, bias=False)
        self.gate = nn.Parameter(torch.empty(num_experts, d_ff, d_model))
        self.up = nn.Parameter(torch.empty(num_experts, d_ff, d_model))
        self.down = nn.Parameter(torch.empty(num_experts, d_model, d_ff))
        self.top_k, self.activation, self.balance, self.jitter = top_k, activation, balance, jitter
        for weight in (self.gate, self.up, self.down):
            nn.init.normal_(weight, std=0.02)

    def forward(self, x: Tensor, layout: Layout | None = None, routed: list[Routed] | None = None) -> Tensor:
        """x [B, T, M] -> [B, T, M]; in training with a `balance` notes in `routed` how the experts were used."""
        if self.jitter and self.training:
            x = x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)
        flat = x.flatten(0, -2)  # [N, M]
        logits = self.router(flat)
        probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)  # [N, E]
        weights, experts = probabilities.topk(self.top_k, -1)  # [N, k]
        if routed is not None and self.balance and self.training:
            routed.append(self._use(probabilities, experts, None if layout is None else layout.real))
        y = self._experts(flat, weights / weights.sum(-1, keepdim=True), experts)
        return y.to(x.dtype).view(x.shape)

    def _experts(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """x [N, M] through its k experts, weighed and summed: [N, M]."""
        chosen = experts.flatten()
        order = chosen.argsort(stable=True)  # [N k], expert by expert
        counts = chosen.new_zeros(len(self.gate)).scatter_add_(0, chosen, torch.ones_like(chosen))
        rows = x[order // self.top_k]
        hidden = ACTIVATIONS[self.activation](grouped_linear(rows, self.gate, counts))
        y = grouped_linear(hidden * grouped_linear(rows, self.up, counts), self.down, counts)
        y = y * weights.flatten()[order, None]
        return y[order.argsort()].unflatten(0, experts.shape).sum(1)  # type: ignore[no-any-return]

    def _use(self, probabilities: Tensor, experts: Tensor, real: Tensor | None) -> Routed:
        mass = torch.ones_like(probabilities[:, :1]) if real is None else real.flatten()[:, None].to(probabilities.dtype)
        total = mass.sum().clamp(min=1)
        choices = torch.zeros_like(probabilities).scatter_(1, experts, 1.0)  # [N, E]
        return Routed(self.balance, (choices * mass).sum(0) / total, (probabilities * mass).sum(0) / total)

    def extra_repr(self) -> str:
        return f"num_experts={len(self.gate)}, top_k={self.top_k}, {self.activation}"


def balance(routed: Sequence[Routed]) -> Tensor:
    """coefficient * E * sum_e f_e p_e over the layers together (Fedus et al. 2021, arXiv:2101.03961, equation 4).

    f_e is the mean number of times a token chose expert e, p_e its mean probability: least where all are used alike.
    """
    kinds = dict.fromkeys((layer.coefficient, len(layer.choices)) for layer in routed)
    total = routed[0].probabilities.new_zeros(())
    for coefficient, experts in kinds:
        alike = [layer for layer in routed if (layer.coefficient, len(layer.choices)) == (coefficient, experts)]
        f, p = (torch.stack([layer[part] for layer in alike]).mean(0) for part in (1, 2))  # type: ignore[misc]
        total = total + coefficient * experts * (f * p).sum()
    return total


class MixtureSpec(FeedForward, kind="mixture"):
    """top_k of num_experts gated layers for each token, chosen and weighed by a router (Shazeer et al. 2017, Mixtral).

    d_ff: of one expert. balance: coefficient of the loss that spreads tokens over experts, in training. jitter: in training
    the layer's input is multiplied by noise between 1 - jitter and 1 + jitter.
    """

    d_ff: int = Field(ge=1)
    num_experts: int = Field(ge=1)
    top_k: int = Field(default=2, ge=1)
    activation: Activation = "silu"
    balance: float = Field(default=0.0, ge=0)
    jitter: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _chosen(self) -> Self:
        if self.top_k > self.num_experts:
            raise FieldError("top_k", str(self.top_k), f"must be at most num_experts ({self.num_experts})")
        return self

    def build(self, d_model: int) -> nn.Module:
        return Mixture(
            d_model=d_model,
            d_ff=self.d_ff,
            num_experts=self.num_experts,
            top_k=self.top_k,
            activation=self.activation,
            balance=self.balance,
            jitter=self.jitter,
        )

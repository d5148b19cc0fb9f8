"""Norms and activations held still: what they do to one input, taken as a linear map of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from attnlib.layout import Layout
from attnlib.models.heads import MaskedLMHead, Place, PooledHead, Readings, TokenHead, Vocabulary, pool
from attnlib.nn.feed_forward import ACTIVATIONS
from attnlib.nn.linear import linear
from attnlib.nn.norms import LayerNorm, RMSNorm

NORMS = (LayerNorm, RMSNorm, nn.Identity)
TINY = 1e-6  # where act(x) / x is taken instead of nearer to zero


def linear_part(norm: nn.Module | None, at: Tensor) -> Callable[[Tensor], Tensor]:
    """The linear map [.., M] -> [.., M] that a norm is while its scale stays the one it has for `at`; its bias left out.

    LayerNorm: (c - mean(c)) / sqrt(var(at) + eps) * weight; RMSNorm: c / sqrt(mean(at^2) + eps) * weight. No norm: itself.
    """
    if norm is None or isinstance(norm, nn.Identity):
        return lambda c: c
    if isinstance(norm, LayerNorm):
        rate = torch.rsqrt(at.var(-1, unbiased=False, keepdim=True) + norm.eps)
        weight = 1.0 if norm.weight is None else norm.weight
        return lambda c: (c - c.mean(-1, keepdim=True)) * rate * weight
    if isinstance(norm, RMSNorm):
        rate = torch.rsqrt(at.pow(2).mean(-1, keepdim=True) + norm.eps)
        gain = norm.weight + 1.0 if norm.unit_offset else norm.weight
        return lambda c: c * rate * gain
    raise TypeError(f"{type(norm).__name__} has no linear part")


def frozen_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """norm(x), with a gradient that takes the scale for a constant."""
    still = linear_part(norm, x.detach())(x)
    bias = getattr(norm, "bias", None)
    return still if bias is None else still + bias


def passes_zero(activation: str) -> bool:
    """Whether act(0) = 0, without which act(x) / x is no number near zero."""
    return activation in ACTIVATIONS and float(ACTIVATIONS[activation](torch.zeros(1))) == 0.0


def frozen_activation(act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """act(x), with a gradient that takes act(x) / x for a constant."""
    at = torch.where(x.abs() < TINY, TINY, x).detach()
    return x * (act(at) / at)


def shadow(model: Any) -> Any:
    """The same model with the very same weights, whose modules may be given other forwards without touching the first."""
    kept: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    kept[id(model.spec)] = model.spec
    return copy.deepcopy(model, kept)


Rule = Callable[..., Any]


def ruled(model: Any, rules: Mapping[type[nn.Module], Rule]) -> Any:
    """A shadow of the model in which every module of a type that has a rule runs by it: rule(module, ...) for forward."""
    still = shadow(model)
    for module in still.modules():
        rule = rules.get(type(module))
        if rule is not None:
            module.forward = MethodType(rule, module)
    return still


def _transformed(head: Any, x: Tensor) -> Tensor:
    """The hidden layer of a head, if it has one."""
    if head.dense is None:
        return x
    y = frozen_activation(ACTIVATIONS[head.activation], head.dense(x))
    return y if head.norm is None else head.norm(y)


def _pooled(head: PooledHead, x: Tensor, table: Tensor, layout: Layout, at: Place = None) -> Readings:
    y = _transformed(head, pool(x, layout, head.pooling))
    if head.normalise:
        y = y / y.detach().norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return Readings(y if head.project is None else head.project(y), y)


def _masked_lm(head: MaskedLMHead, x: Tensor, table: Tensor, layout: Layout) -> Tensor:
    return head.vocabulary(_transformed(head, x), table)  # type: ignore[no-any-return]


def _tokens(head: TokenHead, x: Tensor, table: Tensor, layout: Layout) -> Tensor:
    return head.project(_transformed(head, x))  # type: ignore[no-any-return]


def _vocabulary(head: Vocabulary, x: Tensor, table: Tensor) -> Tensor:
    logits = linear(x * head.scale, table if head.weight is None else head.weight, head.bias)
    return logits if head.softcap is None else head.softcap * frozen_activation(torch.tanh, logits / head.softcap)


OUTSIDE: dict[type[nn.Module], Rule] = {  # norms and heads: with these held still, the output is affine in the stream
    LayerNorm: frozen_norm,
    RMSNorm: frozen_norm,
    PooledHead: _pooled,
    MaskedLMHead: _masked_lm,
    TokenHead: _tokens,
    Vocabulary: _vocabulary,
}

"""attend: attention as a function of tensors, for those who bring their own modules."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attnlib.attention.backends.choose import choose
from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.biases import GivenBias, ScoreTerm
from attnlib.attention.masks import Causal, Everything, Given, Mask
from attnlib.attention.scope import Scope
from attnlib.attention.scores import Normaliser, ScoreRule
from attnlib.attention.visibility import Visibility
from attnlib.errors import LayoutError, UsageError
from attnlib.layout import Layout


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    mask: Mask | Tensor | None = None,
    layout: Layout | None = None,
    key_layout: Layout | None = None,
    softcap: float | None = None,
    terms: Sequence[ScoreTerm] = (),
    normaliser: Normaliser | None = None,
    backend: str = "auto",
) -> Tensor:
    """softmax(softcap(q k^T * scale + terms)) v over the keys that `mask` lets each query see.

    q: [.., H, Q, D]; k: [.., G, K, D]; v: [.., G, K, Dv], G dividing H -> [.., H, Q, Dv]. Takes all that
    `F.scaled_dot_product_attention` takes, with the same meaning (a boolean attn_mask is true where seen, a float one is
    added; is_causal with Q != K aligns both starts); `enable_gqa` is accepted and not needed. It differs in what a query
    that sees nothing gets: zeros, in value and gradient, in every backend.

    mask: a Mask, or a tensor like attn_mask. layout, key_layout: where queries and keys stand (default: both from 0; with
    one layout given and Q == K, keys stand there too). scale: default D^-0.5. softcap: c * tanh(scores / c).
    dropout_p: of the weights, always applied, as in torch. backend: auto or one by its name.

    Raises LayoutError for shapes that do not fit, BackendError where the backend asked for refuses.
    """
    if q.dim() != 4:
        options: dict[str, Any] = {"scale": scale, "mask": mask, "layout": layout, "key_layout": key_layout}
        options |= {"softcap": softcap, "terms": terms, "normaliser": normaliser, "backend": backend}
        return _reshaped(q, k, v, attn_mask, dropout_p, is_causal, **options)
    if attn_mask is not None:
        if mask is not None or is_causal:
            other = "mask" if mask is not None else "is_causal"
            raise UsageError("attend", f"attn_mask and {other} are both given", "give one of them")
        mask = attn_mask
    bare = layout is None and key_layout is None and not terms and normaliser is None
    if bare and not isinstance(mask, Tensor) and not torch.compiler.is_compiling():
        return _plain(q, k, v, mask, dropout_p, is_causal, scale, softcap, backend)
    _check(q, k, v)
    _check_choices(dropout_p, scale, softcap)
    pattern, given = _pattern(mask, is_causal, q, k)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    own_parts = normaliser is not None or terms or given or torch.compiler.is_compiling()
    if own_parts:
        rule = ScoreRule(scale=scale, softcap=softcap, normaliser=normaliser, terms=[*terms, *given])
    else:
        rule = _rule(scale, softcap)
    own = Layout.dense(q.shape[0], q.shape[2], device=q.device) if layout is None else layout
    if key_layout is None:
        same = layout is not None and k.shape[2] == q.shape[2]
        key_layout = own if same else Layout.dense(k.shape[0], k.shape[2], device=k.device)
    _check_layout("layout", own, q)
    _check_layout("key_layout", key_layout, k)
    call = AttentionCall(Visibility(pattern, own, key_layout, q.shape[1]), rule, dropout_p)
    return _through_door(q, k, v, call, choose(q, k, v, call, backend))


@lru_cache(maxsize=64)
def _rule(scale: float, softcap: float | None) -> ScoreRule:
    """The rule without parts of its own, made once."""
    return ScoreRule(scale=scale, softcap=softcap)


_recent: OrderedDict[tuple[Any, ...], tuple[Backend, AttentionCall]] = OrderedDict()


def _plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Any,
    dropout: float,
    causal: bool,
    scale: float | None,
    softcap: Any,
    name: str,
) -> Tensor:
    """Dense and without parts of its own: all that does not read values is decided once for each kind of call."""
    key = (q.shape, k.shape, v.shape, q.dtype, k.dtype, v.dtype, q.device, mask, dropout, causal, scale, softcap, name,
           torch.is_grad_enabled(), q.requires_grad, k.requires_grad, v.requires_grad)  # fmt: skip
    found = _recent.get(key)
    if found is None:
        _check(q, k, v)
        _check_choices(dropout, scale, softcap)
        rule = _rule(q.shape[-1] ** -0.5 if scale is None else scale, softcap)
        own = Layout.dense(q.shape[0], q.shape[2], device=q.device)
        keys = own if k.shape[2] == q.shape[2] else Layout.dense(k.shape[0], k.shape[2], device=k.device)
        call = AttentionCall(Visibility(_pattern(mask, causal, q, k)[0], own, keys, q.shape[1]), rule, dropout)
        found = _recent[key] = choose(q, k, v, call, name), call
        while len(_recent) > 256:
            _recent.popitem(last=False)
    return _through_door(q, k, v, found[1], found[0])


def _through_door(q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, backend: Backend) -> Tensor:
    door = Scope.open_door()
    if door is None:
        return backend(q, k, v, call)
    return door("attend", q, k, v, call, lambda: backend(q, k, v, call))


_CAUSAL, _EVERYTHING = Causal(), Everything()


def _pattern(mask: Mask | Tensor | None, is_causal: bool, q: Tensor, k: Tensor) -> tuple[Mask, list[ScoreTerm]]:
    """The mask as a pattern, and as a term what a float tensor adds."""
    terms: list[ScoreTerm] = []
    if isinstance(mask, Tensor):
        if mask.dtype != torch.bool and not mask.dtype.is_floating_point:
            raise LayoutError("attn_mask", f"is {mask.dtype}", "must be bool (true where seen) or a float that is added")
        table = _table(mask, q, k)
        if mask.dtype != torch.bool:
            mask, terms = None, [GivenBias(table)]
        elif torch.compiler.is_compiling():  # no spec can be made in a traced graph
            mask, terms = None, [GivenBias(torch.zeros_like(table, dtype=q.dtype).masked_fill(~table, -torch.inf))]
        else:
            mask = Given(table)
    elif mask is not None and not isinstance(mask, Mask):
        raise UsageError("mask", f"is {mask!r:.40}", "must be a mask such as Causal(), or a tensor")
    if mask is None:
        return _CAUSAL if is_causal else _EVERYTHING, terms
    return mask & _CAUSAL if is_causal else mask, terms


def _table(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """[B|1, H|1, Q, K] of a tensor that broadcasts to it."""
    whole = (*q.shape[:3], k.shape[2])
    if mask.dim() > 4 or any(n not in (1, full) for n, full in zip(mask.shape[::-1], whole[::-1])):
        raise LayoutError("attn_mask", f"has shape {tuple(mask.shape)}", f"must broadcast to {tuple(whole)}")
    table = mask[(None,) * (4 - mask.dim())]
    return table.expand(*table.shape[:2], *whole[2:])


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    if not q.dtype.is_floating_point or k.dtype != q.dtype or v.dtype != q.dtype:
        raise LayoutError("attend", f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}", "must be floats of one dtype")
    if k.device != q.device or v.device != q.device:
        raise LayoutError("attend", f"q, k and v are on {q.device}, {k.device} and {v.device}", "must be on one device")
    if not q.shape[3]:
        raise LayoutError("attend", f"q has shape {tuple(q.shape)}", "heads must be at least 1 wide")
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if k.dim() != 4 or v.dim() != 4 or q.shape[0] != k.shape[0] or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3]:
        raise LayoutError("attend", shapes, "must be [B, H, Q, D], [B, G, K, D] and [B, G, K, Dv]")
    if not k.shape[1] or q.shape[1] % k.shape[1]:
        raise LayoutError("attend", shapes, f"key-value heads ({k.shape[1]}) must divide query heads ({q.shape[1]})")


def _check_choices(dropout: float, scale: float | None, softcap: float | None) -> None:
    if not 0 <= dropout <= 1:
        raise UsageError("dropout_p", f"is {dropout}", "must lie in 0..1")
    if scale is not None and not (isinstance(scale, int | float) and math.isfinite(scale)):
        raise UsageError("scale", f"is {scale!r}", "must be a finite number")
    if softcap is not None and not softcap > 0:
        raise UsageError("softcap", f"is {softcap}", "must be above 0")


def _check_layout(name: str, layout: Layout, x: Tensor) -> None:
    if not isinstance(layout, Layout):
        raise LayoutError(name, f"is {layout!r:.40}", "must be a Layout")
    if (layout.batch, layout.tokens) != (x.shape[0], x.shape[2]):
        raise LayoutError(name, f"is for {(layout.batch, layout.tokens)}", f"the tensor has {(x.shape[0], x.shape[2])}")


def _reshaped(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
    """Any number of leading dimensions, as torch allows: folded into the batch."""
    if q.dim() < 2 or k.dim() != q.dim() or v.dim() != q.dim():
        raise LayoutError("attend", f"q, k and v have {q.dim()}, {k.dim()} and {v.dim()} dimensions", "must be alike, >= 2")
    if q.dim() <= 3:
        lift = (None,) * (4 - q.dim())
        out = attend(q[lift], k[lift], v[lift], attn_mask, *args, **kwargs)
        return out[(0,) * (4 - q.dim())]
    lead = q.shape[:-3]

    def fold(table: Any) -> Any:
        if not isinstance(table, Tensor) or table.dim() <= 3:
            return table
        return table.expand(*lead, *table.shape[-3:]).flatten(0, -4)

    kwargs["mask"] = fold(kwargs["mask"])
    folded: Tensor = attend(q.flatten(0, -4), k.flatten(0, -4), v.flatten(0, -4), fold(attn_mask), *args, **kwargs)
    return folded.unflatten(0, lead)  # type: ignore[no-any-return]

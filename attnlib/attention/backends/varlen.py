"""Segments without their padding: flash's variable-length kernel on CUDA, SDPA by groups of equal length elsewhere."""

from __future__ import annotations

import inspect
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.backends.sdpa import KNOWS, SDPA
from attnlib.attention.visibility import Visibility
from attnlib.layout import Layout

_sdpa = SDPA()
_Run = tuple[int, int, int]  # row, first column, length


class Varlen(Backend):
    """Exact for padded and packed batches whose segments the host knows; computes no pad."""

    name = "varlen"
    automatic = 20

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> str | None:
        if not call.parts <= KNOWS:
            return f"varlen does not know {', '.join(sorted(call.parts - KNOWS))}"
        if not all(term.static and term.relative for term in call.terms):
            return "varlen does not know terms that read more than distances"
        sight = call.visibility
        if sight.runs() is None:
            return "the segments of queries and keys are not known to the host"
        if not sight.mask.positional():
            return "the mask reads more than positions"
        return _cuda_refuses(q, v, call) if q.is_cuda else None

    def suits(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> bool:
        sight = call.visibility
        pairs = sight.runs()
        if pairs is None or (sight.q.segments is None and sight.k.segments is None):
            return False
        if q.is_cuda:
            return True
        work = sum(a[2] * b[2] for a, b in pairs)
        groups = len({(a[2], b[2]) for a, b in pairs})  # a call each, which costs as much as some 128 x 128 scores
        return work + groups * 128 * 128 <= q.shape[0] * q.shape[2] * k.shape[2]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        run = _flash if q.is_cuda else _grouped
        return run(q, k, v, call)


class _Group(NamedTuple):
    """Segments of equal lengths: their layouts as dense rows, and the flat columns they stand in."""

    q: Layout
    k: Layout
    at_q: slice | Tensor
    at_k: slice | Tensor


def _grouped(q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
    groups, back = _plan(call.visibility)
    flat_q, flat_k, flat_v = (t.transpose(1, 2).flatten(0, 1) for t in (q, k, v))  # [B*T, H, D]
    outs = [] if back is None else [q.new_zeros(1, q.shape[1], v.shape[3])]  # what a column without a token gets
    for layout_q, layout_k, at_q, at_k in groups:
        parts = [
            (t[at] if isinstance(at, slice) else t.index_select(0, at)).unflatten(0, (layout_q.batch, -1)).transpose(1, 2)
            for t, at in ((flat_q, at_q), (flat_k, at_k), (flat_v, at_k))
        ]
        sight = Visibility(call.visibility.mask, layout_q, layout_k, call.visibility.heads)
        outs.append(_sdpa(parts[0], parts[1], parts[2], call.over(sight)).transpose(1, 2).flatten(0, 1))
    out = torch.cat(outs) if back is None else torch.cat(outs).index_select(0, back)
    return out.unflatten(0, (q.shape[0], q.shape[2])).transpose(1, 2)  # type: ignore[no-any-return]


def _plan(sight: Visibility) -> tuple[list[_Group], Tensor | None]:
    """The groups, and where each column's output lies among theirs; None = they follow one another as the columns do."""
    return sight.once("varlen", lambda: _make_plan(sight))  # type: ignore[no-any-return]


def _make_plan(sight: Visibility) -> tuple[list[_Group], Tensor | None]:
    pairs = sight.runs()
    assert pairs is not None
    by_length: dict[tuple[int, int], list[tuple[_Run, _Run]]] = {}
    for pair in pairs:
        by_length.setdefault((pair[0][2], pair[1][2]), []).append(pair)
    device = sight.q.device
    groups: list[_Group] = []
    order: list[range] = []
    for (nq, nk), members in by_length.items():
        cols_q = _columns([run for run, _ in members], sight.q.tokens)
        cols_k = _columns([run for _, run in members], sight.k.tokens)
        order += cols_q
        dense_q = Layout.dense(len(members), nq, device=device)
        dense_k = dense_q if nq == nk else Layout.dense(len(members), nk, device=device)
        groups.append(_Group(dense_q, dense_k, _place(cols_q, device), _place(cols_k, device)))
    columns = sight.q.batch * sight.q.tokens
    if order and sum(map(len, order)) == columns and _follow(order):
        return groups, None
    back = torch.zeros(columns, dtype=torch.long)  # 0: what a column without a token gets
    if order:
        flat = _flat(order)
        back[flat] = torch.arange(1, len(flat) + 1)
    return groups, back.to(device)


def _place(columns: list[range], device: torch.device) -> slice | Tensor:
    """The columns as a slice where they follow one another: then nothing is copied."""
    return slice(columns[0].start, columns[-1].stop) if _follow(columns) else _flat(columns).to(device)


def _columns(runs: list[_Run], tokens: int) -> list[range]:
    """Flat columns of the tokens of some runs, in their order."""
    return [range(row * tokens + first, row * tokens + first + length) for row, first, length in runs]


def _follow(columns: list[range]) -> bool:
    """Whether each range begins where the one before ends; told by the host, so that a compiled graph stays whole."""
    return all(before.stop == after.start for before, after in pairwise(columns))


def _flat(columns: list[range]) -> Tensor:
    return torch.cat([torch.arange(run.start, run.stop) for run in columns])


# -- CUDA -------------------------------------------------------------------------------------------------------------


@cache
def _varlen_attn() -> Any:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None


def _cuda_refuses(q: Tensor, v: Tensor, call: AttentionCall) -> str | None:
    bounds = call.visibility.terms
    if _varlen_attn() is None:
        return "this torch has no varlen_attn with windows"
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"the flash kernel has no {q.dtype}"
    if call.terms or bounds.rest is not None:
        return "the flash kernel knows causal and windows only"
    if call.dropout or v.shape[3] != q.shape[3]:
        return "the flash kernel has no dropout and one width"
    if (bounds.before, bounds.after) != (None, None) and call.visibility.q is not call.visibility.k:
        return "the flash kernel aligns causal masks of unequal lengths at their ends"
    return None


def _flash(q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
    sight = call.visibility
    pairs = sight.runs()
    assert pairs is not None
    (at_q, at_k), (ends_q, ends_k) = sight.once("flash", lambda: _ends(sight))
    flat_q, flat_k, flat_v = (t.transpose(1, 2).flatten(0, 1) for t in (q, k, v))
    bounds = sight.terms
    window = tuple(-1 if side is None else side for side in (bounds.before, bounds.after))
    out = _varlen_attn()(
        flat_q[at_q], flat_k[at_k], flat_v[at_k], ends_q, ends_k, max(p[0][2] for p in pairs),
        max(p[1][2] for p in pairs), scale=call.rule.scale, window_size=window, enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    whole = torch.zeros_like(flat_q).index_copy(0, at_q, out)
    return whole.unflatten(0, (q.shape[0], q.shape[2])).transpose(1, 2)  # type: ignore[no-any-return]


def _ends(sight: Visibility) -> tuple[list[Tensor], list[Tensor]]:
    """Flat columns of all segments and their cumulative lengths, of queries and of keys."""
    pairs = sight.runs() or []
    device = sight.q.device
    sides = [([p[0] for p in pairs], sight.q.tokens), ([p[1] for p in pairs], sight.k.tokens)]
    columns = [_flat(_columns(runs, tokens)).to(device) for runs, tokens in sides]
    return columns, [torch.tensor([0, *(r[2] for r in runs)]).cumsum(0).int().to(device) for runs, _ in sides]

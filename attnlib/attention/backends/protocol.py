"""What a backend is handed, and what it must answer."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from attnlib.attention.biases import ScoreTerm
from attnlib.attention.scores import ScoreRule
from attnlib.attention.visibility import Columns, Visibility


class AttentionCall:
    """One application of attention: who sees whom, how scores become weights, and the dropout of the weights.

    kept: a list where somebody asks for the weights; a backend that makes them whole and exact anyway leaves them there,
        [B, H, Q, K] before dropout. Whoever asks takes the list away again.
    """

    __slots__ = ("dropout", "kept", "parts", "rule", "terms", "visibility")

    def __init__(
        self, visibility: Visibility, rule: ScoreRule, dropout: float = 0.0, shared: tuple[ScoreTerm, ...] = ()
    ) -> None:
        self.visibility, self.rule, self.dropout = visibility, rule, dropout
        self.kept: list[Tensor] | None = None
        own = tuple(rule.terms) if "term" in rule.parts else ()
        self.terms: tuple[ScoreTerm, ...] = own + shared  # type: ignore[assignment]
        self.parts = rule.parts | {"term"} if shared else rule.parts

    def again(self, heads: tuple[int, ...] | None = None) -> AttentionCall:
        """The same call with nothing remembered of an earlier forward; of some `heads` only, terms bound to all of them."""
        sight = self.visibility
        return self.over(Visibility(sight.mask, sight.q, sight.k, sight.heads, heads))

    def over(self, sight: Visibility) -> AttentionCall:
        """The same rule, terms and dropout over other queries and keys."""
        made = AttentionCall(sight, self.rule, self.dropout)
        made.terms, made.parts = self.terms, self.parts
        return made

    def bind(self, q: Tensor, k: Tensor) -> list[tuple[Tensor, ...]]:
        """The tensors of every term, projected once for the whole call."""
        layouts = self.visibility.q, self.visibility.k
        return [term.within(layouts, q, k) for term in self.terms]

    def added(
        self, bound: list[tuple[Tensor, ...]], rows: slice = slice(None), keys: Columns = slice(None)
    ) -> Tensor | None:
        """[B|1, H|1, Q, K] the sum of the terms in a tile; None without terms."""
        total: Tensor | None = None
        for term, tensors in zip(self.terms, bound):
            value = _tile(term, tensors, self.visibility, rows, keys)
            total = value if total is None else total + value
        return total

    def bias(self, q: Tensor, k: Tensor) -> Tensor | None:
        """[B|1, H|1, Q, K] the terms made whole, once a forward when none reads q or k."""
        if not self.terms:
            return None
        if not all(term.static for term in self.terms):
            return self.added(self.bind(q, k))
        key = ("bias", *map(id, self.terms))
        memo = self.visibility.memo
        if key not in memo:
            memo[key] = self.added(self.bind(q, k))
        return memo[key]  # type: ignore[no-any-return]


class Backend:
    """Computes attention as the reference defines it, or refuses with a reason. Subclasses name themselves.

    name:      how a config asks for it.
    automatic: where it stands when nobody asks: lower first; None = only on request.
    """

    name: ClassVar[str] = ""
    automatic: ClassVar[int | None] = None

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> str | None:
        """Why this call cannot be done, from static facts only; None = it can."""
        raise NotImplementedError

    def suits(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> bool:
        """Whether it is the better choice where it can, from static facts only."""
        return True

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        """q [B, H, Q, D], k [B, G, K, D], v [B, G, K, Dv], G divides H -> [B, H, Q, Dv]."""
        raise NotImplementedError

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name:
            _known[cls.name] = cls()

    @staticmethod
    def known() -> dict[str, Backend]:
        """Every backend by name, those of user modules included."""
        return dict(_known)


_known: dict[str, Backend] = {}


def _tile(term: ScoreTerm, tensors: tuple[Tensor, ...], sight: Visibility, rows: slice, keys: Columns) -> Tensor:
    q, k = sight.q, sight.k
    qc, kc = sight.coordinates(rows, keys)
    if not (term.relative and q.is_dense and k.is_dense and isinstance(keys, slice)):
        return term.score(tensors, qc, kc)
    # distances only: Q + K - 1 values, laid out along the diagonals
    queries, keys_in = qc.position.shape[2], kc.position.shape[3]
    if queries == 1 or not keys_in:
        return term.score(tensors, qc, kc)
    lowest = kc.position[..., :1] - qc.position[:, :, -1:]  # [1, 1, 1, 1]
    distance = lowest + torch.arange(queries + keys_in - 1, device=q.device)
    line = term.score(tensors, qc._replace(position=torch.zeros_like(lowest)), kc._replace(position=distance))
    return diagonals(line[:, :, 0], queries)


def diagonals(line: Tensor, rows: int) -> Tensor:
    """[..., R + K - 1] values by distance -> [..., R, K] with cell (r, c) = line[R - 1 - r + c]."""
    return _Diagonals.apply(line, rows)  # type: ignore[no-any-return, no-untyped-call]


class _Diagonals(torch.autograd.Function):
    """One copy forward; backward a sum over the rows, each skewed by one more: far cheaper than indexing each pair."""

    @staticmethod
    def forward(ctx: Any, line: Tensor, rows: int) -> Tensor:
        windows = line.unfold(-1, line.shape[-1] - rows + 1, 1)  # row r is the window that starts at rows - 1 - r
        return windows.index_select(-2, torch.arange(rows - 1, -1, -1, device=line.device))  # flip would turn the layout

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows, columns = grad.shape[-2:]
        if rows == 1:
            return grad[..., 0, :], None
        width = columns + rows - 1
        skewed = grad.new_empty(*grad.shape[:-2], rows * width)
        # cell (r, c) belongs to place rows - 1 - r + c of row r: where it stands if rows are a place shorter and begin later
        cells = skewed[..., rows - 1 : -1].unflatten(-1, (rows, width - 1))
        cells[..., :columns] = grad
        for gap in (cells[..., columns:], skewed[..., : rows - 1], skewed[..., -1:]):
            gap.zero_()
        return skewed.unflatten(-1, (rows, width)).sum(-2), None

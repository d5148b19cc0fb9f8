"""Value zeroing: how far a layer's output turns when one token's value vector is taken out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.backends.choose import choose
from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.scope import Door
from attnlib.inspect.explanations.blocks import Ran, ran
from attnlib.inspect.explanations.layers import Step, carried, lengths, not_softmax, told
from attnlib.inspect.explanations.method import Method, Scores
from attnlib.inspect.question import TOKENS_AT_ONCE, Question


class ValueZeroing(Method, name="value_zeroing", signed=False):
    """1 - cos(x_i, x_i without the value of token j), of every layer's output, rows to one, multiplied through the layers.

    Mohebbi et al. 2023 (arXiv:2301.12971). The keys and weights stay, only what token j would give is zero, and the rest of
    the block is computed again: the feed-forward and the norms take part. A block with cross-attention divides each row
    between the text's values and the source's.
    """

    def refuses(self, question: Question) -> str | None:
        return not_softmax(question)

    @torch.no_grad()
    def __call__(self, question: Question) -> Scores:
        steps: list[Step] = []
        for one in ran(question):
            own = _turns(one, one.block.attention.body.path, one.x.shape[1])  # type: ignore[arg-type]
            source = None
            if one.block.cross is not None and one.memory is not None:
                source = _turns(one, one.block.cross.body.path, one.memory.layout.tokens)  # type: ignore[arg-type]
            steps += _shared(one.side, own, source)
        return Scores(told(question, carried(steps, lengths(question))))


class _Zeroed(Door):
    """A door behind which the value of key `columns[b]` is zero in row b, in one attention."""

    def __init__(self, path: str, columns: list[int]) -> None:
        self.path, self.columns = path, columns

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        if path != self.path:
            return run()
        v = v.clone()
        v[range(len(self.columns)), :, self.columns] = 0.0
        return choose(q, k, v, call, "auto")(q, k, v, call)


def _turns(one: Ran, path: str, tokens: int) -> Tensor:
    """[Q, K] the cosine distance of each output row from itself without the value of each key."""
    size = max(1, TOKENS_AT_ONCE // one.x.shape[1])
    plain = one.out[0].double()
    parts = []
    for first in range(0, tokens, size):
        columns = list(range(first, min(first + size, tokens)))
        changed = one.again(len(columns), _Zeroed(path, columns)).double()  # [R, Q, M]
        parts.append(1.0 - F.cosine_similarity(changed, plain[None], dim=-1))
    return torch.cat(parts).clamp(min=0).T.cpu()


def _shared(side: str, own: Tensor, source: Tensor | None) -> list[Step]:
    """The block as steps: rows that add up to one over both texts; a row that nothing moves keeps its own token."""
    total = own.sum(1, keepdim=True) + (0.0 if source is None else source.sum(1, keepdim=True))
    still = total <= 1e-12
    total = total.masked_fill(still, 1.0)
    eye = torch.eye(len(own), dtype=own.dtype)
    steps = [Step(side, False, torch.where(still, eye, own / total))]
    return steps if source is None else [*steps, Step(side, True, source / total)]

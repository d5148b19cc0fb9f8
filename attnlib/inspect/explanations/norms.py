"""Value-weighted attention: the length of the vector that each token really sends, not its weight alone."""

from __future__ import annotations

import torch
from torch import Tensor

from attnlib.attention.softmax import SoftmaxAttention
from attnlib.inspect.explanations.blocks import Ran, ran
from attnlib.inspect.explanations.layers import Seen, Step, carried, lengths, not_softmax, told, watched
from attnlib.inspect.explanations.method import Method, Scores
from attnlib.inspect.frozen import NORMS, linear_part
from attnlib.inspect.question import Question
from attnlib.models.block import Block, Sublayer

ROWS = 32  # query rows worked on at once: memory is ROWS * K * M


class Norms(Method, name="value_weighted", signed=False):
    """|| LN(sum_h alpha_h,ij v_h,j W_h + [i = j] x_i) ||, rows to one, multiplied through the layers.

    Kobayashi et al. 2020 (arXiv:2004.10102) with the residual and the norm after it of Kobayashi et al. 2021
    (arXiv:2109.07152), the norms' scales held at what they are. A block with cross-attention does so twice, the second
    time with the stream as one more token. Biases belong to no token and are left out.
    """

    def refuses(self, question: Question) -> str | None:
        strange = next((n for n in _norms(question) if not isinstance(n, NORMS)), None)
        if strange is not None:
            return f"a {type(strange).__name__} has no linear part that is known here"
        return not_softmax(question, exactly=True)

    @torch.no_grad()
    def __call__(self, question: Question) -> Scores:
        seen = {one.path: one for one in watched(question, question.inputs())[0]}
        steps = []
        for one in ran(question):
            for name in ("attention", "cross"):
                part = getattr(one.block, name)
                if part is not None:
                    steps.append(_step(one, part, seen[part.body.path], one.inner[name][0]))
        return Scores(told(question, carried(steps, lengths(question))))


def _norms(question: Question) -> list[torch.nn.Module]:
    parts = [
        part for block in question.model.modules() if isinstance(block, Block) for part in (block.attention, block.cross)
    ]
    return [norm for part in parts if part is not None for norm in (part.after, part.outer) if norm is not None]


def _step(one: Ran, part: Sublayer, seen: Seen, x: Tensor) -> Step:
    """Rows of lengths, each with the residual: on the diagonal, or beside it where the keys are another text's."""
    sent, stayed = _lengths(part, seen, x)
    if seen.cross:
        total = sent.sum(1, keepdim=True) + stayed[:, None]
        return Step(one.side, True, sent / total, stayed[:, None] / total)
    return Step(one.side, False, sent / sent.sum(1, keepdim=True))


def _lengths(part: Sublayer, seen: Seen, x: Tensor) -> tuple[Tensor, Tensor]:
    """[Q, K] length of what each key sends to each query (to itself with the residual), and [Q] of the residual alone."""
    body = part.body
    assert isinstance(body, SoftmaxAttention)
    x = x.double()
    weights, v = seen.weights()[0], seen.v[0].double()  # [H, Q, K], [G, K, D]
    heads = v.repeat_interleave(weights.shape[0] // v.shape[0], 0)  # [H, K, D]
    out = body.out.weight.double().unflatten(1, (weights.shape[0], -1))  # [M, H, D]
    vectors = torch.einsum("hkd,mhd->hkm", heads, out)
    whole = torch.einsum("hqk,hkm->qm", weights, vectors)
    if body.out.bias is not None:
        whole = whole + body.out.bias.double()
    sent, stayed = [], []
    for first in range(0, len(x), ROWS):
        rows = slice(first, first + ROWS)
        each = torch.einsum("hqk,hkm->qkm", weights[:, rows], vectors)
        each = linear_part(part.after, whole[rows, None])(each)
        branch = whole[rows] if part.after is None else part.after(whole[rows].to(seen.v.dtype)).double()
        outer = linear_part(part.outer, (x[rows] + branch)[:, None])
        if not seen.cross:
            at = torch.arange(len(each))
            each[at, at + first] += x[rows]
        sent.append(outer(each).norm(dim=-1))
        stayed.append(outer(x[rows, None])[:, 0].norm(dim=-1))
    return torch.cat(sent).cpu(), torch.cat(stayed).cpu()

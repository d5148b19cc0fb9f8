"""The axes of the contract: layouts, masks, terms, rules, head groups. Each with what the oracle needs to know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import oracle
import torch
from oracle import Row, Token
from torch import Tensor

from attnlib.attention.additive import Additive
from attnlib.attention.biases import ALiBi, ScoreTerm, Shaw, T5Relative
from attnlib.attention.block_routing import BlockRouting
from attnlib.attention.caches import Growing, Rolling, Static
from attnlib.attention.disentangled import DisentangledSpec
from attnlib.attention.lsh import HashBuckets
from attnlib.attention.masks import Retention
from attnlib.attention.normalisers.entmax import Entmax15, Sparsemax
from attnlib.attention.normalisers.sigmoid import SigmoidWeights
from attnlib.attention.normalisers.talking_heads import TalkingHeads
from attnlib.attention.normalisers.top_k import TopK
from attnlib.attention.scores import Normaliser, Softmax, SoftmaxSink
from attnlib.attention.transformer_xl import TransformerXLSpec
from attnlib.layout import Layout
from attnlib.nn.norms import LayerNormSpec

HEADS, WIDTH = 4, 6


class LayoutCase(NamedTuple):
    q: Layout
    k: Layout
    queries: list[Row]
    keys: list[Row]


def _run(*positions: int, segment: int = 0) -> Row:
    return [Token(p, segment) for p in positions]


def _pads(n: int) -> Row:
    return [None] * n


def _self(layout: Layout, rows: list[Row]) -> LayoutCase:
    return LayoutCase(layout, layout, rows, rows)


def _tagged() -> LayoutCase:
    layout = Layout.from_lengths([6, 4], 6).tagged(
        prefix=[2, 3], global_tokens=torch.tensor([[0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]])
    )
    tags = [[1, 1, 0, 2, 0, 0], [3, 1, 1, 0]]
    rows: list[Row] = [[Token(i, 0, tag) for i, tag in enumerate(row)] for row in tags]
    return _self(layout, [rows[0], rows[1] + _pads(2)])


def _step_growing() -> LayoutCase:
    slots = Growing()
    for layout in (Layout.dense(2, 5), step := Layout.dense(2, 2, start=5)):
        slots.extend(layout)
    assert slots.layout is not None
    return LayoutCase(step, slots.layout, [_run(5, 6)] * 2, [_run(*range(7))] * 2)


def _step_static() -> LayoutCase:
    slots = Static(batch=2, capacity=9)
    slots.extend(Layout.from_lengths([4, 2], 4))
    step = Layout(torch.tensor([[4, 5], [2, 3]]))
    slots.extend(step)
    assert slots.layout is not None
    keys = [_run(0, 1, 2, 3, 4, 5) + _pads(3), _run(0, 1) + _pads(2) + _run(2, 3) + _pads(3)]
    return LayoutCase(step, slots.layout, [_run(4, 5), _run(2, 3)], keys)


def _step_rolling() -> LayoutCase:
    slots = Rolling(Retention(2, 3))
    slots.extend(Layout.dense(2, 8))
    step = Layout.dense(2, 1, start=8)
    slots.extend(step)
    assert slots.layout is not None
    return LayoutCase(step, slots.layout, [_run(8)] * 2, [_run(0, 1, 5, 6, 7, 8)] * 2)


# name -> the layouts, and the same said in plain tokens
LAYOUTS: dict[str, Callable[[], LayoutCase]] = {
    "dense": lambda: _self(Layout.dense(2, 7), [_run(*range(7))] * 2),
    "one_token": lambda: _self(Layout.dense(3, 1), [_run(0)] * 3),
    "left_padded": lambda: _self(
        Layout.from_lengths([5, 2, 7], 7, side="left"),
        [_pads(2) + _run(*range(5)), _pads(5) + _run(0, 1), _run(*range(7))],
    ),
    "right_padded": lambda: _self(
        Layout.from_lengths([3, 6], 6), [_run(0, 1, 2) + _pads(3), _run(*range(6))]
    ),
    "empty_row": lambda: _self(Layout.from_lengths([4, 0], 5), [_run(*range(4)) + _pads(1), _pads(5)]),
    "packed": lambda: _self(
        Layout.packed([[3, 2], [1, 4, 2]], 8),
        [
            _run(0, 1, 2) + _run(0, 1, segment=1) + _pads(3),
            _run(0) + _run(*range(4), segment=1) + _run(0, 1, segment=2) + _pads(1),
        ],
    ),
    "holes": lambda: _self(
        Layout.from_mask(torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 1, 1]])),
        [[Token(0), None, Token(1), Token(2), None], [None, *_run(0, 1, 2, 3)]],
    ),
    "tagged": _tagged,
    "later_starts": lambda: _self(
        Layout.from_lengths([3, 2], 3, starts=[4, 1]), [_run(4, 5, 6), [*_run(1, 2), None]]
    ),
    "step_growing": _step_growing,
    "step_static": _step_static,
    "step_rolling": _step_rolling,
    "cross": lambda: LayoutCase(Layout.dense(2, 4), Layout.dense(2, 6), [_run(*range(4))] * 2, [_run(*range(6))] * 2),
    "cross_padded_keys": lambda: LayoutCase(
        Layout.dense(3, 5), Layout.from_lengths([2, 0, 3], 3), [_run(*range(5))] * 3,
        [_run(0, 1) + _pads(1), _pads(3), _run(0, 1, 2)],
    ),
    "cross_both_padded": lambda: LayoutCase(
        Layout.from_lengths([3, 1], 4, side="left"), Layout.from_lengths([2, 5], 5),
        [_pads(1) + _run(0, 1, 2), _pads(3) + _run(0)], [_run(0, 1) + _pads(3), _run(*range(5))],
    ),
    "far_behind": lambda: LayoutCase(
        Layout.dense(2, 3, start=20), Layout.dense(2, 4), [_run(20, 21, 22)] * 2, [_run(*range(4))] * 2
    ),
    "far_ahead": lambda: LayoutCase(
        Layout.dense(2, 3), Layout.dense(2, 4, start=9), [_run(0, 1, 2)] * 2, [_run(9, 10, 11, 12)] * 2
    ),
}  # fmt: skip


class TermCase(NamedTuple):
    make: Callable[[], ScoreTerm]
    added: Callable[[ScoreTerm, Tensor, Tensor, list[Row], list[Row]], Tensor]  # of queries and keys, and where they stand


# kind -> how one is made, and its formula
TERMS: dict[str, TermCase] = {
    "alibi": TermCase(lambda: ALiBi(num_heads=HEADS), oracle.alibi),
    "t5_relative": TermCase(lambda: T5Relative(num_heads=HEADS, buckets=8, max_distance=11), oracle.t5),
    "shaw": TermCase(lambda: Shaw(d_head=WIDTH, max_distance=3), oracle.shaw),
    "disentangled": TermCase(
        lambda: DisentangledSpec(buckets=4, max_distance=9, norm=LayerNormSpec()).build(num_heads=HEADS, d_head=WIDTH),
        oracle.disentangled,
    ),
    "additive": TermCase(lambda: Additive(num_heads=HEADS, d_head=WIDTH), oracle.additive),
    "transformer_xl": TermCase(
        lambda: TransformerXLSpec(max_distance=4).build(num_heads=HEADS, d_head=WIDTH), oracle.transformer_xl
    ),
    "block_routing": TermCase(lambda: BlockRouting(size=2, count=2), oracle.block_routing),
    "lsh": TermCase(lambda: HashBuckets(d_head=WIDTH, buckets=6, rounds=2), oracle.lsh),
}


class RuleCase(NamedTuple):
    scale: float = WIDTH**-0.5
    softcap: float | None = None
    normaliser: Callable[[], Normaliser] = Softmax
    weigh: Callable[[Any, Tensor, Tensor], Tensor] | None = None  # what the oracle does in place of a softmax
    mixes: bool = False  # whether a head's weights read the scores of the others


# normaliser kind -> how one is made; its learned logit a head is called `sink` where it has one
NORMALISERS: dict[str, Callable[[], Normaliser]] = {
    "softmax": Softmax,
    "softmax_sink": lambda: SoftmaxSink(num_heads=HEADS),
    "sigmoid": SigmoidWeights,
    "sparsemax": Sparsemax,
    "entmax15": Entmax15,
    "top_k": lambda: TopK(count=2),
    "talking_heads": lambda: TalkingHeads(num_heads=HEADS),
}

RULES: dict[str, RuleCase] = {
    "plain": RuleCase(scale=1.3),
    "softcap": RuleCase(softcap=1.7),
    "sink": RuleCase(normaliser=NORMALISERS["softmax_sink"]),
    "all": RuleCase(scale=0.7, softcap=2.1, normaliser=NORMALISERS["softmax_sink"]),
    "sigmoid": RuleCase(normaliser=NORMALISERS["sigmoid"], weigh=oracle.sigmoid),
    "sparsemax": RuleCase(normaliser=NORMALISERS["sparsemax"], weigh=oracle.sparsemax),
    "entmax15": RuleCase(scale=1.9, normaliser=NORMALISERS["entmax15"], weigh=oracle.entmax15),
    "top_k": RuleCase(normaliser=NORMALISERS["top_k"], weigh=oracle.top_k),
    "talking_heads": RuleCase(normaliser=NORMALISERS["talking_heads"], weigh=oracle.talking_heads, mixes=True),
}
# these meet the others in turn, not each with each
RARE = {"sigmoid", "sparsemax", "entmax15", "top_k", "talking_heads", "additive", "transformer_xl", "block_routing", "lsh"}


def mask_cases() -> Iterator[tuple[str, oracle.MaskCase]]:
    """ "window#1" and so on: every example of every kind."""
    for kind, examples in oracle.MASKS.items():
        for i, case in enumerate(examples):
            yield f"{kind}#{i}", case


def randomised(*modules: Any) -> list[Tensor]:
    """Their parameters, in fp64 and away from where they begin; in their order."""
    found = []
    for module in modules:
        module.double()
        for parameter in module.parameters():
            with torch.no_grad():
                parameter.normal_(std=0.7)
            found.append(parameter)
    return found

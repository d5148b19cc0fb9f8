"""A mask, a term, a normaliser and a backend made here, outside the package, are held to the same contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cases
import oracle
import pytest
import torch
from cases import HEADS, RuleCase, TermCase
from matrix import all_masks, run_cells
from oracle import MaskCase, Row
from pydantic import Field
from test_backend_matrix import OURS
from torch import Tensor, nn

from attnlib import Causal, attend
from attnlib.attention.backends import protocol
from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.backends.reference import mix, weights
from attnlib.attention.biases import ScoreTerm, TermSpec
from attnlib.attention.masks import Mask
from attnlib.attention.scores import Normaliser, NormaliserSpec
from attnlib.layout import Coordinates
from attnlib.models.spec import ModelSpec
from attnlib.spec import read


class Stripes(Mask, kind="test_stripes"):
    """Keys at a distance that is a multiple of `step`."""

    step: int = Field(ge=1)

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        return (q.position - k.position) % self.step == 0


class Decay(ScoreTerm):
    """rate[h] * log(1 + |q - k|), learned."""

    bounded = True

    def __init__(self, *, num_heads: int) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.zeros(num_heads))

    def tensors(self, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        return (self.rate,)

    def score(self, tensors: tuple[Tensor, ...], q: Coordinates, k: Coordinates) -> Tensor:
        rate: Tensor = tensors[0]
        return rate[q.head] * torch.log1p((q.position - k.position).abs().to(rate.dtype))


class DecaySpec(TermSpec, kind="test_decay"):
    def build(self, *, num_heads: int, d_head: int) -> ScoreTerm:
        return Decay(num_heads=num_heads)


def decay(term: Any, queries: Tensor, keys: Tensor, q: list[Row], k: list[Row]) -> Tensor:
    cells = [
        [[0 if a is None or b is None else abs(a.position - b.position) for b in ks] for a in qs] for qs, ks in zip(q, k)
    ]
    return term.rate[None, :, None, None] * torch.log(1.0 + torch.tensor(cells, dtype=torch.float64))[:, None]


class Sigmoid(Normaliser):
    """Each key for itself: 1 / (1 + exp(-s))."""

    def forward(self, scores: Tensor, visible: Tensor | None) -> Tensor:
        found = scores.sigmoid()
        return found if visible is None else found.masked_fill(~visible, 0.0)


class SigmoidSpec(NormaliserSpec, kind="test_sigmoid"):
    def build(self, *, num_heads: int) -> Normaliser:
        return Sigmoid()


KNOWN = "dense,left_padded,packed,cross_padded_keys"  # the layouts here whose segments varlen knows
OTHERS = ",".join(name for name in [*cases.RULES, "test_sigmoid"] if name != "plain")
REFUSALS = """
sdpa   | rule=test_sigmoid | scaled_dot_product_attention does not know Sigmoid
matmul | rule=test_sigmoid | matmul does not know Sigmoid
matmul | rule=softcap term=test_decay,shaw | matmul does not know terms under a cap
varlen | rule=test_sigmoid | varlen does not know Sigmoid
flex   | rule=test_sigmoid | flex_attention does not know Sigmoid
varlen | mask=test_stripes rule=plain term=none,test_decay layout={known} | the mask reads more than positions
by_row | rule={others} | by_row does not know other rules
"""


@pytest.fixture
def by_row() -> Iterator[str]:
    class ByRow(Backend):
        """One query at a time."""

        name = "by_row"

        def refuses(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> str | None:
            return None if call.parts <= {"term"} else "by_row does not know other rules"

        def __call__(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
            return torch.cat([mix(weights(q, k, call, rows=slice(i, i + 1)), v) for i in range(q.shape[2])], 2)

    yield "by_row"
    del protocol._known["by_row"]


@pytest.fixture(autouse=True)
def _stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the contract must know of the new kinds: an example and its meaning."""
    import torch.nn.attention.flex_attention as flex_attention

    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    striped = MaskCase(Stripes(step=2), lambda q, k: (q.position - k.position) % 2 == 0)
    monkeypatch.setitem(oracle.MASKS, "test_stripes", [striped])
    monkeypatch.setitem(cases.TERMS, "test_decay", TermCase(lambda: Decay(num_heads=HEADS), decay))
    sigmoid = RuleCase(normaliser=Sigmoid, weigh=lambda _, scores, seen: seen / (1 + torch.exp(-scores)))
    monkeypatch.setitem(cases.RULES, "test_sigmoid", sigmoid)


@pytest.mark.parametrize("layout", ["dense", "left_padded", "packed", "step_static", "cross_padded_keys", "far_behind"])
def test_parts_made_outside_the_package_meet_the_contract(layout: str, by_row: str) -> None:
    masks = {name: case for name, case in all_masks().items() if name.startswith(("test_stripes", "causal", "any#0"))}
    assert "test_stripes#0" in masks
    refusals = REFUSALS.format(known=KNOWN, others=OTHERS)
    terms = ["none", "test_decay", "shaw"]
    wrong, _, computed = run_cells([*OURS, by_row], layout, masks, terms, [*cases.RULES], refusals)
    assert not wrong, "\n".join(wrong[:6])
    assert computed > 50


def test_they_are_named_in_configs() -> None:
    tree = {
        "kind": "decoder",
        "d_model": 8,
        "vocab_size": 11,
        "stack": {
            "num_layers": 1,
            "block": {
                "attention": {
                    "num_heads": 2,
                    "mask": ["causal", {"kind": "test_stripes", "step": 2}],
                    "term": "test_decay",
                    "scores": {"normaliser": "test_sigmoid"},
                }
            },
        },
    }
    model = read(ModelSpec, tree).build()
    attention = model.stack.blocks[0].attention.body
    assert attention.mask == Causal() & Stripes(step=2)
    assert isinstance(attention.rule.normaliser, Sigmoid) and isinstance(attention.rule.terms[0], Decay)
    model(torch.randint(11, (2, 5))).logits.sum().backward()
    assert attention.rule.terms[0].rate.grad.any()


def test_a_backend_is_chosen_by_name(by_row: str) -> None:
    q = torch.randn(1, 2, 4, 3)
    assert torch.allclose(attend(q, q, q, mask=Causal(), backend=by_row), attend(q, q, q, mask=Causal()), atol=1e-6)


def test_learned_parts_pass_gradcheck() -> None:
    """In fp64, of every registered term and normaliser, by finite differences."""
    from attnlib.attention.backends.choose import backend_named
    from attnlib.attention.scores import ScoreRule
    from attnlib.attention.visibility import Visibility
    from attnlib.layout import Layout

    layout = Layout.from_lengths([3, 4], 4)
    inputs = [torch.randn(2, heads, 4, cases.WIDTH, dtype=torch.float64, requires_grad=True) for heads in (HEADS, 2, 2)]
    for term in cases.TERMS.values():
        for normaliser in [*cases.NORMALISERS.values(), Sigmoid]:
            rule = ScoreRule(scale=0.5, softcap=2.0, normaliser=normaliser(), terms=[term.make()])
            learned = cases.randomised(rule)
            call = AttentionCall(Visibility(Causal(), layout, layout, HEADS), rule)
            for backend in ("reference", "chunked"):

                def run(*tensors: Tensor, call: AttentionCall = call, backend: str = backend) -> Tensor:
                    fresh = AttentionCall(Visibility(Causal(), layout, layout, HEADS), call.rule)
                    return backend_named(backend)(*tensors[:3], fresh)

                assert torch.autograd.gradcheck(run, [*inputs, *learned], fast_mode=True)

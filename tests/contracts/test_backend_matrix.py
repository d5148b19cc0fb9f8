"""Each mask, layout, term, rule and head grouping on every backend equals the oracle, or is listed as refused."""

from __future__ import annotations

import pytest
import torch
from cases import LAYOUTS, NORMALISERS, RULES, TERMS
from matrix import Cell, all_masks, make, refusal_lines, run_cells
from oracle import MASKS

from attnlib.attention.backends.choose import backend_named
from attnlib.attention.backends.protocol import Backend
from attnlib.attention.biases import TermSpec
from attnlib.attention.masks import Mask
from attnlib.attention.scores import NormaliserSpec

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture(autouse=True)
def _flex_in_plain_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    # else "eager" flex traces with Dynamo, half a second for each new shape; test_flex_contract runs that path
    import torch.nn.attention.flex_attention as flex_attention

    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


OURS = sorted(name for name, b in Backend.known().items() if type(b).__module__.startswith("attnlib."))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_backend_equals_the_oracle_or_refuses_as_listed(layout: str) -> None:
    wrong, _, computed = run_cells(OURS, layout, all_masks(), ["none", *TERMS], [*RULES])
    assert not wrong, f"{len(wrong)} cells, first:\n" + "\n".join(wrong[:8])
    assert computed > 400


def test_every_line_of_the_table_is_met() -> None:
    met: set[int] = set()
    few = {
        name: case for name, case in all_masks().items() if name in ("causal#0", "prefix#0", "any#1", "global#0", "any#2")
    }
    for layout in LAYOUTS:
        terms = ["none", "shaw", "block_routing"]
        met |= run_cells([b for b in OURS if b not in ("reference", "chunked")], layout, few, terms, [*RULES])[1]
    lines = refusal_lines()
    unmet = [line for i, line in enumerate(lines) if i not in met and line.when != {"grad": {"yes"}}]
    assert not unmet


def test_flex_refuses_gradients_on_the_cpu_as_listed() -> None:
    where = LAYOUTS["dense"]()
    problem = make(Cell("causal#0", "dense", "none", "plain", 4, 6), where, MASKS["causal"][0], torch.ones(2, 1, 7, 7) > 0)
    (line,) = [line for line in refusal_lines() if line.when == {"grad": {"yes"}}]
    assert backend_named("flex").refuses(*problem.inputs, problem.call) == line.reason


def ours(kinds: dict[str, type]) -> set[str]:
    return {name for name, kind in kinds.items() if kind.__module__.startswith("attnlib.")}


def test_every_registered_kind_is_in_the_matrix() -> None:
    assert ours(Mask.kinds()) == set(MASKS)
    assert ours(TermSpec.kinds()) == set(TERMS)
    assert ours(NormaliserSpec.kinds()) == set(NORMALISERS)
    for kind, examples in MASKS.items():
        assert any(type(case.mask) is Mask.kinds()[kind] or kind == "any" for case in examples)
    assert {"reference", "sdpa", "flex", "chunked", "varlen"} <= set(OURS)


def test_reference_and_chunked_are_not_in_the_table_of_refusals() -> None:
    assert not {line.backend for line in refusal_lines()} & {"reference", "chunked"}

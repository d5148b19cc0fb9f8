"""FlexAttention as users meet it on the CPU: the eager path with its warning, and compiled cells."""

from __future__ import annotations

import pytest
import torch
from cases import LAYOUTS
from matrix import Cell, check, make
from oracle import MASKS, visible

from attnlib.attention.backends import flex

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

CELLS = [
    Cell("all#0", "dense", "none", "plain", 2, 6),
    Cell("any#0", "packed", "t5_relative", "softcap", 4, 6),
    Cell("causal#0", "left_padded", "shaw", "plain", 1, 5),
    Cell("window#2", "cross_padded_keys", "alibi", "plain", 4, 6),
]


def run(cell: Cell, dtype: torch.dtype = torch.float64) -> None:
    kind, _, number = cell.mask.partition("#")
    where, case = LAYOUTS[cell.layout](), MASKS[kind][int(number)]
    problem = make(cell, where, case, visible(case.sees, where.queries, where.keys))
    problem.call.rule.to(dtype)
    problem = problem._replace(inputs=[t.detach().to(dtype) for t in problem.inputs])
    check(problem, "flex", grad=False, tolerance=1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_eager_flex_equals_the_oracle(cell: Cell) -> None:
    run(cell)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cell", CELLS[:2], ids=str)
def test_compiled_flex_equals_the_oracle(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = flex._kernel(True)
    monkeypatch.setattr(flex, "_kernel", lambda cuda: compiled)
    run(cell, torch.float32)  # the compiled CPU kernel has no float64

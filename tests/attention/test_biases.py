"""Score terms against the numbers of their papers and the published code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attnlib.attention.backends.protocol import AttentionCall, diagonals
from attnlib.attention.biases import ALiBi, ScoreTerm, T5Relative, T5RelativeSpec, alibi_slopes, t5_bucket
from attnlib.attention.functional import attend
from attnlib.attention.masks import Everything
from attnlib.attention.scores import ScoreRule
from attnlib.attention.visibility import Visibility
from attnlib.errors import BackendError, SpecError
from attnlib.layout import Coordinates, Layout
from attnlib.spec import read


def test_alibi_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert torch.allclose(alibi_slopes(16), torch.tensor([2.0 ** (-i / 2) for i in range(1, 17)]))
    wanted = [2.0**-i for i in range(1, 9)] + [2.0 ** (-i / 2) for i in (1, 3, 5, 7)]
    assert torch.allclose(alibi_slopes(12), torch.tensor(wanted))
    assert alibi_slopes(1).tolist() == [2.0**-8]


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 20), (16, 64)])
def test_t5_buckets_are_those_of_transformers(buckets: int, furthest: int, both: bool) -> None:
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    distance = torch.arange(-300, 301)
    wanted = modeling.T5Attention._relative_position_bucket(
        distance, bidirectional=both, num_buckets=buckets, max_distance=furthest
    )
    assert torch.equal(t5_bucket(distance, buckets=buckets, max_distance=furthest, both=both), wanted)


@pytest.mark.parametrize(("buckets", "furthest", "both"), [(32, 8, True), (8, 4, False), (8, 3, False)])
def test_t5_buckets_that_leave_no_far_distance_are_refused(buckets: int, furthest: int, both: bool) -> None:
    with pytest.raises(SpecError, match="max_distance"):
        read(T5RelativeSpec, {"buckets": buckets, "max_distance": furthest, "both": both})


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (5, 3), (4, 1), (1, 4)])
def test_diagonals_lay_out_distances_in_value_and_gradient(rows: int, columns: int) -> None:
    line = torch.randn(2, rows + columns - 1, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[rows - 1 - r + c for c in range(columns)] for r in range(rows)])
    assert torch.equal(diagonals(line, rows), line[:, index])
    assert torch.autograd.gradcheck(lambda t: diagonals(t, rows), line)


@pytest.mark.parametrize("make", [lambda: ALiBi(num_heads=3), lambda: T5Relative(num_heads=3, buckets=8, max_distance=9)])
def test_terms_by_distance_equal_terms_by_pair(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    term = make()  # type: ignore[operator]
    layouts = Layout.dense(1, 6, start=2), Layout.dense(1, 9)
    call = AttentionCall(Visibility(Everything(), *layouts, 3), ScoreRule(scale=1.0, terms=[term]))
    q = torch.zeros(1, 3, 6, 2)
    fast = call.added(call.bind(q, q))
    monkeypatch.setattr(type(term), "relative", False)
    slow = call.added(call.bind(q, q))
    assert fast is not None and slow is not None and torch.allclose(fast, slow.expand(fast.shape))


class Wall(ScoreTerm):
    """-inf from key 2 on, for queries other than the last."""

    def tensors(self, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        return ()

    def score(self, tensors: tuple[Tensor, ...], q: Coordinates, k: Coordinates) -> Tensor:
        hidden = (k.position >= 2) & (q.position < 4)
        return torch.where(hidden | (q.position == 0), -torch.inf, 0.0)

    static = True
    relative = False


@pytest.mark.parametrize("backend", ["reference", "chunked", "sdpa"])
def test_a_term_of_minus_infinity_is_not_seeing(backend: str) -> None:
    q, k, v = (torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    seen = torch.zeros(5, 5, dtype=torch.bool)
    seen[1:, :2] = seen[4] = True
    out = attend(q, k, v, terms=[Wall()], backend=backend)
    wanted = attend(q, k, v, seen, backend="reference")
    assert torch.allclose(out, wanted) and not out[:, :, 0].any()
    for a, b in zip(torch.autograd.grad(out.sum(), [q, k, v]), torch.autograd.grad(wanted.sum(), [q, k, v])):
        assert torch.allclose(a, b)


def test_matmul_refuses_what_may_say_minus_infinity() -> None:
    q = torch.randn(1, 1, 2, 4)
    with pytest.raises(BackendError, match="may say -inf"):
        attend(q, q, q, torch.zeros(2, 2), backend="matmul")


def test_a_softcap_does_not_lift_minus_infinity() -> None:
    q, k, v = (torch.randn(1, 2, 3, 4) for _ in range(3))
    mask = torch.tensor([[0.0, -math.inf, -math.inf], [0.0, 0.0, -math.inf], [-math.inf] * 3])
    for backend in ("reference", "chunked"):
        out = attend(q, k, v, mask, softcap=0.5, backend=backend)
        assert torch.allclose(out[:, :, 0], v[:, :, 0]) and not out[:, :, 2].any()

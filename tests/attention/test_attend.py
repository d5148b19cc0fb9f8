"""attend takes all that F.scaled_dot_product_attention takes, with the same answers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from attnlib import Causal, Layout, Window, attend
from attnlib.errors import BackendError, LayoutError, UsageError

SHAPES = [
    (5, 7),
    (1, 7),
    (5, 1),
    (1, 1),
    (4, 5, 7),
    (1, 5, 7),
    (4, 1, 7),
    (2, 1, 5, 7),
    (1, 4, 5, 7),
    (2, 4, 1, 7),
    (2, 4, 5, 7),
]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b.nan_to_num(), atol=1e-5)


def qkv(*lead: int, queries: int = 5, keys: int = 7) -> list[torch.Tensor]:
    return [torch.randn(*lead, n, d) for n, d in ((queries, 6), (keys, 6), (keys, 3))]


@pytest.mark.parametrize("backend", ["auto", "reference", "chunked"])
@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masks_of_every_broadcast_shape(shape: tuple[int, ...], kind: str, backend: str) -> None:
    q, k, v = qkv(2, 4)
    mask = torch.rand(shape) > 0.3 if kind == "bool" else torch.randn(shape)
    wanted = F.scaled_dot_product_attention(q, k, v, mask)
    assert close(attend(q, k, v, mask, backend=backend), wanted)
    assert close(attend(q, k, v, mask=mask, backend=backend), wanted)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 3, 4), (2, 1, 2, 3)], ids=str)
def test_any_number_of_leading_dimensions(lead: tuple[int, ...]) -> None:
    q, k, v = qkv(*lead)
    assert close(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))
    assert close(attend(q, k, v, is_causal=True), F.scaled_dot_product_attention(q, k, v, is_causal=True))
    for shape in ((5, 7), (*lead, 5, 7), (*lead[-1:], 1, 7), (*lead[-2:], 5, 7)):
        mask = torch.randn(shape)
        wanted = F.scaled_dot_product_attention(q, k, v, mask)
        assert close(attend(q, k, v, mask), wanted) and close(attend(q, k, v, mask=mask), wanted)


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (3, 7), (7, 3), (1, 4)])
def test_is_causal_aligns_the_starts(queries: int, keys: int) -> None:
    q, k, v = qkv(2, 2, queries=queries, keys=keys)
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    for backend in ("auto", "reference", "chunked", "sdpa"):
        assert close(attend(q, k, v, is_causal=True, backend=backend), wanted)
    assert close(attend(q, k, v, mask=Causal()), wanted)


def test_scale_and_grouped_heads() -> None:
    q, k, v = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)
    for scale in (None, 0.1, 2.0):
        wanted = F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True)
        assert close(attend(q, k, v, scale=scale, enable_gqa=True), wanted) and close(attend(q, k, v, scale=scale), wanted)


@pytest.mark.parametrize("backend", ["reference", "sdpa", "chunked", "matmul", "varlen"])
def test_dropout_drops_its_share_and_keeps_the_mean(backend: str) -> None:
    q, k = torch.randn(1, 1, 1, 4), torch.randn(1, 1, 64, 4)
    share = 0.25
    mask = None if backend == "varlen" else torch.ones(400, 64, dtype=torch.bool)
    q = q.expand(1, 1, 400, 4)
    eye = torch.eye(64)[None, None]  # the output is the weights themselves
    weights = attend(q, k, eye, backend="reference")
    dropped = attend(q, k, eye, mask, share, backend=backend)
    kept = dropped != 0
    assert abs(kept.float().mean().item() - (1 - share)) < 0.01
    assert torch.allclose(dropped[kept], (weights / (1 - share))[kept], atol=1e-5)
    noise = weights.mean(2) * (share / (1 - share)) ** 0.5 / 400**0.5  # of a mean over 400 rows
    assert ((dropped.mean(2) - weights.mean(2)).abs() < 5 * noise).all()
    assert not torch.equal(dropped, attend(q, k, eye, mask, share, backend=backend))


def test_dropout_of_chunked_is_the_same_in_the_backward() -> None:
    q, k = torch.randn(1, 2, 300, 4, dtype=torch.float64), torch.randn(1, 2, 9, 4, dtype=torch.float64)
    v = torch.randn(1, 2, 9, 4, dtype=torch.float64, requires_grad=True)
    out = attend(q, k, v, dropout_p=0.5, backend="chunked")
    (grad,) = torch.autograd.grad(out.sum(), v)
    assert torch.allclose((grad * v.detach()).sum(), out.detach().sum())  # linear in v for a fixed draw


def test_a_mask_changed_in_place_is_read_again() -> None:
    q, k, v = qkv(2, 4)
    mask = torch.ones(5, 7, dtype=torch.bool)
    attend(q, k, v, mask)
    mask[:, 3:] = False
    assert close(attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask))


def test_nothing_of_a_batch_is_kept_beside_a_dense_layout() -> None:
    layout = Layout.dense(2, 5)
    held = len(layout.memo)
    for _ in range(3):
        q, k, v = qkv(2, 4)
        attend(q, k, v, torch.rand(5, 7) > 0.5)
        attend(q, k, v, layout=layout, key_layout=Layout.from_lengths([3, 7], 7), mask=Window(before=2))
        attend(q, k, v, layout=layout, key_layout=Layout.from_lengths([3, 7], 7), backend="varlen")
    assert len(layout.memo) == held


def test_gradients_reach_keys_alone() -> None:
    q, k, v = qkv(2, 4, keys=5)
    attend(q, k, v)  # the same call without gradients first
    k.requires_grad_()
    (grad,) = torch.autograd.grad(attend(q, k, v).sum(), k)
    assert grad.any()


def test_a_query_that_sees_nothing_gets_zeros() -> None:
    q, k, v = (torch.randn(1, 2, 3, 4, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 1]]).bool()
    for backend in ("reference", "chunked", "sdpa", "matmul"):
        out = attend(q, k, v, mask, backend=backend)
        grads = torch.autograd.grad(out.square().sum(), [q, k, v])
        assert not out[:, :, 1].any() and not grads[0][:, :, 1].any()
        assert all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["reference", "chunked", "sdpa", "matmul", "varlen"])
def test_half_precision_stays_finite_and_near(backend: str, dtype: torch.dtype) -> None:
    layout = Layout.from_lengths([4, 7], 7)
    exact = [torch.randn(2, 2, 7, 8) * 4 for _ in range(3)]
    inputs = [t.to(dtype).requires_grad_() for t in exact]
    out = attend(*inputs, layout=layout, mask=Causal(), backend=backend)
    wanted = attend(*(t.detach().double() for t in inputs), layout=layout, mask=Causal(), backend="reference")
    assert out.dtype == dtype and torch.allclose(out.double(), wanted, atol=0.15)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(out.float().sum(), inputs))


def test_what_does_not_fit_says_so() -> None:
    q, k, v = qkv(2, 4)
    cases = [
        (
            lambda: attend(q, k, v, torch.ones(5, 7) > 0, is_causal=True),
            UsageError,
            "attn_mask and is_causal are both given",
        ),
        (lambda: attend(q, k, v, torch.ones(5, 6) > 0), LayoutError, r"must broadcast to \(2, 4, 5, 7\)"),
        (lambda: attend(q, k[:, :3], v[:, :3]), LayoutError, "must divide"),
        (lambda: attend(q, k[..., :2], v), LayoutError, "must be"),
        (lambda: attend(q, k, v, layout=Layout.dense(2, 4)), LayoutError, "layout"),
        (lambda: attend(q, k, v, backend="spda"), BackendError, "did you mean 'sdpa'"),
        (lambda: attend(q[0, 0, 0], k[0, 0, 0], v[0, 0, 0]), LayoutError, "dimensions"),
    ]
    for call, kind, text in cases:
        with pytest.raises(kind, match=text):
            call()

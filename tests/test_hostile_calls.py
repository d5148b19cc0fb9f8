"""Calls from Python that cannot be meant: each is refused by name, none is answered with a wrong result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from attnlib import Causal, Layout, attend
from attnlib.attention.backends.protocol import Backend
from attnlib.errors import AttnlibError, BackendError, CheckpointError

Q = torch.randn(2, 4, 5, 8)

CALLS: dict[str, Callable[[], Any]] = {
    "dtypes differ": lambda: attend(Q, Q.double(), Q),
    "whole numbers": lambda: attend(Q.long(), Q.long(), Q.long()),
    "complex": lambda: attend(*[Q.to(torch.complex64)] * 3),
    "devices differ": lambda: attend(Q, Q.to("meta"), Q),
    "no width": lambda: attend(Q[..., :0], Q[..., :0], Q),
    "mask of ones and zeros as int": lambda: attend(Q, Q, Q, attn_mask=torch.ones(5, 5).long()),
    "mask by name": lambda: attend(Q, Q, Q, mask="causal"),  # type: ignore[arg-type]
    "mask class": lambda: attend(Q, Q, Q, mask=Causal),  # type: ignore[arg-type]
    "dropout above 1": lambda: attend(Q, Q, Q, dropout_p=2.0),
    "dropout nan": lambda: attend(Q, Q, Q, dropout_p=float("nan")),
    "scale nan": lambda: attend(Q, Q, Q, scale=float("nan")),
    "scale text": lambda: attend(Q, Q, Q, scale="x"),  # type: ignore[arg-type]
    "softcap 0": lambda: attend(Q, Q, Q, softcap=0.0),
    "layout list": lambda: attend(Q, Q, Q, layout=[5, 5]),  # type: ignore[arg-type]
    "backend None": lambda: attend(Q, Q, Q, backend=None),  # type: ignore[arg-type]
    "rows below 0": lambda: Layout.dense(-1, 3),
    "start below 0": lambda: Layout.dense(1, 3, start=-2),
    "starts of other rows": lambda: Layout.from_lengths([1], 3, starts=[1, 2]),
    "added mask as attention_mask": lambda: Layout.from_mask(torch.tensor([[0.0, -10000.0]])),
    "nan as attention_mask": lambda: Layout.from_mask(torch.tensor([[1.0, float("nan")]])),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_cannot_be_meant_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(AttnlibError) as caught:
        CALLS[name]()
    assert "\n" not in str(caught.value) and str(caught.value).index(":") > 0


def test_a_good_call_does_not_let_a_later_one_of_other_dtypes_through() -> None:
    attend(Q, Q, Q)
    with pytest.raises(AttnlibError, match="one dtype"):
        attend(Q, Q.double(), Q)


@pytest.mark.parametrize("backend", Backend.known())
@pytest.mark.parametrize("shape", [(0, 4, 5, 5), (2, 4, 0, 5), (2, 4, 5, 0)])
def test_nothing_to_attend_is_zeros_or_refused(backend: str, shape: tuple[int, ...]) -> None:
    batch, heads, queries, keys = shape
    q, k = torch.randn(batch, heads, queries, 8), torch.randn(batch, heads, keys, 8)
    try:
        out = attend(q, k, k, mask=Causal(), backend=backend)
    except BackendError:
        return
    assert out.shape == q.shape and (keys or not out.any())


def test_an_error_is_one_line_whatever_the_file_is_called() -> None:
    assert str(CheckpointError("a\nb\x1b[31m", "is no folder")) == "a\\nb\\x1b[31m: is no folder"

"""Linformer and Nystrom attention, by the formulas of their papers over one text in float64, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from mixer_gradients import gradients_hold
from test_scores import WIDTH, text
from test_softmax_kinds import HEADS, D, module, part, softmax, stack
from torch import Tensor

from attnlib.attention.nystrom import pseudo_inverse
from attnlib.attention.scope import Scope
from attnlib.errors import LayoutError, SpecError
from attnlib.inspect.describe import describe
from attnlib.layout import Layout
from attnlib.models.spec import ModelSpec
from attnlib.spec import read

LINFORMER = {"kind": "linformer", "rank": 3, "max_length": 9}
NYSTROM = {"kind": "nystrom", "num_landmarks": 3, "kernel": 3}


def sides(m: Any, x: Tensor, h: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Queries, keys and values of head h, token by token."""
    named = ((m.q, h), (m.k, h // 2), (m.v, h // 2))
    return tuple([part(p.weight, number, D, token) for token in x] for p, number in named)  # type: ignore[return-value]


def linformer(m: Any, x: Tensor) -> Tensor:
    heads = []
    for h in range(HEADS):
        q, k, v = sides(m, x, h)
        keys = [sum(m.e[r, j] * k[j] for j in range(len(x))) for r in range(3)]
        values = [sum((m.e if m.f is None else m.f)[r, j] * v[j] for j in range(len(x))) for r in range(3)]
        rows = [softmax([one @ key / math.sqrt(D) for key in keys]) for one in q]
        heads.append(torch.stack([sum(w * value for w, value in zip(row, values)) for row in rows]))
    return torch.cat(heads, 1) @ m.out.weight.T


def nystrom(m: Any, x: Tensor) -> Tensor:
    n, heads = len(x), []
    parts: list[list[int]] = [[p for p in range(n) if p * 3 // n == mark] for mark in range(3)]
    for h in range(HEADS):
        q, k, v = sides(m, x, h)
        marks = [[sum(side[p] for p in at) / max(len(at), 1) for at in parts] for side in (q, k)]

        def kernel(queries: Any, keys: Any) -> Tensor:
            return torch.stack([torch.stack(softmax([a @ b / math.sqrt(D) for b in keys])) for a in queries])

        if n <= 3:
            y = kernel(q, k) @ torch.stack(v)
        else:
            a, one = kernel(marks[0], marks[1]), torch.eye(3, dtype=torch.float64)
            z = a.T / max(float(column.sum()) for column in a.T)
            for _ in range(6):
                z = z @ (13 * one - a @ z @ (15 * one - a @ z @ (7 * one - a @ z))) / 4
            y = kernel(q, marks[1]) @ z @ kernel(marks[0], k) @ torch.stack(v)
        near = [sum(m.conv[h, o] * v[t + o - 1] for o in range(3) if 0 <= t + o - 1 < n) for t in range(n)]
        heads.append(y + torch.stack(near))
    return torch.cat(heads, 1) @ m.out.weight.T


KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "linformer": (LINFORMER, linformer),
    "linformer, shared": (LINFORMER | {"share": True}, linformer),
    "nystrom": (NYSTROM, nystrom),
}


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 3, 4, 8])
@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_formula_of_its_paper(name: str, tokens: int) -> None:
    tree, formula = KINDS[name]
    m, x = module(**tree), text(2, tokens)
    for row in range(2):
        torch.testing.assert_close(m(x)[row], formula(m, x[row]), rtol=1e-8, atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_each_of_several_packed_or_padded_texts_is_as_alone(name: str) -> None:
    tree, formula = KINDS[name]
    m, x = module(**tree), text(1, 14)
    y = m(x, Layout.packed([[2, 7, 4]], 14))
    for at in (slice(0, 2), slice(2, 9), slice(9, 13)):
        torch.testing.assert_close(y[0, at], formula(m, x[0, at]), rtol=1e-8, atol=1e-8)
    held = Layout.packed([[2, 7, 4]], 14)  # the same, told by tensors alone
    torch.testing.assert_close(m(x, Layout.of(held.positions, held.segments)), y)


@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_those_of_differences(name: str) -> None:
    assert gradients_hold(module(**KINDS[name][0]), text(1, 7), Layout.packed([[2, 5]]))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", KINDS)
def test_half_precision_is_finite_and_what_is_no_token_gives_zeros(name: str, dtype: torch.dtype) -> None:
    m, x = module(**KINDS[name][0]).to(dtype), text(2, 8).to(dtype)
    y = m(x, Layout.from_lengths([6, 0], 8, side="left"))
    assert torch.isfinite(y).all() and not y[0, :2].any() and not y[1].any() and y[0, 2:].any()


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_implied_weights_times_values_are_the_output(name: str) -> None:
    alone = {"kernel": None} if name == "nystrom" else {}
    m, x, layout = module(**KINDS[name][0] | alone), text(1, 8), Layout.dense(1, 8)
    v = torch.stack([torch.stack(sides(m, x[0], h)[2]) for h in range(HEADS)])[None]
    mixed = m.implied_weights(x, layout, Scope()) @ v
    torch.testing.assert_close(mixed.transpose(1, 2).flatten(2) @ m.out.weight.T, m(x))
    assert m.implied_weights(x, layout, Scope(), rows=slice(2, 5)).shape == (1, HEADS, 3, 8)


@torch.no_grad()
def test_nystrom_is_that_of_transformers_at_its_own_length() -> None:
    modeling = pytest.importorskip("transformers.models.nystromformer.modeling_nystromformer")
    config = modeling.NystromformerConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_landmarks=4, segment_means_seq_len=12, conv_kernel_size=5
    )
    theirs = modeling.NystromformerSelfAttention(config).double().eval()
    m = module(kind="nystrom", num_kv_heads=HEADS, num_landmarks=4, kernel=5, together=True, bias=["q", "k", "v"])
    for ours, there in ((m.q, theirs.query), (m.k, theirs.key), (m.v, theirs.value)):
        ours.load_state_dict(there.state_dict())
    m.conv.copy_(theirs.conv.weight[:, 0, :, 0])
    m.out.weight.copy_(torch.eye(WIDTH))
    x = text(3, 12)
    torch.testing.assert_close(m(x), theirs(x)[0], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_more_landmarks_come_nearer_to_softmax() -> None:
    plain, x = module(), text(1, 64) * 0.5
    errors = []
    for count in (2, 8, 64):
        m = module(kind="nystrom", num_landmarks=count)
        m.load_state_dict(plain.state_dict())
        errors.append(float((m(x) - plain(x)).norm() / plain(x).norm()))
    assert errors[0] > 2 * errors[1] and errors[2] < 1e-12


@torch.no_grad()
def test_six_steps_near_the_pseudo_inverse_of_a_well_conditioned_matrix() -> None:
    a = (3 * torch.eye(5, dtype=torch.float64) + torch.randn(2, 5, 5, dtype=torch.float64) * 0.2).softmax(-1)
    torch.testing.assert_close(pseudo_inverse(a), torch.linalg.pinv(a), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_source_is_kept_as_few_columns_and_a_text_beyond_the_end_refused() -> None:
    m = module(d_memory=WIDTH, **LINFORMER)
    memory = m.remember(text(2, 8), Layout.dense(2, 8))
    assert memory.entry["k"].shape == (2, 2, 3, D)
    with pytest.raises(LayoutError, match="a text of 10 tokens, is projected up to 9"):
        module(**LINFORMER)(text(1, 10))


def test_a_model_takes_no_more_tokens_than_its_projections() -> None:
    tree = {"kind": "encoder", "d_model": 8, "vocab_size": 5,
            "stack": {"num_layers": 1, "block": {"attention": {"num_heads": 2, **LINFORMER}}}}  # fmt: skip
    assert read(ModelSpec, tree).build().max_length == 9 and describe(read(ModelSpec, tree)).tokens == 9
    both = stack({"mask": "causal"}, num_heads=2, **LINFORMER)
    built = read(ModelSpec, both).build()
    assert (built.max_length, built.max_source_length) == (None, 9)


REFUSED: dict[str, tuple[Any, str]] = {
    "causal linformer": (stack({"kind": "linformer", "mask": "causal"}), r"attention\.mask: of kind causal for linformer, "
                         r"projections are sums over the whole text.*softmax, latent, linear"),
    "causal nystrom": (stack({"kind": "nystrom", "mask": "causal"}), r"attention\.mask: of kind causal for nystrom, "
                       r"landmarks are means over the whole text"),
    "linformer in a decoder": (stack({"kind": "linformer"}), r"attention\.kind: linformer in a decoder, it reads tokens"),
    "beside in a decoder": (
        stack({"kind": "beside", "num_heads": None, "mixers": [{"num_heads": 2, "mask": "causal"}, {"kind": "nystrom",
              "num_heads": 2}]}), r"attention\.mixers\.1\.kind: nystrom in a decoder"),
    "nystrom cross": (stack({"mask": "causal"}, kind="nystrom", num_heads=2), r"cross\.kind: nystrom, landmarks of queries"),
    "a term": (stack({"kind": "linformer", "term": "alibi"}), r"attention\.term: alibi for linformer, its keys stand no"),
    "even kernel": (stack({"kind": "nystrom", "kernel": 4}), r"attention\.kernel: 4, must be odd"),
    "sparsemax": (stack({"kind": "nystrom", "scores": {"normaliser": "sparsemax"}}), r"attention\.scores: with a cap, or"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_when_it_is_read(name: str) -> None:
    tree, words = REFUSED[name]
    if name == "beside in a decoder":
        del tree["stack"]["block"]["attention"]["num_heads"]
    with pytest.raises(SpecError, match=words):
        read(ModelSpec, tree)

"""Heads: their hidden layer, what they give, and what each word of theirs changes."""

import pytest
import torch
from torch.nn import functional as F

import attnlib
from attnlib.layout import Layout
from attnlib.models.heads import HeadSpec, PooledHead, Readings, read_head
from attnlib.spec import read

torch.set_num_threads(1)
WIDTHS = {"d_model": 6, "vocab_size": 11, "d_embedding": 4}
LABELS = {"num_labels": 3}
KINDS = {
    "classify": {**LABELS}, "next_sentence": {}, "pooler": {}, "embed": {}, "tag": {**LABELS}, "span": {}, "rtd": {},
    "masked_lm": {}, "pretraining": {}, "lm": {"tied": False},
}  # fmt: skip


def head(kind, **words):
    torch.manual_seed(1)
    made = read(HeadSpec, {"kind": kind, **KINDS[kind], **words}).build(**WIDTHS)
    with torch.no_grad():
        for p in made.parameters():
            p.normal_()
    return made.eval()


def readings(made, x, layout=None, at=None):
    table = torch.randn(11, 4, generator=torch.Generator().manual_seed(2))
    return read_head(made, x, table, layout or Layout.dense(*x.shape[:2]), at, True)


X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


def test_every_kind_of_head_is_tried_here():
    assert set(HeadSpec.kinds()) >= {*KINDS, "none"}
    assert {kind for kind, cls in HeadSpec.kinds().items() if cls.__module__.startswith("attnlib.")} == {*KINDS, "none"}


SHAPES = {
    "classify": ((2, 3), (2, 6), None), "next_sentence": ((2, 2), (2, 6), None), "pooler": ((2, 6), (2, 6), None),
    "embed": ((2, 6), (2, 6), None), "tag": ((2, 5, 3), None, None), "span": ((2, 5, 2), None, None),
    "rtd": ((2, 5, 1), None, None), "masked_lm": ((2, 5, 11), None, None), "lm": ((2, 5, 11), None, None),
    "pretraining": ((2, 5, 11), (2, 6), (2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_head_gives_has_its_shape(kind):
    found = readings(head(kind), X)
    assert tuple(None if x is None else tuple(x.shape) for x in found) == SHAPES[kind]


@pytest.mark.parametrize("kind", [kind for kind, shapes in SHAPES.items() if shapes[0][:2] == (2, 5)])
def test_logits_at_some_places_are_those_of_all_places(kind):
    made, mask = head(kind), torch.tensor([[True, False, True, False, False], [False] * 4 + [True]])
    whole = readings(made, X).logits
    assert torch.allclose(readings(made, X, at=mask).logits, whole[mask], atol=1e-6)
    assert torch.allclose(readings(made, X, at=slice(-1, None)).logits, whole[:, -1:], atol=1e-6)


ACTS = {"tanh": torch.tanh, "gelu": F.gelu, "relu": F.relu}


@pytest.mark.parametrize(("kind", "words"), [
    ("classify", {"activation": "tanh"}), ("classify", {"activation": "gelu", "norm": "layer", "pooling": "mean"}),
    ("pooler", {"activation": "gelu"}), ("next_sentence", {}), ("rtd", {"activation": "relu"}),
    ("tag", {"hidden": True, "norm": {"kind": "layer", "bias": False}, "hidden_bias": False}), ("span", {"hidden": True}),
    ("masked_lm", {"activation": "relu", "hidden_bias": False}), ("masked_lm", {"norm": None}),
])  # fmt: skip
def test_the_hidden_layer_is_a_dense_an_activation_and_a_norm(kind, words):
    made = head(kind, **words)
    assert (made.dense.bias is None) == (words.get("hidden_bias") is False)
    x = X
    if isinstance(made, PooledHead):
        x = X.mean(1) if made.pooling == "mean" else X[:, 0]
    y = ACTS[words.get("activation", "tanh" if isinstance(made, PooledHead) else "gelu")](made.dense(x))
    if made.norm is not None:
        y = F.layer_norm(y, y.shape[-1:], made.norm.weight, made.norm.bias, made.norm.eps)
    found = readings(made, X)
    if isinstance(made, PooledHead):
        assert torch.allclose(found.pooled, y)
    last = getattr(made, "project", None)
    if kind == "masked_lm":
        table = torch.randn(11, 4, generator=torch.Generator().manual_seed(2))
        assert torch.allclose(found.logits, y @ table.T + made.vocabulary.bias, atol=1e-5)
    else:
        assert torch.allclose(found.logits, y if last is None else last(y), atol=1e-6)


def test_a_bias_can_be_left_out():
    assert head("classify", bias=False).project.bias is None and head("masked_lm", bias=False).vocabulary.bias is None


def test_dropout_acts_before_the_dense_and_before_the_labels():
    for word in ("hidden_dropout", "dropout"):
        made = head("classify", **{word: 0.5})
        seen = readings(made, X).logits
        made.train()
        torch.manual_seed(0)
        assert not torch.allclose(readings(made, X).logits, seen)
        pooled = readings(made, X).pooled
        assert torch.allclose(pooled, readings(made.eval(), X).pooled) == (word == "dropout")
    for kind in ("tag", "span"):
        made = head(kind, dropout=0.5)
        assert not torch.allclose(readings(made.train(), X).logits, readings(made.eval(), X).logits)


def test_a_pooled_head_is_computed_once_a_forward(monkeypatch):
    calls = []
    plain = PooledHead.pooled
    monkeypatch.setattr(PooledHead, "pooled", lambda self, *given: calls.append(1) or plain(self, *given))
    model = attnlib.build({
        "kind": "encoder", "d_model": 6, "vocab_size": 11, "head": {"kind": "classify", "num_labels": 2},
        "stack": {"num_layers": 1, "block": {"attention": {"num_heads": 2}}},
    })  # fmt: skip
    out = model(torch.zeros(2, 3, dtype=torch.long))
    assert len(calls) == 1 and out.logits.shape == (2, 2) and out.pooled.shape == (2, 6)


def test_without_a_head_nothing_is_read():
    assert read_head(None, X, X, Layout.dense(2, 5), None, True) == Readings()
    assert read_head(head("rtd"), X, X, Layout.dense(2, 5), None, False) == Readings()

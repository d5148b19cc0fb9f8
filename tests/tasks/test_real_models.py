"""A real sentence-embedding model, equal to transformers; skipped where it is not at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from attnlib import tasks

MINILM = Path(os.environ.get("ATTNLIB_SHARED", "/nowhere")) / "models" / "minilm"
pytestmark = pytest.mark.skipif(not MINILM.is_dir(), reason="ATTNLIB_SHARED names no folder with models/minilm")

TEXTS = [
    "The cat sat on the mat.", "A kitten rested on the rug.", "Stocks fell sharply today.", "", "naïve café [SEP] 北京",
    "Call me Ishmael. " * 40,
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> tasks.Ready:
    return tasks.load(MINILM, dtype=torch.float32)


def test_embeddings_are_the_published_ones(model: tasks.Ready) -> None:
    vectors = tasks.embed(model, TEXTS[:3]).vectors
    assert vectors[0, :5].tolist() == pytest.approx([0.1302, -0.0158, -0.0367, 0.0580, -0.0598], abs=5e-5)
    assert (vectors[1:] @ vectors[0]).tolist() == pytest.approx([0.6125, 0.0777], abs=5e-5)


def test_embeddings_equal_those_of_transformers(model: tasks.Ready) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModel.from_pretrained(MINILM, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    how = {"padding": "longest", "truncation": True, "max_length": 256, "split_special_tokens": True}
    given = tokenizer(TEXTS, return_tensors="pt", **how)
    with torch.no_grad():
        x = theirs(**given).last_hidden_state
    seen = given["attention_mask"][..., None].float()
    wished = F.normalize((x * seen).sum(1) / seen.sum(1), dim=-1)
    found = tasks.embed(model, TEXTS)
    assert found.cut == () and (found.vectors - wished).abs().max() < 1e-5
    long = tasks.embed(model, ["Call me Ishmael. " * 60, "a"])
    assert long.cut == (0,) and len(model.tokenizer.encode("Call me Ishmael. " * 60)) > 256

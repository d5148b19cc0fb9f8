"""Blanks and their likeliest tokens."""

from __future__ import annotations

import pytest
import torch
from tiny import ready

from attnlib.errors import LayoutError, UsageError
from attnlib.tasks import complete, fill


def test_probabilities_are_the_models_own_and_the_likeliest_comes_first() -> None:
    model = ready(head="masked_lm")
    found = fill(model, "the s<mask>a w<mask>s", top_k=4)
    ids = model.tokenizer.join([*b"the s", 260, *b"a w", 260, *b"s"]).ids
    with torch.no_grad():
        chances = model.model(torch.tensor([ids])).logits[0].softmax(-1)
    chances[:, 256:] = 0
    assert len(found) == 2
    for place, blank in zip([i for i, token in enumerate(ids) if token == 260], found):
        best, tokens = chances[place].topk(4)
        assert [one.id for one in blank] == tokens.tolist()
        assert [one.probability for one in blank] == pytest.approx(best.tolist(), rel=1e-4)
    first = found[0][0]
    assert first.text == model.tokenizer.decode([*b"the s", first.id, *b"a w"]) + "<mask>s"
    last = found[1][0]
    assert last.text == "the s<mask>" + model.tokenizer.decode([*b"a w", last.id, *b"s"])
    assert "<mask>" not in complete(model, "the s<mask>a w<mask>s")


def test_what_cannot_be_filled_is_refused() -> None:
    model = ready(head="masked_lm")
    with pytest.raises(UsageError, match="holds no blank, an encoder fills blanks, written <mask>"):
        fill(model, "the sea")
    with pytest.raises(LayoutError, match=r"has 63 tokens, the model's positions end at 60"):
        fill(model, "a" * 60 + "<mask>")
    with pytest.raises(UsageError, match="top_k: is 0"):
        fill(model, "<mask>", top_k=0)
    with pytest.raises(UsageError, match="no head over the vocabulary"):
        fill(ready(head={"kind": "tag", "num_labels": 2}), "<mask>")
    assert len(fill(model, "<mask>", top_k=1000)[0]) == 256

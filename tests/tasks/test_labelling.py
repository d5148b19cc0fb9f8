"""Labels of texts, as one of them, any of them or numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tiny import T5, TREE, ready

from attnlib.errors import LayoutError, UsageError
from attnlib.tasks import Ready, classify
from attnlib.text.hf import HFTokenizer


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.model(torch.tensor([ids])).logits[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("tree", [TREE, T5])
@pytest.mark.parametrize(
    ("problem", "count"), [(None, 3), ("single_label", 2), ("multi_label", 3), (None, 1), ("regression", 2)]
)
def test_logits_are_read_as_the_problem_says(tree: dict[str, Any], problem: Any, count: int) -> None:
    names = [f"l{i}" for i in range(count)]
    model = ready(tree, head={"kind": "classify", "num_labels": count, "labels": names, "problem": problem})
    for text, labels in zip(["the sea", "a"], classify(model, ["the sea", "a"])):
        found = logits(model, model.tokenizer.encode(text, template=True))
        if problem == "regression":
            wished = found
        elif problem == "multi_label" or count == 1:
            wished = found.sigmoid()
        else:
            wished = found.softmax(-1)
            assert sum(one.score for one in labels) == pytest.approx(1)
        assert {one.name: one.score for one in labels} == pytest.approx(dict(zip(names, wished.tolist())), abs=1e-5)
        if problem != "regression":
            assert [one.score for one in labels] == sorted((one.score for one in labels), reverse=True)
        else:
            assert [one.name for one in labels] == names


def test_a_public_tokenizer_says_itself_that_nothing_goes_around_a_text() -> None:
    pytest.importorskip("tokenizers")
    plain = HFTokenizer(json.dumps({
        "version": "1.0", "model": {"type": "WordLevel", "vocab": {"<s>": 0, "sea": 1, "?": 2}, "unk_token": "?"},
        "added_tokens": [{"id": 0, "content": "<s>", "special": True, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False}],
    }))  # fmt: skip
    model = Ready(ready(head={"kind": "classify", "num_labels": 2, "pooling": "last"}).model, plain)
    assert plain.bos_id == 0 and plain.template == ((), ())
    [labels] = classify(model, ["sea"])
    assert dict(labels)["LABEL_1"] == pytest.approx(float(logits(model, [1]).softmax(-1)[1]), abs=1e-5)
    [ours] = classify(ready(framed=False, head={"kind": "classify", "num_labels": 2}), [""])  # bos alone, to pool from
    assert len(ours) == 2


def test_a_pair_is_read_in_its_frame() -> None:
    model = ready(head={"kind": "classify", "num_labels": 2})
    [labels] = classify(model, [("who", "me")])
    wished = logits(model, [257, *b"who", 259, *b"me", 259]).softmax(-1)
    assert dict(labels)["LABEL_1"] == pytest.approx(float(wished[1]), abs=1e-5)


def test_what_has_no_labels_or_no_room_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model.head: is masked_lm, classify needs head: classify"):
        classify(ready(head="masked_lm"), ["a"])
    with pytest.raises(LayoutError, match=r"texts\.1: has 72 tokens, the model's positions end at 60"):
        classify(ready(head={"kind": "classify", "num_labels": 2}), ["a", "b" * 70])

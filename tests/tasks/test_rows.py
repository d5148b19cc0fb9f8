"""Texts through a model together are what they are alone, in their order, and without padding where attention can."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import BLOCK, T5, TREE, ready

from attnlib import tasks
from attnlib.attention.scope import Door, standing_at_the_door
from attnlib.errors import UsageError
from attnlib.tasks import Ready
from attnlib.tasks.rows import logits, packs, states

TEXTS = ["a", "the whale", "", "the whale rose and the sea ran high", "sea", "of ships and salt"]
BIASED = {**TREE, "stack": {"num_layers": 2, "block": {**BLOCK, "attention": {"num_heads": 2, "term": "shaw"}}}}
TWO = {"kind": "classify", "num_labels": 2}
ONE_SIDED = {**TREE, "stack": {"num_layers": 2, "block": {**BLOCK, "attention": {"num_heads": 2, "mask": "causal"}}}}


@pytest.mark.parametrize(
    ("tree", "packed"), [(TREE, True), (ONE_SIDED, True), (BIASED, False), (T5, True), ({**T5, "head": "span"}, True)]
)
def test_states_together_equal_states_alone(tree: dict[str, Any], packed: bool) -> None:
    model = ready(tree)
    assert packs(model.model) == packed
    rows = [model.tokenizer.join(model.tokenizer.encode(text)) for text in TEXTS]
    seen: dict[int, torch.Tensor] = {}
    for found in states(model, rows, budget=24):
        lengths = found.layout.lengths
        assert lengths is not None and list(lengths) == [len(rows[i].ids) for i in found.numbers]
        seen |= {number: x[:n] for number, x, n in zip(found.numbers, found.x, lengths)}
    assert sorted(seen) == list(range(len(TEXTS)))
    for number, row in enumerate(rows):
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            if tree is T5:
                alone = model.model.encode(ids)[0].last
            else:
                alone = model.model(ids, head=False).last
        torch.testing.assert_close(seen[number], alone[0], atol=1e-5, rtol=1e-5)


def test_no_padding_reaches_attention_where_texts_are_packed() -> None:
    model = ready()
    rows = [model.tokenizer.join(model.tokenizer.encode(text)) for text in TEXTS]
    columns: list[tuple[int, int]] = []

    class Looking(Door):
        def __call__(self, path: str, q: Any, k: Any, v: Any, call: Any, run: Any) -> Any:
            columns.append((call.visibility.q.tokens, sum(call.visibility.q.lengths)))
            return run()

    with standing_at_the_door(Looking()):
        list(states(model, rows, budget=40))
    assert all(tokens == real for tokens, real in columns)
    assert sum(real for _, real in columns) == 2 * sum(len(row.ids) for row in rows)  # in each of two blocks


def test_type_ids_of_a_pair_are_read() -> None:
    model = ready(head="span")
    row = model.tokenizer.join(model.tokenizer.encode("who"), model.tokenizer.encode("me"))
    assert not any(row.types)
    other = row._replace(types=[0] * 5 + [1] * (len(row.ids) - 5))
    plain, typed = logits(model, [row, other])
    with torch.no_grad():
        wished = model.model(torch.tensor([other.ids]), types=torch.tensor([other.types])).logits[0]
    torch.testing.assert_close(typed, wished, atol=1e-5, rtol=1e-5)
    assert (plain - typed).abs().max() > 1e-2


@pytest.mark.parametrize("head", ["span", {**TWO, "pooling": "first"}, {**TWO, "pooling": "mean"}])
@pytest.mark.parametrize("tree", [TREE, BIASED, T5])
def test_logits_of_a_head_are_those_of_each_text_alone(tree: dict[str, Any], head: Any) -> None:
    model = ready(tree, head=head)
    rows = [model.tokenizer.join(model.tokenizer.encode(text)) for text in TEXTS]
    for row, found in zip(rows, logits(model, rows)):
        with torch.no_grad():
            torch.testing.assert_close(found, model.model(torch.tensor([row.ids])).logits[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task", [
    lambda model: tasks.classify(model("classify"), ["a"]), lambda model: tasks.embed(model("embed"), ["a"]),
    lambda model: tasks.fill(model("masked_lm"), "a<mask>"), lambda model: tasks.complete(model("masked_lm"), "a<mask>"),
    lambda model: tasks.answer(model("span"), "who", "me"), lambda model: tasks.tag(model("tag"), "a"),
])  # fmt: skip
def test_weights_that_are_no_numbers_are_told_and_no_answer_is_made_of_them(task: Any) -> None:
    def broken(kind: str) -> Ready:
        model = ready(head={"kind": kind, "num_labels": 2} if kind in ("classify", "tag") else kind)
        with torch.no_grad():
            model.model.embedding.token.weight[ord("a") : ord("n")] = torch.nan
        return model

    with pytest.raises(UsageError, match="model: gives what is no finite number, must be finite"):
        task(broken)

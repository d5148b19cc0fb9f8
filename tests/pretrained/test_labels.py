"""id2label and problem_type, to a head's words and back."""

from __future__ import annotations

from typing import Any

import pytest

from attnlib.errors import CheckpointError
from attnlib.models.heads import ClassifyHeadSpec, NoHeadSpec, TagHeadSpec
from attnlib.pretrained.family import HFConfig
from attnlib.pretrained.labels import labels_config, labels_from, problem_from

NER = {str(i): name for i, name in enumerate(["O", "B-PER", "I-PER"])}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"id2label": NER}, {"num_labels": 3, "labels": ("O", "B-PER", "I-PER")}),
        ({"id2label": dict(reversed(NER.items()))}, {"num_labels": 3, "labels": ("O", "B-PER", "I-PER")}),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, {"num_labels": 2, "labels": ()}),
        ({"num_labels": 5}, {"num_labels": 5, "labels": ()}),
        ({}, {"num_labels": 2, "labels": ()}),
    ],
)
def test_label_names_are_read_in_the_order_of_their_numbers(tree: dict[str, Any], words: dict[str, Any]) -> None:
    assert labels_from(HFConfig(tree)) == words


@pytest.mark.parametrize("problem", [None, "single_label", "multi_label", "regression"])
def test_what_a_head_says_is_read_back(problem: Any) -> None:
    head = ClassifyHeadSpec(num_labels=2, labels=("no", "yes"), problem=problem)
    config = HFConfig(labels_config(head))
    assert ClassifyHeadSpec(**labels_from(config), problem=problem_from(config)) == head
    tags = TagHeadSpec(num_labels=3)
    assert TagHeadSpec(**labels_from(HFConfig(labels_config(tags)))) == tags
    assert labels_config(NoHeadSpec()) == {}


@pytest.mark.parametrize(
    "tree", [{"id2label": {"0": "a", "2": "b"}}, {"id2label": {"0": "a", "1": 7}}, {"problem_type": "x"}]
)
def test_what_is_no_list_of_names_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"id2label|problem_type"):
        labels_from(HFConfig(tree))
        problem_from(HFConfig(tree))

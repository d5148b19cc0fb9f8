"""Heads that know what their logits mean."""

from __future__ import annotations

import pytest

from attnlib.models.heads import ClassifyHeadSpec, HeadSpec, TagHeadSpec
from attnlib.spec import SpecErrors, read, write


@pytest.mark.parametrize("kind", [ClassifyHeadSpec, TagHeadSpec])
def test_labels_are_optional_and_as_many_as_logits(kind: type[ClassifyHeadSpec]) -> None:
    assert kind(num_labels=2).names == ("LABEL_0", "LABEL_1")
    assert kind(num_labels=2, labels=("no", "yes")).names == ("no", "yes")
    with pytest.raises(SpecErrors, match=r"labels: names 2, wish num_labels of them \(3\)"):
        kind(num_labels=3, labels=("no", "yes"))


def test_labels_and_problem_are_words_of_the_grammar() -> None:
    tree = {"kind": "classify", "num_labels": 2, "labels": ["no", "yes"], "problem": "multi_label"}
    head = read(HeadSpec, tree)
    assert isinstance(head, ClassifyHeadSpec) and head.labels == ("no", "yes") and head.problem == "multi_label"
    assert read(HeadSpec, write(head)) == head
    with pytest.raises(SpecErrors, match="problem"):
        read(HeadSpec, {**tree, "problem": "many"})


def test_logits_of_labels_may_go_without_a_bias() -> None:
    for bias in (True, False):
        head = ClassifyHeadSpec(num_labels=3, hidden=False, bias=bias).build(d_model=4, vocab_size=5, d_embedding=4)
        assert head is not None
        assert [name for name, _ in head.named_parameters()] == ["project.weight", *(["project.bias"] if bias else [])]

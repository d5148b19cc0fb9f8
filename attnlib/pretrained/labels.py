"""Names of labels between a foreign config (id2label, label2id, problem_type) and a head's words."""

from __future__ import annotations

from typing import Any, cast

from attnlib.errors import CheckpointError
from attnlib.models.heads import HeadSpec, LabelledSpec, Problem
from attnlib.pretrained.family import HFConfig

PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")
SHORT = "_classification"


def labels_from(config: HFConfig, *, count: int = 2) -> dict[str, Any]:
    """The words `num_labels` and `labels` of a head: `ClassifyHeadSpec(**labels_from(config), ...)`.

    The numbered names that stand in for absent ones (LABEL_0, ...) are left out. Without id2label there are `count`.
    """
    found = config.get("id2label", dict, {})
    count = len(found) or config.get("num_labels", int, count)
    wished = [str(i) for i in range(count)]
    if found and sorted(found) != sorted(wished):
        raise CheckpointError(f"{config.where}: id2label", f"names {', '.join(map(str, found))[:80]}",
                              f"wish the numbers 0 to {count - 1}")  # fmt: skip
    names = [found.get(i, f"LABEL_{i}") for i in wished]
    if odd := next((name for name in names if not isinstance(name, str)), None):
        raise CheckpointError(f"{config.where}: id2label", f"holds {str(odd)[:80]!r}", "wish names")
    numbered = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return {"num_labels": count, "labels": () if numbered else tuple(names)}


def problem_from(config: HFConfig) -> Problem | None:
    """The word `problem` of a classify head."""
    config.only("problem_type", PROBLEMS)
    return cast("Problem", config.get("problem_type", str, "").removesuffix(SHORT)) or None


def labels_config(head: HeadSpec) -> dict[str, Any]:
    """What config.json says of a head's labels and problem; nothing of a head without labels."""
    if not isinstance(head, LabelledSpec):
        return {}
    problem = getattr(head, "problem", None)
    tree: dict[str, Any] = {
        "id2label": {str(i): name for i, name in enumerate(head.names)},
        "label2id": {name: i for i, name in enumerate(head.names)},
    }
    if problem is not None:
        tree["problem_type"] = problem if problem in PROBLEMS else problem + SHORT
    return tree

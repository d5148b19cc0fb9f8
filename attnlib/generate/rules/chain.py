"""Rules together: folded out of options of their names, put in order, bound to a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from attnlib.errors import SpecError, UsageError
from attnlib.generate.rules.base import HIDDEN, Known, Rule, Texts
from attnlib.spec import SpecErrors, read


def folded(values: Mapping[str, Any], root: str = "Sampling") -> dict[str, Any]:
    """`values` with each one that is named as a kind of rule turned into this rule, among `rules`; None takes it out.

    The rules of one kind replace each other; all stand in their order.
    """
    kinds, rules = Rule.kinds(), values.get("rules", ())
    rest = {name: value for name, value in values.items() if name not in kinds}
    if not isinstance(rules, list | tuple) or not all(isinstance(rule, Rule) for rule in rules):
        return rest  # pydantic says what is wrong with it
    found: dict[str, Rule | None] = {}
    for rule in rules:
        if rule.kind in found:
            raise SpecErrors([SpecError(f"{root}.rules", f"holds {rule.kind} twice", "must hold one rule of a kind")])
        found[rule.kind] = rule
    errors: list[SpecError] = []
    for name in values.keys() & kinds.keys():
        value = values[name]
        try:
            found[name] = None if value is None else read(kinds[name], value, path=f"{root}.{name}")
        except SpecErrors as error:
            errors += error.errors
    if errors:
        raise SpecErrors(errors)
    kept = ordered(rule for rule in found.values() if rule is not None)
    return {**rest, "rules": kept} if kept or "rules" in values else rest


def ordered(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules as they act, one after another, without those that have no effect beside others."""
    listed = list(rules)
    gone = {name for rule in listed for name in rule.instead}
    return tuple(sorted((rule for rule in listed if rule.kind not in gone), key=lambda rule: rule.place))


class Chain:
    """The rules of a request as two functions: of scores that are compared, and of those that are drawn from."""

    def __init__(self, rules: Iterable[Rule], known: Known) -> None:
        listed = ordered(rules)
        known = replace(known, beside=frozenset(rule.kind for rule in listed))
        self.always = [rule.build(known) for rule in listed if not rule.draws]
        self.drawing = [rule.build(known) for rule in listed if rule.draws]

    def scores(self, scores: Tensor, texts: Texts) -> Tensor:
        """[B, V] after every rule that always acts."""
        for change in self.always:
            scores = change(scores, texts)
        return scores

    def drawn(self, scores: Tensor, texts: Texts) -> Tensor:
        """[B, V] after the filters; scores that came through `scores` and were divided by the temperature."""
        for change in self.drawing:
            scores = change(scores, texts)
        return scores

    def need_some(self, scores: Tensor, new: int) -> None:
        """UsageError where a row has no token left that it may say."""
        if self.always and bool((scores.amax(-1) == HIDDEN).any()):
            raise UsageError("generate", f"the rules leave a row no token after {new} new ones", "must leave one",
                             "are all tokens suppressed, or the forced one?")  # fmt: skip

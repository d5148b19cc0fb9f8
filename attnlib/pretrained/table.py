"""A table of rules, applied: every tensor of the file read by one rule, every one of ours made once, or a refusal."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from attnlib.errors import CheckpointError, nearest
from attnlib.pretrained.header import Fact
from attnlib.pretrained.rules import Alias, Ignore, Pattern, Rename, Rule, Tied, pattern_of
from attnlib.pretrained.source import InMemory, Source

MOST = 8  # groups that one message names
ANY = "{*}"  # what stands for any text in a pattern
Explain = Callable[[Sequence[str]], str]


class Made(NamedTuple):
    """A tensor of ours, perhaps a view of a file; `release` lets go of what it was read from, once it is copied."""

    name: str
    tensor: Tensor
    release: Callable[[], None]


class Step(NamedTuple):
    """One application of a rule: names read, names made."""

    rule: Rule
    reads: tuple[str, ...]
    makes: tuple[str, ...]


@dataclass
class Plan:
    """What a table does to these tensors, known from names, shapes and dtypes alone."""

    facts: dict[str, Fact] = field(default_factory=dict)  # of what is made
    steps: list[Step] = field(default_factory=list)
    ties: list[tuple[str, str]] = field(default_factory=list)  # (theirs, ours)
    ignored: dict[str, str] = field(default_factory=dict)  # theirs -> why
    back: bool = False
    shapes: Mapping[str, Fact] | None = None

    def run(self, source: Source) -> Iterator[Made]:
        """Make every tensor; each of the source is read once, and one step's tensors are alive at a time."""
        for step in self.steps:

            def release(names: tuple[str, ...] = step.reads) -> None:
                for name in names:
                    source.release(name)

            for name, tensor in zip(step.makes, self.apply(step, [source.read(name) for name in step.reads])):
                yield Made(name, tensor, release)

    def only(self, names: Collection[str]) -> Plan:
        """The part of the plan that makes these names."""
        return replace(self, steps=[step for step in self.steps if any(name in names for name in step.makes)])

    def apply(self, step: Step, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.back:
            return step.rule.save(tensors)
        known = self.shapes is not None and all(name in self.shapes for name in step.makes)
        return step.rule.load(tensors, [self.shapes[name].shape for name in step.makes] if known else None)  # type: ignore[index]


class Table:
    """The rules of one family's names; `plan` looks, `load` and `save` do."""

    def __init__(self, rules: Iterable[Rule | Tied | Ignore], aliases: Iterable[Alias] = ()) -> None:
        rules = tuple(rules)
        self.rules = tuple(rule for rule in rules if isinstance(rule, Rule))
        self.ties = tuple(rule for rule in rules if isinstance(rule, Tied))
        self.ignores = tuple(rule for rule in rules if isinstance(rule, Ignore))
        self.aliases = tuple((Pattern(alias.old), Pattern(alias.new)) for alias in aliases)

    @cached_property
    def their_patterns(self) -> tuple[str, ...]:
        """Every name of theirs that some rule reads."""
        of_rules = [name for rule in self.rules for name in rule.their_names]
        return (*of_rules, *(tie.theirs for tie in self.ties), *(ignore.theirs for ignore in self.ignores))

    def today(self, theirs: Iterable[str]) -> dict[str, str]:
        """Today's spelling of every name of a file, each with the name in the file."""
        return self._named(theirs, _Problems())

    def lacks(self, theirs: Iterable[str]) -> int | None:
        """How many of its names a file has no tensor of, if it reads all that the file has; else None."""
        patterns, found = defaultdict[str, list[Pattern]](list), set[str]()
        for text in self.their_patterns:
            patterns[ANY if ANY in text else _group(text)].append(Pattern(text))
        for name in self.today(theirs):
            among = [*patterns[pattern_of(name)], *patterns[ANY]]
            readers = [pattern.text for pattern in among if pattern.bind(name) is not None]
            if not readers:
                return None
            found.update(readers)
        return len(set(self.their_patterns) - found)

    def plan(
        self, theirs: Mapping[str, Fact], ours: Mapping[str, Fact] | None = None, *, where: str = "checkpoint",
        explain: Explain | None = None, spared: str | None = None,
    ) -> Plan:  # fmt: skip
        """How `theirs` become `ours`; all differences at once in one CheckpointError, before a tensor is read.

        Names of ours that begin with `spared` may lack in the file: they are made anew.
        """
        problems, plan = _Problems(), Plan(shapes=ours)
        named = self._named(theirs, problems)
        groups, readers = _grouped(named), Counter[str]()
        for rule in self.rules:
            for reads, makes in _instances(rule.theirs_of, rule.ours_of, groups, readers, problems):
                plan.steps.append(Step(rule, tuple(named[name] for name in reads), makes))
        made = {name for step in plan.steps for name in step.makes}
        for tie in self.ties:
            for (name,), (our,) in _instances((Pattern(tie.theirs),), (Pattern(tie.ours),), groups, readers, problems):
                if our in made:
                    plan.ties.append((named[name], our))
                else:  # the file carries the copy only
                    made.add(our)
                    plan.steps.append(Step(Rename(tie.theirs, tie.ours), (named[name],), (our,)))
        for ignore in self.ignores:
            for (name,), _ in _instances((Pattern(ignore.theirs),), (), groups, readers, problems):
                plan.ignored[named[name]] = ignore.why
        unread = [name for name in named if not readers[name]]
        for name in unread:
            problems.add("no rule reads", name)
        for name, count in readers.items():
            if count > 1:
                problems.add("two rules read", name)
        _compute_facts(plan, theirs, problems)
        _compare(plan.facts, ours, problems, spared)
        hint = explain(list(theirs)) if explain and unread else ""
        problems.raise_if_any(where, "wish the tensors of this model", hint or self._nearest(unread))
        return plan

    def plan_back(self, ours: Mapping[str, Fact], *, where: str = "model") -> Plan:
        """How `ours` are written as theirs; every one of ours is written exactly once."""
        problems, plan = _Problems(), Plan(back=True)
        groups, readers = _grouped({name: name for name in ours}), Counter[str]()
        for rule in self.rules:
            for reads, makes in _instances(rule.ours_of, rule.theirs_of, groups, readers, problems):
                plan.steps.append(Step(rule, reads, makes))
        for name in ours:
            if readers[name] != 1:
                problems.add("two rules write" if readers[name] else "no rule writes", name)
        _compute_facts(plan, ours, problems)
        problems.raise_if_any(where, "wish a model of this family", "")
        return plan

    def load(self, theirs: Mapping[str, Tensor], ours: Mapping[str, Fact] | None = None) -> dict[str, Tensor]:
        """Our tensors from theirs, at once, ties verified; see `plan` for what is refused."""
        source = InMemory(theirs)
        plan = self.plan(source.facts, ours)
        made = {name: tensor for name, tensor, _ in plan.run(source)}
        for name, our in plan.ties:
            if not torch.equal(theirs[name], made[our]):
                raise CheckpointError(name, f"differs from {our}, which it is tied to", "wish equal values")
        return made

    def save(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors from ours, at once."""
        source = InMemory(ours)
        return {name: tensor for name, tensor, _ in self.plan_back(source.facts).run(source)}

    def _named(self, theirs: Iterable[str], problems: _Problems) -> dict[str, str]:
        """Today's spelling -> the name in the file."""
        found: dict[str, str] = {}
        for name in theirs:
            today = name
            for old, new in self.aliases:
                if (values := old.bind(today)) is not None:
                    today = new.name(values)
            if today in found:
                problems.add("two spellings of one tensor", name)
            found[today] = name
        return found

    def _nearest(self, unread: Sequence[str]) -> str:
        return nearest(pattern_of(unread[0]), self.their_patterns) if unread else ""


class _Problems:
    """What differs, by kind and group, with counts."""

    def __init__(self) -> None:
        self._found: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, kind: str, name: str, fact: str = "") -> None:
        self._found[kind][pattern_of(name) + (f" {fact}" if fact else "")] += 1

    def raise_if_any(self, where: str, wish: str, hint: str) -> None:
        if not self._found:
            return
        lines, left = [], MOST
        for kind, groups in self._found.items():
            shown = [f"{group[:200]!r} (x{count})" for group, count in list(groups.items())[: max(left, 1)]]
            left -= len(shown)
            more = len(groups) - len(shown)
            lines.append(f"{kind}: {', '.join(shown)}" + (f" and {more} groups more" if more else ""))
        raise CheckpointError(where, "; ".join(lines).replace("'", ""), wish, hint)


def _grouped(names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[pattern_of(name)].append(name)
    return groups


def _candidates(pattern: Pattern, groups: Mapping[str, list[str]]) -> list[str]:
    if ANY in pattern.text:
        return [name for names in groups.values() for name in names]
    return groups.get(_group(pattern.text), [])


def _group(pattern: str) -> str:
    """The group of the names that a pattern without `{*}` binds."""
    return pattern_of(re.sub(r"\{\w+\}", "{i}", pattern))


def _instances(
    reads: Sequence[Pattern], makes: Sequence[Pattern], groups: Mapping[str, list[str]], readers: Counter[str],
    problems: _Problems,
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:  # fmt: skip
    """Every way to fill the placeholders for which the read names exist; a half-filled one is a problem."""
    found: dict[tuple[tuple[str, str], ...], dict[int, str]] = defaultdict(dict)
    for place, pattern in enumerate(reads):
        for name in _candidates(pattern, groups):
            if (values := pattern.bind(name)) is not None:
                found[tuple(sorted(values.items()))][place] = name
                readers[name] += 1
    for values_of, names in found.items():
        values = dict(values_of)
        if missing := [pattern.name(values) for place, pattern in enumerate(reads) if place not in names]:
            for name in missing:
                problems.add("missing beside its like", name)
            continue
        yield tuple(names[place] for place in range(len(reads))), tuple(pattern.name(values) for pattern in makes)


def _compute_facts(plan: Plan, given: Mapping[str, Fact], problems: _Problems) -> None:
    """Run every step on meta tensors."""
    for step in plan.steps:
        empty = [torch.empty(given[name].shape, dtype=given[name].dtype, device="meta") for name in step.reads]
        try:
            made = plan.apply(step, empty)
        except (ValueError, RuntimeError, IndexError) as error:
            problems.add("cannot be converted", step.reads[0], f"{given[step.reads[0]].shape} {str(error)[:100]}")
            made = [torch.empty(0, device="meta")] * len(step.makes)
            if plan.shapes is not None:  # reported once, not again as missing or misshapen
                plan.facts.update((name, plan.shapes[name]) for name in step.makes if name in plan.shapes)
                continue
        for name, tensor in zip(step.makes, made):
            if name in plan.facts:
                problems.add("made twice", name)
            plan.facts[name] = Fact(tensor.dtype, tuple(tensor.shape))


def _compare(
    made: Mapping[str, Fact], wanted: Mapping[str, Fact] | None, problems: _Problems, spared: str | None
) -> None:
    """Names, shapes and dtypes of what would be made against the model's."""
    if wanted is None:
        return
    for name in sorted(wanted.keys() - made.keys()):
        if spared is None or not name.startswith(spared):
            problems.add("no tensor for", name)
    for name, fact in made.items():
        if name not in wanted:
            problems.add("not in the model", name)
            continue
        wish = wanted[name]
        if fact.shape != wish.shape:
            problems.add("shape", name, f"is {fact.shape}, wish {wish.shape}")
        elif fact.dtype != wish.dtype and not (fact.dtype.is_floating_point and wish.dtype.is_floating_point):
            problems.add("dtype", name, f"is {fact.dtype}, wish {wish.dtype}")

"""Tables read both ways, exactly and strictly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlib.errors import CheckpointError
from attnlib.pretrained.header import Fact
from attnlib.pretrained.rules import Alias, Ignore, Join, Pattern, Rename, Split, Stack, Tied, pattern_of
from attnlib.pretrained.source import InMemory
from attnlib.pretrained.table import Table


def facts(tensors):
    return InMemory(tensors).facts


def numbers(*shape):
    return torch.arange(math.prod(shape), dtype=torch.float32).view(shape)


def equal(a, b):
    return a.keys() == b.keys() and all(a[name].shape == b[name].shape and torch.equal(a[name], b[name]) for name in a)


TABLE = Table([
    Rename("embed.weight", "embedding.weight"),
    Rename("h.{i}.out.weight", "blocks.{i}.out.weight", transpose=True),
    Split("h.{i}.qkv.weight", ("blocks.{i}.q.weight", "blocks.{i}.k.weight", "blocks.{i}.v.weight"), transpose=True),
    Tied("head.weight", "embedding.weight"),
    Ignore("h.{i}.mask", "a constant"),
])  # fmt: skip


def theirs(layers=3):
    found = {"embed.weight": numbers(7, 4), "head.weight": numbers(7, 4)}
    for i in range(layers):
        found |= {f"h.{i}.out.weight": numbers(6, 4) + i, f"h.{i}.qkv.weight": numbers(4, 10) + i,
                  f"h.{i}.mask": torch.ones(1)}  # fmt: skip
    return found


def ours(layers=3):
    found = {"embedding.weight": numbers(7, 4)}
    for i in range(layers):
        q, k, v = (numbers(4, 10) + i).T.split([6, 2, 2])
        found |= {f"blocks.{i}.out.weight": (numbers(6, 4) + i).T, f"blocks.{i}.q.weight": q,
                  f"blocks.{i}.k.weight": k, f"blocks.{i}.v.weight": v}  # fmt: skip
    return found


def test_a_table_reads_both_ways():
    assert equal(TABLE.load(theirs(), facts(ours())), ours())
    back = TABLE.save(ours())
    kept = {name: tensor for name, tensor in theirs().items() if "mask" not in name and name != "head.weight"}
    assert equal(back, kept)


def refusal(given_theirs, given_ours=None):
    with pytest.raises(CheckpointError) as caught:
        TABLE.plan(facts(given_theirs), facts(given_ours or ours()), where="here")
    return str(caught.value)


def test_unread_tensors_are_grouped_and_counted():
    extra = {f"h.{i}.q_norm.weight": torch.ones(2) for i in range(3)}
    text = refusal(theirs() | extra | {"odd": torch.ones(1)})
    assert text.startswith("here: no rule reads: h.{i}.q_norm.weight (x3), odd (x1)")


def test_the_nearest_name_is_offered():
    assert "did you mean 'h.{i}.out.weight'?" in refusal(theirs() | {"h.0.owt.weight": torch.ones(2)})


def test_missing_tensors_are_grouped_and_counted():
    less = {name: tensor for name, tensor in theirs().items() if "out" not in name}
    assert "no tensor for: blocks.{i}.out.weight (x3)" in refusal(less)


def test_wrong_shapes_and_dtypes_are_told_together():
    wrong = theirs() | {"h.1.out.weight": numbers(4, 6), "embed.weight": torch.zeros(7, 4, dtype=torch.int64)}
    text = refusal(wrong)
    assert "shape: blocks.{i}.out.weight is (6, 4), wish (4, 6) (x1)" in text
    assert "dtype: embedding.weight is torch.int64, wish torch.float32 (x1)" in text


def test_a_cut_that_cannot_be_made_is_told_with_its_shape():
    text = refusal(theirs() | {"h.2.qkv.weight": numbers(4, 11)})
    assert "cannot be converted: h.{i}.qkv.weight (4, 11) cannot be cut into [6, 2, 2] along dimension 0 (x1)" in text
    assert "no tensor for" not in text
    text = refusal(theirs() | {"h.2.qkv.weight": numbers(5)})
    assert "cannot be converted: h.{i}.qkv.weight (5,)" in text


def test_layers_beyond_the_model_are_refused():
    assert "not in the model: blocks.{i}.out.weight (x1)" in refusal(theirs(4))
    assert "blocks.{i}.k.weight (x1), blocks.{i}.out.weight (x1)" in refusal(theirs(2))


def test_two_rules_for_one_tensor_are_refused_both_ways():
    table = Table([Rename("a", "x"), Rename("{*}", "{*}")])
    with pytest.raises(CheckpointError, match="two rules read: a"):
        table.plan(facts({"a": torch.ones(1)}))
    with pytest.raises(CheckpointError, match="two rules write: x"):
        table.plan_back(facts({"x": torch.ones(1)}))
    with pytest.raises(CheckpointError, match="made twice: x"):
        Table([Rename("a", "x"), Rename("b", "x")]).plan(facts({"a": torch.ones(1), "b": torch.ones(1)}))


def test_saving_refuses_what_the_family_cannot_hold():
    with pytest.raises(CheckpointError, match=r"no rule writes: blocks.{i}.extra \(x2\)"):
        TABLE.plan_back(facts(ours() | {f"blocks.{i}.extra": torch.ones(1) for i in range(2)}))


def test_ties_are_verified_by_value():
    assert equal(TABLE.load(theirs(), facts(ours())), ours())
    with pytest.raises(CheckpointError, match=r"head.weight: differs from embedding.weight"):
        TABLE.load(theirs() | {"head.weight": numbers(7, 4) + 1}, facts(ours()))


def test_a_tie_of_which_the_file_has_one_side_only_is_read_from_it():
    for gone in ("embed.weight", "head.weight"):
        left = {name: tensor for name, tensor in theirs().items() if name != gone}
        assert equal(TABLE.load(left, facts(ours())), ours())


def test_older_spellings_are_read_and_not_written():
    aliases = [Alias("{*}.gamma", "{*}.weight"), Alias("{i}.weight", "bert.{i}.weight")]
    table = Table([Rename("bert.{i}.weight", "x.{i}")], aliases)
    files = {"3.gamma": numbers(2), "bert.4.weight": numbers(3)}
    assert equal(table.load(files), {"x.3": numbers(2), "x.4": numbers(3)})
    assert list(table.save({"x.3": numbers(2)})) == ["bert.3.weight"]
    with pytest.raises(CheckpointError, match=r"two spellings of one tensor: bert.{i}.weight"):
        table.load({"3.gamma": numbers(2), "bert.3.weight": numbers(2)})


def test_per_head_interleaved_rows_are_told_apart():
    heads, width = 3, 2
    q, k, v = (numbers(heads * width, 4) + 100 * n for n in range(3))
    fused = torch.stack([part.view(heads, width, 4) for part in (q, k, v)], 1).reshape(-1, 4)
    table = Table([Split("w", ("q", "k", "v"), groups=heads)])
    assert equal(table.load({"w": fused}), {"q": q, "k": k, "v": v})
    assert equal(table.save({"q": q, "k": k, "v": v}), {"w": fused})


def test_experts_are_stacked_and_a_missing_one_is_named():
    table = Table([Stack("l.{i}.experts.{e}.w", "b.{i}.w", count=3)])
    files = {f"l.{i}.experts.{e}.w": numbers(2, 5) + 10 * i + e for i in range(2) for e in range(3)}
    made = {f"b.{i}.w": torch.stack([files[f"l.{i}.experts.{e}.w"] for e in range(3)]) for i in range(2)}
    assert equal(table.load(files), made) and equal(table.save(made), files)
    del files["l.1.experts.2.w"]
    with pytest.raises(CheckpointError, match=r"missing beside its like: l.{i}.experts.{i}.w \(x1\)"):
        table.load(files)


def test_joined_parts_lie_one_after_another():
    table = Table([Join(("gate", "up"), "both", (2, 3))])
    files = {"gate": numbers(2, 4), "up": numbers(3, 4)}
    assert equal(table.save(table.load(files)), files)
    with pytest.raises(CheckpointError, match=r"cannot be converted: gate \(3, 4\) are not \(2, 3\)"):
        table.load({"gate": numbers(3, 4), "up": numbers(3, 4)})


def test_patterns_bind_numbers_only_and_the_same_number_twice():
    assert Pattern("a.{i}.b").bind("a.12.b") == {"i": "12"}
    for name in ("a.x.b", "a..b", "a.01.b", "a.-1.b", "a.1.b.c", "a.1.b\n", "a.١.b"):
        assert Pattern("a.{i}.b").bind(name) is None, name
    assert Pattern("{i}.{i}").bind("3.3") == {"i": "3"} and Pattern("{i}.{i}").bind("3.4") is None
    assert Pattern("a.b").bind("axb") is None
    assert pattern_of("a.1.b.22") == "a.{i}.b.{i}" and pattern_of("layer.0a.w2") == "layer.0a.w2"


def test_placeholders_that_do_not_agree_are_a_mistake_of_the_table():
    with pytest.raises(ValueError, match="same placeholders"):
        Rename("a.{i}", "b")


class Counting(InMemory):
    def __init__(self, tensors):
        super().__init__(tensors)
        self.reads = []

    def read(self, name):
        self.reads.append(name)
        return super().read(name)


def test_planning_reads_nothing_and_running_reads_each_once():
    source = Counting(theirs())
    plan = TABLE.plan(source.facts, facts(ours()))
    assert source.reads == []
    assert {name for name, _, _ in plan.run(source)} == ours().keys()
    assert sorted(source.reads) == sorted(name for name in theirs() if "mask" not in name and name != "head.weight")


def test_facts_of_the_plan_are_those_of_the_tensors():
    plan = TABLE.plan(facts(theirs()), facts(ours()))
    assert plan.facts == {name: Fact(torch.float32, tuple(tensor.shape)) for name, tensor in ours().items()}


@st.composite
def tables(draw):
    """A random table with random tensors of theirs."""
    rules, tensors = [], {}
    layers = draw(st.integers(1, 4))
    for number in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["rename", "split", "join", "stack"]))
        many = draw(st.booleans())
        at, turned = (".{i}" if many else ""), draw(st.booleans())
        ms = draw(st.lists(st.integers(0, 4), min_size=2, max_size=3))
        wide = draw(st.integers(1, 3))
        if kind == "rename":
            rules.append(Rename(f"t{at}.{number}", f"o{number}{at}", transpose=turned))
            shapes = {f"t{at}.{number}": (ms[0], wide)}
        elif kind == "split":
            groups, dim, count = draw(st.integers(1, 3)), draw(st.integers(0, 1)), len(ms)
            shape = [wide, wide]
            shape[dim] = groups * count * ms[0]
            names = tuple(f"o{number}.{k}{at}" for k in range(count))
            rules.append(Split(f"t{at}.{number}", names, dim=dim, transpose=turned, groups=groups))
            shapes = {f"t{at}.{number}": tuple(reversed(shape)) if turned else tuple(shape)}
        elif kind == "join":
            names = tuple(f"t{at}.{number}.p{k}" for k in range(len(ms)))
            rules.append(Join(names, f"o{number}{at}", tuple(ms)))
            shapes = {name: (m, wide) for name, m in zip(names, ms)}
        else:
            rules.append(Stack(f"t{at}.{number}.x{{e}}", f"o{number}{at}", count=wide, transpose=turned))
            shapes = {f"t{at}.{number}.x{e}": (ms[0], ms[1]) for e in range(wide)}
        for name, shape in shapes.items():
            for i in range(layers) if many else (0,):
                tensors[name.replace("{i}", str(i))] = torch.randn(shape)
    draw(st.randoms()).shuffle(rules)
    return Table(rules), tensors


@settings(max_examples=150, deadline=None)
@given(tables())
def test_the_round_trip_of_random_tables_is_exact(drawn):
    table, tensors = drawn
    made = table.load(tensors)
    assert equal(table.save(made), tensors)
    assert equal(table.load(tensors, facts(made)), made)

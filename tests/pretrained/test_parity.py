"""Every family's samples equal transformers in both directions; what is slightly wrong does not pass."""

import json
from pathlib import Path

import pytest

from attnlib.attention.masks import Causal, Window
from attnlib.pretrained.families.llama import Llama
from attnlib.pretrained.family import families, family_named
from attnlib.pretrained.parity import GATE, GRADIENT_GATE, prove, theirs
from attnlib.pretrained.parity.sides import Sides

pytest.importorskip("transformers")
OURS = [family for family in families() if type(family).__module__.startswith("attnlib.")]  # not those of other tests
SAMPLES = [(family.name, name) for family in OURS for name in family.samples()]


@pytest.mark.parametrize(("family", "sample"), SAMPLES, ids=[f"{family}: {name}" for family, name in SAMPLES])
def test_a_sample_equals_transformers_in_both_directions(tmp_path, family, sample):
    known = family_named(family)
    row = prove(known, sample, known.samples()[sample], tmp_path)
    assert not row.fault
    assert row.worst <= GATE and row.gradient <= GRADIENT_GATE and row.ok
    if isinstance(known, Llama):  # the group whose order of roundings is known throughout
        assert row.half == 0.0
    assert None not in (row.plain, row.gradient, row.back) and row.read and row.written
    assert (row.right is None, row.half is None) == (not known.pads, not known.halves)


def test_the_record_of_the_proof_has_every_sample_and_passes():
    record = Path(__file__).parents[2] / "scripts" / "parity.jsonl"
    rows = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    assert sorted((row["family"], row["sample"]) for row in rows) == sorted(SAMPLES)
    for row in rows:
        figures = [row[name] for name in ("plain", "left", "right", "cached", "back") if row[name] is not None]
        assert row["ok"] and max(figures) <= GATE and row["gradient"] <= GRADIENT_GATE and row["read"] and row["written"]


def sides(change):
    """Llama beside our model of a changed spec with the same weights."""
    family = family_named("llama")
    sample = family.samples()["multi-query, tied"]
    hf = theirs.build(family, sample)
    spec = family.spec_from(theirs_config(sample))
    ours = change(spec).build().eval()
    ours.load_state_dict(family.table(spec).load(dict(hf.state_dict())), strict=True)
    return Sides(family, hf, ours)


def theirs_config(sample):
    from attnlib.pretrained.family import HFConfig

    return HFConfig({**sample.config, "architectures": [sample.architecture]})


def block(spec, **changes):
    return spec.replace(stack=spec.stack.replace(block=spec.stack.block.replace(**changes)))


def attention(spec, **changes):
    return block(spec, attention=spec.stack.block.attention.replace(**changes))


MUTANTS = {
    "gelu": lambda s: block(s, mlp=s.stack.block.mlp.replace(activation="gelu")),
    "eps": lambda s: block(s, norm=s.stack.block.norm.replace(eps=1e-6)),
    "window off by one": lambda s: attention(s, mask=Causal() & Window(before=18)),
    "scale": lambda s: attention(s, scores=s.stack.block.attention.scores.replace(scale=0.4)),
    "base": lambda s: attention(s, rotary=s.stack.block.attention.rotary.replace(base=10010.0)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_model_that_is_slightly_another_fails(mutant):
    assert sides(lambda spec: spec).plain()["plain"] <= GATE
    assert sides(MUTANTS[mutant]).plain()["plain"] > GATE


def test_a_gradient_that_is_slightly_another_fails(tmp_path):
    pair = sides(lambda spec: spec)
    assert pair.gradient(tmp_path / "a")["gradient"] <= GRADIENT_GATE
    weight = pair.ours.stack.blocks[1].mlp.body.up.weight
    weight.register_hook(lambda grad: grad * 1.001)
    assert pair.gradient(tmp_path / "b")["gradient"] > GRADIENT_GATE


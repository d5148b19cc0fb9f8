"""Every kind in every place, and kinds beside each other: what is refused is on a list with its reason, the rest runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_kinds import CONFIGS, within

from attnlib.attention.biases import TermSpec
from attnlib.attention.masks import Mask
from attnlib.attention.products import ProductSpec
from attnlib.attention.scores import NormaliserSpec
from attnlib.attention.softmax import MixerSpec
from attnlib.errors import SpecError
from attnlib.models.spec import ModelSpec
from attnlib.spec import Spec, read, write

Tree = dict[str, Any]
SLOTS: dict[str, type[Spec]] = {"mixer": MixerSpec, "mask": Mask, "term": TermSpec, "normaliser": NormaliserSpec,
                                "product": ProductSpec}  # fmt: skip
PLACES = {"encoder": ["encoder", "pair's encoder"], "decoder": ["decoder", "pair's decoder"], "cross": ["cross"]}
LIST = Path(__file__).with_name("kind_refusals.txt")
SPELT: dict[tuple[str, str], Tree] = {  # of what no toy has one that stands everywhere
    ("mixer", "beside"): {"mixers": [{"num_heads": 2}, {"kind": "linear", "num_heads": 2}]},
    ("mask", "explicit"): {"rows": ["####", "####"]},
    ("mask", "not"): {"mask": {"kind": "chunk", "size": 3}},
    ("mask", "prefix"): {},
    ("mask", "same_segment"): {},
}


def _samples() -> dict[str, dict[str, Tree]]:
    """Of each slot each kind of ours as a tree: as its toy has it, of a mixer only what it must be given."""
    found: dict[str, dict[str, Tree]] = {}
    parts = [part for config in CONFIGS.values() for part in within(config.model)]
    for slot, base in SLOTS.items():
        found[slot] = {}
        for kind, cls in base.kinds().items():
            if not cls.__module__.startswith("attnlib."):
                continue
            tree = SPELT.get((slot, kind))
            if tree is None:
                tree = write(next(part for part in parts if type(part) is cls))
                needed = {name for name, field in cls.model_fields.items() if field.is_required()}
                tree = {key: value for key, value in tree.items() if slot != "mixer" or key in needed}
            found[slot][kind] = {"kind": kind} | tree
    return found


SAMPLES = _samples()


def masked(tree: Tree, mask: Any) -> Tree:
    """A mixer with a mask, and so those in it."""
    if "mixers" in tree:
        return tree | {"mixers": [masked(one, mask) for one in tree["mixers"]]}
    return tree | {"mask": mask}


def attention(slot: str, kind: str, place: str, mixer: Tree | None = None) -> Tree:
    """The kind in self- or cross-attention, causal in decoders."""
    sample, causal = SAMPLES[slot][kind], "decoder" in place
    mixer = masked(mixer or SAMPLES["mixer"]["softmax"], "causal" if causal else "everything")
    if slot == "mixer":
        return masked(sample, "causal" if causal else "everything")
    if slot == "mask":
        return masked(mixer, ["causal", sample] if causal else sample)
    return mixer | ({"term": sample} if slot == "term" else {"scores": {slot: sample}})


def model(place: str, tree: Tree) -> Tree:
    """A model with that attention in one place, and plain attention elsewhere."""
    plain = SAMPLES["mixer"]["softmax"]
    blocks: dict[str, Tree] = {"encoder": {"attention": plain}, "decoder": {"attention": plain | {"mask": "causal"}}}
    whole = {"d_model": 16, "vocab_size": 19, "embedding": {"position": "sinusoidal"}}
    if place in blocks:
        return whole | {"kind": place, "stack": {"num_layers": 1, "block": {"attention": tree}}, "head": "lm"}
    stack, part = ("decoder", "cross") if place == "cross" else (place.removeprefix("pair's "), "attention")
    blocks["decoder"]["cross"] = plain
    blocks[stack][part] = tree
    return whole | {"kind": "encoder_decoder"} | {name: {"num_layers": 1, "block": block} for name, block in blocks.items()}


def refusal(place: str, tree: Tree) -> str | None:
    """Why the config is refused, or None: then the model runs, and what writes does so token by token."""
    try:
        spec = read(ModelSpec, model(place, tree))
    except SpecError as error:
        return str(error)
    torch.manual_seed(0)
    built: Any = spec.build().double().eval()
    ids = torch.arange(14).view(2, 7)
    with torch.no_grad():
        out = built(ids, ids).logits if spec.kind == "encoder_decoder" else built(ids).logits
        assert out.isfinite().all()
        if spec.kind != "encoder":
            state = built.begin(ids) if spec.kind == "encoder_decoder" else built.begin(batch=2)
            steps = [built.step(part, None, state, at=slice(None)) for part in ids.split([3, 1, 1, 2], 1)]
            torch.testing.assert_close(torch.cat(steps, 1), out)
    return None


def _listed() -> dict[tuple[str, str], str]:
    """(what, where) -> the words of the refusal."""
    found = {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            whats, wheres, words = (part.strip() for part in line.split("|"))
            for what in _each(whats):
                for where in _each(wheres):
                    assert (what, where) not in found, line
                    found[what, where] = words
    return found


def _each(words: str) -> Iterator[str]:
    """mask a, b: mask a and mask b; mask * but a: every other; places stand alone."""
    slot, _, names = words.partition(" ")
    if slot.rstrip(",") in PLACES:
        yield from words.split(", ")
        return
    named, _, less = names.partition(" but ")
    kinds = SAMPLES[slot] if named == "*" else named.split(", ")
    yield from (f"{slot} {kind}" for kind in kinds if kind not in less.split(", "))


LISTED = _listed()
MIXERS = SAMPLES["mixer"]
FIELD = {"term": "term", "normaliser": "scores", "product": "scores"}  # of a mixer that takes such a part


def pairs() -> Iterator[tuple[str, str, Tree]]:
    """What stands beside what in one attention that sees both ways."""
    for mixer, tree in MIXERS.items():
        for slot in ("mask", "term", "normaliser", "product"):
            if slot == "mask" or FIELD[slot] in MixerSpec.kinds()[mixer].model_fields:
                for kind in SAMPLES[slot]:
                    yield f"mixer {mixer}", f"{slot} {kind}", attention(slot, kind, "encoder", tree)
    for term in SAMPLES["term"]:
        for mask, sample in SAMPLES["mask"].items():
            yield f"term {term}", f"mask {mask}", masked(attention("term", term, "encoder"), sample)


def compared(what: str, where: str, place: str, tree: Tree) -> None:
    found, words = refusal(place, tree), LISTED.get((what, where))
    assert (found is None) == (words is None), f"{what} | {where} ({place}): {found or 'is listed, and runs'}"
    assert words is None or (words in str(found) and "\n" not in str(found)), found


@pytest.mark.parametrize("slot", SLOTS)
def test_a_kind_stands_in_every_place_or_is_listed(slot: str) -> None:
    for kind in SAMPLES[slot]:
        for where, places in PLACES.items():
            for place in places:
                compared(f"{slot} {kind}", where, place, attention(slot, kind, place))


def test_kinds_stand_beside_each_other_or_are_listed() -> None:
    for what, where, tree in pairs():
        compared(what, where, "encoder", tree)


def test_the_list_names_nothing_that_is_not_tried() -> None:
    tried = {(f"{slot} {kind}", where) for slot in SLOTS for kind in SAMPLES[slot] for where in PLACES}
    assert LISTED.keys() - tried - {(what, where) for what, where, _ in pairs()} == set()


def test_a_refusal_names_what_could_stand_there() -> None:
    for kind in MIXERS:
        if (f"mixer {kind}", "cross") in LISTED:
            assert "softmax" in str(refusal("cross", attention("mixer", kind, "cross"))), kind

"""The logit lens is the model cut off at a site; direct attributions add up to the logit and are what they say."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from configs_for_tests import SPECS, attention, decoder, encoder, pair
from stacks_for_explanations import IDS, SOURCE, TREES, question
from stacks_for_explanations import drawn as toy
from torch import Tensor, nn

from attnlib.errors import UsageError
from attnlib.inspect import attribution, lens, record, watching
from attnlib.inspect.explanations import ask
from attnlib.inspect.lenses import read_at, streams
from attnlib.inspect.question import Question
from attnlib.inspect.reading import read
from attnlib.inspect.sites import stacks
from attnlib.inspect.subject import drawn

CPU, FP64 = torch.device("cpu"), torch.float64
KINDS = list(TREES)


def asked(model: Any, target: str | None = None) -> Question:
    both = model.spec.kind == "encoder_decoder"
    return ask(model, read(model, IDS, SOURCE if both else None), target)


def cut_off(model: Any, stack: str, layers: int) -> Any:
    """The model with only the first layers of one stack."""
    less = copy.deepcopy(model)
    part = stacks(less)[stack]
    part.blocks = nn.ModuleList(list(part.blocks)[:layers])
    return less


@pytest.mark.parametrize("kind", KINDS)
def test_the_lens_at_a_block_is_the_model_without_the_later_blocks(kind: str) -> None:
    whole = question(kind)
    found = lens(whole, top_k=3)
    assert len(found.sites) == 3 * len(stacks(whole.model))
    for number, site in enumerate(found.sites):
        stack, _, place = site.partition(".")
        layers = 0 if place == "embedding" else int(place.partition(".")[0]) + 1
        less = Question(cut_off(whole.model, stack, layers), whole.reading, whole.targets)
        logits = less.logits(less.inputs())
        np.testing.assert_allclose(found.logprobs[number], less.logprobs(logits)[0], atol=1e-12)
        over = torch.stack([part[0] if kind == "encoder" else part[0, 0] for part in less.parts(logits)])
        answers = [getattr(target, "answer", getattr(target, "label", 0)) for target in whole.targets]
        assert found.ranks[number].tolist() == [int((row > row[a]).sum()) for row, a in zip(over, answers, strict=True)]
        named = [[int(name.removeprefix("#")) for name, _ in top] for top in found.top[number]]
        assert named == over.topk(3).indices.tolist()
    assert (found.divergence[-1] < 1e-12).all() and (found.divergence[0] > 1e-3).all()


def test_the_lens_between_sublayers_is_the_model_to_which_later_ones_add_nothing() -> None:
    model = drawn(pair(), seed=4, device=CPU, dtype=FP64)
    whole = asked(model)
    for site, later in (
        ("encoder.1.attention.out", ["encoder.1.mlp.add"]),
        ("encoder.0.mlp.in", ["encoder.0.mlp.add", "encoder.1.*.add"]),
        ("decoder.0.cross.in", ["decoder.0.cross.add", "decoder.0.mlp.add"]),
        ("encoder.final", []),
    ):
        with watching(model, dict.fromkeys(later, torch.zeros_like)):
            wished = whole.logprobs(whole.logits(whole.inputs()))[0]
        np.testing.assert_allclose(lens(whole, site).logprobs[0], wished, atol=1e-12)


def by_hand(asked: Question, added: Tensor) -> float:
    """What an addition to the toy decoder's last token gives to the answer's logit, the final norm's scale held."""
    model = asked.model
    with torch.no_grad(), record(model, weights=False, activations="decoder.1.out") as seen:
        asked.logits(asked.inputs())
    end = seen.activations["decoder.1.out"][0][0, -1]
    norm = model.stack.final_norm
    scale = norm.weight / (end.square().mean() + norm.eps).sqrt()
    answer: int = asked.targets[0].answer  # type: ignore[attr-defined]
    return float((added * scale) @ model.embedding.token.weight[answer])


def test_a_part_s_share_is_its_addition_through_the_frozen_norm_and_the_head() -> None:
    one = question("decoder", "next")
    found = attribution(one)
    shares = dict(zip(found.parts, found.scores[0], strict=True))
    with torch.no_grad(), record(one.model, weights=False, activations="*") as seen:
        one.logits(one.inputs())
    at = {name: values[0][0, -1] for name, values in seen.activations.items()}
    assert set(shares) == {
        "decoder.embedding", *(f"decoder.{n}.mlp.add" for n in (0, 1)),
        *(f"decoder.{n}.attention.heads.{h}" for n in (0, 1) for h in (0, 1, 2)),
    }  # fmt: skip
    for name, share in shares.items():
        if ".heads." in name:
            _, layer, *_, head = name.split(".")
            columns = slice(4 * int(head), 4 * int(head) + 4)
            weight = one.model.stack.blocks[int(layer)].attention.body.out.weight
            added = at[name.rpartition(".")[0]][int(head)] @ weight[:, columns].T
        else:
            added = at[name]
        assert share == pytest.approx(by_hand(one, added), abs=1e-12)


SUMS: dict[str, tuple[Any, str | None]] = {
    **{name: (SPECS[name], None) for name in ("grouped, local", "classifier", "parallel, unlike widths", "weights shared",
                                              "pair", "two vocabularies", "pair, tokens shared", "alibi")},
    "post, biases": (decoder({**attention(bias=True), "placement": "post", "norm": "layer"}), "next=#3/#4"),
    "branch": (decoder({**attention(bias=True), "placement": "branch", "norm": "layer"}), None),
    "sandwich": (decoder({**attention(), "placement": "sandwich"}), None),
    "softcap, scale": (decoder(head={"kind": "lm", "softcap": 4.0, "scale": 0.5, "bias": True}), None),
    "masked": (encoder(head="masked_lm", embedding={"norm": "layer", "types": 2}), None),
    "tags": (encoder(head={"kind": "tag", "num_labels": 5, "hidden": True, "norm": "layer"}), "tag:2=1/0"),
    "span": (encoder(head="span"), None),
    "pair, tags by two stacks": (pair(head={"kind": "classify", "num_labels": 3}), None),
}  # fmt: skip


@pytest.mark.parametrize("name", SUMS)
def test_shares_and_biases_add_up_to_the_logit(name: str) -> None:
    spec, target = SUMS[name]
    model = drawn(spec, seed=2, device=CPU, dtype=torch.float32)
    if name == "masked":
        from attnlib.inspect.targets import TokenTarget

        one = Question(model, read(model, IDS), (TokenTarget("mask", 3, 7, 8), TokenTarget("mask", 0, 1)))
    else:
        one = asked(model, target)
    for source in (False, True) if type(spec).kind == "encoder_decoder" else (False,):
        found = attribution(one, source=source)
        size = np.abs(found.values).max()
        assert np.abs(found.rest).max() < 1e-5 * size and np.abs(found.scores).max() > 1e-2 * size
        told = {part.partition(".")[0] for part in found.parts if part.startswith(("encoder", "decoder"))}
        assert ("encoder" in told) == (source or type(spec).kind == "encoder")
        assert any(".cross.heads" in part for part in found.parts) == (type(spec).kind == "encoder_decoder" and not source)
    for site in streams(model, "*.0.attention.in") if "parallel" not in name else ():
        found = attribution(one, site.name)
        logits = read_site(one, site.name)
        np.testing.assert_allclose(found.values, logits, rtol=1e-5)
        assert np.abs(found.rest).max() < 1e-5 * max(np.abs(found.scores).max(), 1.0)


def read_site(one: Question, site: str) -> Tensor:
    """[N] the targets' values of the lens at a site."""
    with torch.no_grad(), record(one.model, weights=False, activations=site) as seen:
        one.logits(one.inputs())
        return one.values(read_at(one, site, seen.activations[site][0]))[0]


def test_neither_lens_nor_attribution_changes_the_model() -> None:
    model = drawn(SPECS["pair"], seed=2, device=CPU, dtype=FP64).train()
    before = copy.deepcopy(model.state_dict())
    one = asked(model)
    lens(one), attribution(one, source=True)
    assert model.training and not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_has_no_lens_is_one_line() -> None:
    one, span = question("decoder"), asked(drawn(encoder(head="span"), seed=1, device=CPU, dtype=FP64))
    conv = encoder({**attention(mask="everything"), "conv": {"kernel": 3}}, head={"kind": "classify", "num_labels": 2})
    for call, words in (
        (lambda: lens(one, "decoder.7.out"), r"site: 'decoder.7.out' is none of the model's.*did you mean"),
        (lambda: lens(one, "decoder.*.hidden"), r"site: decoder.\*.hidden is not on the residual stream"),
        (lambda: lens(one, top_k=0), "top_k: is 0"),
        (lambda: lens(span), "target span .*: is no choice among several"),
        (lambda: attribution(one, "decoder.*.out"), r"site: decoder.\*.out names 6 sites, wish one"),
        (lambda: attribution(one, source=True), "source: is asked for, only an encoder-decoder"),
        (lambda: attribution(asked(drawn(conv, seed=1, device=CPU, dtype=FP64))), "a block has a convolution"),
        (lambda: asked(toy(TREES["decoder"] | {"head": "none"})), "target.*head 'none'"),
    ):
        with pytest.raises(UsageError, match=words):
            call()

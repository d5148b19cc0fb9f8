"""What is pruned equals what is masked, is smaller, and is a model like any other; importance is by its definitions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs_for_tests import SPECS, attention, decoder, encoder, pair
from stacks_for_explanations import IDS, SOURCE, TREES, question
from torch import Tensor

from attnlib import load, save
from attnlib.errors import UsageError
from attnlib.inspect import ablated, importance, least_heads, least_units, prune, text_questions, unit_norms, watching
from attnlib.inspect.choice import choose
from attnlib.inspect.question import Question
from attnlib.inspect.reading import read
from attnlib.inspect.subject import drawn
from attnlib.models.spec import ModelSpec

CPU, FP64 = torch.device("cpu"), torch.float64
ROWS = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])
OWN = {"kind": "disentangled", "share": False, "buckets": 4, "max_distance": 9}

CUTS: dict[str, tuple[ModelSpec, list[int | str], dict[str, Sequence[int]]]] = {
    "heads of one layer": (SPECS["decoder"], ["decoder.1.self.0", "decoder.1.self.2"], {}),
    "units of one layer": (SPECS["decoder"], [], {"decoder.0.mlp": [0, 7, 39]}),
    "both, everywhere": (SPECS["parallel, unlike widths"], [3], {f"decoder.{n}.mlp": range(30) for n in (0, 1)}),
    "one of each group": (SPECS["grouped, local"], [0, 3], {}),
    "a whole group": (SPECS["grouped, local"], ["decoder.0.self.2", "decoder.0.self.3"], {}),
    "of one shared group": (SPECS["local and global"], ["decoder.2.self.1"], {"decoder.2.mlp": [1]}),
    "with sinks": (SPECS["softcap, sink logits"], ["decoder.0.self.1"], {}),
    "with shaw's vectors and a norm a head": (SPECS["shaw, qk-norm"], ["decoder.*.self.2"], {}),
    "disentangled": (SPECS["disentangled"], ["decoder.1.self.2"], {}),
    "disentangled, with projections of its own": (
        encoder(attention(mask="everything", term=OWN)), ["encoder.0.self.0"], {},
    ),
    "weights shared": (SPECS["weights shared"], [0, 2], {f"decoder.{n}.mlp": [3, 4] for n in range(4)}),
    "an encoder with biases": (
        encoder({**attention(mask="everything", bias=True), "placement": "post", "norm": "layer"}, head="masked_lm"),
        ["encoder.0.self.3", "encoder.1.self.0"], {"encoder.1.mlp": [5, 6]},
    ),
    "gated": (decoder({**attention(), "mlp": {"kind": "gated", "d_ff": 20, "bias": True}}), [], {"decoder.1.mlp": [0, 19]}),
    "a pair with a shared bias": (
        SPECS["pair"], ["encoder.0.self.1", "encoder.1.self.0", "encoder.1.self.1", "decoder.0.cross.2"],
        {"encoder.0.mlp": [2], "decoder.0.mlp": [1, 3]},
    ),
    "a pair, the decoder's own": (SPECS["pair, tokens shared"], ["decoder.0.self.3"], {}),
}  # fmt: skip


def masked(model: Any, heads: list[int | str], units: dict[str, Sequence[int]], *given: Tensor) -> Tensor:
    def without(numbers: Sequence[int]) -> Any:
        def look(x: Tensor) -> Tensor:
            keep = torch.ones(x.shape[-1], dtype=x.dtype)
            keep[list(numbers)] = 0.0
            return x * keep

        return look

    looks = {f"{path}.hidden": without(numbers) for path, numbers in units.items()}
    with torch.no_grad(), ablated(model, heads), watching(model, looks):
        out: Tensor = model(*given).last
        return out


@pytest.mark.parametrize("name", CUTS)
def test_pruned_is_masked_and_smaller_and_comes_back_from_a_folder(name: str, tmp_path: Path) -> None:
    spec, heads, units = CUTS[name]
    model = drawn(spec, seed=2, device=CPU, dtype=FP64)
    given = (ROWS, ROWS) if type(spec).kind == "encoder_decoder" else (ROWS,)
    wished = masked(model, heads, units, *given)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    smaller = prune(model, heads=heads, units=units)
    with torch.no_grad():
        torch.testing.assert_close(smaller(*given).last, wished, atol=1e-10, rtol=0)
        assert not torch.allclose(model(*given).last, wished)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for one, less in zip(choose(model), choose(smaller), strict=True):
        gone = {one.path: one.heads for one in (choose(model, heads=heads) if heads else ())}.get(one.path, ())
        width = (one.mixer.num_heads - len(gone or ())) * one.mixer.d_head
        assert (less.mixer.q.out_features, less.mixer.out.in_features) == (width, width)
        assert less.mixer.q.weight.shape == (width, 24)
    sizes = [sum(p.numel() for p in one.parameters()) for one in (model, smaller)]
    assert sizes[1] < sizes[0]
    save(smaller, tmp_path / "smaller")
    again = load(tmp_path / "smaller")
    with torch.no_grad():
        torch.testing.assert_close(again(*given).last, wished, atol=1e-10, rtol=0)
    assert again.spec == smaller.spec


def test_a_pruned_model_decodes_and_learns() -> None:
    model = drawn(SPECS["grouped, local"], seed=2, device=CPU, dtype=torch.float32).requires_grad_(True)
    smaller = prune(model, heads=["decoder.0.self.0", "decoder.0.self.1"], units={"decoder.1.mlp": range(20)}).train()
    assert all(p.requires_grad and p.grad is None for p in smaller.parameters())
    with torch.no_grad():
        state = smaller.begin(batch=2)
        steps = torch.cat([smaller.step(ROWS[:, t : t + 1], None, state) for t in range(7)], 1)
        torch.testing.assert_close(steps, smaller(ROWS).logits, atol=1e-4, rtol=1e-4)
    optimizer = torch.optim.Adam(smaller.parameters(), 0.01)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(smaller(ROWS).logits[:, :-1].flatten(0, 1), ROWS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    assert smaller.stack.blocks[0].attention.body.q.weight.shape == (12, 24)


def test_the_spec_says_what_is_left() -> None:
    model = drawn(SPECS["pair"], seed=2, device=CPU, dtype=torch.float32)
    spec = prune(model, heads=["encoder.0.self.1"], units={"encoder.1.mlp": range(8)}).spec
    layers = spec.encoder.layers
    assert [layer.attention.num_heads for layer in layers] == [3, 4] and [layer.mlp.d_ff for layer in layers] == [40, 32]
    assert spec.encoder.pattern == ("from_0", "from_1") and spec.encoder.bias is None
    assert all(layer.attention.term.kind == "t5_relative" and layer.attention.d_head == 5 for layer in layers)
    assert spec.decoder == model.spec.decoder
    alike = prune(model, units={"encoder.0.mlp": [1], "encoder.1.mlp": [2]}).spec.encoder
    assert alike.block.mlp.d_ff == 39 and not alike.blocks and alike.bias is not None


def loss_of(one: Question) -> float:
    with torch.no_grad():
        return float(-one.logprobs(one.logits(one.inputs())).mean())


@pytest.mark.parametrize("kind", TREES)
def test_importance_is_the_gate_s_gradient_and_the_loss_of_taking_out(kind: str) -> None:
    one = question(kind)
    found = importance([one, one], units=True)
    assert found.loss == pytest.approx(loss_of(one), abs=1e-12)
    places = [("encoder.0", "self", "attention"), ("decoder.0", "cross", "cross")]
    for layer, part, sublayer in places if kind == "encoder_decoder" else [(f"{kind}.1", "self", "attention")]:
        for head in range(3):
            with ablated(one.model, f"{layer}.{part}.{head}"):
                assert found.ablations[f"{layer}.{part}"][head] == pytest.approx(loss_of(one) - found.loss, abs=1e-12)
        for name, got, shape in ((f"{layer}.{sublayer}.heads", found.gates[f"{layer}.{part}"], (3, 1)),
                                 (f"{layer}.mlp.hidden", found.units[f"{layer}.mlp"], (10,))):  # fmt: skip
            assert len(got) == shape[0]
            for number in (0, len(got) - 1):
                gate = torch.zeros(shape, dtype=FP64)
                gate[number] = 1e-5
                slopes = []
                for sign in (1, -1):
                    with watching(one.model, {name: lambda x, step=sign * gate: x * (1 + step)}):
                        slopes.append(loss_of(one))
                assert got[number] == pytest.approx(abs(slopes[0] - slopes[1]) / 2e-5, rel=1e-4, abs=1e-9)
    ranked = found.heads("ablation")
    assert [value for _, _, value in ranked] == sorted(value for _, _, value in ranked)
    assert len(ranked) == sum(len(row) for row in found.gates.values())
    assert not importance([one], ablate=False).ablations


def test_a_text_asks_for_what_its_model_answers() -> None:
    model = drawn(SPECS["decoder"], seed=2, device=CPU, dtype=FP64)
    (one,) = text_questions(model, read(model, IDS))
    logits = model(torch.tensor([IDS])).logits[0, :-1].log_softmax(-1)
    assert loss_of(one) == pytest.approx(-float(logits.gather(1, torch.tensor(IDS[1:])[:, None]).mean()), abs=1e-12)
    both = drawn(pair(), seed=2, device=CPU, dtype=FP64)
    assert len(text_questions(both, read(both, IDS, SOURCE))) == 1
    tagger = drawn(encoder(head={"kind": "tag", "num_labels": 3}), seed=2, device=CPU, dtype=FP64)
    assert [one.targets[0].columns for one in text_questions(tagger, read(tagger, IDS))] == [(c,) for c in range(7)]


def test_the_least_are_taken_in_portions_that_can_go() -> None:
    ranked = [(f"decoder.{layer}.self", head, 1.0 + (4 * layer + head) / 8) for layer in (0, 1) for head in range(4)]
    grouped, plain = (drawn(SPECS[name], seed=2, device=CPU, dtype=FP64) for name in ("grouped, local", "decoder"))
    assert least_heads(plain, ranked, 3) == [f"decoder.0.self.{head}" for head in (0, 1, 2)]
    assert least_heads(plain, ranked, 99) == [f"decoder.{n}.self.{head}" for n in (0, 1) for head in (0, 1, 2)]
    assert least_heads(grouped, ranked, 3) == ["decoder.0.self.0", "decoder.0.self.1"]
    prune(grouped, heads=least_heads(grouped, ranked, 4))
    scores = {"decoder.0.mlp": np.array([3.0, 1.0, 2.0, 0.5]), "decoder.1.mlp": np.array([1.0])}
    assert least_units(scores, 0.5) == {"decoder.0.mlp": (1, 3), "decoder.1.mlp": ()}
    norms = unit_norms(plain)["decoder.0.mlp"]
    mlp = plain.stack.blocks[0].mlp.body
    assert norms[3] == pytest.approx(float(mlp.up.weight[3].norm() * mlp.down.weight[:, 3].norm()))


def test_what_cannot_be_pruned_is_one_line() -> None:
    def model(spec: ModelSpec) -> Any:
        return drawn(spec, seed=1, device=CPU, dtype=torch.float32)

    plain, grouped = model(SPECS["decoder"]), model(SPECS["grouped, local"])
    full, shared = model(decoder(attention(qk_norm="full"))), model(SPECS["weights shared"])
    by_head = model(decoder(attention(mask=["causal", {"kind": "by_head", "masks": [{"kind": "window", "before": 2},
                                                                                   "everything"]}])))  # fmt: skip
    for call, words in (
        (lambda: prune(plain, heads=["decoder.5.self.0"]), "'decoder.5.self.0' is out of range"),
        (lambda: prune(plain, heads=[4]), "4 is out of range"),
        (lambda: prune(plain, heads=[0, 1, 2, 3]), "decoder.0.self: would have no head left"),
        (lambda: prune(grouped, heads=["decoder.0.self.1"]), "would be left with 1 and 2, as many must go from each"),
        (lambda: prune(full, heads=[0]), "norms its queries over all heads"),
        (lambda: prune(by_head, heads=[0]), "a mask that goes by the head's number"),
        (lambda: prune(model(SPECS["alibi"]), heads=[0]), "ALiBi goes by the number of heads"),
        (lambda: prune(model(decoder(stack={"num_layers": 2, "bias": "alibi", "block": attention()})), heads=[0]),
         "bias 'alibi' goes by the number of heads"),
        (lambda: prune(shared, heads=["decoder.0.self.0", "decoder.0.self.2"]), "has the weights of decoder.0.self"),
        (lambda: prune(plain, units={"decoder.0.mpl": [0]}), "did you mean 'decoder.0.mlp'"),
        (lambda: prune(plain, units={"decoder.0.mlp": [40]}), "decoder.0.mlp: has no hidden unit 40"),
        (lambda: prune(plain, units={"decoder.0.mlp": range(40)}), "would have no hidden unit left"),
        (lambda: least_units({}, 1.0), "must lie between 0 and 1"),
        (lambda: importance([]), "questions: are none"),
        (lambda: text_questions(model(SPECS["no head"]), read(model(SPECS["no head"]), IDS)), "no head that answers"),
        (lambda: text_questions(plain, read(plain, IDS[:1])), "text: has one token"),
    ):
        with pytest.raises(UsageError, match=words):
            call()

"""Faithfulness by its definitions, the sanity check, and texts whose evidence is planted."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from configs_for_tests import SPECS
from stacks_for_explanations import by_hand, forward, question
from torch import Tensor

from attnlib.errors import UsageError
from attnlib.inspect.explanations import Method, Scores, ask, why
from attnlib.inspect.faithful import BINS, SHARES, faithfulness, units_of
from attnlib.inspect.planted import (
    AGAINST,
    FOR,
    LENGTH,
    SIGNS,
    Planted,
    base_rate,
    chance_spread,
    plant,
    precision,
    verdict,
)  # fmt: skip
from attnlib.inspect.question import Question
from attnlib.inspect.reading import read
from attnlib.inspect.sanity import sanity, shuffled, spearman
from attnlib.inspect.subject import drawn


def probability(asked: Question, gone: set[int]) -> float:
    """Of the next token of the toy decoder by hand, without some of its tokens; the last is read from, so it is blank."""
    naive = by_hand(asked)
    embeds = naive.p("embedding.token.weight")
    assert embeds is not None
    x: Tensor = embeds[list(asked.reading.text.ids)].clone()
    x[sorted(gone)] = embeds.mean(0)
    logits, _ = forward(asked, naive, embeds={"text": x}, hidden={"text": gone - {len(x) - 1}})
    return float(torch.softmax(logits[0], 0)[asked.targets[0].answer])  # type: ignore[attr-defined]


def test_curves_comprehensiveness_and_sufficiency_are_their_definitions() -> None:
    asked = question("decoder", "next")
    found, chance = faithfulness([asked], ["occlusion"], unit="token", draws=3)
    scores = why(asked, "occlusion").scores["text"][0]
    order = sorted(range(7), key=lambda t: -scores[t])
    whole = probability(asked, set())
    for number, share in enumerate(SHARES):
        count = round(share * 7)
        assert math.isclose(found.deletion[number], probability(asked, set(order[:count])), rel_tol=1e-9)
        assert math.isclose(found.insertion[number], probability(asked, set(order[count:])), rel_tol=1e-9)
    best = [set(order[: max(1, round(share * 7))]) for share in BINS]
    rest = [set(range(7)) - some for some in best]
    assert math.isclose(found.comprehensiveness, np.mean([whole - probability(asked, some) for some in best]), rel_tol=1e-9)
    assert math.isclose(found.sufficiency, np.mean([whole - probability(asked, some) for some in rest]), abs_tol=1e-12)
    heights = [probability(asked, set(order[: round(share * 7)])) for share in SHARES]
    assert math.isclose(found.deletion_area, sum(0.1 * (a + b) / 2 for a, b in pairwise(heights)), rel_tol=1e-9)
    assert chance.method == "random" and chance.spread is not None and chance.spread[0] > 0
    assert math.isclose(chance.deletion[0], whole) and math.isclose(chance.deletion[-1], found.deletion[-1])


@pytest.mark.parametrize("kind", ["encoder", "encoder_decoder"])
def test_all_sides_are_ranked_together_and_every_target_counts(kind: str) -> None:
    asked = question(kind)
    units = units_of(asked, "word")
    assert len(units) == sum(len(side.words) for side in asked.sides)
    both = faithfulness([asked, asked], ["saliency", "random"], draws=2)
    assert [one.method for one in both] == ["saliency", "random"] and both[0].count == 2 * len(asked.targets)
    once = faithfulness([asked], ["saliency"], draws=2)[0]
    np.testing.assert_allclose(both[0].deletion, once.deletion)
    assert both[0].deletion[0] == pytest.approx(both[0].insertion[-1])


def test_what_cannot_be_tested_is_one_line() -> None:
    asked = question("decoder")
    for wrong, words in (
        ({"unit": "line"}, "unit line: is unknown, wish one of word, token"),
        ({"way": "hid"}, "removal hid: is unknown.*did you mean 'hide'"),
        ({"draws": 0}, "draws: is 0"),
    ):
        with pytest.raises(UsageError, match=words):
            faithfulness([asked], ["saliency"], **wrong)


def test_rank_correlation_is_pearsons_of_ranks_with_ties_shared() -> None:
    a, b = np.array([3.0, 1.0, 2.0, 2.0]), np.array([10.0, -1.0, 4.0, 7.0])
    ranks = np.array([3.0, 0.0, 1.5, 1.5]), np.array([3.0, 0.0, 1.0, 2.0])
    assert math.isclose(spearman(a, b), np.corrcoef(*ranks)[0, 1])
    assert spearman(a, -a) == pytest.approx(-1) and spearman(a, np.ones(4)) == 0.0


def test_layers_are_shuffled_from_the_top_and_the_model_is_not() -> None:
    model = drawn(SPECS["pair"], seed=1, device=torch.device("cpu"), dtype=torch.float32)
    before = {name: p.clone() for name, p in model.named_parameters()}
    changed = []
    for worse in shuffled(model):
        names = {n for n, p in worse.named_parameters() if p.dim() > 1 and not torch.equal(p, before[n])}
        changed.append({name.rpartition("blocks.")[0] + name.split("blocks.")[1][0] for name in names})
        for name, p in worse.named_parameters():
            assert torch.equal(p.flatten().sort()[0], before[name].flatten().sort()[0])
    assert changed == [{"decoder.0"}, {"decoder.0", "encoder.1"}, {"decoder.0", "encoder.1", "encoder.0"}]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_an_explanation_that_knows_no_model_does_not_change() -> None:
    model = drawn(SPECS["decoder"], seed=2, device=torch.device("cpu"), dtype=torch.float32)
    asked = [ask(model, read(model, [3, 1, 4, 1, 5, 9, 2]))]
    chance, occlusion = sanity(asked, ["random", "occlusion"])
    assert chance.correlations == pytest.approx((1.0, 1.0, 1.0))
    assert occlusion.correlations[0] == 1.0 and abs(occlusion.correlations[2]) < 0.999


def test_planted_texts_hold_what_they_say() -> None:
    texts = plant(50, seed=3)
    assert texts == plant(50, seed=3) != plant(50, seed=4)
    for one in texts:
        signs = {label: [i for i, letter in enumerate(one.text) if letter in letters] for label, letters in SIGNS.items()}
        assert frozenset(signs.pop(one.label)) == one.evidence and len(one.text) == LENGTH
        assert frozenset(i for places in signs.values() for i in places) == one.against
        assert (len(one.evidence), len(one.against)) == (FOR, AGAINST)


class _Knows(Method, signed=False):
    """Scores given to it."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = torch.tensor([scores], dtype=torch.float64)

    def __call__(self, question: Question) -> Scores:
        return Scores({"text": self.scores})


def test_precision_counts_evidence_among_the_best_and_ties_by_chance() -> None:
    model = drawn(SPECS["decoder"], seed=5, device=torch.device("cpu"), dtype=torch.float32)
    side = read(model, [1, 2, 3, 4, 5])
    text = side.text.text
    places = [span[0] for span in side.text.spans if span is not None]
    planted = Planted(text, "A", frozenset(places[:3]), frozenset())
    for scores, wished in (([5, 4, 3, 2, 1], 1.0), ([1, 2, 3, 4, 5], 1 / 3), ([9, 1, 1, 1, 1], (1 + 2 * 2 / 4) / 3)):
        found = why(ask(model, side), _Knows([float(s) for s in scores]))
        assert precision(found, planted) == pytest.approx(wished)
    assert base_rate() == FOR / LENGTH


def test_chance_spreads_as_blind_choices_do_and_a_verdict_names_where_a_method_fails() -> None:
    made = np.random.default_rng(3)
    hits = [np.mean([np.sum(made.permutation(LENGTH)[:FOR] < FOR) / FOR for _ in range(20)]) for _ in range(800)]
    assert chance_spread(20) == pytest.approx(np.std(hits), rel=0.1)
    spread = chance_spread(100)
    assert verdict({"a": 0.95, "b": 1.0}, 0.9, spread) == "finds it"
    assert verdict({"a": 0.13, "b": 0.1}, 0.9, spread) == "no better than chance"
    assert verdict({"a": 0.13, "b": 0.7}, 0.9, spread) == "no better than chance in a; misses some in b"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_planted_task_is_learned_and_found_by_command(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = Path(__file__).parents[2] / "scripts" / "planted.py"
    code = (
        f"import sys; sys.path.insert(0, {str(script.parent)!r}); import planted as p; from pathlib import Path\n"
        f"p.HELD, p.SANE, p.TRAIN = 12, 1, 10_000; p.MODELS = {{'encoder': p.MODELS['encoder']}}\n"
        f"sys.exit(p.run(Path({str(tmp_path)!r}), ['train.steps=160', 'runtime.threads=1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines() if "(the model is right" in line}
    assert figures["attn_lrp"] >= 0.9 and figures["random"] <= 0.35, figures
    assert figures["rollout"] < figures["attn_lrp"], figures
    assert "no better than chance" in next(line for line in done.stdout.splitlines()[::-1] if "random " in line)

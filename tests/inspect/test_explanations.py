"""What holds of every method of explanation, on a toy of each of the three stacks."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from configs_for_tests import SPECS, attention, decoder, encoder
from stacks_for_explanations import question
from torch import Tensor, nn

from attnlib.attention.softmax import MixerSpec
from attnlib.errors import UsageError
from attnlib.inspect.explanations import IntegratedGradients, Method, Scores, ask, find_method, why
from attnlib.inspect.explanations.maxflow import Network
from attnlib.inspect.explanations.table import table
from attnlib.inspect.question import Question, own_values
from attnlib.inspect.reading import read, read_text
from attnlib.inspect.subject import drawn
from attnlib.inspect.targets import TokenTarget
from attnlib.text.byte_level import ByteTokenizer

BYTES = ByteTokenizer(sentinels=0)
METHODS = sorted(Method.known())
CPU = torch.device("cpu")
IDS, SOURCE = [3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5]


def asked(name: str, target: str | None = None) -> Question:
    model = drawn(SPECS[name], seed=3, device=CPU, dtype=torch.float32)
    return ask(model, read(model, IDS, SOURCE if model.spec.kind == "encoder_decoder" else None), target)


def quick(method: str) -> Method:
    """The method, at its cheapest."""
    return IntegratedGradients(most=8) if method == "integrated_gradients" else find_method(method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [n for n, s in SPECS.items() if s.head.kind in ("lm", "classify")])
def test_every_method_explains_every_model_and_leaves_it_as_it_was(name: str, method: str) -> None:
    one = asked(name)
    model: nn.Module = one.model
    model.train()
    before = one.logits(one.inputs())
    found = why(one, quick(method))
    assert all(module.training for module in model.modules())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in model.modules()
    )
    assert torch.equal(before, one.logits(one.inputs())) and all(p.grad is None for p in model.parameters())
    for side in one.sides:
        scores = found.scores[side.name]
        assert scores.shape == (len(one.targets), len(side)) and np.isfinite(scores).all()
        assert found.signed or bool((scores >= 0).all())


@pytest.mark.parametrize("method", [name for name in METHODS if name != "random"])
def test_what_comes_after_a_token_has_nothing_to_do_with_it(method: str) -> None:
    found = why(question("encoder_decoder", "written"), quick(method))
    for number, column in enumerate(found.columns):
        assert column is not None
        assert np.abs(found.scores["text"][number, column + 1 :]).max(initial=0.0) < 1e-12
        assert found.scores["source"][number].any()


@pytest.mark.parametrize("method", METHODS)
def test_targets_together_are_targets_alone(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together = why(question("encoder_decoder", "written"), quick(method))
    monkeypatch.setattr("attnlib.inspect.question.TOKENS_AT_ONCE", 1)
    monkeypatch.setattr("attnlib.inspect.explanations.occlusion.TOKENS_AT_ONCE", 1)
    monkeypatch.setattr("attnlib.inspect.explanations.value_zeroing.TOKENS_AT_ONCE", 1)
    alone = why(question("encoder_decoder", "written"), quick(method))
    for name, scores in together.scores.items():
        np.testing.assert_allclose(alone.scores[name], scores, atol=1e-9)


def test_words_add_up_to_tokens_and_json_holds_all() -> None:
    model = drawn(decoder(vocab_size=261), seed=2, device=CPU, dtype=torch.float32)
    found = why(ask(model, read_text(model, BYTES, "so it's you"), tokenizer=BYTES), "occlusion")
    words = found.words("text")
    assert [word.text for word, _ in words] == ["so", "it's", "you"]
    assert math.isclose(sum(score for _, score in words), found.scores["text"].sum(), rel_tol=1e-9)
    tree = json.loads(found.json())
    assert tree["method"] == "occlusion" and tree["sides"][0]["words"][1] == {
        "text": "it's",
        "span": [3, 7],
        "tokens": [2, 3, 4, 5, 6],
    }
    assert np.allclose(tree["sides"][0]["scores"], found.scores["text"])
    best = found.best(1)[0]
    assert best[2] == max(score for _, score in words)
    assert "it's" in table([found]) and "occlusion" in table([found, found])


def test_a_contrast_explains_the_difference_of_two_answers() -> None:
    model = drawn(decoder(), seed=4, device=CPU, dtype=torch.float64)
    reading = read(model, IDS)
    one, other, both = (why(ask(model, reading, f"next={t}"), "input_x_gradient") for t in ("#7", "#9", "#7/#9"))
    np.testing.assert_allclose(both.scores["text"], one.scores["text"] - other.scores["text"], atol=1e-12)
    np.testing.assert_allclose(both.values, one.values - other.values)


def test_a_masked_token_a_tag_and_a_span_are_asked_of_their_heads() -> None:
    wide = {"vocab_size": 261}
    bert = drawn(encoder(head="masked_lm", **wide), seed=5, device=CPU, dtype=torch.float32)
    by_word = ask(bert, read_text(bert, BYTES, "ab cd"), "mask:cd=c", tokenizer=BYTES)
    assert by_word.reading.text.ids[3] == BYTES.mask_id and by_word.targets[0].columns == (3,)
    assert by_word.targets[0].name == "mask c" and by_word.blank == BYTES.mask_id
    marked = ask(bert, read_text(bert, BYTES, "ab<mask>"), "mask=c", tokenizer=BYTES)
    assert marked.targets[0].columns == (2,)
    tags = drawn(
        encoder(head={"kind": "tag", "num_labels": 2, "labels": ["O", "NAME"]}), seed=5, device=CPU, dtype=torch.float32
    )
    assert ask(tags, read(tags, IDS), "tag:3=NAME").targets[0].name == "tag of #1 NAME"
    spans = drawn(encoder(head="span"), seed=5, device=CPU, dtype=torch.float64)
    likeliest = ask(spans, read(spans, IDS)).targets[0]
    logits = spans(torch.tensor([IDS])).logits[0]
    sums = {(a, b): float(logits[a, 0] + logits[b, 1]) for a in range(7) for b in range(a, 7)}
    assert (likeliest.start, likeliest.end) == max(sums, key=sums.get)  # type: ignore[attr-defined, arg-type]
    found = why(ask(spans, read(spans, IDS), "span:2-4"), "input_x_gradient")
    assert math.isclose(found.values[0], sums[2, 4])
    over = logits.log_softmax(0)
    assert math.isclose(found.logprobs[0], float(over[2, 0] + over[4, 1]))


def test_what_cannot_be_asked_is_one_line() -> None:
    gpt = drawn(decoder(vocab_size=261), seed=6, device=CPU, dtype=torch.float32)
    text = read_text(gpt, BYTES, "so it is")
    label = drawn(SPECS["classifier"], seed=6, device=CPU, dtype=torch.float32)
    bert = drawn(encoder(head="masked_lm", vocab_size=261), seed=6, device=CPU, dtype=torch.float32)
    tags = drawn(encoder(head={"kind": "tag", "num_labels": 2}), seed=6, device=CPU, dtype=torch.float32)
    bare = drawn(SPECS["no head"], seed=6, device=CPU, dtype=torch.float32)
    for model, reading, target, words in (
        (gpt, text, "class", "is not what the head 'lm' of this decoder tells, it can be asked for next, written"),
        (gpt, text, "nex", r"is unknown, wish one of next, .*did you mean 'next'"),
        (gpt, text, "next=ab", "'ab' is 2 tokens: a b, wish one token"),
        (gpt, text, "next=#261", "'261' is no token, must lie in 0..260"),
        (gpt, text, "next:3", "names a place '3'"),
        (label, read(label, IDS), "class=9", "'9' is no label, must lie in 0..2"),
        (label, read(label, IDS), "class=good", "'good' is no label, wish one of 0, 1, 2"),
        (bert, read_text(bert, BYTES, "so it"), "mask", "the text holds no mask, written <mask>, wish one"),
        (bert, read_text(bert, BYTES, "so it"), "mask:its", r"'its' is no word of the text.*did you mean 'it'"),
        (bert, read_text(bert, BYTES, "so it"), "mask:5", "'5' is no token, must lie in 0..4"),
        (tags, read(tags, IDS), "tag", "names no place"),
        (bare, read(bare, IDS), None, "is not what the head"),
    ):
        with pytest.raises(UsageError, match=words):
            ask(model, reading, target, tokenizer=BYTES)
    with pytest.raises(UsageError, match=r"method rolout: is unknown.*did you mean 'rollout'"):
        find_method("rolout")
    with pytest.raises(UsageError, match="flow is found for at most 128"):
        why(ask(gpt, read(gpt, [1] * 200)), "flow")
    with pytest.raises(UsageError, match="most: is 4"):
        IntegratedGradients(most=4)


class MeanOfPast(nn.Module):
    """A mixer with no weights to read: the mean of all tokens so far."""

    path = "mean"

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Any, layout: Any, scope: Any, *, memory: Any = None, cache: Any = None) -> Any:
        return self.out(x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None])


class MeanOfPastSpec(MixerSpec, kind="mean_of_past_for_explanations"):
    """Mean of the past."""

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        return MeanOfPast(d_model)


def test_methods_that_read_weights_refuse_a_mixer_without_and_the_others_explain_it() -> None:
    block = attention()
    model = drawn(decoder({**block, "attention": {"kind": MeanOfPastSpec.kind}}), seed=7, device=CPU, dtype=torch.float32)
    one = ask(model, read(model, IDS))
    readers = {"rollout", "flow", "gradient_attention", "value_weighted", "value_zeroing", "attn_lrp"}
    for method in METHODS:
        if method in readers:
            with pytest.raises(UsageError, match=r"decoder\.0\.self(: | is a )MeanOfPast"):
                why(one, method)
        else:
            assert np.isfinite(why(one, method).scores["text"]).all()


def test_a_new_method_is_one_class() -> None:
    class Length(Method, name="length_for_tests", signed=False):
        """Long embeddings."""

        def __call__(self, question: Question) -> Scores:
            rows = question.inputs(len(question.targets))
            return Scores({side: row.embeds.norm(dim=-1) for side, row in rows.items()})

    try:
        one = question("encoder_decoder", "next")
        found = why(one, "length_for_tests")
        assert found.scores["source"].shape == (1, 5) and not found.signed
    finally:
        del Method.__dict__["known"].__func__.__globals__["_known"]["length_for_tests"]


def test_two_vocabularies_are_looked_up_in_their_own_tables() -> None:
    model = drawn(SPECS["two vocabularies"], seed=8, device=CPU, dtype=torch.float64)
    one = ask(model, read(model, [3, 1, 4], [60, 5, 7]), "next")
    assert one.table("source").shape == (61, 24) and one.table("text").shape == (43, 12)
    plain = model(torch.tensor([[60, 5, 7]]), torch.tensor([[3, 1, 4]])).logits
    torch.testing.assert_close(one.logits(one.inputs()), plain[:, -1:], atol=1e-12, rtol=0)


def test_the_greatest_flow_is_bound_by_its_narrowest_cut() -> None:
    network = Network()
    s, a, b, t = (network.node() for _ in range(4))
    for start, end, room in ((s, a, 3.0), (s, b, 2.0), (a, b, 5.0), (a, t, 2.0), (b, t, 3.0)):
        network.add(start, end, room)
    assert (network.greatest(s, t), network.greatest(a, b), network.greatest(t, s)) == (5.0, 5.0, 0.0)


def test_each_row_is_read_by_its_own_target_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By every target, the memory of integrated gradients would grow as the square of its points."""
    one = asked(next(name for name, spec in SPECS.items() if spec.head.kind == "lm"), "written")
    plain, rows = TokenTarget.value, list[int]()

    def counting(self: TokenTarget, part: Tensor) -> Tensor:
        rows.append(len(part))
        return plain(self, part)

    for targets in (one.targets * 5, one.targets[:1] * 5):
        several = replace(one, targets=targets)
        inputs = several.inputs(len(targets))
        wished = several.values(several.logits(inputs)).diagonal()
        rows.clear()
        with monkeypatch.context() as patch:
            patch.setattr(TokenTarget, "value", counting)
            assert torch.equal(own_values(several, inputs), wished)
        assert sum(rows) == len(targets)

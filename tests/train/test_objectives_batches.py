"""Objectives: right inputs, right targets, logits at labels only, the same batch after a resume."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnlib.errors import DataError, UsageError
from attnlib.models.spec import ModelSpec
from attnlib.spec import read
from attnlib.text import Bytes, ByteTokenizer, Chars, Tokenizer
from attnlib.train.batch import Batch
from attnlib.train.data import Row
from attnlib.train.feed import Evaluation, Feed
from attnlib.train.objectives import CausalLM, Classify, MaskedLM, Objective, Seq2Seq, SpanCorruption

torch.set_num_threads(1)

BOOK = [Row({"text": "Call me Ishmael. Some years ago, never mind how long precisely. " * 9}, "book.txt:1", running=True)]
DOCS = [Row({"text": t}, f"docs:{i}") for i, t in enumerate(["one fish", "two", "red fish blue", "x" * 25, "done"], 1)]
PAIRS = [
    Row({"source": s, "target": t}, f"pairs:{i}") for i, (s, t) in enumerate([("ab", "ba"), ("abc", "c"), ("b", "")], 1)
]
LABELLED = [
    Row({"text": t, "label": label}, f"l:{i}")
    for i, (t, label) in enumerate([("good", "pos"), ("bad!", "neg"), ("ok", "pos")], 1)
]
OF: dict[str, tuple[Objective, list[Row]]] = {
    "causal_lm": (CausalLM(), BOOK),
    "causal_lm over documents": (CausalLM(), DOCS),
    "masked_lm": (MaskedLM(), BOOK),
    "masked_lm whole words": (MaskedLM(whole_word=True), DOCS),
    "span_corruption": (SpanCorruption(), BOOK),
    "seq2seq": (Seq2Seq(label_smoothing=0.1), PAIRS),
    "classify": (Classify().fitted(LABELLED), LABELLED),
}
BYTES = Bytes().build()


class Stub(nn.Module):
    """Answers as the models do: logits of every id from an embedding of it, at the labelled positions only."""

    def __init__(self, vocab: int, classes: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(vocab, classes or vocab)
        self.classes, self.seen = classes, (0,)

    def forward(self, ids: Tensor, *rest: Any, at: Tensor | None = None) -> SimpleNamespace:
        read = rest[0] if len(rest) == 3 else ids
        logits = self.table(read).mean(1) if self.classes else self.table(read)
        logits = logits if at is None else logits[at]
        self.seen = tuple(logits.shape)
        return SimpleNamespace(logits=logits, aux={})


def same(a: Batch, b: Batch) -> bool:
    pairs = [(a.ids, b.ids), (a.labels, b.labels), (a.at, b.at), (a.decoder_ids, b.decoder_ids)]
    return all((x is None and y is None) or torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("name", OF)
def test_the_batch_after_a_resume_is_the_batch_of_an_uninterrupted_run(name: str) -> None:
    objective, rows = OF[name]
    feed, fresh = (Feed(objective, BYTES, rows, length=32, batch_size=3, seed=7) for _ in range(2))
    run = [feed.batch(step) for step in range(12)]
    assert same(fresh.batch(11), run[11]) and same(fresh.batch(4), run[4])
    assert not all(same(run[0], batch) for batch in run[1:])


@pytest.mark.parametrize("name", OF)
def test_loss_is_the_mean_cross_entropy_of_logits_at_labels_only(name: str) -> None:
    objective, rows = OF[name]
    batch = Feed(objective, BYTES, rows, length=32, batch_size=3).batch(0)
    model = Stub(BYTES.vocab_size, len(getattr(objective, "labels", ())))
    loss = objective.loss(model, batch)
    logits, _ = objective.logits(model, batch)
    assert loss.count == len(batch.labels) == len(logits)
    if batch.at is not None:
        assert model.seen[0] == loss.count < batch.at.numel()
    logp = logits.log_softmax(-1)
    nll = -logp.gather(1, batch.labels[:, None]).sum()
    flat = -logp.mean(1).sum()
    expected = (1 - objective.smoothing) * nll + objective.smoothing * flat
    torch.testing.assert_close(loss.sum, expected)
    torch.testing.assert_close(loss.mean, expected / loss.count)
    loss.sum.backward()
    assert model.table.weight.grad is not None


@pytest.mark.parametrize("name", OF)
def test_every_objective_evaluates_alike_each_time_and_leaves_the_mode(name: str) -> None:
    objective, rows = OF[name]
    evaluation = Evaluation(objective, BYTES, rows, length=32, batch_size=2)
    model = Stub(BYTES.vocab_size, len(getattr(objective, "labels", ())))
    first, second = evaluation.scores(model), evaluation.scores(model)
    assert first == second and model.training and math.isfinite(first["loss"])
    if "perplexity" in first:
        assert first["perplexity"] == pytest.approx(math.exp(first["loss"]))


def test_causal_targets_are_the_next_tokens_of_the_text() -> None:
    feed = Feed(CausalLM(), BYTES, BOOK, length=16, batch_size=4)
    text = BOOK[0]["text"]
    for step in range(20):
        batch = feed.batch(step)
        assert batch.ids.shape == (4, 16) and batch.at is None and batch.layout.is_dense
        for ids, labels in zip(batch.ids, batch.labels.view(4, 16)):
            assert torch.equal(ids[1:], labels[:-1])
            assert BYTES.decode(ids.tolist()) in text and BYTES.decode([*ids.tolist(), int(labels[-1])]) in text


def test_windows_shift_from_epoch_to_epoch() -> None:
    feed = Feed(CausalLM(), BYTES, BOOK, length=16, batch_size=1)
    n = len(feed.examples)
    starts = {BOOK[0]["text"].index(BYTES.decode(feed.batch(step).ids[0].tolist())) % 16 for step in range(0, 8 * n, n)}
    assert len(starts) > 3


def test_packed_targets_never_cross_documents() -> None:
    batch = Feed(CausalLM(), BYTES, DOCS, length=32, batch_size=2).batch(0)
    assert batch.layout.segments is not None and batch.layout.runs is not None
    wanted = torch.full(batch.ids.shape, -1)
    wanted[batch.layout.segments >= 0 if batch.at is None else batch.at] = batch.labels
    found = []
    for row, first, length in batch.layout.runs:
        ids, targets = batch.ids[row, first : first + length], wanted[row, first : first + length]
        assert torch.equal(ids[1:], targets[:-1]) and int(targets[-1]) == BYTES.eos_id
        assert batch.layout.positions[row, first : first + length].tolist() == list(range(length))
        found.append(BYTES.decode(ids.tolist()))
    assert sorted(found) == sorted(row["text"] for row in DOCS)


def test_a_document_longer_than_a_row_goes_on_in_the_next() -> None:
    long = [Row({"text": "abcdefghij" * 3}, "a:1"), Row({"text": "kl"}, "a:2")]
    batch = next(iter(Evaluation(CausalLM(), BYTES, long, length=8, batch_size=99)))
    assert batch.ids.shape[1] == 8
    assert sorted(batch.labels.tolist()) == sorted([*(b"abcdefghij" * 3)[1:], *b"l", 258, 258])


def test_an_evaluation_predicts_every_token_of_a_text_but_the_first() -> None:
    batches = list(Evaluation(CausalLM(), BYTES, BOOK, length=32, batch_size=4))
    labels = torch.cat([batch.labels for batch in batches])
    assert BYTES.decode(labels.tolist()) == BOOK[0]["text"][1:]


def test_bits_per_character_compare_across_vocabularies() -> None:
    uniform = Stub(BYTES.vocab_size)
    nn.init.zeros_(uniform.table.weight)
    row = [Row({"text": "é" * 60}, "a", running=True)]  # two bytes a character
    scores = Evaluation(CausalLM(), BYTES, row, length=32, batch_size=4).scores(uniform)
    assert scores["bits_per_character"] == pytest.approx(2 * math.log2(BYTES.vocab_size))


def test_masked_labels_are_the_hidden_tokens() -> None:
    batch = Feed(MaskedLM(rate=0.3), BYTES, BOOK, length=40, batch_size=5).batch(0)
    assert batch.at is not None
    clean = batch.ids.clone()
    clean[batch.at] = batch.labels
    assert all(BYTES.decode(row.tolist()) in BOOK[0]["text"] for row in clean)
    assert int(batch.at.sum()) == 5 * 12


class Framed(ByteTokenizer):
    template = ((257,), (258,))


def test_each_masked_piece_is_framed_by_the_tokenizers_template() -> None:
    made = Framed()
    batch = next(iter(Evaluation(MaskedLM(), made, DOCS, length=32, batch_size=9)))
    assert batch.layout.runs is not None
    for row, first, length in batch.layout.runs:
        assert int(batch.ids[row, first]) == 257 and int(batch.ids[row, first + length - 1]) == 258
    windows = Feed(MaskedLM(), made, BOOK, length=20, batch_size=2).batch(0)
    assert windows.ids.shape == (2, 20) and windows.ids[:, 0].tolist() == [257, 257]


def test_spans_are_given_back_within_the_length() -> None:
    objective = SpanCorruption(density=0.2)
    batch = Feed(objective, BYTES, BOOK, length=40, batch_size=4).batch(0)
    assert batch.ids.shape[1] == 40 and batch.decoder_ids is not None and batch.decoder_layout is not None
    assert batch.ids[:, -1].tolist() == [258] * 4
    targets = batch.labels.view(4, -1)
    assert batch.decoder_ids[:, 0].tolist() == [BYTES.pad_id] * 4
    assert torch.equal(batch.decoder_ids[:, 1:], targets[:, :-1]) and targets[:, -1].tolist() == [258] * 4
    for source, target in zip(batch.ids.tolist(), targets.tolist()):
        for mark in [i for i in source if i in BYTES.sentinels]:
            at, to = source.index(mark), target.index(mark) + 1
            end = next(i for i in range(to, len(target)) if target[i] > 255)
            source[at : at + 1] = target[to:end]
        assert BYTES.decode(source) in BOOK[0]["text"]


def test_seq2seq_reads_the_target_shifted_from_the_start_token() -> None:
    for start, first in (("pad", 256), ("bos", 257)):
        batch = next(iter(Evaluation(Seq2Seq(start=start), BYTES, PAIRS, length=8, batch_size=3)))
        assert batch.decoder_ids is not None and batch.decoder_layout is not None and batch.at is not None
        assert batch.ids.tolist() == [[97, 98, 258, 256], [97, 98, 99, 258], [98, 258, 256, 256]]
        assert batch.layout.lengths == (3, 4, 2) and batch.decoder_layout.lengths == (3, 2, 1)
        assert batch.decoder_ids.tolist() == [[first, 98, 97], [first, 99, 256], [first, 256, 256]]
        assert batch.labels.tolist() == [98, 97, 258, 99, 258, 258]
        assert batch.at.tolist() == [[True] * 3, [True, True, False], [True, False, False]]
        assert batch.tokens == 9 + 6


def test_what_is_too_long_is_refused_cut_or_skipped() -> None:
    with pytest.raises(DataError, match=r"pairs:2: source has 3 tokens, must have at most 2 \(objective.too_long"):
        Seq2Seq().examples(PAIRS, BYTES, 3)
    assert len(Seq2Seq(too_long="skip").examples(PAIRS, BYTES, 3)) == 2
    cut = Seq2Seq(too_long="cut").examples(PAIRS, BYTES, 3)
    assert len(cut) == 3 and cut.example(1)[0].tolist() == [97, 98]
    with pytest.raises(DataError, match="no example that fits"):
        Seq2Seq(too_long="skip").examples(PAIRS[1:2], BYTES, 3)


def test_classes_come_from_training_and_unseen_ones_are_refused() -> None:
    objective = Classify().fitted(LABELLED)
    assert objective.labels == ("neg", "pos")
    batch = next(iter(Evaluation(objective, BYTES, LABELLED, length=8, batch_size=3)))
    assert batch.labels.tolist() == [1, 0, 1] and batch.ids[:, 0].tolist() == [257] * 3
    with pytest.raises(DataError, match=r"l:9: label 'poss' does not occur in training, .*did you mean 'pos'"):
        objective.examples([Row({"text": "x", "label": "poss"}, "l:9")], BYTES, 8)
    with pytest.raises(DataError, match=r"data\.label: is 'pos' in every row"):
        Classify().fitted(LABELLED[:1])


def test_a_head_with_names_lends_them_and_one_without_gets_them() -> None:
    named = model_spec("encoder", head={"kind": "classify", "num_labels": 2, "labels": ["pos", "neg"]})
    assert Classify().fitted(LABELLED, named).labels == ("pos", "neg")
    bare = model_spec("encoder", **CLASSIFY)
    assert Classify().fitted(LABELLED, bare).naming(bare).head.labels == ("neg", "pos")
    assert Classify(labels=("pos", "neg")).naming(named) == named and MaskedLM().naming(bare) == bare


BLOCK = {"attention": {"kind": "softmax", "num_heads": 2, "mask": ["causal"]}, "mlp": {"kind": "dense", "d_ff": 16}}
SEEING = {"attention": {"kind": "softmax", "num_heads": 2}, "mlp": {"kind": "dense", "d_ff": 16}}
CROSSED = BLOCK | {"cross": {"kind": "softmax", "num_heads": 2}}


def model_spec(kind: str, **more: Any) -> ModelSpec:
    tree: dict[str, Any] = {"kind": kind, "d_model": 16, "vocab_size": 293}
    if kind == "encoder_decoder":
        stacks = {"encoder": {"num_layers": 1, "block": SEEING}, "decoder": {"num_layers": 1, "block": CROSSED}}
        return read(ModelSpec, tree | stacks | {"decoder_start": 256} | more)
    block = BLOCK if kind == "decoder" else SEEING
    head = {"head": {"kind": "lm" if kind == "decoder" else "masked_lm"}}
    return read(ModelSpec, tree | {"stack": {"num_layers": 1, "block": block}} | head | more)


CLASSIFY = {"head": {"kind": "classify", "num_labels": 2}}
MODELS = {
    "causal_lm": model_spec("decoder"),
    "masked_lm": model_spec("encoder"),
    "span_corruption": model_spec("encoder_decoder"),
    "seq2seq": model_spec("encoder_decoder"),
    "classify": model_spec("encoder", **CLASSIFY),
}


@pytest.mark.parametrize("name", OF)
def test_every_objective_trains_a_real_model(name: str) -> None:
    objective, rows = OF[name]
    spec = MODELS[objective.kind]
    assert objective.refuses(spec, BYTES) is None
    torch.manual_seed(0)
    model = spec.build()
    feed = Feed(objective, BYTES, rows, length=32, batch_size=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        loss = objective.loss(model, feed.batch(step))
        optimizer.zero_grad()
        loss.mean.backward()
        optimizer.step()
        losses.append(float(loss.mean.detach()))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert math.isfinite(Evaluation(objective, BYTES, rows, length=32, batch_size=4).scores(model)["loss"])


@pytest.mark.parametrize("name", ["causal_lm", "masked_lm", "seq2seq"])
def test_logits_at_labels_are_those_of_the_whole_forward(name: str) -> None:
    objective, rows = OF[name]
    model = MODELS[objective.kind].build().eval()
    batch = Feed(objective, BYTES, rows, length=32, batch_size=3).batch(1)
    logits, _ = objective.logits(model, batch)
    whole, _ = objective.logits(model, replace(batch, at=None))
    at = slice(None) if batch.at is None else batch.at.flatten()
    torch.testing.assert_close(logits, whole[at])


def test_a_packed_row_scores_as_its_documents_alone() -> None:
    model = MODELS["causal_lm"].build().eval()
    together = Evaluation(CausalLM(), BYTES, DOCS, length=64, batch_size=9)
    assert len(together.examples) == 1
    alone = [Row({"text": r["text"] + "\u0000"}, "", running=True) for r in DOCS]  # stands for the end mark
    total = count = 0.0
    for row in alone:
        batch = next(iter(Evaluation(CausalLM(), BYTES, [row], length=64, batch_size=1)))
        batch = replace(batch, labels=torch.where(batch.labels == 0, 258, batch.labels))
        loss = CausalLM().loss(model, batch)
        total, count = total + float(loss.sum.detach()), count + loss.count
    assert together.scores(model)["loss"] == pytest.approx(total / count, rel=1e-5)


def test_objectives_refuse_models_that_do_not_fit() -> None:
    said = CausalLM().refuses(MODELS["masked_lm"])
    assert said == "causal_lm trains decoder, and the model is of kind encoder: use masked_lm or classify"
    assert "span_corruption or seq2seq" in str(MaskedLM().refuses(MODELS["seq2seq"]))
    assert Seq2Seq().refuses(model_spec("encoder_decoder", decoder_start=0), BYTES) == (
        "model.decoder_start is 0, and seq2seq starts with pad: set it to 256"
    )
    small = model_spec("encoder", vocab_size=256)
    assert "model.vocab_size is 256, and the tokenizer has 293 ids" in str(MaskedLM().refuses(small, BYTES))
    assert MaskedLM().refuses(model_spec("encoder", head="none")) == "model.head is none: use lm or masked_lm"
    three = model_spec("encoder", head={"kind": "classify", "num_labels": 3})
    assert "num_labels is 3, and there are 2 labels" in str(Classify(labels=("a", "b")).refuses(three))
    named = model_spec("encoder", head={"kind": "classify", "num_labels": 2, "labels": ["b", "a"]})
    assert "head.labels are b, a, and the objective's a, b" in str(Classify(labels=("a", "b")).refuses(named))
    many = model_spec("encoder", head={"kind": "classify", "num_labels": 2, "problem": "multi_label"})
    assert "problem is multi_label" in str(Classify().refuses(many))
    assert "pooling is first, whose token sees no other" in str(Classify().refuses(model_spec("decoder", **CLASSIFY)))
    assert Classify().refuses(model_spec("decoder", head={"kind": "classify", "num_labels": 2, "pooling": "last"})) is None


def test_a_model_that_sees_the_tokens_to_come_is_refused() -> None:
    blind = model_spec("decoder", stack={"num_layers": 2, "block": SEEING})
    assert "stack layer 0 sees tokens to come" in str(CausalLM().refuses(blind))
    window = {"attention": {"kind": "softmax", "num_heads": 2, "mask": [{"kind": "window", "before": 3, "after": 1}]}}
    assert "sees tokens to come" in str(CausalLM().refuses(model_spec("decoder", stack={"num_layers": 1, "block": window})))
    pair = {"num_layers": 1, "block": CROSSED | {"attention": SEEING["attention"]}}
    assert "decoder layer 0 sees tokens to come" in str(Seq2Seq().refuses(model_spec("encoder_decoder", decoder=pair)))


def test_objectives_refuse_tokenizers_that_do_not_fit() -> None:
    without: Tokenizer = Chars(sentinels=0).build(texts=["ab"])
    with pytest.raises(DataError, match=r"tokenizer.sentinels: are 0, a source of 32 tokens needs"):
        SpanCorruption().examples(BOOK, without, 32)
    without.mask_id = None
    with pytest.raises(UsageError, match="has no mask token"):
        MaskedLM().examples(BOOK, without, 32)


def test_own_loss_terms_of_a_model_are_added_as_means() -> None:
    batch = Feed(CausalLM(), BYTES, BOOK, length=16, batch_size=2).batch(0)

    class Balanced(Stub):
        def forward(self, *args: Any, **more: Any) -> SimpleNamespace:
            out = super().forward(*args, **more)
            out.aux = {"balance": torch.tensor(0.5)}
            return out

    plain = CausalLM().loss(Stub(BYTES.vocab_size), batch)
    balanced = CausalLM().loss(Balanced(BYTES.vocab_size), batch)
    torch.testing.assert_close(balanced.mean, plain.mean + 0.5)
    torch.testing.assert_close(balanced.parts["nll"], plain.sum)


def test_ranks_see_the_parts_of_one_batch() -> None:
    whole = Feed(MaskedLM(), BYTES, BOOK, length=16, batch_size=4, seed=2).batch(3)
    parts = [Feed(MaskedLM(), BYTES, BOOK, length=16, batch_size=2, seed=2, rank=r, world_size=2).batch(3) for r in (0, 1)]
    assert torch.equal(torch.cat([part.ids for part in parts]), whole.ids)


def test_texts_shorter_than_a_window_and_empty_evaluations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"book.txt:1: holds \d+ tokens, must hold at least one window of 1001"):
        Feed(CausalLM(), BYTES, BOOK, length=1000, batch_size=1)
    with pytest.raises(DataError, match="leaves nothing to evaluate on"):
        Evaluation(CausalLM(), BYTES, [], length=8, batch_size=1)


def test_each_example_of_each_epoch_is_corrupted_in_its_own_way() -> None:
    same_text = [Row({"text": "abcdefgh" * 5}, f"{i}") for i in range(4)]
    feed = Feed(MaskedLM(), BYTES, same_text, length=40, batch_size=4)
    evaluation = next(iter(Evaluation(MaskedLM(), BYTES, same_text, length=40, batch_size=4)))
    places = [batch.at for batch in (feed.batch(0), feed.batch(1), evaluation)]
    assert len({tuple(row.tolist()) for at in places if at is not None for row in at}) == 12

"""Head scores are what the whole map says, and their baselines what shuffling its rows gives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from configs_for_tests import LOCAL, SINKS, SPECS, attention, decoder
from torch import Tensor

from attnlib.errors import LayoutError, UsageError
from attnlib.inspect import HeadReport, HeadScore, ablated, head_report, record
from attnlib.inspect.reading import read, read_text
from attnlib.inspect.repeats import ablation, copy_losses, sampled, twice
from attnlib.inspect.subject import drawn
from attnlib.spec import read as read_spec
from attnlib.text import TokenizerSpec

CPU, FP32, FP64 = torch.device("cpu"), torch.float32, torch.float64
IDS = [3, 1, 4, 1, 5, 9, 3, 1, 4, 4, 5]
SOURCE = [5, 1, 1, 3, 9, 3, 1]


def targets(kind: str, q: list[int], k: list[int], own: bool, rare: set[int]) -> Iterator[tuple[int, list[int]]]:
    """Of each query its targets, by the definition."""
    for i, token in enumerate(q):
        before = [j for j in range(len(k)) if j < i or not own]
        if kind == "previous":
            yield i, [i - 1] if own and i else []
        elif kind == "first":
            yield i, [0]
        elif kind == "duplicate":
            yield i, [j for j in before if k[j] == token]
        elif kind == "induction":
            yield i, [j for j in before if j and k[j - 1] == token]
        else:
            yield i, [j for j in range(1, len(k)) if k[j] in rare]


def by_hand(w: Tensor, seen: Tensor, kind: str, q: list[int], k: list[int], own: bool, rare: set[int]) -> list[Any]:
    """(mass, shuffled mean, variance) of each query that sees a target and another key."""
    found = []
    for i, wished in targets(kind, q, k, own, rare):
        keys = seen[i].nonzero()[:, 0].tolist()
        there = [j for j in wished if j in keys]
        if 0 < len(there) < len(keys):
            row = w[:, i, keys].double()
            picks = torch.stack([row[:, list(some)].sum(1) for some in itertools.combinations(range(len(keys)), len(there))])
            found.append((w[:, i, there].sum(1).double(), picks.mean(0), picks.var(0, unbiased=False)))
    return found


@pytest.mark.parametrize("name", ["decoder", "grouped, local", "sinks kept", "encoder", "local encoder", "pair"])
def test_scores_and_baselines_are_those_of_the_map_and_of_its_shuffled_rows(name: str) -> None:
    model = drawn(SPECS[name], seed=2, device=CPU, dtype=FP32)
    both = name == "pair"
    reading = read(model, IDS, SOURCE if both else None)
    with torch.no_grad(), record(model) as seen:
        model(*(torch.tensor([side.ids]) for side in reading.sides))
    report = head_report(model, [reading], rare=0.05)
    scores = {(one.path, one.head, one.kind): one for one in report.scores}
    checked = set()
    for path in seen.weights:
        w = seen[path].dense()
        own = not path.endswith("cross")
        q = SOURCE if path.startswith("encoder") and both else IDS
        k = SOURCE if q == SOURCE or not own else IDS
        counts = {token: k.count(token) for token in k}
        rare = {token for token in k if counts[token] == 1}
        for kind in ("previous", "induction", "duplicate", "first", "rare"):
            rows = by_hand(w, w[0] > 0, kind, q, k, own, rare)
            for head in range(4):
                one = scores.get((path, head, kind))
                assert (one is None) == (not rows), (path, kind)
                if one is not None:
                    mass, mean, variance = (torch.stack(part)[:, head] for part in zip(*rows))
                    wished = (float(mass.mean()), float(mean.mean()), float(variance.sum().sqrt()) / len(rows))
                    assert (one.value, one.baseline, one.deviation) == pytest.approx(wished, abs=2e-6), (path, kind)
                    assert one.queries == len(rows)
                    checked.add(kind)
        told = scores.get((path, 1, "positional"))
        assert (told is not None) == own
        if told is not None:
            assert (told.value, told.baseline) == pytest.approx(explained(w[1].double(), w[0] > 0), abs=1e-6)
            distance = torch.arange(len(q))[:, None] - torch.arange(len(k))
            mass = {d: float(w[1][distance == d].sum()) for d in distance.unique().tolist()}
            assert told.offset == max(mass, key=lambda d: mass[d])
    assert len(checked) == 5 and not {one.kind for one in report.scores} & {"delimiter"}


def explained(w: Tensor, seen: Tensor) -> tuple[float, float]:
    """The share of sum w^2 that distance tells, and its mean over shuffled rows, whose weights are independent."""
    distance = torch.arange(w.shape[0])[:, None] - torch.arange(w.shape[1])
    told = chance = 0.0
    for d in distance.unique().tolist():
        at = (distance == d) & seen
        if int(at.sum()):
            rows = [w[i][seen[i]] for i in at.any(1).nonzero()[:, 0].tolist()]
            mean, variance = sum(float(r.mean()) for r in rows), sum(float(r.var(unbiased=False)) for r in rows)
            told += float(w[at].sum()) ** 2 / int(at.sum())
            chance += (mean**2 + variance) / int(at.sum())
    return told / float(w.square().sum()), chance / float(w.square().sum())


@pytest.mark.parametrize("block", [attention(), LOCAL, SINKS])
def test_long_texts_and_several_agree_with_one_tile(block: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn(decoder(block), seed=4, device=CPU, dtype=FP32)
    made = torch.Generator().manual_seed(1)
    texts = [read(model, torch.randint(61, (n,), generator=made).tolist()) for n in (70, 131)]
    whole = head_report(model, texts)
    monkeypatch.setattr("attnlib.inspect.rows.TILE", 1 << 11)
    monkeypatch.setattr("attnlib.inspect.rows.Application.blocks.__defaults__", (None, 1 << 11))
    parts = head_report(model, texts)
    assert whole.tokens == 201 and len(whole.scores) == len(parts.scores) == 8 * 6
    for one, other in zip(whole.scores, parts.scores):
        assert (one.name, one.kind, one.queries, one.offset) == (other.name, other.kind, other.queries, other.offset)
        assert (one.value, one.baseline) == pytest.approx((other.value, other.baseline), abs=1e-6)


def test_heads_are_named_where_they_stand_out() -> None:
    def one(head: int, value: float, deviation: float = 0.01) -> HeadScore:
        return HeadScore("decoder.0.self", head, "previous", value, 0.1, deviation, 9)

    report = HeadReport((one(0, 0.9), one(1, 0.4), one(2, 0.6), one(3, 0.8, 0.3)), 1, 10)
    assert [one.head for one in report.named("previous")] == [0, 2]
    assert [one.head for one in report.best("previous", 2)] == [0, 3] and report.named("induction") == []
    assert report.tree()["named"] == {"previous": ["decoder.0.self.0", "decoder.0.self.2"]}
    with pytest.raises(UsageError, match="'previus' is unknown, wish one of previous"):
        report.best("previus")


def byte_level(model_ids: int = 293) -> tuple[Any, Any]:
    model = drawn(decoder(vocab_size=model_ids), seed=3, device=CPU, dtype=FP64)
    return model, read_spec(TokenizerSpec, {"kind": "bytes"}).build()


def test_delimiters_are_marks_and_line_ends_and_what_the_tokenizer_adds() -> None:
    model, tokenizer = byte_level()
    report = head_report(model, [read_text(model, tokenizer, "ab, cd.\nef")])
    told = next(one for one in report.scores if one.kind == "delimiter")
    assert told.queries == 8  # those from the comma on: it, the space, the dot, the line end
    assert "delimiter" not in head_report(model, [read_text(model, tokenizer, "abcdab")]).kinds


def test_a_text_written_twice_has_the_same_ids_twice_and_its_letters_too() -> None:
    model, tokenizer = byte_level()
    one = read_text(model, tokenizer, "aé b")
    two = twice(model, one)
    own = [two.text.ids[column] for column in two.text.own]
    assert own == [one.text.ids[column] for column in one.text.own] * 2 and two.text.text == "aé baé b"
    letters = [two.text.text[slice(*span)] for span in two.text.spans if span]
    assert "".join(letters).replace("éé", "é") == "aé baé b"
    short = drawn(decoder(vocab_size=293, embedding={"position": {"kind": "learned", "max_length": 9}}), seed=3, device=CPU,
                  dtype=FP64)  # fmt: skip
    with pytest.raises(LayoutError, match="twice: makes 10 tokens, the model's positions end at 9"):
        twice(short, one)


def test_losses_of_the_copies_are_those_of_their_tokens_and_ablation_is_measured_beside_draws() -> None:
    model, tokenizer = byte_level()
    texts = [twice(model, one) for one in sampled(model, 2, tokenizer=tokenizer, prompt="ab", new_tokens=5)]
    assert len(texts) == 2 and all(one.text.text[:2] == "ab" for one in texts)
    with torch.no_grad():
        losses = []
        for one in texts:
            ids = torch.tensor([one.text.ids])
            losses.append(-model(ids).logits[0, :-1].float().log_softmax(-1)[range(ids.shape[1] - 1), ids[0, 1:]])
    found = copy_losses(model, texts)
    halves = [len(one.text.own) // 2 for one in texts]
    begin = texts[0].text.own[0]
    second = torch.cat([row[begin + n - 1 :] for row, n in zip(losses, halves)])
    assert found.second == pytest.approx(float(second.mean()), abs=1e-6)
    heads = ["decoder.0.self.1", "decoder.1.self.3"]
    zero, mean = (ablation(model, texts, heads, draws=3, zero=zero) for zero in (True, False))
    with ablated(model, heads):
        assert zero.without == copy_losses(model, texts)
    assert zero.intact == mean.intact == found and zero.without != mean.without
    assert len(zero.random) == 3 and zero.random != mean.random
    assert zero.beyond == (zero.rise > max(zero.rises))
    with pytest.raises(UsageError, match="ablate: 5 of 8 heads are named, wish from 1 head to half of them"):
        ablation(model, texts, [f"decoder.{i}.self.{j}" for i, j in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))])


def test_one_text_and_texts_as_they_come_are_reported_alike() -> None:
    model = drawn(SPECS["encoder"], seed=2, device=CPU, dtype=FP32)
    text = read(model, IDS)
    whole = head_report(model, [text])
    assert head_report(model, text).tree() == head_report(model, (one for one in [text])).tree() == whole.tree()


def test_what_cannot_be_reported_is_refused() -> None:
    model = drawn(SPECS["encoder"], seed=2, device=CPU, dtype=FP32)
    with pytest.raises(UsageError, match="heads: there is no text"):
        head_report(model, [])
    with pytest.raises(UsageError, match="layers: 7 is out of range"):
        head_report(model, [read(model, IDS)], layers=7)
    with pytest.raises(UsageError, match="tell no next token, wish a decoder"):
        ablation(model, [read(model, IDS)], ["encoder.0.self.0"])

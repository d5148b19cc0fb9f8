"""see: what the page carries of a model and a text, short and long, and what it refuses."""

from __future__ import annotations

import html
import math
from typing import Any

import numpy as np
import pytest
import torch
from stacks_for_explanations import TREES, drawn

from attnlib.errors import LayoutError, UsageError
from attnlib.inspect import exhibit, record, seeing
from attnlib.inspect.exhibit import Exhibit, exhibit_data, words
from attnlib.inspect.figures import figures_of_map
from attnlib.inspect.maps import AttentionMap, place_of
from attnlib.inspect.page import Page
from attnlib.inspect.reading import read_text
from attnlib.inspect.seeing import see
from attnlib.inspect.tiled import TiledMap, tiles
from attnlib.text import ByteTokenizer

TOKENIZER = ByteTokenizer()
TEXT = "a wée fox, seen twice."
KINDS = sorted(TREES)


def toy(kind: str, head: str | None = None) -> Any:
    tree = TREES[kind] | {"vocab_size": TOKENIZER.vocab_size, "embedding": {"position": "sinusoidal"}}
    if kind == "encoder_decoder":
        tree |= {"decoder_start": TOKENIZER.pad_id}
    return drawn(tree | ({"head": head} if head else {})).float()


def seen_dense(model: Any, page: Page) -> dict[str, np.ndarray[Any, Any]]:
    """The maps of the page's texts, recorded whole."""
    sides = page.exhibits[0].sides
    with record(model) as seen, torch.inference_mode():
        model(*(torch.tensor([side.ids]) for side in sides), head=False)
    return {path: seen[path].dense().numpy() for path in seen.weights}


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_text_carries_every_weight_that_was_recorded(kind: str) -> None:
    model = toy(kind)
    page = see(model, TEXT, tokenizer=TOKENIZER, written="a hen" if kind == "encoder_decoder" else None)
    wished = seen_dense(model, page)
    assert {one.name for one in page.exhibits[0].maps} == {*wished}
    assert len(wished) == (6 if kind == "encoder_decoder" else 2)
    for one in page.exhibits[0].maps:
        assert isinstance(one, AttentionMap) and np.array_equal(one.weights, wished[one.name])
        assert wished[one.name].shape[1:] == (len(one.query_tokens), len(one.key_tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_carries_tiles_targets_and_rows_equal_to_the_whole_map(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = toy(kind), TEXT * 4
    monkeypatch.setattr(seeing, "BYTE_CELLS", 100)
    monkeypatch.setattr(seeing, "SIDE", 9)
    stack = "encoder" if kind == "encoder" else "decoder"
    exact = [f"{stack}.1.{'cross' if kind == 'encoder_decoder' else 'self'}.2"]
    page = see(model, text, tokenizer=TOKENIZER, written=text[::-1] if kind == "encoder_decoder" else None,
               exact=exact, rows=[0, 31])  # fmt: skip
    wished = seen_dense(model, page)
    for one in page.exhibits[0].maps:
        assert isinstance(one, TiledMap)
        w = wished[one.name]
        assert max(one.tiles.shape[1:]) <= 9 and np.allclose(one.tiles, tiles(w, *one.steps), atol=1e-6)
        assert [*one.tops] == ([2] if one.name == exact[0].rpartition(".")[0] else [])
        assert sorted(one.rows) == ([0, 31] if one.tops else [])
        for place, found in one.tops.items():
            for q in (0, 1, 40):
                order = np.argsort(-w[place, q], kind="stable")[:16]
                assert np.allclose(found.weights[q], w[place, q, order], atol=1e-6)
                real = found.keys[q] >= 0
                assert np.allclose(w[place, q, found.keys[q][real]], found.weights[q][real], atol=1e-6)
        for q, row in one.rows.items():
            assert np.allclose(row, w[:, q], atol=1e-6)
        dense = figures_of_map(AttentionMap(one.name, w, one.query_tokens, one.key_tokens))
        for name, values in page.exhibits[0].figures[one.name].items():
            assert np.allclose(values, dense[name], atol=1e-5), name


def test_coarser_tiles_are_means_of_means_by_their_sizes() -> None:
    w = np.random.default_rng(1).random((2, 23, 31))
    tokens = [[str(i) for i in range(n)] for n in w.shape[1:]]
    one = TiledMap("x", tiles(w, 2, 3), (2, 3), *tokens, numbers=(0, 1))
    assert np.allclose(one.coarser().tiles, tiles(w, 4, 6), atol=1e-6) and one.coarser().steps == (4, 6)


def test_tiles_grow_until_a_long_page_is_short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(1).random((2, 700, 700))
    tokens = [str(i) for i in range(700)]
    one = Exhibit([TiledMap("decoder.0.self", tiles(w, 3, 3), (3, 3), tokens, tokens, (0, 1))])
    whole = exhibit_data(one)["maps"][0]
    assert whole["steps"] == [3, 3]
    monkeypatch.setattr(exhibit, "LONG_BYTES", 60_000)
    less = exhibit_data(one)["maps"][0]
    assert less["steps"] == [6, 6] and len(less["data"]) < len(whole["data"]) / 3
    monkeypatch.setattr(exhibit, "LONG_BYTES", 10)
    assert exhibit_data(one)["maps"][0]["steps"] == [6, 6]  # half would be fewer than 64


def test_what_has_no_weights_is_left_out_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = TREES["decoder"] | {"vocab_size": TOKENIZER.vocab_size, "embedding": {"position": "sinusoidal"}}
    block = tree["stack"]["block"]
    blocks = {"softmax": block, "delta": block | {"attention": {"kind": "delta", "num_heads": 3}}}
    tree["stack"] = {"num_layers": 2, "final_norm": "rms", "blocks": blocks, "pattern": ["delta", "softmax"]}
    model = drawn(tree).float()
    assert [one.name for one in see(model, TEXT, tokenizer=TOKENIZER).exhibits[0].maps] == ["decoder.1.self"]
    with pytest.raises(UsageError, match=r"decoder.0.self: .*wish attention that has weights"):
        see(model, TEXT, tokenizer=TOKENIZER, layers=0)
    monkeypatch.setattr(seeing, "BYTE_CELLS", 100)
    assert [one.name for one in see(model, TEXT, tokenizer=TOKENIZER).exhibits[0].maps] == ["decoder.1.self"]


def test_a_long_text_keeps_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    real = seeing.record

    def spy(*args: Any, **given: Any) -> Any:
        context = real(*args, **given)
        kept.append((given.get("weights", True), context))
        return context

    monkeypatch.setattr(seeing, "BYTE_CELLS", 100)
    monkeypatch.setattr(seeing, "record", spy)
    see(toy("decoder"), TEXT, tokenizer=TOKENIZER)
    assert [weights for weights, _ in kept] == [False]


def test_words_of_a_text_are_whole_and_every_token_is_in_its_own() -> None:
    side = read_text(toy("encoder"), TOKENIZER, TEXT).text
    found = words(side)
    assert "".join(found["parts"]) == TEXT and found["parts"][1::2] == ["a", "wée", "fox", ",", "seen", "twice", "."]
    assert len(found["of"]) == len(side.tokens)
    spelled = "".join(side.text[slice(*side.spans[t])] for t, word in enumerate(found["of"]) if word == 5)  # type: ignore[misc]
    assert spelled.strip() == "twice"


def test_a_text_cannot_turn_the_page_around() -> None:
    text = "a \u202eb\u0000c\nd"
    side = read_text(toy("encoder"), TOKENIZER, text).text
    assert "".join(words(side)["parts"]) == "a U+202Eb␀c\nd"


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_text_has_a_report_of_its_heads(kind: str) -> None:
    page = see(toy(kind), "see the sea, see", tokenizer=TOKENIZER, written="sea" if kind == "encoder_decoder" else None)
    for entry, one in zip(exhibit_data(page.exhibits[0])["maps"], page.exhibits[0].maps, strict=True):
        assert {*entry["figures"]} >= {"entropy", "first"}
        if entry["cross"]:
            continue
        previous = np.diagonal(one.weights, -1, 1, 2)  # type: ignore[union-attr]
        found = entry["scores"]["previous"]
        assert np.allclose(found["values"], previous.mean(1), atol=1e-4) and len(found["baselines"]) == 3


def test_the_chances_of_a_written_text_are_the_models() -> None:
    model = toy("decoder")
    page = see(model, "a fox", tokenizer=TOKENIZER, write=4)
    steps, side = page.exhibits[0].steps, page.exhibits[0].sides[0]
    assert steps is not None and steps.written == 5 and steps.first == 1 and len(side) in range(6, 10)
    with torch.inference_mode():
        logprobs = model(torch.tensor([side.ids])).logits[0].float().log_softmax(-1)
    for n, value in enumerate(steps.logprobs):
        column = steps.first + n
        assert math.isclose(value, float(logprobs[column - 1, side.ids[column]]), abs_tol=1e-4)
        assert math.isclose(steps.options[n][0][1], float(logprobs[column - 1].max().exp()), abs_tol=1e-4)
    greedy = logprobs[steps.written - 1 : -1].argmax(-1).tolist()
    assert greedy == list(side.ids[steps.written :])


def test_explanations_go_along_with_their_texts() -> None:
    model = toy("encoder_decoder")
    page = see(model, "sea", tokenizer=TOKENIZER, written="see", methods=["rollout", "saliency"])
    data = exhibit_data(page.exhibits[0])
    assert [one["method"] for one in data["explanations"]] == ["rollout", "saliency"]
    for one in data["explanations"]:
        assert [side["name"] for side in one["sides"]] == ["source", "text"] and len(one["targets"]) == 3
        assert all(data["texts"][side["text"]] for side in one["sides"])
    assert len(data["texts"]) == 2  # shared with the maps


def test_figures_tell_a_previous_token_head_from_a_sink() -> None:
    n = 6
    before = np.zeros((n, n))
    before[np.arange(n), np.maximum(np.arange(n) - 1, 0)] = 1.0
    sink = np.zeros((n, n))
    sink[:, 0] = 1.0
    tokens = [*"abcdef"]
    found = figures_of_map(AttentionMap("decoder.0.self", np.stack([before, sink]), tokens, tokens))
    assert np.allclose(found["beside"], [5 / 6, 1 / 6]) and np.allclose(found["first"], [2 / 6, 1.0])
    assert np.allclose(found["distance"], [5 / 6, 2.5]) and np.allclose(found["entropy"], 0.0)
    other = figures_of_map(AttentionMap("decoder.0.cross", np.stack([before, sink]), tokens, tokens))
    assert {*other} == {"entropy", "first"}


def test_a_notebook_shows_the_same_page_in_a_frame_that_may_do_nothing_else() -> None:
    page = see(toy("decoder"), "a 'fox' & </script>", tokenizer=TOKENIZER)
    frame = page._repr_html_()
    assert frame.startswith("<iframe sandbox='allow-scripts' ") and frame.count("'>") == 1
    assert html.unescape(frame.partition("srcdoc='")[2].rpartition("'")[0]) == page.html


def test_two_stand_beside_each_other_and_three_do_not() -> None:
    one = see(toy("decoder"), "a fox", tokenizer=TOKENIZER, name="A")
    both = one.beside(see(toy("decoder"), "a hen", tokenizer=TOKENIZER, name="B"))
    assert [exhibit.name for exhibit in both.exhibits] == ["A", "B"] and both.html
    with pytest.raises(UsageError, match="has 3 exhibits"):
        both.beside(one)


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("decoder", {"rows": [99]}, r"rows: are \[99\], must lie in 0\.\.4"),
        ("decoder", {"exact": ["decoder.0.self.7"]}, "is out of range"),
        ("decoder", {"layers": [5]}, "5 is out of range"),
        ("decoder", {"methods": ["rolout"]}, "did you mean 'rollout'"),
        ("decoder", {"about": "next"}, "there is no method"),
        ("encoder", {"write": 3}, "writes nothing"),
        ("encoder", {"written": "a"}, "writes nothing"),
    ],
)
def test_what_cannot_be_seen_is_one_line(kind: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        see(toy(kind), "a fox", tokenizer=TOKENIZER, **more)
    assert "\n" not in str(caught.value)


def test_texts_that_are_empty_or_too_long_are_refused() -> None:
    with pytest.raises(UsageError, match="is empty"):
        see(toy("decoder"), "", tokenizer=TOKENIZER)
    model = drawn(TREES["decoder"] | {"vocab_size": TOKENIZER.vocab_size}).float()
    with pytest.raises(LayoutError, match="positions end at 12"):
        see(model, "a fox that ran", tokenizer=TOKENIZER)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_brings_the_targets_of_heads_that_they_tell_most_of(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = toy(kind), TEXT * 4
    monkeypatch.setattr(seeing, "BYTE_CELLS", 100)
    monkeypatch.setattr(seeing, "TOLD", 0)  # the best of each kind of attention, no more
    page = see(model, text, tokenizer=TOKENIZER, written=text[::-1] if kind == "encoder_decoder" else None)
    wished = seen_dense(model, page)
    best: dict[str, tuple[float, str, int]] = {}
    for name, w in wished.items():
        largest = np.argsort(-w, axis=-1, kind="stable")[..., :16]
        told = np.take_along_axis(w, largest, -1) * (largest > 0)
        for head, share in enumerate(told.sum((1, 2)) / w.sum((1, 2))):
            best[place_of(name)[0]] = max(best.get(place_of(name)[0], (0.0, "", 0)), (float(share), name, head))
    maps = page.exhibits[0].maps
    tops = {(one.name, place) for one in maps if isinstance(one, TiledMap) for place in one.tops}
    assert tops == {(name, head) for _, name, head in best.values()}


@pytest.mark.slow
def test_eight_thousand_tokens_with_targets_and_rows_stay_under_2_mb() -> None:
    made = np.random.default_rng(3)
    text = " ".join("".join(made.choice([*"etaoinshr"], made.integers(2, 9))) for _ in range(1700))[:8192]
    tree = TREES["decoder"] | {"vocab_size": TOKENIZER.vocab_size, "embedding": {"position": "sinusoidal"}}
    tree["stack"] = tree["stack"] | {"num_layers": 1}
    for asked in (["decoder.0.self.1"], []):
        page = see(drawn(tree).float(), text, tokenizer=TOKENIZER, exact=asked, rows=[8191])
        (one,) = page.exhibits[0].maps
        assert isinstance(one, TiledMap) and one.tiles.shape == (3, 256, 256) and len(page.exhibits[0].sides[0]) == 8192
        assert len(one.tops) == 1 and len(page.html) < 2_000_000

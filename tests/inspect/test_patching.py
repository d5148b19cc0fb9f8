"""A patched run is the same run recomputed by hand; attribution patching is its first-order estimate."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from configs_for_tests import pair
from stacks_for_explanations import IDS, SOURCE, TREES, question
from torch import Tensor

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.scope import Door, Scope, standing_at_the_door
from attnlib.errors import AttnlibError
from attnlib.inspect import patch, sites
from attnlib.inspect.explanations import ask
from attnlib.inspect.question import Question
from attnlib.inspect.reading import Reading, read
from attnlib.inspect.subject import drawn

OTHER, OTHER_SOURCE = [3, 1, 4, 2, 5, 9, 2], [6, 5, 7, 5, 8]


def texts(kind: str, target: str | None = None) -> tuple[Question, Reading]:
    clean = question(kind, target or ("next" if kind != "encoder" else "class=1/2"))
    return clean, read(clean.model, OTHER, OTHER_SOURCE if kind == "encoder_decoder" else None)


def logit(one: Question, hidden: Tensor) -> float:
    return float(one.values(one.read(hidden))[0, 0])


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_patched_stream_is_the_later_blocks_over_it(kind: str) -> None:
    clean, corrupt = texts(kind)
    found = patch(clean, corrupt)
    stack, ids = clean.model.stack, [torch.tensor([text.text.ids]) for text in (clean.reading, corrupt)]
    streams = [clean.model(row, hidden=True).hidden for row in ids]
    other = replace(clean, reading=corrupt)
    assert found.clean == pytest.approx(logit(clean, stack.finish(streams[0][-1])), abs=1e-12)
    assert found.corrupt == pytest.approx(logit(other, stack.finish(streams[1][-1])), abs=1e-12)
    assert [one.site for one in found.sites] == [f"{kind}.{place}" for place in ("embedding", "0.out", "1.out")]
    for layer, one in enumerate(found.sites):
        for column in range(7):
            x = streams[1][layer].clone()
            x[:, column] = streams[0][layer][:, column]
            layout, scope = clean.inputs()["text"].layout, Scope()
            for block in list(stack.blocks)[layer:]:
                x = block(x, layout, scope)
            assert one.values[column] == pytest.approx(logit(other, stack.finish(x)), abs=1e-10)
    assert np.abs(found.effect(found.sites[1])).max() > 1e-4
    assert found.restored(found.sites[0])[3] == pytest.approx(1.0)  # the only token that differs


class Swap(Door):
    """Another value for one head and row of one attention."""

    def __init__(self, path: str, head: int, column: int, value: Tensor | None) -> None:
        self.path, self.head, self.column, self.value = path, head, column, value
        self.seen: Tensor | None = None

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        out = run()
        if path == self.path:
            self.seen = out
            if self.value is not None:
                out = out.clone()
                out[:, self.head, self.column] = self.value[:, self.head, self.column]
        return out


@pytest.mark.parametrize("part", ["encoder.1.self", "decoder.0.self", "decoder.1.cross"])
def test_a_patched_head_is_its_output_put_at_the_door(part: str) -> None:
    clean, corrupt = texts("encoder_decoder")
    stack, layer, kind = part.split(".")
    found = patch(clean, corrupt, f"{stack}.{layer}.{'cross' if kind == 'cross' else 'attention'}.heads")
    assert len(found.sites) == 3 and {one.side for one in found.sites} == {"source" if stack == "encoder" else "text"}
    other = replace(clean, reading=corrupt)
    first = Swap(part, 0, 0, None)
    with standing_at_the_door(first):
        clean.logits(clean.inputs())
    for head, one in enumerate(found.sites):
        assert one.site.endswith(f".heads.{head}")
        for column in range(len(one.values)):
            with standing_at_the_door(Swap(part, head, column, first.seen)):
                wished = float(other.values(other.logits(other.inputs()))[0, 0])
            assert one.values[column] == pytest.approx(wished, abs=1e-10)
    assert max(np.abs(found.effect(one)).max() for one in found.sites) > 1e-4


def test_patches_are_the_same_in_small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, corrupt = texts("encoder_decoder")
    whole = patch(clean, corrupt, "*")
    monkeypatch.setattr("attnlib.inspect.patching.TOKENS_AT_ONCE", 30)
    for a, b in zip(whole.sites, patch(clean, corrupt, "*").sites, strict=True):
        np.testing.assert_allclose(a.values, b.values, atol=1e-12)
    assert {one.site.partition(".heads")[0] for one in whole.sites} >= {n.removesuffix(".heads") for n in sites(clean.model)}


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])  # the toy encoder's pooler is no linear map
def test_the_estimate_is_exact_for_what_is_read_linearly(kind: str) -> None:
    clean, corrupt = texts(kind)
    run, estimate = (patch(clean, corrupt, "decoder.final", gradient=gradient) for gradient in (False, True))
    np.testing.assert_allclose(run.sites[0].values, estimate.sites[0].values, atol=1e-12)
    assert abs(run.effect(run.sites[0])[-1]) > 1e-2 and estimate.estimated


def nearly(clean: Question, step: float) -> tuple[Reading, Question]:
    """The clean text with one token of each side replaced by one whose embedding lies `step` away."""
    table, sides = clean.model.embedding.token.weight, {}
    made = torch.Generator().manual_seed(4)
    for side in clean.sides:
        old, new = side.ids[1], 15 if side.name == "text" else 16
        with torch.no_grad():
            table[new] = table[old] + step * torch.randn(12, generator=made, dtype=torch.float64)
        sides[side.name] = [side.ids[0], new, *side.ids[2:]]
    return read(clean.model, sides["text"], sides.get("source")), clean


@pytest.mark.parametrize("kind", TREES)
def test_the_estimate_s_error_falls_with_the_square_of_the_difference(kind: str) -> None:
    errors, sizes = [], []
    for step in (1e-3, 1e-4):
        corrupt, clean = nearly(texts(kind, "class=1/2" if kind == "encoder" else "next=#3/#4")[0], step)
        run, estimate = (patch(clean, corrupt, "*", gradient=gradient) for gradient in (False, True))
        assert [one.site for one in run.sites] == [one.site for one in estimate.sites]
        pairs = list(zip(run.sites, estimate.sites, strict=True))
        errors.append(max(np.abs(a.values - b.values).max() for a, b in pairs))
        sizes.append(max(np.abs(run.effect(a)).max() for a in run.sites))
    assert errors[0] > 1e-12 and sizes[0] / sizes[1] == pytest.approx(10, rel=0.1)
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.2)


def test_the_csv_has_a_line_a_site_and_position() -> None:
    clean, corrupt = texts("encoder_decoder")
    found = patch(clean, corrupt, ["encoder.0.out", "decoder.0.attention.heads"])
    rows = list(csv.DictReader(io.StringIO(found.csv())))
    assert len(rows) == len(SOURCE) + 3 * len(clean.reading.text)
    assert rows[2]["clean_token"] == "#3" and rows[2]["corrupt_token"] == "#7" and rows[2]["site"] == "encoder.0.out"
    assert float(rows[2]["value"]) == found.sites[0].values[2]
    assert float(rows[2]["effect"]) == found.effect(found.sites[0])[2]
    assert found.tree()["sites"][0]["values"] == found.sites[0].values.tolist()


def test_what_cannot_be_patched_is_one_line() -> None:
    clean, corrupt = texts("decoder")
    model = drawn(pair(), seed=1, device=torch.device("cpu"), dtype=torch.float64)
    several = ask(model, read(model, IDS, SOURCE))
    same = patch(clean, clean.reading, "decoder.0.out")
    assert np.isnan(same.restored(same.sites[0])).all() and np.allclose(same.effect(same.sites[0]), 0)
    for call, words in (
        (lambda: patch(clean, read(clean.model, OTHER[:6])), "corrupt text: has 6 tokens, the clean one 7.*at token 3"),
        (lambda: patch(several, several.reading), "target: 6 are asked for"),
        (lambda: patch(clean, corrupt, "decoder.0.attention.head"), "did you mean 'decoder.0.attention.heads'"),
    ):
        with pytest.raises(AttnlibError, match=words):
            call()

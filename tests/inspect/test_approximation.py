"""What approximates attention knows what, is nearer the more it is given, and is it where nothing is left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from configs_for_tests import decoder, encoder

from attnlib.attention.masks import Causal, Chunk, Everything, First, Global, Mask, Not, Prefix, Window
from attnlib.attention.patterns import ByHead, Dilated, filled
from attnlib.attention.softmax import MixerSpec
from attnlib.inspect.approximation import approximations, between, distance
from attnlib.inspect.explain import explain
from attnlib.spec import read

TOKENS, WIDTH = 24, 16


def mixer(**tree: Any) -> MixerSpec:
    return read(MixerSpec, {"num_heads": 2, **tree})


def away(**tree: Any) -> float:
    found = distance(mixer(**tree), TOKENS, d_model=WIDTH)
    assert found is not None
    return found


FALLS: dict[str, list[dict[str, Any]]] = {  # each nearer than the one before
    "performer": [{"kind": "performer", "num_features": n} for n in (4, 64, 1024)],
    "performer, causal": [{"kind": "performer", "num_features": n, "mask": "causal"} for n in (4, 64, 1024)],
    "nystrom": [{"kind": "nystrom", "num_landmarks": n, "kernel": 3} for n in (1, 8, TOKENS - 1)],
    "top_k": [{"scores": {"normaliser": {"kind": "top_k", "count": n}}} for n in (1, 8, TOKENS - 1)],
    "block_routing": [{"mask": "causal", "term": {"kind": "block_routing", "size": 4, "count": n}} for n in (1, 3, 5)],
    "window": [{"mask": ["causal", {"kind": "window", "before": n}]} for n in (0, 7, TOKENS - 2)],
    "lsh": [{"term": {"kind": "lsh", "buckets": 4, "rounds": n}} for n in (1, 4, 12)],
    "strided": [{"mask": ["causal", {"kind": "strided", "stride": n}]} for n in (7, 15, 22)],
}
WHOLE: dict[str, dict[str, Any]] = {
    "nystrom": {"kind": "nystrom", "num_landmarks": TOKENS, "kernel": 3},
    "top_k": {"scores": {"normaliser": {"kind": "top_k", "count": TOKENS}, "softcap": 3.0}, "num_kv_heads": 1},
    "block_routing": {"mask": "causal", "term": {"kind": "block_routing", "size": 4, "count": 6}, "rotary": {}},
    "window": {"mask": {"kind": "window", "before": TOKENS - 1}, "kind": "gated"},
    "dilated": {"mask": ["causal", {"kind": "dilated", "step": 1}], "qk_norm": "head"},
}


@pytest.mark.parametrize("name", FALLS)
def test_it_is_nearer_the_more_it_is_given(name: str) -> None:
    first, second, third = (away(**tree) for tree in FALLS[name])
    assert first > second > third > 0.0 and third < 0.5 * first


@pytest.mark.parametrize("name", WHOLE)
def test_what_leaves_nothing_out_is_exact(name: str) -> None:
    assert away(**WHOLE[name]) < 1e-5


@torch.no_grad()
def test_a_linformer_that_projects_each_token_to_itself_is_exact() -> None:
    spec = mixer(kind="linformer", rank=TOKENS, max_length=TOKENS)
    ours, exact = (one.build(d_model=WIDTH, layer=0) for one in (spec, spec.exact()))  # type: ignore[union-attr]
    x = torch.randn(2, TOKENS, WIDTH)
    assert between(ours, exact, x) > 0.01
    for table in (ours.e, ours.f):
        table.copy_(torch.eye(TOKENS))  # type: ignore[operator]
    assert between(ours, exact, x) < 1e-6


def test_cross_attention_is_compared_over_a_source() -> None:
    few, many = (distance(mixer(kind="performer", num_features=n), TOKENS, d_model=WIDTH, d_memory=10) for n in (4, 1024))
    assert few is not None and many is not None and few > 2 * many


def test_what_is_its_own_definition_has_no_distance() -> None:
    plain = [{}, {"mask": "causal"}, {"kind": "linear"}, {"kind": "retention", "mask": "causal"}, {"kind": "gated"},
             {"scores": {"normaliser": "sparsemax"}}, {"term": "alibi"},
             {"kind": "performer", "rotary": {}}, {"kind": "performer", "d_value": 4}]  # fmt: skip
    for tree in plain:
        assert distance(mixer(**tree), TOKENS, d_model=WIDTH) is None


FILLED: list[tuple[Mask, Mask]] = [
    (Causal() & Window(before=3), Causal()),
    (Causal() & (Window(before=3) | First(count=2)), Causal()),
    (Window(before=3, after=3) | Global(), Everything()),
    (Causal() | Prefix(), Causal() | Prefix()),
    (Not(mask=Causal()), Not(mask=Causal())),
    (Causal() & Chunk(size=4) & Not(mask=First(count=1)), Causal() & Not(mask=First(count=1))),
    (ByHead(masks=(Causal(), Causal() & Dilated(step=2))), Causal()),
    (ByHead(masks=(Causal(), Dilated(step=2))), ByHead(masks=(Causal(), Everything()))),
]


@pytest.mark.parametrize(("mask", "wished"), FILLED)
def test_a_mask_without_its_sparse_patterns(mask: Mask, wished: Mask) -> None:
    assert filled(mask) == wished


def test_explain_tells_the_distance_of_what_approximates_alone() -> None:
    local = {"num_heads": 4, "mask": ["causal", {"kind": "window", "before": 2}]}
    spec = decoder({"attention": {"num_heads": 4, "mask": "causal"}})
    assert approximations(spec, 9) == {} and "approximates" not in explain(spec, tokens=9).text()
    found = explain(decoder({"attention": local}), tokens=9)
    assert found.away.keys() == {place.path for place in found.places}
    assert found.text().count("away from exact attention") == 1  # layers alike are told together
    assert all(0.01 < one < 2.0 for one in found.away.values())
    assert not explain(encoder({"attention": local | {"mask": {"kind": "window", "before": 9, "after": 9}}}), tokens=9
                       ).away["encoder.0.self"] > 1e-5  # fmt: skip

"""check passes on models of every kind, and fails where something is broken."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from configs_for_tests import FEATURES, LOCAL, SINKS, SPECS, decoder, encoder, pair
from torch import Tensor

from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.backends.reference import Reference
from attnlib.attention.backends.sdpa import SDPA
from attnlib.attention.caches import Growing, Rolling
from attnlib.errors import LayoutError
from attnlib.inspect import check as module
from attnlib.inspect.check import Finding, check, checked_tokens
from attnlib.layout import Layout
from attnlib.models.spec import ModelSpec
from attnlib.nn.norms import RMSNorm

BEFORE_BACKENDS = "leakage between packed texts"  # the last check before the backends, which take most of the time


def failures(spec: ModelSpec, *, whole: bool = False, **choices: Any) -> set[str]:
    """Names of the checks that fail; unless `whole`, of those before the backends."""
    failed = set()
    for found in check(spec, **{"tokens": 9, **choices}):
        failed |= set() if found.ok else {found.name}
        if found.name == BEFORE_BACKENDS and not whole:
            break
    return failed


def test_every_kind_of_model_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    # one test for all: each would begin by tracing flex_attention anew
    backends = module._backends
    for number, (name, spec) in enumerate({**SPECS, "pair, features": FEATURES}.items()):
        # every backend beside every rule is the contract matrix's matter: here a fourth of the kinds goes through them
        monkeypatch.setattr(module, "_backends", backends if number % 4 == 0 else lambda *_: iter(()))
        found = list(check(spec, tokens=9))
        assert [str(one) for one in found if not one.ok] == [], name
        names = {one.name for one in found if one.figure is not None}
        assert {"batch = alone", "padding on the left = alone", "packed = separate", "parameters saved and loaded"} <= names
        assert ("causal leakage by gradient" in names) == ("encoder" not in name)


def test_single_precision_has_its_own_bounds() -> None:
    assert failures(decoder(LOCAL), dtype=torch.float32) == set()
    assert failures(pair(), dtype=torch.bfloat16, whole=True) == set()


def test_equal_seeds_give_equal_figures() -> None:
    def figures(seed: int) -> list[float | None]:
        return [one.figure for one in itertools.islice(check(decoder(), tokens=5, seed=seed), 8)]

    assert figures(1) == figures(1) != figures(2)


def test_positions_that_count_columns_fail_padding_on_the_left(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Layout.from_lengths

    def counting_columns(*args: Any, **options: Any) -> Layout:
        layout = made(*args, **options)
        if layout.segments is None:
            return layout
        columns = torch.arange(layout.tokens).expand_as(layout.positions)
        return Layout(columns, layout.segments, None, layout.runs, layout.tokens)

    spec = decoder(embedding={"position": {"kind": "learned", "max_length": 20}})
    monkeypatch.setattr(Layout, "from_lengths", staticmethod(counting_columns))
    assert "padding on the left = alone" in failures(spec)


def test_rows_that_mix_fail_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = RMSNorm.forward
    monkeypatch.setattr(RMSNorm, "forward", lambda self, x: whole(self, x - 0.01 * x.mean(0, keepdim=True)))
    assert "batch = alone" in failures(decoder())


def test_a_kernel_that_sees_ahead_fails_leakage_and_its_own_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: SDPA, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=call.rule.scale)

    monkeypatch.setattr(SDPA, "__call__", blind)
    found = failures(decoder(), whole=True)
    assert {"causal leakage by gradient", "sdpa float32 = reference float64", "sdpa float32, gradients"} <= found
    assert "chunked float32 = reference float64" not in found


def test_a_cache_one_token_short_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Rolling.__init__

    def short(self: Rolling, keeps: Any) -> None:
        whole(self, keeps)
        self.last -= 1

    monkeypatch.setattr(Rolling, "__init__", short)
    for block in (LOCAL, SINKS):
        found = failures(decoder(block))
        assert "cache rolling, chunks of 1 = no cache" in found
        assert not any(name.startswith(("cache growing", "cache static")) for name in found)


def test_an_error_on_the_way_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Growing, layout: Layout) -> None:
        raise RuntimeError("no room\nsecond line")

    monkeypatch.setattr(Growing, "extend", broken)
    found = [one for one in itertools.islice(check(decoder(), tokens=6), 8) if not one.ok]
    assert {one.note for one in found} == {"RuntimeError: no room"}


def test_what_is_saved_is_compared_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnlib import pretrained

    whole = pretrained.load

    def changed(*args: Any, **options: Any) -> Any:
        model = whole(*args, **options)
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] *= 1 + 1e-15
        return model

    monkeypatch.setattr(pretrained, "load", changed)
    assert failures(encoder(), whole=True) == {"parameters saved and loaded"}


@pytest.fixture
def wrong_gradient() -> Iterator[str]:
    class Halved(Backend):
        name = "halved"

        def refuses(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> str | None:
            return "softcap is not known" if call.rule.softcap else None

        def __call__(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
            return Reference()(q, (k + k.detach()) / 2, v, call)

    yield "halved"
    from attnlib.attention.backends import protocol

    del protocol._known["halved"]


def test_a_new_backend_is_checked_with_its_gradient_and_its_refusals(wrong_gradient: str) -> None:
    assert failures(decoder(), whole=True) == {"halved float32, gradients"}
    refused = [one for one in check(SPECS["softcap, sink logits"], tokens=6) if one.name == "halved refuses"]
    assert len(refused) == 1 and refused[0].ok and "softcap is not known" in refused[0].note


def test_weights_that_tell_nothing_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = module.drawn

    def silent(*args: Any, **options: Any) -> Any:
        model = drawn(*args, **options)
        for block in model.stack.blocks:
            torch.nn.init.zeros_(block.attention.body.out.weight)
        return model

    monkeypatch.setattr(module, "drawn", silent)
    assert "sensitive to every kind of input" in failures(decoder())


def test_the_length_passes_small_windows_and_stays_within_positions() -> None:
    assert checked_tokens(decoder(), None) == 13
    assert checked_tokens(decoder(LOCAL), None) == 13 and checked_tokens(decoder(SINKS), 30) == 30
    assert checked_tokens(encoder(embedding={"position": {"kind": "learned", "max_length": 7}}), None) == 7
    with pytest.raises(LayoutError, match="end at 40"):
        checked_tokens(SPECS["encoder"], 41)
    with pytest.raises(LayoutError, match="at least 4"):
        checked_tokens(decoder(), 3)


def test_not_a_number_is_never_ok() -> None:
    assert not Finding("x", float("nan"), 1.0).ok and not Finding("x", float("nan"), 1.0, least=True).ok
    assert Finding("x", None, 1.0, "why").ok and "why" in str(Finding("x", None, 1.0, "why"))

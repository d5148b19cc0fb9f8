"""explain names what would really run, and says why the rest does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from configs_for_tests import SPECS, attention, decoder, encoder, pair
from torch import Tensor

from attnlib.attention.backends.choose import choose
from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.linear import scan
from attnlib.attention.masks import Causal, Chunk, First, Window
from attnlib.attention.scope import standing_at_the_door
from attnlib.errors import LayoutError
from attnlib.inspect.explain import explain, words
from attnlib.layout import Layout
from attnlib.models.spec import ModelSpec


def chosen(spec: ModelSpec, layout: Layout, train: bool) -> dict[str, str]:
    """The backends that a real model on the CPU asks for."""
    model = spec.build().train(train)
    found: dict[str, str] = {}

    def door(path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        found[path] = choose(q, k, v, call).name
        return run()

    ids = torch.zeros(layout.batch, layout.tokens, dtype=torch.long)
    with standing_at_the_door(door), torch.set_grad_enabled(train):
        model(*((ids, ids, layout, layout) if type(spec).kind == "encoder_decoder" else (ids, layout)))
    return found


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_explained_backends_are_those_that_run(name: str, train: bool) -> None:
    found = explain(SPECS[name], tokens=12, batch=2, train=train)
    layouts = {"full batch": Layout.dense(2, 12), "padded batch": Layout.from_lengths([12, 6], 12),
               "packed batch": Layout.packed([[6, 6]] * 2, 12)}  # fmt: skip
    for situation, layout in layouts.items():
        told = {choice.path: choice.chosen for choice in found.choices if choice.situation == situation}
        assert told == chosen(SPECS[name], layout, train), situation


def test_every_backend_is_chosen_or_has_a_reason() -> None:
    for name, spec in SPECS.items():
        for choice in explain(spec, tokens=8).choices:
            assert {choice.chosen, *choice.others} == set(Backend.known()), name
            assert all(choice.others.values())


def test_a_decode_step_is_explained_for_models_that_write() -> None:
    def situations(spec: ModelSpec) -> list[str]:
        return list(dict.fromkeys(choice.situation for choice in explain(spec, tokens=8).choices))

    assert situations(SPECS["decoder"])[-1] == "decode step" == situations(pair(head="none"))[-1]
    assert "decode step" not in situations(SPECS["encoder"])


def test_layers_alike_are_told_once_and_others_apart() -> None:
    text = explain(SPECS["local and global"], tokens=8).text()
    assert "decoder.0.self .. decoder.1.self (2 alike): 4 heads of 6 over 2 key-value heads" in text
    assert "decoder.2.self: 4 heads of 6 over 1 key-value heads" in text
    assert text.count("mask causal & window(before=5)") == 1 and "softcap" not in text


def test_refusals_name_the_part_that_is_not_known() -> None:
    spec = decoder(attention(scores={"softcap": 3.0}))
    (first, *_) = explain(spec, tokens=8).choices
    assert "does not know softcap" in first.others["sdpa"]
    trained = explain(spec, tokens=8, train=True).choices[0]
    assert "no backward on the CPU" in trained.others["flex"]


def test_masks_are_written_as_one_would() -> None:
    assert words(Causal() & Window(before=3)) == "causal & window(before=3)"
    assert words(Causal() & (Window(before=3) | First(count=1))) == "causal & (window(before=3) | first(count=1))"
    assert words(~(Causal() | Chunk(size=2))) == "~(causal | chunk(size=2))" and words(~Causal()) == "~causal"


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(LayoutError, match="end at 40"):
        explain(SPECS["encoder"], tokens=41)


def test_of_recurrences_what_runs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    for name, told in (("_step", "one step of the state"), ("chunks", "scan in chunks of 16")):
        was = getattr(scan, name)
        monkeypatch.setattr(scan, name, lambda *a, was=was, told=told: ran.append(told) or was(*a))
    spec = decoder({"attention": {"kind": "gla", "num_heads": 2, "mask": "causal"}})
    told = {choice.situation: choice.chosen for choice in explain(spec, tokens=12).of("decoder.1.self")}
    ran.clear()
    model: Any = spec.build().eval()
    with torch.no_grad():
        model(torch.zeros(2, 12, dtype=torch.long))
        assert {*ran} == {told["full batch"]}
        state = model.begin(batch=2)
        ran.clear()
        model.step(torch.zeros(2, 1, dtype=torch.long), None, state)
        assert {*ran} == {told["decode step"]}
    assert told.keys() == {"full batch", "padded batch", "packed batch", "decode step"}


def test_mixers_beside_each_other_are_told_apart() -> None:
    mixers = [{"num_heads": 2}, {"kind": "lstm", "d_hidden": 5}]
    found = explain(encoder({"attention": {"kind": "beside", "mixers": mixers}}), tokens=8)
    assert [place.path for place in found.places] == [f"encoder.{layer}.self:{n}" for layer in (0, 1) for n in (0, 1)]
    assert "LSTMCell, state of 5" in found.text() and "forward and back" in found.of("encoder.0.self:1")[0].chosen


def test_global_tokens_are_told_apart() -> None:
    mask = {"kind": "any", "masks": [{"kind": "window", "before": 2}, "global"]}
    spec = encoder({"attention": {"kind": "local_global", "num_heads": 4, "first": 2, "mask": mask}})
    told = [choice.situation for choice in explain(spec, tokens=8).of("encoder.0.self")]
    assert told[:2] == ["full batch", "full batch, 2 of its queries apart"]


def test_each_text_of_a_packed_row_has_its_own_global_tokens() -> None:
    mask = {"kind": "any", "masks": [{"kind": "window", "before": 2}, "global"]}
    spec = encoder({"attention": {"kind": "local_global", "num_heads": 4, "first": 6, "mask": mask}})
    met: list[tuple[int, str]] = []

    def door(path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        met.append((q.shape[2], choose(q, k, v, call).name))
        return run()

    with standing_at_the_door(door):
        spec.build().eval()(torch.zeros(2, 9, dtype=torch.long), Layout.packed([[4, 5]] * 2, 9))
    told = [c for c in explain(spec, tokens=9).of("encoder.0.self") if c.situation.startswith("packed batch")]
    assert told[1].situation == "packed batch, 9 of its queries apart"  # 6, but no more than there are, of each text
    assert [name for _, name in met[:2]] == [choice.chosen for choice in told] and met[1][0] == 9

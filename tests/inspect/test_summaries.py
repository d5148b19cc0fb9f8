"""What is summed up in blocks is what the whole map says, for every mask, layout and cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from configs_for_tests import LOCAL, SINKS, SPECS, attention, decoder, encoder
from torch import Tensor

from attnlib.errors import UsageError
from attnlib.generate.prompts import blocks
from attnlib.inspect import Summaries, Summary, record
from attnlib.inspect.subject import drawn
from attnlib.layout import Layout

CPU, FP32 = torch.device("cpu"), torch.float32
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])
SPANS, SOURCE = [0, 0, 2, 1, 1, -1, 2], [1, 1, 0, 0, 0, 3, 3]
OPTIONS = Summaries(top=3, windows=(0, 1, 2, 4), sinks=2, spans=SPANS, source_spans=SOURCE)


def near(a: Tensor, b: Tensor, what: str) -> None:
    torch.testing.assert_close(a.double(), b, atol=1e-6, rtol=1e-6, msg=lambda words: f"{what}: {words}")


def agrees(found: Summary, map_: Tensor, options: Summaries, spans: tuple[Any, Any]) -> None:
    """Each figure beside its definition on the map [h, Q, K], in float64."""
    w = map_.double()
    queries, keys = w.shape[1:]
    near(found.received, w.sum(1), "received")
    near(found.given, w.sum(2), "given")
    near(found.entropy, -(w * torch.where(w > 0, w, 1.0).log()).sum(2), "entropy")
    near(found.sink, w[:, :, : options.sinks].sum(2), "sink")
    top = min(options.top, keys)
    values = w.sort(-1, descending=True).values[..., :top]
    near(found.top_weights[..., :top], values, "top weights")
    assert not bool(found.top_weights[..., top:].any())
    at = w.gather(-1, found.top_keys.clamp(min=0)[..., :top].long())
    near(torch.where(found.top_keys[..., :top] < 0, 0.0, at), values, "top keys")
    if found.path.endswith("cross"):
        assert found.distance is None and found.outside is None and found.outside_most is None
    else:
        far = (torch.arange(queries)[:, None] - torch.arange(keys)).abs()
        assert found.distance is not None and found.outside is not None and found.outside_most is not None
        near(found.distance, (w * far).sum(2) / w.sum(2).clamp(min=1e-30), "distance")
        lost = torch.stack([(w * (far > n)).sum(2) for n in options.windows], -1)
        near(found.outside, lost.mean(1), "outside")
        near(found.outside_most, lost.amax(1), "most outside")
    if spans[0] is None:
        assert found.flow is None
        return
    member = [torch.stack([torch.tensor(s) == i for i in range(max(s) + 1)]).double() for s in spans]
    assert found.flow is not None
    near(found.flow, member[0] @ w @ member[1].T, "flow")


def sides(path: str, both: bool) -> tuple[list[int], list[int]]:
    if not both:
        return SPANS, SPANS
    return (SOURCE, SOURCE) if path.startswith("encoder") else (SPANS, SOURCE if path.endswith("cross") else SPANS)


@pytest.mark.parametrize("name", SPECS)
def test_summaries_are_what_the_map_says(name: str) -> None:
    model = drawn(SPECS[name], seed=2, device=CPU, dtype=FP32)
    both = type(SPECS[name]).kind == "encoder_decoder"
    given = (IDS, IDS) if both else (IDS,)
    with torch.no_grad():
        plain = model(*given).last
        with record(model, summaries=OPTIONS, heads=[0, 3]) as seen:
            assert torch.equal(model(*given).last, plain)
    for path in seen.weights:
        for row in (0, 1):
            agrees(seen.summary(path, row), seen[path].dense(row), OPTIONS, sides(path, both))


@pytest.mark.parametrize("block", [attention(), LOCAL, SINKS, attention(mask="everything")])
def test_long_texts_agree_through_all_tiles(block: dict[str, Any]) -> None:
    spans = [i // 37 % 9 for i in range(700)]
    options = Summaries(top=2, windows=(0, 3, 64, 65, 130, 699, 2000), sinks=5, spans=spans)
    model = drawn((encoder if block == attention(mask="everything") else decoder)(block), seed=4, device=CPU, dtype=FP32)
    with torch.no_grad(), record(model, layers=0, heads=[1, 2], summaries=options) as seen:
        model(torch.randint(61, (2, 700), generator=torch.Generator().manual_seed(1)))
    for path in seen.weights:
        agrees(seen.summary(path, 1), seen[path].dense(1), options, (spans, spans))


def test_padded_texts_are_summed_up_as_alone() -> None:
    plain = Summaries(top=3, windows=(0, 1, 2, 4), sinks=2)
    for name in ("grouped, local", "sinks kept", "local encoder", "alibi"):
        model = drawn(SPECS[name], seed=2, device=CPU, dtype=FP32)
        for side in ("left", "right"):
            layout = Layout.from_lengths([6, 3], 7, side=side)
            with torch.no_grad(), record(model, weights=False, summaries=plain) as seen:
                model(IDS, layout)
            with torch.no_grad(), record(model) as alone:
                model(IDS[1:, layout.real[1]])
            assert seen.weights == {}
            for path in alone.weights:
                agrees(seen.summary(path, 1), alone[path].dense(), plain, (None, None))


def test_of_a_text_packed_into_a_row_each_token_is_told_as_alone() -> None:
    plain = Summaries(top=3, windows=(0, 1, 2, 4), sinks=2)
    for name in ("grouped, local", "sinks kept", "local encoder", "alibi"):
        model = drawn(SPECS[name], seed=2, device=CPU, dtype=FP32)
        layout = Layout.packed([[2, 5], [4, 1]], 7)
        with torch.no_grad(), record(model, summaries=plain) as seen:
            model(IDS, layout)
        with torch.no_grad(), record(model, summaries=plain) as alone:
            model(IDS[:1, 2:])
        for path in alone.weights:
            part, own = seen.summary(path, 0, segment=1), alone.summary(path)
            for figure in ("received", "given", "entropy", "sink", "distance", "top_weights"):
                near(getattr(part, figure), getattr(own, figure).double(), figure)
            assert torch.equal(part.top_keys, own.top_keys)
            lost = [float((seen[path].dense() * _farther(n)).sum(-1).mean(-1)[0]) for n in plain.windows]
            near(seen.summary(path).outside[0], torch.tensor(lost).double(), "outside, of all texts of the row")


def _farther(n: int) -> Tensor:
    return (torch.arange(7)[:, None] - torch.arange(7)).abs() > n


@pytest.mark.parametrize("cache", ["growing", "rolling", "static"])
@pytest.mark.parametrize("name", ["decoder", "sinks kept", "shaw, qk-norm"])
def test_decoded_texts_are_summed_up_step_by_step(name: str, cache: str) -> None:
    model = drawn(SPECS[name], seed=2, device=CPU, dtype=FP32)
    rows = [IDS[0].tolist(), IDS[1, :4].tolist()]
    with torch.no_grad(), record(model, summaries=OPTIONS) as seen:
        state = model.begin(batch=2, cache=cache, capacity=7)
        for ids, layout, _ in blocks(rows, "left", 1, CPU):
            model.step(ids, layout, state)
    for path in seen.weights:
        agrees(seen.summary(path), seen[path].dense(), OPTIONS, (SPANS, SPANS))
        assert seen.summary(path, 1).received.shape == (4, 4)


def test_summaries_follow_their_beams() -> None:
    model = drawn(SPECS["pair"], seed=2, device=CPU, dtype=FP32)
    with torch.no_grad(), record(model, summaries=OPTIONS) as seen:
        state = model.begin(IDS)
        model.step(IDS[:, :2], None, state)
        for rows in ([1, 0, 1], [2, 2, 0], [1, 2]):
            state.select(torch.tensor(rows))
            model.step(torch.arange(len(rows))[:, None], None, state)
    for path in seen.weights:
        spans = (SOURCE, SOURCE) if path.startswith("encoder") else (SPANS[:5], SOURCE if "cross" in path else SPANS[:5])
        for row in (0, 1):
            found = seen.summary(path, row)
            agrees(found, seen[path].dense(row), OPTIONS, spans)


def test_the_rows_kept_do_not_narrow_the_summary() -> None:
    model = drawn(SPECS["decoder"], seed=2, device=CPU, dtype=FP32)
    with torch.no_grad(), record(model, summaries=True, rows=[3]) as some:
        model(IDS)
    with torch.no_grad(), record(model, summaries=True) as seen:
        model(IDS)
    assert some["decoder.0.self"].queries() == [3]
    assert torch.equal(some.summary("decoder.0.self").received, seen.summary("decoder.0.self").received)


def test_options_that_cannot_be_are_refused() -> None:
    for wrong, words in (({"top": -1}, "top: -1, wish whole numbers from 0"), ({"windows": (4, -1)}, "windows"),
                         ({"sinks": 1.5}, "sinks: 1.5"), ({"spans": [0, -2]}, "wish whole numbers from -1")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            Summaries(**wrong)
    model = drawn(SPECS["decoder"], seed=2, device=CPU, dtype=FP32)
    with torch.no_grad(), record(model) as seen:
        model(IDS)
    with pytest.raises(UsageError, match=r"'decoder.0.self' was not summed up, wish one of none"):
        seen.summary("decoder.0.self")

"""Recording sees every attention as it is, and changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from configs_for_tests import LOCAL, SINKS, SPECS, decoder, encoder, pair
from torch import Tensor, nn

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.backends.reference import weights
from attnlib.attention.scope import Door, standing_at_the_door
from attnlib.attention.softmax import MixerSpec
from attnlib.errors import UsageError
from attnlib.generate.prompts import blocks
from attnlib.inspect import record
from attnlib.inspect import rows as module
from attnlib.inspect.sites import sites
from attnlib.inspect.subject import drawn
from attnlib.layout import Layout

CPU, FP32 = torch.device("cpu"), torch.float32
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])


class Whole(Door):
    """The definition, asked for all weights at once."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        self.seen[path] = weights(q, k, call)
        return run()


def made(name: str) -> tuple[Any, tuple[Tensor, ...]]:
    model = drawn(SPECS[name], seed=2, device=CPU, dtype=FP32)
    return model, (IDS, IDS) if type(SPECS[name]).kind == "encoder_decoder" else (IDS,)


def near(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def test_recorded_weights_are_softmax_of_scores_by_hand() -> None:
    model = drawn(decoder(LOCAL), seed=1, device=CPU, dtype=FP32)
    body = model.stack.blocks[0].attention.body
    with torch.no_grad(), record(model, layers=0) as seen:
        stream = model(IDS, hidden=True).hidden[0]
        x = model.stack.blocks[0].attention.before(stream)
        table = body.rotary.table(Layout.dense(2, 7), 6, FP32)
        q = body.rotary.turn(body.q(x).unflatten(2, (4, 6)).transpose(1, 2), table)
        k = body.rotary.turn(body.k(x).unflatten(2, (2, 6)).transpose(1, 2), table).repeat_interleave(2, 1)
        distance = torch.arange(7)[:, None] - torch.arange(7)
        scores = (q @ k.mT * 6**-0.5).masked_fill((distance < 0) | (distance > 5), -torch.inf)
    for row in (0, 1):
        near(seen["decoder.0.self"].dense(row), scores.softmax(-1)[row], 2e-6)
    assert list(seen.weights) == ["decoder.0.self"]


@pytest.mark.parametrize("name", SPECS)
def test_recording_changes_no_output_and_gives_what_the_definition_gives(name: str) -> None:
    model, given = made(name)
    whole = Whole()
    with torch.no_grad():
        plain = model(*given).last
        with record(model) as seen, torch.inference_mode():
            watched = model(*given).last
        with record(model, heads=[1, 3]) as some:
            model(*given)
        with standing_at_the_door(whole):
            model(*given)
    assert torch.equal(plain, watched) and list(seen.weights) == list(whole.seen)
    for path, wished in whole.seen.items():
        for row in (0, 1):
            near(seen[path].dense(row), wished[row])
            near(some[path].dense(row), wished[row, [1, 3]])
        assert some[path].heads == (1, 3) and seen[path].heads == (0, 1, 2, 3)


@pytest.mark.parametrize("cache", ["growing", "rolling", "static"])
@pytest.mark.parametrize("name", ["decoder", "grouped, local", "local and global", "sinks kept", "alibi", "shaw, qk-norm"])
def test_decoded_texts_are_joined_to_what_one_forward_shows(name: str, cache: str) -> None:
    model, _ = made(name)
    rows = [IDS[0].tolist(), IDS[1, :4].tolist(), IDS[1, 2:5].tolist()]
    with torch.no_grad(), record(model) as seen:
        state = model.begin(batch=3, cache=cache, capacity=7)
        for ids, layout, _ in blocks(rows, "left", 3, CPU):
            model.step(ids, layout, state)
    with torch.no_grad():
        for number, row in enumerate(rows):
            with record(model) as alone:
                model(torch.tensor([row]))
            for path in alone.weights:
                near(seen[path].dense(number), alone[path].dense())
                assert len(seen.weights[path]) == 1


def test_each_text_is_one_of_its_own_whether_cached_or_not() -> None:
    model, _ = made("decoder")
    with torch.no_grad(), record(model, layers=[1]) as seen:
        for _ in range(2):
            state = model.begin(batch=2)
            for column in range(3):
                model.step(IDS[:, column : column + 1], None, state)
        model(IDS)
        model(IDS[:1, :4])
    shapes = [tuple(one.dense().shape) for one in seen.weights["decoder.1.self"]]
    assert shapes == [(4, 3, 3), (4, 3, 3), (4, 7, 7), (4, 4, 4)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["grouped, local", "sinks kept", "local encoder", "pair"])
def test_pads_are_cut_away(name: str, side: str) -> None:
    model, given = made(name)
    layouts = [Layout.from_lengths([6, 3], 7, side=side), Layout.from_lengths([2, 7], 7, side=side)][: len(given)]
    with torch.no_grad(), record(model) as seen:
        model(*given, *layouts)
    with torch.no_grad(), record(model) as alone:
        model(*[ids[1:, layout.real[1]] for ids, layout in zip(given, layouts)])
    for path in alone.weights:
        near(seen[path].dense(1), alone[path].dense())


def test_a_text_packed_into_a_row_is_seen_as_alone() -> None:
    for name in ("grouped, local", "local encoder", "pair"):
        model, given = made(name)
        layouts = [Layout.packed([[2, 5], [4, 1]], 7), Layout.packed([[4, 2], [3, 3]], 7)][: len(given)]
        with torch.no_grad(), record(model) as seen:
            model(*given, *layouts)
        with torch.no_grad(), record(model) as alone:
            model(*[ids[:1, (layout.segments[0] == 1)] for ids, layout in zip(given, layouts)])
        for path in alone.weights:
            near(seen[path].dense(0, segment=1), alone[path].dense())
        whole = seen[next(iter(seen.weights))].dense(0)
        assert whole.shape == (4, 7, 7) and not bool(whole[:, :2, 2:].any())


def test_rows_follow_their_beams() -> None:
    for name in ("grouped, local", "pair"):
        model, given = made(name)
        source = given[:1] if name == "pair" else ()
        picks = [torch.tensor([1, 0, 1]), torch.tensor([2, 2, 0]), torch.tensor([1, 2])]
        texts = IDS[:, :2].tolist()
        with torch.no_grad(), record(model) as seen:
            state = model.begin(*source, batch=2)
            model.step(IDS[:, :2], None, state)
            for step, rows in enumerate(picks):
                state.select(rows)
                new = [10 * step + place for place in range(len(rows))]
                texts = [[*texts[row], token] for row, token in zip(rows.tolist(), new)]
                model.step(torch.tensor(new)[:, None], None, state)
        origin = picks[0][picks[1][picks[2]]]
        with torch.no_grad(), record(model) as alone:
            model(*[ids[origin] for ids in source], torch.tensor(texts))
        for path in alone.weights:
            for row in range(2):
                near(seen[path].dense(row), alone[path].dense(row))


def test_only_the_rows_asked_for_are_kept() -> None:
    model, _ = made("decoder")
    with torch.no_grad(), record(model) as seen:
        model(IDS)
    for rows, kept in (([5, 2], [2, 5]), (slice(1, 7, 3), [1, 4]), (6, [6])):
        with torch.no_grad(), record(model, rows=rows) as some:
            model(IDS)
            assert some["decoder.1.self"].queries() == kept
            near(some["decoder.1.self"].dense(1), seen["decoder.1.self"].dense(1)[:, kept])
            (one, _) = some.maps(list("abcdefg"))
            assert one.query_tokens == ["abcdefg"[i] for i in kept]
            assert some["decoder.1.self"].nbytes <= len(kept) * 2 * 4 * 7 * 4


@pytest.mark.parametrize("block", [LOCAL, SINKS], ids=["window", "window and first tokens"])
def test_windows_are_kept_as_bands(block: dict[str, Any]) -> None:
    model = drawn(decoder(block), seed=3, device=CPU, dtype=FP32)
    kept = {}
    for tokens in (512, 1024):
        with torch.no_grad(), record(model, layers=0, dtype=torch.float16) as seen:
            model(torch.arange(tokens)[None] % 61)
        one = seen["decoder.0.self"]
        kept[tokens] = one.nbytes
        near(one.dense().sum(-1), torch.ones(4, tokens), 2e-3)
    assert kept[1024] < 2.2 * kept[512] < 0.3 * 4 * 1024 * 1024 * 2


def test_cross_attention_is_named_by_source_and_target_tokens() -> None:
    model = drawn(pair(), seed=3, device=CPU, dtype=FP32)
    with torch.no_grad(), record(model, layers="*.cross", heads=[2]) as seen:
        model(IDS[:1], IDS[:1, :4])
    (one,) = seen.maps(list("abcd"), list("ABCDEFG"))
    assert (one.name, one.query_tokens, one.key_tokens) == ("decoder.0.cross", list("abcd"), list("ABCDEFG"))
    assert one.weights.shape == (1, 4, 7) and one.numbers == (2,)
    with pytest.raises(UsageError, match=r"tokens: 3 for 4 queries of decoder.0.cross"):
        seen.maps(list("abc"), list("ABCDEFG"))


def test_other_threads_and_other_models_are_not_recorded() -> None:
    model, other = (drawn(decoder(), seed=seed, device=CPU, dtype=FP32) for seed in (5, 6))
    with record(model, activations="*.out") as seen:
        thread = threading.Thread(target=lambda: model(IDS))
        thread.start()
        thread.join()
        other(IDS)
    assert seen.weights == {} and seen.activations == {}
    with pytest.raises(UsageError, match="no attention was seen"):
        seen.maps(["a"])
    model(IDS)
    assert seen.weights == {} and seen.activations == {}


def test_gradients_flow_while_recording() -> None:
    model = drawn(decoder(), seed=6, device=CPU, dtype=FP32).requires_grad_()
    model(IDS).logits.sum().backward()
    plain = model.stack.blocks[0].attention.body.q.weight.grad.clone()
    model.zero_grad()
    with record(model, activations=True) as seen:
        model(IDS).logits.sum().backward()
    assert set(seen.activations) == set(sites(model))
    assert torch.equal(plain, model.stack.blocks[0].attention.body.q.weight.grad)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"layers": 2}, "layers: 2 is out of range, the model's are 0 to 1"),
        ({"layers": [0, -1]}, "layers: -1 is out of range"),
        ({"layers": "decoder.*.cross"}, r"layers: 'decoder.\*.cross' matches no attention, wish one such as decoder.0.self"),
        ({"heads": 4}, "heads: 4 is out of range, each attention has 4 heads, numbered from 0"),
        ({"heads": ["decoder.7.self.1"]}, "heads: 'decoder.7.self.1' is out of range"),
        ({"heads": []}, "heads: none is named"),
        ({"rows": [-1]}, r"rows: are \[-1\], wish numbers of queries"),
        ({"rows": slice(3, None)}, "wish a slice with an end"),
        ({"activations": "decoder.0.mlp.hiden"}, "none of the model's.*did you mean 'decoder.0.mlp.hidden'"),
        ({"activations": 3}, "site: 3 is none of the model's"),
        ({"summaries": 3}, "summaries: 3, wish True, or what to sum up"),
        ({"layers": [1.5]}, "1.5 is neither a number nor a path"),
    ],
)
def test_what_the_model_does_not_have_is_refused(asked: dict[str, Any], words: str) -> None:
    model = drawn(decoder(), seed=6, device=CPU, dtype=FP32)
    with pytest.raises(UsageError, match=words), record(model, **asked):
        raise AssertionError("opened")
    with pytest.raises(UsageError, match="a Linear has no attention"), record(nn.Linear(2, 2)):
        raise AssertionError("opened")


def test_heads_are_named_by_path_too() -> None:
    model = drawn(pair(), seed=6, device=CPU, dtype=FP32)
    with torch.no_grad(), record(model, heads=["decoder.0.cross.3", "encoder.*.self.0"]) as seen:
        model(IDS, IDS)
    assert {path: seen[path].heads for path in seen.weights} == {
        "encoder.0.self": (0,), "encoder.1.self": (0,), "decoder.0.cross": (3,),
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"'decoder.0.self' was not seen, wish one of encoder.0.self"):
        seen["decoder.0.self"]


class Mean(nn.Module):
    """The mean of all tokens so far, a head a half of the width."""

    num_heads = 2
    path = "mean"

    def forward(self, x: Tensor, layout: Layout, scope: Any, *, memory: Any = None, cache: Any = None) -> Tensor:
        return self.implied_weights(x, layout, scope)[:, 0] @ x

    def implied_weights(
        self, x: Tensor, layout: Layout, scope: Any, *, rows: slice = slice(None), memory: Any = None
    ) -> Tensor:
        ones = torch.ones(x.shape[1], x.shape[1]).tril()
        return (ones / ones.sum(-1, keepdim=True))[rows].expand(x.shape[0], 2, -1, -1)


class Last(nn.Module):
    """The token itself."""

    path = "last"

    def forward(self, x: Tensor, layout: Layout, scope: Any, *, memory: Any = None, cache: Any = None) -> Tensor:
        return x


class MeanSpec(MixerSpec, kind="test_mean"):
    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        return Mean()


class LastSpec(MixerSpec, kind="test_last"):
    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        return Last()


def test_other_mixers_give_their_implied_weights_or_the_reason_why_not() -> None:
    stack = {"num_layers": 3, "blocks": {k: {"attention": a} for k, a in
             (("m", {"kind": "test_mean"}), ("l", {"kind": "test_last"}), ("s", {"num_heads": 4}))},
             "pattern": ["m", "l", "s"]}  # fmt: skip
    model = drawn(encoder(stack=stack), seed=1, device=CPU, dtype=FP32)
    with torch.no_grad(), record(model) as seen:
        model(IDS)
    assert list(seen.weights) == ["encoder.0.self", "encoder.2.self"]
    assert seen.refused == {"encoder.1.self": "Last defines no implied_weights"}
    near(seen["encoder.0.self"].dense(), (torch.ones(7, 7).tril() / torch.arange(1.0, 8)[:, None]).expand(2, -1, -1))
    with torch.no_grad(), record(model, layers=0, heads=1, rows=[3]) as some:
        model(IDS)
    near(some["encoder.0.self"].dense(), torch.tensor([0.25] * 4 + [0.0] * 3).expand(1, 1, -1))
    with pytest.raises(UsageError, match=r"encoder.1.self: Last defines no implied_weights"), record(model, layers=1):
        raise AssertionError("opened")


@pytest.mark.parametrize("masked", ["causal", "everything"])
def test_weights_that_a_backend_makes_are_taken_and_not_made_again(masked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attends = {"num_heads": 8, "num_kv_heads": 4, "mask": masked}
    spec = decoder({"placement": "pre", "norm": "rms", "attention": attends, "mlp": {"kind": "dense", "d_ff": 24}})
    model, ids = drawn(spec, seed=2, device=CPU, dtype=FP32), torch.arange(100)[None] % 61
    whole = Whole()
    with torch.no_grad():
        plain = model(ids).last
        with standing_at_the_door(whole):
            model(ids)
        monkeypatch.setattr(module, "weights", lambda *_: pytest.fail("weights were made again"))
        with record(model, summaries=True) as seen, torch.inference_mode():
            watched = model(ids).last
        with record(model, heads=[3, 1], rows=[7, 98]) as some:
            model(ids)
    assert torch.equal(plain, watched)
    for path, wished in whole.seen.items():
        near(seen[path].dense(), wished[0])
        near(some[path].dense(), wished[0, [1, 3]][:, [7, 98]])
        near(seen.summary(path).received, wished[0].sum(1), 1e-4)

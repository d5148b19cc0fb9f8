"""Predicted costs are those of a real run: FLOPs that torch counts, bytes that torch allocates, bytes that caches hold."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from attnlib.attention.backends.tiles import Tiles
from attnlib.attention.biases import TermSpec
from attnlib.attention.masks import Mask
from attnlib.attention.scores import NormaliserSpec
from attnlib.attention.softmax import MixerSpec
from attnlib.errors import AttnlibError, LayoutError, UsageError
from attnlib.inspect import Curve, cost
from attnlib.inspect.cost import exponent
from attnlib.inspect.counting import Counting
from attnlib.inspect.describe import advance, describe, run_once
from attnlib.inspect.measuring import measure
from attnlib.inspect.on_meta import fresh
from attnlib.models.spec import ModelSpec
from attnlib.spec import read

Tree = dict[str, Any]
MASKS: dict[str, Tree] = {  # what kinds without defaults want
    "chunk": {"size": 40}, "first": {"count": 3}, "explicit": {"rows": ("#.", "##")}, "strided": {"stride": 16},
    "fixed": {"block": 16}, "dilated": {"step": 3, "before": 9}, "window": {"before": 20, "after": 3},
    "all": {"masks": ["causal", {"kind": "window", "before": 30}]}, "any": {"masks": [{"kind": "window", "before": 9}]},
    "not": {"mask": "causal"}, "by_head": {"masks": ["causal", {"kind": "window", "before": 11}]},
    "random_blocks": {"block": 16, "count": 1}, "big_bird": {"block": 16, "count": 1},
    "dilated_segments": {"lengths": [32, 64], "rates": [1, 2]},
}  # fmt: skip
MIXERS: dict[str, Tree] = {
    "beside": {"mixers": [{"num_heads": 2, "mask": "causal"}, {"kind": "gru", "mask": "causal"}]},
    "performer": {"num_features": 10}, "ssd": {"d_state": 3},
}  # fmt: skip


def whole(attention: Tree, kind: str = "decoder", **stack: Any) -> ModelSpec:
    block = {"attention": attention, "norm": "rms"}
    tree = {"kind": kind, "d_model": 16, "vocab_size": 5, "stack": {"num_layers": 1, "block": block, **stack}}
    return read(ModelSpec, {**tree, "head": "none"})


def mixer(kind: str, mask: str) -> Tree:
    """A mixer of the registry, causal or both ways."""
    fields = MixerSpec.kinds()[kind].model_fields
    heads: Tree = {"num_heads": 2} if "num_heads" in fields else {}
    conv: Tree = {"conv": 3} if "conv" in fields else {}
    return {"kind": kind} | heads | conv | ({"mask": mask} if "mask" in fields else {}) | MIXERS.get(kind, {})


def ours(base: type[Any]) -> list[str]:
    return [kind for kind, cls in base.kinds().items() if cls.__module__.startswith("attnlib.")]


def counted(spec: ModelSpec, tokens: int, backend: str = "auto") -> int:
    """FLOPs of a real run on the CPU, by torch's own counter, whose registry lacks the kernels of the CPU."""

    def triangular(a: tuple[int, ...], b: tuple[int, ...], *_: Any, **__: Any) -> int:
        return prod(b) * (a[-1] - 1)

    def fused(*shapes: Any, **_: Any) -> int:
        return sdpa_flop_count(*shapes[:3])

    aten = torch.ops.aten
    more = {aten._scaled_dot_product_flash_attention_for_cpu: fused, aten.linalg_solve_triangular: triangular}
    model = spec.build().eval()
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = backend  # type: ignore[assignment]
    counter = FlopCounterMode(display=False, custom_mapping=more)
    onednn = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # whose recurrent kernel is one operation
    try:
        with torch.no_grad(), counter:
            run_once(model, torch.zeros(1, tokens, dtype=torch.long), fresh(1, tokens))
    finally:
        torch._C._set_mkldnn_enabled(onednn)
    return counter.get_total_flops()


@pytest.fixture
def short_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles are chosen for short texts too."""
    monkeypatch.setattr(Tiles, "fewest", 32)


@pytest.mark.parametrize("mask", ["causal", "everything"])
@pytest.mark.parametrize("kind", ours(MixerSpec))
def test_flops_of_every_mixer_are_those_of_a_run(kind: str, mask: str) -> None:
    stack = "decoder" if mask == "causal" else "encoder"
    try:
        spec = whole(mixer(kind, mask), stack)
    except AttnlibError as error:
        assert mask in str(error) or kind in str(error)  # refused for its direction
        return
    for tokens in (1, 13, 71):
        assert cost(spec, [tokens]).costs[0].flops == counted(spec, tokens)


@pytest.mark.parametrize("kind", ours(Mask))
def test_flops_of_every_mask_are_those_of_its_tiles(kind: str, short_tiles: None) -> None:
    spec = whole({"num_heads": 2, "mask": {"kind": kind} | MASKS.get(kind, {})}, "encoder")
    for backend in ("auto", "tiles", "chunked"):
        found = cost(spec, [150], backend=backend)
        assert backend in ("auto", *found.backends)
        assert found.costs[0].flops == counted(spec, 150, backend)


@pytest.mark.parametrize("first", [1, 5])
def test_flops_beside_global_tokens_are_those_of_a_run(first: int, short_tiles: None) -> None:
    mask = {"kind": "any", "masks": [{"kind": "window", "before": 20, "after": 20}, "global"]}
    spec = whole({"kind": "local_global", "num_heads": 2, "first": first, "mask": mask}, "encoder")
    for tokens in (3, 300):
        found = cost(spec, [tokens])
        assert found.costs[0].flops == counted(spec, tokens)
    assert found.backends == {"tiles": 1}


def test_a_window_is_counted_as_a_window(short_tiles: None) -> None:
    window = whole({"num_heads": 2, "mask": ["causal", {"kind": "window", "before": 15}]})
    full = whole({"num_heads": 2, "mask": "causal"})
    curves = [cost(spec, [512, 1024, 2048]) for spec in (window, full)]
    assert curves[0].backends == {"tiles": 1} and curves[1].backends == {"sdpa": 1}
    grown = [curve.exponents()["flops"] or 0 for curve in curves]
    assert grown[0] == pytest.approx(1.0, abs=0.05) and grown[1] > 1.8


SCORES = [*(("term", kind) for kind in ours(TermSpec)), *(("normaliser", kind) for kind in ours(NormaliserSpec))]


@pytest.mark.parametrize(("slot", "kind"), SCORES)
def test_flops_of_every_term_and_normaliser_are_those_of_a_run(slot: str, kind: str) -> None:
    more: Tree = {"scores": {"normaliser": {"kind": kind} | ({"count": 3} if kind == "top_k" else {})}}
    tree = {"num_heads": 2} | ({"term": kind} if slot == "term" else more)
    try:
        spec = whole(tree | {"mask": ["causal", {"kind": "window", "before": 9}]})
    except AttnlibError as error:
        assert kind in str(error) and "mask" in str(error)
        spec = whole(tree | {"mask": "causal"})
    for backend in ("auto", "reference", "chunked", "tiles"):
        assert cost(spec, [150], backend=backend).costs[0].flops == counted(spec, 150, backend)


@pytest.mark.parametrize("kind", ours(MixerSpec))
def test_cache_and_state_are_those_that_a_decoder_holds(kind: str) -> None:
    try:
        spec = whole(mixer(kind, "causal"))
        if "mask" in MixerSpec.kinds()[kind].model_fields and kind in ("softmax", "local_global"):
            spec = whole(mixer(kind, "causal") | {"mask": ["causal", {"kind": "window", "before": 3}]})
    except AttnlibError as error:
        assert "causal" in str(error)
        return
    tokens, model = 7, spec.build().eval()
    found, held = cost(spec, [tokens]).costs[0], {}
    with torch.no_grad():
        for cache in ("growing", "rolling"):
            state = model.begin(batch=1, cache=cache)  # type: ignore[operator]
            for _ in range(tokens):
                advance(model, torch.zeros(1, 1, dtype=torch.long), state)  # type: ignore[arg-type]
            held[cache] = state.nbytes()
    assert found.cache is not None and found.rolling is not None and found.state is not None
    assert (found.cache + found.state, found.rolling + found.state) == (held["growing"], held["rolling"])
    assert held["growing"] > 0


KINDS_OF_MEMORY: dict[str, Tree] = {
    "softmax": {"num_heads": 2, "mask": "causal"},
    "window": {"num_heads": 2, "mask": ["causal", {"kind": "window", "before": 30}]},
    "window, row blocks": {"num_heads": 2, "mask": ["causal", {"kind": "window", "before": 30}], "scores": {"softcap": 2.0}},
    "biased": {"num_heads": 2, "mask": "causal", "term": {"kind": "t5_relative", "both": False}},
    "sigmoid": {"num_heads": 2, "mask": "causal", "scores": {"normaliser": "sigmoid"}},
    **{kind: mixer(kind, "causal") for kind in ("linear", "gla", "gated_delta", "ssd", "gru", "min_gru")},
}


@pytest.mark.parametrize("name", KINDS_OF_MEMORY)
def test_memory_is_what_torch_allocates(name: str, short_tiles: None) -> None:
    spec = whole(KINDS_OF_MEMORY[name])
    found = measure(spec, cost(spec, [129, 700]))
    for one in found.costs:
        assert one.measured_memory == pytest.approx(one.memory, rel=0.05)
        assert one.mixer_memory <= one.memory and one.seconds is not None and one.seconds > 0


def test_quadratic_memory_is_seen() -> None:
    biased = cost(whole(KINDS_OF_MEMORY["biased"]), [512, 1024, 2048]).exponents()["memory"]
    fused = cost(whole(KINDS_OF_MEMORY["softmax"]), [1024, 2048, 4096]).exponents()["memory"]
    assert biased is not None and fused is not None and biased > 1.7 and fused < 1.05


def test_layers_and_rows_multiply_work_and_not_the_peak_of_a_layer() -> None:
    attention = {"num_heads": 2, "mask": "causal"}
    one, two = (cost(whole(attention, num_layers=n), [33]).costs[0] for n in (1, 2))
    rows = cost(whole(attention), [33], batch=3).costs[0]
    assert two.flops == 2 * one.flops and two.mixer_memory == one.mixer_memory and rows.flops == 3 * one.flops
    assert two.cache == 2 * one.cache and rows.cache == one.cache  # type: ignore[operator]


def test_an_encoder_keeps_nothing() -> None:
    one = cost(whole({"num_heads": 2}, "encoder"), [9]).costs[0]
    assert (one.cache, one.rolling, one.state) == (None, None, None)


def test_describe_counts_the_tiles_of_a_long_window() -> None:
    spec = whole({"num_heads": 2, "mask": ["causal", {"kind": "window", "before": 15}]})
    assert describe(spec, tokens=600).flops == counted(spec, 600) < counted(spec, 600, "sdpa")


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.qr(x)[0] @ x


def test_an_operation_without_a_count_is_refused_by_name() -> None:
    with torch.device("meta"):
        x = torch.zeros(3, 3)
    with pytest.raises(UsageError, match=r"aten\.linalg_qr: has no count of FLOPs"), Counting(Turned()):
        Turned()(x)


def test_work_that_depends_on_values_is_refused() -> None:
    class Chooses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[: int(x.sum())]

    with torch.device("meta"):
        x = torch.zeros(3)
    with pytest.raises(UsageError, match="chooses its work by values that it reads"), Counting(model := Chooses()):
        model(x)


def test_a_compiled_backend_is_refused() -> None:
    with pytest.raises(UsageError, match="flex is compiled, and its work has no count"):
        cost(whole({"num_heads": 2, "mask": "causal"}), [9], backend="flex")


def test_lengths_are_checked() -> None:
    spec = whole({"num_heads": 2})
    learned = spec.replace(embedding=read(type(spec.embedding), {"position": {"kind": "learned", "max_length": 8}}))
    for one, tokens, words in ((spec, [], "no lengths"), (spec, [0], "are 0, wish 1 to"), (learned, [4, 9], "end at 8")):
        with pytest.raises(LayoutError, match=words):
            cost(one, tokens)


def test_exponents_are_those_of_powers() -> None:
    assert exponent({n: 3.0 * n**1.5 for n in (10, 20, 80)}) == pytest.approx(1.5)
    assert exponent({1: 1.0}) is None and exponent({1: 0.0, 2: 0.0, 4: 1.0}) is None


def test_what_takes_too_long_is_left_out() -> None:
    spec = whole({"num_heads": 2, "mask": "causal"})
    found: Curve = measure(spec, cost(spec, [8, 1 << 18]), seconds=1.0)
    assert found.costs[0].seconds is not None and found.costs[1].seconds is None
    assert found.points("seconds").keys() == {8}

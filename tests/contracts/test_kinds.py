"""The toys of configs/kinds: one for each kind of attention, each checked, trained, decoded from and described."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attnlib.attention.biases import TermSpec
from attnlib.attention.masks import Mask
from attnlib.attention.products import ProductSpec
from attnlib.attention.scores import NormaliserSpec
from attnlib.attention.softmax import MixerSpec
from attnlib.config import config_names, load_tree
from attnlib.generate import generate
from attnlib.inspect import check as checking
from attnlib.inspect.describe import advance, describe
from attnlib.inspect.explain import explain
from attnlib.models.encoder_decoder import EncoderDecoder
from attnlib.spec import Spec, read
from attnlib.train import Config, train

TOYS = {name.removeprefix("kinds/"): load_tree(name)[0] for name in config_names() if name.startswith("kinds/")}
CONFIGS = {name: read(Config, tree) for name, tree in TOYS.items()}
WRITERS = [name for name, tree in TOYS.items() if tree["model"]["kind"] != "encoder"]
TOKENS = 11


def substituted(a: tuple[int, ...], b: tuple[int, ...], *_: object, **__: object) -> int:
    """A triangular system [.., n, n] solved for [.., n, m]: n (n - 1) m, which torch's own counter leaves out."""
    return math.prod(b) * (a[-1] - 1)


SYSTEMS = {torch.ops.aten.linalg_solve_triangular: substituted}


def within(spec: object) -> Iterator[Spec]:
    """A spec and all specs in it."""
    if isinstance(spec, Spec):
        yield spec
        spec = [getattr(spec, name) for name in type(spec).model_fields]
    for part in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, tuple | list) else ():
        yield from within(part)


@pytest.mark.parametrize("slot", [MixerSpec, Mask, TermSpec, NormaliserSpec, ProductSpec])
def test_every_kind_has_its_toy(slot: type[Spec]) -> None:
    ours = {kind for kind, cls in slot.kinds().items() if cls.__module__.startswith("attnlib.")}
    shown = {part.kind for config in CONFIGS.values() for part in within(config.model) if isinstance(part, slot)}
    spelling = {"not", "same_segment", "explicit", "prefix"}  # ways to say a mask, and one that reads what a batch tags
    assert ours - spelling - shown == set()


@pytest.mark.parametrize("name", TOYS)
def test_toys_pass_check(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_backends", lambda *_: iter(()))  # the contract matrix compares them
    found = list(checking.check(CONFIGS[name].model, tokens=TOKENS))
    assert [str(one) for one in found if not one.ok] == []
    figures = {one.name for one in found if one.figure is not None}
    caches = ("growing", "rolling", "static")
    cached = {f"cache {cache}, chunks of {n} = no cache" for cache in caches for n in (1, 3, "all")}
    assert {"batch = alone", "packed = separate", "parameters saved and loaded", "output of what was loaded"} <= figures
    assert {*cached, "causal leakage by gradient"} <= figures if name in WRITERS else not cached & figures


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "text.txt").write_text("the whale rose and the sea ran high while old men sang of ships and salt. " * 12)
    rows = [{"source": f"the whale {n}", "target": f"whale the {n}"} for n in range(40)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.mark.parametrize("name", TOYS)
def test_toys_learn_and_write(name: str, texts: Path, tmp_path: Path) -> None:
    data = {"jsonl": "pairs.jsonl", "text": "text.txt"}[TOYS[name]["data"]["kind"]]
    few: dict[str, Any] = {"steps": 3, "batch_size": 4, "length": 20, "plot": False, "log_every": 1}
    tree = TOYS[name] | {"data": TOYS[name]["data"] | {"path": str(texts / data), "held_out": 0}}
    tree["train"] = TOYS[name]["train"] | few | {"evaluate": {"at_end": False}}
    result = train(read(Config, tree), folder=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 3 and all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    if name in WRITERS:
        (written,) = generate(result.model, ["the wh"], tokenizer=result.tokenizer, max_new_tokens=3)
        assert 1 <= len(written.ids) <= 3


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_explained_attention_by_attention(name: str) -> None:
    found = explain(CONFIGS[name].model, tokens=TOKENS)
    told = {(choice.path, choice.situation) for choice in found.choices}
    paths = {m.path for m in CONFIGS[name].model.build().modules() if hasattr(m, "new_cache") and not hasattr(m, "mixers")}
    situations = {"full batch", "padded batch", "packed batch"}
    assert {(path, situation) for path in paths for situation in situations} <= told
    if name in WRITERS:
        assert {(path, "decode step") for path in paths if "encoder.0" not in path} <= told


@pytest.mark.parametrize("name", TOYS)
def test_toys_cost_what_describe_says(name: str) -> None:
    spec = CONFIGS[name].model
    found = describe(spec, tokens=TOKENS)
    model, ids = spec.build().eval(), torch.zeros(1, TOKENS, dtype=torch.long)
    given = (ids, ids) if isinstance(model, EncoderDecoder) else (ids,)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False, custom_mapping=SYSTEMS) as counter:
            model(*given)
        if "LSTM" not in str(model):  # torch's counter does not see into the CPU's fused kernel
            assert found.flops == counter.get_total_flops() > 0
        if name not in WRITERS:
            assert found.cache_bytes_per_token is None
            return
        state = model.begin(ids, batch=1)  # type: ignore[operator]
        for column in range(TOKENS):
            advance(model, ids[:, column : column + 1], state)  # type: ignore[arg-type]
    assert found.cache_bytes_per_token is not None
    assert state.nbytes() == found.cache_bytes_per_token * TOKENS + found.state_bytes > 0

"""What describe says of a config is what the model built from it costs."""

from __future__ import annotations

import pytest
import torch
from configs_for_tests import LOCAL, SPECS, decoder
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attnlib.config import config_names, load_tree
from attnlib.errors import LayoutError
from attnlib.inspect.describe import advance, describe
from attnlib.models.encoder_decoder import EncoderDecoder
from attnlib.models.spec import ModelSpec
from attnlib.spec import read

BUNDLED = {name: read(ModelSpec, load_tree(name)[0]["model"]) for name in config_names()}
SMALL = {**SPECS, **{name: spec for name, spec in BUNDLED.items() if name.startswith("tiny/")}}
TOKENS = 11


def counted(spec: ModelSpec, batch: int) -> int:
    """FLOPs that torch counts on the CPU with the unfused kernel; the fused one has no formula there."""
    model = spec.build().eval()
    ids = torch.zeros(batch, TOKENS, dtype=torch.long)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        if isinstance(model, EncoderDecoder):
            model(ids, ids)
        else:
            model(ids)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", SMALL)
def test_flops_equal_those_that_torch_counts_on_the_cpu(name: str) -> None:
    assert describe(SMALL[name], tokens=TOKENS, batch=2).flops == pytest.approx(counted(SMALL[name], 2), rel=0.01)


@pytest.mark.parametrize("name", [name for name, spec in SMALL.items() if type(spec).kind != "encoder"])
def test_cache_bytes_equal_the_real_caches(name: str) -> None:
    found = describe(SMALL[name], tokens=TOKENS)
    model = SMALL[name].build().eval()
    ids = torch.zeros(1, TOKENS, dtype=torch.long)
    real = {}
    with torch.no_grad():
        for cache in ("growing", "rolling"):
            state = model.begin(ids, batch=1, cache=cache)  # type: ignore[operator]
            for column in range(TOKENS):
                advance(model, ids[:, column : column + 1], state)  # type: ignore[arg-type]
            real[cache] = state.nbytes()
    assert found.cache_bytes_per_token == real["growing"] / TOKENS
    assert found.cache_bytes_rolling == real["rolling"]


# (layers, d_model, heads * width, kv heads * width, weights of the feed-forward, vocabulary)
SHAPES = {
    "gpt2_small": (12, 768, 768, 768, 2 * 768 * 3072, 50257),
    "bert_base": (12, 768, 768, 768, 2 * 768 * 3072, 30522),
    "llama_1b": (16, 2048, 2048, 512, 3 * 2048 * 8192, 128256),
}


@pytest.mark.parametrize("name", SHAPES)
def test_published_shapes_cost_what_the_formulas_say(name: str) -> None:
    layers, width, queries, keys, mlp, vocabulary = SHAPES[name]
    tokens = 32
    found = describe(BUNDLED[name], tokens=tokens)
    layer = 2 * tokens * (2 * width * queries + 2 * width * keys + mlp) + 4 * tokens * tokens * queries
    head = 2 * tokens * (vocabulary * width + (width * width if name == "bert_base" else 0))
    assert found.flops == pytest.approx(layers * layer + head, rel=1e-6)
    assert found.cache_bytes_per_token == (None if name == "bert_base" else layers * 2 * keys * 4)


def test_published_models_have_their_published_sizes() -> None:
    sizes = {"gpt2_small": 124_439_808, "llama_1b": 1_235_814_400, "t5_small": 60_506_624, "bert_base": 109_514_298}
    assert {name: describe(BUNDLED[name], tokens=4).parameters for name in sizes} == sizes


def test_rows_add_up_and_name_every_parameter() -> None:
    found = describe(SPECS["pair"], tokens=5)
    named = {f"{row.path}.{name}": shape for row in found.rows for name, shape in row.shapes.items()}
    assert named == {name: tuple(p.shape) for name, p in SPECS["pair"].build().named_parameters()}
    whole = next(row for row in found.rows if row.path == "encoder")
    blocks = [row for row in found.rows if row.path in ("encoder.blocks.0", "encoder.blocks.1")]
    assert whole.flops == sum(row.flops for row in blocks)
    assert "24 x" not in found.text() and "encoder_decoder: " in found.text()


def test_dtype_changes_cache_bytes_and_nothing_is_allocated() -> None:
    half = describe(decoder(LOCAL), tokens=8, dtype=torch.bfloat16)
    assert half.cache_bytes_per_token == 2 * 2 * 2 * 6 * 2  # layers, k and v, kv heads, d_head, bytes
    huge = decoder(d_model=24 * 4096, vocab_size=10**6)  # 100 billion embeddings
    assert describe(huge, tokens=4).parameters > 10**11


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(LayoutError, match="end at 40"):
        describe(SPECS["encoder"], tokens=41)

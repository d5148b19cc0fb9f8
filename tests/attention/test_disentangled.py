"""Disentangled attention: one table for a stack, projected by each layer, against the formula over pairs of tokens."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnlib.attention.biases import TermSpec
from attnlib.attention.disentangled import log_bucket
from attnlib.errors import SpecError
from attnlib.models.spec import ModelSpec
from attnlib.spec import read

TERM = {"kind": "disentangled", "buckets": 4, "max_distance": 9, "norm": "layer"}


def spec(stack: dict[str, Any], **attention: Any) -> ModelSpec:
    block = {"attention": {"num_heads": 2, "bias": True} | attention}
    tree = {"kind": "encoder", "d_model": 6, "vocab_size": 11, "stack": {"num_layers": 2, "block": block} | stack}
    return read(ModelSpec, tree)


def model(stack: dict[str, Any], **attention: Any) -> Any:
    torch.manual_seed(1)
    made = spec(stack, **attention).build().double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.5)
    return made


def bucket(distance: int) -> int:
    size = abs(distance)
    far = size if size <= 2 else 2 + math.ceil(math.log(size / 2) / math.log(8 / 2))
    return far if distance > 0 else -far


def naive(
    attention: Any, x: Tensor, table: Tensor, k: nn.Linear, q: nn.Linear, scale: float, parts: tuple[str, ...]
) -> Tensor:
    """[B, T, M] of one attention, from pairs of tokens; `k` and `q` project the rows of the table."""
    rows = []
    for text in x:
        heads = []
        for h in range(2):
            own = slice(3 * h, 3 * h + 3)
            queries, keys, values = (m(text)[:, own] for m in (attention.q, attention.k, attention.v))
            scores = torch.stack([
                sum((
                    queries[i] @ keys[j],
                    queries[i] @ k(table[max(-4, min(3, bucket(i - j))) + 4])[own] if "c2p" in parts else torch.zeros(()),
                    keys[j] @ q(table[max(-4, min(3, bucket(i - j))) + 4])[own] if "p2c" in parts else torch.zeros(()),
                )) * scale
                for i in range(len(text)) for j in range(len(text))
            ]).view(len(text), len(text))  # fmt: skip
            heads.append(scores.softmax(-1) @ values)
        rows.append(attention.out(torch.cat(heads, -1)))
    return torch.stack(rows)


@pytest.mark.parametrize("parts", [("c2p", "p2c"), ("c2p",), ("p2c",)])
@pytest.mark.parametrize("share", [True, False])
def test_attention_under_a_shared_table_is_the_formula(share: bool, parts: tuple[str, ...]) -> None:
    made = model({"bias": {**TERM, "share": share, "parts": parts}}, scores={"scale": 0.4})
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    norm = made.stack.bias.norm
    table = nn.functional.layer_norm(made.stack.bias.table, (6,), norm.weight, norm.bias, norm.eps)
    for block in made.stack.blocks:
        attention = block.attention.body
        (term,) = attention.rule.terms
        k, q = (attention.k, attention.q) if share else (term.k, term.q)
        wanted = naive(attention, x, table, k, q, 0.4, parts)
        for backend in ("reference", "chunked", "sdpa"):
            attention.backend = backend
            assert torch.allclose(attention(x), wanted, rtol=0, atol=1e-12), backend


def test_gradients_reach_the_table_its_norm_and_the_projections_from_every_layer() -> None:
    made = model({"bias": {**TERM, "share": False}})
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    names, parameters = zip(*((n, p) for n, p in made.named_parameters() if ".terms.0." in n or "stack.bias" in n))
    assert len(names) == 3 + 2 * 4

    def loss(*given: Tensor) -> Tensor:
        return torch.func.functional_call(made, dict(zip(names, given)), (ids,)).last.sin().sum()

    assert torch.autograd.gradcheck(loss, parameters, atol=1e-6)


def test_the_tensors_of_a_shared_table_are_saved_once_and_copied_together() -> None:
    made = model({"bias": TERM})
    assert [n for n in made.state_dict() if "table" in n or ("norm" in n and "bias." in n)] == [
        "stack.bias.table", "stack.bias.norm.weight", "stack.bias.norm.bias",
    ]  # fmt: skip
    assert not [n for n in made.state_dict() if "terms" in n]  # shared projections add nothing
    ids, twin = torch.tensor([[1, 2, 3, 4, 5]]), copy.deepcopy(made)
    assert torch.equal(twin(ids).last, made(ids).last)
    with torch.no_grad():
        twin.stack.bias.table.mul_(-1.0)
    assert not torch.allclose(twin(ids).last, made(ids).last)  # the copy's layers read the copy's table
    again = spec({"bias": TERM}).build().double().eval()
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(ids).last, made(ids).last)


def test_a_term_of_each_layer_is_the_shared_one_with_equal_tables() -> None:
    shared, own = model({"bias": TERM}), model({}, term=TERM)
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    state = {}
    for name in own.state_dict():
        theirs = name if "terms" not in name else "stack.bias." + name.partition(".terms.0.table.")[2]
        state[name] = shared.state_dict()[theirs]
    own.load_state_dict(state)
    assert torch.equal(own(ids).last, shared(ids).last)


def test_dropout_of_the_table_acts_in_training_only() -> None:
    made = model({"bias": {**TERM, "dropout": 0.5}})
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(made(ids).last, made(ids).last)
    made.train()
    assert not torch.equal(made(ids).last, made(ids).last)


@pytest.mark.parametrize(("buckets", "furthest"), [(256, 512), (32, 40), (6, 20), (5, 9), (2, 16)])
def test_buckets_are_those_of_transformers(buckets: int, furthest: int) -> None:
    modeling = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
    distance = torch.arange(-furthest - 30, furthest + 31)
    wanted = modeling.make_log_bucket_position(distance, buckets, furthest).long()
    assert torch.equal(log_bucket(distance, buckets=buckets, max_distance=furthest), wanted)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"max_distance": 3}, "max_distance"),
        ({"parts": ["c2p", "c2p"]}, "parts"),
        ({"parts": []}, "parts"),
        ({"buckets": 1}, "buckets"),
    ],
)
def test_terms_that_cannot_be_are_refused(change: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError, match=path):
        read(TermSpec, TERM | change)

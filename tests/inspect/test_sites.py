"""Sites are where they say, and what is put there is what the model goes on with."""

from __future__ import annotations

import pytest
import torch
from configs_for_tests import SPECS, attention, decoder, pair
from torch import Tensor

from attnlib.errors import UsageError
from attnlib.inspect import record, sites, watching
from attnlib.inspect.subject import drawn

CPU, FP64 = torch.device("cpu"), torch.float64
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])


def near(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", SPECS)
def test_every_site_is_passed_once_a_forward_and_watching_changes_nothing(name: str) -> None:
    model = drawn(SPECS[name], seed=2, device=CPU, dtype=FP64)
    given = (IDS, IDS) if type(SPECS[name]).kind == "encoder_decoder" else (IDS,)
    with torch.no_grad():
        plain = model(*given).last
        with record(model, activations="*") as seen:
            assert torch.equal(model(*given).last, plain)
    assert {name: len(values) for name, values in seen.activations.items()} == dict.fromkeys(sites(model), 1)


@pytest.mark.parametrize("placement", ["pre", "post", "branch", "sandwich"])
def test_the_stream_is_the_sum_of_what_sublayers_add(placement: str) -> None:
    model = drawn(decoder({**attention(), "placement": placement}), seed=3, device=CPU, dtype=FP64)
    with torch.no_grad(), record(model, activations="*") as seen:
        out = model(IDS, hidden=True)
    at = {name: values[0] for name, values in seen.activations.items()}
    for layer in (0, 1):
        for part in ("attention", "mlp"):
            path = f"decoder.{layer}.{part}"
            block = model.stack.blocks[layer]
            total = at[f"{path}.in"] + at[f"{path}.add"]
            near(at[f"{path}.out"], total if placement != "post" else getattr(block, part).outer(total))
        near(at[f"decoder.{layer}.in"], out.hidden[layer])
        near(at[f"decoder.{layer}.out"], out.hidden[layer + 1])
        near(at[f"decoder.{layer}.mlp.in"], at[f"decoder.{layer}.attention.out"])
        body = block.attention.body
        heads = at[f"decoder.{layer}.attention.heads"]
        assert heads.shape == (1, 7, 4, 6) and at[f"decoder.{layer}.mlp.hidden"].shape == (1, 7, 40)
        added = sum(heads[:, :, h] @ body.out.weight[:, 6 * h : 6 * h + 6].T for h in range(4))
        if placement in ("pre", "post"):
            near(at[f"decoder.{layer}.attention.add"], added)
    near(at["decoder.embedding"], out.hidden[0])
    near(at["decoder.final"], out.last)


def test_sublayers_in_parallel_have_no_stream_between() -> None:
    model = drawn(decoder({**attention(), "placement": "parallel"}), seed=3, device=CPU, dtype=FP64)
    assert "decoder.0.attention.out" not in sites(model) and "decoder.0.mlp.in" not in sites(model)
    with torch.no_grad(), record(model, activations="decoder.0.*") as seen:
        model(IDS)
    at = {name: values[0] for name, values in seen.activations.items()}
    near(at["decoder.0.out"], at["decoder.0.in"] + at["decoder.0.attention.add"] + at["decoder.0.mlp.add"])


@pytest.mark.parametrize("name", [*sites(pair().build())])
def test_a_value_put_at_a_site_takes_its_place(name: str) -> None:
    model = drawn(pair(), seed=4, device=CPU, dtype=FP64)
    other = torch.tensor([[2, 7, 1, 8, 2, 8, 1]])
    with torch.no_grad():
        with record(model, activations=name) as seen:
            model(other, other)
        value = seen.activations[name][0]
        base = model(IDS, IDS).logits
        with watching(model, {name: lambda _: value}):
            patched = model(IDS, IDS).logits
        assert not torch.allclose(patched, base)
        with watching(model, {name: lambda _: value}), record(model, activations=name) as again:
            assert torch.equal(model(IDS, IDS).logits, patched)
        assert torch.equal(again.activations[name][0], value)
        with watching(model, {name: lambda x: x * 1.0}):
            assert torch.equal(model(IDS, IDS).logits, base)
    if name.startswith("decoder") and name.endswith((".final", ".0.out")):
        near(patched, model(other, other).logits)


def test_a_value_of_another_shape_is_refused() -> None:
    model = drawn(decoder(), seed=4, device=CPU, dtype=FP64)
    with (
        pytest.raises(UsageError, match=r"decoder.0.attention.heads: was given \(1, 6, 4, 6\), must be \(1, 7, 4, 6\)"),
        watching(model, {"decoder.0.attention.heads": lambda x: x[:, :6]}),
    ):
        model(IDS)
    assert model(IDS).logits.shape == (1, 7, 61)

"""Mixtures of experts: each token through its k experts and no others, at the cost of k, balanced as published."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.inspect.describe import describe
from attnlib.layout import Layout
from attnlib.models.decoder import DecoderSpec
from attnlib.models.spec import ModelSpec
from attnlib.nn.grouped import grouped_linear
from attnlib.nn.mixture import Mixture, MixtureSpec, Routed, balance
from attnlib.spec import SpecErrors, read

M, FF, E, K = 6, 5, 4, 2


def mixture(dtype: torch.dtype = torch.float64, **more: float) -> Mixture:
    layer = MixtureSpec(d_ff=FF, num_experts=E, top_k=K, **more).build(M).to(dtype)  # type: ignore[arg-type]
    assert isinstance(layer, Mixture)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def by_hand(layer: Mixture, x: Tensor) -> Tensor:
    """Token by token, expert by expert."""
    rows = []
    for token in x.flatten(0, -2):
        likely = (layer.router.weight @ token).softmax(0).topk(K)
        out = torch.zeros_like(token)
        for p, e in zip(likely.values / likely.values.sum(), likely.indices.tolist()):
            out = out + p * (layer.down[e] @ (F.silu(layer.gate[e] @ token) * (layer.up[e] @ token)))
        rows.append(out)
    return torch.stack(rows).view(x.shape)


def test_it_is_the_weighed_sum_of_the_chosen_experts_in_value_and_gradient() -> None:
    layer, x = mixture(), torch.randn(2, 7, M, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    got, wanted = layer(x), by_hand(layer, x)
    assert torch.allclose(got, wanted, atol=1e-12)
    weight = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad((got * weight).sum(), leaves), torch.autograd.grad((wanted * weight).sum(), leaves)):
        assert torch.allclose(a, b, atol=1e-12)


def test_groups_may_be_empty_and_gradients_are_right_twice() -> None:
    counts = torch.tensor([2, 0, 3])
    x, w = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 3), (3, 2, 3)))
    wanted = torch.cat([x[:2] @ w[0].t(), x[2:] @ w[2].t()])
    assert torch.allclose(grouped_linear(x, w, counts), wanted)
    assert torch.autograd.gradcheck(lambda x, w: grouped_linear(x, w, counts), (x, w))
    assert torch.autograd.gradgradcheck(lambda x, w: grouped_linear(x, w, counts), (x, w))
    grouped_linear(x, w, counts).sum().backward()
    assert w.grad is not None and not w.grad[1].any() and w.grad[0].any()
    assert grouped_linear(x[:0], w, torch.zeros(3, dtype=torch.long)).shape == (0, 2)


def test_one_graph_holds_for_every_routing() -> None:
    layer = mixture(torch.float32).eval()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for x in torch.randn(3, 2, 5, M):
        assert torch.equal(compiled(x), layer(x))


def test_it_costs_as_much_as_its_chosen_experts() -> None:
    def flops(**mlp: object) -> int:
        block = {"attention": {"num_heads": 2, "mask": "causal"}, "mlp": {"kind": "mixture", "d_ff": FF, **mlp}}
        stack = {"num_layers": 1, "block": block}
        return describe(read(ModelSpec, {"kind": "decoder", "d_model": M, "vocab_size": 7, "stack": stack}), tokens=10).flops

    assert flops(num_experts=5, top_k=3) - flops(num_experts=5, top_k=1) == 2 * 10 * 3 * 2 * M * FF
    assert flops(num_experts=6, top_k=3) - flops(num_experts=5, top_k=3) == 10 * 2 * M  # one more row of the router


def test_autocast_reaches_the_experts() -> None:
    layer, x = mixture(torch.float32), torch.randn(2, 5, M)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    assert half.dtype == torch.float32 and not torch.equal(half, layer(x))
    assert torch.allclose(half, layer(x), atol=0.3, rtol=0.1)


def test_tokens_that_are_none_have_no_part_in_the_balance() -> None:
    layer, x = mixture(torch.float32, balance=0.5).train(), torch.randn(2, 5, M)
    whole: list[Routed] = []
    padded: list[Routed] = []
    layer(x[:, :3], Layout.dense(2, 3), whole)
    layer(x, Layout.from_lengths([3, 3], 5), padded)
    for a, b in zip(whole[0], padded[0]):
        assert torch.allclose(torch.as_tensor(a), torch.as_tensor(b))
    assert whole[0].choices.sum().item() == pytest.approx(K) and whole[0].probabilities.sum().item() == pytest.approx(1)
    layer.eval()(x, None, whole)
    assert len(whole) == 1


def test_the_balance_is_least_where_experts_are_used_alike() -> None:
    even = Routed(0.1, torch.full((E,), K / E), torch.full((E,), 1 / E))
    one = Routed(0.1, torch.tensor([1.0, 1, 0, 0]), torch.tensor([1.0, 0, 0, 0]))
    assert balance([even]).item() == pytest.approx(0.1 * K) and balance([one]).item() == pytest.approx(0.1 * E)
    assert balance([even, one]) < 0.1 * (K + E) / 2  # over the layers together, not the mean of theirs
    assert balance([even, one._replace(coefficient=0.2)]).item() == pytest.approx(0.1 * K + 0.2 * E)


def spec(**mlp: object) -> DecoderSpec:
    layer = {"kind": "mixture", "d_ff": FF, "num_experts": E, **mlp}
    block = {"attention": {"num_heads": 2, "mask": "causal"}, "mlp": layer}
    found = read(ModelSpec, {"kind": "decoder", "d_model": M, "vocab_size": 7, "stack": {"num_layers": 2, "block": block}})
    assert isinstance(found, DecoderSpec)
    return found


def test_a_model_tells_its_balance_in_training_and_recomputation_changes_nothing() -> None:
    model, ids = spec(balance=0.3).build(), torch.randint(7, (2, 9))
    assert not model.eval()(ids).aux
    found = []
    for recomputed in (False, True):
        model.train().stack.checkpointing = recomputed
        out = model(ids)
        loss = out.logits.sum() * 0.01 + out.aux["balance"]
        found.append([out.aux["balance"], *torch.autograd.grad(loss, list(model.parameters()))])
    for a, b in zip(*found):
        assert torch.equal(a, b)
    assert found[0][0].item() == pytest.approx(0.3 * K, rel=0.2)
    assert not spec().build().train()(ids).aux


def test_noise_on_the_input_acts_in_training_alone() -> None:
    layer, x = mixture(torch.float32, jitter=0.2), torch.randn(1, 4, M)
    assert torch.equal(layer.eval()(x), layer(x)) and not torch.equal(layer.train()(x), layer(x))


def test_every_expert_is_drawn_by_the_width_it_reads() -> None:
    mlp = {"kind": "mixture", "d_ff": 300, "num_experts": 3}
    stack = {"num_layers": 1, "block": {"attention": {"num_heads": 2}, "mlp": mlp}}
    wide = {"kind": "decoder", "d_model": 64, "vocab_size": 7, "init": "fan_in", "stack": stack}
    layer = read(ModelSpec, wide).build().stack.blocks[0].mlp.body  # type: ignore[union-attr]
    for weight, width in ((layer.gate, 64), (layer.up, 64), (layer.down, 300)):
        assert weight.std().item() == pytest.approx(width**-0.5, rel=0.05)


def test_more_choices_than_experts_are_refused_when_read() -> None:
    with pytest.raises(SpecErrors, match=r"top_k: 5, must be at most num_experts \(4\)"):
        spec(top_k=5)

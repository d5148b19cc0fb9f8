"""Attention that does more than weigh values by a softmax, by the formulas of the papers, a pair at a time in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from mixer_gradients import gradients_hold
from test_scores import WIDTH, text
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnlib.attention.forgetting import ForgettingSpec, Forgotten
from attnlib.attention.latent import Latent
from attnlib.attention.masks import Causal
from attnlib.attention.softmax import MixerSpec
from attnlib.errors import SpecError
from attnlib.inspect.describe import describe
from attnlib.layout import Layout
from attnlib.models.spec import ModelSpec
from attnlib.spec import read

HEADS, GROUPS, D = 4, 2, 3


def module(layer: int = 2, d_memory: int | None = None, **tree: Any) -> Any:
    grouped = {} if "d_latent" in tree else {"num_kv_heads": GROUPS}
    spec = read(MixerSpec, {"num_heads": HEADS} | grouped | tree)
    made = spec.build(d_model=WIDTH, layer=layer, d_memory=d_memory).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.6)
    return made.eval()


def part(weight: Tensor, number: int, width: int, x: Tensor) -> Tensor:
    """Rows `number` of a projection, so many of `width`, of one token x [M]."""
    return weight[number * width : (number + 1) * width] @ x


def softmax(scores: list[Any]) -> list[Any]:
    powers = [math.e**score for score in scores]
    return [power / sum(powers) for power in powers]


def maps(m: Any, x: Tensor, t: int, h: int, added: Any = lambda j: 0.0) -> list[Any]:
    """Causal weights of token t in map h."""
    g = h // (HEADS // GROUPS)
    q = part(m.q.weight, h, D, x[t])
    return softmax([q @ part(m.k.weight, g, D, x[j]) / math.sqrt(D) + added(j) for j in range(t + 1)])


def gated(m: Any, x: Tensor, t: int) -> Tensor:
    heads = []
    for h in range(HEADS):
        y = sum(w * part(m.v.weight, h // 2, D, x[j]) for j, w in enumerate(maps(m, x, t, h)))
        width = m.gate.weight.shape[0] // HEADS
        heads.append(y / (1 + math.e ** -part(m.gate.weight, h, width, x[t])))
    return m.out.weight @ torch.cat(heads)


def differential(m: Any, x: Tensor, t: int) -> Tensor:
    first = 0.8 - 0.6 * math.exp(-0.3 * 2)
    less = math.e ** (m.a[0] @ m.b[0]) - math.e ** (m.a[1] @ m.b[1]) + first
    heads = []
    for h in range(HEADS // 2):
        ones, twos = maps(m, x, t, h), maps(m, x, t, h + HEADS // 2)
        y = sum((a - less * b) * m.v.weight @ x[j] for j, (a, b) in enumerate(zip(ones, twos)))
        heads.append(y / (y.pow(2).mean() + 1e-5).sqrt() * m.norm.weight * (1 - first))
    return m.out.weight @ torch.cat(heads)


def forgetting(m: Any, x: Tensor, t: int) -> Tensor:
    heads = []
    for h in range(HEADS):
        gates = [1 / (1 + math.e ** -(m.forget.gate.weight[h] @ x[i] + m.forget.bias[h])) for i in range(len(x))]
        weights = maps(m, x, t, h, lambda j, gates=gates: sum(gate.log() for gate in gates[j + 1 : t + 1]))
        heads.append(sum(w * part(m.v.weight, h // 2, D, x[j]) for j, w in enumerate(weights)))
    return m.out.weight @ torch.cat(heads)


KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "gated": ({"kind": "gated"}, gated),
    "gated by channel": ({"kind": "gated", "gate": "channel"}, gated),
    "differential": ({"kind": "differential"}, differential),
    "forgetting": ({"kind": "forgetting"}, forgetting),
}


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_formula_of_its_paper(name: str, tokens: int) -> None:
    tree, formula = KINDS[name]
    m, x = module(mask="causal", **tree), text(2, tokens)
    for row in range(2):
        wanted = torch.stack([formula(m, x[row], t) for t in range(tokens)])
        torch.testing.assert_close(m(x)[row], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_those_of_differences(name: str) -> None:
    assert gradients_hold(module(mask="causal", **KINDS[name][0]), text(1), Layout.packed([[2, 3]]))


@torch.no_grad()
@torch.no_grad()
def test_forgetting_begins_by_remembering() -> None:
    m = ForgettingSpec(num_heads=3, mask=Causal()).build(d_model=6, layer=0)
    kept = m.forget(torch.zeros(1, 1, 6)).flatten()
    torch.testing.assert_close(-1 / kept, torch.tensor([32.5, 181.5, 1024.5]), rtol=0, atol=0.1)  # tokens until 1 / e


def test_forgetting_of_long_texts_keeps_its_digits_and_its_texts_apart() -> None:
    m = module(kind="forgetting", mask="causal")
    x = text(1, 700)
    sums = m.sums(x, Layout.packed([[300, 400]]))[0]
    for part_of in (slice(0, 300), slice(300, 700)):
        alone = m.sums(x[:, part_of], Layout.dense(1, part_of.stop - part_of.start))[0]
        torch.testing.assert_close(sums[:, part_of], alone)
    single = m.float()(x.float(), Layout.packed([[300, 400]]))
    torch.testing.assert_close(single.double(), m.double()(x, Layout.packed([[300, 400]])), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mask", ["causal", "everything"])
def test_forgetting_by_rows_of_blocks_has_the_gradients_of_differences(mask: str) -> None:
    m = module(kind="forgetting", mask=mask)
    m.backend = "chunked"
    assert gradients_hold(m, text(1), Layout.packed([[2, 3]])) and gradients_hold(m, text(1), Layout.dense(1, 5))


@pytest.mark.parametrize("layout", [Layout.dense(1, 1100), Layout.packed([[500, 580]], 1100)], ids=["dense", "packed"])
def test_forgetting_of_long_texts_is_the_definition_in_value_and_gradient(layout: Layout) -> None:
    m = module(kind="forgetting", mask="causal").float()
    x = text(1, 1100).float().requires_grad_()
    leaves, found = [x, *m.parameters()], []
    for backend in ("auto", "reference"):
        m.backend = backend
        y = m(x, layout)
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), leaves)])
    for ours, theirs in zip(*found):
        assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


class Largest(TorchDispatchMode):
    """The numbers of the largest tensor that anything gives."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        for t in tree_leaves(given):
            self.numbers = max(self.numbers, t.untyped_storage().nbytes() // 4 if isinstance(t, Tensor) else 0)
        return given


@pytest.mark.parametrize("grad", [False, True])
def test_forgetting_holds_no_tensor_of_all_pairs(grad: bool) -> None:
    """At 8,192 tokens nothing is a hundredth as large as the pairs, forward and backward."""
    m, n = module(kind="forgetting", mask="causal").float(), 8192
    x = text(1, n).float().requires_grad_(grad)
    with Largest() as seen, torch.set_grad_enabled(grad):
        y = m(x)
        if grad:
            y.sum().backward()
    assert n * WIDTH <= seen.numbers <= HEADS * n * n / 100


def routed(m: Any, x: Tensor, y: Tensor, t: int, *, cross: bool, count: int, size: int) -> Tensor:
    """Attention of token t of x over the tokens of y in the best `count` blocks of `size`, its own among them."""
    heads = []
    for h in range(HEADS):
        q, keys = part(m.q.weight, h, D, x[t]), [part(m.k.weight, h // 2, D, z) for z in y]
        blocks = [range(b, min(b + size, len(y))) for b in range(0, len(y), size)]
        best = sorted(range(len(blocks)), key=lambda b: -float(q @ sum(keys[j] for j in blocks[b]) / len(blocks[b])))
        own = [] if cross else [t // size]
        chosen = own + [b for b in best if b not in own][: count - len(own)]
        seen = [j for b in chosen for j in blocks[b]]
        weights = softmax([q @ keys[j] / math.sqrt(D) for j in seen])
        heads.append(sum(w * part(m.v.weight, h // 2, D, y[j]) for w, j in zip(weights, seen)))
    return m.out.weight @ torch.cat(heads)


@torch.no_grad()
@pytest.mark.parametrize("cross", [False, True])
def test_routing_both_ways_and_to_a_source_picks_the_best_blocks(cross: bool) -> None:
    term = {"kind": "block_routing", "size": 2, "count": 2}
    m = module(d_memory=WIDTH if cross else None, term=term)
    x, source = text(1, 7), text(1, 9, seed=3) if cross else text(1, 7)
    found = m(x, memory=m.remember(source, Layout.dense(1, 9))) if cross else m(x)
    for t in range(7):
        torch.testing.assert_close(found[0, t], routed(m, x[0], source[0], t, cross=cross, count=2, size=2))
    every = module(d_memory=WIDTH if cross else None, term=term | {"count": 5})
    plain = module(d_memory=WIDTH if cross else None)
    keep = {"memory": plain.remember(source, Layout.dense(1, 9))} if cross else {}
    torch.testing.assert_close(every(x, **keep), plain(x, **keep))


LATENT = {"kind": "latent", "d_latent": 4, "d_rope": 2, "rotary": {"base": 100.0}, "d_value": 5}


def latent(m: Any, x: Tensor, t: int) -> Tensor:
    """DeepSeek-V2's equations 9 to 19, with keys and values written out."""

    def rms(z: Tensor, weight: Tensor) -> Tensor:
        return z / (z.pow(2).mean() + 1e-6).sqrt() * weight

    def turned(z: Tensor, at: int) -> Tensor:
        c, s = math.cos(at), math.sin(at)  # one pair of channels, of frequency 1
        return torch.stack([c * z[0] - s * z[1], s * z[0] + c * z[1]])

    asked = x[t] if m.query_down is None else rms(m.query_down.weight @ x[t], m.query_norm.weight)
    heads = []
    for h in range(HEADS):
        q, scores, values = part(m.q.weight, h, 5, asked), [], []
        for j in range(t + 1):
            down = m.down.weight @ x[j]
            up = part(m.up.weight, h, 8, rms(down[:4], m.norm.weight))
            scores.append((q[:3] @ up[:3] + turned(q[3:], t) @ turned(down[4:], j)) / math.sqrt(5))
            values.append(up[3:])
        heads.append(sum(w * v for w, v in zip(softmax(scores), values)))
    return m.out.weight @ torch.cat(heads)


def latent_module(**tree: Any) -> Any:
    return module(**(LATENT | tree))


@torch.no_grad()
@pytest.mark.parametrize("form", ["absorbed", "expanded"])
@pytest.mark.parametrize("query", [None, 6])
def test_latent_attention_is_the_formula_in_both_forms(query: int | None, form: str) -> None:
    m, x = latent_module(mask="causal", d_query_latent=query), text(1, 5)
    m.form = form
    torch.testing.assert_close(m(x)[0], torch.stack([latent(m, x[0], t) for t in range(5)]), rtol=1e-9, atol=1e-9)


def test_the_forms_of_latent_attention_agree_in_gradients_and_shapes_choose() -> None:
    m, x = latent_module(mask="causal"), text(2, 6).requires_grad_()
    found = []
    for form in ("absorbed", "expanded"):
        m.form = form
        y = m(x, Layout.packed([[2, 4], [6]]))
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *m.parameters()])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    sizes = Latent(512, 128, 64, 128)
    assert sizes.absorbed(1, 4096) and not sizes.absorbed(4096, 4096)


def test_gradients_of_latent_attention_are_those_of_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "latent", (LATENT, latent))
    test_gradients_are_those_of_differences("latent")


def test_a_cache_of_latents_holds_what_describe_prints() -> None:
    tree = stack(LATENT | {"mask": "causal"})
    found = describe(read(ModelSpec, tree), tokens=9)
    assert found.cache_bytes_per_token == (4 + 2) * 4 and "24 bytes a token growing" in found.text()
    plain = describe(read(ModelSpec, stack({"mask": "causal"})), tokens=9)
    assert plain.cache_bytes_per_token == 2 * 8 * 4


def stack(attention: dict[str, Any], **cross: Any) -> dict[str, Any]:
    block: dict[str, Any] = {"attention": {"num_heads": 2} | attention}
    if not cross:
        return {"kind": "decoder", "d_model": 8, "vocab_size": 5, "stack": {"num_layers": 1, "block": block}}
    decoder = {"num_layers": 1, "block": block | {"cross": cross}}
    encoder = {"num_layers": 1, "block": {"attention": {"num_heads": 2}}}
    return {"kind": "encoder_decoder", "d_model": 8, "vocab_size": 5, "encoder": encoder, "decoder": decoder}


WINDOW = ["causal", {"kind": "window", "before": 3}]
REFUSED: dict[str, tuple[Any, str]] = {
    "cosine of latents": (
        stack({"kind": "latent", "d_latent": 4, "scores": {"product": "cosine"}}),
        r"attention\.scores\.product: cosine, the latent meets queries by dot products alone",
    ),
    "nothing to turn": (stack({"kind": "latent", "d_latent": 4, "rotary": {}}), r"attention\.d_rope: 0 beside rotary"),
    "odd maps": (stack({"kind": "differential", "num_heads": 3}), r"attention\.num_heads: 3, must be even"),
    "odd groups": (stack({"kind": "differential", "num_kv_heads": 1}), r"num_kv_heads: 1, must be even"),
    "forgetting cross": (
        stack({"mask": "causal"}, kind="forgetting", num_heads=2),
        r"decoder\.block\.cross\.kind: forgetting, orders and forgets by its own text",
    ),
    "routing in a window": (
        stack({"mask": WINDOW, "term": "block_routing"}),
        r"stack\.block\.attention\.term\.kind: block_routing under a mask of kind all, means are of whole blocks",
    ),
    "shared routing in a window": (
        {"kind": "decoder", "d_model": 8, "vocab_size": 5,
         "stack": {"num_layers": 1, "bias": "block_routing", "block": {"attention": {"num_heads": 2, "mask": WINDOW}}}},
        r"stack\.bias\.kind: block_routing under a mask",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_when_it_is_read(name: str) -> None:
    tree, words = REFUSED[name]
    with pytest.raises(SpecError, match=words):
        read(ModelSpec, tree)


def test_a_term_takes_what_was_handed_over_to_another_dtype() -> None:
    sums = torch.randn(1, 2, 3, 1, dtype=torch.float64)
    term = Forgotten(sums, sums).to(torch.float32)
    assert [t.dtype for t in term.given] == [torch.float32] * 2 and torch.equal(term.given[0], sums.float())

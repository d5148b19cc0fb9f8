"""Memory tokens: a text read segment by segment equals its definition, with a cache, padded, packed and in beams."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attnlib.errors import LayoutError, UsageError
from attnlib.generate import generate
from attnlib.inspect import record
from attnlib.layout import Layout
from attnlib.models.spec import ModelSpec
from attnlib.spec import SpecError, read

M, HEADS, MEMORY, SEGMENT, LAYERS = 8, 2, 2, 3, 2
ATTENTION = {"num_heads": HEADS}
ROTARY = {"rotary": {"base": 100.0}, "num_kv_heads": 1}


def tree(kind: str = "decoder", attention: Any = None, **memory: int) -> dict[str, Any]:
    mask = {"mask": "causal"} if kind == "decoder" else {}
    block = {"attention": ATTENTION | mask | (attention or {}), "mlp": {"kind": "dense", "d_ff": 12, "bias": False}}
    sizes = {"tokens": MEMORY, "segment": SEGMENT} | memory
    return {"kind": kind, "d_model": M, "vocab_size": 11, "head": {"kind": "lm", "tied": False},
            "stack": {"num_layers": LAYERS, "final_norm": "rms", "block": block, "memory": sizes}}  # fmt: skip


def model(spec: dict[str, Any] | None = None) -> Any:
    made = read(ModelSpec, spec or tree()).build().double().eval()
    drawn = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=drawn, dtype=torch.float64) * 0.5)
    return made


def pair() -> dict[str, Any]:
    spec = tree()
    stack = spec.pop("stack")
    cross = {"block": stack["block"] | {"cross": ATTENTION}}
    both = {"block": stack["block"] | {"attention": ATTENTION}}
    return spec | {"kind": "encoder_decoder", "encoder": stack | both, "decoder": stack | cross}


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def naive(m: Any, x: Tensor, *, causal: bool) -> Tensor:
    """[T, M] the normed stream of tokens x [T, M], from the paper's formulas, segment by segment."""
    memory, told = m.stack.memory_tokens.first, []
    for at in range(0, len(x), SEGMENT):
        segment = x[at : at + SEGMENT]
        y = torch.cat([memory, segment, memory] if causal else [memory, segment])
        for block in m.stack.blocks:
            a, z = block.attention.body, norm(y, block.attention.before.weight)
            heads = []
            for h in range(HEADS):
                part = slice(h * M // HEADS, (h + 1) * M // HEADS)
                q, k, v = (z @ w.weight[part].T for w in (a.q, a.k, a.v))
                scores = q @ k.T / math.sqrt(M // HEADS)
                if causal:
                    scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf)
                heads.append(scores.softmax(-1) @ v)
            y = y + torch.cat(heads, -1) @ a.out.weight.T
            z = norm(y, block.mlp.before.weight)
            y = y + torch.nn.functional.gelu(z @ block.mlp.body.up.weight.T) @ block.mlp.body.down.weight.T
        y = norm(y, m.stack.final_norm.weight)
        told.append(y[MEMORY : MEMORY + len(segment)])
        memory = y[MEMORY + len(segment) :] if causal else y[:MEMORY]
    return torch.cat(told)


def text(rows: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 11, (rows, tokens), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 9, 11])
def test_a_stack_with_memory_equals_its_definition(kind: str, tokens: int) -> None:
    m, ids = model(tree(kind)), text(2, tokens)
    for row, found in zip(ids, m(ids).last):
        torch.testing.assert_close(found, naive(m, m.embedding.token.weight[row], causal=kind == "decoder"))


@torch.no_grad()
@pytest.mark.parametrize(
    "attention", [{}, {"rotary": {"base": 100.0}, "num_kv_heads": 1}, {"term": "alibi"}, {"kind": "gla"}]
)
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 11])
def test_a_cache_equals_none_in_chunks_of_any_size(attention: dict[str, Any], chunk: int) -> None:
    m, ids = model(tree(attention=attention)), text(2, 11)
    state = m.begin(batch=2)
    told = [m(ids[:, at : at + chunk], state=state).logits for at in range(0, 11, chunk)]
    torch.testing.assert_close(torch.cat(told, 1), m(ids).logits)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_padding_and_packing_change_nothing(kind: str, side: str) -> None:
    m, lengths = model(tree(kind)), [7, 0, 3, 10]
    texts = [text(1, n, seed=n) for n in lengths]
    layout = Layout.from_lengths(lengths, 10, side=side)
    ids = torch.zeros(4, 10, dtype=torch.long)
    real = layout.real
    assert real is not None
    ids[real] = torch.cat(texts, 1)[0]
    alone = torch.cat([m(one).logits[0] for one in texts if one.numel()])
    torch.testing.assert_close(m(ids, layout).logits[real], alone)
    packed = m(torch.cat(texts, 1), Layout.packed([[7, 3, 10]])).logits
    torch.testing.assert_close(packed[0], alone)
    holes = torch.tensor([[1, 0, 1, 1, 0, 1, 1, 0, 1, 1]])
    spread = torch.zeros(1, 10, dtype=torch.long).masked_scatter(holes > 0, texts[0])
    torch.testing.assert_close(m(spread, attention_mask=holes).logits[holes > 0], alone[:7])


@torch.no_grad()
def test_rows_of_unlike_lengths_go_on_from_their_own_memory() -> None:
    m, lengths = model(), [1, 5, 6]
    ids = text(3, 14)
    state = m.begin(batch=3)
    layout = Layout.from_lengths(lengths, 6, side="left")
    first = torch.stack([torch.cat([ids[0, :1].new_zeros(6 - n), row[:n]]) for row, n in zip(ids, lengths)])
    m.step(first, layout, state)
    told = [m.step(torch.stack([row[n + i] for row, n in zip(ids, lengths)])[:, None], None, state)[:, 0] for i in range(8)]
    for number, n in enumerate(lengths):
        torch.testing.assert_close(torch.stack(told)[:, number], m(ids[number : number + 1]).logits[0, n : n + 8])


@torch.no_grad()
@pytest.mark.parametrize("at", [2, 3, 7])
def test_states_are_selected_saved_and_restored(at: int) -> None:
    m, ids = model(), text(3, 12)
    state = m.begin(batch=3)
    m(ids[:, :at], state=state)
    kept = state.save()
    again = [m(ids[:, at:], state=state).logits]
    state.restore(kept)
    again.append(m(ids[:, at:], state=state).logits)
    torch.testing.assert_close(again[0], again[1], rtol=0, atol=0)
    state.restore(kept)
    rows = torch.tensor([2, 0, 2, 1])
    state.select(rows)
    torch.testing.assert_close(m(ids[rows, at:], state=state).logits, again[0][rows])


@torch.no_grad()
def test_beams_find_what_scoring_every_continuation_finds() -> None:
    m = model()
    (found,) = generate(m, [[1, 2, 3, 4]], num_beams=121, max_new_tokens=2)
    every = torch.cartesian_prod(torch.arange(11), torch.arange(11))
    logits = m(torch.cat([torch.tensor([1, 2, 3, 4]).expand(121, -1), every], 1)).logits.log_softmax(-1)
    scores = logits[:, 3].gather(1, every[:, :1]) + logits[:, 4].gather(1, every[:, 1:])
    assert list(found.ids) == every[scores[:, 0].argmax()].tolist()


@torch.no_grad()
def test_what_is_held_does_not_grow() -> None:
    m = model()
    state, sizes = m.begin(batch=1), []
    for token in text(1, 60)[0]:
        m(token.view(1, 1), state=state)
        sizes.append(state.nbytes())
    assert max(sizes[-SEGMENT:]) == max(sizes[SEGMENT : 2 * SEGMENT]) == max(sizes)


def test_gradients_are_those_of_differences_and_reach_the_first_memory_from_any_segment() -> None:
    m = model()
    x = torch.randn(1, 8, M, dtype=torch.float64, requires_grad=True)
    first = m.stack.memory_tokens.first

    def run(x: Tensor, memory: Tensor) -> Tensor:
        named = {"stack.memory_tokens.first": memory}
        return torch.func.functional_call(m, named, (), {"embeds": x, "head": False}).last  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(run, (x, first.detach().clone().requires_grad_()))
    (reached,) = torch.autograd.grad(m(embeds=x, head=False).last[0, -1].sum(), first)
    assert reached.abs().min() > 0


def test_no_token_reads_what_comes_after_and_a_segment_reads_the_first_token_through_memory() -> None:
    m = model()
    x = torch.randn(1, 11, M, dtype=torch.float64, requires_grad=True)
    last = m(embeds=x, head=False).last
    for at in range(11):
        (reached,) = torch.autograd.grad(last[0, at].sum(), x, retain_graph=True)
        per = reached[0].abs().sum(-1)
        assert (per[at + 1 :] == 0).all() and (per[: at + 1] > 0).all()


def test_detach_cuts_gradients_between_forwards() -> None:
    m = model()
    state = m.begin(batch=1)
    m(text(1, 7), state=state)
    state.detach()
    (reached,) = torch.autograd.grad(
        m(text(1, 4, seed=1), state=state).last.sum(), m.stack.memory_tokens.first, allow_unused=True
    )
    assert reached is None


@torch.no_grad()
def test_a_pair_reads_its_source_from_every_segment_packed_and_with_a_cache() -> None:
    m = model(pair())
    source, ids = text(2, 5), text(2, 8, seed=1)
    full = m(source, ids).logits
    state = m.begin(source)
    told = [m.step(ids[:, at : at + 1], None, state) for at in range(8)]
    torch.testing.assert_close(torch.cat(told, 1), full)
    packed = m(source.view(1, -1), ids.view(1, -1), Layout.packed([[5, 5]]), Layout.packed([[8, 8]])).logits
    torch.testing.assert_close(packed.view_as(full), full)


@torch.no_grad()
def test_streams_before_each_block_are_those_of_the_tokens() -> None:
    m, ids = model(), text(2, 7)
    found = m(ids, hidden=True)
    assert [tuple(one.shape) for one in found.hidden] == [(2, 7, M)] * (LAYERS + 1)
    torch.testing.assert_close(found.hidden[0], m.embedding.token.weight[ids])
    torch.testing.assert_close(norm(found.hidden[-1], m.stack.final_norm.weight), found.last)


@pytest.mark.parametrize("mask", [["causal", {"kind": "window", "before": 2}], {"kind": "chunk", "size": 4}])
def test_masks_that_hide_the_memory_are_refused(mask: Any) -> None:
    with pytest.raises(SpecError, match=r"stack\.memory: under masks of kind .*, tokens must reach the memory"):
        model(tree(attention={"mask": mask}))


def test_what_cannot_be_put_together_is_refused() -> None:
    m = model()
    with pytest.raises(UsageError, match=r"stack\.memory"), record(m):
        pass
    with pytest.raises(LayoutError, match="packs several texts into a row"):
        m(text(1, 4), Layout.packed([[2, 2]]), state=m.begin(batch=1))
    with pytest.raises(LayoutError, match="tells the host of no texts"):
        m(text(1, 4), Layout.of(torch.arange(4)[None], torch.zeros(1, 4, dtype=torch.long)))

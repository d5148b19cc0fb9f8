"""Every method of explanation against its definition, computed by loops that share nothing with the package."""

from __future__ import annotations

import math

import networkx
import pytest
import torch
from naive import Naive, Trace
from stacks_for_explanations import TREES, by_hand, forward, question, values
from torch import Tensor

from attnlib.inspect.explanations import IntegratedGradients, Method, Occlusion, why
from attnlib.inspect.question import Question

KINDS = list(TREES)


def scores(asked: Question, method: str | Method) -> dict[str, Tensor]:
    return {name: torch.from_numpy(found) for name, found in why(asked, method).scores.items()}


def near(found: dict[str, Tensor], wished: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert list(found) == list(wished)
    for name in found:
        assert found[name].shape == wished[name].shape, name
        worst = float((found[name] - wished[name]).abs().max())
        assert worst <= tolerance * max(1.0, float(wished[name].abs().max())), (name, worst)


def rows_of(asked: Question) -> list[int]:
    """The column that each target is read from; the encoder's label is read from the first."""
    return [0 if target.rows is None else target.rows[0] for target in asked.targets]


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_by_hand_is_the_models(kind: str) -> None:
    asked = question(kind)
    logits, _ = forward(asked, by_hand(asked))
    explanation = why(asked, "random")
    near({"values": torch.from_numpy(explanation.values)}, {"values": values(asked, logits)})
    logprobs = values(asked, logits - logits.exp().sum(-1, keepdim=True).log())
    near({"logprobs": torch.from_numpy(explanation.logprobs)}, {"logprobs": logprobs})


def gradients_by_hand(asked: Question, embeds: dict[str, Tensor]) -> dict[str, Tensor]:
    """[N, T, E] by side."""
    leaves = {name: e.clone().requires_grad_() for name, e in embeds.items()}
    logits, _ = forward(asked, by_hand(asked), embeds=leaves)
    found: dict[str, list[Tensor]] = {name: [] for name in leaves}
    for value in values(asked, logits):
        for name, grad in zip(leaves, torch.autograd.grad(value, list(leaves.values()), retain_graph=True), strict=True):
            found[name].append(grad)
    return {name: torch.stack(grads) for name, grads in found.items()}


def looked_up(asked: Question) -> dict[str, Tensor]:
    return {side.name: asked.model.embedding.token.weight[list(side.ids)] for side in asked.sides}


@pytest.mark.parametrize("kind", KINDS)
def test_saliency_and_input_x_gradient_are_the_gradients(kind: str) -> None:
    asked = question(kind)
    embeds = looked_up(asked)
    grads = gradients_by_hand(asked, embeds)
    near(scores(asked, "saliency"), {name: (grad**2).sum(-1).sqrt() for name, grad in grads.items()})
    near(scores(asked, "input_x_gradient"), {name: (grad * embeds[name]).sum(-1) for name, grad in grads.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients_are_the_integral_and_complete(kind: str) -> None:
    asked = question(kind, None if kind == "encoder" else "next")
    there = looked_up(asked)
    mean = asked.model.embedding.token.weight.mean(0)
    here = {name: mean.expand_as(e) for name, e in there.items()}
    wished = {name: torch.zeros(len(asked.targets), len(e), dtype=torch.float64) for name, e in there.items()}
    steps = 30
    for i in range(steps + 1):  # Simpson's rule
        share = (1 if i in (0, steps) else 4 if i % 2 else 2) / (3 * steps)
        at = {name: here[name] + i / steps * (there[name] - here[name]) for name in there}
        for name, grad in gradients_by_hand(asked, at).items():
            wished[name] += (grad * (there[name] - here[name])).sum(-1) * share
    explanation = why(asked, IntegratedGradients(tolerance=1e-5))
    near({name: torch.from_numpy(found) for name, found in explanation.scores.items()}, wished, 1e-2)
    assert explanation.notes["completeness_error"].max() < 1e-5
    gained = values(asked, forward(asked, by_hand(asked))[0]) - values(asked, forward(asked, by_hand(asked), embeds=here)[0])
    total = sum(torch.from_numpy(found).sum(1) for found in explanation.scores.values())
    torch.testing.assert_close(total, gained, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("way", ["hide", "blank"])
@pytest.mark.parametrize("kind", KINDS)
def test_occlusion_is_the_loss_without_each_token(kind: str, way: str) -> None:
    asked = question(kind)
    mean = asked.model.embedding.token.weight.mean(0)
    whole = values(asked, forward(asked, by_hand(asked))[0])
    wished = {}
    for side in asked.sides:
        lost = torch.zeros(len(asked.targets), len(side), dtype=torch.float64)
        for column in range(len(side)):
            embeds = looked_up(asked)
            embeds[side.name][column] = mean
            for number, row in enumerate(rows_of(asked)):
                read_here = side.name == "text" and row == column and kind != "encoder"
                hidden = {} if way == "blank" or read_here else {side.name: {column}}
                if kind == "encoder" and hidden and column == 0:
                    lost[number, column] = torch.nan  # a pooled head then reads the next token: tested below
                    continue
                logits, _ = forward(asked, by_hand(asked), embeds=embeds, hidden=hidden)
                lost[number, column] = (whole - values(asked, logits))[number]
        wished[side.name] = lost
    found = scores(asked, Occlusion(way=way))
    if kind == "encoder" and way == "hide":
        found["text"], wished["text"] = found["text"][:, 1:], wished["text"][:, 1:]
    near(found, wished)


def maps_of(trace: Trace) -> dict[str, Tensor]:
    """Mean over heads by path, in the order of the forward."""
    return {path: weights.mean(0) for path, weights in trace.weights.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_rollout_is_the_product_of_half_attention_half_residual(kind: str) -> None:
    asked = question(kind)
    maps = maps_of(forward(asked, by_hand(asked))[1])
    sizes = {side.name: len(side) for side in asked.sides}
    # each column of each stream is a row of shares of all input tokens, the source's first
    names = [name for name in ("source", "text") if name in sizes]
    offset = {"source": 0, "text": sizes.get("source", 0)}
    total = sum(sizes.values())
    streams = {n: [[1.0 if offset[n] + i == j else 0.0 for j in range(total)] for i in range(sizes[n])] for n in names}
    for path, weights in maps.items():
        side = "source" if kind == "encoder_decoder" and path.startswith("encoder") else "text"
        reads = "source" if path.endswith("cross") else side
        streams[side] = [
            [
                0.5 * own[j] + 0.5 * sum(float(weights[i, k]) * streams[reads][k][j] for k in range(sizes[reads]))
                for j in range(total)
            ]
            for i, own in enumerate(streams[side])
        ]
    rows = torch.tensor([streams["text"][row] for row in rows_of(asked)], dtype=torch.float64)
    wished = {n: rows[:, offset[n] : offset[n] + sizes[n]] for n in names}
    found = scores(asked, "rollout")
    near(found, wished)
    torch.testing.assert_close(sum(f.sum(1) for f in found.values()), torch.ones(len(asked.targets), dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_flow_is_the_maximum_flow_of_the_attention_graph(kind: str) -> None:
    asked = question(kind)
    maps = maps_of(forward(asked, by_hand(asked))[1])
    graph = networkx.DiGraph()
    level = {side.name: 0 for side in asked.sides}
    for path, weights in maps.items():
        side = "source" if kind == "encoder_decoder" and path.startswith("encoder") else "text"
        reads = "source" if path.endswith("cross") else side
        for i in range(weights.shape[0]):
            for j in range(weights.shape[1]):
                capacity = 0.5 * float(weights[i, j]) + (0.5 if i == j and reads == side else 0.0)
                if capacity:
                    graph.add_edge((side, level[side] + 1, i), (reads, level[reads], j), capacity=capacity)
            if reads != side:
                graph.add_edge((side, level[side] + 1, i), (side, level[side], i), capacity=0.5)
        level[side] += 1
    found = scores(asked, "flow")
    for number, row in enumerate(rows_of(asked)):
        for side in asked.sides:
            for column in range(len(side)):
                start, end = ("text", level["text"], row), (side.name, 0, column)
                most = networkx.maximum_flow_value(graph, start, end) if end in graph else 0.0
                assert math.isclose(found[side.name][number, column], most, abs_tol=1e-9), (side.name, number, column)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_attention_carries_what_the_gradient_helps(kind: str) -> None:
    asked = question(kind)
    sizes = {side.name: len(side) for side in asked.sides}
    for number, row in enumerate(rows_of(asked)):
        logits, trace = forward(asked, _WithLeaves.of(asked))
        value = values(asked, logits)[number]
        maps = list(trace.weights.values())
        grads = torch.autograd.grad(value, maps, allow_unused=True)
        own = {n: torch.eye(size, dtype=torch.float64) for n, size in sizes.items()}
        across = torch.zeros(sizes["text"], sizes.get("source", 0), dtype=torch.float64)
        for (path, weights), grad in zip(trace.weights.items(), grads, strict=True):
            helped = torch.zeros_like(weights) if grad is None else (weights * grad).clamp(min=0)
            step = helped.mean(0).detach()
            if path.endswith("cross"):
                across = across + step @ own["source"]
            elif kind == "encoder_decoder" and path.startswith("encoder"):
                own["source"] = own["source"] + step @ own["source"]
            else:
                own["text"], across = own["text"] + step @ own["text"], across + step @ across
        found = scores(asked, "gradient_attention")
        text = own["text"][row] - torch.eye(sizes["text"], dtype=torch.float64)[row]
        near({"text": found["text"][number]}, {"text": text})
        if "source" in found:
            near({"source": found["source"][number]}, {"source": across[row]})


class _WithLeaves:
    """The forward by hand whose attention maps keep their graph, so that a gradient at them can be asked for."""

    @staticmethod
    def of(asked: Question):
        naive = by_hand(asked)
        naive.state = {name: value.clone().requires_grad_() for name, value in naive.state.items()}
        return naive


@pytest.mark.parametrize("kind", KINDS)
def test_value_weighted_attention_is_the_length_of_what_each_token_sends(kind: str) -> None:
    asked = question(kind)
    naive = by_hand(asked)
    _, trace = forward(asked, naive)
    sizes = {side.name: len(side) for side in asked.sides}
    own = {name: torch.eye(size, dtype=torch.float64) for name, size in sizes.items()}
    across = torch.zeros(sizes["text"], sizes.get("source", 0), dtype=torch.float64)
    for path, weights in trace.weights.items():
        stack, layer, name = path.split(".")
        module = (
            f"{stack if kind == 'encoder_decoder' else 'stack'}.blocks.{layer}.{'cross' if name == 'cross' else 'attention'}"
        )
        out, bias = naive.p(f"{module}.body.out.weight"), naive.p(f"{module}.body.out.bias")
        x, values_of = trace.before[path], trace.values[path]
        width = values_of.shape[-1]
        sent = torch.zeros(weights.shape[1:], dtype=torch.float64)
        stayed = torch.zeros(len(x), dtype=torch.float64)
        for q in range(weights.shape[1]):
            parts = [
                sum(weights[h, q, k] * (out[:, h * width : (h + 1) * width] @ values_of[h, k]) for h in range(3))
                for k in range(weights.shape[2])
            ]
            whole = x[q] + sum(parts) + (0 if bias is None else bias)
            if name == "self":
                parts[q] = parts[q] + x[q]
            for k, part in enumerate(parts):
                sent[q, k] = _after_norm(kind, naive, module, part, whole).norm()
            stayed[q] = _after_norm(kind, naive, module, x[q], whole).norm()
        side = "source" if kind == "encoder_decoder" and stack == "encoder" else "text"
        if name == "self":
            step = sent / sent.sum(1, keepdim=True)
            own[side] = step @ own[side]
            across = step @ across if side == "text" else across
        else:
            total = sent.sum(1) + stayed
            own["text"] = (stayed / total)[:, None] * own["text"]
            across = (stayed / total)[:, None] * across + sent / total[:, None] @ own["source"]
    rows = rows_of(asked)
    wished = {"source": across[rows], "text": own["text"][rows]}
    near(scores(asked, "value_weighted"), {side.name: wished[side.name] for side in asked.sides})


def _after_norm(kind: str, naive: Naive, module: str, part: Tensor, whole: Tensor) -> Tensor:
    """A part of what a post-norm gets, through the norm with its scale held still; without a norm the part."""
    if kind != "encoder":
        return part
    return (part - part.mean()) / torch.sqrt(whole.var(unbiased=False) + 1e-5) * naive.p(f"{module}.outer.weight")


@pytest.mark.parametrize("kind", KINDS)
def test_value_zeroing_is_how_far_each_layer_turns(kind: str) -> None:
    asked = question(kind)
    _, plain = forward(asked, by_hand(asked))
    sizes = {side.name: len(side) for side in asked.sides}
    own = {name: torch.eye(size, dtype=torch.float64) for name, size in sizes.items()}
    across = torch.zeros(sizes["text"], sizes.get("source", 0), dtype=torch.float64)
    for path, out in plain.block_out.items():
        side = "source" if kind == "encoder_decoder" and path.startswith("encoder") else "text"
        turns = {}
        for name in ("self", "cross"):
            keys = plain.weights.get(f"{path}.{name}")
            if keys is None:
                continue
            columns = []
            for k in range(keys.shape[2]):
                changed = _block_without(asked, plain, path, f"{path}.{name}", k)
                columns.append(torch.stack([1 - a @ b / (a.norm() * b.norm()) for a, b in zip(changed, out, strict=True)]))
            turns[name] = torch.stack(columns, 1)
        total = sum(turn.sum(1, keepdim=True) for turn in turns.values())
        own[side] = turns["self"] / total @ own[side]
        if side == "text":
            across = turns["self"] / total @ across
        if "cross" in turns:
            across = across + turns["cross"] / total @ own["source"]
    rows = rows_of(asked)
    wished = {"source": across[rows], "text": own["text"][rows]}
    near(scores(asked, "value_zeroing"), {side.name: wished[side.name] for side in asked.sides}, 1e-7)


def _block_without(asked: Question, plain: Trace, path: str, attention: str, key: int) -> Tensor:
    """The output of one block by hand with the value of one key of one of its attentions zero."""

    def change(where: str, values_of: Tensor) -> Tensor:
        changed = values_of.clone()
        if where == attention:
            changed[:, key] = 0.0
        return changed

    naive = by_hand(asked, change_values=change)
    stack, layer = path.split(".")
    both = asked.model.spec.kind == "encoder_decoder"
    x = plain.before[f"{path}.self"]
    seen = torch.ones(len(x), len(x), dtype=torch.bool)
    memory = None
    if both and stack == "decoder":
        memory = naive.normed("encoder.final_norm", plain.block_out["encoder.1"])
    memory_seen = None if memory is None else torch.ones(len(x), len(memory), dtype=torch.bool)
    module = f"{stack if both else 'stack'}.blocks.{layer}"
    return naive.block(module, path, x, seen.tril() if stack == "decoder" else seen, Trace(), memory, memory_seen)

"""AttnLRP against its rules written out as explicit relevances, layer by layer, sharing nothing with the package."""

from __future__ import annotations

import pytest
import torch
from naive import Naive
from stacks_for_explanations import TREES, by_hand, question
from torch import Tensor

from attnlib.inspect.explanations import why


class Relevance:
    """Relevance handed back through a toy; `lost` adds up what goes to no token: biases, places, the softmax's constant."""

    def __init__(self, naive: Naive) -> None:
        self.naive, self.lost = naive, 0.0

    def linear(self, name: str, x: Tensor, relevance: Tensor) -> Tensor:
        """R_i = x_i sum_j W_ji R_j / y_j."""
        weight = self.naive.p(f"{name}.weight")
        y = self.naive.linear(name, x)
        back = x * ((relevance / y) @ weight)
        self.lost += float(relevance.sum() - back.sum())
        return back

    def norm(self, name: str, x: Tensor, relevance: Tensor) -> Tensor:
        """The division by the scale passes relevance on; centring and bias are a linear map."""
        naive = self.naive
        if naive.p(f"{name}.weight") is None:
            return relevance
        if naive.norm == "rms":
            return relevance
        y, n = naive.normed(name, x), x.shape[1]
        rate = 1 / torch.sqrt(x.var(1, unbiased=False, keepdim=True) + naive.eps)
        share = relevance / y * naive.p(f"{name}.weight") * rate
        back = x * (share - share.sum(1, keepdim=True) / n)
        self.lost += float(relevance.sum() - back.sum())
        return back

    def attention(self, name: str, x: Tensor, memory: Tensor, causal: bool, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """To x and to memory."""
        naive = self.naive
        q, k, v = (naive.linear(f"{name}.{p}", y) for p, y in (("q", x), ("k", memory), ("v", memory)))
        width = q.shape[1] // naive.heads
        seen = torch.ones(len(x), len(memory), dtype=torch.bool)
        seen = seen.tril() if causal else seen
        heads = []
        for h in range(naive.heads):
            cut = slice(h * width, (h + 1) * width)
            s = q[:, cut] @ k[:, cut].T * width**-0.5
            a = torch.softmax(s.masked_fill(~seen, -torch.inf), 1)
            heads.append((cut, s, a, a @ v[:, cut]))
        mixed = torch.cat([o for *_, o in heads], 1)
        at_mixed = self.linear(f"{name}.out", mixed, relevance)
        at_q, at_k, at_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for cut, s, a, o in heads:
            r = at_mixed[:, cut]
            at_a = torch.zeros_like(a)
            for i in range(len(x)):
                for j in range(len(memory)):
                    share = a[i, j] * v[j, cut] * r[i] / (2 * o[i])
                    at_a[i, j] = share.sum()
                    at_v[j, cut] += share
            at_s = s * (at_a - a * at_a.sum(1, keepdim=True))
            self.lost += float(at_a.sum() - at_s.sum())
            for i in range(len(x)):
                for j in range(len(memory)):
                    if seen[i, j]:
                        share = q[i, cut] * k[j, cut] * width**-0.5 * at_s[i, j] / (2 * s[i, j])
                        at_q[i, cut] += share
                        at_k[j, cut] += share
        to_memory = self.linear(f"{name}.k", memory, at_k) + self.linear(f"{name}.v", memory, at_v)
        return self.linear(f"{name}.q", x, at_q), to_memory

    def feed_forward(self, name: str, x: Tensor, relevance: Tensor) -> Tensor:
        naive = self.naive
        up = naive.linear(f"{name}.up", x)
        kind, _, gated = naive.mlp.partition(" ")
        act = {"silu": lambda y: y / (1 + torch.exp(-y)), "gelu": lambda y: 0.5 * y * (1 + torch.erf(y / 2**0.5))}[kind]
        if not gated:
            return self.linear(f"{name}.up", x, self.linear(f"{name}.down", act(up), relevance))
        gate = naive.linear(f"{name}.gate", x)
        half = self.linear(f"{name}.down", act(gate) * up, relevance) / 2
        return self.linear(f"{name}.gate", x, half) + self.linear(f"{name}.up", x, half)


@pytest.mark.parametrize("kind", list(TREES))
def test_attn_lrp_is_the_rules_written_out_and_loses_only_to_constants(kind: str) -> None:
    asked = question(kind, None if kind == "encoder" else "next")
    naive = by_hand(asked)
    tool = Relevance(naive)
    wished, value = _handed_back(asked, naive, tool)
    found = why(asked, "attn_lrp")
    for name, scores in wished.items():
        got = torch.from_numpy(found.scores[name][0])
        assert float((got - scores).abs().max()) < 1e-9 * max(1.0, float(scores.abs().max())), name
    total = sum(float(scores.sum()) for scores in wished.values())
    assert abs(total + tool.lost - value) < 1e-8 * max(1.0, abs(value))


def _handed_back(asked, naive: Naive, tool: Relevance) -> tuple[dict[str, Tensor], float]:
    kind = asked.model.spec.kind
    sides = {side.name: list(side.ids) for side in asked.sides}
    both = kind == "encoder_decoder"
    memory, runs = None, {}
    if both:
        memory, runs["source"] = _run(naive, "encoder", sides["source"], False, None)
    stack = "decoder" if both else "stack"
    last, runs["text"] = _run(naive, stack, sides["text"], kind != "encoder", memory)
    relevance = torch.zeros_like(last)
    if kind == "encoder":
        pooled = torch.tanh(naive.linear("head.dense", last[:1]))
        label = asked.targets[0].label
        logits = naive.linear("head.project", pooled)
        start = torch.zeros_like(logits)
        start[0, label] = logits[0, label]
        relevance[:1] = tool.linear("head.dense", last[:1], tool.linear("head.project", pooled, start))
        value = float(logits[0, label])
    else:
        row = naive.p("embedding.token.weight")[asked.targets[0].answer]
        relevance[-1] = last[-1] * row
        value = float(last[-1] @ row)
    at_memory = None if memory is None else torch.zeros_like(memory)
    relevance = _back(naive, tool, stack, runs["text"], kind != "encoder", relevance, memory, at_memory)
    found = {"text": _of_tokens(naive, tool, sides["text"], relevance)}
    if at_memory is not None:
        at_source = _back(naive, tool, "encoder", runs["source"], False, at_memory, None, None)
        found["source"] = _of_tokens(naive, tool, sides["source"], at_source)
    return found, value


def _run(naive: Naive, stack: str, ids: list[int], causal: bool, memory: Tensor | None):
    """The stream before each sublayer and what it adds: [(name, x, branch input, branch)], and the last stream."""
    x, done = naive.embed(ids), []
    seen = torch.ones(len(x), len(x), dtype=torch.bool)
    from naive import Trace

    for layer in range(naive.layers):
        for part in ("attention", "cross", "mlp"):
            if part == "cross" and memory is None:
                continue
            name = f"{stack}.blocks.{layer}.{part}"
            y = naive.normed(f"{name}.before", x) if naive.placement == "pre" else x
            if part == "attention":
                branch = naive.attention(f"{name}.body", "", y, y, seen.tril() if causal else seen, Trace())
            elif part == "cross":
                branch = naive.attention(f"{name}.body", "", y, memory, torch.ones(len(x), len(memory)).bool(), Trace())
            else:
                branch = naive.feed_forward(f"{name}.body", y)
            done.append((name, part, x, y, branch))
            x = x + branch if naive.placement == "pre" else naive.normed(f"{name}.outer", x + branch)
    done.append((f"{stack}.final_norm", "final", x, x, x))
    return naive.normed(f"{stack}.final_norm", x), done


def _back(naive, tool, stack, run, causal, relevance, memory, at_memory):
    for name, part, x, y, branch in reversed(run):
        if part == "final":
            relevance = tool.norm(name, x, relevance)
            continue
        total = x + branch
        if naive.placement == "post":
            relevance = tool.norm(f"{name}.outer", total, relevance)
        stays, goes = relevance * x / total, relevance * branch / total
        if part == "mlp":
            goes = tool.feed_forward(f"{name}.body", y, goes)
        elif part == "attention":
            goes = sum(tool.attention(f"{name}.body", y, y, causal, goes))
        else:
            goes, more = tool.attention(f"{name}.body", y, memory, False, goes)
            at_memory += more
        if naive.placement == "pre":
            goes = tool.norm(f"{name}.before", x, goes)
        relevance = stays + goes
    return relevance


def _of_tokens(naive, tool, ids, relevance):
    """Of the sum of token, place and type only the token's share is kept, summed over the width."""
    token = naive.p("embedding.token.weight")[ids]
    whole = token + naive.p("embedding.position.weight")[: len(ids)]
    types = naive.p("embedding.token_type.weight")
    if types is not None:
        whole = whole + types[0]
    relevance = tool.norm("embedding.norm", whole, relevance)
    mine = relevance * token / whole
    tool.lost += float(relevance.sum() - mine.sum())
    return mine.sum(1)

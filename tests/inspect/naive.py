"""Transformers by hand, in double precision, from a state dict: loops and softmax, nothing of the package.

Multi-head attention without positions in the scores, pre- or post-norm, dense or gated feed-forwards, an encoder before a
decoder or one stack alone. Every step can be looked at or changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Trace:
    """What a forward saw: by "stack.layer.kind" the weights [H, Q, K], values [H, K, D], the stream before and after."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)
    block_out: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Naive:
    """heads; norm: "rms" or "layer", with eps; placement: "pre" or "post"; mlp: "gelu", "relu", "silu gated" ..."""

    state: dict[str, Tensor]
    heads: int
    layers: int
    norm: str = "rms"
    eps: float = 1e-6
    placement: str = "pre"
    mlp: str = "silu gated"
    scale: float | None = None
    # (path, values [H, K, D]) -> values, to take some out
    change_values: Callable[[str, Tensor], Tensor] | None = None

    def p(self, name: str) -> Tensor | None:
        found = self.state.get(name)
        return None if found is None else found.double()

    def linear(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.p(f"{name}.weight"), self.p(f"{name}.bias")
        assert weight is not None
        y = x @ weight.T
        return y if bias is None else y + bias

    def normed(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.p(f"{name}.weight"), self.p(f"{name}.bias")
        if weight is None:
            return x
        if self.norm == "layer":
            x = x - x.mean(-1, keepdim=True)
        y = x / torch.sqrt((x**2).mean(-1, keepdim=True) + self.eps) * weight
        return y if bias is None else y + bias

    def attention(self, name: str, path: str, x: Tensor, memory: Tensor, seen: Tensor, trace: Trace) -> Tensor:
        """x [Q, M] over memory [K, M], `seen` [Q, K] bool."""
        q, k, v = (self.linear(f"{name}.{part}", y) for part, y in (("q", x), ("k", memory), ("v", memory)))
        width = q.shape[1] // self.heads
        maps, values = [], []
        for h in range(self.heads):
            cut = slice(h * width, (h + 1) * width)
            scores = q[:, cut] @ k[:, cut].T * (width**-0.5 if self.scale is None else self.scale)
            weights = torch.zeros_like(scores)
            for row in range(len(scores)):
                if bool(seen[row].any()):
                    weights[row, seen[row]] = torch.softmax(scores[row, seen[row]], -1)
            maps.append(weights)
            values.append(v[:, cut])
        stacked = torch.stack(values)
        if self.change_values is not None:
            stacked = self.change_values(path, stacked)
        probabilities = torch.stack(maps)
        outs = [probabilities[h] @ stacked[h] for h in range(self.heads)]
        trace.weights[path], trace.values[path] = probabilities, stacked
        return self.linear(f"{name}.out", torch.cat(outs, 1))

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        kind, _, gated = self.mlp.partition(" ")
        act = {
            "gelu": lambda y: 0.5 * y * (1 + torch.erf(y / math.sqrt(2))),
            "gelu_tanh": lambda y: 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3))),
            "relu": lambda y: y.clamp(min=0),
            "silu": lambda y: y / (1 + torch.exp(-y)),
        }[kind]
        hidden = (
            act(self.linear(f"{name}.gate", x)) * self.linear(f"{name}.up", x)
            if gated
            else act(self.linear(f"{name}.up", x))
        )
        return self.linear(f"{name}.down", hidden)

    def sublayer(self, name: str, x: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        if self.placement == "pre":
            return x + call(self.normed(f"{name}.before", x))
        return self.normed(f"{name}.outer", x + call(x))

    def block(self, stack: str, path: str, x: Tensor, seen: Tensor, trace: Trace, memory: Tensor | None = None,
              memory_seen: Tensor | None = None) -> Tensor:  # fmt: skip
        trace.before[f"{path}.self"] = x
        x = self.sublayer(
            f"{stack}.attention", x, lambda y: self.attention(f"{stack}.attention.body", f"{path}.self", y, y, seen, trace)
        )
        if memory is not None:
            assert memory_seen is not None
            trace.before[f"{path}.cross"] = x
            x = self.sublayer(
                f"{stack}.cross", x,
                lambda y: self.attention(f"{stack}.cross.body", f"{path}.cross", y, memory, memory_seen, trace),
            )  # fmt: skip
        x = self.sublayer(f"{stack}.mlp", x, lambda y: self.feed_forward(f"{stack}.mlp.body", y))
        trace.block_out[path] = x
        return x

    def stack(self, module: str, kind: str, x: Tensor, trace: Trace, hidden: set[int] | None = None,
              memory: Tensor | None = None, memory_hidden: set[int] | None = None) -> Tensor:  # fmt: skip
        """Blocks and final norm; `kind` is "encoder" or "decoder", `hidden` the columns that hold no token."""
        count, hidden = len(x), hidden or set()
        seen = torch.ones(count, count, dtype=torch.bool)
        if kind == "decoder":
            seen = seen.tril()
        for column in hidden:
            seen[column] = False
            seen[:, column] = False
        memory_seen = None
        if memory is not None:
            memory_seen = torch.ones(count, len(memory), dtype=torch.bool)
            for column in hidden:
                memory_seen[column] = False
            for column in memory_hidden or set():
                memory_seen[:, column] = False
        for layer in range(self.layers):
            x = self.block(f"{module}.blocks.{layer}", f"{kind}.{layer}", x, seen, trace, memory, memory_seen)
        return self.normed(f"{module}.final_norm", x)

    def embed(self, ids: list[int], embeds: Tensor | None = None, module: str = "embedding") -> Tensor:
        table, places, types = (
            self.p(f"{module}.token.weight"),
            self.p(f"{module}.position.weight"),
            self.p(f"{module}.token_type.weight"),
        )
        assert table is not None
        x = table[ids] if embeds is None else embeds
        if places is not None:
            x = x + places[: len(x)]
        if types is not None:
            x = x + types[0]
        return self.normed(f"{module}.norm", x)

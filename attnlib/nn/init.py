"""Initialisation: one walk over named modules, by the role that a name gives."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from attnlib.spec import Spec


class Init(Spec, slot="init"):
    """How weights begin. Norms begin as the identity and biases at zero in every scheme.

    zero_out: projections that write to the residual stream (attention.out, mlp.down) begin at zero.
    """

    zero_out: bool = False

    def std(self, name: str, weight: Tensor, num_layers: int) -> float:
        """Standard deviation of the matrix called `name` [out, in]; embeddings are [rows, width]."""
        raise NotImplementedError

    def draw(self, name: str, weight: Tensor, num_layers: int) -> None:
        """Fill one matrix in place."""
        nn.init.normal_(weight, std=self.std(name, weight, num_layers))


class Normal(Init, kind="normal"):
    """N(0, scale) everywhere (BERT, Llama: 0.02)."""

    scale: float = Field(default=0.02, gt=0)

    def std(self, name: str, weight: Tensor, num_layers: int) -> float:
        return self.scale


class DepthScaled(Init, kind="depth_scaled"):
    """N(0, scale), and scale / sqrt(2 n) for what writes to the stream of n layers (Radford et al. 2019)."""

    scale: float = Field(default=0.02, gt=0)

    def std(self, name: str, weight: Tensor, num_layers: int) -> float:
        return self.scale / math.sqrt(2 * num_layers) if _writes(name) else self.scale


class FanIn(Init, kind="fan_in"):
    """N(0, 1 / in) for projections, so that variance is kept; N(0, embedding) for tables."""

    embedding: float = Field(default=1.0, gt=0)

    def std(self, name: str, weight: Tensor, num_layers: int) -> float:
        return self.embedding if _is_table(name) else float(weight[0].numel() ** -0.5)


class Xavier(Init, kind="xavier"):
    """U(-a, a) with a = sqrt(6 / (in + out)) (Glorot & Bengio 2010), for tables too."""

    def std(self, name: str, weight: Tensor, num_layers: int) -> float:
        return math.sqrt(2.0 / (weight.shape[0] + weight.shape[1]))

    def draw(self, name: str, weight: Tensor, num_layers: int) -> None:
        bound = math.sqrt(3.0) * self.std(name, weight, num_layers)
        nn.init.uniform_(weight, -bound, bound)


class UnscaledScores(Init, kind="unscaled_scores"):
    """T5's factors: q by (M D)^-1/2, k, v, up by M^-1/2, out by (H D)^-1/2, down by F^-1/2, tables by 1."""

    factor: float = Field(default=1.0, gt=0)
    d_head: int = Field(default=64, ge=1)

    def std(self, name: str, weight: Tensor, num_layers: int) -> float:
        if _is_table(name):
            return self.factor * (float(weight.shape[1] ** -0.5) if name.endswith("bias.table") else 1.0)
        scale = float(weight.shape[1] ** -0.5)
        return self.factor * (scale * self.d_head**-0.5 if _role(name) == "q" else scale)


def _role(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]


def _is_table(name: str) -> bool:
    return ("embedding" in name and "project" not in name) or name.endswith((".table", "vocabulary.weight"))


def _writes(name: str) -> bool:
    """attention.out and mlp.down; attention may have a `down` of its own inside, and zeros before zeros never learn."""
    role = _role(name)
    return role == "out" or (role == "down" and "mlp" in name.split("."))


@torch.no_grad()
def initialise(model: nn.Module, init: Init, num_layers: int) -> None:
    """Fill every parameter of `model` in place: matrices by `init`, norms with their identity, vectors with zero.

    Parts with a `reset` fill their own parameters; those with an `after_init` then change what the scheme gave.
    """
    for path, module in model.named_modules():
        reset = getattr(module, "reset", None)
        if callable(reset):  # a part that knows its own beginning
            reset()
            continue
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}" if path else leaf
            if parameter.dim() >= 2:
                if init.zero_out and _writes(name):
                    parameter.zero_()
                else:
                    several = parameter.unbind(0) if getattr(module, "several", False) else (parameter,)
                    for weight in several:
                        init.draw(name, weight, num_layers)
            elif leaf == "weight":
                parameter.fill_(0.0 if getattr(module, "unit_offset", False) else 1.0)
            else:
                parameter.zero_()
    for module in model.modules():
        after = getattr(module, "after_init", None)
        if callable(after):
            after()

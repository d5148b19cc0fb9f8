"""Optimizers: the slot `optimizer`. Every trainable parameter belongs to exactly one group of one torch optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attnlib.errors import CheckpointError
from attnlib.spec import Spec

Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Named = Mapping[str, nn.Parameter]


class Optimizer(Spec, slot="optimizer", default="adamw"):
    """How gradients become steps. `lr` is the peak; the schedule multiplies it."""

    def build(self, model: nn.Module) -> Optimizers:
        """Over the parameters of the model that require a gradient."""
        raise NotImplementedError


class AdamW(Optimizer, kind="adamw"):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019), fused; only matrices and tables decay."""

    lr: Rate = 1e-3
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: Rate = 1e-8
    weight_decay: Decay = 0.1

    def build(self, model: nn.Module) -> Optimizers:
        return Optimizers(model, [self.over(trainable(model))])

    def over(self, named: Named) -> torch.optim.Optimizer | None:
        """torch's AdamW over these parameters; None over none."""
        decays = [p for p in named.values() if p.dim() >= 2]
        others = [p for p in named.values() if p.dim() < 2]
        groups = [{"params": decays, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        if not groups:
            return None
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in named.values())
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused)


class Muon(Optimizer, kind="muon"):
    """Orthogonalised momentum (Jordan et al., 2024) for the matrices of the blocks, AdamW for all other parameters.

    adjust_lr: lr * sqrt(max(1, out / in)) (original), or 0.2 * sqrt(max(out, in)) to step as far as AdamW does.
    """

    lr: Rate = 0.02
    momentum: Beta = 0.95
    nesterov: bool = True
    weight_decay: Decay = 0.0
    iterations: Annotated[int, Field(ge=1, lt=100)] = 5
    adjust_lr: Literal["original", "match_rms_adamw"] = "original"
    others: AdamW = AdamW(lr=3e-3, weight_decay=0.0)

    def build(self, model: nn.Module) -> Optimizers:
        named = trainable(model)
        matrices = block_matrices(model)
        muon = {name: p for name, p in named.items() if name in matrices}
        rest = {name: p for name, p in named.items() if name not in matrices}
        return Optimizers(model, [self.over(muon), self.others.over(rest)])

    def over(self, named: Named) -> torch.optim.Optimizer | None:
        """torch's Muon over these matrices; None over none."""
        if not named:
            return None
        return torch.optim.Muon(
            list(named.values()),
            lr=self.lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            ns_steps=self.iterations,
            adjust_lr_fn=self.adjust_lr,
        )


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name, each once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def block_matrices(model: nn.Module) -> set[str]:
    """Names of the weights of the linear maps inside blocks: those that turn one activation into another."""
    return {
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and "blocks" in path.split(".") and module.weight.dim() == 2
    }


class Optimizers:
    """The torch optimizers of one model as one: rates set together, state saved by the names of parameters."""

    def __init__(self, model: nn.Module, parts: Iterable[torch.optim.Optimizer | None]) -> None:
        self.parts = [part for part in parts if part is not None]
        self.names = {id(p): name for name, p in trainable(model).items()}
        held = [self.names.get(id(p)) for part in self.parts for group in part.param_groups for p in group["params"]]
        assert sorted(map(str, held)) == sorted(self.names.values()), "each trainable parameter is in one group"
        for part in self.parts:
            for group in part.param_groups:
                group["peak_lr"] = group["lr"]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All of them, in the order of the groups."""
        return [p for part in self.parts for group in part.param_groups for p in group["params"]]

    @property
    def lr(self) -> float:
        """The rate of the first group, as now set."""
        return float(self.parts[0].param_groups[0]["lr"])

    def set_rate(self, factor: float) -> None:
        """Every rate becomes its peak times `factor`."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["peak_lr"] * factor

    def step(self) -> None:
        """One step of each, after which gradients are gone."""
        for part in self.parts:
            part.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """All state as tensors, called `parameter/what`."""
        found: dict[str, Tensor] = {}
        for part in self.parts:
            for parameter, state in part.state.items():
                for what, value in state.items():
                    found[f"{self.names[id(parameter)]}/{what}"] = torch.as_tensor(value)
        return found

    def load(self, tensors: Mapping[str, Tensor], where: str = "optimizer") -> None:
        """Take back what `tensors` gave; names and shapes are compared before anything changes."""
        states: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            name, _, what = key.rpartition("/")
            states.setdefault(name, {})[what] = tensor
        if strangers := sorted(states.keys() - set(self.names.values())):
            raise CheckpointError(where, f"holds state of {strangers[0]!r}", "the model trains no such parameter")
        for part in self.parts:
            state = part.state_dict()
            loaded: dict[int, Any] = {}
            for saved, group in zip(state["param_groups"], part.param_groups):
                for number, parameter in zip(saved["params"], group["params"]):
                    own = states.get(self.names[id(parameter)])
                    if own is not None:
                        loaded[number] = _fitting(own, parameter, f"{where}: {self.names[id(parameter)]}")
            part.load_state_dict({"state": loaded, "param_groups": state["param_groups"]})


def _fitting(state: dict[str, Tensor], parameter: nn.Parameter, where: str) -> dict[str, Tensor]:
    for what, tensor in state.items():
        if tensor.dim() and tensor.shape != parameter.shape:
            raise CheckpointError(where, f"{what} has shape {tuple(tensor.shape)}", f"must be {tuple(parameter.shape)}")
    return {what: tensor.clone() for what, tensor in state.items()}

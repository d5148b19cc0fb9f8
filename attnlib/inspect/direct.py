"""Direct logit attribution: a logit as the sum of what every head, feed-forward, embedding and bias wrote straight to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.backends.reference import mix, weights
from attnlib.attention.scope import Door, standing_at_the_door
from attnlib.attention.softmax import SoftmaxAttention
from attnlib.errors import UsageError
from attnlib.generate.prompts import evaluating
from attnlib.inspect.frozen import NORMS, OUTSIDE, passes_zero, ruled
from attnlib.inspect.lenses import of_source, read_at, streams
from attnlib.inspect.question import Question
from attnlib.inspect.sites import Look, sites, watching
from attnlib.models.block import Block
from attnlib.models.heads import LMHead, PretrainingHead

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Attribution:
    """scores [N, P]: what each of P parts gives to each target's logit; with `rest` [N] they add up to `values` [N].

    parts: "decoder.3.attention.heads.5", "decoder.3.mlp.add", "decoder.embedding", and biases by the parameter's name.
    site:  where the logit was read, None = at the model's end. rest: rounding alone.
    """

    site: str | None
    targets: tuple[str, ...]
    values: Array
    parts: tuple[str, ...]
    scores: Array
    rest: Array

    def best(self, count: int, target: int = 0) -> list[tuple[str, float]]:
        """The `count` parts that count most, either way."""
        order = np.argsort(-np.abs(self.scores[target]), kind="stable")[:count]
        return [(self.parts[part], float(self.scores[target, part])) for part in order]

    def tree(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        targets = [
            {"name": name, "logit": value, "rest": rest, "parts": dict(zip(self.parts, row, strict=True))}
            for name, value, rest, row in zip(
                self.targets, self.values.tolist(), self.rest.tolist(), self.scores.tolist(), strict=True
            )
        ]
        return {"site": self.site, "targets": targets}


def attribution(question: Question, site: str | None = None, *, source: bool = False) -> Attribution:
    """Each target's logit as a sum over what was written to the stream that it is read from.

    A head or feed-forward c counts with its direct path alone: the frozen final norm and the head, which are affine in the
    stream, and the norms that stand on it (Elhage et al. 2021). Scales of norms and act(x)/x of the head are held at what
    they are, so parts, embedding and biases add up to the logit. site: a stream site; its logit is that of the lens.
    source: what cross-attention read is told by the encoder's parts, its weights held still; always so at an encoder's site.
    Raises UsageError for a site that is no one stream site, and for modules that cannot be held still.
    """
    _refuse(question.model)
    if source and question.reading.source is None:
        raise UsageError("source", "is asked for", "only an encoder-decoder reads one")
    if site is not None:
        found = streams(question.model, site)
        if len(found) != 1:
            raise UsageError("site", f"{site} names {len(found)} sites", "wish one")
        site = found[0].name
    with evaluating(question.model):
        with torch.no_grad():
            values = question.values(_logits(question, site, {}))[0].double().cpu()
        scores = _parts(question, site, source or (site is not None and of_source(question, site)))
    scores = {name: row for name, row in scores.items() if any(row)}
    whole = np.array(list(scores.values())).T
    return Attribution(
        site=site,
        targets=tuple(target.name for target in question.targets),
        values=np.asarray(values.numpy()),
        parts=tuple(scores),
        scores=whole,
        rest=np.asarray(values.numpy()) - whole.sum(1),
    )


def _parts(question: Question, site: str | None, source: bool) -> dict[str, list[float]]:
    """For every part that the logits hang on directly, its share in each target."""
    still = ruled(question.model, OUTSIDE)
    leaves: dict[str, Tensor] = {}
    biases = _own_biases(still)
    frozen = replace(question, model=still)
    with torch.enable_grad(), standing_at_the_door(Still()) if source else nullcontext():
        logits = _logits(frozen, site, _cut(still, leaves, source))
        values = frozen.values(logits)[0]
    inputs = {**leaves, **biases}
    found: dict[str, list[float]] = {}
    for number in range(len(question.targets)):
        grads = torch.autograd.grad(values[number], list(inputs.values()), retain_graph=True, allow_unused=True)
        for (name, value), grad in zip(inputs.items(), grads, strict=True):
            for part, share in _shares(name, value, grad):
                found.setdefault(part, []).append(share)
    return found


def _shares(name: str, value: Tensor, grad: Tensor | None) -> list[tuple[str, float]]:
    """value * gradient, summed; of heads [1, T, H, D] each alone."""
    each = torch.zeros_like(value).double() if grad is None else value.detach().double() * grad.double()
    if not name.endswith(".heads"):
        return [(name, float(each.sum()))]
    return [(f"{name}.{head}", share) for head, share in enumerate(each.sum((0, 1, 3)).tolist())]


def _logits(question: Question, site: str | None, looks: dict[str, Look]) -> Tensor:
    """The logits, or those of the lens at a site, while sites are watched."""
    with watching(question.model, looks):
        if site is None:
            return question.logits(question.inputs())
        kept: list[Tensor] = []
        with watching(question.model, {site: lambda x: kept.append(x)}):
            question.logits(question.inputs())
        return read_at(question, site, kept[0])


def _cut(model: nn.Module, leaves: dict[str, Tensor], source: bool) -> dict[str, Look]:
    """Looks that put a leaf in the place of every part that writes to a stream, so that only its direct path is left."""

    def leaf(name: str) -> Look:
        def look(x: Tensor) -> Tensor:
            leaves[name] = x.detach().clone().requires_grad_()
            return leaves[name]

        return look

    known = sites(model)
    found = {}
    for name in known:
        part, _, last = name.rpartition(".")
        heads = f"{part}.heads" in known and type(_body(model, known, part)) is SoftmaxAttention
        read = source and part.endswith(".cross")  # then the encoder's parts stand for what it read
        if last == "embedding" or (last == "heads" and heads and not read) or (last == "add" and not heads and not read):
            found[name] = leaf(name)
    return found


def _body(model: nn.Module, known: dict[str, Any], part: str) -> nn.Module | None:
    """The attention whose out projection a heads site reads."""
    out = known[f"{part}.heads"].module
    return next((m for m in model.modules() if getattr(m, "out", None) is out), None)


def _own_biases(still: nn.Module) -> dict[str, Tensor]:
    """Every bias of a shadow model replaced by a leaf of its own, by the parameter's name."""
    found: dict[str, Tensor] = {}
    for path, module in still.named_modules():
        bias = module._parameters.get("bias")
        if bias is not None:
            module._parameters["bias"] = own = nn.Parameter(bias.detach().clone())
            found[f"{path}.bias"] = own
    return found


class Still(Door):
    """Cross-attention whose weights are constants: linear in the values that it reads."""

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        if not path.endswith(".cross"):
            return run()
        with torch.no_grad():
            held = weights(q, k, call)
        return mix(held, v).to(v.dtype)


def _refuse(model: Any) -> None:
    """Raises UsageError where a part between the stream and the logits cannot be held still."""
    for module in model.modules():
        if isinstance(module, Block) and module.conv is not None:
            raise UsageError("model", "a block has a convolution, which has no share of its own", "wish a model without")
        if isinstance(module, Block) and module.cross is not None and type(module.cross.body) is not SoftmaxAttention:
            raise UsageError("model", f"cross-attention is a {type(module.cross.body).__name__}", "wish softmax attention")
        known = (*NORMS, *OUTSIDE)
        if "norm" in type(module).__name__.lower() and module is not model and not isinstance(module, known):
            raise UsageError("model", f"a {type(module).__name__} cannot be held still", "wish layer or rms norms")
    for module in model.head.modules():
        plain = (*OUTSIDE, *NORMS, LMHead, PretrainingHead, nn.Linear)
        if not isinstance(module, plain) or not passes_zero(getattr(module, "activation", "relu")):
            raise UsageError("model", f"its head's {type(module).__name__} cannot be held still", "wish another head")

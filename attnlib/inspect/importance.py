"""What the heads and hidden units of a model are worth to its answers: by the gradient of a gate, and by taking them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnlib.errors import UsageError
from attnlib.generate.prompts import evaluating, is_kind
from attnlib.inspect.ablation import ablated, gated
from attnlib.inspect.choice import attentions, heads_of
from attnlib.inspect.explanations.why import ask
from attnlib.inspect.question import Question
from attnlib.inspect.reading import Reading
from attnlib.inspect.sites import Look, sites, watching
from attnlib.inspect.target_names import kinds_for
from attnlib.inspect.targets import TokenTarget

if TYPE_CHECKING:
    from attnlib.text.tokenizer import Tokenizer

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Importance:
    """loss: nats an answer, of the model as it is. gates, ablations: by path [H]; units: by "decoder.0.mlp" [F].

    gates:     mean over texts of |d loss / d gate|, the gate being 1 and multiplying the head (Michel et al. 2019,
               arXiv:1905.10650). units: the same of gates on hidden units.
    ablations: how much the loss grows without the head; below zero it did harm. Empty where not asked for.
    """

    loss: float
    gates: dict[str, Array]
    ablations: dict[str, Array] = field(default_factory=dict)
    units: dict[str, Array] = field(default_factory=dict)

    def heads(self, by: str = "gradient") -> list[tuple[str, int, float]]:
        """(path, head, importance) of every head, the least important first."""
        if by not in ("gradient", "ablation") or (by == "ablation" and not self.ablations):
            raise UsageError(f"by {by}", "was not measured", "wish gradient, or ablation where that was asked for")
        found = self.gates if by == "gradient" else self.ablations
        every = [(path, head, float(value)) for path, row in found.items() for head, value in enumerate(row)]
        return sorted(every, key=lambda one: one[2])

    def tree(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        rows = [
            {"path": path, "head": head, "gradient": value}
            | ({"ablation": float(self.ablations[path][head])} if self.ablations else {})
            for path, head, value in self.heads()
        ]
        return {"loss": self.loss, "heads": rows, "units": {path: row.tolist() for path, row in self.units.items()}}


def text_questions(
    model: Any, reading: Reading, tokenizer: Tokenizer | None = None, *, new_tokens: int = 16
) -> list[Question]:
    """What a text asks of a model on its own: every next token of a decoder, every token of an encoder, masked in its turn.

    Of an encoder-decoder what it writes, of a classifier the label it gives, of a tagger those of every token.
    """
    kinds = kinds_for(model)
    if not kinds:
        raise UsageError("model", "has no head that answers anything", "wish a head that gives logits")
    side = reading.text
    if kinds[0] == "next" and is_kind(model, "decoder"):
        if len(side) < 2:
            raise UsageError("text", "has one token", "wish two at least, the second to be foretold")
        targets = tuple(TokenTarget(side.tokens[c], c - 1, side.ids[c]) for c in range(1, len(side)))
        return [Question(model, reading, targets)]
    if kinds[0] not in ("mask", "tag"):
        return [ask(model, reading, tokenizer=tokenizer, new_tokens=new_tokens)]
    answers = [f"=#{side.ids[c]}" if kinds[0] == "mask" else "" for c in side.own]
    names = [f"{kinds[0]}:{c}{answer}" for c, answer in zip(side.own, answers, strict=True)]
    return [ask(model, reading, name, tokenizer=tokenizer) for name in names]


def importance(questions: Sequence[Question], *, ablate: bool = True, units: bool = False) -> Importance:
    """What each head, and each hidden unit if asked for, is worth to the answers of some questions about one model.

    The loss of a question is the mean of -log p of its answers, in nats; figures are means over questions.
    """
    if not questions:
        raise UsageError("questions", "are none", "wish at least one text")
    model = questions[0].model
    places = sites(model)
    outs = {id(site.module) for name, site in places.items() if name.endswith(".heads")}
    apart = [one for one in attentions(model) if id(getattr(one.mixer, "out", None)) in outs]
    paths = {one.path: heads_of(one.mixer) for one in apart}
    hidden = [name for name in places if name.endswith(".hidden")] if units else []
    heads: dict[str, Array] = {path: np.zeros(count) for path, count in paths.items()}
    inner: dict[str, Array] = {}
    total = 0.0
    with evaluating(model):
        for question in questions:
            gates = {path: torch.ones(count, dtype=torch.float64, requires_grad=True) for path, count in paths.items()}
            loss, found = _slopes(question, gates, hidden)
            total += loss
            for path, slope in zip((*gates, *hidden), found, strict=True):
                place, name = (heads, path) if path in gates else (inner, path.removesuffix(".hidden"))
                place[name] = place.get(name, 0.0) + np.abs(slope.double().cpu().numpy()) / len(questions)
        mean = total / len(questions)
        out = dict(_ablations(questions, paths, mean)) if ablate else {}
    return Importance(mean, heads, out, inner)


def mean_loss(questions: Sequence[Question]) -> float:
    """Mean over questions of -log p of their answers, in nats."""
    with torch.no_grad(), evaluating(questions[0].model):
        return sum(float(_loss(question)) for question in questions) / len(questions)


def _loss(question: Question) -> Tensor:
    return -question.logprobs(question.logits(question.inputs())).mean()


def _slopes(question: Question, gates: dict[str, Tensor], hidden: Sequence[str]) -> tuple[float, list[Tensor]]:
    """The loss, and its gradients at gates of 1: those given, then one a unit of each hidden site."""
    rows: dict[str, Tensor] = {}

    def gate(name: str) -> Look:
        def look(x: Tensor) -> Tensor:
            rows[name] = torch.ones(x.shape[-1], dtype=x.dtype, device=x.device, requires_grad=True)
            return x * rows[name]

        return look

    with torch.enable_grad(), ExitStack() as stack:
        stack.enter_context(gated(question.model, gates))
        stack.enter_context(watching(question.model, {name: gate(name) for name in hidden}))
        loss = _loss(question)
        every = [*gates.values(), *(rows[name] for name in hidden)]
        found = torch.autograd.grad(loss, every, allow_unused=True, materialize_grads=True)
    return float(loss.detach()), list(found)


def _ablations(questions: Sequence[Question], paths: dict[str, int], mean: float) -> Iterator[tuple[str, Array]]:
    for path, count in paths.items():
        grown: list[float] = []
        for head in range(count):
            with ablated(questions[0].model, f"{path}.{head}"):
                grown.append(mean_loss(questions) - mean)
        yield path, np.array(grown)

"""The attentions of one forward, layer by layer, and how what they say adds up from the input to the output."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.backends.reference import ungroup, weights
from attnlib.attention.scope import Door, standing_at_the_door
from attnlib.attention.softmax import SoftmaxAttention
from attnlib.inspect.choice import Chosen, attentions, unweighed
from attnlib.inspect.question import Inputs, Question
from attnlib.inspect.recording import record

_PATH = re.compile(r"(encoder|decoder)\.\d+\.(self|cross)")


@dataclass
class Seen:
    """One attention as it passed the door: its path, the side it writes to, what it read, and what it gave [B, H, Q, D]."""

    path: str
    side: str
    q: Tensor
    k: Tensor
    v: Tensor
    call: AttentionCall
    out: Tensor

    @property
    def cross(self) -> bool:
        return self.path.endswith(".cross")

    def weights(self) -> Tensor:
        """[B, H, Q, K] in double precision."""
        with torch.no_grad():
            return weights(self.q.detach(), self.k.detach(), self.call).double()


class Watch(Door):
    """A door that keeps what passes; the fast backend computes."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.seen: list[Seen] = []

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        out = run()
        self.seen.append(Seen(path, _side(self.question, path), q, k, v, call, out))
        return out


def weighted(question: Question) -> list[tuple[str, str, Tensor]]:
    """Path, side and weights [H, Q, K] of every attention, in double precision and in the order of a forward.

    Mixers that are no softmax attention tell their implied weights, where they have any.
    """
    with torch.no_grad(), record(question.model, dtype=torch.float64) as seen:
        question.logits(question.inputs())
    return [(path, _side(question, path), seen[path].dense()) for path in seen.weights]


def without_weights(question: Question) -> str | None:
    """Why a method that reads weights cannot; None = it can."""
    for one in attentions(question.model):
        if (reason := _unplaced(one)) is not None:
            return reason
        if not one.softmax and not hasattr(one.mixer, "implied_weights"):
            return f"{one.path}: {unweighed(one.mixer)}"
    return None


def not_softmax(question: Question, *, exactly: bool = False) -> str | None:
    """Why a method that works on softmax attention cannot; `exactly`: a class derived from it may do other things too."""
    for one in attentions(question.model):
        if (reason := _unplaced(one)) is not None:
            return reason
        if type(one.mixer) is not SoftmaxAttention if exactly else not one.softmax:
            return f"{one.path} is a {type(one.mixer).__name__}, and it knows softmax attention only"
    return None


def _unplaced(one: Chosen) -> str | None:
    """Why an attention has no place of its own among the layers."""
    return None if _PATH.fullmatch(one.path) else f"{one.path} stands in several layers or in none"


def _side(question: Question, path: str) -> str:
    """Whose stream an attention writes to."""
    return "source" if question.reading.source is not None and path.startswith("encoder.") else "text"


def watched(question: Question, inputs: Inputs, *, grad: bool = False) -> tuple[list[Seen], Tensor]:
    """Every attention in the order of a forward over the inputs, and the logits."""
    watch = Watch(question)
    with nullcontext() if grad else torch.no_grad(), standing_at_the_door(watch):
        logits = question.logits(inputs)
    return watch.seen, logits


@dataclass(frozen=True)
class Step:
    """What one attention does to one row's stream: `matrix` [Q, K] from what it reads to what it writes.

    stays: what a cross-attention leaves of the stream itself; a self-attention has that in its matrix.
    """

    side: str
    cross: bool
    matrix: Tensor
    stays: float | Tensor = 1.0  # [Q, 1] where each row has its own


def carried(steps: Sequence[Step], tokens: dict[str, int]) -> dict[str, Tensor]:
    """By side [T, tokens of that side]: how much of each input token is in each column of the writing side at the end."""
    own = {side: torch.eye(count, dtype=torch.float64) for side, count in tokens.items()}
    read = torch.zeros(tokens["text"], tokens.get("source", 0), dtype=torch.float64)
    for step in steps:
        if step.cross:
            own["text"] = step.stays * own["text"]
            read = step.stays * read + step.matrix @ own["source"]
        else:
            own[step.side] = step.matrix @ own[step.side]
            if step.side == "text":
                read = step.matrix @ read
    return {"text": own["text"]} | ({"source": read} if "source" in tokens else {})


def told(question: Question, carry: dict[str, Tensor]) -> dict[str, Tensor]:
    """By side [N, tokens]: what the columns that each target is read from hold of each input token."""
    shares = question.shares()
    return {side.name: shares @ carry[side.name] for side in question.sides}


def lengths(question: Question) -> dict[str, int]:
    return {side.name: len(side) for side in question.sides}


def at_weights(grad: Tensor, v: Tensor) -> Tensor:
    """[B, H, Q, K] the gradient at the weights, of that at the output [B, H, Q, D]: dA = dO V^T."""
    heads = grad.shape[1]
    grouped = grad.double().unflatten(1, (v.shape[1], -1)).flatten(2, 3)  # [B, G, H/G * Q, D]
    return ungroup(grouped @ v.double().transpose(-1, -2), heads)

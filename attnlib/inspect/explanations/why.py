"""why: a model, a reading and a target in, an explanation out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from attnlib.errors import UsageError
from attnlib.generate.prompts import evaluating
from attnlib.inspect.explanations.method import Method, find_method
from attnlib.inspect.explanations.result import Explanation
from attnlib.inspect.question import Question
from attnlib.inspect.reading import Reading
from attnlib.inspect.target_names import find_targets

if TYPE_CHECKING:
    from attnlib.text.tokenizer import Tokenizer

BLANKS = ("mask_id", "unk_id", "pad_id")  # what can stand for a token taken away, the best first


def ask(
    model: Any,
    reading: Reading,
    target: str | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    written: str | Sequence[int] = (),
    new_tokens: int = 16,
) -> Question:
    """The question that a target named in words puts to a model. See `attnlib.inspect.target_names` for the words.

    written: text or ids that go on after the reading; else the model writes up to `new_tokens` where the target needs it.
    """
    if isinstance(written, str):
        if tokenizer is None:
            raise UsageError("written", "is text", "needs a tokenizer", "tokenizer=..., or give ids")
        written = tokenizer.encode(written)
    with evaluating(model):
        reading, targets = find_targets(target, model, reading, tokenizer, written=written, new_tokens=new_tokens)
    blanks = [getattr(tokenizer, name, None) for name in BLANKS]
    return Question(model, reading, targets, next((blank for blank in blanks if blank is not None), None))


def why(question: Question, method: str | Method = "integrated_gradients") -> Explanation:
    """What each token has to do with each target, by a method named or given.

    UsageError where the method is unknown or refuses the model, with its reason.
    """
    chosen = find_method(method)
    with evaluating(question.model):
        reason = chosen.refuses(question)
        if reason is not None:
            raise UsageError(f"method {chosen.name}", reason, "wish another method")
        scores = chosen(question)
        with torch.no_grad():
            logits = question.logits(question.inputs())
            values, logprobs = question.values(logits)[0], question.logprobs(logits)[0]
    rows = [target.rows for target in question.targets]
    return Explanation(
        method=chosen.name,
        signed=chosen.signed,
        targets=tuple(target.name for target in question.targets),
        values=values.double().cpu().numpy(),
        logprobs=logprobs.double().cpu().numpy(),
        columns=tuple(row[0] if row else None for row in rows),
        sides=question.sides,
        scores={name: np.asarray(found.double().cpu().numpy()) for name, found in scores.by_side.items()},
        notes={name: found.double().cpu().numpy() for name, found in scores.notes.items()},
    )

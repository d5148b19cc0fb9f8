"""Talking with a decoder: what it answers to messages, read by its folder's chat template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attnlib.errors import LayoutError, UsageError
from attnlib.generate import generate, stream
from attnlib.generate.defaults import choose
from attnlib.generate.options import BOUNDS
from attnlib.generate.prompts import is_kind
from attnlib.tasks.ready import Ready
from attnlib.text.chat import Messages

MOST = 1024  # tokens of an answer, where nothing is said


def chat(ready: Ready, messages: Messages, **choices: Any) -> str:
    """The answer to a talk: messages {"role": "user", "content": "..."}, the last of them the one to answer.

    `choices` are fields of `attnlib.generate.Sampling` over those of the model's generation config; without a bound there
    are at most 1,024 tokens, or as many as the model has positions for. It ends at the ids that the config calls eos.

    UsageError for a model that is no decoder, a tokenizer without a chat template, and messages that it refuses.
    """
    return "".join(answer_in_pieces(ready, messages, **choices)).strip()


def answer_in_pieces(ready: Ready, messages: Messages, **choices: Any) -> Iterator[str]:
    """The same as it comes, piece by piece, with the space around it. What is asked is checked at the call."""
    if not is_kind(ready.model, "decoder"):
        raise UsageError("model", "is no decoder", "wish one to talk with")
    if choices.get("n", 1) != 1:
        raise UsageError("n", f"is {choices['n']}", "a talk goes on with one answer")
    ids = ready.tokenizer.chat(messages)
    chosen, room = choose(ready.model, None, choices), ready.model.max_length
    if room is not None and len(ids) >= room:
        raise LayoutError("messages", f"are {len(ids)} tokens", f"the model's positions end at {room}", "begin anew")
    if all(getattr(chosen, bound) is None for bound in BOUNDS):
        chosen = chosen.replace(max_new_tokens=MOST if room is None else min(MOST, room - len(ids)))
    asked: dict[str, Any] = {"tokenizer": ready.tokenizer, "sampling": chosen}
    if chosen.num_beams > 1:
        return iter([generate(ready.model, [ids], **asked)[0].text or ""])
    return (event.text for event in stream(ready.model, [ids], **asked))


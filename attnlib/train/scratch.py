"""A config that trains a model's architecture from scratch: its spec, and the data and objective that fit it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attnlib.config import FORMAT
from attnlib.errors import AttnlibError
from attnlib.models.spec import ModelSpec
from attnlib.spec import write
from attnlib.text.byte_level import Bytes
from attnlib.text.tokenizer import Tokenizer
from attnlib.train.objectives import CausalLM, Classify, MaskedLM, Objective, Seq2Seq
from attnlib.train.optim import AdamW

LENGTH = 128  # tokens, or as many as the model takes
DATA: dict[tuple[str, ...], dict[str, Any]] = {  # by the columns that an objective reads; texts that come along
    ("text",): {"kind": "text", "path": "moby_dick.txt", "held_out": 0.1},
    ("source", "target"): {"kind": "jsonl", "path": "question_formation.jsonl", "held_out": 300},
    ("text", "label"): {"kind": "csv", "path": "texts.csv", "text": "text", "label": "label", "held_out": 0.1},
}


def scratch(
    model: ModelSpec, tokenizer: Tokenizer | None = None, words: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The tree of a config, and what it leaves to be said by hand.

    `words`: the config's section `tokenizer` that gives `tokenizer`; without one it is bytes, if the model has ids for them.
    """
    tree: dict[str, Any] = {"format": FORMAT, "model": write(model)}
    notes = [] if tokenizer is not None else ["no tokenizer lies there: bytes"]
    tokenizer = tokenizer or Bytes().build()
    tree["tokenizer"] = dict(words) if words is not None else write(Bytes())
    found, refusals = None, []
    for objective in _objectives():
        refusal = _refusal(objective, model, tokenizer)
        if refusal is None:
            found = objective
            break
        if model.kind in objective.models:
            refusals.append(refusal)
    if found is None:
        notes += [f"no objective trains this model as it is: {refusal}" for refusal in dict.fromkeys(refusals)]
        return tree, notes
    tree["data"] = dict(DATA[found.columns])
    if found.columns == ("text", "label"):
        notes.append(f"texts.csv stands for your own texts with labels ({', '.join(getattr(model.head, 'names', ()))})")
    longest = _longest(model)
    tree["train"] = {
        "steps": 1000, "batch_size": 32, "length": LENGTH if longest is None else min(LENGTH, longest),
        "objective": write(found), "optimizer": write(AdamW(lr=3e-4)), "evaluate": {"every": 200},
    }  # fmt: skip
    return tree, notes


def _objectives() -> Iterator[Objective]:
    yield CausalLM()
    yield MaskedLM()
    for start in ("pad", "bos", "eos"):
        yield Seq2Seq(start=start)
    yield Classify()


def _refusal(objective: Objective, model: ModelSpec, tokenizer: Tokenizer) -> str | None:
    """Why this objective cannot train the model with this tokenizer."""
    try:
        refusal = objective.refuses(model, tokenizer)
        if refusal is None and isinstance(objective, MaskedLM):
            tokenizer.need("mask")
    except AttnlibError as error:  # a special token that is not there
        return str(error)
    return refusal


def _longest(model: ModelSpec) -> int | None:
    bounds = [getattr(part.position, "max_length", None) for name in ("embedding", "decoder_embedding")
              if (part := getattr(model, name, None)) is not None]  # fmt: skip
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known else None

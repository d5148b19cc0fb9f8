"""Texts from texts by an encoder-decoder: translations and summaries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from attnlib.errors import UsageError, nearest
from attnlib.generate import generate
from attnlib.generate.defaults import choose
from attnlib.generate.prompts import is_kind
from attnlib.generate.sources import reads
from attnlib.tasks.languages import Languages
from attnlib.tasks.ready import Ready
from attnlib.text.tokenizer import Framed

PARAMS = "task_specific_params"


class _Task(NamedTuple):
    """What a folder's config says of a task: what goes before a text, and words of its generation config."""

    prefix: str = ""
    words: Mapping[str, Any] = {}


def translate(
    ready: Ready, texts: Sequence[str], *, source: str | None = None, target: str | None = None, prefix: str | None = None,
    **choices: Any,
) -> list[str]:  # fmt: skip
    """The translation of each text from one language into another.

    Languages are named as the model names them: by its tokenizer's codes ("en_XX", or "en" where no other code begins so),
    which then stand where the tokenizer puts them and begin the output; by the marks of a target before the text ("fra"
    for >>fra<<); by the tasks of its config ("en", "de" for translation_en_to_de), whose prefix and choices of generation
    are then used; or not at all, where the model knows one direction. `prefix` goes before each text, in place of the
    task's. `choices` are fields of `attnlib.generate.Sampling` over those of the model.

    UsageError for a model that is no encoder-decoder, and for languages that it does not name.
    """
    tasks = _tasks(ready)
    languages = Languages.of(ready)
    if languages.codes:
        template, forced = languages.template(source), languages.beginning(target)
        rows = [ready.tokenizer.source((prefix or "") + text, template) for text in texts]
        return _written(ready, rows, _Task(), {**forced, **choices})
    if languages.marks and target is not None:
        mark = languages.mark(target)
        return _written(ready, [[mark, *ready.tokenizer.source((prefix or "") + text)] for text in texts], _Task(), choices)
    task = _Task() if prefix is not None else _named(tasks, "translation", source, target)
    return _plainly(ready, texts, task, prefix, choices)


def summarize(ready: Ready, texts: Sequence[str], *, prefix: str | None = None, **choices: Any) -> list[str]:
    """A summary of each text, with the prefix and the choices that the model's config names for the task, if it does.

    `prefix` goes before each text, in place of the config's. `choices` are fields of `attnlib.generate.Sampling`.
    UsageError for a model that is no encoder-decoder.
    """
    task = _tasks(ready).get("summarization", _Task())
    return _plainly(ready, texts, task, prefix, choices)


def _plainly(
    ready: Ready, texts: Sequence[str], task: _Task, prefix: str | None, choices: Mapping[str, Any]
) -> list[str]:  # fmt: skip
    before = task.prefix if prefix is None else prefix
    return _written(ready, [ready.tokenizer.source(before + text) for text in texts], task, choices)


def _written(ready: Ready, rows: list[list[int]], task: _Task, choices: Mapping[str, Any]) -> list[str]:
    """What the model makes of the sources."""
    ready.fits([Framed(row, [0] * len(row), range(len(row)), range(0)) for row in rows], "texts")
    chosen = choose(ready.model, None, choices, words=task.words)
    made = generate(ready.model, rows, tokenizer=ready.tokenizer, sampling=chosen)
    return [(one.text or "").strip() for one in made]


def _tasks(ready: Ready) -> dict[str, _Task]:
    """The tasks that the model's config describes, by name."""
    reads(ready.model)
    if not is_kind(ready.model, "encoder_decoder") or ready.model.rereads:
        raise UsageError("model", "writes no text from a text", "wish an encoder-decoder with a head over the vocabulary")
    beside = getattr(getattr(ready.model, "origin", None), "beside", {})
    found = beside.get(PARAMS) or {}
    if not isinstance(found, dict) or not all(isinstance(words, dict) for words in found.values()):
        raise UsageError(PARAMS, f"is {str(found)[:60]}", "wish tasks by name, each with its choices")
    return {
        name: _Task(str(words.get("prefix") or ""), {key: value for key, value in words.items() if key != "prefix"})
        for name, words in found.items()
    }


def _named(tasks: Mapping[str, _Task], kind: str, source: str | None, target: str | None) -> _Task:
    """The task from one language to another; the only one there is where none is named."""
    pairs = {match.groups(): task for name, task in tasks.items() if (match := re.fullmatch(rf"{kind}_(.+)_to_(.+)", name))}
    known = ", ".join(f"{a} to {b}" for a, b in pairs)
    if not pairs:
        if source is not None or target is not None:
            raise UsageError("language", f"is {target or source!r}", "this model names no languages: it knows one direction")
        return _Task()
    fitting = [pair for pair in pairs if source in (None, pair[0]) and target in (None, pair[1])]
    if len(fitting) != 1:
        asked = f"{source or 'any'} to {target or 'any'}"
        raise UsageError("language", f"is {asked}", f"wish one of {known}", nearest(asked, known.split(", ")))
    return pairs[fitting[0]]

"""What a decoder of speech is told before it writes: language, task, whether with times; named as the folder names them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnlib.errors import CheckpointError, UsageError, nearest
from attnlib.generate.defaults import PLACE
from attnlib.generate.prompts import check_ids, start_of, vocab_of
from attnlib.tasks.ready import Ready

LANGUAGE, TASK, NO_TIMES = re.compile(r"<\|[a-z]{2,3}\|>"), re.compile(r"<\|(?:transcribe|translate)\|>"), "<|notimestamps|>"
# words of a generation config that are answered here, not by the generator
ANSWERED = ("forced_decoder_ids", "return_timestamps", "language", "task", "max_length", "max_new_tokens")


@dataclass(frozen=True)
class Speech:
    """The special tokens of a model that writes what it hears.

    languages, tasks: ids by name. told: whether the folder's generation config names languages, so that one not asked for
    is found out. no_times: the token that asks for a text without times; those after it are times. `spare`: it was found
    in the tokenizer only. forced: an older config's tokens after the start, None where a language is to be found out.
    """

    start: int
    languages: Mapping[str, int]
    tasks: Mapping[str, int]
    no_times: int | None
    forced: Sequence[int | None]
    tree: Mapping[str, Any]
    told: bool = False
    spare: bool = False

    @staticmethod
    def of(ready: Ready) -> Speech:
        tree = getattr(ready.model, "generation", None) or {}
        names = ready.tokenizer
        start = start_of(ready.model, names, tree.get("decoder_start_token_id"))
        languages, tasks, no_times = (tree.get(name) for name in ("lang_to_id", "task_to_id", "no_timestamps_token_id"))
        found = Speech(
            start=0 if start is None else start,
            languages=_plain(names.named(LANGUAGE) if languages is None else languages, "lang_to_id"),
            tasks=_plain(names.named(TASK) if tasks is None else tasks, "task_to_id"),
            no_times=names.named(re.compile(re.escape(NO_TIMES))).get(NO_TIMES) if no_times is None else no_times,
            forced=_forced(tree.get("forced_decoder_ids")),
            tree=tree,
            told=languages is not None,
            spare=no_times is None,
        )
        ids = [*found.languages.values(), *found.tasks.values(), found.no_times, *found.forced]
        check_ids([[i for i in ids if i is not None]], vocab_of(ready.model), PLACE)
        return found

    @property
    def first_time(self) -> int | None:
        """The token of 0 seconds."""
        return None if self.no_times is None else self.no_times + 1

    def prompt(self, language: str | None, task: str | None, *, times: bool) -> list[int | None]:
        """The tokens that the output begins with; None where the language is to be found out.

        As transformers puts them: start, language, task, and the token for no times; without a language and a task an
        older config's tokens stand in for these, and a language alone is transcribed.
        """
        if self.tree.get("is_multilingual") is False and (language is not None or task is not None):
            raise UsageError("language and task", f"are {language} and {task}", "this model knows one language: name none")
        language = self.tree.get("language") if language is None else language
        task = self.tree.get("task") if task is None else task
        asked = language is not None or task is not None
        tokens = [self.start, *([] if asked else self.forced)]
        if language is not None:
            tokens.append(_named(language, self.languages, "language"))
        elif self.told and len(tokens) == 1:
            tokens.append(None)
        if asked and (task is not None or self.tasks):
            tokens.append(_named(task or "transcribe", self.tasks, "task"))
        if times and tokens[-1] == self.no_times:
            tokens.pop()
        elif not times and self.no_times not in (None, tokens[-1]) and (asked or not self.spare):
            tokens.append(self.no_times)
        return tokens if self.languages else [token for token in tokens if token is not None]


def _plain(names: Any, word: str) -> dict[str, int]:
    """The names without their marks."""
    if not isinstance(names, Mapping) or not all(isinstance(i, int) for i in names.values()):
        raise CheckpointError(f"{PLACE}: {word}", f"is {str(names)[:60]}", "wish ids by name")
    return {str(name).removeprefix("<|").removesuffix("|>"): i for name, i in names.items()}


def _forced(pairs: Any) -> tuple[int | None, ...]:
    """forced_decoder_ids [[1, id], [2, id], ...], in which null is an id not yet known."""
    try:
        found = {int(place): token for place, token in pairs or ()}
    except (TypeError, ValueError):
        found = {0: None}
    if [*found] != [*range(1, len(found) + 1)] or not all(isinstance(token, int | None) for token in found.values()):
        raise CheckpointError(f"{PLACE}: forced_decoder_ids", f"is {str(pairs)[:60]}", "wish [[1, id], [2, id], ...]")
    return tuple(found.values())


def _named(name: str, known: Mapping[str, int], what: str) -> int:
    plain = str(name).lower().removeprefix("<|").removesuffix("|>")
    if plain not in known:
        wish = f"wish one of {', '.join(sorted(known))}" if known else "this model names none"
        raise UsageError(what, f"{name!r} is unknown", wish, nearest(plain, known))
    return known[plain]

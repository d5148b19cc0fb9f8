"""Chat templates: how a folder's model reads a talk of several turns."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnlib.errors import DataError, UsageError
from attnlib.text.files import read_text
from attnlib.text.sandbox import rendered
from attnlib.text.settings import name_of, settings_of

FILE, KEY = "chat_template.jinja", "chat_template"
SPELT = "\ufdd0"  # before the name of a special token that is meant; a noncharacter, never part of real text
_BROKEN = "\ufdd1"  # within a name that a user wrote
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template of a talk. names: of special tokens as templates call them (bos_token, eos_token, ...)."""

    source: str
    names: Mapping[str, str]

    def render(
        self, messages: Messages, *, add_generation_prompt: bool = True, tools: Sequence[Any] | None = None, **more: Any
    ) -> str:
        """The text of a talk: messages {"role": "user", "content": "..."}, as apply_chat_template gives it.

        add_generation_prompt: with what an answer begins. tools: JSON schemas. `more`: variables that the template knows.
        UsageError for messages that are none or that the template refuses.
        """
        asked = {"messages": _checked(messages), "tools": tools, "documents": None, **self.names, **more}
        return rendered(self.source, {**asked, "add_generation_prompt": add_generation_prompt})

    def spelt(self, messages: Messages, specials: Collection[str], **options: Any) -> str:
        """The text of a talk, SPELT before each of the special names that the template writes; one in a message is text."""
        if not specials:
            return self.render(messages, **options)
        name = re.compile("|".join(re.escape(one) for one in sorted(specials, key=len, reverse=True)))
        broken = {key: _marked(value, name) for key, value in options.items()}
        text = self.render([_marked(message, name) for message in messages], **broken)
        return name.sub(lambda found: SPELT + found[0], text).replace(_BROKEN, "")


def chat_template_of(folder: Path, roles: Mapping[str, str]) -> ChatTemplate | None:
    """That of chat_template.jinja or, before such files, of tokenizer_config.json; None where there is none.

    roles: the special tokens as templates call them (bos_token, ...), where no settings tell them.
    """
    settings = settings_of(folder)
    found = read_text(folder / FILE) if (folder / FILE).exists() else _default(settings.get(KEY), folder)
    if found is None:
        return None
    told = {key: name for key, value in settings.items() if key.endswith("_token") and (name := name_of(value)) is not None}
    return ChatTemplate(found, {**({} if settings else roles), **told})


def _default(told: Any, folder: Path) -> str | None:
    """One template, or that named default of several."""
    if isinstance(told, list):
        told = next((one.get("template") for one in told if isinstance(one, dict) and one.get("name") == "default"), told)
    if told is None or isinstance(told, str):
        return told or None
    where = f"{folder / 'tokenizer_config.json'}: {KEY}"
    raise DataError(where, f"is {str(told)[:60]}", "wish a template, or several of which one is `default`")


def _checked(messages: Messages) -> list[dict[str, Any]]:
    """Messages as plain data, what is null left out."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UsageError("messages", f"are {messages!r:.60}", "wish a list of {role, content}, one at least")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UsageError(f"messages.{number}", f"is {message!r:.60}", 'wish {"role": "user", "content": "..."}')
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def _marked(value: Any, name: re.Pattern[str]) -> Any:
    """The same with every special token's name in its texts broken, so that it is no name."""
    if isinstance(value, str):
        plain = value.replace(SPELT, "�").replace(_BROKEN, "�")
        return name.sub(lambda found: found[0][:1] + _BROKEN + found[0][1:], plain)
    if isinstance(value, Mapping):
        return {key: _marked(inner, name) for key, inner in value.items()}
    return [_marked(inner, name) for inner in value] if isinstance(value, list | tuple) else value

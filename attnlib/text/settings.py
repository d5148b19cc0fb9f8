"""What the files beside a tokenizer say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlib.errors import DataError

SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")  # the later is the newer, and wins

ROLES = {  # ours -> theirs, the first that is named
    "pad": ("pad_token",),
    "bos": ("bos_token", "cls_token"),
    "eos": ("eos_token", "sep_token"),
    "sep": ("sep_token",),
    "mask": ("mask_token",),
}


def settings_of(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json and special_tokens_map.json say, together; nothing where neither lies there."""
    found: dict[str, Any] = {}
    for name in SETTINGS:
        path = folder / name
        if not path.exists():
            continue
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(str(path), f"cannot be read: {str(error)[:100]}", "wish JSON") from None
        if not isinstance(tree, dict):
            raise DataError(str(path), f"holds a {type(tree).__name__}", "wish a JSON object")
        found |= {key: value for key, value in tree.items() if value is not None}
    return found


def name_of(token: Any) -> str | None:
    """A token's name, written as text or as an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def role_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """The special token of each role, where its name is told."""
    named = {role: next((n for key in keys if (n := name_of(settings.get(key)))), None) for role, keys in ROLES.items()}
    return {role: name for role, name in named.items() if name is not None}

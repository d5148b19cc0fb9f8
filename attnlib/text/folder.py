"""The tokenizer that lies beside a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attnlib.errors import CheckpointError
from attnlib.text.chat import chat_template_of
from attnlib.text.hf import HF, HFTokenizer
from attnlib.text.older import FILES, document_of
from attnlib.text.settings import role_names, settings_of
from attnlib.text.tokenizer import Tokenizer, TokenizerSpec


def tokenizer_of(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model's folder: the one that its config.yaml names, else its tokenizer.json or older files.

    tokenizer_config.json and special_tokens_map.json say which special token has which role; they or chat_template.jinja
    hold the chat template, where there is one.
    """
    folder = Path(folder)
    found = _tokenizer_of(folder)
    ids = {f"{role}_token": getattr(found, f"{role}_id") for role in ("pad", "bos", "eos", "sep", "mask", "unk")}
    names = {role: found.special_names[i] for role, i in ids.items() if i in found.special_names}
    found.chat_template = chat_template_of(folder, names)
    return found


def _tokenizer_of(folder: Path) -> Tokenizer:
    from attnlib.config import load_tree
    from attnlib.spec import read

    if (folder / "config.yaml").exists():
        tree, marks = load_tree(folder / "config.yaml")
        if "tokenizer" in tree:
            return read(TokenizerSpec, tree["tokenizer"], path="tokenizer", marks=marks).build(folder)
    settings = settings_of(folder)
    if (folder / "tokenizer.json").exists():
        bare = HF().build(folder)
        return HF(**_roles(settings, bare)).build(folder) if settings else bare
    found = next((names for names in FILES if all((folder / name).exists() for name in names)), None)
    if found is not None:
        document = document_of(folder, found, settings)
        bare = HFTokenizer(document, origin=str(folder / found[0]))
        whole = HFTokenizer(document, origin=str(folder / found[0]), roles=_roles(settings, bare))
        whole.settings = settings
        return whole
    pieces = next((path.name for path in sorted(folder.glob("*")) if path.suffix in (".model", ".spm", ".tiktoken")), None)
    if pieces is not None:
        raise CheckpointError(str(folder / pieces), "is a vocabulary that is not read here", "wish a tokenizer.json",
                              "save_pretrained of transformers' tokenizer writes one")  # fmt: skip
    raise CheckpointError(str(folder), "holds no tokenizer", "wish a tokenizer.json, or one in its config.yaml")


def _roles(settings: dict[str, Any], tokenizer: HFTokenizer) -> dict[str, str]:
    """The special token of each role, where its name is told and in the vocabulary."""
    return {role: name for role, name in role_names(settings).items() if tokenizer.knows(name)}

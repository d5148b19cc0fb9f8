"""The tokenizer that lies beside a model."""

from __future__ import annotations

from pathlib import Path

from attnlib.errors import CheckpointError
from attnlib.text.hf import HF
from attnlib.text.tokenizer import Tokenizer, TokenizerSpec


def tokenizer_of(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model's folder: the one that its config.yaml names, else its tokenizer.json."""
    from attnlib.config import load_tree
    from attnlib.spec import read

    folder = Path(folder)
    if (folder / "config.yaml").exists():
        tree, marks = load_tree(folder / "config.yaml")
        if "tokenizer" in tree:
            return read(TokenizerSpec, tree["tokenizer"], path="tokenizer", marks=marks).build(folder)
    if (folder / "tokenizer.json").exists():
        return HF().build(folder)
    raise CheckpointError(str(folder), "holds no tokenizer", "wish a tokenizer.json, or one in its config.yaml")

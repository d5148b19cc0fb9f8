"""build: from a config, however it is given, to a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from attnlib.models.spec import ModelSpec
from attnlib.spec import read


def build(config: ModelSpec | Mapping[str, Any] | str | Path, *overrides: str) -> nn.Module:
    """The model of a config: a ModelSpec, a tree, a YAML file, or the name of a bundled config ("tiny/gpt").

    A tree or file may be a whole config (its `model` section is built) or the model section alone. Overrides are
    dotted: `build("tiny/gpt", "model.stack.num_layers=4")`. Weights are drawn by the config's `init` from torch's
    generator. Raises SpecErrors, every fault with its file, line and column.
    """
    if isinstance(config, ModelSpec):
        return config.build()
    if isinstance(config, Mapping):
        whole = "model" in config
        return read(ModelSpec, config["model"] if whole else config, path="model" if whole else "").build()
    from attnlib.config import load_tree
    from attnlib.errors import SpecError

    tree, marks = load_tree(config, overrides)
    if "model" not in tree:
        raise SpecError(str(config), "no section model", "wish model: {kind: ...}")
    return read(ModelSpec, tree["model"], path="model", marks=marks).build()

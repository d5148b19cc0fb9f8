"""Folders of public families for tests: random weights as a family writes them, then changed by hand."""

import json
from pathlib import Path

import torch

from attnlib.pretrained import export
from attnlib.pretrained.family import HFConfig
from attnlib.pretrained.source import InMemory
from attnlib.pretrained.tensors import SINGLE, open_tensors, write_tensors


def folder_of(family, place: Path, **config) -> Path:
    """A folder of random weights of the model that a config says."""
    torch.manual_seed(0)
    export(family.spec_from(HFConfig(config)).build(), place, family.name)
    return place


def rewritten(folder: Path, change=lambda tensors: None, **config) -> Path:
    """The same folder with its tensors changed by a function and keys of its config replaced."""
    source = open_tensors(folder)
    tensors = {name: source.read(name).clone() for name in source.facts}
    change(tensors)
    write_tensors(folder / SINGLE, InMemory(tensors).facts, tensors.items())
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tree, **config}))
    (folder / "manifest.json").unlink(missing_ok=True)
    return folder

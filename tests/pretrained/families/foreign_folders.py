"""Folders of public families for tests: random weights as a family writes them, then changed by hand."""

import json
from pathlib import Path

import pytest
import torch

from attnlib.errors import AttnlibError
from attnlib.pretrained import export, load
from attnlib.pretrained.family import HFConfig, family_named
from attnlib.pretrained.parity import theirs
from attnlib.pretrained.source import InMemory
from attnlib.pretrained.tensors import SINGLE, open_tensors, write_tensors


def folder_of(family, place: Path, **config) -> Path:
    """A folder of random weights of the model that a config says."""
    torch.manual_seed(0)
    export(family.spec_from(HFConfig(config)).build(), place, family.name)
    return place


def rewritten(folder: Path, change=lambda tensors: None, **config) -> Path:
    """The same folder with its tensors changed by a function and keys of its config replaced; a key that is ... goes."""
    source = open_tensors(folder)
    tensors = {name: source.read(name).clone() for name in source.facts}
    change(tensors)
    write_tensors(folder / SINGLE, InMemory(tensors).facts, tensors.items())
    tree = json.loads((folder / "config.json").read_text())
    tree = {key: value for key, value in {**tree, **config}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(tree))
    (folder / "manifest.json").unlink(missing_ok=True)
    return folder


def written(family: str, sample: str, place: Path):
    """(transformers' model, the folder it writes) of a sample, by name."""
    pytest.importorskip("transformers")
    known = family_named(family)
    hf = theirs.build(known, known.samples()[sample])
    return hf, theirs.write(hf, place)


def refused(folder: Path, change=lambda tensors: None, **config) -> str:
    """What is said of a folder that cannot be read once it is rewritten."""
    with pytest.raises(AttnlibError) as caught:
        load(rewritten(folder, change, **config))
    return str(caught.value)


def goes_both_ways(family: str) -> bool:
    """Whether every config of a family's samples gives a spec whose config gives that spec."""
    known = family_named(family)
    for sample in known.samples().values():
        tree = json.loads(json.dumps({**sample.config, "architectures": [sample.architecture]}))
        spec = known.spec_from(HFConfig(tree))
        assert known.spec_from(HFConfig(known.config_from(spec))) == spec
    return True


def renamed(folder: Path, change) -> Path:
    """The same folder, every tensor under the name that a function gives it; None leaves it out."""

    def swap(tensors):
        old = dict(tensors)
        tensors.clear()
        tensors.update({new: tensor for name, tensor in old.items() if (new := change(name)) is not None})

    return rewritten(folder, swap)


def first_logits(folder: Path) -> torch.Tensor:
    """What a loaded encoder gives for a few ids."""
    with torch.no_grad():
        out = load(folder)(torch.arange(5, 12)[None])
    return out.last if out.logits is None else out.logits

"""Checkpoint folders: ours (config.yaml, model.safetensors, tokenizer, manifest.json) and those of outside families."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from attnlib.errors import CheckpointError
from attnlib.nn.meta import on_meta
from attnlib.pretrained.family import Family, HFConfig, explain_unread, find
from attnlib.pretrained.files import has_file, opened, read_json
from attnlib.pretrained.fresh import HEAD, New, drawn_head, without_head
from attnlib.pretrained.generation import generation_files, read_generation
from attnlib.pretrained.header import Fact
from attnlib.pretrained.manifest import MANIFEST, Content, settle, write_folder
from attnlib.pretrained.manifest import verify as verify_folder
from attnlib.pretrained.origin import ORIGIN, Origin, read_origin
from attnlib.pretrained.report import Report
from attnlib.pretrained.rules import Rename
from attnlib.pretrained.source import InMemory, Source, unfinite
from attnlib.pretrained.state import bare, facts_of, give, take, tensors_of
from attnlib.pretrained.table import Plan, Table
from attnlib.pretrained.tensors import SINGLE, open_tensors, write_tensors

if TYPE_CHECKING:
    from attnlib.models.spec import ModelSpec
    from attnlib.spec import Spec

CONFIG, HF_CONFIG = "config.yaml", "config.json"
CONFIG_LIMIT = 1_000_000  # bytes
OURS = Table([Rename("{*}", "{*}")])  # our own names are the file's names


class SavesItself(Protocol):
    """A tokenizer, seen from here."""

    def save(self, folder: Path) -> Spec: ...


@dataclass
class _Opened:
    """A folder that was looked at: nothing read but the headers, and the tensors that ties compare."""

    spec: ModelSpec
    model: nn.Module  # on the meta device
    plan: Plan
    source: Source
    family: str
    untied: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    origin: Origin | None = None


def save(
    model: nn.Module, folder: str | Path, *, tokenizer: SavesItself | None = None,
    config: Mapping[str, Any] | None = None, extra_files: Mapping[str, Content] | None = None,
) -> None:  # fmt: skip
    """Write model, config and tokenizer as one folder in one step: an older checkpoint there stays whole until then.

    `config`: the rest of the tree for config.yaml (train, data); `extra_files`: bytes, or functions that write a path.
    """
    from attnlib.config import FORMAT, to_yaml
    from attnlib.spec import write

    whole = bare(model)
    files: dict[str, Content] = {}
    tree = {"format": FORMAT, **(config or {}), "model": write(whole.spec)}
    if tokenizer is not None:
        with tempfile.TemporaryDirectory() as place:
            tree["tokenizer"] = write(tokenizer.save(Path(place)))
            files = {path.name: path.read_bytes() for path in sorted(Path(place).iterdir())}
    files[CONFIG] = to_yaml(tree).encode("utf-8")
    if origin := getattr(whole, "origin", None):
        files[ORIGIN] = origin.written()
    tensors = tensors_of(whole)
    files[SINGLE] = lambda path: write_tensors(path, InMemory(tensors).facts, tensors.items())
    write_folder(folder, {**files, **generation_files(whole), **(extra_files or {})})


def load(
    folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, head: New | None = None,
    verify: bool = False,
) -> Any:  # fmt: skip
    """The model of a checkpoint folder, ours or of a known family, in evaluation mode.

    Every name, shape and dtype is compared before a tensor is read; a difference is a CheckpointError and no model.
    `dtype` converts floating-point tensors, None keeps the file's; `verify` reads every byte against manifest.json;
    `head=new(...)` puts a fresh head in the place of the file's.
    """
    found = _look(settle(folder), check=verify, head=head)
    generation = read_generation(settle(folder))
    kind = dtype or next(fact.dtype for fact in found.plan.facts.values() if fact.dtype.is_floating_point)
    fresh = drawn_head(found.model, found.spec, kind) if found.fresh else {}
    model: Any = give(found.model, found.plan, found.source, device=device, dtype=dtype, fresh=fresh).eval()
    model.origin, model.generation = found.origin, generation
    return model


def restore(model: Any, folder: str | Path, *, verify: bool = True) -> None:
    """Copy a checkpoint of ours into a model that is there already; dtypes must be equal, so nothing is rounded."""
    folder, model = settle(folder), bare(model)
    if verify:
        verify_folder(folder)
    source, wanted = open_tensors(folder), facts_of(model)
    plan = OURS.plan(source.facts, wanted, where=str(folder))
    for name, fact in plan.facts.items():
        if fact.dtype != wanted[name].dtype:
            raise CheckpointError(str(folder), f"{name} is {fact.dtype}", f"wish {wanted[name].dtype}")
    generation, origin = read_generation(folder), read_origin(folder)
    take(model, plan, source)
    model.generation, model.origin = generation, origin


def check(folder: str | Path, *, dtype: torch.dtype | None = None, head: New | None = None) -> Report:
    """Look at a folder as `load` would, verify its bytes where a manifest lies, look for NaN, and build no weights."""
    folder = settle(folder)
    found = _look(folder, check=has_file(folder, MANIFEST), head=head)
    facts = found.plan.facts.values()
    names = [*(name for step in found.plan.steps for name in step.reads), *(theirs for theirs, _ in found.plan.ties)]
    return Report(
        family=found.family, read=len(names), made=len(facts), ties=tuple(found.plan.ties), untied=found.untied,
        ignored=found.plan.ignored, dtypes=tuple(sorted({_change(fact, dtype) for fact in facts})), fresh=found.fresh,
        nbytes=sum(Fact(_kept(fact, dtype), fact.shape).nbytes for fact in facts), verified=has_file(folder, MANIFEST),
        unfinite=unfinite(found.source, names),
    )  # fmt: skip


def _kept(fact: Fact, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and fact.dtype.is_floating_point else fact.dtype


def _change(fact: Fact, dtype: torch.dtype | None) -> str:
    """`float16`, or `float16 -> float32`."""
    names = [str(kind).removeprefix("torch.") for kind in dict.fromkeys((fact.dtype, _kept(fact, dtype)))]
    return " -> ".join(names)


def read_spec(folder: str | Path, *, weights: bool = False) -> ModelSpec:
    """The spec of the model in a folder, from its config alone, or with ties that the `weights` do not hold undone."""
    folder = settle(folder)
    return _look(folder, check=False).spec if weights else _spec_of(folder)[0]


def _look(folder: Path, *, check: bool, head: New | None = None) -> _Opened:
    if not folder.is_dir():
        raise CheckpointError(str(folder), "is not a folder", "wish a checkpoint folder")
    if check:
        verify_folder(folder)
    found = _opened(folder, None if head is None else HEAD)
    if head is None:
        return found
    spec = found.spec.replace(head=head.spec)
    model = _on_meta(spec)
    fresh = tuple(name for name in facts_of(model) if name.startswith(HEAD))
    return replace(found, spec=spec, model=model, plan=without_head(found.plan), fresh=fresh)


def _opened(folder: Path, spared: str | None) -> _Opened:
    spec, family, config = _spec_of(folder)
    source = open_tensors(folder)
    _deep_enough(source, spec, folder)
    if family is None:
        model = _on_meta(spec)
        plan = OURS.plan(source.facts, facts_of(model), where=str(folder), spared=spared)
        return _Opened(spec, model, plan, source, "attnlib", origin=read_origin(folder))
    plan, model = _plan(folder, family, spec, source, spared)
    untied = []
    held = _Held(source)
    for theirs, ours in plan.ties:
        if not _same(held.read(theirs), _made(plan, held, ours)):
            spec = family.untied(spec, theirs)
            untied.append(theirs)
        source.release(theirs)
    if untied:
        plan, model = _plan(folder, family, spec, source, spared)
    return _Opened(spec, model, plan, held, family.name, tuple(untied), origin=Origin.of(family.name, config))


def _plan(folder: Path, family: Family, spec: ModelSpec, source: Source, spared: str | None) -> tuple[Plan, nn.Module]:
    model = _on_meta(spec)
    explain = partial(explain_unread, family, spec)
    plan = family.table(spec).plan(source.facts, facts_of(model), where=str(folder), explain=explain, spared=spared)
    return plan, model


def _deep_enough(source: Source, spec: ModelSpec, folder: Path) -> None:
    """Refuse a config of many more layers than there are tensors, for a table of all that lack would take minutes."""
    stacks = [stack for name in ("stack", "encoder", "decoder") if (stack := getattr(spec, name, None)) is not None]
    depth = sum(stack.depth for stack in stacks)
    if depth > max(len(source.facts), 100):
        fact = f"has {len(source.facts)} tensors for {depth} layers"
        raise CheckpointError(str(folder), fact, "wish one a layer at least")


def _on_meta(spec: ModelSpec) -> nn.Module:
    with on_meta():
        return spec.build()


def _spec_of(folder: Path) -> tuple[ModelSpec, Family | None, Mapping[str, Any]]:
    if has_file(folder, CONFIG):
        return _read_config(folder), None, {}
    if has_file(folder, HF_CONFIG):
        config = HFConfig(read_json(folder, HF_CONFIG), str(folder / HF_CONFIG))
        family = find(config)
        return family.spec_from(config), family, config.tree
    raise CheckpointError(str(folder), f"has neither {CONFIG} nor {HF_CONFIG}", "wish a checkpoint folder")


def _read_config(folder: Path) -> ModelSpec:
    from attnlib.config import parse_tree
    from attnlib.models.spec import ModelSpec
    from attnlib.spec import read

    where = str(folder / CONFIG)
    with opened(folder, CONFIG) as (file, size):
        if size > CONFIG_LIMIT:
            raise CheckpointError(where, f"has {size} bytes", f"wish at most {CONFIG_LIMIT}")
        text = file.read()
    if re.search(rb"(?m)^[\s\"']*extends\b", text):
        raise CheckpointError(where, "extends another file", "wish a config that is complete")
    try:
        tree, marks = parse_tree(text.decode("utf-8"), where)
    except UnicodeDecodeError as error:
        raise CheckpointError(where, f"is no UTF-8: {error.reason}", "wish YAML") from None
    if not isinstance(tree.get("model"), dict):
        raise CheckpointError(where, "describes no model", "wish `model: {kind: ...}`")
    spec: ModelSpec = read(ModelSpec, tree["model"], path="model", marks=marks)
    return spec


class _Held:
    """A Source that keeps what a comparison of ties has read, so that no tensor is read twice."""

    def __init__(self, source: Source) -> None:
        self._source, self._kept, self.facts = source, dict[str, Tensor](), source.facts

    def read(self, name: str) -> Tensor:
        if name not in self._kept:
            self._kept[name] = self._source.read(name)
        return self._kept[name]

    def release(self, name: str) -> None:
        self._source.release(name)


def _made(plan: Plan, source: Source, ours: str) -> Tensor:
    return next(tensor for name, tensor, _ in plan.only({ours}).run(source) if name == ours)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)

"""Our models as checkpoint folders of outside families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from attnlib.pretrained.family import family_named
from attnlib.pretrained.files import write_json
from attnlib.pretrained.header import Fact
from attnlib.pretrained.manifest import Content, write_folder
from attnlib.pretrained.state import bare, tensors_of
from attnlib.pretrained.table import Plan
from attnlib.pretrained.tensors import INDEX, SINGLE, InMemory, Source, shards, write_tensors

SHARD = 5 << 30  # bytes; as the hub has it


def export(
    model: nn.Module, folder: str | Path, family: str, *, config: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, Content] | None = None, shard_bytes: int = SHARD,
) -> None:  # fmt: skip
    """Write the model as a folder of an outside family: config.json, safetensors (sharded beyond `shard_bytes`).

    `config`: further keys for config.json, such as the ids of special tokens; `extra_files`: tokenizer.json and others.
    """
    whole, kind = bare(model), family_named(family)
    source = InMemory(tensors_of(whole))
    plan = kind.table(whole.spec).plan_back(source.facts, where=str(folder))
    dtypes = {str(fact.dtype).removeprefix("torch.") for fact in plan.facts.values()}
    tree = {**kind.config_from(whole.spec), **({"dtype": dtypes.pop()} if len(dtypes) == 1 else {}), **(config or {})}
    files: dict[str, Content] = {"config.json": write_json(tree)}
    groups = list(shards(plan.facts, shard_bytes))
    index = {}
    for number, names in enumerate(groups, 1):
        name = SINGLE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        index.update(dict.fromkeys(names, name))
        files[name] = _shard_writer(plan, source, {key: plan.facts[key] for key in names})
    if len(groups) > 1:
        size = sum(fact.nbytes for fact in plan.facts.values())
        files[INDEX] = write_json({"metadata": {"total_size": size}, "weight_map": index})
    write_folder(folder, {**files, **(extra_files or {})})


def _shard_writer(plan: Plan, source: Source, facts: Mapping[str, Fact]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        made = plan.only(facts).run(source)
        write_tensors(path, facts, ((name, tensor) for name, tensor, _ in made if name in facts))

    return write

"""Our models as checkpoint folders of outside families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from attnlib.errors import AttnlibError, UsageError
from attnlib.models.spec import ModelSpec
from attnlib.pretrained.family import Family, family_named
from attnlib.pretrained.files import has_file, opened, write_json
from attnlib.pretrained.generation import generation_files
from attnlib.pretrained.header import Fact
from attnlib.pretrained.manifest import Content, write_folder
from attnlib.pretrained.origin import Origin
from attnlib.pretrained.source import InMemory, Source
from attnlib.pretrained.state import bare, tensors_of
from attnlib.pretrained.table import Plan
from attnlib.pretrained.tensors import INDEX, SINGLE, shards, write_tensors

SHARD = 5 << 30  # bytes; as the hub has it
COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm", "chat_template.jinja",
    "generation_config.json", "preprocessor_config.json", "modules.json", "1_Pooling/config.json",
    "sentence_bert_config.json", "config_sentence_transformers.json",
)  # fmt: skip


def export(
    model: nn.Module, folder: str | Path, family: str | None = None, *, config: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, Content] | None = None, shard_bytes: int = SHARD,
) -> None:  # fmt: skip
    """Write the model as a folder of an outside family: config.json, safetensors (sharded beyond `shard_bytes`).

    `family`: None = the one it was read as. `config`: further keys for config.json, such as the ids of special tokens;
    those of a model that was read from such a folder are handed on. `extra_files`: tokenizer.json and others.
    """
    whole = bare(model)
    origin = getattr(whole, "origin", None)
    known = family or (origin.family if origin is not None else None)
    if known is None:
        raise UsageError("family", "is not named, for a model that was read as none", "wish the name of a family")
    kind = family_named(known)
    source = InMemory(tensors_of(whole))
    plan = kind.table(whole.spec).plan_back(source.facts, where=str(folder))
    dtypes = {str(fact.dtype).removeprefix("torch.") for fact in plan.facts.values()}
    tree = _beside(kind, whole.spec, origin)
    tree |= {**({"dtype": dtypes.pop()} if len(dtypes) == 1 else {}), **(config or {})}
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
    write_folder(folder, {**files, **generation_files(whole), **(extra_files or {})})


def companions(folder: str | Path) -> dict[str, Content]:
    """What lies beside the weights of a folder and goes with them: tokenizer and generation files, as bytes."""
    folder = Path(folder)
    found: dict[str, Content] = {}
    for name in COMPANIONS:
        place, base = (folder / name).parent, name.rpartition("/")[2]
        if has_file(place, base):
            with opened(place, base) as (file, _):
                found[name] = file.read()
    return found


def _beside(kind: Family, spec: ModelSpec, origin: Origin | None) -> dict[str, Any]:
    """The config of a spec, and what its origin said beside the architecture where that still holds."""
    tree = kind.config_from(spec)
    if origin is None:
        return tree
    whole = {**tree, **origin.beside}
    try:
        kind.say(spec, whole)
    except AttnlibError:  # another length, other labels: the model has changed since
        whole = {**origin.beside, **tree}
    return whole


def _shard_writer(plan: Plan, source: Source, facts: Mapping[str, Fact]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        made = plan.only(facts).run(source)
        write_tensors(path, facts, ((name, tensor) for name, tensor, _ in made if name in facts))

    return write

"""attnlib export: a model's folder as one of a public family, which transformers opens."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlib.cli.common import DTYPES, count, model_folder

HELP = "write a model as a folder of a public family: config.json, safetensors, tokenizer, manifest"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="a model's folder, ours or of a known family, or a run's folder")
    parser.add_argument("out", metavar="OUT", help="the folder to write: new, empty, or an older checkpoint")
    parser.add_argument("--family", metavar="NAME", help="see README; default: the one that it was read as")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights written (default: as they are)")
    parser.add_argument("--shard-bytes", type=count, default=5 << 30, metavar="N", help="most bytes a file (default: 5 GiB)")


def run(args: argparse.Namespace) -> int:
    import torch

    from attnlib.pretrained import companions, export, load
    from attnlib.pretrained.origin import Origin
    from attnlib.pretrained.source import InMemory, unfinite
    from attnlib.pretrained.state import tensors_of

    folder = model_folder(args.folder)
    model = load(folder, dtype=getattr(torch, args.dtype or "", None))
    held = InMemory(tensors_of(model))
    for name, what in unfinite(held, held.facts).items():
        print(f"warning: not finite: {name}: {what}", file=sys.stderr)
    if (family := args.family or (model.origin and model.origin.family)) is not None:
        told = {} if model.origin is None else model.origin.beside
        model.origin = Origin(family, {**told, **_ids(folder, told)})
    export(model, args.out, args.family, extra_files=companions(folder), shard_bytes=args.shard_bytes)
    print(args.out)
    return 0


def _ids(folder: Path, told: Mapping[str, Any]) -> dict[str, int]:
    """The ids of special tokens that a config.json names and nothing tells yet, of a folder of ours; that of pad also where
    it is told to be none, for transformers classifies no batch without one."""
    from attnlib.errors import CheckpointError
    from attnlib.text import tokenizer_of

    if not (folder / "config.yaml").exists():
        return {}
    try:
        tokenizer = tokenizer_of(folder)
    except CheckpointError:  # there is none
        return {}
    found = {f"{role}_token_id": getattr(tokenizer, f"{role}_id") for role in ("pad", "bos", "eos")}
    open_ = {name for name in found if name not in told or (name == "pad_token_id" and told[name] is None)}
    return {name: i for name, i in found.items() if i is not None and name in open_}

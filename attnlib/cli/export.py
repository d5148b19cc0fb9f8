"""attnlib export: a model's folder as one of a public family, which transformers opens."""

from __future__ import annotations

import argparse

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

    folder = model_folder(args.folder)
    model = load(folder, dtype=getattr(torch, args.dtype or "", None))
    export(model, args.out, args.family, extra_files=companions(folder), shard_bytes=args.shard_bytes)
    print(args.out)
    return 0

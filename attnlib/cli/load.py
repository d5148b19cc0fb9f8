"""attnlib load: what a checkpoint folder holds and what loading it does."""

from __future__ import annotations

import argparse

from attnlib.cli.common import DTYPES, model_folder

HELP = "read a checkpoint folder whole, or with --check only look at it, and report every tensor; exit code tells"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="a model's folder, ours or of a known family, or a run's folder")
    parser.add_argument(
        "--check", action="store_true", help="compare names, shapes, ties and bytes, look for NaN, and build no weights"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="that loading would convert to (default: the file's)")


def run(args: argparse.Namespace) -> int:
    import torch

    from attnlib.pretrained import check, load

    folder, dtype = model_folder(args.folder), getattr(torch, args.dtype or "", None)
    report = check(folder, dtype=dtype)
    print(report)
    if not args.check:
        model = load(folder, dtype=dtype)
        print(f"loaded: {sum(p.numel() for p in model.parameters()):,} parameters")
    return 1 if report.unfinite else 0

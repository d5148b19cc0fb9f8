"""attnlib parity: tiny random models of public families, ours beside transformers', every figure in a table."""

from __future__ import annotations

import argparse

HELP = "the proof of the checkpoint families: tiny random models beside transformers, every deviation; exit code tells"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", default="all", metavar="NAME", help="one, several with commas, or all (the default)")
    parser.add_argument("--sample", metavar="TEXT", help="only the samples whose name has this in it")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs (default: 0)")
    parser.add_argument("--json", action="store_true", help="one JSON object a sample instead of a table")


def run(args: argparse.Namespace) -> int:
    import json
    import tempfile
    from dataclasses import asdict
    from pathlib import Path

    import torch

    from attnlib.pretrained.family import families, family_named
    from attnlib.pretrained.parity import GATE, GRADIENT_GATE, prove

    torch.set_num_threads(1)  # tiny shapes: sharing them out costs more than it gives
    chosen = list(families()) if args.family == "all" else [family_named(name) for name in args.family.split(",")]
    if not args.json:
        print(f"{'family':12} {'sample':28} " + " ".join(f"{name:>8}" for name in FIGURES) + "  bits read/written/ignored")
    total = failed = 0
    for family in chosen:
        for name, sample in family.samples().items():
            if args.sample and args.sample not in name:
                continue
            with tempfile.TemporaryDirectory() as place:
                row = prove(family, name, sample, Path(place), seed=args.seed)
            total, failed = total + 1, failed + (not row.ok)
            if args.json:
                print(json.dumps({**asdict(row), "ok": row.ok}), flush=True)
                continue
            figures = " ".join(_figure(getattr(row, figure)) for figure in FIGURES)
            counts = f"{'=' if row.bits else ' ':4} {row.read}/{row.written}/{row.ignored}"
            print(f"{row.family:12} {name[:28]:28} {figures}  {counts}" + ("" if row.ok else "  FAIL"), flush=True)
            if row.fault:
                print(f"  {row.fault}", flush=True)
    if not args.json:
        print(f"{total} samples, {failed} failed; gates: {GATE:g} of max |logit|, {GRADIENT_GATE:g} of max |gradient|; "
              "= : equal bit for bit in float32; half: deviation in bfloat16")  # fmt: skip
    return 1 if failed or not total else 0


FIGURES = ("plain", "left", "right", "cached", "gradient", "back", "half")


def _figure(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:8.1g}"

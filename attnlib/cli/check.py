"""attnlib check: whether what must not change a model's output does not."""

from __future__ import annotations

import argparse

from attnlib.cli.common import DTYPES, config_arguments, count, find_device, read_model, read_runtime, runtime_arguments

HELP = "invariances of a config's model: padding, batches, packing, caches, causality, backends, save and load"


def arguments(parser: argparse.ArgumentParser) -> None:
    config_arguments(parser)
    parser.add_argument("--tokens", type=count, help="tokens of the longest row (default: 13, or past a small window)")
    parser.add_argument("--layers", type=count, metavar="N", help="check at most N layers of each stack")
    parser.add_argument("--seed", type=int, default=0, help="of weights and texts (default: 0)")
    runtime_arguments(parser, dtypes=("float64", *DTYPES), unless="float64, backends in float32")


def run(args: argparse.Namespace) -> int:
    import torch

    from attnlib.inspect.check import check, checked_tokens, windows

    spec = read_model(args.config, args.overrides, layers=args.layers)
    if read_runtime(args.config, args.overrides).threads is None:
        torch.set_num_threads(1)  # rows of a few tokens: sharing them out costs more than it gives
    device, tokens = find_device(args.device), checked_tokens(spec, args.tokens)
    dtype = args.dtype or "float64"
    print(f"{type(spec).kind} of {args.config}, random weights, {dtype} on {device}, {tokens} tokens")
    wide = [last for last in windows(spec) if last >= tokens]
    if wide:
        print(
            f"note  windows of {', '.join(map(str, wide))} are not reached by {tokens} tokens: --tokens {max(wide) + 6} does"
        )
    total = failed = 0
    for found in check(spec, tokens=tokens, seed=args.seed, device=device, dtype=getattr(torch, dtype)):
        print(found, flush=True)
        total, failed = total + (found.figure is not None), failed + (not found.ok)
    print(f"{total} checks, {failed} failed")
    return 1 if failed else 0

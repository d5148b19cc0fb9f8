"""attnlib describe: what a config would build and cost, without building it."""

from __future__ import annotations

import argparse

from attnlib.cli.common import config_arguments, count, read_config, read_model, runtime_arguments

HELP = "module tree, shapes, parameters, FLOPs and cache bytes of a config, without allocating weights"


def arguments(parser: argparse.ArgumentParser) -> None:
    config_arguments(parser)
    parser.add_argument("--tokens", type=count, help="tokens of a row (default: 128, or as many as the model takes)")
    parser.add_argument("--batch", type=count, default=1, help="rows (default: 1)")
    parser.add_argument("--yaml", action="store_true", help="print the config as it is read, everything extended")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.yaml:
        from attnlib.config import to_yaml

        print(to_yaml(read_config(args.config, args.overrides)[0]), end="")
        return 0
    import torch

    from attnlib.inspect.describe import describe

    spec = read_model(args.config, args.overrides)
    dtype = getattr(torch, args.dtype or "float32")
    print(describe(spec, tokens=args.tokens, batch=args.batch, dtype=dtype).text())
    return 0

"""attnlib explain: which backend runs each attention, and why the others do not."""

from __future__ import annotations

import argparse

from attnlib.cli.common import config_arguments, count, find_device, read_model, read_runtime, runtime_arguments

HELP = "layer by layer: the mask as a picture, the backend chosen, and why each other one is not"


def arguments(parser: argparse.ArgumentParser) -> None:
    config_arguments(parser)
    parser.add_argument("--tokens", type=count, help="tokens of a row (default: 128, or as many as the model takes)")
    parser.add_argument("--batch", type=count, default=2, help="rows (default: 2)")
    parser.add_argument("--train", action="store_true", help="as in training, with gradients and dropout")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    import torch

    from attnlib.inspect.describe import longest
    from attnlib.inspect.explain import explain

    spec = read_model(args.config, args.overrides)
    found = explain(
        spec,
        tokens=args.tokens or min(longest(spec) or 128, 128),
        batch=args.batch,
        train=args.train,
        device=find_device(args.device),
        dtype=getattr(torch, args.dtype or "float32"),
        backend=read_runtime(args.config, args.overrides).attention,
    )
    print(found.text())
    return 0

"""attnlib check: whether what must not change a model's output does not."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from attnlib.cli.common import DTYPES, count, find_device, read_model, read_runtime, runtime_arguments
from attnlib.errors import AttnlibError, UsageError

if TYPE_CHECKING:
    from attnlib.inspect.check import Finding
    from attnlib.models.spec import ModelSpec

LARGE = 500_000_000  # parameters of a model that takes minutes and gigabytes to check whole
HELP = "invariances of configs' models: padding, batches, packing, caches, causality, backends, save and load"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", metavar="CONFIG", nargs="+",
                        help="config files, bundled configs' names, or models' folders; of several, a line each; "
                        "and key=value: values that replace each config's")  # fmt: skip
    parser.add_argument("--tokens", type=count, help="tokens of the longest row (default: 13, or past a small window)")
    parser.add_argument("--layers", type=count, metavar="N", help="check at most N layers of each stack")
    parser.add_argument("--seed", type=int, default=0, help="of weights and texts (default: 0)")
    runtime_arguments(parser, dtypes=("float64", *DTYPES), unless="float64, backends in float32")
    parser.set_defaults(overrides=[])  # words after an option come here


def run(args: argparse.Namespace) -> int:
    words = [*args.words, *args.overrides]
    configs = [word for word in words if "=" not in word or Path(word).exists()]
    args.overrides = [word for word in words if word not in configs]
    if not configs:
        raise UsageError("check", "no config is given", "wish a config file, a bundled config's name, or a model's folder")
    if len(configs) == 1:
        head, findings = _findings(configs[0], args)
        print(*head, sep="\n")
        total = failed = 0
        for found in findings:
            print(found, flush=True)
            total, failed = total + (found.figure is not None), failed + (not found.ok)
        print(f"{total} checks, {failed} failed")
        return 1 if failed else 0
    codes = [_in_a_line(config, args) for config in configs]
    print(f"{len(codes)} configs, {sum(code > 0 for code in codes)} failed")
    return max(codes)


def _findings(config: str, args: argparse.Namespace) -> tuple[list[str], Iterator[Finding]]:
    """What is checked, in words, and what is found, as it is found."""
    import torch

    from attnlib.inspect.check import check, checked_tokens, windows

    spec = read_model(config, args.overrides, layers=args.layers)
    spec, cut = (spec, "") if args.layers is not None else _fewer(spec)
    if read_runtime(config, args.overrides).threads is None:
        torch.set_num_threads(1)  # rows of a few tokens: sharing them out costs more than it gives
    device, tokens = find_device(args.device), checked_tokens(spec, args.tokens)
    dtype = args.dtype or "float64"
    head = [f"{type(spec).kind} of {config}, random weights, {dtype} on {device}, {tokens} tokens"]
    head += [cut] if cut else []
    wide = [last for last in windows(spec) if last >= tokens]
    if wide:
        reached = f"--tokens {max(wide) + 6} does"
        head.append(f"note  windows of {', '.join(map(str, wide))} are not reached by {tokens} tokens: {reached}")
    return head, check(spec, tokens=tokens, seed=args.seed, device=device, dtype=getattr(torch, dtype))


def _fewer(spec: ModelSpec) -> tuple[ModelSpec, str]:
    """Of a large model as few layers as show each kind of block, for more would say the same, and a note that says so."""
    from attnlib.cli.common import shortened
    from attnlib.models.stack import StackSpec
    from attnlib.nn.meta import on_meta

    stacks = [stack for name in type(spec).model_fields if isinstance(stack := getattr(spec, name), StackSpec)]
    enough = max(2, *(len(stack.pattern) for stack in stacks))
    if all(stack.num_layers <= enough for stack in stacks) or any(stack.sharing is not None for stack in stacks):
        return spec, ""
    with on_meta():
        size = sum(p.numel() for p in spec.build().parameters())
    if size <= LARGE:
        return spec, ""
    most = max(stack.num_layers for stack in stacks)
    return shortened(
        spec, enough
    ), f"note  {size / 1e9:.1f} G parameters: {enough} of {most} layers; --layers {most} checks all"


def _in_a_line(config: str, args: argparse.Namespace) -> int:
    """One line for a config, and one more for each check that fails; returns its exit code."""
    began = time.perf_counter()
    try:
        found = list(_findings(config, args)[1])
    except AttnlibError as error:
        print(f"FAIL  {config:40} {error}", flush=True)
        return 2
    failed, made = [one for one in found if not one.ok], sum(one.figure is not None for one in found)
    print(f"{'FAIL ' if failed else 'ok   '} {config:40} {made} checks, {len(failed)} failed, "
          f"{time.perf_counter() - began:.1f} s", *(f"  {one}" for one in failed), sep="\n", flush=True)  # fmt: skip
    return 1 if failed else 0

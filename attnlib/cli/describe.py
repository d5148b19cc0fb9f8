"""attnlib describe: what a config would build and cost, without building it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnlib.cli.common import config_arguments, count, model_folder, read_config, read_model, runtime_arguments
from attnlib.errors import CheckpointError

if TYPE_CHECKING:
    from attnlib.text.tokenizer import Tokenizer

HELP = "module tree, shapes, parameters, FLOPs and cache bytes of a config, without allocating weights"


def arguments(parser: argparse.ArgumentParser) -> None:
    config_arguments(parser)
    parser.add_argument("--tokens", type=count, help="tokens of a row (default: 128, or as many as the model takes)")
    parser.add_argument("--batch", type=count, default=1, help="rows (default: 1)")
    parser.add_argument("--yaml", action="store_true", help="print the config as it is read, everything extended; "
                        "of a checkpoint's folder, a config that trains the same architecture from scratch")  # fmt: skip
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.yaml:
        return _print_yaml(args)
    import torch

    from attnlib.inspect.describe import describe

    spec = read_model(args.config, args.overrides)
    dtype = getattr(torch, args.dtype or "float32")
    print(describe(spec, tokens=args.tokens, batch=args.batch, dtype=dtype).text())
    return 0


def _print_yaml(args: argparse.Namespace) -> int:
    """The config; of a folder that holds a model alone, one that trains its architecture from scratch."""
    from attnlib.config import to_yaml

    tree, _, base = read_config(args.config, args.overrides)
    if base is None and "train" not in read_config(args.config)[0]:
        tree, notes = _scratch(args)
        for note in notes:
            print(f"# {note}")
    print(to_yaml(tree), end="")
    return 0


def _scratch(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """From the model of a folder, the overrides laid on it, and the folder's tokenizer."""
    from attnlib.config import parse_tree, to_yaml
    from attnlib.models.spec import ModelSpec
    from attnlib.pretrained import read_spec
    from attnlib.spec import read, write
    from attnlib.text import tokenizer_of
    from attnlib.train.scratch import scratch

    folder = model_folder(args.config)
    weights = any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir())
    whole = to_yaml({"model": write(read_spec(folder, weights=weights))})
    asked, marks = parse_tree(whole, str(folder), [text for text in args.overrides if text.startswith("model.")])
    model: ModelSpec = read(ModelSpec, asked["model"], path="model", marks=marks)
    try:
        tokenizer = tokenizer_of(folder)
    except CheckpointError:
        tokenizer = None
    words, notes = ({}, []) if tokenizer is None else _words(tokenizer, folder)
    tree, more = scratch(model, tokenizer, words or None)
    return parse_tree(to_yaml(tree), str(folder), args.overrides)[0], [*notes, *more]


def _words(tokenizer: Tokenizer, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The section `tokenizer` that reads the folder's own, and what is wrong with it."""
    import tempfile

    from attnlib.spec import write

    with tempfile.TemporaryDirectory() as place:
        spec = tokenizer.save(place)
    words, path = write(spec), getattr(spec, "path", None)
    if path is None:
        return words, []
    known = (folder / path).exists()
    notes = [] if known else [f"{folder} has an older vocabulary: attnlib.save(model, FOLDER, tokenizer=...) writes {path}"]
    return {**words, "path": str(folder / path)}, notes

"""attnlib classify: the labels of texts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from attnlib.cli.common import model_argument, open_model, read_input, read_lines, runtime_arguments

HELP = "the labels of each text, with their probabilities"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="the texts; - = stdin")
    parser.add_argument("--file", metavar="FILE", help="a file with a text a line")
    parser.add_argument("--pair", metavar="TEXT", help="a second text that is read with each, such as a hypothesis")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.errors import UsageError
    from attnlib.tasks import classify

    texts = [read_input(text) for text in args.texts] + (read_lines(args.file) if args.file is not None else [])
    if not texts:
        raise UsageError("classify", "neither TEXT nor --file is given", "wish a text")
    asked: Sequence[str | tuple[str, str]] = texts if args.pair is None else [(text, args.pair) for text in texts]
    for text, labels in zip(texts, classify(open_model(args).ready(), asked)):
        if len(texts) > 1:
            print(text)
        for label in labels:
            print(f"{label.score:.4f}  {label.name}")
    return 0

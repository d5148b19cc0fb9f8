"""attnlib classify: the labels of texts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from attnlib.cli.common import given_texts, model_argument, open_model, runtime_arguments, text_arguments

HELP = "the labels of each text, with their probabilities"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    text_arguments(parser)
    parser.add_argument("--pair", metavar="TEXT", help="a second text that is read with each, such as a hypothesis")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.tasks import classify

    texts = given_texts(args, "classify")
    asked: Sequence[str | tuple[str, str]] = texts if args.pair is None else [(text, args.pair) for text in texts]
    for text, labels in zip(texts, classify(open_model(args).ready(), asked)):
        if len(texts) > 1:
            print(text)
        for label in labels:
            print(f"{label.score:.4f}  {label.name}")
    return 0

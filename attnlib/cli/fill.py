"""attnlib fill: what a masked language model would write into the blanks of a text."""

from __future__ import annotations

import argparse

from attnlib.cli.common import count, model_argument, open_model, read_input, runtime_arguments

HELP = "the likeliest tokens for each blank of a text, with their probabilities"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("text", metavar="TEXT", help="a text with blanks, written as the model's mask token; - = stdin")
    parser.add_argument("--top-k", type=count, default=5, metavar="K", help="how many tokens a blank (default: 5)")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.tasks import fill

    text = read_input(args.text)
    blanks = fill(open_model(args).ready(), text, top_k=args.top_k)
    for number, found in enumerate(blanks, 1):
        if len(blanks) > 1:
            print(f"blank {number}")
        width = max(len(one.token) for one in found)
        for one in found:
            print(f"{one.probability:.4f}  {one.token:{width}}  {one.text}")
    return 0

"""attnlib tag: labels of the words of a text."""

from __future__ import annotations

import argparse

from attnlib.cli.common import model_argument, open_model, read_input, runtime_arguments

HELP = "labelled stretches of a text, such as names: probability, label, characters, words"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("text", metavar="TEXT", help="the text; - = stdin")
    parser.add_argument("--aggregation", choices=("token", "simple", "first", "average", "max"), default="first",
                        help="how tokens become words and stretches (default: first: that of a word decides)")  # fmt: skip
    parser.add_argument("--outside", action="store_true", help="tell what is labelled O, too")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.tasks import tag

    found = tag(open_model(args).ready(), read_input(args.text), aggregation=args.aggregation, outside=args.outside)
    width = max((len(one.label) for one in found), default=0)
    for one in found:
        print(f"{one.score:.4f}  {one.label:{width}}  {f'{one.start}-{one.end}':12}  {one.text}")
    return 0

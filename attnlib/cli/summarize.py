"""attnlib summarize: texts made short."""

from __future__ import annotations

import argparse

from attnlib.cli.choices import by_option, choice_arguments, given_choices
from attnlib.cli.common import model_argument, open_model, read_input, read_lines, runtime_arguments

HELP = "summaries of texts by an encoder-decoder, one a line"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="the texts; - = stdin")
    parser.add_argument("--file", metavar="FILE", help="a file with a text a line")
    parser.add_argument("--prefix", metavar="TEXT", help="goes before each text (default: as the model's config says)")
    choice_arguments(parser)
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.errors import UsageError
    from attnlib.tasks import summarize

    texts = [read_input(text) for text in args.texts] + (read_lines(args.file) if args.file is not None else [])
    if not texts:
        raise UsageError("summarize", "neither TEXT nor --file is given", "wish a text")
    given = given_choices(args)
    ready = open_model(args).ready()
    with by_option():
        found = summarize(ready, texts, prefix=args.prefix, **given)
    for text in found:
        print(" ".join(text.split()))
    return 0

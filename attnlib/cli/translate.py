"""attnlib translate: texts in another language."""

from __future__ import annotations

import argparse

from attnlib.cli.choices import by_option, choice_arguments, given_choices
from attnlib.cli.common import given_texts, model_argument, open_model, runtime_arguments, text_arguments

HELP = "translations of texts by an encoder-decoder, one a line"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    text_arguments(parser)
    parser.add_argument(
        "--from", dest="source", metavar="NAME", help="the language of the texts, as the model names it (en)"
    )
    parser.add_argument(
        "--to", dest="target", metavar="NAME", help="the language to write, as the model names it (de, de_DE)"
    )
    parser.add_argument("--prefix", metavar="TEXT", help="goes before each text (default: as the model's config says)")
    choice_arguments(parser)
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.tasks import translate

    texts = given_texts(args, "translate")
    given = given_choices(args)
    ready = open_model(args).ready()
    with by_option():
        found = translate(ready, texts, source=args.source, target=args.target, prefix=args.prefix, **given)
    for text in found:
        print(" ".join(text.split()))
    return 0

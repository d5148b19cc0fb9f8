"""attnlib chat: a talk with a decoder whose folder has a chat template."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from attnlib.cli.choices import by_option, choice_arguments, given_choices
from attnlib.cli.common import model_argument, open_model, read_input, runtime_arguments

HELP = "a talk by the model's chat template: a message, several one after another, or line by line at a terminal"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("--system", metavar="TEXT", help="what the model is told beforehand")
    parser.add_argument("--message", action="append", metavar="TEXT",
                        help="a message to answer; - = stdin; may be repeated, each knows those before it "
                        "(default: stdin, at a terminal a message a line)")  # fmt: skip
    choice_arguments(parser)
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.tasks.chatting import answer_in_pieces

    given = given_choices(args)
    ready = open_model(args).ready()
    talk = [] if args.system is None else [{"role": "system", "content": args.system}]
    for message in _messages(args.message):
        talk.append({"role": "user", "content": message})
        with by_option():
            pieces = answer_in_pieces(ready, talk, **given)
        answer = ""
        for piece in pieces:
            piece = piece if answer else piece.lstrip()
            answer += piece
            print(piece, end="", flush=True)
        print()
        talk.append({"role": "assistant", "content": answer.strip()})
    return 0


def _messages(given: list[str] | None) -> Iterator[str]:
    """Those of the command line, the whole of stdin, or what is typed until its end."""
    if given is not None:
        yield from map(read_input, given)
    elif not sys.stdin.isatty():
        yield read_input("-").strip("\n")
    else:
        while (line := _typed()) is not None:
            if line.strip():
                yield line


def _typed() -> str | None:
    try:
        return input("> ")
    except EOFError:
        print()
        return None

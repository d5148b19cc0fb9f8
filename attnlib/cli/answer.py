"""attnlib answer: the stretch of a text that answers a question."""

from __future__ import annotations

import argparse
from pathlib import Path

from attnlib.cli.common import count, model_argument, open_model, read_input, runtime_arguments

HELP = "where in a text the answer to a question stands: probability, characters, words"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("--question", required=True, metavar="TEXT")
    parser.add_argument("--context", metavar="TEXT", help="the text that holds the answer; - = stdin")
    parser.add_argument("--file", metavar="FILE", help="a file that holds the text")
    parser.add_argument("--top-k", type=count, default=1, metavar="K", help="how many answers (default: 1)")
    parser.add_argument("--window", type=count, default=384, metavar="N", help="tokens read at once (default: 384)")
    parser.add_argument("--stride", type=count, default=128, metavar="N", help="tokens that windows share (default: 128)")
    parser.add_argument("--longest", type=count, default=30, metavar="N", help="most tokens of an answer (default: 30)")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.errors import UsageError
    from attnlib.tasks import answer
    from attnlib.text import read_text

    if (args.context is None) == (args.file is None):
        given = "neither --context nor --file is" if args.context is None else "both --context and --file are"
        raise UsageError("answer", f"{given} given", "give one of them")
    context = read_text(Path(args.file)) if args.context is None else read_input(args.context)
    found = answer(open_model(args).ready(), args.question, context, top_k=args.top_k, window=args.window,
                   stride=args.stride, longest=args.longest)  # fmt: skip
    lines = [(one.score, f"{one.start}-{one.end}", " ".join(one.text.split())) for one in found.best]
    for score, place, words in sorted([*lines, (found.none, "", "no answer in the text")], reverse=True):
        print(f"{score:.4f}  {place:12}  {words}")
    return 0

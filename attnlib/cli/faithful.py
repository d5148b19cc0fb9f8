"""attnlib faithful: whether explanations point at what a model's answers really hang on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnlib.cli.common import count, model_argument, open_model, runtime_arguments
from attnlib.cli.outputs import check_outputs
from attnlib.cli.why import put, question_arguments

if TYPE_CHECKING:
    from attnlib.inspect.faithful import Curves
    from attnlib.inspect.sanity import Sanity

HELP = "methods of explanation put to the test: words taken away in their order, against a random one"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="texts to explain (of an encoder-decoder: sources)")
    parser.add_argument("--method", action="append", metavar="NAME", help="may be repeated (default: every one)")
    question_arguments(parser)
    parser.add_argument("--unit", choices=("word", "token"), default="word", help="what is ranked (default: word)")
    parser.add_argument("--remove", choices=("hide", "blank"), default="hide",
                        help="how a word goes: nobody sees it, or a blank stands there (default: hide)")  # fmt: skip
    parser.add_argument("--draws", type=count, default=10, metavar="N", help="random orders (default: 10)")
    parser.add_argument("--shuffled", action="store_true",
                        help="also how far each explanation changes when layers are shuffled from the top")  # fmt: skip
    parser.add_argument("--png", metavar="FILE", help="draw the curves")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.inspect.explanations import Method, find_method
    from attnlib.inspect.faithful import faithfulness
    from attnlib.inspect.sanity import sanity

    methods = [find_method(name) for name in args.method or Method.known()]
    check_outputs(args.png)
    loaded = open_model(args)
    questions = [put(args, loaded, text) for text in args.texts]
    if args.method is None:  # those that can; one that was asked for by name says why it cannot
        methods = [method for method in methods if all(method.refuses(question) is None for question in questions)]
    found = faithfulness(questions, methods, unit=args.unit, way=args.remove, draws=args.draws)
    changes = sanity(questions, methods) if args.shuffled else []
    if args.json:
        print(_json(found, changes))
    else:
        print("\n".join(_table(found, args.draws) + ([""] if changes else []) + _changes(changes)))
    if args.png is not None:
        from attnlib.inspect.plot import faithfulness_figure

        faithfulness_figure(found, args.png, title=f"Faithfulness on {_answers(found)}")
        if not args.json:
            print(args.png)
    return 0


def _answers(found: Sequence[Curves]) -> str:
    return f"{found[0].count} answer{'s' if found[0].count != 1 else ''}"


def _table(found: Sequence[Curves], draws: int) -> list[str]:
    width = max(len(one.method) for one in found)
    lines = [f"{'method'.ljust(width)}  deletion  insertion  comprehensiveness  sufficiency   ({_answers(found)})"]
    lines.append(f"{'better'.ljust(width)}     lower     higher             higher        lower")
    for one in sorted(found, key=lambda curves: -curves.comprehensiveness):
        a, b, c, d = one.figures
        lines.append(f"{one.method.ljust(width)}  {a:8.4f}  {b:9.4f}  {c:17.4f}  {d:11.4f}")
        if one.spread is not None:
            a, b, c, d = one.spread
            lines.append(f"{'  +-'.ljust(width)}  {a:8.4f}  {b:9.4f}  {c:17.4f}  {d:11.4f}   ({draws} draws)")
    return lines


def _changes(found: Sequence[Sanity]) -> list[str]:
    """How alike each explanation is when 0, 1, 2, .. layers are shuffled."""
    if not found:
        return []
    width = max(len(one.method) for one in found)
    stages = range(len(found[0].correlations))
    lines = [f"{'layers shuffled'.ljust(width)}  " + "  ".join(f"{n:6d}" for n in stages) + "   (rank correlation)"]
    lines += [f"{one.method.ljust(width)}  " + "  ".join(f"{c:6.2f}" for c in one.correlations) for one in found]
    return lines


def _json(found: Sequence[Curves], changes: Sequence[Sanity]) -> str:
    import json

    from attnlib.inspect.faithful import SHARES

    names = ("deletion_area", "insertion_area", "comprehensiveness", "sufficiency")
    methods = [
        {"method": one.method, "deletion": one.deletion.tolist(), "insertion": one.insertion.tolist()}
        | dict(zip(names, one.figures, strict=True))
        | ({} if one.spread is None else {"spread": dict(zip(names, one.spread, strict=True))})
        for one in found
    ]
    tree = {"answers": found[0].count, "shares": SHARES, "methods": methods}
    return json.dumps(tree | {"shuffled": {one.method: one.correlations for one in changes}} if changes else tree)

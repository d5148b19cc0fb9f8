"""attnlib why: which words of a text a model's answer comes from, by one method or several."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from attnlib.cli.common import count, model_argument, open_model, read_input, runtime_arguments
from attnlib.cli.outputs import asked, check_outputs, output_arguments, write_outputs

if TYPE_CHECKING:
    from attnlib.cli.common import Loaded
    from attnlib.inspect.question import Question

HELP = "which words of a text an answer comes from: rollout, gradients, occlusion, relevance and others"
METHOD = "integrated_gradients"


def question_arguments(parser: argparse.ArgumentParser) -> None:
    """--target and what belongs to it."""
    parser.add_argument("--target", metavar="WHAT",
                        help="next[=TOKEN[/OTHER]], written, mask[:PLACE][=TOKEN], class[=LABEL[/OTHER]], "
                        "tag:PLACE[=LABEL], span[:FIRST-LAST]; a PLACE is a word or a token's number (default: what "
                        "the head is for)")  # fmt: skip
    parser.add_argument("--written", metavar="TEXT", help="what was written after the text (default: the model writes)")
    parser.add_argument("--max-new-tokens", type=count, default=16, metavar="N", help="that the model writes (default: 16)")


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("text", metavar="TEXT", help="the text (of an encoder-decoder: the source); - = stdin")
    parser.add_argument("--method", action="append", metavar="NAME",
                        help=f"may be repeated; all = every one (default: {METHOD})")  # fmt: skip
    question_arguments(parser)
    parser.add_argument("--top", type=count, default=3, metavar="N", help="words shown of each written token (default: 3)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON: tokens, words, spans, scores")
    output_arguments(parser)
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    import json

    from attnlib.errors import UsageError
    from attnlib.inspect.explanations import Method, find_method, why
    from attnlib.inspect.explanations.table import table
    from attnlib.inspect.export import sheet_of_explanations
    from attnlib.inspect.plot_reports import explanations_figure

    check_outputs(*(getattr(args, name) for name in asked(args)))
    every = "all" in (args.method or ())
    methods = [find_method(name) for name in args.method or [METHOD] if name != "all"]  # unknown ones are told first
    methods = [find_method(name) for name in Method.known()] if every else methods
    question = put(args, open_model(args), args.text)
    found, refused = [], []
    for method in methods:
        try:
            found.append(why(question, method))
        except UsageError as error:
            if not every:
                raise
            refused.append(str(error))
    written = write_outputs(args, lambda: sheet_of_explanations(found),
                            lambda path, form: explanations_figure(found, path, form=form))  # fmt: skip
    if args.json:
        print(json.dumps([one.tree() for one in found], ensure_ascii=False))
    else:
        print("\n".join([table(found, top=args.top), *refused, *written]))
    return 0


def put(args: argparse.Namespace, loaded: Loaded, text: str, target: str | None = None) -> Question:
    """The question that the command line puts to a model about a text; `target`: another than --target."""
    from attnlib.errors import UsageError
    from attnlib.inspect.explanations import ask
    from attnlib.inspect.reading import read_text

    if getattr(loaded.model.spec, "kind", "") == "encoder" and args.written is not None:
        raise UsageError("--written", "is given", "an encoder writes nothing")
    tokenizer = loaded.tokenizer()
    reading = read_text(loaded.model, tokenizer, read_input(text))
    return ask(loaded.model, reading, target or args.target, tokenizer=tokenizer, written=args.written or (),
               new_tokens=args.max_new_tokens)  # fmt: skip

"""attnlib attend: what the attention of a model does on a text, as one HTML page, as a picture, as numbers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from attnlib.cli.common import count, model_argument, open_model, read_input, runtime_arguments
from attnlib.cli.outputs import asked, check_outputs, output_arguments, write_outputs

if TYPE_CHECKING:
    from attnlib.cli.common import Loaded
    from attnlib.inspect.drawing import Form
    from attnlib.inspect.page import Page

HELP = "attention of a text: --html a page for the browser, --png a picture, --csv and others the numbers"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("text", metavar="TEXT", help="the text (of an encoder-decoder: the source); - = stdin")
    parser.add_argument("--html", metavar="FILE", help="write a page that needs no network")
    output_arguments(parser)
    parser.add_argument("--summaries", action="store_true",
                        help="of files other than the page: sums over the weights, of texts of any length")  # fmt: skip
    parser.add_argument("--source", metavar="TEXT", help="an encoder-decoder's source, TEXT being the target then")
    parser.add_argument("--target", metavar="TEXT", help="an encoder-decoder's target (default: what it generates)")
    parser.add_argument("--max-new-tokens", type=count, metavar="N",
                        help="that the model goes on with (default: 64 of a generated target, else none)")  # fmt: skip
    parser.add_argument("--why", action="append", default=[], metavar="METHOD",
                        help="an explanation that goes along, by a method of `attnlib why`; may be repeated")  # fmt: skip
    parser.add_argument("--about", metavar="WHAT", help="the answer that --why explains, as `attnlib why --target` takes it")
    parser.add_argument("--compare", metavar="MODEL", help="another model beside it on the page, on the same text")
    parser.add_argument("--compare-text", metavar="TEXT", help="another text beside it on the page")
    parser.add_argument("--paths", default="*", metavar="PATTERN", help="which attentions, such as 'decoder.*.cross'")
    parser.add_argument("--layers", metavar="LIST", help="which layers, such as 0,2-4")
    parser.add_argument("--exact", action="append", default=[], metavar="HEAD",
                        help="of a long text: a head whose targets go along exactly, such as decoder.3.self.5; "
                        "may be repeated (default: some whose targets tell most)")  # fmt: skip
    parser.add_argument("--rows", metavar="LIST", help="of a long text: queries that go along in full, such as 7,90-99")
    parser.add_argument("--heads", type=count, default=8, metavar="N", help="most heads in the picture (default: 8)")
    parser.add_argument("--title", help="default: the text")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.errors import UsageError

    if args.html is None and not asked(args):
        raise UsageError("attend", "no file is named", "wish one to write, such as --html or --png")
    if args.summaries and not asked(args):
        raise UsageError("--summaries", "is given for a page alone", "wish a file to write, such as --csv")
    check_outputs(args.html, *(getattr(args, name) for name in asked(args)))
    text = read_input(args.text)
    page = _page(args, args.model, text) if args.html is not None or not args.summaries else None
    if args.html is not None and page is not None:
        for other in _others(args, text):
            page = page.beside(other)
        page.write(args.html)
        print(args.html)
    for path in _summed(args, text) if args.summaries or page is None else _mapped(args, page):
        print(path)
    return 0


def _mapped(args: argparse.Namespace, page: Page) -> list[str]:
    """The maps of a page as files."""
    from attnlib.inspect.export import sheet_of_maps
    from attnlib.inspect.maps import AttentionMap
    from attnlib.inspect.plot import attention_figure

    found = page.exhibits[0].maps

    def draw(path: str, form: Form) -> None:
        maps = [one if isinstance(one, AttentionMap) else one.overview() for one in found]
        attention_figure(maps, path, title=page.title, max_heads=args.heads, form=form)

    return write_outputs(args, lambda: sheet_of_maps(found), draw)


def _summed(args: argparse.Namespace, text: str) -> list[str]:
    """The summaries of the attention as files."""
    from attnlib.inspect.export import sheet_of_summaries
    from attnlib.inspect.plot_reports import summaries_figure
    from attnlib.inspect.seeing import line_of, sum_up

    loaded, source, options = _opened(args, args.model, text)
    found = sum_up(loaded.model, source, **options)
    title = args.title or line_of(text)
    told, alone = [(one, q.tokens, k.tokens) for one, q, k in found], [one for one, _, _ in found]
    return write_outputs(args, lambda: sheet_of_summaries(told),
                         lambda path, form: summaries_figure(alone, path, title=title, form=form))  # fmt: skip


def _others(args: argparse.Namespace, text: str) -> list[Page]:
    """What stands beside the model on its text."""
    from attnlib.errors import UsageError

    if args.compare is not None and args.compare_text is not None:
        raise UsageError("--compare-text", "is given with --compare", "wish one of them", "two are compared at a time")
    if args.compare is not None:
        return [_page(args, args.compare, text)]
    return [] if args.compare_text is None else [_page(args, args.model, read_input(args.compare_text))]


def _page(args: argparse.Namespace, model: str, text: str) -> Page:
    """The page of one model on one text."""
    from attnlib.inspect.seeing import line_of, see

    loaded, source, options = _opened(args, model, text)
    return see(
        loaded.model,
        source,
        **options,
        exact=args.exact,
        rows=[] if args.rows is None else sorted(numbers(args.rows, "--rows", "token")),
        methods=args.why,
        about=args.about,
        name=model if args.compare is not None else line_of(text),
        title=args.title or line_of(args.text if args.text != "-" else text),
    )


def _opened(args: argparse.Namespace, model: str, text: str) -> tuple[Loaded, str, dict[str, Any]]:
    """The model, the text it reads (its source), and what else says what it is to read and to look at."""
    from attnlib.errors import UsageError
    from attnlib.generate.prompts import is_kind

    layers = None if args.layers is None else numbers(args.layers)
    loaded = open_model(argparse.Namespace(**{**vars(args), "model": model}))
    source, target = (text, args.target) if args.source is None else (args.source, text)
    if not is_kind(loaded.model, "encoder_decoder") and target is not None:
        given = "--target" if args.source is None else "--source"
        raise UsageError(given, "is given", "only an encoder-decoder has one")
    chosen = _attentions(loaded.model, args.paths, layers, args.layers)
    reads = {"tokenizer": loaded.tokenizer(), "write": args.max_new_tokens, "written": target}
    return loaded, source, reads | {"layers": chosen}


def _attentions(model: object, paths: str, layers: set[int] | None, given: str | None) -> list[str] | None:
    """The paths of the attentions that --paths and --layers name; None = all."""
    from attnlib.errors import UsageError
    from attnlib.inspect.choice import choose

    if paths == "*" and layers is None:
        return None
    found = choose(model, paths)  # type: ignore[arg-type]
    there = {one.layer for one in found}
    if layers is not None and not (layers and layers <= there):
        raise UsageError("--layers", f"{given} are not all among the model's", "wish numbers from 0")
    return [one.path for one in found if layers is None or one.layer in layers]


def numbers(text: str, option: str = "--layers", what: str = "layer") -> set[int]:
    """0,2-4 as {0, 2, 3, 4}."""
    from attnlib.errors import UsageError

    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not _number(first) or (dash and not _number(last)):
            raise UsageError(option, f"{part!r} is no {what}", "wish numbers and ranges such as 0,2-4")
        if dash and int(last) < int(first):
            raise UsageError(option, f"{part!r} ends before it begins", "wish the smaller number first")
        found |= set(range(int(first), int(last if dash else first) + 1))
    return found


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 6

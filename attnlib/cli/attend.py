"""attnlib attend: what the attention of a model does on a text, as one HTML page and as a picture."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from attnlib.cli.common import Loaded, count, model_argument, open_model, read_input, runtime_arguments

if TYPE_CHECKING:
    from attnlib.text.tokenizer import Tokenizer

HELP = "attention maps of a text: --html a page for the browser, --png a picture"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("text", metavar="TEXT", help="the text (of an encoder-decoder: the source); - = stdin")
    parser.add_argument("--html", metavar="FILE", help="write a page that needs no network")
    parser.add_argument("--png", metavar="FILE", help="write a picture")
    parser.add_argument("--source", metavar="TEXT", help="an encoder-decoder's source, TEXT being the target then")
    parser.add_argument("--target", metavar="TEXT", help="an encoder-decoder's target (default: what it generates)")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="of a generated target (default: 64)")
    parser.add_argument("--paths", default="*", metavar="PATTERN", help="which attentions, such as 'decoder.*.cross'")
    parser.add_argument("--layers", metavar="LIST", help="which layers, such as 0,2-4")
    parser.add_argument("--heads", type=count, default=8, metavar="N", help="most heads in the picture (default: 8)")
    parser.add_argument("--title", help="default: the text")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.errors import UsageError
    from attnlib.inspect.page import write_attention_page
    from attnlib.inspect.plot import attention_png
    from attnlib.inspect.recording import record

    if args.html is None and args.png is None:
        raise UsageError("attend", "neither --html nor --png is given", "wish a file to write")
    layers = None if args.layers is None else numbers(args.layers)
    loaded = open_model(args)
    tokenizer = loaded.tokenizer()
    ids, source = _ids(args, loaded, tokenizer)
    with record(loaded.model, layers=args.paths) as seen:
        _forward(loaded, ids, source)
    maps = seen.maps(tokenizer.tokens(ids), None if source is None else tokenizer.tokens(source))
    maps = [one for one in maps if layers is None or one.place[1] in layers]
    if not maps:
        raise UsageError("--layers", f"{args.layers} are not among the model's", "wish numbers from 0")
    title = args.title or read_title(args.text)
    if args.html is not None:
        write_attention_page(maps, args.html, title=title)
        print(args.html)
    if args.png is not None:
        attention_png(maps, args.png, title=title, max_heads=args.heads)
        print(args.png)
    return 0


def read_title(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:79] + "…"


def numbers(text: str) -> set[int]:
    """0,2-4 as {0, 2, 3, 4}."""
    from attnlib.errors import UsageError

    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not _layer(first) or (dash and not _layer(last)):
            raise UsageError("--layers", f"{part!r} is no layer", "wish numbers and ranges such as 0,2-4")
        found |= set(range(int(first), int(last if dash else first) + 1))
    return found


def _layer(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 6


def _ids(args: argparse.Namespace, loaded: Loaded, tokenizer: Tokenizer) -> tuple[list[int], list[int] | None]:
    """What the model (its decoder) reads, and what its encoder reads before."""
    from attnlib.errors import LayoutError, UsageError
    from attnlib.generate.prompts import is_kind

    text, model = read_input(args.text), loaded.model
    if not is_kind(model, "encoder_decoder"):
        if args.target is not None or args.source is not None:
            raise UsageError(
                "--target" if args.source is None else "--source", "is given", "only an encoder-decoder has one"
            )
        before, after = tokenizer.template
        ids, source = [*before, *tokenizer.encode(text), *(after if is_kind(model, "encoder") else ())], None
    else:
        source = tokenizer.source(text if args.source is None else args.source)
        ids = _target(args, loaded, tokenizer, source, args.target if args.source is None else text)
    if not ids:
        raise UsageError("TEXT", "is empty", "wish at least one token")
    if model.max_length is not None and len(ids) > model.max_length:
        raise LayoutError("TEXT", f"has {len(ids)} tokens", f"the model's positions end at {model.max_length}")
    return ids, source


def _target(
    args: argparse.Namespace, loaded: Loaded, tokenizer: Tokenizer, source: list[int], target: str | None
) -> list[int]:
    """The start id and the target: the one given, or what the model answers."""
    from attnlib.generate import generate
    from attnlib.generate.prompts import start_of

    start = start_of(loaded.model, tokenizer, None)
    first = [] if start is None else [start]
    if target is not None:
        return [*first, *tokenizer.encode(target)]
    made = generate(loaded.model, [source], tokenizer=tokenizer, max_new_tokens=args.max_new_tokens)[0]
    return [*first, *(made.ids[:-1] if made.finish_reason == "eos" else made.ids)]


def _forward(loaded: Loaded, ids: list[int], source: list[int] | None) -> None:
    import torch

    from attnlib.generate.prompts import check_ids, vocab_of

    model: Any = loaded.model
    check_ids([ids], vocab_of(model), "TEXT")
    row = torch.tensor([ids], device=loaded.device)
    with torch.inference_mode():
        if source is None:
            model(row, head=False)
        else:
            check_ids([source], vocab_of(model, source=True), "source")
            model(torch.tensor([source], device=loaded.device), row, head=False)

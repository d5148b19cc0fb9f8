"""attnlib prune: what heads and hidden units are worth on a text, and a smaller model without some of them."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from attnlib.cli.common import Loaded, count, model_argument, open_model, read_input, runtime_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attnlib.inspect.importance import Importance
    from attnlib.inspect.question import Question

HELP = "a smaller model without some heads and hidden units; without --out, what each head is worth on a text"
BESIDE = (  # what a folder says of its use beside model and tokenizer: pooling, prompts, the sound it hears
    "modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    "preprocessor_config.json",
)  # fmt: skip
_NUMBERS = re.compile(r"(\d+)\.(\d+)")


def share(text: str) -> float:
    """A number between 0 and 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no part between 0 and 1")
    return value


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("--heads", metavar="LIST",
                        help="heads to take out, LAYER.HEAD or by path: 0.1,1.3 or decoder.0.self.1")  # fmt: skip
    parser.add_argument("--least-heads", type=count, metavar="N", help="take out the N heads that --text needs least")
    parser.add_argument("--units", type=share, metavar="SHARE",
                        help="take out this part of the hidden units of each feed-forward: those that --text needs least, "
                        "or, without a text, those of the shortest weights")  # fmt: skip
    parser.add_argument("--text", action="append", metavar="TEXT",
                        help="measured on; may be repeated (of an encoder-decoder: sources); - = stdin")  # fmt: skip
    parser.add_argument("--by", choices=("gradient", "ablation"), default="gradient",
                        help="what ranks heads: a gate's gradient or the loss without (default: gradient)")  # fmt: skip
    parser.add_argument("--max-new-tokens", type=count, default=16, metavar="N",
                        help="that an encoder-decoder writes of each text (default: 16)")  # fmt: skip
    parser.add_argument("--out", metavar="FOLDER", help="the folder to write: new, empty, or an older checkpoint")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.errors import UsageError
    from attnlib.inspect.importance import importance

    wanted = args.heads is not None or args.least_heads is not None or args.units is not None
    if wanted != (args.out is not None):
        fact, wish = ("is missing", "wish a folder for what is left") if wanted else ("is given", "wish --heads or --units")
        raise UsageError("--out", fact, wish)
    if args.heads is not None and args.least_heads is not None:
        raise UsageError("--least-heads", "is given beside --heads", "wish one of them")
    if not args.text and (args.least_heads is not None or not wanted):
        raise UsageError("--text", "is missing", "wish a text to measure on")
    loaded = open_model(args)
    questions = _questions(args, loaded)
    found = None
    if questions and (not wanted or args.least_heads is not None or args.units is not None):
        found = importance(questions, ablate=not wanted or args.by == "ablation", units=args.units is not None)
    if not wanted:
        assert found is not None
        _print(args, found.tree(), _ranking(found, args.by))
        return 0
    _prune(args, loaded, questions, found)
    return 0


def _questions(args: argparse.Namespace, loaded: Loaded) -> list[Question]:
    from attnlib.inspect.importance import text_questions
    from attnlib.inspect.reading import read_text

    if not args.text:
        return []
    tokenizer, model = loaded.tokenizer(), loaded.model
    texts = [read_text(model, tokenizer, read_input(text)) for text in args.text]
    return [one for text in texts for one in text_questions(model, text, tokenizer, new_tokens=args.max_new_tokens)]


def _prune(args: argparse.Namespace, loaded: Loaded, questions: Sequence[Question], found: Importance | None) -> None:
    """Write the smaller model and tell what became of it."""
    from dataclasses import replace

    from attnlib.errors import UsageError
    from attnlib.inspect.importance import mean_loss
    from attnlib.inspect.pruning import least_heads, least_units, prune, unit_norms
    from attnlib.pretrained import companions, save

    heads = [] if args.heads is None else _named(args.heads, loaded.model)
    if args.least_heads is not None and found is not None:
        heads = least_heads(loaded.model, found.heads(args.by), args.least_heads)
        if len(heads) < args.least_heads:
            can = f"wish {len(heads)}, each attention keeps some"
            raise UsageError("--least-heads", f"{args.least_heads} cannot go", can)
    units = {}
    if args.units is not None:
        units = least_units(unit_norms(loaded.model) if found is None else found.units, args.units)
    tokenizer = loaded.tokenizer()
    smaller = prune(loaded.model, heads=heads or None, units=units)
    tree: dict[str, Any] = {"heads": heads, "units": {path: list(numbers) for path, numbers in units.items()}}
    tree["parameters"] = [sum(p.numel() for p in model.parameters()) for model in (loaded.model, smaller)]
    if questions:
        tree["loss"] = [mean_loss(questions), mean_loss([replace(one, model=smaller) for one in questions])]
    files = {name: data for name, data in companions(loaded.folder).items() if name in BESIDE}
    save(smaller, args.out, tokenizer=tokenizer, extra_files=files)
    lines = [f"heads       {', '.join(heads) or 'all stay'}", f"units       {sum(map(len, units.values()))} less"]
    lines.append("parameters  {:,} -> {:,}".format(*tree["parameters"]))
    if questions:
        lines.append("loss        {:.4f} -> {:.4f} nats an answer".format(*tree["loss"]))
    _print(args, tree | {"out": args.out}, [*lines, args.out])


def _named(text: str, model: Any) -> list[str]:
    """LAYER.HEAD of the only stack, or an attention's path with the head's number."""
    from attnlib.errors import UsageError
    from attnlib.inspect.sites import stacks

    names, found = list(stacks(model)), []
    for part in (part.strip() for part in text.split(",")):
        match = _NUMBERS.fullmatch(part)
        if match and len(names) > 1:
            raise UsageError("--heads", f"{part!r} names no stack", f"wish {names[0]}.{match[1]}.self.{match[2]}")
        if not part or (part.isdigit() and not match):
            raise UsageError("--heads", f"{part!r} is no head", "wish LAYER.HEAD such as 0.1, or a path with a number")
        found.append(f"{names[0]}.{int(match[1])}.self.{int(match[2])}" if match else part)
    return found


def _ranking(found: Importance, by: str) -> list[str]:
    """Every head, the least important first."""
    ranked = found.heads(by)
    width = max(len(path) for path, _, _ in ranked) + 4
    lines = [f"loss {found.loss:.4f} nats an answer; heads, the least needed first"]
    lines.append(f"{'head'.ljust(width)}  gradient  loss without")
    for path, head, _ in ranked:
        gate, more = found.gates[path][head], found.ablations[path][head]
        lines.append(f"{f'{path}.{head}'.ljust(width)}  {gate:8.4f}  {more:+12.4f}")
    return lines


def _print(args: argparse.Namespace, tree: dict[str, Any], lines: Sequence[str]) -> None:
    import json

    print(json.dumps(tree, ensure_ascii=False) if args.json else "\n".join(lines))

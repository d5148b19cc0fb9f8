"""attnlib heads: what each head of a model looks at, and what the heads that copy are worth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnlib.cli.common import Loaded, count, model_argument, open_model, read_input, runtime_arguments
from attnlib.cli.outputs import asked, check_outputs, output_arguments, write_outputs

if TYPE_CHECKING:
    from attnlib.inspect.heads import HeadReport
    from attnlib.inspect.reading import Reading
    from attnlib.inspect.repeats import Ablation

HELP = "what each head looks at: the previous token, repeats, distances, delimiters, beside shuffled positions"
COPYING = ("previous", "induction")  # an induction head finds what a previous-token head marked


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="texts (of an encoder-decoder: sources); - = stdin")
    parser.add_argument("--file", metavar="FILE", help="a file with a text a line")
    parser.add_argument("--sample", type=count, metavar="N", help="let a decoder write N texts, each TEXT's continuations")
    parser.add_argument("--max-new-tokens", type=count, default=100, metavar="N", help="of a sample (default: 100)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of a sample (default: 1.0)")
    parser.add_argument("--seed", type=int, default=0, help="of samples and draws (default: 0)")
    parser.add_argument("--twice", action="store_true", help="write each text twice in a row: repeats show what copies")
    parser.add_argument("--ablate", type=count, metavar="K",
                        help="with --twice: take the K best previous-token and the K best induction heads out, and as many "
                        "others at random")  # fmt: skip
    parser.add_argument("--draws", type=count, default=20, metavar="N", help="random draws of heads (default: 20)")
    parser.add_argument("--zero", action="store_true", help="zeros for an ablated head's output (default: its mean)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    output_arguments(parser)
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    import json

    from attnlib.errors import UsageError
    from attnlib.inspect.export import sheet_of_heads
    from attnlib.inspect.heads import head_report
    from attnlib.inspect.plot_reports import heads_figure
    from attnlib.inspect.repeats import ablation, twice

    if args.ablate is not None and not args.twice:
        raise UsageError("--ablate", "the texts are not written twice", "wish --twice: the second copy's loss is measured")
    check_outputs(*(getattr(args, name) for name in asked(args)))
    loaded = open_model(args)
    readings = _readings(args, loaded)
    if args.twice:
        readings = [twice(loaded.model, reading) for reading in readings]
    report = head_report(loaded.model, readings)
    found = None
    if args.ablate is not None:
        heads = dict.fromkeys(one.name for kind in COPYING for one in report.best(kind, args.ablate))
        found = ablation(loaded.model, readings, list(heads), zero=args.zero, draws=args.draws, seed=args.seed)
    title = f"Heads of {loaded.folder.name}"
    written = write_outputs(args, lambda: sheet_of_heads(report),
                            lambda path, form: heads_figure(report, path, title=title, form=form))  # fmt: skip
    if args.json:
        print(json.dumps(report.tree() | ({} if found is None else {"ablation": found.tree()}), ensure_ascii=False))
    else:
        print("\n".join([*_table(report), *([] if found is None else _ablated(found)), *written]))
    return 0


def _readings(args: argparse.Namespace, loaded: Loaded) -> list[Reading]:
    """The texts asked for, as the model reads them; an encoder-decoder writes its own targets."""
    from attnlib.cli.common import read_lines
    from attnlib.errors import UsageError
    from attnlib.generate import generate
    from attnlib.inspect.reading import go_on, read_text
    from attnlib.inspect.repeats import sampled

    tokenizer, model = loaded.tokenizer(), loaded.model
    texts = [read_input(text) for text in args.texts]
    texts += [line for line in read_lines(args.file) if line.strip()] if args.file is not None else []
    if args.sample is not None:
        asked = {"new_tokens": args.max_new_tokens, "temperature": args.temperature, "seed": args.seed}
        begun = texts or [""]
        return [one for text in begun for one in sampled(model, args.sample, tokenizer=tokenizer, prompt=text, **asked)]
    if not texts:
        raise UsageError("heads", "neither TEXT, --file nor --sample is given", "wish a text to look at")
    readings = [read_text(model, tokenizer, text) for text in texts]
    if readings[0].source is None or model.rereads or getattr(model, "head", None) is None:
        return readings
    sources = [list(reading.source.ids) for reading in readings if reading.source is not None]
    made = generate(model, sources, tokenizer=tokenizer, max_new_tokens=args.max_new_tokens)
    return [go_on(reading, tokenizer, one.ids) for reading, one in zip(readings, made)]


def _table(report: HeadReport) -> list[str]:
    kinds = report.kinds
    heads = list(dict.fromkeys(one.name for one in report.scores))
    scores = {(one.name, one.kind): one for one in report.scores}
    width = max(len("shuffled"), *(len(name) for name in heads))
    lines = [f"{report.texts} text{'s' * (report.texts > 1)}, {report.tokens} tokens; mean mass on each kind of token, "
             "* = clearly above that of shuffled positions"]  # fmt: skip
    lines.append("head".ljust(width) + "".join(kind.rjust(12) for kind in kinds))
    named = {kind: {one.name for one in report.named(kind)} for kind in kinds}
    for name in heads:
        cells = []
        for kind in kinds:
            one = scores.get((name, kind))
            cells.append("".rjust(12) if one is None else f"{one.value:11.3f}{'*' if name in named[kind] else ' '}")
        lines.append(name.ljust(width) + "".join(cells))
    lines.append("shuffled".ljust(width) + "".join(_range(report, kind) for kind in kinds))
    lines.append("")
    for kind in kinds:
        best = [_told(one.name, one.value, one.offset) for one in report.named(kind)]
        lines.append(f"{kind}: " + (", ".join(best) if best else "no head is clear"))
    return [line.rstrip() for line in lines]


def _range(report: HeadReport, kind: str) -> str:
    """The greatest baseline."""
    return f"{max(one.baseline for one in report.scores if one.kind == kind):11.3f} "


def _told(name: str, value: float, offset: int | None) -> str:
    where = "" if offset is None else f" ({offset} back)" if offset >= 0 else f" ({-offset} ahead)"
    return f"{name} {value:.2f}{where}"


def _ablated(found: Ablation) -> list[str]:
    rises: Sequence[float] = sorted(found.rises)
    before, after = found.intact, found.without
    verdict = "beyond all" if found.beyond else f"beyond {sum(found.rise > rise for rise in rises)} of"
    return [
        "",
        f"without {', '.join(found.heads)}: nats a token",
        f"  first copy   {before.first:.3f} -> {after.first:.3f}  ({after.first - before.first:+.3f})",
        f"  second copy  {before.second:.3f} -> {after.second:.3f}  ({found.rise:+.3f})",
        f"{verdict} {len(rises)} random draws of {len(found.heads)} other heads: second copy {rises[0]:+.3f} to "
        f"{rises[-1]:+.3f}, mean {sum(rises) / len(rises):+.3f}",
    ]

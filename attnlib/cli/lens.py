"""attnlib lens: what a model would say at each layer, and which heads and layers write its answer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from attnlib.cli.common import count, model_argument, open_model, runtime_arguments
from attnlib.cli.why import put, question_arguments

if TYPE_CHECKING:
    from attnlib.inspect.direct import Attribution
    from attnlib.inspect.lenses import Lens

HELP = "what a model would say at each layer (logit lens), and which parts write its answer (direct attribution)"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("text", metavar="TEXT", help="the text (of an encoder-decoder: the source); - = stdin")
    question_arguments(parser)
    parser.add_argument("--site", action="append", metavar="NAME",
                        help="places of the residual stream such as 'decoder.*.attention.out'; may be repeated (default: "
                        "where each stack begins and each block ends)")  # fmt: skip
    parser.add_argument("--top-k", type=count, default=5, metavar="N", help="answers shown at each site (default: 5)")
    parser.add_argument("--attribution", action="store_true",
                        help="instead: the logit as a sum over heads, feed-forwards, embedding and biases; with --site, "
                        "that of one place")  # fmt: skip
    parser.add_argument("--source", action="store_true", help="what cross-attention read as a sum over the encoder's parts")
    parser.add_argument("--top", type=count, default=15, metavar="N", help="parts shown, the greatest (default: 15)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    import json

    from attnlib.errors import UsageError
    from attnlib.inspect.direct import attribution
    from attnlib.inspect.lenses import lens

    if args.source and not args.attribution:
        raise UsageError("--source", "is given without --attribution", "only that divides what was read")
    if args.attribution and len(args.site or ()) > 1:
        raise UsageError("--site", f"is given {len(args.site)} times", "an attribution has one")
    loaded = open_model(args)
    question = put(args, loaded, args.text)
    found: Lens | Attribution
    if args.attribution:
        found = attribution(question, args.site[0] if args.site else None, source=args.source)
        lines = _parts(found, args.top)
    else:
        found = lens(question, args.site, top_k=args.top_k, tokenizer=loaded.tokenizer())
        lines = _layers(found)
    print(json.dumps(found.tree(), ensure_ascii=False) if args.json else "\n".join(lines))
    return 0


def _layers(found: Lens) -> list[str]:
    """For each target a line a site: how likely its answer is there, and what is likeliest."""
    from math import exp

    from attnlib.inspect.maps import visible

    width = max(map(len, found.sites))
    lines = []
    for n, target in enumerate(found.targets):
        lines += [] if n == 0 else [""]
        lines.append(f"{visible(target)}: what would be said at each site")
        lines.append(f"{'site'.ljust(width)}       p    rank     KL  likeliest")
        for s, site in enumerate(found.sites):
            said = "  ".join(f"{visible(name)} {exp(value):.3f}" for name, value in found.top[s][n])
            figures = f"{exp(found.logprobs[s, n]):7.4f}  {found.ranks[s, n]:6d}  {found.divergence[s, n]:5.1f}"
            lines.append(f"{site.ljust(width)} {figures}  {said}")
    return lines


def _parts(found: Attribution, top: int) -> list[str]:
    """For each target the parts that count most, the sum of the others, and what is not told."""
    from attnlib.inspect.maps import visible

    width = max(max(map(len, found.parts)), len("all other parts"))
    lines = []
    for n, target in enumerate(found.targets):
        best = found.best(top, n)
        others = float(found.scores[n].sum()) - sum(score for _, score in best)
        place = "" if found.site is None else f" at {found.site}"
        lines += [] if n == 0 else [""]
        lines.append(f"{visible(target)}: logit {found.values[n]:.4f}{place}")
        lines += [f"{part.ljust(width)}  {score:9.4f}" for part, score in best]
        if len(best) < len(found.parts):
            lines.append(f"{'all other parts'.ljust(width)}  {others:9.4f}")
        lines.append(f"{'rounding'.ljust(width)}  {found.rest[n]:9.1e}")
    return lines

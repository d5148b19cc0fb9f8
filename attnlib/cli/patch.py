"""attnlib patch: which places of a model carry what two texts differ in."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from attnlib.cli.common import count, model_argument, open_model, runtime_arguments
from attnlib.cli.outputs import check_outputs
from attnlib.cli.why import put, question_arguments

if TYPE_CHECKING:
    from attnlib.inspect.patching import PatchedSite, Patching

HELP = "which places carry what two texts differ in: values of the clean run put into the corrupt one, site by position"
COLUMNS, WIDTH = 12, 120  # most sites in a table, and its letters


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("--clean", required=True, metavar="TEXT", help="the text that values are taken from; - = stdin")
    parser.add_argument("--corrupt", required=True, metavar="TEXT", help="one of as many tokens, that they are put into")
    parser.add_argument("--answer", metavar="TOKEN[/OTHER]",
                        help="the token or label whose logit is told, or its distance from another's (default: the "
                        "likeliest of the clean text)")  # fmt: skip
    question_arguments(parser)
    parser.add_argument("--site", action="append", metavar="NAME",
                        help="places such as 'decoder.*.mlp.add'; may be repeated (default: where each stack begins and "
                        "each block ends)")  # fmt: skip
    parser.add_argument("--heads", action="store_true", help="each attention head by itself, as --site '*.heads'")
    parser.add_argument("--gradient", action="store_true", help="first-order estimates of all patches from one backward")
    parser.add_argument("--top", type=count, default=20, metavar="N",
                        help=f"patches listed of more than {COLUMNS} sites (default: 20)")  # fmt: skip
    parser.add_argument("--csv", metavar="FILE", help="write a line a site and position")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    import json

    from attnlib.errors import UsageError
    from attnlib.inspect.files import write_whole
    from attnlib.inspect.patching import alike, patch

    if args.clean == args.corrupt == "-":
        raise UsageError("--corrupt", "is stdin too", "only one text can come from there")
    check_outputs(args.csv)
    loaded = open_model(args)
    target = _target(args, loaded.model)
    clean, corrupt = (put(args, loaded, text, target) for text in (args.clean, args.corrupt))
    alike(clean.reading, corrupt.reading)
    if all(a.ids == b.ids for a, b in zip(clean.reading.sides, corrupt.reading.sides, strict=True)):
        raise UsageError("--corrupt", "has the tokens of the clean text", "wish one that differs in some")
    places = [one.columns for one in (clean.targets[0], corrupt.targets[0])]
    if places[0] != places[1]:
        raise UsageError(f"target {target}", "stands in another column of the corrupt text", "wish a token's number")
    sites = [*(args.site or ()), *(["*.heads"] if args.heads else ())]
    found = patch(clean, corrupt.reading, sites or None, gradient=args.gradient)
    if args.csv is not None:
        write_whole(args.csv, found.csv().encode("utf-8"))
    if args.json:
        print(json.dumps(found.tree(), ensure_ascii=False))
        return 0
    print("\n".join([*_heading(found), *(_table(found) if len(found.sites) <= COLUMNS else _greatest(found, args.top))]))
    if args.csv is not None:
        print(args.csv)
    return 0


def _target(args: argparse.Namespace, model: Any) -> str | None:
    """--target, of an answer given: the kind that the head is for, one target of it."""
    from attnlib.inspect.target_names import kinds_for

    kind = args.target or next((kind for kind in kinds_for(model) if kind != "written"), None)
    return kind if args.answer is None or kind is None else f"{kind}={args.answer}"


def _heading(found: Patching) -> list[str]:
    from attnlib.inspect.maps import visible

    how = "first-order estimate of the" if found.estimated else "the"
    what = "part of the way from corrupt to clean that one value restores" if _way(found) else "change of the logit"
    logits = f"logit {found.clean:.4f} on the clean text, {found.corrupt:.4f} on the corrupt"
    return [f"{visible(found.target)}: {logits}", f"{how} {what}"]


def _way(found: Patching) -> bool:
    """Whether the two texts differ in the logit, so that parts of the way can be told."""
    return abs(found.clean - found.corrupt) > 1e-6


def _shown(found: Patching, one: PatchedSite) -> list[float]:
    values = found.restored(one) if _way(found) else found.effect(one)
    return [round(float(value), 3) + 0.0 for value in values]  # no zero with a minus


def _token(found: Patching, side: str, position: int) -> str:
    """The corrupt token, and the clean one where that is another."""
    from attnlib.inspect.maps import visible

    clean, corrupt = map(visible, found.tokens(side)[position])
    return corrupt if clean == corrupt else f"{corrupt} < {clean}"


def _table(found: Patching) -> list[str]:
    """Tokens down and sites across, side by side."""
    lines = []
    for side in dict.fromkeys(one.side for one in found.sites):
        columns = [one for one in found.sites if one.side == side]
        labels = [_token(found, side, at) for at in range(len(columns[0].values))]
        width = max(len(side), *map(len, labels))
        wide = [max(len(one.site), 7) for one in columns]
        values = [_shown(found, one) for one in columns]
        while columns:  # as many sites as a line takes
            some, taken = 1, width + 2 + wide[0]
            while some < len(columns) and taken + 2 + wide[some] <= WIDTH:
                taken, some = taken + 2 + wide[some], some + 1
            lines += ["", "  ".join([side.ljust(width), *(o.site.rjust(w) for o, w in zip(columns[:some], wide))])]
            for at, label in enumerate(labels):
                cells = [f"{column[at]:{w}.3f}" for column, w in zip(values[:some], wide)]
                lines.append("  ".join([label.ljust(width), *cells]))
            columns, wide, values = columns[some:], wide[some:], values[some:]
    return lines


def _greatest(found: Patching, top: int) -> list[str]:
    """The patches that moved most, a line each."""
    every = [(value, one, at) for one in found.sites for at, value in enumerate(_shown(found, one))]
    best = sorted(every, key=lambda cell: -abs(cell[0]))[:top]
    width = max(len(one.site) for _, one, _ in best)
    lines = ["", f"the {len(best)} greatest of {len(every)}"]
    return lines + [f"{v:8.3f}  {one.site.ljust(width)}  {at:4d}  {_token(found, one.side, at)}" for v, one, at in best]

"""attnlib cost: what configs cost as texts grow, predicted, and measured beside."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnlib.cli.common import count, find_device, read_model, read_runtime, runtime_arguments, shortened
from attnlib.cli.outputs import check_outputs
from attnlib.errors import UsageError

if TYPE_CHECKING:
    from attnlib.inspect.cost import Cost, Curve

HELP = "FLOPs, memory and cache bytes of a forward by number of tokens, for one config or several; --measure runs them"
USUAL = (1024, 2048, 4096, 8192, 16384)
MOST = 1 << 20
_UNITS = {"k": 1 << 10, "m": 1 << 20}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", metavar="CONFIG", nargs="+",
                        help="config files, bundled configs' names or models' folders, also as a list a,b; "
                        "key=value replaces a value of each")  # fmt: skip
    parser.add_argument("--tokens", metavar="LENGTHS", help="1k..32k (doubling) or 1000,4096; k = 1024 (default: 1k..16k, "
                        "or what the model takes)")  # fmt: skip
    parser.add_argument("--batch", type=count, default=1, help="rows (default: 1)")
    parser.add_argument("--layers", type=count, metavar="N", help="only so many layers of each stack, and no head "
                        "(default: the whole model; 1 with --measure)")  # fmt: skip
    parser.add_argument("--measure", action="store_true", help="run them here, and print time and memory beside")
    parser.add_argument("--seconds", type=float, default=60.0, help="of --measure for each config, after which longer "
                        "texts are left out (default: 60)")  # fmt: skip
    parser.add_argument("--png", metavar="FILE", help="draw time or work, and memory, over the tokens")
    parser.add_argument("--csv", metavar="FILE", help="write a table")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    runtime_arguments(parser)
    parser.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> int:
    import json

    lengths = None if args.tokens is None else read_lengths(args.tokens)
    if not args.seconds > 0:
        raise UsageError("--seconds", f"is {args.seconds:g}", "wish more than 0")
    words = [*args.words, *args.overrides]
    overrides = [word for word in words if _replaces(word)]
    names = [name for word in words if not _replaces(word) for name in _names(word)]
    if not names:
        raise UsageError("cost", "no config is named", "wish a config file, or the name of a bundled one")
    check_outputs(args.csv, args.png)
    curves = [_curve(name, overrides, lengths, args) for name in names]
    if args.csv is not None:
        _write_csv(curves, args.csv)
    if args.png is not None:
        from attnlib.inspect.plot_cost import cost_figure

        cost_figure(curves, args.png, title="Cost by length")
    if args.json:
        print(json.dumps([curve.as_dict() for curve in curves]))
    else:
        print("\n\n".join(_text(curve) for curve in curves))
        print(*(path for path in (args.csv, args.png) if path is not None), sep="\n", end="")
        print(end="\n" if args.csv or args.png else "")
    return 0


def read_lengths(text: str) -> list[int]:
    """`1k..32k`, each twice the one before, or `1000,4096`: numbers of tokens, in their order."""
    found: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        low = _length(first, text)
        high = _length(last, text) if dots else low
        if high < low:
            raise UsageError("--tokens", f"{part.strip()[:40]!r} ends before it begins", "wish the smaller number first")
        while low <= high:
            found.append(low)
            low *= 2
    return sorted({*found})


def _length(word: str, text: str) -> int:
    digits, unit = (word[:-1], _UNITS[word[-1].lower()]) if word[-1:].lower() in _UNITS else (word, 1)
    if not (digits.isascii() and digits.isdigit() and len(digits) < 9):
        raise UsageError("--tokens", f"{text[:40]!r} is no list of lengths", "wish 1k..32k, or 1000,4096")
    n = int(digits) * unit
    if not 1 <= n <= MOST:
        raise UsageError("--tokens", f"{word} are {n} tokens", f"wish 1 to {MOST}")
    return n


def _replaces(word: str) -> bool:
    return "=" in word and not Path(word).exists()


def _names(word: str) -> list[str]:
    return [word] if Path(word).exists() else word.split(",")


def _curve(name: str, overrides: Sequence[str], lengths: list[int] | None, args: argparse.Namespace) -> Curve:
    import torch

    from attnlib.inspect.cost import cost
    from attnlib.inspect.describe import longest
    from attnlib.inspect.measuring import measure
    from attnlib.models.heads import NoHeadSpec

    spec = read_model(name, overrides)
    layers = args.layers or (1 if args.measure else None)
    if layers is not None:
        spec = shortened(spec, layers).replace(head=NoHeadSpec())
    given: dict[str, Any] = {"batch": args.batch, "device": find_device(args.device),
                             "dtype": getattr(torch, args.dtype or "float32"),
                             "backend": read_runtime(name, overrides).attention}  # fmt: skip
    curve = cost(spec, lengths or _usual(longest(spec)), name=name, **given)
    return measure(spec, curve, seconds=args.seconds, **given) if args.measure else curve


def _usual(most: int | None) -> list[int]:
    """Lengths that a model takes: the usual ones, or the last four that halve its own."""
    fit = [n for n in USUAL if most is None or n <= most]
    return fit if len(fit) > 1 or most is None else sorted({max(most >> i, 1) for i in range(4)})


_COLUMNS = (("flops", "FLOPs"), ("mixer_flops", "in mixers"), ("memory", "memory"), ("mixer_memory", "one mixer"),
            ("cache", "cache"), ("rolling", "rolling"), ("state", "state"), ("seconds", "time"),
            ("measured_memory", "measured memory"))  # fmt: skip


def _text(curve: Curve) -> str:
    """A table, whose last line has the exponents."""
    shown = [(figure, title) for figure, title in _COLUMNS if any(curve.points(figure).values())]
    lines = [["tokens", *(title for _, title in shown)]]
    lines += [[f"{one.tokens:,}", *(_cell(figure, one) for figure, _ in shown)] for one in curve.costs]
    if len(curve.costs) > 1:
        powers = curve.exponents()
        grown = [powers[figure] for figure, _ in shown]
        lines.append(["grows as", *("" if b is None else f"n^{b:.2f}" for b in grown)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(shown) + 1)]
    runs = ", ".join(f"{kind} x {n}" for kind, n in curve.backends.items())
    head = curve.name + (f": attention by {runs}" if runs else "")
    return "\n".join([head, *("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines)])


def _cell(figure: str, one: Cost) -> str:
    value = getattr(one, figure)
    if value is None:
        return "-"
    if figure == "seconds":
        return f"{value * 1e3:,.1f} ms"
    step, unit = (1000.0, "FLOP") if figure.endswith("flops") else (1024.0, "B")
    value = float(value)
    for sign in ("", "k", "M", "G", "T"):
        if value < step:
            return f"{value:.4g} {sign}{'i' if step == 1024 and sign else ''}{unit}"
        value /= step
    return f"{value:.4g} P{unit}"


def _write_csv(curves: Sequence[Curve], path: str) -> None:
    import csv
    import io

    from attnlib.inspect.cost import FIGURES
    from attnlib.inspect.files import write_whole

    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["config", "tokens", *FIGURES])
    for curve in curves:
        rows.writerows([curve.name, one.tokens, *(getattr(one, figure) for figure in FIGURES)] for one in curve.costs)
    write_whole(path, text.getvalue().encode())

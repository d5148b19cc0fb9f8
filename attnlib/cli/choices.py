"""How a model is to write, as options of every command that lets it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attnlib.cli.common import count

_CHOICES = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "n", "num_beams",
            "length_penalty", "seed", "cache", "prefill_chunk")  # fmt: skip


def choice_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-new-tokens", type=count, metavar="N", help="most tokens generated (default: 64)")
    parser.add_argument("--temperature", type=float, help="0 = greedy (the default, unless the model came with another)")
    parser.add_argument("--top-k", type=int, help="draw among the k likeliest tokens")
    parser.add_argument("--top-p", type=float, help="draw among the likeliest tokens that together have p")
    parser.add_argument("--min-p", type=float, help="draw among tokens of at least p times the likeliest's probability")
    parser.add_argument("--repetition-penalty", type=float, help="above 1: tokens that were there are less likely")
    parser.add_argument("--num-beams", type=int, help="above 1: beam search")
    parser.add_argument("--length-penalty", type=float, help="of beam search")
    parser.add_argument("--n", type=int, help="how many results, a line end after each")
    parser.add_argument("--seed", type=int, help="equal seeds give equal results (default: 0)")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; may be repeated")
    parser.add_argument("--rule", action="append", default=[], metavar="NAME=VALUE",
                        help="any rule of a generation config, such as no_repeat_ngram_size=3; null takes the model's own "
                        "out; may be repeated")  # fmt: skip
    parser.add_argument("--cache", choices=("growing", "static", "rolling"), help="kind of key-value cache")
    parser.add_argument("--prefill-chunk", type=int, metavar="N", help="prompt tokens a forward (default: all)")


def given_choices(args: argparse.Namespace) -> dict[str, Any]:
    """The choices that the command line makes, rules included."""
    given = {name: value for name in _CHOICES if (value := getattr(args, name)) is not None}
    given |= {"stop": tuple(args.stop)} if args.stop else {}
    return given | dict(map(rule_of, args.rule))


def rule_of(text: str) -> tuple[str, Any]:
    """A rule of generation by name, with its value: `no_repeat_ngram_size=3`, `suppress_tokens=[1, 2]`."""
    import json

    from attnlib.errors import UsageError, nearest
    from attnlib.generate import Rule

    name, _, value = text.partition("=")
    if name not in Rule.kinds():
        raise UsageError("--rule", f"{name!r} is no rule", f"wish one of {', '.join(Rule.kinds())}",
                         nearest(name, Rule.kinds()))  # fmt: skip
    try:
        return name, json.loads(value)
    except ValueError:
        raise UsageError(f"--rule {name}", f"{value!r} is no JSON", "wish a number, true, false, null or a list") from None


@contextmanager
def by_option() -> Iterator[None]:
    """What is wrong with a choice is told under the option's name."""
    from attnlib.errors import SpecError, UsageError

    try:
        yield
    except SpecError as error:
        if not error.path.startswith("Sampling."):
            raise
        name = error.path.removeprefix("Sampling.")
        option = f"--{name.replace('_', '-')}" if name in (*_CHOICES, "stop") else f"--rule {name}"
        raise UsageError(option, error.fact, error.wish, error.hint) from None

"""attnlib generate: text from a model, token by token as it comes; only text on stdout."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from attnlib.cli.common import Loaded, count, model_argument, open_model, read_input, runtime_arguments, source_ids

if TYPE_CHECKING:
    from attnlib.generate import Sampling

HELP = "continue a prompt, answer a source, or fill the blanks of a text; only text goes to stdout"
_CHOICES = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "n", "num_beams",
            "length_penalty", "seed", "cache", "prefill_chunk")  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument(
        "--prompt", required=True, metavar="TEXT", help="the prompt, the source, or a text with mask marks; - = stdin"
    )
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
    parser.add_argument("--echo", action="store_true", help="print the prompt before its continuation")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.generate.prompts import is_kind

    given = _given(args)
    loaded = open_model(args)
    prompt = read_input(args.prompt)
    if is_kind(loaded.model, "encoder"):
        _fill(loaded, prompt, given)
        return 0
    sampling = _sampling(loaded, given)
    if args.echo and is_kind(loaded.model, "decoder"):
        print(prompt, end="", flush=True)
    _write(loaded, prompt, sampling)
    return 0


def _given(args: argparse.Namespace) -> dict[str, Any]:
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


def _sampling(loaded: Loaded, given: dict[str, Any]) -> Sampling:
    """The choices given, over those that the model came with; what is wrong with one is told under the option's name."""
    from attnlib.errors import SpecError, UsageError
    from attnlib.generate.defaults import choose

    try:
        return choose(loaded.model, None, given)
    except SpecError as error:
        if not error.path.startswith("Sampling."):
            raise
        name = error.path.removeprefix("Sampling.")
        option = f"--{name.replace('_', '-')}" if name in (*_CHOICES, "stop") else f"--rule {name}"
        raise UsageError(option, error.fact, error.wish, error.hint) from None


def _write(loaded: Loaded, prompt: str, sampling: Sampling) -> None:
    """The results, one after another; a single one as it comes."""
    from attnlib.generate import generate, stream
    from attnlib.generate.prompts import is_kind

    tokenizer = loaded.tokenizer()
    prompts: Any = [source_ids(tokenizer, prompt)] if is_kind(loaded.model, "encoder_decoder") else [prompt]
    asked: dict[str, Any] = {"tokenizer": tokenizer, "sampling": sampling}
    if sampling.n > 1 or sampling.num_beams > 1:
        for one in generate(loaded.model, prompts, **asked):
            print(one.text)
        return
    for event in stream(loaded.model, prompts, **asked):
        print(event.text, end="", flush=True)
    print()


def _fill(loaded: Loaded, text: str, given: dict[str, Any]) -> None:
    from attnlib.errors import UsageError
    from attnlib.tasks import complete

    if given.keys() - {"max_new_tokens"}:
        raise UsageError("generate", "an encoder fills blanks with its likeliest tokens", "takes no choices of sampling")
    print(complete(loaded.ready(), text))

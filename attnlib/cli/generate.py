"""attnlib generate: text from a model, token by token as it comes; only text on stdout."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from attnlib.cli.choices import by_option, choice_arguments, given_choices
from attnlib.cli.common import Loaded, model_argument, open_model, read_input, runtime_arguments

if TYPE_CHECKING:
    from attnlib.generate import Sampling

HELP = "continue a prompt, answer a source, or fill the blanks of a text; only text goes to stdout"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument(
        "--prompt", required=True, metavar="TEXT", help="the prompt, the source, or a text with mask marks; - = stdin"
    )
    choice_arguments(parser)
    parser.add_argument("--echo", action="store_true", help="print the prompt before its continuation")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.generate.defaults import choose
    from attnlib.generate.prompts import is_kind
    from attnlib.generate.sources import reads

    given = given_choices(args)
    loaded = open_model(args)
    reads(loaded.model)
    prompt = read_input(args.prompt)
    if is_kind(loaded.model, "encoder"):
        _fill(loaded, prompt, given)
        return 0
    with by_option():
        sampling = choose(loaded.model, None, given)
    if args.echo and is_kind(loaded.model, "decoder"):
        print(prompt, end="", flush=True)
    _write(loaded, prompt, sampling)
    return 0


def _write(loaded: Loaded, prompt: str, sampling: Sampling) -> None:
    """The results, one after another; a single one as it comes."""
    from attnlib.generate import generate, stream
    from attnlib.generate.prompts import is_kind

    tokenizer = loaded.tokenizer()
    prompts: Any = [tokenizer.source(prompt)] if is_kind(loaded.model, "encoder_decoder") else [prompt]
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

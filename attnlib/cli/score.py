"""attnlib score: how likely a model finds a text, token by token."""

from __future__ import annotations

import argparse

from attnlib.cli.common import model_argument, open_model, read_input, runtime_arguments

HELP = "log-probability of each token of a text, and the perplexity of the whole"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("text", metavar="TEXT", nargs="?", help="the text (of an encoder-decoder: the target); - = stdin")
    parser.add_argument("--file", metavar="FILE", help="a file that holds the text")
    parser.add_argument("--source", metavar="TEXT", help="what an encoder-decoder reads")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from attnlib.errors import UsageError
    from attnlib.generate import score
    from attnlib.generate.prompts import is_kind
    from attnlib.text import read_text

    if (args.text is None) == (args.file is None):
        given = "neither TEXT nor --file is" if args.text is None else "both TEXT and --file are"
        raise UsageError("score", f"{given} given", "give one of them")
    loaded = open_model(args)
    tokenizer = loaded.tokenizer()
    text = read_text(Path(args.file)) if args.text is None else read_input(args.text)
    if is_kind(loaded.model, "encoder_decoder"):
        if args.source is None:
            raise UsageError("--source", "is missing", "an encoder-decoder scores a target given its source")
        found = score(loaded.model, [tokenizer.source(text)], source=[tokenizer.source(args.source)],
                      tokenizer=tokenizer)[0]  # fmt: skip
    elif args.source is not None:
        raise UsageError("--source", "is given", "only an encoder-decoder reads one")
    else:
        found = score(loaded.model, [text], tokenizer=tokenizer)[0]
    if not found.ids:
        raise UsageError("score", "no token of the text has one before it to be told from", "wish a longer text")
    for token, logprob in zip(tokenizer.tokens(found.ids), found.logprobs):
        print(f"{logprob:10.4f}  {token}")
    mean = found.total / len(found.ids)
    print(f"{found.total:10.4f}  in all, {len(found.ids)} tokens, {mean:.4f} a token (nats)")
    print(f"{found.perplexity:10.4f}  perplexity" + (" (pseudo)" if is_kind(loaded.model, "encoder") else ""))
    return 0

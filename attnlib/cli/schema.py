"""attnlib schema: the JSON Schema of configs, for editors."""

from __future__ import annotations

import argparse

HELP = "print the JSON Schema of configs, with which editors check and complete them"


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    import json

    from attnlib.spec import json_schema
    from attnlib.train import Config

    print(json.dumps(json_schema(Config), indent=2))
    return 0

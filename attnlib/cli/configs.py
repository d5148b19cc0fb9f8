"""attnlib configs: the configs that come with attnlib."""

from __future__ import annotations

import argparse

HELP = "list the configs that come with attnlib"


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    from attnlib.config import config_names, config_path

    for name in config_names():
        print(f"{name:20}  {config_path(name)}")
    return 0

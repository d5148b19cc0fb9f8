"""attnlib train: a model from a config, with progress, a curve of the loss, and samples of what it learned."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnlib.cli.common import overrides_argument, read_config, runtime_arguments

if TYPE_CHECKING:
    from attnlib.train import Config, TrainResult

HELP = "train a model from a config"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a config file, or a bundled config's name")
    overrides_argument(parser)
    parser.add_argument("--folder", metavar="DIR", help="where the run lives (default: runs/NAME of the config)")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's newest checkpoint")
    runtime_arguments(parser, unless="the config's")


def run(args: argparse.Namespace) -> int:
    from attnlib.cli.progress import reporter
    from attnlib.spec import read
    from attnlib.train import Config, train

    overrides = [f"runtime.{name}={value}" for name in ("device", "dtype") if (value := getattr(args, name)) is not None]
    tree, marks, base = read_config(args.config, [*args.overrides, *overrides])
    config = read(Config, tree, marks=marks)
    folder = Path(args.folder) if args.folder else Path("runs") / Path(args.config).stem
    with reporter(sys.stderr) as report:
        result = train(config, folder=folder, base=base, report=report, resume=args.resume)
    if int(os.environ.get("RANK", "0")) == 0:  # of several processes one speaks
        _tell(result, config, folder, base)
    return 0


def _tell(result: TrainResult, config: Config, folder: Path, base: Path | None) -> None:
    """The scores, where things lie, and samples."""
    from attnlib.cli.samples import samples

    for name, value in result.scores.items():
        print(f"{name:24} {value:.6g}")
    for title, path in _places(result, folder):
        print(f"{title:24} {path}")
    for title, text in samples(result, config, base):
        print(f"\n{title}\n{text}")


def _places(result: TrainResult, folder: Path) -> list[tuple[str, Any]]:
    places = [("checkpoint", result.checkpoint), ("best", result.best), ("metrics", folder / "metrics.jsonl"),
              ("loss curve", folder / "loss.png")]  # fmt: skip
    return [(title, path) for title, path in places if path is not None and path.exists()]

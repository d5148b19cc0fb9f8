"""Every figure that attnlib claims, beside its baseline, measured in turns in one run.

    python scripts/benchmark.py [NAME ...] [--threads N] [--repeats N] [--seconds S] [--json FILE] [--quick] [--check]

gpt2, bert, t5   decode, encode and training step beside transformers (sdpa) on the same weights
step             one decode step of attention beside F.scaled_dot_product_attention
chunked          memory and speed of long texts with a learned bias
linear           mixers of linear cost: growth with the text, beside softmax attention, and of a decode step
sparse           windows, global tokens and random blocks beside full attention; growth of time and memory
seeing           recording: maps and reductions of 16,384 tokens, cost when off, short texts beside transformers
curves           time and memory by length for every kind of attention; --png draws them (some four minutes)
toys             the three toys beside plain torch models trained for the same time (about 7 minutes)
import           `import attnlib` beside `import torch`
checkpoints      from a cold process to the first token beside transformers; peak memory of loading
embed            2,000 sentences as vectors beside transformers (needs --sentence-model FOLDER)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from benchmarks import calls, checkpoints, curves, embedding, linear, models, seeing, sparse, startup, toys
from benchmarks.table import Options, Row, cells, header, table
from benchmarks.timing import CLOCKS

BENCHMARKS: dict[str, Callable[[Options], Iterator[Row]]] = {
    "gpt2": models.gpt2,
    "bert": models.bert,
    "t5": models.t5,
    "step": calls.step,
    "chunked": calls.chunked,
    "linear": linear.linear,
    "sparse": sparse.sparse,
    "seeing": seeing.seeing,
    "curves": curves.curves,
    "import": startup.startup,
    "checkpoints": checkpoints.checkpoints,
    "embed": embedding.embedding,
    "toys": toys.toys,
}
NEED_TRANSFORMERS = ("gpt2", "bert", "t5", "checkpoints", "embed", "seeing")


def main(arguments: list[str]) -> int:
    """Measure, print the table; exit code 1 under --check where a target is missed."""
    asked = _parser().parse_args(arguments)
    names = list(dict.fromkeys(asked.names)) or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"benchmark: {unknown[0]!r} is unknown, must be one of {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    repeats = asked.repeats or (2 if asked.quick else 7)
    options = Options(threads=asked.threads, repeats=repeats, quick=asked.quick, seconds=asked.seconds, clock=asked.clock,
                      sentence_model=asked.sentence_model, png=asked.png)  # fmt: skip
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(header(options) + "\n", flush=True)
    rows: list[Row] = []
    for name in names:
        if name in NEED_TRANSFORMERS and not _transformers():
            print(f"{name}: transformers is not installed, and is the baseline (pip install transformers)", file=sys.stderr)
            continue
        if name == "embed" and asked.sentence_model is None:
            print("embed: no --sentence-model, wish a folder of all-MiniLM-L6-v2", file=sys.stderr)
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        for row in BENCHMARKS[name](options):
            rows.append(row)
            print(" ", *cells(row), file=sys.stderr, flush=True)
        torch.set_num_threads(options.threads)
    print(table(rows))
    if asked.json is not None:
        figures = {"header": header(options), "rows": [row.as_dict() for row in rows]}
        try:
            asked.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            print(f"benchmark: {asked.json} cannot be written: {error.strerror}", file=sys.stderr)
            return 2
    return int(asked.check and any(row.ok is False for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"out of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--threads", type=_positive, default=2, help="of torch (default 2)")
    parser.add_argument("--repeats", type=_positive, default=None, help="in turns (default 7)")
    parser.add_argument("--seconds", type=float, default=75.0, help="of training for each model of `toys` (default 75)")
    parser.add_argument("--clock", choices=[*CLOCKS], default="wall", help="cpu: time of all threads, for busy machines")
    parser.add_argument("--sentence-model", type=Path, metavar="FOLDER", help="of all-MiniLM-L6-v2, for `embed`")
    parser.add_argument("--png", type=Path, metavar="FILE", help="the figure of `curves`")
    parser.add_argument("--quick", action="store_true", help="small shapes and budgets, to see that it runs")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no count, must be at least 1")
    return int(text)


def _transformers() -> bool:
    try:
        import transformers  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

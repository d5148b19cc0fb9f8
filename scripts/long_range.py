"""What each kind of mixer loses, seen on tasks whose answers are known: one table over all.

    python scripts/long_range.py [TASK ...] [--kinds NAME;NAME ...] [--seeds N] [--steps N] [--json FILE]

mqar             associative recall: the value of every key, by pairs
needle           a marked value, by the tokens between it and the question
selective_copy   eight tokens out of noise, in order
induction        what came after a token, once before
sorting          numbers in order, by an encoder
copying          a source written again, by an encoder-decoder

Printed: the share of right answers on held-out texts, the mean over seeds and its spread (greatest - least).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: on a busy machine spinning threads starve each other

import torch
from longrange.models import KINDS
from longrange.tasks import TASKS
from longrange.training import Result, trained


def main(arguments: list[str]) -> int:
    """Train, print a table; exit code 2 for names there are not."""
    asked = _parser().parse_args(arguments)
    tasks, kinds = asked.tasks or list(TASKS), asked.kinds.split(";") if asked.kinds else list(KINDS)
    for name, known in [(t, TASKS) for t in tasks] + [(k, KINDS) for k in kinds]:
        if name not in known:
            print(f"long_range: {name!r} is unknown, must be one of {'; '.join(known)}", file=sys.stderr)
            return 2
    torch.set_num_threads(asked.threads)
    results: list[Result] = []
    for task in tasks:
        for kind in kinds:
            for seed in range(asked.seeds):
                results.append(trained(TASKS[task], kind, seed, steps=asked.steps, width=asked.width))
                told = "  ".join(f"{n}: {share:.1%}" for n, share in results[-1].accuracy.items())
                print(
                    f"{task}, {kind}, seed {seed}: {told}  ({results[-1].steps} steps, {results[-1].seconds:.0f} s)",
                    file=sys.stderr,
                    flush=True,
                )
    print(table(results))
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n", encoding="utf-8")
    return 0


def table(results: list[Result]) -> str:
    """Markdown: a row a kind, a column a task and length; mean and spread over seeds."""
    columns = list(dict.fromkeys((result.task, n) for result in results for n in result.accuracy))
    lines = ["| kind | " + " | ".join(f"{task} {n}" for task, n in columns) + " |", "|---|" + "---|" * len(columns)]
    for kind in dict.fromkeys(result.kind for result in results):
        cells = []
        for task, n in columns:
            found = [result.accuracy[n] for result in results if (result.kind, result.task) == (kind, task)]
            spread = f" ({max(found) - min(found):.0%})" if len(found) > 1 else ""
            cells.append(f"{sum(found) / len(found):.1%}{spread}" if found else "")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"out of {', '.join(TASKS)}; all by default")
    parser.add_argument("--kinds", help=f"separated by ';', out of {'; '.join(KINDS)}; all by default")
    parser.add_argument("--seeds", type=int, default=2, help="models of each (default 2)")
    parser.add_argument("--steps", type=int, default=1000, help="of training each, at the most (default 1000)")
    parser.add_argument("--width", type=int, default=64, help="of the models (default 64)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What each kind of mixer loses, seen on tasks whose answers are known: one table over all.

    python scripts/long_range.py [TASK ...] [--quick] [--kinds NAME;NAME ...] [--seeds N] [--json FILE [--resume]]

mqar             associative recall: the value of every key, by pairs
needle           a marked value, by the tokens between it and the question
selective_copy   eight tokens out of noise, in order
induction        what came after a token, once before
sorting          numbers in order, by an encoder
copying          a source written again, by an encoder-decoder

Printed: the share of right answers on held-out texts in percent, the mean of the seeds and, in brackets, greatest less
least. A dash: the task cannot have the kind; why is told below the table. A run takes as many steps as its task says, and
fewer once all is right, so that figures do not hang on the machine's speed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: on a busy machine spinning threads starve each other

import torch
from longrange.models import KINDS
from longrange.record import line, read, table
from longrange.tasks import TASKS
from longrange.training import Result, Run, alone, trained

QUICK_TASKS = ("mqar", "needle", "sorting")
QUICK_KINDS = ("softmax", "window 16", "linear", "linear, conv", "delta, conv", "gru")


def main(arguments: list[str]) -> int:
    """Train, print a table; exit code 2 for names there are not and files that would be lost."""
    asked = _parser().parse_args(arguments)
    tasks = asked.tasks or list(QUICK_TASKS if asked.quick else TASKS)
    kinds = asked.kinds.split(";") if asked.kinds else list(QUICK_KINDS if asked.quick else KINDS)
    for name, known in [(t, TASKS) for t in tasks] + [(k, KINDS) for k in kinds]:
        if name not in known:
            return _wrong(f"{name!r} is unknown, must be one of {'; '.join(known)}")
    seeds = range(asked.seeds or (1 if asked.quick else 2))
    runs = [Run(t, k, seed, asked.steps or TASKS[t].steps, asked.width) for seed in seeds for t in tasks for k in kinds]
    found: dict[Run, Result] = {}
    if asked.json is not None and asked.json.exists():
        if not asked.resume:
            return _wrong(f"{asked.json} exists, wish --resume or another name")
        found = {result.run: result for result in read(asked.json)}
    missing = [run for run in runs if run not in found]
    _tell(f"{len(missing)} runs of at most {sum(run.steps for run in missing):,} steps, {asked.jobs} at a time")
    begun = time.perf_counter()
    for number, result in enumerate(_trained(missing, asked.jobs), start=1):
        found[result.run] = result
        if asked.json is not None:
            with asked.json.open("a", encoding="utf-8") as file:
                file.write(line(result))
        _tell(f"{number} of {len(missing)}, {time.perf_counter() - begun:.0f} s: {_words(result)}")
    results = [found[run] for run in runs]
    print(table(results, columns=[(task, n) for task in tasks for n in TASKS[task].lengths]))
    for refused in dict.fromkeys(
        f"{result.run.task}, {result.run.kind}: {result.refused}" for result in results if result.refused
    ):
        print(f"- {refused}")
    return 0


def _trained(runs: list[Run], jobs: int) -> Iterator[Result]:
    """Each in a process of one thread, `jobs` at a time, as they come: at this size faster than two threads for one."""
    torch.set_num_threads(1)
    if jobs == 1:
        yield from map(trained, runs)
        return
    with get_context("spawn").Pool(jobs, alone) as pool:  # leaving it, by Ctrl-C too, ends its processes
        yield from pool.imap_unordered(trained, runs)


def _words(result: Result) -> str:
    run = result.run
    shares = "  ".join(f"{n}: {share:.1%}" for n, share in result.accuracy.items())
    return f"{run.task}, {run.kind}, seed {run.seed}: " + (
        f"refused, {result.refused}" if result.refused else f"{shares}  ({result.taken} steps, {result.seconds:.0f} s)"
    )


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _wrong(text: str) -> int:
    _tell(f"long_range: {text}")
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"out of {', '.join(TASKS)}; all by default")
    parser.add_argument("--kinds", help=f"separated by ';', out of {'; '.join(KINDS)}; all by default")
    parser.add_argument(
        "--quick", action="store_true", help=f"{', '.join(QUICK_TASKS)} by {len(QUICK_KINDS)} kinds, one seed"
    )
    parser.add_argument("--seeds", type=int, help="models of each (default 2)")
    parser.add_argument("--steps", type=int, help="of training each, at the most (default: the task's)")
    parser.add_argument("--width", type=int, default=64, help="of the models (default 64)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="at a time (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write each result there as it comes, a line of JSON each")
    parser.add_argument("--resume", action="store_true", help="what that file holds is not trained again")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: no process is left behind
    sys.exit(main(sys.argv[1:]))

"""Results as lines of JSON, so that a long table can be cut and gone on with, and the table of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from longrange.training import Result, Run


def line(result: Result) -> str:
    """One line of JSON."""
    return json.dumps(asdict(result)) + "\n"


def read(path: Path) -> list[Result]:
    """All results of a file; a line that was cut while it was written is left out, and out of the file."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            tree = json.loads(text)
        except json.JSONDecodeError:
            continue
        accuracy = {int(n): share for n, share in tree.pop("accuracy").items()}
        found.append(Result(Run(**tree.pop("run")), accuracy, **tree))
    path.write_text("".join(map(line, found)), encoding="utf-8")
    return found


def table(results: Iterable[Result], columns: list[tuple[str, int]]) -> str:
    """Markdown: a row a kind, a column a task and length; the mean of the seeds in percent, and their spread in brackets.

    A dash stands where the task cannot have the kind, nothing where it was not asked.
    """
    found = list(results)
    lines = ["| kind | " + " | ".join(f"{task} {n}" for task, n in columns) + " |", "|---|" + "---|" * len(columns)]
    for kind in dict.fromkeys(result.run.kind for result in found):
        own = [result for result in found if result.run.kind == kind]
        lines.append(
            f"| {kind} | " + " | ".join(_cell([r for r in own if r.run.task == task], n) for task, n in columns) + " |"
        )
    return "\n".join(lines)


def _cell(results: list[Result], n: int) -> str:
    shares = [100 * result.accuracy[n] for result in results if n in result.accuracy]
    if not shares:
        return "–" if any(result.refused for result in results) else ""
    spread = f" ({max(shares) - min(shares):.0f})" if len(shares) > 1 and max(shares) - min(shares) >= 0.5 else ""
    return f"{sum(shares) / len(shares):.0f}{spread}"

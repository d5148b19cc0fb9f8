"""scripts/benchmark.py runs, says what it measured, and names what it does not know."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.multiprocess
def test_a_benchmark_prints_a_table_and_writes_its_figures(tmp_path):
    done = run("step", "--quick", "--repeats", "1", "--threads", "1", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    assert "machine:" in done.stdout
    assert "| step K=512 |" in done.stdout
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["step K=512", "step K=1"]
    assert all(row["ours"] > 0 and row["baseline"] > 0 for row in rows)


@pytest.mark.multiprocess
def test_an_unknown_benchmark_is_one_line():
    done = run("speed")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "gpt2, bert, t5" in done.stderr

"""The README is run, not believed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attnlib
from attnlib.config import parse_tree

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_first_two_shell_blocks_set_up_and_run() -> None:
    job, tests = blocks("sh")[:2]
    for block in (job, tests):
        assert "python3 -m venv" in block and "--constraint .ci/constraints.txt" in block
    assert "scripts/toys.py" in job and "pytest" in tests


def test_tables_are_those_of_the_code() -> None:
    check = [sys.executable, str(ROOT / "scripts" / "readme_tables.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:Converting a tensor:UserWarning")
def test_python_of_the_first_tour_runs(capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = blocks("python")[:3]
    names: dict[str, object] = {}
    exec(first, names)
    assert "#...  ##..  .##.  ..##" in capsys.readouterr().out
    exec(second, names)
    assert names["picture"](names["EveryNth"](step=2), 4) == "#...  .#..  #.#.  .#.#"  # type: ignore[operator]
    exec(third, names)
    q = torch.randn(1, 2, 5, 4)
    term = names["RecencySpec"]().build(num_heads=2, d_head=4)  # type: ignore[operator]
    found, wished = (attnlib.attend(q, q, q, terms=[term], backend=name) for name in ("sdpa", "reference"))
    torch.testing.assert_close(found, wished)


def test_every_command_it_names_is_there() -> None:
    from attnlib.cli import main

    for name in sorted(set(re.findall(r"^(?:`)?attnlib (\w+) ", README, re.MULTILINE))):
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0, name


def test_the_grammar_it_shows_is_read_and_built() -> None:
    grammar, pair = (parse_tree(block)[0] for block in blocks("yaml"))
    grammar["model"]["vocab_size"] = 11
    assert isinstance(attnlib.build(pair), attnlib.EncoderDecoder)
    model = attnlib.build(grammar)
    assert len(model.stack.blocks) == 12  # type: ignore[union-attr, arg-type]

"""Progress of a run: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from attnlib.cli.progress import reporter
from attnlib.train import Event


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


EVENTS = [
    Event("start", 0, 0.0, "begins: [bold] parameters"),
    *(Event("step", step, step / 4, f"step {step}  loss {5 - step}") for step in (1, 2, 3)),
    Event("eval", 4, 1.0, "eval_loss 1"),
]


def told(stream: io.StringIO) -> str:
    with reporter(stream) as report:
        for event in EVENTS:
            report(event)
    return stream.getvalue()


def test_lines_tell_the_first_step_and_then_one_in_a_few_seconds() -> None:
    assert told(io.StringIO()).splitlines() == [
        "  0%  step 0  begins: [bold] parameters",
        " 25%  step 1  loss 4",
        "100%  step 4  eval_loss 1",
    ]


def test_a_terminal_gets_a_bar_and_text_as_it_is() -> None:
    pytest.importorskip("rich")
    text = told(Terminal())
    assert "begins: [bold] parameters" in text and "eval_loss 1" in text and "━" in text


def test_without_rich_a_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert told(Terminal()) == told(io.StringIO())

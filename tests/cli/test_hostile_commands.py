"""Command lines that a clumsy or hostile user types: one line that says so, never an internal error."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnlib.cli import main

HUGE = "9" * 20


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err[0] != ":" and "internal error" not in err, err
    return err


@pytest.mark.parametrize("command", ["train", "describe", "check", "explain"])
def test_an_empty_config_name_is_named(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "config: an empty name" in refused(capsys, command, "")


@pytest.mark.parametrize("command", ["generate", "score", "evaluate", "attend"])
def test_a_line_end_in_a_name_stays_on_the_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"generate": ["--prompt", "a"], "score": ["a"], "evaluate": [], "attend": ["a", "--html", "x.html"]}[command]
    assert refused(capsys, command, "a\nb", *more).startswith("a\\nb: ")


@pytest.mark.parametrize("command", ["describe", "check", "explain"])
def test_a_misspelt_section_is_refused(command: str, configs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'model'" in refused(capsys, command, configs["gpt"], "modle.d_model=48")


@pytest.mark.parametrize(
    "override", [f"model.vocab_size={HUGE}", "model.d_model=1000000000000", f"runtime.threads={HUGE}",
                 f"model.stack.block.attention.mask={{kind: window, before: {HUGE}}}"],
)  # fmt: skip
def test_numbers_beyond_a_machine_word_are_refused(
    override: str, configs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "too large" in refused(capsys, "explain", configs["gpt"], override)


def test_sampling_numbers_beyond_a_machine_word_are_refused(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, "generate", runs["gpt"], "--prompt", "a", "--num-beams", HUGE)
    with pytest.raises(SystemExit):
        main(["generate", str(runs["gpt"]), "--prompt", "a", "--max-new-tokens", HUGE])

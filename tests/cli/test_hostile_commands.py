"""Command lines that a clumsy or hostile user types: one line that says so, never an internal error."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from attnlib.cli import main
from attnlib.cli.common import model_folder

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
    for option in ("--num-beams", "--n"):  # which would fill any memory
        asked = [option, 1_000_000, "--temperature", int(option == "--n")]
        assert f"{option}: 1000000, wish" in refused(capsys, "generate", runs["gpt"], "--prompt", "a", *asked)
    with pytest.raises(SystemExit):
        main(["generate", str(runs["gpt"]), "--prompt", "a", "--max-new-tokens", HUGE])


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_a_flipped_bit_in_a_model_is_told_by_every_command(
    name: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(model_folder(str(runs["gpt"])), tmp_path / "model"))
    whole = bytearray((folder / name).read_bytes())
    whole[-9] ^= 1
    (folder / name).write_bytes(whole)
    for argv in (["generate", folder, "--prompt", "a"], ["score", folder, "ab"], ["evaluate", folder],
                 ["attend", folder, "ab", "--html", tmp_path / "x.html"]):  # fmt: skip
        assert str(folder) in refused(capsys, *argv)
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("kind", ["--html", "--png"])
def test_an_empty_output_name_is_refused(kind: str, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert "empty name" in refused(capsys, "attend", runs["gpt"], "ab", kind, "")


def test_files_that_cannot_be_written_are_refused_before_the_work_and_before_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "a.csv", tmp_path / "no" / "a.png"
    texts = {"attend": ["a"], "heads": ["a"], "why": ["a"], "faithful": ["a"], "patch": ["--clean", "a", "--corrupt", "b"]}
    for command, text in texts.items():  # no model is there to be read: the file comes first
        kind = "--csv" if command == "patch" else "--png"
        also = [] if command in ("patch", "faithful") else ["--csv", good]
        assert str(bad) in refused(capsys, command, tmp_path / "nowhere", *text, *also, kind, bad)
        for other in (tmp_path, "/dev/null"):
            assert "wanted the name of a file" in refused(capsys, command, tmp_path / "nowhere", *text, *also, kind, other)
    twice = ["--csv", good, "--html", good]
    assert "is named twice" in refused(capsys, "attend", tmp_path / "nowhere", "a", *twice)
    assert list(tmp_path.iterdir()) == []


def test_a_checked_file_stays_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("old")
    refused(capsys, "attend", tmp_path / "nowhere", "a", "--csv", tmp_path / "a.csv")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.csv", "old")]


def test_a_closed_stdout_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["schema"]) == 0


@pytest.mark.parametrize("layers", ["0-99999999999999", "²", "", "-1"])
def test_layers_that_cannot_be_are_refused_before_they_fill_the_memory(
    layers: str, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is no layer" in refused(capsys, "attend", runs["gpt"], "ab", "--html", "x.html", f"--layers={layers}")


@pytest.mark.parametrize("layers", ["0,7", "1-7", "7"])
def test_a_layer_out_of_range_is_refused_beside_others_that_are_there(
    layers: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "x.html"
    assert "not all among" in refused(capsys, "attend", runs["gpt"], "ab", "--html", page, "--layers", layers)
    assert not page.exists()


def test_names_that_no_file_has_and_ranges_that_run_back_are_refused(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    page = ["attend", runs["gpt"], "a sea", "--html"]
    assert "NUL" in refused(capsys, *page, "a\0b")
    assert "--rows: '5-2' ends before it begins" in refused(capsys, *page, "x.html", "--rows", "5-2")
    pruned = ["prune", runs["gpt"], "--heads", "decoder.0.self.0", "--out"]
    assert "NUL" in refused(capsys, *pruned, "a\0b") and "empty name" in refused(capsys, *pruned, "")

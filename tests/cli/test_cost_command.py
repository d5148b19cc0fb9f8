"""attnlib cost: curves of configs as text, JSON, CSV and PNG, and what it refuses in one line."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from attnlib.cli import main
from attnlib.cli.cost import read_lengths
from attnlib.errors import UsageError


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    capsys.readouterr()
    assert main(["cost", *map(str, argv)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    capsys.readouterr()
    assert main(["cost", *map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "internal error" not in err, err
    return err


def test_lengths_double_or_are_listed() -> None:
    assert read_lengths("1k..8K") == [1024, 2048, 4096, 8192]
    assert read_lengths("4096,1000, 5..21") == [5, 10, 20, 1000, 4096]
    assert read_lengths("1m") == [1 << 20]


WRONG = ["", "many", "0", "-4", "1.5k", "k", "8k..1k", "1k..", "..4", "1k...4k", "5,,6", "2m", "99999999999999999999", "²"]


@pytest.mark.parametrize("text", WRONG)
def test_lengths_that_are_none_are_one_line(
    text: str, configs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, configs["gpt"], f"--tokens={text}").startswith("--tokens: ")
    with pytest.raises(UsageError):
        read_lengths(text)


def test_several_configs_are_compared(configs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    table, figure = tmp_path / "costs.csv", tmp_path / "costs.png"
    names = f"{configs['gpt']},tiny/gpt"
    told = run(capsys, names, configs["t5"], "model.d_model=64", "--tokens", "16..64", "--csv", table, "--png", figure)
    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["tokens"] for row in rows] == ["16", "32", "64"] * 3
    assert told.count("grows as") == 3 and str(table) in told and "tiny/gpt: attention by sdpa x 3" in told
    assert all(int(row["flops"]) > int(row["mixer_flops"]) > 0 and row["seconds"] == "" for row in rows)


def test_measured_stands_beside_predicted_as_json(configs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, configs["gpt"], "--tokens", "32,64", "--measure", "--layers", 2, "--json"))
    (curve,) = found
    assert [one["tokens"] for one in curve["costs"]] == [32, 64] and curve["backends"] == {"sdpa": 2}
    for one in curve["costs"]:
        assert one["seconds"] > 0 and abs(one["measured_memory"] / one["memory"] - 1) < 0.1
    assert curve["exponents"]["rolling"] == 0 and curve["exponents"]["cache"] == pytest.approx(1)


def test_usual_lengths_fit_the_model(configs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, configs["bert"])
    assert re.findall(r"^ +(\d+) ", told, re.MULTILINE) == ["5", "10", "20", "40"]


def test_what_cannot_be_is_one_line(
    configs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpt, short = configs["gpt"], ("--tokens", "8,16")
    assert "no_such" in refused(capsys, "no_such", *short)
    assert "config: an empty name" in refused(capsys, f"{gpt},", *short)
    assert "no config is named" in refused(capsys, "model.d_model=48", *short)
    assert "positions end at 40" in refused(capsys, configs["bert"], "--tokens", "16..64")
    assert "--seconds: is 0" in refused(capsys, gpt, *short, "--measure", "--seconds", 0)
    assert "d_model" in refused(capsys, gpt, *short, "model.d_model=no")
    for kind in ("--csv", "--png"):
        place = tmp_path / "none" / "file"
        assert f"{place}: cannot be written" in refused(capsys, gpt, *short, kind, place)
        assert "empty name" in refused(capsys, gpt, *short, kind, "")
    assert not list(tmp_path.iterdir())
    assert "flex" in refused(capsys, gpt, *short, "runtime.attention=flex")
    assert "attention backend" in refused(capsys, gpt, *short, "runtime.attention=fast")

"""attnlib faithful, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_commands import Capture, refused, told

from attnlib.inspect.explanations import Method


def test_every_method_is_tried_on_each_stack(runs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    picture = tmp_path / "curves.png"
    out = told(capsys, "faithful", runs["gpt"], "a sea", "the ship", "--draws", "2", "--png", picture)
    rows = [line.split()[0] for line in out.splitlines()]
    assert {*Method.known()} <= {*rows} and "(2 answers)" in out and "(2 draws)" in out
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for name, asked in (("bert", ("a sea", "--target", "mask:0")), ("t5", ("sea", "--written", "se"))):
        out = told(capsys, "faithful", runs[name], *asked, "--unit", "token", "--remove", "blank", "--draws", "2",
                   "--method", "saliency", "--shuffled", "--json")  # fmt: skip
        tree = json.loads(out)
        assert [one["method"] for one in tree["methods"]] == ["saliency", "random"]
        assert tree["methods"][0]["deletion"][0] == pytest.approx(tree["methods"][0]["insertion"][-1])
        assert set(tree["methods"][1]["spread"]) == {"deletion_area", "insertion_area", "comprehensiveness", "sufficiency"}
        assert tree["shuffled"]["saliency"][0] == pytest.approx(1.0)
    assert "layers shuffled" in told(capsys, "faithful", runs["gpt"], "a sea", "--method", "rollout", "--shuffled")


def test_what_cannot_be_tested_is_one_line(runs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    gpt = runs["gpt"]
    assert "did you mean 'rollout'" in refused(capsys, "faithful", gpt, "a", "--method", "rolout")
    assert "text: is empty" in refused(capsys, "faithful", gpt, "a b", "")
    assert "flow is found for at most" in refused(capsys, "faithful", gpt, "a" * 200, "--method", "flow")
    told(capsys, "faithful", gpt, "a" * 200, "--method", "rollout", "--draws", "1", "--unit", "word")
    nowhere = tmp_path / "missing" / "curves.png"
    capsys.readouterr()
    from attnlib.cli import main

    assert main(["faithful", str(gpt), "a b", "--method", "rollout", "--draws", "1", "--png", str(nowhere)]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not nowhere.parent.exists()

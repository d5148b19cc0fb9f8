"""attnlib heads, as a user calls it, on a run of each stack and on a real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_commands import Capture, refused, told

from attnlib.inspect.head_scores import ALL_KINDS


def test_each_stack_is_reported_by_command(runs: dict[str, Path], capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("a sea, a sea\n\nto be or not\n")
    for name, asked, paths in (("gpt", ("--file", tmp_path / "lines"), {"decoder.0.self", "decoder.1.self"}),
                               ("bert", ("a sea, a sea",), {"encoder.0.self", "encoder.1.self"}),
                               ("t5", ("sea, sea.", "--max-new-tokens", "9"),
                                {"encoder.0.self", "decoder.0.self", "decoder.0.cross"})):  # fmt: skip
        found = json.loads(told(capsys, "heads", runs[name], *asked, "--json"))
        assert {head.rpartition(".")[0] for head in found["heads"]} == paths, name
        assert found["texts"] == (2 if name == "gpt" else 1)
        assert {one["kind"] for one in found["heads"][f"{max(paths)}.1"]} == {*ALL_KINDS}
    out = told(capsys, "heads", runs["t5"], "sea, sea.")
    assert "decoder.0.cross.1" in out and "shuffled" in out and "previous" in out


def test_samples_written_twice_are_ablated_by_command(runs: dict[str, Path], capsys: Capture) -> None:
    asked = ("heads", runs["gpt"], "sea", "--sample", 2, "--max-new-tokens", 6, "--twice", "--ablate", 1, "--draws", 3)
    out = told(capsys, *asked)
    assert "2 texts, " in out and "random draws of" in out and "second copy" in out
    found = json.loads(told(capsys, *asked, "--json", "--zero"))["ablation"]
    assert len(found["random"]) == 3 and len(found["heads"]) in (1, 2)


def test_what_cannot_be_reported_is_one_line(runs: dict[str, Path], capsys: Capture) -> None:
    gpt, bert = runs["gpt"], runs["bert"]
    assert "neither TEXT, --file nor --sample" in refused(capsys, "heads", gpt)
    assert "text: is empty" in refused(capsys, "heads", bert, "")
    assert "not written twice" in refused(capsys, "heads", gpt, "sea", "--ablate", "1")
    assert "twice: there is a source" in refused(capsys, "heads", runs["t5"], "sea", "--twice")
    assert "Encoder models write no texts of their own" in refused(capsys, "heads", bert, "--sample", "2")
    assert "Encoder models tell no next token" in refused(capsys, "heads", bert, "sea", "--twice", "--ablate", "1")
    assert "positions end at 40" in refused(capsys, "heads", bert, "a" * 21, "--twice")


@pytest.mark.slow
def test_heads_that_copy_are_named_and_missed_more_than_others_in_a_real_model(shared_models: Path, capsys: Capture) -> None:
    found = json.loads(told(capsys, "heads", shared_models / "stories15m", "--sample", 4, "--max-new-tokens", 60, "--twice",
                            "--ablate", 3, "--json"))  # fmt: skip
    named = found["named"]
    assert {"decoder.2.self.0", "decoder.0.self.2"} <= {*named["previous"]} and "decoder.4.self.2" in named["induction"]
    scores = {(head, one["kind"]): one for head, ones in found["heads"].items() for one in ones}
    for head, kind, times in (("decoder.2.self.0", "previous", 7), ("decoder.4.self.2", "induction", 2.5)):
        assert scores[head, kind]["value"] > times * scores[head, kind]["baseline"] > 0
    ablation = found["ablation"]
    assert len(ablation["heads"]) == 6 and len(ablation["random"]) == 20
    rises = [second - ablation["intact"][1] for _, second in ablation["random"]]
    assert ablation["beyond"] and ablation["without"][1] - ablation["intact"][1] > 1.5 * max(rises)


def test_reports_and_explanations_are_written_to_files(runs: dict[str, Path], capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for command, asked in (("heads", ("a sea, a sea",)), ("why", ("a sea", "--method", "rollout", "--method", "saliency"))):
        files = [tmp_path / f"{command}.{name}" for name in ("csv", "npz", "safetensors", "svg", "png")]
        out = told(capsys, command, runs["gpt"], *asked, *(x for f in files for x in (f"--{f.suffix[1:]}", f)))
        assert out.splitlines()[-5:] == [str(file) for file in files] and all(file.stat().st_size > 200 for file in files)
        json.loads(told(capsys, command, runs["gpt"], *asked, "--json", "--csv", files[0]))
        assert "cannot be written" in refused(capsys, command, runs["gpt"], *asked, "--npz", tmp_path / "no" / "a.npz")
    assert len(list(tmp_path.iterdir())) == 10


def test_maps_and_summaries_are_written_to_files(runs: dict[str, Path], capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import numpy as np

    files = [tmp_path / f"a.{name}" for name in ("csv", "npz", "safetensors", "svg", "png")]
    asked = [x for f in files for x in (f"--{f.suffix[1:]}", f)]
    assert told(capsys, "attend", runs["gpt"], "a sea", *asked).splitlines() == [str(file) for file in files]
    with np.load(tmp_path / "a.npz") as found:
        assert found["decoder.1.self"].shape == (2, 5, 5)
        assert json.loads(str(found["about"]))["maps"][0]["tile"] == [1, 1]
    assert told(capsys, "attend", runs["t5"], "a sea", "--target", "s", "--summaries", "--paths", "decoder.*", *asked)
    with np.load(tmp_path / "a.npz") as found:
        assert {name.rpartition(".")[0] for name in found.files} == {"", "decoder.0.self", "decoder.0.cross"}
        assert found["decoder.0.cross.received"].shape == (2, 6) and found["decoder.0.self.entropy"].shape == (2, 2)
        assert json.loads(str(found["about"]))["summaries"][0]["windows"] == [1, 2, 4]  # no wider than the texts
    assert "decoder.0.self,1,entropy,1,s,," in (tmp_path / "a.csv").read_text()
    assert told(capsys, "attend", runs["gpt"], "a sea " * 700, "--layers", "1", "--npz", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as found:
        tile = json.loads(str(found["about"]))["maps"][0]["tile"]
        assert found["decoder.1.self"].shape == (2, -(-4200 // tile[0]), -(-4200 // tile[1])) and tile[0] > 1
    assert "wish a file to write, such as --csv" in refused(capsys, "attend", runs["gpt"], "a", "--summaries", "--html",
                                                           tmp_path / "a.html")  # fmt: skip

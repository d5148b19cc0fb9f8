"""Files for other programs hold what was seen, in full, and are whole or not there."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs_for_tests import SPECS, decoder
from maps_for_tests import STRANGE, some_maps, three_kinds
from safetensors import safe_open

from attnlib.errors import UsageError
from attnlib.inspect import Summaries, head_report, record
from attnlib.inspect.explanations import ask, why
from attnlib.inspect.export import (
    WRITERS,
    Sheet,
    sheet_of_explanations,
    sheet_of_heads,
    sheet_of_maps,
    sheet_of_summaries,
    write_csv,
    write_npz,
    write_safetensors,
)
from attnlib.inspect.plot import attention_figure
from attnlib.inspect.plot_reports import explanations_figure, heads_figure, summaries_figure
from attnlib.inspect.reading import read
from attnlib.inspect.subject import drawn

IDS, SOURCE = [3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9]


def model_of(name: str) -> Any:
    return drawn(SPECS[name], seed=2, device=torch.device("cpu"), dtype=torch.float32)


def table(sheet: Sheet, folder: Path) -> list[dict[str, str]]:
    write_csv(sheet, folder / "a.csv")
    with open(folder / "a.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def arrays(sheet: Sheet, folder: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """What both kinds of arrays hold, which is the same."""
    write_npz(sheet, folder / "a.npz")
    write_safetensors(sheet, folder / "a.safetensors")
    with np.load(folder / "a.npz", allow_pickle=False) as found, safe_open(folder / "a.safetensors", "np") as other:
        about = json.loads(str(found["about"]))
        assert about == json.loads(other.metadata()["about"])
        held = {name: found[name] for name in found.files if name != "about"}
        assert {*held} == {*other.keys()} and all(np.array_equal(held[n], other.get_tensor(n), True) for n in held)
        return held, about


def test_maps_come_back_from_every_file(tmp_path: Path) -> None:
    maps = [*three_kinds(2, 3), *some_maps(1, 1, STRANGE)][:-1]
    sheet = sheet_of_maps(maps)
    held, about = arrays(sheet, tmp_path)
    for one, told in zip(maps, about["maps"], strict=True):
        assert np.array_equal(held[one.name], one.weights.astype("f4"))
        assert (told["query_tokens"], told["key_tokens"]) == (one.query_tokens, one.key_tokens)
    rows = table(sheet, tmp_path)
    assert len(rows) == sum(int((one.weights != 0).sum()) for one in maps)
    again = {one.name: np.zeros_like(one.weights) for one in maps}
    for row in rows:
        again[row["attention"]][int(row["head"]), int(row["query"]), int(row["key"])] = float(row["weight"])
    assert all(np.allclose(again[one.name], one.weights, rtol=1e-8, atol=0) for one in maps)


def test_tokens_of_any_letters_come_back_from_a_table(tmp_path: Path) -> None:
    (one,) = some_maps(1, 1, STRANGE)
    rows = table(sheet_of_maps([one]), tmp_path)
    whole = [t.encode("utf-8", "backslashreplace").decode() for t in one.query_tokens]  # a lone half of a pair has no bytes
    assert {row["query_token"] for row in rows} == {*whole}


def test_summaries_come_back_from_every_file(tmp_path: Path) -> None:
    model, names = model_of("pair"), [list("abcdefg"), list("ABCDEF")]
    with torch.no_grad(), record(model, weights=False, heads=[1, 3], summaries=Summaries(top=2, windows=(1, 4))) as seen:
        model(torch.tensor([SOURCE]), torch.tensor([IDS]))
    found = []
    for path in seen.summaries:
        sides = (names[path.startswith("encoder")], names["cross" in path or path.startswith("encoder")])
        found.append((seen.summary(path), *sides))
    sheet = sheet_of_summaries(found)
    held, about = arrays(sheet, tmp_path)
    assert np.array_equal(held["decoder.0.cross.entropy"], seen.summary("decoder.0.cross").entropy.numpy())
    assert "decoder.0.cross.outside" not in held and held["decoder.0.self.outside"].shape == (2, 2)
    assert about["summaries"][0]["windows"] == [1, 4]
    rows = table(sheet, tmp_path)
    one = seen.summary("decoder.0.cross")
    measured = [float(r["value"]) for r in rows if (r["attention"], r["head"], r["measure"]) == (one.path, "3", "received")]
    assert measured == pytest.approx(one.received[1].tolist(), rel=1e-8) and len(measured) == 6
    targets = [r for r in rows if (r["attention"], r["head"], r["measure"]) == (one.path, "1", "target")]
    assert [int(r["key"]) for r in targets] == one.top_keys[0].flatten().tolist()
    outside = [r for r in rows if (r["attention"], r["head"], r["measure"]) == ("decoder.0.self", "1", "outside")]
    assert [(r["place"], r["token"]) for r in outside] == [("1", ""), ("4", "")]


def test_explanations_and_head_reports_come_back_from_every_file(tmp_path: Path) -> None:
    model = model_of("decoder")
    found = [why(ask(model, read(model, IDS), "next"), name) for name in ("rollout", "saliency")]
    held, about = arrays(sheet_of_explanations(found), tmp_path)
    assert np.array_equal(held["saliency.text"], found[1].scores["text"]) and len(about["explanations"]) == 2
    rows = table(sheet_of_explanations(found), tmp_path)
    assert [float(r["score"]) for r in rows] == pytest.approx([s for e in found for s in e.scores["text"][0]], rel=1e-8)
    report = head_report(model, [read(model, IDS)])
    held, about = arrays(sheet_of_heads(report), tmp_path)
    rows = table(sheet_of_heads(report), tmp_path)
    assert len(rows) == len(report.scores)
    for row, one in zip(rows, report.scores):
        at = about["heads"].index(one.name), about["kinds"].index(one.kind)
        assert held["value"][at] == one.value == pytest.approx(float(row["value"]), rel=1e-8)
        assert (row["deviation"] == "") == (one.deviation is None) == np.isnan(held["deviation"][at])


@pytest.mark.parametrize("form", ["png", "svg"])
def test_every_figure_is_drawn_in_both_forms_and_the_same_each_time(form: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    model, pair = model_of("decoder"), model_of("pair")
    questions = [ask(model, read(model, IDS), "next"), ask(pair, read(pair, [0, 4, 5], SOURCE), "next")]
    with torch.no_grad(), record(pair, weights=False, summaries=True) as seen:
        pair(torch.tensor([SOURCE]), torch.tensor([IDS]))
    found = [seen.summary(path) for path in seen.summaries]
    draws = {
        "attention": lambda path: attention_figure(three_kinds(1, 2), path, form=form, dpi=50),
        "heads": lambda path: heads_figure(head_report(model, [read(model, IDS)]), path, form=form, dpi=50),
        "why": lambda path: explanations_figure([why(questions[0], "saliency")], path, form=form, dpi=50),
        "why of two sides": lambda path: explanations_figure([why(questions[1], "occlusion")], path, form=form, dpi=50),
        "summaries": lambda path: summaries_figure(found, path, form=form, dpi=50),
    }
    for name, draw in draws.items():
        draw(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        assert len(data) > 1000, name
        assert data.startswith(b"\x89PNG" if form == "png" else b"<?xml") and (form == "png" or b"</svg>" in data)
    draws["why"](tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "why").read_bytes()


def test_nothing_and_nowhere_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no maps"):
        sheet_of_maps([])
    model = drawn(decoder(), seed=2, device=torch.device("cpu"), dtype=torch.float32)
    sheet = sheet_of_heads(head_report(model, [read(model, IDS)]))
    for name, write in WRITERS.items():
        with pytest.raises(UsageError, match="cannot be written: no such file or directory"):
            write(sheet, tmp_path / "missing" / f"a.{name}")
        with pytest.raises(UsageError, match="is a folder"):
            write(sheet, tmp_path)
    assert list(tmp_path.iterdir()) == []

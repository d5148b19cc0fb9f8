"""attnlib lens, patch and prune, as a user calls them, on a run of each stack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_commands import Capture, refused, told

from attnlib import load
from attnlib.pretrained.sentence import sentence_spec_of
from attnlib.train import checkpoint_of

ASKED = {"gpt": ("a sea",), "bert": ("a sea", "--target", "mask:3=e"), "t5": ("sea", "--written", "se")}


@pytest.mark.parametrize("name", ASKED)
def test_the_lens_and_the_attribution_by_command(name: str, runs: dict[str, Path], capsys: Capture) -> None:
    tree = json.loads(told(capsys, "lens", runs[name], *ASKED[name], "--top-k", "2", "--json"))
    sites = [one["site"] for one in tree["sites"]]
    stacks = {"gpt": {"decoder"}, "bert": {"encoder"}, "t5": {"encoder", "decoder"}}[name]
    assert {site.partition(".")[0] for site in sites} == stacks
    last = tree["sites"][-1]["targets"]
    assert all(len(one["top"]) == 2 and one["divergence"] == pytest.approx(0, abs=1e-6) for one in last)
    shown = told(capsys, "lens", runs[name], *ASKED[name], "--site", "*.0.attention.out")
    assert shown.count("0.attention.out") == sum(site.endswith(".0.out") for site in sites) * len(tree["targets"])
    source = ("--source",) if name == "t5" else ()
    whole = json.loads(told(capsys, "lens", runs[name], *ASKED[name], "--attribution", "--json", *source))
    for one in whole["targets"]:
        assert sum(one["parts"].values()) == pytest.approx(one["logit"], abs=1e-5)
    site = "encoder.0.out" if name == "t5" else "*.0.attention.in"
    shown = told(capsys, "lens", runs[name], *ASKED[name], "--attribution", "--top", "2", "--site", site)
    assert " at " in shown and "rounding" in shown


def test_a_lens_that_cannot_be_is_one_line(runs: dict[str, Path], capsys: Capture) -> None:
    gpt, bert = runs["gpt"], runs["bert"]
    assert "'decoder.9.out' is none of the model's" in refused(capsys, "lens", gpt, "a", "--site", "decoder.9.out")
    assert "is not on the residual stream" in refused(capsys, "lens", gpt, "a", "--site", "*.heads")
    assert "can be asked for next, written" in refused(capsys, "lens", gpt, "a", "--target", "class")
    assert "text: is empty" in refused(capsys, "lens", gpt, "")
    assert "positions end at 40" in refused(capsys, "lens", bert, "a" * 41, "--target", "mask:0")
    assert "--source: is given without --attribution" in refused(capsys, "lens", gpt, "a", "--source")
    assert "only an encoder-decoder" in refused(capsys, "lens", gpt, "a", "--attribution", "--source")
    twice = ("--site", "decoder.0.in", "--site", "decoder.1.in")
    assert "--site: is given 2 times" in refused(capsys, "lens", gpt, "a", "--attribution", *twice)


PATCHED = {
    "gpt": ("--clean", "a sea", "--corrupt", "a tea", "--answer", "s/t"),
    "bert": ("--clean", "a sea", "--corrupt", "a tea", "--target", "mask:3", "--answer", "e"),
    "t5": ("--clean", "sea", "--corrupt", "tea", "--written", "s"),
}


@pytest.mark.parametrize("name", PATCHED)
def test_patches_by_command(name: str, runs: dict[str, Path], capsys: Capture, tmp_path: Path) -> None:
    tree = json.loads(told(capsys, "patch", runs[name], *PATCHED[name], "--json"))
    side = tree["sides"][0]
    differing = [a != b for a, b in zip(side["clean"], side["corrupt"], strict=True)]
    first = tree["sites"][0]
    assert sum(differing) == 1 and first["site"].endswith(".embedding")
    assert sum(abs(value - tree["corrupt"]) > 1e-6 for value in first["values"]) == 1
    assert first["values"][differing.index(True)] == pytest.approx(tree["clean"], abs=1e-6)
    shown = told(capsys, "patch", runs[name], *PATCHED[name], "--csv", tmp_path / "p.csv")
    assert "t < s" in shown and "restores" in shown and shown.splitlines()[-1] == str(tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().count("\n") == 1 + sum(len(one["values"]) for one in tree["sites"])
    heads = json.loads(told(capsys, "patch", runs[name], *PATCHED[name], "--heads", "--gradient", "--json"))
    assert heads["estimated"] and all(".heads." in one["site"] for one in heads["sites"])
    assert "the 2 greatest" in told(capsys, "patch", runs[name], *PATCHED[name], "--site", "*", "--top", "2")


def test_a_patch_that_cannot_be_is_one_line(runs: dict[str, Path], capsys: Capture, tmp_path: Path) -> None:
    gpt, bert, t5 = runs["gpt"], runs["bert"], runs["t5"]
    both = ("--clean", "a sea", "--corrupt", "a tea")
    assert "corrupt text: has 4 tokens, the clean one 5" in refused(capsys, "patch", gpt, "--clean", "a sea",
                                                                    "--corrupt", "sea!")  # fmt: skip
    assert "site: 'decoder.7.out' is none" in refused(capsys, "patch", gpt, *both, "--site", "decoder.7.out")
    assert "wish one token" in refused(capsys, "patch", gpt, *both, "--answer", "se")
    assert "can be asked for next, written" in refused(capsys, "patch", gpt, *both, "--target", "class")
    assert "text: is empty" in refused(capsys, "patch", gpt, "--clean", "", "--corrupt", "")
    assert "positions end at 40" in refused(capsys, "patch", bert, "--clean", "a" * 41, "--corrupt", "b" * 41,
                                            "--target", "mask:0")  # fmt: skip
    assert "patching moves one" in refused(capsys, "patch", t5, *both, "--target", "written", "--written", "se")
    assert "only one text" in refused(capsys, "patch", gpt, "--clean", "-", "--corrupt", "-")
    assert "has the tokens of the clean" in refused(capsys, "patch", gpt, "--clean", "a sea", "--corrupt", "a sea")
    nowhere = tmp_path / "no" / "p.csv"
    assert "cannot be written" in refused(capsys, "patch", gpt, *both, "--csv", nowhere) and not nowhere.exists()
    moved = ("--clean", "the sea", "--corrupt", "sea the", "--target", "mask:sea")
    assert "another column" in refused(capsys, "patch", bert, *moved)


@pytest.mark.parametrize("name", ASKED)
def test_heads_and_units_are_ranked_pruned_saved_and_loaded_by_command(
    name: str, runs: dict[str, Path], capsys: Capture, tmp_path: Path
) -> None:
    text = ("--text", "a sea", "--max-new-tokens", "3")
    tree = json.loads(told(capsys, "prune", runs[name], *text, "--json"))
    assert len(tree["heads"]) == (6 if name == "t5" else 4) and all("ablation" in one for one in tree["heads"])
    assert "the least needed first" in told(capsys, "prune", runs[name], *text)
    head = "encoder.0.self.1" if name == "t5" else "1.1"
    made = json.loads(told(capsys, "prune", runs[name], *text, "--heads", head, "--units", "0.25", "--out",
                           tmp_path / "less", "--json"))  # fmt: skip
    assert len(made["heads"]) == 1 and set(map(len, made["units"].values())) == {12}
    assert made["parameters"][1] < made["parameters"][0] and made["loss"][0] == pytest.approx(tree["loss"], abs=1e-5)
    shown = told(capsys, "describe", tmp_path / "less")
    assert f"{made['parameters'][1]:,} parameters" in shown
    again = json.loads(told(capsys, "prune", tmp_path / "less", *text, "--json"))
    assert again["loss"] == pytest.approx(made["loss"][1], abs=1e-5) and len(again["heads"]) == len(tree["heads"]) - 1
    least = json.loads(told(capsys, "prune", runs[name], *text, "--least-heads", "2", "--by", "ablation", "--out",
                            tmp_path / "least", "--json"))  # fmt: skip
    assert len(least["heads"]) == 2 and not least["units"]
    assert "units       24 less" in told(capsys, "prune", runs[name], "--units", "0.25", "--out", tmp_path / "other")


def test_a_pruned_model_is_trained_on_by_command(runs: dict[str, Path], capsys: Capture, tmp_path: Path) -> None:
    less = tmp_path / "less"
    told(capsys, "prune", runs["gpt"], "--heads", "0.1", "--units", "0.5", "--out", less)
    (tmp_path / "more.yaml").write_text(told(capsys, "describe", less, "--yaml"))
    told(capsys, "train", tmp_path / "more.yaml", "--folder", tmp_path / "run", f"train.init={{from: {less}}}",
         "train.steps=2", "train.plot=false", "data={kind: text, path: moby_dick.txt, held_out: 0.001}",
         "tokenizer=bytes", "train.batch_size=2", "train.length=16", "runtime.threads=1")  # fmt: skip
    assert told(capsys, "describe", tmp_path / "run") == told(capsys, "describe", less)
    weights = [load(checkpoint_of(folder)).stack.blocks[1].mlp.body.up.weight for folder in (tmp_path / "run", less)]
    assert weights[0].shape == weights[1].shape == (24, 24) and not torch.equal(*weights)


def test_what_cannot_be_pruned_is_one_line(runs: dict[str, Path], capsys: Capture, tmp_path: Path) -> None:
    gpt, t5, out = runs["gpt"], runs["t5"], tmp_path / "out"
    assert "--out: is missing" in refused(capsys, "prune", gpt, "--heads", "0.1")
    assert "--out: is given, wish --heads or --units" in refused(capsys, "prune", gpt, "--out", out)
    assert "--text: is missing" in refused(capsys, "prune", gpt)
    assert "--text: is missing" in refused(capsys, "prune", gpt, "--least-heads", "1", "--out", out)
    assert "is given beside --heads" in refused(capsys, "prune", gpt, "--heads", "0.1", "--least-heads", "1", "--out", out)
    assert "'decoder.7.self.0' is out of range" in refused(capsys, "prune", gpt, "--heads", "7.0", "--out", out)
    assert "'decoder.0.self.2' is out of range" in refused(capsys, "prune", gpt, "--heads", "0.2", "--out", out)
    assert "'1' is no head" in refused(capsys, "prune", gpt, "--heads", "1", "--out", out)
    assert "would have no head left" in refused(capsys, "prune", gpt, "--heads", "0.0,0.1", "--out", out)
    assert "wish encoder.0.self.1" in refused(capsys, "prune", t5, "--heads", "0.1", "--out", out)
    assert "text: is empty" in refused(capsys, "prune", gpt, "--text", "")
    assert "has one token" in refused(capsys, "prune", gpt, "--text", "a")
    assert "positions end at 40" in refused(capsys, "prune", runs["bert"], "--text", "a" * 41)
    assert not out.exists()


@pytest.mark.slow
def test_an_embedding_model_keeps_its_pooling(shared_models: Path, capsys: Capture, tmp_path: Path) -> None:
    minilm, less = shared_models / "minilm", tmp_path / "less"
    told(capsys, "prune", minilm, "--heads", "0.1,5.2", "--units", "0.5", "--out", less)
    assert sentence_spec_of(less) == sentence_spec_of(minilm) is not None
    (tmp_path / "lines.txt").write_text("a cat\n")
    assert "1 vectors of 384" in told(capsys, "embed", less, tmp_path / "lines.txt", "--out", tmp_path / "v.npy")
    assert "target: is not what the head 'pooler'" in refused(capsys, "lens", minilm, "a cat")
    assert "has no head that answers" in refused(capsys, "prune", minilm, "--text", "a cat")


def test_more_heads_than_can_go_are_refused(runs: dict[str, Path], capsys: Capture, tmp_path: Path) -> None:
    asked = ("prune", runs["gpt"], "--text", "a sea", "--least-heads", "9", "--out", tmp_path / "less")
    assert "9 cannot go, wish 2, each attention keeps some" in refused(capsys, *asked)
    assert not (tmp_path / "less").exists()


@pytest.mark.slow
def test_what_carries_a_name_on_a_real_model(shared_models: Path, capsys: Capture, tmp_path: Path) -> None:
    stories, park = shared_models / "stories15m", "Tom and Ben went to the park."
    texts = ("--clean", f"{park} Tom gave a ball to", "--corrupt", f"{park} Ben gave a ball to", "--answer", "Ben/Tom")
    tree = json.loads(told(capsys, "patch", stories, *texts, "--json"))
    assert tree["clean"] > 1 and tree["corrupt"] < -1
    name, end = 9, len(tree["sides"][0]["clean"]) - 1
    way = tree["clean"] - tree["corrupt"]
    at = {one["site"]: [(value - tree["corrupt"]) / way for value in one["values"]] for one in tree["sites"]}
    assert at["decoder.0.out"][name] > 0.9 and at["decoder.5.out"][end] == pytest.approx(1, abs=1e-4)
    moved = json.loads(told(capsys, "patch", stories, *texts, "--heads", "--json"))
    heads = {one["site"]: one["values"][end] for one in moved["sites"]}
    mover = max(heads, key=heads.__getitem__)  # the head that takes the name to the end
    ask = (stories, f"{park} Tom gave a ball to", "--target", "next=Ben/Tom")
    seen = json.loads(told(capsys, "lens", *ask, "--top-k", "1", "--json"))
    assert seen["sites"][-1]["targets"][0]["rank"] < seen["sites"][0]["targets"][0]["rank"]
    (shares,) = json.loads(told(capsys, "lens", *ask, "--attribution", "--json"))["targets"]
    assert sum(shares["parts"].values()) == pytest.approx(shares["logit"], abs=1e-5)
    layer, head = mover.split(".")[1], mover.split(".")[-1]
    less = tmp_path / "less"
    made = json.loads(told(capsys, "prune", stories, "--heads", f"{layer}.{head}", "--out", less, "--json"))
    assert made["parameters"][0] - made["parameters"][1] == 4 * 48 * 288
    (after,) = json.loads(told(capsys, "lens", less, *ask[1:], "--attribution", "--json"))["targets"]
    assert after["logit"] < shares["logit"] - 1  # without it the name is lost

"""attnlib why, as a user calls it, on a run of each stack and on a real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_commands import Capture, refused, told

from attnlib.inspect.explanations import Method

ALL = sorted(Method.known())


def explained(capsys: Capture, *argv: object) -> list[dict]:
    return json.loads(told(capsys, "why", *argv, "--json"))


def test_every_method_by_command_on_each_stack(runs: dict[str, Path], capsys: Capture) -> None:
    for name, asked, target in (("gpt", ("a sea",), "next"), ("bert", ("a sea", "--target", "mask:3=e"), "mask e"),
                                ("t5", ("sea", "--written", "se"), "s")):  # fmt: skip
        found = explained(capsys, runs[name], *asked, "--method", "all")
        assert sorted(one["method"] for one in found) == ALL, name
        for one in found:
            assert one["targets"][0]["name"].startswith(target)
            assert [side["name"] for side in one["sides"]] == (["source", "text"] if name == "t5" else ["text"])
            side = one["sides"][0]
            assert len(side["word_scores"][0]) == len(side["words"]) and side["words"][-1]["text"] == "sea"


def test_tables_name_words_and_every_written_token(runs: dict[str, Path], capsys: Capture) -> None:
    out = told(capsys, "why", runs["gpt"], "a sea", "--method", "rollout")
    assert "rollout" in out and "sea" in out and "+" in out and "random" not in out
    out = told(capsys, "why", runs["gpt"], "a sea", "--target", "written", "--max-new-tokens", "3", "--method", "saliency")
    assert len([line for line in out.splitlines() if "  p 0." in line]) == 3
    assert "completeness error" in told(capsys, "why", runs["t5"], "sea", "--written", "a", "--target", "next")


def test_a_masked_word_begins_with_its_first_letter(runs: dict[str, Path], capsys: Capture) -> None:
    for place in ("sea", "2"):  # a byte is a token, and the space before is the word's too
        assert explained(capsys, runs["bert"], "a sea", "--target", f"mask:{place}=s")[0]["targets"][0]["column"] == 2


def test_a_sign_can_be_an_answer(runs: dict[str, Path], capsys: Capture) -> None:
    for sign in ":=":
        asked = ("why", runs["gpt"], "a", "--target", f"next={sign}", "--method", "saliency")
        assert f"next {sign}: logit" in told(capsys, *asked)


def test_all_and_an_unknown_method_name_the_unknown_one(capsys: Capture) -> None:
    line = refused(capsys, "why", "nowhere", "a", "--method", "all", "--method", "rolout")
    assert "method rolout" in line and "did you mean 'rollout'" in line


def test_what_cannot_be_explained_is_one_line(runs: dict[str, Path], capsys: Capture) -> None:
    gpt, bert = runs["gpt"], runs["bert"]
    assert "did you mean 'rollout'" in refused(capsys, "why", gpt, "a", "--method", "rolout")
    assert "can be asked for next, written" in refused(capsys, "why", gpt, "a", "--target", "class")
    assert "text: is empty" in refused(capsys, "why", gpt, "")
    for target in ("next=", "next:", "next=a/", "mask:=a", ""):
        assert refused(capsys, "why", gpt, "a", "--target", target).startswith(f"target {target}".rstrip() + ": ")
    assert "'a:b' is 3 tokens" in refused(capsys, "why", gpt, "a", "--target", "next=a:b")
    assert "positions end at 40" in refused(capsys, "why", bert, "a" * 41, "--target", "mask:0")
    assert "an encoder writes nothing" in refused(capsys, "why", bert, "a", "--target", "mask:0", "--written", "b")
    assert "is no folder" in refused(capsys, "why", "nowhere", "a")
    assert "flow is found for at most 128" in refused(capsys, "why", gpt, "a" * 200, "--method", "flow")


@pytest.mark.slow
def test_every_method_by_command_on_a_real_model(shared_models: Path, capsys: Capture) -> None:
    text = "Lily saw a big red balloon in the sky. She wanted to catch the"
    found = {one["method"]: one for one in explained(capsys, shared_models / "stories15m", text, "--method", "all")}
    assert sorted(found) == ALL
    pieces = explained(capsys, shared_models / "stories15m", "Lily saw a big red", "--target", "written", "--written",
                       "balloon", "--method", "attn_lrp", "--method", "occlusion")  # fmt: skip
    for one in pieces:
        side = one["sides"][0]
        assert [target["name"] for target in one["targets"]] == ["▁bal", "lo", "on"]
        for scores in side["word_scores"][1:]:  # what completes a word comes from the word's beginning
            assert side["words"][max(range(len(scores)), key=scores.__getitem__)]["text"] == "balloon"

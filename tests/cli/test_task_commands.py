"""fill, embed, classify, answer and tag, as a user calls them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_commands import refused, told

import attnlib
from attnlib import tasks
from attnlib.cli import main
from attnlib.cli.common import model_folder
from attnlib.text.byte_level import ByteTokenizer

Capture = pytest.CaptureFixture[str]
BLOCK = {"attention": {"num_heads": 2}, "mlp": {"kind": "dense", "d_ff": 20}, "norm": "layer"}
TREE = {
    "kind": "encoder", "d_model": 12, "vocab_size": 293, "stack": {"num_layers": 1, "block": BLOCK},
    "embedding": {"position": {"kind": "learned", "max_length": 40}},
}  # fmt: skip


def saved(folder: Path, head: Any) -> Path:
    model = attnlib.build({**TREE, "head": head})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    attnlib.save(model, folder, tokenizer=ByteTokenizer())
    return folder


def test_fill_gives_tokens_with_their_probabilities(runs: dict[str, Path], capsys: Capture) -> None:
    lines = told(capsys, "fill", runs["bert"], "the s<mask>a", "--top-k", 3).splitlines()
    assert len(lines) == 3 and all(re.match(r"0\.\d{4}  \S+ +the s.*a$", line) for line in lines)
    chances = [float(line.split()[0]) for line in lines]
    assert chances == sorted(chances, reverse=True)
    assert told(capsys, "fill", runs["bert"], "<mask> <mask>").count("blank") == 2
    assert "holds no blank" in refused(capsys, "fill", runs["bert"], "the sea")


@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
def test_embed_writes_a_vector_a_line_in_their_order(
    runs: dict[str, Path], tmp_path: Path, capsys: Capture, ending: str
) -> None:
    lines = ["the whale rose and the sea ran high and then it fell", "sea", "of ships", "of ships"]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    out = tmp_path / f"vectors{ending}"
    assert told(capsys, "embed", runs["bert"], tmp_path / "lines.txt", "--out", out) == f"{out}: 4 vectors of 24\n"
    found = torch.from_numpy(np.load(out)) if ending == ".npy" else load_file(out)["embeddings"]
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(4))
    wished = tasks.embed(tasks.load(model_folder(str(runs["bert"]))), lines).vectors
    torch.testing.assert_close(found, wished)
    torch.testing.assert_close(found[2], found[3])


def test_embed_tells_what_it_cut_and_how_far_half_precision_is_off(
    runs: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "lines.txt").write_text("a\n\n" + "b" * 60)
    argv = ["embed", runs["bert"], tmp_path / "lines.txt", "--out", tmp_path / "v.npy"]
    assert main([str(word) for word in [*argv, "--dtype", "bfloat16", "--no-normalise", "--pooling", "first"]]) == 0
    err = capsys.readouterr().err
    assert "1 lines cut to the model's length: 3\n" in err and "without a token, zeros in the file: 2\n" in err
    off = float(re.search(r"bfloat16: at most (\S+) from float32 in any number, on 3 of the lines", err)[1])  # type: ignore[index]
    assert 0 < off < 0.2
    assert np.load(tmp_path / "v.npy").dtype == np.float32


def test_embed_refuses_before_it_reads_the_model(runs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "lines.txt").write_text("a\n")
    argv = ["embed", runs["bert"], tmp_path / "lines.txt", "--out"]
    assert "--out: ends in .txt, must end in .npy or .safetensors" in refused(capsys, *argv, tmp_path / "v.txt")
    assert "cannot be written" in refused(capsys, *argv, tmp_path / "none" / "v.npy")
    assert "lines.none" in refused(capsys, "embed", runs["bert"], tmp_path / "lines.none", "--out", tmp_path / "v.npy")
    assert not (tmp_path / "v.npy").exists()


def test_classify_names_labels(tmp_path: Path, capsys: Capture) -> None:
    folder = saved(tmp_path / "m", {"kind": "classify", "num_labels": 2, "labels": ["bad", "good"]})
    one = told(capsys, "classify", folder, "the sea")
    assert re.fullmatch(r"0\.\d{4}  (bad|good)\n0\.\d{4}  (bad|good)\n", one)
    (tmp_path / "lines.txt").write_text("a storm\na calm\n")
    many = told(capsys, "classify", folder, "the sea", "--file", tmp_path / "lines.txt")
    assert many.startswith("the sea\n" + one) and many.count("good") == 3
    assert told(capsys, "classify", folder, "the sea", "--pair", "calm") != one
    assert "neither TEXT nor --file" in refused(capsys, "classify", folder)


def test_answer_tells_characters_and_that_there_may_be_none(tmp_path: Path, capsys: Capture) -> None:
    folder = saved(tmp_path / "m", "span")
    lines = told(capsys, "answer", folder, "--question", "who?", "--context", "the whale", "--top-k", 2).splitlines()
    assert len(lines) == 3 and sum("no answer in the text" in line for line in lines) == 1
    best = next(re.fullmatch(r"(\S+)  (\d+)-(\d+) +(.*)", line) for line in lines if "no answer" not in line)
    assert best is not None and "the whale"[int(best[2]) : int(best[3])] == best[4]
    assert "neither --context nor --file" in refused(capsys, "answer", folder, "--question", "who?")


def test_tag_tells_labels_and_characters(tmp_path: Path, capsys: Capture) -> None:
    folder = saved(tmp_path / "m", {"kind": "tag", "num_labels": 2, "labels": ["O", "NAME"]})
    words = told(capsys, "tag", folder, "Ahab of Nantucket", "--outside", "--aggregation", "token").splitlines()
    assert len(words) == len("Ahab of Nantucket")
    for line in told(capsys, "tag", folder, "Ahab of Nantucket", "--outside").splitlines():
        found = re.fullmatch(r"0\.\d{4}|1\.0000", line.split()[0])
        first, last = line.split()[2].split("-")
        assert found and line.endswith("Ahab of Nantucket"[int(first) : int(last)])
    assert "needs head: tag" in refused(capsys, "tag", saved(tmp_path / "n", "span"), "a")


def test_translate_and_summarize_write_a_line_a_text(runs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "lines.txt").write_text("the girl sings\nthe boy runs\n")
    for command in ("translate", "summarize"):
        argv = [command, runs["t5"], "--file", tmp_path / "lines.txt", "--max-new-tokens", 6]
        assert told(capsys, *argv).count("\n") == 2
        assert told(capsys, *argv, "--num-beams", 2, "--prefix", "ask: ").count("\n") == 2
        assert "neither TEXT nor --file" in refused(capsys, command, runs["t5"])
        assert "writes no text from a text" in refused(capsys, command, runs["bert"], "a")
        assert refused(capsys, *argv, "--top-k", 3).startswith("--top-k: is 3 without sampling")
    assert "this model names no languages" in refused(capsys, "translate", runs["t5"], "a", "--to", "ro")

"""load, export and parity as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import attnlib
from attnlib.cli import main
from attnlib.errors import UsageError
from attnlib.generate import score
from attnlib.pretrained import export

Capture = pytest.CaptureFixture[str]
TINY = {
    "kind": "decoder", "d_model": 12, "vocab_size": 31, "head": {"kind": "lm", "tied": False},
    "stack": {"num_layers": 2, "final_norm": "rms",
              "block": {"attention": {"num_heads": 2, "mask": "causal", "rotary": {}}, "mlp": {"kind": "gated", "d_ff": 9}}},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export(attnlib.build(TINY), tmp_path / "theirs", "llama", config={"eos_token_id": 7})
    return tmp_path / "theirs"


def called(capsys: Capture, *argv: object) -> tuple[int, str, str]:
    capsys.readouterr()
    return main([str(word) for word in argv]), *capsys.readouterr()


def test_load_check_prints_the_report_and_builds_nothing(folder: Path, capsys: Capture) -> None:
    code, out, _ = called(capsys, "load", "--check", folder, "--dtype", "bfloat16")
    assert code == 0 and "llama: 21 tensors read, 21 made" in out and "float32 -> bfloat16" in out
    assert "every file as in manifest.json" in out and "loaded" not in out
    assert "loaded: 2," in called(capsys, "load", folder)[1]


def test_load_check_finds_a_flipped_byte_and_a_foreign_tensor(folder: Path, capsys: Capture) -> None:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 4
    weights.write_bytes(bytes(data))
    code, out, err = called(capsys, "load", "--check", folder)
    assert (code, out) == (2, "") and "sha256" in err and err.count("\n") == 1
    (folder / "manifest.json").unlink()
    weights.write_bytes(bytes(data).replace(b"mlp.up_proj", b"mlp.ap_proj"))
    code, out, err = called(capsys, "load", "--check", folder)
    assert (code, out) == (2, "") and "mlp.ap_proj.weight (x2)" in err


@pytest.mark.parametrize("kind", ["llama", "ours"])
def test_weights_that_are_no_numbers_are_told(kind: str, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    model = attnlib.load(folder)
    with torch.no_grad():
        model.stack.blocks[1].mlp.body.down.weight[0, :2] = torch.tensor([torch.nan, torch.inf])
    bad = tmp_path / "bad"
    export(model, bad, "llama") if kind == "llama" else attnlib.save(model, bad)
    code, out, _ = called(capsys, "load", "--check", bad)
    (line,) = [line for line in out.splitlines() if "not finite" in line]
    assert code == 1 and "1.mlp" in line and line.endswith("1 NaN, 1 infinite of 108")
    code, out, err = called(capsys, "export", bad, tmp_path / "out", "--family", "llama")
    assert code == 0 and err == "warning: not finite: stack.blocks.1.mlp.body.down.weight: 1 NaN, 1 infinite of 108\n"
    assert "not finite" not in called(capsys, "load", "--check", folder)[1]
    with pytest.raises(UsageError, match=r"ids: logits are not numbers, must be finite"):
        score(model, [[1, 2, 3]])


def test_export_writes_what_load_reads(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (folder / "tokenizer.json").write_text("{}")
    code, out, _ = called(capsys, "export", folder, tmp_path / "out", "--dtype", "bfloat16", "--shard-bytes", "2000")
    assert (code, out) == (0, f"{tmp_path / 'out'}\n")
    tree = json.loads((tmp_path / "out" / "config.json").read_text())
    assert tree["eos_token_id"] == 7 and tree["dtype"] == "bfloat16"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"tokenizer.json", "manifest.json", "model.safetensors.index.json"} <= names
    assert called(capsys, "load", "--check", tmp_path / "out")[0] == 0
    code, _, err = called(capsys, "export", folder, tmp_path / "out2", "--family", "lama")
    assert code == 2 and "did you mean 'llama'" in err and not (tmp_path / "out2").exists()


def test_parity_prints_a_row_a_sample_and_its_exit_code_tells(capsys: Capture) -> None:
    pytest.importorskip("transformers")
    code, out, _ = called(capsys, "parity", "--family", "llama", "--sample", "headless")
    assert code == 0 and "headless" in out and "1 samples, 0 failed" in out
    code, out, _ = called(capsys, "parity", "--family", "llama", "--sample", "headless", "--json")
    assert code == 0 and json.loads(out)["ok"] and json.loads(out)["read"] == 29
    assert called(capsys, "parity", "--family", "llama", "--sample", "no such")[0] == 1
    code, _, err = called(capsys, "parity", "--family", "lama")
    assert code == 2 and "did you mean 'llama'" in err

"""What a public config says beside the architecture is handed on, through our folders and back."""

import json

import pytest

import attnlib
from attnlib.errors import CheckpointError, UsageError
from attnlib.pretrained import companions, export, load, save
from attnlib.pretrained.origin import ORIGIN

TINY = {
    "kind": "decoder", "d_model": 12, "vocab_size": 31,
    "stack": {"num_layers": 2, "final_norm": "rms",
              "block": {"attention": {"num_heads": 2, "mask": "causal", "rotary": {}}, "mlp": {"kind": "gated", "d_ff": 9}}},
}  # fmt: skip
BESIDE = {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0, "max_position_embeddings": 77}


@pytest.fixture
def folder(tmp_path):
    export(attnlib.build(TINY), tmp_path / "theirs", "llama", config=BESIDE)
    return tmp_path / "theirs"


def test_it_comes_back_through_our_own_folder(tmp_path, folder):
    save(load(folder), tmp_path / "ours")
    export(load(tmp_path / "ours"), tmp_path / "back")
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "back"))
    assert before == after and before.items() >= BESIDE.items()


def test_a_model_of_no_origin_needs_a_family(tmp_path):
    with pytest.raises(UsageError, match="family: is not named"):
        export(attnlib.build(TINY), tmp_path / "x")


def test_an_origin_that_was_tampered_with_is_refused(tmp_path, folder):
    save(load(folder), tmp_path / "ours")
    (tmp_path / "ours" / ORIGIN).write_text("[]")
    with pytest.raises(CheckpointError, match=ORIGIN):
        load(tmp_path / "ours")


def test_tokenizer_and_generation_files_go_along(tmp_path, folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    (folder / "tokenizer.json").write_text("{}")
    export(load(folder), tmp_path / "back", extra_files=companions(folder))
    assert (tmp_path / "back" / "generation_config.json").read_text() == '{"eos_token_id": 2}'
    assert {"tokenizer.json", "manifest.json"} <= {path.name for path in (tmp_path / "back").iterdir()}

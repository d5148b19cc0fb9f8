"""A head is fresh where that is said, and only there; everything else of the file is read as strictly as ever."""

import pytest
import torch

import attnlib
from attnlib.errors import CheckpointError
from attnlib.pretrained import check, load, new, save
from attnlib.pretrained.export import export
from attnlib.pretrained.fresh import LEFT_OUT

CLASSIFY = {"kind": "classify", "num_labels": 3, "pooling": "last", "hidden": False}
TINY = {
    "kind": "decoder", "d_model": 12, "vocab_size": 31, "head": {"kind": "lm", "tied": False},
    "stack": {"num_layers": 2, "final_norm": "rms",
              "block": {"attention": {"num_heads": 2, "mask": "causal", "rotary": {}}, "mlp": {"kind": "gated", "d_ff": 9}}},
}  # fmt: skip


@pytest.fixture(params=["ours", "theirs"])
def folder(tmp_path, request):
    model = attnlib.build(TINY)
    if request.param == "ours":
        save(model, tmp_path / "x")
    else:
        export(model, tmp_path / "x", "llama")
    return tmp_path / "x"


def test_a_new_head_stands_on_the_weights_of_the_file(folder):
    ids = torch.randint(0, 31, (2, 5))
    ours, before = load(folder, head=new(CLASSIFY)), load(folder)
    with torch.no_grad():
        out = ours(ids)
        assert out.logits.shape == (2, 3) and torch.equal(out.last, before(ids).last)
    assert ours.spec.head.kind == "classify" and ours.head.project.weight.std() > 0
    assert all(p.requires_grad and not p.is_meta for p in ours.parameters())


def test_what_is_left_out_and_what_is_fresh_is_reported(folder):
    report = check(folder, head=new(CLASSIFY))
    assert list(report.ignored.values()) == [LEFT_OUT] and report.fresh == ("head.project.weight", "head.project.bias")
    assert "fresh: head.project.weight" in str(report) and "the head is new" in str(report)
    assert check(folder).fresh == () and check(folder).made == report.made + 1


def test_a_new_head_has_the_dtype_of_the_model(folder):
    assert load(folder, head=new(CLASSIFY), dtype=torch.bfloat16).head.project.weight.dtype == torch.bfloat16


def test_equal_seeds_give_equal_heads(folder):
    heads = []
    for _ in range(2):
        torch.manual_seed(4)
        heads.append(load(folder, head=new(CLASSIFY)).head.project.weight)
    assert torch.equal(*heads)


def test_no_head_and_one_of_the_same_kind_can_be_asked_for(folder):
    assert load(folder, head=new("none")).head is None
    again = load(folder, head=new({"kind": "lm", "tied": False}))
    assert not torch.equal(again.head.vocabulary.weight, load(folder).head.vocabulary.weight)


def test_a_head_that_is_none_is_refused_by_its_words():
    with pytest.raises(ValueError, match=r"head\.kind.*'clasify'.*classify"):
        new({"kind": "clasify", "num_labels": 2})


def test_a_missing_body_is_refused_with_a_new_head_too(folder):
    from attnlib.pretrained.source import InMemory
    from attnlib.pretrained.tensors import SINGLE, open_tensors, write_tensors

    source = open_tensors(folder)
    tensors = {name: source.read(name).clone() for name in source.facts if "norm" not in name}
    write_tensors(folder / SINGLE, InMemory(tensors).facts, tensors.items())
    with pytest.raises(CheckpointError, match="no tensor for"):
        load(folder, head=new(CLASSIFY))


def test_a_file_without_a_head_of_its_own_takes_a_new_one(folder):
    from attnlib.pretrained.source import InMemory
    from attnlib.pretrained.tensors import SINGLE, open_tensors, write_tensors

    source = open_tensors(folder)
    heads = ("head.", "lm_head.")
    tensors = {name: source.read(name).clone() for name in source.facts if not name.startswith(heads)}
    assert len(tensors) == len(source.facts) - 1
    write_tensors(folder / SINGLE, InMemory(tensors).facts, tensors.items())
    (folder / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="no tensor for"):
        load(folder)
    assert check(folder, head=new(CLASSIFY)).fresh == ("head.project.weight", "head.project.bias")
    assert load(folder, head=new(CLASSIFY))(torch.randint(0, 31, (2, 5))).logits.shape == (2, 3)

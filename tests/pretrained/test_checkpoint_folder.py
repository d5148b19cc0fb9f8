"""Our folders: saved whole, loaded strictly, nothing half-loaded."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from attnlib.config import load_tree
from attnlib.errors import AttnlibError, CheckpointError
from attnlib.models.decoder import DecoderSpec
from attnlib.pretrained import check, load, read_spec, restore, save, verify
from attnlib.pretrained.source import InMemory
from attnlib.pretrained.tensors import BIN, SINGLE, SafeTensors, open_tensors, write_tensors
from attnlib.spec import read

torch.set_num_threads(1)
TREE = {
    "kind": "decoder", "d_model": 12, "vocab_size": 23,
    "stack": {
        "num_layers": 2, "final_norm": "rms",
        "block": {
            "attention": {"kind": "softmax", "num_heads": 3, "num_kv_heads": 1, "mask": "causal", "rotary": {"base": 100.0}},
            "mlp": {"kind": "gated", "d_ff": 20},
        },
    },
}  # fmt: skip


def model(**changes):
    torch.manual_seed(0)
    return read(DecoderSpec, {**TREE, **changes}).build().eval()


def untied():
    return model(head={"kind": "lm", "tied": False})


def logits(of):
    with torch.no_grad():
        return of(torch.tensor([[1, 2, 3, 22]])).logits


def tensors(folder):
    source = SafeTensors(folder, [SINGLE])
    return {name: source.read(name).clone() for name in source.facts}


def rewrite(folder, changed):
    write_tensors(folder / SINGLE, InMemory(changed).facts, changed.items())


@pytest.mark.parametrize("make", [model, untied])
def test_save_and_load_are_exact(tmp_path, make):
    saved = make()
    save(saved, tmp_path / "x")
    verify(tmp_path / "x")
    loaded = load(tmp_path / "x", verify=True)
    assert torch.equal(logits(loaded), logits(saved)) and loaded.spec == saved.spec == read_spec(tmp_path / "x")
    assert not loaded.training and all(p.requires_grad for p in loaded.parameters())
    assert not any(t.is_meta for t in (*loaded.parameters(), *loaded.buffers()))


def test_saving_twice_writes_the_same_bytes(tmp_path):
    saved = model()
    for name in "ab":
        save(saved, tmp_path / name)
    save(load(tmp_path / "a"), tmp_path / "c")
    for file in os.listdir(tmp_path / "a"):
        assert len({(tmp_path / name / file).read_bytes() for name in "abc"}) == 1, file


def test_a_shared_parameter_is_written_once_and_shared_again(tmp_path):
    saved = untied()
    saved.head.vocabulary.weight = saved.embedding.token.weight
    save(saved, tmp_path / "x")
    assert "head.vocabulary.weight" not in tensors(tmp_path / "x")
    again = untied()
    again.head.vocabulary.weight = again.embedding.token.weight
    restore(again, tmp_path / "x")
    assert torch.equal(logits(again), logits(saved))


def test_a_loaded_model_trains_and_its_folder_stays(tmp_path):
    save(model(), tmp_path / "x")
    loaded = load(tmp_path / "x").train()
    loaded(torch.tensor([[1, 2]])).logits.sum().backward()
    torch.optim.SGD(loaded.parameters(), lr=1.0).step()
    verify(tmp_path / "x")
    assert not torch.equal(logits(loaded), logits(load(tmp_path / "x")))


def test_a_checkpoint_may_replace_the_one_its_model_is_mapped_from(tmp_path):
    save(model(), tmp_path / "x")
    loaded = load(tmp_path / "x")
    before = logits(loaded).clone()
    save(loaded, tmp_path / "x")
    assert torch.equal(logits(loaded), before) and torch.equal(logits(load(tmp_path / "x", verify=True)), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_are_kept_or_converted_as_asked(tmp_path, dtype):
    saved = model()
    save(saved, tmp_path / "wide")
    for name, tensor in load(tmp_path / "wide", dtype=dtype).state_dict().items():
        assert torch.equal(tensor, saved.state_dict()[name].to(dtype)), name
    save(saved.to(dtype), tmp_path / "own")
    assert {p.dtype for p in load(tmp_path / "own").parameters()} == {dtype}


def test_wrappers_are_seen_through(tmp_path):
    wrapped = torch.nn.DataParallel(model())
    save(wrapped, tmp_path / "x")
    assert torch.equal(logits(load(tmp_path / "x")), logits(model()))


def test_extra_files_and_config_travel_along(tmp_path):
    save(model(), tmp_path / "x", config={"train": {"steps": 3}}, extra_files={"trainer.json": b"{}"})
    verify(tmp_path / "x")
    assert (tmp_path / "x" / "trainer.json").read_bytes() == b"{}"
    assert load_tree(tmp_path / "x" / "config.yaml")[0]["train"] == {"steps": 3}
    assert load(tmp_path / "x").spec == model().spec


def test_the_tokenizer_travels_along(tmp_path):
    text = pytest.importorskip("attnlib.text.byte_level")
    save(model(), tmp_path / "x", tokenizer=text.Bytes().build())
    assert load_tree(tmp_path / "x" / "config.yaml")[0]["tokenizer"] == {"kind": "bytes"}


def refuses(folder, *facts):
    for attempt in (load, check, lambda path: restore(model(), path, verify=False)):
        with pytest.raises(CheckpointError) as caught:
            attempt(folder)
        for fact in facts:
            assert fact in str(caught.value), str(caught.value)


def damaged(tmp_path, change):
    save(model(), tmp_path / "x")
    (tmp_path / "x" / "manifest.json").unlink()
    found = tensors(tmp_path / "x")
    change(found)
    rewrite(tmp_path / "x", found)
    return tmp_path / "x"


def test_missing_tensors_are_grouped_and_counted(tmp_path):
    def change(found):
        for name in [name for name in found if name.endswith("body.q.weight")]:
            del found[name]

    refuses(damaged(tmp_path, change), "no tensor for: stack.blocks.{i}.attention.body.q.weight (x2)")


@pytest.mark.parametrize(("groups", "depth"), [(None, 5000), (2500, 2500), (1, 1)])
def test_layers_by_the_thousand_without_tensors_are_refused_at_once(tmp_path, groups, depth):
    save(model(), tmp_path / "m")
    shared = {} if groups is None else {"sharing": {"groups": groups}}
    tree = {**TREE, "stack": {**TREE["stack"], "num_layers": 5000, **shared}}
    (tmp_path / "m" / "config.yaml").write_text(json.dumps({"format": 1, "model": tree}))
    (tmp_path / "m" / "manifest.json").unlink()
    assert read_spec(tmp_path / "m").stack.depth == depth
    if depth > 1:  # one layer's weights five thousand times are read as ever
        with pytest.raises(CheckpointError, match=rf"has \d+ tensors for {depth} layers, wish one a layer at least"):
            check(tmp_path / "m")


def test_extra_tensors_are_refused(tmp_path):
    refuses(damaged(tmp_path, lambda found: found.update(more=torch.ones(2))), "not in the model: more (x1)")


def test_swapped_shapes_are_refused(tmp_path):
    def change(found):
        name = "stack.blocks.1.mlp.body.up.weight"
        found[name] = found[name].T.contiguous()

    refuses(damaged(tmp_path, change), "stack.blocks.{i}.mlp.body.up.weight is (12, 20), wish (20, 12) (x1)")


def test_a_wrong_dtype_is_refused(tmp_path):
    def change(found):
        found["embedding.token.weight"] = found["embedding.token.weight"].long()

    refuses(damaged(tmp_path, change), "embedding.token.weight is torch.int64, wish torch.float32")


def test_all_differences_are_told_at_once(tmp_path):
    def change(found):
        found["more"] = torch.ones(2)
        del found["stack.final_norm.weight"]

    refuses(damaged(tmp_path, change), "not in the model: more", "no tensor for: stack.final_norm.weight")


def test_a_refused_restore_changes_nothing(tmp_path):
    folder = damaged(tmp_path, lambda found: found.update(more=torch.ones(2)))
    there = model()
    before = {name: tensor.clone() for name, tensor in there.state_dict().items()}
    with pytest.raises(CheckpointError):
        restore(there, folder, verify=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in there.state_dict().items())


def test_restore_does_not_round(tmp_path):
    save(model().bfloat16(), tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"is torch\.bfloat16, wish torch\.float32"):
        restore(model(), tmp_path / "x")


def test_a_flipped_payload_bit_is_found_where_asked(tmp_path):
    save(model(), tmp_path / "x")
    path = tmp_path / "x" / SINGLE
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    for attempt in (lambda: load(tmp_path / "x", verify=True), lambda: check(tmp_path / "x"),
                    lambda: restore(model(), tmp_path / "x")):  # fmt: skip
        with pytest.raises(CheckpointError, match=r"model\.safetensors: has changed bytes"):
            attempt()


DAMAGED = [
    "", "format: 1\n", "format: 99\nmodel: {kind: decoder}\n", "model: 3\n", "\tx", "a: [", "extends: /etc/passwd\n",
    "format: 1\nmodel: {kind: decoder, d_model: -1}\n", "format: 1\nmodel: {kind: nonsense}\n", "- 1\n",
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_config_is_one_error(tmp_path, text):
    save(model(), tmp_path / "x")
    (tmp_path / "x" / "config.yaml").write_text(text)
    with pytest.raises(AttnlibError):
        load(tmp_path / "x")


def test_folders_that_are_none_say_what_is_wished(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"has neither config\.yaml nor config\.json"):
        load(tmp_path)
    save(model(), tmp_path / "x")
    (tmp_path / "x" / SINGLE).unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        load(tmp_path / "x")


def test_a_read_only_folder_is_loaded(tmp_path):
    save(model(), tmp_path / "x")
    for path in (*(tmp_path / "x").iterdir(), tmp_path / "x", tmp_path):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert torch.equal(logits(load(tmp_path / "x", verify=True)), logits(model()))
    finally:
        for path in (tmp_path, tmp_path / "x"):
            path.chmod(0o755)


PEAK = """
import sys, torch
from attnlib.pretrained import load
from attnlib.pretrained.folder import _spec_of
from pathlib import Path
def resident(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) * 1024
torch.zeros(9) @ torch.zeros(9), _spec_of(Path(sys.argv[1]))
before = resident("VmRSS")
model = load(sys.argv[1], dtype=torch.float32)
final = sum(tensor.nbytes for tensor in model.parameters())
print((resident("VmHWM") - before) / final, "torch._dynamo" in sys.modules)
"""


@pytest.mark.multiprocess
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_loading_with_conversion_peaks_near_the_final_size_and_imports_no_tracer(tmp_path, form):
    save(model(d_model=768, vocab_size=30_000).half(), tmp_path / "x")  # 92 MB in fp32, nearly all one tensor
    if form == "bin":
        source = open_tensors(tmp_path / "x")
        torch.save({name: source.read(name) for name in source.facts}, tmp_path / "x" / BIN)
        (tmp_path / "x" / SINGLE).unlink()
        (tmp_path / "x" / "manifest.json").unlink()
    run = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path / "x")], capture_output=True, text=True, check=True)
    ratio, traced = run.stdout.split()
    assert float(ratio) < 1.2 and traced == "False"


SAVER = """
import sys, torch
from pathlib import Path
from attnlib.pretrained import load, save
model = load(sys.argv[1])
while True:
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(1.0)
    save(model, sys.argv[1], extra_files={"big": bytes(1_000_000)})
    print(flush=True)
"""


@pytest.mark.multiprocess
def test_kill_9_in_mid_save_leaves_a_folder_that_loads(tmp_path):
    save(model(), tmp_path / "x")
    with subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path / "x")], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    load(tmp_path / "x", verify=True)
    save(model(), tmp_path / "x")
    assert os.listdir(tmp_path) == ["x"]

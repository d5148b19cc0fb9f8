"""What a weight file claims is checked before a tensor is read; writing loses nothing."""

import json
import os
import pickle
import random
import time
import zipfile

import pytest
import torch

from attnlib.errors import CheckpointError
from attnlib.pretrained import files
from attnlib.pretrained.files import regular_file, write_file
from attnlib.pretrained.source import InMemory
from attnlib.pretrained.tensors import BIN, INDEX, SINGLE, copy_by_slabs, open_tensors, shards, write_tensors

TENSORS = {
    "a.weight": torch.arange(15, dtype=torch.float32).view(3, 5),
    "b": torch.tensor([True, False, True]),
    "c": torch.tensor(2.5, dtype=torch.bfloat16),
    "d": torch.empty(0, 7),
    "e": torch.tensor([1, -2, 3], dtype=torch.int64),
    "f": torch.randn(3).to(torch.float16),
}


def write(path, tensors=TENSORS):
    write_tensors(path, InMemory(tensors).facts, tensors.items())


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_tensors_come_back_bit_equal(tmp_path):
    write(tmp_path / SINGLE)
    source = open_tensors(tmp_path)
    assert set(source.facts) == set(TENSORS)
    for name, tensor in TENSORS.items():
        found = source.read(name)
        assert found.dtype == tensor.dtype and torch.equal(found, tensor), name
        assert source.facts[name] == (tensor.dtype, tuple(tensor.shape))


def test_the_public_library_reads_what_we_write_and_the_reverse(tmp_path):
    from safetensors.torch import load_file, save_file

    write(tmp_path / SINGLE)
    found = load_file(tmp_path / SINGLE)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    save_file(TENSORS, tmp_path / SINGLE)
    source = open_tensors(tmp_path)
    assert all(torch.equal(source.read(name), tensor) for name, tensor in TENSORS.items())


def test_a_write_to_a_mapped_tensor_never_reaches_the_file(tmp_path):
    write(tmp_path / SINGLE)
    before = (tmp_path / SINGLE).read_bytes()
    open_tensors(tmp_path).read("a.weight").fill_(7)
    assert (tmp_path / SINGLE).read_bytes() == before


def test_unaligned_tensors_are_read(tmp_path):
    data = b"\x01" + torch.tensor([1.5, -2.0]).numpy().tobytes()
    header = {"x": entry("U8", (1,), (0, 1)), "y": entry("F32", (2,), (1, 9))}
    (tmp_path / SINGLE).write_bytes(raw(header, data))
    assert open_tensors(tmp_path).read("y").tolist() == [1.5, -2.0]


LIES = {
    "empty": b"",
    "short": b"\x01\x02",
    "header longer than the file": raw({"x": entry()}, b"\0" * 8, length=1 << 20),
    "huge header": raw({"x": entry()}, b"\0" * 8, length=(1 << 64) - 1),
    "no JSON": raw(b"{nonsense", b"\0" * 8),
    "not an object": raw(b"[1]"),
    "leading space": raw(b' {"x":{}}'),
    "bad utf-8": raw(b'{"\xff": 1}'),
    "deep nesting": raw(b'{"x":' + b"[" * 100_000),
    "long number": raw(b'{"x":' + b"9" * 5000 + b"}"),
    "key twice": raw(b'{"x":%s,"x":%s}' % ((json.dumps(entry()).encode(),) * 2), b"\0" * 8),
    "unknown dtype": raw({"x": entry("F33")}, b"\0" * 8),
    "dtype is a list": raw({"x": {**entry(), "dtype": ["F32"]}}, b"\0" * 8),
    "negative size": raw({"x": entry("F32", (-2,))}, b"\0" * 8),
    "size is true": raw({"x": entry("U8", (True,), (0, 1))}, b"\0"),
    "size is a float": raw({"x": {**entry(), "shape": [2.0]}}, b"\0" * 8),
    "shape overflows": raw({"x": entry("F32", (1 << 40, 1 << 40), (0, 8))}, b"\0" * 8),
    "zero times huge": raw({"x": entry("F32", (0, 1 << 61), (0, 0))}),
    "shape takes more": raw({"x": entry("F32", (3,))}, b"\0" * 8),
    "offsets reversed": raw({"x": entry("F32", (2,), (8, 0))}, b"\0" * 8),
    "offsets outside": raw({"x": entry("F32", (2,), (8, 16))}, b"\0" * 8),
    "three offsets": raw({"x": entry("F32", (2,), (0, 8, 8))}, b"\0" * 8),
    "overlap": raw({"x": entry("F32", (2,), (0, 8)), "y": entry("F32", (2,), (4, 12))}, b"\0" * 12),
    "hole": raw({"x": entry("F32", (2,), (0, 8)), "y": entry("F32", (2,), (9, 17))}, b"\0" * 17),
    "bytes left over": raw({"x": entry()}, b"\0" * 9),
    "extra key": raw({"x": {**entry(), "more": 1}}, b"\0" * 8),
    "entry is null": raw({"x": None}),
    "metadata is a list": raw({"__metadata__": []}),
    "metadata of numbers": raw({"__metadata__": {"a": 1}}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_by_file_and_fact(tmp_path, lie):
    (tmp_path / SINGLE).write_bytes(LIES[lie])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_tensors(tmp_path)


def test_truncated_files_are_refused(tmp_path):
    write(tmp_path / SINGLE)
    whole = (tmp_path / SINGLE).read_bytes()
    for length in (0, 7, 8, 20, len(whole) - 1):
        (tmp_path / SINGLE).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"truncated|bytes"):
            open_tensors(tmp_path)


def mutate(data, rng):
    data = bytearray(data)
    head = 8 + int.from_bytes(data[:8], "little")
    for _ in range(rng.randint(1, 4)):
        kind, at = rng.randrange(6), rng.randrange(min(len(data), head + 8))
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at : at + rng.randint(1, 9)]
        elif kind == 3:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 9)))
        elif kind == 4:
            data[at : at + 1] = rng.choice([b"9", b"-", b"[", b"}", b'"', b"0", b"\0", b"e9", b"null"])
        else:
            data[:8] = rng.choice([rng.randrange(1 << 64), rng.randrange(len(data) + 9)]).to_bytes(8, "little")
        head = min(head, len(data))
    return bytes(data)


def test_500_mutated_files_are_read_or_refused_and_quickly(tmp_path):
    write(tmp_path / SINGLE)
    whole, rng, refused = (tmp_path / SINGLE).read_bytes(), random.Random(7), 0
    for _ in range(500):
        (tmp_path / SINGLE).write_bytes(mutate(whole, rng))
        begin = time.thread_time()
        try:
            source = open_tensors(tmp_path)
            for name in source.facts:
                source.read(name).float().sum() if source.facts[name].dtype != torch.bool else source.read(name)
        except CheckpointError:
            refused += 1
        assert time.thread_time() - begin < 1.0
    assert refused > 300


def sharded(folder, names=None):
    parts = {"model-1.safetensors": ["a.weight", "b"], "model-2.safetensors": ["c", "d", "e", "f"]}
    for file, keys in parts.items():
        write(folder / file, {key: TENSORS[key] for key in keys})
    index = {key: file for file, keys in parts.items() for key in keys}
    (folder / INDEX).write_text(json.dumps({"weight_map": {**index, **(names or {})}}))


def test_shards_are_read_by_their_index(tmp_path):
    sharded(tmp_path)
    source = open_tensors(tmp_path)
    assert all(torch.equal(source.read(name), tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("name", ["../model-1.safetensors", "/etc/passwd", "a\0b", "sub/x.safetensors", "..", "", 3,
                                  "C:x", "a\\b", None])  # fmt: skip
def test_an_index_entry_is_a_plain_file_name(tmp_path, name):
    sharded(tmp_path, {"a.weight": name})
    with pytest.raises(CheckpointError, match="plain file name"):
        open_tensors(tmp_path)


def test_index_and_shards_name_the_same_tensors(tmp_path):
    sharded(tmp_path, {"ghost": "model-1.safetensors"})
    with pytest.raises(CheckpointError, match="ghost"):
        open_tensors(tmp_path)
    sharded(tmp_path)
    write(tmp_path / "model-2.safetensors", {"c": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="'b' again"):
        open_tensors(tmp_path)
    write(tmp_path / "model-2.safetensors", {k: TENSORS[k] for k in "cdef"} | {"more": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="does not name 'more'"):
        open_tensors(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        open_tensors(tmp_path)


def test_links_are_followed_only_within_the_folder_or_the_hub_cache(tmp_path):
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "rev", tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    write(blobs / "deadbeef")
    (snapshot / SINGLE).symlink_to("../../blobs/deadbeef")
    assert set(open_tensors(snapshot).facts) == set(TENSORS)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / SINGLE).symlink_to(blobs / "deadbeef")
    with pytest.raises(CheckpointError, match="is a link to"):
        open_tensors(outside)
    (outside / SINGLE).unlink()
    (outside / SINGLE).symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="No such file"):
        open_tensors(outside)
    (outside / SINGLE).unlink()
    (outside / SINGLE).symlink_to(SINGLE)
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_tensors(outside)


def test_a_pipe_or_a_folder_is_no_file(tmp_path):
    os.mkfifo(tmp_path / SINGLE)  # opening one would wait for ever
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_tensors(tmp_path)
    (tmp_path / SINGLE).unlink()
    (tmp_path / SINGLE).mkdir()
    with pytest.raises(CheckpointError, match="not a regular file"):
        regular_file(tmp_path, SINGLE)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil-was-here",)


def test_pickles_are_read_as_tensors_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(TENSORS, tmp_path / BIN)
    source = open_tensors(tmp_path)
    assert all(torch.equal(source.read(name), tensor) for name, tensor in TENSORS.items())
    torch.save({"x": Evil()}, tmp_path / BIN)
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        open_tensors(tmp_path)
    (tmp_path / BIN).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        open_tensors(tmp_path)
    for other in ([torch.zeros(1)], {"x": 3}, {3: torch.zeros(1)}):
        torch.save(other, tmp_path / BIN)
        with pytest.raises(CheckpointError, match="more than tensors"):
            open_tensors(tmp_path)
    assert not (tmp_path / "evil-was-here").exists()


def test_names_that_share_memory_in_a_pickle_are_told_apart(tmp_path):
    x = torch.arange(6.0)
    torch.save({"x": x, "y": x}, tmp_path / BIN)
    source = open_tensors(tmp_path)
    source.read("x").zero_()
    assert torch.equal(source.read("y"), x)


def compressed(path):
    """The same pickle with its records deflated: they cannot be mapped as they lie."""
    with zipfile.ZipFile(path) as archive:
        records = {item.filename: archive.read(item) for item in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("form", ["stored", "older", "turned"])
def test_letting_go_of_a_pickles_pages_loses_nothing(tmp_path, form):
    tensors = {"a": torch.randn(400, 300), "b": torch.randn(3)}
    tensors["c"] = tensors["a"].T if form == "turned" else torch.randn(2, 5000)
    torch.save(tensors, tmp_path / BIN, _use_new_zipfile_serialization=form != "older")
    source = open_tensors(tmp_path)
    for name in tensors:
        source.release(name)
        assert torch.equal(source.read(name), tensors[name])


def test_a_compressed_pickle_is_read_or_refused_never_misread(tmp_path):
    tensors = {"a": torch.zeros(100, 100), "b": torch.randn(3)}
    torch.save(tensors, tmp_path / BIN)
    compressed(tmp_path / BIN)
    try:
        source = open_tensors(tmp_path)
    except CheckpointError:
        return
    assert all(torch.equal(source.read(name), tensor) for name, tensor in tensors.items())


def test_a_distributed_checkpoint_is_refused_before_it_is_read(tmp_path):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"has no weights.*runs code"):
        open_tensors(tmp_path)


def test_a_folder_without_weights_says_what_is_wished(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no weights, wish model\.safetensors"):
        open_tensors(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_file(path, b"old")
    monkeypatch.setattr(files, "sync", lambda path: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CheckpointError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.json"]


def test_slab_copies_equal_whole_copies_in_any_layout(monkeypatch):
    monkeypatch.setattr("attnlib.pretrained.tensors.SLAB", 64)
    whole = torch.randn(7, 11, 3, dtype=torch.float64)
    for view in (whole, whole.transpose(0, 2), whole[:, 2:9], whole[1], whole.permute(1, 2, 0)):
        calls = []
        into = copy_by_slabs(torch.empty(view.shape, dtype=torch.float32), view, lambda seen=calls: seen.append(1))
        assert torch.equal(into, view.float()) and len(calls) > 1


def test_shards_keep_under_the_limit():
    facts = InMemory({f"t{i}": torch.empty(size) for i, size in enumerate([3, 5, 100, 2, 2])}).facts
    assert list(shards(facts, 32)) == [["t0", "t1"], ["t2"], ["t3", "t4"]]

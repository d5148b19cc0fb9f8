"""2,000 folders with a mutated file: each is refused in one error or loads whole, within a second, and nothing crashes."""

import random
import shutil
import time

import pytest
import torch

import attnlib
from attnlib.errors import AttnlibError
from attnlib.pretrained import export, load
from attnlib.pretrained.tensors import BIN, INDEX, SINGLE, open_tensors

TINY = {
    "kind": "decoder", "d_model": 4, "vocab_size": 7,
    "stack": {"num_layers": 1, "final_norm": "rms",
              "block": {"attention": {"num_heads": 1, "mask": "causal", "rotary": {}}, "mlp": {"kind": "gated", "d_ff": 5}}},
}  # fmt: skip
PIECES = [b"9", b"-", b"[", b"}", b'"', b"0", b"\0", b"e9", b"null", b"../", b"1e999", b"\xff", b"true", b": {"]


@pytest.fixture
def folders(tmp_path):
    """file to mutate -> folder of a tiny model that has it."""
    model = attnlib.build(TINY)
    export(model, tmp_path / "single", "llama")
    export(model, tmp_path / "sharded", "llama", shard_bytes=300)
    source = open_tensors(tmp_path / "single")
    shutil.copytree(tmp_path / "single", tmp_path / "pickled")
    (tmp_path / "pickled" / SINGLE).unlink()
    torch.save({name: source.read(name) for name in source.facts}, tmp_path / "pickled" / BIN)
    return {SINGLE: tmp_path / "single", INDEX: tmp_path / "sharded", "config.json": tmp_path / "single",
            BIN: tmp_path / "pickled"}  # fmt: skip


def mutated(data, rng, head):
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(data), head))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + rng.randint(1, 9)]
        elif kind == 2:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 9)))
        elif kind == 3:
            data[at : at + 1] = rng.choice(PIECES)
        else:
            del data[rng.randrange(len(data)) :]
        if not data:
            return b""
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "count"), [(SINGLE, 900), (INDEX, 400), ("config.json", 400), (BIN, 300)])
def test_a_mutated_file_is_refused_or_loads_whole(folders, file, count):
    folder, rng, refused, slowest = folders[file], random.Random(file), 0, 0.0
    whole = (folder / file).read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little") if file == SINGLE else len(whole)
    for _ in range(count):
        (folder / file).write_bytes(mutated(whole, rng, head))
        begin = time.thread_time()
        try:
            model = load(folder)
            assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
        except AttnlibError as error:
            assert "\n" not in str(error)
            refused += 1
        slowest = max(slowest, time.thread_time() - begin)
    assert slowest < 1.0 and refused > count // 3

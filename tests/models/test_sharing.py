"""Layers that share their weights: one tensor, several layers, each with a place, a cache and a mask of its own."""

import copy

import pytest
import torch

import attnlib
from attnlib.inspect.describe import describe
from attnlib.inspect.recording import record
from attnlib.models.stack import SharingSpec
from attnlib.pretrained import load, save
from attnlib.pretrained.tensors import open_tensors
from attnlib.spec import SpecErrors

torch.set_num_threads(1)
BLOCK = {"attention": {"num_heads": 2, "mask": "causal", "rotary": {}}, "mlp": {"kind": "gated", "d_ff": 9}}


def tree(num_layers=4, sharing=None, block=BLOCK, **stack):
    stack = {"num_layers": num_layers, "final_norm": "rms", "block": block, "sharing": sharing, **stack}
    return {"kind": "decoder", "d_model": 12, "vocab_size": 31, "stack": stack}


def model(**words):
    torch.manual_seed(0)
    return attnlib.build(tree(**words)).eval()


IDS = torch.randint(0, 31, (2, 6), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("words", "owners"), [
    ({}, (0, 0, 0, 0, 0, 0)), ({"groups": 2}, (0, 0, 0, 3, 3, 3)), ({"cycle": 2}, (0, 1, 0, 1, 0, 1)),
    ({"groups": 3, "cycle": 2}, (0, 1, 2, 3, 4, 5)), ({"groups": 6}, (0, 1, 2, 3, 4, 5)),
])  # fmt: skip
def test_which_layer_owns_the_weights_of_which(words, owners):
    assert SharingSpec(**words).owners(6) == owners


def test_shared_layers_are_the_same_layers_written_out():
    shared, plain = model(sharing={"groups": 2}), model()
    with torch.no_grad():
        for i, owner in enumerate((0, 0, 2, 2)):
            plain.stack.blocks[i].load_state_dict(shared.stack.blocks[owner].state_dict())
        plain.embedding.load_state_dict(shared.embedding.state_dict())
        assert torch.equal(plain(IDS).logits, shared(IDS).logits)


def test_a_gradient_is_the_sum_over_the_layers():
    shared, plain = model(sharing={}, num_layers=3), model(num_layers=3)
    for block in plain.stack.blocks:
        block.load_state_dict(shared.stack.blocks[0].state_dict())
    plain.embedding.load_state_dict(shared.embedding.state_dict())
    for one in (shared, plain):
        one(IDS).logits.square().sum().backward()
    found = shared.stack.blocks[0].mlp.body.up.weight.grad
    wanted = sum(block.mlp.body.up.weight.grad for block in plain.stack.blocks)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_parameters_are_counted_saved_and_copied_once(tmp_path):
    shared, one = model(sharing={}), model(num_layers=1)
    assert sum(p.numel() for p in shared.parameters()) == sum(p.numel() for p in one.parameters())
    save(shared, tmp_path / "x")
    assert open_tensors(tmp_path / "x").facts.keys() == {name for name, _ in shared.named_parameters()}
    for again in (load(tmp_path / "x"), copy.deepcopy(shared), shared.to(torch.float64).to(torch.float32)):
        first, last = again.stack.blocks[0], again.stack.blocks[3]
        assert all(a is b for a, b in zip(first.parameters(), last.parameters()))
        assert first is not last
        with torch.no_grad():
            assert torch.equal(again(IDS).logits, shared(IDS).logits)


def test_each_layer_keeps_its_own_cache_and_place():
    shared = model(sharing={"cycle": 2})
    with torch.no_grad():
        whole = shared(IDS).logits
        state = shared.begin(batch=2)
        steps = [shared.step(IDS[:, i : i + 1], None, state) for i in range(6)]
        assert len(state.caches) == 4 and torch.allclose(torch.cat(steps, 1), whole, atol=1e-5)
        with record(shared) as seen:
            shared(IDS)
    assert [m.name for m in seen.maps([str(i) for i in range(6)])] == [f"decoder.{i}.self" for i in range(4)]


def test_describe_counts_shared_weights_once_and_says_whose_they_are():
    found = describe(model(sharing={"groups": 2}).spec, tokens=5)
    assert found.parameters == describe(model(num_layers=2).spec, tokens=5).parameters
    assert found.flops == describe(model().spec, tokens=5).flops
    same = {row.path: row.same for row in found.rows if row.same}
    assert same == {"stack.blocks.1": "stack.blocks.0", "stack.blocks.3": "stack.blocks.2"}
    assert "the weights of stack.blocks.0" in found.text()
    assert not [row for row in found.rows if row.path.startswith("stack.blocks.1.")]


def test_training_updates_the_one_set(tmp_path):
    shared = model(sharing={}).train()
    optimizer = torch.optim.SGD(shared.parameters(), lr=0.1)
    before = shared.stack.blocks[3].mlp.body.up.weight.clone()
    shared(IDS).logits.square().mean().backward()
    optimizer.step()
    first, last = (shared.stack.blocks[i].mlp.body.up.weight for i in (0, 3))
    assert first is last and not torch.equal(last, before)


@pytest.mark.parametrize(("words", "text"), [
    ({"num_layers": 5, "sharing": {"groups": 2}}, "2 (groups x cycle) over 5 layers, must divide num_layers"),
    ({"sharing": {"cycle": 3}}, "3 (groups x cycle) over 4 layers"),
    ({"sharing": {"groups": 0}}, "sharing.groups"),
    ({"block": None, "blocks": {"a": BLOCK, "b": {**BLOCK, "placement": "post"}}, "pattern": ["a", "b"], "sharing": {}},
     "layers 0 and 1 are unlike, only equal blocks share weights"),
])  # fmt: skip
def test_what_cannot_be_shared_is_refused_when_it_is_read(words, text):
    with pytest.raises(SpecErrors) as caught:
        model(**words)
    assert text in str(caught.value)


def test_unlike_blocks_may_be_shared_in_their_own_rhythm():
    blocks = {"a": BLOCK, "b": {**BLOCK, "attention": {"num_heads": 4, "mask": "causal"}}}
    found = model(block=None, blocks=blocks, pattern=["a", "b"], sharing={"cycle": 2})
    assert found.stack.blocks[2].attention.body.num_heads == 2 and found.stack.blocks[3].attention.body.num_heads == 4
    assert found.stack.blocks[3].mlp.body.up.weight is found.stack.blocks[1].mlp.body.up.weight

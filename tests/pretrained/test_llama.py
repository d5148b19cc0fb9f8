"""The llama family: equal to transformers in both directions, strict about all it does not know."""

import json
import os
from pathlib import Path

import pytest
import torch

from attnlib.attention.masks import AllOf, Causal, Window
from attnlib.attention.rotary import Dynamic, Linear, Llama3, Yarn
from attnlib.errors import CheckpointError
from attnlib.nn.init import Normal
from attnlib.pretrained import check, export, load, read_spec, save, verify
from attnlib.pretrained.families.llama import Llama
from attnlib.pretrained.family import HFConfig, find
from attnlib.pretrained.source import InMemory
from attnlib.pretrained.tensors import INDEX, SINGLE, open_tensors, write_tensors

torch.set_num_threads(1)
GATE = 2e-5  # of max |logit|, in fp32
SHARED = os.environ.get("ATTNLIB_SHARED")
BASE = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 44, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ROPE = {"rope_theta": 500.0}
VARIANTS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "one kv head": {"num_key_value_heads": 1},
    "no grouping": {"num_key_value_heads": 4},
    "wide heads": {"head_dim": 10},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "eps": {"rms_norm_eps": 1e-3},
    "linear": {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 2.5}},
    "dynamic": {"rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 3.0}},
    "llama3": {"rope_parameters": {**ROPE, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                   "high_freq_factor": 4.0, "original_max_position_embeddings": 9}},
    "yarn": {"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}},
    "yarn, all keys": {"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0, "beta_fast": 6.0, "truncate": False,
                                           "beta_slow": 0.5, "original_max_position_embeddings": 8,
                                           "mscale": 0.7, "mscale_all_dim": 0.4}},
}  # fmt: skip


def theirs(**changes):
    """A tiny random model of transformers, its norms and biases randomised too."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**BASE, **changes})).eval()
    with torch.no_grad():
        for name, tensor in made.named_parameters():
            tensor.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return made


def their_folder(tmp_path, **changes):
    made = theirs(**changes)
    made.save_pretrained(tmp_path / "theirs")
    return made, tmp_path / "theirs"


def rows(length=24, seed=0):
    return torch.randint(3, 61, (2, length), generator=torch.Generator().manual_seed(seed))


def deviation(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def compare(ours, hf, ids):
    return deviation(ours(ids).logits, hf(ids).logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_transformers(tmp_path, variant):
    hf, folder = their_folder(tmp_path, **VARIANTS[variant])
    assert compare(load(folder), hf, rows()) < GATE


@torch.no_grad()
def test_padding_on_either_side_changes_nothing(tmp_path):
    hf, folder = their_folder(tmp_path)
    ours, ids = load(folder), rows(9)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0  # left
    mask[1, 6:] = 0  # right
    places = (mask.cumsum(1) - 1).clamp(min=0)
    expected = hf(ids, attention_mask=mask, position_ids=places).logits[mask.bool()]
    assert deviation(ours(ids, attention_mask=mask).logits[mask.bool()], expected) < GATE


def test_gradients_equal_those_of_transformers(tmp_path):
    hf, folder = their_folder(tmp_path, attention_bias=True)
    ours, ids = load(folder), rows(11)
    for model in (hf, ours):
        model(ids).logits.float().log_softmax(-1)[..., 5].sum().backward()
    table = Llama().table(ours.spec)
    made = table.save({name: tensor.grad for name, tensor in ours.named_parameters()})
    expected = {name: tensor.grad for name, tensor in hf.named_parameters()}
    assert made.keys() == expected.keys()
    for name, gradient in made.items():
        assert deviation(gradient, expected[name]) < 1e-4, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_opens_what_we_write_with_equal_logits(tmp_path, variant):
    transformers = pytest.importorskip("transformers")
    hf, folder = their_folder(tmp_path, **VARIANTS[variant])
    ours = load(folder)
    export(ours, tmp_path / "back", "llama", config={"max_position_embeddings": 16})
    verify(tmp_path / "back")
    back, report = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report[key] for key in report if key.endswith(("_keys", "_msgs")))
    with torch.no_grad():
        assert torch.equal(back(rows()).logits, hf(rows()).logits)
    assert load(tmp_path / "back").spec == ours.spec


def test_tensors_come_back_bit_equal_and_keys_alike(tmp_path):
    _, folder = their_folder(tmp_path, tie_word_embeddings=True)
    export(load(folder), tmp_path / "back", "llama")
    before, after = open_tensors(folder), open_tensors(tmp_path / "back")
    assert before.facts == after.facts
    assert all(torch.equal(before.read(name), after.read(name)) for name in before.facts)


def test_our_folder_of_it_is_the_same_model(tmp_path):
    _, folder = their_folder(tmp_path, **VARIANTS["yarn, all keys"])
    ours = load(folder)
    save(ours, tmp_path / "ours")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "ours")(rows()).logits, ours(rows()).logits)


def test_shards_go_out_and_in(tmp_path):
    _, folder = their_folder(tmp_path)
    ours = load(folder)
    export(ours, tmp_path / "back", "llama", shard_bytes=6000)
    assert (tmp_path / "back" / INDEX).exists() and len(list((tmp_path / "back").glob("model-*"))) > 3
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "back")(rows()).logits, ours(rows()).logits)
    transformers = pytest.importorskip("transformers")
    hf = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "back")
    assert compare(ours, hf, rows()) < GATE


def test_bfloat16_is_bit_equal_to_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    _, folder = their_folder(tmp_path)
    hf = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa")
    with torch.no_grad():
        assert torch.equal(load(folder, dtype=torch.bfloat16)(rows()).logits, hf(rows()).logits)


def test_the_headless_model_goes_both_ways(tmp_path):
    transformers = pytest.importorskip("transformers")
    hf = theirs().model
    hf.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    with torch.no_grad():
        expected = hf(rows()).last_hidden_state
        assert deviation(ours(rows()).last, expected) < GATE
        export(ours, tmp_path / "back", "llama")
        assert torch.equal(transformers.LlamaModel.from_pretrained(tmp_path / "back")(rows()).last_hidden_state, expected)


def rewritten(folder, change=lambda tensors: None, **config):
    source = open_tensors(folder)
    tensors = {name: source.read(name).clone() for name in source.facts}
    change(tensors)
    write_tensors(folder / SINGLE, InMemory(tensors).facts, tensors.items())
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tree, **config}))
    return folder


def test_a_tie_is_verified_and_untied_where_the_values_differ(tmp_path):
    hf, folder = their_folder(tmp_path, tie_word_embeddings=True)
    rewritten(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert check(folder).ties == (("lm_head.weight", "embedding.token.weight"),)
    assert load(folder).spec.head.tied and compare(load(folder), hf, rows()) < GATE
    rewritten(folder, lambda t: t["lm_head.weight"].mul_(-1.0))
    assert check(folder).untied == ("lm_head.weight",) and check(folder).ties == ()
    ours = load(folder)
    assert not ours.spec.head.tied
    with torch.no_grad():
        assert deviation(ours(rows()).logits, -hf(rows()).logits) < GATE


def test_a_tied_file_that_carries_the_head_only_is_read(tmp_path):
    hf, folder = their_folder(tmp_path, tie_word_embeddings=True)
    rewritten(folder, lambda t: t.update({"lm_head.weight": t.pop("model.embed_tokens.weight")}))
    assert compare(load(folder), hf, rows()) < GATE


def test_stored_frequencies_are_ignored_with_the_reason(tmp_path):
    hf, folder = their_folder(tmp_path)
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    rewritten(folder, lambda t: t.update({name: torch.ones(3)}))
    assert check(folder).ignored == {name: "computed from rope_parameters"}
    assert f"ignored: {name}" in str(check(folder)) and compare(load(folder), hf, rows()) < GATE


def test_older_spellings_of_rotary_settings_mean_the_same(tmp_path):
    _, folder = their_folder(tmp_path)
    new = rewritten(folder, rope_parameters={"rope_theta": 77.0, "rope_type": "linear", "factor": 2})
    spec = read_spec(new)
    assert spec.stack.block.attention.rotary.scaling == Linear(factor=2.0)
    for key in ("type", "rope_type"):
        old = rewritten(folder, rope_parameters=None, rope_theta=77, rope_scaling={key: "linear", "factor": 2.0})
        assert read_spec(old) == spec
    plain = rewritten(folder, rope_theta=None, rope_scaling=None)
    assert read_spec(plain).stack.block.attention.rotary.base == 10000.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_config_says_its_spec_and_the_spec_its_config(variant):
    family, config = Llama(), {**BASE, **VARIANTS[variant]}
    spec = family.spec_from(HFConfig({**config, "architectures": ["LlamaForCausalLM"]}))
    tree = family.config_from(spec)
    assert family.spec_from(HFConfig(tree)) == spec
    wanted = {"linear": Linear, "dynamic": Dynamic, "llama3": Llama3, "yarn": Yarn}
    assert type(spec.stack.block.attention.rotary.scaling) is wanted.get(variant.split(",")[0], type(None))


REFUSED = {
    "hidden_act": ("mish", "hidden_act: is 'mish', wish gelu"),
    "hidden_size": ("24", "hidden_size: is '24', wish int"),
    "num_hidden_layers": (None, "num_hidden_layers: is missing"),
    "vocab_size": (True, "vocab_size: is 'True', wish int"),
    "model_type": ("lama", "model_type: is 'lama', wish a known family (did you mean 'llama'?)"),
    "architectures": (["LlamaForMultipleChoice"], "names 'LlamaForMultipleChoice', wish LlamaForCausalLM"),
    "partial_rotary_factor": (0.5, "partial_rotary_factor: is '0.5', wish 1.0"),
    "rope_parameters": ({"rope_type": "spiral"}, "rope_type: is 'spiral', wish one of default, linear"),
    "rms_norm_eps": (-1.0, "eps"),
    "num_key_value_heads": (3, "num_kv_heads"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_config_that_we_would_build_otherwise_is_refused_by_key(tmp_path, key):
    value, text = REFUSED[key]
    _, folder = their_folder(tmp_path)
    rewritten(folder, **{key: value})
    with pytest.raises(ValueError) as caught:
        load(folder)
    assert text in str(caught.value)


def test_another_familys_tensors_are_refused_by_group(tmp_path):
    _, folder = their_folder(tmp_path)
    norms = {f"model.layers.{i}.self_attn.q_norm.weight": torch.ones(6) for i in range(3)}
    rewritten(folder, lambda tensors: tensors.update(norms))
    with pytest.raises(CheckpointError, match=r"no rule reads: model.layers.{i}.self_attn.q_norm.weight \(x3\)"):
        load(folder)


def test_a_model_that_no_llama_config_says_is_not_exported(tmp_path):
    _, folder = their_folder(tmp_path)
    spec = load(folder).spec
    block = spec.stack.block
    for changed, path in (
        (spec.replace(stack=spec.stack.replace(block=block.replace(placement="branch"))), "stack.block.placement"),
        (with_attention(spec, bias=("q", "k")), "stack.block.attention.bias"),
        (with_attention(spec, rotary=None), "stack.block.attention.rotary"),
        (with_attention(spec, mask=Causal() & Window(before=3)), "stack.block.attention.mask"),
        (spec.replace(head=spec.head.replace(softcap=3.0)), "head.softcap"),
        (spec.replace(embedding=spec.embedding.replace(scale=2.0)), "embedding.scale"),
    ):
        with pytest.raises(CheckpointError, match=path):
            Llama().config_from(changed)


def with_attention(spec, **changes):
    block = spec.stack.block
    return spec.replace(stack=spec.stack.replace(block=block.replace(attention=block.attention.replace(**changes))))


def test_spellings_of_one_architecture_are_exported_alike(tmp_path):
    spec = load(their_folder(tmp_path)[1]).spec
    same = with_attention(spec, d_head=6, mask=AllOf(masks=(Causal(),)), bias=())
    stack = same.stack.replace(block=None, blocks={"a": same.stack.block.replace(dropout=0.5)}, pattern=("a",))
    same = same.replace(stack=stack, init=Normal(scale=0.1))
    assert same != spec and Llama().config_from(same) == {**Llama().config_from(spec), "initializer_range": 0.1}


def test_a_folder_of_no_family_names_those_there_are(tmp_path):
    with pytest.raises(CheckpointError, match=r"wish a known family \(known: .*llama"):
        find(HFConfig({"model_type": "resnet"}))


def stories():
    if SHARED is None or not (Path(SHARED) / "models" / "stories15m").is_dir():
        pytest.skip("ATTNLIB_SHARED names no folder with models/stories15m")
    return Path(SHARED) / "models" / "stories15m"


def test_stories15m_continues_its_story():
    tokenizers, folder = pytest.importorskip("tokenizers"), stories()
    text = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids, ours = torch.tensor([text.encode("Once upon a time").ids]), load(folder)
    assert ids.tolist() == [[1, 9038, 2501, 263, 931]]
    expected = (
        ", there was a little girl named Lily. She loved to play outside in the sunshine."
        " One day, she saw a big, red ball in the sky."
    )
    state, logits, found = ours.begin(batch=1), None, []
    with torch.no_grad():
        logits = ours.step(ids, None, state)
        for _ in range(40):
            found.append(int(logits[0, -1].argmax()))
            logits = ours.step(torch.tensor([[found[-1]]]), None, state)
    assert text.decode(ids[0].tolist() + found).startswith("Once upon a time" + expected)


def test_stories15m_equals_transformers_with_randomised_norms(tmp_path):
    transformers, folder = pytest.importorskip("transformers"), stories()
    hf = transformers.LlamaForCausalLM.from_pretrained(folder)
    ids = torch.randint(3, 32000, (2, 60), generator=torch.Generator().manual_seed(1))
    assert compare(load(folder), hf, ids) < GATE
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in hf.named_parameters():
            if "norm" in name:
                tensor.mul_(torch.rand_like(tensor) + 0.5)
    hf.save_pretrained(tmp_path)
    assert compare(load(tmp_path), hf, ids) < GATE

"""A family is one class with two translations and a table; where it is defined does not matter."""

import pytest
import torch

from attnlib.errors import CheckpointError, UsageError
from attnlib.nn.meta import on_meta
from attnlib.nn.norms import RMSNormSpec
from attnlib.pretrained import export, load
from attnlib.pretrained.canonical import canonical, difference
from attnlib.pretrained.families.llama import Llama
from attnlib.pretrained.family import HFConfig, families, family_named, find
from attnlib.pretrained.rules import Rename
from attnlib.pretrained.table import Table

torch.set_num_threads(1)
CONFIG = {
    "model_type": "normed_llama_of_this_test", "vocab_size": 31, "hidden_size": 12, "intermediate_size": 20,
    "num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")


class NormedLlama(Llama):
    """Llama with a norm on the queries and keys of each head: one class, two methods."""

    name = "normed_llama_of_this_test"
    model_types = (name,)
    architectures = {"NormedLlamaForCausalLM": "lm"}

    def spec_from(self, config):
        spec = super().spec_from(config)
        block = spec.stack.block
        attention = block.attention.replace(qk_norm="head", norm=RMSNormSpec(eps=1e-6))
        return spec.replace(stack=spec.stack.replace(block=block.replace(attention=attention)))

    def table(self, spec):
        llama = super().table(spec)
        norms = [Rename(f"model.layers.{{i}}.self_attn.{name}_scale.weight",
                        f"stack.blocks.{{i}}.attention.body.{name}_norm.weight") for name in "qk"]  # fmt: skip
        return Table([*llama.rules, *llama.ties, *llama.ignores, *norms])


def folder(tmp_path):
    torch.manual_seed(0)
    spec = find(HFConfig(CONFIG)).spec_from(HFConfig(CONFIG))
    model = spec.build().eval()
    export(model, tmp_path / "x", NormedLlama.name)
    return model, tmp_path / "x"


def test_a_family_of_a_users_module_takes_part(tmp_path):
    model, path = folder(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(load(path)(ids).logits, model(ids).logits)
    assert {"llama", NormedLlama.name} <= {family.name for family in families()}


def test_tensors_of_a_known_family_are_named_in_the_refusal(tmp_path):
    _, path = folder(tmp_path)
    text = (path / "config.json").read_text()
    (path / "config.json").write_text(text.replace("NormedLlama", "Llama").replace(NormedLlama.name, "llama"))
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert f"(is this a {NormedLlama.name} checkpoint?)" in str(caught.value)
    assert "no rule reads: model.layers.{i}.self_attn.k_scale.weight (x2)" in str(caught.value)


def test_an_unknown_family_name_is_answered_with_the_near_one():
    with pytest.raises(UsageError, match="did you mean 'llama'"):
        family_named("lama")


def test_a_config_is_read_by_type():
    config = HFConfig({"a": 3, "b": None, "c": True, "d": "x", "e": {"f": 1.5}}, "config.json")
    assert config.get("a", int) == 3 and config.get("a", float) == 3.0 and config.get("b", int, 7) == 7
    assert config.below("e").get("f", float) == 1.5 and config.below("b").tree == {}
    for key, kind in (("c", int), ("d", int), ("a", str), ("b", int), ("missing", int), ("a", bool)):
        with pytest.raises(CheckpointError, match=f"config.json: {key}: is"):
            config.get(key, kind)
    config.only("d", ("x", "y"))
    config.only("missing", ("x",))
    with pytest.raises(CheckpointError, match=r"config.json: d: is 'x', wish y or z \(not built here\)"):
        config.only("d", ("y", "z"))


def test_the_first_difference_of_two_architectures_is_named():
    spec = Llama().spec_from(HFConfig({**CONFIG, "model_type": "llama"}))
    form = canonical(spec, spec.d_model)
    assert difference(form, form, "model") is None
    other = spec.replace(stack=spec.stack.replace(num_layers=3))
    assert difference(form, canonical(other, 12), "model") == "model.stack.num_layers"


def test_building_on_the_meta_device_draws_nothing_and_keeps_shapes():
    spec = Llama().spec_from(HFConfig({**CONFIG, "model_type": "llama"}))
    state = torch.get_rng_state()
    with on_meta():
        empty = spec.build()
    assert torch.equal(torch.get_rng_state(), state)
    real = spec.build()
    assert all(p.is_meta for p in empty.parameters())
    assert {n: p.shape for n, p in empty.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
    with on_meta():
        assert not torch.equal(torch.zeros(3, device="cpu").normal_(), torch.zeros(3, device="cpu"))


@pytest.mark.parametrize("family", [*families()], ids=lambda family: family.name)
def test_a_number_of_layers_that_no_model_has_is_refused_before_they_are_listed(family):
    sample = next(iter(family.samples().values()))
    spec = family.spec_from(HFConfig(sample.config))
    written = family.config_from(spec)
    counts = [key for key in written if key in LAYERS]
    assert counts
    for key in counts:
        with pytest.raises(CheckpointError, match=f"{key}: is 1000000000, wish at most 10000"):
            family.spec_from(HFConfig({**written, key: 10**9}))

"""transformers' own GPT-2, BERT and T5 with random weights, and our models with the same ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import attnlib

State = dict[str, Tensor]


def gpt2(quick: bool) -> tuple[Any, Any]:
    """(ours, theirs) of GPT-2 small."""
    from transformers import GPT2Config, GPT2LMHeadModel

    layers = 2 if quick else 12
    config: Any = GPT2Config(n_layer=layers)
    theirs = GPT2LMHeadModel(_fused(config))
    ours: Any = attnlib.build("gpt2_small", f"model.stack.num_layers={layers}")
    state = {name: _linear(name, tensor) for name, tensor in theirs.state_dict().items()}
    pairs = {"embedding.token": "transformer.wte", "embedding.position": "transformer.wpe",
             "stack.final_norm": "transformer.ln_f"}  # fmt: skip
    for i in range(layers):
        old, new = f"transformer.h.{i}.", f"stack.blocks.{i}."
        for part in ("weight", "bias"):  # one matrix holds all three
            whole = state.pop(f"{old}attn.c_attn.{part}")
            for name, third in zip("qkv", whole.chunk(3)):
                state[f"{old}attn.{name}.{part}"] = third
        pairs |= {new + f"attention.body.{name}": old + f"attn.{name}" for name in "qkv"}
        pairs |= {new + "attention.body.out": old + "attn.c_proj", new + "attention.before": old + "ln_1"}
        pairs |= {new + "mlp.body.up": old + "mlp.c_fc", new + "mlp.body.down": old + "mlp.c_proj"}
        pairs[new + "mlp.before"] = old + "ln_2"
    return _filled(ours, state, pairs), theirs


def bert(quick: bool) -> tuple[Any, Any]:
    """(ours, theirs) of BERT base with its masked-language-model head."""
    from transformers import BertConfig, BertForMaskedLM

    layers = 2 if quick else 12
    config: Any = BertConfig(num_hidden_layers=layers)
    theirs = BertForMaskedLM(_fused(config))
    ours: Any = attnlib.build("bert_base", f"model.stack.num_layers={layers}")
    table, head = "bert.embeddings.", "cls.predictions."
    pairs = {"embedding.token": table + "word_embeddings", "embedding.position": table + "position_embeddings",
             "embedding.token_type": table + "token_type_embeddings", "embedding.norm": table + "LayerNorm",
             "head.dense": head + "transform.dense", "head.norm": head + "transform.LayerNorm"}  # fmt: skip
    names = {"attention.body.q": "attention.self.query", "attention.body.k": "attention.self.key",
             "attention.body.v": "attention.self.value", "attention.body.out": "attention.output.dense",
             "attention.outer": "attention.output.LayerNorm", "mlp.body.up": "intermediate.dense",
             "mlp.body.down": "output.dense", "mlp.outer": "output.LayerNorm"}  # fmt: skip
    for i in range(layers):
        pairs |= {f"stack.blocks.{i}.{new}": f"bert.encoder.layer.{i}.{old}" for new, old in names.items()}
    state = theirs.state_dict()
    state["vocabulary.bias"] = state[head + "bias"]
    return _filled(ours, state, pairs | {"head.vocabulary": "vocabulary"}), theirs


def t5(quick: bool) -> tuple[Any, Any]:
    """(ours, theirs) of T5 small, version 1.0."""
    from transformers import T5Config, T5ForConditionalGeneration

    layers = 2 if quick else 6
    config: Any = T5Config(num_layers=layers)
    config.decoder_start_token_id = 0
    theirs = T5ForConditionalGeneration(_fused(config))
    ours: Any = attnlib.build("t5_small", *(f"model.{stack}.num_layers={layers}" for stack in ("encoder", "decoder")))
    state = theirs.state_dict()
    pairs = {"embedding.token": "shared"}
    for stack in ("encoder", "decoder"):
        state[f"{stack}.table"] = state[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        pairs[f"{stack}.final_norm"] = f"{stack}.final_layer_norm"
        kinds = [("attention", "SelfAttention"), ("cross", "EncDecAttention"), ("mlp", "DenseReluDense")]
        for i in range(layers):
            for place, (new, old) in enumerate(k for k in kinds if stack == "decoder" or k[0] != "cross"):
                here, there = f"{stack}.blocks.{i}.{new}.", f"{stack}.block.{i}.layer.{place}."
                names = {"up": "wi", "down": "wo"} if new == "mlp" else {"q": "q", "k": "k", "v": "v", "out": "o"}
                pairs |= {f"{here}body.{a}": f"{there}{old}.{b}" for a, b in names.items()}
                pairs[here + "before"] = there + "layer_norm"
    ours = _filled(ours, state, pairs, {f"{stack}.bias.table": f"{stack}.table" for stack in ("encoder", "decoder")})
    return ours, theirs


def _fused(config: Any) -> Any:
    """The config, with F.scaled_dot_product_attention for attention."""
    config._attn_implementation = "sdpa"
    return config


def _linear(name: str, tensor: Tensor) -> Tensor:
    """GPT-2 keeps its matrices as [in, out]."""
    return tensor.T if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else tensor


def _filled(ours: Any, theirs: State, pairs: dict[str, str], tensors: dict[str, str] | None = None) -> Any:
    """Our model with their weights: `pairs` of modules, `tensors` by whole names; every one of ours must be there."""
    state = {ours_: theirs[name] for ours_, name in (tensors or {}).items()}
    for new, old in pairs.items():
        state |= {f"{new}.{part}": theirs[f"{old}.{part}"] for part in ("weight", "bias") if f"{old}.{part}" in theirs}
    ours.load_state_dict(state)
    return ours

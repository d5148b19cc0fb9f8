"""The two stacks of BART and its kin: config keys that begin with encoder_ or decoder_, names self_attn, fc1, fc2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from attnlib.attention.masks import Causal, Everything
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.errors import CheckpointError
from attnlib.models.block import BlockSpec, Placement
from attnlib.models.stack import StackSpec
from attnlib.nn.feed_forward import DenseSpec
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.activations import activation_from, activation_name
from attnlib.pretrained.family import HFConfig
from attnlib.pretrained.rules import Rename, renames

Side = Literal["encoder", "decoder"]
NORM = LayerNormSpec(eps=1e-5)
ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}


@dataclass(frozen=True)
class Wiring:
    """What a family's configs do not say of a stack, and what is meant where they say nothing."""

    placement: Placement
    final_norm: bool
    bias: bool | tuple[Literal["q", "k", "v", "out"], ...] = True
    layers: int = 12
    ffn_dim: int = 4096
    attention_heads: int = 16
    dropout: float = 0.1


def stack_from(config: HFConfig, side: Side, wiring: Wiring) -> StackSpec:
    """One stack of a config."""
    config.only(f"{side}_layerdrop", (0,))
    drop, decoder = config.get("dropout", float, wiring.dropout), side == "decoder"
    cross = SoftmaxAttentionSpec(
        num_heads=config.get(f"{side}_attention_heads", int, wiring.attention_heads),
        bias=wiring.bias,
        dropout=config.get("attention_dropout", float, 0.0),
    )
    mlp = DenseSpec(
        d_ff=config.get(f"{side}_ffn_dim", int, wiring.ffn_dim),
        activation=activation_from(config, "activation_function", "gelu"),
        dropout=config.get("activation_dropout", float, 0.0),
    )
    block = BlockSpec(
        placement=wiring.placement,
        norm=NORM,
        attention=cross.replace(mask=Causal() if decoder else Everything()),
        cross=cross if decoder else None,
        mlp=mlp,
        dropout=drop,
    )
    layers = config.get(f"{side}_layers", int, wiring.layers)
    return StackSpec(num_layers=layers, block=block, final_norm=NORM if wiring.final_norm else None)


def stack_config(stack: StackSpec, side: Side) -> dict[str, Any]:
    """What a config says of one stack."""
    block = stack.layers[0]
    if not isinstance(block.attention, SoftmaxAttentionSpec) or not isinstance(block.mlp, DenseSpec):
        fact = "is without softmax attention and a dense mlp"
        raise CheckpointError(f"model.{side}.block", fact, "wish such blocks")
    return {
        f"{side}_layers": stack.num_layers,
        f"{side}_attention_heads": block.attention.num_heads,
        f"{side}_ffn_dim": block.mlp.d_ff,
        "activation_function": activation_name(block.mlp.activation),
        "dropout": block.dropout,
        "attention_dropout": block.attention.dropout,
        "activation_dropout": block.mlp.dropout,
    }


def stack_rules(
    stack: StackSpec, theirs: str, ours: str, attention: Mapping[str, str] = ATTENTION
) -> list[Rename]:
    """The names of the tensors of one stack's blocks; `attention`: those of self-attention."""
    block, body = f"{theirs}layers.{{i}}.", f"{ours}blocks.{{i}}."
    norm = "outer" if stack.layers[0].placement == "post" else "before"
    rules = [
        *renames(f"{block}self_attn.", f"{body}attention.body.", attention),
        *renames(block, body, {"self_attn_layer_norm": f"attention.{norm}", "final_layer_norm": f"mlp.{norm}"}),
        *renames(block, f"{body}mlp.body.", {"fc1": "up", "fc2": "down"}),
    ]
    if stack.layers[0].cross is not None:
        rules += renames(f"{block}encoder_attn.", f"{body}cross.body.", ATTENTION)
        rules += renames(block, body, {"encoder_attn_layer_norm": f"cross.{norm}"})
    return rules

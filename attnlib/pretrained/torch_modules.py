"""torch's own attention modules read into ours: a spec of each, and one table of names.

    ours = from_torch(nn.TransformerEncoder(layer, 6))
    ours(x, Layout.dense(batch, tokens)).last            # x [B, T, M], whatever batch_first said
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.attention.masks import Everything, Mask
from attnlib.attention.softmax import SoftmaxAttention, SoftmaxAttentionSpec
from attnlib.errors import CheckpointError
from attnlib.layout import Layout
from attnlib.models.block import BlockSpec
from attnlib.models.stack import Stack, StackSpec
from attnlib.nn.feed_forward import Activation, DenseSpec
from attnlib.nn.meta import on_meta
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.rules import Rename, Rule, Split
from attnlib.pretrained.source import InMemory
from attnlib.pretrained.state import facts_of, give
from attnlib.pretrained.table import Table

PARTS = ("weight", "bias")
KINDS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.TransformerDecoderLayer,
         nn.TransformerDecoder, nn.Transformer)  # fmt: skip
FUNCTIONS: dict[Any, Activation] = {F.relu: "relu", torch.relu: "relu", F.gelu: "gelu", F.silu: "silu", torch.tanh: "tanh"}
MODULES: dict[type, Activation] = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Tanh: "tanh"}


class StackPair(nn.Module):
    """An encoder's stack and a decoder's, as nn.Transformer has them: source [B, S, M], target [B, T, M] -> [B, T, M]."""

    def __init__(self, encoder: Stack, decoder: Stack) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(
        self, source: Tensor, target: Tensor, source_layout: Layout | None = None, target_layout: Layout | None = None
    ) -> Tensor:
        source_layout = source_layout or Layout.dense(*source.shape[:2], device=source.device)
        target_layout = target_layout or Layout.dense(*target.shape[:2], device=target.device)
        memory = self.encoder(source, source_layout).last
        return self.decoder(target, target_layout, memory=self.decoder.remember(memory, source_layout)).last  # type: ignore[no-any-return]


def from_torch(module: nn.Module, *, mask: Mask | None = None) -> SoftmaxAttention | Stack | StackPair:
    """Ours with a copy of the weights of a module of torch, and equal outputs.

    nn.MultiheadAttention gives SoftmaxAttention: self-attention by ours(x), another source y by
    ours(x, memory=ours.remember(y, layout)). nn.TransformerEncoder, nn.TransformerDecoder and a single layer of either
    give a Stack (a decoder's takes memory=stack.remember(encoded, layout)), nn.Transformer a StackPair of two.

    Ours always has the batch first. What torch is given with each call is part of ours: `mask` is who sees whom in
    self-attention (of nn.Transformer: in the decoder's), by default everyone; padding is the Layout's. Device, dtype
    and training mode are those of the module. CheckpointError for what ours does not compute: bias_k and bias_v, a zero
    key, kdim that is not vdim, an activation or a norm of another kind, a subclass.
    """
    if type(module) not in KINDS:
        wish = f"wish one of nn.{', nn.'.join(kind.__name__ for kind in KINDS)}"
        raise CheckpointError("from_torch", f"is given a {type(module).__name__}", wish)
    build, rules = _plan(module, mask or Everything())
    with on_meta():
        ours = build()
    theirs = InMemory({name: tensor.detach().clone() for name, tensor in module.state_dict().items()})
    plan = Table(rules).plan(theirs.facts, facts_of(ours), where=type(module).__name__)
    device = next(module.parameters()).device
    return give(ours, plan, theirs, device=device, dtype=None).train(module.training)  # type: ignore[return-value]


def _plan(module: Any, mask: Mask) -> tuple[Callable[[], nn.Module], list[Rule]]:
    """What builds ours, and the names of both."""
    if isinstance(module, nn.MultiheadAttention):
        spec, width = _attention(module, mask, "module"), module.embed_dim
        other = None if module.kdim == width else module.kdim
        return lambda: spec.build(d_model=width, layer=0, d_memory=other), _attention_rules("", "")
    if isinstance(module, nn.Transformer):
        both = [(module.encoder, Everything(), "encoder"), (module.decoder, mask, "decoder")]
        for part, _, name in both:
            if type(part) not in (nn.TransformerEncoder, nn.TransformerDecoder):
                raise _other(f"module.{name}", type(part).__name__, "wish torch's own")
        specs = [_stack(part.layers, part.norm, seen, f"module.{name}") for part, seen, name in both]
        width, rules = module.d_model, [rule for part, _, name in both for rule in _stack_rules(part, f"{name}.")]
        return lambda: StackPair(specs[0].build(d_model=width, path="encoder"),
                                 specs[1].build(d_model=width, d_memory=width, path="decoder")), rules  # fmt: skip
    single = isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
    layers, norm = ([module], None) if single else (list(module.layers), module.norm)
    stack, width = _stack(layers, norm, mask, "module"), layers[0].self_attn.embed_dim
    return lambda: stack.build(d_model=width, d_memory=width), _stack_rules(module, "", single=single)


# -- specs --------------------------------------------------------------------------------------------------------


def _attention(module: Any, mask: Mask, where: str) -> SoftmaxAttentionSpec:
    if type(module) is not nn.MultiheadAttention:
        raise _other(where, type(module).__name__, "wish nn.MultiheadAttention itself")
    if module.bias_k is not None or module.add_zero_attn:
        word = "add_bias_kv" if module.bias_k is not None else "add_zero_attn"
        raise _other(f"{where}.{word}", "true", "wish false: ours adds no key of its own")
    if module.kdim != module.vdim:
        raise _other(f"{where}.kdim", f"{module.kdim} beside vdim {module.vdim}", "wish one width of what is attended to")
    biased = module.in_proj_bias is not None
    return SoftmaxAttentionSpec(num_heads=module.num_heads, mask=mask, bias=biased, dropout=float(module.dropout))


def _stack(layers: Sequence[Any], norm: Any, mask: Mask, where: str) -> StackSpec:
    specs = [_block(layer, mask, f"{where}.layers.{i}") for i, layer in enumerate(layers)]
    final = None if norm is None else _norm([norm], f"{where}.norm")
    if all(spec == specs[0] for spec in specs):
        return StackSpec(num_layers=len(specs), block=specs[0], final_norm=final)
    names = tuple(f"layer_{i}" for i in range(len(specs)))
    return StackSpec(num_layers=len(specs), blocks=dict(zip(names, specs)), pattern=names, final_norm=final)


def _block(layer: Any, mask: Mask, where: str) -> BlockSpec:
    if type(layer) not in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):
        raise _other(where, type(layer).__name__, "wish torch's own layers")
    crossed = isinstance(layer, nn.TransformerDecoderLayer)
    added = [layer.dropout1.p, layer.dropout2.p] + ([layer.dropout3.p] if crossed else [])
    if len(set(added[:-1])) > 1:
        raise _other(f"{where}.dropout1", str(added[0]), f"wish that of dropout2 ({added[1]})")
    norms = [layer.norm1, layer.norm2, *([layer.norm3] if crossed else [])]
    return BlockSpec(
        placement="pre" if layer.norm_first else "post",
        norm=_norm(norms, f"{where}.norm1"),
        attention=_attention(layer.self_attn, mask, f"{where}.self_attn"),
        cross=_attention(layer.multihead_attn, Everything(), f"{where}.multihead_attn") if crossed else None,
        mlp=DenseSpec(
            d_ff=layer.linear1.out_features, activation=_activation(layer.activation, where),
            bias=layer.linear1.bias is not None, dropout=layer.dropout.p,
        ),
        dropout=added[0],
        mlp_dropout=None if added[-1] == added[0] else added[-1],
    )  # fmt: skip


def _norm(norms: Sequence[Any], where: str) -> LayerNormSpec:
    """The one spec of all these norms."""
    if odd := next((norm for norm in norms if type(norm) is not nn.LayerNorm or len(norm.normalized_shape) != 1), None):
        raise _other(where, type(odd).__name__, "wish nn.LayerNorm over the width")
    specs = [LayerNormSpec(eps=n.eps, weight=n.weight is not None, bias=n.bias is not None) for n in norms]
    if any(spec != specs[0] for spec in specs):
        raise _other(where, str(norms[0]), f"wish the norms of a layer alike, not {norms[1]}")
    return specs[0]


def _activation(activation: Any, where: str) -> Activation:
    if isinstance(activation, nn.GELU):
        return "gelu_tanh" if activation.approximate == "tanh" else "gelu"
    found = FUNCTIONS.get(activation) or MODULES.get(type(activation))
    if found is None:
        known = ", ".join(dict.fromkeys([*FUNCTIONS.values(), "gelu_tanh"]))
        raise _other(f"{where}.activation", getattr(activation, "__name__", str(activation)), f"wish one of {known}")
    return found


def _other(path: str, fact: str, wish: str) -> CheckpointError:
    return CheckpointError(path, f"is {fact}", wish)


# -- names --------------------------------------------------------------------------------------------------------


def _attention_rules(theirs: str, ours: str) -> list[Rule]:
    """torch keeps q, k and v in one tensor where they read one width, else in three with one bias."""
    whole = [Split(f"{theirs}in_proj_{part}", (f"{ours}q.{part}", f"{ours}k.{part}", f"{ours}v.{part}")) for part in PARTS]
    apart = [Rename(f"{theirs}{name}_proj_weight", f"{ours}{name}.weight") for name in "qkv"]
    return [*whole, *apart, *_renames(f"{theirs}out_proj", f"{ours}out")]


def _renames(theirs: str, ours: str) -> list[Rule]:
    return [Rename(f"{theirs}.{part}", f"{ours}.{part}") for part in PARTS]


def _stack_rules(module: Any, prefix: str, *, single: bool = False) -> list[Rule]:
    layer = module if single else module.layers[0]
    theirs, ours = ("", f"{prefix}blocks.0.") if single else (f"{prefix}layers.{{i}}.", f"{prefix}blocks.{{i}}.")
    norm = "before" if layer.norm_first else "outer"
    attentions = {"attention": "self_attn", "cross": "multihead_attn"}
    if isinstance(layer, nn.TransformerEncoderLayer):
        del attentions["cross"]
    sublayers = [*attentions, "mlp"]
    return [
        *(rule for our, their in attentions.items() for rule in _attention_rules(f"{theirs}{their}.", f"{ours}{our}.body.")),
        *_renames(f"{theirs}linear1", f"{ours}mlp.body.up"),
        *_renames(f"{theirs}linear2", f"{ours}mlp.body.down"),
        *(rule for i, name in enumerate(sublayers, 1) for rule in _renames(f"{theirs}norm{i}", f"{ours}{name}.{norm}")),
        *_renames(f"{prefix}norm", f"{prefix}final_norm"),
    ]

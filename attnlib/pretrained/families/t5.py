"""T5 1.0 and 1.1 (FLAN): unscaled scores, one table of bucketed distances a stack, RMS norms before each sublayer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from attnlib.attention.biases import T5RelativeSpec
from attnlib.attention.masks import Causal, Everything
from attnlib.attention.scores import ScoresSpec
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.errors import CheckpointError
from attnlib.models.block import BlockSpec
from attnlib.models.encoder import EncoderSpec
from attnlib.models.encoder_decoder import EncoderDecoderSpec
from attnlib.models.heads import ClassifyHeadSpec, HeadSpec, LMHeadSpec, NoHeadSpec, SpanHeadSpec, TagHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.embeddings import EmbeddingSpec
from attnlib.nn.feed_forward import DenseSpec, FeedForward, GatedSpec
from attnlib.nn.init import UnscaledScores
from attnlib.nn.norms import RMSNormSpec
from attnlib.pretrained.activations import activation_from, activation_name
from attnlib.pretrained.family import Family, HFConfig, Sample
from attnlib.pretrained.labels import labels_config, labels_from, problem_from
from attnlib.pretrained.rules import Ignore, Rename, Rule, Tied, renames
from attnlib.pretrained.table import Table

ATTENTION = {"q": "q", "k": "k", "v": "v", "o": "out"}
BIAS = "SelfAttention.relative_attention_bias.weight"


def classes(prefix: str) -> dict[str, str]:
    """The classes of a family of this group, each with the kind of our head."""
    return {
        f"{prefix}ForConditionalGeneration": "lm", f"{prefix}Model": "none", f"{prefix}EncoderModel": "none",
        f"{prefix}ForSequenceClassification": "classify", f"{prefix}ForTokenClassification": "tag",
        f"{prefix}ForQuestionAnswering": "span",
    }  # fmt: skip


class T5(Family):
    """Raffel et al. 2020 (arXiv:1910.10683), Chung et al. 2022 (arXiv:2210.11416)."""

    name = "t5"
    model_types = ("t5",)
    prefix: ClassVar[str] = "T5"
    architectures = classes("T5")
    feed_forward: ClassVar[str] = "relu"  # where a config says nothing
    own_bias: ClassVar[bool] = False  # every layer has its table of distances, not the first for all

    # -- configs ----------------------------------------------------------------------------------------------------

    def spec_from(self, config: HFConfig) -> ModelSpec:
        width, drop = config.get("d_model", int), config.get("dropout_rate", float, 0.1)
        layers = config.get("num_layers", int)
        shared: dict[str, Any] = {
            "d_model": width,
            "vocab_size": config.get("vocab_size", int),
            "embedding": EmbeddingSpec(dropout=drop),
            "init": UnscaledScores(factor=config.get("initializer_factor", float, 1.0), d_head=config.get("d_kv", int, 64)),
            "head": self._head(config),
        }
        if self._reads_alone(self.architecture(config)):
            return EncoderSpec(stack=self._stack(config, layers, drop, decoder=False), **shared)
        return EncoderDecoderSpec(
            encoder=self._stack(config, layers, drop, decoder=False),
            decoder=self._stack(config, config.get("num_decoder_layers", int, layers), drop, decoder=True),
            decoder_start=config.get("decoder_start_token_id", int, config.get("pad_token_id", int, 0)),
            **shared,
        )

    def _stack(self, config: HFConfig, layers: int, drop: float, *, decoder: bool) -> StackSpec:
        bias = T5RelativeSpec(
            buckets=config.get("relative_attention_num_buckets", int, 32),
            max_distance=config.get("relative_attention_max_distance", int, 128),
            both=not decoder,
        )
        cross = SoftmaxAttentionSpec(
            num_heads=config.get("num_heads", int),
            d_head=config.get("d_kv", int, 64),
            scores=ScoresSpec(scale=1.0),
            dropout=drop,
        )
        norm = RMSNormSpec(eps=config.get("layer_norm_epsilon", float, 1e-6))
        mask = Causal() if decoder else Everything()
        block = BlockSpec(
            norm=norm,
            attention=cross.replace(mask=mask, term=bias if self.own_bias else None),
            cross=cross if decoder else None,
            mlp=self._mlp(config, drop),
            dropout=drop,
        )
        shared = None if self.own_bias else bias
        return StackSpec(num_layers=layers, block=block, final_norm=norm, bias=shared, dropout=drop)

    def _mlp(self, config: HFConfig, drop: float) -> FeedForward:
        gate, _, name = config.get("feed_forward_proj", str, self.feed_forward).rpartition("-")
        if gate not in ("", "gated"):
            fact = f"is {config.tree['feed_forward_proj']!r}"
            raise CheckpointError(f"{config.where}: feed_forward_proj", fact, "wish gated-NAME or NAME of an activation")
        found = HFConfig({"feed_forward_proj": "gelu_new" if gate and name == "gelu" else name}, config.where)
        options: dict[str, Any] = {
            "d_ff": config.get("d_ff", int), "activation": activation_from(found, "feed_forward_proj", ""),
            "bias": False, "dropout": drop,
        }  # fmt: skip
        return GatedSpec(**options) if gate else DenseSpec(**options)

    def _head(self, config: HFConfig) -> HeadSpec:
        kind = self.architectures[self.architecture(config)]
        drop = config.get("classifier_dropout", float, 0.0)
        if kind == "lm":
            return LMHeadSpec(**self._vocabulary(config))
        if kind == "classify":
            labels: dict[str, Any] = {**labels_from(config), "problem": problem_from(config)}
            return ClassifyHeadSpec(pooling="last", dropout=drop, **labels)
        if kind == "tag":
            return TagHeadSpec(dropout=drop, **labels_from(config))
        return SpanHeadSpec() if kind == "span" else NoHeadSpec()

    def _vocabulary(self, config: HFConfig) -> dict[str, Any]:
        """1.0 ties and scales; 1.1 is known by a false `tie_word_embeddings`, and does neither."""
        tied = config.get("tie_word_embeddings", bool, True)
        scaled = config.get("scale_decoder_outputs", bool, tied)
        return {"tied": tied, "scale": "inverse_sqrt" if scaled else 1.0}

    def config_from(self, spec: ModelSpec) -> dict[str, Any]:
        if not isinstance(spec, EncoderSpec | EncoderDecoderSpec):
            raise CheckpointError("model", f"is of kind {spec.kind!r}", "wish an encoder_decoder or an encoder")
        stack = spec.stack if isinstance(spec, EncoderSpec) else spec.encoder
        attention, mlp, norm = stack.layers[0].attention, stack.layers[0].mlp, stack.layers[0].norm
        bias = getattr(attention, "term", None) if self.own_bias else stack.bias
        if not isinstance(attention, SoftmaxAttentionSpec) or not isinstance(bias, T5RelativeSpec):
            fact = "is without softmax attention and t5_relative"
            raise CheckpointError("model.encoder", fact, f"wish a {self.name} model")
        if not isinstance(mlp, DenseSpec | GatedSpec) or not isinstance(norm, RMSNormSpec):
            raise CheckpointError("model.encoder.block", "is without an RMS norm and an mlp", f"wish a {self.name} model")
        drop = getattr(spec.head, "dropout", 0.0)
        tree: dict[str, Any] = {
            "model_type": self.model_types[0],
            "architectures": [self.architecture_of(spec)],
            "is_encoder_decoder": isinstance(spec, EncoderDecoderSpec),
            "vocab_size": spec.vocab_size,
            "d_model": spec.d_model,
            "d_kv": attention.d_head or spec.d_model // attention.num_heads,
            "d_ff": mlp.d_ff,
            "num_layers": stack.num_layers,
            "num_heads": attention.num_heads,
            "relative_attention_num_buckets": bias.buckets,
            "relative_attention_max_distance": bias.max_distance,
            "feed_forward_proj": _projection(mlp),
            "layer_norm_epsilon": norm.eps,
            "dropout_rate": stack.dropout,
            "classifier_dropout": drop,
            **labels_config(spec.head),
            **({"initializer_factor": spec.init.factor} if isinstance(spec.init, UnscaledScores) else {}),
        }
        if isinstance(spec, EncoderDecoderSpec):
            tree |= {"num_decoder_layers": spec.decoder.num_layers, "decoder_start_token_id": spec.decoder_start}
        if isinstance(spec.head, LMHeadSpec):
            tree |= self._vocabulary_config(spec.head)
        self.say(spec, tree)
        return tree

    def _vocabulary_config(self, head: LMHeadSpec) -> dict[str, Any]:
        return {"tie_word_embeddings": head.tied, "scale_decoder_outputs": head.scale == "inverse_sqrt"}

    def _reads_alone(self, architecture: str) -> bool:
        """Whether a class has the encoder only."""
        return architecture in (f"{self.prefix}EncoderModel", f"{self.prefix}ForTokenClassification")

    def classes_of(self, spec: ModelSpec) -> Mapping[str, str]:
        return {n: k for n, k in self.architectures.items() if self._reads_alone(n) == isinstance(spec, EncoderSpec)}

    # -- tensors ----------------------------------------------------------------------------------------------------

    def table(self, spec: ModelSpec) -> Table:
        wrapped = spec.head.kind in ("classify", "tag")
        top = "transformer." if wrapped else ""
        rules: list[Rule | Tied | Ignore] = [Rename(f"{top}shared.weight", "embedding.token.weight")]
        if isinstance(spec, EncoderSpec):
            rules += self._stack_rules(spec.stack, f"{top}encoder.", "stack.")
        elif isinstance(spec, EncoderDecoderSpec):
            rules += self._stack_rules(spec.encoder, f"{top}encoder.", "encoder.")
            rules += self._stack_rules(spec.decoder, f"{top}decoder.", "decoder.")
        return Table([*rules, *_head_rules(spec.head)])

    def _stack_rules(self, spec: StackSpec, theirs: str, ours: str) -> list[Rule | Tied | Ignore]:
        block, body = f"{theirs}block.{{i}}.layer.", f"{ours}blocks.{{i}}."
        weights = partial(renames, parts=("weight",))
        decoder, gated = spec.layers[0].cross is not None, isinstance(spec.layers[0].mlp, GatedSpec)
        mlp = f"{block}{2 if decoder else 1}."
        ups = {"wi_0": "gate", "wi_1": "up", "wo": "down"} if gated else {"wi": "up", "wo": "down"}
        rules: list[Rule | Tied | Ignore] = [
            Tied(f"{theirs}embed_tokens.weight", "embedding.token.weight"),
            *weights(theirs, ours, {"final_layer_norm": "final_norm"}),
            *weights(f"{block}0.SelfAttention.", f"{body}attention.body.", ATTENTION),
            *weights(f"{block}0.", f"{body}attention.", {"layer_norm": "before"}),
            *weights(f"{mlp}DenseReluDense.", f"{body}mlp.body.", ups),
            *weights(mlp, f"{body}mlp.", {"layer_norm": "before"}),
        ]
        if self.own_bias:
            rules.append(Rename(f"{block}0.{BIAS}", f"{body}attention.body.rule.terms.0.table"))
        else:
            rules.append(Rename(f"{theirs}block.0.layer.0.{BIAS}", f"{ours}bias.table"))
        if decoder:
            rules += weights(f"{block}1.EncDecAttention.", f"{body}cross.body.", ATTENTION)
            rules += weights(f"{block}1.", f"{body}cross.", {"layer_norm": "before"})
            why = "cross-attention adds no bias; old files store a table that was never used"
            rules.append(Ignore(f"{theirs}block.0.layer.1.EncDecAttention.relative_attention_bias.weight", why))
        return rules

    def untied(self, spec: ModelSpec, theirs: str) -> ModelSpec:
        if theirs != "lm_head.weight" or not isinstance(spec.head, LMHeadSpec):
            return super().untied(spec, theirs)
        return spec.replace(head=spec.head.replace(tied=False))

    # -- proof ------------------------------------------------------------------------------------------------------

    def samples(self) -> Mapping[str, Sample]:
        base = {
            "vocab_size": 67, "d_model": 24, "d_kv": 7, "d_ff": 44, "num_layers": 2, "num_heads": 3,
            "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "decoder_start_token_id": 0,
            "layer_norm_epsilon": 1e-5,
        }  # fmt: skip
        gated = {**base, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 3}
        lm, more = f"{self.prefix}ForConditionalGeneration", self.odd_samples(base, gated)
        return {
            **{name: Sample(lm, config, untied=untied) for name, (config, untied) in more.items()},
            "headless": Sample(f"{self.prefix}Model", gated),
            "encoder": Sample(f"{self.prefix}EncoderModel", gated),
            "classes of texts": Sample(f"{self.prefix}ForSequenceClassification", {**gated, "num_labels": 3}),
            "classes of tokens": Sample(f"{self.prefix}ForTokenClassification", {**gated, "num_labels": 5}),
            "answers": Sample(f"{self.prefix}ForQuestionAnswering", gated),
        }

    def odd_samples(self, base: dict[str, Any], gated: dict[str, Any]) -> dict[str, tuple[dict[str, Any], tuple[str, ...]]]:
        """Language models by what is odd about them, each with the parameters that it holds apart."""
        return {
            "1.0": (base, ()),
            "1.1": ({**gated, "tie_word_embeddings": False}, ("lm_head.weight",)),
            "tied, unscaled": ({**gated, "feed_forward_proj": "gated-silu", "tie_word_embeddings": False}, ()),
        }


def _projection(mlp: DenseSpec | GatedSpec) -> str:
    if isinstance(mlp, DenseSpec):
        return activation_name(mlp.activation)
    return "gated-gelu" if mlp.activation == "gelu_tanh" else f"gated-{activation_name(mlp.activation)}"


def _head_rules(head: HeadSpec) -> list[Rule | Tied]:
    if isinstance(head, LMHeadSpec):
        tied = Tied("lm_head.weight", "embedding.token.weight")
        return [tied if head.tied else Rename("lm_head.weight", "head.vocabulary.weight")]
    if head.kind == "classify":
        return [*renames("classification_head.", "head.", {"dense": "dense", "out_proj": "project"})]
    return [*renames("", "head.", {"classifier" if head.kind == "tag" else "qa_outputs": "project"})]

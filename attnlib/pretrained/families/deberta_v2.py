"""DeBERTa v2 and v3: BERT whose scores also hear of distances, from one table of relative positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attnlib.attention.disentangled import DisentangledSpec, Part
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.errors import CheckpointError
from attnlib.models.block import BlockSpec
from attnlib.models.encoder import EncoderSpec
from attnlib.models.heads import ClassifyHeadSpec, HeadSpec, SpanHeadSpec, TagHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.conv import ConvSpec
from attnlib.nn.embeddings import EmbeddingSpec, LearnedSpec
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.activations import activation_from, activation_name
from attnlib.pretrained.families.bert import Bert
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.labels import labels_from, problem_from
from attnlib.pretrained.parts import part
from attnlib.pretrained.rules import Alias, Ignore, Rename, Row, Tied, renames
from attnlib.pretrained.table import Table

MOST_POSITIONS = 512  # max_position_embeddings of a silent config
HEADS = {"lm_predictions.lm_head.dense": "cls.predictions.transform.dense",
         "lm_predictions.lm_head.LayerNorm": "cls.predictions.transform.LayerNorm"}  # fmt: skip
NO_TABLE = "of a table of positions, which relative_attention says is not there"


class DebertaV2(Bert):
    """He et al. 2021 (arXiv:2006.03654, arXiv:2111.09543)."""

    name = "deberta_v2"
    model_types = ("deberta-v2",)
    architectures = {
        "DebertaV2ForMaskedLM": "masked_lm", "DebertaV2Model": "none", "DebertaV2ForSequenceClassification": "classify",
        "DebertaV2ForTokenClassification": "tag", "DebertaV2ForQuestionAnswering": "span",
    }  # fmt: skip
    uncovered = "multiple choice, the detector of replaced tokens; masked LMs are written in the layout with `cls.`"
    prefix = "deberta."
    roots = ("embeddings", "encoder")
    names: ClassVar[Mapping[str, str]] = {
        **{theirs: ours for theirs, ours in Bert.names.items() if ".self." not in theirs},
        "attention.self.query_proj": "attention.body.q", "attention.self.key_proj": "attention.body.k",
        "attention.self.value_proj": "attention.body.v", "attention.self.pos_key_proj": "attention.body.rule.terms.0.k",
        "attention.self.pos_query_proj": "attention.body.rule.terms.0.q",
    }  # fmt: skip

    # -- from a config ----------------------------------------------------------------------------------------------

    def refuse(self, config: HFConfig) -> None:
        super().refuse(config)
        width = config.get("hidden_size", int)
        config.only("pooler_hidden_size", (width,))
        config.only("attention_head_size", (width // config.get("num_attention_heads", int),))

    def norm(self, config: HFConfig) -> LayerNormSpec:
        return LayerNormSpec(eps=config.get("layer_norm_eps", float, 1e-7))

    def embedding(self, config: HFConfig) -> EmbeddingSpec:
        width, narrow = config.get("hidden_size", int), config.get("embedding_size", int, None)
        factorised = narrow is not None and narrow != width
        positions = LearnedSpec(max_length=config.get("max_position_embeddings", int, MOST_POSITIONS))
        return EmbeddingSpec(
            d_embedding=narrow if factorised else None,
            position=positions if config.get("position_biased_input", bool, True) else None,
            types=config.get("type_vocab_size", int, 0),
            project_bias=not factorised,
            norm_last=factorised,
        )

    def stack(self, config: HFConfig, block: BlockSpec) -> StackSpec:
        attention = part(block.attention, SoftmaxAttentionSpec, "model.stack.block.attention")
        d_head, parts = config.get("hidden_size", int) // attention.num_heads, _parts(config)
        scores = attention.scores.replace(scale=((1 + len(parts)) * d_head) ** -0.5)
        block = block.replace(attention=attention.replace(scores=scores))
        bias, count = self._relative(config, parts), config.get("num_hidden_layers", int)
        if (conv := self._conv(config)) is None:
            return StackSpec(num_layers=count, block=block, bias=bias)
        blocks = {"first": block.replace(conv=conv), "rest": block}
        return StackSpec(num_layers=count, blocks=blocks, pattern=("first", *("rest",) * (count - 1)), bias=bias)

    def _relative(self, config: HFConfig, parts: tuple[Part, ...]) -> DisentangledSpec | None:
        if not config.get("relative_attention", bool, False):
            return None
        if not parts:
            raise CheckpointError(f"{config.where}: pos_att_type", "is missing beside relative_attention", "wish c2p or p2c")
        reach, buckets = config.get("max_relative_positions", int, -1), config.get("position_buckets", int, -1)
        if reach < 1:
            reach = config.get("max_position_embeddings", int, MOST_POSITIONS)
        return DisentangledSpec(
            buckets=buckets if buckets > 0 else None,
            max_distance=reach,
            parts=parts,
            share=config.get("share_att_key", bool, False),
            norm=self.norm(config) if "layer_norm" in _words(config, "norm_rel_ebd") else None,
            dropout=config.get("hidden_dropout_prob", float, 0.1),
        )

    def _conv(self, config: HFConfig) -> ConvSpec | None:
        """The convolution of the first layer."""
        kernel = config.get("conv_kernel_size", int, 0)
        if kernel < 1:
            return None
        if kernel % 2 == 0:
            raise CheckpointError(f"{config.where}: conv_kernel_size", f"is {kernel}", "wish an odd number")
        return ConvSpec(
            kernel=kernel,
            groups=config.get("conv_groups", int, 1),
            activation=activation_from(config, "conv_act", "tanh"),
            norm=self.norm(config),
            dropout=config.get("hidden_dropout_prob", float, 0.1),
        )

    def head(self, config: HFConfig, kind: str, norm: LayerNormSpec) -> HeadSpec:
        dropout = config.get("hidden_dropout_prob", float, 0.1)
        if kind == "classify":
            return ClassifyHeadSpec(
                **labels_from(config),
                problem=problem_from(config),
                activation=activation_from(config, "pooler_hidden_act", "gelu"),
                dropout=config.get("cls_dropout", float, dropout),
                hidden_dropout=config.get("pooler_dropout", float, 0.0),
            )
        if kind == "tag":
            return TagHeadSpec(**labels_from(config), dropout=dropout)
        return super().head(config, kind, norm)

    # -- to a config ------------------------------------------------------------------------------------------------

    def config_of(self, spec: EncoderSpec) -> dict[str, Any]:
        layer, bias, embedding = spec.stack.layers[0], spec.stack.bias, spec.embedding
        attention = part(layer.attention, SoftmaxAttentionSpec, "model.stack.block.attention")
        norm = part(layer.norm, LayerNormSpec, "model.stack.block.norm")
        d_head = spec.d_model // attention.num_heads
        shares = round(1 / (d_head * (attention.scores.scale or d_head**-0.5) ** 2)) - 1
        found: dict[str, Any] = {
            "layer_norm_eps": norm.eps,
            "type_vocab_size": embedding.types,
            "position_biased_input": embedding.position is not None,
            "relative_attention": bias is not None,
            "pos_att_type": ["c2p", "p2c"][:shares],
            "legacy": True,
            "tie_word_embeddings": True,
        }
        if isinstance(embedding.position, LearnedSpec):
            found["max_position_embeddings"] = embedding.position.max_length
        if embedding.d_embedding is not None:
            found["embedding_size"] = embedding.d_embedding
        if bias is not None:
            found |= _relative_config(part(bias, DisentangledSpec, "model.stack.bias"))
        if layer.conv is not None:
            found |= {"conv_kernel_size": layer.conv.kernel, "conv_groups": layer.conv.groups,
                      "conv_act": activation_name(layer.conv.activation)}  # fmt: skip
        if isinstance(spec.head, ClassifyHeadSpec):
            found |= {"pooler_hidden_act": activation_name(spec.head.activation), "cls_dropout": spec.head.dropout,
                      "pooler_dropout": spec.head.hidden_dropout}  # fmt: skip
        return found

    # -- names ------------------------------------------------------------------------------------------------------

    def table(self, spec: ModelSpec) -> Table:
        bare = spec.head.kind == "none"
        top = "" if bare else self.prefix
        stack = part(spec, EncoderSpec, "model").stack
        position = f"{top}embeddings.position_embeddings.weight"
        convolution = {"conv.conv": "conv.conv", "conv.LayerNorm": "conv.norm"}
        rules: list[Rename | Row | Tied | Ignore] = [
            Rename(f"{top}embeddings.word_embeddings.weight", "embedding.token.weight"),
            Rename(f"{top}embeddings.token_type_embeddings.weight", "embedding.token_type.weight"),
            Rename(f"{top}embeddings.embed_proj.weight", "embedding.project.weight"),
            *renames(f"{top}embeddings.", "embedding.", {"LayerNorm": "norm"}),
            Ignore(f"{top}embeddings.position_ids", "counts from 0"),
            Ignore(position, "added to nothing: position_biased_input is false") if spec.embedding.position is None
            else Rename(position, "embedding.position.weight"),
            *renames(top + self.layer, "stack.blocks.{i}.", self.names),
            *renames(f"{top}encoder.", "stack.blocks.0.", convolution),
            *self.head_rules(spec.head, top),
        ]  # fmt: skip
        if stack.bias is None:
            rules += [Ignore(f"{top}encoder.{name}.{{*}}", NO_TABLE) for name in ("rel_embeddings", "LayerNorm")]
        else:
            rules.append(Rename(f"{top}encoder.rel_embeddings.weight", "stack.bias.table"))
            rules += renames(f"{top}encoder.", "stack.bias.", {"LayerNorm": "norm"})
        return Table(rules, self.spellings(bare))

    def head_rules(self, head: HeadSpec, top: str) -> list[Rename | Row | Tied | Ignore]:
        match head.kind:
            case "masked_lm":
                detector = Ignore("mask_predictions.{*}", "detects replaced tokens, in pre-training")
                return [*self.predictions("head."), detector]
            case "classify":
                return list(renames("", "head.", {"pooler.dense": "dense", "classifier": "project"}))
            case "tag":
                return list(renames("", "head.", {"classifier": "project"}))
        return list(renames("", "head.", {"qa_outputs": "project"})) if isinstance(head, SpanHeadSpec) else []

    def spellings(self, bare: bool) -> list[Alias]:
        """Those of BERT, and the masked LM's head as files with `legacy: false` have it: the same tensors."""
        newer = [Alias(f"{new}.{{*}}", f"{old}.{{*}}") for new, old in HEADS.items()]
        newer.append(Alias("lm_predictions.lm_head.bias", "cls.predictions.bias"))
        return [*newer, *super().spellings(bare)]

    # -- proof ------------------------------------------------------------------------------------------------------

    def samples(self) -> Mapping[str, Sample]:
        v3 = {
            **self.tiny, "num_hidden_layers": 3, "relative_attention": True, "position_biased_input": False,
            "position_buckets": 4, "max_relative_positions": 9, "share_att_key": True, "pos_att_type": "p2c|c2p",
            "norm_rel_ebd": "layer_norm",
        }  # fmt: skip
        own = {**v3, "share_att_key": False, "norm_rel_ebd": "none"}
        made: dict[str, tuple[str, dict[str, Any]]] = {
            "v3": ("MaskedLM", v3),
            "v3, the newer head": ("MaskedLM", {**v3, "legacy": False}),
            "v2 with a convolution": ("MaskedLM", {**v3, "conv_kernel_size": 3, "conv_act": "gelu"}),
            "own projections, no buckets": ("MaskedLM", {
                **own, "position_buckets": -1, "max_relative_positions": -1, "max_position_embeddings": 20,
                "type_vocab_size": 2, "position_biased_input": True,
            }),
            "c2p": ("MaskedLM", {**own, "pos_att_type": ["c2p"], "conv_kernel_size": 5, "conv_groups": 2}),
            "p2c": ("MaskedLM", {**v3, "pos_att_type": ["p2c"], "hidden_act": "relu", "layer_norm_eps": 1e-3}),
            "absolute, factorised": ("MaskedLM", {**self.tiny, "embedding_size": 10, "type_vocab_size": 3}),
            "classes": ("SequenceClassification", {**v3, "num_labels": 3, "pooler_hidden_act": "relu"}),
            "tags": ("TokenClassification", {**v3, "num_labels": 5}),
            "answers": ("QuestionAnswering", v3),
        }  # fmt: skip
        samples = {name: Sample(f"DebertaV2For{head}", config, "eager") for name, (head, config) in made.items()}
        return {**samples, "headless": Sample("DebertaV2Model", v3, "eager")}


def _words(config: HFConfig, key: str) -> list[str]:
    """A list, or text with bars between the words."""
    value = config.tree.get(key)
    if isinstance(value, list):
        return [str(word) for word in value]
    return [word.strip() for word in config.get(key, str, "").lower().split("|") if word.strip()]


def _parts(config: HFConfig) -> tuple[Part, ...]:
    words, known = _words(config, "pos_att_type"), ("c2p", "p2c")
    if odd := [word for word in words if word not in known]:
        raise CheckpointError(f"{config.where}: pos_att_type", f"names {odd[0][:80]!r}", "wish c2p, p2c or both")
    return tuple(name for name in known if name in words)  # type: ignore[misc]


def _relative_config(bias: DisentangledSpec) -> dict[str, Any]:
    return {
        "pos_att_type": [*bias.parts],
        "position_buckets": bias.buckets or -1,
        "max_relative_positions": bias.max_distance,
        "share_att_key": bias.share,
        "norm_rel_ebd": "none" if bias.norm is None else "layer_norm",
    }

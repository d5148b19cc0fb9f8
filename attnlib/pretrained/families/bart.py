"""BART: norms after each sublayer and after the embeddings; both stacks and the head read one table of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attnlib.errors import CheckpointError
from attnlib.models.encoder_decoder import EncoderDecoderSpec
from attnlib.models.heads import ClassifyHeadSpec, HeadSpec, LMHeadSpec, NoHeadSpec, SpanHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.embeddings import EmbeddingSpec, LearnedSpec, PositionSpec, SinusoidalSpec
from attnlib.nn.init import Normal
from attnlib.pretrained.family import Family, HFConfig, Sample
from attnlib.pretrained.labels import labels_config, labels_from, problem_from
from attnlib.pretrained.rules import Alias, Ignore, Rename, Row, Rule, Tied, renames
from attnlib.pretrained.seq2seq import NORM, Wiring, stack_config, stack_from, stack_rules
from attnlib.pretrained.table import Table

SIDES = {"encoder": "embedding.", "decoder": "decoder_embedding."}
OFFSET = 2  # rows before the first position
LM_HEAD = "lm_head.weight"


class Bart(Family):
    """Lewis et al. 2020 (arXiv:1910.13461)."""

    name = "bart"
    model_types = ("bart",)
    architectures = {
        "BartForConditionalGeneration": "lm", "BartModel": "none", "BartForSequenceClassification": "classify",
        "BartForQuestionAnswering": "span",
    }  # fmt: skip
    positions = "none"
    uncovered = "the decoder alone, layerdrop"
    wiring: ClassVar[Wiring] = Wiring(placement="post", final_norm=False)
    embedding_norm: ClassVar[bool] = True
    prefix: ClassVar[str] = "model."
    start: ClassVar[int] = 2  # where a config does not say how the decoder begins

    # -- configs ----------------------------------------------------------------------------------------------------

    def spec_from(self, config: HFConfig) -> EncoderDecoderSpec:
        embedding = EmbeddingSpec(
            scale="sqrt" if config.get("scale_embedding", bool, False) else 1.0,
            round_scale=False,
            position=self.position_from(config),
            norm=NORM if self.embedding_norm else None,
            dropout=config.get("dropout", float, 0.1),
        )
        return EncoderDecoderSpec(
            d_model=config.get("d_model", int, 1024),
            vocab_size=config.get("vocab_size", int),
            embedding=embedding,
            decoder_embedding=embedding,
            share_tokens=True,
            encoder=stack_from(config, "encoder", self.wiring),
            decoder=stack_from(config, "decoder", self.wiring),
            decoder_start=config.get("decoder_start_token_id", int, self.start),
            head=self.head_from(config),
            init=Normal(scale=config.get("init_std", float, 0.02)),
        )

    def position_from(self, config: HFConfig) -> PositionSpec:
        return LearnedSpec(max_length=config.get("max_position_embeddings", int, 1024), offset=OFFSET)

    def head_from(self, config: HFConfig) -> HeadSpec:
        kind = self.architectures[self.architecture(config)]
        if kind == "lm":
            return LMHeadSpec(tied=self.tied_from(config), bias=True)
        if kind == "classify":
            labels: dict[str, Any] = {**labels_from(config, count=3), "problem": problem_from(config)}
            return ClassifyHeadSpec(pooling="last", dropout=config.get("classifier_dropout", float, 0.0), **labels)
        return SpanHeadSpec() if kind == "span" else NoHeadSpec()

    def tied_from(self, config: HFConfig) -> bool:
        """Whether the head reads a table of tokens; what would also tear the tables of the stacks apart is refused."""
        config.only("tie_word_embeddings", (True,))
        return True

    def config_from(self, spec: ModelSpec) -> dict[str, Any]:
        if not isinstance(spec, EncoderDecoderSpec):
            raise CheckpointError("model", f"is of kind {spec.kind!r}", "wish an encoder_decoder")
        position = spec.embedding.position
        if not isinstance(position, LearnedSpec | SinusoidalSpec) or position.max_length is None:
            raise CheckpointError("model.embedding.position", "is without a max_length", f"wish a {self.name} model")
        tree = {
            "model_type": self.model_types[0],
            "architectures": [self.architecture_of(spec)],
            "is_encoder_decoder": True,
            "vocab_size": spec.vocab_size,
            "d_model": spec.d_model,
            "max_position_embeddings": position.max_length,
            "scale_embedding": spec.embedding.scale == "sqrt",
            "decoder_start_token_id": spec.decoder_start,
            "classifier_dropout": getattr(spec.head, "dropout", 0.0),
            **self.tables_config(spec),
            **stack_config(spec.encoder, "encoder"),
            **stack_config(spec.decoder, "decoder"),
            **labels_config(spec.head),
            **({"init_std": spec.init.scale} if isinstance(spec.init, Normal) else {}),
        }
        self.say(spec, tree)
        return tree

    def tables_config(self, spec: EncoderDecoderSpec) -> dict[str, Any]:
        """What a config says of tables of tokens."""
        return {}

    # -- tensors ----------------------------------------------------------------------------------------------------

    def table(self, spec: ModelSpec) -> Table:
        if not isinstance(spec, EncoderDecoderSpec):
            raise CheckpointError("model", f"is of kind {spec.kind!r}", "wish an encoder_decoder")
        headless = isinstance(spec.head, NoHeadSpec)
        top = "" if headless else self.prefix
        rules: list[Rule | Tied | Ignore] = self.token_rules(spec, top)
        for side, ours in SIDES.items():
            rules += self.block_rules(spec.encoder if side == "encoder" else spec.decoder, f"{top}{side}.", f"{side}.")
            rules += self.position_rules(spec, f"{top}{side}.embed_positions.weight", ours)
            if self.wiring.final_norm:
                rules += renames(f"{top}{side}.", f"{side}.", {"layer_norm": "final_norm"})
            if self.embedding_norm:
                rules += renames(f"{top}{side}.", ours, {"layernorm_embedding": "norm"})
            rules.append(Ignore(f"{top}{side}.version", "a mark of the files of old"))
        names = ("shared.weight", "encoder.{*}", "decoder.{*}")
        other = [Alias(f"{self.prefix}{n}", n) if headless else Alias(n, f"{self.prefix}{n}") for n in names]
        return Table([*rules, *self.head_rules(spec)], other)

    def block_rules(self, stack: StackSpec, theirs: str, ours: str) -> list[Rename]:
        return stack_rules(stack, theirs, ours)

    def token_rules(self, spec: EncoderDecoderSpec, top: str) -> list[Rule | Tied | Ignore]:
        copies = (Tied(f"{top}{side}.embed_tokens.weight", "embedding.token.weight") for side in SIDES)
        return [Rename(f"{top}shared.weight", "embedding.token.weight"), *copies]

    def position_rules(self, spec: EncoderDecoderSpec, theirs: str, ours: str) -> list[Rule | Tied | Ignore]:
        return [Rename(theirs, f"{ours}position.weight")]

    def head_rules(self, spec: EncoderDecoderSpec) -> list[Rule | Tied | Ignore]:
        if isinstance(spec.head, LMHeadSpec):
            table = "embedding.token.weight" if spec.share_tokens else "decoder_embedding.token.weight"
            weight = Tied(LM_HEAD, table) if spec.head.tied else Rename(LM_HEAD, "head.vocabulary.weight")
            return [weight, Row("final_logits_bias", "head.vocabulary.bias")]
        if spec.head.kind == "classify":
            return [*renames("classification_head.", "head.", {"dense": "dense", "out_proj": "project"})]
        return [*renames("", "head.", {"qa_outputs": "project"})]

    # -- proof ------------------------------------------------------------------------------------------------------

    def base(self) -> dict[str, Any]:
        return {
            "vocab_size": 67, "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 40,
            "decoder_ffn_dim": 44, "encoder_attention_heads": 4, "decoder_attention_heads": 3,
            "max_position_embeddings": 22, "pad_token_id": 1, "decoder_start_token_id": 2,
        }  # fmt: skip

    def samples(self) -> Mapping[str, Sample]:
        base, lm = self.base(), next(iter(self.architectures))
        made = {
            "plain": Sample(lm, base),
            "scaled": Sample(lm, {**base, "scale_embedding": True, "activation_function": "gelu_new"}),
        }
        named = {"none": "headless", "classify": "classes of texts", "span": "answers"}
        others = {named[kind]: Sample(name, base) for name, kind in self.architectures.items() if kind in named}
        return {**made, **others}

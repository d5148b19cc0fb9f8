"""What the families of causal decoders say alike: their heads, their labels, and the config's common keys."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.errors import CheckpointError
from attnlib.models.block import BlockSpec
from attnlib.models.heads import LMHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.nn.feed_forward import FeedForward
from attnlib.nn.init import DepthScaled, Normal
from attnlib.nn.norms import Norm
from attnlib.pretrained.decoders import attentions_of, decoder_of
from attnlib.pretrained.family import Family, Sample
from attnlib.pretrained.labels import labels_config
from attnlib.pretrained.rules import Rename, Rule, Tied, renames

M = TypeVar("M", bound=FeedForward)
N = TypeVar("N", bound=Norm)
LABELS = {"pad_token_id": 0, "id2label": {0: "no", 1: "yes", 2: "both"}, "label2id": {"no": 0, "yes": 1, "both": 2}}


class DecoderFamily(Family):
    """A family of causal decoders. A subclass reads a config, and says the keys that are its own.

    vocabulary, tags: the file's names of the two heads that families name differently; deviation: the config's key of
    the initial weights' standard deviation.
    """

    vocabulary: ClassVar[str] = "lm_head"
    tags: ClassVar[str] = "score"
    deviation: ClassVar[str] = "initializer_range"

    def config_from(self, spec: ModelSpec) -> dict[str, Any]:
        tree = {
            "model_type": self.model_types[0],
            "architectures": [self.architecture_of(spec)],
            "vocab_size": spec.vocab_size,
            "tie_word_embeddings": isinstance(spec.head, LMHeadSpec) and spec.head.tied,
            **labels_config(spec.head),
            **({self.deviation: spec.init.scale} if isinstance(spec.init, Normal | DepthScaled) else {}),
            **self.keys(spec, attentions_of(spec)),
        }
        self.say(spec, tree)
        return tree

    @abstractmethod
    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        """What this family's config says of a layer; whatever these keys cannot say is found when they are read back."""

    def parts(self, spec: ModelSpec, mlp: type[M], norm: type[N]) -> tuple[BlockSpec, M, N]:
        """The first layer with its feed-forward and norm, if they are of these kinds."""
        block = decoder_of(spec).stack.layers[0]
        if not isinstance(block.mlp, mlp) or not isinstance(block.norm, norm):
            fact = f"is without {norm.kind} norms and a {mlp.kind} mlp"
            raise CheckpointError("model.stack.block", fact, f"wish a {self.name} model")
        return block, block.mlp, block.norm

    def head_rules(self, spec: ModelSpec) -> list[Rule | Tied]:
        match spec.head.kind:
            case "lm" if isinstance(spec.head, LMHeadSpec) and spec.head.tied:
                tie = Tied(f"{self.vocabulary}.weight", "embedding.token.weight")
                return [tie, Rename(f"{self.vocabulary}.bias", "head.vocabulary.bias")]
            case "lm":
                return [*renames(self.vocabulary, "head.vocabulary", {"": ""})]
            case "classify":
                return [Rename("score.weight", "head.project.weight")]
            case "tag":
                return [*renames(self.tags, "head.project", {"": ""})]
            case "span":
                return [*renames("qa_outputs", "head.project", {"": ""})]
        return []

    def untied(self, spec: ModelSpec, theirs: str) -> ModelSpec:
        if theirs != f"{self.vocabulary}.weight" or not isinstance(spec.head, LMHeadSpec):
            return super().untied(spec, theirs)
        return spec.replace(head=spec.head.replace(tied=False))

    def variants(self, tiny: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Sample]:
        """A sample a variant, of the first class."""
        first = next(iter(self.architectures))
        return {name: Sample(first, {**tiny, **variant}) for name, variant in variants.items()}

    def labelled(self, tiny: Mapping[str, Any]) -> dict[str, Sample]:
        """A sample a further class, with named labels."""
        return {
            {"none": "headless"}.get(kind, kind): Sample(name, {**tiny, **LABELS})
            for name, kind in self.architectures.items()
            if kind != "lm"
        }

"""AttnLRP: the logit handed back, layer by layer, to what brought it about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.backends.reference import exact, mix, normalise, products
from attnlib.attention.scope import Door, standing_at_the_door
from attnlib.inspect.explanations.layers import not_softmax
from attnlib.inspect.explanations.method import Method, Scores, stacked
from attnlib.inspect.frozen import OUTSIDE, Rule, frozen_activation, passes_zero, ruled
from attnlib.inspect.question import Question, gradients
from attnlib.models.block import Block
from attnlib.models.heads import LMHead, PretrainingHead
from attnlib.nn.feed_forward import ACTIVATIONS, Dense, Gated


def halved(x: Tensor) -> Tensor:
    """x, with half of its gradient."""
    return 0.5 * (x + x.detach())


def _dense(mlp: Dense, x: Tensor) -> Tensor:
    return mlp.down(frozen_activation(ACTIVATIONS[mlp.activation], mlp.up(x)))  # type: ignore[no-any-return]


def _gated(mlp: Gated, x: Tensor) -> Tensor:
    return mlp.down(halved(frozen_activation(ACTIVATIONS[mlp.activation], mlp.gate(x)) * mlp.up(x)))  # type: ignore[no-any-return]


RULES: dict[type[nn.Module], Rule] = {**OUTSIDE, Dense: _dense, Gated: _gated}


class ByRule(Door):
    """softmax(q k^T ...) v with both products halved."""

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        with exact(q.device):
            every = slice(None)
            weights = normalise(halved(products(q, k, call.rule.scale)), call, call.bind(q, k), every, every)
            return halved(mix(weights, v))


class AttnLRP(Method, name="attn_lrp"):
    """Relevance by the rules of Achtibat et al. 2024 (arXiv:2402.05602), as input x a gradient of changed operations:

    linear maps, sums (residuals, biases, what is added to scores)   epsilon rule, epsilon = 0: plain gradient
    A V, q k^T and gate * up, a product of two                       uniform rule: each factor gets half
    softmax, with or without a sink, and a softcap of scores         first-order Taylor: plain gradient
    activations, those of heads too, softcap of logits               identity rule: act(x) / x is a constant
    LayerNorm, RMSNorm, q and k norms, a normalised embedding        identity rule: the scale is a constant

    Relevance of biases and of the softmax's constant part goes to no token, so the scores add up to the logit less those.
    Modules that have no rule here are refused by name.
    """

    def refuses(self, question: Question) -> str | None:
        for module in _ruled_parts(question.model):
            if type(module) not in _KNOWN:
                return f"there is no relevance rule for a {type(module).__name__}"
            if not passes_zero(getattr(module, "activation", "relu")):
                return f"there is no relevance rule for the activation {module.activation!r}"
        return not_softmax(question, exactly=True)

    def __call__(self, question: Question) -> Scores:
        question = replace(question, model=ruled(question.model, RULES))
        parts = []
        for _, some in question.each():
            inputs = some.inputs(len(some.targets))
            with standing_at_the_door(ByRule()):
                found, _ = gradients(some, inputs)
            parts.append({name: (inputs[name].embeds.double() * grad.double()).sum(-1) for name, grad in found.items()})
        return Scores(stacked(question, parts))


_KNOWN = {*RULES, LMHead, PretrainingHead}


def _ruled_parts(model: nn.Module) -> list[nn.Module]:
    """What must have a rule: feed-forwards, norms and heads."""
    parts: list[nn.Module] = [model.head]  # type: ignore[list-item]
    for module in model.modules():
        if isinstance(module, Block):
            parts += [] if module.mlp is None else [module.mlp.body]
        if "norm" in type(module).__name__.lower() and module is not model:
            parts.append(module)
    return [part for part in parts if part is not None and not isinstance(part, nn.Identity)]

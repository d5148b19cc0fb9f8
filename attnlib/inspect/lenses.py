"""The logit lens: what the model would say if a place of its residual stream were the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attnlib.errors import UsageError
from attnlib.generate.prompts import evaluating
from attnlib.inspect.question import Question
from attnlib.inspect.recording import record
from attnlib.inspect.sites import Site, sites, sites_named, stacks
from attnlib.inspect.target_names import answer_names

if TYPE_CHECKING:
    from attnlib.text.tokenizer import Tokenizer

Array = NDArray[np.float64]
STREAMS = ("embedding", "in", "out", "final")  # the last words of sites that lie on the residual stream


@dataclass(frozen=True, eq=False)
class Lens:
    """What was read at each of S sites for each of N targets.

    logprobs [S, N]: of the target's answer, in nats. ranks [S, N]: how many answers are likelier. divergence [S, N]:
    KL(model || site) in nats, 0 at the end. top[s][n]: the likeliest answers there with their log-probabilities.
    """

    sites: tuple[str, ...]
    targets: tuple[str, ...]
    logprobs: Array
    ranks: NDArray[np.int64]
    divergence: Array
    top: tuple[tuple[tuple[tuple[str, float], ...], ...], ...]

    def tree(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        names = ("logprob", "rank", "divergence", "top")
        return {
            "targets": list(self.targets),
            "sites": [
                {"site": site, "targets": [dict(zip(names, cells, strict=True)) for cells in zip(*rows, strict=True)]}
                for site, *rows in zip(
                    self.sites, self.logprobs.tolist(), self.ranks.tolist(), self.divergence.tolist(), self.top, strict=True
                )
            ],
        }


def streams(model: nn.Module, patterns: str | Sequence[str] | None = None) -> list[Site]:
    """The sites on the residual stream whose names match; None = where each stack begins and each of its blocks ends.

    Raises UsageError for a pattern that matches no site, or none of the stream.
    """
    if patterns is None:
        return [site for name, site in sites(model).items() if name.endswith(".embedding") or _block_end(name)]
    found = [site for site in sites_named(model, patterns) if site.name.rpartition(".")[2] in STREAMS]
    if not found:
        asked = patterns if isinstance(patterns, str) else ", ".join(patterns)
        raise UsageError("site", f"{asked} is not on the residual stream", f"wish names that end in {', '.join(STREAMS)}")
    return found


def _block_end(name: str) -> bool:
    *_, layer, last = name.split(".")
    return layer.isdigit() and last == "out"


def lens(
    question: Question,
    site: str | Sequence[str] | None = None,
    *,
    top_k: int = 5,
    tokenizer: Tokenizer | None = None,
) -> Lens:
    """The final norm and the head over the stream x at each site (nostalgebraist 2020): head(norm(x)).

    At sites of the encoder of an encoder-decoder the decoder reads norm(x) in place of the encoder's output and tells what
    it would write (the DecoderLens: Langedijk et al. 2023, arXiv:2310.03686). `site`: names or patterns of stream sites.
    Raises UsageError for sites that are none, and for targets that are no choice among several (spans, single labels).
    """
    if top_k < 1:
        raise UsageError("top_k", f"is {top_k}", "must be at least 1")
    chosen = [one.name for one in streams(question.model, site)]
    with evaluating(question.model), torch.no_grad():
        with record(question.model, weights=False, activations=chosen) as seen:
            final = _choices(question, question.logits(question.inputs()))
        found = [_choices(question, read_at(question, name, seen.activations[name][0])) for name in chosen]
    name_of = answer_names(question.model, tokenizer)
    answers = [getattr(target, "answer", getattr(target, "label", 0)) for target in question.targets]
    own = [over.gather(1, torch.tensor(answers, device=over.device)[:, None]) for over in found]
    return Lens(
        sites=tuple(chosen),
        targets=tuple(target.name for target in question.targets),
        logprobs=_array([at[:, 0] for at in own]),
        ranks=_array([(over > at).sum(1) for over, at in zip(found, own, strict=True)]).astype(np.int64),
        divergence=_array([(final.exp() * (final - over)).nan_to_num(0.0).sum(1) for over in found]),
        top=tuple(_likeliest(over, top_k, name_of) for over in found),
    )


def read_at(question: Question, site: str, x: Tensor) -> Tensor:
    """Logits as `Question.logits` gives them, of the stream x [B, T, M] at a site."""
    stack = stacks(question.model)[site.partition(".")[0]]
    last = x if site.endswith(".final") else stack.finish(x)
    return question.read(question.decode(last) if of_source(question, site) else last)


def of_source(question: Question, site: str) -> bool:
    """Whether a site belongs to the encoder that a decoder reads."""
    return question.reading.source is not None and site.startswith("encoder.")


def _choices(question: Question, logits: Tensor) -> Tensor:
    """[N, V] log-probabilities of the answers to each target."""
    found = []
    for target, part in zip(question.targets, question.parts(logits), strict=True):
        over = target.choices(part)
        if over is None:
            raise UsageError(f"target {target.name}", "is no choice among several", "wish a token, a class or a tag")
        found.append(over[0].double().log_softmax(-1))
    return torch.stack(found)


def _likeliest(over: Tensor, count: int, name_of: Callable[[int], str]) -> tuple[tuple[tuple[str, float], ...], ...]:
    values, ids = over.topk(min(count, over.shape[1]), 1)
    return tuple(
        tuple((name_of(i), value) for i, value in zip(*row, strict=True))
        for row in zip(ids.tolist(), values.tolist(), strict=True)
    )


def _array(rows: Sequence[Tensor]) -> Array:
    return np.asarray(torch.stack(list(rows)).double().cpu().numpy())

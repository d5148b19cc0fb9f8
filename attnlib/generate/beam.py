"""Beam search: the K best open beams of every prompt grow side by side, the K best finished ones are kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnlib.errors import UsageError
from attnlib.generate.options import Sampling
from attnlib.generate.prompts import Job, begin, evaluating
from attnlib.generate.results import Generation
from attnlib.generate.rules import Texts
from attnlib.generate.stops import Detokenizer

_NONE = float("-inf")


@dataclass
class _Beams:
    """Beams of P prompts, W a prompt, best first. Score -inf: no beam here."""

    scores: Tensor  # [P, W] sum of log-probabilities; of finished beams over length ** length_penalty
    tokens: Tensor  # [P, W, L] new tokens
    logprobs: Tensor  # [P, W, L] their log-probabilities under the model itself
    lengths: Tensor  # [P, W] how many of L are theirs

    def pick(self, places: Tensor) -> _Beams:
        """The beams of each prompt at `places` [P, W'], in that order."""
        wide = places[:, :, None].expand(-1, -1, self.tokens.shape[-1])
        return _Beams(self.scores.gather(1, places), self.tokens.gather(1, wide), self.logprobs.gather(1, wide),
                      self.lengths.gather(1, places))  # fmt: skip

    def prompts(self, rows: Tensor) -> _Beams:
        return _Beams(self.scores[rows], self.tokens[rows], self.logprobs[rows], self.lengths[rows])

    def better(self, others: _Beams, width: int) -> _Beams:
        """The `width` best of both, prompt by prompt."""
        both = _Beams(*(torch.cat(pair, 1) for pair in zip(vars(self).values(), vars(others).values())))
        return both.pick(both.scores.topk(width, dim=1).indices)

    @staticmethod
    def none(prompts: int, width: int, most: int, device: torch.device) -> _Beams:
        shape = (prompts, width)
        tokens = torch.zeros(*shape, most, dtype=torch.long, device=device)
        return _Beams(torch.full(shape, _NONE, device=device), tokens, tokens.float(), tokens[..., 0].clone())


@torch.no_grad()
def beam_search(job: Job) -> list[Generation]:
    """The `n` best of `num_beams` beams of every prompt, by sum of log-probabilities / length ** length_penalty.

    At each step a prompt's K open beams and V tokens give K*V candidates; of the best K those that end (eos, or the
    last step) finish, and the K best of the others stay open. `length` counts new tokens, eos included. Rules act on
    log-probabilities. A prompt is done, and leaves the batch, when no open beam is taken to improve the finished ones
    (`early_stopping`). All as in transformers. Fewer than `n` results where fewer exist.
    """
    if not job.rows:
        return []
    with evaluating(job.model):
        state, logits = begin(job)
        width, device = job.options.num_beams, logits.device
        copies = torch.arange(len(job.rows), device=device).repeat_interleave(width)
        state.select(copies)
        logits, texts = logits[copies], job.texts(device).rows(copies)
        room = texts.most[::width] - texts.prompt[::width]  # new tokens that each prompt's beams may have
        beams = _Beams.none(len(job.rows), width, int(room.max()), device)
        beams.scores[:, 0] = 0.0  # all copies of the prompt are one beam
        finished = _Beams.none(len(job.rows), width, int(room.max()), device)
        results: dict[int, _Beams] = {}
        open_prompts = list(range(len(job.rows)))
        while open_prompts:
            candidates, parents = _candidates(job, logits, beams, texts)
            length, last = texts.new + 1, room == texts.new + 1
            finished = _finish(job, candidates, finished, length, last)
            beams, kept = _open(job, candidates, width, length)
            done = (last | _done(job.options, beams, finished, length, room)).tolist()
            for place in (place for place, end in enumerate(done) if end):
                results[open_prompts[place]] = finished.prompts(torch.tensor([place], device=device))
            stay = torch.tensor([place for place, end in enumerate(done) if not end], dtype=torch.long, device=device)
            open_prompts = [open_prompts[place] for place in stay.tolist()]
            if not open_prompts:
                break
            rows = torch.arange(len(done), device=device)[:, None] * width + parents.gather(1, kept)
            beams, finished, room, rows = beams.prompts(stay), finished.prompts(stay), room[stay], rows[stay].flatten()
            state.select(rows)
            ids = beams.tokens[:, :, length - 1].reshape(-1)
            texts = texts.rows(rows).then(ids)
            logits = job.model.step(ids[:, None], state.following(1), state)[:, -1].float()
    return [result for prompt in range(len(job.rows)) for result in _results(job, prompt, results[prompt])]


def _candidates(job: Job, logits: Tensor, beams: _Beams, texts: Texts) -> tuple[_Beams, Tensor]:
    """The best continuations of each prompt's beams by one token, and the beam each comes from, [P, C].

    C = K * (number of eos + 1), at least 2 K: enough that K of them stay open.
    """
    prompts, width = beams.scores.shape
    vocab = logits.shape[-1]
    logprobs = logits.log_softmax(-1)
    if bool(logprobs.isnan().any()):
        raise UsageError("prompts", f"logits are not numbers after {texts.new} new tokens", "must be finite",
                         "the weights may hold NaN, or overflow in this dtype")  # fmt: skip
    scored = job.rules.scores(logprobs, texts)
    totals = (beams.scores[:, :, None] + scored.view(prompts, width, vocab)).flatten(1)
    job.rules.need_some(totals, texts.new)
    count = min(max(2, len(job.eos) + 1) * width, width * vocab)
    best = totals.topk(count, dim=1)
    parents, ids = best.indices // vocab, best.indices % vocab
    found = beams.pick(parents)
    found.scores = best.values
    found.tokens[:, :, texts.new] = ids
    found.logprobs[:, :, texts.new] = logprobs.view(prompts, -1).gather(1, best.indices)
    found.lengths = torch.full_like(found.lengths, texts.new + 1)
    return found, parents


def _ends(job: Job, candidates: _Beams, length: int) -> Tensor:
    eos = torch.tensor(sorted(job.eos), dtype=torch.long, device=candidates.tokens.device)
    ends: Tensor = torch.isin(candidates.tokens[:, :, length - 1], eos)
    return ends


def _finish(job: Job, candidates: _Beams, finished: _Beams, length: int, last: Tensor) -> _Beams:
    """`finished` with the ending ones among the K best candidates, by penalised score."""
    width = finished.scores.shape[1]
    ending = _ends(job, candidates, length) | last[:, None]
    ending[:, width:] = False
    scores = candidates.scores / length**job.options.length_penalty
    ended = _Beams(scores.masked_fill(~ending, _NONE), candidates.tokens, candidates.logprobs, candidates.lengths)
    return finished.better(ended, width)


def _open(job: Job, candidates: _Beams, width: int, length: int) -> tuple[_Beams, Tensor]:
    """The K best candidates that do not end, and their places among the candidates, [P, K]."""
    going = candidates.scores.masked_fill(_ends(job, candidates, length), _NONE)
    kept = going.topk(width, dim=1).indices
    beams = candidates.pick(kept)
    beams.scores = going.gather(1, kept)
    return beams, kept


def _done(options: Sampling, beams: _Beams, finished: _Beams, length: int, room: Tensor) -> Tensor:
    """[P] bool: prompts whose open beams are given up."""
    full = (finished.scores > _NONE).all(1)
    if options.early_stopping is True:
        return full
    reach = room if options.early_stopping == "never" and options.length_penalty > 0 else length
    hopeless: Tensor = beams.scores[:, 0] / reach**options.length_penalty <= finished.scores.amin(1)
    return full & hopeless


def _results(job: Job, prompt: int, beams: _Beams) -> list[Generation]:
    results: list[Generation] = []
    for place in range(job.options.n):
        score, length = float(beams.scores[0, place]), int(beams.lengths[0, place])
        if score == _NONE:
            break  # fewer sequences exist than were asked for
        ids = tuple(beams.tokens[0, place, :length].tolist())
        ended = ids[-1] in job.eos
        text = None
        if job.tokenizer is not None:
            pieces = Detokenizer(job.tokenizer.decode, job.rows[prompt])
            text = "".join([pieces.push(token) for token in (ids[:-1] if ended else ids)]) + pieces.finish()
        results.append(Generation(ids, text, tuple(beams.logprobs[0, place, :length].tolist()),
                                  "eos" if ended else "length", prompt, place, score))  # fmt: skip
    return results

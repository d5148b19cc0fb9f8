"""Small models that speak the generation protocol by hand, so that each claim is tested apart from attention."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from attnlib.layout import Layout

PROMPTS = [[1, 2, 3], [4], [5, 6, 1, 2, 0], [3, 3]]


class ToyState:
    """A running sum per row; it checks that every token stands where its row is."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden
        self.counts = [0] * len(hidden)
        self.selected: list[int] = []

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(self.counts)

    def following(self, tokens: int = 1):
        return Layout.from_lengths([tokens] * len(self.counts), tokens, starts=self.counts)

    def select(self, rows: Tensor) -> None:
        self.selected.append(len(rows))
        self.hidden = self.hidden[rows]
        self.counts = [self.counts[row] for row in rows.tolist()]


class Toy(nn.Module):
    """p(next | all tokens before, their order, the source): h <- 0.6 h + E[token] + P[position]; logits = U tanh h."""

    def __init__(self, kind="decoder", vocab=7, width=5, seed=0, max_length=None, start=None, sharp=3.0):
        super().__init__()
        make = torch.Generator().manual_seed(seed)
        self.embedding = nn.Parameter(torch.randn(vocab, width, generator=make))
        self.position = nn.Parameter(torch.randn(96, width, generator=make) * 0.5)
        self.out = nn.Parameter(torch.randn(width, vocab, generator=make) * sharp)
        self.dropout = nn.Dropout(0.5)
        self.spec = SimpleNamespace(vocab_size=vocab)
        if kind == "encoder_decoder":
            self.encode, self.spec.decoder_start = self.begin, start
        self.max_length = max_length
        self.steps: list[tuple[int, int]] = []

    def begin(self, source_ids=None, layout=None, *, batch=None, cache="growing", capacity=None):
        if source_ids is None:
            return ToyState(torch.zeros(batch, self.embedding.shape[1]))
        real = torch.ones(source_ids.shape) if layout.segments is None else (layout.segments >= 0).float()
        place = 1.0 + layout.positions[..., None]
        return ToyState((self.embedding[source_ids] * real[..., None] / place).sum(1))

    def step(self, ids, layout, state, at=slice(-1, None)):
        assert layout.positions.shape == ids.shape and len(state.counts) == len(ids)
        self.steps.append(tuple(ids.shape))
        columns = []
        for t in range(ids.shape[1]):
            hidden = list(state.hidden)
            for b in range(ids.shape[0]):
                if layout.segments is None or layout.segments[b, t] >= 0:
                    assert layout.positions[b, t] == state.counts[b]
                    hidden[b] = 0.6 * hidden[b] + self.embedding[ids[b, t]] + self.position[state.counts[b]]
                    state.counts[b] += 1
            state.hidden = torch.stack(hidden)
            columns.append(torch.stack([self.dropout(h).tanh() @ self.out for h in hidden]))
        return torch.stack(columns, 1)[:, at]


class ToyEncoder(nn.Module):
    """Logits at a place: the sum of all real tokens, each weighed by its place, seen from there."""

    def __init__(self, vocab=7, width=5):
        super().__init__()
        toy = Toy(vocab=vocab, width=width)
        self.embedding, self.position, self.out = toy.embedding, toy.position, toy.out
        self.spec, self.max_length = toy.spec, None

    def forward(self, ids, layout=None, *, at=None):
        real = torch.ones(ids.shape) if layout is None or layout.segments is None else (layout.segments >= 0).float()
        place = torch.arange(ids.shape[1]) if layout is None else layout.positions
        total = (self.embedding[ids] * (real * (1.0 + place).sqrt())[..., None]).sum(1, keepdim=True)
        logits = (total + self.position[place]).tanh() @ self.out
        return SimpleNamespace(logits=logits if at is None else logits[at])


class Replay:
    """A transformers model behind the protocol: each step reads a row's whole text again, rows apart, unpadded."""

    def __init__(self, hf):
        self.hf, self.max_length = hf, None
        self.spec = SimpleNamespace(vocab_size=hf.config.vocab_size)
        if hf.config.is_encoder_decoder:
            self.encode, self.spec.decoder_start = hf.encoder, 0

    def begin(self, source_ids=None, layout=None, *, batch=None, cache="growing", capacity=None):
        rows = [None] * batch if source_ids is None else list(source_ids)
        if source_ids is not None and layout.segments is not None:
            rows = [row[layout.segments[b] >= 0] for b, row in enumerate(rows)]
        return ReplayState(rows)

    def step(self, ids, layout, state, at=slice(-1, None)):
        out = []
        for b, row in enumerate(ids):
            new = row if layout.segments is None else row[layout.segments[b] >= 0]
            state.texts[b] = state.texts[b] + new.tolist()
            text = torch.tensor([state.texts[b]])
            source = state.sources[b]
            asked = {"input_ids": text} if source is None else {"input_ids": source[None], "decoder_input_ids": text}
            out.append(self.hf(**asked).logits[:, -1:])
        return torch.cat(out)


def theirs(hf, prompt, **options):
    """New tokens of transformers' own generation."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = hf.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, do_sample=False, **options)
    return [row[1 if hf.config.is_encoder_decoder else len(prompt) :].tolist() for row in out]


class ReplayState:
    def __init__(self, sources):
        self.sources = sources
        self.texts = [[] for _ in sources]

    def following(self, tokens=1):
        return Layout.from_lengths([tokens] * len(self.texts), tokens, starts=[len(text) for text in self.texts])

    def select(self, rows):
        self.sources = [self.sources[row] for row in rows.tolist()]
        self.texts = [self.texts[row] for row in rows.tolist()]


class Bytes:
    """UTF-8 bytes as tokens."""

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode("utf-8", errors="replace")


class Script:
    """A model that says the given tokens, whatever it is asked; after them, token 0."""

    def __init__(self, script, vocab=256):
        self.script = list(script)
        self.spec = SimpleNamespace(vocab_size=vocab)
        self.max_length = None

    def begin(self, *, batch, cache, capacity):
        return ReplayState([None] * batch)

    def step(self, ids, layout, state, at=slice(-1, None)):
        said = len(state.texts[0])
        state.texts = [[*text, 0] for text in state.texts]
        logits = torch.zeros(len(ids), 1, self.spec.vocab_size)
        logits[:, :, self.script[said] if said < len(self.script) else 0] = 5.0
        return logits

"""Plain torch baselines in equal time: what one writes in an afternoon, trained fairly, to hold the toys against.

`plain_gpt`: an ordinary GPT (learned positions, LayerNorm, GELU, AdamW, fp32) on characters, 632k parameters;
`plain_encoder`: `nn.TransformerEncoder` with a masked-language-model head, on any tokens.

    python scripts/baselines.py configs/data/moby_dick.txt --seconds 75 --threads 2
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HELD_OUT = 0.1  # the last tenth of a text, counted in characters


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a baseline reached: `value` is bits per character (GPT) or masked accuracy in 0..1 (encoder)."""

    value: float
    guess: float  # the same measure without a model: unigram distribution, or always the most frequent token
    steps: int
    seconds: float
    parameters: int


def split_text(path: Path) -> tuple[str, str]:
    """The training text and the held-out text (its last tenth), line ends as they stand."""
    text = path.read_bytes().decode("utf-8-sig")
    cut = len(text) - round(len(text) * HELD_OUT)
    return text[:cut], text[cut:]


def characters(train: str, held: str) -> tuple[Tensor, Tensor, int]:
    """Ids of both texts over the characters that occur, and how many of these there are."""
    known = {character: index for index, character in enumerate(sorted(set(train + held)))}
    return torch.tensor([known[c] for c in train]), torch.tensor([known[c] for c in held]), len(known)


class PlainGPT(nn.Module):
    """Pre-norm decoder: learned positions, LayerNorm, fused qkv, `F.scaled_dot_product_attention`, GELU."""

    def __init__(self, vocab_size: int, *, d_model: int = 128, num_layers: int = 3, window: int = 128):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(window, d_model)
        self.blocks = nn.ModuleList(_Block(d_model, num_heads=4) for _ in range(num_layers))
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)
        self.apply(_small_init)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits `[B, T, V]` of ids `[B, T]`."""
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


class _Block(nn.Module):
    def __init__(self, d_model: int, *, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.first, self.second = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.first(x)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, T, D]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(self.second(x))
        return out


class PlainEncoder(nn.Module):
    """`nn.TransformerEncoder` with learned positions and a linear head."""

    def __init__(self, vocab_size: int, *, d_model: int = 128, num_layers: int = 3, window: int = 128):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(window, d_model)
        # Post-norm, torch's default: at this size and budget it did no worse than norm_first at 1e-3 or 3e-3.
        layer = nn.TransformerEncoderLayer(d_model, 4, 4 * d_model, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.head = nn.Linear(d_model, vocab_size)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states `[B, T, M]` of ids `[B, T]`; the head is applied to the labelled places only."""
        out: Tensor = self.encoder(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        return out


def _small_init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def fit(model: nn.Module, loss: Callable[[], Tensor], *, seconds: float, lr: float) -> tuple[int, float]:
    """Trains with AdamW for `seconds`: 2% warm-up, constant, then linearly to zero over the second half."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    steps, begin = 0, time.perf_counter()
    while (passed := (time.perf_counter() - begin) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, passed / 0.02, (1 - passed) / 0.5)
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    return steps, time.perf_counter() - begin


def windows(ids: Tensor, *, batch: int, length: int, generator: torch.Generator) -> Tensor:
    """Random windows of a text's ids, `[batch, length]`."""
    starts = torch.randint(len(ids) - length + 1, (batch, 1), generator=generator)
    return ids[starts + torch.arange(length)]


@torch.no_grad()
def bits_per_token(model: nn.Module, ids: Tensor, *, window: int) -> float:
    """Mean negative log2 likelihood of `ids[1:]`, predicted in full windows laid end to end (stride = window)."""
    model.eval()
    full = (len(ids) - 1) // window * window
    inputs, targets = ids[:full].view(-1, window), ids[1 : full + 1].view(-1, window)
    pairs = [*zip(inputs.split(64), targets.split(64), strict=True), (ids[full:-1][None], ids[full + 1 :][None])]
    nats = sum(F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum").item() for x, y in pairs)
    return nats / math.log(2) / (len(ids) - 1)


def plain_gpt(path: Path, *, seconds: float = 75.0, threads: int = 2, seed: int = 0, lr: float = 3e-3) -> Outcome:
    """Held-out bits per character of `PlainGPT` on the text at `path`, after `seconds` of training on `threads`."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    train, held, vocab_size = characters(*split_text(path))
    model, generator, window = PlainGPT(vocab_size), torch.Generator().manual_seed(seed), 128

    def loss() -> Tensor:
        ids = windows(train, batch=16, length=window + 1, generator=generator)
        return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    steps, passed = fit(model, loss, seconds=seconds, lr=lr)
    shares = torch.bincount(train, minlength=vocab_size).float().clamp(min=1)
    guess = -(shares / shares.sum()).log2()[held].mean().item()
    value = bits_per_token(model, held, window=window)
    return Outcome(value=value, guess=guess, steps=steps, seconds=passed, parameters=_size(model))


def corrupt(ids: Tensor, *, mask_id: int, generator: torch.Generator, rate: float = 0.15) -> tuple[Tensor, Tensor]:
    """What the model sees and which places it must guess: of these 80% are masked, 10% random, 10% left alone."""
    chosen = torch.rand(ids.shape, generator=generator) < rate
    draw = torch.rand(ids.shape, generator=generator)
    seen = torch.where(chosen & (draw < 0.8), mask_id, ids)
    noise = torch.randint(mask_id, ids.shape, generator=generator)
    return torch.where(chosen & (draw >= 0.9), noise, seen), chosen


@torch.no_grad()
def masked_accuracy(model: PlainEncoder, ids: Tensor, *, mask_id: int, window: int, seed: int = 9) -> float:
    """Share guessed rightly of the places that `seed` chooses (15%) in the full windows of `ids`."""
    model.eval()
    generator, right, total = torch.Generator().manual_seed(seed), 0, 0
    for batch in ids[: len(ids) // window * window].view(-1, window).split(64):
        seen, chosen = corrupt(batch, mask_id=mask_id, generator=generator)
        right += int((model.head(model(seen)[chosen]).argmax(-1) == batch[chosen]).sum())
        total += int(chosen.sum())
    return right / total


def plain_encoder(
    train: Tensor,
    held: Tensor,
    vocab_size: int,
    *,
    seconds: float = 75.0,
    threads: int = 2,
    window: int = 128,
    batch: int = 16,
    seed: int = 0,
    lr: float = 1e-3,
) -> Outcome:
    """Held-out masked accuracy of `PlainEncoder` on ids below `vocab_size`; the mask token is added after them."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model, generator = PlainEncoder(vocab_size + 1, window=window), torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        ids = windows(train, batch=batch, length=window, generator=generator)
        seen, chosen = corrupt(ids, mask_id=vocab_size, generator=generator)
        return F.cross_entropy(model.head(model(seen)[chosen]), ids[chosen])

    steps, passed = fit(model, loss, seconds=seconds, lr=lr)
    value = masked_accuracy(model, held, mask_id=vocab_size, window=window)
    guess = (held == torch.bincount(train).argmax()).float().mean().item()
    return Outcome(value=value, guess=guess, steps=steps, seconds=passed, parameters=_size(model))


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Trains both baselines on one text and prints what they reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a plain text in UTF-8; its last tenth is held out")
    parser.add_argument("--seconds", type=float, default=75.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    clock = {"seconds": options.seconds, "threads": options.threads, "seed": options.seed}
    gpt = plain_gpt(options.text, **clock)
    encoder = plain_encoder(*characters(*split_text(options.text)), **clock)
    for name, unit, got in (
        ("plain GPT", "bits per character", gpt),
        ("nn.TransformerEncoder", "masked character accuracy", encoder),
    ):
        print(f"{name}: {got.value:.3f} {unit} (without a model {got.guess:.3f}), {got.parameters:,} parameters, "
              f"{got.steps} steps in {got.seconds:.1f} s on {options.threads} threads")  # fmt: skip


if __name__ == "__main__":
    main()

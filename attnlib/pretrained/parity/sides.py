"""Their model and ours over the same batches: what each gives, and how far apart they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnlib.layout import Layout
from attnlib.models.heads import PooledHead
from attnlib.pretrained.export import export
from attnlib.pretrained.family import Family, Sample
from attnlib.pretrained.folder import load
from attnlib.pretrained.parity import theirs
from attnlib.pretrained.rules import Pattern
from attnlib.pretrained.table import Table
from attnlib.pretrained.tensors import open_tensors

FLOOR = 1e-2  # of the largest gradient of all: what is measured against where one is zero but for rounding
TOKENS, PADDED = 20, 9  # columns of a batch without padding, and of one with


class Sides:
    """Their model and ours over the same batches."""

    def __init__(self, family: Family, hf: Any, ours: Any, seed: int = 0) -> None:
        self.family, self.hf, self.ours = family, hf, ours
        self.both = hasattr(ours, "encode")
        self.rereads = getattr(ours, "rereads", False) and ours.head.pools  # they give the decoder its ids themselves
        self.made = torch.Generator().manual_seed(seed + 1)
        self.counted = family.positions == "counted"

    def plain(self) -> dict[str, Any]:
        inputs = self.batch(TOKENS)
        with torch.no_grad():
            a, b = self.our(inputs), self.their(inputs)
        return {"plain": deviation(a, b), "bits": all(torch.equal(a[key], b[key]) for key in b)}

    def padded(self, side: str) -> float | None:
        """Rows of unlike lengths, compared at their real tokens.

        What they read off the first column of a text is that of a pad where pads come first: left out, None if all is.
        """
        inputs = self.batch(PADDED, side)
        with torch.no_grad():
            ours, there = self.real(self.our(inputs), inputs), self.real(self.their(inputs), inputs)
        if side == "left" and any(isinstance(m, PooledHead) and m.pooling == "first" for m in self.ours.modules()):
            there = {key: x for key, x in there.items() if x.shape[0] != len(inputs["input_ids"])}
        return deviation(ours, there) if there else None

    def cached(self) -> dict[str, Any]:
        """Both sides in steps of 4, 1, 1 and the rest, after the padded source or over left-padded rows."""
        if not hasattr(self.ours, "begin") or self.ours.spec.head.kind != "lm":
            return {}
        side = "left" if self.family.positions != "none" else "right" if self.both else None
        inputs = self.batch(PADDED, side)
        with torch.no_grad():
            return {"cached": deviation({"logits": self._our_steps(inputs)}, {"logits": self._their_steps(inputs)})}

    def gradient(self, folder: Path) -> dict[str, Any]:
        """Gradients of one loss, a random weighing of the outputs at real tokens, under the names of the file."""
        inputs = self.batch(PADDED, "right") if self.family.pads else self.batch(TOKENS)
        weigh = torch.Generator().manual_seed(5)
        ours, there = (self.real(run(inputs), inputs) for run in (self.our, self.their))
        weights = {name: torch.randn(x.shape, generator=weigh) for name, x in there.items()}
        for out in (ours, there):
            torch.stack([(out[name] * weight).sum() for name, weight in weights.items()]).sum().backward()
        given = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in self.ours.named_parameters()}
        table, wanted = self.family.table(self.ours.spec), theirs.gradients(self.hf, folder)
        wanted = {today: wanted[name] for today, name in table.today(wanted).items()}
        made = table.save(given)
        whole = max(float(g.abs().nan_to_num(0).max()) for g in wanted.values())
        worst = 0.0
        for name, grad in made.items():
            if name not in wanted:
                return {"gradient": float("inf"), "fault": f"{name} has no gradient in transformers"}
            if bool(wanted[name].isnan().any()):  # a constant on their side
                continue
            scale = max(float(wanted[name].abs().max()), FLOOR * whole)
            worst = max(worst, float((grad - wanted[name]).abs().max()) / scale)
        if missing := [n for n, g in wanted.items() if n not in made and not g.isnan().any() and not _kept(table, n)]:
            return {"gradient": worst, "fault": f"{missing[0]} has a gradient in transformers, and none here"}
        return {"gradient": worst}

    def back(self, sample: Sample, folder: Path, before: Path) -> dict[str, Any]:
        """What we write is opened there without complaint, and gives what it gave."""
        export(self.ours, folder, self.family.name)
        again, complaints = theirs.read(sample.architecture, folder, attn_implementation=sample.attention)
        old, new = open_tensors(before), open_tensors(folder)
        fault = "; ".join(complaints[:3])
        for name in new.facts.keys() & old.facts.keys():
            if new.facts[name] != old.facts[name] or not torch.equal(new.read(name), old.read(name)):
                fault = f"{name} comes back changed"
        inputs = self.batch(TOKENS)
        with torch.no_grad():
            figure = deviation(self.their(inputs, again), self.their(inputs))
        return {"back": figure, "written": len(new.facts), "fault": fault}

    def half(self, sample: Sample, folder: Path) -> dict[str, Any]:
        """The deviation of outputs in bfloat16."""
        hf, _ = theirs.read(sample.architecture, folder, dtype=torch.bfloat16, attn_implementation=sample.attention)
        other = Sides(self.family, hf, load(folder, dtype=torch.bfloat16))
        return {"half": other.plain()["plain"]}

    # -- batches ----------------------------------------------------------------------------------------------------

    def batch(self, tokens: int, side: str | None = None) -> dict[str, Tensor]:
        """Ids of three rows and, padded on a `side`, their mask; sources and targets where there are two stacks.

        A source of features is as long as there are places for it: such models know no other."""
        inputs = self._rows("", tokens, side)
        if (front := getattr(self.ours, "features", None)) is not None:
            frames = front.stride * (front.max_length or tokens)
            inputs = {"input_features": torch.randn(3, front.channels, frames, generator=self.made)}
        if self.both and not self.rereads:
            inputs |= self._rows("decoder_", tokens - 2, side)
        return inputs

    def _rows(self, prefix: str, tokens: int, side: str | None) -> dict[str, Tensor]:
        spec, config = self.ours.spec, self.hf.config
        vocab = (getattr(spec, "decoder_vocab_size", None) if prefix else None) or spec.vocab_size
        pad = config.pad_token_id if getattr(config, "pad_token_id", None) is not None else 0
        ids = torch.randint(5, vocab, (3, tokens), generator=self.made)
        ids[ids == pad] = 5 if pad != 5 else 6
        mask = torch.ones_like(ids)
        if side is not None:
            for row, missing in enumerate((0, 3, 1)):
                mask[row, : missing] = 0 if side == "left" else 1
                mask[row, tokens - missing :] = 0 if side == "right" else 1
        if self.rereads and isinstance(config.eos_token_id, int):  # what tells of a whole text stands at its end
            last = (mask * torch.arange(1, tokens + 1)).argmax(1, keepdim=True)
            ids.scatter_(1, last, config.eos_token_id)
        ids = ids.masked_fill(mask == 0, pad)
        types = {}
        if not prefix and spec.embedding.types > 1 and theirs.takes(self.hf, "token_type_ids"):
            types["token_type_ids"] = torch.randint(spec.embedding.types, ids.shape, generator=self.made)
        return {f"{prefix}input_ids": ids, f"{prefix}attention_mask": mask, **types}

    def our(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        source, mask = self._source(inputs)
        if "decoder_input_ids" in inputs:
            out = self.ours(source, inputs["decoder_input_ids"], attention_mask=mask,
                            decoder_attention_mask=inputs["decoder_attention_mask"])  # fmt: skip
        else:
            types = {"types": inputs["token_type_ids"]} if "token_type_ids" in inputs else {}
            out = self.ours(source, attention_mask=mask, **types)
        found = {"logits": out.logits, "last": out.last, "pooled": out.pooled, "text_logits": out.text_logits}
        return {name: x for name, x in found.items() if x is not None}

    def _source(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Features in our model's dtype, or ids and their mask."""
        if "input_ids" in inputs:
            return inputs["input_ids"], inputs["attention_mask"]
        return inputs["input_features"].to(next(self.ours.parameters()).dtype), None

    def their(self, inputs: dict[str, Tensor], model: Any = None) -> dict[str, Tensor]:
        found = theirs.outputs(theirs.call(model or self.hf, inputs, counted=self.counted))
        if self.ours.spec.head.kind == "rtd":  # one logit a token: they drop its dimension
            found["logits"] = found["logits"][..., None]
        return found

    def real(self, out: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs at real tokens; those of whole texts as they are."""
        mask = inputs["decoder_attention_mask" if "decoder_attention_mask" in inputs else "attention_mask"].bool()
        return {key: x[mask] if x.shape[:2] == mask.shape else x for key, x in out.items()}

    # -- steps ------------------------------------------------------------------------------------------------------

    def _steps(self, inputs: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """(ids, mask so far) of the columns, a few at a time."""
        ids = inputs["decoder_input_ids" if self.both else "input_ids"]
        mask = torch.ones_like(ids) if self.both else inputs["attention_mask"]
        begin = 0
        for end in (4, 5, 6, ids.shape[1]):
            yield ids[:, begin:end], mask[:, :end]
            begin = end

    def _our_steps(self, inputs: dict[str, Tensor]) -> Tensor:
        if self.both:
            source, kept = self._source(inputs)
            state = self.ours.begin(source, attention_mask=kept)
        else:
            state = self.ours.begin(batch=len(inputs["input_ids"]))
        found, real = [], []
        for ids, mask in self._steps(inputs):
            here = mask[:, -ids.shape[1] :]
            layout = Layout.from_lengths(here.sum(1).tolist(), ids.shape[1], side="left", starts=state.lengths)
            found.append(self.ours.step(ids, layout, state, at=slice(None)))
            real.append(here.bool())
        return torch.cat(found, 1)[torch.cat(real, 1)]

    def _their_steps(self, inputs: dict[str, Tensor]) -> Tensor:
        past: Any = None
        found, real = [], []
        memory = None
        for ids, mask in self._steps(inputs):
            given = {"input_ids": ids, "attention_mask": mask}
            if self.both:
                given = {**inputs, "decoder_input_ids": ids}
                given.pop("decoder_attention_mask")
            more: dict[str, Any] = {"past_key_values": past, "use_cache": True}
            if memory is not None:
                more["encoder_outputs"] = (memory,)
            if not self.both and not self.counted and theirs.takes(self.hf, "position_ids"):
                more["position_ids"] = theirs.positions(mask)[:, -ids.shape[1] :]
            with theirs.quietly():
                out = self.hf(**given, **more, return_dict=True)
            past = out.past_key_values
            memory = out.encoder_last_hidden_state if self.both else None
            found.append(out.logits)
            real.append(mask[:, -ids.shape[1] :].bool())
        return torch.cat(found, 1)[torch.cat(real, 1)]


def deviation(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The worst max |a - b| / max |b| over what both give; infinite for other names, other shapes and NaN."""
    worst = 0.0
    for key, there in theirs.items():
        if key not in ours or ours[key].shape != there.shape:
            return float("inf")
        figure = float((ours[key].float() - there.float()).abs().max() / there.float().abs().max().clamp(min=1e-9))
        worst = max(worst, figure if figure == figure else float("inf"))
    return worst


def _kept(table: Table, name: str) -> bool:
    """Whether a name is a copy or carries nothing: read, but written by no rule of its own."""
    kept = [*(tie.theirs for tie in table.ties), *(ignore.theirs for ignore in table.ignores)]
    return any(Pattern(text).bind(name) is not None for text in kept)

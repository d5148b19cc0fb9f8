"""Make the README's tables from the live registries: `python scripts/readme_tables.py` rewrites them in place.

With --check nothing is written and the exit code tells whether they are true.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from attnlib.attention.backends.choose import refusals
from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.biases import ALiBiSpec, TermSpec
from attnlib.attention.masks import Causal, Explicit, Mask, Prefix, Window
from attnlib.attention.normalisers.sigmoid import SigmoidSpec
from attnlib.attention.products import ProductSpec
from attnlib.attention.rotary import Scaling
from attnlib.attention.scores import NormaliserSpec, ScoreRule, ScoresSpec
from attnlib.attention.softmax import MixerSpec, Role, SoftmaxAttention
from attnlib.attention.visibility import Visibility
from attnlib.layout import Layout
from attnlib.models.heads import HeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.nn.embeddings import PositionSpec
from attnlib.nn.features import FeaturesSpec
from attnlib.nn.feed_forward import FeedForward
from attnlib.nn.init import Init
from attnlib.nn.norms import Norm
from attnlib.pretrained.family import families
from attnlib.spec import FieldError, Spec, SpecErrors

README = Path(__file__).parents[1] / "README.md"
PARITY = Path(__file__).parent / "parity.jsonl"  # attnlib parity --json > scripts/parity.jsonl
OUTPUTS = ("plain", "left", "right", "cached", "back")

SLOTS: dict[str, type[Spec]] = {
    "model": ModelSpec,
    "attention, cross": MixerSpec,
    "mask": Mask,
    "term, stack.bias": TermSpec,
    "rotary.scaling": Scaling,
    "scores.product": ProductSpec,
    "scores.normaliser": NormaliserSpec,
    "mlp": FeedForward,
    "norm": Norm,
    "embedding.position": PositionSpec,
    "features": FeaturesSpec,
    "head": HeadSpec,
    "init": Init,
}


def kinds_table() -> str:
    """Every kind of every slot of a model, with the first sentence of its docstring."""
    lines = ["| slot | kind | what it is |", "|---|---|---|"]
    for slot, base in SLOTS.items():
        for kind, cls in base.kinds().items():
            words = " ".join((cls.__doc__ or "").split("\n\n")[0].split()).replace("|", "\\|")
            lines.append(f"| {slot} | `{kind}` | {words} |")
            slot = ""
    return "\n".join(lines)


def mixers_table() -> str:
    """What each mixer can do, asked of its spec and of a small module of it."""
    heading = ("| kind | causal | both ways | cross | rotary | grouped heads | terms | normalisers | short convolution "
               "| weights shown | it keeps |")  # fmt: skip
    lines = [heading, "|" + "---|" * 11]
    for kind, cls in MixerSpec.kinds().items():
        if not cls.__module__.startswith("attnlib.") or kind == "beside":
            continue
        fields = cls.model_fields
        given: dict[str, Any] = {"num_heads": 4} if "num_heads" in fields else {}
        mixer = cls(**given).build(d_model=8, layer=0)
        weights = isinstance(mixer, SoftmaxAttention) or hasattr(mixer, "implied_weights")
        can = [_stands(cls, given, "self", mask=Causal()), _stands(cls, given, "self"), _stands(cls, given, "cross"),
               "rotary" in fields, "num_kv_heads" in fields and _stands(cls, given, "self", num_kv_heads=2),
               "term" in fields and _stands(cls, given, "self", term=ALiBiSpec()),
               "scores" in fields and _stands(cls, given, "self", scores=ScoresSpec(normaliser=SigmoidSpec())),
               "conv" in fields, weights]  # fmt: skip
        keeps = "a state" if getattr(mixer, "stateful", False) else "columns" if can[0] else "nothing"
        lines.append(f"| `{kind}` | " + " | ".join("yes" if one else "" for one in can) + f" | {keeps} |")
    return "\n".join(lines)


def _stands(cls: type[MixerSpec], given: dict[str, Any], role: Role, **more: Any) -> bool:
    try:
        cls(**given, **more).check(d_model=8, role=role)
    except (FieldError, SpecErrors):
        return False
    return True


def backend_table() -> str:
    """What each backend computes: yes, or blank where it refuses."""
    names = list(Backend.known())
    lines = ["| what | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for what, found in _cases().items():
        lines.append(f"| {what} | " + " | ".join("yes" if found[name] is None else "" for name in names) + " |")
    return "\n".join(lines)


def _cases() -> dict[str, dict[str, str | None]]:
    q, k = torch.zeros(2, 4, 8, 16), torch.zeros(2, 2, 8, 16)
    dense, packed = Layout.dense(2, 8), Layout.packed([[3, 5], [8]])
    mask_only = ScoreRule(scale=1.0)

    def ask(
        mask: Mask, layout: Layout, rule: ScoreRule = mask_only, dropout: float = 0.0, grad: bool = False
    ) -> dict[str, str | None]:
        call = AttentionCall(Visibility(mask, layout, layout, 4), rule, dropout)
        return refusals(q.detach().requires_grad_(grad), k, k, call)

    terms = {kind: cls().build(num_heads=4, d_head=16) for kind, cls in TermSpec.kinds().items()}
    found = {
        "causal, windows, grouped heads": ask(Causal() & Window(before=3), dense),
        "any mask over positions": ask(Explicit(rows=("#.", "##")), packed),
        "masks over tags (prefix, global)": ask(Causal() | Prefix(), dense.tagged(prefix=[1, 2])),
        "padded and packed batches": ask(Causal(), packed),
        "columns after a cache of any order": ask(Causal(), Layout.of(packed.positions, packed.segments)),
    }
    found |= {f"term `{kind}`": ask(Causal(), packed, ScoreRule(scale=1.0, terms=[term])) for kind, term in terms.items()}
    found["softcap"] = ask(Causal(), dense, ScoreRule(scale=1.0, softcap=5.0))
    for kind, cls in NormaliserSpec.kinds().items():
        found[f"normaliser `{kind}`"] = ask(Causal(), dense, ScoreRule(scale=1.0, normaliser=cls().build(num_heads=4)))
    found["dropout"] = ask(Causal(), dense, dropout=0.1)
    found["backward on the CPU"] = ask(Causal(), dense, grad=True)
    return found


def families_table() -> str:
    """The families of public checkpoints, from their declarations and from what `attnlib parity --json` last printed."""
    lines = ["| family | stack | heads | directions | padding | bit for bit | largest deviation: outputs, gradients, "
             "bfloat16 | not covered | source |", "|" + "---|" * 9]  # fmt: skip
    rows = [json.loads(line) for line in PARITY.read_text(encoding="utf-8").splitlines()]
    for family in sorted(families(), key=lambda family: family.name):
        mine = [row for row in rows if row["family"] == family.name]
        lines.append("| " + " | ".join([family.name, *_measured(mine, family.architectures.values()),
                     family.uncovered, " ".join((type(family).__doc__ or "").split())]) + " |")  # fmt: skip
    return "\n".join(lines)


def _measured(rows: list[dict[str, Any]], kinds: Iterable[str]) -> list[str]:
    """A family's cells that its samples tell."""
    stacks = ", ".join(dict.fromkeys(row["stack"].replace("_", "-") for row in rows)) or "not measured"
    heads = ", ".join(f"`{kind}`" for kind in dict.fromkeys(kinds))
    ways = [way for way, key in (("in", "read"), ("out", "written")) if rows and all(row[key] for row in rows)]
    sides = [side for side in ("left", "right") if any(row[side] is not None for row in rows)]
    equal = f"{sum(bool(row['bits']) for row in rows)} of {len(rows)}"
    worst = max((row[figure] or 0.0 for row in rows for figure in OUTPUTS), default=0.0)
    others = ([row[name] for row in rows if row[name] is not None] for name in ("gradient", "half"))
    figures = [worst, *(max(known, default=None) for known in others)]
    told = ", ".join("none" if figure is None else f"{figure:.0e}" if figure else "0" for figure in figures)
    return [stacks, heads, ", ".join(ways), ", ".join(sides), equal, told]


def rewritten(text: str) -> str:
    """The README with each table between its marks made anew."""
    makers = {"kinds": kinds_table, "mixers": mixers_table, "backends": backend_table, "families": families_table}
    for name, make in makers.items():
        table = make()
        begin, end = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->"
        head, _, rest = text.partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            sys.exit(f"README.md: no marks for the table {name!r}, wish {begin.strip()} ... {end.strip()}")
        text = head + begin + table + "\n" + end + tail
    return text


if __name__ == "__main__":
    now = README.read_text(encoding="utf-8")
    new = rewritten(now)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if new == now else "README.md: tables are not those of the code, run python scripts/readme_tables.py")
    README.write_text(new, encoding="utf-8")

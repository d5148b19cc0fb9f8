"""Tokenizers of published models (tokenizer.json), through the `tokenizers` package, imported when one is built."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attnlib.errors import DataError, nearest
from attnlib.text.chat import FILE as CHAT_FILE
from attnlib.text.chat import SPELT
from attnlib.text.files import find_data, read_text
from attnlib.text.settings import SETTINGS, role_names, settings_of
from attnlib.text.tokenizer import Flags, Frame, Tokenizer, TokenizerSpec, readable

_MARK = SPELT
_KNOWN = {  # how published vocabularies write each role, most telling first
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "<|finetune_right_pad_id|>"),
    "bos": ("[CLS]", "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"),
    "eos": ("[SEP]", "</s>", "<eos>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "unk": ("[UNK]", "<unk>"),
}


class HF(TokenizerSpec, kind="hf"):
    """A tokenizer.json. Roles are found under their well-known names; name those that are not.

    Its padding and truncation are not applied. Special tokens written in a text are text.
    """

    path: str = "tokenizer.json"
    pad: str | None = None
    bos: str | None = None
    eos: str | None = None
    sep: str | None = None
    mask: str | None = None

    def build(self, base: str | Path | None = None, texts: Iterable[str] | None = None) -> HFTokenizer:
        path = find_data(self.path, base)
        names = {role: getattr(self, role) for role in ("pad", "bos", "eos", "sep", "mask")}
        found = HFTokenizer(read_text(path), origin=str(path), roles={r: n for r, n in names.items() if n is not None})
        if path.name == "tokenizer.json":
            found.settings = settings_of(path.parent)
        return found


class HFTokenizer(Tokenizer):
    """A `tokenizers` pipeline. `document` is the text of a tokenizer.json; `origin` names it in errors.

    settings: what the files beside it say, which are handed on.
    """

    settings: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, document: str, *, origin: str = "tokenizer.json", roles: dict[str, str] | None = None) -> None:
        try:
            self._json: dict[str, Any] = json.loads(document)
            self._roles, self._plain = dict(roles or {}), _make(document)
            self._guarded = _make(self._guard(self._specials()))
        except DataError:
            raise
        except Exception as error:  # the package raises bare Exception
            fact = f"is no tokenizer: {(str(error).splitlines() or ['?'])[0]}"
            raise DataError(origin, fact, "must be a tokenizer.json") from error
        self._document = document
        vocabulary = self._plain.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        self.special_names = {t["id"]: t["content"] for t in self._json.get("added_tokens") or [] if t["special"]}
        self._find_roles(vocabulary, origin)
        self._byte_level = '"ByteLevel"' in json.dumps(self._json.get("decoder"))
        self._word_piece = (self._json.get("model") or {}).get("type") == "WordPiece"
        self.template = self._find_template()

    @property
    def opens(self) -> bool:
        """Never: what goes around a text, be it nothing, is in the tokenizer.json."""
        return False

    def offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        text = text.encode("utf-8", "replace").decode()  # a lone surrogate is no text: "?", as bytes have it
        found = self._guarded.encode(text, add_special_tokens=False)
        if _MARK in text and self._holds_special(found.ids):
            found = self._guarded.encode(text.replace(_MARK, "�"), add_special_tokens=False)
        return list(found.ids), list(found.offsets)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        if any(_MARK in text for text in texts):
            return super().encode_all(texts)
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        return [list(one.ids) for one in self._guarded.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_blanks(self, text: str) -> list[int]:
        """As the tokenizer.json has it: a mask token may take the spaces beside it."""
        mark = self.special_names[self.need("mask")]
        if _MARK in text or not any(t["content"] == mark for t in self._json.get("added_tokens") or []):
            return super().encode_blanks(text)
        return list(self._blanks.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids)

    def encode_spelt(self, text: str) -> list[int]:
        """Special tokens may take the spaces beside them, as the tokenizer.json has it."""
        return list(self._spelt.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids)

    @cached_property
    def _spelt(self) -> Any:
        """The guarded pipeline that finds special tokens under their guarded names."""
        return _make(self._guard(self._specials()), specials=True)

    @cached_property
    def _blanks(self) -> Any:
        """The guarded pipeline that still finds the mask token."""
        return _make(self._guard(self._specials() - {self.special_names[self.need("mask")]}), specials=True)

    @cached_property
    def pair(self) -> Frame:
        """Found by what the tokenizer puts around "a" and "b"."""
        found = self._plain.encode("a", "b")
        sides = list(found.sequence_ids)
        cuts = [sides.index(0), len(sides) - sides[::-1].index(0), sides.index(1), len(sides) - sides[::-1].index(1)]
        ends = [0, *cuts, len(sides)]
        ids, types = list(found.ids), list(found.type_ids)
        kinds = tuple(types[ends[i]] if ends[i] < ends[i + 1] else 0 for i in range(5))
        return Frame(tuple(ids[: cuts[0]]), tuple(ids[cuts[1] : cuts[2]]), tuple(ids[cuts[3] :]), kinds)  # type: ignore[arg-type]

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        return str(self._plain.decode([int(i) for i in ids], skip_special_tokens=not special))

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [readable(self._piece(int(i))) for i in ids]

    def save(self, folder: str | Path) -> TokenizerSpec:
        (Path(folder) / "tokenizer.json").write_text(self._document, encoding="utf-8")
        (Path(folder) / SETTINGS[-1]).write_text(json.dumps(self._told(), indent=2) + "\n", encoding="utf-8")
        if self.chat_template is not None:
            (Path(folder) / CHAT_FILE).write_text(self.chat_template.source, encoding="utf-8")
        return HF(**self._roles)

    def named(self, pattern: re.Pattern[str]) -> dict[str, int]:
        """All tokens of the vocabulary, special or not, whose whole name is of a pattern."""
        return {name: i for name, i in self._plain.get_vocab().items() if pattern.fullmatch(name)}

    def knows(self, name: str) -> bool:
        """Whether a token of this name is in the vocabulary."""
        return self._plain.token_to_id(name) is not None

    def word_edges(self) -> tuple[Flags, Flags]:
        continues, continued = super().word_edges()
        if self._word_piece:  # the vocabulary itself says what continues a word
            for i in range(self.vocab_size):
                name = self._plain.id_to_token(i) or ""
                continues[i], continued[i] = name.startswith("##"), self.ordinary[i]
        return continues, continued

    def _told(self) -> dict[str, Any]:
        """The settings for other programs: those that came along, and the roles that they do not tell."""
        ids = {role: getattr(self, f"{role}_id") for role in _KNOWN}
        found = self._roles if self.settings else {role: self.special_names[i] for role, i in ids.items() if i is not None}
        told = role_names(self.settings)
        more = {f"{role}_token": name for role, name in found.items() if told.get(role) != name}
        return {"tokenizer_class": "PreTrainedTokenizerFast", **self.settings, **more}

    def _piece(self, i: int) -> str:
        name = self._plain.id_to_token(i)
        if name is None or i in self.special_names:
            return name or ""
        if self._byte_level and all(c in _BYTES for c in name):
            return bytes(_BYTES[c] for c in name).decode("utf-8", "replace")
        return str(name)

    def _find_roles(self, vocabulary: dict[str, int], origin: str) -> None:
        special = set(self.special_names.values())
        for role, names in _KNOWN.items():
            name = self._roles.get(role) or next((n for n in names if n in special), None)
            if name is not None and name not in vocabulary:
                raise DataError(f"tokenizer.{role}", f"{name!r} is not in {origin}", "must be one of its tokens",
                                nearest(name, special))  # fmt: skip
            if name is not None:
                setattr(self, f"{role}_id", vocabulary[name])
                self.special_names = {**self.special_names, vocabulary[name]: name}
        numbered = (f"<extra_id_{i}>" for i in range(len(special)))
        self.sentinels = tuple(vocabulary[name] for name in numbered if name in special)

    def _find_template(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        framed, bare = self._plain.encode("a").ids, self._plain.encode("a", add_special_tokens=False).ids
        for at in range(len(framed) - len(bare) + 1):
            if framed[at : at + len(bare)] == bare:
                return tuple(framed[:at]), tuple(framed[at + len(bare) :])
        return (), ()

    def _specials(self) -> frozenset[str]:
        """Every name that a text must not spell: the special tokens of the file, and those that were named."""
        listed = {t["content"] for t in self._json.get("added_tokens") or [] if t["special"]}
        return frozenset(listed | set(self._roles.values()))

    def _guard(self, specials: Collection[str]) -> str:
        return json.dumps(_guarded(self._json, specials), ensure_ascii=False)

    def _holds_special(self, ids: list[int]) -> bool:
        return any(i in self.special_names and i != self.unk_id for i in ids)


def _make(document: str, *, specials: bool = False) -> Any:
    """The pipeline; `specials`: whether an added special token written in a text is found there, or split like the rest."""
    try:
        from tokenizers import Tokenizer as Pipeline
    except ImportError as error:
        raise DataError("tokenizer.kind", "hf needs the package tokenizers, which is not installed", "",
                        'pip install "attnlib[text]"') from error  # fmt: skip
    made = Pipeline.from_str(document)
    made.no_padding()
    made.no_truncation()
    made.encode_special_tokens = not specials
    return made


def _guarded(document: dict[str, Any], specials: Collection[str]) -> dict[str, Any]:
    """The same pipeline with these special tokens renamed beyond what a text can spell; their ids stay.

    `encode_special_tokens` alone is not enough: a Unigram model with "</s>" among its own pieces (T5) still finds it.
    """
    hidden = {name: _MARK + name for name in specials}
    model = dict(document["model"])
    pieces = model.get("vocab")
    if isinstance(pieces, dict):
        model["vocab"] = {hidden.get(name, name): i for name, i in pieces.items()}
    elif isinstance(pieces, list):
        model["vocab"] = [[hidden.get(name, name), score] for name, score in pieces]
    if isinstance(model.get("merges"), list):
        model["merges"] = [m for m in model["merges"] if "".join(m.split(" ") if isinstance(m, str) else m) not in hidden]
    if model.get("unk_token") in hidden:
        model["unk_token"] = hidden[model["unk_token"]]
    added = [{**t, "content": hidden[t["content"]], "normalized": False} if t["content"] in hidden else t
             for t in document.get("added_tokens") or []]  # fmt: skip
    return {**document, "model": model, "added_tokens": added}


def _byte_letters() -> dict[str, int]:
    """Byte-level vocabularies write bytes as letters: printable Latin-1 as itself, the others from U+0100 up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTES = _byte_letters()

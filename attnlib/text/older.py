"""Vocabulary files from before tokenizer.json: vocab.txt of WordPiece, vocab.json and merges.txt of byte-level BPE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attnlib.errors import DataError
from attnlib.text.files import read_text
from attnlib.text.settings import name_of

FILES = (("vocab.txt",), ("vocab.json", "merges.txt"))


def document_of(folder: Path, names: tuple[str, ...], settings: dict[str, Any]) -> str:
    """The tokenizer.json that these files (one of FILES) mean, under the settings of tokenizer_config.json."""
    try:
        import tokenizers
    except ImportError as error:
        raise DataError(str(folder / names[0]), "needs the package tokenizers, which is not installed", "",
                        'pip install "attnlib[text]"') from error  # fmt: skip
    made = _word_piece(folder, settings) if names == FILES[0] else _byte_pairs(folder, settings)
    _add(made, folder, settings)
    assert isinstance(made, tokenizers.Tokenizer)
    return str(made.to_str())


def _word_piece(folder: Path, settings: dict[str, Any]) -> Any:
    """BERT's: [CLS] A [SEP] B [SEP], or, where the vocabulary writes <s> and </s>, <s> A </s></s> B </s>."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces = read_text(folder / "vocab.txt").split("\n")
    vocabulary = {piece.rstrip("\r"): i for i, piece in enumerate(pieces) if piece.rstrip("\r") or i + 1 < len(pieces)}
    cased = any(piece != piece.lower() for piece in vocabulary if not piece.startswith(("[", "<")))
    unknown = _named(settings, vocabulary, "unk_token", ("[UNK]", "<unk>"), folder)
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", not cased),
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##")
    first = _named(settings, vocabulary, "cls_token", ("[CLS]", "<s>"), folder)
    last = _named(settings, vocabulary, "sep_token", ("[SEP]", "</s>"), folder)
    made.add_special_tokens([t for t in ("[PAD]", "<pad>", unknown, first, last, "[MASK]", "<mask>") if t in vocabulary])
    return _framed(made, first, last, twice=last == "</s>")


def _byte_pairs(folder: Path, settings: dict[str, Any]) -> Any:
    """GPT-2's: nothing around a text, or bos where add_bos_token says so; with <mask>, <s> A </s></s> B </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    vocabulary = _vocabulary(folder)
    lines = read_text(folder / "merges.txt").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if wrong := next((m for m in merges if len(m) != 2 or not {*m, "".join(m)} <= vocabulary.keys()), None):
        raise DataError(str(folder / "merges.txt"), f"{' '.join(wrong)!r} joins no two pieces of vocab.json",
                        "wish the merges of this vocabulary")  # fmt: skip
    if not any(piece.startswith("Ġ") for piece in vocabulary):
        raise DataError(str(folder / "vocab.json"), "is no byte-level vocabulary", "wish a tokenizer.json")
    prefix = bool(settings.get("add_prefix_space", False))
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))  # type: ignore[arg-type]
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    known = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>", "<|startoftext|>")
    made.add_special_tokens([token for token in known if token in vocabulary])
    if {"<s>", "</s>", "<mask>"} <= vocabulary.keys():
        first = _named(settings, vocabulary, "cls_token", ("<s>",), folder)
        return _framed(made, first, _named(settings, vocabulary, "sep_token", ("</s>",), folder), twice=True)
    if settings.get("add_bos_token"):
        bos = _named(settings, vocabulary, "bos_token", ("</s>", "<|endoftext|>"), folder)
        made.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])])
    return made


def _framed(made: Any, first: str, last: str, *, twice: bool) -> Any:
    from tokenizers import processors

    pair = f"{first} $A {last} {last} $B {last}" if twice else f"{first} $A {last} $B:1 {last}:1"
    ids = [(first, made.token_to_id(first)), (last, made.token_to_id(last))]
    made.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", pair=pair, special_tokens=ids)
    return made


def _vocabulary(folder: Path) -> dict[str, int]:
    path = folder / "vocab.json"
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(str(path), f"is no JSON: {str(error)[:100]}", "wish pieces with their ids") from None
    if not isinstance(found, dict) or not all(type(i) is int and i >= 0 for i in found.values()):
        raise DataError(str(path), "holds something else than pieces with their ids", "wish a JSON object of numbers")
    return found


def _named(settings: dict[str, Any], vocabulary: dict[str, int], key: str, usual: tuple[str, ...], folder: Path) -> str:
    """The token of a role: named by the settings, else the usual one that the vocabulary has."""
    told = name_of(settings.get(key))
    found = next((name for name in (told, *usual) if name in vocabulary), None)
    if found is None:
        raise DataError(f"{folder}: {key}", "is not in the vocabulary", f"wish {' or '.join(usual)}")
    return found


def _add(made: Any, folder: Path, settings: dict[str, Any]) -> None:
    """Tokens that follow the vocabulary, as tokenizer_config.json and added_tokens.json number them."""
    added = {str(i): name_of(token) for i, token in (settings.get("added_tokens_decoder") or {}).items()}
    path = folder / "added_tokens.json"
    if path.exists():
        try:
            added |= {str(i): name for name, i in json.loads(read_text(path)).items()}
        except (ValueError, AttributeError) as error:
            raise DataError(str(path), f"cannot be read: {str(error)[:100]}", "wish names with their ids") from None
    for i, name in sorted(added.items(), key=lambda item: int(item[0]) if item[0].isdecimal() else -1):
        if name is None or not i.isdecimal():
            raise DataError(f"{folder}: added_tokens_decoder", f"names {name!r} {i!r}", "wish a name and a number")
        made.add_special_tokens([name])
        if made.token_to_id(name) != int(i):
            raise DataError(f"{folder}: added token {name!r}", f"has the id {i}", f"follows as {made.token_to_id(name)}")

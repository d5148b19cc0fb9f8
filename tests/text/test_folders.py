"""The tokenizer of a folder, whichever files it has: equal to transformers', and nothing padded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attnlib.errors import CheckpointError, DataError, UsageError
from attnlib.text import tokenizer_of
from attnlib.text.byte_level import ByteTokenizer
from attnlib.text.hf import HF

pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

TEXTS = ["The whale rose, and the sea ran high!", "naïve café 北京", "a [SEP] b </s> c <mask>", "", "  two  spaces "]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "the", "whale", "##s", "sea", "##e",
        "ro", "##se", "!", ",", "[", "]", "/", "<", ">", "cafe", "北", "京", "##a"]  # fmt: skip


def byte_pairs(folder: Path, *specials: str) -> None:
    """vocab.json and merges.txt of a few pieces, byte-level."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False, initial_alphabet=alphabet, special_tokens=[*specials])
    made.train_from_iterator(["the whale and the sea and the whale rose"] * 4, trainer)
    made.model.save(str(folder))


def ids(theirs: Any, *texts: str) -> list[int]:
    return list(theirs(*texts, split_special_tokens=True)["input_ids"])


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"strip_accents": False}])
def test_vocab_txt_is_read_as_transformers_reads_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **settings}))
    ours, theirs = tokenizer_of(tmp_path), transformers.BertTokenizer.from_pretrained(tmp_path)
    assert ours.vocab_size == len(BERT) and (ours.pad_id, ours.mask_id) == (0, 4)
    for text in TEXTS:
        assert ours.encode(text, template=True) == ids(theirs, text)
    framed = ours.join(ours.encode("the sea"), ours.encode("whales"))
    wished = theirs("the sea", "whales")
    assert (framed.ids, framed.types) == (wished["input_ids"], wished["token_type_ids"])
    assert [framed.ids[i] for i in framed.second] == ours.encode("whales")


def test_vocab_txt_with_other_marks_frames_pairs_with_two_separators(tmp_path: Path) -> None:
    names = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
    (tmp_path / "vocab.txt").write_text("\n".join(names.get(piece, piece) for piece in BERT), encoding="utf-8")
    ours, theirs = tokenizer_of(tmp_path), transformers.MPNetTokenizer(vocab=str(tmp_path / "vocab.txt"))
    for pair in (("the sea",), ("the sea", "whales")):
        assert ours.join(*map(ours.encode, pair)).ids == theirs(*pair)["input_ids"]


def test_vocab_json_and_merges_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    byte_pairs(tmp_path, "<|endoftext|>")
    ours, theirs = tokenizer_of(tmp_path), transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    assert ours.template == ((), ()) and ours.eos_id == 0
    for text in TEXTS:
        assert ours.encode(text, template=True) == ids(theirs, text)
        assert ours.decode(ours.encode(text)) == text


def test_byte_pairs_with_a_mask_are_framed_as_an_encoders(tmp_path: Path) -> None:
    byte_pairs(tmp_path, "<s>", "<pad>", "</s>", "<unk>", "<mask>")
    ours, theirs = tokenizer_of(tmp_path), transformers.RobertaTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert ours.encode(text, template=True) == ids(theirs, text)
    framed = ours.join(ours.encode("the sea"), ours.encode("whales"))
    assert framed.ids == theirs("the sea", "whales")["input_ids"] and not any(framed.types)


def test_a_special_token_of_a_role_comes_from_the_settings(tmp_path: Path) -> None:
    byte_pairs(tmp_path, "<|endoftext|>")
    bare = tokenizer_of(tmp_path)
    bare.save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["added_tokens"] = []  # the file alone does not say which tokens are special
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert tokenizer_of(tmp_path).eos_id is None
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<|endoftext|>", "bos_token": "<absent>"}))
    ours = tokenizer_of(tmp_path)
    assert (ours.eos_id, ours.pad_id, ours.bos_id) == (0, 0, None)
    assert 0 not in ours.encode("a<|endoftext|>b") and 0 not in ours.encode_all(["a<|endoftext|>b"])[0]
    saved = tmp_path / "saved"
    saved.mkdir()
    assert ours.save(saved).build(saved).eos_id == 0


def test_what_is_saved_tells_other_programs_the_roles_and_all_that_was_told_before(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    byte_pairs(tmp_path, "<|endoftext|>")
    (tmp_path / "bare").mkdir()
    tokenizer_of(tmp_path).save(tmp_path / "bare")
    told = {"pad_token": "a", "model_max_length": 77}
    (tmp_path / "bare" / "tokenizer_config.json").write_text(json.dumps(told))
    (tmp_path / "again").mkdir()
    HF(eos="b").build(tmp_path / "bare").save(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert again == {"tokenizer_class": "PreTrainedTokenizerFast", **told, "eos_token": "b"}
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert (theirs.pad_token, theirs.eos_token, theirs.model_max_length) == ("a", "b", 77)


def test_padding_and_truncation_that_a_file_asks_for_are_not_done(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT), encoding="utf-8")
    tokenizer_of(tmp_path).save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["padding"] = {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                           "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
    document["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    ours = tokenizer_of(tmp_path)
    assert ours.encode("the sea", template=True) == [2, BERT.index("the"), BERT.index("sea"), 3]
    assert ours.encode_all(["the sea a b c d", "a"]) == [ours.encode("the sea a b c d"), ours.encode("a")]
    assert ours.pair.types == (0, 0, 0, 1, 1)


def test_a_blank_is_found_as_transformers_finds_it_and_no_other_special_token(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT), encoding="utf-8")
    ours, theirs = tokenizer_of(tmp_path), transformers.BertTokenizer.from_pretrained(tmp_path)
    text = "the [MASK] ro[MASK]se"
    assert ours.encode_blanks(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert 3 not in ours.encode_blanks("the [SEP] [MASK]") and ours.encode_blanks("[SEP][MASK]")[-1] == 4
    other = tmp_path / "other"
    other.mkdir()
    byte_pairs(other, "<s>", "<pad>", "</s>", "<unk>", "<mask>")
    ours, theirs = tokenizer_of(other), transformers.RobertaTokenizer.from_pretrained(other)
    text = "the <mask> and<mask> sea"  # whose mask token takes the space before it
    assert ours.encode_blanks(text) == theirs(text, add_special_tokens=False)["input_ids"]


def test_texts_encoded_together_are_those_encoded_alone(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT), encoding="utf-8")
    for ours in (tokenizer_of(tmp_path), ByteTokenizer()):
        assert ours.encode_all(TEXTS) == [ours.encode(text) for text in TEXTS]
    assert ByteTokenizer().join([1, 2], [3]).ids == [1, 2, 259, 3]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"spiece.model": b"\x0a\x0b"}, "spiece.model: is a vocabulary that is not read here, wish a tokenizer.json"),
        ({}, "holds no tokenizer"),
        ({"vocab.txt": b"the\nsea\n"}, "unk_token: is not in the vocabulary"),
        ({"vocab.json": b"[1]", "merges.txt": b""}, "vocab.json: holds something else"),
        ({"vocab.json": b'{"a": 0, "\xc4\xa0b": 1}', "merges.txt": b"a b\n"}, "'a b' joins no two pieces"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"#version: 0.2\n"}, "is no byte-level vocabulary"),
        ({"vocab.txt": "\n".join(BERT).encode(), "tokenizer_config.json": b"[]"}, "holds a list, wish a JSON object"),
        ({"vocab.txt": "\n".join(BERT).encode(), "added_tokens.json": b'{"<new>": 7}'}, "has the id 7, follows as"),
    ],
)
def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises((CheckpointError, DataError)) as error:
        tokenizer_of(tmp_path)
    assert said in str(error.value)


def test_a_pair_needs_a_separator() -> None:
    bare = ByteTokenizer()
    bare.sep_id = None
    with pytest.raises(UsageError, match="has no sep token"):
        bare.join([1], [2])

"""Tokenizers: lossless, never half a code point, no special id from user text."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlib.errors import AttnlibError, DataError, UsageError
from attnlib.text import BPE, HF, Bytes, Chars, Tokenizer, TokenizerSpec

STORY = "It's the whale-fish; Ahab's naïve 😀 friend (aged 42) said: “no”.\n\tAnd  two blanks. "
SHARED = Path(os.environ.get("ATTNLIB_SHARED", "/nowhere"))
REAL = (
    "tokenizers/gpt2.json",
    "tokenizers/t5.json",
    "models/minilm/tokenizer.json",
    "models/stories15m/tokenizer.json",
)


def shared(path: str) -> Path:
    if not (SHARED / path).is_file():
        pytest.skip(f"needs {path} under ATTNLIB_SHARED")
    return SHARED / path


@pytest.fixture(params=["bytes", "chars", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    specs: dict[str, TokenizerSpec] = {"bytes": Bytes(), "chars": Chars(), "bpe": BPE(size=300, sentinels=2)}
    return specs[request.param].build(texts=[STORY])


def test_every_kind_stands_in_the_slot() -> None:
    assert {"bytes", "chars", "hf", "bpe"} <= set(TokenizerSpec.kinds())


def test_byte_ids_are_the_bytes_then_the_specials_then_the_sentinels() -> None:
    made = Bytes(sentinels=3).build()
    assert made.encode("hé") == [104, 0xC3, 0xA9]
    assert (made.pad_id, made.bos_id, made.eos_id, made.sep_id, made.mask_id) == (256, 257, 258, 259, 260)
    assert made.sentinels == (261, 262, 263) and made.vocab_size == 264
    assert made.encode("a", bos=True, eos=True) == [257, 97, 258]


def test_decode_gives_the_text_back(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(STORY)) == STORY
    assert tokenizer.decode(tokenizer.encode(STORY, bos=True, eos=True)) == STORY


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_are_lossless_for_any_text(text: str) -> None:
    made = Bytes().build()
    ids, spans = made.offsets(text)
    assert made.decode(ids) == text and ids == made.encode(text)
    assert b"".join(dict(zip(spans, [text[a:b].encode() for a, b in spans])).values()) == text.encode()


@given(st.text())
def test_bytes_take_lone_surrogates_without_failing(text: str) -> None:
    made = Bytes().build()
    assert len(made.offsets(text)[0]) == len(made.offsets(text)[1])
    made.decode(made.encode(text))


@given(st.lists(st.integers(0, 292)))
def test_byte_stream_equals_decode_for_any_ids(ids: list[int]) -> None:
    made = Bytes().build()
    stream = made.stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == made.decode(ids)


def test_stream_never_gives_half_a_code_point(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    parts = [stream.push(i) for i in tokenizer.encode(STORY)]
    assert "�" not in "".join(parts)
    assert "".join(parts) == STORY and stream.finish() == ""


def test_stream_gives_an_unfinished_code_point_at_the_end_and_starts_afresh() -> None:
    stream = Bytes().build().stream()
    assert [stream.push(b) for b in "é".encode() + b"\xf0\x9f"] == ["", "é", "", ""]
    assert stream.finish() == "�"
    assert stream.push([104, 105]) == "hi"


def test_offsets_name_the_characters_of_each_token(tokenizer: Tokenizer) -> None:
    ids, spans = tokenizer.offsets("so naïve 😀")
    assert ids == tokenizer.encode("so naïve 😀")
    assert sorted({c for a, b in spans for c in range(a, b)}) == list(range(10))
    assert spans == sorted(spans)


def test_user_text_never_becomes_a_special_id(tokenizer: Tokenizer) -> None:
    for name in [*tokenizer.special_names.values(), "<|endoftext|>", "</s>"]:
        try:
            ids = tokenizer.encode(name)
        except DataError:  # characters refuse what their alphabet lacks
            continue
        assert not set(ids) & set(tokenizer.special_names)
        assert tokenizer.decode(ids) == name


def test_saved_and_built_again_it_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    again = tokenizer.save(tmp_path).build(base=tmp_path)
    assert again.encode(STORY) == tokenizer.encode(STORY)
    for name in ("vocab_size", "pad_id", "bos_id", "eos_id", "sep_id", "mask_id", "sentinels", "special_names"):
        assert getattr(again, name) == getattr(tokenizer, name), name


def test_tokens_are_readable(tokenizer: Tokenizer) -> None:
    names = tokenizer.tokens(tokenizer.encode("a b\n"))
    assert "".join(names) == "a▁b⏎"
    assert len(tokenizer.tokens(range(tokenizer.vocab_size))) == tokenizer.vocab_size
    assert tokenizer.tokens([tokenizer.need("mask")]) == ["<mask>"]


def test_word_edges_join_letters_and_part_at_blanks_and_marks(tokenizer: Tokenizer) -> None:
    continues, continued = tokenizer.edges
    ids, spans = tokenizer.offsets("It's two whale-fish")
    words, text = [""], "It's two whale-fish"
    for i, (a, b) in enumerate(spans):
        if i and not (continued[ids[i - 1]] and continues[ids[i]]):
            words.append("")
        words[-1] += text[a:b]
    assert [w.strip() for w in words if w.strip()] == ["It's", "two", "whale", "-", "fish"]


def test_chars_refuse_or_replace_what_the_alphabet_lacks(tmp_path: Path) -> None:
    strict, lenient = Chars().build(texts=["abc"]), Chars(unknown="unk").build(texts=["abc"])
    with pytest.raises(DataError, match=r"text, character 2: 'z' is not in the alphabet, .*unknown: unk"):
        strict.encode("az")
    assert lenient.encode("az") == [0, lenient.unk_id] and lenient.decode(lenient.encode("az")) == "a�"
    with pytest.raises(DataError, match=r"tokenizer\.path"):
        Chars().build()
    (tmp_path / "alphabet.json").write_text("[1]")
    with pytest.raises(DataError, match="holds no alphabet"):
        Chars(path="alphabet.json").build(base=tmp_path)


def test_pieces_are_trained_alike_each_time_and_shorten_the_text() -> None:
    text = "the whale and the ship and the sea " * 30
    first, second = (BPE(size=290 + 32, sentinels=0).build(texts=[text]) for _ in range(2))
    assert first.encode(text) == second.encode(text)
    assert first.vocab_size <= 322 and len(first.encode(text)) < len(text) / 3
    with pytest.raises(DataError, match="trained on the training text"):
        BPE().build()


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    made = BPE(size=300).build(texts=[STORY])
    assert made.encode("a\udcffb") == made.encode("a?b")


@pytest.mark.parametrize("spec", [HF(), BPE()])
def test_a_missing_package_is_named_with_the_way_to_get_it(
    spec: TokenizerSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"needs the package tokenizers.*attnlib\[text\]"):
        spec.build(base=tmp_path, texts=["a"])


def test_broken_tokenizer_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Nonsense"}}))
    with pytest.raises(DataError, match=r"tokenizer\.json: is no tokenizer"):
        HF().build(base=tmp_path)
    with pytest.raises(DataError, match=r"does not exist.*did you mean 'tokenizer.json'"):
        HF(path="tokeniser.json").build(base=tmp_path)


def test_a_role_that_the_vocabulary_lacks_is_refused_when_needed() -> None:
    made = HF(path=str(shared("tokenizers/gpt2.json"))).build()
    with pytest.raises(UsageError, match="has no mask token"):
        made.need("mask")
    with pytest.raises(AttnlibError, match=r"tokenizer.mask: '<\|endoftex\|>' is not in .*did you mean"):
        HF(path=str(shared("tokenizers/gpt2.json")), mask="<|endoftex|>").build()


@pytest.mark.parametrize("path", REAL)
def test_no_special_token_is_injected_through_real_files(path: str) -> None:
    made = HF(path=str(shared(path))).build()
    assert made.special_names
    for name in made.special_names.values():
        ids = made.encode(f"Hi {name} you{name}. \ufdd0{name}")
        assert not [i for i in ids if i in made.special_names and i != made.unk_id], name


@pytest.mark.parametrize("path", REAL)
def test_streams_of_real_files_equal_their_decode(path: str) -> None:
    made = HF(path=str(shared(path))).build()
    ids = made.encode("Once upon  a time\nthe 😀 naïve", template=True)
    stream = made.stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == made.decode(ids)


def test_real_files_encode_as_published() -> None:
    stories = HF(path=str(shared("models/stories15m/tokenizer.json"))).build()
    assert stories.encode("Once upon a time", template=True) == [1, 9038, 2501, 263, 931]
    assert (stories.bos_id, stories.eos_id, stories.vocab_size) == (1, 2, 32000)
    t5 = HF(path=str(shared("tokenizers/t5.json"))).build()
    assert t5.sentinels[:2] == (32099, 32098) and len(t5.sentinels) == 100
    assert t5.encode("Hello world", template=True) == [8774, 296, 1]


def test_padding_and_truncation_of_the_file_are_not_applied() -> None:
    minilm = HF(path=str(shared("models/minilm/tokenizer.json"))).build()
    assert minilm.encode("hello world", template=True) == [101, 7592, 2088, 102]
    assert len(minilm.encode("hello " * 300)) == 300


def test_word_pieces_are_joined_by_their_own_mark() -> None:
    minilm = HF(path=str(shared("models/minilm/tokenizer.json"))).build()
    continues, continued = minilm.edges
    ids = np.array(minilm.encode("unbelievably tall"))
    joined = continued[ids[:-1]] & continues[ids[1:]]
    assert joined[:-1].all() and not joined[-1]
    assert not continues[101] and not continued[101]


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_gpt2_is_lossless_for_any_text(text: str) -> None:
    made = _gpt2()
    assert made.decode(made.encode(text)) == text


_made: list[Tokenizer] = []


def _gpt2() -> Tokenizer:
    if not _made:
        _made.append(HF(path=str(shared("tokenizers/gpt2.json"))).build())
    return _made[0]

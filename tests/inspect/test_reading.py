"""A reading says where in the text each token stands, in characters and in words."""

from __future__ import annotations

import pytest
import torch
from configs_for_tests import decoder, encoder, pair
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlib.errors import LayoutError, UsageError
from attnlib.inspect.explanations import ask
from attnlib.inspect.reading import Side, go_on, read, read_text, word_spans
from attnlib.inspect.subject import drawn
from attnlib.text.byte_level import ByteTokenizer

BYTES = ByteTokenizer(sentinels=0)
WIDE = {"vocab_size": 261}


def model_of(spec, **changes):
    return drawn(spec(**WIDE, **changes), seed=1, device=torch.device("cpu"), dtype=torch.float32)


GPT = model_of(decoder)


def test_words_keep_apostrophes_and_marks_stand_alone() -> None:
    text = "The dog's 2nd bone, naïve."
    assert [text[a:b] for a, b in word_spans(text)] == ["The", "dog's", "2nd", "bone", ",", "naïve", "."]
    assert [("東京へGo"[a:b]) for a, b in word_spans("東京へGo")] == ["東", "京", "へ", "Go"]


@settings(max_examples=25, deadline=None)
@given(st.text(min_size=1, max_size=20))
def test_every_own_token_belongs_to_one_word(text: str) -> None:
    side = read_text(GPT, BYTES, text).text
    columns = [column for word in side.words for column in word.columns]
    assert sorted(columns) == list(side.own) and len(columns) == len(set(columns))
    assert all(0 <= a < b <= len(text) for a, b in filter(None, side.spans))


def test_a_spaces_token_goes_with_the_word_after_it() -> None:
    side = read_text(GPT, BYTES, "a bc !").text
    assert [(word.text, word.columns) for word in side.words] == [("a", (0,)), ("bc", (1, 2, 3)), ("!", (4, 5))]


def test_a_token_over_several_marks_makes_them_one_word() -> None:
    side = Side("text", (5, 6, 7, 8), ("so", '!"', "  ", "東京へ"), 'so!"  東京へ', ((0, 2), (2, 4), (4, 6), (6, 9)))
    assert [(word.text, word.span, word.columns) for word in side.words] == [
        ("so", (0, 2), (0,)), ('!"', (2, 4), (1,)), ("東京へ", (6, 9), (2, 3)),
    ]  # fmt: skip


def test_a_letter_of_many_bytes_is_one_span_however_it_was_written() -> None:
    read_at_once = read_text(GPT, BYTES, "né👩").text
    written = go_on(read_text(GPT, BYTES, "n"), BYTES, BYTES.encode("é👩")).text
    assert read_at_once.spans == written.spans and written.text == "né👩"
    assert written.spans == ((0, 1), (1, 2), (1, 2), (2, 3), (2, 3), (2, 3), (2, 3))


def test_what_the_model_added_is_nobodys_word() -> None:
    t5 = drawn(pair(**WIDE), seed=1, device=torch.device("cpu"), dtype=torch.float32)
    reading = read_text(t5, BYTES, "so it is")
    assert reading.source is not None
    assert reading.source.ids[-1] == BYTES.eos_id and reading.source.spans[-1] is None
    assert (reading.text.ids, reading.text.spans, reading.text.words) == ((0,), (None,), ())


def test_a_head_that_tells_of_the_source_has_it_read_twice() -> None:
    model = drawn(pair(head={"kind": "classify", "num_labels": 3, "pooling": "last"}, **WIDE), seed=1,
                  device=torch.device("cpu"), dtype=torch.float64)  # fmt: skip
    reading = read_text(model, BYTES, "so it is")
    assert reading.source is not None and reading.text.ids == (0, *reading.source.ids[:-1])
    assert [word.text for word in reading.text.words] == ["so", "it", "is"]
    asked = ask(model, reading, "class=2", tokenizer=BYTES)
    logits = model(torch.tensor([reading.source.ids])).logits
    torch.testing.assert_close(asked.logits(asked.inputs()), logits, atol=1e-12, rtol=0)
    assert read(model, [], [5, 7]).text.ids == (0, 5)


def test_mask_marks_of_an_encoder_are_mask_tokens() -> None:
    bert = model_of(encoder, head="masked_lm")
    side = read_text(bert, BYTES, "a <mask> b").text
    at = side.ids.index(BYTES.mask_id)
    assert side.spans[at] == (2, 8) and side.words[1].text == "<mask>"  # one token, one word
    assert read_text(GPT, BYTES, "<mask>").text.ids == tuple(b"<mask>")  # a decoder reads what is written


def test_readings_that_do_not_fit_are_one_line() -> None:
    short = model_of(decoder, embedding={"position": {"kind": "learned", "max_length": 3}})
    for wrong, error, words in (
        (lambda: read_text(GPT, BYTES, ""), UsageError, "text: is empty"),
        (lambda: read_text(short, BYTES, "four"), LayoutError, "text: has 4 tokens, the model's positions end at 3"),
        (lambda: read(GPT, [7, 261]), LayoutError, "token 1 is 261"),
        (lambda: read(GPT, [7], [1]), UsageError, "source: is given, only an encoder-decoder reads one"),
    ):
        with pytest.raises(error, match=words):
            wrong()

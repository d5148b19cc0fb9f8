import pytest
from generation_toys import Bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlib.generate.stops import Detokenizer, StopStrings


def pieces(tokens, context=()):
    text = Detokenizer(Bytes().decode, context)
    return [text.push(token) for token in tokens] + [text.finish()]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_pieces_join_to_the_text_and_hold_whole_code_points(before, after):
    found = pieces(after.encode(), before.encode())
    assert "".join(found) == after
    assert "\ufffd" in after or not any("\ufffd" in piece for piece in found)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=12))
def test_bytes_that_are_no_text_decode_as_the_whole_does(data):
    assert "".join(pieces(data)) == data.decode(errors="replace")


def test_a_code_point_begun_in_the_prompt_is_finished():
    whole = "né".encode()
    assert "".join(pieces(whole[-1:], whole[:-1])) == "é"


def test_an_unfinished_code_point_shows_only_at_the_end():
    assert pieces("né".encode()[:-1]) == ["n", "", "\ufffd"]


def test_a_leading_space_survives_decoders_that_drop_the_first():
    words = {1: "▁Once", 2: "▁upon", 3: "▁a", 4: ","}
    text = Detokenizer(lambda ids: "".join(words[i] for i in ids).replace("▁", " ").removeprefix(" "), [1])
    assert [text.push(token) for token in (2, 3, 4)] == [" upon", " a", ","]


def stopped(chunks, stops):
    held = StopStrings(stops)
    out = [held.push(chunk) for chunk in chunks]
    return out, held.finish(), held.found


def test_what_may_begin_a_stop_string_is_held_back():
    assert stopped(["so E", "N", "d", "s"], ["END"]) == (["so ", "", "ENd", "s"], "", False)
    assert stopped(["so E", "N", "D", "s"], ["END"]) == (["so ", "", "", ""], "", True)
    assert stopped(["aab"], ["aaab"])[0] == ["aab"]


def test_held_text_is_given_at_the_end():
    assert stopped(["abc E", "N"], ["END"]) == (["abc ", ""], "EN", False)


@settings(max_examples=200, deadline=None)
@given(st.text("ab", max_size=14), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_the_split_into_chunks_changes_nothing(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    one, whole = stopped(list(text), stops), stopped(chunks, stops)
    if any(stop in text for stop in stops):
        first = min(text.find(stop) + len(stop) for stop in stops if stop in text)  # the first to be complete
        place = min(text[:first].find(stop) for stop in stops if stop in text[:first])
        assert "".join(one[0]) + one[1] == text[:place] == "".join(whole[0]) + whole[1] and one[2] and whole[2]
    else:
        assert "".join(one[0]) + one[1] == text == "".join(whole[0]) + whole[1] and not one[2]


@pytest.mark.parametrize("stops", [[], ["x"]])
def test_text_without_stops_passes_at_once(stops):
    assert stopped(["ab", "c"], stops) == (["ab", "c"], "", False)

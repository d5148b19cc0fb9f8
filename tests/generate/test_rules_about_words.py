"""sequence_bias, bad_words_ids, suppress_tokens, begin_suppress_tokens."""

import pytest
import torch
from generation_toys import PROMPTS, Toy
from rule_cases import equal_transformers

from attnlib.errors import AttnlibError
from attnlib.generate import Sampling, generate
from attnlib.generate.rules import Known, Texts
from attnlib.generate.rules.words import BadWords, SequenceBias


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("options", [
    {"sequence_bias": [[[5], -6.0], [[1], 4.0]]},
    {"sequence_bias": [[[1, 2], -9.0], [[0, 10], 9.0], [[6, 8, 9], 9.0], [[9, 11], -7.0], [[12, 1], -7.0], [[8], 1.5]]},
    {"bad_words_ids": [[0], [10], [9, 6], [12, 1], [5, 5]]}, {"bad_words_ids": [[4], [7], [12, 7], [11, 10], [1, 4]]},
    {"suppress_tokens": [0, 2, 9, 10]}, {"begin_suppress_tokens": [0, 6, 9, 10, 12]},
    {"begin_suppress_tokens": [0, 6, 11], "forced_bos_token_id": 5},
])  # fmt: skip
def test_generation_equals_transformers(writing, name, beams, options):
    equal_transformers(writing[name], options, beams=beams)


def scored(rule, rows, eos=()):
    texts = Texts.of(rows, rows, [9] * len(rows), torch.device("cpu"))
    return rule.build(Known(5, eos, torch.device("cpu")))(torch.zeros(len(rows), 5), texts).tolist()


def test_a_bias_is_added_where_a_run_would_be_complete():
    rule = SequenceBias(runs=(((2,), 1.0), ((1, 2), 4.0), ((3, 1, 2), 8.0), ((1, 4), -2.0)))
    assert scored(rule, [[3, 1], [1], [0, 3]]) == [[0, 0, 13, 0, -2], [0, 0, 5, 0, -2], [0, 0, 1, 0, 0]]


def test_an_eos_alone_is_no_bad_word_but_a_run_that_ends_with_it_is():
    rule, hidden = BadWords(runs=((3,), (4,), (1, 3))), -float("inf")
    assert scored(rule, [[1], [2]], eos=(3,)) == [[0, 0, 0, hidden, hidden], [0, 0, 0, 0, hidden]]


def test_suppressed_tokens_never_come_and_those_of_the_beginning_not_first():
    results = generate(Toy(seed=1), PROMPTS, max_new_tokens=9, suppress_tokens=[0, 1, 2], begin_suppress_tokens=[3, 4])
    assert {token for r in results for token in r.ids} & {0, 1, 2} == set()
    assert {r.ids[0] for r in results} <= {5, 6} and any({3, 4} & {*r.ids[1:]} for r in results)


@pytest.mark.parametrize(("options", "message"), [
    ({"suppress_tokens": [1, 7]}, "generate.suppress_tokens: token 1 is 7, ids must lie in 0..6"),
    ({"bad_words_ids": [[1, -1]]}, "generate.bad_words_ids: token 1 is -1"),
    ({"bad_words_ids": [[1], 2]}, "Sampling.bad_words_ids"),
    ({"bad_words_ids": [[1], []]}, "Sampling.bad_words_ids"),
    ({"sequence_bias": [[[1], "x"]]}, "Sampling.sequence_bias"),
    ({"suppress_tokens": list(range(7))}, "generate: the rules leave a row no token after 0 new ones"),
])  # fmt: skip
@pytest.mark.parametrize("beams", [1, 2])
def test_words_that_cannot_be_meant_are_named(options, message, beams):
    with pytest.raises(AttnlibError) as error:
        generate(Toy(), PROMPTS, num_beams=beams, **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_rule_is_one_value_whether_given_by_name_or_as_it_is():
    named = Sampling(suppress_tokens=[1, 2], top_k=3, temperature=1.0, sequence_bias=[[[1], 2.0]])
    assert named == Sampling(rules=named.rules, temperature=1.0)
    assert [rule.kind for rule in named.rules] == ["sequence_bias", "suppress_tokens", "top_k"]
    assert Sampling.of(named, suppress_tokens=None, top_k=4).rules == Sampling.of(
        None, temperature=1.0, top_k=4, sequence_bias=[[[1], 2.0]]).rules  # fmt: skip
    assert named.replace(temperature=0.5).rules == named.rules

"""repetition_penalty, encoder_repetition_penalty, no_repeat_ngram_size, encoder_no_repeat_ngram_size."""

import pytest
import torch
from generation_toys import PROMPTS, Toy
from rule_cases import equal_transformers

from attnlib.generate import generate
from attnlib.generate.rules import Known, Texts
from attnlib.generate.rules.repeats import EncoderNoRepeat, EncoderRepetitionPenalty, NoRepeat, RepetitionPenalty

INF = float("inf")


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("options", [
    {"repetition_penalty": 2.5}, {"repetition_penalty": 0.7}, {"encoder_repetition_penalty": 3.0},
    {"encoder_repetition_penalty": 0.4}, {"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 2},
    {"encoder_no_repeat_ngram_size": 1}, {"repetition_penalty": 1.2, "encoder_repetition_penalty": 1.3,
                                          "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 3},
])  # fmt: skip
def test_generation_equals_transformers(writing, name, beams, options):
    equal_transformers(writing[name], options, beams=beams, new=5 if 1 in options.values() else 11, eos=(3,))


def scored(rule, rows, sources=None, vocab=6):
    texts = Texts.of(rows, sources or rows, [9] * len(rows), torch.device("cpu"))
    scores = torch.tensor([[2.0, 1.0, -1.0, -2.0, 4.0, 0.5]])[:, :vocab].expand(len(rows), -1)
    return rule.build(Known(vocab, (), torch.device("cpu")))(scores, texts).tolist()


def test_a_penalty_pulls_what_a_row_holds_towards_minus_infinity_and_nothing_else():
    assert scored(RepetitionPenalty(penalty=2.0), [[0, 3, 3], [4]]) == [
        [1.0, 1.0, -1.0, -4.0, 4.0, 0.5], [2.0, 1.0, -1.0, -2.0, 2.0, 0.5]]  # fmt: skip


def test_a_penalty_of_the_source_draws_its_tokens_near():
    assert scored(EncoderRepetitionPenalty(penalty=2.0), [[1], [1]], [[0, 3], [5]]) == [
        [4.0, 1.0, -1.0, -1.0, 4.0, 0.5], [2.0, 1.0, -1.0, -2.0, 4.0, 1.0]]  # fmt: skip


def banned(found):
    return [[token for token, score in enumerate(row) if score == -INF] for row in found]


def test_runs_are_completed_once_only_and_shorter_rows_have_none_yet():
    rows = [[1, 2, 4, 1, 2], [1, 2], [2], [2, 2, 2]]
    assert banned(scored(NoRepeat(size=3), rows)) == [[4], [], [], [2]]
    assert banned(scored(NoRepeat(size=2), rows)) == [[4], [], [], [2]]
    assert banned(scored(NoRepeat(size=1), rows)) == [[1, 2, 4], [1, 2], [2], [2]]
    assert banned(scored(NoRepeat(size=0), rows)) == [[], [], [], []]


def test_runs_of_the_source_are_not_copied():
    rows, sources = [[5, 1], [1, 2]], [[1, 2, 3, 1, 4], [1, 2, 0]]
    assert banned(scored(EncoderNoRepeat(size=2), rows, sources)) == [[2, 4], [0]]
    assert banned(scored(EncoderNoRepeat(size=3), rows, sources)) == [[], [0]]


def test_ids_that_the_decoders_vocabulary_has_not_are_passed_over():
    assert banned(scored(EncoderNoRepeat(size=1), [[1]], [[4, 2]], vocab=3)) == [[2]]


@pytest.mark.parametrize("beams", [{}, {"num_beams": 3, "n": 2}])
def test_a_row_does_not_depend_on_its_neighbours(beams):
    model = Toy(vocab=9, start=1, kind="encoder_decoder", seed=5)
    options = {"no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.7, "repetition_penalty": 1.2, **beams}
    together = generate(model, PROMPTS, max_new_tokens=7, eos=0, **options)
    alone = [r for prompt in PROMPTS for r in generate(model, [prompt], max_new_tokens=7, eos=0, **options)]
    assert [r.ids for r in together] == [r.ids for r in alone]

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlib.generate import Sampling, sampling
from attnlib.generate.rules import Chain, Known, Texts

INF = float("inf")


def kept(logits):
    return [torch.nonzero(row > -INF)[:, 0].tolist() for row in logits]


@pytest.fixture(scope="module")
def warpers():
    return pytest.importorskip("transformers").generation.logits_process


def some_logits(seed, rows=4, vocab=23):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def some_texts(logits):
    return Texts.of([[1]] * len(logits), [[1]] * len(logits), [9] * len(logits), logits.device)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 2, 22, 23, 99])
def test_top_k_equals_transformers(warpers, seed, k):
    logits = some_logits(seed)
    assert sampling.top_k(logits, k).equal(warpers.TopKLogitsWarper(k)(None, logits))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("p", [0.0, 1e-3, 0.37, 0.9, 0.999, 1.0])
def test_top_p_equals_transformers(warpers, seed, p):
    logits = some_logits(seed)
    assert sampling.top_p(logits, p).equal(warpers.TopPLogitsWarper(p)(None, logits))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("p", [0.0, 0.01, 0.3, 1.0])
def test_min_p_equals_transformers(warpers, seed, p):
    logits = some_logits(seed)
    assert sampling.min_p(logits, p).equal(warpers.MinPLogitsWarper(p)(None, logits))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
def test_typical_p_equals_transformers(warpers, seed, p):
    logits = some_logits(seed)
    assert sampling.typical_p(logits, p).equal(warpers.TypicalLogitsWarper(p)(None, logits))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cutoff", [1e-4, 0.02, 0.3, 0.9])
def test_epsilon_and_eta_cutoffs_equal_transformers(warpers, seed, cutoff):
    logits = some_logits(seed)
    assert sampling.epsilon_cutoff(logits, cutoff).equal(warpers.EpsilonLogitsWarper(cutoff)(None, logits))
    assert sampling.eta_cutoff(logits, cutoff).equal(warpers.EtaLogitsWarper(cutoff)(None, logits))


@pytest.mark.parametrize("vocab", [23, 301])
@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_top_h_equals_transformers(warpers, vocab, share):
    logits = some_logits(1, vocab=vocab)
    assert sampling.top_h(logits, share).equal(warpers.TopHLogitsWarper(share)(None, logits))


def test_typical_p_keeps_what_is_as_surprising_as_the_average():
    weights = torch.tensor([[0.5, 0.125, 0.125, 0.25]])  # 1, 3, 3, 2 bits; on average 1.75
    assert kept(sampling.typical_p(weights.log(), 0.2)) == [[3]]
    assert kept(sampling.typical_p(weights.log(), 0.7)) == [[0, 3]]


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3])
def test_repetition_penalty_equals_transformers(warpers, penalty):
    logits, ids = some_logits(5), torch.tensor([[0, 3, 3], [1, 1, 1], [22, 0, 5], [9, 8, 7]])
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, ids, True)
    theirs = warpers.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    torch.testing.assert_close(sampling.repetition_penalty(logits, seen, penalty), theirs, rtol=0, atol=0)


def test_all_filters_together_equal_transformers(warpers):
    logits = some_logits(7)
    theirs = logits
    for warper in (warpers.TemperatureLogitsWarper(0.7), warpers.TopKLogitsWarper(9), warpers.TopPLogitsWarper(0.8),
                   warpers.MinPLogitsWarper(0.05)):  # fmt: skip
        theirs = warper(None, theirs)
    rules = Sampling(temperature=0.7, min_p=0.05, top_p=0.8, top_k=9).rules
    ours = Chain(rules, Known(23, (), logits.device)).drawn(sampling.temperature(logits, 0.7), some_texts(logits))
    torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1))


def test_top_k_keeps_all_that_tie_with_the_kth():
    assert kept(sampling.top_k(torch.tensor([[1.0, 2.0, 1.0, 0.0, 1.0]]), 2)) == [[0, 1, 2, 4]]


def test_top_p_takes_the_lower_id_of_tied_tokens_first():
    assert kept(sampling.top_p(torch.zeros(1, 5), 0.5)) == [[0, 1, 2]]
    assert kept(sampling.top_p(torch.zeros(1, 5), 0.0)) == [[0]]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_top_p_of_a_large_vocabulary_equals_transformers(warpers, p, spread):
    logits = some_logits(1, rows=2, vocab=3001) * spread
    ours, theirs = kept(sampling.top_p(logits, p)), kept(warpers.TopPLogitsWarper(p)(None, logits))
    assert all(len(set(a) ^ set(b)) <= 1 for a, b in zip(ours, theirs)), "sums round differently at the edge"


def test_top_p_stops_once_the_mass_is_reached():
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    assert kept(sampling.top_p(logits, 0.5)) == [[0]]
    assert kept(sampling.top_p(logits, 0.51)) == [[0, 1]]
    assert kept(sampling.top_p(logits, 1.0)) == [[0, 1, 2]]


@pytest.mark.parametrize("cut", [lambda x: sampling.top_k(x, 3), lambda x: sampling.top_p(x, 0.9),
                                 lambda x: sampling.min_p(x, 0.1), lambda x: sampling.typical_p(x, 0.5),
                                 lambda x: sampling.epsilon_cutoff(x, 0.1), lambda x: sampling.eta_cutoff(x, 0.1),
                                 lambda x: sampling.top_h(x, 0.5)])  # fmt: skip
def test_hidden_tokens_stay_hidden_and_one_remains(cut):
    only = torch.full((2, 6), -INF)
    only[0, 4], only[1, 0] = -50.0, 3.0
    assert kept(cut(only)) == [[4], [0]]


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_min_p_at_its_ends(p):
    logits = torch.tensor([[2.0, 2.0, 1.0, -INF]])
    assert kept(sampling.min_p(logits, p)) == ([[0, 1, 2]] if p == 0 else [[0, 1]])


def test_tiny_temperature_is_greedy_not_nan():
    logits = some_logits(2)
    weights = sampling.temperature(logits, 1e-30).softmax(-1)
    assert weights.argmax(-1).equal(logits.argmax(-1)) and bool((weights.amax(-1) == 1).all())


def test_greedy_takes_the_lowest_id_of_tied_tokens():
    logits = torch.tensor([[1.0, 4.0, 4.0, 4.0], [0.0, 0.0, -INF, 0.0], [-INF, -INF, -INF, -9.0]])
    assert sampling.greedy(logits).tolist() == [1, 0, 3]


def test_draw_inverts_the_cumulative_distribution():
    logits = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log().expand(6, -1)
    assert sampling.draw(logits, [0.0, 0.19, 0.21, 0.69, 0.71, 1 - 2**-53]).tolist() == [0, 0, 2, 2, 3, 3]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.just(-INF) | st.floats(-80, 80), min_size=1, max_size=9), st.floats(0, 1, exclude_max=True))
def test_draw_never_takes_a_hidden_token(values, number):
    logits = torch.tensor([values])
    if logits.max() > -INF:
        assert logits[0, sampling.draw(logits, [number])[0]] > -INF


def test_draws_follow_the_distribution():
    weights = torch.tensor([0.1, 0.6, 0.0, 0.3])
    key = sampling.key(3, 0, [1, 2])
    count = 4000
    drawn = sampling.draw(weights.log().expand(count, -1), [sampling.uniform(key, i) for i in range(count)])
    share = torch.bincount(drawn, minlength=4) / count
    assert (share - weights).abs().max() < 4 * math.sqrt(0.25 / count)


def test_numbers_differ_by_seed_sample_prompt_and_step():
    numbers = {sampling.uniform(sampling.key(seed, sample, row), step)
               for seed in (0, 1) for sample in (0, 1) for row in ([], [1], [1, 1]) for step in range(4)}  # fmt: skip
    assert len(numbers) == 48 and all(0 <= number < 1 for number in numbers)
    assert sampling.key(0, 0, [1], [2, 3]) != sampling.key(0, 0, [1, 2], [3])

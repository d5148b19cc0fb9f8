"""min_length, min_new_tokens, max_length, exponential_decay_length_penalty, forced bos and eos."""

import pytest
import torch
from generation_toys import PROMPTS, Toy
from rule_cases import equal_transformers

from attnlib.errors import AttnlibError
from attnlib.generate import generate
from attnlib.generate.rules import Known, Texts
from attnlib.generate.rules.lengths import DecayingLength


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("options", [
    {"min_length": 8}, {"min_new_tokens": 7}, {"min_length": 12, "min_new_tokens": 5}, {"max_length": 7},
    {"exponential_decay_length_penalty": (0, 4.0)}, {"exponential_decay_length_penalty": (0, 4.0), "min_new_tokens": 3},
    {"forced_bos_token_id": 8}, {"forced_eos_token_id": 7, "min_length": 9},
    {"forced_eos_token_id": [4], "min_new_tokens": 5, "max_length": 11}, {"forced_bos_token_id": 10, "min_length": 6},
])  # fmt: skip
def test_generation_equals_transformers(writing, name, beams, options):
    equal_transformers(writing[name], options, beams=beams)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_of_several_forced_eos_the_first_is_taken_as_in_transformers(writing, name):
    equal_transformers(writing[name], {"forced_eos_token_id": [7, 4], "min_new_tokens": 5, "max_length": 11})


@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("penalty", [-1.0, 0.6, 2.0])
def test_beams_of_each_early_stopping_equal_transformers(writing, name, early, penalty):
    options = {"forced_eos_token_id": 4, "min_new_tokens": 2, "no_repeat_ngram_size": 2, "renormalize_logits": True}
    equal_transformers(writing[name], options, beams=3, early_stopping=early, length_penalty=penalty)


def test_max_length_counts_the_prompt_row_by_row():
    results = generate(Toy(), PROMPTS, max_length=6)
    assert [len(prompt) + len(r.ids) for prompt, r in zip(PROMPTS, results)] == [6] * 4
    assert all(r.finish_reason == "length" for r in results)


def test_an_eos_waits_for_the_least_length_and_may_come_then():
    model = Toy(vocab=3, seed=2)
    lengths = [len(r.ids) for r in generate(model, [[1], [1, 2]], eos=0, min_length=5, max_new_tokens=12)]
    assert lengths[0] >= 5 and lengths[1] >= 4 and min(lengths) < 12
    assert min(len(r.ids) for r in generate(model, [[1], [1, 2]], eos=0, max_new_tokens=12)) < 4


def test_an_eos_gains_its_own_size_times_a_power():
    rule = DecayingLength(start=1, factor=2.0)
    scores, hidden = torch.tensor([[-4.0, 1.0, 3.0, -float("inf")]]), -float("inf")
    found = []
    for new in range(4):
        texts = Texts.of([[1]], [[1]], [9], torch.device("cpu"))
        for _ in range(new):
            texts = texts.then(torch.tensor([1]))
        found.append(rule.build(Known(4, (0, 2, 3), torch.device("cpu")))(scores, texts)[0].tolist())
    assert found == [[-4, 1, 3, hidden], [-4, 1, 3, hidden], [0, 1, 6, hidden], [8, 1, 12, hidden]]


def test_forced_tokens_come_alone_and_logprobs_stay_the_models():
    model = Toy("encoder_decoder", vocab=9, start=1)
    forced = generate(model, PROMPTS, forced_bos_token_id=6, forced_eos_token_id=2, eos=2, max_new_tokens=4, min_length=9)
    assert all(r.ids[0] == 6 and r.ids[-1] == 2 and r.finish_reason == "eos" and len(r.ids) == 4 for r in forced)
    again = generate(model, PROMPTS, decoder_prompts=[[*r.ids[:-1]] for r in forced], max_new_tokens=1, suppress_tokens=[
        token for token in range(9) if token != 2])  # fmt: skip
    assert [r.logprobs[-1] for r in forced] == pytest.approx([r.logprobs[0] for r in again], abs=1e-5)


@pytest.mark.parametrize(("options", "message"), [
    ({"max_length": 5}, "prompts.2: holds 5 tokens, max_length is 5, which leaves no room (give max_new_tokens instead)"),
    ({"max_length": 9, "max_new_tokens": 3}, "Sampling.max_length: is 9 with max_new_tokens 3"),
    ({"exponential_decay_length_penalty": [1]}, "Sampling.exponential_decay_length_penalty: a list of 1"),
    ({"exponential_decay_length_penalty": [1, "x"]}, "Sampling.exponential_decay_length_penalty.factor: 'x'"),
    ({"min_length": -1}, "Sampling.min_length: -1, wish a whole number >= 0"),
    ({"forced_eos_token_id": 99}, "generate.forced_eos_token_id: token 0 is 99, ids must lie in 0..6"),
    ({"forced_eos_token_id": []}, "Sampling.forced_eos_token_id: a list of 0"),
    ({"forced_bos_token_id": 2, "suppress_tokens": [2]}, "generate: the rules leave a row no token after 0 new ones"),
])  # fmt: skip
@pytest.mark.parametrize("beams", [1, 2])
def test_lengths_that_cannot_be_are_named(options, message, beams):
    with pytest.raises(AttnlibError) as error:
        generate(Toy(), PROMPTS, num_beams=beams, **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_without_bounds_a_row_ends_where_the_positions_do():
    assert len(generate(Toy(max_length=12), [[1, 2]])[0].ids) == 10
    assert len(generate(Toy(), [[1, 2]])[0].ids) == 64

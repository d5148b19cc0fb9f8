import itertools

import pytest
import torch
from generation_toys import PROMPTS, Bytes, Replay, Script, Toy, theirs

from attnlib.generate import generate, score


def every_sequence(vocab, length, eos):
    """All that can be said in at most `length` tokens: eos ends a sequence."""
    whole = set()
    for ids in itertools.product(range(vocab), repeat=length):
        whole.add(ids[: ids.index(eos) + 1] if eos in ids else ids)
    return sorted(whole)


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("early", [False, True, "never"])
def test_beams_of_width_v_to_the_l_equal_brute_force(kind, penalty, early):
    vocab, length, eos = 3, 4, 2
    model, prompts = Toy(kind, vocab=vocab, seed=4, sharp=1.0, start=1), [[0, 1], [1]]
    sequences = every_sequence(vocab, length, eos)
    options = {"length_penalty": penalty, "early_stopping": early, "max_new_tokens": length, "eos": eos}
    found = generate(model, prompts, num_beams=vocab**length, n=len(sequences), **options)
    for number, prompt in enumerate(prompts):
        if kind == "decoder":
            scores = score(model, [[*prompt, *ids] for ids in sequences])
            totals = [sum(s.logprobs[len(prompt) - 1 :]) for s in scores]
        else:
            totals = [s.total for s in score(model, sequences, source=[prompt] * len(sequences))]
        best = sorted(zip(sequences, totals), key=lambda pair: -pair[1] / len(pair[0]) ** penalty)
        mine = [r for r in found if r.prompt == number]
        assert [r.ids for r in mine] == [ids for ids, _ in best]
        assert [r.score for r in mine] == pytest.approx([t / len(ids) ** penalty for ids, t in best], abs=1e-4)
        assert all(sum(r.logprobs) == pytest.approx(r.score * len(r.ids) ** penalty, abs=1e-4) for r in mine)


@pytest.mark.parametrize("beams", [2, 5])
@pytest.mark.parametrize(("name", "penalty", "early"), [
    *(("gpt2", penalty, early) for penalty in (0.0, 1.0, -1.0, 2.0) for early in (False, True, "never")),
    ("t5", 1.0, False), ("t5", 2.0, "never"), ("t5", 0.5, True),
])  # fmt: skip
def test_beam_search_equals_transformers(oracles, name, beams, penalty, early):
    options = {"max_new_tokens": 8, "num_beams": beams, "length_penalty": penalty, "early_stopping": early}
    ours = generate(Replay(oracles[name]), PROMPTS, eos=(3, 7), n=2, **options)
    for number, prompt in enumerate(PROMPTS):
        wanted = theirs(oracles[name], prompt, eos_token_id=[3, 7], num_return_sequences=2, **options)
        for result, ids in zip((r for r in ours if r.prompt == number), wanted):
            length = next((i + 1 for i, token in enumerate(ids) if token in (3, 7)), len(ids))
            assert list(result.ids) == ids[:length]


def test_beam_scores_and_penalties_equal_transformers(oracles):
    gpt2 = oracles["gpt2"]
    ids, more = torch.tensor([PROMPTS[0]]), {"return_dict_in_generate": True, "output_scores": True}
    options = {"max_new_tokens": 8, "num_beams": 3, "repetition_penalty": 1.3}
    out = gpt2.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, eos_token_id=[3], do_sample=False,
                        num_return_sequences=3, **more, **options)  # fmt: skip
    ours = generate(Replay(gpt2), [PROMPTS[0]], eos=3, n=3, **options)
    assert [r.score for r in ours] == pytest.approx(out.sequences_scores.tolist(), rel=1e-4)


def test_a_prompt_among_others_equals_the_prompt_alone():
    model, options = Toy(seed=2), {"num_beams": 3, "n": 2, "max_new_tokens": 9, "early_stopping": True, "eos": (0, 3)}
    together = generate(model, PROMPTS, **options)
    widths = {batch for batch, _ in model.steps[1:]}
    assert len(widths) > 1, "the example must have prompts that are done at different steps"
    alone = [r for prompt in PROMPTS for r in generate(model, [prompt], **options)]
    assert [r.ids for r in together] == [r.ids for r in alone]


def test_beams_stay_open_where_each_has_several_likelier_ends():
    model = Script([])
    weights = torch.tensor([0.4, 0.35, 0.1, 0.08, 0.07]).log()
    model.spec.vocab_size, model.step = 5, lambda ids, layout, state, at=None: weights.expand(len(ids), 1, -1)
    options = {"num_beams": 2, "n": 2, "max_new_tokens": 3, "length_penalty": 9.0, "early_stopping": "never"}
    assert [r.ids for r in generate(model, [[1]], eos=(0, 1), **options)] == [(2, 2, 0), (2, 2, 1)]


def test_more_beams_than_sequences_give_fewer_results():
    assert len(generate(Toy(vocab=2), [[1]], num_beams=8, n=8, max_new_tokens=2)) == 4


def test_beams_have_text():
    result = generate(Script("né!".encode()), ["x"], tokenizer=Bytes(), num_beams=2, eos=ord("!"), max_new_tokens=4)[0]
    assert (result.text, result.finish_reason) == ("né", "eos")

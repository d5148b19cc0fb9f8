import copy

import pytest
import torch
from generation_toys import PROMPTS, Bytes, Replay, Script, Toy, ToyEncoder, theirs

from attnlib.errors import AttnlibError, LayoutError, UsageError
from attnlib.generate import Sampling, generate, score, stream
from attnlib.layout import Layout

HOT = {"temperature": 1.3, "top_p": 0.95, "seed": 11, "max_new_tokens": 12}


def said(results):
    return [(r.ids, r.finish_reason) for r in results]


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.4}])
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_greedy_equals_transformers_on_a_ragged_batch(oracles, name, options):
    ours = generate(Replay(oracles[name]), PROMPTS, max_new_tokens=9, **options)
    for result, prompt in zip(ours, PROMPTS):
        assert list(result.ids) == theirs(oracles[name], prompt, max_new_tokens=9, **options)[0]


@pytest.mark.parametrize("options", [{}, HOT, {**HOT, "n": 3}, {**HOT, "top_k": 3, "repetition_penalty": 1.2}])
@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_a_row_in_a_batch_equals_the_row_alone(kind, options):
    model, options = Toy(kind, start=1, seed=3), {**options, "eos": 0}
    together = generate(model, PROMPTS, **options)
    alone = [result for prompt in PROMPTS for result in generate(model, [prompt], **options)]
    assert said(together) == said(alone)
    assert [r.logprobs for r in together] == [pytest.approx(r.logprobs, abs=1e-5) for r in alone]
    backwards = generate(model, PROMPTS[::-1], **options)
    assert said(r for r in backwards if r.prompt == 3) == said(r for r in together if r.prompt == 0)


def test_seeds_reproduce_and_differ():
    model = Toy()
    first, again, other = (generate(model, PROMPTS, **{**HOT, "seed": seed}) for seed in (1, 1, 2))
    assert said(first) == said(again) != said(other)


def test_equal_prompts_give_equal_results_and_n_gives_several():
    results = generate(Toy(), [[1, 2], [1, 2]], n=4, **HOT)
    assert [(r.prompt, r.sample) for r in results] == [(p, s) for p in range(2) for s in range(4)]
    assert said(results[:4]) == said(results[4:])
    assert len({r.ids for r in results}) == 4


def test_the_first_of_n_is_the_result_of_one():
    assert said(generate(Toy(), PROMPTS, n=3, **HOT)[::3]) == said(generate(Toy(), PROMPTS, **HOT))


@pytest.mark.parametrize("chunk", [1, 2, 3, 99])
@pytest.mark.parametrize("options", [{}, HOT])
def test_prefill_in_chunks_changes_nothing(chunk, options):
    model = Toy()
    assert said(generate(model, PROMPTS, prefill_chunk=chunk, **options)) == said(generate(model, PROMPTS, **options))
    model.steps.clear()
    generate(model, PROMPTS, prefill_chunk=chunk, max_new_tokens=1)
    assert sum(columns for _, columns in model.steps) == 5 and max(c for _, c in model.steps) <= chunk


def test_finished_rows_leave_the_batch():
    model = Toy(seed=3)
    results = generate(model, PROMPTS, eos=0, **HOT)
    lengths = [len(r.ids) for r in results]
    assert len(set(lengths)) > 1, "the example must have rows that end at different steps"
    assert model.steps[1:] == [(sum(n > step for n in lengths), 1) for step in range(1, max(lengths))]
    assert all((r.ids[-1] == 0) == (r.finish_reason == "eos") and 0 not in r.ids[:-1] for r in results)


def test_any_of_several_eos_ends_a_row():
    free = generate(Toy(), [[1, 2]], max_new_tokens=8)[0].ids
    result = generate(Toy(), [[1, 2]], max_new_tokens=8, eos=[free[2], free[4]])[0]
    assert result.ids == free[: 1 + min(free.index(free[2]), free.index(free[4]))] and result.finish_reason == "eos"


@pytest.mark.parametrize("options", [{}, HOT, {**HOT, "top_k": 2, "repetition_penalty": 1.5}])
def test_logprobs_are_those_of_the_model_whatever_chose(options):
    model = Toy()
    for result, prompt in zip(generate(model, PROMPTS, **options), PROMPTS):
        scored = score(model, [prompt + list(result.ids)])[0].logprobs[len(prompt) - 1 :]
        assert result.logprobs == pytest.approx(scored, abs=1e-5)
        assert result.score == pytest.approx(sum(scored), abs=1e-4)


def test_tensors_with_masks_and_layouts_equal_lists():
    model = Toy()
    wanted = said(generate(model, [[1, 2, 3], [4]]))
    left, right = torch.tensor([[1, 2, 3], [6, 6, 4]]), torch.tensor([[1, 2, 3], [4, 6, 6]])
    assert said(generate(model, left, attention_mask=torch.tensor([[1, 1, 1], [0, 0, 1]]))) == wanted
    assert said(generate(model, right, attention_mask=torch.tensor([[1, 1, 1], [1, 0, 0]]))) == wanted
    assert said(generate(model, left, layout=Layout.from_lengths([3, 1], side="left"))) == wanted
    assert said(generate(model, [torch.tensor([1, 2, 3]), torch.tensor([4])])) == wanted
    assert said(generate(model, torch.tensor([[1, 2, 3]]))) == wanted[:1]


def test_encoder_decoder_begins_with_start_and_then_the_decoder_prompt():
    model = Toy("encoder_decoder", start=5)
    free = generate(model, PROMPTS, max_new_tokens=6)
    forced = generate(model, PROMPTS, max_new_tokens=4, decoder_prompts=[list(r.ids[:2]) for r in free])
    assert [r.ids[2:] for r in free] == [r.ids for r in forced]
    assert said(generate(model, PROMPTS, start=5, decoder_prompts=[[5]] * 4)) == said(generate(model, PROMPTS))


def test_an_empty_prompt_starts_from_the_start_id():
    assert said(generate(Toy(), [[], [2, 2]], start=3)) == said(generate(Toy(), [[3], [2, 2]]))
    tokenizer = Bytes()
    assert generate(Toy(), [[3]], sampling=Sampling(start=99))[0].ids == generate(Toy(), [[3]])[0].ids  # begins no row
    with pytest.raises(LayoutError, match="start"):
        generate(Toy(), [[]], sampling=Sampling(start=99))
    tokenizer.bos_id = 3
    assert generate(Toy(), [[]], tokenizer=tokenizer)[0].ids == generate(Toy(), [[3]])[0].ids


# -- text ------------------------------------------------------------------------------------------------------------


def test_text_is_cut_before_a_stop_string_that_crosses_tokens():
    result = generate(Script(b"the end. More"), ["x"], tokenizer=Bytes(), stop=[". M", "zz"])[0]
    assert (result.text, result.finish_reason) == ("the end", "stop")
    assert bytes(result.ids) == b"the end. M" and len(result.logprobs) == 10


def test_streamed_pieces_join_to_the_text_and_never_hold_half_a_code_point():
    model, whole = Script("né 😀 §".encode()), "né 😀 §"
    options = {"tokenizer": Bytes(), "max_new_tokens": len(whole.encode()), "stop": ["§§"]}
    events = list(stream(model, ["q"], **options))
    assert "".join(e.text for e in events) == whole == generate(model, ["q"], **options)[0].text
    assert not any("\ufffd" in e.text for e in events)
    assert [e.finish_reason for e in events[:-1]] == [None] * (len(events) - 1) and events[-1].finish_reason == "length"
    assert [e.text for e in events][-2:] == ["", "§"], "what may begin a stop string waits"


def test_eos_is_among_the_ids_but_not_in_the_text():
    result = generate(Script(b"ab!c"), ["x"], tokenizer=Bytes(), eos=ord("!"))[0]
    assert (result.text, bytes(result.ids), result.finish_reason) == ("ab", b"ab!", "eos")


def test_a_tokenizer_gives_eos_unless_told_otherwise():
    tokenizer = Bytes()
    tokenizer.eos_id = ord("!")
    model = Script(b"ab!c")
    assert generate(model, ["x"], tokenizer=tokenizer)[0].text == "ab"
    assert generate(model, ["x"], tokenizer=tokenizer, eos=[], max_new_tokens=4)[0].text == "ab!c"
    assert generate(model, ["x"], tokenizer=tokenizer, eos=ord("c"))[0].text == "ab!"


def test_texts_get_what_the_template_puts_before_them_and_sources_also_what_it_puts_after():
    tokenizer = Bytes()
    tokenizer.template = ((1,), (2,))
    decoder, pair = Toy(vocab=256), Toy("encoder_decoder", vocab=256, start=0)
    assert generate(decoder, ["a"], tokenizer=tokenizer)[0].ids == generate(decoder, [[1, 97]])[0].ids
    assert generate(pair, ["a"], tokenizer=tokenizer)[0].ids == generate(pair, [[1, 97, 2]])[0].ids
    assert score(decoder, ["ab"], tokenizer=tokenizer) == score(decoder, [[97, 98]], start=1)


def test_stream_gives_what_generate_gives():
    model = Toy(seed=3)
    events = list(stream(model, PROMPTS, n=2, eos=0, **HOT))
    for result in generate(model, PROMPTS, n=2, eos=0, **HOT):
        mine = [e for e in events if (e.prompt, e.sample) == (result.prompt, result.sample)]
        assert tuple(e.token for e in mine) == result.ids and tuple(e.logprob for e in mine) == result.logprobs
        assert mine[-1].finish_reason == result.finish_reason


# -- manners -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_the_training_flags_are_left_as_found(options):
    model = Toy()
    model.dropout.eval()
    model.training = True
    wanted = said(generate(copy.deepcopy(model).eval(), PROMPTS, **options))
    assert said(generate(model, PROMPTS, **options)) == wanted, "dropout must be off"
    assert model.training and not model.dropout.training
    model.train()
    assert said(generate(model, PROMPTS, **options)) == wanted
    assert model.training and model.dropout.training


def test_a_stream_left_early_restores_flags_and_gradients():
    model = Toy().train()
    events = stream(model, PROMPTS)
    next(events)
    assert torch.is_grad_enabled()
    events.close()
    assert model.training and torch.is_grad_enabled()


def test_a_model_in_evaluation_is_never_switched(monkeypatch):
    model = Toy().eval()
    monkeypatch.setattr(torch.nn.Module, "train", lambda *_: pytest.fail("switched"))
    generate(model, PROMPTS, max_new_tokens=2)


def test_no_prompts_give_no_results():
    assert generate(Toy(), []) == generate(Toy(), [], num_beams=2) == list(stream(Toy(), [])) == score(Toy(), []) == []


def test_options_go_over_a_sampling():
    base = Sampling(**HOT)
    assert said(generate(Toy(), PROMPTS, sampling=base)) == said(generate(Toy(), PROMPTS, **HOT))
    assert said(generate(Toy(), PROMPTS, sampling=base, temperature=0.0, top_p=None)) == said(
        generate(Toy(), PROMPTS, max_new_tokens=12))  # fmt: skip


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), [
    ({"temperature": -0.1}, "Sampling.temperature: -0.1, wish a number >= 0"),
    ({"temperature": float("nan")}, "Sampling.temperature: nan"),
    ({"temperature": 1.0, "top_p": 1.5}, "Sampling.top_p: 1.5"),
    ({"temperature": 1.0, "top_k": 0}, "Sampling.top_k: 0"),
    ({"temperature": 1.0, "min_p": -1.0}, "Sampling.min_p: -1.0"),
    ({"top_k": 5}, "Sampling.top_k: is 5 without sampling, needs temperature > 0"),
    ({"n": 2}, "Sampling.n: is 2 without sampling, greedy results would all be equal"),
    ({"num_beams": 2, "temperature": 0.5}, "Sampling.num_beams: is 2 with temperature 0.5"),
    ({"num_beams": 2, "n": 3}, "Sampling.n: is 3 with num_beams 2, must be at most num_beams"),
    ({"num_beams": 2, "stop": "x"}, "Sampling.stop: is given with num_beams 2, beam search ends at eos ids only"),
    ({"stop": ""}, "Sampling.stop: holds an empty string"),
    ({"stop": "x"}, "generate.stop: is given without a tokenizer"),
    ({"max_new_tokens": 0}, "Sampling.max_new_tokens: 0"),
    ({"max_new_tokens": 2.5}, "Sampling.max_new_tokens: 2.5"),
    ({"repetition_penalty": 0.0}, "Sampling.repetition_penalty: 0.0"),
    ({"cache": "paged"}, "Sampling.cache: 'paged'"),
    ({"early_stopping": "maybe"}, "Sampling.early_stopping: 'maybe'"),
    ({"eos": 7}, "generate.eos.0: token 0 is 7, ids must lie in 0..6"),
    ({"start": 7}, "start.0: token 0 is 7, ids must lie in 0..6"),
    ({"topk": 7}, "Sampling.topk: unknown field"),
])  # fmt: skip
def test_options_that_do_not_hold_are_named(options, message):
    with pytest.raises(AttnlibError) as error:
        generate(Toy(), PROMPTS, **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(("prompts", "path", "words"), [
    ([[1], []], "prompts.1", "empty"),
    ([[1], [2, 7]], "prompts.1", "token 1 is 7"),
    ([[-1]], "prompts.0", "0..6"),
    ([[1] * 10], "prompts.0", "positions end at 12"),
    ([1, 2], "prompts", "list of prompts"),
    ("text", "prompts", "list of prompts"),
    (["text"], "prompts.0", "needs a tokenizer"),
    (torch.zeros(2, 2), "prompts", "torch.float32"),
    (torch.zeros(2, dtype=torch.long), "prompts", "(2,)"),
])  # fmt: skip
@pytest.mark.parametrize("beams", [1, 2])
def test_prompts_that_do_not_fit_are_named(prompts, path, words, beams):
    with pytest.raises(AttnlibError) as error:
        generate(Toy(max_length=12), prompts, max_new_tokens=3, num_beams=beams)
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)


def test_a_prompt_that_just_fits_is_taken():
    assert len(generate(Toy(max_length=12), [[1] * 9], max_new_tokens=3)[0].ids) == 3


def test_packed_prompts_are_refused():
    with pytest.raises(LayoutError, match="several segments"):
        generate(Toy(), torch.ones(1, 4, dtype=torch.long), layout=Layout.packed([[2, 2]]))


def test_wrong_kinds_are_refused():
    with pytest.raises(UsageError, match="is an encoder"):
        generate(ToyEncoder(), PROMPTS)
    with pytest.raises(UsageError, match="given to a decoder"):
        generate(Toy(), PROMPTS, decoder_prompts=PROMPTS)
    with pytest.raises(LayoutError, match=r"decoder_prompts\.0: is empty"):
        generate(Toy("encoder_decoder"), PROMPTS)
    with pytest.raises(LayoutError, match="1 for 4"):
        generate(Toy("encoder_decoder"), PROMPTS, decoder_prompts=[[1]])
    with pytest.raises(UsageError, match="known only at the end"):
        stream(Toy(), PROMPTS, num_beams=2)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"num_beams": 2}])
def test_logits_that_are_not_numbers_are_reported(options):
    model = Toy()
    model.out.data[:] = float("nan")
    with pytest.raises(UsageError, match="not numbers after 0 new tokens"):
        generate(model, PROMPTS, **options)

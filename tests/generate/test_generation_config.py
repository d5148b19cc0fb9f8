"""A model's generation_config.json decides where a call does not, as in transformers; nothing in it is passed over."""

import json

import pytest
import torch
from generation_toys import Toy
from rule_cases import PROMPTS, theirs

from attnlib.errors import AttnlibError
from attnlib.generate import Sampling, generate, stream
from attnlib.generate.defaults import choose
from attnlib.pretrained import export, load, save

NEW = {"max_new_tokens": 7}
CONFIGS = [
    {"eos_token_id": 7, **NEW}, {"eos_token_id": [7, 4], "max_length": 9}, {"max_length": 20, "max_new_tokens": 4},
    {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.8, "early_stopping": True, "no_repeat_ngram_size": 2,
     "min_length": 4, "forced_eos_token_id": 7, "eos_token_id": 7, "max_length": 12},
    {"num_beams": 2, "early_stopping": "never", "repetition_penalty": 1.3, "suppress_tokens": [1, 2], **NEW},
    {"begin_suppress_tokens": [6, 9, 10], "bad_words_ids": [[5, 10]], "min_new_tokens": 3, "eos_token_id": [4], **NEW},
    {"do_sample": False, "temperature": 0.3, "top_p": 0.5, "top_k": 3, "eos_token_id": 7, **NEW},
    {"repetition_penalty": 1, "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0, "guidance_scale": 1, "top_k": 50,
     "suppress_tokens": None, "num_beam_groups": 1, "diversity_penalty": 0.0, "eos_token_id": None, **NEW},
]  # fmt: skip


def with_config(hf, folder, tree):
    """Their model and ours of one folder whose generation_config.json is `tree`."""
    hf.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(tree), encoding="utf-8")
    return type(hf).from_pretrained(folder).eval(), load(folder)


def said(results):
    return [list(r.ids) for r in results]


@pytest.mark.parametrize("number", range(len(CONFIGS)))
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_folders_choices_are_the_defaults_and_give_what_transformers_gives(writing, tmp_path, name, number):
    tree = {"pad_token_id": 0, "decoder_start_token_id": 0, "transformers_version": "4.30.0", **CONFIGS[number]}
    hf, ours = with_config(writing[name][0], tmp_path / "in", tree)
    wanted = [ids for prompt in PROMPTS for ids in theirs(hf, prompt)]
    ends = hf.generation_config.eos_token_id or ()
    ends = (ends,) if isinstance(ends, int) else ends
    wanted = [ids[: next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))] for ids in wanted]
    assert said(generate(ours, PROMPTS)) == wanted
    save(ours, tmp_path / "ours")
    assert said(generate(load(tmp_path / "ours"), PROMPTS)) == wanted
    export(ours, tmp_path / "out")
    back = type(hf).from_pretrained(tmp_path / "out").eval()
    assert back.generation_config.to_diff_dict() == hf.generation_config.to_diff_dict()


@pytest.mark.parametrize("options", [{"max_new_tokens": 3}, {"max_length": 8}, {"num_beams": 1, "num_return_sequences": 1},
                                     {"no_repeat_ngram_size": None, "min_new_tokens": 5}, {"forced_eos_token_id": None},
                                     {"length_penalty": 2.0, "early_stopping": "never"}])  # fmt: skip
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_options_of_a_call_go_over_the_folders(writing, tmp_path, name, options):
    tree = {**CONFIGS[3], "pad_token_id": 0, "decoder_start_token_id": 0}
    hf, ours = with_config(writing[name][0], tmp_path, tree)
    asked = {("n" if word == "num_return_sequences" else word): value for word, value in options.items()}
    for word, value in options.items():
        if value is None:  # they have no word to take a choice out but its default
            setattr(hf.generation_config, word, None)
    given = {word: value for word, value in options.items() if value is not None}
    wanted = [ids for prompt in PROMPTS for ids in theirs(hf, prompt, **given)]
    wanted = [ids[: ids.index(7) + 1] if 7 in ids else ids for ids in wanted]
    assert said(generate(ours, PROMPTS, **asked)) == wanted


def test_an_older_config_says_what_has_no_file_of_its_own(writing, tmp_path):
    writing["t5"][0].save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    tree = json.loads((tmp_path / "config.json").read_text())
    tree |= {"num_beams": 2, "max_length": 7, "forced_bos_token_id": 6, "eos_token_id": 4, "decoder_start_token_id": 5,
             "task_specific_params": {"x": {"num_beams": 9}}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(tree))
    hf = type(writing["t5"][0]).from_pretrained(tmp_path).eval()
    wanted = [ids for prompt in PROMPTS for ids in theirs(hf, prompt)]
    wanted = [ids[: ids.index(4) + 1] if 4 in ids else ids for ids in wanted]
    ours = load(tmp_path)
    assert said(generate(ours, PROMPTS)) == wanted and all(ids[0] == 6 for ids in wanted)
    assert ours.generation["num_beams"] == 2 and "task_specific_params" not in ours.generation


def told(tree, kind="decoder", **options):
    model = Toy(kind, start=1)
    model.generation = tree
    return choose(model, None, options)


def test_a_config_that_samples_is_read_with_the_defaults_of_transformers():
    assert told({"do_sample": True}) == Sampling(temperature=1.0, top_k=50)
    assert told({"do_sample": True, "top_k": 0, "top_p": 1.0}) == Sampling(temperature=1.0)
    assert told({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "typical_p": 0.8, "epsilon_cutoff": 0.0}) == Sampling(
        temperature=0.6, top_k=50, top_p=0.9, typical_p=0.8)  # fmt: skip
    assert told({"do_sample": True, "top_p": 0.9}, temperature=0.0) == Sampling()


def test_filters_of_a_config_that_does_not_sample_wait_for_a_call_that_does():
    tree = {"temperature": 0.6, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.1}
    assert told(tree) == Sampling(repetition_penalty=1.1)
    assert told(tree, temperature=0.5) == Sampling(temperature=0.5, top_p=0.9, top_k=7, repetition_penalty=1.1)
    assert told(tree, temperature=0.5, top_k=None) == Sampling(temperature=0.5, top_p=0.9, repetition_penalty=1.1)


def test_a_sampling_stands_in_for_the_config_but_not_for_how_texts_begin_and_end():
    tree = {"eos_token_id": [3, 5], "bos_token_id": 2, "num_beams": 4, "guidance_scale": 3.0, "max_length": 9}
    model = Toy()
    model.generation = tree
    assert choose(model, Sampling(n=1), {}) == Sampling(eos=(3, 5), start=2)
    assert choose(model, Sampling(eos=(), start=4), {"temperature": 1.0}) == Sampling(eos=(), start=4, temperature=1.0)


def test_forced_decoder_ids_are_what_the_decoder_is_given():
    tree = {"decoder_start_token_id": 1, "forced_decoder_ids": [[1, 5], [2, 3]], "begin_suppress_tokens": [0]}
    model = Toy("encoder_decoder", start=1)
    free = said(generate(model, [[2, 4]], decoder_prompts=[[5, 3]], begin_suppress_tokens=[0], max_new_tokens=4))
    model.generation = tree
    assert said(generate(model, [[2, 4]], max_new_tokens=4)) == free
    assert said(generate(model, [[2, 4]], max_new_tokens=4, decoder_prompts=[[6]])) != free


def test_start_ids_may_be_one_a_prompt():
    model = Toy("encoder_decoder", start=1)
    one, other = (said(generate(model, [[2, 4]], start=start, max_new_tokens=5))[0] for start in (5, 6))
    assert said(generate(model, [[2, 4], [2, 4]], start=[5, 6], max_new_tokens=5)) == [one, other] and one != other
    model.generation = {"decoder_start_token_id": [6, 5]}
    assert said(generate(model, [[2, 4], [2, 4]], max_new_tokens=5)) == [other, one]
    with pytest.raises(AttnlibError, match="start: 2 ids for 1 prompts, must be one for all, or one each"):
        generate(model, [[2, 4]])


@pytest.mark.parametrize(("tree", "message"), [
    ({"guidance_scale": 1.5}, "generation_config.json: guidance_scale: is 1.5, which is not done here"),
    ({"num_beam_groups": 2}, "generation_config.json: num_beam_groups: is 2, which is not done here"),
    ({"penalty_alpha": 0.6, "top_k": 4}, "generation_config.json: penalty_alpha: is 0.6"),
    ({"force_words_ids": [[1]]}, "generation_config.json: force_words_ids: is [[1]]"),
    ({"watermarking_config": {"bias": 2.0}}, "generation_config.json: watermarking_config: is {'bias': 2.0}"),
    ({"remove_invalid_values": True}, "generation_config.json: remove_invalid_values: is True"),
    ({"max_time": 3.0}, "generation_config.json: max_time: is 3.0"),
    ({"repetition_penality": 1.2}, "generation_config.json: repetition_penality: is no word that is known here, wish "
     "choices that hold (did you mean 'repetition_penalty'?)"),
    ({"do_sample": True, "num_beams": 3}, "generation_config.json: num_beams: is 3 with temperature 1.0"),
    ({"do_sample": "yes"}, "generation_config.json: do_sample: is 'yes', wish true or false"),
    ({"do_sample": True, "top_p": 1.5}, "generation_config.json: top_p: 1.5, wish a number"),
    ({"do_sample": True, "temperature": 0.0}, "generation_config.json: temperature: is 0.0 with do_sample"),
    ({"eos_token_id": "2"}, "generation_config.json: eos_token_id[0]: '2'"),
    ({"eos_token_id": [2, 99]}, "generate.eos.0: token 1 is 99"),
    ({"num_return_sequences": 3}, "generation_config.json: num_return_sequences: is 3 without sampling"),
    ({"suppress_tokens": [99]}, "generate.suppress_tokens: token 0 is 99, ids must lie in 0..6"),
    ({"forced_decoder_ids": [[1, None], [2, 4]]}, "generation_config.json: forced_decoder_ids: is [[1, None], [2, 4]]"),
    ({"forced_decoder_ids": [[2, 4]]}, "generation_config.json: forced_decoder_ids: is [[2, 4]]"),
    ({"stop_strings": ["x"]}, "generate.stop: is given without a tokenizer"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name_at_the_call(tree, message):
    model = Toy("encoder_decoder", start=1)
    model.generation = tree
    for ask in (generate, stream):
        with pytest.raises(AttnlibError) as error:
            ask(model, [[1, 2]])
        assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_words_that_change_no_token_and_those_of_other_tools_pass():
    from attnlib.generate import defaults

    tree = dict.fromkeys((*defaults._CHANGES_NO_TOKEN, *defaults._OF_SPEECH), 3) | dict.fromkeys(defaults._NOT_DONE)
    assert told(tree) == Sampling()


def test_every_word_that_transformers_knows_is_a_rule_a_choice_known_to_be_idle_or_refused():
    from attnlib.generate import Rule, defaults

    hf = pytest.importorskip("transformers")
    ours = {*Rule.kinds(), *defaults._SAME, *defaults._FACTS, *defaults._SAMPLES, *defaults._CHANGES_NO_TOKEN,
            *defaults._NOT_DONE}  # fmt: skip
    assert {*hf.GenerationConfig().to_dict()} <= ours


def test_a_broken_file_is_refused_before_a_tensor_is_read(writing, tmp_path):
    writing["llama"][0].save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(AttnlibError, match=r"generation_config.json: is no JSON"):
        load(tmp_path)


def test_a_loaded_model_keeps_its_choices_when_it_is_moved(writing, tmp_path):
    _, ours = with_config(writing["llama"][0], tmp_path, {"max_new_tokens": 2})
    assert [len(ids) for ids in said(generate(ours.to(torch.float64), PROMPTS))] == [2, 2, 2]

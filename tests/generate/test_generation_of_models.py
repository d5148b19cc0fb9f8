"""The claims of generation once more, with the real stacks, caches and positions."""

import copy
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from attnlib.errors import UsageError
from attnlib.generate import generate, score
from attnlib.layout import Layout
from attnlib.models.spec import ModelSpec
from attnlib.spec import read

PROMPTS = [[1, 2, 3], [4], [5, 6, 1, 2, 0, 8, 8], [3, 3]]
HOT = {"temperature": 1.5, "top_p": 0.98, "seed": 5, "max_new_tokens": 8}
PLAIN = {"kind": "softmax", "num_heads": 2}
CAUSAL = {**PLAIN, "mask": "causal"}


def decoder(attention, **more):
    block = {"attention": {**CAUSAL, **attention}, "mlp": {"kind": "dense", "d_ff": 24}}
    return {"kind": "decoder", "d_model": 16, "vocab_size": 11, "init": "fan_in",
            "stack": {"num_layers": 2, "block": block, "final_norm": "rms"}, **more}  # fmt: skip


def pair():
    mlp = {"kind": "dense", "d_ff": 24}
    side = {"num_layers": 2, "final_norm": "rms", "bias": "t5_relative"}
    return {"kind": "encoder_decoder", "d_model": 16, "vocab_size": 11, "init": "fan_in",
            "encoder": {**side, "block": {"attention": PLAIN, "mlp": mlp}},
            "decoder": {**side, "bias": {"kind": "t5_relative", "both": False},
                        "block": {"attention": CAUSAL, "cross": PLAIN, "mlp": mlp}}}  # fmt: skip


SPECS = {
    "rotary": decoder({"rotary": {}, "num_kv_heads": 1}),
    "learned": decoder({}, embedding={"position": {"kind": "learned", "max_length": 16}}),
    "alibi": decoder({"term": "alibi"}),
    "window": decoder({"rotary": {}, "mask": ["causal", {"kind": "window", "before": 2}]}),
    "pair": pair(),
}


@pytest.fixture(scope="module", params=sorted(SPECS))
def model(request):
    torch.manual_seed(1)
    return read(ModelSpec, SPECS[request.param]).build().eval()


def said(results):
    return [(r.ids, r.finish_reason) for r in results]


@torch.no_grad()
def naive(model, prompt, count):
    """Greedy, reading everything anew for each token."""
    paired = hasattr(model, "encode")
    ids = [0] if paired else list(prompt)
    for _ in range(count):
        text = torch.tensor([ids])
        out = model(torch.tensor([prompt]), text) if paired else model(text)
        ids.append(int(out.logits[0, -1].argmax()))
    return tuple(ids[-count:])


@pytest.mark.parametrize("options", [
    {}, {"prefill_chunk": 1}, {"prefill_chunk": 3}, {"cache": "static"}, {"cache": "rolling", "prefill_chunk": 2},
])  # fmt: skip
def test_greedy_with_any_cache_equals_reading_everything_anew(model, options):
    results = generate(model, PROMPTS, max_new_tokens=7, **options)
    assert [r.ids for r in results] == [naive(model, prompt, 7) for prompt in PROMPTS]


@pytest.mark.parametrize("options", [HOT, {**HOT, "n": 2}, {"num_beams": 3, "n": 2, "max_new_tokens": 7}])
@pytest.mark.parametrize("cache", ["growing", "static", "rolling"])
def test_a_row_in_a_batch_equals_the_row_alone(model, options, cache):
    free = generate(model, PROMPTS, **options)
    options = {**options, "eos": (free[0].ids[2], free[-1].ids[4])}
    together = generate(model, PROMPTS, cache=cache, **options)
    alone = [result for prompt in PROMPTS for result in generate(model, [prompt], **options)]
    assert said(together) == said(alone)
    assert [r.score for r in together] == pytest.approx([r.score for r in alone], abs=1e-4)
    assert len({len(r.ids) for r in together}) > 1, "the example must have rows that end at different steps"


def test_logprobs_equal_scores_and_full_forward(model):
    results = generate(model, PROMPTS, max_new_tokens=6)
    if hasattr(model, "encode"):
        scored = score(model, [list(r.ids) for r in results], source=PROMPTS, chunk=4)
    else:
        scored = score(model, [[*p, *r.ids] for p, r in zip(PROMPTS, results)], chunk=4)
        with torch.no_grad():
            text = torch.tensor([[*PROMPTS[0], *results[0].ids]])
            whole = model(text).logits.log_softmax(-1)[0, :-1].gather(1, text[0, 1:, None])[:, 0]
        assert scored[0].logprobs == pytest.approx(whole.tolist(), abs=1e-5)
    for result, one in zip(results, scored):
        assert result.logprobs == pytest.approx(one.logprobs[-6:], abs=1e-5)


def test_padding_on_either_side_changes_nothing(model):
    wanted = said(generate(model, PROMPTS[:2], **HOT))
    for side, ids in (("left", [[1, 2, 3], [9, 9, 4]]), ("right", [[1, 2, 3], [4, 9, 9]])):
        layout = Layout.from_lengths([3, 1], side=side)
        assert said(generate(model, torch.tensor(ids), layout=layout, **HOT)) == wanted


def test_two_threads_on_one_model_get_right_results(model):
    options = [{**HOT, "seed": seed} for seed in range(4)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda chosen: said(generate(model, PROMPTS, **chosen)), options))
    assert together == [said(generate(model, PROMPTS, **chosen)) for chosen in options]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{}, HOT, {**HOT, "n": 2, "repetition_penalty": 1.2}, {"num_beams": 3}])
@pytest.mark.parametrize("cache", ["growing", "static"])
def test_a_gpu_says_what_the_cpu_says(model, options, cache):
    options = {"max_new_tokens": 8, **options}
    moved = copy.deepcopy(model).cuda()
    assert said(generate(moved, PROMPTS, cache=cache, **options)) == said(generate(model, PROMPTS, **options))
    source = {"source": PROMPTS} if hasattr(model, "encode") else {}
    ours, theirs = score(moved, PROMPTS, **source), score(model, PROMPTS, **source)
    assert [s.logprobs for s in ours] == [pytest.approx(s.logprobs, abs=1e-3) for s in theirs]


def test_full_width_beams_equal_brute_force():
    torch.manual_seed(2)
    model = read(ModelSpec, {**SPECS["rotary"], "vocab_size": 3}).build().eval()
    sequences = list(itertools.product(range(3), repeat=4))
    scored = score(model, [[1, 0, *ids] for ids in sequences])
    best = sorted(zip(sequences, (sum(s.logprobs[1:]) for s in scored)), key=lambda both: -both[1])
    found = generate(model, [[1, 0]], num_beams=81, n=81, max_new_tokens=4, length_penalty=0.0)
    assert [r.ids for r in found] == [ids for ids, _ in best]
    assert [r.score for r in found] == pytest.approx([total for _, total in best], abs=1e-4)


def test_training_is_undisturbed_by_generation(model):
    model.train()
    generate(model, PROMPTS, max_new_tokens=2)
    ids = torch.tensor([[1, 2, 3]])
    (model(ids, ids) if hasattr(model, "encode") else model(ids)).logits.sum().backward()
    assert model.training and all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.zero_grad(set_to_none=True)
    model.eval()


def test_pseudo_log_likelihood_of_an_encoder():
    torch.manual_seed(3)
    spec = {"kind": "encoder", "d_model": 16, "vocab_size": 11, "init": "fan_in",
            "embedding": {"position": {"kind": "learned", "max_length": 16}}, "head": "masked_lm",
            "stack": {"num_layers": 2, "block": {"attention": PLAIN, "mlp": {"kind": "dense", "d_ff": 24}}}}  # fmt: skip
    model = read(ModelSpec, spec).build().eval()
    for scored, row in zip(score(model, PROMPTS, mask_id=10, chunk=5), PROMPTS):
        for place, token in enumerate(row):
            with torch.no_grad():
                logits = model(torch.tensor([[*row[:place], 10, *row[place + 1 :]]])).logits[0, place]
            assert scored.logprobs[place] == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-5)


@pytest.mark.parametrize("head", ["none", {"kind": "classify", "num_labels": 2}])
def test_models_without_a_vocabulary_head_are_refused(head):
    model = read(ModelSpec, {**SPECS["rotary"], "head": head}).build()
    for ask in (lambda: generate(model, PROMPTS), lambda: score(model, PROMPTS)):
        with pytest.raises(UsageError, match="model: has no head over the vocabulary"):
            ask()

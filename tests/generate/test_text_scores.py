import math

import pytest
import torch
from generation_toys import Bytes, Toy, ToyEncoder

from attnlib.errors import AttnlibError
from attnlib.generate import perplexity, score
from attnlib.layout import Layout

ROWS = [[1, 2, 3, 4, 5], [6], [0, 0, 3]]


@torch.no_grad()
def naive(model, row, source=None, start=None):
    """Every prefix read anew."""
    full = row if start is None else [start, *row]
    values = []
    for t in range(1, len(full)):
        ids = None if source is None else torch.tensor([source])
        state = model.begin(ids, None if source is None else Layout.dense(1, len(source)), batch=1)
        logits = model.step(torch.tensor([full[:t]]), Layout.dense(1, t), state)[0, -1]
        values.append(float(logits.log_softmax(-1)[full[t]]))
    return values


@pytest.mark.parametrize("chunk", [1, 2, 256])
@pytest.mark.parametrize("start", [None, 3])
def test_decoder_scores_equal_each_prefix_read_anew(chunk, start):
    model = Toy().eval()
    for scored, row in zip(score(model, ROWS, start=start, chunk=chunk), ROWS):
        assert scored.logprobs == pytest.approx(naive(model, row, start=start), abs=1e-5)
        assert scored.ids == tuple(row if start is not None else row[1:])


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_targets_are_scored_given_their_sources(chunk):
    model, sources = Toy("encoder_decoder", start=2).eval(), [[1, 2], [3], [4, 5, 6, 0]]
    for scored, row, source in zip(score(model, ROWS, source=sources, chunk=chunk), ROWS, sources):
        assert scored.logprobs == pytest.approx(naive(model, row, source, 2), abs=1e-5) and scored.ids == tuple(row)


@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_pseudo_log_likelihood_masks_each_token_in_turn(chunk):
    model = ToyEncoder().eval().requires_grad_(False)
    for scored, row in zip(score(model, ROWS, mask_id=6, chunk=chunk), ROWS):
        wanted = []
        for place, token in enumerate(row):
            masked = torch.tensor([[*row[:place], 6, *row[place + 1 :]]])
            wanted.append(float(model(masked).logits[0, place].log_softmax(-1)[token]))
        assert scored.logprobs == pytest.approx(wanted, abs=1e-5)


def test_special_tokens_of_the_tokenizer_are_not_scored_by_an_encoder():
    tokenizer, model = Bytes(), ToyEncoder(vocab=256)
    tokenizer.template, tokenizer.special_names, tokenizer.mask_id = ((1,), (2,)), {1: "cls", 2: "sep", 3: "mask"}, 3
    found, whole = score(model, ["ab"], tokenizer=tokenizer)[0], score(model, [[1, 97, 98, 2]], mask_id=3)[0]
    assert (found.ids, found.logprobs) == ((97, 98), whole.logprobs[1:3])


def test_perplexity_is_that_of_all_tokens_together():
    scores = score(Toy(), ROWS)
    values = [value for scored in scores for value in scored.logprobs]
    assert perplexity(scores) == pytest.approx(math.exp(-sum(values) / len(values)))
    assert scores[0].perplexity == pytest.approx(math.exp(-scores[0].total / 4))
    assert math.isnan(scores[1].perplexity) and math.isnan(perplexity([]))


def test_padded_tensors_equal_lists():
    ids = torch.tensor([[1, 2, 3, 4, 5], [6, 9, 9, 9, 9], [9, 9, 0, 0, 3]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1]])
    assert score(Toy(), ids, attention_mask=mask) == score(Toy(), ROWS)


def test_empty_rows_score_nothing():
    assert [s.logprobs for s in score(Toy(), [[], [1]])] == [(), ()]
    assert [s.logprobs for s in score(ToyEncoder(), [[]], mask_id=1)] == [()]


def test_scoring_leaves_the_training_flag_and_turns_dropout_off():
    model = Toy().train()
    assert score(model, ROWS) == score(model, ROWS) and model.training


@pytest.mark.parametrize(("model", "options", "words"), [
    (Toy(), {"ids": [[1, 9]]}, "ids.0: token 1 is 9"),
    (Toy(max_length=3), {}, "positions end at 3"),
    (Toy("encoder_decoder", start=1), {}, "score.source: is missing"),
    (Toy("encoder_decoder", start=1), {"source": [[1]]}, "1 sources for 3 rows"),
    (Toy("encoder_decoder", start=1), {"source": [[1], [], [2]]}, "source.1: is empty"),
    (Toy("encoder_decoder"), {"source": ROWS}, "score.start: is missing"),
    (ToyEncoder(), {}, "score.mask_id: is missing"),
    (ToyEncoder(), {"mask_id": 7}, "score.mask_id"),
    (Toy(), {"chunk": 0}, "score.chunk"),
])  # fmt: skip
def test_what_cannot_be_scored_is_named(model, options, words):
    with pytest.raises(AttnlibError) as error:
        score(model, **{"ids": ROWS, **options})
    assert words in str(error.value)

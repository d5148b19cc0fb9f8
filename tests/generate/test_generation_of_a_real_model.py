import os
from pathlib import Path

import pytest

from attnlib.generate import generate, score, stream
from attnlib.pretrained import load
from attnlib.text import HF

TOLD = (", there was a little girl named Lily. She loved to play outside in the sunshine. "
        "One day, she saw a big, red ball in the sky.")  # fmt: skip


@pytest.fixture(scope="module")
def stories():
    folder = Path(os.environ.get("ATTNLIB_SHARED", "")) / "models" / "stories15m"
    if "ATTNLIB_SHARED" not in os.environ or not folder.is_dir():
        pytest.skip("needs models/stories15m in the folder that ATTNLIB_SHARED names")
    return load(folder), HF(path=str(folder / "tokenizer.json")).build()


def test_greedy_text_is_the_known_one_alone_and_beside_others(stories):
    model, tokenizer = stories
    prompts = ["Once upon a time", "The dog and the cat were"]
    results = generate(model, prompts, tokenizer=tokenizer, max_new_tokens=35)
    assert results[0].text == TOLD
    assert results[1].text == generate(model, prompts[1:], tokenizer=tokenizer, max_new_tokens=35)[0].text
    assert prompts[1] + results[1].text == tokenizer.decode(tokenizer.encode(prompts[1]) + list(results[1].ids))


def test_streamed_text_stops_before_a_string_that_crosses_tokens(stories):
    model, tokenizer = stories
    events = list(stream(model, ["Once upon a time"], tokenizer=tokenizer, stop=["Lily. Sh"]))
    assert "".join(event.text for event in events) == TOLD[: TOLD.index("Lily")]
    assert events[-1].finish_reason == "stop"


def test_scores_of_a_text_equal_the_logprobs_of_its_generation(stories):
    model, tokenizer = stories
    result = generate(model, ["Once upon a time"], tokenizer=tokenizer, max_new_tokens=9)[0]
    scored = score(model, ["Once upon a time" + str(result.text)], tokenizer=tokenizer)[0]
    assert scored.ids[-9:] == result.ids and scored.logprobs[-9:] == pytest.approx(result.logprobs, abs=1e-4)

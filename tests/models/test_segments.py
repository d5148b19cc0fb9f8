"""Long texts in segments: each sees what the last ones left, gradients stop between them."""

from __future__ import annotations

import pytest
import torch
import toys


@pytest.mark.parametrize("cache", ["growing", "rolling", "static"])
@pytest.mark.parametrize("name", ["window", "llama", "mixer_gated_delta", "mixer_lstm", "mixer_beside"])
def test_segments_see_the_past_and_gradients_stop_between_them(name: str, cache: str) -> None:
    model = toys.build(name).train()
    embeds = [model.embedding.token(toys.ids(2, n, n)).detach().requires_grad_() for n in (4, 3)]
    whole = model(embeds=torch.cat(embeds, 1)).last
    for stop in (False, True):
        state = model.begin(batch=2, cache=cache, capacity=7)
        first = model(embeds=embeds[0], state=state).last
        if stop:
            state.detach()
        second = model(embeds=embeds[1], state=state).last
        toys.near(torch.cat([first, second], 1), whole)
        before, own = torch.autograd.grad(second.square().sum(), embeds, allow_unused=True)
        assert own.abs().sum() > 0
        assert before is None or not before.any() if stop else before.abs().sum() > 0


@pytest.mark.parametrize("name", ["window", "scores", "mixer_gated_delta", "mixer_lstm"])
def test_segments_that_are_not_cut_give_every_parameter_the_gradient_of_the_whole_text(name: str) -> None:
    """Keys and values held reach back to the projections that made them: backpropagation through all of the text."""
    model = toys.build(name).train()
    ids = toys.ids(2, 7, 7)
    parameters = [p for p in model.parameters() if p.requires_grad]
    whole = torch.autograd.grad(model(ids).last.square().sum(), parameters, allow_unused=True)
    state = model.begin(batch=2)
    last = torch.cat([model(ids[:, part], state=state).last for part in (slice(0, 4), slice(4, 7))], 1)
    held = torch.autograd.grad(last.square().sum(), parameters, allow_unused=True)
    for one, other in zip(held, whole):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other)

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

"""Models are ordinary nn.Modules: copies, casts, checkpoints, hooks, threads, wrappers; and they keep quiet."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import ALL, DECODERS, PAIRS, build, ids, near

from attnlib.attention.backends.protocol import Backend
from attnlib.errors import BackendError
from attnlib.models.spec import ModelSpec
from attnlib.spec import read

SOME = ["gpt2", "llama", "softcap_sink", "t5_shared", "bert", "classifier", "t5", "bart"]


def inputs(name: str, batch: int = 2, tokens: int = 6) -> tuple[Tensor, ...]:
    return (ids(batch, 4, 3), ids(batch, tokens)) if name in PAIRS else (ids(batch, tokens),)


def run(name: str, model: nn.Module) -> Tensor:
    out = model(*inputs(name))
    found = out.last if out.logits is None else out.logits
    assert isinstance(found, Tensor)
    return found


@torch.no_grad()
@pytest.mark.parametrize("name", SOME)
def test_copies_and_pickles_give_the_same(name: str) -> None:
    model = build(name)
    wanted = run(name, model)  # also fills what is kept beside layouts: it must not hinder a copy
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(saved, weights_only=False)):
        assert torch.equal(run(name, other), wanted)
        next(other.parameters()).add_(1.0)
        assert torch.equal(run(name, model), wanted), "a copy shares nothing"


@torch.no_grad()
@pytest.mark.parametrize("name", ALL)
def test_meta_to_empty_and_load_loses_nothing(name: str) -> None:
    model = build(name)
    with torch.device("meta"):
        empty = read(ModelSpec, ALL[name]).build()
    assert all(p.is_meta for p in empty.parameters())
    empty = empty.to_empty(device="cpu").double().eval()
    for p in empty.parameters():
        p.fill_(float("nan"))
    empty.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(run(name, empty), run(name, model))
    fresh = read(ModelSpec, ALL[name]).build().eval()
    fresh.load_state_dict(model.state_dict(), strict=True, assign=True)
    assert torch.equal(run(name, fresh), run(name, model))


def test_tied_weights_are_one_parameter_and_one_key() -> None:
    tied, own = build("gpt2"), build("llama")
    assert not any("vocabulary.weight" in key for key in tied.state_dict())
    assert "head.vocabulary.weight" in own.state_dict()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL)
def test_lower_precision_stays_near_and_finite(name: str, dtype: torch.dtype) -> None:
    model = build(name)
    wanted = run(name, model)
    got = run(name, model.to(dtype))
    assert got.dtype == dtype and torch.isfinite(got).all()
    near(got.double(), wanted, 1e-4 if dtype == torch.float32 else 0.35)


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = build(name).train()
    out = model(*inputs(name), **({"types": ids(2, 6) % 2} if name == "bert" else {}))
    (out.last if out.logits is None else out.logits).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
        wasted = name == "parallel_shared" or key.endswith((".k.bias",))  # a bias of all keys moves no softmax
        assert wasted or parameter.grad.any(), key


@pytest.mark.parametrize("name", ALL)
def test_recomputed_blocks_give_the_same_gradients(name: str) -> None:
    model = build(name)
    grads = []
    for checkpointing in (False, True):
        for module in model.modules():
            if hasattr(module, "checkpointing"):
                module.checkpointing = checkpointing
        model.zero_grad()
        run(name, model).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        near(b, a)


@pytest.mark.parametrize("name", DECODERS)
def test_no_gradient_from_later_tokens(name: str) -> None:
    model = build(name)
    embeds = model.embedding.token(ids(1, 7)).detach().requires_grad_()
    last = model(embeds=embeds).last
    for t in range(7):
        (grad,) = torch.autograd.grad(last[0, t].sum(), embeds, retain_graph=True)
        assert not grad[0, t + 1 :].any() and grad[0, t].any()


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "factorised", "bert", "t5", "bart"])
def test_embeddings_instead_of_ids(name: str) -> None:
    model = build(name)
    if name in PAIRS:
        source, table = inputs(name)
        own = model.decoder_embedding or model.embedding
        got = model(embeds=model.embedding.token(source), decoder_embeds=own.token(table)).logits
    else:
        (table,) = inputs(name)
        got = model(embeds=model.embedding.token(table)).logits
    assert torch.equal(got, run(name, model))


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_logits_where_they_are_asked(name: str) -> None:
    model = build(name)
    wanted = run(name, model)
    chosen = torch.zeros(2, 6, dtype=torch.bool)
    chosen[0, 2] = chosen[1, 5] = True
    near(model(*inputs(name), at=chosen).logits, wanted[chosen])
    near(model(*inputs(name), at=slice(-2, None)).logits, wanted[:, -2:])
    out = model(*inputs(name), head=False, hidden=True)
    assert out.logits is None
    assert len(out.hidden) == 3 and all(h.shape == (2, 6, 12) for h in out.hidden)


@torch.no_grad()
def test_headless_models_have_no_logits() -> None:
    model = read(ModelSpec, ALL["llama"] | {"head": "none"}).build()
    out = model(ids(1, 3))
    assert out.logits is None and out.last.shape == (1, 3, 12)


@torch.no_grad()
@pytest.mark.parametrize("name", SOME)
def test_hooks_of_every_module_fire(name: str) -> None:
    model = build(name)
    fired: set[str] = set()
    idle = {"ModuleList", "Identity"}
    for path, module in model.named_modules():
        module.register_forward_hook(lambda m, i, o, path=path: fired.add(path))
    run(name, model)
    silent = {path for path, m in model.named_modules() if path not in fired and type(m).__name__ not in idle}
    # looked up or applied as values, not called: embedding tables, rules of scores and what they hold
    assert {p for p in silent if not p.endswith((".token", ".token_type", ".rule", ".bias")) and ".rule." not in p} == set()


@torch.no_grad()
@pytest.mark.parametrize("name", ["local_global", "t5_shared", "bert", "t5"])
def test_threads_on_one_model_get_right_results(name: str) -> None:
    model = build(name)
    sizes = [(b, t) for b in (1, 2, 3) for t in (2, 5, 6)]
    wanted = {size: model(*inputs(name, *size)).last for size in sizes}
    wrong: list[Any] = []

    def work(shift: int) -> None:
        try:
            with torch.no_grad():
                for i in range(27):
                    size = sizes[(i * 5 + shift) % len(sizes)]
                    if not torch.equal(model(*inputs(name, *size)).last, wanted[size]):
                        wrong.append(size)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# which models which backend refuses; reference and chunked take all
CONTENT = {name for name in ALL if "shaw" in name or "disentangled" in name} | {"scores"}
CONTENT |= {name for name in ALL if "forgetting" in name}
UNFUSED = {"softcap_sink", "normalisers"}
MEANS = {"encoder_landmarks"}  # where landmarks stand is known to tensors only
REFUSED = {"sdpa": UNFUSED, "varlen": {*UNFUSED, *CONTENT, *MEANS}}


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ALL)
def test_every_backend_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.nn.attention.flex_attention as flex_attention

    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)  # no half second a shape
    model = build(name)
    wanted = run(name, model)
    refused = {}
    for backend in ("reference", "chunked", "sdpa", "varlen", "flex"):
        assert backend in Backend.known()
        for module in model.modules():
            if hasattr(module, "backend"):
                module.backend = backend
        try:
            near(run(name, model), wanted)
        except BackendError as error:
            refused[backend] = str(error)
    assert {b for b in refused if b != "flex"} == {b for b, names in REFUSED.items() if name in names}
    assert ("flex" in refused) == (name in UNFUSED)


@pytest.fixture
def process_group() -> Iterator[None]:
    import torch.distributed as dist

    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.multiprocess
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_wrapped_for_data_parallel_training(name: str, process_group: None) -> None:
    from torch.nn.parallel import DistributedDataParallel

    model = build(name).train()
    run(name, model).square().sum().backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    wrapped = DistributedDataParallel(model)
    run(name, wrapped).square().sum().backward()
    for p, grad in zip(model.parameters(), wanted):
        near(p.grad, grad)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("llama", "bert", "t5"):
        run(name, build(name).train()).sum().backward()
    assert capfd.readouterr() == ("", "")

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def oracles():
    """Tiny transformers models with weights wide enough that beams differ."""
    hf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    none = {"bos_token_id": None, "eos_token_id": None}
    gpt2 = hf.GPT2Config(vocab_size=11, n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.9, **none)
    t5 = hf.T5Config(vocab_size=11, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, initializer_factor=3.0,
                     decoder_start_token_id=0, pad_token_id=0, **none)  # fmt: skip
    return {"gpt2": hf.GPT2LMHeadModel(gpt2).eval(), "t5": hf.T5ForConditionalGeneration(t5).eval()}


@pytest.fixture(scope="session")
def writing(tmp_path_factory):
    """name -> (transformers' model, ours, read from its folder): tiny ones whose texts vary, so that rules matter."""
    from rule_cases import writers

    from attnlib.pretrained import load

    made = {}
    for name, theirs in writers(pytest.importorskip("transformers")).items():
        folder = tmp_path_factory.mktemp(name)
        theirs.save_pretrained(folder)
        made[name] = theirs, load(folder)
        made[name][1].generation = {}  # each test says its own
    return made

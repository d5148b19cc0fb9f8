"""Generations with rules, ours and those of transformers, side by side."""

from __future__ import annotations

import torch

from attnlib.generate import generate

PROMPTS = [[1, 2, 3], [9], [5, 6, 1, 2, 0]]
EOS = (4, 7)
VOCAB = 13


def writers(hf):
    """A tiny decoder and a tiny encoder-decoder of transformers that have much to say."""
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0, "vocab_size": VOCAB}
    torch.manual_seed(12)
    llama = hf.LlamaForCausalLM(hf.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=64, initializer_range=0.5, **none)).eval()  # fmt: skip
    t5 = hf.T5ForConditionalGeneration(hf.T5Config(
        d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu", decoder_start_token_id=0,
        tie_word_embeddings=False, **none)).eval()  # fmt: skip
    torch.manual_seed(2)
    with torch.no_grad():
        for name, p in t5.named_parameters():
            if p.dim() == 2:
                p.normal_(0, 0.5 if "shared" in name else 1.0)
    return {"llama": llama, "t5": t5}


def theirs(hf, prompt, **options):
    """New tokens of each sequence that transformers generates for one prompt, as far as its first eos."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = hf.generate(ids, attention_mask=torch.ones_like(ids), **options)
    skip = 1 if hf.config.is_encoder_decoder else len(prompt)
    return [until(row[skip:].tolist(), options.get("eos_token_id", ())) for row in out]


def until(ids, eos):
    return ids[: next((i + 1 for i, token in enumerate(ids) if token in eos), len(ids))]


def equal_transformers(pair, options, *, beams=1, new=8, eos=EOS, **search):
    """Ours, all prompts together, are theirs, one by one; and the rules did something."""
    hf, ours = pair
    bound = {} if "max_length" in options else {"max_new_tokens": new}
    many = {"num_beams": beams, **search}
    count = min(beams, 2)
    found = generate(ours, PROMPTS, eos=eos, n=count, **bound, **many, **options)
    asked = {"eos_token_id": list(eos), "num_return_sequences": count, "do_sample": False, **bound, **many, **options}
    wanted = [ids for prompt in PROMPTS for ids in theirs(hf, prompt, **asked)]
    assert [list(r.ids) for r in found] == wanted
    free = generate(ours, PROMPTS, eos=eos, n=count, max_new_tokens=new, **many)
    assert [r.ids for r in free] != [r.ids for r in found], "the example must be one where the rules matter"

"""Translations and summaries: languages and tasks as the folder names them, tokens as transformers generates them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import T5, TREE, ready

import attnlib
from attnlib import tasks
from attnlib.errors import LayoutError, UsageError
from attnlib.pretrained.parity import theirs
from attnlib.tasks.languages import Languages
from attnlib.text.byte_level import ByteTokenizer

transformers = pytest.importorskip("transformers")
PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((f"▁{w}", -3.0) for w in
          ("the", "sea", "whale", "rose", "a", "of")), *((c, -5.0) for c in "abcdefghijklmnopqrstuvwxyz")]  # fmt: skip
CODES = ["en_XX", "ro_RO", "de_DE"]


def peaked(model: Any) -> Any:
    """Weights so large that no tie decides a token."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "norm" not in name:
                parameter.normal_(std=1.0)
        if getattr(model, "final_logits_bias", None) is not None:
            model.final_logits_bias.fill_(-1000.0)
            model.final_logits_bias[:, 4 : len(PIECES)] = 0.0  # texts, no languages
    return model.eval()


def mbart(folder: Path, tokenizer: Any, **config: Any) -> Any:
    """A tiny model of several languages, with its tokenizer, as transformers saves them."""
    settings = transformers.MBartConfig(
        vocab_size=len(tokenizer), d_model=12, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=20, decoder_ffn_dim=20, max_position_embeddings=40, **config,
    )  # fmt: skip
    model = peaked(transformers.MBartForConditionalGeneration(settings))
    theirs.write(model, folder)
    tokenizer.save_pretrained(folder)
    return model


def generated(model: Any, tokenizer: Any, text: str, **choices: Any) -> str:
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **choices)
    return tokenizer.decode(out[0], skip_special_tokens=True).strip()  # type: ignore[no-any-return]


def test_codes_stand_where_the_tokenizer_puts_them_and_the_target_is_forced(tmp_path: Path) -> None:
    codes = transformers.models.mbart50.tokenization_mbart50.FAIRSEQ_LANGUAGE_CODES
    tokenizer = transformers.MBart50Tokenizer(vocab=[*PIECES, *((code, 0.0) for code in codes), ("<mask>", 0.0)])
    model = mbart(tmp_path, tokenizer, decoder_start_token_id=2, forced_eos_token_id=2)
    ours = tasks.load(tmp_path)
    for source, target in (("en_XX", "ro_RO"), ("de_DE", "fr_XX")):
        tokenizer.src_lang = source
        bos = tokenizer.convert_tokens_to_ids(target)
        wished = generated(model, tokenizer, "the whale rose", forced_bos_token_id=bos, max_new_tokens=9, num_beams=1)
        found = tasks.translate(ours, ["the whale rose"], source=source, target=target, max_new_tokens=9, num_beams=1)
        assert found == [wished] and wished
    short = tasks.translate(ours, ["the whale rose"], source="de", target="fr", max_new_tokens=9, num_beams=1)
    assert short == found  # one alone begins so
    with pytest.raises(UsageError, match=r"source language: 'enXX' is unknown, .*did you mean 'en_XX'"):
        tasks.translate(ours, ["a"], source="enXX", target="ro_RO")
    with pytest.raises(UsageError, match="target language: is not named, wish one of af_ZA, ar_AR"):
        tasks.translate(ours, ["a"])


def test_a_decoder_that_begins_with_its_language_begins_with_another(tmp_path: Path) -> None:
    codes = transformers.models.mbart.tokenization_mbart.FAIRSEQ_LANGUAGE_CODES
    tokenizer = transformers.MBartTokenizer(vocab=[*PIECES, *((code, 0.0) for code in codes), ("<mask>", 0.0)])
    start = tokenizer.convert_tokens_to_ids("ro_RO")
    model = mbart(tmp_path, tokenizer, decoder_start_token_id=start)
    ours = tasks.load(tmp_path)
    wished = generated(model, tokenizer, "a sea", max_new_tokens=8, num_beams=1)
    assert tasks.translate(ours, ["a sea"], max_new_tokens=8, num_beams=1) == [wished] and wished
    other = tokenizer.convert_tokens_to_ids("de_DE")
    wished = generated(model, tokenizer, "a sea", decoder_start_token_id=other, max_new_tokens=8, num_beams=1)
    assert tasks.translate(ours, ["a sea"], source="en_XX", target="de_DE", max_new_tokens=8, num_beams=1) == [wished]


TASKS = {
    "summarization": {"prefix": "summarize: ", "num_beams": 2, "max_length": 7, "early_stopping": True},
    "translation_en_to_de": {"prefix": "to German: ", "max_length": 6},
    "translation_en_to_fr": {"prefix": "to French: ", "max_length": 9},
}


@pytest.fixture
def several(tmp_path: Path) -> tuple[Any, tasks.Ready]:
    """A tiny model over bytes whose config describes tasks, and ours read from its folder."""
    config = transformers.T5Config(vocab_size=293, d_model=12, d_kv=4, d_ff=20, num_layers=1, num_heads=2, pad_token_id=256,
                                   eos_token_id=258, decoder_start_token_id=256, task_specific_params=TASKS)  # fmt: skip
    model = peaked(transformers.T5ForConditionalGeneration(config))
    theirs.write(model, tmp_path)
    ours = tasks.Ready(attnlib.load(tmp_path), ByteTokenizer())
    return model, ours


def said(model: Any, text: str, **choices: Any) -> str:
    ids = torch.tensor([[*text.encode(), 258]])
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **choices)[0]
    return ByteTokenizer().decode(out.tolist()).strip()


def test_tasks_of_the_config_give_their_prefix_and_choices(several: tuple[Any, tasks.Ready]) -> None:
    model, ours = several
    wished = said(model, "to German: hi", max_length=6)
    assert tasks.translate(ours, ["hi"], source="en", target="de") == [wished] and wished
    assert tasks.translate(ours, ["hi"], target="fr") == [said(model, "to French: hi", max_length=9)]
    beams = said(model, "summarize: hi there", num_beams=2, max_length=7, early_stopping=True)
    assert tasks.summarize(ours, ["hi there"]) == [beams]
    assert tasks.summarize(ours, ["hi"], prefix="", max_new_tokens=3) == [said(model, "hi", max_new_tokens=3)]
    assert tasks.translate(ours, ["hi"], prefix="> ", max_new_tokens=3) == [said(model, "> hi", max_new_tokens=3)]


def test_languages_that_are_not_named_are_refused_with_those_that_are(several: tuple[Any, tasks.Ready]) -> None:
    ours = several[1]
    with pytest.raises(UsageError, match="is en to any, wish one of en to de, en to fr"):
        tasks.translate(ours, ["hi"], source="en")
    with pytest.raises(UsageError, match="is any to ro, wish one of"):
        tasks.translate(ours, ["hi"], target="ro")
    with pytest.raises(UsageError, match=r"is 'ro', this model names no languages: it knows one direction"):
        tasks.translate(ready(T5), ["hi"], target="ro")
    with pytest.raises(UsageError, match="model: writes no text from a text"):
        tasks.summarize(ready(TREE), ["hi"])
    bounded = {**T5, "embedding": {"position": {"kind": "learned", "max_length": 30}}}
    with pytest.raises(LayoutError, match=r"texts: has 43 tokens, the model's positions end at 30"):
        tasks.translate(ready(bounded), ["a" * 40])


def test_a_mark_before_the_text_names_the_target() -> None:
    class Marked(ByteTokenizer):
        """Bytes with marks of languages among the specials."""

        def __init__(self) -> None:
            super().__init__()
            self.special_names = {**self.special_names, 290: ">>fra<<", 291: ">>deu<<"}

    model = tasks.Ready(ready(T5).model, Marked())
    plain = tasks.translate(model, ["hi"], max_new_tokens=6)
    from attnlib.generate import generate

    for target, mark in (("fra", 290), ("deu", 291)):
        wished = generate(model.model, [[mark, *b"hi", 258]], tokenizer=model.tokenizer, max_new_tokens=6)[0].text
        assert tasks.translate(model, ["hi"], target=target, max_new_tokens=6) == [(wished or "").strip()]
    assert plain == tasks.translate(model, ["hi"], max_new_tokens=6)
    with pytest.raises(UsageError, match="target language: 'ron' is unknown, wish one of deu, fra"):
        tasks.translate(model, ["hi"], target="ron")


def test_a_language_that_several_codes_begin_with_is_refused_with_them() -> None:
    several = Languages(ready(T5), {"zho_Hans": 3, "zho_Hant": 4, "eng_Latn": 5}, {})
    assert several.beginning("eng") == several.beginning("eng_Latn") == {"forced_bos_token_id": 5}
    with pytest.raises(UsageError, match=r"'zho' is unknown, .*did you mean zho_Hans or zho_Hant\?"):
        several.beginning("zho")

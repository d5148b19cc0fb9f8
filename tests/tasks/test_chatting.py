"""Talks: what the tiny model of a folder with a chat template answers, in Python and by the command."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import T5, ready

import attnlib
from attnlib import tasks
from attnlib.cli import main
from attnlib.errors import LayoutError, UsageError
from attnlib.models.spec import ModelSpec
from attnlib.pretrained.parity import theirs
from attnlib.spec import read
from attnlib.tasks.chatting import answer_in_pieces

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
TEMPLATE = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
BOUNDED = {"kind": "decoder", "d_model": 8, "vocab_size": 259,
           "embedding": {"position": {"kind": "learned", "max_length": 40}},
           "stack": {"num_layers": 1, "block": {"attention": {"num_heads": 2, "mask": "causal"},
                                                "mlp": {"kind": "dense", "d_ff": 9}}}}  # fmt: skip
HELLO = {"role": "user", "content": "Hello"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """A tiny decoder of transformers with peaked logits, its tokenizer, and their folder."""
    folder = tmp_path_factory.mktemp("chat")
    pipeline = tokenizers.Tokenizer(tokenizers.models.BPE())
    pipeline.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = tokenizers.decoders.ByteLevel()
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    pipeline.train_from_iterator([], tokenizers.trainers.BpeTrainer(initial_alphabet=letters, vocab_size=256))
    pipeline.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=pipeline, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    torch.manual_seed(3)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(
        vocab_size=259, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, initializer_range=0.7, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=258, pad_token_id=256)).eval()  # fmt: skip
    with torch.no_grad():
        model.lm_head.weight *= 3
    model.generation_config.eos_token_id = [256, 258, 32, 41, 90]  # so that answers end
    theirs.write(model, folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer, folder


def wished(pair: tuple[Any, Any, Path], messages: list[dict[str, str]], new: int = 40) -> str:
    model, tokenizer, _ = pair
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    with theirs.quietly(), torch.no_grad():
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)[0]
    made = made[ids.shape[1] :].tolist()
    ended = made[:-1] if made[-1] in model.generation_config.eos_token_id else made
    return str(tokenizer.decode(ended, skip_special_tokens=True)).strip()


def test_an_answer_is_that_of_transformers_and_comes_in_pieces(pair: tuple[Any, Any, Path]) -> None:
    ours = tasks.load(pair[2])
    talks = [[{"role": "user", "content": text}] for text in ("Hello", "Who are you?", "ab", "Sing", "1 + 1")]
    answers = [tasks.chat(ours, talk, max_new_tokens=40) for talk in talks]
    assert answers == [wished(pair, talk) for talk in talks] and len({*answers}) > 1 and all(answers)
    pieces = [*answer_in_pieces(ours, talks[0], max_new_tokens=40)]
    assert "".join(pieces).strip() == answers[0] and len(pieces) > 1
    assert tasks.chat(ours, talks[0]).startswith(answers[0])  # without a bound, as far as the positions reach


def test_the_command_keeps_the_talk(
    pair: tuple[Any, Any, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["chat", str(pair[2]), "--max-new-tokens", "20", "--device", "cpu"]
    talk = [{"role": "system", "content": "Be brief."}]
    answers = []
    for text in ("Hello", "And?"):
        talk.append({"role": "user", "content": text})
        answers.append(wished(pair, talk, new=20))
        talk.append({"role": "assistant", "content": answers[-1]})
    assert main([*argv, "--system", "Be brief.", "--message", "Hello", "--message", "And?"]) == 0
    assert capsys.readouterr().out == "".join(f"{answer}\n" for answer in answers)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    assert main(argv) == 0
    assert capsys.readouterr().out.rstrip() == wished(pair, [HELLO], new=20)
    typed = iter(["", "Hello"])

    def asked(prompt: str) -> str:
        if (line := next(typed, None)) is None:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", asked)
    monkeypatch.setattr("sys.stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    assert main(argv) == 0
    assert capsys.readouterr().out.strip() == wished(pair, [HELLO], new=20)


def test_beams_are_one_piece_and_what_cannot_be_is_refused(pair: tuple[Any, Any, Path], tmp_path: Path) -> None:
    ours = tasks.load(pair[2])
    assert len([*answer_in_pieces(ours, [HELLO], num_beams=2, max_new_tokens=5)]) == 1
    with pytest.raises(UsageError, match="n: is 2, a talk goes on with one answer"):
        tasks.chat(ours, [HELLO], n=2, temperature=1.0)
    bounded = tasks.Ready(read(ModelSpec, BOUNDED).build().eval(), ours.tokenizer)
    with pytest.raises(LayoutError, match=r"messages: are 40 tokens, the model's positions end at 40 \(begin anew\)"):
        tasks.chat(bounded, [{"role": "user", "content": "a" * 21}])
    assert [*answer_in_pieces(bounded, [{"role": "user", "content": "a" * 20}])]
    with pytest.raises(UsageError, match="model: is no decoder"):
        tasks.chat(ready(T5), [HELLO])
    attnlib.save(ours.model, tmp_path / "ours", tokenizer=ours.tokenizer)
    assert tasks.chat(tasks.load(tmp_path / "ours"), [HELLO]) == tasks.chat(ours, [HELLO])
    settings = json.loads((pair[2] / "tokenizer_config.json").read_text())
    assert "chat_template" not in settings  # it lies in a file of its own
    (tmp_path / "ours" / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match=r"tokenizer: has no chat template, wish .* \(a plain text needs none"):
        tasks.chat(tasks.load(tmp_path / "ours"), [HELLO])

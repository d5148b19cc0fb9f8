"""Transcriptions: features, prompts, times and windows as transformers has them, on sounds written for the test."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import T5, ready

import attnlib
from attnlib import tasks
from attnlib.audio import read_wav, resample
from attnlib.cli import main
from attnlib.errors import AttnlibError, CheckpointError, DataError, LayoutError, UsageError
from attnlib.generate import Sampling, generate, score
from attnlib.pretrained.parity import theirs
from attnlib.tasks.speech import Speech
from attnlib.tasks.transcribing import Listener

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
RATE, EOS = 16000, 256
NAMES = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>", "<|notimestamps|>"]
IDS = {name: EOS + i for i, name in enumerate(NAMES)}
FIRST = EOS + len(NAMES)  # of 51 times, 0.00 to 1.00
TIMES = range(FIRST, FIRST + 51)
WORDS: dict[str, Any] = {
    "lang_to_id": {"<|en|>": IDS["<|en|>"], "<|de|>": IDS["<|de|>"]}, "is_multilingual": True,
    "task_to_id": {"translate": IDS["<|translate|>"], "transcribe": IDS["<|transcribe|>"]},
    "no_timestamps_token_id": IDS["<|notimestamps|>"], "max_initial_timestamp_index": 20,
    "forced_decoder_ids": [[1, None], [2, IDS["<|transcribe|>"]]], "suppress_tokens": [1, 2, 7, IDS[NAMES[1]]],
    "begin_suppress_tokens": [32, EOS], "max_length": 28,
}  # fmt: skip

BARE = {"suppress_tokens": None, "begin_suppress_tokens": None}


def write(path: Path, seconds: float, *, rate: int = RATE, channels: int = 1, seed: int = 0) -> Path:
    """A WAV of tones that change, over a little noise."""
    made, count = torch.Generator().manual_seed(seed), int(seconds * rate)
    t = torch.arange(count) / rate
    tone = sum(torch.sin(6.283 * h * t * (1 + 0.3 * (3 * t).floor())) for h in (220.0, 310.0 + 40 * seed)) * 0.2
    samples = tone + 0.05 * torch.randn(channels, count, generator=made)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.T * 32767).short().contiguous().numpy().tobytes())
    return path


def tokens(folder: Path) -> None:
    pipeline = tokenizers.Tokenizer(tokenizers.models.BPE())
    pipeline.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), vocab_size=256)
    pipeline.train_from_iterator([], trainer)
    pipeline.add_special_tokens(NAMES)
    pipeline.add_tokens([f"<|{i / 50:.2f}|>" for i in range(51)])
    pipeline.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": NAMES[0], "bos_token": NAMES[0]}))


def saved(folder: Path, *, seed: int = 0, words: dict[str, Any] = WORDS) -> Any:
    """A tiny model that listens to windows of a second, its logits peaked, as transformers saves it."""
    config = transformers.WhisperConfig(
        vocab_size=FIRST + 51, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=20, decoder_ffn_dim=24,
        encoder_attention_heads=2, decoder_attention_heads=2, num_mel_bins=10, max_source_positions=50,
        max_target_positions=28, decoder_start_token_id=IDS[NAMES[1]], pad_token_id=EOS, bos_token_id=EOS, eos_token_id=EOS,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and parameter.requires_grad:
                parameter.normal_(std=1.0 if "embed" in name else 0.6)
        model.model.decoder.embed_tokens.weight[FIRST:] *= 1.2
    for name, value in words.items():
        setattr(model.generation_config, name, value)
    theirs.write(model, folder)
    transformers.WhisperFeatureExtractor(feature_size=10, chunk_length=1).save_pretrained(folder)
    tokens(folder)
    return model


def features(path: Path) -> Any:
    """As transformers' own pipeline has them: a window filled with silence, or all of a longer sound as it is."""
    samples, rate = read_wav(path)
    sound = resample(samples.mean(0), rate, RATE)
    extract = transformers.WhisperFeatureExtractor(feature_size=10, chunk_length=1)
    long = {"truncation": False, "padding": "longest"} if len(sound) > RATE else {}
    return extract(sound.numpy(), sampling_rate=RATE, return_tensors="pt", **long).input_features


def their_ids(model: Any, path: Path, **asked: Any) -> list[int]:
    with theirs.quietly(), torch.no_grad():
        ids = model.generate(features(path), **asked)[0].tolist()
    return ids[: ids.index(EOS)] if EOS in ids else ids


SOUNDS = {"a window": (1.0, RATE, 1), "stereo": (1.0, 44100, 2), "long": (3.37, 22050, 1), "just longer": (1.02, 8000, 1)}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sounds")
    return {
        name: write(folder / f"{i}.wav", seconds, rate=rate, channels=channels, seed=i)
        for i, (name, (seconds, rate, channels)) in enumerate(SOUNDS.items())
    }


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, tasks.Ready]]:
    folders = [tmp_path_factory.mktemp("model") for _ in range(2)]
    return [(saved(folder, seed=seed), tasks.load(folder)) for seed, folder in enumerate(folders)]


@pytest.mark.parametrize("name", SOUNDS)
def test_features_of_a_file_equal_those_of_transformers(pairs: Any, sounds: dict[str, Path], name: str) -> None:
    listener = Listener(pairs[0][1], "en", None, False, {})
    samples, rate = read_wav(sounds[name])
    found, frames = listener._features(resample(samples.mean(0), rate, RATE))
    wished = features(sounds[name])[0]
    assert found.shape == wished.shape and frames == wished.shape[1]
    assert float((found - wished).abs().max()) <= 1e-5


CASES = [
    ("a window", {}), ("a window", {"task": "translate"}), ("a window", {"language": "en", "timestamps": True}),
    ("stereo", {"language": "de", "num_beams": 3}), ("stereo", {"timestamps": True, "num_beams": 2}), ("long", {}),
    ("long", {"language": "<|en|>", "task": "translate", "max_new_tokens": 9}), ("just longer", {"num_beams": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "asked"), CASES, ids=str)
def test_tokens_equal_those_of_transformers(
    pairs: Any, sounds: dict[str, Path], name: str, asked: dict[str, Any]
) -> None:  # fmt: skip
    if "timestamps" not in asked and SOUNDS[name][0] <= 1:  # untrained, it would say times that nobody asked for
        asked = {**asked, "suppress_tokens": [*WORDS["suppress_tokens"], *TIMES]}
    there = {("return_timestamps" if key == "timestamps" else key): value for key, value in asked.items()}
    variety = set()
    for model, ours in pairs:
        found = tasks.transcribe(ours, [sounds[name]], **asked)[0]
        assert list(found.ids) == their_ids(model, sounds[name], **there)
        variety |= {*found.ids}
        told = [(one.start, one.end) for one in found.segments]
        assert all(0 <= start <= end <= SOUNDS[name][0] + 0.01 for start, end in told)
        assert found.text == ours.tokenizer.decode([i for i in found.ids if i < FIRST]).strip()
    assert len(variety) > 6 and bool(variety & {*TIMES}) == ("timestamps" in asked or SOUNDS[name][0] > 1)


def test_a_prompt_is_put_together_as_the_folder_spells_it(pairs: Any) -> None:
    def prompt(language: str | None = None, task: str | None = None, times: bool = False, **words: Any) -> list[int | None]:
        kept = {name: value for name, value in {**WORDS, **words}.items() if value is not None}
        model = type("Model", (), {"spec": pairs[0][1].model.spec, "generation": kept, "decoder_embedding": None})()
        return Speech.of(tasks.Ready(model, pairs[0][1].tokenizer)).prompt(language, task, times=times)

    start, en, de, translate, transcribe, plain = (IDS[name] for name in NAMES[1:])
    assert prompt() == [start, None, transcribe, plain] and prompt(times=True) == [start, None, transcribe]
    assert prompt("DE") == [start, de, transcribe, plain] and prompt(task="translate") == [start, None, translate, plain]
    assert prompt(language=None, forced_decoder_ids=None) == [start, None, plain]
    assert prompt(forced_decoder_ids=[[1, en], [2, translate], [3, plain]]) == [start, en, translate, plain]
    older = dict.fromkeys(("lang_to_id", "task_to_id", "no_timestamps_token_id", "is_multilingual"))
    forced = [[1, de], [2, transcribe], [3, plain]]
    assert prompt(**older, forced_decoder_ids=forced) == [start, de, transcribe, plain]
    assert prompt(**older, forced_decoder_ids=forced, times=True) == [start, de, transcribe]
    assert prompt("en", "translate", **older, forced_decoder_ids=forced) == [start, en, translate, plain]
    assert prompt(**older, forced_decoder_ids=None) == [start]
    with pytest.raises(UsageError, match="language: 'enn' is unknown, wish one of de, en"):
        prompt("enn")
    with pytest.raises(UsageError, match="task: 'sing' is unknown, wish one of transcribe, translate"):
        prompt("en", "sing")
    with pytest.raises(UsageError, match="this model knows one language: name none"):
        prompt("en", is_multilingual=False)
    for odd in ([[2, 3]], [[1, "a"]], 7):
        with pytest.raises(CheckpointError, match=r"forced_decoder_ids: is .*, wish"):
            prompt(forced_decoder_ids=odd)
    with pytest.raises(LayoutError, match=r"generation_config\.json"):
        prompt(no_timestamps_token_id=9999)


def test_silence_after_a_short_sound_is_not_listened_to(pairs: Any, tmp_path: Path) -> None:
    model, ours = pairs[1]
    path = write(tmp_path / "a.wav", 0.3, seed=5)
    found = tasks.transcribe(ours, [path], timestamps=True, language="en")[0]
    wished = their_ids(model, path, return_timestamps=True, language="en")
    assert found.ids and list(found.ids) == wished[: len(found.ids)] and found.segments[-1].end <= 0.3
    empty = tasks.transcribe(ours, [(torch.zeros(0), 8000)])[0]
    assert (empty.text, empty.segments) == ("", ())


def test_without_times_a_long_sound_is_read_in_windows_end_to_end(tmp_path: Path, sounds: dict[str, Path]) -> None:
    saved(tmp_path, words=BARE)
    (tmp_path / "tokenizer.json").write_text((tmp_path / "tokenizer.json").read_text().replace("<|notimestamps|>", "<|x|>"))
    ours = tasks.load(tmp_path)
    found = tasks.transcribe(ours, [sounds["long"]], max_new_tokens=4)[0]
    assert [(one.start, one.end) for one in found.segments] == [(0, 1), (1, 2), (2, 3), (3, 3.37)]
    with pytest.raises(UsageError, match="timestamps: are asked for, this model names no token that is a time"):
        tasks.transcribe(ours, [sounds["long"]], timestamps=True)


def test_a_folder_says_its_features_or_is_refused_by_key(tmp_path: Path) -> None:
    saved(tmp_path, words=BARE)
    file, model = tmp_path / "preprocessor_config.json", tasks.load(tmp_path)
    told = json.loads(file.read_text())
    plain = Listener(model, None, None, False, {}).front
    for change, words in (
        ({"dither": 0.1}, "dither: is 0.1, wish 0"), ({"do_normalize": True}, "do_normalize: is True, wish False"),
        ({"hop_length": "x"}, "hop_length: "), ({"feature_size": 9}, "are 9 x 100 frames .* the model reads 10 x 100"),
        ({"chunk_length": 2}, "are 10 x 200 frames"),
    ):  # fmt: skip
        file.write_text(json.dumps({**told, **change}))
        with pytest.raises(AttnlibError, match=words):
            Listener(model, None, None, False, {})
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": told}))
    file.unlink()
    assert Listener(model, None, None, False, {}).front == plain
    (tmp_path / "processor_config.json").unlink()
    assert Listener(model, None, None, False, {}).front == plain  # what the model reads, at the field's rate
    attnlib.save(model.model, tmp_path / "ours", tokenizer=model.tokenizer)
    again = tasks.load(tmp_path / "ours")
    sound = (torch.sin(torch.arange(9000) / 9), RATE)
    assert tasks.transcribe(again, [sound], max_new_tokens=5) == tasks.transcribe(model, [sound], max_new_tokens=5)


def test_what_cannot_be_transcribed_is_refused_in_one_line(pairs: Any, sounds: dict[str, Path], tmp_path: Path) -> None:
    ours = pairs[0][1]
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match="is no WAV file that is read here"):
        tasks.transcribe(ours, [tmp_path / "a.wav"])
    with pytest.raises(UsageError, match="model: does not listen"):
        tasks.transcribe(ready(T5), [sounds["long"]])
    with pytest.raises(UsageError, match="n: is 2, is not chosen in a transcription"):
        tasks.transcribe(ours, [sounds["long"]], n=2)
    for given in ([[1, 2]], torch.zeros(1, 9, 100), torch.zeros(1, 10, 101)):
        with pytest.raises(LayoutError, match=r"prompts: (is a|has 101 frames, wish 1 to 100)"):
            generate(ours.model, given, decoder_prompts=[[1]], max_new_tokens=2)


def test_the_command_writes_a_line_a_file_or_a_stretch(
    pairs: Any, sounds: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, files = pairs[1][1], [str(sounds["long"]), str(sounds["stereo"])]
    found = tasks.transcribe(ours, files, language="de")

    def told(*argv: str, code: int = 0) -> list[str]:
        assert main(["transcribe", str(ours.folder), *argv]) == code
        return (capsys.readouterr()[bool(code)]).split("\n")[:-1]

    assert told(*files, "--language", "de") == [" ".join(one.text.split()) for one in found]
    lines = told(*files, "--language", "de", "--timestamps")
    assert lines[0] == files[0] and lines[1 + len(found[0].segments)] == files[1]
    for line, one in zip(lines[1:], found[0].segments):
        assert line == f"[00:{one.start:05.2f} - 00:{one.end:05.2f}]  {' '.join(one.text.split())}"
    assert told(str(tmp_path / "none.wav"), code=2) == [f"{tmp_path / 'none.wav'}: no such file or directory"]
    assert told(files[0], "--language", "xx", code=2) == ["language: 'xx' is unknown, wish one of de, en"]
    assert "--top-k: is 3 without sampling" in told(files[0], "--top-k", "3", code=2)[0]


def test_what_reads_texts_says_that_this_model_listens(pairs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(pairs[0][1].folder)
    for argv in (["generate", folder, "--prompt", "a"], ["translate", folder, "a"], ["summarize", folder, "a"]):
        assert main(argv) == 2
        assert capsys.readouterr().err.startswith("model: reads no text, it listens, wish sounds for it")
    with pytest.raises(UsageError, match="model: reads no text"):
        tasks.embed(pairs[0][1], ["a"])
    with pytest.raises(LayoutError, match="source: is a list, must be floats"):
        score(pairs[0][1].model, [[1, 2]], source=[[1]], start=3)


def test_scores_of_a_text_given_its_sound_are_the_logprobs_of_its_generation(pairs: Any) -> None:
    ours, sound = pairs[0][1].model, torch.randn(1, 10, 100, generator=torch.Generator().manual_seed(2))
    made = generate(ours, sound, decoder_prompts=[[257, 3]], max_new_tokens=6, sampling=Sampling())[0]
    scored = score(ours, [[3, *made.ids]], source=sound, start=257)[0]
    assert scored.logprobs[1:] == pytest.approx(made.logprobs, abs=1e-4)


def test_rows_of_features_are_generated_as_if_alone(pairs: Any) -> None:
    ours = pairs[0][1].model
    sounds = torch.randn(3, 10, 100, generator=torch.Generator().manual_seed(1))
    asked = {"decoder_prompts": [[257, 3]], "max_new_tokens": 5, "temperature": 1.0, "seed": 3}
    alone = [generate(ours, one[None], **asked)[0].ids for one in sounds]
    together = generate(ours, sounds, **{**asked, "decoder_prompts": [[257, 3]] * 3})
    assert [one.ids for one in together] == alone and len({*alone}) > 1

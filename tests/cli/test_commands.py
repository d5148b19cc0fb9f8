"""Every command on tiny models, as a user calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import attnlib
from attnlib.cli import main

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]


def told(capsys: Capture, *argv: object, code: int = 0) -> str:
    """What a command that ends with `code` writes to stdout."""
    capsys.readouterr()
    found = main([str(word) for word in argv])
    out, err = capsys.readouterr()
    assert found == code, err
    return out


def refused(capsys: Capture, *argv: object, code: int = 2) -> str:
    """The one line on stderr of a command that refuses."""
    capsys.readouterr()
    found = main([str(word) for word in argv])
    out, err = capsys.readouterr()
    assert (found, out) == (code, "")
    assert err.count("\n") == 1 and "Traceback" not in err, err
    return err


# -- train --------------------------------------------------------------------------------------------------------


def test_train_tells_scores_places_and_samples(configs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    out = told(capsys, "train", configs["gpt"], "--folder", tmp_path / "run")
    assert "eval_bits_per_character" in out and "continued" in out
    curve = next(line.split()[-1] for line in out.splitlines() if line.startswith("loss curve"))
    assert Path(curve).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_train_resumes_and_takes_overrides_after_options(configs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "run"
    told(capsys, "train", configs["gpt"], "--folder", folder, "train.plot=false", "--dtype", "bfloat16")
    told(capsys, "train", configs["gpt"], "--folder", folder, "--resume", "train.steps=3", "train.plot=false")
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 3 and (folder / "step-00000003").is_dir()


def test_train_refuses_a_folder_that_holds_a_run(configs: dict[str, Path], runs: dict[str, Path], capsys: Capture) -> None:
    assert "resume it" in refused(capsys, "train", configs["gpt"], "--folder", runs["gpt"])


def test_samples_fit_the_objective(configs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    filled = told(capsys, "train", configs["bert"], "--folder", tmp_path / "bert", "train.plot=false")
    assert "blanks right" in filled and "<mask>" in filled
    answered = told(capsys, "train", configs["t5"], "--folder", tmp_path / "t5", "train.plot=false")
    assert answered.count("answered") == 3 and "eval_exact_match" in answered


@pytest.mark.multiprocess
def test_sigterm_ends_training_with_143_and_a_checkpoint(configs: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attnlib", "train", str(configs["gpt"]), "--folder", str(tmp_path / "run"),
               "train.steps=100000", "train.log_every=1"]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "stopped by SIGTERM" in err.splitlines()[-1] and "Traceback" not in err
    assert list((tmp_path / "run").glob("step-*"))


# -- generate -----------------------------------------------------------------------------------------------------


def test_a_real_model_tells_its_story(shared_models: Path, capsys: Capture) -> None:
    out = told(capsys, "generate", shared_models / "stories15m", "--prompt", "Once upon a time", "--max-new-tokens", 32)
    assert out.startswith(", there was a little girl named Lily. She loved to play outside in the sunshine.")
    assert out.count("\n") == 1


def test_only_text_goes_to_stdout_and_streams_equal_the_whole(runs: dict[str, Path], capsys: Capture) -> None:
    argv = ["generate", runs["gpt"], "--prompt", "the sea", "--temperature", 1, "--seed", 5, "--max-new-tokens", 12]
    out = told(capsys, *argv)
    assert told(capsys, *argv) == out
    assert told(capsys, *argv, "--echo") == "the sea" + out
    assert told(capsys, *argv, "--n", 2).startswith(out)


def test_beams_and_encoder_decoders_generate(runs: dict[str, Path], capsys: Capture) -> None:
    argv = ["generate", runs["t5"], "--prompt", "the girl sings", "--max-new-tokens", 5]
    assert told(capsys, *argv).endswith("\n")
    assert told(capsys, *argv, "--num-beams", 2, "--n", 2).endswith("\n")


def test_encoders_fill_blanks(runs: dict[str, Path], capsys: Capture) -> None:
    out = told(capsys, "generate", runs["bert"], "--prompt", "the s<mask>a was c<mask>lm")
    assert len(out) == len("the sea was calm\n") and out.startswith("the s") and "<mask>" not in out
    assert "<mask>" in refused(capsys, "generate", runs["bert"], "--prompt", "no blank")
    assert "sampling" in refused(capsys, "generate", runs["bert"], "--prompt", "a<mask>", "--temperature", 1)


def test_filling_takes_the_surest_blank_first(runs: dict[str, Path]) -> None:
    from attnlib.cli.common import model_folder
    from attnlib.tasks.filling import fill_ids
    from attnlib.text import tokenizer_of

    folder = model_folder(str(runs["bert"]))
    model, tokenizer = attnlib.load(folder), tokenizer_of(folder)
    mask = tokenizer.need("mask")
    ids = [104, mask, 101, mask, 110]
    with torch.inference_mode():
        first = model(torch.tensor([ids])).logits[0, [1, 3], :256].softmax(-1)
        surest = int(first.max(-1).values.argmax())
        ids[[1, 3][surest]] = int(first[surest].argmax())
    assert fill_ids(model, tokenizer, [104, mask, 101, mask, 110])[[1, 3][surest]] == ids[[1, 3][surest]]


def test_choices_that_do_not_hold_are_told_by_option(runs: dict[str, Path], capsys: Capture) -> None:
    argv = ["generate", runs["gpt"], "--prompt", "a"]
    assert refused(capsys, *argv, "--top-k", 3).startswith("--top-k: is 3 without sampling")
    assert refused(capsys, *argv, "--temperature=-1").startswith("--temperature: -1.0, wish")
    assert refused(capsys, *argv, "--n", 2).startswith("--n: is 2 without sampling")


# -- score, evaluate ----------------------------------------------------------------------------------------------


def test_scores_add_up_and_give_the_perplexity(runs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    rows = told(capsys, "score", runs["gpt"], "a whale").splitlines()
    values = [float(row.split()[0]) for row in rows]
    assert len(rows) == len("a whale") - 1 + 2
    assert values[-2] == pytest.approx(sum(values[:-2]), abs=1e-2)
    assert values[-1] == pytest.approx(2.718281828 ** (-values[-2] / 6), rel=1e-3)
    (tmp_path / "text.txt").write_text("a whale")
    assert told(capsys, "score", runs["gpt"], "--file", tmp_path / "text.txt").splitlines() == rows


def test_encoders_and_encoder_decoders_are_scored(runs: dict[str, Path], capsys: Capture) -> None:
    assert "(pseudo)" in told(capsys, "score", runs["bert"], "a whale")
    assert "perplexity" in told(capsys, "score", runs["t5"], "does she sing", "--source", "she sings")
    assert "--source" in refused(capsys, "score", runs["t5"], "does she sing")
    assert "--source" in refused(capsys, "score", runs["gpt"], "a", "--source", "b")
    assert "TEXT" in refused(capsys, "score", runs["gpt"])


def test_evaluate_repeats_what_training_measured(runs: dict[str, Path], capsys: Capture) -> None:
    rows = [json.loads(line) for line in (runs["gpt"] / "metrics.jsonl").read_text().splitlines()]
    found = dict(line.split() for line in told(capsys, "evaluate", runs["gpt"], "--device", "cpu").splitlines())
    assert float(found["loss"]) == pytest.approx(rows[-1]["eval_loss"], rel=1e-4)
    assert "exact_match" in told(capsys, "evaluate", runs["t5"], "train.evaluate.match=2")


def test_evaluate_takes_another_config(runs: dict[str, Path], configs: dict[str, Path], capsys: Capture) -> None:
    assert "bits_per_character" in told(capsys, "evaluate", runs["gpt"], configs["gpt"], "train.length=16")
    assert "encoder" in refused(capsys, "evaluate", runs["gpt"], configs["bert"])


# -- describe, explain, check -------------------------------------------------------------------------------------


def test_describe_reads_configs_names_folders_and_overrides(
    configs: dict[str, Path], runs: dict[str, Path], capsys: Capture
) -> None:
    out = told(capsys, "describe", configs["gpt"])
    assert told(capsys, "describe", runs["gpt"]) == out
    assert "12" in told(capsys, "describe", "gpt2_small", "--tokens", 16)
    assert told(capsys, "describe", configs["gpt"], "model.stack.num_layers=3") != out
    half = told(capsys, "describe", configs["gpt"], "--dtype", "bfloat16")
    assert "cache: 192 bytes" in half and "cache: 384 bytes" in out


def test_described_yaml_reads_back(configs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "again.yaml").write_text(told(capsys, "describe", configs["t5"], "--yaml"))
    assert told(capsys, "describe", tmp_path / "again.yaml") == told(capsys, "describe", configs["t5"])


def test_explain_draws_masks_and_says_why(configs: dict[str, Path], capsys: Capture) -> None:
    out = told(capsys, "explain", configs["gpt"], "--tokens", 16, "--device", "cpu")
    assert "decoder.0.self .. decoder.1.self (2 alike)" in out and "causal & window(before=6)" in out
    assert "    ####........" in out and "decode step: sdpa" in out
    assert "no backward on the CPU" in told(capsys, "explain", configs["gpt"], "--train", "--device", "cpu")
    asked = told(capsys, "explain", configs["gpt"], "runtime.attention=chunked", "--device", "cpu")
    assert "full batch: chunked" in asked


@pytest.mark.parametrize("name", ["gpt", "bert", "t5"])
def test_check_finds_nothing_wrong(name: str, configs: dict[str, Path], capsys: Capture) -> None:
    out = told(capsys, "check", configs[name], "--device", "cpu", "--tokens", 8)
    assert out.splitlines()[-1].endswith("checks, 0 failed") and "FAIL" not in out
    assert ("an encoder keeps no cache" in out) == (name == "bert")


def test_a_failing_check_ends_with_1(configs: dict[str, Path], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from attnlib.inspect import check

    monkeypatch.setitem(check.BOUNDS, torch.float64, -1.0)
    assert "FAIL" in told(capsys, "check", configs["bert"], "--device", "cpu", "--tokens", 6, "--layers", 1, code=1)


def test_check_of_several_configs_is_a_line_each(
    configs: dict[str, Path], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attnlib.inspect import check

    several = [configs["bert"], "--tokens", 6, configs["gpt"], "model.stack.num_layers=1", "--device", "cpu"]
    monkeypatch.setattr(check, "_backends", lambda *_: iter(()))  # they are checked above
    bert, gpt, total = told(capsys, "check", *several).splitlines()
    assert bert.startswith("ok") and str(configs["bert"]) in bert and "0 failed" in bert
    assert gpt.startswith("ok") and str(configs["gpt"]) in gpt and total == "2 configs, 0 failed"
    out = told(capsys, "check", *several, "no_such_config", code=2)
    assert "FAIL  no_such_config" in out and out.endswith("3 configs, 1 failed\n")
    monkeypatch.setitem(check.BOUNDS, torch.float64, -1.0)
    out = told(capsys, "check", *several, code=1)
    assert out.count("\nFAIL ") + out.startswith("FAIL ") == 2 and "  FAIL  batch = alone" in out


# -- attend -------------------------------------------------------------------------------------------------------


def test_attend_writes_a_page_and_a_picture(runs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    page, picture = tmp_path / "a.html", tmp_path / "a.png"
    told(capsys, "attend", runs["gpt"], "a <b>whale</b>", "--html", page, "--png", picture, "--layers", "1")
    assert picture.read_bytes()[:4] == b"\x89PNG" and "<b>whale</b>" not in page.read_text()
    assert "decoder.1.self" in page.read_text() and "decoder.0.self" not in page.read_text()


def test_attend_generates_the_target_unless_given(runs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    page = tmp_path / "a.html"
    for target in ([], ["--target", "do it"]):
        told(capsys, "attend", runs["t5"], "she sings", "--html", page, "--paths", "*.cross", "--max-new-tokens", 4, *target)
        assert "decoder.0.cross" in page.read_text() and "encoder.0.self" not in page.read_text()
    assert "--target" in refused(capsys, "attend", runs["gpt"], "a", "--html", page, "--target", "b")


def test_attend_says_which_paths_there_are(runs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    argv = ["attend", runs["gpt"], "a whale", "--png", tmp_path / "a.png"]
    assert "decoder.0.self" in refused(capsys, *argv, "--paths", "none*")
    assert "--layers" in refused(capsys, *argv, "--layers", "7")
    assert "no layer" in refused(capsys, *argv, "--layers", "1-x")
    assert "no file is named" in refused(capsys, "attend", runs["gpt"], "a whale")
    assert "is empty" in refused(capsys, "attend", runs["gpt"], "", "--png", tmp_path / "a.png")


def test_attend_sets_two_beside_each_other(runs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    page, first = tmp_path / "a.html", (runs["gpt"], "a whale", "--html", tmp_path / "a.html")
    told(capsys, "attend", *first, "--compare", runs["bert"])
    assert f'"name":"{runs["bert"]}"' in page.read_text()
    told(capsys, "attend", *first, "--compare-text", "a ship", "--max-new-tokens", 2)
    assert '"name":"a ship"' in page.read_text() and '"written":7' in page.read_text()
    assert "wish one of them" in refused(capsys, "attend", *first, "--compare", runs["gpt"], "--compare-text", "b")


def test_attend_takes_explanations_along(runs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    page, first = tmp_path / "a.html", (runs["bert"], "a whale", "--html", tmp_path / "a.html")
    told(capsys, "attend", *first, "--why", "saliency", "--about", "mask:whale")
    assert '"method":"saliency"' in page.read_text()
    page.unlink()
    assert "did you mean 'rollout'" in refused(capsys, "attend", *first, "--why", "rolout", "--about", "mask:whale")
    assert "there is no method" in refused(capsys, "attend", *first, "--about", "mask:whale")
    assert "writes nothing" in refused(capsys, "attend", *first, "--max-new-tokens", 3)
    assert "no token" in refused(capsys, "attend", *first, "--rows", "1-x")
    assert "must lie in 0..6" in refused(capsys, "attend", *first, "--rows", "99")
    assert "out of range" in refused(capsys, "attend", *first, "--exact", "encoder.0.self.9")
    assert not page.exists()


# -- the line itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["generate", "nowhere", "--prompt", "a"], "nowhere: is no folder"),
        (["describe", "gpt2_smal"], "did you mean 'gpt2_small'"),
        (["describe", "gpt2_small", "model.d_modle=3"], "did you mean 'd_model'"),
        (["describe", "gpt2_small", "--tokens", "2000"], "positions end at 1024"),
        (["check", "gpt2_small", "--tokens", "3"], "at least 4"),
        (["train", "gpt2_small"], "missing"),
        (["explain", "no/such"], "no such file"),
    ],
)
def test_bad_input_is_told_and_ends_with_2(
    argv: list[str], words: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert words in err and "Traceback" not in err and out == ""


def test_a_folder_without_a_tokenizer_or_with_a_broken_config_is_told(
    runs: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "config.yaml").write_text("model: [")
    refused(capsys, "generate", tmp_path, "--prompt", "a")
    attnlib.save(attnlib.load(next(runs["gpt"].glob("step-*"))), tmp_path / "bare")
    assert "holds no tokenizer" in refused(capsys, "generate", tmp_path / "bare", "--prompt", "a")


def test_unknown_words_are_refused_in_one_line(capsys: Capture) -> None:
    for argv in (["describe", "gpt2_small", "--nonsense"], ["generate", "x", "--prompt", "a", "b"], [], ["nonsense"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        out, err = capsys.readouterr()
        assert stop.value.code == 2 and out == "" and err.startswith("attnlib") and err.count("\n") == 1
        assert "--help shows what it takes" in err


def test_an_unexpected_error_is_one_line_unless_debugging(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[str]:
        raise RuntimeError("a bug\nwith a second line")

    monkeypatch.setattr("attnlib.config.config_names", broken)
    assert "internal error RuntimeError: a bug, please report" in refused(capsys, "configs")
    monkeypatch.setenv("ATTNLIB_DEBUG", "1")
    assert main(["configs"]) == 2 and "Traceback" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("attnlib.config.config_names", stopped)
    assert "Ctrl-C" in refused(capsys, "configs", code=130)


def test_kinds_of_ones_own_are_imported(configs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    module = tmp_path / "own.py"
    module.write_text(
        "from attnlib import Mask\n"
        "class Even(Mask, kind='even_for_test'):\n"
        "    def visible(self, q, k):\n"
        "        return (k.position <= q.position) & ((q.position - k.position) % 2 == 0)\n"
    )
    argv = ["explain", configs["bert"], "model.stack.block.attention.mask=even_for_test", "--device", "cpu"]
    capsys.readouterr()
    assert "unknown kind" in refused(capsys, *argv)
    assert "    #.#.#......." in told(capsys, *argv, "--import", module)
    module.write_text("1 / 0")
    assert "ZeroDivisionError" in refused(capsys, *argv, "--import", module)
    assert "cannot be read" in refused(capsys, *argv, "--import", tmp_path / "absent.py")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt", "bert", "t5"])
def test_check_finds_nothing_wrong_on_cuda(name: str, dtype: str, configs: dict[str, Path], capsys: Capture) -> None:
    assert "0 failed" in told(capsys, "check", configs[name], "--device", "cuda", "--dtype", dtype, "runtime.device=cuda")


def test_configs_and_schema_are_listed(capsys: Capture) -> None:
    assert "gpt2_small" in told(capsys, "configs")
    assert "causal_lm" in json.dumps(json.loads(told(capsys, "schema")))


@pytest.mark.multiprocess
def test_scripts_run_from_a_checkout_and_a_closed_pipe_is_no_error() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = [sys.executable, str(ROOT / "scripts" / "describe.py"), "gpt2_small", "--tokens", "4"]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False, cwd=ROOT.parent)
    assert done.returncode == 0 and "124,439,808 parameters" in done.stdout and done.stderr == ""
    closed = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert closed.stdout is not None and closed.stderr is not None
    closed.stdout.close()
    assert closed.wait() == 141 and closed.stderr.read() == b""
    closed.stderr.close()


def test_check_takes_of_a_large_model_as_many_layers_as_there_are_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnlib.cli import check
    from attnlib.cli.common import read_model

    pattern = [
        "model.stack.num_layers=9",
        "model.stack.block=null",
        "model.stack.pattern=[a, a, b]",
        "model.stack.blocks={a: {attention: {num_heads: 2, mask: causal}}, b: {attention: {num_heads: 1, mask: causal}}}",
    ]
    small = read_model("tiny/gpt", pattern)
    assert check._fewer(small) == (small, "")
    monkeypatch.setattr(check, "LARGE", 1000)
    cut, note = check._fewer(small)
    assert cut.stack.num_layers == 3 and "3 of 9 layers; --layers 9 checks all" in note  # type: ignore[attr-defined]

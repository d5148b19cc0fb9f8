"""The figures: they are PNG of a sane size, name what is on them, and refuse in one line."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from maps_for_tests import STRANGE, some_maps, some_weights, three_kinds

from attnlib.errors import UsageError
from attnlib.inspect import plot
from attnlib.inspect.maps import AttentionMap
from attnlib.inspect.plot import attention_figure, loss_figure

ROWS = [
    {"step": i, "loss": 5 * math.exp(-i / 9), **({"eval_loss": 5.1 * math.exp(-i / 9)} if i % 5 == 0 else {})}
    for i in range(30)
]


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text of the figures that are saved in the test."""
    pytest.importorskip("matplotlib")
    from matplotlib.text import Text

    seen: list[str] = []
    save = plot.save

    def note(figure: object, path: str | Path, dpi: float, form: str = "png") -> None:
        save(figure, path, dpi, form)  # type: ignore[arg-type]
        seen.extend(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]

    monkeypatch.setattr(plot, "save", note)
    return seen


def size_of(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def test_short_texts_are_named_on_both_axes(tmp_path: Path, words: list[str]) -> None:
    attention_figure(three_kinds(1, 2), tmp_path / "a.png", title="A title of $5 and $6", dpi=50)
    size_of(tmp_path / "a.png")
    assert {
        "A title of $5 and $6",
        "3 attention layers, 2 heads; queries down, keys across",
        "encoder.0.self",
        "decoder.0.cross",
        "head 0",
        "head 1",
        "weight",
    } <= set(words)
    assert words.count("swim") == 2 * 3 * (2 + 1)  # each tick has a text a side; keys at both heads, queries at the first


def test_left_out_heads_are_counted(tmp_path: Path, words: list[str]) -> None:
    attention_figure(some_maps(1, 5), tmp_path / "a.png", max_heads=2, dpi=40)
    assert any("first 2 of 5 heads" in text for text in words)
    assert "head 1" in words and "head 2" not in words


def test_long_texts_and_strange_tokens_are_drawn_without_a_warning(tmp_path: Path, words: list[str]) -> None:
    attention_figure(some_maps(1, 1, [str(i) for i in range(700)]), tmp_path / "long.png", dpi=50)
    attention_figure(some_maps(1, 1, STRANGE), tmp_path / "strange.png", dpi=50)
    assert {"␣the", "$x_1$", "</script>", "∅"} <= set(words)


def test_a_big_grid_stays_a_sane_image(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    attention_figure(some_maps(12, 8, ["w"] * 40), tmp_path / "a.png", dpi=4000)
    wide, high = size_of(tmp_path / "a.png")
    assert wide * high <= plot.PIXELS * 1.01


def test_one_token_and_no_weight_at_all_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    attention_figure([AttentionMap("x", some_weights(1, 1, 1) * 0, ["a"], ["a"])], tmp_path / "a.png")
    size_of(tmp_path / "a.png")


def test_the_loss_curves_are_named_with_their_last_value(tmp_path: Path, words: list[str]) -> None:
    loss_figure(
        [*ROWS, {"step": 3, "loss": math.nan}, {"note": "x"}, {"step": 99, "loss": None}],
        tmp_path / "l.png",
        title="Toy",
    )
    size_of(tmp_path / "l.png")
    assert {"Toy", "step", f"train\n{5 * math.exp(-29 / 9):.3g}", f"held out\n{5.1 * math.exp(-25 / 9):.3g}"} <= set(words)


@pytest.mark.parametrize(
    "rows", [[{"step": 1, "loss": 2.0}], [{"step": 1, "eval_loss": 2.0}], [{"step": 1, "loss": 2.0, "eval_loss": 2.0}]]
)
def test_a_single_point_is_drawn(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    pytest.importorskip("matplotlib")
    loss_figure(rows, tmp_path / "l.png")
    size_of(tmp_path / "l.png")


def test_empty_input_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="attention figure: there are no maps"):
        attention_figure([], tmp_path / "a.png")
    with pytest.raises(UsageError, match="max_heads: is 0"):
        attention_figure(some_maps(), tmp_path / "a.png", max_heads=0)
    with pytest.raises(UsageError, match="none of 1 rows has a step and a finite loss"):
        loss_figure([{"step": 1, "loss": math.inf}], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UsageError, match="cannot be written: no such file or directory"):
        loss_figure(ROWS, tmp_path / "no" / "a.png")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (
        lambda: attention_figure(some_maps(), tmp_path / "a.png"),
        lambda: loss_figure(ROWS, tmp_path / "a.png"),
    ):
        with pytest.raises(UsageError, match=r"matplotlib is not installed, .*pip install 'attnlib\[plots\]'"):
            draw()


def test_no_window_is_chosen_and_matplotlib_is_not_loaded_before_it_is_needed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code = (
        "import sys; from attnlib.inspect import plot; assert 'matplotlib' not in sys.modules;"
        f"plot.loss_figure([{{'step': 1, 'loss': 2.0}}], {str(tmp_path / 'a.png')!r}); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)

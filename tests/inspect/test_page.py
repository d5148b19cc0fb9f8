"""The page: what it carries, what it lets in, and that it writes whole files."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import zlib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from maps_for_tests import STORY, STRANGE, some_maps, some_weights, three_kinds

from attnlib.errors import UsageError
from attnlib.inspect import exhibit as exhibit_module
from attnlib.inspect.maps import AttentionMap, visible
from attnlib.inspect.packing import digest
from attnlib.inspect.page import attention_page, write_attention_page
from attnlib.inspect.tiled import tiles


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    whole: dict[str, Any] = json.loads(found[1])
    return {"title": whole["title"], **whole["exhibits"][0]}


def weights_of(entry: dict[str, Any]) -> np.ndarray[Any, Any]:
    """What the script of the page decodes, said once more."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(entry["data"])), np.uint8)
    if entry["exact"]:
        return raw.reshape(2, -1).T.copy().view("<f2").reshape(entry["shape"])
    peaks = np.array(entry["peaks"])[:, None, None]
    return np.asarray(peaks * (raw.reshape(entry["shape"]) / 255.0) ** 2)


def test_short_texts_carry_their_weights_as_float16_to_the_bit() -> None:
    maps = three_kinds(2, 3)
    for one, entry in zip(maps, data_of(attention_page(maps, title="t"))["maps"], strict=True):
        assert entry["exact"] and entry["steps"] == [1, 1]
        assert np.array_equal(weights_of(entry), one.weights.astype(np.float16))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_of_every_float_width_are_taken(dtype: type) -> None:
    weights = some_weights(2, 3, 5).astype(dtype)
    entry = data_of(attention_page([AttentionMap("x", weights, list("abc"), list("abcde"))], title=""))["maps"][0]
    assert np.array_equal(weights_of(entry), weights.astype(np.float16))


def test_middling_texts_carry_bytes_and_long_ones_means_of_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [str(i) for i in range(67)]
    maps = some_maps(1, 2, tokens)
    monkeypatch.setattr(exhibit_module, "EXACT_CELLS", 2 * 67 * 67 - 1)
    entry = data_of(attention_page(maps, title="t"))["maps"][0]
    assert not entry["exact"] and entry["shape"] == [2, 67, 67]
    assert np.abs(weights_of(entry) - maps[0].weights).max() <= 1 / 255  # half a step of the square root, squared
    monkeypatch.setattr(exhibit_module, "BYTE_CELLS", 2 * 67 * 67 - 1)
    monkeypatch.setattr(exhibit_module, "TILES", 32)
    entry = data_of(attention_page(maps, title="t"))["maps"][0]
    assert entry["steps"] == [3, 3] and entry["shape"] == [2, 23, 23]
    mean = maps[0].weights[1, 3:6, 0:3].mean()
    assert abs(weights_of(entry)[1, 1, 0] - mean) <= entry["peaks"][1] / 255


def test_tiles_are_means_and_the_last_ones_are_smaller() -> None:
    w = np.arange(35, dtype=np.float32).reshape(1, 5, 7)
    small = tiles(w, 2, 3)
    assert small.shape == (1, 3, 3)
    assert small[0, 0, 0] == w[0, :2, :3].mean() and small[0, 2, 2] == w[0, 4, 6]


def test_sixteen_maps_of_64_tokens_take_140_kib_beside_the_page_itself() -> None:
    tokens = (STORY * 3)[:64]
    frame = len(attention_page(some_maps(1, 1, ["a"]), title="t"))
    assert frame < 128 * 1024
    assert len(attention_page(some_maps(4, 4, tokens, stack="encoder"), title="t")) - frame < 140 * 1024
    assert len(attention_page(some_maps(4, 4, tokens), title="t")) - frame < 75 * 1024


def test_eight_thousand_tokens_stay_under_2_mb() -> None:
    weights = np.full((1, 4096, 8192), 1 / 8192, np.float16)
    one = AttentionMap("decoder.0.cross", weights, ["word"] * 4096, ["token"] * 8192)
    assert len(attention_page([one], title="t")) < 2_000_000


def test_nothing_on_the_page_asks_for_anything() -> None:
    text = attention_page(some_maps(), title="t")
    assert "http:" not in text and "https:" not in text and "//cdn" not in text
    live = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    asks = r"\bsrc\b|srcset|\baction=|@import|url\(|fetch\(|XMLHttpRequest|WebSocket|EventSource|import\("
    assert not re.search(asks, live)
    assert re.findall(r'href="([^"]*)"', text) == ["data:,"]
    assert "default-src 'none'" in text and "unsafe" not in text
    assert "innerHTML" not in text and "outerHTML" not in text and "document.write" not in text and "eval(" not in text


def test_the_policy_names_the_style_and_the_script_by_their_hash() -> None:
    text = attention_page(some_maps(), title="t")
    for tag in ("style", "script"):
        inside = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(inside) == 1
        assert f"{tag}-src {digest(inside[0])}" in text


def test_every_script_of_the_page_is_on_it() -> None:
    text = attention_page(some_maps(1, 1), title="t")
    scripts = [one for one in (resources.files("attnlib.inspect") / "web").iterdir() if one.name.endswith(".js")]
    assert len(scripts) > 10 and all(one.read_text(encoding="utf-8") in text for one in scripts)


def test_tokens_and_titles_cannot_break_out() -> None:
    hostile = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>&amp;\"'{{script}}{{data}}"
    maps = some_maps(1, 1, [hostile, "b"])
    text = attention_page(maps, title=hostile)
    assert text.count("<script") == 2 and text.count("</script>") == 2
    assert "<img" not in text and "<!--" not in text.replace("<!doctype", "")
    assert data_of(text)["texts"][0][0] == hostile
    assert data_of(text)["title"] == hostile
    assert text.isascii() or "\ud800" not in text


def test_every_strange_token_is_written_as_utf_8() -> None:
    text = attention_page(some_maps(1, 1, [*STRANGE, "\ud800", "\U000e0041"]), title="\ud83d \x00 title")
    assert text.encode("utf-8")
    assert all(shown.strip() for shown in data_of(text)["texts"][0])


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "␣the"), ("a b", "a b"), ("  ", "␣␣"), ("\n", "↵"),
        ("\t", "⇥"), ("\r", "␍"), ("\x00", "␀"), ("\x7f", "␡"),
        ("", "∅"), ("\u202eevil", "U+202Eevil"), ("\u200b", "U+200B"), ("\ud800", "U+D800"),
        ("\ue000", "U+E000"), ("\u00a0", "⍽"), ("\u2028", "U+2028"), ("\u0301", "◌\u0301"),
        ("é", "é"), ("👩‍👧", "👩‍👧"), ("\u200d", "U+200D"), ("שלום", "שלום"),
        ("🏴\U000e0067\U000e007f", "🏴\U000e0067\U000e007f"),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_is_written_out(token: str, shown: str) -> None:
    assert visible(token) == shown


def test_names_become_groups_of_layers() -> None:
    data = data_of(attention_page(three_kinds(2, 1), title="t"))
    assert [(g["label"], g["maps"]) for g in data["groups"]] == [
        ("Encoder · self-attention", [0, 1]),
        ("Decoder · self-attention", [2, 3]),
        ("Decoder · cross-attention", [4, 5]),
    ]
    assert [entry["layer"] for entry in data["maps"]] == [0, 1, 0, 1, 0, 1]
    assert len(data["texts"]) == 2  # shared by the maps
    odd = AttentionMap("odd", some_weights(1, 1, 1), ["a"], ["a"])
    assert odd.place == ("odd", None)


@pytest.mark.parametrize(
    ("weights", "fact"),
    [
        (np.zeros((2, 3)), "weights are float64 [2, 3]"),
        (np.zeros((1, 2, 3), int), "weights are int64 [1, 2, 3]"),
        (np.zeros((0, 2, 3)), "weights are float64 [0, 2, 3]"),
        (np.zeros((1, 2, 4)), "weights are [1, 2, 4] for 2 query and 3 key tokens"),
        (np.full((1, 2, 3), np.nan), "weights lie in [nan, nan]"),
        (np.full((1, 2, 3), -0.1), "weights lie in [-0.1, -0.1]"),
        (np.full((1, 2, 3), np.inf), "weights lie in [inf, inf]"),
        ([[[0.1]]], "weights are list"),
    ],
)
def test_a_map_that_does_not_fit_its_tokens_is_refused_by_name(weights: Any, fact: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"decoder.3.self: {fact}, wanted")):
        AttentionMap("decoder.3.self", weights, ["a", "b"], ["x", "y", "z"])


def test_no_maps_are_refused() -> None:
    with pytest.raises(UsageError, match="there are no maps"):
        attention_page([], title="t")


def test_a_head_without_any_weight_is_drawn() -> None:
    one = AttentionMap("x", np.zeros((1, 2, 2)), ["a", "b"], ["a", "b"])
    assert data_of(attention_page([one], title="t"))["maps"][0]["peaks"] == [0.0]


def test_the_file_is_whole_and_keeps_link_and_mode(tmp_path: Path) -> None:
    real, link = tmp_path / "real.html", tmp_path / "link.html"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_attention_page(some_maps(1, 1), link, title="t")
    assert link.is_symlink() and real.read_text(encoding="utf-8").endswith("</html>\n")
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.html", "real.html"]


@pytest.mark.parametrize("name", ["missing/page.html", "", "file/page.html", "n" * 300])
def test_a_place_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError) as caught:
        write_attention_page(some_maps(1, 1), tmp_path / name, title="t")
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="cannot be written: no space left on device"):
        write_attention_page(some_maps(1, 1), path, title="t")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_device_is_not_renamed_over() -> None:
    with pytest.raises(UsageError, match="/dev/null: is not a plain file"):
        write_attention_page(some_maps(1, 1), "/dev/null", title="t")

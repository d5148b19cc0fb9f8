"""Finding and reading texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnlib.errors import DataError
from attnlib.text import bundled_data, find_data, read_text


def test_a_file_beside_the_config_wins_over_the_working_directory_and_the_carried_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "configs", tmp_path / "here"
    beside.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    assert find_data("moby_dick.txt", beside) == bundled_data() / "moby_dick.txt"
    (here / "moby_dick.txt").write_text("here")
    assert find_data("moby_dick.txt", beside).read_text() == "here"
    (beside / "moby_dick.txt").write_text("beside")
    (beside / "own.yaml").write_text("")
    assert find_data("moby_dick.txt", beside / "own.yaml").read_text() == "beside"
    assert find_data(here / "moby_dick.txt", beside).read_text() == "here"


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"moby_dik\.txt: does not exist, .*did you mean 'moby_dick\.txt'\?"):
        find_data("moby_dik.txt", tmp_path)
    with pytest.raises(DataError, match="is a folder"):
        find_data(str(tmp_path))


def test_the_carried_texts_are_there_with_their_notice() -> None:
    notice = (bundled_data() / "NOTICE").read_text()
    for name in ("moby_dick.txt", "question_formation.jsonl"):
        assert name in notice
        assert len(read_text(find_data(name))) > 300_000


def test_empty_and_undecodable_files_are_refused_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"empty\.txt: is empty"):
        read_text(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"one\ntwo caf\xe9\n")
    with pytest.raises(DataError, match=r"latin\.txt:2: byte 11 \(0xe9\) is not UTF-8"):
        read_text(tmp_path / "latin.txt")


def test_line_ends_are_kept_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    (tmp_path / "dos.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert read_text(tmp_path / "dos.txt") == "one\r\ntwo\n"

"""A checkpoint folder is the old one or the new one, whole, at every moment; changed bytes are found."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnlib.errors import CheckpointError
from attnlib.pretrained import manifest
from attnlib.pretrained.manifest import MANIFEST, settle, verify, write_folder

PACKAGE = Path(manifest.__file__).parents[1]
ONE = {"config.yaml": b"one\n", "model.safetensors": b"weights one", "deep/er/notes.txt": b""}
TWO = {"config.yaml": b"two\n", "model.safetensors": b"weights two", "trainer.json": b"{}"}


def holds(folder, files):
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    return found == set(files) and all((folder / name).read_bytes() == content for name, content in files.items())


def test_a_folder_is_written_with_a_manifest_of_every_file(tmp_path):
    target = tmp_path / "deep" / "step-1"
    write_folder(target, ONE)
    verify(target)
    assert holds(target, ONE) and os.listdir(target.parent) == ["step-1"]


def test_functions_write_their_own_file(tmp_path):
    write_folder(tmp_path / "x", {"a": lambda path: path.write_text("by hand") and None, "b": b"bytes"})
    verify(tmp_path / "x")
    assert (tmp_path / "x" / "a").read_text() == "by hand"


@pytest.mark.parametrize("exchange", [True, False])
def test_a_checkpoint_is_replaced_and_strangers_in_it_are_kept(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(manifest, "_exchange", lambda one, other: False)
    target = tmp_path / "x"
    write_folder(target, ONE)
    (target / "my notes.txt").write_text("mine")
    write_folder(target, TWO)
    verify(target)
    assert holds(target, {**TWO, "my notes.txt": b"mine"}) and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../x", "a\0", "a//b", ""])
def test_file_names_stay_in_the_folder(tmp_path, name):
    with pytest.raises(CheckpointError, match="plain file name"):
        write_folder(tmp_path / "x", {name: b""})


def test_a_folder_that_is_no_checkpoint_is_never_replaced(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    write_folder(home, ONE)  # empty: fine
    stranger = tmp_path / "photos"
    stranger.mkdir()
    (stranger / "cat.png").write_bytes(b"cat")
    with pytest.raises(CheckpointError, match="something else than a checkpoint"):
        write_folder(stranger, ONE)
    assert os.listdir(stranger) == ["cat.png"]
    with pytest.raises(CheckpointError, match="is a file"):
        write_folder(stranger / "cat.png", ONE)


def test_every_flipped_bit_is_found_by_name(tmp_path):
    write_folder(tmp_path / "x", ONE)
    for name in ("config.yaml", "model.safetensors"):
        path = tmp_path / "x" / name
        whole = path.read_bytes()
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            with pytest.raises(CheckpointError, match=f"{name}: has changed bytes"):
                verify(tmp_path / "x")
        path.write_bytes(whole)
    verify(tmp_path / "x")


def test_missing_shortened_and_added_weights_are_found(tmp_path):
    target = tmp_path / "x"
    write_folder(target, ONE)
    (target / "model.safetensors").write_bytes(b"weights on")
    with pytest.raises(CheckpointError, match="has 10 bytes"):
        verify(target)
    (target / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        verify(target)
    write_folder(target, ONE)
    (target / "model-2.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="not listed"):
        verify(target)
    (target / "model-2.safetensors").unlink()
    (target / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=f"has no {MANIFEST}"):
        verify(target)


DAMAGED = [
    "", "[]", "{}", '{"files": 3}', '{"files": {"a": 3}}', '{"files": {"a": {"sha256": 1}}}', "{" * 9999,
    '{"files": {"../a": {"sha256": "", "bytes": 0}}}', '{"files": NaN}',
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_manifest_is_refused(tmp_path, text):
    write_folder(tmp_path / "x", ONE)
    (tmp_path / "x" / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=MANIFEST):
        verify(tmp_path / "x")


@pytest.mark.parametrize("failing", range(8))
def test_a_full_disk_at_any_file_loses_nothing(tmp_path, monkeypatch, failing):
    target, calls = tmp_path / "x", []
    write_folder(target, ONE)
    sync = manifest.sync

    def full(path):
        calls.append(path)
        if len(calls) == failing + 1:
            raise OSError(28, "No space left on device")
        sync(path)

    monkeypatch.setattr("attnlib.pretrained.files.sync", full)
    monkeypatch.setattr(manifest, "sync", full)
    try:
        write_folder(target, TWO)
    except CheckpointError as error:
        assert "No space left" in str(error) and str(target) in str(error)
        assert holds(target, ONE) or failing == 5  # the last one comes after the exchange
    verify(target)
    assert os.listdir(tmp_path) == ["x"]


def test_a_failing_writer_loses_nothing(tmp_path):
    write_folder(tmp_path / "x", ONE)

    def broken(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "x", {**TWO, "late": broken})
    verify(tmp_path / "x")
    assert holds(tmp_path / "x", ONE) and os.listdir(tmp_path) == ["x"]


def test_a_folder_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="could not be written"):
        write_folder(tmp_path / "file" / "x", ONE)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.geteuid() == 0:  # nothing is closed to root

        def refused(self, *_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(CheckpointError, match="Permission denied"):
        write_folder(closed / "x", ONE)


def test_leftovers_of_killed_writers_are_ignored_then_removed(tmp_path):
    target = tmp_path / "x"
    write_folder(target, ONE)
    for name in ("x.tmp-00000000", "x.old-00000000", "y.tmp-00000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    verify(settle(target))
    write_folder(target, TWO)
    assert sorted(os.listdir(tmp_path)) == ["x", "y.tmp-00000000"]


def test_a_writer_that_lives_keeps_its_temporary(tmp_path):
    target, seen = tmp_path / "x", []

    def other(path):
        mine = path.parent
        write_folder(target, ONE)
        seen.append(mine.is_dir())
        path.write_bytes(b"late")

    write_folder(target, {"a": other})
    assert seen == [True] and holds(target, {"a": b"late"})


def test_a_crash_between_two_renames_is_settled(tmp_path):
    for complete in ("old", "tmp"):
        target = tmp_path / complete
        write_folder(target, ONE)
        os.rename(target, tmp_path / f"{complete}.old-00000000")
        if complete == "tmp":
            write_folder(tmp_path / "other", TWO)
            os.rename(tmp_path / "other", tmp_path / f"{complete}.tmp-00000000")
        else:
            (tmp_path / f"{complete}.tmp-00000000").mkdir()
        assert settle(target).is_dir()
        verify(target)
        assert holds(target, TWO if complete == "tmp" else ONE)


def test_a_target_that_is_a_link_stays_one(tmp_path):
    write_folder(tmp_path / "step-1", ONE)
    (tmp_path / "latest").symlink_to("step-1")
    write_folder(tmp_path / "latest", TWO)
    assert (tmp_path / "latest").is_symlink() and holds(tmp_path / "step-1", TWO)


WRITER = """
import sys, types
for name, path in (("attnlib", sys.argv[2]), ("attnlib.pretrained", sys.argv[2] + "/pretrained")):
    sys.modules[name] = types.ModuleType(name)  # without torch the process is there at once
    sys.modules[name].__path__ = [path]
from attnlib.pretrained.manifest import write_folder
number = 0
while True:
    number += 1
    text = (b"%d" % (number % 10)) * 60_000
    write_folder(sys.argv[1], {f"part-{i}": text for i in range(5)})
    print(number, flush=True)
"""


@pytest.mark.multiprocess
@pytest.mark.parametrize("exchange", [True, False])
def test_kill_9_at_any_moment_leaves_a_complete_folder(tmp_path, exchange):
    target = tmp_path / "x"
    code = WRITER if exchange else WRITER.replace("number = 0", "import attnlib.pretrained.manifest as m\n"
                                                  "m._exchange = lambda one, other: False\nnumber = 0")  # fmt: skip
    for delay in (0.0, 0.003, 0.006, 0.009, 0.014, 0.02):
        with subprocess.Popen([sys.executable, "-c", code, str(target), str(PACKAGE)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        verify(settle(target))
        assert len({(target / f"part-{i}").read_bytes() for i in range(5)}) == 1
    write_folder(target, ONE)
    assert os.listdir(tmp_path) == ["x"]

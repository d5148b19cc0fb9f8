"""The package's own door: what it offers, and what its import leaves alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import attnlib


def test_every_public_name_is_there():
    assert all(getattr(attnlib, name) is not None for name in attnlib.__all__)


def test_every_base_class_of_a_kind_of_ones_own_is_at_the_door():
    words = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").partition("A new kind is one class")[2]
    bases = re.findall(r"`([A-Z]\w+)`", words.partition("\n## ")[0])
    assert {"Mask", "ScoreTerm", "TermSpec", "Normaliser", "MixerSpec", "Backend"} <= {*bases} <= {*attnlib.__all__}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="lode"):
        attnlib.lode  # noqa: B018


@pytest.mark.multiprocess
@pytest.mark.parametrize("before", ["enable", "disable"])
def test_the_import_leaves_the_collector_as_it_was_and_reads_no_checkpoint_code(before):
    code = (
        f"import gc, sys; gc.{before}(); import attnlib; "
        "print(gc.isenabled(), any(name.startswith('attnlib.pretrained') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(before == "enable"), "False"]

"""The package's own door: what it offers, and what its import leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

import attnlib


def test_every_public_name_is_there():
    assert all(getattr(attnlib, name) is not None for name in attnlib.__all__)


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

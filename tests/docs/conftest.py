"""What is on a page or in a notebook runs in the process of the tests, and leaves nothing behind there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new current folder, whose modules can be imported; afterwards modules, search path and pictures are as before.

    A process of its own for each would import the libraries anew: three seconds, more than most examples take.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    before = set(sys.modules)
    with plt.rc_context():
        yield tmp_path
        plt.close("all")
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]

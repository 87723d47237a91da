"""Names that documents of users import keep working, whatever moves inside."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

import moeplace
from moeplace.base.registry import method_names


def test_names_for_own_methods_are_found_in_all_their_places() -> None:
    places = {
        "stopping": ["moeplace.interrupt", "moeplace.base.stop"],
        "MethodInfo": ["moeplace.registry", "moeplace.base.registry"],
        "describe": ["moeplace.registry", "moeplace.base.registry"],
    }
    for name, modules in places.items():
        assert name in moeplace.__all__
        for module in modules:
            assert getattr(importlib.import_module(module), name) is getattr(moeplace, name), (module, name)


def test_methods_are_those_of_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "there"):
        info = tmp_path / name / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[moeplace.methods]\nonly-{name} = os:getcwd\n")
        os.utime(info.parent, ns=(0, len(name) * 10**9))
    for entry in (".", ""):
        monkeypatch.syspath_prepend(entry)
        for name in ("here", "there", "here"):
            monkeypatch.chdir(tmp_path / name)
            assert [method for method in method_names() if method.startswith("only-")] == [f"only-{name}"]

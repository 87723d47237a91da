"""What an installed package must bring: every module, its data, its commands and its entry points."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution, entry_points
from importlib.resources import files
from pathlib import Path

import pytest

import moeplace
import moeplace_models
from moeplace.library import instance_files, set_names
from moeplace.schemas import DOCUMENTS

pytestmark = pytest.mark.wheel


def test_every_module_can_be_imported() -> None:
    found = [
        module.name
        for package in (moeplace, moeplace_models)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not module.name.endswith("__main__")
    ]
    assert len(found) > 100
    for name in found:
        importlib.import_module(name)


def test_the_data_is_there() -> None:
    for package, name in (
        ("moeplace", "py.typed"),
        ("moeplace.scenarios", "architectures.json"),
        ("moeplace.scenarios", "routing.json"),
        ("moeplace.scenarios", "hardware.json"),
        *(("moeplace.report", f"page_files/page.{kind}") for kind in ("css", "html", "js")),
        *(("moeplace.schemas", f"{document}.schema.json") for document in DOCUMENTS),
        ("moeplace_models", "py.typed"),
    ):
        assert files(package).joinpath(name).is_file(), f"{package}: {name}"
    for name in set_names():
        assert instance_files(name), name


def test_entry_points_load() -> None:
    least_of = {
        "moeplace.methods": 13, "moeplace.models": 3, "moeplace.methods.active": 8, "moeplace.models.active": 2,
    }  # fmt: skip
    for group, least in least_of.items():
        found = [entry for entry in entry_points(group=group) if entry.dist and entry.dist.name == "moeplace"]
        assert len(found) >= least, group
        for entry in found:
            assert callable(entry.load()), entry.name


def test_the_command_is_installed() -> None:
    command = Path(sysconfig.get_path("scripts")) / ("moeplace.exe" if sys.platform == "win32" else "moeplace")
    done = subprocess.run([str(command), "--version"], capture_output=True, text=True, check=True)
    assert distribution("moeplace").version in done.stdout

"""What is said before the work about files that cannot be written after it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moeplace.base.errors import InputError, OutputError
from moeplace.base.files import check_writable, write_bytes


def test_what_passes_the_check_can_be_written_and_what_cannot_does_not_pass(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "there.json").write_text("old")
    for name, target in {
        "into_nowhere": "nowhere/x.json", "to_be": "folder/to_be.json", "to_old": "there.json", "circle": "circle",
        "to_folder": "folder", "through": "into_nowhere", "on": "to_be",
    }.items():  # fmt: skip
        (tmp_path / name).symlink_to(target)
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    names = {
        "new.json": True, "there.json": True, "to_be": True, "to_old": True, "on": True, "folder/new.json.gz": True,
        "into_nowhere": False, "through": False, "circle": False, "to_folder": False, "folder": False,
        "nowhere/x": False, "there.json/x": False, "a" * (longest + 1): False, "a" * (longest - 20): True,
        "a" * longest: True, "a" * (longest - 5) + ".json": True, "ä" * (longest // 2): True, "." + "a" * 200: True,
        "ä" * longest: False,
    }  # fmt: skip
    for name, expected in names.items():
        path, checked, written = tmp_path / name, True, True
        try:
            check_writable(path)
        except InputError:
            checked = False
        try:
            write_bytes(path, b"new")
        except OutputError:
            written = False
        assert checked == written, name
        assert checked is expected, name


def test_a_file_in_a_folder_that_may_not_be_written_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "there.json").write_text("old")
    (tmp_path / "link").symlink_to("locked/there.json")
    allowed, locked = os.access, tmp_path / "locked"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and allowed(path, mode))  # also for root
    for name in ("locked/there.json", "locked/new.json", "link"):
        with pytest.raises(InputError, match="permission denied"):
            check_writable(tmp_path / name)
    check_writable(tmp_path / "new.json")
    check_writable(os.devnull)

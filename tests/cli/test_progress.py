"""How far import and report are: said on a terminal, on stderr, nowhere else."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from run_directories import solved_run

from moeplace.cli import main, screen
from moeplace.library import instance_files

MODEL = ["--layers", "2", "--experts", "4", "--top-k", "1", "--expert-bytes", "1000", "--hidden-size", "64"]


class Terminal(io.StringIO):
    """What stderr is where people look at it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what the line says, every time that it is told something."""
    said: list[str] = []

    @contextmanager
    def line(text: Callable[[], str] | None = None) -> Iterator[Callable[[str], None]]:
        yield said.append

    monkeypatch.setattr(screen, "line", line)
    return said


def write_traces() -> None:
    for name, tokens in (("first", 6), ("second", 18)):
        experts = np.arange(tokens * 2).reshape(tokens, 2, 1) % 4
        np.savez(f"{name}.npz", experts=experts, lengths=np.array([tokens]))


def test_a_line_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, expected in ((Terminal(), True), (io.StringIO(), False), (None, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with screen.line() as show:
            show("half\nof it")
        assert (stream is not None and r"half\nof it" in stream.getvalue()) == expected
        assert expected or not stream or stream.getvalue() == ""


def test_import_says_which_share_of_the_rows_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_traces()
    common = [*MODEL, "--stations", "2", "--users", "2", "-o", "i.json"]
    assert main(["import", "first.npz", "second.npz", *common]) == 0, capfd.readouterr()
    assert shown[:2] == [
        f"looking for requests  {n} of 2 files  {name}.npz" for n, name in ((1, "first"), (2, "second"))
    ]
    # 12 of 48 rows are in the first file.
    assert [re.sub("[█░]+ +", "", text) for text in shown[2:]] == ["25 %  12 rows read", "100 %  48 rows read"]
    assert capfd.readouterr().err == ""


def test_import_ends_its_line_before_it_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("token,layer,expert\n0,0,9\n")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["import", "bad.csv", *MODEL, "--stations", "2", "--users", "2", "-o", "i.json"]) == 2
    assert "moeplace import: bad.csv: " in terminal.getvalue().splitlines()[-1]
    assert "Traceback" not in terminal.getvalue()
    assert not Path("i.json").exists()


def test_report_says_which_file_it_is_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = solved_run(tmp_path / "run", instance_files("tiny")[:1], ["popular", "no-cache"])
    capfd.readouterr()
    assert main(["report", str(run), "-o", "out"]) == 0
    assert shown[0] == "reading records"
    shares = [int(text.split(" %")[0].split()[-1]) for text in shown[1:]]
    assert shares == sorted(shares)
    assert (shares[0], len(shares)) == (0, 10)  # four pictures in two forms, two pages
    assert shown[-1].endswith("index.html")
    assert capfd.readouterr().err == ""

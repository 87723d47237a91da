"""Broken files and flags: exit code 2, one line that names the place, nothing on stdout, nothing written."""

# ruff: noqa: E501  (one case a line)

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_documents import DOCUMENT, INSTANCES, SOLUTIONS, WHOLE, changed, put, text

from moeplace.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("good.json").write_bytes(WHOLE)
    return tmp_path


@pytest.fixture
def refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused, in a folder that must stay as it is; return its one line."""

    def run(*args: str, code: int = 2) -> str:
        before = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
        assert main(args) == code
        out, err = capfd.readouterr()
        assert out == ""
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1, err
        assert "Traceback" not in err
        assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} == before
        return err.strip()

    return run


def test_the_unbroken_document_is_accepted(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", "good.json", "--method", "popular", "-o", "out.json"]) == 0
    assert main(["check", "good.json", "out.json"]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("data", "expected"), INSTANCES.values(), ids=INSTANCES.keys())
def test_broken_instance(refused: Callable[..., str], data: bytes, expected: str) -> None:
    Path("bad.json").write_bytes(data)
    line = refused("solve", "bad.json", "--method", "popular", "-o", "out.json")
    assert line.startswith("moeplace solve: bad.json: ")
    assert expected in line


@pytest.mark.parametrize("command", [["info"], ["gap"], ["export", "-o", "x.mps"], ["check", "good.json"]])
def test_every_command_refuses_a_broken_file(refused: Callable[..., str], command: list[str]) -> None:
    Path("bad.json").write_bytes(b"{")
    assert "bad.json: line 1, column 2" in refused(*command, "bad.json")


def test_a_broken_file_name_stays_on_one_line(refused: Callable[..., str]) -> None:
    Path("a\nb\x1b[31m.json").write_bytes(b"{")
    assert r"a\nb\x1b[31m.json: line 1" in refused("info", "a\nb\x1b[31m.json")


def test_broken_best_known(refused: Callable[..., str]) -> None:
    Path("best_known.json").write_text('{"base": {"sha256": 3}}')
    assert 'best_known.json: ["base"].sha256: expected text' in refused("gap", "good.json", "--methods", "popular")


# --- solutions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "expected"), SOLUTIONS.values(), ids=SOLUTIONS.keys())
def test_broken_solution(refused: Callable[..., str], data: Callable[[], bytes], expected: str) -> None:
    Path("bad.json").write_bytes(data())
    for command in (
        ["check", "good.json", "bad.json"],
        ["solve", "good.json", "--start", "bad.json", "-o", "out.json"],
    ):
        line = refused(*command)
        assert line.startswith(f"moeplace {command[0]}: bad.json: ")
        assert expected in line


STARTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "unknown-server": (lambda: changed("placement", 0, "server", "x"), "placement[0].server: the instance has no server 'x'"),
    "unknown-model": (lambda: changed("placement", 0, "model", "x"), "placement[0].model: the instance has no model 'x'"),
    "unknown-expert": (lambda: changed("placement", 0, "experts", 0, [0, 9]), "placement[0].experts[0]: no expert [0, 9]"),
    "pair-twice": (lambda: changed("placement", 0, "experts", [[0, 1], [0, 1]]), "placement[0].experts[1]: [0, 1] is on"),
    "overfull": (
        lambda: changed("placement", 0, "experts", [[0, 0], [0, 1], [0, 2], [0, 3]]),
        "placement: server 's' holds 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), STARTS.values(), ids=STARTS.keys())
def test_start_that_does_not_fit(refused: Callable[..., str], data: Callable[[], bytes], expected: str) -> None:
    Path("start.json").write_bytes(data())
    line = refused("solve", "good.json", "--method", "popular", "--start", "start.json", "-o", "out.json")
    assert line.startswith("moeplace solve: start.json: ")
    assert expected in line


@pytest.mark.parametrize(("data", "expected"), STARTS.values(), ids=STARTS.keys())
def test_the_checker_calls_the_same_wrong(
    folder: Path, capfd: pytest.CaptureFixture[str], data: Callable[[], bytes], expected: str
) -> None:
    Path("wrong.json").write_bytes(data())
    assert main(["check", "good.json", "wrong.json"]) == 1
    out, err = capfd.readouterr()
    assert err == ""
    assert "WRONG" in out


# --- flags -----------------------------------------------------------------------------------------------------

SOLVE = ["solve", "good.json", "--method", "popular", "-o", "out.json"]
GAP = ["gap", "good.json", "--methods", "popular", "--csv", "out.csv"]
EXPORT = ["export", "good.json"]

FLAGS: dict[str, tuple[list[str], str]] = {
    "no-command": ([], "moeplace: Missing command"),
    "unknown-command": (["place"], "moeplace: no command 'place'; there are solve, gap, check"),
    "unknown-option": ([*SOLVE, "--tme-limit", "3"], "moeplace solve: No such option"),
    "unknown-global-option": (["--verbose"], "moeplace: No such option"),
    "no-instance": (["solve"], "moeplace solve: Missing argument 'INSTANCE'"),
    "no-instances": (["gap"], "moeplace gap: Missing argument 'INSTANCE...'"),
    "no-solution": (["check", "good.json"], "moeplace check: Missing argument 'SOLUTION'"),
    "too-many-arguments": (["info", "good.json", "good.json"], "moeplace info: Got unexpected extra argument"),
    "option-without-value": ([*SOLVE, "--seed"], "'--seed' requires an argument"),
    "time-limit-negative": ([*SOLVE, "--time-limit", "-1"], "the time limit must be a number of seconds >= 0, found -1"),
    "time-limit-nan": ([*SOLVE, "--time-limit", "nan"], "the time limit must be a number of seconds >= 0, found nan"),
    "time-limit-inf": ([*SOLVE, "--time-limit", "inf"], "the time limit must be a number of seconds >= 0, found inf"),
    "time-limit-word": ([*SOLVE, "--time-limit", "abc"], "'--time-limit': 'abc' is not a valid float"),
    "time-limit-empty": ([*SOLVE, "--time-limit", ""], "'--time-limit': '' is not a valid float"),
    "gap-two": ([*SOLVE, "--gap", "2"], "the gap must be a fraction from 0 to below 1, found 2"),
    "gap-one": ([*SOLVE, "--gap", "1"], "the gap must be a fraction from 0 to below 1, found 1"),
    "gap-negative": ([*SOLVE, "--gap", "-1"], "the gap must be a fraction from 0 to below 1, found -1"),
    "gap-nan": ([*SOLVE, "--gap", "nan"], "the gap must be a fraction from 0 to below 1, found nan"),
    "gap-percent": ([*SOLVE, "--gap", "1%"], "'--gap': '1%' is not a valid float"),
    "gap-of-a-heuristic": ([*SOLVE, "--gap", "0.1"], "method popular has no parameter 'gap'"),
    "threads-zero": ([*SOLVE, "--threads", "0"], "threads must be at least 1, found 0"),
    "threads-word": ([*SOLVE, "--threads", "all"], "'--threads': 'all' is not a valid integer"),
    "seed-negative": ([*SOLVE, "--seed", "-1"], "the seed must be from 0 to 2147483647, found -1"),
    "seed-large": ([*SOLVE, "--seed", "2147483648"], "the seed must be from 0 to 2147483647, found 2147483648"),
    "seed-float": ([*SOLVE, "--seed", "1.5"], "'--seed': '1.5' is not a valid integer"),
    "method-unknown": (["solve", "good.json", "--method", "best"], "no method 'best'; there are auto"),
    "method-empty": (["solve", "good.json", "--method", ""], "no method ''"),
    "method-no-module": (["solve", "good.json", "--method", "nowhere:f"], "'nowhere:f' cannot be loaded"),
    "method-no-function": (["solve", "good.json", "--method", "json:f"], "'json:f' cannot be loaded"),
    "method-no-colon-part": (["solve", "good.json", "--method", ":"], "':' is not of the form module:function"),
    "method-not-callable": (["solve", "good.json", "--method", "json:__name__"], "'json:__name__' is not a function"),
    "method-broken-module": (["solve", "good.json", "--method", "broken:f"], "'broken:f' cannot be loaded: SyntaxError"),
    "parameter-unknown": ([*SOLVE, "-p", "depth=3"], "method popular has no parameter 'depth'"),
    "parameter-no-value": ([*SOLVE, "-p", "depth"], "expected KEY=VALUE, found 'depth'"),
    "parameter-no-key": ([*SOLVE, "-p", "=3"], "expected KEY=VALUE, found '=3'"),
    "parameter-reserved": ([*SOLVE, "-p", "seed=3"], "seed is no parameter of a method"),
    "parameter-twice": ([*SOLVE, "-p", "a=3", "-p", "a=4"], "the parameter a is given twice"),
    "instance-missing": (["info", "none.json"], "none.json: cannot be read: No such file or directory"),
    "instance-folder": (["info", "."], ".: cannot be read: Is a directory"),
    "instance-under-a-file": (["info", "good.json/x.json"], "good.json/x.json: cannot be read: Not a directory"),
    "instance-name-empty": (["info", ""], "'INSTANCE': the file name is empty"),
    "instance-name-too-long": (["info", "a" * 300], "aaa: cannot be read: File name too long"),
    "solution-missing": (["check", "good.json", "none.json"], "none.json: cannot be read: No such file"),
    "start-missing": ([*SOLVE, "--start", "none.json"], "none.json: cannot be read: No such file"),
    "output-no-folder": ([*SOLVE, "-o", "no/out.json"], "no/out.json: cannot be written: the folder no does not exist"),
    "output-a-folder": ([*SOLVE, "-o", "sub"], "sub: is a folder; a file name was expected"),
    "output-under-a-file": ([*SOLVE, "-o", "good.json/out.json"], "good.json/out.json: cannot be written"),
    "output-empty": ([*SOLVE, "-o", ""], "'-o' / '--output': the file name is empty"),
    "output-too-long": ([*SOLVE, "-o", "a" * 300 + ".json"], "aaa.json: cannot be written: File name too long"),
    "output-is-the-instance": ([*SOLVE, "-o", "good.json"], "good.json: is the instance itself"),
    "output-links-to-the-instance": ([*SOLVE, "-o", "link.json"], "link.json: is the instance itself"),
    "csv-no-folder": ([*GAP, "--csv", "no/out.csv"], "no/out.csv: cannot be written: the folder no does not exist"),
    "csv-is-the-instance": ([*GAP, "--csv", "./good.json"], "./good.json: is the instance itself"),
    "csv-a-folder": ([*GAP, "--csv", "sub"], "sub: is a folder; a file name was expected"),
    "gap-time-limit": ([*GAP, "--time-limit", "-3"], "the time limit must be a number of seconds >= 0, found -3"),
    "gap-methods-empty": (["gap", "good.json", "--methods", ""], "no method ''"),
    "gap-methods-hole": (["gap", "good.json", "--methods", "popular,,random"], "no method ''"),
    "gap-methods-unknown": (["gap", "good.json", "--methods", "popular,best"], "no method 'best'"),
    "gap-parameter-unknown": ([*GAP, "-p", "depth=3"], "none of the methods has a parameter 'depth'"),
    "gap-second-instance-missing": ([*GAP[:2], "none.json", *GAP[2:]], "none.json: cannot be read: No such file"),
    "export-no-output": (EXPORT, "Missing option '-o'"),
    "export-suffix": ([*EXPORT, "-o", "x.txt"], "x.txt: expected a name that ends in .mps or .lp"),
    "export-no-suffix": ([*EXPORT, "-o", "x"], "x: expected a name that ends in .mps or .lp"),
    "export-model-unknown": ([*EXPORT, "--model", "qp", "-o", "x.mps"], "no model 'qp'; there are"),
    "export-model-not-algebraic": ([*EXPORT, "--model", "cpsat", "-o", "x.mps"], "cpsat is not an algebraic model"),
    "export-is-the-instance": ([*EXPORT, "-o", "good.json"], "good.json: is the instance itself"),
    "export-no-folder": ([*EXPORT, "-o", "no/x.mps"], "no/x.mps: cannot be written: the folder no does not exist"),
    "two-bad-flags": ([*SOLVE, "--seed", "-1", "--threads", "x"], "'--threads': 'x' is not a valid integer"),
    "bad-flag-and-bad-file": (["solve", "none.json", "--threads", "0"], "threads must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize(("args", "expected"), FLAGS.values(), ids=FLAGS.keys())
def test_bad_flags(refused: Callable[..., str], args: list[str], expected: str) -> None:
    Path("sub").mkdir()
    Path("link.json").symlink_to("good.json")
    Path("broken.py").write_text("def f(:\n")
    assert expected in refused(*args)


def test_error_lines_of_hostile_keys(refused: Callable[..., str]) -> None:
    """What msgspec says holds the file's own text: a key that reads like a place is still only a key."""
    for key in (" - at `$.x`", " - at `$.name[0]`", "` - at `$.models[9]", "`", ""):
        Path("bad.json").write_bytes(put(key, 1))
        assert f"bad.json: unknown key {json.dumps(key)}" in refused("info", "bad.json"), key
        Path("bad.json").write_bytes(put("models", 0, key, 1))
        assert f"bad.json: models[0]: unknown key {json.dumps(key)}" in refused("info", "bad.json"), key
    for depth in (900, 985):
        Path("bad.json").write_bytes(text('"version": 1', f'"version": {"[" * depth}{"]" * depth}'))
        assert "bad.json: " in refused("info", "bad.json"), depth


def test_sizes_before_memory(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("packed.json.gz").write_bytes(gzip.compress(json.dumps(DOCUMENT).encode()))
    monkeypatch.setattr("moeplace.base.files.MOST_INFLATED", 100)
    assert "packed.json.gz: unpacks to more than 100 bytes" in refused("info", "packed.json.gz")
    monkeypatch.setattr("moeplace.caching.reading.MOST_CELLS", 19)
    assert "servers: 2 servers times 10 experts are 20; at most 19" in refused("info", "good.json")


def test_surrogates_in_every_document(refused: Callable[..., str]) -> None:
    for document in ({"name": "\udfff"}, {"\ud800": 1}, {"deep": [{"x": ["\udc00"]}]}):
        Path("bad.json").write_text(json.dumps(document))
        for command in (["info", "bad.json"], ["check", "good.json", "bad.json"]):
            assert "bad.json: a string holds half of a surrogate pair" in refused(*command), (command, document)


def test_outputs_are_compared_as_files(refused: Callable[..., str]) -> None:
    Path("loop.json").symlink_to("loop.json")
    Path("new.json").symlink_to("a.json")
    Path("p.csv").write_text("latitude,longitude\n1,2\n")
    small = ["generate", "--layers", "1", "--experts", "2", "--top-k", "1", "--expert-bytes", "9"]
    for args, expected in (
        ([*SOLVE[:-1], "a.json", "--certificate", "./a.json"], "a.json: is the file of"),
        ([*SOLVE[:-1], "a.json", "--certificate", "new.json"], "a.json: is the file of"),
        ([*SOLVE[:-1], "./p.csv", "--start", "p.csv"], "p.csv: is the file of --start as well"),
        ([*small, "--station-file", "p.csv", "-o", "./p.csv"], "p.csv: is the file of --station-file as well"),
        ([*SOLVE[:-1], "loop.json"], "loop.json: cannot be written"),
    ):
        assert expected in refused(*args), args


def test_outputs_end_in_what_they_are(refused: Callable[..., str], capfd: pytest.CaptureFixture[str]) -> None:
    document, picture = (
        "expected a name that ends in .json or .json.gz",
        "expected a name that ends in .png, .svg or .pdf",
    )
    small = ["generate", "--layers", "1", "--experts", "2", "--top-k", "1", "--expert-bytes", "9"]
    for args, name, expected in (
        (SOLVE[:-1], "x.txt", document),
        (SOLVE[:-1], "x.gz", document),
        (SOLVE[:-1], "json", document),
        (SOLVE[:-1], ".json", document),
        ([*SOLVE, "--certificate"], "x.proof", document),
        ([*small, "-o"], "x.txt", document),
        (["import", "none.csv", "--model", "olmoe-1b-7b", "-o"], "x.npz", document),
        (["plot", "popularity", "none.json", "-o"], "x.json", picture),
        (["plot", "map", "none.json", "none.json", "-o"], ".svg", picture),
        (["export", "none.json", "-o"], "x.mps.gz", "expected a name that ends in .mps or .lp"),
    ):
        # None of the missing inputs is named: the output is looked at first.
        assert refused(*args, name).endswith(f"{name}: {expected}"), (args, name)
    for name in ("a.json", "b.JSON", "c.json.gz", "d.JSON.GZ"):
        assert main([*SOLVE[:-1], name]) == 0, name
        assert Path(name).read_bytes().startswith(b"\x1f\x8b") == name.lower().endswith(".gz"), name
        assert main(["check", "good.json", name]) == 0, name
    assert capfd.readouterr().err == ""


def test_hostile_suites_networks_and_links(refused: Callable[..., str]) -> None:
    head = 'description = "d"\n[defaults]\nlayers = 1\nusers = '
    for body in (f"{head}1979-05-27\n[[family]]\n", f"{head}{'9' * 5000}\n", f"a = {'[' * 2000}{']' * 2000}\n"):
        Path("s.toml").write_text(body)
        assert "s.toml: " in refused("generate", "--suite", "s.toml", "-o", "made"), body[:60]
    Path("n.graphml.gz").write_bytes(gzip.compress(b"<graphml>" + os.urandom(500))[:-20])
    small = ["generate", "--layers", "1", "--experts", "2", "--top-k", "1", "--expert-bytes", "9", "-o", "x.json"]
    assert "n.graphml.gz: cannot be read: damaged gzip" in refused(*small, "--network", "n.graphml.gz")
    for option in ("fibre-m-per-us", "server-gb-per-s", "cloud-gb-per-s"):
        assert "the links' parameters give a time of" in refused(*small, f"--{option}", "1e-300"), option


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_output_not_permitted(refused: Callable[..., str]) -> None:
    Path("locked").mkdir(mode=0o500)
    assert "locked/out.json: cannot be written: permission denied" in refused(*SOLVE, "-o", "locked/out.json")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["info", "bad.json"], "moeplace info: bad.json: line 1, column 2: not JSON"),
        (["solve", "good.json", "--threads", "0"], "moeplace solve: threads must be at least 1, found 0"),
        (["place"], "moeplace: no command 'place'"),
    ],
    ids=["file", "flag", "command"],
)
def test_as_a_process(folder: Path, args: list[str], expected: str) -> None:
    Path("bad.json").write_bytes(b"{")
    done = subprocess.run([sys.executable, "-m", "moeplace", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(expected)

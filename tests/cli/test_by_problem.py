"""``--as PROBLEM``: another problem's command with its own options; the first problem's stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest

from moeplace import cli
from moeplace.cli import generate, import_
from moeplace.cli.by_problem import ByProblem


@click.command()
@click.argument("files", nargs=-1)
@click.option("--depth", type=int, default=1, help="How deep.")
@click.option("--name")
def other(files: tuple[str, ...], depth: int, name: str | None) -> None:
    """Make an instance of another problem."""
    click.echo(f"{files} {depth} {name}")


Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("moeplace.cli.models.other", other, raising=False)
    for command in (generate.generate, import_.import_):
        assert isinstance(command, ByProblem)
        monkeypatch.setattr(command, "others", {"other": "moeplace.cli.models:other"})

    def call(*args: str, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        assert cli.main(args) == code, capfd.readouterr()
        return capfd.readouterr()

    return call


@pytest.mark.parametrize("command", ["generate", "import"])
def test_another_problem_has_its_own_options(run: Run, command: str) -> None:
    for args in (
        ["--as", "other", "--depth", "3", "--name", "x", "a"],
        ["--depth", "3", "a", "--as=other", "--name", "x"],
        ["a", "--depth", "3", "--name", "x", "--as", "caching", "--as", "other"],
    ):
        assert run(command, *args)[0] == "('a',) 3 x\n", args
    out, _ = run(command, "--as", "other", "--help")
    assert out.startswith(f"Usage: moeplace {command} --as other [OPTIONS] [FILES]...\n")
    assert "--depth" in out
    assert "--stations" not in out
    _, err = run(command, "--as", "other", "--stations", "3", code=2)
    assert "No such option '--stations'" in err
    assert err.endswith(f"(see moeplace {command} --as other --help)\n")
    assert run(command, "--as", "other", "--", "--as", "caching")[0] == "('--as', 'caching') 1 None\n"


@pytest.mark.parametrize("command", ["generate", "import"])
def test_the_first_problem_stays_the_default(run: Run, command: str) -> None:
    out, _ = run(command, "--help")
    assert run(command, "--as", "caching", "--help")[0] == out
    assert "--stations" in out
    assert "--depth" not in out
    _, err = run(command, "--depth", "3", code=2)
    assert "No such option '--depth'" in err
    assert err.endswith(f"(see moeplace {command} --help)\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [(["--as", "chess"], "Invalid value for '--as': 'chess' is not"), (["--as"], "Option '--as' requires an argument")],
)
def test_unknown_problems_are_refused(run: Run, args: list[str], said: str) -> None:
    for command in ("generate", "import"):
        out, err = run(command, *args, code=2)
        assert out == ""
        assert said in err
        assert err.count("\n") == 1


def test_a_generated_instance_of_the_first_problem(run: Run) -> None:
    small = ["--layers", "1", "--experts", "4", "--top-k", "2", "--expert-bytes", "999", "--users", "3"]
    run("generate", *small, "-o", "a.json")
    run("generate", "--as", "caching", *small, "-o", "b.json")
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()

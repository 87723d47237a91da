"""The examples of the documentation: every fenced block of a page, run in the order in which a reader meets them.

A page is one session: its blocks share a folder, its Python blocks share their names. What a block is follows from its
language:

- ``console``: lines that begin with ``$`` are run, what follows each is its output (standard output, then error
  output), in which ``...`` stands for anything. Times, versions of solvers and runs of spaces are not compared.
- ``python``: executed.
- any other language is shown only.

A comment in the line before a block changes that::

    <!-- example: file=toy.json -->               the block is written to a file of this name, not run
    <!-- example: skip="installs a package" -->   not run, and why
    <!-- example: add="--time-limit 2" -->        run with these words added to its commands; the output is not compared
    <!-- example: exit=2 -->                      its last command ends with this code
"""

from __future__ import annotations

import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyomo.environ  # noqa: F401 - its log keeps the standard output of its import, which must not be a test's own

from moeplace.cli import main

RUN = ("console", "python")
SHOWN = ("json", "text", "toml", "csv", "yaml", "{math}", "{eval-rst}", "{toctree}", "{figure}", "{note}", "{tip}")
OPTIONS = ("file", "skip", "add", "exit")

_BLOCK = re.compile(
    r"(?:^<!-- example: (?P<options>[^\n]*?) -->\n+)?^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Example:
    """One fenced block: the page and line it stands at, its language, its text and the options before it."""

    page: Path
    line: int
    language: str
    text: str
    options: dict[str, str]

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def examples(page: Path) -> list[Example]:
    """Return the fenced blocks of a page."""
    whole = page.read_text()
    found = []
    for match in _BLOCK.finditer(whole):
        words = shlex.split(match["options"] or "")
        options = dict(word.split("=", 1) for word in words)
        line = whole.count("\n", 0, match.start("fence")) + 1
        language = match["language"].strip().split(" ")[0]
        found.append(Example(page, line, language, match["text"], options))
    return found


class Session:
    """Runs the examples of one page, in the current folder."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {"__name__": "__page__"}

    def run(self, example: Example) -> None:
        """Run an example; whatever does not happen as it says is an error that names its place."""
        if "skip" in example.options:
            return
        if name := example.options.get("file"):
            Path(name).write_text(example.text)
        elif example.language == "python":
            code = compile("\n" * example.line + example.text, str(example.page), "exec")
            with captured():
                exec(code, self._names)
        elif example.language == "console":
            for i, (command, expected) in enumerate(steps := commands(example)):
                last = i == len(steps) - 1
                self._command(example, command, expected, int(example.options.get("exit", "0")) if last else 0)

    def _command(self, example: Example, command: str, expected: str, code: int) -> None:
        added = example.options.get("add")
        line = f"{command} {added}" if added else command
        words = shlex.split(line)
        if words[0] == "moeplace" and not set(line) & set("|><;&$*"):
            with captured() as (out, err):
                found = main(words[1:])  # in this process: a new one takes a second to begin
            output = out.getvalue() + err.getvalue()
        else:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-c", line], capture_output=True, text=True, env={**os.environ, "PATH": path}, timeout=250
            )
            found, output = done.returncode, done.stdout + done.stderr
        assert found == code, f"{example.place}: {line}: exit code {found}, expected {code}\n{output}"
        if not added and not same(expected, output):
            raise AssertionError(f"{example.place}: {line}: the page shows\n{expected}\nbut the output is\n{output}")


@contextmanager
def captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Keep what is printed."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        yield out, err


def commands(example: Example) -> list[tuple[str, str]]:
    """Return the (command, expected output) pairs of a console example."""
    parts = re.split(r"^\$ ", example.text, flags=re.MULTILINE)
    assert not parts[0].strip(), f"{example.place}: output without a command"
    pairs = []
    for part in parts[1:]:
        lines = part.split("\n")
        last = next(i for i, line in enumerate(lines) if not line.endswith("\\"))
        command = " ".join(line.rstrip("\\").strip() for line in lines[: last + 1])
        pairs.append((command, "\n".join(lines[last + 1 :])))
    return pairs


def same(expected: str, output: str) -> bool:
    """Compare an output with what a page shows of it."""
    return doctest.OutputChecker().check_output(plain(expected), plain(output), doctest.ELLIPSIS)


_VARIABLE = (
    (re.compile(r"\b(CP-SAT|HiGHS) [\d.]*\d"), r"\1 VERSION"),
    (re.compile(r"(after|in) [\d.]+ (ns|µs|ms|s|min)\b"), r"\1 TIME"),
    (re.compile(r"[\d.]+(?= +(optimal|completed|time_limit|gap_limit|iteration_limit|interrupted)$)", re.M), "TIME"),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r" ?\n"), "\n"),
)


def plain(text: str) -> str:
    """Take out of an output what differs between runs: times, versions of solvers, the width of columns."""
    for pattern, replacement in _VARIABLE:
        text = pattern.sub(replacement, text)
    return text.strip() + "\n"

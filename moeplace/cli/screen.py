"""Where people are shown what there is: tables on stdout, progress on stderr."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import click

from moeplace.base.text import duration, gap_percent, one_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from moeplace.base.documents import Named
    from moeplace.base.problem import Table as Said
    from moeplace.base.result import Progress, ProgressCallback
    from moeplace.base.stop import Stop

_PLAIN = str.maketrans({"█": "#", "░": ".", "→": ">", "µ": "u"})


def table(*columns: str, right: str = "") -> Table:
    """Return a table with the given headings; those named in ``right`` hold numbers."""
    from rich.table import Table

    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        justify = "right" if column in right.split(",") else "left"
        result.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return result


def filled(said: Said) -> Table:
    """Return a table of a problem's own."""
    result = table(*said.columns, right=",".join(said.right))
    for row in said.rows:
        result.add_row(*row)
    return result


def facts(rows: list[tuple[str, str]]) -> Table:
    """Return lines of a label and what is to be said under it."""
    from rich.table import Table

    result = Table.grid(padding=(0, 2, 0, 0))
    result.add_column(style="bold", no_wrap=True)
    result.add_column(overflow="fold")
    for label, text in rows:
        result.add_row(label, one_line(text))
    return result


def show(*parts: RenderableType) -> None:
    """Print on stdout: as wide as the terminal there, as wide as it needs and without codes elsewhere."""
    from rich.console import Console

    terminal = sys.stdout is not None and sys.stdout.isatty()
    text = io.StringIO()
    console = Console(
        file=text,
        force_terminal=terminal,
        color_system="auto" if terminal else None,
        width=None if terminal else 1000,
        markup=False,
        emoji=False,
        highlight=False,
    )
    for part in parts:
        console.print(part)
    lines = "\n".join(line.rstrip() for line in text.getvalue().splitlines())
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        lines.encode(encoding)
    except UnicodeEncodeError:
        lines = lines.translate(_PLAIN)
    click.echo(lines)


def note(text: str) -> None:
    """Say on stderr, in one line, what was guessed, not read or left out."""
    click.echo(f"note: {one_line(text)}", err=True)


def aside(text: str) -> None:
    """Say on stderr, to whoever sits at a terminal, what takes its time now."""
    if sys.stderr is not None and sys.stderr.isatty():
        click.echo(f"{one_line(text)} ...", err=True)


def warn_of(instance: Named) -> None:
    """Say on stderr what a person should know of an instance itself, a line each."""
    from moeplace.problems import problem_of

    for remark in problem_of(instance).remarks(instance).values():
        click.echo(f"warning: {one_line(remark)}", err=True)


@contextmanager
def solver_log(method: str) -> Iterator[None]:
    """Show on stderr, in the place of progress, what HiGHS and CP-SAT say; say so where a method asks neither."""
    from moeplace.solvers.log import listening

    said = [False]

    def show(text: str) -> None:
        said[0] = True
        click.echo(text, err=True, nl=False)

    with listening(show):
        yield
    if not said[0]:
        note(f"{method} has no log of its own: it asked neither HiGHS nor CP-SAT")


def progress_line(label: str, tokens: int, stop: Stop) -> AbstractContextManager[ProgressCallback | None]:
    """Do what :func:`progress` does for a caching instance of so many tokens."""
    return progress(label, lambda ns: f"{duration(ns / max(tokens, 1))} per token", stop)


@contextmanager
def progress(
    label: str, amount: Callable[[int], str], stop: Stop, time_limit: float | None = None
) -> Iterator[ProgressCallback | None]:
    """Show on stderr, while a method runs, how far it is; yield what to tell it, None without a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    latest: list[Progress] = []
    began = time.monotonic()

    class Line:
        def __rich__(self) -> Text:
            passed = time.monotonic() - began
            text = f"{one_line(label)}  {passed:.0f} s"
            if time_limit is not None:
                text += f" of {time_limit:g} s" if passed <= time_limit else f", limit {time_limit:g} s passed"
            if latest:
                text += _progress_text(latest[-1], amount)
            if stop.interrupted:
                text += "  stopping (once more to give up)"
            return Text(text, no_wrap=True, overflow="ellipsis")

    def update(progress: Progress) -> None:
        latest[:] = [progress]

    with Live(Line(), console=Console(stderr=True), refresh_per_second=4, transient=True):
        yield update


@contextmanager
def line(text: Callable[[], str] | None = None) -> Iterator[Callable[[str], None]]:
    """Keep one line on stderr, where that is a terminal, while something goes on; yield what it is to say."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda said: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    shown = [""]

    class Line:
        def __rich__(self) -> Text:
            return Text(one_line(text() if text else shown[-1]), no_wrap=True, overflow="ellipsis")

    def show(said: str) -> None:
        shown[0] = said

    with Live(Line(), console=Console(stderr=True), refresh_per_second=4, transient=True):
        yield show


def _progress_text(progress: Progress, amount: Callable[[int], str]) -> str:
    from moeplace.base.result import relative_gap

    latency, bound = progress.latency_ns, progress.bound_ns
    text = ""
    if latency is not None:
        text += f"  {amount(latency)}"
    if bound is not None:
        text += f"  bound {amount(bound).removesuffix(' per token')}"
    if latency is not None and bound is not None and bound <= latency:
        text += f"  gap {gap_percent(relative_gap(latency, bound))}"
    if progress.share is not None:
        text += f"  {progress.share:.0%} done"
    return text

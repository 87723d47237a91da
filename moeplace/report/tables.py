"""Tables of a report: what each column shows, as Markdown and as CSV with every digit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from moeplace.base.text import NOTHING, as_csv, gap_percent, one_line
from moeplace.base.text import markdown as escaped
from moeplace.report.statistics import Interval, Pair, Summary

_Line = TypeVar("_Line")


@dataclass(frozen=True)
class Column(Generic[_Line]):
    """One column of a table.

    Attributes
    ----------
    heading, meaning : str
        What stands above it, and what it says in a few words.
    value : callable
        What of a line (a :class:`Summary`, a :class:`Pair`) it sorts by; None is not known.
    show : callable
        The value as text.
    """

    heading: str
    meaning: str
    value: Callable[[_Line], Any]
    show: Callable[[Any], str]


def _count(value: int) -> str:
    return f"{value:,}"


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def _interval(value: Interval | None) -> str:
    """Show an interval, rounded outwards."""
    if value is None:
        return NOTHING
    low = math.floor(round(value.low * 1e5, 6)) / 1e3
    shown = f"{low:.3f}" if low else "0"
    return f"{shown} to {gap_percent(value.high)}"


def failures_text(failures: Mapping[str, int]) -> str:
    """Show the runs that gave no placement.

    Examples
    --------
    >>> failures_text({"crashed": 1, "timeout": 2}), failures_text({})
    ('1 crashed, 2 timeout', '-')
    """
    return ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in failures.items()) or NOTHING


COLUMNS: list[Column[Summary]] = [
    Column("method", "", lambda s: s.method, one_line),
    Column("runs", "instances times seeds", lambda s: s.runs, _count),
    Column("solved", "gave a placement that the checker accepts", lambda s: s.solved, _count),
    Column("proven", "proved its own placement optimal", lambda s: s.proven, _count),
    Column("optimal", "cost equals a bound that any method proved", lambda s: s.optimal, _count),
    Column("bounded", "solved runs with a proven bound, which the gaps are over", lambda s: s.bounded, _count),
    Column("gap mean", "to the best bound of all methods", lambda s: s.gap_mean, gap_percent),
    Column("gap median", "median gap", lambda s: s.gap_median, gap_percent),
    Column("gap max", "largest gap", lambda s: s.gap_max, gap_percent),
    Column("excess mean", "over the best known cost", lambda s: s.excess_mean, gap_percent),
    Column("excess median", "median excess", lambda s: s.excess_median, gap_percent),
    Column("excess max", "largest excess", lambda s: s.excess_max, gap_percent),
    Column("excess 95 %", "where the mean lies, as far as seeds matter", lambda s: s.excess_interval, _interval),
    Column("time s", "shifted geometric mean, shift 1 s; a failure counts as the limit", lambda s: s.time_s, _seconds),
    Column("primal integral", "mean primal gap over the time limit", lambda s: s.primal_integral, _share),
    Column("failures", "runs without a placement", lambda s: sum(s.failures.values()), str),
]  # fmt: skip
"""The summary table's columns."""


def cells(summary: Summary) -> list[str]:
    """Return a summary as the texts of its row."""
    shown = [column.show(column.value(summary)) for column in COLUMNS[:-1]]
    return [*shown, failures_text(summary.failures)]


def markdown(summaries: Sequence[Summary]) -> str:
    """Return the Markdown table of one set."""
    numbers = ["---:"] * len(COLUMNS[1:-1])
    return _table(COLUMNS, ["---", *numbers, "---"], map(cells, summaries))


def _table(columns: Sequence[Column[Any]], rule: list[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [[column.heading for column in columns], rule, *([escaped(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


PAIR_COLUMNS: list[Column[Pair]] = [
    Column("method", "", lambda p: p.method, one_line),
    Column("against", "", lambda p: p.other, one_line),
    Column("instances", "on which both were run", lambda p: p.instances, _count),
    Column("wins", "lower median cost over seeds", lambda p: p.wins, _count),
    Column("ties", "exactly the same", lambda p: p.ties, _count),
    Column("losses", "higher, or no placement", lambda p: p.losses, _count),
    Column(
        "p", "Wilcoxon's signed-rank test, two-sided", lambda p: p.p, lambda p: NOTHING if p is None else f"{p:.2g}"
    ),
]
"""The columns of the table of pairs."""


def pair_cells(pair: Pair) -> list[str]:
    """Return a pair of methods as the texts of its row."""
    return [column.show(column.value(pair)) for column in PAIR_COLUMNS]


def pairs_markdown(pairs: Sequence[Pair]) -> str:
    """Return the Markdown table of the pairs of one set."""
    return _table(PAIR_COLUMNS, ["---", "---", *["---:"] * (len(PAIR_COLUMNS) - 2)], map(pair_cells, pairs))


PAIR_FIELDS = ["set", "method", "other", "instances", "wins", "ties", "losses", "p"]


def pairs_csv(pairs: Iterable[Pair]) -> bytes:
    """Return all pairs as CSV; a p-value that says nothing is empty."""
    fields = PAIR_FIELDS[1:]
    return as_csv(PAIR_FIELDS, [{"set": p.set_name} | {name: getattr(p, name) for name in fields} for p in pairs])


SUMMARY_FIELDS = [
    "set", "method", "runs", "solved", "proven", "optimal", "bounded", "gap_mean", "gap_median", "gap_max",
    "excess_mean", "excess_median", "excess_max", "excess_low", "excess_high", "time_s", "primal_integral", "failures",
]  # fmt: skip


def summary_csv(summaries: Iterable[Summary]) -> bytes:
    """Return all summaries as CSV; what is not known is empty, failures are ``status:count`` joined by semicolons."""
    rows = []
    for summary in summaries:
        row = {name: getattr(summary, name) for name in SUMMARY_FIELDS if hasattr(summary, name)}
        row["set"] = summary.set_name
        row["excess_low"], row["excess_high"] = summary.excess_interval or (None, None)
        row["failures"] = ";".join(f"{status}:{n}" for status, n in summary.failures.items())
        rows.append(row)
    return as_csv(SUMMARY_FIELDS, rows)

"""Tables of a report: what each column shows, as Markdown and as CSV with every digit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moeplace.base.text import NOTHING, as_csv, gap_percent, one_line
from moeplace.base.text import markdown as escaped
from moeplace.report.statistics import Summary


@dataclass(frozen=True)
class Column:
    """One column of the summary table.

    Attributes
    ----------
    heading, meaning : str
        What stands above it, and what it says in a few words.
    value : callable
        What of a :class:`Summary` it sorts by; None is not known.
    show : callable
        The value as text.
    """

    heading: str
    meaning: str
    value: Callable[[Summary], Any]
    show: Callable[[Any], str]


def _count(value: int) -> str:
    return f"{value:,}"


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def failures_text(failures: Mapping[str, int]) -> str:
    """Show the runs that gave no placement.

    Examples
    --------
    >>> failures_text({"crashed": 1, "timeout": 2}), failures_text({})
    ('1 crashed, 2 timeout', '-')
    """
    return ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in failures.items()) or NOTHING


COLUMNS = [
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
    lines = [
        [column.heading for column in COLUMNS],
        ["---", *numbers, "---"],
        *([escaped(cell) for cell in cells(summary)] for summary in summaries),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


SUMMARY_FIELDS = [
    "set", "method", "runs", "solved", "proven", "optimal", "bounded", "gap_mean", "gap_median", "gap_max",
    "excess_mean", "excess_median", "excess_max", "time_s", "primal_integral", "failures",
]  # fmt: skip


def summary_csv(summaries: Iterable[Summary]) -> bytes:
    """Return all summaries as CSV; what is not known is empty, failures are ``status:count`` joined by semicolons."""
    rows = []
    for summary in summaries:
        row = {name: getattr(summary, name) for name in SUMMARY_FIELDS if name not in ("set", "failures")}
        row["set"] = summary.set_name
        row["failures"] = ";".join(f"{status}:{n}" for status, n in summary.failures.items())
        rows.append(row)
    return as_csv(SUMMARY_FIELDS, rows)

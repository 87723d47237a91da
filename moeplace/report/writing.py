"""Writing a report: everything is made first, then the files appear one after the other, each whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from moeplace.base import style
from moeplace.base.errors import OutputError
from moeplace.base.files import write_bytes
from moeplace.base.text import as_csv, number
from moeplace.base.text import markdown as escaped
from moeplace.report import pictures, tables
from moeplace.report.collect import Collection
from moeplace.report.page import definitions, render, set_facts
from moeplace.report.placements import choose
from moeplace.report.statistics import TARGET

TITLE = "Placement methods compared"
PAGE, MARKDOWN, SUMMARY, RUNS = "index.html", "index.md", "summary.csv", "runs.csv"
PAIRS = "pairs.csv"
PICTURES = {
    "performance": "Performance profiles on the time to come near the best known cost",
    "quality": "Excess over the best known cost",
    "gap_over_time": "Gap against time, median over runs (with quartiles where there are few methods)",
    "gap_over_size": "Gap against size, median over seeds",
}
RUN_FIELDS = [
    "set", "instance", "sha256", "method", "seed", "threads", "time_limit", "status", "termination", "latency_ns",
    "baseline_ns", "bound_ns", "bound_source", "best_ns", "best_by", "best_bound_ns", "best_bound_by", "gap", "excess",
    "primal_integral", "wall_s", "process_s", "cpu_s", "peak_bytes", "servers", "items", "rows", "tokens", "key",
    "message",
]  # fmt: skip
"""Columns of runs.csv; times of costs are token-ns, what is not known is empty."""


Tell: TypeAlias = Callable[[float, str], None]


def _nobody(share: float, name: str) -> None:
    """Tell nobody how far a report is."""


def write_report(
    collection: Collection,
    folder: str | os.PathLike[str],
    *,
    title: str = TITLE,
    introduction: str = "",
    target: float = TARGET,
    placements: int = 12,
    page: bool = True,
    tell: Tell = _nobody,
) -> list[Path]:
    """Write tables, pictures and the page of some runs.

    Parameters
    ----------
    collection : Collection
    folder : path-like
        Made where it is missing; files of an earlier report in it are replaced.
    title, introduction : str
        Heading of page and Markdown; the introduction, in Markdown, stands under its heading.
    target : float
        The performance profiles count the time to come within this share of the best known cost.
    placements : int
        Instances in the page's placement view.
    page : bool
        Whether to write the HTML page.
    tell : callable
        Told, before each file is made, which share of them is, and the file's name.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    contents = documents(
        collection, title=title, introduction=introduction, target=target, placements=placements, page=page, tell=tell
    )
    target_folder = Path(folder)
    try:
        (target_folder / "pictures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    for name, data in contents.items():
        write_bytes(target_folder / name, data)
    return [target_folder / name for name in contents]


def documents(
    collection: Collection,
    *,
    title: str,
    introduction: str,
    target: float,
    placements: int,
    page: bool,
    tell: Tell = _nobody,
) -> dict[str, bytes]:
    """Return every file of a report by its name in the folder; the parameters are those of :func:`write_report`."""
    looks = style.looks(collection.methods)
    kinds = ("png", "svg")
    made, total = 0, len(PICTURES) * len(kinds) + 1 + page

    def begin(name: str) -> None:
        nonlocal made
        tell(made / total, name)
        made += 1

    contents = {
        SUMMARY: tables.summary_csv(s for summaries in collection.summaries().values() for s in summaries),
        PAIRS: tables.pairs_csv(pair for pairs in collection.pairs().values() for pair in pairs),
        RUNS: runs_csv(collection),
    }
    trials = collection.trials
    with style.drawing():
        figures = {
            "performance": pictures.performance(trials, looks, target),
            "quality": pictures.quality(trials, looks),
            "gap_over_time": pictures.over_time(trials, looks),
            "gap_over_size": pictures.over_size(trials, looks),
        }
        for name, figure in figures.items():
            for kind in kinds:
                begin(f"pictures/{name}.{kind}")
                contents[f"pictures/{name}.{kind}"] = style.rendered(figure, kind)
    begin(MARKDOWN)
    contents[MARKDOWN] = markdown(collection, title, introduction, target).encode("utf-8", "backslashreplace")
    if page:
        begin(PAGE)
        contents[PAGE] = render(collection, title, facts(collection), looks, choose(collection, placements), target)
    return contents


def facts(collection: Collection) -> list[str]:
    """Return what was run, in a few phrases."""
    limits = sorted({entry.record.time_limit for entry in collection.entries})
    threads = sorted({entry.record.threads for entry in collection.entries})
    machines = dict.fromkeys(f"{d.run.environment.cpu}, {d.run.environment.cores} cores" for d in collection.runs)
    return [
        number(len(collection.entries), "run"),
        number(len(collection.instances), "instance"),
        number(len(collection.methods), "method"),
        f"time limit {' and '.join(f'{limit:g}' for limit in limits)} s",
        f"{' and '.join(map(str, threads))} {'thread' if threads == [1] else 'threads'}",
        "; ".join(machines),
        "begun " + min(data.run.environment.started for data in collection.runs)[:10],
    ]


def markdown(collection: Collection, title: str, introduction: str, target: float) -> str:
    """Return the report as Markdown, with links to its pictures."""
    parts = [f"# {escaped(title)}", " · ".join(escaped(fact) for fact in facts(collection))]
    if introduction:
        parts.append(introduction.strip())
    if collection.contradictions:
        lines = "\n".join(f"- {escaped(line)}" for line in collection.contradictions)
        parts.append(f"**Bounds that are false** (a checked cost is below each; none counts):\n\n{lines}")
    if collection.notes:
        parts.append("\n".join(f"- {escaped(note)}" for note in collection.notes))
    pairs = collection.pairs()
    for name, summaries in collection.summaries().items():
        parts.append(f"## {escaped(name)}")
        parts.append(escaped(set_facts(collection, name)) + ".")
        parts.append(tables.markdown(summaries).rstrip())
        if pairs[name]:
            parts.append("Methods in pairs:")
            parts.append(tables.pairs_markdown(pairs[name]).rstrip())
    parts.append("## Pictures")
    parts += [f"{caption}:\n\n![{caption}](pictures/{name}.svg)" for name, caption in PICTURES.items()]
    parts.append("## How to read this")
    parts.append("\n".join(f"- **{term}**: {meaning}" for term, meaning in definitions(target)))
    return "\n\n".join(parts) + "\n"


def runs_csv(collection: Collection) -> bytes:
    """Return every run with every digit as CSV."""
    rows = []
    for entry in collection.entries:
        record, trial, problem = entry.record, entry.trial, entry.trial.problem
        row = {name: getattr(record, name, None) for name in RUN_FIELDS}
        row |= {name: getattr(problem, name) for name in ("best_ns", "best_by", "servers", "items", "rows", "tokens")}
        row |= {
            "method": trial.method,
            "best_bound_ns": problem.bound_ns,
            "best_bound_by": problem.bound_by,
            "gap": trial.gap,
            "excess": trial.excess,
            "primal_integral": trial.primal_integral,
        }
        rows.append(row)
    return as_csv(RUN_FIELDS, rows)

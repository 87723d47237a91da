"""The report as one HTML page that opens without a network: Bokeh's script, the charts and the data are inside."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from bokeh.document import Document
from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from moeplace.base import style
from moeplace.base.style import Look
from moeplace.base.text import NOTHING, duration, gap_percent, number, one_line, size
from moeplace.report import tables
from moeplace.report.charts import Charts
from moeplace.report.collect import Collection, Entry
from moeplace.report.pictures import MOST_BANDS
from moeplace.report.placements import Placements
from moeplace.report.statistics import FEWEST, SHIFT_S, SHORTEST_S, Interval, Pair, Summary, pooled


class Cell(NamedTuple):
    """A table cell: its text, what it sorts by (None: the text, empty: not known), and how it looks."""

    text: str
    sort: float | str | None = None
    first: bool = False
    sample: Markup = Markup()


FIRST_OF_GROUP = (6, 9, 13)
"""Columns of the summary table that begin a group."""

RUN_COLUMNS = [
    "set", "instance", "method", "seed", "status", "ended", "latency", "gap", "excess", "own bound", "time s", "CPU s",
    "peak memory", "message",
]  # fmt: skip


def render(
    collection: Collection,
    title: str,
    facts: Sequence[str],
    looks: dict[str, Look],
    placements: Placements,
    target: float,
) -> bytes:
    """Return the page.

    Parameters
    ----------
    collection : Collection
    title : str
    facts : sequence of str
        What stands under the title.
    looks : dict of method to Look
    placements : Placements
        What the placement view shows.
    target : float
        Of the performance profiles.
    """
    charts = Charts(looks)
    pairs = collection.pairs()
    by_set = pooled(collection.trials, lambda trial: trial.problem.set_name)
    sets: list[dict[str, Any]] = []
    for i, (name, summaries) in enumerate(collection.summaries().items()):
        trials = by_set.get(name, [])
        places = {
            f"performance-{i}": f"Time to within {100 * target:g} % of the best known",
            f"quality-{i}": "Excess over the best known",
            f"time-{i}": "Gap against time",
        }
        charts.performance(f"performance-{i}", trials, target)
        charts.quality(f"quality-{i}", trials)
        charts.over_time(f"time-{i}", trials)
        sets.append(
            {
                "name": name,
                "facts": set_facts(collection, name),
                "rows": [_row(summary, looks) for summary in summaries],
                "pairs": [_pair(pair) for pair in pairs[name]],
                "places": places,
            }
        )
    charts.over_size("size", collection.trials)
    if placements.instances:
        charts.placement("map", "cache", "users")
    document = Document()
    with document.models.freeze():  # else Bokeh collects all models anew with every chart
        for figure in charts.figures.values():
            document.add_root(figure)
    script, divs = components(charts.figures)
    for entry in sets:
        places = entry.pop("places")
        entry["charts"] = [{"title": text, "div": Markup(divs[place])} for place, text in places.items()]
    view = {place: Markup(divs[place]) for place in ("map", "cache", "users") if place in divs}
    # Bokeh's own file, from its package; "error": charts that the page's script fills later are nothing to warn of.
    library = Resources(mode="inline", components=["bokeh"], minified=True, log_level="error").render_js()
    resources = files("moeplace.report") / "page_files"
    text = {name: (resources / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(text["page.html"]).render(
        title=title,
        css=Markup(text["page.css"]),
        js=Markup(text["page.js"]),
        library=Markup(library),
        script=Markup(script),
        data=_embedded({"glyphs": list(charts.glyphs.values()), "instances": placements.instances}),
        facts=facts,
        notes=collection.notes,
        contradictions=collection.contradictions,
        methods=[{"name": one_line(method), "sample": sample(look)} for method, look in looks.items()],
        columns=_columns(),
        pair_columns=tables.PAIR_COLUMNS,
        sets=sets,
        size_chart=Markup(divs["size"]),
        view=view | {"facts": placements.facts} if view else None,
        definitions=definitions(target),
        run_columns=RUN_COLUMNS,
        runs=[_run(entry) for entry in collection.entries],
        environments=[_environment(data.run.environment) for data in collection.runs],
    )
    return page.encode("utf-8", "backslashreplace")


def definitions(target: float) -> list[tuple[str, str]]:
    """Return every statistic with what it is, in a sentence or two."""
    return [
        (
            "solved, proven, optimal",
            "Runs with a placement that the checker accepts; those that proved it optimal themselves; those whose cost "
            "equals a bound that any method proved.",
        ),
        (
            "gap",
            "(C - bound) / C with the cost C and the best lower bound that any method or best_known.json proved. "
            "Runs on instances without a bound have none (-). Rounded up.",
        ),
        (
            "excess",
            "(C - best) / best with the lowest cost of these runs and best_known.json. Rounded up.",
        ),
        (
            "excess 95 %",
            "Where the mean excess lies with 95 % confidence as far as it depends on the seed (percentile bootstrap "
            f"over seeds): nothing (-) below {FEWEST} seeds, where they ran on different instances, or where a run has "
            "no placement. It says nothing of other instances.",
        ),
        (
            "wins, ties, losses",
            "Instances on which the first method's median cost over seeds is lower than the other's, the same, higher. "
            "A run without a placement is worse than any cost.",
        ),
        (
            "p",
            "Wilcoxon's signed-rank test on the differences over instances, as shares of the best known cost, "
            "two-sided: how likely so lopsided differences are if neither method is better. Ties are left out; nothing "
            f"(-) with fewer than {FEWEST} differences. Among many pairs some are small by chance.",
        ),
        (
            "time",
            f"Geometric mean of seconds, shifted by {SHIFT_S:g} s. A run that failed counts with its time limit.",
        ),
        (
            "primal integral",
            "Mean over the time limit of the primal gap to the best known cost, 1 before the first placement "
            "(Berthold 2013, divided by the limit): 0 is the best known at once, 1 is no placement in time.",
        ),
        (
            "performance profile",
            f"Share of runs that came within {100 * target:g} % of the best known cost in at most so many times the "
            "time of the fastest method (Dolan and Moré 2002); "
            f"times below {1000 * SHORTEST_S:g} ms count as that.",
        ),
        (
            "gap against time",
            "Median over runs of the gap of the best placement so far; 100 % before the first one, and for runs that "
            f"failed. The band, with at most {MOST_BANDS} methods, is from the first to the third quartile.",
        ),
    ]


def set_facts(collection: Collection, name: str) -> str:
    """Say what a set is: its instances, how many are proven, and their sizes."""
    problems = [problem for problem in collection.problems if problem.set_name == name]
    proven = sum(p.bound_ns is not None and p.bound_ns == p.best_ns for p in problems)
    bounded = sum(p.bound_ns is not None for p in problems)
    parts = [number(len(problems), "instance"), f"{bounded} with a proven bound, {proven} with a proven optimum"]
    if sizes := [p.variables for p in problems if p.variables is not None]:
        between = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
        parts.append(f"{between} placement variables")
    return ", ".join(parts)


def sample(look: Look) -> Markup:
    """Return a small picture of a method's line and marker."""
    dash = style.BOKEH_DASHES[look.dash]
    dashes = f' stroke-dasharray="{" ".join(map(str, dash))}"' if dash else ""
    return Markup(
        '<svg class="sample" viewBox="0 0 34 14" aria-hidden="true">'
        f'<path d="M1 7H33" stroke="{look.color}" stroke-width="2"{dashes}/>'
        f'<path d="{_SHAPES[look.marker]}" fill="{look.color}" stroke="{look.color}"/></svg>'
    )


_SHAPES = [
    "M17 3a4 4 0 1 0 .01 0z",
    "M13.5 3.5h7v7h-7z",
    "M17 2.5l4.3 8h-8.6z",
    "M17 2l4 5l-4 5l-4 -5z",
    "M17 11.5l4.3 -8h-8.6z",
    "M17 2.5v9M12.5 7h9",
    "M13.5 3.5l7 7M20.5 3.5l-7 7",
    "M17 2l1.3 3.4h3.6l-2.9 2.2l1.1 3.5l-3.1 -2.1l-3.1 2.1l1.1 -3.5l-2.9 -2.2h3.6z",
    "M14.8 3h4.4l2.2 4l-2.2 4h-4.4l-2.2 -4z",
    "M17 3v8M13 7h8",
]


def _columns() -> list[dict[str, Any]]:
    return [
        {
            "short": re.sub("^(gap|excess) ", "", column.heading),  # which of the two stands above
            "meaning": column.meaning,
            "first": i in FIRST_OF_GROUP,
        }
        for i, column in enumerate(tables.COLUMNS)
    ]


def _row(summary: Summary, looks: dict[str, Look]) -> list[Cell]:
    result = []
    for i, (column, text) in enumerate(zip(tables.COLUMNS, tables.cells(summary), strict=True)):
        value = column.value(summary)
        if isinstance(value, Interval):
            value = value.high
        sort = None if isinstance(value, str) else _sort(value)
        result.append(Cell(text, sort, i in FIRST_OF_GROUP, sample(looks[summary.method]) if i == 0 else Markup()))
    return result


def _pair(pair: Pair) -> list[Cell]:
    values = [column.value(pair) for column in tables.PAIR_COLUMNS]
    return [
        Cell(text, None if isinstance(value, str) else _sort(value))
        for text, value in zip(tables.pair_cells(pair), values, strict=True)
    ]


def _sort(value: float | None) -> float | str:
    return "" if value is None else value


def _run(entry: Entry) -> list[Cell]:
    record, trial = entry.record, entry.trial
    tokens = trial.problem.tokens or 1

    def per_token(ns: int | None) -> str:
        if trial.problem.tokens is None:  # of another problem than caching: a number without a time's unit
            return NOTHING if ns is None else f"{ns:,}"
        return duration(None if ns is None else ns / tokens)

    return [
        Cell(one_line(record.set)),
        Cell(one_line(record.instance)),
        Cell(one_line(trial.method)),
        Cell(str(record.seed), record.seed),
        Cell(record.status.replace("_", " ")),
        Cell((record.termination or NOTHING).replace("_", " ")),
        Cell(per_token(trial.latency_ns), _sort(None if trial.latency_ns is None else trial.latency_ns / tokens)),
        Cell(gap_percent(trial.gap), _sort(trial.gap)),
        Cell(gap_percent(trial.excess), _sort(trial.excess)),
        Cell(per_token(trial.bound_ns), _sort(None if trial.bound_ns is None else trial.bound_ns / tokens)),
        Cell(NOTHING if record.wall_s is None else f"{record.wall_s:.2f}", _sort(record.wall_s)),
        Cell(f"{record.cpu_s:.2f}", record.cpu_s),
        Cell(size(record.peak_bytes), record.peak_bytes),
        Cell(one_line(record.message or "")[:200]),
    ]


def _environment(environment: Any) -> list[tuple[str, str]]:
    commit = environment.commit or NOTHING
    return [
        (
            "machine",
            f"{environment.cpu}, {number(environment.cores, 'core')}, {size(environment.memory_bytes)}",
        ),
        ("system", f"{environment.system}, Python {environment.python}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in environment.versions.items())),
        ("commit", f"{commit} with uncommitted changes" if environment.dirty else commit),
        ("runs at a time", str(environment.workers)),
        ("started", environment.started),
    ]


def _embedded(data: object) -> Markup:
    """Return data as JSON that cannot end the script element it stands in."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))

"""The report of a replay: its tables, the picture over time, one page that opens without a network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from moeplace.base import style
from moeplace.base.errors import OutputError
from moeplace.base.files import write_bytes
from moeplace.base.text import NOTHING, as_csv, duration, gap_percent, number, one_line, percent, size, time_unit
from moeplace.base.text import markdown as escaped
from moeplace.bench.replays import FIELDS, YARDSTICK, ReplayData, Row
from moeplace.report.tables import Column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Placement policies over drifting traffic"
PAGE, MARKDOWN, TABLE = "index.html", "index.md", "replay.csv"
PICTURE = "pictures/replay"

_BYTES = [(1, "B"), (10**3, "kB"), (10**6, "MB"), (10**9, "GB"), (10**12, "TB")]

DEFINITIONS = [
    ("window", "A piece of the traffic, with the same servers and models as the others. A policy decides before it."),
    ("latency, loading", "What the tokens of the window wait in it, and what loading the experts counts that are new."),
    ("cost", "Both together, per token of the window; exact integers behind it."),
    ("moved", "Bytes of the experts that are new on their server; in the sum also before how many windows."),
    ("away", "Shares of expert requests, and of whole rows, served (in part) beyond the user's nearest server."),
    (
        "regret at most",
        "Cost beyond the proven bound on what any policy pays for the window, from any placement in force: the latency "
        "alone of the best placement for it; for the first window that is paid, where all begin alike, with loading. "
        "Nobody could have paid less by more than this. Rounded up.",
    ),
    (
        "hindsight",
        "Knows each window beforehand, and does not look beyond it: in the sum another policy may cost less.",
    ),
]  # fmt: skip
"""Every word of the tables with what it is."""


def columns(data: ReplayData) -> list[Column[Row]]:
    """Return the columns of a replay's tables; times have one unit in all."""
    rows = data.rows()
    unit, name = time_unit(max((row.cost_ns / max(row.tokens, 1) for row in rows), default=0))

    def each(ns: float | None) -> str:
        return NOTHING if ns is None else f"{ns / unit:.3f}"

    def per_token(what: str) -> Column[Row]:
        return Column(f"{what} {name}", "", lambda row: getattr(row, f"{what}_ns") / max(row.tokens, 1), each)

    return [
        Column("window", "", lambda row: row.window, lambda value: "sum" if value is None else str(value)),
        Column("policy", "", lambda row: row.policy, one_line),
        per_token("latency"),
        per_token("loading"),
        per_token("cost"),
        Column("moved", "", lambda row: row.moved_bytes, size),
        Column("changes", "", lambda row: row.changes, number),
        Column("requests away", "", lambda row: row.requests_share, percent),
        Column("rows away", "", lambda row: row.rows_share, percent),
        Column("regret at most", "", lambda row: row.regret, _regret),
    ]


def _regret(share: float | None) -> str:
    """Show a regret, rounded up; below zero a bound is false, which is said elsewhere."""
    return gap_percent(share) if share is None or share >= 0 else percent(share)


def cells(data: ReplayData, rows: Sequence[Row]) -> list[list[str]]:
    """Return the cells of a table of rows, by :func:`columns`."""
    chosen = columns(data)
    return [[column.show(column.value(row)) for column in chosen] for row in rows]


def facts(data: ReplayData) -> list[str]:
    """Return what was replayed, in a few phrases."""
    plan, run = data.run.plan, data.run
    limit = "no time limit" if plan.time_limit is None else f"{plan.time_limit:g} s a decision"
    begin = "a given placement" if plan.start is not None else f"a placement made on {run.windows[0].name}"
    decided = [r.wall_s or 0.0 for r in data.decisions.values()]
    return [
        f"{number(len(run.windows), 'window')}, {len(data.paid)} of them paid",
        f"begins with {begin}",
        f"decisions by {plan.method}, {limit}, seed {plan.seed}, {number(plan.threads, 'thread')}",
        f"{number(len(decided), 'decision')} in {duration(1e9 * sum(decided))}",
    ]


def below(data: ReplayData) -> str:
    """Say in one line what the bounds prove of the whole."""
    if YARDSTICK not in data.run.plan.policies:
        return f"nothing is proven: bounds come with the policy {YARDSTICK}"
    bounds = [data.bound(t) for t in data.paid]
    tokens = sum(data.run.windows[t - 1].tokens for t in data.paid)
    known = [bound for bound in bounds if bound is not None]
    if len(known) < len(bounds):
        return f"windows with a proven bound: {len(known)} of {len(bounds)}; regret in sum is not known"
    return (
        f"no sequence of placements costs less than {duration(sum(known) / max(tokens, 1))} per token in sum (proven)"
    )


def as_table(data: ReplayData) -> bytes:
    """Return rows and sums with every digit as CSV."""
    return as_csv(FIELDS, data.table())


def figure(data: ReplayData, title: str = "") -> Figure:
    """Draw cost, rows away from home and bytes moved of every policy over the windows that are paid."""
    rows = data.rows()
    looks = style.looks(data.run.plan.policies)
    drawn = style.new_figure(9.6, 3.5)
    panels = drawn.subplots(1, 3)
    unit, name = time_unit(max((row.cost_ns / max(row.tokens, 1) for row in rows), default=0))
    most = max((row.moved_bytes for row in rows), default=0)
    bytes_each, bytes_name = max((u for u in _BYTES if most >= u[0]), default=_BYTES[0])
    handles, labels = [], []
    for i, policy in enumerate(data.run.plan.policies):
        own = [row for row in rows if row.policy == policy]
        if not own:
            continue
        look = looks[policy]
        # Policies that pay the same would hide each other.
        aside = 0.12 * ((i + 0.5) / len(data.run.plan.policies) - 0.5)
        for panel, values in zip(
            panels,
            (
                [row.cost_ns / max(row.tokens, 1) / unit for row in own],
                [100 * (row.rows_share or 0.0) for row in own],
                [row.moved_bytes / bytes_each for row in own],
            ),
            strict=True,
        ):
            (line,) = panel.plot(
                [(row.window or 0) + aside for row in own], values, color=look.color,
                linestyle=style.DASHES[look.dash], marker=style.MARKERS[look.marker],
            )  # fmt: skip
        handles.append(line)
        labels.append(policy)
    bounds = [(t, bound, data.run.windows[t - 1].tokens) for t in data.paid if (bound := data.bound(t)) is not None]
    if bounds:
        x, y = [t for t, _, _ in bounds], [bound / max(tokens, 1) / unit for _, bound, tokens in bounds]
        (line,) = panels[0].plot(x, y, color=style.GREY, linestyle="none", marker="_", markersize=14)
        handles.append(line)
        labels.append("no policy is below (proven)")
    said = (f"cost, {name} per token", "rows away from home, %", f"moved before the window, {bytes_name}")
    for panel, text in zip(panels, said, strict=True):
        panel.set_ylabel(text)
        panel.set_xlabel("window")
        panel.set_ylim(bottom=0)
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if title:
        drawn.suptitle(f" {title}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    if handles:
        style.legend_below(drawn, handles, labels, columns=6)
    return drawn


def markdown(data: ReplayData, title: str) -> str:
    """Return the report as Markdown, with a link to its picture."""
    rows = data.rows()
    headings = [column.heading for column in columns(data)]

    def table(chosen: Sequence[Row]) -> str:
        lines = [headings, ["---", "---", *("---:" for _ in headings[2:])], *cells(data, chosen)]
        shown = [lines[0], *([escaped(cell) for cell in line] for line in lines[2:])]
        shown.insert(1, lines[1])
        return "\n".join(f"| {' | '.join(line)} |" for line in shown)

    parts = [f"# {escaped(title)}", " · ".join(escaped(fact) for fact in facts(data))]
    if wrong := data.contradictions():
        parts.append("**Bounds that are false**:\n\n" + "\n".join(f"- {escaped(line)}" for line in wrong))
    parts += ["## In sum", table(data.sums(rows)), escaped(below(data)) + "."]
    parts += [f"![Over time]({PICTURE}.svg)", "## Window by window", table(rows)]
    parts += ["## How to read this", "\n".join(f"- **{term}**: {meaning}" for term, meaning in DEFINITIONS)]
    return "\n\n".join(parts) + "\n"


def page(data: ReplayData, title: str, picture: str) -> bytes:
    """Return the page; the picture is SVG."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    rows = data.rows()
    resources = files("moeplace.report") / "page_files"
    text = {name: (resources / name).read_text(encoding="utf-8") for name in ("replay.html", "page.css")}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made = environment.from_string(text["replay.html"]).render(
        title=title,
        css=Markup(text["page.css"]),
        facts=facts(data),
        contradictions=data.contradictions(),
        headings=[column.heading for column in columns(data)],
        sums=cells(data, data.sums(rows)),
        rows=cells(data, rows),
        below=below(data),
        picture=Markup(picture[picture.index("<svg") :]),
        windows=[(t, window.name, t in data.paid) for t, window in enumerate(data.run.windows, 1)],
        definitions=DEFINITIONS,
    )
    return made.encode("utf-8", "backslashreplace")


def write_report(data: ReplayData, folder: str | os.PathLike[str], *, title: str = TITLE) -> list[Path]:
    """Write tables, picture and page of a replay.

    Parameters
    ----------
    data : ReplayData
    folder : path-like
        Made where it is missing; files of an earlier report in it are replaced.
    title : str

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    with style.drawing():
        pictures = {kind: style.rendered(figure(data), kind) for kind in ("png", "svg")}
    contents = {
        TABLE: as_table(data),
        **{f"{PICTURE}.{kind}": picture for kind, picture in pictures.items()},
        MARKDOWN: markdown(data, title).encode("utf-8", "backslashreplace"),
        PAGE: page(data, title, pictures["svg"].decode()),
    }
    target = Path(folder)
    try:
        (target / PICTURE).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    for name, written in contents.items():
        write_bytes(target / name, written)
    return [target / name for name in contents]

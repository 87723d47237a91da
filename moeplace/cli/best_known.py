"""``moeplace best-known``: what a run has found taken into the best known values of its instances."""

from __future__ import annotations

from typing import Any

import click

from moeplace.base.text import NOTHING, gap_percent, number, one_line
from moeplace.cli import screen
from moeplace.cli.options import file_name


@click.command(epilog="Exit codes: 0 done (also where nothing was better), 1 a contradiction, 2 bad usage or input.")
@click.option("--update", "run", type=file_name, required=True, metavar="RUN", help="The run directory to take from.")
@click.option(
    "--instances",
    type=file_name,
    metavar="DIR",
    help="Where the instances and their best_known.json are: a set or a folder of sets.  [default: as in RUN]",
)
def best_known(run: str, instances: str | None) -> int:
    """Improve the best_known.json beside the instances of RUN by its checked solutions and proven bounds.

    A value is replaced only by a better one. A cost below a bound is refused, naming both, and nothing is written.
    """
    from moeplace.bench.best_known import update
    from moeplace.bench.records import read_run

    data = read_run(run)
    for line in data.contradictions:
        click.echo(f"note: not taken: {one_line(line)}", err=True)
    improvements = update(data, instances)
    columns = ["instance", "latency ns", "bound ns", "gap", "latency by", "bound by"]
    table = screen.table(*columns, right="latency ns,bound ns,gap")
    for improvement in improvements:
        before, after = improvement.before, improvement.after
        cells = [
            improvement.instance,
            _change(before.latency_ns if before else None, after.latency_ns),
            _change(before.bound_ns if before else None, after.bound_ns),
            gap_percent(_gap(after.latency_ns, after.bound_ns)),
            after.latency_method,
            after.bound_method or NOTHING,
        ]
        table.add_row(*map(one_line, cells))
    said = number(len(improvements), "instance")
    parts: list[Any] = [table, ""] if improvements else []
    screen.show(*parts, f"{said} improved, {len(data.run.instances):,} in {one_line(run)}")
    return 0


def _gap(latency_ns: int, bound_ns: int | None) -> float | None:
    from moeplace.base.result import relative_gap

    return relative_gap(latency_ns, bound_ns)


def _change(before: int | None, after: int | None) -> str:
    if after is None:
        return NOTHING
    return f"{after:,}" if before is None or before == after else f"{before:,} → {after:,}"

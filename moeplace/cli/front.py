"""``moeplace front``: the whole Pareto front of time and loss, exactly, and how near heuristics come to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from moeplace.base.errors import InputError
from moeplace.base.text import NOTHING, as_csv, duration, gap_percent, number, one_line
from moeplace.cli import INTERRUPTED, screen
from moeplace.cli.options import check_output, file_name, instance_argument, json_option

if TYPE_CHECKING:
    from moeplace.active.comparison import Compared

HEURISTICS = ("greedy", "schedule", "uniform")


@click.command(epilog="Exit codes: 0 done, 2 bad usage or input, or a front that is too large, 130 interrupted.")
@instance_argument
@click.option(
    "--csv", "csv_file", type=file_name, metavar="FILE", help="Write every point, also the heuristics', here."
)
@click.option("--plot", "picture", type=file_name, metavar="FILE", help="Draw it: .png, .svg or .pdf.")
@json_option
def front(instance: str, csv_file: str | None, picture: str | None, as_json: bool) -> int:
    """Print the Pareto front of an INSTANCE of active experts: the least time within every loss.

    Every point of it is optimal for a budget of its loss, and for one of its time; the instance's own budget is a row
    of the table. Beside it stands how far above the front's time the heuristics stay within the same loss.
    """
    from moeplace.active.comparison import COLUMNS, compare
    from moeplace.active.instance import Instance
    from moeplace.base.files import write_bytes
    from moeplace.base.stop import stopping
    from moeplace.base.style import SUFFIXES, drawing, picture_format, rendered
    from moeplace.problems import problem_of_file

    problem, read = problem_of_file(instance)
    if problem.instance_type is not Instance:
        raise InputError(f"is an instance of {problem.name}; a front is of active-experts", file=instance)
    check_output(csv_file, instance)
    check_output(picture, instance, endings=SUFFIXES)
    loaded = read()
    with stopping() as stop:
        try:
            compared = compare(loaded, stop=lambda: stop.interrupted)
        except InterruptedError:
            click.echo("moeplace front: interrupted before there was a front", err=True)
            return INTERRUPTED
    if csv_file:
        write_bytes(csv_file, as_csv(COLUMNS, _flat(compared)))
    if picture:
        from moeplace.active.pictures import front_picture

        with drawing():
            drawn = rendered(front_picture(compared, one_line(loaded.name)), picture_format(picture))
        write_bytes(picture, drawn)
    if as_json:
        click.echo(json.dumps(_document(compared), ensure_ascii=False))
    else:
        _show(compared, [file for file in (csv_file, picture) if file])
    return 0


def _flat(compared: Compared) -> Iterator[dict[str, Any]]:
    for record in compared.records():
        yield record | {"active_experts": " ".join(map(str, record["active_experts"]))}


def _document(compared: Compared) -> dict[str, Any]:
    families: dict[str, list[dict[str, Any]]] = {}
    for record in compared.records():
        families.setdefault(record.pop("family"), []).append(record)
    instance = compared.instance
    return {
        "instance": {"name": instance.name, "sha256": instance.sha256},
        "points": len(compared.front),
        "front": families.pop("front"),
        "heuristics": families,
    }


def _show(compared: Compared, files: list[str]) -> None:
    from moeplace.active.shown import headline, speed

    instance, found = compared.instance, compared.front
    budgets = compared.budgets()
    own = instance.budget
    if instance.minimises == "loss":
        at = found.at(time_ns=instance.budget)
        own = -1 if at is None else int(found.loss[at])
    if found.loss[0] <= own:
        budgets = sorted({*budgets, own})
    full = sum(instance.time_ns[:, -1].tolist())
    columns = ("loss up to", "", "time", "speed", "of all experts'", *HEURISTICS)
    rows = []
    for budget in budgets:
        look = compared.look(budget)
        cells = [NOTHING if look.excess[name] is None else f"+{gap_percent(look.excess[name])}" for name in HEURISTICS]
        share = f"{look.time_ns / full:.1%}" if full else NOTHING
        mark = "budget" if budget == own else ""
        rows.append([f"{budget:,}", mark, duration(look.time_ns), speed(instance, look.time_ns), share, *cells])
    from moeplace.base.problem import Table

    right = tuple(column for column in columns if column)
    low, high = found.loss[0], found.loss[-1]
    screen.show(
        one_line(headline(instance)),
        f"front: {number(len(found), 'point')}, a loss of {low:,} to {high:,}, {duration(float(found.time_ns[-1]))} to "
        f"{duration(float(found.time_ns[0]))}",
        "",
        screen.filled(Table(columns, right, rows)),
        "greedy, schedule, uniform: how far their time is above the front's within that loss",
        *([""] if files else []),
        *(f"written to {one_line(file)}" for file in files),
    )

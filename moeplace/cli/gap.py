"""``moeplace gap``: a table of methods, each measured against the best bound that any of them proved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from moeplace.base.errors import InputError
from moeplace.base.text import NOTHING, as_csv, gap_percent, number, one_line, percent
from moeplace.cli import INTERRUPTED, screen
from moeplace.cli.options import (
    as_dict,
    check_output,
    file_name,
    find_methods_here,
    instance_file,
    json_option,
    parameter_option,
    seed_option,
    threads_option,
)

if TYPE_CHECKING:
    from moeplace.base.problem import Problem, Scale
    from moeplace.base.stop import Stop
    from moeplace.comparing import Comparison, Run

TIME_LIMIT = 60.0


@click.command(
    epilog="Exit codes: 0 done (a method that refuses an instance is a row), 1 a method failed or a bound is wrong, "
    "2 bad usage or input, 130 interrupted."
)
@click.argument("instances", type=instance_file, nargs=-1, required=True, metavar="INSTANCE...")
@click.option("--methods", metavar="A,B,C", help="Methods to run.  [default: all that fit the instance, but not auto]")
@click.option("--time-limit", type=float, default=TIME_LIMIT, show_default=True, metavar="S", help="Seconds a method.")
@seed_option
@threads_option
@parameter_option
@click.option("--csv", "csv_file", type=file_name, metavar="FILE", help="Write the table with exact numbers here.")
@json_option
def gap(
    instances: tuple[str, ...],
    methods: str | None,
    time_limit: float,
    seed: int,
    threads: int,
    parameters: tuple[tuple[str, Any], ...],
    csv_file: str | None,
    as_json: bool,
) -> int:
    """Compare methods on each INSTANCE, against the best bound that any of them proves.

    The gap of a method is (C - bound) / C with its cost C and the best bound; a best_known.json beside the
    instance counts too, if it is of the same instance. A parameter goes to every method that has it. Each
    placement is checked before it counts. Ctrl-C stops the running method and prints what there is.
    """
    from moeplace.base.stop import stopping
    from moeplace.comparing import Comparison
    from moeplace.problems import problem_of_file
    from moeplace.solving import check_limits

    check_limits(time_limit=time_limit, seed=seed, threads=threads)
    own = as_dict(parameters)
    check_output(csv_file, *instances)
    # All are read before anything runs: the last file's misprint should not show up an hour later.
    table: list[Comparison] = []
    for file in instances:
        problem, read = problem_of_file(file)
        if all(known.problem.name != problem.name for known in table):
            chosen = _chosen(problem, methods, own)
        table.append(Comparison.of_file(file, problem, read()))
    done: list[Comparison] = []
    with stopping() as stop:
        try:
            for comparison in table:
                if stop:
                    break
                done.append(comparison)
                _run(comparison, chosen, own, stop, time_limit=time_limit, seed=seed, threads=threads)
                if not as_json:
                    _show(comparison, last=stop.interrupted or comparison is table[-1])
        finally:  # even where nobody reads the screen any more
            if csv_file:
                _write_csv(csv_file, done)
        if len(done) > 1 and not as_json:
            click.echo()
            _summary(done)
        if as_json:
            click.echo(json.dumps([_document(comparison) for comparison in done], indent=2, ensure_ascii=False))
        wrong = [line for comparison in done for line in comparison.crossings()]
        for line in wrong:
            click.echo(f"ERROR {one_line(line)}", err=True)
        if stop:
            left = f"; {number(len(table) - len(done), 'instance')} not begun" if len(done) < len(table) else ""
            click.echo(f"moeplace gap: interrupted{left}", err=True)
            return INTERRUPTED
    failed = any(run.status == "failed" for comparison in done for run in comparison.runs)
    return 1 if wrong or failed else 0


def _chosen(problem: Problem, methods: str | None, parameters: dict[str, Any]) -> list[str] | None:
    """Return the methods that were asked for, all of which exist; None leaves the choice to each instance."""
    from moeplace.base.registry import check_parameters, find_method, method_names
    from moeplace.comparing import available, own_of

    names = None if methods is None else list(dict.fromkeys(name.strip() for name in methods.split(",")))
    if names is not None:
        find_methods_here(names)
        for name in names:
            check_parameters(name, find_method(name, problem.methods, problem.method_order), {})
    every = method_names(problem.methods, problem.method_order) if names is None else names
    known = [name for name in every if available(problem, name)]
    for key in parameters:
        if not any(key in own_of(problem, name, parameters) for name in known):
            raise InputError(f"none of the methods has a parameter {key!r}")
    return names


def _run(
    comparison: Comparison, chosen: list[str] | None, parameters: dict[str, Any], stop: Stop, **limits: Any
) -> None:
    problem, instance, limit = comparison.problem, comparison.instance, limits["time_limit"]
    names = chosen if chosen is not None else comparison.fitting()
    for i, name in enumerate(names):
        if stop:
            comparison.notes.append(f"not run: {', '.join(names[i:])} (interrupted)")
            break
        label = f"{instance.name}: {name} ({i + 1} of {len(names)})"
        with screen.progress(label, lambda amount: problem.view.short(instance, amount), stop, limit) as progress:
            comparison.add(name, parameters, progress=progress, **limits)


def _show(comparison: Comparison, *, last: bool) -> None:
    instance, view = comparison.instance, comparison.problem.view
    scale = view.scale(instance)
    reference = comparison.problem.reference(instance)
    cost, bound = scale.heading(view.cost), scale.heading("own bound")
    columns = ["method", cost, "saving", "gap", "excess", bound, "time s", "ended"]
    if comparison.known is None:
        columns.remove("excess")
    if reference is None:
        columns.remove("saving")
    table = screen.table(*columns, right=",".join(columns[:-1]).removeprefix("method,"))
    for run, record in zip(comparison.runs, comparison.records(), strict=True):
        cells = {
            "method": run.method,
            cost: scale.text(run.latency_ns),
            "saving": percent(record["saving"]),
            "gap": gap_percent(record["gap"]),
            "excess": gap_percent(record["excess"]),
            bound: scale.text(run.bound_ns),
            "time s": NOTHING if run.wall_s is None else f"{run.wall_s:.2f}",
            "ended": _ending(run),
        }
        table.add_row(*(one_line(cells[column]) for column in columns))
    lines = [one_line(view.headline(instance))]
    if reference is not None:
        lines.append(f"{view.reference(instance)}: {scale.said(reference)}")
    screen.show(*lines, "", *([table] if comparison.runs else []), *_footer(comparison, scale))
    if not last:
        click.echo()


def _summary(done: Sequence[Comparison]) -> None:
    """Show how each method did over all instances; only what it solved counts for it, and how many that is."""
    from statistics import fmean, median

    records = [record for comparison in done for record in comparison.records()]
    columns = ["method", "solved", "optimal", "gap mean", "median", "worst", "time s"]
    table = screen.table(*columns, right=",".join(columns[1:]))
    for name in dict.fromkeys(record["method"] for record in records):
        own = [record for record in records if record["method"] == name and record["latency_ns"] is not None]
        gaps = [record["gap"] for record in own if record["gap"] is not None]
        shares = [gap_percent(of(gaps)) if gaps else NOTHING for of in (fmean, median, max)]
        seconds = sum(record["wall_s"] or 0.0 for record in own)
        optimal = sum(gap == 0 for gap in gaps)
        table.add_row(one_line(name), f"{len(own)} of {len(done)}", f"{optimal}", *shares, f"{seconds:.2f}")
    screen.show(f"all {len(done)} instances", "", table)


def _footer(comparison: Comparison, scale: Scale) -> list[str]:
    lines = [""]
    best, known = comparison.best_bound, comparison.known
    if best:
        source = next((run.bound_source for run in comparison.runs if run.method == best[1]), None)
        by = f"{best[1]} ({source})" if source else best[1]
        lines.append(f"gap: to the best bound, {scale.said(best[0])}, proven by {by}")
    elif comparison.crossings():
        lines.append("gap: not stated, since a cost is below a bound (see the error)")
    elif comparison.runs:
        lines.append("gap: no bound, so nothing is proven; exact methods prove one (see moeplace methods)")
    if known:
        what = comparison.problem.view.cost
        lines.append(f"excess: over the best known {what}, {scale.said(known.latency_ns)}")
        if any(run.latency_ns is not None and run.latency_ns < known.latency_ns for run in comparison.runs):
            lines.append("better than the best known: see the negative excess")
    return [one_line(line) for line in lines + comparison.notes]


def _ending(run: Run) -> str:
    if run.status in ("refused", "failed", "infeasible"):
        return f"{run.status}: {run.reason}"
    return (run.termination or "").replace("_", " ")


def _document(comparison: Comparison) -> dict[str, Any]:
    instance, best, known = comparison.instance, comparison.best_bound, comparison.known
    shared = {"file", "instance", "sha256", "baseline_ns", "tokens", "best_bound_ns", "best_bound_by"}
    return {
        "file": comparison.file,
        "instance": {"name": instance.name, "sha256": instance.sha256},
        "baseline_ns": comparison.problem.reference(instance),
        "tokens": comparison.tokens,
        "best_bound_ns": best and best[0],
        "best_bound_by": best and best[1],
        "best_known_latency_ns": known and known.latency_ns,
        "errors": comparison.crossings(),
        "notes": comparison.notes,
        "methods": [{k: v for k, v in record.items() if k not in shared} for record in comparison.records()],
    }


def _write_csv(path: str, done: Sequence[Comparison]) -> None:
    from moeplace.base.files import write_bytes
    from moeplace.comparing import COLUMNS

    write_bytes(path, as_csv(COLUMNS, (record for comparison in done for record in comparison.records())))

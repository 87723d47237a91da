"""``moeplace gap``: a table of methods, each measured against the best bound that any of them proved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeplace.base.errors import InputError, MethodLimitError, MoeplaceError
from moeplace.base.text import NOTHING, as_csv, gap_percent, number, one_line, percent, time_unit
from moeplace.cli import INTERRUPTED, screen
from moeplace.cli.options import (
    as_dict,
    check_output,
    file_name,
    find_methods_here,
    json_option,
    parameter_option,
    seed_option,
    threads_option,
)
from moeplace.cli.solve import headline

if TYPE_CHECKING:
    from moeplace import Instance
    from moeplace.base.stop import Stop
    from moeplace.comparing import Comparison, Run

TIME_LIMIT = 60.0


@click.command(
    epilog="Exit codes: 0 done (a method that refuses an instance is a row), 1 a method failed or a bound is wrong, "
    "2 bad usage or input, 130 interrupted."
)
@click.argument("instances", type=file_name, nargs=-1, required=True, metavar="INSTANCE...")
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
    import moeplace
    from moeplace.base.stop import stopping
    from moeplace.solving import check_limits

    check_limits(time_limit=time_limit, seed=seed, threads=threads)
    own = as_dict(parameters)
    chosen = _chosen(methods, own)
    check_output(csv_file, *instances)
    # All are read before anything runs: the last file's misprint should not show up an hour later.
    table = [_begin(file, moeplace.load(file)) for file in instances]
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


def _chosen(methods: str | None, parameters: dict[str, Any]) -> list[str] | None:
    """Return the methods that were asked for, all of which exist; None leaves the choice to each instance."""
    from moeplace.base.registry import check_parameters, find_method, method_names

    names = None if methods is None else list(dict.fromkeys(name.strip() for name in methods.split(",")))
    if names is not None:
        find_methods_here(names)
        for name in names:
            check_parameters(name, find_method(name), {})
    known = [name for name in (method_names() if names is None else names) if _available(name)]
    for key in parameters:
        if not any(key in _own(name, parameters, find_method(name)) for name in known):
            raise InputError(f"none of the methods has a parameter {key!r}")
    return names


def _available(name: str) -> bool:
    from moeplace.base.registry import find_method

    try:
        find_method(name)
    except InputError:
        return False
    return True


def _own(name: str, parameters: dict[str, Any], method: Any) -> dict[str, Any]:
    from moeplace.base.registry import own_parameters

    accepted = own_parameters(method)
    return {key: value for key, value in parameters.items() if accepted is None or key in accepted}


def _begin(file: str, instance: Instance) -> Comparison:
    from moeplace.comparing import Comparison
    from moeplace.library import BEST_KNOWN, read_best_known

    known = read_best_known(Path(file).parent).get(instance.name)
    if known and known.sha256 != instance.sha256:
        note = f"{BEST_KNOWN} is of another instance named {instance.name}; it does not count"
        return Comparison(file, instance, None, [note])
    return Comparison(file, instance, known, [])


def _run(
    comparison: Comparison, chosen: list[str] | None, parameters: dict[str, Any], stop: Stop, **limits: Any
) -> None:
    from moeplace.base.registry import find_method

    names = chosen if chosen is not None else _fitting(comparison)
    for i, name in enumerate(names):
        if stop:
            comparison.notes.append(f"not run: {', '.join(names[i:])} (interrupted)")
            break
        own = _own(name, parameters, find_method(name))
        label = f"{comparison.instance.name}: {name} ({i + 1} of {len(names)})"
        with screen.progress_line(label, int(comparison.instance.tokens.sum()), stop) as progress:
            comparison.runs.append(_one(comparison.instance, name, own, progress=progress, **limits))


def _fitting(comparison: Comparison) -> list[str]:
    """Return the methods that take an instance, without ``auto``, which only repeats one of them."""
    from moeplace.base.registry import find_method, method_info, method_names

    names = []
    for name in method_names():
        if name == "auto":
            continue
        try:
            reason = method_info(find_method(name)).refuses(comparison.instance)
        except InputError as error:
            reason = str(error)
        if reason is None:
            names.append(name)
        else:
            comparison.notes.append(f"not run: {name} ({reason})")
    return names


def _one(instance: Instance, name: str, parameters: dict[str, Any], **options: Any) -> Run:
    import moeplace
    from moeplace.comparing import Run

    try:
        solution = moeplace.solve(instance, name, **options, **parameters)
    except MethodLimitError as error:
        return Run(name, "refused", error.reason)
    except MoeplaceError as error:
        return Run(name, "failed", str(error))
    report = moeplace.check(instance, solution)
    if not report.ok:
        return Run(name, "failed", f"its solution is wrong: {report.violations[0]}")
    said = solution.objective
    return Run(
        method=name,
        status=solution.status.solution,
        termination=solution.status.termination,
        latency_ns=said.latency_ns,
        bound_ns=said.bound_ns,
        bound_source=solution.bound_source,
        wall_s=solution.wall_s,
    )


def _show(comparison: Comparison, *, last: bool) -> None:
    instance = comparison.instance
    tokens = int(instance.tokens.sum()) or 1
    unit, unit_name = time_unit(instance.baseline_ns / tokens)

    def time(ns: int | None) -> str:
        return NOTHING if ns is None else f"{ns / tokens / unit:.3f}"

    latency, bound = f"latency {unit_name}", f"own bound {unit_name}"
    columns = ["method", latency, "saving", "gap", "excess", bound, "time s", "ended"]
    if comparison.known is None:
        columns.remove("excess")
    table = screen.table(*columns, right=",".join(columns[:-1]).removeprefix("method,"))
    for run, record in zip(comparison.runs, comparison.records(), strict=True):
        cells = {
            "method": run.method,
            latency: time(run.latency_ns),
            "saving": percent(record["saving"]),
            "gap": gap_percent(record["gap"]),
            "excess": gap_percent(record["excess"]),
            bound: time(run.bound_ns),
            "time s": NOTHING if run.wall_s is None else f"{run.wall_s:.2f}",
            "ended": _ending(run),
        }
        table.add_row(*(one_line(cells[column]) for column in columns))
    lines = [
        one_line(headline(instance)),
        f"empty servers: {instance.baseline_ns / tokens / unit:.3f} {unit_name} per token",
        "",
    ]
    screen.show(*lines, *([table] if comparison.runs else []), *_footer(comparison, time, unit_name))
    if not last:
        click.echo()


def _footer(comparison: Comparison, time: Any, unit_name: str) -> list[str]:
    lines = [""]
    best, known = comparison.best_bound, comparison.known
    if best:
        source = next((run.bound_source for run in comparison.runs if run.method == best[1]), None)
        by = f"{best[1]} ({source})" if source else best[1]
        lines.append(f"gap: to the best bound, {time(best[0])} {unit_name} per token, proven by {by}")
    elif comparison.crossings():
        lines.append("gap: not stated, since a cost is below a bound (see the error)")
    elif comparison.runs:
        lines.append("gap: no bound, so nothing is proven; exact methods prove one (see moeplace methods)")
    if known:
        lines.append(f"excess: over the best known latency, {time(known.latency_ns)} {unit_name} per token")
        if any(run.latency_ns is not None and run.latency_ns < known.latency_ns for run in comparison.runs):
            lines.append("better than the best known: see the negative excess")
    return [one_line(line) for line in lines + comparison.notes]


def _ending(run: Run) -> str:
    if run.status in ("refused", "failed"):
        return f"{run.status}: {run.reason}"
    return (run.termination or "").replace("_", " ")


def _document(comparison: Comparison) -> dict[str, Any]:
    instance, best, known = comparison.instance, comparison.best_bound, comparison.known
    shared = {"file", "instance", "sha256", "baseline_ns", "tokens", "best_bound_ns", "best_bound_by"}
    return {
        "file": comparison.file,
        "instance": {"name": instance.name, "sha256": instance.sha256},
        "baseline_ns": instance.baseline_ns,
        "tokens": int(instance.tokens.sum()),
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

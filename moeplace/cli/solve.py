"""``moeplace solve``: one placement, written to a file, summed up on the screen."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from moeplace.base.errors import InputError, naming
from moeplace.base.text import gap_percent, one_line
from moeplace.cli import INTERRUPTED, screen
from moeplace.cli.options import (
    DOCUMENT,
    as_dict,
    check_output,
    file_name,
    find_methods_here,
    instance_argument,
    json_option,
    parameter_option,
    seed_option,
    threads_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from moeplace.base.problem import Lines, Problem, View

DIGITS = 1e-5
"""How far a solver's objective may be from the exact cost, as a share: solvers compute, and print, in doubles."""

ENDINGS = {
    "optimal": "proved its placement optimal",
    "gap_limit": "reached the gap that was asked for, or as small a one as the solver's arithmetic allows",
    "time_limit": "stopped by the time limit",
    "iteration_limit": "stopped by its iteration limit",
    "interrupted": "interrupted; this is the best placement so far",
    "completed": "ran to its end",
}


@click.command(epilog="Exit codes: 0 done, 1 the method failed, 2 bad usage or input, 130 interrupted.")
@instance_argument
@click.option("--method", default="auto", show_default=True, help="One of moeplace methods, or module:function.")
@click.option("--time-limit", type=float, metavar="S", help="Wall seconds.  [default: none; 60 for auto]")
@click.option("--gap", type=float, default=0.0, metavar="G", help="Stop at this proven gap on latency (0.01: 1 %).")
@seed_option
@threads_option
@click.option(
    "--start",
    type=file_name,
    metavar="FILE",
    help="A solution to begin with, or another solver's (.sol) of an exported model; it must fit.",
)
@parameter_option
@click.option(
    "--certificate", type=file_name, metavar="FILE", help="Write what proves the bound here (.json or .json.gz)."
)
@click.option("-o", "--output", type=file_name, metavar="FILE", help="Write the solution here (.json or .json.gz).")
@click.option("--log", is_flag=True, help="Show on stderr what HiGHS and CP-SAT say, in the place of progress.")
@json_option
def solve(
    instance: str,
    method: str,
    time_limit: float | None,
    gap: float,
    seed: int,
    threads: int,
    start: str | None,
    parameters: tuple[tuple[str, Any], ...],
    certificate: str | None,
    output: str | None,
    log: bool,
    as_json: bool,
) -> int:
    """Find one placement for INSTANCE.

    Ctrl-C stops the method and keeps its best placement so far; a second Ctrl-C gives up.
    """
    from moeplace.base.registry import check_parameters, find_method
    from moeplace.base.stop import stopping
    from moeplace.problems import problem_of_file
    from moeplace.solving import DEFAULT_TIME_LIMIT, certified, check_limits, prepare

    check_limits(time_limit=time_limit, gap=gap, seed=seed, threads=threads)
    own = as_dict(parameters)
    find_methods_here([method])
    problem, read = problem_of_file(instance)
    function = find_method(method, problem.methods, problem.method_order)
    check_parameters(method, function, own | ({"gap": gap} if gap else {}))
    check_output(output, instance, endings=DOCUMENT)
    check_output(certificate, instance, endings=DOCUMENT)
    loaded = read()
    limit = DEFAULT_TIME_LIMIT if time_limit is None and method == "auto" else time_limit
    beginning = _read_start(start, problem, loaded) if start else None
    # From here to the last line written a signal ends the search, not the program.
    with stopping() as stop:
        with contextlib.suppress(Exception):  # what cannot be loaded is said by the run itself
            prepare(problem, function, screen.aside)
        shown = screen.progress(method, lambda amount: problem.view.short(loaded, amount), stop, limit)
        with screen.solver_log(method) if log else shown as progress:
            solution, proof = certified(
                loaded,
                method,
                time_limit=time_limit,
                gap=gap,
                seed=seed,
                threads=threads,
                start=beginning,
                progress=progress,
                **own,
            )
        if output:
            solution.save(output)
        if certificate and proof is not None:
            proof.save(certificate)
        elif certificate:
            click.echo(f"note: no bound was proven, so {one_line(certificate)} is not written", err=True)
        if as_json:
            click.echo(solution.to_json(), nl=False)
        else:
            _show(problem, loaded, solution, output, limit)
        for warning in solution.warnings:
            click.echo(f"warning: {one_line(warning)}", err=True)
        interrupted = stop.interrupted or solution.status.termination == "interrupted"
    return INTERRUPTED if interrupted else 0


def _read_start(path: str, problem: Problem, instance: Any) -> Any:
    from moeplace.base.files import read_bytes
    from moeplace.solvers.solution_files import ENDINGS as SOLVERS

    if path.lower().endswith(SOLVERS) and not read_bytes(path).lstrip().startswith(b"{"):
        return _read_values(path, problem, instance)
    return _read_document(path, problem, instance)


def _read_values(path: str, problem: Problem, instance: Any) -> Any:
    """Return the decision of another solver's file, and say where its objective is not what the decision costs."""
    from moeplace.solvers.solution_files import read_values

    if problem.from_values is None:
        raise InputError(f"{problem.name} has no exported model that a solver's file could be of", file=path)
    read = read_values(path)
    with naming(path):
        decision = problem.from_values(instance, read.values)
    cost = problem.cost(instance, decision)
    if read.objective is not None and abs(read.objective - cost) > DIGITS * max(cost, 1):
        said = f"its objective is {read.objective:.10g}, on this instance it costs {cost}"
        click.echo(f"note: {one_line(path)}: {said}; is it of another instance, or not optimal?", err=True)
    return decision


def _read_document(path: str, problem: Problem, instance: Any) -> Any:
    import moeplace
    from moeplace.problems import check_same_problem

    solution = moeplace.read_solution(path)
    with naming(path):
        check_same_problem(problem, solution)
        decision = problem.decision(instance, solution)
    if solution.instance.sha256 != instance.sha256:
        kind = problem.decision_type.__name__.lower()
        click.echo(f"note: {one_line(path)} was made for another instance; its {kind} fits this one too", err=True)
    return decision


def overrun(wall_s: float, time_limit: float | None) -> float | None:
    """Return by how many seconds a limit was overrun, where a person would notice: a second and a tenth of the limit.

    Examples
    --------
    >>> overrun(13.5, 10), overrun(10.9, 10), overrun(63, 60), overrun(99, None)
    (3.5, None, None, None)
    """
    if time_limit is None or wall_s - time_limit <= max(1.0, time_limit / 10):
        return None
    return wall_s - time_limit


def ended(solution: Any, time_limit: float | None) -> str:
    """Say how and when a run ended."""
    text = ENDINGS[solution.status.termination]
    if "solver_failure" in solution.details and solution.status.termination == "completed":
        text = "a part of it failed; this is the best placement so far"
    text += f", after {solution.wall_s or 0:.1f} s"
    if (over := overrun(solution.wall_s or 0, time_limit)) is not None:
        text += f", {over:.1f} s over the time limit of {time_limit:g} s"
    return text


def _show(problem: Problem, instance: Any, solution: Any, output: str | None, time_limit: float | None) -> None:
    view = problem.view
    lines = [("instance", view.headline(instance)), ("method", solution.method or "")]
    if solution.picked_because:
        lines.append(("", f"picked by auto: {solution.picked_because}"))
    if solution.parameters:
        lines.append(("parameters", ", ".join(f"{key}={value}" for key, value in solution.parameters.items())))
    lines.append(("ended", ended(solution, time_limit)))
    lines += view.summary(instance, solution)
    lines += (view.proof or _plain_proof(view))(instance, solution)
    if solution.guarantee:
        lines.append(("guarantee", solution.guarantee))
    more, tables = view.details(instance, solution)
    parts: list[Any] = [screen.facts(lines + more)]
    for table in tables:
        parts += ["", screen.filled(table)]
        if table.below:
            parts.append(table.below)
    if output:
        parts += ["", f"written to {one_line(output)}"]
    screen.show(*parts)


def _plain_proof(view: View) -> Callable[[Any, Any], Lines]:
    def proof(instance: Any, solution: Any) -> Lines:
        if solution.bound is None:
            return [("gap", "no bound: nothing is proven")]
        if solution.gap == 0:
            return [("gap", f"0 %: proven optimal by {solution.bound_source}")]
        bound = f"no solution is below {view.short(instance, solution.bound)}"
        return [("gap", f"{gap_percent(solution.gap)}: {bound}, proven by {solution.bound_source}")]

    return proof

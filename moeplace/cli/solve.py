"""``moeplace solve``: one placement, written to a file, summed up on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from moeplace.base.errors import InputError
from moeplace.base.text import NOTHING, bar, duration, gap_percent, number, one_line, percent, ratio_down, size
from moeplace.cli import INTERRUPTED, screen
from moeplace.cli.options import (
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
    from rich.table import Table

    from moeplace import Instance, Placement, Solution

MOST_SERVERS = 40
"""How many servers the summary lists; the solution file has them all."""

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
@click.option("--start", type=file_name, metavar="FILE", help="A solution to begin with; it must fit this instance.")
@parameter_option
@click.option("--certificate", type=file_name, metavar="FILE", help="Write what proves the bound here.")
@click.option("-o", "--output", type=file_name, metavar="FILE", help="Write the solution here.")
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
    as_json: bool,
) -> int:
    """Find one placement for INSTANCE.

    Ctrl-C stops the method and keeps its best placement so far; a second Ctrl-C gives up.
    """
    import moeplace
    from moeplace.base.registry import check_parameters, find_method
    from moeplace.base.stop import stopping
    from moeplace.solving import DEFAULT_TIME_LIMIT, certified, check_limits

    check_limits(time_limit=time_limit, gap=gap, seed=seed, threads=threads)
    own = as_dict(parameters)
    find_methods_here([method])
    check_parameters(method, find_method(method), own | ({"gap": gap} if gap else {}))
    check_output(output, instance)
    check_output(certificate, instance)
    problem = moeplace.load(instance)
    limit = DEFAULT_TIME_LIMIT if time_limit is None and method == "auto" else time_limit
    beginning = _read_start(start, problem) if start else None
    # From here to the last line written a signal ends the search, not the program.
    with stopping() as stop:
        with screen.progress_line(method, int(problem.tokens.sum()), stop) as progress:
            solution, proof = certified(
                problem,
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
            _show(problem, solution, output, limit)
        for warning in solution.warnings:
            click.echo(f"warning: {one_line(warning)}", err=True)
        interrupted = stop.interrupted or solution.status.termination == "interrupted"
    return INTERRUPTED if interrupted else 0


def _read_start(path: str, instance: Instance) -> Placement:
    import moeplace

    solution = moeplace.read_solution(path)
    try:
        placement = solution.placement_on(instance)
    except InputError as error:
        raise error.in_file(path) from None
    if solution.instance.sha256 != instance.sha256:
        click.echo(f"note: {one_line(path)} was made for another instance; its placement fits this one too", err=True)
    return placement


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


def ended(solution: Solution, time_limit: float | None) -> str:
    """Say how and when a run ended."""
    text = ENDINGS[solution.status.termination]
    if "solver_failure" in solution.details and solution.status.termination == "completed":
        text = "a part of it failed; this is the best placement so far"
    text += f", after {solution.wall_s or 0:.1f} s"
    if (over := overrun(solution.wall_s or 0, time_limit)) is not None:
        text += f", {over:.1f} s over the time limit of {time_limit:g} s"
    return text


def _show(instance: Instance, solution: Solution, output: str | None, time_limit: float | None) -> None:
    from moeplace import Evaluation

    evaluation = Evaluation(instance, solution.placement_on(instance))
    said, tokens = solution.objective, int(instance.tokens.sum())
    lines = [("instance", headline(instance)), ("method", solution.method or "")]
    if solution.picked_because:
        lines.append(("", f"picked by auto: {solution.picked_because}"))
    if solution.parameters:
        lines.append(("parameters", ", ".join(f"{key}={value}" for key, value in solution.parameters.items())))
    lines.append(("ended", ended(solution, time_limit)))
    lines += [("warning", warning) for warning in solution.warnings]
    if tokens:
        before, after = said.baseline_ns / tokens, said.latency_ns / tokens
        saving = (said.baseline_ns - said.latency_ns) / said.baseline_ns if said.baseline_ns else 0.0
        change = f"{duration(before)} → {duration(after)} per token"
        lines.append(("latency", f"{change}, {percent(saving)} saved by the caches"))
    lines += _proof(solution, tokens)
    if solution.guarantee:
        lines.append(("guarantee", solution.guarantee))
    if instance.demands:
        p50, p90, p99 = (duration(evaluation.percentile_latency_ns(p)) for p in (50, 90, 99))
        users = number(len(evaluation.user_latency_ns), "user")
        lines.append(("users", f"p50 {p50}, p90 {p90}, p99 {p99} per token, over {users}"))
    parts: list[Any] = [screen.facts(lines)]
    if evaluation.hits:
        parts += ["", hits_table(evaluation.hits.experts, evaluation.hits.rows)]
    if instance.servers:
        parts += ["", _servers(instance, evaluation, tokens)]
        if (left := len(instance.servers) - MOST_SERVERS) > 0:
            parts.append(f"and {number(left, 'more server')}")
    if output:
        parts += ["", f"written to {one_line(output)}"]
    screen.show(*parts)


def headline(instance: Instance) -> str:
    """Say in one line what an instance is."""
    counts = [
        number(len(instance.models), "model"),
        number(instance.n_items, "expert"),
        number(len(instance.servers), "server"),
        number(len(instance.demands), "demand"),
        number(len(instance.rows), "activation row"),
    ]
    return f"{instance.name}: {', '.join(counts)}; latency model {instance.latency_model}"


def hits_table(experts: tuple[float, float, float], rows: tuple[float, float, float]) -> Table:
    """Return the table of who serves what share of the requests."""
    result = screen.table("served by", "device", "edge", "cloud", right="device,edge,cloud")
    result.add_row("expert requests", *map(percent, experts))
    result.add_row("whole rows", *map(percent, rows))
    return result


def _proof(solution: Solution, tokens: int) -> list[tuple[str, str]]:
    said = solution.objective
    if said.bound_ns is None or said.saving_ratio is None:
        return [("gap", "no bound: nothing is proven")]
    ratio = f"at least {ratio_down(said.saving_ratio)} of the largest possible saving"
    if said.gap == 0:
        return [("gap", f"0 %: proven optimal by {solution.bound_source}")]
    bound = f"no placement is below {duration(said.bound_ns / max(tokens, 1))} per token"
    return [
        ("gap", f"{gap_percent(said.gap)}: {bound}, proven by {solution.bound_source}"),
        ("saving", f"{ratio}, certified by that bound"),
    ]


def _servers(instance: Instance, evaluation: Any, tokens: int) -> Table:
    columns = ("server", "cache", "used", "capacity", "experts", "saves per token")
    result = screen.table(*columns, right="used,capacity,experts,saves per token")
    cached = evaluation.placement.cached
    used = evaluation.placement.bytes_used(instance).tolist()
    saves = evaluation.server_saving_ns.tolist()
    for n, server in enumerate(instance.servers[:MOST_SERVERS]):
        share = used[n] / server.capacity_bytes if server.capacity_bytes else 0.0
        result.add_row(
            one_line(server.name),
            bar(share),
            size(used[n]),
            size(server.capacity_bytes),
            number(int(cached[n].sum())),
            duration(saves[n] / tokens) if tokens else NOTHING,
        )
    return result

"""``moeplace score``: a placement applied to another instance of the same servers and models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeplace.base.errors import InputError
from moeplace.base.text import duration, gap_percent, one_line, percent
from moeplace.cli import INTERRUPTED, screen
from moeplace.cli.options import (
    as_dict,
    file_name,
    find_methods_here,
    instance_argument,
    json_option,
    parameter_option,
    seed_option,
    threads_option,
)

if TYPE_CHECKING:
    from moeplace import Instance, Solution
    from moeplace.base.stop import Stop
    from moeplace.caching.scoring import Reference, Score


@click.command(
    epilog="Exit codes: 0 done, 1 the method failed or a bound is wrong, 2 bad usage or input, also where servers or "
    "models differ, 130 interrupted."
)
@instance_argument
@click.argument("solution", type=file_name, metavar="SOLUTION")
@click.option("--method", help="Let a method find a placement for INSTANCE itself, to compare with.")
@click.option("--time-limit", type=float, metavar="S", help="Wall seconds of the method.  [default: none; 60 for auto]")
@seed_option
@threads_option
@parameter_option
@json_option
def score(
    instance: str,
    solution: str,
    method: str | None,
    time_limit: float | None,
    seed: int,
    threads: int,
    parameters: tuple[tuple[str, Any], ...],
    as_json: bool,
) -> int:
    """Apply the placement of SOLUTION to INSTANCE, which it was not made for: tomorrow's trace, another half.

    Says what it saves there, and what is lost against the best that is known there: the best_known.json beside
    INSTANCE, if it is of the same instance, and what --method finds.
    """
    from moeplace.base.registry import check_parameters, find_method
    from moeplace.base.stop import stopping
    from moeplace.caching.instance import load
    from moeplace.caching.scoring import score as scored
    from moeplace.caching.solution import read_solution
    from moeplace.solving import check_limits

    check_limits(time_limit=time_limit, seed=seed, threads=threads)
    own = as_dict(parameters)
    if method is None and (own or time_limit is not None):
        raise InputError("parameters and a time limit are for a method; --method is missing")
    if method is not None:
        find_methods_here([method])
        check_parameters(method, find_method(method), own)
    problem, answer = load(instance), read_solution(solution)
    try:
        alone = scored(problem, answer)
    except InputError as error:
        raise InputError(f"{error} (scored on {instance})", file=solution) from None
    references = _best_known(instance, problem)
    with stopping() as stop:
        if method is not None:
            limits = {"time_limit": time_limit, "seed": seed, "threads": threads}
            references.append(_found(problem, method, stop, limits, own))
        result = replace(alone, references=tuple(references))
        if as_json:
            click.echo(json.dumps(_document(problem, answer, solution, result), indent=2, ensure_ascii=False))
        else:
            _show(problem, answer, result)
        for line in result.crossings():
            click.echo(f"ERROR {one_line(line)}", err=True)
        if stop.interrupted:
            return INTERRUPTED
    return 1 if result.crossings() else 0


def _best_known(file: str, instance: Instance) -> list[Reference]:
    from moeplace.caching.scoring import Reference
    from moeplace.library import BEST_KNOWN, read_best_known

    known = read_best_known(Path(file).parent).get(instance.name)
    if known is None or known.sha256 != instance.sha256:
        return []
    return [Reference(BEST_KNOWN, known.latency_ns, known.bound_ns)]


def _found(instance: Instance, method: str, stop: Stop, limits: dict[str, Any], own: dict[str, Any]) -> Reference:
    import moeplace
    from moeplace.caching.scoring import Reference

    with screen.progress_line(method, int(instance.tokens.sum()), stop) as progress:
        solution = moeplace.solve(instance, method, progress=progress, **limits, **own)
    return Reference(solution.method or method, solution.value, solution.bound)


def _document(instance: Instance, solution: Solution, file: str, result: Score) -> dict[str, Any]:
    return {
        "instance": {"name": instance.name, "sha256": instance.sha256},
        "solution": {
            "file": file,
            "instance": {"name": solution.instance.name, "sha256": solution.instance.sha256},
            "method": solution.method,
            "saving": _own_saving(solution),
        },
        "tokens": int(instance.tokens.sum()),
        **result.document(),
        "errors": result.crossings(),
    }


def _own_saving(solution: Solution) -> float | None:
    said = solution.objective
    return (said.baseline_ns - solution.value) / said.baseline_ns if said.baseline_ns else None


def _show(instance: Instance, solution: Solution, result: Score) -> None:
    from moeplace.caching.shown import headline

    tokens = int(instance.tokens.sum()) or 1

    def per_token(ns: int) -> str:
        return duration(ns / tokens)

    same = solution.instance.sha256 == instance.sha256
    made = "this very instance" if same else one_line(solution.instance.name)
    by = f" by {one_line(solution.method)}" if solution.method else ""
    lines = [
        ("instance", headline(instance)),
        ("placement", f"made for {made}{by}; saved {percent(_own_saving(solution))} there"),
        (
            "latency",
            f"{per_token(result.baseline_ns)} → {per_token(result.latency_ns)} per token, "
            f"{percent(result.saving)} saved here",
        ),
    ]
    if result.loading_ns is not None:
        loading = f"{per_token(result.loading_ns)} per token for what the servers here do not hold"
        lines.append(("loading", f"{loading}; saving and regret are of both together"))
    for reference in result.references:
        saving = (result.baseline_ns - reference.latency_ns) / result.baseline_ns if result.baseline_ns else 0.0
        text = f"{per_token(reference.latency_ns)} per token, {percent(saving)} saved"
        lines.append(("reference", f"{reference.by}: {text}"))
    best, lost = result.best, result.saving_lost
    if best is None or result.regret_ns is None:
        lines.append(("regret", "nothing to compare with; --method finds a placement for this instance"))
    else:
        share = "" if lost is None else f", {percent(lost)} of what {best.by} saves"
        what = f"{per_token(abs(result.regret_ns))} per token"
        said = f"{what}{share}" if result.regret_ns >= 0 else f"none: better than {best.by} by {what}"
        lines.append(("regret", said))
    bound = result.bound
    if bound is None or result.gap is None:
        lines.append(("gap", "no bound: nothing is proven" if bound is None else "not stated (see the error)"))
    else:
        proven = f"no placement here is below {per_token(bound.bound_ns or 0)} per token ({bound.by})"
        lines.append(("gap", f"{gap_percent(result.gap)}: {proven}"))
    screen.show(screen.facts(lines))

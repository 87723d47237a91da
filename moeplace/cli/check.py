"""``moeplace check``: recompute everything a solution says."""

from __future__ import annotations

import json

import click

from moeplace.base.errors import naming
from moeplace.base.text import NOTHING, gap_percent, number, one_line
from moeplace.cli import screen
from moeplace.cli.options import file_name, instance_argument, json_option


@click.command(epilog="Exit codes: 0 everything holds, 1 the solution is wrong, 2 a file is no such document.")
@instance_argument
@click.argument("solution", type=file_name, metavar="SOLUTION")
@click.option("--certificate", type=file_name, metavar="FILE", help="What proves the bound: verify it, too.")
@json_option
def check(instance: str, solution: str, certificate: str | None, as_json: bool) -> int:
    """Recompute everything that SOLUTION says of INSTANCE, with code that shares nothing with the solvers.

    Prints each violated constraint and each wrong number on a line of its own. A bound is compared with the
    numbers that depend on it, but what proves it is not in the file: without a certificate it is "claimed, not
    verified". What a certificate proves is recomputed in exact arithmetic and needs no trust; one that names a solver
    says whose word the bound rests on.
    """
    import moeplace
    from moeplace.base.files import read_json
    from moeplace.base.result import relative_gap
    from moeplace.problems import check_same_problem, load_with_problem

    problem, loaded = load_with_problem(instance)
    answer = moeplace.read_solution(solution)
    proof = None
    with naming(solution):
        check_same_problem(problem, answer)
    if certificate is not None:
        given = read_json(certificate)
        with naming(certificate):
            proof = problem.read_certificate(given)
    report = problem.check(loaded, answer, proof)
    cost, bound, view = report.value, answer.bound, problem.view
    proven = relative_gap(cost, bound) if cost is not None and bound is not None and 0 <= bound <= cost else None
    if as_json:
        document = report.document() | {report.bound_key: bound, "gap": proven}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return 0 if report.ok else 1
    for violation in report.violations:
        click.echo(one_line(violation))

    def said(amount: int | None, without: str) -> str:
        return f"{NOTHING}{without}" if amount is None else view.exact(loaded, amount)

    lines = [(view.cost, said(cost, f" ({view.lost})"))]
    if report.reference is not None:
        lines.append((view.reference(loaded), said(report.reference, "")))
    if bound is None or proven is None:
        lines.append(("bound", report.bound if bound is None else f"{report.bound}, and not possible"))
    else:
        lines.append(("bound", f"{said(bound, '')}: {report.bound}"))
        condition = "" if report.bound.startswith("verified") else ", if the bound holds"
        lines.append(("gap", f"{gap_percent(proven)}{condition}"))
    verdict = "valid" if report.ok else f"WRONG, {number(len(report.violations), 'violation')}"
    lines.append(("verdict", f"{verdict} (recomputed: {view.checked})"))
    screen.show(screen.facts(lines))
    return 0 if report.ok else 1

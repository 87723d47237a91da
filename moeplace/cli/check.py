"""``moeplace check``: recompute everything a solution says."""

from __future__ import annotations

import json

import click

from moeplace.base.text import NOTHING, duration, gap_percent, number, one_line
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
    verified". A certificate's cut is recomputed in exact arithmetic and needs no trust; one that names a solver says
    whose word the bound rests on.
    """
    import moeplace
    from moeplace.base.result import gap

    problem, answer = moeplace.load(instance), moeplace.read_solution(solution)
    proof = None
    if certificate is not None:
        from moeplace.base.certificates import read_certificate

        proof = read_certificate(certificate)
    report = moeplace.check(problem, answer, proof)
    cost, bound = report.latency_ns, answer.objective.bound_ns
    proven = gap(cost, bound) if cost is not None and bound is not None and 0 <= bound <= cost else None
    if as_json:
        document = report.document() | {"bound_ns": bound, "gap": proven}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return 0 if report.ok else 1
    for violation in report.violations:
        click.echo(one_line(violation))
    tokens = int(problem.tokens.sum())

    def said(ns: int | None) -> str:
        if ns is None:
            return f"{NOTHING} (the placement names what the instance has not)"
        return f"{ns} token-ns" + (f", {duration(ns / tokens)} per token" if tokens else "")

    lines = [("latency", said(cost)), ("empty servers", said(report.baseline_ns))]
    if bound is None or proven is None:
        lines.append(("bound", report.bound if bound is None else f"{report.bound}, and not possible"))
    else:
        lines.append(("bound", f"{said(bound)}: {report.bound}"))
        condition = "" if report.bound.startswith("verified") else ", if the bound holds"
        lines.append(("gap", f"{gap_percent(proven)}{condition}"))
    verdict = "valid" if report.ok else f"WRONG, {number(len(report.violations), 'violation')}"
    checked = "recomputed: names, capacities, latency, gap, status, hash"
    lines.append(("verdict", f"{verdict} ({checked})"))
    screen.show(screen.facts(lines))
    return 0 if report.ok else 1

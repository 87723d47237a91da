"""Benchmark of the exact formulations: textbook against aggregated MILP against CP-SAT, to proof.

Every formulation builds its model of every instance of a set and runs on one thread, from the same good placement,
until it has proven optimality or reached the limit. The table is written with the machine and the versions::

    python scripts/benchmarks/exact.py [--set small] [--time-limit 120] [-o docs/benchmarks/exact.md]
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import click
from pages import machine, save, table

import moeplace
from moeplace.base.registry import find_formulation
from moeplace.library import instance_files

FORMULATIONS: dict[str, tuple[str, dict[str, bool]]] = {
    "textbook": ("milp-textbook", {}),
    "milp without RLT": ("milp", {"rlt": False}),
    "milp": ("milp", {}),
    "cpsat": ("cpsat", {}),
}


@dataclass
class Run:
    """One formulation on one instance; ``seconds`` is the limit where it was reached."""

    build_s: float
    columns: int
    rows: int
    proven: bool
    seconds: float
    latency_ns: int
    bound_ns: int | None
    gap: float | None


def run(instance: moeplace.Instance, label: str, limit: float) -> Run:
    """Build and size the model by itself, then solve the instance from scratch."""
    method, options = FORMULATIONS[label]
    began = time.perf_counter()
    model = find_formulation(method)(instance, **options)
    build_s = time.perf_counter() - began
    if method == "cpsat":
        columns, rows = len(model.model.proto.variables), len(model.model.proto.constraints)
    else:
        from moeplace.solvers.highs import compile_model

        rows, columns = compile_model(model).rows.shape
    start = moeplace.solve(instance, "local-search")
    solution = moeplace.solve(instance, method, time_limit=limit, start=start, **options)
    assert moeplace.check(instance, solution).ok
    assert solution.wall_s is not None
    proven = solution.status.solution == "optimal"
    said = solution.objective
    seconds = solution.wall_s if proven else limit
    return Run(build_s, columns, rows, proven, seconds, said.latency_ns, said.bound_ns, said.gap)


def check_crossings(name: str, runs: dict[str, Run]) -> None:
    """Fail if one formulation's cost is below another's bound."""
    best = min(r.latency_ns for r in runs.values())
    for label, r in runs.items():
        assert r.bound_ns is None or r.bound_ns <= best, f"{name}: the bound of {label} is above the cost {best}"


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean; times below a millisecond count as one."""
    return math.exp(sum(math.log(max(v, 1e-3)) for v in values) / len(values))


def report(results: dict[str, dict[str, Run]], limit: float, set_name: str) -> str:
    """Return the Markdown page."""
    lines = [
        f"# Exact formulations to proof: `instances/{set_name}`",
        "",
        f"Written by `scripts/benchmarks/exact.py` on {date.today()}.",
        f"Limit {limit:g} s a run. A time is wall time of building and solving until optimality is proven in",
        "integers; a run that reached its limit counts with the limit and is marked with its gap, so that where only",
        "`textbook` did, the ratios are too small rather than too large.",
        "`textbook` is the method `milp-textbook`. All start from the same placement, that of `local-search`, which is",
        "not timed.",
        "",
        "## Summary",
        "",
    ]
    summary: list[list[object]] = []
    base = geometric_mean([runs["textbook"].seconds for runs in results.values()])
    for label in FORMULATIONS:
        of = [runs[label] for runs in results.values()]
        mean = geometric_mean([r.seconds for r in of])
        proven = sum(r.proven for r in of)
        summary.append([label, proven, len(of) - proven, f"{mean:.2f}", f"{base / mean:.1f}"])
    best = geometric_mean([min(r.seconds for k, r in runs.items() if k != "textbook") for runs in results.values()])
    summary.append(["the faster aggregated one, instance by instance", "", "", f"{best:.2f}", f"{base / best:.1f}"])
    only = [n for n, runs in results.items() if not runs["textbook"].proven and any(r.proven for r in runs.values())]
    times = [
        [f"`{name}`",
         *(f"{r.seconds:.2f}" if r.proven else f"limit, gap {100 * (r.gap or 1):.2g} %" for r in runs.values())]
        for name, runs in results.items()
    ]  # fmt: skip
    sizes = [
        [f"`{name}`", *(f"{r.columns:,} x {r.rows:,}, {r.build_s:.2f}" for r in runs.values())]
        for name, runs in results.items()
    ]
    lines += [
        table(["formulation", "proven", "at the limit", "geometric mean s", "times faster than textbook"], summary),
        "",
        f"Proven by an aggregated model and not by the textbook one: {len(only)} of {len(results)} instances.",
        "",
        "## Time to proof, seconds",
        "",
        table(["instance", *FORMULATIONS], times),
        "",
        "## Size (columns x rows) and build time, seconds",
        "",
        table(["instance", *FORMULATIONS], sizes),
        "",
        machine("pyomo", "highspy", "ortools", "numpy", threads="One thread a run"),
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.option("--set", "set_name", default="small", show_default=True, help="Set of the instance library.")
@click.option("--time-limit", default=120.0, show_default=True, help="Seconds a run.")
@click.option(
    "-o", "output", type=click.Path(path_type=Path), default=Path("docs/benchmarks/exact.md"), show_default=True
)
def main(set_name: str, time_limit: float, output: Path) -> None:
    """Run the benchmark and write its page."""
    results: dict[str, dict[str, Run]] = {}
    warm = moeplace.load(instance_files("tiny")[0])
    for label in FORMULATIONS:
        run(warm, label, time_limit)  # imports and first calls are nobody's time
    for path in instance_files(set_name):
        instance = moeplace.load(path)
        runs = results[instance.name] = {}
        for label in FORMULATIONS:
            runs[label] = run(instance, label, time_limit)
            click.echo(f"{instance.name}  {label}: {runs[label].seconds:.2f} s, proven {runs[label].proven}", err=True)
        check_crossings(instance.name, runs)
        save(output, report(results, time_limit, set_name))


if __name__ == "__main__":
    main()

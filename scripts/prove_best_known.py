#!/usr/bin/env python3
"""Prove the instances of a set and keep the results: ``python scripts/prove_best_known.py SET [INSTANCE...]``.

Runs methods on every instance until one proves it, or takes solution files (``--solution``), and writes
``best_known.json``: the lowest cost that the checker confirmed and the highest proven bound. Only improvements are
written; a cost below a bound stops the run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

from moeplace import Instance, Solution, check, load, read_solution, solve
from moeplace.documents import BestKnown
from moeplace.errors import MethodLimitError
from moeplace.files import write_bytes
from moeplace.library import BEST_KNOWN, best_known, instance_files, instance_name
from moeplace.registry import find_method, own_parameters


def improve(known: BestKnown | None, instance: Instance, solution: Solution) -> BestKnown:
    """Return what is known after a solution: the record itself, or a better one.

    Raises
    ------
    ValueError
        The checker rejects the solution, or a cost is below a bound.
    """
    report = check(instance, solution)
    if not report.ok:
        raise ValueError(f"{instance.name}: {solution.method} is wrong: {'; '.join(report.violations)}")
    cost, bound = solution.objective.latency_ns, solution.objective.bound_ns
    cost_by, bound_by = solution.method, solution.bound_source
    if known is not None and known.sha256 == instance.sha256:
        if known.latency_ns <= cost:
            cost, cost_by = known.latency_ns, known.latency_method
        if known.bound_ns is not None and (bound is None or known.bound_ns >= bound):
            bound, bound_by = known.bound_ns, known.bound_method
        if (cost, bound) == (known.latency_ns, known.bound_ns):
            return known
    if bound is not None and cost < bound:
        raise ValueError(f"{instance.name}: the cost {cost} ({cost_by}) is below the bound {bound} ({bound_by})")
    return BestKnown(
        sha256=instance.sha256,
        latency_ns=cost,
        bound_ns=bound,
        optimal=cost == bound,
        latency_method=cost_by,
        bound_method=bound_by,
        version=version("moeplace"),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def write(path: Path, records: dict[str, BestKnown]) -> None:
    """Write the records, one line an instance, by name."""
    lines = (f"  {json.dumps(name)}: {json.dumps(msgspec.to_builtins(records[name]))}" for name in sorted(records))
    write_bytes(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Prove the instances of a set and record what is best known.")
    parser.add_argument("set")
    parser.add_argument("instances", nargs="*", help="names (default: all of the set)")
    parser.add_argument("--methods", default="cpsat,milp", help="comma-separated, tried in turn (default: cpsat,milp)")
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds for each run (default: 120)")
    parser.add_argument(
        "-p",
        "--param",
        action="append",
        metavar="KEY=VALUE",
        default=[],
        help="a parameter (an int) of methods that have it",
    )
    parser.add_argument("--solution", action="append", metavar="FILE", help="take this file; run nothing; repeatable")
    options = parser.parse_args(arguments)
    parameters = {key: int(value) for key, _, value in (text.partition("=") for text in options.param)}
    paths = {instance_name(path): path for path in instance_files(options.set)}
    if unknown := set(options.instances) - set(paths):
        print(f"no instance of the set: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    records = {name: record for name, record in best_known(options.set).items() if name in paths}
    for file in options.solution or ():
        solution = read_solution(file)
        path = paths[solution.instance.name]
        instance = load(path)
        records[instance.name] = improve(records.get(instance.name), instance, solution)
        write(path.parent / BEST_KNOWN, records)
    if options.solution:
        return 0
    for name in options.instances or paths:
        path = paths[name]
        instance = load(path)
        if name in records and records[name].sha256 != instance.sha256:
            del records[name]  # of an instance that has changed: worth nothing
        for method in options.methods.split(","):
            try:
                own = own_parameters(find_method(method)) or {}
                solution = solve(
                    instance, method, time_limit=options.time_limit, **{k: v for k, v in parameters.items() if k in own}
                )
            except MethodLimitError as error:
                print(f"{name}: {method} refuses: {error}", flush=True)
                continue
            records[name] = improve(records.get(name), instance, solution)
            print(
                f"{name}: {method} {solution.status.termination}, gap {solution.objective.gap}, {solution.wall_s} s",
                flush=True,
            )
            write(path.parent / BEST_KNOWN, records)
            if records[name].optimal:
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())

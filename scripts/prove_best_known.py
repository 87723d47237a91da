#!/usr/bin/env python3
"""Prove the instances of a set and keep the results: ``python scripts/prove_best_known.py SET [INSTANCE...]``.

Runs methods on every instance until one proves it, or takes solution files (``--solution``), and writes
``best_known.json``: the lowest cost that the checker confirmed and the highest proven bound. Only improvements are
written; a cost below a bound stops the run.
"""

from __future__ import annotations

import argparse
import sys

from moeplace import load, read_solution, solve
from moeplace.errors import MethodLimitError
from moeplace.library import best_known, improved, instance_files, instance_name, write_best_known
from moeplace.registry import find_method, own_parameters


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
        records[instance.name] = improved(records.get(instance.name), instance, solution)
        write_best_known(path.parent, records)
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
            records[name] = improved(records.get(name), instance, solution)
            print(
                f"{name}: {method} {solution.status.termination}, gap {solution.objective.gap}, {solution.wall_s} s",
                flush=True,
            )
            write_best_known(path.parent, records)
            if records[name].optimal:
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Exact methods and checker against brute force on random tiny instances; exit 1 on any difference.

    python scripts/verify_exact.py [--instances 1000] [--seed 0]

Every instance (up to 16 placement variables; "max" and "sum", unequal sizes, several models, device experts,
servers out of reach) is solved by ``milp``, ``milp-textbook`` and ``cpsat``: cost, bound and brute force must be equal
and the checker must accept. Then each solution is changed in one place after the other (hash, numbers, status, names,
pairs, capacity): the checker must reject every change and name the place.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from mutations import mutations
from random_instances import brute_force, random_instance

import moeplace

METHODS = ("milp", "milp-textbook", "cpsat")


def verify(seed: int, tally: Counter[str]) -> list[str]:
    """Return what is wrong with the methods or the checker on the instance of a seed."""
    wrong = []
    instance = random_instance(seed, 16)
    optimum = brute_force(instance)
    tally[f"instances, {instance.latency_model}"] += 1
    for method in METHODS:
        try:
            solution = moeplace.solve(instance, method)
        except moeplace.MoeplaceError as error:
            wrong.append(f"seed {seed}, {method}: {error}")
            continue
        cost, bound = solution.objective.latency_ns, solution.objective.bound_ns
        if not cost == bound == optimum or solution.status.termination != "optimal":
            ended = solution.status.termination
            wrong.append(f"seed {seed}, {method}: cost {cost}, bound {bound}, optimum {optimum}, ended {ended}")
        violations = moeplace.check(instance, solution).violations
        wrong += [f"seed {seed}, {method}: the checker says {line}" for line in violations]
        tally["solutions equal to brute force"] += not wrong
        for what, changed, place in mutations(instance, solution):
            lines = moeplace.check(instance, changed).violations
            tally["mutations rejected"] += bool(lines)
            if not any(line.startswith(place) for line in lines):
                wrong.append(f"seed {seed}, {method}: mutation not rejected at {place} {what}; {lines}")
    return wrong


def main() -> int:
    """Verify and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first instance")
    arguments = parser.parse_args()
    began, wrong, tally = time.perf_counter(), 0, Counter[str]()
    for seed in range(arguments.seed, arguments.seed + arguments.instances):
        for line in verify(seed, tally):
            print(line, flush=True)
            wrong += 1
    for what, number in sorted(tally.items()):
        print(f"{number:>9,}  {what}")
    print(f"{wrong:>9,}  differences, {time.perf_counter() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Counts instead of seconds: what methods do on fixed instances, compared with ``docs/benchmarks/counts.csv``.

    python scripts/benchmarks/counts.py [--update] [INSTANCE...]

Every work is fixed: one thread, seed 0, no time limit, so many checkpoints of the concave bound. Exit code 1 where a
count differs, each named; ``--update`` writes the table anew. Counts are the same each time on one machine with one set
of versions. On another one the descents, which are in floats, may take another way: nodes, rounds, plans, states, kicks
and cuts, and the concave bound, may then differ without anything being wrong. Costs of ``successive-greedy`` and
``local-search`` are integers all the way and may not.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import moeplace
from moeplace import Instance
from moeplace.base.stop import stopping
from moeplace.caching.bounds.by_layers import CachingLayers, refuses
from moeplace.caching.bounds.concave import ConcaveBound
from moeplace.caching.heuristics.climb import climbed
from moeplace.caching.saving import saving_form
from moeplace.caching.searching import caching_incumbent

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs/benchmarks/counts.csv"
CHECKPOINTS = 60
"""Of the concave bound."""

INSTANCES = (
    "tiny/tiny_pair_across_servers.json",
    "tiny/tiny_two_models_two_sizes.json",
    "small/small_device_l04e08k2_s3_u50_c075_seed1.json",
    "small/small_l02e06k4_s3_u40_c090_seed2.json",
    "small/small_l03e06k2_s4_u60_c060_seed19.json",
    "small/small_l04e08k2_s3_u60_c120_seed12.json",
    "small/small_l06e16k1_s5_u80_c075_seed1.json",
    "small/small_sizes_l04e08k2_s3_u50_c060_seed1.json",
    "small/small_sum_l06e16k2_s5_u80_c075_seed1.json",
    "small/small_two_l02e08k2_s3_u40_c060_seed1.json",
    "medium/moe-llava-phi2_s5_u60_c150_seed1.json.gz",
    "real/gpt-oss-20b_melbourne_cut_l04_s3_u12_c264.json",
)
"""Both latency models, unequal sizes, several models, experts on devices, a generated and a measured routing."""

Key = tuple[str, str, str]


def counted(name: str, instance: Instance) -> dict[Key, int]:
    """Return every count of every method on an instance."""
    counts: dict[Key, int] = {}
    form = saving_form(instance)
    if refuses(instance) is None:
        with stopping(None) as stop:
            search = caching_incumbent(instance, stop, climbed(form, None, None, 1), 0.0, None)
            proof = CachingLayers(form, search, 1).proof()
            proof.run()
        numbers = dataclasses.asdict(proof.counts) | {"cost": search.latency_ns, "bound": search.bound_ns}
        counts |= {(name, "layer-enumeration", key): value for key, value in numbers.items() if value is not None}
    left = iter(range(CHECKPOINTS))
    concave = ConcaveBound(form)
    concave.improve(lambda: next(left, None) is None)
    numbers = {"passes": concave.passes, "cuts": concave.made, "bound": concave.best.bound_ns}
    counts |= {(name, "concave", key): value for key, value in numbers.items()}
    for method in ("column-generation", "local-search", "successive-greedy"):
        parameters = {"kicks": 4} if method == "column-generation" else {}
        solution = moeplace.solve(instance, method, seed=0, threads=1, **parameters)
        numbers = {key: value for key, value in solution.details.items() if type(value) is int}
        numbers |= {"cost": solution.objective.latency_ns, "bound": solution.objective.bound_ns}
        counts |= {(name, method, key): value for key, value in numbers.items() if value is not None}
    return counts


def read(path: Path) -> dict[Key, int]:
    """Return the counts of a table."""
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["instance"], row["method"], row["count"]): int(row["value"]) for row in csv.DictReader(file)}


def write(path: Path, counts: dict[Key, int]) -> None:
    """Write a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("instance", "method", "count", "value"))
        rows.writerows((*key, value) for key, value in counts.items())


def differences(before: dict[Key, int], now: dict[Key, int]) -> list[str]:
    """Return a line for each count that is another one, new or gone."""
    return [
        f"{' '.join(key)}: {before.get(key, '-')} in the table, {now.get(key, '-')} now"
        for key in dict.fromkeys((*before, *now))
        if before.get(key) != now.get(key)
    ]


def main(arguments: Sequence[str], table: Path = TABLE) -> int:
    """Count, then compare or write."""
    parser = argparse.ArgumentParser(description="Counts of methods on fixed instances, compared with a table.")
    parser.add_argument("--update", action="store_true", help="write the table anew")
    parser.add_argument("instances", nargs="*", default=INSTANCES, help="as in instances/: tiny/NAME.json")
    given = parser.parse_args(arguments)
    now: dict[Key, int] = {}
    for name in given.instances:
        now |= counted(name, moeplace.load(ROOT / "instances" / name))
    old = read(table) if table.exists() else {}
    if given.update:
        write(table, {key: value for key, value in old.items() if key[0] not in given.instances} | now)
        return 0
    found = differences({key: value for key, value in old.items() if key[0] in given.instances}, now)
    print("\n".join(found) or f"{len(now)} counts as in the table")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

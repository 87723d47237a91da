"""No objective of any method beats another method's bound, on the shipped instances that every method takes soon."""

from __future__ import annotations

from pathlib import Path

import pytest

import moeplace
from moeplace.base.errors import MethodLimitError
from moeplace.base.registry import method_names
from moeplace.library import best_known, instance_files, instance_name


def _name(path: Path) -> str:
    return f"{path.parent.name}/{instance_name(path)}"


LARGER = (
    "medium/gpt-oss-20b_l06_s4_u30_c100_seed1",
    "medium/moe-llava-phi2_s5_u60_c150_seed1",
    "medium/switch-base-8_s3_u60_c040_seed1",
    "real/gpt-oss-20b_melbourne_s8_u48_c060",
    "real/gpt-oss-20b_melbourne_cut_l04_s3_u12_c264",
)
FILES = [
    *instance_files("tiny"),
    *instance_files("small")[::2],
    *(path for path in instance_files() if _name(path) in LARGER),
]


def test_the_larger_ones_are_there() -> None:
    assert {_name(path) for path in FILES} >= set(LARGER)


@pytest.mark.parametrize("path", FILES, ids=instance_name)
def test_no_cost_is_below_a_bound(path: Path) -> None:
    instance = moeplace.load(path)
    known = best_known(path.parent.name)[instance.name]
    costs, bounds = {"best_known.json": known.latency_ns}, {}
    if known.bound_ns is not None:
        bounds["best_known.json"] = known.bound_ns
    for method in method_names():
        try:
            solution = moeplace.solve(instance, method, time_limit=0.2)
        except MethodLimitError:
            continue
        assert moeplace.check(instance, solution).violations == ()
        costs[method] = solution.objective.latency_ns
        if solution.objective.bound_ns is not None:
            bounds[method] = solution.objective.bound_ns
    assert len(costs) > 5
    crossings = [(m, cost, b, bound) for m, cost in costs.items() for b, bound in bounds.items() if cost < bound]
    assert crossings == []

"""No objective of any method beats another method's bound, on every shipped instance."""

from __future__ import annotations

from pathlib import Path

import pytest

import moeplace
from moeplace.errors import MethodLimitError
from moeplace.library import best_known, instance_files
from moeplace.registry import method_names

FILES = instance_files()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.split(".json")[0])
def test_no_cost_is_below_a_bound(path: Path) -> None:
    instance = moeplace.load(path)
    known = best_known(path.parent.name)[instance.name]
    costs, bounds = {"best_known.json": known.latency_ns}, {}
    if known.bound_ns is not None:
        bounds["best_known.json"] = known.bound_ns
    for method in method_names():
        try:
            solution = moeplace.solve(instance, method, time_limit=0.5)
        except MethodLimitError:
            continue
        assert moeplace.check(instance, solution).violations == ()
        costs[method] = solution.objective.latency_ns
        if solution.objective.bound_ns is not None:
            bounds[method] = solution.objective.bound_ns
    assert len(costs) > 5
    crossings = [(m, cost, b, bound) for m, cost in costs.items() for b, bound in bounds.items() if cost < bound]
    assert crossings == []

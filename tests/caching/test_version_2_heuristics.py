"""Heuristics where demands have no cloud, loading costs something and slots limit a layer: against brute force."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
from random_instances import brute_force_2, naive_cost_2, pairs_of, random_document_2

import moeplace
from moeplace import Instance, solve
from moeplace.base.errors import NoSolutionError
from moeplace.base.stop import Stop
from moeplace.caching.evaluation import cost_ns
from moeplace.caching.heuristics.covering import cover

METHODS: dict[str, list[dict[str, Any]]] = {
    "greedy": [{}, {"lazy": False}, {"enumerate": 2}],
    "successive-greedy": [{}, {"enumerate": 0, "passes": 1}, {"enumerate": 0, "cuts": True, "nodes": 50}],
    "max-convolution": [{}, {"epsilon": 0.5, "order": "given"}],
    "local-search": [{}, {"kicks": 4}],
    "column-generation": [{"kicks": 4}],
}

SEEDS = {"greedy": 90, "successive-greedy": 90, "column-generation": 50}
"""Fewer for the slower ones."""


@functools.cache
def known(seed: int) -> tuple[dict[str, Any], Instance, int | None]:
    """Return the random instance of a seed and its least cost, None where there is no placement."""
    document = random_document_2(np.random.default_rng(seed), max_variables=8)
    return document, Instance.from_document(document), brute_force_2(document)


@pytest.mark.parametrize("method", METHODS)
def test_every_placement_keeps_the_rules_and_there_is_one_where_there_can_be(method: str) -> None:
    optimal = solved = 0
    for seed in range(SEEDS.get(method, 160)):
        document, instance, best = known(seed)
        for parameters in METHODS[method]:
            told = seed, method, parameters
            if best is None:
                with pytest.raises(NoSolutionError):
                    solve(instance, method, **parameters)
                continue
            solution = solve(instance, method, seed=seed, **parameters)
            placement = moeplace.Placement(solution_held(instance, solution))
            assert moeplace.check(instance, solution).ok, told
            assert placement.fits(instance), told
            assert sum(naive_cost_2(document, pairs_of(instance, placement)) or ()) == solution.value, told
            assert solution.value >= best, told
            if solution.objective.bound_ns is not None:
                assert solution.objective.bound_ns <= best, told
            if solution.guarantee is not None:
                share = claimed(solution.guarantee)
                assert instance.baseline_ns - solution.value >= share * (instance.baseline_ns - best) - 1e-9, told
            solved += 1
            optimal += solution.value == best
    assert optimal > 0.7 * solved


def claimed(guarantee: str) -> float:
    if guarantee.startswith("optimal"):
        return 1.0
    share = guarantee.split(" at least ")[1].split(" of the best")[0]
    ratios = {"1 - 1/e": 1 - 1 / math.e, "(1 - 1/e)/2": (1 - 1 / math.e) / 2, "1/2": 0.5}
    return ratios[share] if share in ratios else float(share)


def solution_held(instance: Instance, solution: moeplace.Solution) -> np.ndarray:
    held = np.zeros((len(instance.servers), instance.n_items), dtype=np.bool_)
    for part in solution.placement:
        n, m = instance.server_index[part.server], instance.model_index[part.model]
        for layer, expert in part.experts:
            held[n, instance.item(m, layer, expert)] = True
    return held


def test_nothing_is_made_worse_than_its_start() -> None:
    for seed in range(60):
        _, instance, best = known(seed)
        if best is None:
            continue
        start = cover(instance, Stop(None))
        for method in METHODS:
            assert solve(instance, method, start=start, seed=seed).value <= cost_ns(instance, start), (seed, method)


def test_requirements_are_kept_although_their_price_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moeplace.caching.saving.MOST_PENALTY", 1)
    for seed in range(30):
        _, instance, best = known(seed)
        if best is None:
            continue
        for method in METHODS:
            solution = solve(instance, method, seed=seed)
            assert moeplace.check(instance, solution).ok, (seed, method)
            assert solution.value >= best, (seed, method)

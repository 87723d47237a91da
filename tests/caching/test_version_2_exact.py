"""Exact methods on instances of version 2: equal to brute force, with a start and from nothing; files for others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import pytest
from random_instances import brute_force_2, random_document_2, random_instance_2
from solved import solved

import moeplace
from moeplace import Instance, Placement
from moeplace.base.errors import InputError, NoSolutionError
from moeplace.base.incumbent import Incumbent
from moeplace.base.registry import find_formulation
from moeplace.base.result import SOLVER_FAILURE
from moeplace.base.stop import Stop
from moeplace.caching.evaluation import cost_ns
from moeplace.caching.formulations import export, improve, placement_of_values
from moeplace.caching.methods.flow import flow as flow_method
from moeplace.caching.methods.flow import refuses
from moeplace.caching.searching import caching_incumbent

SOLVERS = ["milp", "cpsat", "milp-textbook"]
FLOW = f"{flow_method.__module__}:{flow_method.__name__}"


def from_nothing(instance: Instance, method: str) -> tuple[int, int | None, str | None]:
    """Solve a formulation without a start, so that it alone finds a placement or that there is none."""
    search = Incumbent(
        None,
        cost=lambda placement: cost_ns(instance, placement),
        fits=lambda placement: placement.fits(instance),
        stop=Stop(),
        ceiling=instance.baseline_ns + instance.most_loading_ns + 1,
    )
    improve(method, instance, search, seed=0, threads=1)
    search.outcome()
    return search.latency_ns, search.bound_ns, search.bound_source


def test_exact_methods_equal_brute_force() -> None:
    seen: Counter[str] = Counter()
    seed = -1
    while seen["instances"] < 500:
        seed += 1
        document = random_document_2(np.random.default_rng(seed), 7 + seed % 2)
        optimum = brute_force_2(document)
        if optimum is None and seen["none"] > seen["instances"] // 5:
            continue  # half of what is drawn has no solution
        instance = Instance.from_document(document)
        method = SOLVERS[seen["instances"] % 3]
        methods = [] if refuses(instance) else [FLOW]
        # A start is hard to find only where there is coverage: there every other one is solved from nothing.
        if instance.coverage is None or seed % 2:
            methods.append(method)
        else:
            try:
                cost, bound, source = from_nothing(instance, method)
                assert (cost, bound) == (optimum, optimum), (seed, method, source)
            except NoSolutionError:
                assert optimum is None, (seed, method)
            seen["from nothing"] += 1
        for method in methods:
            try:
                solution = solved(instance, method)
                assert (solution.value, solution.bound) == (optimum, optimum), (seed, method)
                assert SOLVER_FAILURE not in solution.details, (seed, method)
                assert solution.status.termination == "optimal", (seed, method)
            except NoSolutionError:
                assert optimum is None, (seed, method)
        seen["instances"] += 1
        seen["flow"] += FLOW in methods
        seen["none"] += optimum is None
        if optimum is not None:
            seen["coverage"] += instance.coverage is not None
            seen["loading"] += instance.load_block_ns is not None
            seen["slots"] += bool((instance.layer_slots < np.diff(instance.block_start).max()).any())
    assert min(seen.values()) > 40, seen


def test_a_search_never_ends_with_worse_than_what_is_held() -> None:
    kept = 0
    for seed in range(150):
        instance = random_instance_2(seed)
        if instance.holds is None or not (held := Placement(instance.holds)).fits(instance):
            continue
        kept += 1
        search = caching_incumbent(instance, Stop(0))
        assert search.latency_ns <= cost_ns(instance, held), seed
    assert kept > 5


def test_exported_models_are_those_that_are_solved(tmp_path: Path) -> None:
    done = 0
    for seed in range(30):
        document = random_document_2(np.random.default_rng(seed), 8)
        optimum = brute_force_2(document)
        instance = Instance.from_document(document)
        if optimum is None or instance.coverage is None:
            continue
        done += 1
        for model in ("milp", "milp-textbook"):
            path = tmp_path / f"{seed}-{model}.mps"
            export(instance, model, path)
            highs = highspy.Highs()
            highs.setOptionValue("output_flag", False)
            highs.readModel(str(path))
            highs.run()
            values = dict(zip(highs.getLp().col_names_, highs.getSolution().col_value, strict=True))
            placement = placement_of_values(instance, values)
            assert cost_ns(instance, placement) == optimum, (seed, model)
            with pytest.raises(InputError, match="demands without a cloud reach no other"):
                placement_of_values(instance, dict.fromkeys(values, 0.0))
    assert done > 5


def server(name: str, capacity: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "capacity_bytes": capacity, **more}


def one_layer(
    servers: list[dict[str, Any]],
    experts: int,
    rows: list[tuple[int, int]],
    *,
    size: int = 1,
    times: list[int | None] | None = None,
    **more: Any,
) -> Instance:
    """One model of one layer, one demand without a cloud; rows of (expert, tokens)."""
    times = times or [1 + n for n in range(len(servers))]
    return Instance.from_document(
        {
            "format": "moeplace/instance",
            "version": 2,
            "name": "one layer",
            "latency_model": "max",
            "models": [{"name": "m", "layers": 1, "experts": experts, "top_k": 1, "expert_bytes": size}],
            "servers": servers,
            "demands": [
                {
                    "user": "u",
                    "model": "m",
                    "tokens": max(1, sum(count for _, count in rows)),
                    "device_ns": 0,
                    "server_ns": times,
                    "cloud_ns": None,
                }
            ],
            "activations": {
                "demand": [0] * len(rows),
                "layer": [0] * len(rows),
                "experts": [[expert] for expert, _ in rows],
                "count": [count for _, count in rows],
            },
            **more,
        }
    )


def test_loading_that_differs_by_one_unit_among_huge_ones() -> None:
    """Bounds hold and CP-SAT is exact up to 2**61, wherever the price is; beyond, prices are rounded down."""
    for method in [*SOLVERS, FLOW]:
        for weight in (1, 10**9, 2**52 + 1, 2**56 + 1, 2**60 + 1):
            # Loading on the first server takes one unit more than on the second.
            servers = [server("a", 1, load_bytes_per_s=10**9), server("b", 1, load_bytes_per_s=10**9)]
            servers[0]["load_bytes_per_s"] = 5 * 10**8
            instance = one_layer(servers, 1, [(0, 1)], times=[1, 1], loading={"weight": weight})
            solution = solved(instance, method)
            assert solution.bound is not None, (method, weight)
            assert solution.bound <= weight + 1 <= solution.value, (method, weight)
            if (method == FLOW and weight < 2**50) or (method == "cpsat" and weight < 2**58):
                assert (solution.value, solution.bound) == (weight + 1, weight + 1), (method, weight)


def test_what_nobody_asks_for_is_held_where_coverage_needs_it_and_nowhere_else() -> None:
    instance = one_layer([server("a", 2), server("b", 2)], 3, [(0, 5), (1, 4)])
    for method in SOLVERS:
        pairs = set(find_formulation(method)(instance).x)
        assert {i for _, i in pairs} == {0, 1, 2}, method
        solution = solved(instance, method)
        # Both that are asked for at the nearer server, the third at the other.
        assert solution.value == 9, method
    clouded = instance.document()
    clouded["demands"][0]["cloud_ns"] = 9
    assert {i for _, i in find_formulation("milp")(Instance.from_document(clouded)).x} == {0, 1}


def test_a_model_that_nothing_can_satisfy_is_not_written(tmp_path: Path) -> None:
    instance = one_layer([server("a", 9, layer_slots=1), server("b", 9)], 2, [(0, 1)], times=[None, None])
    for model in ("milp", "milp-textbook"):
        with pytest.raises(NoSolutionError, match="fits on no server that those without a cloud reach"):
            export(instance, model, tmp_path / "model.mps")
    assert list(tmp_path.iterdir()) == []
    for method in [*SOLVERS, FLOW, "popular", "random"]:
        with pytest.raises(NoSolutionError):
            moeplace.solve(instance, method)

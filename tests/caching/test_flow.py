"""The exact flow: nested sets of servers against other exact methods, what it refuses, and costs that are rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_instances import brute_force_2, random_document_2
from solved import solved

import moeplace
from moeplace import Instance
from moeplace.base.errors import MethodLimitError, NoSolutionError
from moeplace.base.stop import Stop
from moeplace.caching.heuristics import nested_flow
from moeplace.caching.methods.flow import Tuning, improve, refuses
from moeplace.caching.methods.flow import flow as flow_method
from moeplace.caching.searching import caching_incumbent

FLOW = f"{flow_method.__module__}:{flow_method.__name__}"


def racks(
    seed: int, *, cloud: bool, loading: bool = False, slots: bool = False, model: str = "sum", **changes: Any
) -> dict[str, Any]:
    """Five GPUs in two racks of one room, a user at each: own GPU, own rack, own room, and the cloud or none."""
    rng = np.random.default_rng(seed)
    layers, experts = 3, 6
    rack = [0, 0, 0, 1, 1]
    rows: dict[str, list[Any]] = {"demand": [], "layer": [], "experts": [], "count": []}
    for d in range(5):
        for layer in range(layers):
            for _ in range(6):
                rows["demand"].append(d)
                rows["layer"].append(layer)
                asked = rng.permutation(experts)[: int(rng.integers(1, 3)) if model == "sum" else 1]
                rows["experts"].append(asked.tolist())
                rows["count"].append(int(rng.integers(1, 50)))
    servers: list[dict[str, Any]] = [
        {"name": f"g{n}", "capacity_bytes": 7 * int(rng.integers(3, 7)) + 3} for n in range(5)
    ]
    for server in servers:
        if slots and rng.random() < 0.7:
            server["layer_slots"] = 2
        if loading:
            server["load_bytes_per_s"] = int(rng.integers(10**6, 10**9))
            held = rng.permutation(layers * experts)[:3].tolist()
            server["holds"] = [{"model": "m", "experts": [list(divmod(i, experts)) for i in held]}]
    return {
        "format": "moeplace/instance",
        "version": 2,
        "name": "racks",
        "latency_model": model,
        "models": [{"name": "m", "layers": layers, "experts": experts, "top_k": 2, "expert_bytes": 7}],
        "servers": servers,
        "demands": [
            {
                "user": f"u{d}",
                "model": "m",
                "tokens": 1000,
                "device_ns": 0,
                "server_ns": [10 if n == d else 40 if rack[n] == rack[d] else 90 for n in range(5)],
                "cloud_ns": 300 if cloud else None,
            }
            for d in range(5)
        ],
        "activations": rows,
        **changes,
    }


def test_racks_equal_cpsat_with_and_without_cloud_loading_and_slots() -> None:
    for seed in range(8):
        for model in ("sum", "max"):
            document = racks(seed, cloud=seed % 2 == 0, loading=seed % 4 > 1, slots=seed > 3, model=model)
            instance = Instance.from_document(document)
            assert refuses(instance) is None, (seed, model)
            solution = solved(instance, FLOW)
            assert solution.status.termination == "optimal", (seed, model)
            assert solution.bound_source is not None
            assert "unimodular" in solution.bound_source
            assert solved(instance, "cpsat").value == solution.value, (seed, model)


def refused(document: dict[str, Any], why: str) -> None:
    instance = Instance.from_document(document)
    with pytest.raises(MethodLimitError) as error:
        moeplace.solve(instance, FLOW)
    assert why in str(error.value), str(error.value)


def test_it_says_which_condition_fails() -> None:
    pairs = racks(0, cloud=True, latency_model="max")
    refused(pairs, 'terms ask for several experts under "max"')
    crossing = racks(0, cloud=True)
    crossing["demands"][2]["server_ns"] = [90, 10, 10, 10, 90]
    refused(
        crossing,
        "sets of servers that are equally near must be nested or disjoint: {'g1', 'g2', 'g3'} and {'g3', 'g4'}",
    )
    sizes = racks(0, cloud=True)
    sizes["models"][0]["expert_bytes"] = [7, 7, 9]
    refused(sizes, "experts on one server must have one size: 'g0' may hold some of 7 and some of 9 bytes")
    reach = racks(0, cloud=False)
    for demand in reach["demands"]:
        demand["server_ns"] = [10, 10, None, None, None]
    reach["demands"][0]["server_ns"] = [None, 10, 10, None, None]
    refused(reach, "sets of servers that are equally near must be nested or disjoint: {'g1', 'g2'} and {'g0', 'g1'}")
    # Sizes that never meet on a server do no harm.
    apart = racks(0, cloud=True)
    apart["models"][0]["expert_bytes"] = [7, 7, 10**6]
    assert refuses(Instance.from_document(apart)) is None


def test_costs_that_are_rounded_give_bounds_that_hold() -> None:
    rounded = 0
    for seed in range(150):
        document = random_document_2(np.random.default_rng(seed), 8, "sum")
        instance = Instance.from_document(document)
        if refuses(instance):
            continue
        optimum = brute_force_2(document)
        for largest in (1, 60, 10**4):
            try:
                search = caching_incumbent(instance, Stop())
            except NoSolutionError:
                assert optimum is None, seed
                continue
            assert optimum is not None, seed
            improve(instance, search, Tuning(nested_flow.Tuning(largest)))
            assert search.bound_ns is not None
            assert search.bound_ns <= optimum <= search.latency_ns, (seed, largest)
            rounded += search.bound_ns < optimum
    assert rounded > 20


def test_a_start_and_a_limit() -> None:
    instance = Instance.from_document(racks(1, cloud=False, loading=True))
    best = solved(instance, FLOW)
    assert solved(instance, FLOW, start=best, time_limit=0).value == best.value
    first = solved(instance, FLOW, time_limit=0)
    assert (first.bound, first.status.termination) == (None, "time_limit")
    assert first.value >= best.value

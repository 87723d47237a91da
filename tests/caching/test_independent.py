"""Layers that share nothing, and the servers of a layer that share only what must be somewhere: against enumeration."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from random_instances import apart_document, brute_force_2

import moeplace
from moeplace import Instance, Placement
from moeplace.base.arrays import Int64
from moeplace.base.errors import NoSolutionError
from moeplace.base.stop import Stop
from moeplace.caching.bounds import independent, server_oracle
from moeplace.caching.bounds.independent import IndependentLayers
from moeplace.caching.bounds.server_oracle import ServerOracle
from moeplace.caching.searching import caching_incumbent
from moeplace.layers import merging, proof


def drawn_server(seed: int) -> tuple[ServerOracle, np.random.Generator]:
    """Draw up to 25 terms of up to 4 of up to 7 experts; loading costs something for every other seed."""
    rng = np.random.default_rng(seed)
    n_experts, n_terms = int(rng.integers(2, 8)), int(rng.integers(0, 25))
    width = int(rng.integers(1, min(n_experts, 4) + 1))
    member = np.full((n_terms, width), -1, dtype=np.int64)
    for line in member:
        length = int(rng.integers(1, width + 1))
        line[:length] = np.sort(rng.choice(n_experts, length, replace=False))
    load = rng.integers(0, 100, n_experts) * (rng.random(n_experts) < 0.5) * (seed % 2)
    owner = np.where(rng.random(n_experts + 2) < 0.8, rng.integers(0, n_experts, n_experts + 2), -1)
    tuning = server_oracle.Tuning(chunk=int(rng.integers(1, 5)), first_plans=1)
    slots = int(rng.integers(0, n_experts + 1))
    return ServerOracle(member, rng.integers(0, 1000, n_terms), load, slots, owner, tuning), rng


def all_plans(oracle: ServerOracle) -> list[tuple[int, Int64, Int64]]:
    """Return value, usage and code of every plan."""
    found = []
    for size in range(oracle.slots + 1):
        for chosen in itertools.combinations(range(oracle.n_experts), size):
            code = np.isin(np.arange(oracle.n_experts), chosen).astype(np.int64)
            found.append((*oracle.plan(code), code))
    return found


def test_a_server_equals_enumeration() -> None:
    left = 0
    for seed in range(200):
        oracle, rng = drawn_server(seed)
        price = rng.integers(0, 200, len(oracle.reach))
        plans = all_plans(oracle)
        worths = [value - int(price @ usage) for value, usage, _ in plans]
        best = max(worths)
        assert oracle.least <= min(value for value, _, _ in plans), seed
        assert max(value for value, _, _ in plans) <= oracle.total, seed
        for tuned in (False, True):
            if tuned:
                oracle.tune(price)
            assert oracle.bound(price) >= best, seed
            found = oracle.best(price)
            assert (found.worth, found.bound) == (best, best), seed
            assert oracle.plan(found.code)[0] == found.value == best + int(price @ found.usage), seed
            for nodes in (1, 2, 5):
                cut = oracle.best(price, nodes=nodes)
                assert cut.bound >= best >= cut.worth == cut.value - int(price @ cut.usage), seed
            oracle.slack = 50
            near = oracle.best(price)
            assert best <= near.bound, seed
            assert near.worth <= best, seed
            assert near.bound <= near.worth + 50, seed
            assert near.exact, seed
            oracle.slack = 0
        least = best - int(rng.integers(0, 300))
        listed = oracle.plans(price, least)
        assert listed is not None, seed
        assert len({u.tobytes() for u in listed.usage}) == len(listed), seed
        for value, usage, code in zip(listed.value, listed.usage, listed.code, strict=True):
            assert code.sum() <= oracle.slots, seed
            assert value - int(price @ usage) >= least, seed
            assert oracle.plan(code)[0] == value, seed
            assert np.array_equal(oracle.plan(code)[1], usage), seed
        for (value, usage, _), worth in zip(plans, worths, strict=True):
            # Where a plan is left out, another one that uses no more is worth no less.
            alike = (listed.usage <= usage).all(axis=1) & (listed.value >= value)
            assert worth < least or alike.any(), seed
            left += worth >= least and not (listed.usage == usage).all(axis=1).any()
        assert oracle.plans(price, least, most=0) is None or not len(listed), seed
    assert left > 10


def test_exchanges_and_climbs_say_what_they_gain() -> None:
    for seed in range(60):
        oracle, rng = drawn_server(seed)
        price = rng.integers(0, 200, len(oracle.reach))
        code = np.zeros(oracle.n_experts, dtype=np.int64)
        code[rng.permutation(oracle.n_experts)[: int(rng.integers(0, oracle.slots + 1))]] = 1
        table, value = oracle.exchanges(code), oracle.plan(code)[0]
        for into in np.flatnonzero(code == 0).tolist():
            for out in [into, *np.flatnonzero(code).tolist()]:
                other = code.copy()
                other[out], other[into] = 0, 1
                assert oracle.plan(other)[0] - value == table[out, into], seed
        (climbed,) = oracle.climbed(code[None, :], price)
        worth = [v - int(price @ u) for v, u in (oracle.plan(code), oracle.plan(climbed))]
        assert worth[1] >= worth[0], seed
        assert climbed.sum() <= oracle.slots, seed


FEW = independent.Tuning(
    steps=0,
    slacks=(1,),
    schedule=(),
    server=server_oracle.Tuning(chunk=1, first_plans=1),
    proof=proof.Tuning(
        climbs=0,
        climbs_between=0,
        rounds=1,
        nodes=2,
        few_nodes=1,
        most_plans=2,
        merging=merging.Tuning(most_states=2, chunk=1),
    ),
)


def test_independent_layers_equal_brute_force_and_no_limit_makes_a_bound_wrong() -> None:
    solved = none = unproven = covered = loaded = refused = 0
    for seed in range(120):
        document = apart_document(seed)
        instance = Instance.from_document(document)
        if independent.refuses(instance) is not None:
            refused += 1  # a device is farther than all servers
            continue
        optimum = brute_force_2(document)
        if optimum is None:
            with pytest.raises(NoSolutionError):
                caching_incumbent(instance, Stop())
            none += 1
            continue
        solved += 1
        covered += instance.coverage is not None
        loaded += instance.load_block_ns is not None
        for threads, tuning in ((1, independent.USUAL), (2, independent.USUAL), (1, FEW)):
            search = caching_incumbent(instance, Stop())
            IndependentLayers(instance, search, threads, tuning).run()
            assert search.bound_ns is not None, seed
            assert search.bound_ns <= optimum <= search.latency_ns, seed
            assert not search.failures, (seed, search.failures)
            if tuning is FEW:
                unproven += search.bound_ns < search.latency_ns
            else:
                assert search.bound_ns == search.latency_ns, seed
    assert min(solved, none, unproven, covered, loaded) > 5 > refused / 3, (solved, none, unproven, covered, loaded)


def test_methods_prove_independent_layers() -> None:
    for seed in range(12):
        document = apart_document(seed)
        instance = Instance.from_document(document)
        optimum = brute_force_2(document)
        for method in ("auto", "layer-enumeration"):
            if optimum is None:
                with pytest.raises(NoSolutionError):
                    moeplace.solve(instance, method)
                continue
            solution = moeplace.solve(instance, method)
            assert solution.status.termination == "optimal", seed
            assert solution.objective.bound_ns == optimum, seed
            assert moeplace.check(instance, solution).ok, seed


def crowded(seed: int, slots: int = 3, experts: int = 8) -> dict[str, Any]:
    """Draw two layers on three servers with users of their own, who need every expert somewhere."""
    rng = np.random.default_rng(seed)
    times = [[1 if m == n else 5 for m in range(3)] for n in range(3)]
    return {
        "format": "moeplace/instance",
        "version": 2,
        "name": "crowded",
        "latency_model": "max",
        "models": [{"name": "m", "layers": 2, "experts": experts, "top_k": 3, "expert_bytes": 2}],
        "servers": [{"name": f"s{n}", "capacity_bytes": 4 * slots, "layer_slots": slots} for n in range(3)],
        "demands": [
            {"user": f"u{n}", "model": "m", "tokens": 10**6, "device_ns": 0, "server_ns": times[n], "cloud_ns": None}
            for n in range(3)
        ],
        "activations": {
            "demand": [d for d in range(3) for _ in range(40)],
            "layer": [i % 2 for i in range(120)],
            "experts": [rng.permutation(experts)[: rng.integers(1, 4)].tolist() for _ in range(120)],
            "count": rng.integers(1, 50, 120).tolist(),
        },
    }


def layer_optimum(instance: Instance, layer: int, slots: int, experts: int) -> int:
    """Return the least latency of one layer's rows over all placements that cover, by listing sets per server."""
    rows = instance.rows
    best = None
    sets = [sum(1 << e for e in chosen) for chosen in itertools.combinations(range(experts), slots)]
    cost: list[dict[int, int]] = [{} for _ in range(3)]
    for n in range(3):
        for held in sets:
            total = 0
            for i in range(len(rows.count)):
                items = rows.item[rows.start[i] : rows.start[i + 1]]
                if rows.demand[i] == n and instance.item_block[items[0]] == layer:
                    inside = all(held >> int(e - layer * experts) & 1 for e in items)
                    total += int(rows.count[i]) * (1 if inside else 5)
            cost[n][held] = total
    everything = (1 << experts) - 1
    for a in sets:
        for b in sets:
            for c in sets:
                if a | b | c == everything:
                    total = cost[0][a] + cost[1][b] + cost[2][c]
                    best = total if best is None else min(best, total)
    assert best is not None
    return best


def test_larger_layers_with_few_copies_to_spare_equal_enumeration() -> None:
    for seed in range(2):
        instance = Instance.from_document(crowded(seed))
        optimum = sum(layer_optimum(instance, layer, 3, 8) for layer in range(2))
        tunings = (
            independent.USUAL,
            replace(independent.USUAL, steps=0, proof=replace(independent.USUAL.proof, climbs=0)),
            replace(independent.USUAL, slacks=()),
            FEW,
        )
        for tuning in tunings:
            search = caching_incumbent(instance, Stop())
            IndependentLayers(instance, search, 1, tuning).run()
            assert search.bound_ns is not None, seed
            assert search.bound_ns <= optimum <= search.latency_ns, seed
            assert tuning is FEW or search.bound_ns == search.latency_ns, seed


def test_a_start_is_kept_and_other_placements_are_taken_over() -> None:
    instance = Instance.from_document(crowded(0))
    search = caching_incumbent(instance, Stop())
    IndependentLayers(instance, search, 1).run()
    best = search.placement
    search = caching_incumbent(instance, Stop())
    layers = IndependentLayers(instance, search, 1, FEW)
    # Half of the best placement comes from elsewhere: the other half of what is known stays.
    cached = search.placement.cached.copy()
    cached[:, :8] = best.cached[:, :8]
    search.offer(Placement(cached))
    layers.look()
    value = layers.layers[0].value
    search.offer(best)
    layers.look()
    assert layers.layers[0].value == value
    assert np.array_equal(layers.layers[1].held, best.cached[:, 8:])


def test_what_couples_layers_is_seen() -> None:
    document = crowded(0)
    assert independent.refuses(Instance.from_document(document)) is None
    short = [server | {"capacity_bytes": server["capacity_bytes"] - 1} for server in document["servers"]]
    coupled = Instance.from_document(document | {"servers": short})
    assert "share" in str(independent.refuses(coupled))
    near = [demand | {"server_ns": [1, 2, 5]} for demand in document["demands"]]
    assert "near to the same" in str(independent.refuses(Instance.from_document(document | {"demands": near})))
    instance = Instance.from_document(document)
    assert "shares" in str(independent.refuses(instance, replace(independent.USUAL, most_cells=1)))
    assert "units" in str(independent.refuses(instance, replace(independent.USUAL, fine=1)))

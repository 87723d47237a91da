"""Heuristics where demands have no cloud, loading costs something and slots limit a layer: against brute force."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from random_instances import brute_force_2, naive_cost_2, pairs_of, random_document_2

import moeplace
from moeplace import Instance, Placement, solve
from moeplace.base.arrays import Bool
from moeplace.base.errors import NoSolutionError
from moeplace.base.stop import Stop
from moeplace.caching.evaluation import cost_ns
from moeplace.caching.heuristics import dealing
from moeplace.caching.heuristics.climb import Climb
from moeplace.caching.heuristics.covering import cover
from moeplace.caching.heuristics.dealing import deal_layers, server_sets
from moeplace.caching.heuristics.pricing import peeled, price
from moeplace.caching.heuristics.working_placement import WorkingPlacement
from moeplace.caching.saving import Layer, saving_form

METHODS: dict[str, list[dict[str, Any]]] = {
    "greedy": [{}, {"lazy": False}, {"enumerate": 2}],
    "successive-greedy": [{}, {"enumerate": 0, "passes": 1}, {"enumerate": 0, "cuts": True, "nodes": 50}],
    "max-convolution": [{}, {"epsilon": 0.5, "order": "given"}],
    "local-search": [{}, {"kicks": 4}],
    "column-generation": [{"kicks": 4}],
}

SEEDS = {"greedy": 60, "successive-greedy": 50, "column-generation": 40}
"""Fewer for the slower ones."""


@functools.cache
def known(seed: int) -> tuple[dict[str, Any], Instance, int | None]:
    """Return the random instance of a seed and its least cost, None where there is no placement."""
    document = random_document_2(np.random.default_rng(seed), max_variables=8)
    return document, Instance.from_document(document), brute_force_2(document)


@pytest.mark.parametrize("method", METHODS)
def test_every_placement_keeps_the_rules_and_there_is_one_where_there_can_be(method: str) -> None:
    optimal = solved = 0
    for seed in range(SEEDS.get(method, 100)):
        document, instance, best = known(seed)
        for parameters in METHODS[method]:
            told = seed, method, parameters
            if best is None:
                with pytest.raises(NoSolutionError):
                    solve(instance, method, **parameters)
                continue
            solution = solve(instance, method, seed=seed, **parameters)
            placement = Placement(solution_held(instance, solution))
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


def solution_held(instance: Instance, solution: moeplace.Solution) -> Bool:
    held = np.zeros((len(instance.servers), instance.n_items), dtype=np.bool_)
    for part in solution.placement:
        n, m = instance.server_index[part.server], instance.model_index[part.model]
        for layer, expert in part.experts:
            held[n, instance.item(m, layer, expert)] = True
    return held


def test_nothing_is_made_worse_than_its_start() -> None:
    for seed in range(30):
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


# --- what the heuristics are made of -------------------------------------------------------------------------------


def covered(seeds: int, max_variables: int) -> Iterator[tuple[int, Instance, Placement]]:
    """Yield random instances where something must be held, with a placement that covers."""
    for seed in range(seeds):
        instance = Instance.from_document(random_document_2(np.random.default_rng(seed), max_variables))
        if instance.coverage is not None:
            try:
                yield seed, instance, cover(instance, Stop(None))
            except NoSolutionError:
                continue


def meets(instance: Instance, layer: Layer, part: Bool) -> bool:
    """Say by the instance alone whether ``part [N, E]`` keeps slots and requirements of a layer."""
    assert instance.coverage is not None
    reach, expert = instance.coverage.of(layer.items)
    enough = all(
        part[instance.coverage.reach[r], e].any() for r, e in zip(reach.tolist(), expert.tolist(), strict=True)
    )
    return enough and bool((part.sum(axis=1) <= instance.layer_slots).all())


def test_a_layer_knows_what_is_allowed_and_what_only_one_server_can_hold() -> None:
    seen: set[object] = set()
    for seed, instance, _ in covered(60, 16):
        rng = np.random.default_rng(seed)
        for layer in saving_form(instance).layers:
            for share in (0.4, 0.7, 0.95):
                part = rng.random(layer.load.shape) < share
                assert layer.allows(part) == meets(instance, layer, part), seed
                seen.add(layer.allows(part))
                for n in range(len(part)):
                    only = layer.required(part, n)
                    assert layer.value_function(part, n).required == only.sum(), seed
                    without, needed = part.copy(), np.zeros(layer.n_experts, dtype=np.bool_)
                    without[n] = False
                    assert instance.coverage is not None
                    for r, e in zip(*(c.tolist() for c in instance.coverage.of(layer.items)), strict=True):
                        there = instance.coverage.reach[r]
                        needed[e] |= bool(there[n]) and not without[there, e].any()
                    assert only.tolist() == needed.tolist(), seed
    assert seen == {True, False}


def test_peeling_ends_at_the_best_column_that_is_allowed() -> None:
    allowed = 0
    for seed, instance, _ in covered(60, 24):
        rng = np.random.default_rng(seed)
        for layer in saving_form(instance).layers:
            dearest = layer.bonus / layer.covers / layer.size if layer.covers else 10.0
            prices = rng.random(len(instance.servers)) * rng.choice([0.0, 0.01, 0.9]) * dearest
            part, saving = peeled(layer, instance.capacity_bytes, prices)
            assert saving == layer.saving_ns(part), seed
            held = np.zeros_like(part) | (instance.capacity_bytes >= layer.size)[:, None]
            savings, worths, server, expert = layer.peel(held, prices * layer.size)
            worth = []
            for k in range(len(savings)):
                assert savings[k] == layer.saving_ns(held), seed
                if layer.allows(held):
                    worth.append(worths[k])
                if k < len(server):
                    crowded = held.sum(axis=1) > layer.slots
                    assert not crowded.any() or crowded[server[k]], seed
                    held[server[k], expert[k]] = False
            assert layer.allows(part) == bool(worth), seed
            if worth:
                allowed += 1
                assert saving - float(prices @ part.sum(axis=1)) * layer.size == pytest.approx(max(worth)), seed
                for column, value in price(layer, part, instance.capacity_bytes, prices, 4):
                    assert layer.allows(column), seed
                    assert value == layer.saving_ns(column), seed
    assert allowed > 20


def test_a_plan_never_gives_up_what_it_covers() -> None:
    for seed, instance, start in covered(50, 24):
        rng = np.random.default_rng(seed)
        form = saving_form(instance)
        plan = WorkingPlacement(form, start.cached.copy())
        climb = Climb(plan, Stop(None), lambda saving: None, 4)
        changes = [
            lambda p=plan: p.clear([0]),
            lambda p=plan: p.clear(list(range(len(p.held)))),
            lambda c=climb, r=rng: c.kick(r),
            climb.exchange,
            climb.relayer,
            climb.another_beginning,
            lambda p=plan: p.take(p.refill(len(p.held) - 1)),
            lambda c=climb, r=rng: c.kick(r),
        ]
        for k, change in enumerate(changes):
            change()
            assert Placement(plan.held).fits(instance), (seed, k)
            assert plan.saving == form.saving_ns(plan.held), (seed, k)
            assert instance.baseline_ns - plan.saving == cost_ns(instance, Placement(plan.held)), (seed, k)


def test_tiny_limits_of_dealing_layers() -> None:
    instances = [(*found, saving_form(found[1])) for found in covered(12, 24)]
    for field in dataclasses.fields(dealing.USUAL):
        for value in (0, 1):
            tuning = dataclasses.replace(dealing.USUAL, **{field.name: value})
            for seed, instance, start, form in instances:
                told = field.name, value, seed
                plan = WorkingPlacement(form, start.cached.copy())
                dealt = deal_layers(plan, start.cached, 4, Stop(None), tuning)
                assert Placement(dealt.held).fits(instance), told
                assert form.saving_ns(dealt.held) >= plan.saving, told
                for layer, columns in zip(form.layers, dealt.pool.columns, strict=True):
                    assert columns, told
                    for column in columns:
                        assert meets(instance, layer, column.part), told
                        assert column.saving == layer.saving_ns(column.part), told


def test_sets_of_servers_hold_a_layer_for_everybody() -> None:
    for seed, instance, _ in covered(60, 24):
        for layer in saving_form(instance).layers:
            room = np.minimum(instance.capacity_bytes // layer.size, layer.slots)
            found = {most: list(server_sets(layer, instance.capacity_bytes, most)) for most in (0, 31)}
            assert len(found[0]) <= len(instance.servers), seed
            every = {tuple(servers.tolist()) for servers in found[31]}
            assert {tuple(servers.tolist()) for servers in found[0]} <= every, seed
            assert instance.coverage is not None
            reach, _ = instance.coverage.of(layer.items)
            for servers in itertools.product((False, True), repeat=len(room)):
                enough = all(
                    min(layer.n_experts, room[instance.coverage.reach[r] & np.array(servers)].sum()) >= count
                    for r, count in zip(*np.unique(reach, return_counts=True), strict=True)
                )
                assert (servers in every) == enough, seed


def test_layers_go_to_one_server_as_a_whole() -> None:
    """Each server has room for one of two layers, whose pairs are all used: any mixture serves no row at home."""
    pairs = list(itertools.combinations(range(8), 2))
    rows: dict[str, list[Any]] = {"demand": [], "layer": [], "experts": [], "count": []}
    for d, layer in itertools.product(range(2), range(2)):
        for a, b in pairs:
            rows["demand"].append(d)
            rows["layer"].append(layer)
            rows["experts"].append([a, b])
            rows["count"].append(11 if d == layer else 10)
    document = {
        "format": "moeplace/instance",
        "version": 2,
        "name": "whole",
        "latency_model": "max",
        "models": [{"name": "m", "layers": 2, "experts": 8, "top_k": 2, "expert_bytes": 1}],
        "servers": [{"name": f"s{n}", "capacity_bytes": 8} for n in range(2)],
        "demands": [
            {"user": f"u{d}", "model": "m", "tokens": 600, "device_ns": 0, "server_ns": times, "cloud_ns": None}
            for d, times in enumerate(([2, 12], [12, 2]))
        ],
        "activations": rows,
    }
    instance = Instance.from_document(document)
    best = instance.baseline_ns - 2 * 28 * 11 * 10
    for method in ("local-search", "column-generation"):
        assert solve(instance, method).value == best, method

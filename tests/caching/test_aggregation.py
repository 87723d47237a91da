"""The aggregated problem is the problem: savings, units, useful pairs, and its growth."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
from cases import looped
from random_instances import all_placements, naive_cost, pairs_of, random_document, random_instance, random_placement

import moeplace
from moeplace import Instance, Placement
from moeplace.caching import terms
from moeplace.caching.terms import aggregate, distinct_rows

SEEDS = range(150)


@looped("seed", SEEDS)
def test_saving_is_baseline_minus_cost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    document = random_document(rng, 24)
    instance = Instance.from_document(document)
    problem = aggregate(instance)
    assert aggregate(instance) is problem
    everything = np.ones((len(instance.servers), instance.n_items), dtype=np.bool_)
    placements = [random_placement(instance, rng, fits=bool(k % 2)) for k in range(6)]
    for placement in [Placement.empty(instance), Placement(everything), *placements]:
        cost = naive_cost(document, pairs_of(instance, placement))
        assert problem.saving_ns(placement) == instance.baseline_ns - cost
    assert problem.saving_ns(Placement(everything)) == problem.total_weight <= instance.baseline_ns


@looped("seed", SEEDS)
def test_terms_are_distinct_positive_and_sorted(seed: int) -> None:
    problem = aggregate(random_instance(seed, 24))
    assert (problem.term_weight > 0).all()
    terms = list(zip(problem.term_radius.tolist(), problem.term_set.tolist(), strict=True))
    assert terms == sorted(set(terms))
    sets = [tuple(problem.set_items(s).tolist()) for s in range(len(problem.set_start) - 1)]
    assert len(set(sets)) == len(sets)
    assert all(items == tuple(sorted(set(items))) and items for items in sets)
    assert len({tuple(row) for row in problem.radius.tolist()}) == len(problem.radius)
    assert problem.radius.any(axis=1).all()
    assert set(problem.term_set.tolist()) == set(range(len(sets)))
    assert set(problem.term_radius.tolist()) == set(range(len(problem.radius)))
    assert all(w % problem.weight_unit == 0 for w in problem.term_weight.tolist())


def test_terms_are_the_same_by_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [random_document(np.random.default_rng(seed), 24) for seed in SEEDS]
    plain = [aggregate(Instance.from_document(document)) for document in documents]
    monkeypatch.setattr(terms, "MOST_PAIRS", -1)
    for seed, (document, one) in enumerate(zip(documents, plain, strict=True)):
        other = aggregate(Instance.from_document(document))
        for field in dataclasses.fields(one):
            if field.name != "instance":
                mine, its = getattr(one, field.name), getattr(other, field.name)
                assert mine.dtype == its.dtype, (seed, field.name)
                assert np.array_equal(mine, its), (seed, field.name)


@looped("seed", SEEDS)
def test_satisfied_terms_and_covers(seed: int) -> None:
    instance = random_instance(seed, 24)
    problem = aggregate(instance)
    placement = random_placement(instance, np.random.default_rng(seed))
    covered, satisfied = problem.satisfied(placement)
    pairs, need = problem.covers
    assert sorted(map(tuple, pairs.tolist())) == list(map(tuple, pairs.tolist()))
    for (radius, item), found in zip(pairs.tolist(), covered.tolist(), strict=True):
        assert found == bool((placement.cached[:, item] & problem.radius[radius]).any())
    for t, found in enumerate(satisfied.tolist()):
        radius, items = problem.radius[problem.term_radius[t]], problem.set_items(int(problem.term_set[t]))
        assert found == all((placement.cached[:, i] & radius).any() for i in items.tolist())
        needs = pairs[need[problem.term_start[t] : problem.term_start[t + 1]]]
        assert needs[:, 1].tolist() == items.tolist()
        assert set(needs[:, 0].tolist()) == {int(problem.term_radius[t])}


@looped("seed", range(40))
def test_every_saving_is_a_multiple_of_the_unit(seed: int) -> None:
    instance = random_instance(seed, 10)
    problem = aggregate(instance)
    for cached in all_placements(instance):
        placement = Placement(np.array(cached).reshape(len(instance.servers), instance.n_items))
        assert problem.saving_ns(placement) % problem.weight_unit == 0


@looped("seed", range(60))
def test_useful_pairs_are_those_that_can_save(seed: int) -> None:
    """Whatever else is cached, a pair that is not useful changes nothing; without sizes every useful one does."""
    instance = random_instance(seed, 8)
    useful = aggregate(instance).useful
    fits = instance.item_bytes[None, :] <= instance.capacity_bytes[:, None]
    shape = useful.shape
    assert not (useful & ~fits).any()
    costs = {
        held: moeplace.latency_ns(instance, Placement(np.array(held).reshape(shape)))
        for held in np.ndindex(*[2] * useful.size)
    }
    for pair in range(useful.size):
        changes = any(costs[held] != costs[(*held[:pair], 1, *held[pair + 1 :])] for held in costs if not held[pair])
        n, i = divmod(pair, shape[1])
        assert useful[n, i] == (changes and fits[n, i])


def copied(document: dict[str, Any], times: int) -> dict[str, Any]:
    """Every user ``times`` times over, with other counts."""
    result = copy.deepcopy(document)
    for k in range(1, times):
        for demand in document["demands"]:
            result["demands"].append({**demand, "user": f"{demand['user']}-{k}"})
        rows, more = document["activations"], result["activations"]
        for key in ("layer", "experts"):
            more[key] += rows[key]
        more["demand"] += [d + k * len(document["demands"]) for d in rows["demand"]]
        more["count"] += [1 + (c + k) % 3 for c in rows["count"]]
    return result


@looped("seed", range(40))
def test_more_users_in_the_same_places_add_no_terms(seed: int) -> None:
    document = random_document(np.random.default_rng(seed))
    one, many = Instance.from_document(document), Instance.from_document(copied(document, 5))
    small, large = aggregate(one), aggregate(many)
    for name in ("radius", "set_start", "set_item", "term_radius", "term_set"):
        assert np.array_equal(getattr(small, name), getattr(large, name)), name
    assert distinct_rows(many) == 5 * distinct_rows(one)


def test_other_times_in_the_same_order_add_no_terms() -> None:
    document = random_document(np.random.default_rng(4))
    demand = {"model": "m0", "tokens": 60, "device_ns": 0, "cloud_ns": 100}
    document["servers"] = [{"name": f"s{n}", "capacity_bytes": 5} for n in range(3)]
    document["demands"] = [{**demand, "user": f"u{u}", "server_ns": [1 + u, 30 + u, 90 - u]} for u in range(20)]
    document["activations"] = {"demand": list(range(20)), "layer": [0] * 20, "experts": [[0]] * 20, "count": [3] * 20}
    assert aggregate(Instance.from_document(document)).n_terms == 3
    document["demands"][7]["server_ns"] = [90, 30, 1]
    assert aggregate(Instance.from_document(document)).n_terms == 5  # the set of all three is shared


def test_equal_times_are_one_step_and_what_is_no_nearer_than_the_cloud_none() -> None:
    document = random_document(np.random.default_rng(4))
    document["servers"] = [{"name": f"s{n}", "capacity_bytes": 5} for n in range(5)]
    demand = {"user": "u", "model": "m0", "tokens": 60, "device_ns": 0, "cloud_ns": 10}
    document["demands"] = [{**demand, "server_ns": [4, 4, 10, None, 11]}]
    document["activations"] = {"demand": [0], "layer": [0], "experts": [[0]], "count": [7]}
    problem = aggregate(Instance.from_document(document))
    assert problem.radius.tolist() == [[True, True, False, False, False]]
    assert problem.term_weight.tolist() == [42]
    assert problem.weight_unit == 42
    document["demands"][0]["device_experts"] = [[0, 0]]
    assert aggregate(Instance.from_document(document)).n_terms == 0
    document["demands"][0]["device_ns"] = 6
    assert aggregate(Instance.from_document(document)).term_weight.tolist() == [14]

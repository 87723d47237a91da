"""Evaluation against the definition, term by term, on random instances."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from cases import looped
from random_instances import naive_cost, pairs_of, random_document, random_placement

import moeplace
from moeplace import Evaluation, Instance, Placement

SEEDS = range(120)


def drawn(seed: int) -> tuple[dict[str, Any], Instance, np.random.Generator]:
    rng = np.random.default_rng(seed)
    document = random_document(rng, 20)
    rows = document["activations"]
    order = rng.permutation(len(rows["count"])).tolist()  # rows come unsorted
    document["activations"] = {key: [rows[key][i] for i in order] for key in rows}
    return document, Instance.from_document(document), rng


def only(document: dict[str, Any], keep: list[bool]) -> dict[str, Any]:
    rows = document["activations"]
    kept = {key: [v for v, k in zip(rows[key], keep, strict=True) if k] for key in rows}
    return document | {"activations": kept}


@looped("seed", SEEDS)
def test_costs_are_those_of_the_definition(seed: int) -> None:
    document, instance, rng = drawn(seed)
    rows = document["activations"]
    assert instance.baseline_ns == naive_cost(document, set())
    for fits in (True, False):
        placement = random_placement(instance, rng, fits=fits)
        cached = pairs_of(instance, placement)
        cost = naive_cost(document, cached)
        assert moeplace.latency_ns(instance, placement) == cost
        evaluation = Evaluation(instance, placement)
        assert evaluation.latency_ns == cost
        assert evaluation.saving_ns == instance.baseline_ns - cost >= 0
        for d, ns in enumerate(evaluation.demand_ns.tolist()):
            assert ns == naive_cost(only(document, [other == d for other in rows["demand"]]), cached)
        blocks = zip(instance.block_model.tolist(), instance.block_layer.tolist(), strict=True)
        for (model, layer), ns in zip(blocks, evaluation.block_ns.tolist(), strict=True):
            keep = [
                (instance.demand_model[d], of_row) == (model, layer)
                for d, of_row in zip(rows["demand"], rows["layer"], strict=True)
            ]
            assert ns == naive_cost(only(document, keep), cached)
        for n, ns in enumerate(evaluation.server_saving_ns.tolist()):
            assert ns == naive_cost(document, {pair for pair in cached if pair[0] != n}) - cost


@looped("seed", SEEDS)
def test_hits_are_shares_of_requests_by_place(seed: int) -> None:
    document, instance, rng = drawn(seed)
    placement = random_placement(instance, rng)
    cached = pairs_of(instance, placement)
    rows, experts_at, rows_at = document["activations"], [0, 0, 0], [0, 0, 0]
    for d, layer, experts, count in zip(rows["demand"], rows["layer"], rows["experts"], rows["count"], strict=True):
        demand = document["demands"][d]
        places = []
        for e in experts:
            # Of equally near places the device counts first, then the servers, unless the cloud is as near.
            edge = [t for n, t in enumerate(demand["server_ns"]) if (n, instance.demand_model[d], layer, e) in cached]
            near = min((t for t in edge if t is not None and t < demand["cloud_ns"]), default=demand["cloud_ns"])
            place = 1 if near < demand["cloud_ns"] else 2
            if [layer, e] in demand.get("device_experts", []) and demand["device_ns"] <= near:
                place = 0
            places.append(place)
            experts_at[place] += count
        rows_at[max(places)] += count
    hits = Evaluation(instance, placement).hits
    if not rows["count"]:
        assert hits is None
        return
    assert hits is not None
    assert hits.experts == pytest.approx([n / sum(experts_at) for n in experts_at])
    assert hits.rows == pytest.approx([n / sum(rows_at) for n in rows_at])
    assert sum(hits.experts) == pytest.approx(1)
    assert sum(hits.rows) == pytest.approx(1)


@looped("seed", range(40))
def test_means_and_percentiles_are_over_users(seed: int) -> None:
    document, instance, rng = drawn(seed)
    placement = random_placement(instance, rng)
    evaluation = Evaluation(instance, placement)
    cost, tokens = defaultdict(int), defaultdict(int)
    for demand, ns in zip(document["demands"], evaluation.demand_ns.tolist(), strict=True):
        cost[demand["user"]] += ns
        tokens[demand["user"]] += demand["tokens"]
    means = {user: cost[user] / tokens[user] for user in cost}
    assert evaluation.user_latency_ns == means
    assert evaluation.mean_latency_ns == sum(cost.values()) / sum(tokens.values())
    for percent in (0, 37.5, 50, 99, 100):
        assert evaluation.percentile_latency_ns(percent) == pytest.approx(np.percentile(list(means.values()), percent))


@pytest.mark.parametrize("latency_model", ["max", "sum"])
@pytest.mark.parametrize(("device", "edge", "cloud"), list(np.ndindex(3, 3, 3)))
def test_ties_between_places(latency_model: str, device: int, edge: int, cloud: int) -> None:
    """Every order of the three times, with and without a second server as near, and one out of reach."""
    document = {
        "format": "moeplace/instance",
        "version": 1,
        "name": "ties",
        "latency_model": latency_model,
        "models": [{"name": "m", "layers": 1, "experts": 3, "top_k": 3, "expert_bytes": 1}],
        "servers": [{"name": f"s{n}", "capacity_bytes": 3} for n in range(3)],
        "demands": [
            {
                "user": "u",
                "model": "m",
                "tokens": 10,
                "device_ns": device,
                "server_ns": [edge, None, edge],
                "cloud_ns": cloud,
                "device_experts": [[0, 0]],
            }
        ],
        "activations": {"demand": [0, 0], "layer": [0, 0], "experts": [[2, 0, 1], [0]], "count": [4, 6]},
    }
    instance = Instance.from_document(document)
    for held in np.ndindex(*[2] * 6):
        # What the server out of reach holds must not matter: it holds all, nothing, or what the first one does not.
        far = ([1, 1, 1], [0, 0, 0], [1 - h for h in held[:3]])[sum(held) % 3]
        held = (*held[:3], *far, *held[3:])
        placement = Placement(np.array(held).reshape(3, 3))
        evaluation = Evaluation(instance, placement)
        assert evaluation.latency_ns == naive_cost(document, pairs_of(instance, placement))
        near = min(edge, cloud) if held[0] or held[6] else cloud
        first = 0 if device <= near else 1 if near < cloud else 2
        assert evaluation.hits is not None
        assert evaluation.hits.experts[first] >= 10 / 22 - 1e-12
        without = [Placement(np.where(np.arange(3)[:, None] == n, False, placement.cached)) for n in range(3)]
        assert evaluation.server_saving_ns.tolist() == [
            moeplace.latency_ns(instance, p) - evaluation.latency_ns for p in without
        ]

"""Rules for collaborating servers: they cover where a cover exists, and do what they say."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from random_instances import brute_force_2, random_document_2
from solved import solved

import moeplace
from moeplace import Instance, Placement
from moeplace.base.errors import NoSolutionError
from moeplace.caching.heuristics.servers import requests_by_server
from moeplace.caching.methods import collaborating
from moeplace.caching.methods.collaborating import copies

NAMES = ("two_stage", "redundant", "balanced", "uniform")


def method(name: str) -> str:
    return f"{collaborating.__name__}:{name}"


def placed(instance: Instance, name: str, **parameters: Any) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Return what the servers hold by a rule, checked, and its details."""
    solution = solved(instance, method(name), **parameters)
    return solution.placement_on(instance).cached, solution.details


def fleet(
    seed: int, capacity: list[int], *, cloud: int | None = None, home: list[int] | None = None, **model: Any
) -> Instance:
    """Servers that reach each other; a user at each home (a server or a machine: servers of the same number)."""
    rng = np.random.default_rng(seed)
    form = {"name": "m", "layers": 3, "experts": 6, "top_k": 2, "expert_bytes": 10} | model
    home = home or list(range(len(capacity)))
    rows: dict[str, list[Any]] = {"demand": [], "layer": [], "experts": [], "count": []}
    for d in range(max(home) + 1):
        for layer in range(form["layers"]):
            chance = rng.dirichlet(np.full(form["experts"], 0.7))
            for _ in range(12):
                rows["demand"].append(d)
                rows["layer"].append(layer)
                rows["experts"].append(rng.choice(form["experts"], 1 + int(rng.random() < 0.5), False, chance).tolist())
                rows["count"].append(int(rng.integers(1, 40)))
    return Instance.from_document(
        {
            "format": "moeplace/instance",
            "version": 2,
            "name": "fleet",
            "latency_model": "max",
            "models": [form],
            "servers": [{"name": f"s{n}", "capacity_bytes": room} for n, room in enumerate(capacity)],
            "demands": [
                {
                    "user": f"u{d}",
                    "model": "m",
                    "tokens": 1000,
                    "device_ns": 0,
                    "server_ns": [20 if at == d else 100 for at in home],
                    "cloud_ns": cloud,
                }
                for d in range(max(home) + 1)
            ],
            "activations": rows,
        }
    )


def test_they_fit_and_cover_wherever_that_is_possible() -> None:
    seen: Counter[str] = Counter()
    for seed in range(160):
        document = random_document_2(np.random.default_rng(seed), 8)
        instance = Instance.from_document(document)
        exists = brute_force_2(document) is not None
        for name in NAMES:
            try:
                solution = solved(instance, method(name))
            except NoSolutionError:
                assert not exists, (seed, name)
                continue
            assert exists, (seed, name)
            seen[name] += instance.coverage is not None
            seen[f"{name} repaired"] += solution.details["repaired"] > 0
    assert len(seen) == 2 * len(NAMES)
    assert min(seen[name] for name in NAMES) > 30
    assert sum(seen[f"{name} repaired"] for name in NAMES) > 10, seen


# --- uniform and redundant -----------------------------------------------------------------------------------------


def test_uniform_deals_one_copy_each_evenly() -> None:
    for capacity in ([70, 70, 70], [90, 90, 90, 90], [180]):
        instance = fleet(1, capacity)
        cached, details = placed(instance, "uniform")
        assert details == {"repaired": 0}
        assert (cached.sum(axis=0) == 1).all()
        assert np.ptp(cached.sum(axis=1)) <= 1


def test_redundant_is_each_servers_own_where_the_rest_fits() -> None:
    """With a cloud nothing else must fit: the most requested that the storage holds."""
    for seed in range(5):
        capacity = [60, 80, 100]
        instance = fleet(seed, capacity, cloud=500)
        cached, _ = placed(instance, "redundant")
        use = requests_by_server(instance)
        for n, room in enumerate(capacity):
            own = np.argsort(-use[n], kind="stable")[: room // 10]
            assert set(np.flatnonzero(cached[n])) == {i for i in own if use[n, i]}, (seed, n)
        # Without one, room for what is nowhere is kept free, and no more than that.
        bare = fleet(seed, capacity)
        cached, details = placed(bare, "redundant")
        assert details == {"repaired": 0}, seed
        assert cached.sum() == sum(capacity) // 10, seed
        assert cached.any(axis=0).all(), seed


# --- balanced --------------------------------------------------------------------------------------------------------


def every_allocation(experts: int, slots: int, most: int) -> Iterator[tuple[int, ...]]:
    for number in itertools.product(range(1, most + 1), repeat=experts):
        if sum(number) <= slots:
            yield number


def test_no_other_numbers_of_copies_have_a_smaller_largest_load() -> None:
    rng = np.random.default_rng(0)
    for case in range(150):
        experts, most = int(rng.integers(1, 5)), int(rng.integers(1, 5))
        slots = int(rng.integers(experts, experts * most + 3))
        loads = rng.integers(0, 30, experts).tolist()
        number = copies(loads, slots, most)
        assert max(number) <= most, case
        assert sum(number) <= slots, case
        least = min(
            max(Fraction(load, n) for load, n in zip(loads, tried, strict=True))
            for tried in every_allocation(experts, slots, most)
        )
        assert max(Fraction(load, n) for load, n in zip(loads, number, strict=True)) == least, (case, loads, number)
    assert copies([5, 9, 7], 2, 3) == [0, 1, 1]
    assert copies([5, 9], 4, 0) == [0, 0]


def test_balanced_spreads_slots_and_load() -> None:
    for seed in range(6):
        instance = fleet(seed, [90, 90, 90])
        cached, details = placed(instance, "balanced")
        assert details == {"repaired": 0}, seed
        load = requests_by_server(instance).sum(axis=0)
        for layer in range(3):
            part = cached[:, 6 * layer : 6 * layer + 6]
            assert (part.sum(axis=1) <= 3).all(), (seed, layer)
            number = part.sum(axis=0)
            assert (number > 0).all(), (seed, layer)
            # No server has more than its fair share and the largest single part: the bound of greedy packing.
            parts = load[6 * layer : 6 * layer + 6] / number
            busiest = (part * parts).sum(axis=1).max()
            assert busiest <= load[6 * layer : 6 * layer + 6].sum() / 3 + 2 * parts.max(), (seed, layer)


# --- two stages ------------------------------------------------------------------------------------------------------


def requests_at_home(instance: Instance, cached: np.ndarray[Any, Any]) -> int:
    return int(requests_by_server(instance)[cached].sum())


def test_where_storage_suffices_everybody_has_everything_at_home() -> None:
    instance = fleet(0, [180, 180])
    cached, details = placed(instance, "two_stage")
    assert details == {"repaired": 0}
    assert requests_at_home(instance, cached) == requests_by_server(instance).sum()
    assert solved(instance, method("two_stage")).value == solved(instance, "cpsat").value


def test_slots_follow_the_entropy_of_a_layer() -> None:
    document = fleet(0, [60], cloud=900).document()
    # Everybody asks for one expert of the first layer, for all of the others alike.
    document["activations"] = {
        "demand": [0] * 13,
        "layer": [0] + [1] * 6 + [2] * 6,
        "experts": [[0], *([e] for e in range(6)), *([e] for e in range(6))],
        "count": [600, *[100] * 12],
    }
    instance = Instance.from_document(document)
    by_entropy, _ = placed(instance, "two_stage")
    evenly, _ = placed(instance, "two_stage", entropy=False)
    assert by_entropy.reshape(3, 6).sum(axis=1).tolist() == [0, 3, 3]
    # Its two slots, of which it needs one.
    assert evenly.reshape(3, 6).sum(axis=1).tolist() == [1, 2, 2]


def test_slots_move_to_layers_that_have_too_few_and_duplicates_give_way() -> None:
    changed: Counter[str] = Counter()
    for seed in range(12):
        instance = fleet(seed, [60, 60, 80])  # 20 slots for 18 experts
        full, details = placed(instance, "two_stage")
        assert details == {"repaired": 0}, seed
        assert full.any(axis=0).all(), seed
        assert full.sum() <= 20, seed
        for stage in ("entropy", "balance", "replace"):
            cached, without = placed(instance, "two_stage", **{stage: False})
            assert cached.any(axis=0).all(), (seed, stage)
            changed[stage] += bool((cached != full).any())
            changed[f"{stage} repaired"] += without["repaired"] > 0
    assert min(changed[stage] for stage in ("entropy", "balance", "replace")) > 1, changed
    assert changed["replace repaired"] > 6, changed


def test_a_duplicate_that_gives_way_is_the_least_used_of_its_layer() -> None:
    """Two servers of three slots, four experts, one layer: by hand."""
    document = fleet(0, [30, 30], layers=1, experts=4).document()
    document["activations"] = {
        "demand": [0, 0, 0, 1, 1, 1],
        "layer": [0] * 6,
        "experts": [[0], [1], [2], [0], [1], [2]],
        "count": [9, 8, 7, 5, 6, 4],
    }
    cached, _ = placed(Instance.from_document(document), "two_stage")
    # Both want 0, 1, 2; expert 3, which nobody asks for, takes the place of expert 2 on the second server.
    assert cached.tolist() == [[True, True, True, False], [True, True, False, True]]


def test_gpus_of_one_machine_share_its_users() -> None:
    """Three machines of 1, 1 and 2 GPUs: the two GPUs of a machine hold different experts."""
    for seed in range(4):
        instance = fleet(seed, [60, 60, 60, 60], home=[0, 1, 2, 2])
        for name in ("two_stage", "redundant", "uniform"):
            cached, details = placed(instance, name)
            assert details == {"repaired": 0}, (seed, name)
            assert not (cached[2] & cached[3]).any(), (seed, name)
        cached, _ = placed(instance, "two_stage")
        assert cached[2].sum() > 3, seed
        assert cached[3].sum() > 3, seed


@pytest.mark.parametrize("name", NAMES)
def test_they_say_nothing_of_loading_but_pay_for_it(name: str) -> None:
    document = fleet(2, [90, 90, 90]).document()
    for server in document["servers"]:
        server["load_bytes_per_s"] = 10**6
    solution = solved(Instance.from_document(document), method(name))
    free = solved(fleet(2, [90, 90, 90]), method(name))
    assert solution.placement == free.placement
    held = sum(len(part.experts) for part in solution.placement)
    assert solution.objective.loading_ns == held * 10_000
    assert moeplace.latency_ns(fleet(2, [90, 90, 90]), Placement(free.placement_on(fleet(2, [90, 90, 90])).cached)) == (
        solution.objective.latency_ns
    )

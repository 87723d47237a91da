"""A first placement without a cloud: of least loss, by every way of finding it, or what is short and who proved it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from random_instances import brute_force_2, random_document_2, random_instance_2

import moeplace
from moeplace import Instance, Placement
from moeplace.base.errors import MethodError, MethodLimitError, NoSolutionError
from moeplace.base.stop import Stop
from moeplace.caching.heuristics import nested_flow
from moeplace.caching.heuristics.covering import Tuning, cover
from moeplace.caching.heuristics.nested_flow import Worth, pairs_of, shared_worth, uneven

BY_HAND = Tuning(by_flow=False)
BY_CPSAT = Tuning(by_flow=False, by_hand=False)
TINY = Tuning(shown=1, flow=nested_flow.Tuning(largest=40))
"""Costs that OR-Tools takes of at most 40 units over all nodes, so that nearly all are rounded."""


def placements(instance: Instance) -> list[np.ndarray[Any, Any]]:
    """Return every placement that keeps capacities and slots, covering or not."""
    shape = (len(instance.servers), instance.n_items)
    found = []
    for bits in itertools.product((False, True), repeat=shape[0] * shape[1]):
        placement = Placement(np.array(bits).reshape(shape))
        if not (placement.overfull(instance) or placement.crowded(instance)):
            found.append(placement.cached)
    return found


def worth_by_definition(worth: Worth, instance: Instance, cached: np.ndarray[Any, Any]) -> int:
    """Return (F1) of a placement."""
    total = int(worth.pair[cached].sum())
    for m, family in enumerate(worth.sets):
        items = instance.model_items(m)
        for servers, reward in zip(family, worth.within[m], strict=True):
            total += int(reward[cached[servers][:, items].any(axis=0)].sum())
    return total


def test_every_way_finds_a_cover_where_there_is_one() -> None:
    found = none = 0
    for seed in range(250):
        document = random_document_2(np.random.default_rng(seed), 8)
        instance = Instance.from_document(document)
        if instance.coverage is None:
            continue
        exists = brute_force_2(document) is not None
        for tuning in (Tuning(), BY_HAND, BY_CPSAT, TINY):
            try:
                placement = cover(instance, Stop(), tuning=tuning)
            except NoSolutionError:
                assert not exists, (seed, tuning)
                none += 1
                continue
            assert exists, (seed, tuning)
            assert placement.fits(instance), (seed, tuning)
            found += 1
    assert none > 100
    assert found > 100


def test_a_cover_by_flow_can_be_filled_to_what_is_worth_most() -> None:
    """No loss at all, where sizes are equal: some best placement of those that cover holds all of the cover."""
    compared = 0
    for seed in range(400):
        instance = random_instance_2(seed, 8)
        worth = shared_worth(instance)
        if instance.coverage is None or not worth.coverable or uneven(instance, pairs_of(instance, worth)):
            continue
        covering = [cached for cached in placements(instance) if instance.coverage.met(cached).all()]
        if not covering:
            continue
        placement = cover(instance, Stop())
        best = max(worth_by_definition(worth, instance, cached) for cached in covering)
        with_it = (cached for cached in covering if not (placement.cached & ~cached).any())
        assert max(worth_by_definition(worth, instance, cached) for cached in with_it) == best, seed
        compared += 1
    assert compared > 40


def test_a_cover_holds_nothing_that_it_does_not_need() -> None:
    for seed in range(120):
        instance = random_instance_2(seed, 14)
        if instance.coverage is None:
            continue
        try:
            cached = cover(instance, Stop()).cached
        except NoSolutionError:
            continue
        for n, i in np.argwhere(cached).tolist():
            fewer = cached.copy()
            fewer[n, i] = False
            assert not instance.coverage.met(fewer).all(), (seed, n, i)


def machines(
    capacity: list[int],
    *,
    sizes: int | list[int] = 1,
    slots: list[int | None] | None = None,
    reach: list[list[int]] | None = None,
) -> Instance:
    """Users without a cloud, one a reach set (else one who reaches all); layers of four experts of the given sizes."""
    layers = len(sizes) if isinstance(sizes, list) else 1
    servers: list[dict[str, Any]] = [{"name": f"s{n}", "capacity_bytes": room} for n, room in enumerate(capacity)]
    for server, limit in zip(servers, slots or [], strict=False):
        if limit is not None:
            server["layer_slots"] = limit
    models = [
        {"name": f"m{u}", "layers": layers, "experts": 4, "top_k": 1, "expert_bytes": sizes}
        for u in range(len(reach or [0]))
    ]
    demands = [
        {
            "user": f"u{u}",
            "model": f"m{u}",
            "tokens": 1,
            "device_ns": 0,
            "server_ns": [1 if n in near else None for n in range(len(capacity))],
            "cloud_ns": None,
        }
        for u, near in enumerate(reach or [list(range(len(capacity)))])
    ]
    return Instance.from_document(
        {
            "format": "moeplace/instance",
            "version": 2,
            "name": "machines",
            "latency_model": "sum",
            "models": models,
            "servers": servers,
            "demands": demands,
            "activations": {"demand": [0], "layer": [0], "experts": [[0]], "count": [1]},
        }
    )


NONE = {
    "bytes": (
        machines([9, 6], sizes=[2, 2]),
        "8 experts ([0, 0] of 'm0', [0, 1] of 'm0', [0, 2] of 'm0', ...) must be held on 's0', 's1': "
        "16 bytes, they have 15: 1 byte short (proven by counting)",
    ),
    "slots": (
        machines([9, 9], slots=[2, 1]),
        "4 experts ([0, 0] of 'm0', [0, 1] of 'm0', [0, 2] of 'm0', ...) must be held on 's0', 's1': "
        "3 slots for the layer: 1 short (proven by counting)",
    ),
    "too large": (
        machines([9, 9, 9, 9], sizes=10),
        "[0, 0] of 'm0' (10 bytes) fits on no server that those without a cloud reach ('s0', 's1', 's2', 's3')",
    ),
    "places": (
        machines([5, 3], sizes=2),
        "4 experts ([0, 0] of 'm0', [0, 1] of 'm0', [0, 2] of 'm0', ...) must be held on 's0', 's1': "
        "1 place (2 bytes) short (proven by a maximum flow)",
    ),
    "two reach sets": (
        machines([5, 5, 5], sizes=1, reach=[[0, 1], [0, 1], [0, 1, 2], [1]]),
        "12 experts ([0, 0] of 'm0', [0, 1] of 'm0', [0, 2] of 'm0', ...) must be held on 's0', 's1': "
        "12 bytes, they have 10: 2 bytes short (proven by counting)",
    ),
    "slots and bytes": (
        machines([8, 2], sizes=[1, 1], slots=[2, None]),
        "must be held on 's0', 's1': 2 places (slots and bytes together) short (proven by a maximum flow)",
    ),
    "slots by reach": (
        machines([9, 9, 9], slots=[3, 3, None], reach=[[0, 1, 2], [0], [0, 1]]),
        "4 experts ([0, 0] of 'm1', [0, 1] of 'm1', [0, 2] of 'm1', ...) must be held on 's0': 3 slots for the layer",
    ),
    "packing": (
        machines([4] * 5, sizes=[3, 2]),
        "8 experts of 20 bytes must be held on servers that those without a cloud reach: their bytes alone would fit, "
        "but no way to place them does (proven by CP-SAT",
    ),
}


@pytest.mark.parametrize("what", NONE)
def test_where_there_is_none_one_line_says_what_is_short(what: str) -> None:
    instance, said = NONE[what]
    with pytest.raises(NoSolutionError) as error:
        cover(instance, Stop())
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_without_time_nothing_is_claimed() -> None:
    instance = machines([14] * 6, sizes=[5, 5, 3, 3])
    with pytest.raises(MethodError, match="none was proven not to exist: time limit"):
        cover(instance, Stop(0), tuning=BY_CPSAT)
    stop = Stop()
    stop.interrupted = True
    with pytest.raises(MethodError, match="none was proven not to exist: interrupted"):
        cover(instance, stop, tuning=BY_CPSAT)


def test_baselines_cover_and_empty_servers_are_refused() -> None:
    instance = machines([3, 3])
    for method in ("popular", "random"):
        for seed in range(4):
            solution = moeplace.solve(instance, method, seed=seed)
            assert moeplace.check(instance, solution).ok
    with pytest.raises(MethodLimitError, match="no placement: 4 experts must be on some server"):
        moeplace.solve(instance, "no-cache")

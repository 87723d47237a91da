"""The best placement by one minimum-cost flow, where sizes are equal and sets of servers are nested. Exact.

Where what a placement is worth is a sum over single experts ``i``::

    worth(x) = sum over pairs  v[n, i] x[n, i]  +  sum over sets  W[R, i] * [i is held within R]           (F1)

with ``W >= 0`` and the sets ``R`` of each expert nested or disjoint (a laminar family), and where a server takes so
many experts, and so many of a layer, whatever they are, then places are units of a flow: from the servers through what
they have room for, through a pair, up the tree of the expert's sets, to the sink. The first unit through a set earns
``W``; where the expert must be held within the set, (C1), at least one unit goes through it. The matrix of a flow is
totally unimodular, so the flow of least cost is a placement of most worth (Ahuja, Magnanti, Orlin: Network Flows, 1993,
chapters 9 and 11). OR-Tools computes it in integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Bool, Int64
from moeplace.base.errors import MethodError
from moeplace.caching.instance import Instance
from moeplace.caching.reading import NO_LIMIT
from moeplace.caching.terms import aggregate, fits_alone


@dataclass(frozen=True)
class Tuning:
    """What OR-Tools takes.

    Attributes
    ----------
    largest : int
        The largest cost of an arc times the number of nodes: OR-Tools scales costs by that number, within 63 bits.
        Where costs are larger they are rounded, so that the flow's worth is never too low.
    """

    largest: int = 2**60


USUAL = Tuning()
"""What is used unless something else is asked for."""


@dataclass(frozen=True, eq=False)
class Worth:
    """What is maximised, (F1), and the sets that each model's experts have: see the module.

    Attributes
    ----------
    pair : int64 array [N, I]
        ``v``, of any sign.
    sets : list of list of bool array [N]
        For each model its nested sets, each before those that contain it.
    within : list of int64 array [sets, items of the model]
        ``W`` of each model's sets.
    needed : list of bool array [sets, items of the model]
        Whether the expert must be held within the set.
    crossing : tuple of bool array [N] or None
        The first two sets of a model that were found not to be nested; a reward of such a set was given to each of its
        servers in ``pair``, so that the worth is a guess. None: it is what rewards and values say.
    coverable : bool
        Whether all sets that something must be held within are nested.
    """

    pair: Int64
    sets: list[list[Bool]]
    within: list[Int64]
    needed: list[Bool]
    crossing: tuple[Bool, Bool] | None
    coverable: bool


@dataclass(frozen=True, eq=False)
class Best:
    """What a flow found.

    Attributes
    ----------
    held : bool array [N, I]
    worth : int
        At least the most that any placement is worth; exactly that where ``unit`` is 1.
    unit : int
        What costs were rounded to multiples of.
    """

    held: Bool
    worth: int
    unit: int


def shared_worth(instance: Instance) -> Worth:
    """Return what experts are worth one by one, net of loading, with what must be held where there is no cloud.

    A row's weight is shared evenly among its experts (rounded down), so (F1) is the exact saving where every row asks
    for one expert only: under "sum", or top-1.
    """
    problem = aggregate(instance)
    shares = problem.term_weight // np.diff(problem.set_start)[problem.term_set]
    pairs, need = problem.covers
    total = np.zeros(len(pairs), dtype=np.int64)
    np.add.at(total, need, np.repeat(shares, np.diff(problem.term_start)))
    load = instance.load_ns(slice(0, instance.n_items))
    value = np.zeros((len(instance.servers), instance.n_items), dtype=np.int64) if load is None else -load
    by_radius = np.zeros((len(problem.radius), instance.n_items), dtype=np.int64)
    by_radius[pairs[:, 0], pairs[:, 1]] = total
    return worth_of(instance, value, list(zip(problem.radius, by_radius, strict=True)))


def worth_of(instance: Instance, pair: Int64, rewards: Sequence[tuple[Bool, Int64]] = ()) -> Worth:
    """Return a :class:`Worth` of values of pairs [N, I] and of rewards (servers, ``W`` [I]), with the coverage."""
    pair = pair.astype(np.int64, copy=True)
    sets: list[list[Bool]] = []
    within: list[Int64] = []
    needed: list[Bool] = []
    crossing: tuple[Bool, Bool] | None = None
    coverable = True
    for m in range(len(instance.models)):
        items = instance.model_items(m)
        number = items.stop - items.start
        family: dict[bytes, tuple[Bool, Int64, Bool]] = {}
        # What must be held comes first, then the largest rewards.
        own = [(servers, reward[items]) for servers, reward in rewards if reward[items].any()]
        own.sort(key=lambda one: -sum(one[1].tolist()))
        nothing, none = np.zeros(number, dtype=np.int64), np.zeros(number, dtype=np.bool_)
        found = [(servers, nothing, must) for servers, must in _requirements(instance, items)]
        found += [(servers, reward, none) for servers, reward in own]
        for servers, reward, must in found:
            key = servers.tobytes()
            if key in family:
                _, before, musts = family[key]
                family[key] = servers, before + reward, musts | must
                continue
            across = next((other for other, _, _ in family.values() if crosses(servers, other)), None)
            if across is not None and crossing is None:
                crossing = across, servers
            if must.any():
                coverable &= across is None
                family[key] = servers, reward, must
            elif across is not None or servers.sum() == 1:
                pair[servers, items] += reward
            else:
                family[key] = servers, reward, must
        ordered = sorted(family.values(), key=lambda one: int(one[0].sum()))
        sets.append([servers for servers, _, _ in ordered])
        within.append(np.array([reward for _, reward, _ in ordered], dtype=np.int64).reshape(-1, number))
        needed.append(np.array([must for _, _, must in ordered], dtype=np.bool_).reshape(-1, number))
    return Worth(pair, sets, within, needed, crossing, coverable)


def _requirements(instance: Instance, items: slice) -> list[tuple[Bool, Bool]]:
    """Return each reach set with the items of a model that must be held within it."""
    if instance.coverage is None:
        return []
    reach, item = instance.coverage.of(items)
    found = []
    for q in np.unique(reach).tolist():
        must = np.zeros(items.stop - items.start, dtype=np.bool_)
        must[item[reach == q]] = True
        found.append((instance.coverage.reach[q], must))
    return found


def crosses(one: Bool, other: Bool) -> bool:
    """Return whether two sets of servers overlap and neither contains the other."""
    return bool((one & other).any() and (one & ~other).any() and (other & ~one).any())


def uneven(instance: Instance, pairs: Bool) -> tuple[int, int, int] | None:
    """Return a server and the smallest and the largest size of what it may hold, where they differ."""
    for n in range(len(pairs)):
        sizes = instance.item_bytes[pairs[n]]
        if len(sizes) and sizes.min() != sizes.max():
            return n, int(sizes.min()), int(sizes.max())
    return None


def pairs_of(instance: Instance, worth: Worth) -> Bool:
    """Return the pairs [N, I] that may be worth holding or that a requirement may need, and that fit alone."""
    some = worth.pair > 0
    for m, family in enumerate(worth.sets):
        items = instance.model_items(m)
        for servers, reward, must in zip(family, worth.within[m], worth.needed[m], strict=True):
            some[:, items] |= servers[:, None] & ((reward > 0) | must)[None, :]
    return some & fits_alone(instance)


def best_flow(instance: Instance, worth: Worth, tuning: Tuning = USUAL) -> Best | None:
    """Return a placement of most worth, or None where no placement holds what must be held.

    Parameters
    ----------
    instance : Instance
        On each server, the items of :func:`pairs_of` must have one size.
    worth : Worth
        Its requirements must be nested.
    tuning : Tuning

    Raises
    ------
    MethodError
        OR-Tools failed.
    """
    from ortools.graph.python import min_cost_flow

    pairs = pairs_of(instance, worth)
    arcs = _arcs(instance, worth, pairs)
    dearest = max(int(np.abs(arcs.cost).max(initial=0)), max(arcs.forced, default=0))
    unit = max(1, -(-dearest // max(1, tuning.largest // (len(arcs.supply) + 2))))
    cost = arcs.cost // unit  # what is earned is negative, and becomes more
    solver = min_cost_flow.SimpleMinCostFlow()
    own = solver.add_arcs_with_capacity_and_unit_cost(arcs.tail, arcs.head, arcs.capacity, cost)
    solver.set_nodes_supplies(np.arange(len(arcs.supply), dtype=np.int32), arcs.supply)
    status = solver.solve()
    if status == solver.INFEASIBLE:
        return None
    if status != solver.OPTIMAL:
        raise MethodError(f"OR-Tools' minimum-cost flow ended with {status.name}")
    flow = solver.flows(own)
    held = np.zeros(pairs.shape, dtype=np.bool_)
    held[pairs] = flow[: int(pairs.sum())] > 0
    used = np.flatnonzero(flow)
    earned = -sum(c * units for c, units in zip(cost[used].tolist(), flow[used].tolist(), strict=True))
    return Best(held, unit * (earned + sum(-(-w // unit) for w in arcs.forced)), unit)


@dataclass(frozen=True, eq=False)
class _Arcs:
    """The network: arcs, the pairs' first and in their order; what nodes supply; what forced units earn."""

    tail: npt.NDArray[np.int32]
    head: npt.NDArray[np.int32]
    capacity: Int64
    cost: Int64
    supply: Int64
    forced: list[int]


def _arcs(instance: Instance, worth: Worth, pairs: Bool) -> _Arcs:
    """Lay out the network of (F1): source 0, sink 1, servers, (server, layer), (set, item)."""
    source, sink = 0, 1
    server, item = np.nonzero(pairs)
    of_server = np.arange(len(pairs)) + 2
    limited = instance.layer_slots != NO_LIMIT
    begin = 2 + len(pairs)
    of_layer = begin + np.arange(len(pairs) * instance.n_blocks).reshape(len(pairs), instance.n_blocks)
    nodes = begin + of_layer.size

    origin = np.where(limited[server], of_layer[server, instance.item_block[item]], of_server[server])
    target = np.full(pairs.shape, sink, dtype=np.int64)
    arcs: list[tuple[Any, Any, Any, Any]] = []
    forced: list[int] = []
    gives: list[Int64] = []  # nodes that each lose one unit, and those that get it
    takes: list[Int64] = []
    for m, family in enumerate(worth.sets):
        items = instance.model_items(m)
        number = items.stop - items.start
        of_set = nodes + np.arange(len(family) * number).reshape(len(family), number)
        nodes += of_set.size
        for k in reversed(range(len(family))):  # the smallest set that contains a server comes last
            target[family[k], items] = of_set[k][None, :]
        for k, (members, reward, must) in enumerate(zip(family, worth.within[m], worth.needed[m], strict=True)):
            above = next((j for j in range(k + 1, len(family)) if not (members & ~family[j]).any()), None)
            up = np.full(number, sink) if above is None else of_set[above]
            arcs.append((of_set[k], up, np.full(number, int(members.sum()) - 1), np.zeros(number, dtype=np.int64)))
            arcs.append((of_set[k][~must], up[~must], np.ones(int((~must).sum()), dtype=np.int64), -reward[~must]))
            takes.append(of_set[k][must])
            gives.append(up[must])
            forced += reward[must].tolist()

    rooms = np.zeros(len(pairs), dtype=np.int64)
    for n, own in enumerate(pairs):
        if own.any():
            rooms[n] = min(int(instance.capacity_bytes[n]) // int(instance.item_bytes[own][0]), int(own.sum()))
    experts = np.diff(instance.block_start)
    free = np.zeros(len(pairs), dtype=np.int64)
    arcs = [
        (origin, target[server, item], np.ones(len(server), dtype=np.int64), -worth.pair[pairs]),
        *arcs,
        (np.full(len(pairs), source), of_server, rooms, free),
        (np.array([source]), np.array([sink]), rooms.sum(keepdims=True), np.zeros(1, dtype=np.int64)),
    ]
    for n in np.flatnonzero(limited).tolist():
        at_most = np.minimum(experts, instance.layer_slots[n])
        arcs.append((np.full(instance.n_blocks, of_server[n]), of_layer[n], at_most, np.zeros_like(at_most)))
    tail, head, capacity, cost = (np.concatenate(column) for column in zip(*arcs, strict=True))
    supply = np.zeros(nodes, dtype=np.int64)
    supply[source], supply[sink] = rooms.sum(), -rooms.sum()
    np.subtract.at(supply, np.concatenate([*takes, np.zeros(0, dtype=np.int64)]), 1)
    np.add.at(supply, np.concatenate([*gives, np.zeros(0, dtype=np.int64)]), 1)
    return _Arcs(
        tail.astype(np.int32), head.astype(np.int32), capacity.astype(np.int64), cost.astype(np.int64), supply, forced
    )

"""A first placement where demands have no cloud: every expert that must be somewhere gets a place, or none exists.

It is a *cover of least loss*: of what a full placement of most worth would hold, one expert at a time, it is the part
that (C1) needs, so that the rest can still be what is worth most. Where sizes are equal and reach sets are nested this
is one minimum-cost flow (:mod:`moeplace.caching.heuristics.nested_flow`). Otherwise experts are dealt out, largest
first, each to where it is worth most, or else to where most room is; where both get stuck CP-SAT decides on coverage,
capacities and slots alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.errors import NoSolutionError
from moeplace.base.incumbent import Incumbent
from moeplace.base.stop import Stop
from moeplace.base.text import number
from moeplace.caching.coverage import SHOWN, Coverage, experts_named, servers_named, shortage
from moeplace.caching.heuristics import nested_flow
from moeplace.caching.heuristics.nested_flow import Worth, best_flow, shared_worth, uneven, worth_of
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.terms import crowds, requirements
from moeplace.solvers.decoding import Decoding


@dataclass(frozen=True)
class Tuning:
    """What is tried, and how much is said.

    Attributes
    ----------
    by_flow, by_hand : bool
        Whether a flow, and dealing out, are tried; what is left decides in any case.
    shown : int
        Experts and servers that are named where there is no placement.
    flow : moeplace.caching.heuristics.nested_flow.Tuning
    """

    by_flow: bool = True
    by_hand: bool = True
    shown: int = SHOWN
    flow: nested_flow.Tuning = nested_flow.USUAL


USUAL = Tuning()
"""What is used unless something else is asked for."""


def cover(instance: Instance, stop: Stop, value: Int64 | None = None, tuning: Tuning = USUAL) -> Placement:
    """Return a placement that fits and just meets the requirements of :attr:`Instance.coverage`; empty without any.

    Parameters
    ----------
    instance : Instance
    stop : Stop
        Ends CP-SAT.
    value : int64 array [N, I], optional
        What holding each item on each server is worth; usually what it saves there, net of loading
        (:func:`~moeplace.caching.heuristics.nested_flow.shared_worth`).
    tuning : Tuning

    Raises
    ------
    NoSolutionError
        It is proven that there is none.
    MethodError
        None was found before the time was over.
    """
    coverage = instance.coverage
    if coverage is None:
        return Placement.empty(instance)
    required = requirements(instance)
    if (short := shortage(instance, tuning.shown)) is not None:
        raise NoSolutionError(f"{short} (proven by counting)")
    worth = shared_worth(instance) if value is None else worth_of(instance, value)
    held: Bool | None = None
    if tuning.by_flow and worth.coverable and uneven(instance, nested_flow.pairs_of(instance, worth)) is None:
        best = best_flow(instance, worth, tuning.flow)
        if best is None:
            raise NoSolutionError(_cut(instance, coverage, required, tuning))
        held = best.held
    if held is None and tuning.by_hand:
        held = _dealt(instance, coverage, worth.pair)
    if held is None and tuning.by_hand:
        held = _dealt(instance, coverage, None)
    if held is None:
        held = _solved(instance, required, stop)
    return Placement(_needed(held, required, worth))


def _needed(held: Bool, required: Sequence[Sequence[tuple[int, int]]], worth: Worth) -> Bool:
    """Return of what is held one pair for each requirement, where several would do the one that is worth most."""
    kept = np.zeros_like(held)
    # Requirements of an item that share a server may be met by one pair: the most shared ones come first.
    uses = Counter(pair for places in required for pair in places if held[pair])
    for places in sorted(required, key=lambda places: -max(uses[pair] for pair in places)):
        if not any(kept[pair] for pair in places):
            kept[max((uses[pair], int(worth.pair[pair]), -pair[0], pair) for pair in places if held[pair])[-1]] = True
    return kept


def _dealt(instance: Instance, coverage: Coverage, value: Int64 | None) -> Bool | None:
    """Deal out what needs a place, largest first; None where that gets stuck.

    Each goes to the server that meets most of its requirements, then to where it is worth most or, without values, to
    where most room is.
    """
    held = np.zeros((len(instance.servers), instance.n_items), dtype=np.bool_)
    free = instance.capacity_bytes.copy()
    slots = np.repeat(instance.layer_slots[:, None], instance.n_blocks, axis=1)
    unmet: dict[int, Bool] = {}
    for reach, item in zip(coverage.reach_of.tolist(), coverage.item.tolist(), strict=True):
        sets = coverage.reach[reach][None, :]
        unmet[item] = np.concatenate((unmet[item], sets)) if item in unmet else sets
    options = {item: int(sets.all(axis=0).sum()) for item, sets in unmet.items()}
    for item in sorted(unmet, key=lambda i: (-int(instance.item_bytes[i]), options[i], i)):
        size, block, sets = int(instance.item_bytes[item]), int(instance.item_block[item]), unmet[item]
        while len(sets):
            room = (free >= size) & (slots[:, block] > 0) & ~held[:, item]
            useful = sets.sum(axis=0) * room
            if not useful.any():
                return None
            n = int(np.lexsort((-free if value is None else -value[:, item], -useful))[0])
            held[n, item] = True
            free[n] -= size
            slots[n, block] -= 1
            sets = sets[~sets[:, n]]
    return held


def _solved(instance: Instance, required: Sequence[Sequence[tuple[int, int]]], stop: Stop) -> Bool:
    """Let CP-SAT decide."""
    from ortools.sat.python import cp_model

    from moeplace.solvers import cpsat

    model = cp_model.CpModel()
    pairs = sorted({pair for places in required for pair in places})
    x = {pair: model.new_bool_var(f"x[{pair[0]},{pair[1]}]") for pair in pairs}
    for places in required:
        model.add_bool_or([x[pair] for pair in places])
    size = instance.item_bytes.tolist()
    for n, capacity in enumerate(instance.capacity_bytes.tolist()):
        model.add(sum(size[i] * x[m, i] for m, i in pairs if m == n) <= capacity)
    for limit, crowd in crowds(instance, pairs):
        model.add(sum(x[pair] for pair in crowd) <= limit)

    def placement(values: Bool) -> Placement:
        return Placement.from_pairs(instance, [pair for pair, held in zip(pairs, values, strict=True) if held])

    def values(placement: Placement) -> Bool:
        return np.array([placement.cached[pair] for pair in pairs], dtype=np.bool_)

    sizes = {i: size[i] for _, i in pairs}
    none = (
        f"{number(len(sizes), 'expert')} of {number(sum(sizes.values()), 'byte')} must be held on servers that those "
        "without a cloud reach: their bytes alone would fit, but no way to place them does"
    )
    # Whether there is one is all that is asked: everything costs 0, and a bound of 1 says that there is none.
    search = Incumbent(None, cost=lambda _: 0, fits=lambda found: found.fits(instance), stop=stop, ceiling=1, none=none)
    search.attempt("a cover by CP-SAT", lambda: cpsat.improve(
        model, Decoding(list(x.values()), placement, values), search, constant=0, unit=1, largest=0, seed=0, threads=1
    ))  # fmt: skip
    found: Bool = search.outcome().placement.cached
    return found


def _cut(instance: Instance, coverage: Coverage, required: Sequence[Sequence[tuple[int, int]]], tuning: Tuning) -> str:
    """Say which requirements have too few places: a minimum cut of requirements, places and what servers take."""
    from ortools.graph.python import max_flow

    network = max_flow.SimpleMaxFlow()
    first_server = 2 + len(required)
    first_layer = first_server + len(instance.servers)
    layer = {
        (n, b): first_layer + n * instance.n_blocks + b
        for n, b in {(n, int(instance.item_block[i])) for places in required for n, i in places}
    }
    for c, places in enumerate(required):
        network.add_arc_with_capacity(0, 2 + c, 1)
        for n, i in places:
            network.add_arc_with_capacity(2 + c, layer[n, int(instance.item_block[i])], 1)
    size = {n: int(instance.item_bytes[i]) for places in required for n, i in places}  # one on each server
    most = len(required)
    for (n, _), node in sorted(layer.items()):
        network.add_arc_with_capacity(node, first_server + n, min(most, int(instance.layer_slots[n])))
    for n in sorted(size):
        network.add_arc_with_capacity(first_server + n, 1, min(most, int(instance.capacity_bytes[n]) // size[n]))
    network.solve(0, 1)
    reached = set(network.get_source_side_min_cut())
    stuck = [c for c in range(len(required)) if 2 + c in reached]
    items = coverage.item[stuck]
    servers = np.zeros(len(instance.servers), dtype=np.bool_)
    for c in stuck:
        servers |= coverage.reach[coverage.reach_of[c]]
    short = len(required) - int(network.optimal_flow())
    by_bytes = any(first_server + n in reached for n in size)
    by_slots = any(node in reached and first_server + n not in reached for (n, _), node in layer.items())
    least = number(short * int(instance.item_bytes[items].min()), "byte")
    what = number(short, "slot of a layer", "slots of a layer") if not by_bytes else number(short, "place")
    what += f" ({least})" if not by_slots else " (slots and bytes together)" if by_bytes else ""
    return (
        f"{experts_named(instance, items, tuning.shown)} must be held on "
        f"{servers_named(instance, servers, tuning.shown)}: {what} short (proven by a maximum flow)"
    )

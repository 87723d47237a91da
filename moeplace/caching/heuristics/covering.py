"""A first placement where demands have no cloud: every expert that must be somewhere gets a place, or none exists.

First by hand, largest experts first; where that gets stuck CP-SAT decides on coverage, capacities and slots alone (C1).
"""

from __future__ import annotations

import numpy as np

from moeplace.base.arrays import Bool
from moeplace.base.errors import MethodError, NoSolutionError
from moeplace.base.stop import Stop
from moeplace.caching.coverage import Coverage
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement


def cover(instance: Instance, stop: Stop) -> Placement:
    """Return a placement that fits and meets every requirement of :attr:`Instance.coverage`; empty without any.

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
    dealt = _dealt(instance, coverage)
    return Placement(_solved(instance, coverage, stop) if dealt is None else dealt)


def _dealt(instance: Instance, coverage: Coverage) -> Bool | None:
    """Give every item that needs a place the server that meets most of its requirements and has most room."""
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
            n = int(np.lexsort((-free, -useful))[0])
            held[n, item] = True
            free[n] -= size
            slots[n, block] -= 1
            sets = sets[~sets[:, n]]
    return held


def _solved(instance: Instance, coverage: Coverage, stop: Stop) -> Bool:
    """Let CP-SAT decide."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    size, slots = instance.item_bytes.tolist(), instance.layer_slots.tolist()
    x = {
        (n, item): model.new_bool_var(f"x[{n},{item}]")
        for item in np.unique(coverage.item).tolist()
        for n, capacity in enumerate(instance.capacity_bytes.tolist())
        if size[item] <= capacity and slots[n]
    }
    for reach, item in zip(coverage.reach_of.tolist(), coverage.item.tolist(), strict=True):
        model.add_bool_or([x[n, item] for n in np.flatnonzero(coverage.reach[reach]).tolist() if (n, item) in x])
    for n, capacity in enumerate(instance.capacity_bytes.tolist()):
        own = [item for m, item in x if m == n]
        model.add(sum(size[item] * x[n, item] for item in own) <= capacity)
        blocks: dict[int, list[int]] = {}
        for item in own:
            blocks.setdefault(int(instance.item_block[item]), []).append(item)
        for items in blocks.values():
            if len(items) > slots[n]:
                model.add(sum(x[n, item] for item in items) <= slots[n])
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    if stop.remaining is not None:
        solver.parameters.max_time_in_seconds = stop.remaining
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        raise NoSolutionError("not every expert can be on a server that those without a cloud reach (proven by CP-SAT)")
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise MethodError("no placement was found that holds every expert somewhere, and none was proven not to exist")
    held = np.zeros((len(instance.servers), instance.n_items), dtype=np.bool_)
    for (n, item), variable in x.items():
        held[n, item] = solver.boolean_value(variable)
    return held

"""Families of choices that are tried or walked through, for any budget: one number for all layers, schedules, hulls.

The hull of a layer are the choices of its lower convex hull, what is minimised against what has the budget. From the
choice that uses least, steps along the hulls, steepest first (cost saved per unit of the budget used), go through
choices of the whole model that are each optimal for what they use; where a budget ends between two of them, the slope
there is the price that gives the bound of the linear relaxation (Sinha and Zoltners, Operations Research 27(3), 1979).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from moeplace.active.cost import choice_of, sums
from moeplace.active.document import Choice
from moeplace.active.instance import Instance
from moeplace.base.arrays import Int64


@dataclass(frozen=True, eq=False)
class Family:
    """Some choices with their sums.

    Attributes
    ----------
    active : int64 array [P, L]
        Active experts of each layer.
    time_ns, loss : int64 array [P]
    """

    active: Int64
    time_ns: Int64
    loss: Int64

    @classmethod
    def of(cls, instance: Instance, active: Int64) -> Family:
        """Return choices with their sums."""
        return cls(active, sums(instance.time_ns, active), sums(instance.loss, active))

    def undominated(self) -> Family:
        """Return the choices that no other one is as good as in both sums, by rising loss; of equal ones the first."""
        order = np.lexsort((self.time_ns, self.loss))
        least = np.minimum.accumulate(self.time_ns[order])
        kept = order[np.concatenate(([True], least[1:] < least[:-1]))]
        return Family(self.active[kept], self.time_ns[kept], self.loss[kept])

    def best(self, instance: Instance) -> int | None:
        """Return the cheapest choice within the instance's budget, of equal ones the one that uses least; or None."""
        cost, usage = (self.time_ns, self.loss) if instance.minimises == "time_ns" else (self.loss, self.time_ns)
        within = np.flatnonzero(usage <= instance.budget)
        if not len(within):
            return None
        return int(within[np.lexsort((usage[within], cost[within]))[0]])


def uniform(instance: Instance) -> Family:
    """Return the choices of one number for all layers."""
    each = np.arange(1, instance.top_k + 1, dtype=np.int64)
    return Family.of(instance, np.repeat(each[:, None], instance.layers, axis=1))


def schedules(instance: Instance) -> Family:
    """Return the schedules with one bend that no other one dominates.

    ``b`` in the first layer, ``h`` in layer ``p``, ``e`` in the last; between these the numbers run straight, rounded
    to the nearest (a half up). Every ``b``, ``h``, ``e`` and every layer ``p`` in between is tried. The family follows
    Yang et al., *Faster MoE LLM Inference for Extremely Large Models* (arXiv 2505.03531), who try some of these.
    """
    last = instance.layers - 1
    if last < 2:  # no layer in between: every choice is one
        each = [np.arange(1, instance.top_k + 1, dtype=np.int64)] * (last + 1)
        return Family.of(instance, np.stack(np.meshgrid(*each), axis=-1).reshape(-1, last + 1)).undominated()
    ends = np.arange(1, instance.top_k + 1, dtype=np.int64)
    b, h, e = (grid.reshape(-1, 1) for grid in np.meshgrid(ends, ends, ends))
    found = []
    for bend in range(1, last):
        up, rest = np.arange(bend + 1), last - bend
        down = np.arange(1, rest + 1)
        first = (2 * (b * bend + (h - b) * up) + bend) // (2 * bend)
        then = (2 * (h * rest + (e - h) * down) + rest) // (2 * rest)
        found.append(Family.of(instance, np.concatenate((first, then), axis=1)).undominated())
    return Family.of(instance, np.concatenate([some.active for some in found])).undominated()


@dataclass(frozen=True)
class Step:
    """A step along a layer's hull.

    Attributes
    ----------
    layer, k : int
        The layer, and its active experts afterwards.
    saved, used : int
        What the cost falls by and what of the budget is used; both positive.
    """

    layer: int
    k: int
    saved: int
    used: int


@dataclass(frozen=True)
class Walk:
    """The way along the hulls of all layers.

    Attributes
    ----------
    first : tuple of int
        Active experts of each layer at the beginning, where least of the budget is used.
    used, cost : int
        What that uses and costs.
    steps : tuple of Step
        Steepest first; those of one layer follow each other.
    """

    first: tuple[int, ...]
    used: int
    cost: int
    steps: tuple[Step, ...]


def walk(instance: Instance) -> Walk:
    """Return the way along the hulls, for the instance's direction."""
    first, steps = [], []
    cost, usage = instance.cost.tolist(), instance.usage.tolist()
    for layer, (costs, uses) in enumerate(zip(cost, usage, strict=True)):
        hull = lower_hull(uses, costs)
        first.append(hull[0] + 1)
        steps += [
            Step(layer, after + 1, costs[before] - costs[after], uses[after] - uses[before])
            for before, after in itertools.pairwise(hull)
        ]
    steps.sort(key=lambda step: Fraction(-step.saved, step.used))
    used = sum(uses[k - 1] for uses, k in zip(usage, first, strict=True))
    return Walk(tuple(first), used, sum(costs[k - 1] for costs, k in zip(cost, first, strict=True)), tuple(steps))


def lower_hull(usage: list[int], cost: list[int]) -> list[int]:
    """Return the corners of the lower convex hull: usage rises, cost falls, ever less steeply.

    Examples
    --------
    >>> lower_hull([0, 2, 4, 4, 5], [9, 8, 3, 7, 3])
    [0, 2]
    """
    hull: list[int] = []
    for at in sorted(range(len(usage)), key=lambda k: (usage[k], cost[k])):
        if hull and cost[at] >= cost[hull[-1]]:
            continue
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (cost[a] - cost[b]) * (usage[at] - usage[b]) > (cost[b] - cost[at]) * (usage[b] - usage[a]):
                break
            hull.pop()
        hull.append(at)
    return hull


def filled(instance: Instance, way: Walk) -> Choice:
    """Return what the walk reaches within the budget, and then the changes of single layers that still fit.

    Steps that do not fit are passed over, later ones still tried; of the changes the one that saves most comes first,
    of equal ones that of the first layer and the fewest experts. The beginning is within the budget.
    """
    active, left = np.array(way.first), instance.budget - way.used
    for step in way.steps:
        uses = instance.usage[step.layer]
        more = int(uses[step.k - 1] - uses[active[step.layer] - 1])
        if more <= left:
            active[step.layer] = step.k
            left -= more
    layer = np.arange(instance.layers)
    while True:
        saved = instance.cost[layer, active - 1][:, None] - instance.cost
        more_each = instance.usage - instance.usage[layer, active - 1][:, None]
        saved[more_each > left] = 0
        at, k = divmod(int(saved.argmax()), instance.top_k)
        if saved[at, k] <= 0:
            return choice_of(active)
        left -= int(more_each[at, k])
        active[at] = k + 1


def supported(instance: Instance) -> Family:
    """Return the choices that the walk goes through: optimal for what they use, whatever the budget."""
    way = walk(instance)
    rows = [list(way.first)]
    for step in way.steps:
        rows.append(rows[-1].copy())
        rows[-1][step.layer] = step.k
    return Family.of(instance, np.array(rows, dtype=np.int64))

"""What adding, dropping or moving an expert changes: the saving form of an instance, layer by layer. Exact.

Count from the cloud's time instead of to it: for a group ``g`` of demands, ``near[g, n] = max(0, cloud - t[g, n])``
is what an expert's output from server ``n`` saves, and the best over the holders is what the expert saves. A row waits
for its slowest expert, so with ``latency_model`` "max"::

    saving(x) = sum over rows (g, S, c) of  c * min over e in S of max over n holding e of near[g, n]

Under "sum" every row is split into rows of one expert, and the same formula holds. Demands with equal ``near`` are
one group and their equal rows one row: absolute times do not matter, only how much nearer than the cloud a server is.
Experts on the user's device drop out of a row where no server is nearer than the device, otherwise the device counts
as one more holder (``floor``); rows that are on the device completely are counted from the device instead of the cloud.

Rows of different layers share no expert: each :class:`Layer` is valued alone, and changes in different layers add up.

Two things of version 2 are part of it. What loading an expert costs (C2) is deducted where it is held. Where demands
have no cloud (:mod:`moeplace.caching.coverage`), every requirement, an expert on one of the servers ``R``, is one more
row ``{e}`` that saves ``K`` on the servers of ``R``, and all these ``K`` are deducted from the start: nothing changes
for a placement that covers, and every requirement that is not met costs ``K``, more than anything else could save
(where that fits in 64 bits).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Final

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Bool, Int32, Int64, row_keys
from moeplace.base.documents import UNREACHABLE
from moeplace.base.stop import Stop
from moeplace.caching.active import check_decided
from moeplace.caching.evaluation import cost_ns
from moeplace.caching.heuristics.closure import LARGEST, corners
from moeplace.caching.heuristics.covering import cover
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement

MOST_ENUMERATED = 20
"""Experts of a layer up to which all subsets may be tried (the table has ``2**experts`` entries)."""


MOST_PENALTY: Final = 2**60
"""What all requirements may cost together where none of them is met, token-ns."""

KERNELS: Final = ("moeplace.caching._kernels",)
"""What a method imports that uses the compiled loops."""


def kernels() -> ModuleType:
    """Return the compiled loops; loaded here, since numba takes a second and most commands never need it."""
    from moeplace.caching import _kernels

    return _kernels


@dataclass(frozen=True, eq=False)
class ValueFunction:
    """What the experts of one layer on one server are worth, by their number.

    Attributes
    ----------
    values : int64 array [Q + 1]
        Saving of the layer with the best known ``q`` experts on the server; never decreasing.
    kept : bool array [Q + 1, E]
        These experts (at most ``q``).
    proven : bool array [Q + 1]
        Whether no other ``q`` experts save more.
    required : int
        Experts that nobody else holds of those who may meet a requirement: fewer experts leave requirements unmet, and
        so do more experts than ``Q`` if they are as many.
    """

    values: Int64
    kept: Bool
    proven: Bool
    required: int = 0

    @property
    def exact(self) -> bool:
        """Whether every value is proven."""
        return bool(self.proven.all())


@dataclass(frozen=True, eq=False)
class Moves:
    """The best move of one expert of a layer between any two places (place ``N`` is nowhere).

    Attributes
    ----------
    gain : int64 array [N + 1, N + 1]
        Change of the saving by the best move from one place to another; very negative where there is none.
    expert : int32 array [N + 1, N + 1]
        The expert moved, -1 where there is none.
    """

    gain: Int64
    expert: Int32


@dataclass(frozen=True, eq=False, repr=False)
class Layer:
    """One layer of one model in saving form (``A`` rows, ``G`` groups, ``E`` experts, ``N`` servers).

    Attributes
    ----------
    items : slice
        Its items in the instance.
    size : int
        Bytes of one expert.
    experts : int32 array [A, K]
        Experts of each row, ascending, padded with the first.
    group : int32 array [A]
        Group of each row, ascending.
    count : int64 array [A]
        Tokens of each row.
    near : int64 array [G, N]
        Saving per token of a group when a server holds the expert, ns.
    floor : int64 array [G, E]
        Saving per token by the group's own device, ns.
    load : int64 array [N, E]
        What it costs that a server holds an expert, token-ns.
    slots : int64 array [N]
        Most experts of the layer on each server.
    covers : int
        Rows at the end that are requirements, of one token each.
    bonus : int
        What all requirements together save, token-ns: deducted from every saving.
    """

    items: slice
    size: int
    experts: Int32
    group: Int32
    count: Int64
    near: Int64
    floor: Int64
    load: Int64
    slots: Int64
    covers: int
    bonus: int

    @property
    def n_experts(self) -> int:
        """Number of experts."""
        return len(self.floor.T)

    @cached_property
    def additive(self) -> bool:
        """Whether every row asks for one expert, so that the experts on one server are worth their sum."""
        return bool(self.experts.shape[1] == 1)

    @cached_property
    def _members(self) -> tuple[Int64, Int32]:
        start, member = kernels().members(self.experts, self.n_experts)
        return start, member

    def saving_ns(self, held: Bool) -> int:
        """Return the saving of the layer, token-ns, for ``held [N, E]``, less what loading costs."""
        loading = int(self.load[held].sum())
        return int(kernels().value(self.experts, self.group, self.count, self.best(held))) - loading - self.bonus

    @cached_property
    def most_ns(self) -> int:
        """Saving if every server held everything and loading were free, token-ns: nothing saves more."""
        everything = np.ones(self.load.shape, dtype=np.bool_)
        return self.saving_ns(everything) + int(self.load.sum())

    def allows(self, held: Bool) -> bool:
        """Return whether ``held [N, E]`` keeps slots and requirements."""
        if self.covers:
            group, expert = self.group[-self.covers :], self.experts[-self.covers :, 0]
            if not ((self.near[group] > 0) & held.T[expert]).any(axis=1).all():
                return False
        return bool((held.sum(axis=1) <= self.slots).all())

    def full(self, held: Bool) -> Bool:
        """Return where no more experts of the layer may go, bool [N]."""
        full: Bool = held.sum(axis=1) >= self.slots
        return full

    def best(self, held: Bool) -> Int64:
        """Return what each expert saves each group per token, the best over its holders, int64 [G, E]."""
        best: Int64 = kernels().best_without(self.near, self.floor, held, -1)
        return best

    def gains(self, held: Bool) -> Int64:
        """Return what adding each expert to each server saves, int64 [N, E]; very negative where it may not go."""
        gains: Int64 = kernels().adds(
            self.experts, self.group, self.count, self.near, self.best(held), held, self.load, self.full(held)
        )
        return gains

    def gain(self, best: Int64, server: int, expert: int) -> int:
        """Return one entry of :meth:`gains` where rows ask for one expert, given :meth:`best`."""
        start, member = self._members
        rows = member[start[expert] : start[expert + 1]]
        gain = int(kernels().add_one(self.group, self.count, rows, self.near[:, server], best, expert))
        return gain - int(self.load[server, expert])

    def moves(self, held: Bool) -> Moves:
        """Value every move of one expert; exact for each move alone."""
        return MoveValues(self, held).moves()

    def peel(self, held: Bool, cost: npt.NDArray[np.float64]) -> tuple[Int64, npt.NDArray[np.float64], Int32, Int32]:
        """Drop all experts from all servers one by one, the one that loses least for what it costs first.

        Servers that hold more experts than they have slots for come first.

        Parameters
        ----------
        held : bool array [N, E]
            Where it begins.
        cost : float64 array [N]
            Of one expert on a server, token-ns.

        Returns
        -------
        int64 array [H + 1]
            Saving at the beginning and after each of the ``H`` drops.
        float64 array [H + 1]
            The same less what the experts held cost.
        int32 array [H], int32 array [H]
            Server and expert dropped.
        """
        start, member = self._members
        savings, worths, server, expert = kernels().peel_all(
            self.experts,
            self.group,
            self.count,
            start,
            member,
            self.near,
            self.floor,
            held,
            cost,
            self.load,
            self.slots,
            self.bonus,
        )
        return savings, worths, server, expert

    def value_function(
        self, held: Bool, server: int, enumerated: int = 0, cuts: bool = False, nodes: int = 0
    ) -> ValueFunction:
        """Return what ``q`` experts on one server are worth while the other servers keep theirs.

        Exact by sorting where rows ask for one expert, and by trying all sets in layers of at most ``enumerated``
        experts. Otherwise by peeling: from all experts the least useful one is dropped, again and again; what the
        server holds now stays in the running, so the best point is never worse than the present. With ``cuts`` the
        corners of the upper concave envelope are exact too (:mod:`moeplace.caching.heuristics.closure`),
        and with ``nodes`` a branch and
        bound for all numbers of experts at once goes on from there; what it leaves unexplored is not proven.

        Parameters
        ----------
        held : bool array [N, E]
        server : int
        enumerated : int
            Most experts of a layer whose sets are all tried, at most :data:`MOST_ENUMERATED`.
        cuts : bool
            Whether to compute the envelope.
        nodes : int
            Most nodes of the branch and bound.
        """
        near = np.ascontiguousarray(self.near[:, server])
        low = kernels().best_without(self.near, self.floor, held, server)
        n, load, required = self.n_experts, self.load[server], int(self._needed(near, low).sum())
        others = int(self.load[held].sum()) - int(load[held[server]].sum()) + self.bonus
        proven = np.ones(n + 1, dtype=np.bool_)
        if not self.additive and n <= min(enumerated, MOST_ENUMERATED):
            values, masks = kernels().subsets(self.experts, self.group, self.count, near, low, load)
            kept = (masks[:, None] >> np.arange(n)) & 1 > 0
            return self._function(server, values - others, kept, proven, required)
        start, member = self._members
        values, order = kernels().peel(self.experts, self.group, self.count, start, member, near, low, load)
        values -= others
        rank = np.empty(n, dtype=np.int64)
        rank[order] = np.arange(n)
        kept = rank < np.arange(n + 1)[:, None]
        if self.additive:
            return self._function(server, values, kept, proven, required)
        _not_decreasing(values, kept)
        _raise(values, kept, self.saving_ns(held), held[server])
        # All experts are the best of their number, but where they cost something fewer may be worth more.
        proven[1:] = False
        proven[-1] = not load.any()
        if (cuts or nodes) and not load.any():
            base = int(values[0])
            sets, weight = self._terms(near, low)
            if not len(weight):
                proven[:] = True
            if cuts:
                _cut(sets, weight, base, values, kept, proven)
            if nodes and not proven.all():
                _branch(sets, weight, base, values, kept, proven, nodes)
        return self._function(server, values, kept, proven, required)

    def required(self, held: Bool, server: int) -> Bool:
        """Return which experts only one server can hold, bool [E]: the others leave a requirement to it."""
        if not self.covers:
            return np.zeros(self.n_experts, dtype=np.bool_)
        return self._needed(self.near[:, server], kernels().best_without(self.near, self.floor, held, server))

    def _needed(self, near: Int64, low: Int64) -> Bool:
        needed = np.zeros(self.n_experts, dtype=np.bool_)
        if self.covers:
            group, expert = self.group[-self.covers :], self.experts[-self.covers :, 0]
            needed[expert[low[group, expert] < near[group]]] = True
        return needed

    def _function(self, server: int, values: Int64, kept: Bool, proven: Bool, required: int) -> ValueFunction:
        """Return the value function of so many experts as the server has slots for."""
        _not_decreasing(values, kept)
        most = int(min(self.slots[server], self.n_experts)) + 1
        return ValueFunction(values[:most], kept[:most], proven[:most], required)

    def _terms(self, near: Int64, low: Int64) -> tuple[Int64, Int64]:
        """Return the distinct terms "all of these experts are on the server", sets [T, K] and weights [T]."""
        sets, weight = kernels().terms(self.experts, self.group, self.count, near, low)
        none = np.zeros_like(weight)
        _, _, sets, weight = _merge(none, none, sets, weight)
        return sets, weight


class MoveValues:
    """What moves of one expert of a layer change, kept up to date from one placement to the next.

    After a move only the rows that ask for its expert are gone through again.

    Parameters
    ----------
    layer : Layer
    held : bool array [N, E]
        The placement to begin with.
    """

    def __init__(self, layer: Layer, held: Bool) -> None:
        self._layer, self._held = layer, held.copy()
        self._count()

    @staticmethod
    def cells(layer: Layer) -> int:
        """Return about how many numbers are kept for a layer."""
        return len(layer.load) * int(layer.load.size)

    def _count(self) -> None:
        layer = self._layer
        servers, experts = self._held.shape
        self._nearest = kernels().two_best(layer.near, layer.floor, self._held)
        self._sums = (
            np.zeros((experts, servers), dtype=np.int64),
            np.zeros((experts, servers), dtype=np.int64),
            np.zeros((servers, experts, servers), dtype=np.int64),
        )
        rows = np.arange(len(layer.count), dtype=np.int32)
        kernels().count_moves(layer.experts, layer.group, layer.count, rows, layer.near, *self._nearest, 1, *self._sums)

    def follow(self, held: Bool) -> None:
        """Go to another placement."""
        layer = self._layer
        moved = np.flatnonzero((held != self._held).any(axis=0))
        start, member = layer._members
        self._held = held.copy()
        # Each of these rows is taken away and counted again.
        if 2 * int((start[moved + 1] - start[moved]).sum()) >= len(layer.count):
            self._count()
            return
        for e in moved.tolist():
            kernels().follow_moves(
                layer.experts, layer.group, layer.count, member[start[e] : start[e + 1]], layer.near, layer.floor,
                self._held, e, *self._nearest, *self._sums,
            )  # fmt: skip

    def moves(self) -> Moves:
        """Return the best move between any two places; exact for each move alone."""
        layer = self._layer
        return Moves(*kernels().moves(self._held, *self._sums, layer.load, layer.full(self._held)))


def _cut(sets: Int64, weight: Int64, base: int, values: Int64, kept: Bool, proven: Bool) -> None:
    """Raise a value function to the envelope's corners and mark what the envelope proves."""
    found = corners(sets, weight, len(proven) - 1)
    if found is None:
        return
    for saving, chosen in found:
        _raise(values, kept, base + saving, chosen)
    for (a, left), (b, right) in itertools.pairwise(found):
        first, last = int(left.sum()), int(right.sum())
        for q in range(first, last + 1):
            # h(q) is an integer on or below the line between two corners.
            proven[q] |= int(values[q]) - base >= (a * (last - q) + b * (q - first)) // (last - first)


def _branch(sets: Int64, weight: Int64, base: int, values: Int64, kept: Bool, proven: Bool, nodes: int) -> None:
    """Raise a value function by branch and bound and mark what is proven; skip weights that are too large for it."""
    scale = math.lcm(*(m * (m - 1) for m in range(2, sets.shape[1] + 1)))
    if int(weight.sum()) * scale >= LARGEST:
        return
    start, member = kernels().members(sets, len(proven) - 1)
    found, chosen, better, left = kernels().branch(sets, weight, start, member, values - base, scale, nodes)
    for q in np.flatnonzero(better).tolist():
        _raise(values, kept, base + int(found[q]), chosen[q])
    proven |= left <= values - base


def _not_decreasing(values: Int64, kept: Bool) -> None:
    """Leave experts out where fewer are worth more, as they may be where they cost something."""
    best = np.maximum.accumulate(values)
    if np.array_equal(best, values):
        return
    source = np.maximum.accumulate(np.where(values == best, np.arange(len(values)), 0))
    values[:], kept[:] = best, kept[source]


def _raise(values: Int64, kept: Bool, value: int, chosen: Bool) -> None:
    """Put a set of experts into a value function wherever it is better, without making it decrease."""
    for q in range(int(chosen.sum()), len(values)):
        if values[q] >= value:
            break
        values[q] = value
        kept[q] = chosen


@dataclass(frozen=True, eq=False, repr=False)
class SavingForm:
    """An instance in saving form: its layers that have rows, and what they must fit into.

    Attributes
    ----------
    instance : Instance
    layers : list of Layer
    capacity_bytes : int64 array [N]
        Of the servers that the layers know: the instance's, or those that :func:`saving_form` was given.
    """

    instance: Instance
    layers: list[Layer]
    capacity_bytes: Int64

    @property
    def additive(self) -> bool:
        """Whether all rows ask for one expert: without loading and coverage the saving is then monotone submodular."""
        return all(layer.additive for layer in self.layers)

    @property
    def theorems(self) -> bool:
        """Whether the saving is monotone submodular (facility location), as theorems on greedy methods need it."""
        return self.additive and not any(layer.covers or layer.load.any() for layer in self.layers)

    @property
    def n_rows(self) -> int:
        """Number of merged rows."""
        return sum(len(layer.count) for layer in self.layers)

    @property
    def most_ns(self) -> int:
        """Saving if every server held everything and loading were free, token-ns: no placement saves more."""
        return sum(layer.most_ns for layer in self.layers)

    @property
    def most_terms(self) -> int:
        """Terms that :func:`moeplace.caching.terms.aggregate` has at most: each row has one for each nearer server."""
        return sum(int((layer.near > 0).sum(axis=1)[layer.group].sum()) for layer in self.layers)

    def saving_ns(self, held: Bool) -> int:
        """Return the saving of ``held [N, I]``, token-ns: baseline minus cost."""
        return sum(layer.saving_ns(held[:, layer.items]) for layer in self.layers)


def held_by(instance: Instance, start: Placement | None, stop: Stop) -> Bool:
    """Return a writable copy of a placement's matrix; without one, of a first one.

    It is the empty one or, where demands have no cloud, one that covers; or what the servers hold now, where that is a
    placement and costs less because nothing has to be loaded.

    Raises
    ------
    NoSolutionError
        There is none.
    MethodError
        None was found in time.
    """
    if start is None:
        start = cover(instance, stop)
        if instance.holds is not None and instance.load_block_ns is not None:
            now = Placement(instance.holds)
            if now.fits(instance) and cost_ns(instance, now) < cost_ns(instance, start):
                start = now
    return start.cached.copy()


def saving_form(
    instance: Instance, *, server_ns: Int64 | None = None, capacity_bytes: Int64 | None = None
) -> SavingForm:
    """Bring an instance into saving form.

    Parameters
    ----------
    instance : Instance
    server_ns : int64 array [D, N], optional
        Times to other servers than the instance's, for all of its demands.
    capacity_bytes : int64 array [N], optional
        What these servers hold.

    Returns
    -------
    SavingForm
        Rows that no server can make faster are gone; groups and rows that are alike are one.

    Raises
    ------
    InputError
        The instance leaves open how many experts are active.
    """
    check_decided(instance)
    n_demands, of_instance = len(instance.demands), server_ns is None and capacity_bytes is None
    server_ns = instance.server_ns if server_ns is None else server_ns
    capacity_bytes = instance.capacity_bytes if capacity_bytes is None else capacity_bytes
    near = np.where(server_ns == UNREACHABLE, 0, np.maximum(0, instance.cloud_ns[:, None] - server_ns)).astype(np.int64)
    device = np.maximum(0, instance.cloud_ns - instance.device_ns)
    demand, count, item = _padded_rows(instance)
    floored = np.zeros(n_demands, dtype=np.bool_)
    if len(instance.device_item):
        demand, item, floored = _fold_devices(instance, near, device, demand, item)
        # Demand D + d: rows of demand d that its device holds completely, counted from the device's time.
        near = np.concatenate((near, np.maximum(0, near - device[:, None])))
        floored = np.concatenate((floored, np.zeros(n_demands, dtype=np.bool_)))
    item = np.sort(item, axis=1)  # what is missing comes last
    servable = (near.max(axis=1, initial=0) > 0)[demand] & (item[:, 0] < instance.n_items)
    demand, count, item = demand[servable], count[servable], item[servable]
    item = np.where(item < instance.n_items, item, item[:, :1])

    # One group: the same model, the same savings, and, where a device can be the nearest, the same device.
    model = np.tile(instance.demand_model, len(near) // max(n_demands, 1))
    own = np.where(floored, np.arange(len(near)) + 1, 0)
    keys, group_of = np.unique(np.column_stack((model, own, near)), axis=0, return_inverse=True)
    group = group_of.reshape(-1)[demand].astype(np.int64)
    block = instance.item_block[item[:, 0]].astype(np.int64)
    expert = item - instance.block_start[block][:, None]
    block, group, expert, count = _merge(block, group, expert, count)

    requirements = _Requirements(instance, of_instance, len(server_ns.T))
    layers = []
    bounds = np.searchsorted(block, np.arange(instance.n_blocks + 1))
    first_group = np.searchsorted(keys[:, 0], np.arange(len(instance.models) + 1))
    for b in range(instance.n_blocks):
        rows = slice(int(bounds[b]), int(bounds[b + 1]))
        items = slice(int(instance.block_start[b]), int(instance.block_start[b + 1]))
        reach, required = requirements.of(items)
        if rows.start == rows.stop and not len(required):
            continue
        m = int(instance.block_model[b])
        groups = slice(int(first_group[m]), int(first_group[m + 1]))
        experts = expert[rows]
        # Rows shorter than the longest are padded with their first; a column of nothing else is not needed.
        width = 1 + int(np.count_nonzero(np.any(experts != experts[:, :1], axis=0)))
        near = keys[groups, 2:]
        floor = _floor(instance, keys[groups, 1], items, device)
        needed, group_of_row = np.unique(reach, return_inverse=True)
        order = np.argsort(group_of_row, kind="stable")
        layers.append(
            Layer(
                items=items,
                size=int(instance.item_bytes[items.start]),
                experts=np.ascontiguousarray(
                    np.concatenate((experts[:, :width], np.repeat(required[order, None], width, axis=1))),
                    dtype=np.int32,
                ),
                group=np.concatenate((group[rows] - groups.start, len(near) + group_of_row[order])).astype(np.int32),
                count=np.concatenate((count[rows], np.ones(len(required), dtype=np.int64))),
                near=np.ascontiguousarray(np.concatenate((near, requirements.weight * requirements.reach[needed]))),
                floor=np.concatenate((floor, np.zeros((len(needed), floor.shape[1]), dtype=np.int64))),
                load=requirements.load(items),
                slots=requirements.slots,
                covers=len(required),
                bonus=requirements.weight * len(required),
            )
        )
    return SavingForm(instance, layers, capacity_bytes)


class _Requirements:
    """What version 2 asks of a form's servers: the instance's own, or others that take the place of all of them.

    Parameters
    ----------
    instance : Instance
    own : bool
        Whether the servers are the instance's. On others every required expert must be held, and loading is free.
    n_servers : int
    """

    def __init__(self, instance: Instance, own: bool, n_servers: int) -> None:
        self._instance, self._own, self._coverage = instance, own, instance.coverage
        everywhere = np.ones((1, n_servers), dtype=np.bool_)
        coverage = self._coverage
        self.reach: Bool = everywhere if coverage is None or not own else coverage.reach
        most = int(np.diff(instance.block_start).max(initial=0))
        self.slots: Int64 = np.minimum(instance.layer_slots if own else np.full(n_servers, most), most)
        # More than everything else can save; less where the sum of all requirements would not fit.
        count = max(1, 0 if coverage is None else len(coverage.item))
        self.weight = max(1, min(instance.baseline_ns + instance.most_loading_ns + 1, MOST_PENALTY // count))

    def of(self, items: slice) -> tuple[Int64, Int64]:
        """Return reach set and expert of the requirements of a layer."""
        if self._coverage is None:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        reach, expert = (column.astype(np.int64) for column in self._coverage.of(items))
        if not self._own:
            expert = np.unique(expert)
            reach = np.zeros_like(expert)
        return reach, expert

    def load(self, items: slice) -> Int64:
        """Return what loading costs, int64 [N, E]."""
        load = self._instance.load_ns(items) if self._own else None
        shape = self.reach.shape[1], items.stop - items.start
        return np.zeros(shape, dtype=np.int64) if load is None else np.ascontiguousarray(load)


def _padded_rows(instance: Instance) -> tuple[Int64, Int64, Int64]:
    """Return demand, count and items [A, K] of all rows; a missing item is ``n_items``. "sum" splits rows."""
    rows = instance.rows
    size = np.diff(rows.start)
    if instance.latency_model == "sum":
        return (
            np.repeat(rows.demand, size).astype(np.int64),
            np.repeat(rows.count, size),
            rows.item.astype(np.int64)[:, None],
        )
    item = np.full((len(rows), max(1, int(size.max(initial=1)))), instance.n_items, dtype=np.int64)
    row = np.repeat(np.arange(len(rows)), size)
    item[row, np.arange(len(rows.item)) - rows.start[row]] = rows.item
    return rows.demand.astype(np.int64), rows.count, item


def _fold_devices(
    instance: Instance, near: Int64, device: Int64, demand: Int64, item: Int64
) -> tuple[Int64, Int64, Bool]:
    """Take the experts on devices out of the rows; return rows and which demands still need their device."""
    held = instance.device_demand.astype(np.int64) * (instance.n_items + 1) + instance.device_item
    on_device = np.isin(demand[:, None] * (instance.n_items + 1) + item, held) & (device > 0)[demand][:, None]
    there = item < instance.n_items
    complete = (on_device | ~there).all(axis=1)
    # Where no server is nearer than the device, a row waits for its other experts alone.
    device_nearest = (device >= near.max(axis=1, initial=0))[demand]
    item = np.where(on_device & (device_nearest & ~complete)[:, None], instance.n_items, item)
    floored = np.zeros(len(instance.demands), dtype=np.bool_)
    floored[demand[~complete & ~device_nearest & on_device.any(axis=1)]] = True
    return np.where(complete, demand + len(instance.demands), demand), item, floored


def _floor(instance: Instance, own: Int64, items: slice, device: Int64) -> Int64:
    floor = np.zeros((len(own), items.stop - items.start), dtype=np.int64)
    for g in np.flatnonzero(own).tolist():
        d = int(own[g]) - 1
        held = instance.device_items(d)
        held = held[(held >= items.start) & (held < items.stop)]
        floor[g, held - items.start] = device[d]
    return floor


def _merge(block: Int64, group: Int64, expert: Int64, count: Int64) -> tuple[Int64, Int64, Int64, Int64]:
    """Sort rows by (block, group, experts) and add up the equal ones; experts are in a canonical order."""
    if not len(count):
        return block, group, expert, count
    key = row_keys([block, group, *expert.T])
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    rows: npt.NDArray[np.intp] = order[first]
    return block[rows], group[rows], expert[rows], np.add.reduceat(count[order], first)

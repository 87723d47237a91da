"""The aggregated problem: users folded into the sets of servers that serve them equally well. Exact.

For a demand, let ``theta_0 < theta_1 < ...`` be the distinct times below the cloud's, ``R_j`` the servers within
``theta_j`` and ``S_j`` the experts of a row that are not on the device by then. The row's latency is at most
``theta_j`` exactly if every expert of ``S_j`` is cached within ``R_j``, so that::

    saving(x) = sum over terms (R, S) of  W[R, S] * [every e in S is cached on some n in R]             (A1)
    W[R, S]   = sum over demands, steps with R_j = R, rows with S_j = S of  count * (theta_{j+1} - theta_j)   (A2)

with the cloud's time as the last "next time" (formulation, section 3.1). Without a cloud it is the farthest place's,
and (A1) is right where the placement meets :attr:`Instance.coverage`. Two demands with the same prefix of
nearest servers fall into one term, so the size grows with the number of distinct prefixes, not with users.
In matrices, ``W = P M``: ``P[R, d]`` holds the step widths and ``M[d, S]`` the merged row counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Bool, Int32, Int64
from moeplace.base.documents import UNREACHABLE
from moeplace.base.errors import NoSolutionError
from moeplace.base.text import number
from moeplace.caching.active import check_decided
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.reading import NO_LIMIT
from moeplace.caching.rows import Rows, distinct_sets

MOST_PAIRS = 1 << 18
"""Pairs of a demand's step and one of its rows up to which terms are summed up without matrices."""


class Sets(NamedTuple):
    """The index sets and weights of an algebraic model.

    Attributes
    ----------
    pairs : list of (server, item)
        Pairs that can save something, or that a requirement may need.
    members : list of list of int
        The servers of each radius set.
    covers : list of (radius set, item)
        What the terms ask for.
    terms : list of list of int
        The covers that each term needs.
    weight : list of int
        ``W`` of each term, token-ns.
    """

    pairs: list[tuple[int, int]]
    members: list[list[int]]
    covers: list[tuple[int, int]]
    terms: list[list[int]]
    weight: list[int]


class Sides(NamedTuple):
    """What an algebraic model has beside capacities and terms; without it, its optimum is still a bound.

    Attributes
    ----------
    price : list of int
        What loading costs for each of the pairs, token-ns: (C2).
    required : list of list of (server, item)
        For each requirement of :attr:`Instance.coverage` its pairs, of which one must be held: (C1).
    crowds : list of (slots, list of (server, item))
        Of the pairs of a server and a block, where there are more than the server has slots: at most so many are held.
    """

    price: list[int]
    required: list[list[tuple[int, int]]]
    crowds: list[tuple[int, list[tuple[int, int]]]]


@dataclass(frozen=True, eq=False, repr=False)
class AggregatedProblem:
    """Maximise (A1) within the capacities (``Q`` radius sets, ``T`` terms, ``G`` item sets).

    Attributes
    ----------
    instance : Instance
        What it was made from.
    radius : bool array [Q, N]
        The servers of each radius set ``R``.
    set_start : int64 array [G + 1]
        Item set ``s`` is ``set_item[set_start[s]:set_start[s + 1]]``.
    set_item : int32 array
        Items of the sets, ascending within a set.
    term_radius, term_set : int32 array [T]
        Radius set and item set of each term; sorted by (radius, set), each pair once.
    term_weight : int64 array [T]
        ``W``, token-ns; positive. Their sum is at most the baseline, so sums never overflow.
    """

    instance: Instance
    radius: Bool
    set_start: Int64
    set_item: Int32
    term_radius: Int32
    term_set: Int32
    term_weight: Int64

    @property
    def n_terms(self) -> int:
        """Number of terms."""
        return len(self.term_weight)

    def set_items(self, index: int) -> Int32:
        """Return the items of an item set."""
        return self.set_item[self.set_start[index] : self.set_start[index + 1]]

    @cached_property
    def total_weight(self) -> int:
        """Saving if every server held everything, token-ns: an upper bound on any saving."""
        return int(self.term_weight.sum())

    @cached_property
    def weight_unit(self) -> int:
        """Greatest common divisor of the weights: every saving is a multiple of it (1 without terms)."""
        return int(np.gcd.reduce(self.term_weight)) or 1

    @cached_property
    def _by_block(self) -> tuple[Int64, npt.NDArray[np.intp]]:
        """Where each block's terms begin in the list of all terms ordered by block, and that list."""
        block = self.instance.item_block[self.set_item[self.set_start[self.term_set]]]
        start = np.concatenate(([0], np.cumsum(np.bincount(block, minlength=self.instance.n_blocks))))
        return start, np.argsort(block, kind="stable")

    def block_terms(self, block: int) -> npt.NDArray[np.intp]:
        """Return the terms of a block (layer of a model), ascending; a term never asks for two blocks."""
        start, terms = self._by_block
        return terms[start[block] : start[block + 1]]

    @cached_property
    def blocks(self) -> list[int]:
        """The blocks that have terms, ascending."""
        return [int(b) for b in np.flatnonzero(np.diff(self._by_block[0]))]

    @cached_property
    def useful(self) -> Bool:
        """Whether caching an item on a server can save anything at all, bool [N, I]."""
        import scipy.sparse as sp  # here, since what is solved layer by layer never comes by

        pairs, _ = self.covers
        in_radius = sp.csr_array(self.radius, dtype=np.int32)
        asked = sp.csr_array(
            (np.ones(len(pairs), dtype=np.int32), (pairs[:, 0], pairs[:, 1])),
            shape=(len(self.radius), self.instance.n_items),
        )
        useful: Bool = ((in_radius.T @ asked).toarray() > 0) & fits_alone(self.instance)
        return useful

    @cached_property
    def covers(self) -> tuple[Int32, Int32]:
        """The distinct (radius set, item) pairs of all terms, and which of them each term needs.

        Returns
        -------
        int32 array [P, 2]
            The pairs, sorted.
        int32 array
            Pair of each (term, item of its set), term by term in the order of :attr:`term_start`.
        """
        length = np.diff(self.set_start)[self.term_set]
        items = self._term_items
        key = np.repeat(self.term_radius.astype(np.int64), length) * max(self.instance.n_items, 1) + items
        pairs, index = np.unique(key, return_inverse=True)
        n_items = max(self.instance.n_items, 1)
        return np.stack((pairs // n_items, pairs % n_items), axis=1).astype(np.int32), index.astype(np.int32)

    @cached_property
    def term_start(self) -> Int64:
        """Where the items of each term begin in the second array of :attr:`covers`, int64 [T + 1]."""
        length = np.diff(self.set_start)[self.term_set]
        return np.concatenate(([0], np.cumsum(length))).astype(np.int64)

    @cached_property
    def _term_items(self) -> Int32:
        start = self.term_start
        length = np.diff(start)
        offset = np.repeat(self.set_start[self.term_set] - start[:-1], length)
        items: Int32 = self.set_item[np.arange(start[-1]) + offset]
        return items

    def sets(self) -> Sets:
        """Return the problem in plain Python, for algebraic models.

        Raises
        ------
        NoSolutionError
            A requirement that no server can meet.
        """
        variable = self.useful.copy()
        for places in requirements(self.instance):
            variable[tuple(zip(*places, strict=True))] = True
        need, begin = self.covers[1].tolist(), self.term_start.tolist()
        return Sets(
            pairs=[(n, i) for n, i in np.argwhere(variable).tolist()],
            members=[np.flatnonzero(radius).tolist() for radius in self.radius],
            covers=[(radius, item) for radius, item in self.covers[0].tolist()],
            terms=[need[a:b] for a, b in itertools.pairwise(begin)],
            weight=self.term_weight.tolist(),
        )

    def satisfied(self, placement: Placement) -> tuple[Bool, Bool]:
        """Return which pairs of :attr:`covers` are cached within their radius, and which terms are satisfied."""
        pairs, need = self.covers
        copies = self.radius.astype(np.float32) @ placement.cached.astype(np.float32)  # small counts: exact
        covered = copies[pairs[:, 0], pairs[:, 1]] > 0
        if not self.n_terms:
            return covered, np.zeros(0, dtype=np.bool_)
        satisfied: Bool = np.logical_and.reduceat(covered[need], self.term_start[:-1])
        return covered, satisfied

    def saving_ns(self, placement: Placement) -> int:
        """Return the saving (A1) of a placement, token-ns. Equal to baseline minus cost."""
        return int(self.term_weight[self.satisfied(placement)[1]].sum())


def aggregate(instance: Instance) -> AggregatedProblem:
    """Fold the users of an instance into an :class:`AggregatedProblem`.

    Parameters
    ----------
    instance : Instance

    Returns
    -------
    AggregatedProblem
        Device experts, servers that are never nearer than the cloud, and steps that save nothing are gone;
        rows that are equal from some radius on are one term. Made once for an instance and kept with it.

    Raises
    ------
    InputError
        The instance leaves open how many experts are active.
    """
    kept: AggregatedProblem | None = vars(instance).get("_aggregated")
    if kept is None:
        check_decided(instance)
        kept = _aggregate(instance)
        object.__setattr__(instance, "_aggregated", kept)
    return kept


def _aggregate(instance: Instance) -> AggregatedProblem:
    rows = instance.rows if instance.latency_model == "max" else _split(instance.rows)
    steps = _steps(instance)
    on_device = _on_device(instance, rows)
    if on_device.any():
        # From its device's time on, a demand's rows need only the experts that are not on the device.
        away = _without(rows, on_device)
        set_start, set_item, (set_of_row, set_of_away) = distinct_sets(rows, away)
        parts: list[tuple[bool | None, Rows, Int32]] = [(False, rows, set_of_row), (True, away, set_of_away)]
    else:
        set_start, set_item, (set_of_row,) = distinct_sets(rows)
        parts = [(None, rows, set_of_row)]
    radius, used, weight = _weights(steps, parts, len(set_start) - 1)
    keep = weight > 0
    radius, used = radius[keep], used[keep]
    sets, used = np.unique(used, return_inverse=True)
    radii, radius = np.unique(radius, return_inverse=True)
    order = np.lexsort((used, radius))
    length = np.diff(set_start)[sets]
    start = np.concatenate(([0], np.cumsum(length))).astype(np.int64)
    gather = np.arange(start[-1]) + np.repeat(set_start[sets] - start[:-1], length)
    return AggregatedProblem(
        instance=instance,
        radius=steps.members[radii],
        set_start=start,
        set_item=set_item[gather],
        term_radius=radius[order].astype(np.int32),
        term_set=used[order].astype(np.int32),
        term_weight=weight[keep][order],
    )


def sides(instance: Instance, pairs: list[tuple[int, int]]) -> Sides:
    """Return what a model with variables for these (server, item) pairs must keep, and what they cost.

    Raises
    ------
    NoSolutionError
        A requirement that no server can meet.
    """
    load = instance.load_ns(slice(0, instance.n_items))
    return Sides(
        price=[0] * len(pairs) if load is None else [int(load[pair]) for pair in pairs],
        required=requirements(instance),
        crowds=crowds(instance, pairs),
    )


def fits_alone(instance: Instance) -> Bool:
    """Return whether an otherwise empty server has room and a slot for an item, bool [N, I]."""
    fits: Bool = instance.item_bytes[None, :] <= instance.capacity_bytes[:, None]
    return fits & (instance.layer_slots > 0)[:, None]


def requirements(instance: Instance) -> list[list[tuple[int, int]]]:
    """Return the (server, item) pairs that can meet each requirement of :attr:`Instance.coverage`, in its order.

    Raises
    ------
    NoSolutionError
        A requirement that no server can meet.
    """
    coverage = instance.coverage
    if coverage is None:
        return []
    fits = fits_alone(instance)
    found = []
    for reach, item in zip(coverage.reach_of.tolist(), coverage.item.tolist(), strict=True):
        servers = np.flatnonzero(coverage.reach[reach] & fits[:, item]).tolist()
        if not servers:
            model, layer, expert = instance.item_name(item)
            size = number(int(instance.item_bytes[item]), "byte")
            raise NoSolutionError(
                f"[{layer}, {expert}] of {model!r} ({size}) fits on no server that those without a cloud reach"
                f"{coverage.names(instance, reach)}"
            )
        found.append([(n, item) for n in servers])
    return found


def crowds(instance: Instance, pairs: list[tuple[int, int]]) -> list[tuple[int, list[tuple[int, int]]]]:
    """Return the pairs of each server and block, where there are more than it has slots, behind their number."""
    limit = instance.layer_slots.tolist()
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for n, i in pairs:
        if limit[n] != NO_LIMIT:
            groups.setdefault((n, int(instance.item_block[i])), []).append((n, i))
    return [(limit[n], group) for (n, _), group in groups.items() if len(group) > limit[n]]


def distinct_rows(instance: Instance) -> int:
    """Return how many activation rows are left when equal ones (demand, layer, experts) are merged."""
    set_start, _, (set_of_row,) = distinct_sets(instance.rows)
    return len(np.unique(instance.rows.demand.astype(np.int64) * len(set_start) + set_of_row))


@dataclass(frozen=True)
class _Steps:
    """All steps of all demands: radius set, demand, width, and whether the device is within the step."""

    members: Bool
    radius: Int64
    demand: Int64
    width: Int64
    device: Bool


def _steps(instance: Instance) -> _Steps:
    radius_of: dict[bytes, int] = {}
    steps: list[tuple[int, int, int, bool]] = []
    device_demands = set(instance.device_demand.tolist())
    for d in range(len(instance.demands)):
        cloud, device = int(instance.cloud_ns[d]), int(instance.device_ns[d])
        times = instance.server_ns[d]
        near = times[(times < cloud) & (times != UNREACHABLE)].tolist()
        thetas = set(near) | ({device} if d in device_demands and device < cloud else set())
        levels = [*sorted(thetas), cloud]
        for theta, following in itertools.pairwise(levels):
            if not (within := times <= theta).any():
                continue  # no server this near: nothing a cache could do
            key = within.tobytes()
            radius = radius_of.setdefault(key, len(radius_of))
            steps.append((radius, d, following - theta, d in device_demands and device <= theta))
    members = np.frombuffer(b"".join(radius_of), dtype=np.bool_).reshape(len(radius_of), len(instance.servers))
    columns = np.array(steps, dtype=np.int64).reshape(-1, 4)
    return _Steps(members, columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3].astype(np.bool_))


def _split(rows: Rows) -> Rows:
    length = np.diff(rows.start)
    start = np.arange(len(rows.item) + 1, dtype=np.int64)
    return Rows(np.repeat(rows.demand, length), np.repeat(rows.count, length), start, rows.item)


def _on_device(instance: Instance, rows: Rows) -> Bool:
    if not len(instance.device_item):
        return np.zeros(len(rows.item), dtype=np.bool_)
    key = np.repeat(rows.demand.astype(np.int64), np.diff(rows.start)) * instance.n_items + rows.item
    held = instance.device_demand.astype(np.int64) * instance.n_items + instance.device_item
    return np.isin(key, held)


def _without(rows: Rows, dropped: Bool) -> Rows:
    """Drop items from rows, and rows that lose all their items (they cost the same whatever is cached)."""
    kept = np.add.reduceat(~dropped, rows.start[:-1], dtype=np.int64)
    left = kept > 0
    start = np.concatenate(([0], np.cumsum(kept[left]))).astype(np.int64)
    return Rows(rows.demand[left], rows.count[left], start, rows.item[~dropped])


def _weights(
    steps: _Steps, parts: Sequence[tuple[bool | None, Rows, Int32]], n_sets: int
) -> tuple[Int64, Int64, Int64]:
    """Return radius set, set of experts and weight of the terms: widths of a demand's steps times counts of its rows.

    Each part has a step's ``device``, or None for all steps; the rows that wait in these; and the rows' sets.
    """
    chosen = [np.ones(len(steps.device), dtype=np.bool_) if d is None else steps.device == d for d, _, _ in parts]
    n_demands = 1 + max(int(steps.demand.max(initial=0)), *(int(rows.demand.max(initial=0)) for _, rows, _ in parts))
    pairs = sum(
        int(np.bincount(steps.demand[own], minlength=n_demands) @ np.bincount(rows.demand, minlength=n_demands))
        for own, (_, rows, _) in zip(chosen, parts, strict=True)
    )
    if pairs > MOST_PAIRS:
        return _multiplied(steps, chosen, parts, n_demands, n_sets)
    key, weight = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for own, (_, rows, set_of_row) in zip(chosen, parts, strict=True):
        by_demand = np.argsort(rows.demand, kind="stable")
        first, last = (np.searchsorted(rows.demand[by_demand], steps.demand[own], side) for side in ("left", "right"))
        step = np.repeat(np.arange(len(first)), last - first)
        row = by_demand[np.arange(len(step)) - np.repeat(np.cumsum(last - first) - last, last - first)]
        key.append(steps.radius[own][step].astype(np.int64) * n_sets + set_of_row[row])
        weight.append(steps.width[own][step].astype(np.int64) * rows.count[row])
    keys, term = np.unique(np.concatenate(key), return_inverse=True)
    total = np.zeros(len(keys), dtype=np.int64)
    np.add.at(total, term, np.concatenate(weight))
    return keys // n_sets, keys % n_sets, total


def _multiplied(
    steps: _Steps, chosen: list[Bool], parts: Sequence[tuple[bool | None, Rows, Int32]], n_demands: int, n_sets: int
) -> tuple[Int64, Int64, Int64]:
    """Do what :func:`_weights` does with matrices that need less memory, by a library that takes longer to load."""
    import scipy.sparse as sp

    products: list[Any] = []
    for own, (_, rows, set_of_row) in zip(chosen, parts, strict=True):
        widths = sp.csr_array(
            (steps.width[own], (steps.radius[own], steps.demand[own])),
            shape=(len(steps.members), n_demands),
            dtype=np.int64,
        )
        counts = sp.csr_array((rows.count, (rows.demand, set_of_row)), shape=(n_demands, n_sets), dtype=np.int64)
        products.append(widths @ counts)
    weight = sum(products[1:], products[0]).tocoo()
    return weight.row, weight.col, weight.data

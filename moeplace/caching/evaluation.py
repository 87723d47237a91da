"""Exact evaluation of a placement: the one home of the latency rule in the library.

The time until demand `d` has the output of expert `e` back is::

    r(d, e) = min( device_ns[d] if e is on the device,  server_ns[d, n] for n caching e,  cloud_ns[d] )      (P1)

and a row waits for its slowest expert (``latency_model`` "max") or for one after the other ("sum"). The cost
of a placement is the sum over rows of ``count * latency`` (P2), in token-nanoseconds, an exact integer, and what
loading the experts costs that are new on a server (C2, C3). A demand without a cloud has none to fall back on: its
``cloud_ns`` is the farthest place that an expert can be on, and counts as an edge server. Where a placement says how
many experts are active, rows have only that many (J2).

The checker does not use this module: it computes the same number in another way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Bool, Int64
from moeplace.base.documents import UNREACHABLE
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.rows import Rows

if TYPE_CHECKING:
    import pandas as pd

DEVICE, EDGE, CLOUD = 0, 1, 2


def latency_ns(instance: Instance, placement: Placement) -> int:
    """Return the exact latency of a placement, token-ns, without loading.

    Parameters
    ----------
    instance : Instance
    placement : Placement
        Need not fit the capacities.

    Returns
    -------
    int
        Sum over rows of ``count * latency``: (P2) of the formulation.
    """
    return sum(
        int(np.dot(view.tokens, _row_latency(instance, view, _reach(instance, placement, view.demand)[0])))
        for view in _views(instance, placement)
    )


def loading_ns(instance: Instance, placement: Placement, held: Bool | None = None) -> int:
    """Return what loading costs that a placement asks for, token-ns: (C2) over all that is new on its server.

    Parameters
    ----------
    instance : Instance
    placement : Placement
    held : bool array [N, I], optional
        What the servers hold, where that is not what the instance says.
    """
    if instance.load_block_ns is None or not instance.n_blocks:
        return 0
    held = instance.holds if held is None else held
    new = placement.cached if held is None else placement.cached & ~held
    counts = np.add.reduceat(new.astype(np.int64), instance.block_start[:-1], axis=1)
    return sum((counts * instance.load_block_ns).ravel().tolist())


def cost_ns(instance: Instance, placement: Placement) -> int:
    """Return what is minimised, token-ns: latency (P2) and loading (C2) together, (C3)."""
    return latency_ns(instance, placement) + loading_ns(instance, placement)


@dataclass(frozen=True, eq=False)
class Hits:
    """Shares of requests served on the device, by edge servers and by the cloud; each triple sums to 1.

    Attributes
    ----------
    experts : tuple of float
        Shares of expert requests (one token asking for one expert).
    rows : tuple of float
        Shares of whole rows: "device" if every expert is served there, "edge" if every expert is served on
        the device or at the edge, else "cloud".
    away : tuple of float
        Shares of expert requests, and of rows, that leave home: that are served (in part) by a server farther than the
        demand's nearest one, or by the cloud.
    """

    experts: tuple[float, float, float]
    rows: tuple[float, float, float]
    away: tuple[float, float]


class Evaluation:
    """A placement's cost with its break-downs; what is not asked for is not computed.

    Parameters
    ----------
    instance : Instance
    placement : Placement

    Attributes
    ----------
    latency_ns, loading_ns, cost_ns : int
        Exact latency, what loading costs, and both together, token-ns.
    saving_ns : int
        Baseline minus cost, token-ns.
    demand_ns : int64 array [D]
        Cost of each demand, token-ns.
    block_ns : int64 array [B]
        Cost of each layer of each model, token-ns.
    """

    def __init__(self, instance: Instance, placement: Placement) -> None:
        self.instance, self.placement = instance, placement
        self.demand_ns = np.zeros(len(instance.demands), dtype=np.int64)
        self.block_ns = np.zeros(instance.n_blocks, dtype=np.int64)
        # Tokens by place; floats, since with times of zero the counts themselves may pass 2**63.
        self._expert_tokens = np.zeros(3)
        self._row_tokens = np.zeros(3)
        for view in _views(instance, placement):
            reach, where = _reach(instance, placement, view.demand)
            cost = view.tokens * _row_latency(instance, view, reach)
            self.demand_ns[view.demand] = cost.sum()
            np.add.at(self.block_ns, instance.item_block[view.item[view.start] + view.offset], cost)
            served = where[view.item]
            slowest = np.maximum.reduceat(served, view.start)
            self._expert_tokens += np.bincount(served, weights=np.repeat(view.tokens, view.size), minlength=3)
            self._row_tokens += np.bincount(slowest, weights=view.tokens, minlength=3)
        self.latency_ns = sum(self.demand_ns.tolist())
        self.loading_ns = loading_ns(instance, placement)
        self.cost_ns = self.latency_ns + self.loading_ns
        self.saving_ns = instance.baseline_ns - self.cost_ns

    @cached_property
    def _away_tokens(self) -> npt.NDArray[np.float64]:
        """Tokens of expert requests, and of rows, that leave home, float64 [2]."""
        away_tokens = np.zeros(2)
        for view in _views(self.instance, self.placement):
            reach, where = _reach(self.instance, self.placement, view.demand)
            home = self.instance.server_ns[view.demand].min(initial=UNREACHABLE)
            away = ((where == CLOUD) | ((where == EDGE) & (reach > home)))[view.item]
            away_tokens[0] += np.repeat(view.tokens, view.size)[away].sum(dtype=np.float64)
            away_tokens[1] += view.tokens[np.logical_or.reduceat(away, view.start)].sum(dtype=np.float64)
        return away_tokens

    @cached_property
    def server_saving_ns(self) -> Int64:
        """What each server's cache saves given the others, int64 [N]: how much the cost rises without it."""
        instance, placement = self.instance, self.placement
        saving = np.zeros(len(instance.servers), dtype=np.int64)
        for view in _views(instance, placement):
            first, second, holder = _two_nearest(instance, placement, view.demand)
            latency = _row_latency(instance, view, first)
            for n in np.unique(holder[view.item]).tolist():
                if n >= 0:
                    without = np.where(holder == n, second, first)
                    saving[n] += np.dot(view.tokens, _row_latency(instance, view, without) - latency)
        return saving

    @cached_property
    def user_latency_ns(self) -> dict[str, float]:
        """Mean latency per token of each user over all its demands, ns."""
        cost: dict[str, int] = {}
        tokens: dict[str, int] = {}
        for demand, ns in zip(self.instance.demands, self.demand_ns.tolist(), strict=True):
            cost[demand.user] = cost.get(demand.user, 0) + ns
            tokens[demand.user] = tokens.get(demand.user, 0) + demand.tokens
        return {user: cost[user] / tokens[user] for user in cost}

    @property
    def mean_latency_ns(self) -> float | None:
        """Mean latency per token over all layers, ns (cost / tokens); None without demands."""
        tokens = sum(demand.tokens for demand in self.instance.demands)
        return self.latency_ns / tokens if tokens else None

    def to_frame(self, by: Literal["demand", "server", "layer"] = "demand") -> pd.DataFrame:
        """Return the cost in parts, as a pandas DataFrame.

        Parameters
        ----------
        by : {"demand", "server", "layer"}
            One row for each user and model (``tokens``, ``latency_ns`` in token-ns, ``mean_latency_ns`` per token); for
            each server (bytes, experts, ``saving_ns``: what the cost rises by without it); for each layer of a model.
        """
        from moeplace.caching.frames import breakdown

        return breakdown(self, by)

    def percentile_latency_ns(self, percent: float) -> float | None:
        """Return a percentile, over users, of a user's mean latency per token, ns; None without demands."""
        values = list(self.user_latency_ns.values())
        return float(np.percentile(values, percent)) if values else None

    @property
    def requests(self) -> tuple[int, int]:
        """Expert requests, in all and those that leave home (:class:`Hits`); exact below 2**53."""
        return int(self._expert_tokens.sum()), int(self._away_tokens[0])

    @property
    def row_tokens(self) -> tuple[int, int]:
        """Tokens of all rows, and of those that leave home in part, likewise."""
        return int(self._row_tokens.sum()), int(self._away_tokens[1])

    @property
    def hits(self) -> Hits | None:
        """Hit ratios; None without activation rows."""
        if not len(self.instance.rows):
            return None
        experts, rows = self._away_tokens / (self._expert_tokens.sum(), self._row_tokens.sum())
        return Hits(_shares(self._expert_tokens), _shares(self._row_tokens), (float(experts), float(rows)))


def _shares(tokens: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    device, edge, cloud = (tokens / tokens.sum()).tolist()
    return device, edge, cloud


class _View(NamedTuple):
    """The rows of one demand; items counted from the first of its model."""

    demand: int
    offset: int
    tokens: Int64
    item: npt.NDArray[np.integer]
    start: Int64
    size: Int64


def _views(instance: Instance, placement: Placement) -> Iterator[_View]:
    rows: Rows
    rows, bounds, _ = instance.rows_by_demand
    if (active := placement.active_in(instance)) is not None and len(rows):
        rows = rows.first(active[instance.item_block[rows.item[rows.start[:-1]]]])
    for d in range(len(instance.demands)):
        first, last = int(bounds[d]), int(bounds[d + 1])
        if first < last:
            offset = instance.model_items(int(instance.demand_model[d])).start
            start = rows.start[first : last + 1]
            items = rows.item[start[0] : start[-1]] - np.int32(offset)
            yield _View(d, offset, rows.count[first:last], items, start[:-1] - start[0], np.diff(start))


def _near_servers(instance: Instance, demand: int) -> list[tuple[int, int]]:
    """Return (time, server) of the servers nearer than the cloud, farthest first (of equals: lowest last).

    Without a cloud these are all servers within reach.
    """
    times = instance.server_ns[demand].tolist()
    cloud = int(instance.cloud_ns[demand]) if instance.has_cloud[demand] else UNREACHABLE
    near = [(t, n) for n, t in enumerate(times) if t < cloud]
    return sorted(near, reverse=True)


def _on_device(instance: Instance, demand: int) -> Bool:
    items = instance.model_items(int(instance.demand_model[demand]))
    device = np.zeros(items.stop - items.start, dtype=np.bool_)
    device[instance.device_items(demand) - items.start] = True
    return device


def _reach(instance: Instance, placement: Placement, demand: int) -> tuple[Int64, npt.NDArray[np.int8]]:
    """Return the time and the place (device, edge, cloud) of every expert of the demand's model."""
    items = instance.model_items(int(instance.demand_model[demand]))
    reach = np.full(items.stop - items.start, instance.cloud_ns[demand], dtype=np.int64)
    where = np.full(len(reach), CLOUD, dtype=np.int8)
    for time, n in _near_servers(instance, demand):
        held = placement.cached[n, items]
        reach[held] = time
        where[held] = EDGE
    device = _on_device(instance, demand) & (instance.device_ns[demand] <= reach)
    reach[device] = instance.device_ns[demand]
    where[device] = DEVICE
    return reach, where


def _two_nearest(instance: Instance, placement: Placement, demand: int) -> tuple[Int64, Int64, Int64]:
    """Return, per expert of the demand's model, the nearest time, the time without that holder, the holder.

    The holder is -1 where the device or the cloud is as near as any server.
    """
    items = instance.model_items(int(instance.demand_model[demand]))
    elsewhere = np.full(items.stop - items.start, instance.cloud_ns[demand], dtype=np.int64)
    device = _on_device(instance, demand)
    elsewhere[device] = np.minimum(elsewhere[device], instance.device_ns[demand])
    first, second = elsewhere.copy(), elsewhere.copy()
    holder = np.full(len(elsewhere), -1, dtype=np.int64)
    for time, n in _near_servers(instance, demand):
        nearer = placement.cached[n, items] & (time < elsewhere)
        second[nearer] = first[nearer]
        first[nearer] = time
        holder[nearer] = n
    return first, second, holder


def _row_latency(instance: Instance, view: _View, reach: Int64) -> Int64:
    combine = np.maximum if instance.latency_model == "max" else np.add
    return combine.reduceat(reach[view.item], view.start)

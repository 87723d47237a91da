"""Columns: what one layer may hold on all servers, with its saving and the bytes it takes. Exact.

Layers share nothing but the servers' storage. With a price on every byte of a server each layer is a problem of its
own, *pricing*: the largest ``saving - sum of price[n] * bytes on n``. What pricing finds goes into a pool, and a
master problem picks one column of each layer that fit together (:mod:`moeplace.solvers.master`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moeplace.incremental import SavingForm
from moeplace.instance import Bool, Int64
from moeplace.plan import Plan

Float = npt.NDArray[np.float64]


@dataclass
class Column:
    """One layer on all servers: ``part [N, E]``, its saving (token-ns), experts on each server ``usage [N]``."""

    part: Bool
    saving: int
    usage: Int64


@dataclass
class ColumnPool:
    """The columns known of each layer: of those that take the same bytes the one that saves most.

    Attributes
    ----------
    form : SavingForm
    columns : list of list of Column
        Of each layer.
    """

    form: SavingForm
    columns: list[list[Column]] = field(default_factory=list)

    def __post_init__(self) -> None:
        servers = len(self.form.instance.servers)
        self._at: list[dict[bytes, int]] = [{} for _ in self.form.layers]
        self.columns = [[] for _ in self.form.layers]
        for i, layer in enumerate(self.form.layers):
            empty = np.zeros((servers, layer.n_experts), dtype=np.bool_)
            self.add(i, empty, layer.saving_ns(empty))

    def __len__(self) -> int:
        return sum(map(len, self.columns))

    def add(self, i: int, part: Bool, saving: int) -> bool:
        """Add a column of a layer; say whether that is news."""
        usage = part.sum(axis=1)
        key = usage.tobytes()
        at = self._at[i].get(key)
        if at is None:
            self._at[i][key] = len(self.columns[i])
            self.columns[i].append(Column(part.copy(), saving, usage))
        elif self.columns[i][at].saving < saving:
            self.columns[i][at] = Column(part.copy(), saving, usage)
        else:
            return False
        return True

    def add_plan(self, plan: Plan) -> Int64:
        """Add all layers of a placement; return the numbers of the columns that take its place."""
        return np.array([self._place(plan, i) for i in range(len(self.form.layers))], dtype=np.int64)

    def _place(self, plan: Plan, i: int) -> int:
        part = plan.part(i)
        self.add(i, part, plan.layer_saving[i])
        return self._at[i][part.sum(axis=1).tobytes()]

    def table(self) -> tuple[Int64, Int64, Int64]:
        """Return layer [P], saving [P] and bytes on each server [N, P] of all columns, layer by layer."""
        layer = np.repeat(np.arange(len(self.columns)), [len(found) for found in self.columns])
        saving = np.array([c.saving for found in self.columns for c in found], dtype=np.int64)
        usage = np.array([c.usage for found in self.columns for c in found], dtype=np.int64)
        sizes = np.array([layer.size for layer in self.form.layers], dtype=np.int64)
        usage = usage.reshape(len(layer), len(self.form.instance.servers))
        return layer, saving, np.ascontiguousarray((usage * sizes[layer][:, None]).T)

    def keep(self, kept: Bool) -> None:
        """Forget all columns but those marked, in the order of :meth:`table`."""
        at = 0
        for i, found in enumerate(self.columns):
            left = [c for c, yes in zip(found, kept[at : at + len(found)].tolist(), strict=True) if yes]
            at += len(found)
            self.columns[i] = left
            self._at[i] = {c.usage.tobytes(): j for j, c in enumerate(left)}


def price(plan: Plan, i: int, part: Bool, prices: Float, window: float, enumerated: int) -> Iterator[tuple[Bool, int]]:
    """Yield good columns of a layer at some prices: one server after the other anew until that improves nothing.

    A server's experts are chosen by its value function (:meth:`~moeplace.incremental.Layer.value_function`), the
    others fixed, so this ends where no single server can do better. On the way, and for every number of experts on
    one server, it comes by columns that are nearly as good; those are what is merged later.

    Parameters
    ----------
    plan : Plan
        Values layers, and remembers.
    i : int
        The layer.
    part : bool array [N, E]
        Where to begin.
    prices : float array [N]
        Token-ns a byte.
    window : float
        Columns that are worse than the best by more than this, token-ns, are not yielded.
    enumerated : int
        Most experts of a layer whose sets are all tried.

    Yields
    ------
    bool array [N, E], int
        A column and its saving.
    """
    layer, servers = plan.form.layers[i], len(part)
    cost = prices * layer.size
    most = plan.form.instance.capacity_bytes // layer.size
    part, worth = part.copy(), -np.inf
    same, n = 0, 0
    near: list[tuple[float, Bool, int]] = []
    while same < servers:
        function = layer.value_function(part, n, enumerated)
        counts = part.sum(axis=1)
        rest = float(cost @ counts - cost[n] * counts[n])
        reach = min(int(most[n]), len(function.values) - 1)
        worths = function.values[: reach + 1] - (rest + cost[n] * np.arange(reach + 1))
        q = int(np.argmax(worths))
        better = worths[q] > worth + 1e-9 * abs(worth) if np.isfinite(worth) else True
        if better:
            worth, same = float(worths[q]), 0
            part[n] = function.kept[q]
            near.clear()
        for other in np.flatnonzero(worths >= worth - window).tolist():
            column = part.copy()
            column[n] = function.kept[other]
            near.append((float(worths[other]), column, int(function.values[other])))
        same += 1
        n = (n + 1) % servers
    for _, column, saving in near:
        yield column, saving

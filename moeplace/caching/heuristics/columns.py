"""Columns: what one layer may hold on all servers, with its saving and the bytes it takes. Exact.

Layers share nothing but the servers' storage. With a price on every byte of a server each layer is a problem of its
own, *pricing*: the largest ``saving - sum of price[n] * bytes on n``. What pricing finds goes into a pool, and a
master problem picks one column of each layer that fit together (:mod:`moeplace.layers.master`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Bool, Int64
from moeplace.caching.heuristics.working_placement import WorkingPlacement
from moeplace.caching.saving import SavingForm

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
            self.add(i, empty, layer.saving_ns(empty))  # no column where something must be held

    def __len__(self) -> int:
        return sum(map(len, self.columns))

    def add(self, i: int, part: Bool, saving: int) -> bool:
        """Add a column of a layer; say whether that is news. What keeps slots or requirements not is no column."""
        if not self.form.layers[i].allows(part):
            return False
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

    def add_all(self, other: ColumnPool) -> None:
        """Add the columns of another pool of the same form."""
        for i, found in enumerate(other.columns):
            for column in found:
                self.add(i, column.part, column.saving)

    def add_plan(self, plan: WorkingPlacement) -> Int64:
        """Add all layers of a placement; return the numbers of the columns that take its place."""
        return np.array([self._place(plan, i) for i in range(len(self.form.layers))], dtype=np.int64)

    def _place(self, plan: WorkingPlacement, i: int) -> int:
        part = plan.part(i)
        self.add(i, part, plan.layer_saving[i])
        return self._at[i][part.sum(axis=1).tobytes()]

    def table(self, layers: Sequence[int] | None = None) -> tuple[Int64, Int64, Int64]:
        """Return layer [P], saving [P] and bytes on each server [N, P] of the columns of all layers or of some."""
        of = range(len(self.columns)) if layers is None else layers
        layer = np.repeat(np.array(of, dtype=np.int64), [len(self.columns[i]) for i in of])
        saving = np.array([c.saving for i in of for c in self.columns[i]], dtype=np.int64)
        usage = np.array([c.usage for i in of for c in self.columns[i]], dtype=np.int64)
        sizes = np.array([layer.size for layer in self.form.layers], dtype=np.int64)
        usage = usage.reshape(len(layer), len(self.form.instance.servers))
        return layer, saving, np.ascontiguousarray((usage * sizes[layer][:, None]).T)

    def like(self, i: int, part: Bool) -> Column | None:
        """Return the column of a layer that takes the same bytes as this one, if there is one."""
        at = self._at[i].get(part.sum(axis=1).tobytes())
        return None if at is None else self.columns[i][at]

    def best(self, i: int, prices: Float) -> Column:
        """Return the column of a layer that saves most for its bytes at some prices."""
        cost = prices * self.form.layers[i].size
        return max(self.columns[i], key=lambda c: c.saving - float(cost @ c.usage))

    def placement(self, chosen: Int64) -> Bool:
        """Return what the servers hold with one column of each layer, by their numbers in :meth:`table`."""
        held = np.zeros((len(self.form.instance.servers), self.form.instance.n_items), dtype=np.bool_)
        columns = self.listed()
        for layer, at in zip(self.form.layers, chosen.tolist(), strict=True):
            held[:, layer.items] = columns[at].part
        return held

    def listed(self) -> list[Column]:
        """Return all columns in the order of :meth:`table`."""
        return [column for found in self.columns for column in found]

    def forget(self, forgotten: Iterable[Column]) -> None:
        """Forget some columns: these very ones, not what has come for one of them or beside it since."""
        # Places move whenever a layer gets another column; the columns are what stays the same.
        gone = {id(column) for column in forgotten}
        for i, found in enumerate(self.columns):
            left = [c for c in found if id(c) not in gone]
            self.columns[i] = left
            self._at[i] = {c.usage.tobytes(): j for j, c in enumerate(left)}

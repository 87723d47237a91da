"""Columns: what one layer may hold on all servers, with its saving and the bytes it takes. Exact.

Layers share nothing but the servers' storage. With a price on every byte of a server each layer is a problem of its
own, *pricing*: the largest ``saving - sum of price[n] * bytes on n``. What pricing finds goes into a pool, and a
master problem picks one column of each layer that fit together (:mod:`moeplace.solvers.master`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moeplace.incremental import Layer, SavingForm
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

    def like(self, i: int, part: Bool) -> Column | None:
        """Return the column of a layer that takes the same bytes as this one, if there is one."""
        at = self._at[i].get(part.sum(axis=1).tobytes())
        return None if at is None else self.columns[i][at]

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


def price(layer: Layer, part: Bool, capacity: Int64, prices: Float, enumerated: int) -> list[tuple[Bool, int]]:
    """Return good columns of a layer at some prices, found from a first one by exchanges and by filling servers anew.

    First the best move of one expert (between servers, dropped, added) is made while it pays for itself; then one
    server after the other gets the experts that are worth most there (:meth:`Layer.value_function`), the others fixed,
    until that improves nothing.

    Parameters
    ----------
    layer : Layer
    part : bool array [N, E]
        Where to begin.
    capacity : int64 array [N]
        Bytes; a column must fit alone.
    prices : float array [N]
        Token-ns a byte.
    enumerated : int
        Most experts of a layer whose sets are all tried.

    Returns
    -------
    list of (bool array [N, E], int)
        Columns and their savings, the last one the best.
    """
    # No more than there are experts: on a server without end the next number of experts would overflow.
    cost, room = prices * layer.size, np.minimum(capacity // layer.size, layer.n_experts)
    found = [exchanged(layer, part, room, cost)]
    part, saving = found[0]
    part = part.copy()
    same, n = 0, 0
    while same < len(part):
        same += 1
        if room[n]:
            function = layer.value_function(part, n, enumerated)
            net = function.values[: room[n] + 1] - cost[n] * np.arange(room[n] + 1)
            q, now = int(np.argmax(net)), int(part[n].sum())
            if net[q] - (saving - cost[n] * now) > 1e-9 * max(saving, 1):
                part[n] = function.kept[q]
                saving = int(function.values[q])
                found.append((part.copy(), saving))
                same = 0
        n = (n + 1) % len(part)
    return found


def exchanged(layer: Layer, part: Bool, room: Int64, cost: Float) -> tuple[Bool, int]:
    """Make the best move of one expert of a layer while it gains more than it costs; return the column and its saving.

    Parameters
    ----------
    layer : Layer
    part : bool array [N, E]
    room : int64 array [N]
        Most experts on a server.
    cost : float array [N]
        Of one expert on a server, token-ns.
    """
    part, saving, nowhere = part.copy(), layer.saving_ns(part), len(part)
    paid = np.append(cost, 0.0)
    for _ in range(layer.n_experts * len(part)):
        moves = layer.moves(part)
        full = np.append(part.sum(axis=1) >= room, False)
        net = np.where((moves.expert >= 0) & ~full, moves.gain - (paid[None, :] - paid[:, None]), -np.inf)
        origin, target = divmod(int(np.argmax(net)), nowhere + 1)
        if net[origin, target] <= 1e-9 * max(saving, 1):
            break
        expert = int(moves.expert[origin, target])
        for place, held in ((origin, False), (target, True)):
            if place < nowhere:
                part[place, expert] = held
        saving += int(moves.gain[origin, target])
    return part, saving


def peeled(layer: Layer, capacity: Int64, prices: Float) -> tuple[Bool, int]:
    """Return a column of a layer at some prices: from everything everywhere, what is not worth its price is dropped.

    The experts are dropped from the servers one by one, the one that loses least for its price first, until none is
    left; of all these columns the best is returned. It sees sets of experts that help only together.
    """
    held = np.broadcast_to((capacity >= layer.size)[:, None], (len(capacity), layer.n_experts)).copy()
    savings, worths, server, expert = layer.peel(held, prices * layer.size)
    best = int(np.argmax(worths))
    held[server[:best], expert[:best]] = False
    return held, int(savings[best])

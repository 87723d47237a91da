"""Activation rows as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Int32, Int64, row_keys


@dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """Activation rows as a structure of arrays (``A`` rows, ``K`` expert requests in all).

    Attributes
    ----------
    demand : int32 array [A]
        The demand of each row.
    count : int64 array [A]
        Tokens of the demand that used exactly this set of experts.
    start : int64 array [A + 1]
        Row ``i`` requests ``item[start[i]:start[i + 1]]``.
    item : int32 array [K]
        The requested items; those of one row are distinct and of one block.
    """

    demand: Int32
    count: Int64
    start: Int64
    item: Int32

    def __len__(self) -> int:
        return len(self.demand)

    @property
    def nbytes(self) -> int:
        """Memory taken by the arrays, in bytes."""
        return self.demand.nbytes + self.count.nbytes + self.start.nbytes + self.item.nbytes

    def take(self, rows: npt.NDArray[np.intp]) -> Rows:
        """Return the given rows, in the given order."""
        length = np.diff(self.start)[rows]
        start = np.concatenate(([0], np.cumsum(length)))
        gather = np.arange(start[-1]) + np.repeat(self.start[rows] - start[:-1], length)
        return Rows(self.demand[rows], self.count[rows], start, self.item[gather])

    def first(self, most: Int64) -> Rows:
        """Return every row with its first experts only, at most ``most[i]`` of row ``i`` (1 or more)."""
        length = np.minimum(np.diff(self.start), most)
        start = np.concatenate(([0], np.cumsum(length)))
        gather = np.arange(start[-1]) + np.repeat(self.start[:-1] - start[:-1], length)
        return Rows(self.demand, self.count, start, self.item[gather])

    def merged(self) -> Rows:
        """Return the rows with those of a demand added up that ask for the same experts, in whatever order.

        Rows stand where the first of them stood; experts ascend within a row.
        """
        set_start, set_item, (number,) = distinct_sets(self)
        key = self.demand.astype(np.int64) * len(set_start) + number
        _, first, group = np.unique(key, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        count = np.zeros(len(first), dtype=np.int64)
        np.add.at(count, group, self.count)
        sets = Rows(np.zeros(len(set_start) - 1, dtype=np.int32), set_start[1:], set_start, set_item)
        chosen = sets.take(number[first[order]].astype(np.intp))
        return Rows(self.demand[first[order]], count[order], chosen.start, chosen.item)


def distinct_sets(*groups: Rows) -> tuple[Int64, Int32, list[Int32]]:
    """Give each distinct item set of some rows a number; return the sets and each row's number."""
    start = np.concatenate([[0], *(np.diff(rows.start) for rows in groups)]).cumsum()
    item = np.concatenate([rows.item for rows in groups])
    length = np.diff(start)
    row = np.repeat(np.arange(len(length)), length)
    item = item[np.lexsort((item, row))]
    number = np.full(len(length), -1, dtype=np.int32)
    firsts: list[npt.NDArray[np.intp]] = []
    found = 0
    for size in np.unique(length).tolist():
        of_size = np.flatnonzero(length == size)
        table = item[start[of_size][:, None] + np.arange(size)]
        _, first, inverse = np.unique(row_keys(table.T), return_index=True, return_inverse=True)
        number[of_size] = found + inverse
        firsts.append(of_size[first])
        found += len(first)
    chosen = np.concatenate(firsts) if firsts else np.zeros(0, dtype=np.intp)
    set_length = length[chosen]
    set_start = np.concatenate(([0], np.cumsum(set_length))).astype(np.int64)
    gather = np.arange(set_start[-1]) + np.repeat(start[chosen] - set_start[:-1], set_length)
    bounds = np.cumsum([len(rows) for rows in groups])[:-1]
    return set_start, item[gather], np.split(number, bounds)

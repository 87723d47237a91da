"""Activation rows as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Int32, Int64


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

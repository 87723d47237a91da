"""Types of arrays, and one number for each row of a table: far faster to sort and compare than rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]


def row_keys(columns: Iterable[np.ndarray]) -> Int64:
    """Return keys that are ordered as the rows of a table are, and equal where rows are.

    Parameters
    ----------
    columns : iterable of int array [R]
        Not negative; at least one.

    Returns
    -------
    int64 array [R]

    Examples
    --------
    >>> import numpy as np
    >>> row_keys([np.array([1, 0, 1]), np.array([2, 7, 2])]).tolist()
    [10, 7, 10]
    """
    first, *others = columns
    key = first.astype(np.int64)
    limit = int(key.max(initial=0)) + 1
    for column in others:
        base = int(column.max(initial=0)) + 1
        if limit * base > 2**62:
            key = np.unique(key, return_inverse=True)[1].astype(np.int64)
            limit = len(key)
        key = key * base + column
        limit *= base
    return key


def hash_salt(n: int) -> Int64:
    """Return fixed odd numbers whose sums tell vectors apart nearly always (exactly where it matters)."""
    return (np.random.default_rng(20260101).integers(0, 2**62, n) * 2 + 1).astype(np.int64)


def common_unit(values: Sequence[int], most: int) -> int:
    """Return the greatest common divisor, doubled until the values in that unit sum to ``most`` or less.

    Examples
    --------
    >>> common_unit([40, 60], 5), common_unit([40, 60], 4), common_unit([], 1)
    (20, 40, 1)
    """
    unit = math.gcd(*values) or 1
    while sum(values) // unit > most:
        unit *= 2
    return unit

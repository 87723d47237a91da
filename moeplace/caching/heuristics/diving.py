"""Diving: the master problem's relaxation is rounded one layer after the other, with columns priced for what is left.

The relaxation mixes columns where layers meet in the servers' storage. Columns that fit together seldom are among those
known, so rounding alone, or a branch and bound over them, leaves storage unused. A dive settles one layer of the
mixture, and prices columns of the others within the storage that is left, at the relaxation's prices for that, before
it settles the next. (A pure diving heuristic of column generation: Sadykov et al., "Primal heuristics for branch and
price", INFORMS Journal on Computing 31 (2), 2019.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.stop import Stop
from moeplace.caching.heuristics.columns import Column, ColumnPool, Float
from moeplace.caching.heuristics.pricing import price


@dataclass(frozen=True)
class Tuning:
    """How a dive goes. Whatever the numbers are, what it ends with fits.

    Attributes
    ----------
    whole : float
        Share from which a column is its layer's only one.
    noise : float
        Shares are multiplied by up to one and this before the largest is taken: so dives differ.
    repeated : int
        Most rounds of pricing between two layers; the fewer layers are left, the more rounds are made.
    """

    whole: float = 1 - 1e-6
    noise: float = 0.4
    repeated: int = 8


USUAL = Tuning()
"""What is used unless something else is asked for."""


def dive(
    pool: ColumnPool,
    capacity: Int64,
    enumerated: int,
    generator: np.random.Generator,
    stop: Stop,
    tuning: Tuning = USUAL,
) -> Bool | None:
    """Return what servers hold after a dive, bool [N, I]; None where it was stopped or where nothing fits any more.

    Parameters
    ----------
    pool : ColumnPool
        Gets what is priced on the way.
    capacity : int64 array [N]
        Bytes.
    enumerated : int
        Most experts of a layer whose sets are all tried.
    generator : numpy.random.Generator
    stop : Stop
    tuning : Tuning
    """
    form, room = pool.form, capacity.copy()
    held = np.zeros((len(capacity), form.instance.n_items), dtype=np.bool_)
    left = list(range(len(form.layers)))
    while left:
        for _ in range(min(tuning.repeated, len(form.layers) // len(left))):
            if not _price(pool, left, room, enumerated, stop):
                break
        if (relaxed := _relax(pool, left, room, stop)) is None:
            return None
        columns, share, _ = relaxed
        mixed = np.where(share < tuning.whole, share, 0.0) * (1 + tuning.noise * generator.random(len(share)))
        before = len(left)
        for at in [int(np.argmax(mixed))] if mixed.any() else np.flatnonzero(share >= tuning.whole).tolist():
            i, column = columns[at]
            taken = column.usage * form.layers[i].size
            if i in left and (taken <= room).all():  # floats are not believed
                held[:, form.layers[i].items] = column.part
                room -= taken
                left.remove(i)
        if len(left) == before:
            return None
    return held


def _relax(
    pool: ColumnPool, left: list[int], room: Int64, stop: Stop
) -> tuple[list[tuple[int, Column]], Float, Float] | None:
    """Return the columns of the layers that are left with their layers, their shares in the relaxation, and its prices.

    Of the columns that fit; None where there is no solution, or no time.
    """
    from moeplace.layers.master import Master

    relaxed = None if stop else Master(*pool.table(left), room).relax(lambda: bool(stop))
    if relaxed is None:
        return None
    return [(i, column) for i in left for column in pool.columns[i]], relaxed.share, relaxed.prices


def _price(pool: ColumnPool, left: list[int], room: Int64, enumerated: int, stop: Stop) -> bool:
    """Price columns of the layers that are left within the room; say whether one is new."""
    if (relaxed := _relax(pool, left, room, stop)) is None:
        return False
    prices, news = relaxed[2], False
    for i in left:
        layer = pool.form.layers[i]
        usage = np.array([column.usage for column in pool.columns[i]])
        worth = np.array([column.saving for column in pool.columns[i]]) - usage @ (prices * layer.size)
        worth[(usage * layer.size > room).any(axis=1)] = -np.inf
        if stop:
            return False
        for part, saving in price(layer, pool.columns[i][int(np.argmax(worth))].part, room, prices, enumerated):
            news |= pool.add(i, part, saving)
    return news

"""One choice a layer within one budget, where all choices of all layers are in a table: a multiple-choice knapsack.

A price of the budget makes the layers fall apart (M1). At the smallest price at which what the layers take is within
the budget, that is already a combination; what it may fall short of the best is less than one step of one layer, and
plans that fall short by no more are merged exactly (:mod:`moeplace.layers.merging`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Int64
from moeplace.layers import merging
from moeplace.layers.merging import Menu, merge
from moeplace.layers.oracle import LARGEST, finest, no_stop

_FREE = 1 << 20
"""Prices are this much finer than the values of a unit, where sums leave room for it."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """One choice a layer within a budget.

    Attributes
    ----------
    choice : int64 array [L]
    value : int
        The sum of its values.
    bound : int
        No other one within the budget has more; ``value`` where it is proven to be the best.
    price : int
        Of a unit of the budget, not negative, rounded up: at it the layers leave little but the best choice.
    """

    choice: Int64
    value: int
    bound: int
    price: int = 0


def choose(
    value: Int64,
    usage: Int64,
    budget: int,
    *,
    stop: Callable[[], bool] = no_stop,
    tuning: merging.Tuning = merging.USUAL,
) -> Chosen | None:
    """Return one choice a layer within the budget whose values sum to the most, or None where none is within.

    The best one, unless it was stopped or a merge kept no more states; then a good one, and a bound.

    Parameters
    ----------
    value : int64 array [L, K]
        Where sums over layers may be 2**57 and more, values are taken more coarsely: the bound is no longer exact.
    usage : int64 array [L, K]
        Units of the budget, not negative; what uses more than there is is no choice.
    budget : int
    stop : callable
        Asked now and then whether to take what is known.
    tuning : moeplace.layers.merging.Tuning

    Returns
    -------
    Chosen or None
    """
    layers = np.arange(len(value))
    if not len(value):
        return Chosen(np.zeros(0, dtype=np.int64), 0, 0) if budget >= 0 else None
    least = usage.min(axis=1, keepdims=True)  # spent whatever is chosen
    budget -= sum(least.ravel().tolist())
    if budget < 0:
        return None
    usage = np.minimum(usage - least, budget + 1)
    top = value.max(axis=1, keepdims=True)
    spread, coarse = sum((top - value).max(axis=1).tolist()), 1
    while spread // coarse >= LARGEST:
        coarse *= 2
    spread //= coarse
    scale = min(_FREE, finest(max(1, spread)))
    short = -((top - value) // coarse) * scale  # nothing is positive, and sums are small

    exact = short.astype(object), usage.astype(object)  # high prices times usages are beyond 64 bits

    def at(price: int) -> npt.NDArray[np.intp]:
        """Return what each layer takes at a price; of equals what uses least."""
        worth = exact[0] - price * exact[1]
        best: npt.NDArray[np.bool_] = worth == worth.max(axis=1, keepdims=True)
        least_used: npt.NDArray[np.intp] = np.where(best, usage, budget + 2).argmin(axis=1)
        return least_used

    def used(chosen: npt.NDArray[np.intp]) -> int:
        return sum(usage[layers, chosen].tolist())

    low, high = -1, spread * scale + 1  # so high that a unit less is worth more than all values
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if used(at(middle)) <= budget else (middle, high)
    chosen = at(high)
    held = int(short[layers, chosen].sum())
    # The price is that of a step which is not within the budget, or no longer: all of this costs at most twice as much
    # as the values differ.
    menus = [Menu(s, u[:, None], np.arange(len(s))) for s, u in zip(short, usage, strict=True)]
    bound = high * budget + int((short - high * usage).max(axis=1).sum())
    merged = merge(menus, np.array([budget]), np.array([[high]]), held + 1, stop=stop, tuning=tuning)
    if merged is not None:
        bound = max(held, min(bound, merged.bound))
        if merged.value is not None:
            chosen, held = np.array(merged.choice), merged.value
    most = sum(top.ravel().tolist())
    found = sum(value[layers, chosen].tolist())
    price = -(-high * coarse // scale)
    return Chosen(chosen.astype(np.int64), found, max(found, most + bound // scale * coarse), price)

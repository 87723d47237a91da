"""What a layer is to the engine: plans with a value and a usage, and an oracle that knows the best of them at prices.

Layers share nothing but some *budgets* (bytes of a server, quality that may be lost, time). A *plan* of a layer has a
*value*, an integer of which more is better, and a *usage* ``int64 [R]`` of the ``R`` budgets, in whole units of each.
At prices ``p >= 0`` (integers, of one unit of each budget; see :func:`finest`) a plan is worth ``value - p . usage``.
Whatever a plan is beside that, only its problem knows: the engine carries its *code*, a row of integers, and hands it
back.

With prices the layers fall apart, and by weak duality every choice of one plan a layer within the budgets has ::

    sum of values <= sum over layers of max over plans of (value - p . usage)  +  p . budget                        (M1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Bool, Int64

Float: TypeAlias = npt.NDArray[np.float64]

Schedule: TypeAlias = Sequence[tuple[float, float, int]]
"""Temperature, step length and number of steps of a descent, one stage after the other."""

LARGEST: Final = 1 << 57
"""The values of one plan a layer, whichever, sum to less than this, without their signs: no sum may overflow."""


def whole(numbers: npt.ArrayLike, name: str) -> Int64:
    """Return signed integers as int64; refuse all else, which would be rounded or wrapped around.

    Raises
    ------
    ValueError
        They are no signed integers.
    """
    array = np.asarray(numbers)
    if array.dtype.kind != "i" and array.size:
        raise ValueError(f"{name}: expected signed integers, found {array.dtype}")
    return array.astype(np.int64)


def finest(size: int) -> int:
    """Return how often values may be taken, so that prices are as fine as they can be.

    A price is a whole number, what one unit of a budget is worth. Rounding it costs a bound up to half a unit of value
    for each unit of the budget; where that is much, values are to be taken this many times. ``size``: what the values
    of one plan a layer sum to at the most, without their signs.

    Examples
    --------
    >>> finest(1000) * 1000 < LARGEST
    True
    """
    return 1 << max(0, ((LARGEST - 1) // max(1, size)).bit_length() - 1)


def no_stop() -> bool:
    """Do not stop."""
    return False


@dataclass(frozen=True, eq=False)
class Priced:
    """What an oracle has found out about its layer at some prices.

    Attributes
    ----------
    bound : int
        No plan is worth more.
    worth : int
        What the plan below is worth; equal to ``bound`` where it is proven to be the best.
    value : int
        The plan's value.
    usage : int64 array [R]
        What the plan takes of each budget.
    code : int64 array [C]
        The plan, as its problem reads it.
    nodes : int
        Nodes of a search, where there was one.
    slack : int
        How far the bound may be above what the plan is worth though the search has ended.
    """

    bound: int
    worth: int
    value: int
    usage: Int64
    code: Int64
    nodes: int = 0
    slack: int = 0

    @property
    def exact(self) -> bool:
        """Whether the plan is proven to be the best, but for the slack."""
        return self.bound <= self.worth + self.slack


@dataclass(frozen=True, eq=False)
class Plans:
    """Plans of one layer (``P`` of them), the best of each usage.

    Attributes
    ----------
    value : int64 array [P]
    usage : int64 array [P, R]
    code : int64 array [P, C]
    """

    value: Int64
    usage: Int64
    code: Int64

    def __len__(self) -> int:
        return len(self.value)

    def take(self, index: npt.NDArray[np.intp] | Bool) -> Plans:
        """Return some of the plans."""
        return Plans(self.value[index], self.usage[index], self.code[index])


class Oracle(Protocol):
    """One layer. All numbers are exact integers; what comes back is true whatever has ended a search.

    A proof refuses layers whose ``total`` and ``least`` allow more than :data:`LARGEST`. At the prices that it asks
    for, all that the budgets have costs less than ``2**61``; a plan that costs more is in no combination, so what it is
    worth may be said too high, but must not wrap around.
    """

    @property
    def total(self) -> int:
        """No plan's value is larger."""

    @property
    def least(self) -> int:
        """No plan's value is smaller."""

    def bound(self, price: Int64) -> int:
        """Return at once what no plan is worth more than, at ``price [R]``."""

    def best(
        self, price: Int64, *, floor: Int64 | None = None, stop: Callable[[], bool] = no_stop, nodes: int | None = None
    ) -> Priced:
        """Return the plan that is worth most.

        Parameters
        ----------
        price : int64 array [R]
            Not negative.
        floor : int64 array [C], optional
            The code of a plan to begin with; it is returned where nothing is better.
        stop : callable
            Asked now and then; when it says so, what is known so far is returned.
        nodes : int, optional
            Most nodes of a search.
        """

    def plans(
        self, price: Int64, least: int, *, stop: Callable[[], bool] = no_stop, most: int | None = None
    ) -> Plans | None:
        """Return the plans worth at least ``least``, of each usage the best; None if stopped or more than ``most``."""

    def plan(self, code: Int64) -> tuple[int, Int64]:
        """Return the value and the usage of a plan."""


@runtime_checkable
class Tunable(Protocol):
    """An oracle whose bound depends on multipliers of its own, which can be made better for prices near some."""

    @property
    def reach(self) -> Int64:
        """Units of each budget that a plan may take at most, were there no limits, [R]: the measure of its price."""

    def smooth(self, price: Float, temperature: float, rate: float) -> Float:
        """Take a step of descent of the smoothed bound.

        Returns
        -------
        float64 array [2, R]
            What the smoothed bound would like to take of each budget, and by how much that falls with its price.
        """

    def refresh(self) -> None:
        """Take over what :meth:`smooth` has come to."""

    def tune(self, price: Int64, schedule: Schedule) -> None:
        """Choose good multipliers for prices near these."""


@runtime_checkable
class Climbing(Protocol):
    """An oracle that finds good plans in a small part of the time that a search takes, and proves nothing by it."""

    def climbed(self, code: Int64, price: Int64) -> list[Int64]:
        """Return codes of plans that are good at prices, found from some plans ``code [S, C]``; the same each time."""

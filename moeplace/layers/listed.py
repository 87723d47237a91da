"""An oracle for layers whose plans can all be listed: the simplest layer, and what small problems need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from moeplace.base.arrays import Int64
from moeplace.layers.oracle import Plans, Priced, no_stop, whole

_DEAREST: Final = 1 << 62
"""Above what any plan that fits costs; what costs more is counted as costing this."""


class ListedOracle:
    """One layer with all its plans in a list; see :class:`~moeplace.layers.oracle.Oracle`.

    Parameters
    ----------
    plans : Plans
        At least one. Of plans that use the same, the first of the best ones counts. Codes are all different.

    Raises
    ------
    ValueError
        There is no plan, one uses less than nothing, or two have one code; lengths differ, or numbers are no signed
        integers.
    """

    def __init__(self, plans: Plans) -> None:
        plans = Plans(whole(plans.value, "value"), whole(plans.usage, "usage"), whole(plans.code, "code"))
        shapes = plans.value.shape, plans.usage.shape, plans.code.shape
        if [len(shape) for shape in shapes] != [1, 2, 2] or len({shape[0] for shape in shapes}) > 1:
            raise ValueError(f"expected value [P], usage [P, R] and code [P, C], found {shapes}")
        if not len(plans):
            raise ValueError("a layer needs a plan")
        if plans.usage.min(initial=0) < 0:
            raise ValueError("a plan uses less than nothing")
        order = np.lexsort((-plans.value, *plans.usage.T))
        usage = plans.usage[order]
        first = np.concatenate(([True], (usage[1:] != usage[:-1]).any(axis=1)))
        self._plans = plans.take(order[first])
        self._at = {code.tobytes(): i for i, code in enumerate(plans.code)}
        self._all = plans
        if len(self._at) < len(plans):
            raise ValueError("two plans have one code")

    @property
    def total(self) -> int:
        """The largest value of a plan."""
        return int(self._plans.value.max())

    @property
    def least(self) -> int:
        """The smallest value of a plan."""
        return int(self._plans.value.min())

    def bound(self, price: Int64) -> int:
        """Return what the best plan is worth."""
        return int(self._worth(price).max())

    def best(
        self, price: Int64, *, floor: Int64 | None = None, stop: Callable[[], bool] = no_stop, nodes: int | None = None
    ) -> Priced:
        """Return the plan that is worth most."""
        worth = self._worth(price)
        at = int(worth.argmax())
        top = int(worth[at])
        if floor is not None:
            value, usage = self.plan(floor)
            if value - sum(p * u for p, u in zip(price.tolist(), usage.tolist(), strict=True)) == top:
                return Priced(top, top, value, usage, floor)
        plans = self._plans
        return Priced(top, top, int(plans.value[at]), plans.usage[at], plans.code[at])

    def plans(
        self, price: Int64, least: int, *, stop: Callable[[], bool] = no_stop, most: int | None = None
    ) -> Plans | None:
        """Return the plans that are worth at least ``least``."""
        found = self._plans.take(self._worth(price) >= least)
        return None if most is not None and len(found) > most else found

    def plan(self, code: Int64) -> tuple[int, Int64]:
        """Return the value and the usage of a plan."""
        at = self._at[whole(code, "code").tobytes()]
        return int(self._all.value[at]), self._all.usage[at]

    def _worth(self, price: Int64) -> Int64:
        # No plan that fits costs so much; the others must not wrap around.
        dearest = _DEAREST // max(1, len(price)) // np.maximum(price, 1)
        worth: Int64 = self._plans.value - np.minimum(self._plans.usage, dearest) @ price
        return worth

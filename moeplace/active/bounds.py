"""Bounds: what one price of the budget proves, the proof by layers, and the point of the front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from moeplace.active.certificates import ActiveCertificate, MergedLayers, Prices
from moeplace.active.cost import choice_of
from moeplace.active.document import Choice
from moeplace.active.front import USUAL, Tuning, front
from moeplace.active.heuristics import Walk, walk
from moeplace.active.instance import Instance
from moeplace.base.arrays import Int64
from moeplace.base.incumbent import Incumbent
from moeplace.layers.listed import ListedOracle
from moeplace.layers.oracle import LARGEST, Plans, finest
from moeplace.layers.primal import CostSide
from moeplace.layers.proof import LayerProof

PRICE: Final = "a price of the budget"
LAYERS: Final = "layers"
FRONT: Final = "the exact front"
"""Whose proof a bound is."""


def relaxation(instance: Instance, way: Walk) -> tuple[int, int]:
    """Return the price at which the linear relaxation has its optimum, as numerator and denominator.

    It is the slope of the first step that no longer fits; 0 where all do.
    """
    used = way.used
    for step in way.steps:
        used += step.used
        if used > instance.budget:
            return step.saved, step.used
    return 0, 1


def price_bound(instance: Instance, price: int, unit: int) -> int:
    """Return the lower bound that a price of ``price / unit`` proves (E3): at least that much every choice costs."""
    total = -price * instance.budget
    for costs, uses in zip(instance.cost.tolist(), instance.usage.tolist(), strict=True):
        total += min(unit * c + price * u for c, u in zip(costs, uses, strict=True))
    return max(0, -(-total // unit))


def prove_by_price(instance: Instance, search: Incumbent, way: Walk) -> None:
    """Report the bound of the linear relaxation, with its certificate."""
    price, unit = relaxation(instance, way)
    bound = price_bound(instance, price, unit)
    search.prove(bound, PRICE, lambda: ActiveCertificate.make(instance, bound, Prices([price], unit)))


def too_large(instance: Instance) -> str | None:
    """Say why the proof by layers does not take an instance, or None."""
    worst = sum(instance.cost.max(axis=1).tolist())
    return f"its layers may cost {worst:,} in sum, at most 2**57 - 1 is handled" if worst >= LARGEST else None


def _merged(instance: Instance, bound: int) -> ActiveCertificate:
    """Write down what proves a bound by a merge: the price of the linear relaxation makes it short."""
    price, unit = relaxation(instance, walk(instance))
    return ActiveCertificate.make(instance, bound, MergedLayers([price], unit))


def prove_by_layers(instance: Instance, search: Incumbent, threads: int) -> None:
    """Prove by the engine of layers what the best choice is, from the search's incumbent."""
    most = instance.cost.max(axis=1)
    worst = sum(most.tolist())
    scale = finest(worst)
    code = np.arange(1, instance.top_k + 1, dtype=np.int64)[:, None]
    oracles = [
        ListedOracle(Plans((top - costs) * scale, uses[:, None], code))
        for top, costs, uses in zip(most, instance.cost, instance.usage, strict=True)
    ]

    def decision(codes: Sequence[Int64]) -> Choice:
        return choice_of([int(code[0]) for code in codes])

    def codes(choice: Choice) -> list[Int64]:
        return [np.array([k], dtype=np.int64) for k in choice.active_experts]

    side = CostSide(
        search,
        worst,
        instance.layers,
        LAYERS,
        decision,
        codes,
        scale=scale,
        certificate=lambda bound: _merged(instance, bound),
    )
    LayerProof(oracles, [instance.budget], side, threads=threads).run()


def prove_by_front(instance: Instance, search: Incumbent, tuning: Tuning = USUAL) -> None:
    """Take the point of the front within the budget, which is optimal.

    Raises
    ------
    MethodLimitError
        The front is too large.
    """
    try:
        found = front(instance, stop=lambda: search.checkpoint() is not None, tuning=tuning)
    except InterruptedError:
        return
    timed = instance.minimises == "time_ns"
    at = found.at(loss=instance.budget) if timed else found.at(time_ns=instance.budget)
    assert at is not None, "the incumbent is within the budget"
    search.offer(choice_of(found.active([at])[0]))
    best = int((found.time_ns if timed else found.loss)[at])
    search.prove(best, FRONT, lambda: _merged(instance, best))

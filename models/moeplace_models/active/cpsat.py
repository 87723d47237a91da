"""``cpsat``: the multiple-choice knapsack of ``milp`` for CP-SAT, all in integers.

Sets and numbers as there; ``w_l`` is the most that layer ``l`` costs, ``q`` and ``v`` are the greatest common divisors
of what can be saved and of what is used. CP-SAT takes sums below 2**62 only: beyond, ``q`` and ``v`` are multiplied by
a power of two, and the roundings below make the model a relaxation, whose bound holds, but may be below the optimum.

Variables (Boolean)::

    y[l,k]   layer l has k active experts

Model::

    maximise  sum_l sum_k ceil((w_l - c[l,k]) / q) y[l,k]                                                  (1)
    exactly one of y[l,1], ..., y[l,K]                              for all layers l                       (2)
    sum_l sum_k floor(u[l,k] / v) y[l,k]  <=  floor(B / v)                                                 (3)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ortools.sat.python import cp_model

from moeplace.active.document import Choice
from moeplace.active.instance import Instance
from moeplace.base.arrays import common_unit

MOST = 2**61
"""What the amounts of a sum are at the most, in its unit."""


@dataclass(frozen=True)
class ActiveModel:
    """The model with its variables.

    Attributes
    ----------
    model : ortools.sat.python.cp_model.CpModel
    y : dict
        Variable of each (layer, number of active experts).
    worst : int
        Sum of the ``w_l``: a choice costs at least ``worst`` less ``unit`` times the objective (1).
    unit : int
        ``q``.
    """

    model: Any
    y: dict[tuple[int, int], Any]
    worst: int
    unit: int

    def hint(self, choice: Choice) -> None:
        """Hint every variable."""
        self.model.clear_hints()
        for (layer, k), variable in self.y.items():
            self.model.add_hint(variable, choice.active_experts[layer] == k)


def build(instance: Instance) -> ActiveModel:
    """Build the model.

    Parameters
    ----------
    instance : Instance

    Returns
    -------
    ActiveModel
    """
    layers, numbers = range(instance.layers), range(1, instance.top_k + 1)
    worst = [max(row) for row in instance.cost.tolist()]
    saved = [w - c for w, row in zip(worst, instance.cost.tolist(), strict=True) for c in row]
    used = [u for row in instance.usage.tolist() for u in row]
    q, v = common_unit(saved, MOST), common_unit(used, MOST)

    model = cp_model.CpModel()
    y = {(layer, k): model.new_bool_var(f"y[{layer},{k}]") for layer in layers for k in numbers}
    every = list(y.values())
    model.maximize(cp_model.LinearExpr.weighted_sum(every, [-(-s // q) for s in saved]))  # (1)
    for layer in layers:  # (2)
        model.add_exactly_one(y[layer, k] for k in numbers)
    room = min(instance.budget // v, MOST)  # never more than all that can be used
    model.add(cp_model.LinearExpr.weighted_sum(every, [u // v for u in used]) <= room)  # (3)
    return ActiveModel(model, y, sum(worst), q)

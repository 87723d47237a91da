"""``milp``: a multiple-choice knapsack in Pyomo.

Sets: layers ``l``, numbers of active experts ``k = 1..K``. ``c[l,k]`` is what is minimised, ``u[l,k]`` what has the
budget ``B``: time and loss, or loss and time.

Variables::

    y[l,k] in {0,1}   layer l has k active experts

Model::

    minimise  sum_l sum_k c[l,k] y[l,k]                                                                    (1)
    sum_k y[l,k]  =  1                                              for all layers l                       (2)
    sum_l sum_k u[l,k] y[l,k]  <=  B                                                                       (3)
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from moeplace.active.instance import Instance


def build(instance: Instance) -> Any:
    """Build the model.

    Parameters
    ----------
    instance : Instance

    Returns
    -------
    pyomo.environ.ConcreteModel
        With ``y`` indexed by (layer, number of active experts).
    """
    layers, numbers = range(instance.layers), range(1, instance.top_k + 1)
    c, u = instance.cost.tolist(), instance.usage.tolist()

    model = pyo.ConcreteModel(name="milp")
    model.y = pyo.Var(layers, numbers, domain=pyo.Binary)
    y = model.y

    model.cost = pyo.Objective(expr=pyo.quicksum(c[layer][k - 1] * y[layer, k] for layer, k in y))  # (1)

    @model.Constraint(layers)
    def one_number(_: Any, layer: int) -> Any:  # (2)
        return pyo.quicksum(y[layer, k] for k in numbers) == 1

    model.budget_row = pyo.Constraint(  # (3)
        expr=pyo.quicksum(u[layer][k - 1] * y[layer, k] for layer, k in y) <= instance.budget
    )
    return model

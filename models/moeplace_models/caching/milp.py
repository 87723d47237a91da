"""``milp``: the aggregated radius model in Pyomo: (A1) and (M1) to (M4) of the formulation.

Sets: servers ``n``, items ``i`` (one expert each), radius sets ``R``, terms ``t = (R, S)`` with weight ``W_t``,
covers ``(R, i)``: the items that some term asks for within ``R``.

Variables::

    x[n,i] in {0,1}   server n caches item i
    a[R,i] in [0,1]   item i is cached somewhere in R
    b[t]   in [0,1]   every item of S is cached somewhere in R     (a single item: b is a itself)

Model::

    minimise  baseline - sum_t W_t b_t + sum_{n,i} load_{n,i} x[n,i]                                       (1)
    sum_i size_i x[n,i]  <=  capacity_n                             for all servers n                      (2)
    a[R,i]  <=  sum_{n in R} x[n,i]                                 for all covers (R,i)                   (3)
    b[t]    <=  a[R,i]                                              for all terms t = (R,S), i in S        (4)
    sum_{j: (R,{i,j}) a term} size_j b[R,{i,j}]  <=  (cap(R) - size_i) a[R,i]
                                                                    for all covers (R,i) in a pair         (5)
    sum_{n in R} x[n,i]  >=  1                                      for all requirements (R,i)             (6)
    sum_{i in l} x[n,i]  <=  slots_n                                for all servers n, layers l            (7)

Loading (1), coverage (6) and slots (7) are there only where the instance has them: (C1) and (C2).
(5), optional, is the sum of (2) over ``R`` multiplied by ``a[R,i]`` (RLT) and restricted to the pairs that are
terms; it cuts off fractional points that use the same bytes for many pairs, whatever else a placement must keep.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyomo.environ as pyo

from moeplace.caching.instance import Instance
from moeplace.caching.terms import aggregate, sides


def build(instance: Instance, *, rlt: bool = True) -> Any:
    """Build the model.

    Parameters
    ----------
    instance : Instance
    rlt : bool
        Whether to add rows (5).

    Returns
    -------
    pyomo.environ.ConcreteModel
        With ``x`` indexed by (server, item); pairs that cannot save anything and that nobody needs have no variable.

    Raises
    ------
    NoSolutionError
        A requirement that no server can meet.
    """
    pairs, members, covers, terms, weight = aggregate(instance).sets()
    price, required, crowds = sides(instance, pairs)
    size, capacity = instance.item_bytes.tolist(), instance.capacity_bytes.tolist()

    model = pyo.ConcreteModel(name="milp")
    model.x = pyo.Var(pairs, domain=pyo.Binary)
    model.a = pyo.Var(range(len(covers)), bounds=(0, 1))
    model.b = pyo.Var([t for t, needs in enumerate(terms) if len(needs) > 1], bounds=(0, 1))
    x, a = model.x, model.a
    b = {t: model.b[t] if len(needs) > 1 else a[needs[0]] for t, needs in enumerate(terms)}

    loading = pyo.quicksum(ns * x[pair] for pair, ns in zip(pairs, price, strict=True) if ns)
    model.cost = pyo.Objective(expr=instance.baseline_ns - pyo.quicksum(weight[t] * b[t] for t in b) + loading)  # (1)

    held = defaultdict(list)
    for n, i in x:
        held[n].append(i)

    @model.Constraint(list(held))
    def capacity_rows(_: Any, n: int) -> Any:  # (2)
        return pyo.quicksum(size[i] * x[n, i] for i in held[n]) <= capacity[n]

    @model.Constraint(range(len(covers)))
    def covered(_: Any, p: int) -> Any:  # (3)
        radius, i = covers[p]
        return a[p] <= pyo.quicksum(x[n, i] for n in members[radius] if (n, i) in x)

    @model.Constraint([(t, p) for t in model.b for p in terms[t]])
    def satisfied(_: Any, t: int, p: int) -> Any:  # (4)
        return b[t] <= a[p]

    if rlt:
        partners = defaultdict(list)
        for t, needs in enumerate(terms):
            if len(needs) == 2:
                for p, q in (needs, needs[::-1]):
                    partners[p].append(size[covers[q][1]] * b[t])

        @model.Constraint(sorted(partners))
        def lifted(_: Any, p: int) -> Any:  # (5)
            radius, i = covers[p]
            room = sum(capacity[n] for n in members[radius]) - size[i]
            return pyo.quicksum(partners[p]) <= room * a[p]

    @model.Constraint(range(len(required)))
    def held_somewhere(_: Any, c: int) -> Any:  # (6)
        return pyo.quicksum(x[pair] for pair in required[c]) >= 1

    @model.Constraint(range(len(crowds)))
    def slots(_: Any, k: int) -> Any:  # (7)
        limit, crowd = crowds[k]
        return pyo.quicksum(x[pair] for pair in crowd) <= limit

    return model

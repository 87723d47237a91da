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

Where it is open how many experts each layer has active, there are numbers ``k`` for each layer ``l``, and terms count
only for some of them: the sets ``L`` and differences ``D`` of (J4). More variables::

    uses[l,k] in {0,1}   layer l uses k experts
    u[t,i]      in [0,1]   term t is satisfied, and one of the numbers L_{t,i} is chosen

and in the model, with ``extra`` for what a number costs more than the smallest one with empty servers, ``W_t`` for
``D_{t,1}``, and the cost with empty servers and the smallest numbers as the baseline::

    minimise  (1) + sum_{l,k} extra_{l,k} uses[l,k] - sum_{t, i >= 2} D_{t,i} u[t,i]                      (1')
    sum_k uses[l,k]  =  1                                         for all layers l                       (8)
    sum_{l,k} loss_{l,k} uses[l,k]  <=  budget                                                           (9)
    b[t]    <=  sum_{k in L_{t,1}} uses[l,k]                      for all terms t                        (10)
    u[t,i]  <=  b[t],   u[t,i]  <=  sum_{k in L_{t,i}} uses[l,k]  for all terms t, i >= 2                (11)
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyomo.environ as pyo

from moeplace.caching.instance import Instance
from moeplace.caching.open_terms import Open, open_problem
from moeplace.caching.terms import sides


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
        With ``uses`` indexed by (block, number of experts) where that is open.

    Raises
    ------
    NoSolutionError
        A requirement that no server can meet, or no numbers of experts within the budget.
    """
    problem = open_problem(instance)
    pairs, members, covers, terms, weight = problem.terms.sets()
    price, required, crowds = sides(instance, pairs)
    size, capacity = instance.item_bytes.tolist(), instance.capacity_bytes.tolist()

    model = pyo.ConcreteModel(name="milp")
    model.x = pyo.Var(pairs, domain=pyo.Binary)
    model.a = pyo.Var(range(len(covers)), bounds=(0, 1))
    limits = {} if problem.open is None else problem.open.limits
    model.b = pyo.Var([t for t, needs in enumerate(terms) if len(needs) > 1 or t in limits], bounds=(0, 1))
    x, a = model.x, model.a
    b = {t: model.b[t] if t in model.b else a[needs[0]] for t, needs in enumerate(terms)}

    more = 0 if problem.open is None else _choices(model, problem.open, b)
    loading = pyo.quicksum(ns * x[pair] for pair, ns in zip(pairs, price, strict=True) if ns)
    saving = pyo.quicksum(weight[t] * b[t] for t in b)
    model.cost = pyo.Objective(expr=problem.constant - saving + loading + more)  # (1)

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


def _choices(model: Any, open_: Open, b: dict[int, Any]) -> Any:
    """Add the choice of active experts to a model; return what (1') has more than (1)."""
    model.uses = pyo.Var(open_.choices, domain=pyo.Binary)
    model.u = pyo.Var(range(len(open_.further)), bounds=(0, 1))
    uses = [model.uses[choice] for choice in open_.choices]

    def one_of(choices: list[int]) -> Any:
        return pyo.quicksum(uses[choice] for choice in choices)

    @model.Constraint(range(len(open_.of_block)))
    def one_number(_: Any, block: int) -> Any:  # (8)
        return one_of(open_.of_block[block]) == 1

    lost = pyo.quicksum(loss * variable for loss, variable in zip(open_.loss, uses, strict=True) if loss)
    if any(open_.loss):
        model.budget = pyo.Constraint(expr=lost <= open_.spare)  # (9)

    @model.Constraint(list(open_.limits))
    def limited(_: Any, t: int) -> Any:  # (10)
        return b[t] <= one_of(open_.limits[t])

    @model.Constraint(range(len(open_.further)), [0, 1])
    def differences(_: Any, i: int, side: int) -> Any:  # (11)
        t, choices, _weight = open_.further[i]
        return model.u[i] <= (one_of(choices) if side else b[t])

    extra = pyo.quicksum(ns * variable for ns, variable in zip(open_.extra, uses, strict=True) if ns)
    return extra - pyo.quicksum(weight * model.u[i] for i, (_, _, weight) in enumerate(open_.further))

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

Where it is open how many experts each layer uses, there are numbers ``k`` for each layer ``l``, and a term may count
for some of them only: its pieces ``q`` are its differences ``D_q`` for the numbers ``L_q`` of (J4). Variables ``b`` are
then those of pieces, and there are more::

    uses[l,k]  in {0,1}   layer l uses k experts
    s[R,i,k]   in [0,1]   item i is cached somewhere in R, and its layer uses k experts

and in the model, with ``extra`` for what a number costs more than the smallest one with empty servers, and the cost
with empty servers and the smallest numbers as the baseline::

    minimise  baseline + sum_{l,k} extra_{l,k} uses[l,k] - sum_q D_q b[q] + sum_{n,i} load_{n,i} x[n,i]    (1')
    b[q]  <=  sum_{k in L_q} s[R,i,k]                   for all pieces q of t = (R,S), i in S              (4')
    sum_k uses[l,k]  =  1                               for all layers l                                   (8)
    sum_{l,k} loss_{l,k} uses[l,k]  <=  budget                                                             (9)
    sum_k s[R,i,k]  =  a[R,i],   s[R,i,k]  <=  uses[l,k]                    for all covers (R,i), i of l   (10)

A cover is split (10) only where a piece does not count for all numbers of its layer; the others have (4) as it is.
In (5) is the first piece of each pair.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyomo.environ as pyo

from moeplace.caching.instance import Instance
from moeplace.caching.open_terms import NOTHING_OPEN, Open, open_problem
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
    pairs, members, covers, terms, _ = problem.terms.sets()
    price, required, crowds = sides(instance, pairs)
    size, capacity = instance.item_bytes.tolist(), instance.capacity_bytes.tolist()
    pieces = problem.pieces

    model = pyo.ConcreteModel(name="milp")
    model.x = pyo.Var(pairs, domain=pyo.Binary)
    model.a = pyo.Var(range(len(covers)), bounds=(0, 1))
    model.b = pyo.Var([q for q, (t, _, _) in enumerate(pieces) if len(terms[t]) > 1], bounds=(0, 1))
    x, a = model.x, model.a
    extra = 0 if problem.open is NOTHING_OPEN else _choices(model, problem.open)

    def covered_for(p: int, numbers: list[int] | None) -> Any:
        return a[p] if numbers is None else pyo.quicksum(model.s[p, k] for k in numbers)

    b = [model.b[q] if q in model.b else covered_for(terms[t][0], numbers) for q, (t, numbers, _) in enumerate(pieces)]

    loading = pyo.quicksum(ns * x[pair] for pair, ns in zip(pairs, price, strict=True) if ns)
    saving = pyo.quicksum(piece.weight * own for piece, own in zip(pieces, b, strict=True))
    model.cost = pyo.Objective(expr=problem.constant - saving + loading + extra)  # (1)

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

    @model.Constraint([(q, p) for q in model.b for p in terms[pieces[q].term]])
    def satisfied(_: Any, q: int, p: int) -> Any:  # (4)
        return b[q] <= covered_for(p, pieces[q].choices)

    if rlt:
        partners = defaultdict(list)
        first = {piece.term: q for q, piece in reversed([*enumerate(pieces)])}
        for t, needs in enumerate(terms):
            if len(needs) == 2:
                for p, other in (needs, needs[::-1]):
                    partners[p].append(size[covers[other][1]] * b[first[t]])

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


def _choices(model: Any, open_: Open) -> Any:
    """Add the choice of active experts to a model; return what it costs with empty servers."""
    model.uses = pyo.Var(open_.choices, domain=pyo.Binary)
    model.s = pyo.Var([(p, k) for p, numbers in open_.split.items() for k in numbers], bounds=(0, 1))
    uses = [model.uses[choice] for choice in open_.choices]

    @model.Constraint(range(len(open_.of_block)))
    def one_number(_: Any, layer: int) -> Any:  # (8)
        return pyo.quicksum(uses[k] for k in open_.of_block[layer]) == 1

    if any(open_.loss):
        lost = pyo.quicksum(loss * variable for loss, variable in zip(open_.loss, uses, strict=True))
        model.budget = pyo.Constraint(expr=lost <= open_.spare)  # (9)

    @model.Constraint(list(open_.split))
    def split(_: Any, p: int) -> Any:  # (10)
        return pyo.quicksum(model.s[p, k] for k in open_.split[p]) == model.a[p]

    @model.Constraint(list(model.s))
    def split_by_use(_: Any, p: int, k: int) -> Any:  # (10)
        return model.s[p, k] <= uses[k]

    return pyo.quicksum(ns * variable for ns, variable in zip(open_.extra, uses, strict=True) if ns)

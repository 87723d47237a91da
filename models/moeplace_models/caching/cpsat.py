"""``cpsat``: the aggregated radius model (formulation, section 3.1) for CP-SAT, all in integers.

Sets, weights and loads as in ``milp``; ``u`` and ``v_n`` are the greatest common divisors of weights and loads and of
the sizes that ``n`` may hold. CP-SAT takes sums below 2**62 only: beyond, ``u`` and ``v_n`` are multiplied by a power
of two, and the roundings below make the model a relaxation, whose bound holds, but may be below the optimum.

Variables (Boolean)::

    x[n,i]   server n caches item i
    a[R,i]   item i is cached somewhere in R
    b[t]     every item of term t = (R, S) is cached somewhere in R     (a single item: b is a itself)

Model::

    maximise  sum_t ceil(W_t / u) b_t - sum_{n,i} floor(load_{n,i} / u) x[n,i]                             (1)
    sum_i floor(size_i / v_n) x[n,i]  <=  floor(capacity_n / v_n)          for all servers n               (2)
    a[R,i]  =>  OR_{n in R} x[n,i]               for all covers (R,i)                                      (3)
    b[t]    =>  a[R,i]                           for all terms t = (R,S), i in S                           (4)
    OR_{n in R} x[n,i]                           for all requirements (R,i)                                (5)
    sum_{i in l} x[n,i]  <=  slots_n             for all servers n, layers l                               (6)

Where it is open how many experts each layer has active, as in ``milp``, with ``w`` for the divisor of losses and ``L``,
``D`` of (J4)::

    uses[l,k]   layer l uses k experts
    u[t,i]        term t is satisfied, and one of the numbers L_{t,i} is chosen

    maximise  (1) - sum_{l,k} floor(extra_{l,k} / u) uses[l,k] + sum_{t, i >= 2} ceil(D_{t,i} / u) u[t,i]    (1')
    exactly one of uses[l,k]                   for all layers l                                          (7)
    sum_{l,k} floor(loss_{l,k} / w) uses[l,k]  <=  floor(budget / w)                                     (8)
    b[t]    =>  OR_{k in L_{t,1}} uses[l,k]    for all terms t that do not count for all numbers         (9)
    u[t,i]  =>  b[t],  u[t,i]  =>  OR_{k in L_{t,i}} uses[l,k]                                           (10)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ortools.sat.python import cp_model

from moeplace.base.arrays import common_unit
from moeplace.caching.instance import Instance
from moeplace.caching.open_terms import NOTHING_OPEN, OpenProblem, open_problem
from moeplace.caching.placement import Placement
from moeplace.caching.terms import sides

MOST = 2**61
"""What the amounts of a sum are at the most, in its unit."""


@dataclass(frozen=True)
class CachingModel:
    """The model with its variables.

    Attributes
    ----------
    model : ortools.sat.python.cp_model.CpModel
    x : dict
        Variable of each (server, item) that can save anything or that a requirement may need.
    a, b : list
        Variables of the covers and of the terms, in the order of the aggregated problem.
    uses : dict
        Variable of each (block, number of experts), where that is open.
    u : list
        Variables of the further differences.
    problem : OpenProblem
        What the model is of.
    unit : int
        ``u``, token-ns: a saving net of loading is at most ``u`` times the objective (1), and equal to it below 2**61
        units.
    largest : int
        The objective is at most this far from 0.
    """

    model: Any
    x: dict[tuple[int, int], Any]
    a: list[Any]
    b: list[Any]
    uses: dict[tuple[int, int], Any]
    u: list[Any]
    problem: OpenProblem
    unit: int
    largest: int

    def hint(self, placement: Placement) -> None:
        """Hint every variable, since CP-SAT may drop a start that it would have to complete."""
        known = self.problem.satisfied(placement)
        self.model.clear_hints()
        hinted = set()
        values = [(v, placement.cached[n, i]) for (n, i), v in self.x.items()]
        for variables, own in zip((self.a, self.b, [*self.uses.values()], self.u), known, strict=True):
            values += zip(variables, own.tolist(), strict=True)
        for variable, value in values:
            if variable.index not in hinted:  # the variable of a single-item term is that of its cover
                hinted.add(variable.index)
                self.model.add_hint(variable, bool(value))


def build(instance: Instance) -> CachingModel:
    """Build the model.

    Parameters
    ----------
    instance : Instance

    Returns
    -------
    CachingModel

    Raises
    ------
    NoSolutionError
        A requirement that no server can meet, or no numbers of experts within the budget.
    """
    problem = open_problem(instance)
    pairs, members, covers, terms, weight = problem.terms.sets()
    open_ = problem.open or NOTHING_OPEN
    price, required, crowds = sides(instance, pairs)
    size, capacity = instance.item_bytes.tolist(), instance.capacity_bytes.tolist()
    unit = common_unit(weight + price + open_.extra + [ns for _, _, ns in open_.further], MOST)
    saved, paid, extra = (
        [-(-w // unit) for w in weight],
        [ns // unit for ns in price],
        [ns // unit for ns in open_.extra],
    )
    more = [-(-w // unit) for _, _, w in open_.further]

    model = cp_model.CpModel()
    x = {(n, i): model.new_bool_var(f"x[{n},{i}]") for n, i in pairs}
    a = [model.new_bool_var(f"a[{radius},{i}]") for radius, i in covers]
    b = [
        model.new_bool_var(f"b[{t}]") if len(needs) > 1 or t in open_.limits else a[needs[0]]
        for t, needs in enumerate(terms)
    ]
    uses = {(block, k): model.new_bool_var(f"uses[{block},{k}]") for block, k in open_.choices}
    u = [model.new_bool_var(f"u[{i}]") for i in range(len(open_.further))]
    chosen = list(uses.values())

    costs = [(v, -ns) for v, ns in zip([*x.values(), *chosen], [*paid, *extra], strict=True) if ns]
    model.maximize(
        cp_model.LinearExpr.weighted_sum([*b, *u, *(v for v, _ in costs)], [*saved, *more, *(ns for _, ns in costs)])
    )  # (1)
    for n, room in enumerate(capacity):  # (2)
        held = [i for m, i in pairs if m == n]
        v = common_unit([size[i] for i in held], MOST)
        model.add(cp_model.LinearExpr.weighted_sum([x[n, i] for i in held], [size[i] // v for i in held]) <= room // v)
    for p, (radius, i) in enumerate(covers):  # (3)
        model.add_bool_or([~a[p], *(x[n, i] for n in members[radius] if (n, i) in x)])
    for t, needs in enumerate(terms):  # (4)
        if len(needs) > 1 or t in open_.limits:
            for p in needs:
                model.add_implication(b[t], a[p])
    for places in required:  # (5)
        model.add_bool_or([x[pair] for pair in places])
    for slots, crowd in crowds:  # (6)
        model.add(sum(x[pair] for pair in crowd) <= slots)
    for own in open_.of_block:  # (7)
        model.add_exactly_one(chosen[choice] for choice in own)
    w = common_unit(open_.loss, MOST)
    losses = [(v, loss // w) for v, loss in zip(chosen, open_.loss, strict=True) if loss // w]
    if losses:
        model.add(cp_model.LinearExpr.weighted_sum(*zip(*losses, strict=True)) <= open_.spare // w)  # (8)
    for t, numbers in open_.limits.items():  # (9)
        model.add_bool_or([~b[t], *(chosen[choice] for choice in numbers)])
    for i, (t, numbers, _) in enumerate(open_.further):  # (10)
        model.add_implication(u[i], b[t])
        model.add_bool_or([~u[i], *(chosen[choice] for choice in numbers)])
    largest = sum(saved) + sum(paid) + sum(extra) + sum(more)
    return CachingModel(model, x, a, b, uses, u, problem, unit, largest)

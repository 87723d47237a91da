"""``cpsat``: the aggregated radius model (formulation, section 3.1) for CP-SAT, all in integers.

Sets and weights as in ``milp``; ``u`` and ``v_n`` are the greatest common divisors of the weights and of the sizes
that ``n`` may hold. CP-SAT takes sums below 2**62 only: beyond, ``u`` and ``v_n`` are multiplied by a power of two,
and the roundings below make the model a relaxation, whose bound holds, but may be below the optimum.

Variables (Boolean)::

    x[n,i]   server n caches item i
    a[R,i]   item i is cached somewhere in R
    b[t]     every item of term t = (R, S) is cached somewhere in R     (a single item: b is a itself)

Model::

    maximise  sum_t ceil(W_t / u) b_t                                                                      (1)
    sum_i floor(size_i / v_n) x[n,i]  <=  floor(capacity_n / v_n)          for all servers n               (2)
    a[R,i]  =>  OR_{n in R} x[n,i]               for all covers (R,i)                                      (3)
    b[t]    =>  a[R,i]                           for all terms t = (R,S), i in S                           (4)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ortools.sat.python import cp_model

from moeplace.base.arrays import common_unit
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.terms import AggregatedProblem, aggregate

MOST = 2**61
"""What the amounts of a sum are at the most, in its unit."""


@dataclass(frozen=True)
class CachingModel:
    """The model with its variables.

    Attributes
    ----------
    model : ortools.sat.python.cp_model.CpModel
    x : dict
        Variable of each (server, item) that can save anything.
    a, b : list
        Variables of the covers and of the terms, in the order of the aggregated problem.
    problem : AggregatedProblem
        What the model is of.
    unit : int
        ``u``, token-ns: a saving is at most ``u`` times the objective (1), and equal to it below 2**61 units.
    """

    model: Any
    x: dict[tuple[int, int], Any]
    a: list[Any]
    b: list[Any]
    problem: AggregatedProblem
    unit: int

    def hint(self, placement: Placement) -> None:
        """Hint every variable, since CP-SAT may drop a start that it would have to complete."""
        covered, satisfied = self.problem.satisfied(placement)
        self.model.clear_hints()
        hinted = set()
        values = [(v, placement.cached[n, i]) for (n, i), v in self.x.items()]
        values += [*zip(self.a, covered.tolist(), strict=True), *zip(self.b, satisfied.tolist(), strict=True)]
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
    """
    problem = aggregate(instance)
    useful, members, covers, terms, weight = problem.sets()
    size, capacity = instance.item_bytes.tolist(), instance.capacity_bytes.tolist()
    unit = common_unit(weight, MOST)

    model = cp_model.CpModel()
    x = {(n, i): model.new_bool_var(f"x[{n},{i}]") for n, i in useful}
    a = [model.new_bool_var(f"a[{radius},{i}]") for radius, i in covers]
    b = [model.new_bool_var(f"b[{t}]") if len(needs) > 1 else a[needs[0]] for t, needs in enumerate(terms)]

    model.maximize(cp_model.LinearExpr.weighted_sum(b, [-(-w // unit) for w in weight]))  # (1)
    for n, room in enumerate(capacity):  # (2)
        held = [i for m, i in useful if m == n]
        v = common_unit([size[i] for i in held], MOST)
        model.add(cp_model.LinearExpr.weighted_sum([x[n, i] for i in held], [size[i] // v for i in held]) <= room // v)
    for p, (radius, i) in enumerate(covers):  # (3)
        model.add_bool_or([~a[p], *(x[n, i] for n in members[radius] if (n, i) in x)])
    for t, needs in enumerate(terms):  # (4)
        if len(needs) > 1:
            for p in needs:
                model.add_implication(b[t], a[p])
    return CachingModel(model, x, a, b, problem, unit)

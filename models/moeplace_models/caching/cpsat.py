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

Where it is open how many experts each layer uses, with pieces ``q``, ``L_q``, ``D_q`` and more variables as in
``milp``, and ``w`` for the divisor of losses::

    uses[l,k]   layer l uses k experts
    s[R,i,k]    item i is cached somewhere in R, and its layer uses k experts

    maximise  sum_q ceil(D_q / u) b_q - sum_{l,k} floor(extra_{l,k} / u) uses[l,k] - (loading as in (1))   (1')
    b[q]      =>  OR_{k in L_q} s[R,i,k]         for all pieces q of t = (R,S), i in S                     (4')
    exactly one of uses[l,k]                     for all layers l                                          (7)
    sum_{l,k} floor(loss_{l,k} / w) uses[l,k]  <=  floor(budget / w)                                       (8)
    sum_k s[R,i,k]  =  a[R,i],   s[R,i,k]  =>  uses[l,k]                     for all covers (R,i), i of l  (9)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from moeplace.base.arrays import common_unit
from moeplace.caching.instance import Instance
from moeplace.caching.open_terms import OpenProblem, open_problem
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
    a : list
        Variables of the covers.
    b : dict
        Variables of the pieces that need several covers.
    uses : dict
        Variable of each (block, number of experts), where that is open.
    s : list
        Variables of the split covers.
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
    b: dict[int, Any]
    uses: dict[tuple[int, int], Any]
    s: list[Any]
    problem: OpenProblem
    unit: int
    largest: int

    def hint(self, placement: Placement) -> None:
        """Hint every variable, since CP-SAT may drop a start that it would have to complete."""
        covered, pieces, made, split = self.problem.satisfied(placement)
        self.model.clear_hints()
        variables = [*self.x.values(), *self.a, *self.b.values(), *self.uses.values(), *self.s]
        held = [placement.cached[pair] for pair in self.x]
        values = np.concatenate((np.array(held, dtype=np.bool_), covered, pieces[list(self.b)], made, split))
        for variable, value in zip(variables, values.tolist(), strict=True):
            self.model.add_hint(variable, value)


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
    pairs, members, covers, terms, _ = problem.terms.sets()
    pieces, open_ = problem.pieces, problem.open
    price, required, crowds = sides(instance, pairs)
    size, capacity = instance.item_bytes.tolist(), instance.capacity_bytes.tolist()
    weight = [piece.weight for piece in pieces]
    unit = common_unit(weight + price + open_.extra, MOST)
    saved = [-(-w // unit) for w in weight]
    paid, extra = [ns // unit for ns in price], [ns // unit for ns in open_.extra]

    model = cp_model.CpModel()
    x = {(n, i): model.new_bool_var(f"x[{n},{i}]") for n, i in pairs}
    a = [model.new_bool_var(f"a[{radius},{i}]") for radius, i in covers]
    b = {q: model.new_bool_var(f"b[{q}]") for q, (t, _, _) in enumerate(pieces) if len(terms[t]) > 1}
    uses = {(block, k): model.new_bool_var(f"uses[{block},{k}]") for block, k in open_.choices}
    chosen = list(uses.values())
    s = {(p, k): model.new_bool_var(f"s[{p},{k}]") for p, numbers in open_.split.items() for k in numbers}

    def covered_for(p: int, numbers: list[int] | None) -> list[Any]:
        return [a[p]] if numbers is None else [s[p, k] for k in numbers]

    worth = [(v, -ns) for v, ns in zip([*x.values(), *chosen], [*paid, *extra], strict=True) if ns]
    for q, (t, numbers, _) in enumerate(pieces):
        worth += [(v, saved[q]) for v in ([b[q]] if q in b else covered_for(terms[t][0], numbers))]
    model.maximize(cp_model.LinearExpr.weighted_sum([v for v, _ in worth], [ns for _, ns in worth]))  # (1)
    for n, room in enumerate(capacity):  # (2)
        held = [i for m, i in pairs if m == n]
        v = common_unit([size[i] for i in held], MOST)
        model.add(cp_model.LinearExpr.weighted_sum([x[n, i] for i in held], [size[i] // v for i in held]) <= room // v)
    for p, (radius, i) in enumerate(covers):  # (3)
        model.add_bool_or([~a[p], *(x[n, i] for n in members[radius] if (n, i) in x)])
    for q, variable in b.items():  # (4)
        for p in terms[pieces[q].term]:
            model.add_bool_or([~variable, *covered_for(p, pieces[q].choices)])
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
    for p, numbers in open_.split.items():  # (9)
        model.add(sum(s[p, k] for k in numbers) == a[p])
        for k in numbers:
            model.add_implication(s[p, k], chosen[k])
    largest = sum(saved) + sum(paid) + sum(extra)
    return CachingModel(model, x, a, b, uses, list(s.values()), problem, unit, largest)

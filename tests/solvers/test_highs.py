"""HiGHS for any problem's model: small ones with continuous columns that cost, and an LP that is interrupted."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import looped
from solved import Behind

from moeplace.base.errors import MethodError, NoSolutionError
from moeplace.base.incumbent import Incumbent
from moeplace.base.stop import Stop
from moeplace.solvers import highs
from moeplace.solvers.decoding import Decoding


def plain(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def decoding(variables: list[Any]) -> Decoding:
    return Decoding(variables, plain, lambda decision: np.array(decision, dtype=np.bool_))


def run(model: Any, search: Incumbent, **options: Any) -> None:
    variables = list(model.x.values()) if hasattr(model, "x") else []
    highs.improve(model, decoding(variables), search, seed=0, threads=1, **options)


def covering(step: int, needs: list[int], offset: int = 0) -> Any:
    """Choose at least one; ``y`` pays ``step`` for each and takes fractions: a choice costs ``sum of its needs``."""
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(len(needs)), domain=pyo.Binary)
    model.y = pyo.Var(bounds=(0, 100))
    model.pays = pyo.Constraint(expr=step * model.y >= sum(n * model.x[i] for i, n in enumerate(needs)))
    model.one = pyo.Constraint(expr=sum(model.x.values()) >= 1)
    model.cost = pyo.Objective(expr=step * model.y + offset)
    return model


@looped("seed", range(20))
def test_a_continuous_column_that_costs_does_not_make_costs_multiples_of_its_own(seed: int) -> None:
    rng = np.random.default_rng(seed)
    needs, step, offset = rng.integers(1, 30, 3).tolist(), int(rng.integers(2, 12)), int(rng.integers(0, 9))

    def cost(decision: tuple[int, ...]) -> int:
        return offset + sum(n * v for n, v in zip(needs, decision, strict=True))

    search = Incumbent((1, 1, 1), cost=cost, fits=any, stop=Stop())
    run(covering(step, needs, offset), search)
    best = min(cost(decision) for decision in product((0, 1), repeat=3) if any(decision))
    assert (search.latency_ns, search.bound_ns, search.failures) == (best, best, [])


def test_the_unit_of_costs_is_a_claim_where_continuous_columns_have_costs() -> None:
    assert highs.compile_model(covering(4, [4, 8])).unit == 1
    assert highs.compile_model(covering(4, [4, 8]), whole=True).unit == 4
    model = covering(4, [4, 8])
    model.cost.deactivate()
    model.chosen = pyo.Objective(expr=6 * model.x[0] + 9 * model.x[1])
    assert highs.compile_model(model).unit == 3


def test_an_objective_that_is_not_exact_or_not_minimised_is_refused() -> None:
    for change, sense in ((0.5, pyo.minimize), (0, pyo.maximize)):
        model = covering(4, [4, 8])
        model.cost.deactivate()
        model.odd = pyo.Objective(expr=4 * model.y + change, sense=sense)
        search = Incumbent((1, 1), cost=sum, fits=any, stop=Stop())
        with pytest.raises(MethodError, match="must minimise a sum of integers"):
            run(model, search)
        assert search.bound_ns is None
        model.odd.deactivate()
        model.odder = pyo.Objective(expr=(4 + change) * model.y, sense=sense)
        with pytest.raises(MethodError, match="must minimise a sum of integers"):
            run(model, search)


class _Ends(Incumbent):
    """Ends at a certain look."""

    left = 10**9

    def checkpoint(self) -> Any:
        self.left -= 1
        return "interrupted" if self.left < 0 else super().checkpoint()


def test_an_interrupted_linear_program_proves_nothing() -> None:
    rng, columns, rows = np.random.default_rng(0), 60, 45
    taken = rng.integers(-6, 9, (rows, columns)) * (rng.random((rows, columns)) < 0.5)
    least, paid = taken @ rng.integers(0, 5, columns) - 1, rng.integers(-40, 60, columns).tolist()
    model = pyo.ConcreteModel()
    model.y = pyo.Var(range(columns), bounds=(0, 5))
    model.rows = pyo.ConstraintList()
    for row, needed in zip(taken.tolist(), least.tolist(), strict=True):
        model.rows.add(sum(a * model.y[j] for j, a in enumerate(row)) >= needed)
    model.cost = pyo.Objective(expr=sum(c * model.y[j] for j, c in enumerate(paid)) + 20_000)

    def proven(left: int) -> tuple[int | None, int]:
        search = _Ends((), cost=lambda decision: 10**6, fits=lambda decision: True, stop=Stop())
        search.left = left
        run(model, search)
        return search.bound_ns, search.left

    optimum, left = proven(10**6)
    looks = 10**6 - left
    assert optimum is not None
    assert looks > 20
    assert {proven(left)[0] for left in range(2, looks - 2, 5)} == {None}


def test_a_column_without_bounds_is_refused_by_its_name() -> None:
    for bounds, domain in (((None, 9), pyo.Reals), ((0, None), pyo.Reals), ((None, None), pyo.Integers)):
        model = covering(4, [4, 8])
        model.level = pyo.Var(bounds=bounds, domain=domain)
        model.linked = pyo.Constraint(expr=model.level == model.y)
        search = Incumbent((1, 1), cost=sum, fits=any, stop=Stop())
        with pytest.raises(MethodError, match="the column level has no lower or no upper bound"):
            run(model, search)
        assert search.bound_ns is None


def test_where_arithmetic_ends_a_search_it_says_gap_limit() -> None:
    for scale, ended in ((10**3, "optimal"), (10**12, "gap_limit")):
        needs = [scale + 1, 2 * scale + 3]
        model = covering(1, needs)
        model.y.setub(4 * scale)
        search = Incumbent((1, 1), cost=lambda d, n=needs: d[0] * n[0] + d[1] * n[1], fits=any, stop=Stop())
        run(model, search)
        outcome = search.outcome()
        assert (outcome.placement, outcome.termination) == ((1, 0), ended)


@looped("seed", range(20))
def test_without_an_incumbent_one_is_found_or_proven_not_to_exist(seed: int) -> None:
    rng = np.random.default_rng(seed)
    needs = rng.integers(1, 9, 4).tolist()
    least, most = sorted(rng.integers(0, 20, 2).tolist())
    model = covering(1, needs)
    model.least = pyo.Constraint(expr=sum(n * model.x[i] for i, n in enumerate(needs)) >= least + 1)
    model.most = pyo.Constraint(expr=sum(n * model.x[i] for i, n in enumerate(needs)) <= most - 1)

    def cost(decision: tuple[int, ...]) -> int:
        return sum(n * v for n, v in zip(needs, decision, strict=True))

    search = Incumbent(None, cost=cost, fits=lambda d: least < cost(d) < most, stop=Stop(), ceiling=1000)
    run(model, search)
    best = min((cost(d) for d in product((0, 1), repeat=4) if least < cost(d) < most), default=None)
    if best is None:
        with pytest.raises(NoSolutionError, match="proven by HiGHS"):
            search.outcome()
    else:
        assert search.outcome().bound_ns == cost(search.placement) == best


def test_a_solver_whose_clock_is_ahead_says_time_limit() -> None:
    model = covering(4, [4, 8, 15])
    search = Incumbent((1, 1, 1), cost=lambda d: 99, fits=any, stop=Behind(10**6))
    run(model, search)
    assert search.ended is None
    assert search.outcome().termination == "time_limit"

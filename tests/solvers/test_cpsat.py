"""CP-SAT for any problem's model: small ones with all kinds of objectives against brute force."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import looped
from ortools.sat.python import cp_model
from solved import Behind

from moeplace.base.errors import MethodError, NoSolutionError
from moeplace.base.incumbent import Incumbent
from moeplace.base.stop import Stop
from moeplace.solvers import cpsat
from moeplace.solvers.decoding import Decoding

SIZE = 4


def plain(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def decoding(x: list[Any]) -> Decoding:
    return Decoding(x, plain, lambda decision: np.array(decision, dtype=np.bool_))


def run(model: cp_model.CpModel, x: list[Any], search: Incumbent, *, constant: int, unit: int = 1) -> None:
    cpsat.improve(model, decoding(x), search, constant=constant, unit=unit, largest=1000.0, seed=0, threads=1)


@looped("seed", range(30))
def test_an_objective_with_a_constant_is_proven_as_it_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    worth, weight = rng.integers(-9, 30, SIZE).tolist(), rng.integers(1, 9, SIZE).tolist()
    offset, unit, most = int(rng.integers(-50, 51)), int(rng.integers(1, 4)), int(sum(weight) // 2)

    def cost(decision: tuple[int, ...]) -> int:
        return 1000 - unit * (offset + sum(w * v for w, v in zip(worth, decision, strict=True)))

    def fits(decision: tuple[int, ...]) -> bool:
        return sum(w * v for w, v in zip(weight, decision, strict=True)) <= most

    model = cp_model.CpModel()
    x = [model.new_bool_var("") for _ in range(SIZE)]
    model.add(sum(w * v for w, v in zip(weight, x, strict=True)) <= most)
    model.maximize(sum(w * v for w, v in zip(worth, x, strict=True)) + offset)
    search = Incumbent((0,) * SIZE, cost=cost, fits=fits, stop=Stop())
    run(model, x, search, constant=1000, unit=unit)
    best = min(cost(decision) for decision in product((0, 1), repeat=SIZE) if fits(decision))
    assert (search.latency_ns, search.bound_ns, search.failures) == (best, best, [])


def test_an_objective_whose_bound_would_be_misread_is_refused() -> None:
    def minimised(model: cp_model.CpModel, x: list[Any]) -> None:
        model.minimize(sum(x))

    def fractions(model: cp_model.CpModel, x: list[Any]) -> None:
        model.maximize(0.5 * x[0] + 0.25 * x[1])

    def fractional_offset(model: cp_model.CpModel, x: list[Any]) -> None:
        model.maximize(x[0] + x[1])
        model.proto.objective.offset = 0.5

    def rounded_offset(model: cp_model.CpModel, x: list[Any]) -> None:
        model.maximize(x[0] + 2**53 + 1)

    for objective in (minimised, fractions, fractional_offset, rounded_offset):
        model = cp_model.CpModel()
        x = [model.new_bool_var("") for _ in range(SIZE)]
        objective(model, x)
        search = Incumbent((0,) * SIZE, cost=lambda decision: 10, fits=lambda decision: True, stop=Stop())
        with pytest.raises(MethodError, match="CP-SAT's model must maximise a sum of integers"):
            run(model, x, search, constant=10)
        assert search.bound_ns is None, objective


def test_an_objective_without_variables_is_its_constant() -> None:
    for constant, expected in ((None, 100), (7, 93), (0, 100)):
        model = cp_model.CpModel()
        x = [model.new_bool_var("") for _ in range(SIZE)]
        if constant is not None:
            model.maximize(constant)
        search = Incumbent((0,) * SIZE, cost=lambda decision: 100, fits=lambda decision: True, stop=Stop())
        run(model, x, search, constant=100)
        assert (search.bound_ns, search.failures) == (expected, []), constant


@looped("seed", range(20))
def test_without_an_incumbent_one_is_found_or_proven_not_to_exist(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(1, 9, SIZE).tolist()
    least, most = sorted(rng.integers(0, 20, 2).tolist())

    def fits(decision: tuple[int, ...]) -> bool:
        return least < sum(w * v for w, v in zip(weight, decision, strict=True)) < most

    model = cp_model.CpModel()
    x = [model.new_bool_var("") for _ in range(SIZE)]
    used = sum(w * v for w, v in zip(weight, x, strict=True))
    model.add(used > least)
    model.add(used < most)
    model.maximize(-sum(x))
    search = Incumbent(None, cost=sum, fits=fits, stop=Stop(), ceiling=SIZE + 1)
    run(model, x, search, constant=0)
    best = min((sum(d) for d in product((0, 1), repeat=SIZE) if fits(d)), default=None)
    if best is None:
        with pytest.raises(NoSolutionError, match=r"proven by CP-SAT"):
            search.outcome()
    else:
        assert search.outcome().bound_ns == sum(search.placement) == best


def test_a_solver_whose_clock_is_ahead_says_time_limit() -> None:
    model = cp_model.CpModel()
    x = [model.new_bool_var("") for _ in range(SIZE)]
    model.add(3 * x[0] + 2 * x[1] + 2 * x[2] + x[3] <= 4)
    model.maximize(5 * x[0] + 4 * x[1] + 3 * x[2] + x[3])
    search = Incumbent((0,) * SIZE, cost=lambda d: 99, fits=lambda d: True, stop=Behind(10**6))
    run(model, x, search, constant=99)
    assert search.ended is None
    assert search.outcome().termination == "time_limit"


def test_an_optimum_without_its_bound_is_no_gap_that_was_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cp_model.CpModel()
    x = [model.new_bool_var("") for _ in range(SIZE)]
    model.add(sum(x) <= 2)
    model.maximize(sum(3 * v for v in x) - x[0].negated())
    reached = cpsat._reached
    for off, ending in ((0, "gap_limit"), (1, "completed")):
        # Weights rounded up, as large ones are: what it costs is more than what CP-SAT proves.
        search = Incumbent(
            (0,) * SIZE, cost=lambda decision: 1000 - 2 * sum(decision), fits=lambda _: True, stop=Stop()
        )
        monkeypatch.setattr(cpsat, "_reached", lambda *given, off=off: reached(*given) + off)
        run(model, x, search, constant=1000)
        assert (search.ending, search.latency_ns, search.bound_ns) == (ending, 996, 994)
        assert search.outcome().termination == ending

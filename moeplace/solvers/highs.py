"""HiGHS on a Pyomo model: one matrix passed in one call, bounds in exact integers on the safe side.

The objective of every formulation is a cost in token-ns that takes only multiples of a unit (plus a constant).
HiGHS computes in doubles with absolute tolerances, so the objective is passed in that unit, shrunk where its
range is above 1e9 units. What HiGHS proves is then taken back to token-ns minus a margin of half a passed unit:
with all tolerances at 1e-9, columns in the hundred thousands and a range of 1e9, the errors of dual values and
of summation stay orders of magnitude below it. Up to a range of 1e9 units the margin is less than the distance of
two costs, and a proof of optimality is exact; above, a relative 5e-10 of the range stays open and is said so.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import highspy
import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from highspy import HighsModelStatus, HighsStatus
from pyomo.common.enums import ObjectiveSense
from pyomo.repn import generate_standard_repn
from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

from moeplace.errors import MethodError
from moeplace.placement import Placement
from moeplace.search import Search

RANGE = 10**9
MARGIN = Fraction(1, 2)
TOLERANCE = 1e-9
NAME = f"HiGHS {highspy.Highs().version()} branch and bound"


@dataclass(frozen=True)
class _Matrix:
    """A compiled Pyomo model: minimise ``cost @ v + constant``, exact integers, within bounds of rows and columns."""

    columns: list[Any]
    cost: list[int]
    constant: int
    lower: npt.NDArray[np.float64]
    upper: npt.NDArray[np.float64]
    integer: npt.NDArray[np.bool_]
    rows: Any
    row_lower: npt.NDArray[np.float64]
    row_upper: npt.NDArray[np.float64]

    def scale(self) -> tuple[int, Fraction]:
        """Return the unit of the objective in token-ns, and how often a passed unit goes into it (at most 1)."""
        unit = math.gcd(*self.cost) or 1
        width = (self.upper - self.lower).tolist()
        spread = sum(abs(c) * int(w) for c, w in zip(self.cost, width, strict=True)) // unit
        return unit, min(Fraction(1), Fraction(RANGE, max(spread, 1)))


def compile_model(model: Any) -> _Matrix:
    """Compile a Pyomo model whose objective has integer coefficients."""
    form = LinearStandardFormCompiler().write(model, mixed_form=True, set_sense=ObjectiveSense.minimize)
    sense = np.array([row.bound_type for row in form.rows])
    # The compiled form holds doubles; costs above 2**53 must not lose their last digits.
    (objective,) = model.component_data_objects(pyo.Objective, active=True)
    exact = generate_standard_repn(objective.expr, quadratic=False)
    cost = {id(v): c for v, c in zip(exact.linear_vars, exact.linear_coefs, strict=True)}
    return _Matrix(
        columns=form.columns,
        cost=[cost.get(id(v), 0) for v in form.columns],
        constant=exact.constant if exact.linear_vars else pyo.value(objective),
        lower=np.array([v.lb for v in form.columns], dtype=np.float64),
        upper=np.array([v.ub for v in form.columns], dtype=np.float64),
        integer=np.array([v.is_binary() or v.is_integer() for v in form.columns], dtype=np.bool_),
        rows=form.A.tocsr(),
        row_lower=np.where(sense == 1, -np.inf, form.rhs),
        row_upper=np.where(sense == -1, np.inf, form.rhs),
    )


def improve(model: Any, search: Search, *, seed: int, threads: int) -> None:
    """Run HiGHS on a model, from the search's incumbent, until the search has ended or nothing is left to prove.

    Parameters
    ----------
    model : pyomo.environ.ConcreteModel
        Minimises a cost in token-ns; binary variables ``x`` indexed by (server, item).
    search : Search
        Receives every incumbent and every bound.
    seed, threads : int

    Raises
    ------
    MethodError
        HiGHS failed.
    """
    # HiGHS has one scheduler in a process: a run that was left behind must end before the next begins.
    while not _ONE_AT_A_TIME.acquire(timeout=0.05):
        if search.ended:
            return
    try:
        if not search.ended:
            _improve(model, search, seed, threads)
    finally:
        _ONE_AT_A_TIME.release()


_ONE_AT_A_TIME = threading.Lock()


def _improve(model: Any, search: Search, seed: int, threads: int) -> None:
    matrix = compile_model(model)
    column = {id(v): j for j, v in enumerate(matrix.columns)}
    x = [(n, i, column[id(v)]) for (n, i), v in model.x.items() if id(v) in column]
    server, item, index = (np.array(part, dtype=np.int32) for part in (zip(*x, strict=True) if x else ([], [], [])))
    unit, shrink = matrix.scale()
    source = NAME if shrink == 1 else f"{NAME}, less {float(MARGIN / shrink * unit):.3g} token-ns for rounding"

    def take(values: Any) -> None:
        cached = np.zeros(search.placement.cached.shape, dtype=np.bool_)
        cached[server, item] = np.asarray(values)[index] > 0.5
        search.offer(Placement(cached))

    def prove(dual_bound: float) -> None:
        if np.isfinite(dual_bound):
            units = -((-(Fraction(dual_bound) - MARGIN) / shrink) // 1)  # rounded up: costs are whole units
            search.prove(matrix.constant + unit * int(units), source)

    highs = highspy.Highs()
    highs.resetGlobalScheduler(True)  # another number of threads in this process would make run() fail
    options = {
        "output_flag": False,
        "threads": threads,
        "random_seed": seed,
        "mip_rel_gap": 0.0,
        "mip_abs_gap": 0.0,
        "mip_feasibility_tolerance": TOLERANCE,
        "primal_feasibility_tolerance": TOLERANCE,
        "dual_feasibility_tolerance": TOLERANCE,
    }
    if search.stop.remaining is not None:
        options["time_limit"] = search.stop.remaining
    for name, value in options.items():
        _ok(highs.setOptionValue(name, value), f"option {name}")
    _ok(
        highs.passModel(
            len(matrix.columns),
            len(matrix.row_lower),
            matrix.rows.nnz,
            int(highspy.MatrixFormat.kRowwise),
            int(highspy.ObjSense.kMinimize),
            0.0,
            np.array([float(Fraction(c, unit) * shrink) for c in matrix.cost], dtype=np.float64),
            matrix.lower,
            matrix.upper,
            matrix.row_lower,
            matrix.row_upper,
            matrix.rows.indptr.astype(np.int32),
            matrix.rows.indices.astype(np.int32),
            matrix.rows.data.astype(np.float64),
            matrix.integer.astype(np.int32),
        ),
        "model",
    )
    # HiGHS completes a start of the binaries by itself; one that does not fit it would ignore in silence.
    start = search.placement.cached[server, item].astype(np.float64)
    _ok(highs.setSolution(len(index), index, start), "start")

    failure: list[BaseException] = []  # an exception must not travel through the solver's own code

    def on_event(event: Any) -> None:
        kind, kinds = event.callback_type, highspy.cb.HighsCallbackType
        try:
            if kind == kinds.kCallbackMipImprovingSolution:
                take(event.data_out.mip_solution)
            elif kind == kinds.kCallbackMipInterrupt:
                prove(event.data_out.mip_dual_bound)
        except BaseException as error:
            failure.append(error)
        if kind != kinds.kCallbackMipImprovingSolution and (failure or search.ended):
            event.data_in.user_interrupt = True

    highs.cbMipImprovingSolution += on_event
    highs.cbMipInterrupt += on_event
    highs.cbSimplexInterrupt += on_event
    highs.cbIpmInterrupt += on_event
    status = highs.run()
    if failure:
        raise failure[0]
    result = highs.getModelStatus()
    if status == HighsStatus.kError or result not in _ENDINGS:
        raise MethodError(f"HiGHS ended with {highs.modelStatusToString(result)}")
    if result == HighsModelStatus.kModelEmpty:
        search.prove(matrix.constant, source)
        return
    info = highs.getInfo()
    if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
        take(highs.getSolution().col_value)
    # Without a server HiGHS meets an LP and has no MIP bound.
    prove(info.mip_dual_bound if matrix.integer.any() else info.objective_function_value)


_ENDINGS = (
    HighsModelStatus.kOptimal,
    HighsModelStatus.kTimeLimit,
    HighsModelStatus.kInterrupt,
    HighsModelStatus.kModelEmpty,
)


def _ok(status: HighsStatus, what: str) -> None:
    if status == HighsStatus.kError:
        raise MethodError(f"HiGHS refused the {what}")

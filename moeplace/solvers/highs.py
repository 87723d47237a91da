"""HiGHS on a Pyomo model: one matrix passed in one call, bounds in exact integers on the safe side.

The objective of every formulation is a cost whose coefficients are exact integers. What decisions cost are integers,
and multiples of a unit (plus the constant) where that is known: where all columns with a cost are integer, or the
caller says so. HiGHS computes in doubles with absolute tolerances. So what it sees is scaled:

- columns to a range of at most 1 and rows to entries of at most 2**10, by powers of two, which loses nothing;
- the objective to that unit, shrunk where its range (sum of ``|cost|`` times column range) is above 1e9 units.

A bound is too high only by reduced costs of the wrong sign: at most ``DUAL_TOLERANCE`` for each column of range 1,
0.05 for half a million columns, and by rounding in sums of size 1e9, about 1e-7 each. (1e-9 is below what doubles
resolve at reduced costs of 1e9: HiGHS then cannot end, "Solve error".) Rows that are violated within their
tolerance make a bound too low, never too high. So half a passed unit is taken off the bound, and the rest rounded up
to the next cost there can be. Up to a range of 1e9 units a proof of optimality is exact; above, a relative 5e-10 of
the range stays open and is said so. This is an argument on the LPs of the search; that HiGHS branches and cuts right
is taken from HiGHS, whom the solution names as the source of its bound.

Amounts are seen to about 1e-9 of the largest: where so little decides whether a limit is kept, HiGHS may take a
decision that does not fit for one that does. It is not taken over; the bound holds, the gap may stay open.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import highspy
import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
import scipy.sparse as sp
from highspy import HighsModelStatus, HighsStatus
from pyomo.common.enums import ObjectiveSense
from pyomo.core.expr.visitor import identify_variables
from pyomo.repn import generate_standard_repn
from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

from moeplace.base.errors import BoundError, MethodError
from moeplace.base.incumbent import Incumbent
from moeplace.solvers import log
from moeplace.solvers.decoding import Decoding
from moeplace.solvers.scheduler import scheduler_lock

RANGES = (10**9, 10**6)
MARGIN = Fraction(1, 2)
TOLERANCE = 1e-9
DUAL_TOLERANCE = 1e-7
LARGEST_ENTRY = 2.0**10  # of a row
NAME = f"HiGHS {highspy.Highs().version()} branch and bound"


@dataclass(frozen=True)
class _Matrix:
    """A compiled Pyomo model: minimise ``cost @ v + constant``, exact integers, within bounds of rows and columns.

    Columns (``v = column_unit * what HiGHS sees``) and rows are scaled by powers of two, which loses nothing.
    """

    columns: list[Any]
    cost: list[int]
    constant: int
    unit: int  # of which all costs are multiples, apart from the constant
    column_unit: npt.NDArray[np.float64]
    lower: npt.NDArray[np.float64]
    upper: npt.NDArray[np.float64]
    integer: npt.NDArray[np.bool_]
    rows: Any
    row_lower: npt.NDArray[np.float64]
    row_upper: npt.NDArray[np.float64]

    def shrink(self, reach: int) -> Fraction:
        """Return how often a unit of the objective as it is passed goes into the unit of costs (at most 1)."""
        width = (self.column_unit * (self.upper - self.lower)).tolist()
        spread = math.ceil(sum(abs(c) / self.unit * w for c, w in zip(self.cost, width, strict=True)))
        return min(Fraction(1), Fraction(reach, max(spread, 1)))


def compile_model(model: Any, *, whole: bool = False) -> _Matrix:
    """Compile a Pyomo model that minimises a sum with integer coefficients; ``whole`` as in :func:`improve`."""
    form = LinearStandardFormCompiler().write(model, mixed_form=True, set_sense=ObjectiveSense.minimize)
    sense = np.array([row.bound_type for row in form.rows])
    # The compiled form holds doubles; costs above 2**53 must not lose their last digits.
    (objective,) = model.component_data_objects(pyo.Objective, active=True)
    exact = generate_standard_repn(objective.expr, quadratic=False)
    if objective.sense != pyo.minimize:
        raise MethodError(_NOT_EXACT)
    paid = {id(v): _integer(c) for v, c in zip(exact.linear_vars, exact.linear_coefs, strict=True)}
    cost = [paid.get(id(v), 0) for v in form.columns]
    integer = np.array([v.is_binary() or v.is_integer() for v in form.columns], dtype=np.bool_)
    whole = whole or all(known or not c for c, known in zip(cost, integer.tolist(), strict=True))
    lower = np.array([v.lb for v in form.columns], dtype=np.float64)  # None is NaN
    upper = np.array([v.ub for v in form.columns], dtype=np.float64)
    for endless in np.flatnonzero(~np.isfinite(upper - lower)).tolist():
        name = form.columns[endless].name
        raise MethodError(f"the column {name} has no lower or no upper bound: how exact HiGHS is depends on its range")
    # Tolerances are absolute: a column that runs to 1e10 is off by 10 at 1e-9, and HiGHS refuses entries of 1e15.
    column_unit = np.exp2(np.ceil(np.log2(np.maximum(upper - lower, 1))))
    rows = form.A.tocsr() @ sp.diags_array(column_unit)
    largest = abs(rows).max(axis=1).toarray().reshape(-1) if rows.nnz else np.ones(len(sense))
    row_unit = np.exp2(-np.ceil(np.log2(np.maximum(largest / LARGEST_ENTRY, 1))))
    rhs = form.rhs * row_unit
    return _Matrix(
        columns=form.columns,
        cost=cost,
        constant=_integer(exact.constant if exact.linear_vars else _constant(objective)),
        unit=(math.gcd(*cost) or 1) if whole else 1,
        column_unit=column_unit,
        lower=lower / column_unit,
        upper=upper / column_unit,
        integer=integer,
        rows=sp.csr_array(sp.diags_array(row_unit) @ rows),
        row_lower=np.where(sense == 1, -np.inf, rhs),
        row_upper=np.where(sense == -1, np.inf, rhs),
    )


def _constant(objective: Any) -> Any:
    """Return the exact value of an objective that has no variable, or only such that cost nothing."""
    for variable in identify_variables(objective.expr):
        variable.set_value(0, skip_validation=True)
    return pyo.value(objective)


_NOT_EXACT = "HiGHS's model must minimise a sum of integers: coefficients and constant"


def _integer(number: Any) -> int:
    if int(number) != number:
        raise MethodError(f"{_NOT_EXACT}, found {number}")
    return int(number)


def improve(model: Any, decoding: Decoding, search: Incumbent, *, seed: int, threads: int, whole: bool = False) -> None:
    """Run HiGHS on a model, from the search's incumbent if there is one, until the search ends.

    Parameters
    ----------
    model : pyomo.environ.ConcreteModel
        Minimises a sum with integer coefficients, which is at most the cost of the decision. Every column has bounds.
    decoding : Decoding
        The model's binary variables that decide.
    search : Incumbent
        Receives every incumbent and every bound.
    seed, threads : int
    whole : bool
        Whether what decisions cost is known to be the model's constant and a multiple of what divides all coefficients,
        though continuous columns have some. Without, costs are just integers there.

    Raises
    ------
    MethodError
        HiGHS failed, the objective is not exact, or a column is without bounds.
    """
    with scheduler_lock(lambda: search.checkpoint() is not None) as going:
        if going:
            matrix = compile_model(model, whole=whole)
            # Now and then HiGHS gives up on a wide objective ("Solve error") and solves a narrower one.
            for reach in RANGES:
                if (ending := _improve(decoding, matrix, search, seed, threads, reach)) in _ENDINGS:
                    return
            if ending in _NOTHING and search.placement is None:
                search.prove_none(NAME)
                return
            why = f"ended with {highspy.Highs().modelStatusToString(ending)}"
            if ending in _WRONG and search.placement is not None:
                for reach in RANGES:
                    search.distrust(_source(matrix, reach), f"{why}, though there is a placement")
                raise BoundError(f"HiGHS {why}")
            raise MethodError(f"HiGHS {why}")


def _improve(
    decoding: Decoding, matrix: _Matrix, search: Incumbent, seed: int, threads: int, reach: int
) -> HighsModelStatus:
    """Run HiGHS once with an objective range of at most ``reach``; say how it ended."""
    column = {id(v): j for j, v in enumerate(matrix.columns)}
    # A variable in no row and without a cost is in no column: it stays 0.
    place = np.array([j for j, v in enumerate(decoding.variables) if id(v) in column], dtype=np.int32)
    index = np.array([column[id(decoding.variables[j])] for j in place], dtype=np.int32)
    unit, shrink = matrix.unit, matrix.shrink(reach)
    source = _source(matrix, reach)

    def take(values: Any) -> None:
        decided = np.zeros(len(decoding.variables), dtype=np.bool_)
        decided[place] = np.asarray(values)[index] > 0.5
        search.offer(decoding.decision(decided))

    def prove(dual_bound: float) -> None:
        if np.isfinite(dual_bound):
            units = -((-(Fraction(dual_bound) - MARGIN) / shrink) // 1)  # rounded up to the next cost
            search.prove(matrix.constant + unit * int(units), source)

    failure: list[BaseException] = []  # an exception must not travel through the solver's own code
    highs = highspy.Highs()
    options: dict[str, bool | int | float | str] = {
        "output_flag": False,
        "threads": threads,
        "random_seed": seed,
        "mip_rel_gap": 0.0,
        "mip_abs_gap": 0.0,
        "mip_feasibility_tolerance": TOLERANCE,
        "primal_feasibility_tolerance": TOLERANCE,
        "dual_feasibility_tolerance": DUAL_TOLERANCE,
    }
    if (listener := log.current()) is not None:
        # HiGHS hands on what it says only while it says it somewhere else, too.
        options |= {"output_flag": True, "log_to_console": False, "log_file": os.devnull}

        def on_log(event: Any) -> None:
            try:
                listener(event.message)
            except BaseException as error:
                failure.append(error)

        highs.cbLogging += on_log
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
            np.array([float(Fraction(c, unit) * shrink) for c in matrix.cost], dtype=np.float64) * matrix.column_unit,
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
    if (placement := search.placement) is not None:
        start = decoding.values(placement)[place].astype(np.float64)
        _ok(highs.setSolution(len(index), index, start), "start")

    def on_event(event: Any) -> None:
        kind, kinds = event.callback_type, highspy.cb.HighsCallbackType
        try:
            if kind == kinds.kCallbackMipImprovingSolution:
                take(event.data_out.mip_solution)
            elif kind == kinds.kCallbackMipInterrupt:
                prove(event.data_out.mip_dual_bound)
        except BaseException as error:
            failure.append(error)
        if kind != kinds.kCallbackMipImprovingSolution and (failure or search.checkpoint()):
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
        return HighsModelStatus.kSolveError if result in _ENDINGS else result
    if result == HighsModelStatus.kModelEmpty:
        take(())
        search.prove(matrix.constant, source)
        return result
    info = highs.getInfo()
    if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
        take(highs.getSolution().col_value)
    if matrix.integer.any():
        prove(info.mip_dual_bound)
    elif result == HighsModelStatus.kOptimal:  # an LP has no other bound, and its objective is none on the way
        prove(info.objective_function_value)
    if result == HighsModelStatus.kOptimal:
        search.ending = "gap_limit"  # unless that proved it
    if result == HighsModelStatus.kTimeLimit:
        search.ending = "time_limit"  # its clock may be a little ahead of the search's
    return result


_ENDINGS = (
    HighsModelStatus.kOptimal,
    HighsModelStatus.kTimeLimit,
    HighsModelStatus.kInterrupt,
    HighsModelStatus.kModelEmpty,
)


_NOTHING = (HighsModelStatus.kInfeasible, HighsModelStatus.kUnboundedOrInfeasible)
"""How HiGHS ends where nothing satisfies a model: all its columns have bounds, so it is not unbounded."""


_WRONG = (*_NOTHING, HighsModelStatus.kUnbounded)
"""What no model with an incumbent is: whoever says so has lost a part of it, and its bounds speak of what is left."""


def _source(matrix: _Matrix, reach: int) -> str:
    shrink = matrix.shrink(reach)
    return NAME if shrink == 1 else f"{NAME}, less {float(MARGIN / shrink * matrix.unit):.3g} for rounding"


def _ok(status: HighsStatus, what: str) -> None:
    if status == HighsStatus.kError:
        raise MethodError(f"HiGHS refused the {what}")

"""CP-SAT on a model that maximises: everything in integers, the bound taken from its integer form.

With two workers CP-SAT leaves out the searches that close the bound on models like caching's; one worker with full
linearisation, or the eight of its usual portfolio, have them. So ``threads=1`` is one worker with
``linearization_level=2``, and more threads run (at least) the eight-worker portfolio.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import ortools
from ortools.sat.python import cp_model

from moeplace.base.errors import MethodError
from moeplace.base.incumbent import Incumbent
from moeplace.solvers import log
from moeplace.solvers.decoding import Decoding

NAME = f"CP-SAT {ortools.__version__}"
_POLL_S = 0.05


def improve(
    model: cp_model.CpModel,
    decoding: Decoding,
    search: Incumbent,
    *,
    constant: int,
    unit: int,
    largest: float,
    seed: int,
    threads: int,
) -> None:
    """Run CP-SAT on a model, from the search's incumbent if there is one, until the search ends.

    Parameters
    ----------
    model : ortools.sat.python.cp_model.CpModel
        Maximises integers; a decision costs at least ``constant - unit * objective``. Its hints are the start.
    decoding : Decoding
        The model's binary variables that decide.
    search : Incumbent
        Receives every incumbent and every bound.
    constant, unit : int
        See ``model``.
    largest : float
        The objective is about this at the most.
    seed, threads : int

    Raises
    ------
    MethodError
        CP-SAT refused the model, or its objective is not one whose bound is exact: fractional, minimised, or with a
        constant that a double does not hold.
    """
    offset = _offset(model)

    def take(value: Any) -> None:
        search.offer(decoding.decision(np.array([value(v) for v in decoding.variables], dtype=np.bool_)))

    class Incumbents(cp_model.CpSolverSolutionCallback):  # type: ignore[misc]
        def on_solution_callback(self) -> None:
            try:
                take(self.boolean_value)
            except BaseException as error:  # an exception must not travel through the solver's own code
                failure.append(error)

    if search.checkpoint():
        return
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.random_seed = seed
    parameters.catch_sigint_signal = False  # ours stops it with the incumbent kept
    parameters.num_workers = 1 if threads == 1 else max(threads, 8)
    if threads == 1:
        parameters.linearization_level = 2
    if search.stop.remaining is not None:
        parameters.max_time_in_seconds = search.stop.remaining
    parameters.relative_gap_limit = parameters.absolute_gap_limit = 0.0

    failure: list[BaseException] = []
    # While it runs CP-SAT tells its bound as a double, scaled and shifted back from its presolved objective: an
    # integer may come out a little too small (205.99999999999997 for 206). The end's bound is an exact integer.
    slack = largest * 2.0**-48 + 2.0**-20

    def on_bound(saving: float) -> None:
        try:
            search.prove(constant - unit * math.floor(saving + slack), NAME)
        except BaseException as error:
            failure.append(error)

    solver.best_bound_callback = on_bound
    if (listener := log.current()) is not None:

        def on_log(line: str) -> None:
            try:
                listener(f"{line}\n")
            except BaseException as error:
                failure.append(error)

        parameters.log_search_progress, parameters.log_to_stdout = True, False
        solver.log_callback = on_log

    def run() -> None:
        try:
            solver.solve(model, Incumbents())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        if failure or search.checkpoint():
            solver.stop_search()
    if failure:
        raise failure[0]
    response = solver.response_proto
    if response.status == cp_model.MODEL_INVALID:
        raise MethodError(f"CP-SAT refused the model: {model.validate()}")
    if response.status == cp_model.INFEASIBLE:
        search.prove_none(NAME)
    if response.status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        take(solver.boolean_value)
        # Maximising is minimising the negated objective without its constant: its lower bound is an exact integer.
        search.prove(constant + unit * (int(response.inner_objective_lower_bound) - offset), NAME)
    if response.status == cp_model.OPTIMAL and response.inner_objective_lower_bound >= _reached(model, response):
        search.ending = "gap_limit"  # unless that proved it
    elif search.stop.remaining is not None:
        search.ending = "time_limit"  # its clock may be a little ahead of the search's


def _reached(model: cp_model.CpModel, response: Any) -> int:
    """Return what the solution of a response is worth, as its inner bound counts; it may be without that bound."""
    objective, values = model.proto.objective, response.solution
    # A negative number stands for the negated variable.
    reached = (
        c * (values[v] if v >= 0 else -values[-v - 1]) for v, c in zip(objective.vars, objective.coeffs, strict=True)
    )
    return int(sum(reached))


def _offset(model: cp_model.CpModel) -> int:
    """Return the constant of what is maximised; refuse an objective whose inner bound would mean something else."""
    objective = model.proto.objective
    # Without a variable the objective is its constant, whatever its sense; maximised ones are kept negated.
    sense = objective.scaling_factor if objective.vars else -1.0
    held = float(objective.offset)
    if model.proto.has_floating_point_objective() or sense != -1 or not held.is_integer() or abs(held) >= 2**53:
        raise MethodError("CP-SAT's model must maximise a sum of integers, its constant below 2**53")
    return int(-held if objective.scaling_factor < 0 else held)

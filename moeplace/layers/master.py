"""HiGHS on the restricted master problem over known plans: prices from its LP, a combination from its MIP.

Nothing that HiGHS says here is trusted: prices are only a direction, and what is merged is counted in integers before
it is used. So the objective is scaled to what doubles hold well, and the MIP ends at a number of nodes, not at a
time, so that a run without a time limit gives the same placement each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import highspy
import numpy as np
from highspy import HighsModelStatus

from moeplace.base.arrays import Int64
from moeplace.base.errors import MethodError
from moeplace.layers.oracle import Float
from moeplace.solvers.scheduler import scheduler_lock

_REACH = 1e6
_MOST_LOAD = 1e6  # HiGHS refuses huge numbers
_INFEASIBLE = (HighsModelStatus.kInfeasible, HighsModelStatus.kUnboundedOrInfeasible)


@dataclass(frozen=True, eq=False)
class Relaxed:
    """The best convex combinations of the plans of each layer, in floats: proposals, which prove nothing.

    Attributes
    ----------
    value : float
    prices : float64 array [R]
        Duals of the budgets, value a unit.
    share : float64 array [P]
        What each plan takes of its layer.
    """

    value: float
    prices: Float
    share: Float


@dataclass(frozen=True, eq=False)
class Master:
    """Choose one plan of each layer within the budgets, so that the value is largest (``P`` plans, ``R`` budgets).

    Attributes
    ----------
    layer : int64 array [P]
        Layer of each plan, ascending, every layer at least once.
    value : int64 array [P]
    usage : int64 array [R, P]
        Units of each budget that each plan takes.
    budget : int64 array [R]
    """

    layer: Int64
    value: Int64
    usage: Int64
    budget: Int64

    def relax(self, stop: Callable[[], bool], missing: int | None = None) -> Relaxed | None:
        """Return the optimum of the LP; None where HiGHS fails or has no time.

        Parameters
        ----------
        stop : callable
            Whether to stop.
        missing : int, optional
            For layers whose oracles may propose plans that exceed a budget by themselves; else these are left out. And
            where no combination fits, layers may then go without a plan, each for this less than its best one's value:
            prices say what plans must leave free.
        """
        master = self
        with scheduler_lock(stop) as going:
            if not going:
                return None
            highs, unit = master._relaxed(stop, missing is None)
            if missing is not None and highs.getModelStatus() in _INFEASIBLE:
                master = self._with_gaps(missing)
                highs, unit = master._relaxed(stop, False)
            if highs.getModelStatus() != HighsModelStatus.kOptimal:
                return None
            solution = highs.getSolution()
            dual, share = np.array(solution.row_dual[: len(self.budget)]), np.array(solution.col_value)
            value = float(highs.getInfo().objective_function_value)
        # Rows were divided by their budget, values by the unit; maximising, duals of "at most" are not negative.
        prices: Float = np.maximum(dual, 0.0) * unit / self._divisor
        first = np.flatnonzero(np.diff(master.layer, prepend=-1))
        value = value * unit + float(np.maximum.reduceat(master.value, first).sum())
        # What is missing was put after a layer's plans.
        return Relaxed(value, prices, share if master is self else share[np.diff(master.layer, append=-1) == 0])

    @property
    def _divisor(self) -> Float:
        """The budgets; for nothing less than a unit, so that one is too much."""
        return np.maximum(self.budget, 0.5)

    def _relaxed(self, stop: Callable[[], bool], alone: bool) -> tuple[highspy.Highs, float]:
        """Run HiGHS on the LP; return it and the objective's unit."""
        highs, unit, _ = self._model(np.arange(len(self.layer)), integer=False, alone=alone)
        with _interruptible(highs, stop):
            highs.run()
        return highs, unit

    def _with_gaps(self, missing: int) -> Master:
        """Return the problem with one more plan after each layer's, of little value and no usage."""
        first = np.flatnonzero(np.diff(self.layer, prepend=-1))
        layer = np.concatenate((self.layer, self.layer[first]))
        order = np.argsort(layer, kind="stable")
        value = np.concatenate((self.value, np.maximum.reduceat(self.value, first) - missing))
        usage = np.concatenate((self.usage, np.zeros((len(self.budget), len(first)), dtype=np.int64)), axis=1)
        return Master(layer[order], value[order], usage[:, order], self.budget)

    def merge(self, chosen: Int64, start: Int64, nodes: int, stop: Callable[[], bool]) -> Int64 | None:
        """Return the best combination found, one plan a layer, int64 [L]; None if none is better than the start.

        Parameters
        ----------
        chosen : int64 array
            Columns that may be used, ascending; the start's are among them.
        start : int64 array [L]
            Columns of a combination that fits.
        nodes : int
            Most nodes of the branch and bound.
        stop : callable
            Whether to stop.
        """
        with scheduler_lock(stop) as going:
            if not going:
                return None
            highs, _, column = self._model(chosen, integer=True, alone=True)
            highs.setOptionValue("mip_max_nodes", nodes)
            highs.setOptionValue("mip_rel_gap", 1e-7)
            values = np.isin(column, start).astype(np.float64)
            highs.setSolution(len(column), np.arange(len(column), dtype=np.int32), values)
            with _interruptible(highs, stop):
                highs.run()
            if highs.getInfo().primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
                return None
            found = column[np.asarray(highs.getSolution().col_value) > 0.5]
        better = (
            len(found) == len(start)
            and np.array_equal(self.layer[found], self.layer[start])
            and bool((self.usage[:, found].sum(axis=1) <= self.budget).all())
            and int(self.value[found].sum()) > int(self.value[start].sum())
        )
        return found if better else None

    def _model(self, chosen: Int64, integer: bool, alone: bool) -> tuple[highspy.Highs, float, Int64]:
        """Return HiGHS with the model of some columns, the objective's unit and the columns.

        ``alone``: columns that do not fit by themselves are nothing.
        """
        layers, first = np.unique(self.layer[chosen], return_index=True)
        n_budgets, n = len(self.budget), len(chosen)
        # Only differences within a layer matter: they are what doubles should resolve.
        best = np.maximum.reduceat(self.value[chosen], first)
        row = np.searchsorted(layers, self.layer[chosen])
        short = self.value[chosen] - best[row]
        unit = max(1.0, float(-short.min(initial=0)) / _REACH)
        fits = (self.usage[:, chosen] <= self.budget[:, None]).all(axis=0)
        load = np.minimum(self.usage[:, chosen] / self._divisor[:, None], _MOST_LOAD)
        rows = np.concatenate((load.T, np.ones((n, 1))), axis=1)
        index = np.concatenate((np.tile(np.arange(n_budgets), (n, 1)), n_budgets + row[:, None]), axis=1)
        used = rows != 0
        start = np.concatenate(([0], np.cumsum(used.sum(axis=1))))
        highs = highspy.Highs()
        highs.setOptionValue("output_flag", False)
        highs.setOptionValue("threads", 1)
        inf = highspy.kHighsInf
        status = highs.passModel(
            n,
            n_budgets + len(layers),
            int(start[-1]),
            int(highspy.MatrixFormat.kColwise),
            int(highspy.ObjSense.kMaximize),
            0.0,
            short / unit,
            np.zeros(n),
            np.where(fits | (not alone), 1.0, 0.0),
            np.concatenate((np.full(n_budgets, -inf), np.ones(len(layers)))),
            np.ones(n_budgets + len(layers)),
            start.astype(np.int32),
            index[used].astype(np.int32),
            rows[used],
            np.full(n, int(integer), dtype=np.int32),
        )
        if status == highspy.HighsStatus.kError:
            raise MethodError("HiGHS refused the master problem")
        return highs, unit, chosen


@contextmanager
def _interruptible(highs: highspy.Highs, stop: Callable[[], bool]) -> Iterator[None]:
    """Let HiGHS ask now and then whether to stop; raise afterwards what the asking has raised."""
    failure: list[BaseException] = []

    def on_event(event: object) -> None:
        try:  # an exception must not travel through the solver's own code
            if stop():
                event.data_in.user_interrupt = True  # type: ignore[attr-defined]
        except BaseException as error:
            failure.append(error)
            event.data_in.user_interrupt = True  # type: ignore[attr-defined]

    highs.cbMipInterrupt += on_event
    highs.cbSimplexInterrupt += on_event
    yield
    if failure:
        raise failure[0]

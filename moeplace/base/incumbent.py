"""The state of a running search: the best placement, the best bound, and whether it is time to end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from moeplace.base.documents import Termination
from moeplace.base.errors import BoundError
from moeplace.base.result import Outcome, Progress, ProgressCallback, gap
from moeplace.base.stop import Stop
from moeplace.base.workers import Turns, run_workers

if TYPE_CHECKING:
    from moeplace.base.certificates import Certificate


class Incumbent:
    """Keeps the best placement and the best bound of a search; safe to call from worker threads.

    It knows no problem: what a placement costs and whether it fits it is told by functions.
    Each problem makes its own; what it calls a placement is a decision of whatever kind it has.

    Parameters
    ----------
    start : Placement
        The first incumbent.
    cost : callable
        The exact cost of a placement, token-ns.
    fits : callable
        Whether a placement is within all capacities.
    stop : Stop
        Time limit and interruption.
    gap : float
        The search may end when the gap is proven to be at most this.
    progress : callable, optional
        Told of every improvement.

    Attributes
    ----------
    placement : Placement
        The incumbent.
    latency_ns : int
        Its exact cost, by our own evaluator, token-ns.
    bound_ns : int or None
        Best proven lower bound, token-ns; never above ``latency_ns``.
    bound_source : str or None
        Whose proof the bound rests on.
    """

    def __init__(
        self,
        start: Any,
        *,
        cost: Callable[[Any], int],
        fits: Callable[[Any], bool],
        stop: Stop,
        gap: float = 0.0,
        progress: ProgressCallback | None = None,
    ) -> None:
        self._cost, self._fits, self.stop = cost, fits, stop
        self.placement, self.latency_ns = start, cost(start)
        self.bound_ns: int | None = None
        self.bound_source: str | None = None
        self._certificate: Callable[[], Certificate] | None = None
        self._gap, self._progress, self._lock = gap, progress, threading.Lock()
        self._turns: Turns | None = None
        self._failed = False
        self._report()

    def offer(self, placement: Any) -> bool:
        """Take a placement that fits as the incumbent if it is strictly better; say whether it was taken.

        Raises
        ------
        BoundError
            It costs less than the bound that was claimed.
        """
        cost = self._cost(placement)
        with self._lock:
            if cost >= self.latency_ns or not self._fits(placement):
                return False
            if self.bound_ns is not None and cost < self.bound_ns:
                raise BoundError(f"a bound of {self.bound_ns} was claimed, but there is a placement of cost {cost}")
            self.placement, self.latency_ns = placement, cost
            self._report()
            return True

    def prove(self, bound_ns: int, source: str, certificate: Callable[[], Certificate] | None = None) -> None:
        """Take a proven lower bound, whose proof it is, and what writes down the proof, if it is better.

        Raises
        ------
        BoundError
            The bound is above the cost of a placement that we have: whoever claims it is wrong.
        """
        with self._lock:
            if bound_ns > self.latency_ns:
                raise BoundError(
                    f"a bound of {bound_ns} is claimed, but there is a placement of cost {self.latency_ns}"
                )
            if self.bound_ns is None or bound_ns > self.bound_ns:
                self.bound_ns, self.bound_source, self._certificate = max(bound_ns, 0), source, certificate
                self._report()

    @property
    def ended(self) -> Termination | None:
        """Why the search should end now, or None while it should go on. Neither waits nor counts."""
        if self._failed:
            return "interrupted"
        if self.bound_ns is not None and self.bound_ns == self.latency_ns:
            return "optimal"
        if self.stop.interrupted:
            return "interrupted"
        if self.stop.timed_out:
            return "time_limit"
        reached = gap(self.latency_ns, self.bound_ns)
        return "gap_limit" if reached is not None and reached <= self._gap else None

    def checkpoint(self) -> Termination | None:
        """Return :attr:`ended`, after waiting for the next turn where works take turns.

        Works call this in their loops: what a turn lasts is a number of checkpoints.
        """
        turns = self._turns
        if turns is not None and self.ended is None:
            turns.checkpoint()
        return self.ended

    def run(self, *works: Callable[[], None], turns: Sequence[int] | None = None) -> None:
        """Do some works that feed this search, each in a thread of its own, for as long as the search goes on.

        A solver may look neither at its time limit nor at an interruption for a minute (HiGHS in its root LP),
        and building a large model looks at nothing. So when the search has ended, the works are given
        :data:`moeplace.base.workers.GRACE_S` to end by themselves and are then abandoned: they end at their next
        :meth:`checkpoint`, and what they still find comes to nothing.

        Parameters
        ----------
        *works : callable
            They end by themselves or soon after :meth:`checkpoint` says why.
        turns : sequence of int, optional
            Do the works in turns, one at a time: each goes on for so many calls of :meth:`checkpoint`. What
            comes of it does then not depend on the clock. Without turns the works go on at the same time.

        Raises
        ------
        BaseException
            Whatever a work raised.
        """
        self._turns = Turns(turns, self._has_ended) if turns else None
        try:
            run_workers(works, self._has_ended, self._fail, self._turns)
        finally:
            self._turns = None

    def outcome(self) -> Outcome:
        """Return the search's state as what a method returns."""
        with self._lock:
            self._progress = None  # nobody listens any more to a worker that was abandoned
            # A solver that ends by itself without an exact proof has come as near as its arithmetic allows.
            ending = self.ended or "gap_limit"
            return Outcome(self.placement, self.bound_ns, self.bound_source, ending, certificate=self._certificate)

    def _has_ended(self) -> bool:
        return self.ended is not None

    def _fail(self) -> None:
        self._failed = True

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(Progress(self.stop.elapsed, self.latency_ns, self.bound_ns))

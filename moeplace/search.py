"""The state of a running search: the best placement, the best bound, and whether it is time to end."""

from __future__ import annotations

import threading
from collections.abc import Callable

from moeplace.documents import Termination
from moeplace.errors import BoundError
from moeplace.evaluation import latency_ns
from moeplace.instance import Instance
from moeplace.interrupt import Stop
from moeplace.placement import Placement
from moeplace.result import Outcome, Progress, ProgressCallback, gap

GRACE_S = 1.0
LEFT_BEHIND = "moeplace solver"
_POLL_S = 0.02


def left_behind() -> bool:
    """Return whether a solver still runs that a search has left behind."""
    return any(thread.name == LEFT_BEHIND for thread in threading.enumerate())


class Search:
    """Keeps the incumbent and the bound of a search on one instance; safe to call from solver threads.

    Parameters
    ----------
    instance : Instance
    stop : Stop
        Time limit and interruption.
    start : Placement
        The first incumbent.
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
        instance: Instance,
        stop: Stop,
        start: Placement,
        gap: float = 0.0,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.instance, self.stop = instance, stop
        self.placement, self.latency_ns = start, latency_ns(instance, start)
        self.bound_ns: int | None = None
        self.bound_source: str | None = None
        self._gap, self._progress, self._lock = gap, progress, threading.Lock()
        self._report()

    def offer(self, placement: Placement) -> bool:
        """Take a placement that fits as the incumbent if it is strictly better; say whether it was taken.

        Raises
        ------
        BoundError
            It costs less than the bound that was claimed.
        """
        cost = latency_ns(self.instance, placement)
        with self._lock:
            if cost >= self.latency_ns or placement.overfull(self.instance):
                return False
            if self.bound_ns is not None and cost < self.bound_ns:
                raise BoundError(f"a bound of {self.bound_ns} was claimed, but there is a placement of cost {cost}")
            self.placement, self.latency_ns = placement, cost
            self._report()
            return True

    def prove(self, bound_ns: int, source: str) -> None:
        """Take a proven lower bound, and whose proof it is, if it is better.

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
                self.bound_ns, self.bound_source = max(bound_ns, 0), source
                self._report()

    @property
    def ended(self) -> Termination | None:
        """Why the search should end now, or None while it should go on."""
        if self.bound_ns is not None and self.bound_ns == self.latency_ns:
            return "optimal"
        if self.stop.interrupted:
            return "interrupted"
        if self.stop.timed_out:
            return "time_limit"
        reached = gap(self.latency_ns, self.bound_ns)
        return "gap_limit" if reached is not None and reached <= self._gap else None

    def run(self, work: Callable[[], None]) -> None:
        """Do some work that feeds this search, in a thread of its own, for as long as the search goes on.

        A solver may look neither at its time limit nor at an interruption for a minute (HiGHS in its root LP),
        and building a large model looks at nothing. So when the search has ended, the work is given
        ``GRACE_S`` to end by itself and is then left behind: it ends when it next looks at :attr:`ended`, and
        what it still finds comes to nothing.

        Raises
        ------
        BaseException
            Whatever the work raised.
        """
        failure: list[BaseException] = []

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=guarded, name=LEFT_BEHIND)
        thread.start()
        while thread.is_alive() and not self.ended:
            thread.join(_POLL_S)
        thread.join(GRACE_S)
        if failure:
            raise failure[0]

    def outcome(self) -> Outcome:
        """Return the search's state as what a method returns."""
        with self._lock:
            self._progress = None  # nobody listens any more to a solver that was left behind
            # A solver that ends by itself without an exact proof has come as near as its arithmetic allows.
            return Outcome(self.placement, self.bound_ns, self.bound_source, self.ended or "gap_limit")

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(Progress(self.stop.elapsed, self.latency_ns, self.bound_ns))

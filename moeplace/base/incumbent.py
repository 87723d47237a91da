"""The state of a running search: the best placement, the best bound, and whether it is time to end."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from moeplace.base.documents import Termination
from moeplace.base.errors import BoundError, MethodError, MoeplaceError, NoSolutionError
from moeplace.base.result import SOLVER_FAILURE, Outcome, Progress, ProgressCallback, relative_gap
from moeplace.base.stop import Stop
from moeplace.base.workers import Turns, run_workers

if TYPE_CHECKING:
    from moeplace.base.certificates import AnyCertificate


class Incumbent:
    """Keeps the best placement and the best bound of a search; safe to call from worker threads.

    It knows no problem: what a placement costs and whether it fits it is told by functions.
    Each problem makes its own; what it calls a placement is a decision of whatever kind it has.

    Parameters
    ----------
    start : Placement or None
        The first incumbent; None where none is known.
    cost : callable
        The exact cost of a placement that fits, token-ns.
    fits : callable
        Whether a placement is within all capacities; asked first, of the placements offered.
    stop : Stop
        Time limit and interruption.
    gap : float
        The search may end when the gap is proven to be at most this.
    progress : callable, optional
        Told of every improvement.
    ceiling : int, optional
        More than any placement costs; needed without a start. A bound that reaches it proves that there is none.
    none : str
        Why there is none then.
    between : int
        Placements taken at the cost that is claimed for them, between two whose cost is computed.

    Attributes
    ----------
    placement : Placement or None
        The incumbent.
    latency_ns : int
        Its exact cost, token-ns, by ``cost`` or by whoever offered it; the ceiling while there is no incumbent. What a
        search's outcome is made of, and what meets a bound, has been computed by ``cost``.
    bound_ns : int or None
        Best proven lower bound, token-ns; never above ``latency_ns``.
    bound_source : str or None
        Whose proof the bound rests on.
    none : str
        Why there is none, where that is proven.
    failures : list of str
        What failed on the way, a sentence each; the outcome says them.
    ending : str
        How the search ended where nothing else ended it. A solver that has come as near as its arithmetic allows sets
        "gap_limit", one whose own clock ended it "time_limit".
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
        ceiling: int | None = None,
        none: str = "no choice is within the limits",
        between: int = 64,
    ) -> None:
        self._cost, self._fits, self.stop, self.none = cost, fits, stop, none
        if start is None and ceiling is None:
            raise ValueError("without a start a ceiling is needed")
        self.placement: Any = start
        self.latency_ns: int = cost(start) if ceiling is None or start is not None else ceiling
        self.bound_ns: int | None = None
        self.bound_source: str | None = None
        self.failures: list[str] = []
        self.ending: Termination = "completed"
        # The best bound of everybody who proved one: where one turns out to be wrong, the others' hold.
        self._bounds: dict[str, tuple[int, Callable[[], AnyCertificate] | None]] = {}
        self._distrusted: set[str] = set()
        self._listener_error: BaseException | None = None
        self._gap, self._progress, self._lock = gap, progress, threading.Lock()
        self._turns: Turns | None = None
        self._failed = False
        # How many claimed costs in a row may be believed, how many were, and the best placement of a computed cost.
        self._between, self._believed = between, 0
        self._computed = self.placement, self.latency_ns
        self._report()

    def offer(self, placement: Any, cost: int | None = None) -> bool:
        """Take a placement that fits as the incumbent if it is strictly better; say whether it was taken.

        Where it costs less than a bound that was claimed, that bound is wrong: it is dropped with all others of its
        source, and :attr:`failures` says so.

        Parameters
        ----------
        placement : Placement
        cost : int, optional
            What it costs, of somebody who has kept exact count of it: computing it anew may take longer than finding
            the next one. It is computed all the same now and then, where it would meet or refute a bound, and in the
            end. Once it was wrong, :attr:`failures` says so, the better one of this placement at its true cost and the
            best one whose cost had been computed is the incumbent, and no claim is believed any more.
        """
        if cost is not None and cost >= self.latency_ns and self.placement is not None and self._between:
            return False
        if not self._fits(placement):
            return False
        believed = cost is not None and self._believed < self._between
        if cost is None or not believed:
            cost = self._count(placement, cost)
        with self._lock:
            if believed and any(bound >= cost for bound, _ in self._bounds.values()):
                cost, believed = self._count(placement, cost), False
            if cost >= self.latency_ns:
                if self.placement is None:
                    raise ValueError(f"a cost of {cost} is not below the ceiling {self.latency_ns}")
                return False
            # Others look without the lock: at no moment may a bound stand above the cost.
            for source, (bound, _) in list(self._bounds.items()):
                if cost < bound:
                    self._drop(source, f"claimed a bound of {bound}, but there is a placement of cost {cost}")
            self.placement, self.latency_ns = placement, cost
            self._believed = self._believed + 1 if believed else 0
            if not believed:
                self._computed = placement, cost
            self._report()
            return True

    def _count(self, placement: Any, claimed: int | None) -> int:
        """Return what a placement costs, computed; where something else was claimed, claims are not believed again."""
        cost = self._cost(placement)
        if claimed is not None and claimed != cost:
            self._between = 0
            self._note(
                f"a cost of {claimed} was claimed for a placement that costs {cost}; costs are computed from then on"
            )
        return cost

    def _recount(self) -> None:
        """Compute the incumbent's cost if it is believed only, and keep the better one of what is known then."""
        if not self._believed:
            return
        cost = self._count(self.placement, self.latency_ns)
        self._believed = 0
        if cost != self.latency_ns:
            computed = self.placement, cost
            self.placement, self.latency_ns = min(computed, self._computed, key=operator.itemgetter(1))
            self._report()
        self._computed = self.placement, self.latency_ns

    def prove(self, bound_ns: int, source: str, certificate: Callable[[], AnyCertificate] | None = None) -> None:
        """Take a proven lower bound, whose proof it is, and what writes down the proof, if it is better.

        Raises
        ------
        BoundError
            The bound is above the cost of a placement that we have, or another one of this source was: whoever claims
            it is wrong, and all bounds of this source are dropped.
        """
        with self._lock:
            if bound_ns >= self.latency_ns:
                self._recount()
            if self.placement is None:
                bound_ns = min(bound_ns, self.latency_ns)
            if bound_ns > self.latency_ns:
                why = f"a bound of {bound_ns} is claimed, but there is a placement of cost {self.latency_ns}"
                self._drop(source, why)
                raise BoundError(f"{source}: {why}")
            if source in self._distrusted:
                raise BoundError(f"{source}: claims bounds after one of them was wrong")
            known = self._bounds.get(source)
            if known is None or bound_ns > known[0]:
                self._bounds[source] = max(bound_ns, 0), certificate
            if self.bound_ns is None or bound_ns > self.bound_ns:
                self.bound_ns, self.bound_source = max(bound_ns, 0), source
                self._report()

    def prove_none(self, source: str) -> None:
        """Take a proof, and whose it is, that no placement fits.

        Raises
        ------
        BoundError
            There is one: whoever says so is wrong, and all bounds of this source are dropped.
        """
        with self._lock:
            if self.placement is not None:
                why = f"says there is none, but there is a placement of cost {self.latency_ns}"
                self._drop(source, why)
                raise BoundError(f"{source}: {why}")
            ceiling = self.latency_ns
        self.prove(ceiling, source)  # refused where one has been found since: it costs less than the ceiling

    def distrust(self, source: str, why: str) -> None:
        """Drop all bounds of a source that has said something wrong, and take none from it any more."""
        with self._lock:
            self._drop(source, why)

    def _drop(self, source: str, why: str) -> None:
        self._distrusted.add(source)
        self._bounds.pop(source, None)
        self._note(f"{source}: {why}; no bound of it is taken")
        left = max(self._bounds, key=lambda name: self._bounds[name][0], default=None)
        self.bound_source, self.bound_ns = left, None if left is None else self._bounds[left][0]

    def _note(self, sentence: str) -> None:
        if sentence not in self.failures:
            self.failures.append(sentence)

    def attempt(self, name: str, work: Callable[[], None]) -> None:
        """Do a work that may fail: what it found and proved before stays, and :attr:`failures` says what happened.

        What is not the work's failure goes on to the caller: an error of whoever listens to the progress, a refusal
        of the input, an interruption.
        """
        try:
            work()
        except BoundError:
            pass  # noted where the bound was dropped
        except Exception as error:
            theirs = isinstance(error, MoeplaceError) and not isinstance(error, MethodError)
            if theirs or error is self._listener_error:
                raise
            kind = "" if isinstance(error, MoeplaceError) else f"{type(error).__name__}: "
            with self._lock:
                self._note(f"{name} failed: {kind}{error}")

    @property
    def ended(self) -> Termination | None:
        """Why the search should end now, or None while it should go on. Neither waits nor counts."""
        if self._failed:
            return "interrupted"
        bound, cost = self.bound_ns, self.latency_ns
        if bound is not None and bound == cost:
            return "optimal"
        if self.stop.interrupted:
            return "interrupted"
        if self.stop.timed_out:
            return "time_limit"
        # A bound above the cost was read just before a better placement refuted it.
        known = self.placement is not None and bound is not None and bound <= cost
        reached = relative_gap(cost, bound) if known else None
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
            Whatever a work raised; see :meth:`attempt`.
        """
        self._turns = Turns(turns, self._has_ended) if turns else None
        try:
            run_workers(works, self._has_ended, self._fail, self._turns)
        finally:
            self._turns = None

    def outcome(self) -> Outcome:
        """Return the search's state as what a method returns.

        Raises
        ------
        NoSolutionError
            It is proven that there is no placement.
        MethodError
            None was found.
        """
        with self._lock:
            self._progress = None  # nobody listens any more to a worker that was abandoned
            self._recount()
            if self.placement is None:
                if self.bound_ns == self.latency_ns:
                    raise NoSolutionError(f"{self.none} (proven by {self.bound_source})")
                ending = "; ".join(self.failures) or (self.ended or "completed").replace("_", " ")
                raise MethodError(f"no solution was found, and none was proven not to exist: {ending}")
            unbounded = self.ending == "gap_limit" and self.bound_ns is None
            ended = self.ended or ("completed" if self.failures or unbounded else self.ending)
            _, certificate = self._bounds[self.bound_source] if self.bound_source is not None else (None, None)
            details: dict[str, int | float | str] = {SOLVER_FAILURE: "; ".join(self.failures)} if self.failures else {}
            return Outcome(
                self.placement, self.bound_ns, self.bound_source, ended, details=details, certificate=certificate
            )

    def _has_ended(self) -> bool:
        return self.ended is not None

    def _fail(self) -> None:
        self._failed = True

    def _report(self) -> None:
        if self._progress is not None:
            try:
                self._progress(
                    Progress(self.stop.elapsed, None if self.placement is None else self.latency_ns, self.bound_ns)
                )
            except BaseException as error:
                self._listener_error = error
                raise

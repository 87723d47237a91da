"""The state of a running search: the best placement, the best bound, and whether it is time to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from moeplace.certificates import Certificate
from moeplace.documents import Termination
from moeplace.errors import BoundError, MethodError, MoeplaceError
from moeplace.evaluation import latency_ns
from moeplace.instance import Instance
from moeplace.interrupt import Stop
from moeplace.placement import Placement
from moeplace.result import SOLVER_FAILURE, Outcome, Progress, ProgressCallback, gap

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
    failures : list of str
        What failed on the way, a sentence each; the outcome says them.
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
        self.failures: list[str] = []
        # The best bound of everybody who proved one: where one turns out to be wrong, the others' hold.
        self._bounds: dict[str, tuple[int, Callable[[], Certificate] | None]] = {}
        self._distrusted: set[str] = set()
        self._listener_error: BaseException | None = None
        self._gap, self._progress, self._lock = gap, progress, threading.Lock()
        self._turns: _Turns | None = None
        self._failed = False
        self._report()

    def offer(self, placement: Placement) -> bool:
        """Take a placement that fits as the incumbent if it is strictly better; say whether it was taken.

        Where it costs less than a bound that was claimed, that bound is wrong: it is dropped with all others of its
        source, and :attr:`failures` says so.
        """
        cost = latency_ns(self.instance, placement)
        with self._lock:
            if cost >= self.latency_ns or placement.overfull(self.instance):
                return False
            self.placement, self.latency_ns = placement, cost
            for source, (bound, _) in list(self._bounds.items()):
                if cost < bound:
                    self._drop(source, f"claimed a bound of {bound}, but there is a placement of cost {cost}")
            self._report()
            return True

    def prove(self, bound_ns: int, source: str, certificate: Callable[[], Certificate] | None = None) -> None:
        """Take a proven lower bound, whose proof it is, and what writes down the proof, if it is better.

        Raises
        ------
        BoundError
            The bound is above the cost of a placement that we have, or another one of this source was: whoever claims
            it is wrong, and all bounds of this source are dropped.
        """
        with self._lock:
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
        """Why the search should end now, or None while it should go on. Waits where works take turns."""
        turns = self._turns
        if turns is not None and self._ending is None:
            turns.next(self)
        return self._ending

    @property
    def _ending(self) -> Termination | None:
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

    def run(self, *works: Callable[[], None], turns: Sequence[int] | None = None) -> None:
        """Do some works that feed this search, each in a thread of its own, for as long as the search goes on.

        A solver may look neither at its time limit nor at an interruption for a minute (HiGHS in its root LP),
        and building a large model looks at nothing. So when the search has ended, the works are given
        ``GRACE_S`` to end by themselves and are then left behind: they end when they next look at :attr:`ended`, and
        what they still find comes to nothing.

        Parameters
        ----------
        *works : callable
            They end by themselves or soon after :attr:`ended` says why.
        turns : sequence of int, optional
            Do the works in turns, one at a time: each goes on until it has looked so often at :attr:`ended`. What
            comes of it does then not depend on the clock. Without turns the works go on at the same time.

        Raises
        ------
        BaseException
            Whatever a work raised; see :meth:`attempt`.
        """
        failure: list[BaseException] = []
        order = _Turns(turns) if turns else None

        def guarded(i: int, work: Callable[[], None]) -> None:
            try:
                if order is not None:
                    order.enter(i, self)
                work()
            except BaseException as error:
                failure.append(error)
            finally:
                if order is not None:
                    order.leave(i)

        threads = [threading.Thread(target=guarded, args=(i, work), name=LEFT_BEHIND) for i, work in enumerate(works)]
        self._turns = order
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and not self._ending and not failure:
                thread.join(_POLL_S)
        if failure:
            self._failed = True  # the others end, too
        deadline = time.monotonic() + GRACE_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._turns = None
        if failure:
            raise failure[0]

    def outcome(self) -> Outcome:
        """Return the search's state as what a method returns."""
        with self._lock:
            self._progress = None  # nobody listens any more to a solver that was left behind
            # A solver that ends by itself without an exact proof has come as near as its arithmetic allows.
            ending = self._ending or ("completed" if self.failures else "gap_limit")
            _, write = self._bounds[self.bound_source] if self.bound_source is not None else (None, None)
            certificate = write() if write is not None else None
            details: dict[str, int | float | str] = {SOLVER_FAILURE: "; ".join(self.failures)} if self.failures else {}
            return Outcome(
                self.placement, self.bound_ns, self.bound_source, ending, details=details, certificate=certificate
            )

    def _report(self) -> None:
        if self._progress is not None:
            try:
                self._progress(Progress(self.stop.elapsed, self.latency_ns, self.bound_ns))
            except BaseException as error:
                self._listener_error = error
                raise


class _Turns:
    """Lets one of some threads go on at a time, for a number of looks each."""

    def __init__(self, looks: Sequence[int]) -> None:
        self._looks = list(looks)
        self._left = list(looks)
        self._present = [True] * len(looks)
        self._at = 0
        self._number: dict[int, int] = {}
        self._changed = threading.Condition()

    def enter(self, i: int, search: Search) -> None:
        """Begin thread ``i``; wait for its first turn."""
        self._number[threading.get_ident()] = i
        self._wait(i, search)

    def next(self, search: Search) -> None:
        """Count a look of the calling thread, and wait for its next turn when this one is over."""
        i = self._number.get(threading.get_ident())
        if i is None:
            return
        self._left[i] -= 1
        if self._left[i] <= 0:
            self._left[i] = self._looks[i]
            self._pass_on(i)
            self._wait(i, search)

    def leave(self, i: int) -> None:
        """End thread ``i``; the others no longer wait for it."""
        self._number.pop(threading.get_ident(), None)
        self._present[i] = False
        self._pass_on(i)

    def _pass_on(self, i: int) -> None:
        with self._changed:
            if self._at == i:
                n = len(self._looks)
                later = [(i + k) % n for k in range(1, n + 1)]
                self._at = next((j for j in later if self._present[j]), -1)
                self._changed.notify_all()

    def _wait(self, i: int, search: Search) -> None:
        with self._changed:
            while self._at != i and search._ending is None:
                self._changed.wait(_POLL_S)

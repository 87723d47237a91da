"""Works that run in threads: at the same time or in turns, given a while to end, and abandoned after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

GRACE_S = 1.0
WORKER_NAME = "moeplace solver"
_POLL_S = 0.02


def abandoned_workers() -> bool:
    """Return whether a worker still runs that :func:`run_workers` has abandoned."""
    return any(thread.name == WORKER_NAME for thread in threading.enumerate())


class Turns:
    """Lets one of some workers go on at a time, each for a number of checkpoints.

    Parameters
    ----------
    checkpoints : sequence of int
        How many checkpoints each worker's turn lasts.
    ended : callable
        Whether nobody needs to wait for a turn any more.
    """

    def __init__(self, checkpoints: Sequence[int], ended: Callable[[], bool]) -> None:
        self._checkpoints = list(checkpoints)
        self._left = list(checkpoints)
        self._present = [True] * len(checkpoints)
        self._at = 0
        self._number: dict[int, int] = {}
        self._changed = threading.Condition()
        self._ended = ended

    def enter(self, i: int) -> None:
        """Begin worker ``i`` in the calling thread; wait for its first turn."""
        self._number[threading.get_ident()] = i
        self._wait(i)

    def checkpoint(self) -> None:
        """Count a checkpoint of the calling thread, and wait for its next turn when this one is over."""
        i = self._number.get(threading.get_ident())
        if i is None:
            return
        self._left[i] -= 1
        if self._left[i] <= 0:
            self._left[i] = self._checkpoints[i]
            self._pass_on(i)
            self._wait(i)

    def leave(self, i: int) -> None:
        """End worker ``i``; the others no longer wait for it."""
        self._number.pop(threading.get_ident(), None)
        self._present[i] = False
        self._pass_on(i)

    def _pass_on(self, i: int) -> None:
        with self._changed:
            if self._at == i:
                n = len(self._checkpoints)
                later = [(i + k) % n for k in range(1, n + 1)]
                self._at = next((j for j in later if self._present[j]), -1)
                self._changed.notify_all()

    def _wait(self, i: int) -> None:
        with self._changed:
            while self._at != i and not self._ended():
                self._changed.wait(_POLL_S)


def run_workers(
    works: Sequence[Callable[[], None]],
    ended: Callable[[], bool],
    fail: Callable[[], None],
    turns: Turns | None = None,
) -> None:
    """Do some works, each in a thread of its own, until all have ended by themselves or somebody says that it is time.

    When it is time, the works are given ``GRACE_S`` to end by themselves and are then abandoned.

    Parameters
    ----------
    works : sequence of callable
        They end by themselves or soon after ``ended``.
    ended : callable
        Whether it is time to end.
    fail : callable
        Called when a work has failed; ``ended`` is then true for the others.
    turns : Turns, optional
        The works go on one at a time; without, at the same time.

    Raises
    ------
    BaseException
        Whatever a work raised.
    """
    failure: list[BaseException] = []

    def guarded(i: int, work: Callable[[], None]) -> None:
        try:
            if turns is not None:
                turns.enter(i)
            work()
        except BaseException as error:
            failure.append(error)
        finally:
            if turns is not None:
                turns.leave(i)

    threads = [threading.Thread(target=guarded, args=(i, work), name=WORKER_NAME) for i, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive() and not ended() and not failure:
            thread.join(_POLL_S)
    if failure:
        fail()
    deadline = time.monotonic() + GRACE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if failure:
        raise failure[0]


class Resumed:
    """A work that goes on only while somebody waits for it.

    It runs in a thread of its own, from one of its checkpoints to the next: what comes of several such works does not
    depend on the clock.

    Parameters
    ----------
    work : callable
        Given ``stop``, which it calls now and then: there it rests until it is resumed. It ends by itself, or soon
        after ``stop`` returned True. Where other threads of its own call ``stop``, these do not rest.
    ended : callable
        Whether it is time to end.

    Attributes
    ----------
    done : bool
        Whether the work has ended.
    """

    def __init__(self, work: Callable[[Callable[[], bool]], None], ended: Callable[[], bool]) -> None:
        self.done = False
        self._work, self._ended = work, ended
        self._failure: BaseException | None = None
        self._given_up = False
        self._turn, self._rest = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    def resume(self, checkpoints: int = 1) -> None:
        """Let the work go on over so many checkpoints, or to its end; raise what it raises."""
        for _ in range(checkpoints):
            if self.done:
                break
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=WORKER_NAME)
                self._thread.start()
            else:
                self._turn.release()
            self._rest.acquire()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def give_up(self) -> None:
        """Let the work end: from now on ``stop`` returns True and does not rest."""
        self._given_up = True
        if self._thread is not None and not self.done:
            self._turn.release()
            self._thread.join()

    def _stop(self) -> bool:
        if not self._given_up and threading.current_thread() is self._thread:
            self._rest.release()
            self._turn.acquire()
        return self._given_up or self._ended()

    def _run(self) -> None:
        try:
            self._work(self._stop)
        except BaseException as error:
            self._failure = error
        finally:
            self.done = True
            self._rest.release()


A = TypeVar("A")


B = TypeVar("B")


def each(function: Callable[[A], B], values: Iterable[A], threads: int = 1) -> list[B]:
    """Return ``[function(v) for v in values]``, on several threads (the compiled loops let them run)."""
    if threads == 1:
        return [function(value) for value in values]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, values))

"""HiGHS has one scheduler of threads in a process: one run at a time may use it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import highspy


@contextmanager
def scheduler_lock(ended: Callable[[], bool]) -> Iterator[bool]:
    """Wait until nobody else in this process runs HiGHS, which has one scheduler; say whether that came in time.

    Parameters
    ----------
    ended : callable
        Whether to give up waiting.
    """
    while not _ONE_AT_A_TIME.acquire(timeout=0.05):
        if ended():
            yield False
            return
    try:
        # Another number of threads than in this process's last run would make run() fail.
        highspy.Highs().resetGlobalScheduler(True)
        yield not ended()
    finally:
        _ONE_AT_A_TIME.release()


_ONE_AT_A_TIME = threading.Lock()

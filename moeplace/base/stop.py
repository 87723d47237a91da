"""Ctrl-C as a request to stop with the best placement so far, not as a loss of it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from moeplace.base.documents import Termination


class Stop:
    """Whether a method should end now: its time is over, or somebody asked it to stop.

    Parameters
    ----------
    time_limit : float or None
        Wall seconds from now; None is no limit.
    """

    def __init__(self, time_limit: float | None = None) -> None:
        self._started = time.monotonic()
        self._deadline = None if time_limit is None else self._started + time_limit
        self.interrupted = False

    @property
    def elapsed(self) -> float:
        """Wall seconds since the start."""
        return time.monotonic() - self._started

    @property
    def remaining(self) -> float | None:
        """Wall seconds left (0 when over), None without a limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    @property
    def timed_out(self) -> bool:
        """Whether the time limit has passed."""
        return self.remaining == 0.0

    @property
    def termination(self) -> Termination:
        """How a heuristic that looked at this in time has ended."""
        return "interrupted" if self.interrupted else "time_limit" if self.timed_out else "completed"

    def __bool__(self) -> bool:
        return self.interrupted or self.timed_out


@contextmanager
def stopping(time_limit: float | None = None) -> Iterator[Stop]:
    """Yield a :class:`Stop` that the first SIGINT (Ctrl-C) sets; a second one interrupts the hard way.

    Outside the main thread, where Python delivers no signals, only the time limit counts. Nested uses
    all see a request, also one that came before they began: a method that calls another one stops as well.
    """
    stop = Stop(time_limit)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.getsignal(signal.SIGINT)

    def request(number: int, frame: FrameType | None) -> None:
        if stop.interrupted:
            raise KeyboardInterrupt
        stop.interrupted = True
        if outer is not None and not outer.interrupted:
            previous(number, frame)  # type: ignore[operator,misc]

    # Whoever is asked to stop passes it on, also to a use that begins afterwards.
    request.moeplace_stop = stop  # type: ignore[attr-defined]
    outer = getattr(previous, "moeplace_stop", None)
    stop.interrupted = outer is not None and outer.interrupted
    signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)

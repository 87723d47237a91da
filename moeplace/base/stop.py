"""Ctrl-C as a request to stop with the best placement so far, not as a loss of it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # this module is loaded before anything else: a signal may come while the rest is
    from moeplace.base.documents import Termination

INTERRUPTED = 130
"""Exit code of a command that was asked to end."""


class _Request:
    """Whether somebody asked this process to end while no search was there to heed it."""

    def __init__(self) -> None:
        self.made = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.made = True
        raise KeyboardInterrupt

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Ask again where the next module is looked for: libraries swallow what is raised while they load."""
        if self.made:
            raise KeyboardInterrupt


def heed_from_the_start() -> Callable[[], bool]:
    """Take SIGINT and SIGTERM as a request to end from now on; return what says whether there was one.

    What is raised while a library loads may come out as an ImportError or a SystemError, or not at all. So the request
    is remembered: whoever asks what has become of the command finds it (:func:`asked`).
    """
    request = _Request()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a job in the background is left alone
        signal.signal(signal.SIGINT, request)

    def terminate(number: int, frame: FrameType | None) -> None:
        # Whoever ends the process politely (a scheduler, a time-out) gets what Ctrl-C gets: the best so far.
        current = signal.getsignal(signal.SIGINT)
        (current if callable(current) else request)(signal.SIGINT, frame)

    terminate.moeplace_request = request  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, terminate)
    sys.meta_path.insert(0, request)
    return lambda: request.made


def asked() -> bool:
    """Return whether somebody asked to end while no search was there to heed it."""
    request = getattr(signal.getsignal(signal.SIGTERM), "moeplace_request", None)
    return request is not None and request.made


def answered() -> None:
    """Let modules be loaded again after a request: what is left to do is to say so."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Request)]


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
    stop.interrupted = asked() or (outer is not None and outer.interrupted)
    signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)

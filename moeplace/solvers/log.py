"""What HiGHS and CP-SAT say while they run: nothing, unless somebody in this process listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[str], None]] = []


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Hand what solvers say to a listener, until the block ends.

    Parameters
    ----------
    listener : callable
        Is given text with its line ends, one or more lines at a time, by whatever thread the solver runs in. What it
        raises ends that run as a failure of the solver would: with the placement so far. A second listener
        inside the block takes the place of the first.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def current() -> Callable[[str], None] | None:
    """Return who listens, None where nobody does."""
    return _listeners[-1] if _listeners else None

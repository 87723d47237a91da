"""The errors moeplace raises on purpose, each of them one line that a person can act on.

Everything the library refuses is a :class:`MoeplaceError`; the command line turns it into one line on
stderr and the exit code it carries.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class MoeplaceError(Exception):
    """Base class: something was refused or went wrong in a way that has a plain explanation.

    Attributes
    ----------
    exit_code : int
        What the command line exits with (1: a run failed, 2: bad input or bad usage).
    """

    exit_code = 1


class InputError(MoeplaceError):
    """A document, file or argument does not say what it must.

    Parameters
    ----------
    message : str
        What was found and what was expected.
    place : str, optional
        Where inside the document, for example ``demands[3].server_ns``.
    file : str, optional
        The file that was read.
    """

    exit_code = 2

    def __init__(self, message: str, *, place: str = "", file: str = "") -> None:
        self.message, self.place, self.file = message, place, file
        super().__init__(": ".join(part for part in (file, place, message) if part))

    def in_file(self, file: str) -> InputError:
        """Return the same error with the file's name in front."""
        return InputError(self.message, place=self.place, file=file)


@contextmanager
def naming(file: str | os.PathLike[str]) -> Iterator[None]:
    """Put a file's name in front of errors in what was read from it, unless they name a file."""
    try:
        yield
    except InputError as error:
        if error.file:
            raise
        raise error.in_file(os.fspath(file)) from None


class MethodError(MoeplaceError):
    """A method failed or returned something that is not a feasible placement."""


class InfeasibleError(MethodError):
    """A method returned a placement that does not fit the instance."""


class BoundError(MethodError):
    """A method claims a bound above the cost of a placement, or a proof that its bound does not give."""


class MethodLimitError(MoeplaceError):
    """A method does not take this instance (too large, a feature it has not); nothing was computed.

    Parameters
    ----------
    method, reason : str
        Who refuses, and why.
    """

    exit_code = 2

    def __init__(self, method: str, reason: str) -> None:
        self.method, self.reason = method, reason
        super().__init__(f"method {method} does not take this instance: {reason}")


class NoSolutionError(MoeplaceError):
    """A method has proven that the instance has no solution: its termination is ``infeasible``.

    Parameters
    ----------
    reason : str
        Why, such as which limit fails by how much.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"infeasible: the instance has no solution: {reason}")


class ContradictionError(MoeplaceError):
    """A checked cost is below a bound that was called proven, so one of the two is wrong; both are named."""


class OutputError(MoeplaceError):
    """A result could not be written (a full disk, a folder that went away); nothing half-written is left."""

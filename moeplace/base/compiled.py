"""Compiling inner loops."""

from __future__ import annotations

from numba import njit


def compiled(function):
    """Compile a function, kept on disk where there is a place to write; it releases the interpreter's lock."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(nogil=True)(function)

"""Compiling inner loops."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from numba import njit


def _load_numba() -> None:
    """Let numba load what it compiles with, but for scipy's linear algebra.

    It looks whether that is there, by loading it, for functions that our loops do not use; that takes a fifth of the
    time in which a small instance is solved. It is there, and is loaded where somebody's compiled loops come to use it.
    """
    if "numba.np.arraymath" in sys.modules:
        return
    from numba.np import linalg

    looks = getattr(linalg, "ensure_blas", None)
    if looks is None:
        return
    linalg.ensure_blas = lambda: None
    try:
        from numba.np import arraymath
    finally:
        linalg.ensure_blas = looks
    arraymath.ensure_blas = looks


_load_numba()


def compiled(function):
    """Compile a function, kept on disk where there is a place to write; it releases the interpreter's lock."""
    return _compiled(function)


def vectorised(function):
    """Compile a function as :func:`compiled` does, whose quotients are never by 0: they are not looked at for that."""
    return _compiled(function, error_model="numpy")


def _compiled(function, **options):
    try:
        return njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(nogil=True, **options)(function)


def uncompiled(modules: Iterable[str]) -> list[str]:
    """Return which imported modules have compiled loops of which none is ready: neither here nor, as new, on disk.

    Parameters
    ----------
    modules : iterable of str

    Returns
    -------
    list of str
        In this order, each once.
    """
    found = []
    for name in dict.fromkeys(modules):
        module = sys.modules.get(name)
        if module is None or module in _ready:
            continue
        loops = [value for value in vars(module).values() if _own(value, name)]
        if loops and not any(loop.signatures or _kept(loop) for loop in loops):
            found.append(name)
        else:
            _ready.add(module)
    return found


_ready: set[ModuleType] = set()
"""Imported modules that need no compiling: they were looked through once, which takes as long as a tiny instance."""


def _own(value, name):
    """Return whether something is a compiled loop that is a module's own."""
    return hasattr(value, "signatures") and hasattr(value, "py_func") and value.py_func.__module__ == name


def _kept(loop):
    """Return whether a loop is on disk, newer than its source; False where numba keeps such files in another way."""
    index = getattr(getattr(loop._cache, "_cache_file", None), "_index_path", None)
    try:
        return Path(index).stat().st_mtime >= Path(loop.py_func.__code__.co_filename).stat().st_mtime
    except (OSError, TypeError):
        return False

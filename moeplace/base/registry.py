"""Finding methods and formulations: ours and anybody's, by the same two entry point groups.

A method is a function ``(instance, *, time_limit, seed, threads, start, progress, **parameters)`` that returns
a decision (caching: a ``Placement``) or an :class:`~moeplace.base.result.Outcome`. It is found by its name in the entry
point group ``moeplace.methods``, or as ``module:function``. A formulation is found in ``moeplace.models``. (These are
caching's groups; other problems have their own.)
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_type_hints

from moeplace.base.documents import parse
from moeplace.base.errors import InputError, MethodError
from moeplace.base.text import did_you_mean

Method: TypeAlias = Callable[..., Any]
M = TypeVar("M", bound=Callable[..., Any])

METHODS = "moeplace.methods"
"""The entry point group of caching's methods; each problem has its own."""

MODELS = "moeplace.models"
"""The entry point group of caching's formulations; each problem has its own."""

ORDER = [
    "auto", "layer-enumeration", "column-generation", "milp", "cpsat", "milp-textbook", "flow", "alternating",
    "local-search", "max-convolution", "successive-greedy", "greedy", "two-stage", "redundant", "balanced", "uniform",
    "popular", "random", "no-cache",
]  # fmt: skip
"""The order in which caching's methods are listed; others follow by name."""

COMMON = ("time_limit", "seed", "threads", "start", "progress")


@dataclass(frozen=True)
class MethodInfo:
    """What ``moeplace methods`` says of a method.

    Attributes
    ----------
    summary : str
        One sentence: what it does.
    exact : bool
        Whether it proves optimality when it is given the time.
    guarantee : str
        What is guaranteed and when; "none" where nothing is.
    limits : str
        What it does not accept or is not made for.
    refuses : callable, optional
        Given an instance, says why the method does not take it, or None.
    imports : tuple of str
        Modules that it imports when it runs; :func:`~moeplace.solving.solve` loads them before its clock starts.
    seeded : callable
        Given its parameters, says whether its result depends on the seed; where it does not, a benchmark runs it once.
    takes : tuple of str
        What of its problem's instances it takes that a method need not: :attr:`moeplace.base.problem.Problem.adapt`.
    """

    summary: str
    exact: bool = False
    guarantee: str = "none"
    limits: str = "none"
    refuses: Callable[[Any], str | None] = lambda instance: None
    imports: tuple[str, ...] = ()
    seeded: Callable[[Mapping[str, Any]], bool] = lambda parameters: True
    takes: tuple[str, ...] = ()


def describe(info: MethodInfo) -> Callable[[M], M]:
    """Attach a :class:`MethodInfo` to a method."""

    def attach(method: M) -> M:
        method.moeplace_info = info  # type: ignore[attr-defined]
        return method

    return attach


def installed(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group.

    The files of every installed package are read once for each state of ``sys.path``: that takes as long as a small
    instance takes to solve. Its relative entries mean other folders elsewhere.
    """
    path = tuple(sys.path)
    return _installed(group, path, None if all(map(os.path.isabs, path)) else Path.cwd())


@functools.lru_cache(maxsize=64)
def _installed(group: str, path: tuple[str, ...], current: Path | None) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def method_names(group: str = METHODS, order: Sequence[str] = ORDER) -> list[str]:
    """Return the names of all installed methods of a problem, by its entry point group; those in ``order`` first."""
    names = {entry.name for entry in installed(group)}
    return [name for name in order if name in names] + sorted(names - set(order))


def find_method(name: str, group: str = METHODS, order: Sequence[str] = ORDER) -> Method:
    """Return a method by entry point name in a problem's group, or as ``module:function``.

    Raises
    ------
    InputError
        There is no such method.
    """
    if ":" in name:
        if not all(part.isidentifier() for part in name.replace(":", ".").split(".")) or name.count(":") != 1:
            raise InputError(f"{name!r} is not of the form module:function")
        return _load(EntryPoint(name=name, value=name, group=group))
    for entry in installed(group):
        if entry.name == name:
            return _load(entry)
    known = method_names(group, order)
    said = f"no method {name!r}; there are {', '.join(known)}, or module:function"
    raise InputError(said + did_you_mean(name, known))


def find_formulation(name: str, group: str = MODELS) -> Callable[..., Any]:
    """Return the function that builds an algebraic model, by its name in a problem's entry point group.

    Raises
    ------
    InputError
        There is no such formulation.
    """
    for entry in installed(group):
        if entry.name == name:
            return _load(entry)
    known = ", ".join(sorted(entry.name for entry in installed(group)))
    raise InputError(f"no model {name!r}; there are {known}")


def _load(entry: EntryPoint) -> Callable[..., Any]:
    try:
        loaded = entry.load()
    except Exception as error:  # importing a module runs it, and it may raise anything
        raise InputError(f"{entry.name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(loaded):
        raise InputError(f"{entry.name!r} is not a function")
    result: Callable[..., Any] = loaded
    return result


def method_info(method: Method) -> MethodInfo:
    """Return what a method says of itself; for one that says nothing, the first line of its docstring."""
    info = getattr(method, "moeplace_info", None)
    if isinstance(info, MethodInfo):
        return info
    return MethodInfo(summary=(inspect.getdoc(method) or "no description").splitlines()[0])


def own_parameters(method: Method) -> dict[str, Any] | None:
    """Return the parameters that are a method's own, with their defaults; None where it takes any.

    Raises
    ------
    MethodError
        The method does not take what every method must take.
    """
    try:
        accepted = inspect.signature(method).parameters
    except (TypeError, ValueError):
        raise MethodError("it does not say which parameters it takes") from None
    if any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        return None
    if missing := [key for key in COMMON if key not in accepted]:
        raise MethodError(f"it does not take {', '.join(missing)}, as every method must")
    own = (p for p in accepted.values() if p.kind is p.KEYWORD_ONLY and p.name not in COMMON)
    return {p.name: None if p.default is p.empty else p.default for p in own}


def parameter_help(method: Method) -> dict[str, str]:
    """Return what a method's docstring (numpydoc) says of its parameters, by name."""
    doc = inspect.getdoc(method) or ""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", doc, flags=re.DOTALL | re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^(\w+) :[^\n]*\n((?:[ ]{4}[^\n]*\n?|\n)+)", section[1], flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def check_parameters(name: str, method: Method, parameters: dict[str, Any]) -> None:
    """Refuse parameters that a method does not have, naming those it has.

    Raises
    ------
    InputError
        An unknown parameter, or a value of another type than the method's annotation.
    MethodError
        The method does not take what every method must take.
    """
    try:
        own = own_parameters(method)
    except MethodError as error:
        raise MethodError(f"{name} is no method: {error}") from None
    if own is None or not parameters:  # reading annotations takes as long as a baseline on a tiny instance
        return
    try:
        types = get_type_hints(method)
    except Exception:  # somebody else's annotations may not resolve
        types = {}
    for key, value in parameters.items():
        if key not in own:
            raise InputError(f"method {name} has no parameter {key!r}; it has {', '.join(own) or 'none'}")
        try:
            parse(value, types.get(key, Any))
        except InputError as error:
            raise InputError(f"parameter {key} of {name}: {error}") from None
        except TypeError:  # a type that documents know nothing of: the method's own business
            continue

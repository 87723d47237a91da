"""Running one method on one instance: whatever comes back is evaluated and checked here, for every method."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from math import isfinite
from operator import index
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

from moeplace.base.certificates import AnyCertificate, Certificate, Trusted
from moeplace.base.documents import Status, Termination
from moeplace.base.errors import InfeasibleError, InputError, MethodError, MethodLimitError, MoeplaceError
from moeplace.base.problem import Problem
from moeplace.base.registry import Method, check_parameters, find_method, method_info
from moeplace.base.result import NOTHING_FITS, REFUSED_CLAIM, Finished, Outcome, Progress, ProgressCallback
from moeplace.problems import check_same_problem, problem_of

DEFAULT_TIME_LIMIT = 60.0
"""Seconds that ``auto`` takes where no limit is given."""


COMPILING = "compiling the inner loops, once after an installation: up to half a minute"
"""What is said before that."""

_PACKAGES = ("moeplace", "numpy", "scipy", "pyomo", "highspy", "ortools", "numba")
"""Whose versions a solution records, where they were loaded."""

_version = functools.cache(version)
"""The version of a package, whose files are read once: that takes as long as a small instance takes to solve."""


def solve(
    instance: Any,
    method: str = "auto",
    *,
    time_limit: float | None = None,
    gap: float = 0.0,
    seed: int = 0,
    threads: int = 1,
    start: Any = None,
    progress: ProgressCallback | None = None,
    **parameters: Any,
) -> Any:
    """Run a method and return its placement with everything that is known and proven about it.

    Parameters
    ----------
    instance : Instance
        Of any problem.
    method : str
        Name of a method (``moeplace methods``), or ``module:function``.
    time_limit : float, optional
        Wall seconds; None is no limit, but for ``auto`` (60 s).
    gap : float
        Stop when the gap on latency is proven to be at most this fraction (exact methods).
    seed, threads : int
    start : Solution or decision (caching: Placement), optional
        What to begin with. Searches and exact methods are never worse than it; baselines ignore it.
    progress : callable, optional
        Called with a :class:`~moeplace.base.result.Progress` now and then.
    **parameters
        The method's own parameters.

    Returns
    -------
    Solution
        Its cost, gap and status are computed here from the placement, not taken from the method.

    Raises
    ------
    InputError
        Unknown method or parameter, a value out of range, a start that does not fit.
    MethodError
        The method failed, or returned a placement that does not fit. (A bound above its own cost is not taken, and
        the solution's ``details`` say so under ``refused_claim``.)
    MethodLimitError
        The instance is larger than the method accepts.
    """
    return _run(
        instance,
        method,
        time_limit=time_limit,
        gap=gap,
        seed=seed,
        threads=threads,
        start=start,
        progress=progress,
        parameters=parameters,
    )[0]


def certified(
    instance: Any,
    method: str = "auto",
    *,
    time_limit: float | None = None,
    gap: float = 0.0,
    seed: int = 0,
    threads: int = 1,
    start: Any = None,
    progress: ProgressCallback | None = None,
    **parameters: Any,
) -> tuple[Any, AnyCertificate | None]:
    """Do what :func:`solve` does and return what proves the bound, too.

    Returns
    -------
    Solution
    Certificate or None
        Of exactly the solution's bound: a cut, where the method gave one, otherwise the name of who proved the bound.
        None without a bound.

    Raises
    ------
    InputError, MethodError, MethodLimitError
        As :func:`solve`.
    """
    solution, given = _run(
        instance,
        method,
        time_limit=time_limit,
        gap=gap,
        seed=seed,
        threads=threads,
        start=start,
        progress=progress,
        parameters=parameters,
    )
    if given is not None and not isinstance(given, Certificate):
        try:
            given = given()
        except MoeplaceError:
            raise
        except Exception as error:
            raise MethodError(f"method {method} failed to certify: {type(error).__name__}: {error}") from error
        _check_certificate(instance, method, solution, given)
    bound = solution.bound
    if given is not None or bound is None:
        return solution, given
    return solution, Certificate.make(instance, bound, Trusted(solution.bound_source or method))


def _run(
    instance: Any,
    method: str,
    *,
    time_limit: float | None,
    gap: float,
    seed: int,
    threads: int,
    start: Any,
    progress: ProgressCallback | None,
    parameters: dict[str, Any],
) -> tuple[Any, AnyCertificate | Callable[[], AnyCertificate] | None]:
    """Run a method; return its solution and its certificate, which may still have to be packed."""
    check_limits(time_limit=time_limit, gap=gap, seed=seed, threads=threads)
    own = parameters | ({"gap": gap} if gap else {})
    problem = problem_of(instance)
    function = find_method(method, problem.methods, problem.method_order)
    check_parameters(method, function, own)
    function = problem.adapt(function, instance)
    if start is not None and not isinstance(start, problem.decision_type):
        check_same_problem(problem, start)
        start = problem.decision(instance, start)
    if start is not None:
        problem.check_fits(instance, start)
    if time_limit is None and method == "auto":
        time_limit = DEFAULT_TIME_LIMIT
    info = method_info(function)
    try:
        prepare(problem, function)
        began = time.perf_counter()
        listener = _Listener(progress, began)
        if reason := info.refuses(instance):
            raise MethodLimitError(method, reason)
        result = function(
            instance, time_limit=time_limit, seed=seed, threads=threads, start=start, progress=listener, **own
        )
    except MoeplaceError:
        raise
    except Exception as error:  # somebody else's code may raise anything; the cause stays chained
        where = _place(function, error.__traceback__)
        raise MethodError(f"method {method} failed: {type(error).__name__}: {error}{where}") from error
    wall_s = time.perf_counter() - began
    outcome = Outcome(result) if isinstance(result, problem.decision_type) else result
    if not isinstance(outcome, Outcome):
        kind = problem.decision_type.__name__
        raise MethodError(f"method {method} returned {type(outcome).__name__}, not a {kind} or an Outcome")
    solution = _finish(instance, method, outcome, own, seed, threads, wall_s)
    given = None if REFUSED_CLAIM in solution.details else outcome.certificate
    if isinstance(given, Certificate):
        _check_certificate(instance, method, solution, given)
    return solution, given


def prepare(problem: Problem, function: Method, say: Callable[[str], None] | None = None) -> None:
    """Load what a method imports, and compile its inner loops where no run before has: neither is a method's time.

    Parameters
    ----------
    problem : Problem
    function : callable
        The method.
    say : callable, optional
        Told in a sentence before something is compiled.
    """
    imports = method_info(function).imports
    for module in imports:
        import_module(module)
    if problem.compile is None or (loops := sys.modules.get("moeplace.base.compiled")) is None:
        return
    if missing := loops.uncompiled(imports):
        problem.compile(missing, lambda: None if say is None else say(COMPILING))


class _Listener:
    """What a method is given to report to: there whether anybody listens or not, and taking a bare cost, too."""

    def __init__(self, progress: ProgressCallback | None, began: float) -> None:
        self._progress, self._began = progress, began

    def __call__(self, progress: Progress | int) -> None:
        told = self._read(progress)
        if self._progress is not None:
            self._progress(told)

    def _read(self, progress: Progress | int) -> Progress:
        if isinstance(progress, Progress):
            numbers = progress.elapsed_s, progress.share
            whole = progress.latency_ns, progress.bound_ns
        else:
            numbers, whole = (time.perf_counter() - self._began, None), (progress, None)
        try:
            latency, bound = (None if value is None or isinstance(value, bool) else index(value) for value in whole)
            elapsed, share = (None if value is None else float(value) for value in numbers)
        except (TypeError, ValueError):
            latency = elapsed = None
        if elapsed is None or (not isinstance(progress, Progress) and latency is None):
            found = f"{progress!r:.200}"
            raise TypeError(f"progress takes a Progress or a cost in token-ns, an integer; it was given {found}")
        return Progress(elapsed, latency, bound, share)


def _place(function: Method, trace: TracebackType | None) -> str:
    """Say file and line of the innermost call in a method's own code, or nothing where that is not known."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return ""
    own = Path(code.co_filename)
    libraries = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")}
    libraries.add(Path(__file__).parent)
    found = None
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        # What lies beside the method is its own, too; in the folder of all libraries everything lies beside.
        if file == own or (
            own.parent in file.parents and own.parent not in libraries and not libraries & {*file.parents}
        ):
            found = file, trace.tb_lineno
        trace = trace.tb_next
    if found is None:
        return ""
    file, line = found
    return f" ({os.path.relpath(file) if file.is_relative_to(Path.cwd()) else file}, line {line})"


def _check_certificate(instance: Any, method: str, solution: Any, given: Any) -> None:
    if not isinstance(given, Certificate):
        raise MethodError(f"method {method} gives {type(given).__name__} for a certificate")
    bound = solution.bound
    if given.bound_ns != bound or given.instance.sha256 != instance.sha256:
        raise MethodError(f"method {method} claims the bound {bound}, but its certificate says {given.bound_ns}")


def check_limits(*, time_limit: float | None, gap: float = 0.0, seed: int, threads: int) -> None:
    """Refuse what no method accepts; the command line asks before it reads an instance.

    Raises
    ------
    InputError
        A value out of range.
    """
    for name, value in (("seed", seed), ("threads", threads)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{name} must be an integer, found {value!r}")
    for name, number in (("the time limit", time_limit), ("the gap", gap)):
        if isinstance(number, bool) or not isinstance(number, int | float | None):
            raise InputError(f"{name} must be a number, found {number!r}")
    if time_limit is not None and not 0 <= time_limit < float("inf"):
        raise InputError(f"the time limit must be a number of seconds >= 0, found {time_limit}")
    if not 0 <= gap < 1:
        raise InputError(f"the gap must be a fraction from 0 to below 1, found {gap}")
    if threads < 1:
        raise InputError(f"threads must be at least 1, found {threads}")
    if not 0 <= seed < 2**31:
        raise InputError(f"the seed must be from 0 to {2**31 - 1}, found {seed}")


def _finish(
    instance: Any,
    method: str,
    outcome: Outcome,
    parameters: dict[str, Any],
    seed: int,
    threads: int,
    wall_s: float,
) -> Any:
    problem = problem_of(instance)
    if not isinstance(outcome.placement, problem.decision_type):
        kind = _kind(problem)
        raise MethodError(f"method {method} returned an Outcome whose {kind} is {type(outcome.placement).__name__}")
    if outcome.termination not in get_args(Termination):
        raise MethodError(f"method {method} says it ended with {outcome.termination!r}, which is no termination")
    try:
        problem.check_fits(instance, outcome.placement)
    except InputError as error:
        raise InfeasibleError(f"method {method} returned a {_kind(problem)} that does not fit: {error}") from None
    try:
        cost = index(problem.cost(instance, outcome.placement))
    except TypeError as error:
        raise MethodError(f"the cost of the {_kind(problem)} of method {method} is no integer: {error}") from error
    bound = outcome.bound_ns
    try:
        bound = None if bound is None else max(0, index(bound))
    except TypeError:
        raise MethodError(f"method {method} claims the bound {bound!r}, which is no integer") from None
    details = _plain_details(method, outcome.details)
    refused = None
    if bound is not None and bound > cost:
        refused = f"method {method} claims the bound {bound}, but its own {_kind(problem)} costs {cost}"
        bound = None
    proven = bound == cost
    termination = outcome.termination
    if proven and termination in ("completed", "gap_limit"):
        termination = "optimal"
    if termination == "optimal" and not proven:
        termination = "completed"
        claim = f"method {method} calls its {_kind(problem)} optimal, but its bound is {bound}, the cost {cost}"
        refused = refused or claim
    if refused is not None:  # the decision is as good as it was
        details[REFUSED_CLAIM] = f"{refused}; the claim is not taken"
    details |= problem.remarks(instance)
    finished = Finished(
        decision=outcome.placement,
        cost=cost,
        bound=bound,
        status=Status(termination, "optimal" if proven else "feasible"),
        method=outcome.method or method,
        picked_because=outcome.picked_because,
        parameters=parameters,
        seed=seed,
        threads=threads,
        wall_s=round(wall_s, 3),
        bound_source=outcome.bound_source if bound is not None else None,
        guarantee=outcome.guarantee,
        details=details,
        versions={package: _version(package) for package in _PACKAGES if package in sys.modules},
    )
    return problem.finish(instance, finished)


def _plain_details(method: str, details: Any) -> dict[str, int | float | str]:
    """Return a method's own details as a document holds them: numbers of numpy as plain ones, true as 1."""
    if not isinstance(details, Mapping):
        raise MethodError(f"method {method} gives {type(details).__name__} for details, not a dict")
    result: dict[str, int | float | str] = {}
    for name, given in details.items():
        value = given.item() if hasattr(given, "item") and getattr(given, "size", 1) == 1 else given
        if isinstance(value, int) and -(2**63) <= value < 2**64:
            plain: int | float | str = int(value)
        elif isinstance(value, float) and isfinite(value):
            plain = float(value)
        elif isinstance(value, str):
            plain = str(value)
        else:
            raise MethodError(f"method {method} says {given!r:.200} in its details, which is no number and no text")
        if not isinstance(name, str):
            raise MethodError(f"method {method} names one of its details {name!r:.200}; a text was expected")
        if name not in (REFUSED_CLAIM, NOTHING_FITS):  # said by us alone
            result[str(name)] = plain
    return result


def _kind(problem: Problem) -> str:
    return problem.decision_type.__name__.lower()

"""Methods side by side: the best of what several of them found of one instance, and who contradicts whom.

A bound above a checked cost is false, whoever proved it. ``moeplace gap``, the benchmark and the reports compare here.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from moeplace.base.documents import BestKnown
from moeplace.base.errors import ContradictionError, InputError, MethodLimitError, MoeplaceError, NoSolutionError
from moeplace.base.registry import Method, find_method, method_info, method_names, own_parameters
from moeplace.base.result import relative_gap
from moeplace.library import BEST_KNOWN, read_best_known
from moeplace.problems import check, problem_of
from moeplace.solving import solve

if TYPE_CHECKING:
    import pandas as pd

    from moeplace.base.problem import Problem

KNOWN = "best_known.json"
"""Whose the best known values are."""

Value: TypeAlias = tuple[int, str]
"""A cost or a bound, token-ns, and whose it is."""

COLUMNS = [
    "file", "instance", "sha256", "method", "status", "termination", "latency_ns", "baseline_ns", "tokens", "saving",
    "gap", "excess", "own_bound_ns", "own_bound_source", "best_bound_ns", "best_bound_by", "wall_s", "reason",
]  # fmt: skip
"""What :meth:`Comparison.records` says of a run; what is not known is None."""


def excess(latency_ns: int | None, best_ns: int | None) -> float | None:
    """Return ``(C - best) / best``: 0 if they are equal, None where either is unknown or only the best is 0.

    Examples
    --------
    >>> excess(110, 100), excess(0, 0), excess(1, 0), excess(None, 100)
    (0.1, 0.0, None, None)
    """
    if latency_ns is None or best_ns is None:
        return None
    if latency_ns == best_ns:
        return 0.0
    return (latency_ns - best_ns) / best_ns if best_ns else None


def lowest_cost(costs: Iterable[tuple[int | None, str]]) -> Value | None:
    """Return the lowest cost and whose it is, the first of equal ones; None counts for nothing.

    Examples
    --------
    >>> lowest_cost([(None, "a"), (7, "b"), (5, "c"), (5, "d")])
    (5, 'c')
    """
    known = [(cost, who) for cost, who in costs if cost is not None]
    return min(known, key=lambda value: value[0], default=None)


def highest_bound(bounds: Iterable[tuple[int | None, str]], cost: Value | None = None) -> Value | None:
    """Return the highest bound and whose it is, the first of equal ones; one above ``cost`` is false and left out.

    Examples
    --------
    >>> highest_bound([(3, "a"), (9, "b"), (3, "c")], (5, "d"))
    (3, 'a')
    """
    known = [(b, who) for b, who in bounds if b is not None and (cost is None or b <= cost[0])]
    return max(known, key=lambda value: value[0], default=None)


class Costs:
    """The lowest checked cost of every instance, by its hash, against which bounds are held."""

    def __init__(self) -> None:
        self._lowest: dict[str, Value] = {}

    def add(self, sha256: str, latency_ns: int | None, who: str) -> None:
        """Take note of a checked cost; the first of equal ones stays."""
        best = lowest_cost([*([self._lowest[sha256]] if sha256 in self._lowest else []), (latency_ns, who)])
        if best is not None:
            self._lowest[sha256] = best

    def lowest(self, sha256: str) -> Value | None:
        """Return the lowest cost of an instance and whose it is."""
        return self._lowest.get(sha256)

    def refutes(self, sha256: str, bound_ns: int | None, source: str = "") -> str | None:
        """Return what shows a bound to be false; None where nothing does.

        Examples
        --------
        >>> costs = Costs()
        >>> costs.add("instance", 100, "greedy")
        >>> costs.refutes("instance", 101, " (HiGHS)")
        'its bound 101 (HiGHS) is above the checked cost 100 of greedy'
        >>> costs.refutes("instance", 100), costs.refutes("another", 101)
        (None, None)
        """
        best = self._lowest.get(sha256)
        if bound_ns is None or best is None or bound_ns <= best[0]:
            return None
        return f"its bound {bound_ns}{source} is above the checked cost {best[0]} of {best[1]}"


@dataclass
class Run:
    """One method on one instance; ``reason`` says why there is no solution.

    The keys are those of published tables: whatever the problem, ``latency_ns`` is the cost and ``bound_ns`` the bound.
    """

    method: str
    status: str
    reason: str | None = None
    termination: str | None = None
    latency_ns: int | None = None
    bound_ns: int | None = None
    bound_source: str | None = None
    wall_s: float | None = None


@dataclass
class Comparison:
    """All runs on one instance, and the best that is known of it."""

    file: str
    problem: Problem
    instance: Any
    known: BestKnown | None
    notes: list[str]
    runs: list[Run] = field(default_factory=list)

    @classmethod
    def of_file(cls, file: str, problem: Problem, instance: Any) -> Comparison:
        """Begin with what a best_known.json beside the file knows of the instance."""
        known = read_best_known(Path(file).parent).get(instance.name)
        if known and known.sha256 != instance.sha256:
            note = f"{BEST_KNOWN} is of another instance named {instance.name}; it does not count"
            return cls(file, problem, instance, None, [note])
        return cls(file, problem, instance, known, [])

    def fitting(self) -> list[str]:
        """Return the methods that take the instance, without ``auto``, which only repeats one of them; note others."""
        names = []
        for name in method_names(self.problem.methods, self.problem.method_order):
            if name == "auto":
                continue
            try:
                method = self.problem.adapt(_method(self.problem, name), self.instance)
                reason = method_info(method).refuses(self.instance)
            except InputError as error:
                reason = str(error)
            if reason is None:
                names.append(name)
            else:
                self.notes.append(f"not run: {name} ({reason})")
        return names

    def add(self, name: str, parameters: Mapping[str, Any], **options: Any) -> Run:
        """Run a method and check its solution; one that refuses the instance or fails is a run with its reason.

        Parameters
        ----------
        name : str
        parameters : dict
            Those that the method has are given to it.
        **options
            Of :func:`moeplace.solve`.
        """
        self.runs.append(_run(self.problem, self.instance, name, own_of(self.problem, name, parameters), options))
        return self.runs[-1]

    def to_frame(self) -> pd.DataFrame:
        """Return the table as a pandas DataFrame with the columns :data:`COLUMNS`, one row a run."""
        import pandas as pd

        return pd.DataFrame(list(self.records()), columns=COLUMNS)

    def bounds(self) -> list[Value]:
        """Return every proven bound and whose it is, best first."""
        found = [(run.bound_ns, run.method) for run in self.runs if run.bound_ns is not None]
        if self.known and self.known.bound_ns is not None:
            found.append((self.known.bound_ns, KNOWN))
        return sorted(found, key=lambda bound: -bound[0])

    def crossings(self) -> list[str]:
        """Say which costs are below a bound that was called proven: then one of the two is wrong."""
        costs = [(run.latency_ns, run.method) for run in self.runs if run.latency_ns is not None]
        if self.known:
            costs.append((self.known.latency_ns, KNOWN))
        none = [run.method for run in self.runs if run.status == "infeasible"]
        said = f"{self.instance.name}: {{}} says that there is no solution, but there is one of cost {{}} by {{}}"
        wrong = [said.format(method, *costs[0]) + ": one of them is wrong" for method in none if costs]
        return wrong + [
            f"{self.instance.name}: the cost {cost} of {whose} is below the bound {bound} of {by}: one of them is wrong"
            for bound, by in self.bounds()
            for cost, whose in costs
            if cost < bound
        ]

    @property
    def tokens(self) -> int | None:
        """Tokens that the cost is summed over; None for problems whose cost is no such sum."""
        tokens: int | None = self.problem.sizes(self.instance).get("tokens")
        return tokens

    @property
    def best_bound(self) -> Value | None:
        """The best bound and whose it is; None without any, or where a cost contradicts one."""
        return None if self.crossings() else highest_bound(self.bounds())

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield what is known of each run, by the names of :data:`COLUMNS`."""
        baseline, best = self.problem.reference(self.instance), self.best_bound
        for run in self.runs:
            cost = run.latency_ns
            yield {
                "file": self.file,
                "instance": self.instance.name,
                "sha256": self.instance.sha256,
                "method": run.method,
                "status": run.status,
                "termination": run.termination,
                "latency_ns": cost,
                "baseline_ns": baseline,
                "tokens": self.tokens,
                "saving": None
                if cost is None or baseline is None or (cost and not baseline)
                else (baseline - cost) / baseline
                if baseline
                else 0.0,
                "gap": None if cost is None or best is None else relative_gap(cost, best[0]),
                "excess": excess(cost, self.known.latency_ns if self.known else None),
                "own_bound_ns": run.bound_ns,
                "own_bound_source": run.bound_source,
                "best_bound_ns": best and best[0],
                "best_bound_by": best and best[1],
                "wall_s": run.wall_s,
                "reason": run.reason,
            }


def compare(
    instance: Any,
    methods: Sequence[str] | None = None,
    *,
    time_limit: float | None = 60.0,
    seed: int = 0,
    threads: int = 1,
    known: BestKnown | None = None,
    **parameters: Any,
) -> Comparison:
    """Run several methods on an instance: the table of ``moeplace gap``.

    Parameters
    ----------
    instance
        Of any problem.
    methods : sequence of str, optional
        Else all that take the instance, but not ``auto``.
    time_limit : float or None
        Seconds a method.
    seed, threads : int
    known : BestKnown, optional
        A cost and a bound that are known already.
    **parameters
        Each goes to every method that has it.

    Returns
    -------
    Comparison
        Its gaps are to the best bound of any of them; :meth:`Comparison.to_frame` is a DataFrame.

    Raises
    ------
    InputError
        There is no such method.
    """
    comparison = Comparison("", problem_of(instance), instance, known, [])
    names = comparison.fitting() if methods is None else list(dict.fromkeys(methods))
    for name in names:
        _method(comparison.problem, name)
    for name in names:
        comparison.add(name, parameters, time_limit=time_limit, seed=seed, threads=threads)
    return comparison


def improved(known: BestKnown | None, instance: Any, solution: Any) -> BestKnown:
    """Return what is known of an instance after a solution: the record itself, or a better one.

    Parameters
    ----------
    known : BestKnown or None
        The record so far; one of another instance (by its hash) counts for nothing.
    instance : Instance
    solution : Solution
        Its cost counts if the checker finds it to be true, its bound if it says whose proof it is.

    Returns
    -------
    BestKnown
        ``known`` itself where nothing is better.

    Raises
    ------
    ContradictionError
        The checker rejects the solution, or a cost is below a bound; both are named.
    """
    report = check(instance, solution)
    if not report.ok:
        raise ContradictionError(f"{instance.name}: {solution.method} is wrong: {'; '.join(report.violations)}")
    cost, cost_by = solution.value, solution.method or "unknown"
    bound, bound_by = solution.bound, solution.bound_source
    if bound_by is None:
        bound = None
    if known is not None and known.sha256 == instance.sha256:
        if known.latency_ns <= cost:
            cost, cost_by = known.latency_ns, known.latency_method
        if known.bound_ns is not None and (bound is None or known.bound_ns >= bound):
            bound, bound_by = known.bound_ns, known.bound_method
        if (cost, bound) == (known.latency_ns, known.bound_ns):
            return known
    if bound is not None and cost < bound:
        said = f"the cost {cost} of {cost_by} is below the bound {bound} of {bound_by}"
        raise ContradictionError(f"{instance.name}: {said}: one of the two is wrong, nothing is recorded")
    return BestKnown(
        sha256=instance.sha256,
        latency_ns=cost,
        bound_ns=bound,
        optimal=cost == bound,
        latency_method=cost_by,
        bound_method=bound_by,
        version=version("moeplace"),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def available(problem: Problem, name: str) -> bool:
    """Return whether there is such a method, and it can be loaded."""
    try:
        _method(problem, name)
    except InputError:
        return False
    return True


def own_of(problem: Problem, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return those parameters that a method has."""
    accepted = own_parameters(_method(problem, name))
    return {key: value for key, value in parameters.items() if accepted is None or key in accepted}


def _method(problem: Problem, name: str) -> Method:
    return find_method(name, problem.methods, problem.method_order)


def _run(problem: Problem, instance: Any, name: str, parameters: Mapping[str, Any], options: Mapping[str, Any]) -> Run:
    try:
        solution = solve(instance, name, **options, **parameters)
    except MethodLimitError as error:
        return Run(name, "refused", error.reason)
    except NoSolutionError as error:
        return Run(name, "infeasible", error.reason)
    except MoeplaceError as error:
        return Run(name, "failed", str(error))
    report = problem.check(instance, solution, None)
    if not report.ok:
        return Run(name, "failed", f"its solution is wrong: {report.violations[0]}")
    return Run(
        method=name,
        status=solution.status.solution,
        termination=solution.status.termination,
        latency_ns=solution.value,
        bound_ns=solution.bound,
        bound_source=solution.bound_source,
        wall_s=solution.wall_s,
    )

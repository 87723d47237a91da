"""Every statistic of a report as a pure function; docs/reporting.md gives each formula and its source.

Costs and bounds are exact integers up to the one division that makes a ratio of them. What is not known is None and
is shown as "-"; it never counts as 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from moeplace.base.result import relative_gap
from moeplace.comparing import excess

Float64 = npt.NDArray[np.float64]
Trajectory: TypeAlias = Sequence[tuple[float, int]]
"""(seconds, cost) of every placement that was the best so far, in the order of time; costs never rise."""

SHIFT_S = 1.0
"""Shift of the geometric mean of times, seconds."""
SHORTEST_S = 0.01
"""Times below this count as this in performance profiles: ratios of a few milliseconds measure the machine."""
TARGET = 0.01
"""A run has reached its target when it is within this share of the best known cost."""

FEWEST = 6
"""Fewest values that can say anything at 95 %: n signs fall all on one side by chance with probability 2 / 2**n."""
RESAMPLES = 9999
"""Of a bootstrap; its seed is always 0, so that the same runs give the same interval."""


@dataclass(frozen=True)
class Problem:
    """What is known of one instance from every run on it and from the records beside it.

    Attributes
    ----------
    set_name, name, sha256 : str
    servers, items, rows, tokens : int or None
        Sizes: servers, experts of all layers, activation rows, observed tokens.
    baseline_ns : int or None
        Cost with empty servers, token-ns.
    best_ns : int or None
        Lowest cost known, token-ns.
    bound_ns : int or None
        Highest lower bound that anybody proved and no checked cost contradicts, token-ns.
    best_by, bound_by : str or None
        Whose these two are.
    """

    set_name: str
    name: str
    sha256: str
    servers: int | None = None
    items: int | None = None
    rows: int | None = None
    tokens: int | None = None
    baseline_ns: int | None = None
    best_ns: int | None = None
    bound_ns: int | None = None
    best_by: str | None = None
    bound_by: str | None = None

    @property
    def variables(self) -> int | None:
        """Placement variables, servers times experts."""
        return None if self.servers is None or self.items is None else self.servers * self.items


@dataclass(frozen=True)
class Trial:
    """One run of one method, beside what is known of its instance.

    Attributes
    ----------
    problem : Problem
    method : str
        The method's label.
    seed : int
    status : str
        "ok", or how it failed.
    latency_ns, bound_ns : int or None
        Cost and own proven bound, token-ns; None unless ``status`` is "ok".
    wall_s : float or None
        Seconds the method took.
    time_limit : float or None
        Seconds it was given.
    trajectory : sequence of (seconds, cost)
        See :func:`steps`.
    """

    problem: Problem
    method: str
    seed: int
    status: str
    latency_ns: int | None = None
    bound_ns: int | None = None
    wall_s: float | None = None
    time_limit: float | None = None
    trajectory: Trajectory = field(default=(), repr=False)

    @property
    def gap(self) -> float | None:
        """Gap to the best bound that anybody proved."""
        return None if self.latency_ns is None else relative_gap(self.latency_ns, self.problem.bound_ns)

    @property
    def excess(self) -> float | None:
        """Excess over the best known cost."""
        return excess(self.latency_ns, self.problem.best_ns)

    @property
    def optimal(self) -> bool:
        """Whether the cost equals a bound that anybody proved."""
        return self.latency_ns is not None and self.latency_ns == self.problem.bound_ns

    @property
    def proven(self) -> bool:
        """Whether the run itself proved its placement optimal."""
        return self.latency_ns is not None and self.latency_ns == self.bound_ns

    @cached_property
    def steps(self) -> list[tuple[float, int]]:
        """Improvements up to the checked final cost, see :func:`steps`; empty for a failed run."""
        if self.status != "ok" or self.latency_ns is None or self.wall_s is None:
            return []
        return steps(self.trajectory, self.latency_ns, self.wall_s)

    @property
    def primal_integral(self) -> float | None:
        """The primal integral over the time limit, as a share of it; 1 for a failed run."""
        if self.time_limit is None or self.problem.best_ns is None:
            return None
        return primal_integral(self.steps, self.problem.best_ns, self.time_limit)


def steps(trajectory: Trajectory, latency_ns: int, wall_s: float) -> list[tuple[float, int]]:
    """Return the improvements of a run from what it reported and from its checked result.

    What a method says on its way is not checked. A cost below the final one is therefore taken as the final one, a
    cost above an earlier one is left out, and the final cost is reached when the run ended at the latest.

    Examples
    --------
    >>> steps([(0.1, 50), (0.5, 40), (0.7, 45)], 30, 2.0)
    [(0.1, 50), (0.5, 40), (2.0, 30)]
    >>> steps([], 30, 2.0), steps([(0.1, 5)], 30, 2.0)
    ([(2.0, 30)], [(0.1, 30)])
    """
    result: list[tuple[float, int]] = []
    for seconds, cost in sorted(trajectory, key=lambda step: step[0]):
        value = max(cost, latency_ns)
        if not result or value < result[-1][1]:
            result.append((min(max(seconds, 0.0), wall_s), value))
    if not result or result[-1][1] > latency_ns:
        result.append((wall_s, latency_ns))
    return result


def shifted_geometric_mean(values: Sequence[float], shift: float = SHIFT_S) -> float | None:
    """Return ``exp(mean(log(value + shift))) - shift``; None of nothing.

    Examples
    --------
    >>> round(shifted_geometric_mean([0.0, 3.0]), 12)  # sqrt(1 * 4) - 1
    1.0
    """
    if not values:
        return None
    return math.exp(math.fsum(math.log(value + shift) for value in values) / len(values)) - shift


def primal_integral(steps: Sequence[tuple[float, int]], best_ns: int, horizon_s: float) -> float | None:
    """Return the primal integral (Berthold 2013) divided by its horizon: the mean primal gap over the time given.

    The primal gap is 1 before the first placement, then ``(C - best) / C``, constant until the next improvement.

    Parameters
    ----------
    steps : sequence of (seconds, cost)
        Improvements in the order of time.
    best_ns : int
        The best known cost.
    horizon_s : float
        The time limit.

    Returns
    -------
    float or None
        From 0 (the best from the start) to 1 (nothing in time); None for a horizon of 0.

    Examples
    --------
    >>> primal_integral([(1.0, 200), (2.0, 100)], 100, 4.0)  # 1 * 1 + 1 * 0.5 + 2 * 0, of 4
    0.375
    """
    if horizon_s <= 0:
        return None
    total, since, current = 0.0, 0.0, 1.0
    for seconds, cost in steps:
        now = min(seconds, horizon_s)
        total += current * (now - since)
        since, current = now, relative_gap(cost, best_ns) or 0.0
    return (total + current * max(horizon_s - since, 0.0)) / horizon_s


def time_to_target(trial: Trial, target: float = TARGET) -> float | None:
    """Return the seconds until a run was within ``target`` of the best known cost, None where it never was."""
    best = trial.problem.best_ns
    for seconds, cost in trial.steps:
        reached = excess(cost, best)
        if reached is not None and reached <= target:
            return seconds
    return None


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """One line of the table: one method on one set.

    Attributes
    ----------
    runs, solved, proven, optimal : int
        Runs; those that gave a placement that the checker accepts; those that proved it optimal themselves; those whose
        cost equals a bound proven by any method.
    bounded : int
        Solved runs on instances with a proven bound: those that the gaps are over.
    gap_mean, gap_median, gap_max : float or None
    excess_mean, excess_median, excess_max : float or None
        Over all solved runs.
    excess_interval : Interval or None
        Of the mean, over seeds, see :func:`interval_over_seeds`.
    time_s : float or None
        Shifted geometric mean; a run without a placement counts with its time limit, and without limit nothing is said.
    primal_integral : float or None
        Mean over runs, failed ones counting 1; None where any run has no time limit.
    failures : dict of str to int
        Runs by status, other than "ok".
    """

    set_name: str
    method: str
    runs: int
    solved: int
    proven: int
    optimal: int
    bounded: int
    gap_mean: float | None
    gap_median: float | None
    gap_max: float | None
    excess_mean: float | None
    excess_median: float | None
    excess_max: float | None
    excess_interval: Interval | None
    time_s: float | None
    primal_integral: float | None
    failures: dict[str, int]


def summarise(set_name: str, method: str, trials: Sequence[Trial]) -> Summary:
    """Return the line of one method on one set of runs."""
    solved = [trial for trial in trials if trial.status == "ok"]
    gaps = [value for trial in solved if (value := trial.gap) is not None]
    excesses = [value for trial in solved if (value := trial.excess) is not None]
    times = [trial.wall_s if trial.status == "ok" else trial.time_limit for trial in trials]
    known_times = [time for time in times if time is not None]
    integrals = [value for trial in trials if (value := trial.primal_integral) is not None]
    return Summary(
        set_name=set_name,
        method=method,
        runs=len(trials),
        solved=len(solved),
        proven=sum(trial.proven for trial in solved),
        optimal=sum(trial.optimal for trial in solved),
        bounded=len(gaps),
        gap_mean=mean(gaps),
        gap_median=median(gaps),
        gap_max=max(gaps, default=None),
        excess_mean=mean(excesses),
        excess_median=median(excesses),
        excess_max=max(excesses, default=None),
        excess_interval=interval_over_seeds(trials),
        time_s=shifted_geometric_mean(known_times) if len(known_times) == len(times) else None,
        primal_integral=mean(integrals) if len(integrals) == len(trials) else None,
        failures=dict(sorted(Counter(trial.status for trial in trials if trial.status != "ok").items())),
    )


def mean(values: Sequence[float]) -> float | None:
    """Return the arithmetic mean, None of nothing."""
    return math.fsum(values) / len(values) if values else None


def median(values: Sequence[float]) -> float | None:
    """Return the median, None of nothing."""
    return float(np.median(values)) if values else None


def interval_over_seeds(trials: Sequence[Trial]) -> Interval | None:
    """Return where the mean excess of a method on a set lies with 95 % confidence, as far as it depends on the seed.

    The mean excess over the instances is one value a seed; seeds are drawn from these values with replacement, as many
    as there are, and their means taken (percentile bootstrap, Efron 1979).

    Parameters
    ----------
    trials : sequence of Trial
        Runs of one method on one set.

    Returns
    -------
    Interval or None
        None where fewer than :data:`FEWEST` seeds were run on every instance, or a run has no excess: means over
        different instances would not differ by the seed alone.
    """
    by_seed: dict[int, dict[str, float]] = {}
    for trial in trials:
        if (value := trial.excess) is None:
            return None
        by_seed.setdefault(trial.seed, {})[trial.problem.sha256] = value
    if len(by_seed) < FEWEST or len({frozenset(values) for values in by_seed.values()}) > 1:
        return None
    means = [math.fsum(values.values()) / len(values) for values in by_seed.values()]
    from scipy.stats import bootstrap

    found = bootstrap(
        (means,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


@dataclass(frozen=True)
class Pair:
    """Two methods on one set, instance by instance.

    Attributes
    ----------
    method, other : str
    wins, ties, losses : int
        Instances on which ``method`` is better than ``other``, as good, worse, see :func:`middle_cost`.
    p : float or None
        Of Wilcoxon's signed-rank test, see :func:`signed_rank_p`.
    """

    set_name: str
    method: str
    other: str
    wins: int
    ties: int
    losses: int
    p: float | None

    @property
    def instances(self) -> int:
        """Instances on which both were run."""
        return self.wins + self.ties + self.losses


def pairs(set_name: str, trials: Iterable[Trial], methods: Sequence[str]) -> list[Pair]:
    """Return every pair of methods on one set.

    Parameters
    ----------
    set_name : str
    trials : iterable of Trial
        Runs on the set.
    methods : sequence of str
        In the order in which they are paired.
    """
    problems: dict[str, Problem] = {}
    runs: dict[str, dict[str, list[Trial]]] = {method: {} for method in methods}
    for trial in trials:
        problems[trial.problem.sha256] = trial.problem
        runs[trial.method].setdefault(trial.problem.sha256, []).append(trial)
    costs = {m: {sha256: middle_cost(own) for sha256, own in of.items()} for m, of in runs.items()}
    result = []
    for method, other in combinations([m for m in methods if costs[m]], 2):
        both = [sha256 for sha256 in problems if sha256 in costs[method] and sha256 in costs[other]]
        found = [difference(costs[method][i], costs[other][i], problems[i].best_ns) for i in both]
        wins, losses = sum(d < 0 for d in found), sum(d > 0 for d in found)
        result.append(Pair(set_name, method, other, wins, len(found) - wins - losses, losses, signed_rank_p(found)))
    return result


def middle_cost(trials: Sequence[Trial]) -> Fraction | float:
    """Return the median cost over the seeds of a method on an instance; a run without a placement costs infinity.

    Examples
    --------
    >>> problem = Problem("s", "p", "hash")
    >>> runs = [Trial(problem, "m", seed, "ok", cost) for seed, cost in enumerate((7, 4))]
    >>> middle_cost(runs), middle_cost([*runs, Trial(problem, "m", 2, "timeout")])
    (Fraction(11, 2), Fraction(7, 1))
    """
    lost = sum(trial.latency_ns is None for trial in trials)
    found = sorted(Fraction(trial.latency_ns) for trial in trials if trial.latency_ns is not None)
    costs: list[Fraction | float] = [*found, *[math.inf] * lost]
    return (costs[(len(costs) - 1) // 2] + costs[len(costs) // 2]) / 2


def difference(cost: Fraction | float, other: Fraction | float, best_ns: int | None) -> Fraction | float:
    """Return by which share of the best known cost one cost is above another; exact, infinite without a placement.

    Examples
    --------
    >>> difference(Fraction(110), Fraction(120), 100), difference(Fraction(9), math.inf, 9)
    (Fraction(-1, 10), -inf)
    """
    if cost == other:
        return Fraction(0)
    if math.isinf(cost) or math.isinf(other) or not best_ns:
        return math.inf if cost > other else -math.inf
    return (cost - other) / best_ns


def signed_rank_p(differences: Sequence[Fraction | float]) -> float | None:
    """Return the two-sided p-value of Wilcoxon's signed-rank test (1945): differences are symmetric around 0.

    Differences of 0 are left out, as Wilcoxon does. Ranks are taken of the exact magnitudes; infinite ones share the
    highest. The p-value is exact for up to 50 differences (13 where magnitudes are equal), above a normal
    approximation.

    Returns
    -------
    float or None
        None for fewer than :data:`FEWEST` differences other than 0, of which none could be significant.

    Examples
    --------
    >>> signed_rank_p([1, 2, 3, 4, 5, 6]), signed_rank_p([1, 2, 3, 4, 5]), signed_rank_p([0] * 9)
    (0.03125, None, None)
    """
    sizes: list[Fraction | float] = [d if d > 0 else -d for d in differences if d]
    place = {size: i for i, size in enumerate(sorted(set(sizes)), start=1)}
    # The places of the magnitudes have the same ranks as these, and are small integers.
    signed = [place[d] if d > 0 else -place[-d] for d in differences if d]
    if len(signed) < FEWEST:
        return None
    from scipy.stats import wilcoxon

    return float(wilcoxon(signed).pvalue)


@dataclass(frozen=True)
class Curve:
    """A step function: ``y[i]`` from ``x[i]`` on; ``low`` and ``high`` are quartiles where there are any."""

    x: Float64
    y: Float64
    low: Float64 | None = None
    high: Float64 | None = None
    count: int = 0


def performance_profile(times: Mapping[str, Sequence[float | None]], shortest: float = SHORTEST_S) -> dict[str, Curve]:
    """Return the performance profiles of Dolan and More (2002).

    Parameters
    ----------
    times : mapping of method to sequence of float or None
        Time of each method on each problem, in one order of problems; None is a failure.
    shortest : float
        Times below count as this.

    Returns
    -------
    dict of method to Curve
        ``y`` is the share of all problems that the method solved within ``x`` times the fastest method's time. A
        problem that nobody solved stays in the denominator. ``count`` is the number of problems.

    Examples
    --------
    >>> curves = performance_profile({"a": [1.0, 4.0], "b": [2.0, None]})
    >>> curves["a"].x.tolist(), curves["a"].y.tolist(), curves["b"].x.tolist(), curves["b"].y.tolist()
    ([1.0], [1.0], [1.0, 2.0], [0.0, 0.5])
    """
    methods = list(times)
    table = np.array([[np.inf if t is None else max(t, shortest) for t in times[m]] for m in methods], dtype=np.float64)
    table = table.reshape(len(methods), -1)
    n = table.shape[1]
    best = table.min(axis=0, initial=np.inf)
    result = {}
    for method, row in zip(methods, table, strict=True):
        solved = np.isfinite(row)
        result[method] = _cumulative(row[solved] / best[solved], n, 1.0)
    return result


def distribution(values: Sequence[float | None]) -> Curve:
    """Return the share of runs whose value is at most ``x``; None (a failure) never is.

    Examples
    --------
    >>> curve = distribution([0.0, 0.5, None, 0.5])
    >>> curve.x.tolist(), curve.y.tolist()
    ([0.0, 0.5], [0.25, 0.75])
    """
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    return _cumulative(known, len(values), 0.0)


def _cumulative(values: Float64, n: int, first: float) -> Curve:
    """Return the share of ``n`` that has a value of at most x, from x = ``first`` (or below it) on."""
    x, count = np.unique(values, return_counts=True)
    if not len(x) or x[0] > first:
        x, count = np.concatenate(([first], x)), np.concatenate(([0], count))
    return Curve(x, np.cumsum(count) / max(n, 1), count=n)


def gap_over_time(trials: Iterable[Trial], grid: Float64) -> Curve | None:
    """Return median and quartiles, over runs, of the gap of the best placement at each time.

    Parameters
    ----------
    trials : iterable of Trial
        Runs of one method. Those on instances without a proven bound are left out.
    grid : float array [G]
        Seconds.

    Returns
    -------
    Curve or None
        The gap is 1 before a run's first placement, also for a run that failed; None without any run that counts.
    """
    rows = [gap_at(trial.steps, trial.problem.bound_ns, grid) for trial in trials if trial.problem.bound_ns is not None]
    if not rows:
        return None
    low, middle, high = np.percentile(np.array(rows), [25, 50, 75], axis=0)
    return Curve(grid, middle, low, high, len(rows))


def gap_at(steps: Sequence[tuple[float, int]], bound_ns: int, grid: Float64) -> Float64:
    """Return the gap of the best placement at each time of a grid, 1 before the first.

    Examples
    --------
    >>> gap_at([(1.0, 200), (2.0, 100)], 100, np.array([0.5, 1.0, 3.0])).tolist()
    [1.0, 0.5, 0.0]
    """
    gaps = np.array([1.0, *(relative_gap(cost, bound_ns) or 0.0 for _, cost in steps)])
    result: Float64 = gaps[np.searchsorted([seconds for seconds, _ in steps], grid, side="right")]
    return result


def time_grid(trials: Iterable[Trial], points: int = 80) -> Float64:
    """Return times on a logarithmic scale, from 1 ms to the longest time that any run took or was given."""
    ends = [time for trial in trials for time in (trial.wall_s, trial.time_limit) if time is not None]
    return np.geomspace(1e-3, max([0.1, *ends]), points)


def pooled(trials: Iterable[Trial], key: Callable[[Trial], str]) -> dict[str, list[Trial]]:
    """Return the runs by a key, in the order of first appearance."""
    result: dict[str, list[Trial]] = {}
    for trial in trials:
        result.setdefault(key(trial), []).append(trial)
    return result

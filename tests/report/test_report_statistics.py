"""Every statistic of a report against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from moeplace.report import statistics as st
from moeplace.report.pictures import profiles, sized_gaps
from moeplace.report.statistics import Problem, Trial

PROBLEM = Problem("s", "p", "hash", servers=2, items=10, baseline_ns=1000, best_ns=100, bound_ns=80)


def trial(method: str = "m", problem: Problem = PROBLEM, **fields: Any) -> Trial:
    given = {"seed": 0, "status": "ok", "latency_ns": 100, "wall_s": 1.0, "time_limit": 10.0} | fields
    return Trial(problem, method, **given)


def test_gap_is_to_the_best_bound_and_excess_over_the_best_cost() -> None:
    run = trial(latency_ns=160)
    assert run.gap == (160 - 80) / 160 == 0.5
    assert run.excess == (160 - 100) / 100 == 0.6


def test_gap_is_exact_where_floats_are_not() -> None:
    big = 2**62
    problem = Problem("s", "p", "h", best_ns=big, bound_ns=big)
    assert trial(problem=problem, latency_ns=big).gap == 0.0
    nearly = trial(problem=problem, latency_ns=big + 1)
    assert float(big + 1) == float(big)  # what a float would make of it
    assert nearly.gap is not None
    assert nearly.gap > 0.0
    assert nearly.excess is not None
    assert nearly.excess > 0.0


def test_what_is_not_known_is_none() -> None:
    nothing = Problem("s", "p", "h")
    assert trial(problem=nothing).gap is None
    assert trial(problem=nothing).excess is None
    assert trial(problem=nothing).primal_integral is None
    assert trial(time_limit=None).primal_integral is None
    assert trial(status="crashed", latency_ns=None, wall_s=None).gap is None
    assert st.shifted_geometric_mean([]) is None
    assert st.mean([]) is None
    assert st.median([]) is None
    assert trial(problem=nothing, bound_ns=100).proven


def test_summary_by_hand() -> None:
    other = Problem("s", "q", "hash2", best_ns=50)  # no bound
    runs = [
        trial(latency_ns=100, bound_ns=80, wall_s=0.0),  # gap 0.2, excess 0
        trial(latency_ns=160, wall_s=3.0),  # gap 0.5, excess 0.6
        trial(problem=other, latency_ns=50, bound_ns=50, wall_s=8.0),  # no gap: the problem has no bound here
        trial(status="timeout", latency_ns=None, wall_s=None, time_limit=24.0),
        trial(status="crashed", latency_ns=None, wall_s=0.5, time_limit=24.0),
    ]
    line = st.summarise("s", "m", runs)
    assert (line.runs, line.solved, line.proven, line.optimal, line.bounded) == (5, 3, 1, 0, 2)
    assert line.gap_mean == pytest.approx(0.35)
    assert line.gap_median == pytest.approx(0.35)
    assert line.gap_max == 0.5
    assert line.excess_mean == pytest.approx(0.2)
    assert line.excess_median == 0.0
    assert line.excess_max == 0.6
    # Shifted by a second: 1, 4, 9, and 25 for each failure, whenever it came.
    assert line.time_s == pytest.approx((1 * 4 * 9 * 25 * 25) ** (1 / 5) - 1)
    assert line.failures == {"crashed": 1, "timeout": 1}
    # 0: the best at once; 0.3 + 0.7 * 60/160; 0.8 + 0.2 * 0; 1; 1
    assert line.primal_integral == pytest.approx((0 + (0.3 + 0.7 * 0.375) + 0.8 + 1 + 1) / 5)


def test_optimal_is_decided_by_whole_numbers() -> None:
    # A token-nanosecond more is a gap, however small a share it is.
    problem = Problem("s", "p", "h", best_ns=10**30, bound_ns=10**30)
    runs = [trial(problem=problem, latency_ns=10**30), trial(problem=problem, latency_ns=10**30 + 1)]
    assert [run.optimal for run in runs] == [True, False]
    assert st.summarise("s", "m", runs).optimal == 1


def test_a_failure_without_limit_leaves_the_time_open() -> None:
    runs = [trial(), trial(status="crashed", latency_ns=None, wall_s=None, time_limit=None)]
    line = st.summarise("s", "m", runs)
    assert line.time_s is None
    assert line.primal_integral is None


def test_shifted_geometric_mean() -> None:
    assert st.shifted_geometric_mean([0.0, 3.0, 15.0]) == pytest.approx((1 * 4 * 16) ** (1 / 3) - 1)
    assert st.shifted_geometric_mean([2.0, 8.0], shift=0.0) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("steps", "best", "horizon", "expected"),
    [
        ([], 100, 10.0, 1.0),  # nothing found
        ([(0.0, 100)], 100, 10.0, 0.0),  # the best at once
        ([(2.0, 200), (6.0, 100)], 100, 10.0, (2 + 4 * 0.5) / 10),
        ([(2.0, 200)], 100, 10.0, (2 + 8 * 0.5) / 10),
        ([(12.0, 100)], 100, 10.0, 1.0),  # too late
        ([(5.0, 0)], 0, 10.0, 0.5),  # cost and best are 0
        ([(5.0, 100)], 100, 0.0, None),
    ],
)
def test_primal_integral(steps: list[tuple[float, int]], best: int, horizon: float, expected: float | None) -> None:
    assert st.primal_integral(steps, best, horizon) == (None if expected is None else pytest.approx(expected))


def test_steps_believe_no_cost_below_the_checked_one() -> None:
    assert st.steps([(1.0, 10)], 50, 3.0) == [(1.0, 50)]
    assert st.steps([(2.0, 60), (1.0, 70), (2.5, 65)], 50, 3.0) == [(1.0, 70), (2.0, 60), (3.0, 50)]
    assert st.steps([(9.0, 50)], 50, 3.0) == [(3.0, 50)]  # later than its end
    assert trial(status="wrong_cost", trajectory=[(0.1, 5)]).steps == []


def test_performance_profile_by_hand() -> None:
    # Dolan and More: ratios to the fastest on each problem.
    #            p1   p2    p3     p4
    times = {"a": [1.0, 10.0, None, None], "b": [2.0, 5.0, 3.0, None]}
    curves = st.performance_profile(times)
    assert curves["a"].x.tolist() == [1.0, 2.0]
    assert curves["a"].y.tolist() == [0.25, 0.5]
    assert curves["b"].x.tolist() == [1.0, 2.0]
    assert curves["b"].y.tolist() == [0.5, 0.75]
    assert curves["a"].count == 4


def test_performance_profile_ignores_differences_of_milliseconds() -> None:
    curves = st.performance_profile({"a": [0.0001], "b": [0.009], "c": [0.02]})
    assert curves["a"].x.tolist() == curves["b"].x.tolist() == [1.0]
    assert curves["c"].x.tolist() == [1.0, 2.0]
    assert curves["c"].y.tolist() == [0.0, 1.0]


def test_profile_of_a_method_that_never_finishes() -> None:
    curves = st.performance_profile({"a": [None, None], "b": [1.0, None]})
    assert curves["a"].y.tolist() == [0.0]
    assert curves["b"].y.tolist() == [0.5]


def test_time_to_target() -> None:
    run = trial(latency_ns=101, wall_s=4.0, trajectory=[(1.0, 200), (2.0, 102), (3.0, 101)])
    assert st.time_to_target(run, 0.02) == 2.0
    assert st.time_to_target(run, 0.01) == 3.0
    assert st.time_to_target(run, 0.0) is None
    assert st.time_to_target(trial(status="failed", latency_ns=None), 1.0) is None


def test_one_run_of_a_method_without_seeds_stands_for_every_seed() -> None:
    runs = [
        trial("fixed", latency_ns=100, wall_s=1.0),
        trial("seeded", seed=0, latency_ns=100, wall_s=2.0),
        trial("seeded", seed=1, latency_ns=100, wall_s=4.0),
        trial("seeded", seed=2, latency_ns=900, wall_s=1.0),
    ]
    curves = profiles(runs)
    assert curves["fixed"].y.tolist() == [1.0]
    assert curves["fixed"].count == 3
    assert curves["seeded"].x.tolist() == [1.0, 2.0, 4.0]
    assert curves["seeded"].y.tolist() == pytest.approx([0, 1 / 3, 2 / 3])


def test_gap_over_time_by_hand() -> None:
    grid = np.array([0.5, 1.5, 2.5])
    runs = [
        trial(latency_ns=80, wall_s=2.0, trajectory=[(1.0, 160)]),  # 1, 0.5, 0
        trial(latency_ns=100, wall_s=1.0),  # 1, 0.2, 0.2
        trial(status="timeout", latency_ns=None),  # 1, 1, 1
        trial(problem=Problem("s", "q", "h2", best_ns=1)),  # no bound: left out
    ]
    curve = st.gap_over_time(runs, grid)
    assert curve is not None
    assert curve.count == 3
    assert curve.y.tolist() == pytest.approx([1.0, 0.5, 0.2])
    assert curve.low is not None
    assert curve.low.tolist() == pytest.approx([1.0, 0.35, 0.1])
    assert curve.high is not None
    assert curve.high.tolist() == pytest.approx([1.0, 0.75, 0.6])
    assert st.gap_over_time(runs[3:], grid) is None


def test_gap_over_size_is_the_median_over_seeds() -> None:
    runs = [trial(seed=seed, latency_ns=cost) for seed, cost in enumerate([80, 100, 160])]
    assert sized_gaps(runs) == {"m": [("p", 20, pytest.approx(0.2))]}


def test_distribution_keeps_failures_in_the_count() -> None:
    curve = st.distribution([0.1, None, 0.1, 0.3])
    assert curve.x.tolist() == [0.0, 0.1, 0.3]
    assert curve.y.tolist() == [0.0, 0.5, 0.75]


def test_time_grid_spans_the_limits() -> None:
    grid = st.time_grid([trial(time_limit=60.0), trial(time_limit=None, wall_s=3.0)])
    assert math.isclose(grid[0], 0.001)
    assert math.isclose(grid[-1], 60.0)
